//! Parameters and attributes of graph nodes that there are already: in a graph, or in an executable one.

use std::sync::{Arc, Mutex};

use fusewire_wire::ops::table::{
    ChildGraph, NodeCopyAttributes, NodeGetAttribute, NodeInClone, NodeSetAttribute, NodeSetMemcpy,
    NodeSetMemset, NodeSetObject,
};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_UNKNOWN};
use crate::abi::types::{CUcontext, CUevent, CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::runtime::graphs::{self, Made, Node};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::{Graph, GraphExec, HostCode, HostFunction, HostUse};
use crate::runtime::session::{Pending, lock};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::arguments::{give, need};
use super::copy_rect::Memcpy3D;
use super::graph_node::{
    self, ADD_EVENT_RECORD, ADD_EVENT_WAIT, ADD_GRAPH, ADD_HOST, EVENT_RECORD, GRAPH, HOST, HostParams,
    KERNEL, KernelParams, Linear, MEMCPY, MEMSET, MemcpyParams, MemsetParams, MemsetParamsV2, NodeParams,
    WAIT_EVENT, add_ranges, check_memset, context_of, kind, set_kernel,
};

/// Where parameters are set: at a node of a graph, or at its instance in an executable graph.
struct Place {
    node: Arc<Node>,
    exec: Option<Arc<GraphExec>>,
}

impl Place {
    /// The node has to be of the type that the parameters are for.
    fn read(
        runtime: &Runtime,
        exec: Option<CUgraphExec>,
        node: CUgraphNode,
        expected: u32,
    ) -> Result<Self, CUresult> {
        let exec = exec.map(handles::graph_exec).transpose()?;
        let node = graphs::node(node)?;
        if kind(runtime, &node)? != expected {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        Ok(Self { node, exec })
    }

    fn exec(&self) -> u64 {
        self.exec.as_ref().map_or(0, |exec| exec.handle)
    }

    /// Changes what replays use of the host from now on.
    fn uses(&self, change: impl FnOnce(&Mutex<HostUse>)) {
        match &self.exec {
            Some(exec) => change(&exec.host),
            None => {
                if let Ok(graph) = handles::graph(handles::pointer(self.node.graph)) {
                    change(&graph.host);
                }
            }
        }
    }

    /// The node is made of this now; its instances are as they were.
    fn made(&self, made: Made) {
        if self.exec.is_none() {
            *lock(&self.node.made) = made;
        }
    }

    fn set_object(&self, runtime: &Runtime, kind: u32, object: u64, function: u64) -> Result<(), CUresult> {
        let record =
            NodeSetObject { node: self.node.handle, exec: self.exec(), object, function, kind, reserved: 0 };
        runtime.session.call(&record, &[]).map(drop)
    }
}

/// Refuses what would make replays use host memory and call host functions both.
fn check_instance(place: &Place, adds: impl FnOnce(&HostUse) -> bool) -> Result<(), CUresult> {
    match &place.exec {
        Some(exec) if adds(&lock(&exec.host)) => Err(CUDA_ERROR_NOT_SUPPORTED),
        _ => Ok(()),
    }
}

fn set_memcpy(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &Memcpy3D,
    context: CUcontext,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, exec, node, MEMCPY)?;
    let context = context_of(context)?;
    let Linear { destination, source, extent, ranges } = Linear::read(runtime, &context, given)?;
    check_instance(&place, |host| !ranges.is_empty() && !host.functions.is_empty())?;
    let record = NodeSetMemcpy {
        node: place.node.handle,
        exec: place.exec(),
        context: context.handle,
        destination: destination.0,
        destination_pitch: destination.1.row as u64,
        destination_height: destination.1.rows as u64,
        source: source.0,
        source_pitch: source.1.row as u64,
        source_height: source.1.rows as u64,
        width: extent.width as u64,
        height: extent.height as u64,
        depth: extent.depth as u64,
    };
    runtime.session.call(&record, &[])?;
    place.uses(|host| add_ranges(host, &ranges));
    place.made(Made::Memcpy(*given));
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemcpyNodeSetParams(node: CUgraphNode, params: *const Memcpy3D) -> CUresult {
    runtime::call(counter!("cuGraphMemcpyNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        set_memcpy(runtime, None, node, &unsafe { params.read() }, std::ptr::null_mut())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecMemcpyNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const Memcpy3D,
    context: CUcontext,
) -> CUresult {
    runtime::call(counter!("cuGraphExecMemcpyNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        set_memcpy(runtime, Some(exec), node, &unsafe { params.read() }, context)
    })
}

fn set_memset(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &MemsetParams,
    context: CUcontext,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, exec, node, MEMSET)?;
    let context = context_of(context)?;
    check_memset(runtime, given)?;
    let record = NodeSetMemset {
        node: place.node.handle,
        exec: place.exec(),
        context: context.handle,
        destination: given.destination,
        pitch: given.pitch as u64,
        width: given.width as u64,
        height: given.height as u64,
        value: given.value,
        element: given.element,
    };
    runtime.session.call(&record, &[])?;
    place.made(Made::Memset(*given));
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemsetNodeSetParams(
    node: CUgraphNode,
    params: *const MemsetParams,
) -> CUresult {
    runtime::call(counter!("cuGraphMemsetNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        set_memset(runtime, None, node, &unsafe { params.read() }, std::ptr::null_mut())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecMemsetNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const MemsetParams,
    context: CUcontext,
) -> CUresult {
    runtime::call(counter!("cuGraphExecMemsetNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        set_memset(runtime, Some(exec), node, &unsafe { params.read() }, context)
    })
}

/// A function of another number takes the place of the one before, which other instances may still call.
fn set_host(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &HostParams,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, exec, node, HOST)?;
    let code = given.function.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    check_instance(&place, |host| !host.ranges.is_empty())?;
    let function = HostFunction { run: HostCode::Function(code), argument: given.argument };
    let number = graphs::name_host_function();
    lock(&runtime.session.pending)
        .insert(number, Pending::HostFunction { function, stream: None, again: true });
    if let Err(code) = place.set_object(runtime, ADD_HOST, 0, number) {
        lock(&runtime.session.pending).remove(&number);
        return Err(code);
    }
    place.uses(|host| lock(host).functions.push(number));
    place.made(Made::Host(code as usize, given.argument.expose_provenance()));
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphHostNodeSetParams(node: CUgraphNode, params: *const HostParams) -> CUresult {
    runtime::call(counter!("cuGraphHostNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        set_host(runtime, None, node, &unsafe { params.read() })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecHostNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const HostParams,
) -> CUresult {
    runtime::call(counter!("cuGraphExecHostNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        set_host(runtime, Some(exec), node, &unsafe { params.read() })
    })
}

fn set_child(
    runtime: &Runtime,
    exec: CUgraphExec,
    node: CUgraphNode,
    child: CUgraph,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, Some(exec), node, GRAPH)?;
    let child = handles::graph(child)?;
    let host = lock(&child.host).clone();
    check_instance(&place, |all| {
        let functions = !all.functions.is_empty() || !host.functions.is_empty();
        functions && (!all.ranges.is_empty() || !host.ranges.is_empty())
    })?;
    place.set_object(runtime, ADD_GRAPH, child.handle, 0)?;
    place.uses(|all| {
        add_ranges(all, &host.ranges);
        lock(all).functions.extend(host.functions);
    });
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecChildGraphNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    child: CUgraph,
) -> CUresult {
    runtime::call(counter!("cuGraphExecChildGraphNodeSetParams"), |runtime| {
        set_child(runtime, exec, node, child)
    })
}

fn set_event(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    event: CUevent,
    kind: u32,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, exec, node, kind)?;
    let event = handles::event(event)?;
    let kind = if kind == EVENT_RECORD { ADD_EVENT_RECORD } else { ADD_EVENT_WAIT };
    place.set_object(runtime, kind, event.handle, 0)?;
    place.made(Made::Event(event.handle));
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphEventRecordNodeSetEvent(node: CUgraphNode, event: CUevent) -> CUresult {
    runtime::call(counter!("cuGraphEventRecordNodeSetEvent"), |runtime| {
        set_event(runtime, None, node, event, EVENT_RECORD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphEventWaitNodeSetEvent(node: CUgraphNode, event: CUevent) -> CUresult {
    runtime::call(counter!("cuGraphEventWaitNodeSetEvent"), |runtime| {
        set_event(runtime, None, node, event, WAIT_EVENT)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecEventRecordNodeSetEvent(
    exec: CUgraphExec,
    node: CUgraphNode,
    event: CUevent,
) -> CUresult {
    runtime::call(counter!("cuGraphExecEventRecordNodeSetEvent"), |runtime| {
        set_event(runtime, Some(exec), node, event, EVENT_RECORD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecEventWaitNodeSetEvent(
    exec: CUgraphExec,
    node: CUgraphNode,
    event: CUevent,
) -> CUresult {
    runtime::call(counter!("cuGraphExecEventWaitNodeSetEvent"), |runtime| {
        set_event(runtime, Some(exec), node, event, WAIT_EVENT)
    })
}

/// Sets the parameters of the type that they name.
///
/// # Safety
/// The room of `params` holds what its type says.
unsafe fn set(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    params: *const NodeParams,
) -> Result<(), CUresult> {
    need(params)?;
    // SAFETY: the caller's promise.
    let params = unsafe { &*params };
    let room = params.room.as_ptr();
    match params.kind {
        // SAFETY: the caller's promise; the room is as large as the largest.
        KERNEL => unsafe { set_kernel(runtime, exec, node, &room.cast::<KernelParams>().read()) },
        MEMCPY => {
            // SAFETY: as above.
            let given = unsafe { room.cast::<MemcpyParams>().read() };
            set_memcpy(runtime, exec, node, &given.copy, given.context)
        }
        MEMSET => {
            // SAFETY: as above.
            let given = unsafe { room.cast::<MemsetParamsV2>().read() };
            set_memset(runtime, exec, node, &given.v1, given.context)
        }
        // SAFETY: as above.
        HOST => set_host(runtime, exec, node, &unsafe { room.cast::<HostParams>().read() }),
        GRAPH => match exec {
            Some(exec) => set_child(runtime, exec, node, handles::pointer(params.room[0])),
            None => Err(CUDA_ERROR_INVALID_VALUE),
        },
        WAIT_EVENT | EVENT_RECORD => {
            set_event(runtime, exec, node, handles::pointer(params.room[0]), params.kind)
        }
        other => graph_node::refuse_kind(other),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeSetParams(node: CUgraphNode, params: *mut NodeParams) -> CUresult {
    runtime::call(counter!("cuGraphNodeSetParams"), |runtime| {
        // SAFETY: the program's structure.
        unsafe { set(runtime, None, node, params) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *mut NodeParams,
) -> CUresult {
    runtime::call(counter!("cuGraphExecNodeSetParams"), |runtime| {
        // SAFETY: the program's structure.
        unsafe { set(runtime, Some(exec), node, params) }
    })
}

/// `CUkernelNodeAttrValue`.
pub type AttributeValue = [u8; 64];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetAttribute(
    node: CUgraphNode,
    attribute: u32,
    value: *const AttributeValue,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeSetAttribute"), |runtime| {
        need(value)?;
        let node = graphs::node(node)?.handle;
        // SAFETY: the program's value, of 64 bytes.
        let value = unsafe { value.read() };
        runtime.session.call(&NodeSetAttribute { node, attribute, reserved: 0 }, &[&value]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeGetAttribute(
    node: CUgraphNode,
    attribute: u32,
    value: *mut AttributeValue,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeGetAttribute"), |runtime| {
        need(value)?;
        let node = graphs::node(node)?.handle;
        let (_, found) = runtime.session.call(&NodeGetAttribute { node, attribute, reserved: 0 }, &[])?;
        // SAFETY: the program's place, of 64 bytes.
        unsafe { give(value, *found.first_chunk().ok_or(CUDA_ERROR_UNKNOWN)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeCopyAttributes(to: CUgraphNode, from: CUgraphNode) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeCopyAttributes"), |runtime| {
        let (destination, source) = (graphs::node(to)?.handle, graphs::node(from)?.handle);
        runtime.session.call(&NodeCopyAttributes { destination, source }, &[]).map(drop)
    })
}

/// The graph belongs to the node, and goes with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphChildGraphNodeGetGraph(node: CUgraphNode, graph: *mut CUgraph) -> CUresult {
    runtime::call(counter!("cuGraphChildGraphNodeGetGraph"), |runtime| {
        need(graph)?;
        let node = graphs::node(node)?;
        if kind(runtime, &node)? != GRAPH {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let fresh = handles::mint()?;
        let asked = runtime.session.call(&ChildGraph { node: node.handle, graph: fresh }, &[]);
        match &asked {
            Ok((reply, _)) if reply.graph == fresh => {
                handles::fill(fresh, Object::Graph(Arc::new(Graph::new(fresh))));
            }
            _ => drop(handles::end(fresh)),
        }
        // SAFETY: the program's pointer, for one value.
        unsafe { give(graph, handles::pointer(asked?.0.graph)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeFindInClone(
    found: *mut CUgraphNode,
    node: CUgraphNode,
    clone: CUgraph,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeFindInClone"), |runtime| {
        need(found)?;
        let node = graphs::node(node)?.handle;
        let clone = handles::graph(clone)?.handle;
        let named = graphs::list(clone, |first_node| {
            let (reply, _) = runtime.session.call(&NodeInClone { node, clone, first_node }, &[])?;
            Ok(vec![reply.node])
        })?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(found, handles::pointer(named.first().copied().unwrap_or(0))) }
    })
}
