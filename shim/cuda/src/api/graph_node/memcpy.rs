//! Nodes that copy memory.

use fusewire_wire::ops::NodeCopy;
use fusewire_wire::ops::table::{AddMemcpyNode, NodeSetMemcpy};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUcontext, CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::api::arguments::{give, need};
use crate::api::copy_rect::{Copy, Memcpy3D};
use crate::runtime::graphs::Made;
use crate::runtime::objects::Context;
use crate::runtime::rect::Extent;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::{MEMCPY, New, Place, add_ranges, check_instance, context_of, made};

/// `CUDA_MEMCPY_NODE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MemcpyParams {
    flags: i32,
    reserved: i32,
    pub(super) context: CUcontext,
    pub(super) copy: Memcpy3D,
}

const _: () = assert!(size_of::<MemcpyParams>() == 216);

/// What a copy between pitched memory comes to, as the server takes it.
struct Linear {
    copy: NodeCopy,
    /// Host memory that it uses.
    ranges: Vec<(u64, u64)>,
}

impl Linear {
    /// Reads a copy, its host sides mirrored. Arrays are not carried.
    fn read(runtime: &Runtime, context: &Context, given: &Memcpy3D) -> Result<Self, CUresult> {
        let copy = Copy::read(runtime, given)?;
        if copy.extent.is_empty() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let destination = copy.destination.memory().ok_or(CUDA_ERROR_NOT_SUPPORTED)?;
        let source = copy.source.memory().ok_or(CUDA_ERROR_NOT_SUPPORTED)?;
        let mut ranges = Vec::new();
        for end in [&copy.destination, &copy.source] {
            ranges.extend(end.mirror(runtime, context, copy.extent)?);
        }
        let Extent { width, height, depth } = copy.extent;
        let copy = NodeCopy {
            destination: destination.0,
            destination_pitch: destination.1.row as u64,
            destination_height: destination.1.rows as u64,
            source: source.0,
            source_pitch: source.1.row as u64,
            source_height: source.1.rows as u64,
            width: width as u64,
            height: height as u64,
            depth: depth as u64,
        };
        Ok(Self { copy, ranges })
    }
}

pub(super) fn add_memcpy(
    runtime: &Runtime,
    new: New,
    given: &Memcpy3D,
    context: CUcontext,
) -> Result<(), CUresult> {
    let context = context_of(context)?;
    let Linear { copy, ranges } = Linear::read(runtime, &context, given)?;
    let record = AddMemcpyNode {
        graph: new.graph.handle,
        node: new.node,
        context: context.handle,
        copy,
        dependencies: new.count,
        reserved: 0,
    };
    runtime.session.call(&record, &new.dependencies.pieces())?;
    add_ranges(&new.graph.host, &ranges);
    new.done(MEMCPY, Made::Memcpy(*given))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemcpyNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const Memcpy3D,
    context: CUcontext,
) -> CUresult {
    runtime::call(counter!("cuGraphAddMemcpyNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_memcpy(runtime, New::read(node, graph, dependencies, count)?, &params.read(), context) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemcpyNodeGetParams(node: CUgraphNode, params: *mut Memcpy3D) -> CUresult {
    runtime::call(counter!("cuGraphMemcpyNodeGetParams"), |runtime| match made(runtime, node, MEMCPY)? {
        // SAFETY: the program's pointer, for one structure.
        Made::Memcpy(copy) => unsafe { give(params, copy) },
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

pub(super) fn set_memcpy(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &Memcpy3D,
    context: CUcontext,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, exec, node, MEMCPY)?;
    let context = context_of(context)?;
    let Linear { copy, ranges } = Linear::read(runtime, &context, given)?;
    check_instance(&place, |host| !ranges.is_empty() && !host.functions.is_empty())?;
    let record = NodeSetMemcpy { node: place.node.handle, exec: place.exec(), context: context.handle, copy };
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
