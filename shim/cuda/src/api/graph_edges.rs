//! What a graph looks like: its nodes and the edges between them, as the server's driver has them.

use fusewire_wire::ops::table::{AddDependencies, GraphEdges, GraphNodes, NodeNeighbours};
use zerocopy::IntoBytes;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUgraph, CUgraphNode, CUresult};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, graphs, handles};

use super::arguments::need;

/// Handles of the nodes that a program lists.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for NULL or a node that is not there.
///
/// # Safety
/// `nodes` is NULL or holds `count` elements.
pub(crate) unsafe fn node_list(nodes: *const CUgraphNode, count: usize) -> Result<Vec<u64>, CUresult> {
    if count == 0 {
        return Ok(Vec::new());
    }
    need(nodes)?;
    // SAFETY: the caller's promise.
    let nodes = unsafe { std::slice::from_raw_parts(nodes, count) };
    nodes.iter().map(|node| graphs::node(*node).map(|node| node.handle)).collect()
}

/// `CUgraphEdgeData` is 8 bytes; all zero is an ordinary edge, which is the only kind that is carried.
///
/// # Errors
/// `CUDA_ERROR_NOT_SUPPORTED` for another kind.
///
/// # Safety
/// `edges` is NULL or holds `count` elements.
pub(crate) unsafe fn edges_are_ordinary(edges: *const u64, count: usize) -> Result<(), CUresult> {
    if edges.is_null() || count == 0 {
        return Ok(());
    }
    // The elements are bytes: nothing says that they are aligned.
    // SAFETY: the caller's promise.
    let ordinary = (0..count).all(|n| unsafe { edges.add(n).read_unaligned() } == 0);
    if ordinary { Ok(()) } else { Err(CUDA_ERROR_NOT_SUPPORTED) }
}

/// The first `count` words of a reply's tail.
pub(crate) fn words(tail: &[u8], count: usize) -> Vec<u64> {
    tail.chunks_exact(8).take(count).filter_map(|word| word.try_into().ok().map(u64::from_le_bytes)).collect()
}

/// Gives a list in the driver's manner: NULL asks how many there are; places beyond the list become NULL.
///
/// # Safety
/// `count` is NULL or good for one value, each of `places` NULL or good for as many as that says.
unsafe fn give_list(places: *mut CUgraphNode, count: *mut usize, list: &[u64]) -> Result<(), CUresult> {
    need(count)?;
    if places.is_null() {
        // SAFETY: the caller's promise.
        unsafe { count.write(list.len()) };
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let room = count.read();
        for n in 0..room {
            places.add(n).write(handles::pointer(list.get(n).copied().unwrap_or(0)));
        }
        count.write(room.min(list.len()));
    }
    Ok(())
}

/// Ordinary edges, as many as were given.
///
/// # Safety
/// `edges` is NULL or good for what `count` says.
unsafe fn give_edges(edges: *mut u64, count: *const usize) {
    if !edges.is_null() {
        // SAFETY: the caller's promise.
        unsafe { edges.cast::<u8>().write_bytes(0, *count * size_of::<u64>()) };
    }
}

