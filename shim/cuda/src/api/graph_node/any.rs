//! Nodes of the type that their parameters name: added, or given other parameters.

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::api::arguments::need;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, handles};

use super::child::{add_child, set_child};
use super::empty::add_empty;
use super::event::{add_event, set_event};
use super::host::{HostParams, add_host, set_host};
use super::kernel::{KernelParams, add_kernel, set_kernel};
use super::memcpy::{MemcpyParams, add_memcpy, set_memcpy};
use super::memset::{MemsetParamsV2, add_memset, set_memset};
use super::{EMPTY, EVENT_RECORD, GRAPH, HOST, KERNEL, MEMCPY, MEMSET, New, WAIT_EVENT, refuse_kind};

/// `CUgraphNodeParams`, as cuda.h lays it out: a type, and room for the parameters of each.
#[repr(C)]
pub struct NodeParams {
    pub kind: u32,
    pub reserved: [u32; 3],
    pub room: [u64; 29],
    pub reserved_after: u64,
}

const _: () = assert!(size_of::<NodeParams>() == 256);

/// Adds a node of the type that the parameters name.
///
/// # Safety
/// The room of `params` holds what its type says.
unsafe fn add(runtime: &Runtime, new: New, params: &NodeParams) -> Result<(), CUresult> {
    let room = params.room.as_ptr();
    // SAFETY (all arms): the caller's promise; the room is as large as the largest.
    match params.kind {
        // SAFETY: see above.
        KERNEL => unsafe { add_kernel(runtime, new, &room.cast::<KernelParams>().read()) },
        MEMCPY => {
            // SAFETY: see above.
            let given = unsafe { room.cast::<MemcpyParams>().read() };
            add_memcpy(runtime, new, &given.copy, given.context)
        }
        MEMSET => {
            // SAFETY: see above.
            let given = unsafe { room.cast::<MemsetParamsV2>().read() };
            add_memset(runtime, new, &given.v1, given.context)
        }
        // SAFETY: see above.
        HOST => add_host(runtime, new, &unsafe { room.cast::<HostParams>().read() }),
        // A graph, which is cloned, or moved into the node.
        GRAPH if params.room[1] & 0xffff_ffff == 0 => {
            add_child(runtime, new, handles::pointer(params.room[0]))
        }
        EMPTY => add_empty(runtime, new),
        WAIT_EVENT | EVENT_RECORD => add_event(runtime, new, handles::pointer(params.room[0]), params.kind),
        other => refuse_kind(other),
    }
}

/// `edges` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    edges: *const u64,
    count: usize,
    params: *mut NodeParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddNode_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add(runtime, New::read_v2(node, graph, dependencies, edges, count)?, &*params) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *mut NodeParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add(runtime, New::read(node, graph, dependencies, count)?, &*params) }
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
        other => refuse_kind(other),
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
