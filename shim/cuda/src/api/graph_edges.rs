//! What a graph looks like: its nodes and the edges between them, as the server's driver has them.

use fusewire_wire::ops::table::{AddDependencies, GraphEdges, GraphNodes, NodeNeighbours};
use zerocopy::IntoBytes;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_LOSSY_QUERY, CUDA_ERROR_UNKNOWN};
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
unsafe fn node_list(nodes: *const CUgraphNode, count: usize) -> Result<Vec<u64>, CUresult> {
    if count == 0 {
        return Ok(Vec::new());
    }
    need(nodes)?;
    // SAFETY: the caller's promise.
    let nodes = unsafe { std::slice::from_raw_parts(nodes, count) };
    nodes.iter().map(|node| graphs::node(*node).map(|node| node.handle)).collect()
}

/// What a node depends on: nodes, and the data of the edge from each.
pub(crate) struct Dependencies {
    pub(crate) nodes: Vec<u64>,
    /// `CUgraphEdgeData`: 8 bytes, of which nothing is looked at but whether all are zero, as an ordinary edge has them.
    pub(crate) edges: Vec<u64>,
}

impl Dependencies {
    /// # Errors
    /// As [`node_list`].
    ///
    /// # Safety
    /// `nodes` and `edges` are NULL or hold `count` elements.
    pub(crate) unsafe fn read(
        nodes: *const CUgraphNode,
        edges: *const u64,
        count: usize,
    ) -> Result<Self, CUresult> {
        // SAFETY: the caller's promise.
        unsafe { Ok(Self { nodes: node_list(nodes, count)?, edges: edge_data(edges, count) }) }
    }

    pub(crate) fn count(&self) -> Result<u32, CUresult> {
        u32::try_from(self.nodes.len()).map_err(|_| CUDA_ERROR_INVALID_VALUE)
    }

    /// As they travel.
    pub(crate) fn pieces(&self) -> [&[u8]; 2] {
        [self.nodes.as_bytes(), self.edges.as_bytes()]
    }
}

/// The data of edges that a program describes; NULL says that all are ordinary.
///
/// # Safety
/// `edges` is NULL or holds `count` elements.
unsafe fn edge_data(edges: *const u64, count: usize) -> Vec<u64> {
    if edges.is_null() {
        return vec![0; count];
    }
    // The elements are bytes: nothing says that they are aligned.
    // SAFETY: the caller's promise.
    (0..count).map(|n| unsafe { edges.add(n).read_unaligned() }).collect()
}

/// What a reply's tail lists: node handles, then the data of edges.
///
/// # Errors
/// `CUDA_ERROR_UNKNOWN` when there is less than was said.
pub(crate) fn listed(tail: &[u8], nodes: usize, edges: usize) -> Result<(Vec<u64>, Vec<u64>), CUresult> {
    let mut nodes_then_edges = words(tail, nodes.saturating_add(edges));
    if nodes_then_edges.len() < nodes.saturating_add(edges) {
        return Err(CUDA_ERROR_UNKNOWN);
    }
    let edges = nodes_then_edges.split_off(nodes);
    Ok((nodes_then_edges, edges))
}