fn nodes(
    runtime: &Runtime,
    graph: CUgraph,
    places: *mut CUgraphNode,
    count: *mut usize,
    roots: u32,
) -> Result<(), CUresult> {
    need(count)?;
    let graph = handles::graph(graph)?;
    let list = graphs::list(graph.handle, |first_node| {
        let record = GraphNodes { graph: graph.handle, first_node, roots, reserved: 0 };
        let (reply, tail) = runtime.session.call(&record, &[])?;
        Ok(words(&tail, reply.count as usize))
    })?;
    // SAFETY: the program's pointers.
    unsafe { give_list(places, count, &list) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(
    graph: CUgraph,
    places: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphGetNodes"), |runtime| nodes(runtime, graph, places, count, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetRootNodes(
    graph: CUgraph,
    places: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphGetRootNodes"), |runtime| nodes(runtime, graph, places, count, 1))
}

fn edges(
    runtime: &Runtime,
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut u64,
    count: *mut usize,
) -> Result<(), CUresult> {
    need(count)?;
    if from.is_null() != to.is_null() || (from.is_null() && !data.is_null()) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let graph = handles::graph(graph)?;
    let list = graphs::list(graph.handle, |first_node| {
        let (reply, tail) = runtime.session.call(&GraphEdges { graph: graph.handle, first_node }, &[])?;
        Ok(words(&tail, 2 * reply.count as usize))
    })?;
    let starts: Vec<u64> = list.iter().step_by(2).copied().collect();
    let ends: Vec<u64> = list.iter().skip(1).step_by(2).copied().collect();
    // SAFETY: the program's pointers; `room` is where the first list leaves how many there were.
    unsafe {
        let mut room = count.read();
        give_list(from, &raw mut room, &starts)?;
        give_list(to, count, &ends)?;
        give_edges(data, count);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetEdges_v2(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut u64,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphGetEdges_v2"), |runtime| edges(runtime, graph, from, to, data, count))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetEdges(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphGetEdges"), |runtime| {
        edges(runtime, graph, from, to, std::ptr::null_mut(), count)
    })
}

fn neighbours(
    runtime: &Runtime,
    node: CUgraphNode,
    places: *mut CUgraphNode,
    data: *mut u64,
    count: *mut usize,
    forward: u32,
) -> Result<(), CUresult> {
    need(count)?;
    if places.is_null() && !data.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let node = graphs::node(node)?;
    let list = graphs::list(node.graph, |first_node| {
        let record = NodeNeighbours { node: node.handle, first_node, forward, reserved: 0 };
        let (reply, tail) = runtime.session.call(&record, &[])?;
        Ok(words(&tail, reply.count as usize))
    })?;
    // SAFETY: the program's pointers.
    unsafe {
        give_list(places, count, &list)?;
        give_edges(data, count);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetDependencies_v2(
    node: CUgraphNode,
    places: *mut CUgraphNode,
    data: *mut u64,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetDependencies_v2"), |runtime| {
        neighbours(runtime, node, places, data, count, 0)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetDependencies(
    node: CUgraphNode,
    places: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetDependencies"), |runtime| {
        neighbours(runtime, node, places, std::ptr::null_mut(), count, 0)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetDependentNodes_v2(
    node: CUgraphNode,
    places: *mut CUgraphNode,
    data: *mut u64,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetDependentNodes_v2"), |runtime| {
        neighbours(runtime, node, places, data, count, 1)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetDependentNodes(
    node: CUgraphNode,
    places: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetDependentNodes"), |runtime| {
        neighbours(runtime, node, places, std::ptr::null_mut(), count, 1)
    })
}

/// # Safety
/// The arrays are NULL or hold `count` elements.
unsafe fn change(
    runtime: &Runtime,
    graph: CUgraph,
    (from, to): (*const CUgraphNode, *const CUgraphNode),
    data: *const u64,
    count: usize,
    remove: u32,
) -> Result<(), CUresult> {
    let graph = handles::graph(graph)?;
    // SAFETY: the caller's promise.
    let (from, to) = unsafe {
        edges_are_ordinary(data, count)?;
        (node_list(from, count)?, node_list(to, count)?)
    };
    if count == 0 {
        return Ok(());
    }
    let count = u32::try_from(count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let record = AddDependencies { graph: graph.handle, count, remove };
    runtime.session.call(&record, &[from.as_bytes(), to.as_bytes()]).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddDependencies_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const u64,
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphAddDependencies_v2"), |runtime| {
        // SAFETY: the program's arrays.
        unsafe { change(runtime, graph, (from, to), data, count, 0) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddDependencies(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphAddDependencies"), |runtime| {
        // SAFETY: the program's arrays.
        unsafe { change(runtime, graph, (from, to), std::ptr::null(), count, 0) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphRemoveDependencies_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const u64,
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphRemoveDependencies_v2"), |runtime| {
        // SAFETY: the program's arrays.
        unsafe { change(runtime, graph, (from, to), data, count, 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphRemoveDependencies(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphRemoveDependencies"), |runtime| {
        // SAFETY: the program's arrays.
        unsafe { change(runtime, graph, (from, to), std::ptr::null(), count, 1) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_or_filled_up_as_the_driver_does() {
        let list = [0x60, 0x70, 0x80];
        let mut count = 0;
        // SAFETY: no places, one count.
        unsafe { give_list(std::ptr::null_mut(), &raw mut count, &list) }.unwrap();
        assert_eq!(count, 3);
        let mut places = [handles::pointer(0x99); 5];
        count = 5;
        // SAFETY: five places.
        unsafe { give_list(places.as_mut_ptr(), &raw mut count, &list) }.unwrap();
        assert_eq!(count, 3);
        assert_eq!(places.map(handles::number), [0x60, 0x70, 0x80, 0, 0]);
        places = [handles::pointer(0x99); 5];
        count = 2;
        // SAFETY: two of the five places.
        unsafe { give_list(places.as_mut_ptr(), &raw mut count, &list) }.unwrap();
        assert_eq!((count, handles::number(places[2])), (2, 0x99));
    }

    #[test]
    fn edges_with_ports_are_refused() {
        // SAFETY: two elements each.
        unsafe {
            assert_eq!(edges_are_ordinary([0u64, 0].as_ptr(), 2), Ok(()));
            assert_eq!(edges_are_ordinary([0u64, 1].as_ptr(), 2), Err(CUDA_ERROR_NOT_SUPPORTED));
            assert_eq!(edges_are_ordinary(std::ptr::null(), 2), Ok(()));
        }
    }

    #[test]
    fn a_short_tail_gives_fewer_words() {
        assert_eq!(words(&[1, 0, 0, 0, 0, 0, 0, 0, 9], 2), [1]);
        assert_eq!(words(&[0; 32], 2), [0, 0]);
    }
}
