//! Nodes that set memory.

use fusewire_wire::ops::NodeFill;
use fusewire_wire::ops::table::{AddMemsetNode, NodeSetMemset};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUcontext, CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::api::arguments::{give, need};
use crate::runtime::graphs::Made;
use crate::runtime::rect::{Extent, Offset, Pitch};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, copies};

use super::{MEMSET, New, Place, context_of, made};

/// `CUDA_MEMSET_NODE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemsetParams {
    pub destination: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: u32,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS_v2`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MemsetParamsV2 {
    pub(super) v1: MemsetParams,
    pub(super) context: CUcontext,
}

const _: () = assert!(size_of::<MemsetParams>() == 40 && size_of::<MemsetParamsV2>() == 48);

/// Reads a memset, and checks what it touches.
fn read(runtime: &Runtime, given: &MemsetParams) -> Result<NodeFill, CUresult> {
    if !matches!(given.element, 1 | 2 | 4) || given.width == 0 || given.height == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let width = given.width.checked_mul(given.element as usize).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let extent = Extent { width, height: given.height, depth: 1 };
    let row = if given.height == 1 { width } else { given.pitch };
    let span = Pitch::of(row, 0, Offset::default(), extent)?.span(Offset::default(), extent)?;
    copies::check_device(runtime, given.destination, span.len())?;
    Ok(NodeFill {
        destination: given.destination,
        pitch: given.pitch as u64,
        width: given.width as u64,
        height: given.height as u64,
        value: given.value,
        element: given.element,
    })
}

pub(super) fn add_memset(
    runtime: &Runtime,
    new: New,
    given: &MemsetParams,
    context: CUcontext,
) -> Result<(), CUresult> {
    let context = context_of(context)?;
    let fill = read(runtime, given)?;
    let record = AddMemsetNode {
        graph: new.graph.handle,
        node: new.node,
        context: context.handle,
        fill,
        dependencies: new.count,
        reserved: 0,
    };
    runtime.session.call(&record, &new.dependencies.pieces())?;
    new.done(MEMSET, Made::Memset(*given))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemsetNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const MemsetParams,
    context: CUcontext,
) -> CUresult {
    runtime::call(counter!("cuGraphAddMemsetNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_memset(runtime, New::read(node, graph, dependencies, count)?, &params.read(), context) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemsetNodeGetParams(
    node: CUgraphNode,
    params: *mut MemsetParams,
) -> CUresult {
    runtime::call(counter!("cuGraphMemsetNodeGetParams"), |runtime| match made(runtime, node, MEMSET)? {
        // SAFETY: the program's pointer, for one structure.
        Made::Memset(memset) => unsafe { give(params, memset) },
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

pub(super) fn set_memset(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &MemsetParams,
    context: CUcontext,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, exec, node, MEMSET)?;
    let context = context_of(context)?;
    let fill = read(runtime, given)?;
    let record = NodeSetMemset { node: place.node.handle, exec: place.exec(), context: context.handle, fill };
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
