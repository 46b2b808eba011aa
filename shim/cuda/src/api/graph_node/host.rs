//! Nodes that call host functions.

use std::ffi::c_void;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUgraph, CUgraphExec, CUgraphNode, CUhostFn, CUresult};
use crate::api::arguments::{give, need};
use crate::runtime::graphs::{self, Made};
use crate::runtime::objects::{HostCode, HostFunction};
use crate::runtime::pending::Pending;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::{ADD_HOST, HOST, New, Place, check_instance, made};

/// `CUDA_HOST_NODE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostParams {
    pub function: CUhostFn,
    pub argument: *mut c_void,
}

const _: () = assert!(size_of::<HostParams>() == 16);

pub(super) fn add_host(runtime: &Runtime, new: New, given: &HostParams) -> Result<(), CUresult> {
    let code = given.function.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let function = HostFunction { run: HostCode::Function(code), argument: given.argument };
    let number = graphs::name_host_function();
    // Stays for as long as the process: nobody says when the last replay of the last graph has been.
    lock(&runtime.session.pending)
        .insert(number, Pending::HostFunction { function, stream: None, again: true });
    if let Err(code) = new.add_plain(runtime, ADD_HOST, 0, number) {
        lock(&runtime.session.pending).remove(number);
        return Err(code);
    }
    lock(&new.graph.host).functions.push(number);
    new.done(HOST, Made::Host(code as usize, given.argument.expose_provenance()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddHostNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const HostParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddHostNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_host(runtime, New::read(node, graph, dependencies, count)?, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphHostNodeGetParams(node: CUgraphNode, params: *mut HostParams) -> CUresult {
    runtime::call(counter!("cuGraphHostNodeGetParams"), |runtime| match made(runtime, node, HOST)? {
        Made::Host(function, argument) => {
            need(params)?;
            let argument = std::ptr::with_exposed_provenance_mut::<c_void>(argument);
            // SAFETY: the program's pointer, for one structure: two words, the first the function as it came.
            unsafe {
                give(
                    params.cast::<[*mut c_void; 2]>(),
                    [std::ptr::with_exposed_provenance_mut(function), argument],
                )
            }
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

/// A function of another number takes the place of the one before, which other instances may still call.
pub(super) fn set_host(
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
        lock(&runtime.session.pending).remove(number);
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