/// Who asks for nodes, but not for the data of the edges, must not miss any.
///
/// # Errors
/// `CUDA_ERROR_LOSSY_QUERY` when he would.
pub(crate) fn check_loss(nodes_wanted: bool, edges_wanted: bool, edges: &[u64]) -> Result<(), CUresult> {
    if nodes_wanted && !edges_wanted && edges.iter().any(|data| *data != 0) {
        return Err(CUDA_ERROR_LOSSY_QUERY);
    }
    Ok(())
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

/// Edge data, as many as nodes were given.
///
/// # Safety
/// `places` is NULL or good for what `count` says.
unsafe fn give_edges(places: *mut u64, count: *const usize, edges: &[u64]) {
    if !places.is_null() {
        // SAFETY: the caller's promise; the elements are bytes, which need not be aligned.
        unsafe {
            for (n, data) in edges.iter().take(*count).enumerate() {
                places.add(n).write_unaligned(*data);
            }
        }
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
    let mut found = Vec::new();
    let list = graphs::list(graph.handle, |first_node| {
        let (reply, tail) = runtime.session.call(&GraphEdges { graph: graph.handle, first_node }, &[])?;
        let (nodes, edges) = listed(&tail, 2 * reply.count as usize, reply.count as usize)?;
        found = edges;
        Ok(nodes)
    })?;
    check_loss(!from.is_null(), !data.is_null(), &found)?;
    let starts: Vec<u64> = list.iter().step_by(2).copied().collect();
    let ends: Vec<u64> = list.iter().skip(1).step_by(2).copied().collect();
    // SAFETY: the program's pointers; `room` is where the first list leaves how many there were.
    unsafe {
        let mut room = count.read();
        give_list(from, &raw mut room, &starts)?;
        give_list(to, count, &ends)?;
        give_edges(data, count, &found);
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
    let mut found = Vec::new();
    let list = graphs::list(node.graph, |first_node| {
        let record = NodeNeighbours { node: node.handle, first_node, forward, reserved: 0 };
        let (reply, tail) = runtime.session.call(&record, &[])?;
        let (nodes, edges) = listed(&tail, reply.count as usize, reply.count as usize)?;
        found = edges;
        Ok(nodes)
    })?;
    check_loss(!places.is_null(), !data.is_null(), &found)?;
    // SAFETY: the program's pointers.
    unsafe {
        give_list(places, count, &list)?;
        give_edges(data, count, &found);
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
    let (from, to, data) =
        unsafe { (node_list(from, count)?, node_list(to, count)?, edge_data(data, count)) };
    if count == 0 {
        return Ok(());
    }
    let count = u32::try_from(count).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let record = AddDependencies { graph: graph.handle, count, remove };
    runtime.session.call(&record, &[from.as_bytes(), to.as_bytes(), data.as_bytes()]).map(drop)
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
    fn edge_data_go_both_ways_as_they_are() {
        const PROGRAMMATIC: u64 = 1 | 1 << 16;
        let bytes: [u8; 17] = std::array::from_fn(|n| if matches!(n, 1 | 3) { 1 } else { 0 });
        // SAFETY: two elements behind the first byte, or none.
        unsafe {
            assert_eq!(edge_data(bytes.as_ptr().add(1).cast(), 2), [PROGRAMMATIC, 0]);
            assert_eq!(edge_data(std::ptr::null(), 2), [0, 0]);
        }
        let mut places = [9u64; 3];
        // SAFETY: three places, of which two may be written to, or none.
        unsafe {
            give_edges(places.as_mut_ptr(), &2, &[PROGRAMMATIC, 0, 7]);
            give_edges(std::ptr::null_mut(), &2, &[PROGRAMMATIC, 0]);
        }
        assert_eq!(places, [PROGRAMMATIC, 0, 9]);
    }

    #[test]
    fn a_query_that_loses_edge_data_says_so() {
        assert_eq!(check_loss(true, false, &[0, 0]), Ok(()));
        assert_eq!(check_loss(true, false, &[0, 1]), Err(CUDA_ERROR_LOSSY_QUERY));
        assert_eq!(check_loss(true, true, &[0, 1]), Ok(()));
        assert_eq!(check_loss(false, false, &[0, 1]), Ok(()), "only the count is asked for");
    }

    #[test]
    fn a_reply_lists_nodes_then_edges() {
        let tail = [3u64, 4, 5].as_bytes().to_vec();
        assert_eq!(listed(&tail, 2, 1), Ok((vec![3, 4], vec![5])));
        assert_eq!(listed(&tail, 2, 2), Err(CUDA_ERROR_UNKNOWN));
        assert_eq!(listed(&tail, usize::MAX, 2), Err(CUDA_ERROR_UNKNOWN));
    }

    #[test]
    fn a_short_tail_gives_fewer_words() {
        assert_eq!(words(&[1, 0, 0, 0, 0, 0, 0, 0, 9], 2), [1]);
        assert_eq!(words(&[0; 32], 2), [0, 0]);
    }
}
