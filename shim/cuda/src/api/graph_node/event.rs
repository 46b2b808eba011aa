//! Nodes that record events and wait for them.

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUevent, CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::api::arguments::give;
use crate::runtime::graphs::Made;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, handles};

use super::{ADD_EVENT_RECORD, ADD_EVENT_WAIT, EVENT_RECORD, New, Place, WAIT_EVENT, made};

pub(super) fn add_event(runtime: &Runtime, new: New, event: CUevent, kind: u32) -> Result<(), CUresult> {
    let event = handles::event(event)?;
    let (add, kind) =
        if kind == EVENT_RECORD { (ADD_EVENT_RECORD, EVENT_RECORD) } else { (ADD_EVENT_WAIT, WAIT_EVENT) };
    new.add_plain(runtime, add, event.handle, 0)?;
    new.done(kind, Made::Event(event.handle))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddEventRecordNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> CUresult {
    runtime::call(counter!("cuGraphAddEventRecordNode"), |runtime| {
        // SAFETY: the program's pointers.
        add_event(runtime, unsafe { New::read(node, graph, dependencies, count) }?, event, EVENT_RECORD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddEventWaitNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> CUresult {
    runtime::call(counter!("cuGraphAddEventWaitNode"), |runtime| {
        // SAFETY: the program's pointers.
        add_event(runtime, unsafe { New::read(node, graph, dependencies, count) }?, event, WAIT_EVENT)
    })
}

fn event(runtime: &Runtime, node: CUgraphNode, kind: u32, target: *mut CUevent) -> Result<(), CUresult> {
    match made(runtime, node, kind)? {
        // SAFETY: the program's pointer, for one value.
        Made::Event(event) => unsafe { give(target, handles::pointer(event)) },
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphEventRecordNodeGetEvent(node: CUgraphNode, target: *mut CUevent) -> CUresult {
    runtime::call(counter!("cuGraphEventRecordNodeGetEvent"), |runtime| {
        event(runtime, node, EVENT_RECORD, target)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphEventWaitNodeGetEvent(node: CUgraphNode, target: *mut CUevent) -> CUresult {
    runtime::call(counter!("cuGraphEventWaitNodeGetEvent"), |runtime| {
        event(runtime, node, WAIT_EVENT, target)
    })
}

pub(super) fn set_event(
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
