//! Capture, graphs made by hand, and their replay.

#![allow(clippy::macro_metavars_in_unsafe, reason = "the tests call the driver through one macro")]

mod common;

use common::*;
use softgpu::abi::{
    CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMSET_NODE_PARAMS, CUgraphEdgeData,
    CUgraphExecUpdateResultInfo, In, Out,
};
use softgpu::{capture, copy, event, graph, graph_exec, memops, stream, user_object};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

const RELAXED: u32 = 2;
const LOSSY_QUERY: u32 = 402;
const NON_BLOCKING: u32 = 1;

fn begin(stream: u64) {
    cu!(capture::cuStreamBeginCapture_v2(stream, RELAXED));
}

fn end(stream: u64) -> u64 {
    let mut graph = 0;
    cu!(capture::cuStreamEndCapture(stream, Out::new(&mut graph)));
    graph
}

fn instantiate(graph: u64) -> u64 {
    let mut exec = 0;
    cu!(graph_exec::cuGraphInstantiateWithFlags(Out::new(&mut exec), graph, 0));
    exec
}

fn replay(exec: u64, stream: u64) {
    cu!(graph_exec::cuGraphLaunch(exec, stream));
    cu!(stream::cuStreamSynchronize(stream));
}

fn nodes(graph: u64) -> Vec<u64> {
    let mut count = 0;
    cu!(graph::cuGraphGetNodes(graph, Out::null(), Out::new(&mut count)));
    let mut nodes = vec![0; count];
    cu!(graph::cuGraphGetNodes(graph, Out::many(&mut nodes), Out::new(&mut count)));
    nodes
}

fn kind(node: u64) -> u32 {
    let mut kind = 99;
    cu!(graph::cuGraphNodeGetType(node, Out::new(&mut kind)));
    kind
}

fn new_event() -> u64 {
    let mut handle = 0;
    cu!(event::cuEventCreate(Out::new(&mut handle), 2));
    handle
}

unsafe extern "C" fn count_up(data: *mut c_void) {
    // SAFETY: the tests pass counters that live as long as the process.
    unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::AcqRel);
}

#[test]
fn captured_work_runs_at_each_replay_with_what_memory_holds_then() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let _ctx = Ctx::on(0);
    let handle = new_stream(NON_BLOCKING);
    let add_one = function(load(PTX), "add_one");
    let device = alloc(16);
    let (source, result) = (pinned(16), pinned(16));
    begin(handle);
    cu!(copy::cuMemcpyHtoDAsync_v2(device, source, 16, handle));
    assert_eq!(launch(add_one, 1, 32, handle, &[device, 4]), 0);
    cu!(copy::cuMemcpyDtoHAsync_v2(result, device, 16, handle));
    cu!(stream::cuLaunchHostFunc(handle, Some(count_up), (&raw const COUNT).cast_mut().cast()));
    let graph = end(handle);
    assert_eq!(nodes(graph).into_iter().map(kind).collect::<Vec<_>>(), [1, 0, 1, 3]);
    assert_eq!(COUNT.load(Ordering::Acquire), 0, "nothing runs while it is captured");
    let exec = instantiate(graph);
    cu!(graph::cuGraphDestroy(graph));
    for value in [10, 20, 30] {
        word(source + 4).store(value, Ordering::Release);
        replay(exec, handle);
        assert_eq!(word(result + 4).load(Ordering::Acquire), value + 1);
    }
    assert_eq!(COUNT.load(Ordering::Acquire), 3);
    cu!(graph_exec::cuGraphExecDestroy(exec));
    assert_eq!(code!(graph_exec::cuGraphLaunch(exec, handle)), INVALID_HANDLE);
}

#[test]
fn a_capture_spreads_through_events_and_must_be_joined() {
    let _ctx = Ctx::on(0);
    let (origin, side) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING));
    let (fork, join) = (new_event(), new_event());
    let device = alloc(8);
    let spread = || {
        begin(origin);
        cu!(event::cuEventRecord(fork, origin));
        cu!(stream::cuStreamWaitEvent(side, fork, 0));
        cu!(copy::cuMemsetD32Async(device, 1, 1, origin));
        cu!(copy::cuMemsetD32Async(device + 4, 2, 1, side));
        let mut status = 9;
        cu!(capture::cuStreamIsCapturing(side, Out::new(&mut status)));
        assert_eq!(status, 1);
    };
    spread();
    let mut graph = 1;
    assert_eq!(code!(capture::cuStreamEndCapture(origin, Out::new(&mut graph))), 904);
    assert_eq!(graph, 0);
    spread();
    cu!(event::cuEventRecord(join, side));
    cu!(stream::cuStreamWaitEvent(origin, join, 0));
    cu!(copy::cuMemsetD32Async(device, 3, 1, origin));
    let graph = end(origin);
    let mut edges = 0;
    cu!(graph::cuGraphGetEdges_v2(graph, Out::null(), Out::null(), Out::null(), Out::new(&mut edges)));
    assert_eq!((nodes(graph).len(), edges), (3, 2));
    replay(instantiate(graph), origin);
    assert_eq!(fetch::<u32>(device, 2), [3, 2]);
    let mut status = 9;
    cu!(capture::cuStreamIsCapturing(side, Out::new(&mut status)));
    assert_eq!(status, 0);
}

#[test]
fn what_a_capture_cannot_hold_spoils_it() {
    let _ctx = Ctx::on(0);
    let handle = new_stream(0);
    begin(handle);
    assert_eq!(code!(stream::cuStreamSynchronize(handle)), 900);
    let mut graph = 1;
    assert_eq!(code!(copy::cuMemsetD8Async(alloc(4), 0, 4, handle)), 901);
    assert_eq!(code!(capture::cuStreamEndCapture(handle, Out::new(&mut graph))), 901);
    assert_eq!(graph, 0);
    begin(handle);
    assert_eq!(code!(copy::cuMemsetD8Async(alloc(4), 0, 4, 0)), 906, "the legacy stream would have to wait");
    assert_eq!(code!(capture::cuStreamEndCapture(handle, Out::new(&mut graph))), 901);
    // Afterwards all is as before.
    cu!(copy::cuMemsetD8Async(alloc(4), 0, 4, handle));
    cu!(stream::cuStreamSynchronize(handle));
    assert_eq!(code!(capture::cuStreamBeginCapture_v2(0, RELAXED)), 900);
}

#[test]
fn a_graph_made_by_hand_respects_its_edges() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let _ctx = Ctx::on(0);
    let device = alloc(8);
    let mut handle = 0;
    cu!(graph::cuGraphCreate(Out::new(&mut handle), 0));
    let fill = |value, after: &[u64]| {
        let params =
            CUDA_MEMSET_NODE_PARAMS { dst: device, value, elementSize: 4, width: 2, height: 1, pitch: 0 };
        let mut node = 0;
        let after_list = In::many(after);
        cu!(graph::cuGraphAddMemsetNode(
            Out::new(&mut node),
            handle,
            after_list,
            after.len(),
            In::new(&params),
            0
        ));
        node
    };
    // Made in the wrong order, put right by an edge.
    let last = fill(2, &[]);
    let first = fill(1, &[]);
    cu!(graph::cuGraphAddDependencies_v2(handle, In::new(&first), In::new(&last), In::null(), 1));
    let twice = function(load(PTX), "twice");
    let argument: *const c_void = (&raw const device).cast();
    let params = CUDA_KERNEL_NODE_PARAMS_v2 {
        func: twice,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        kernelParams: &raw const argument,
        ..Default::default()
    };
    let mut kernel = 0;
    cu!(graph::cuGraphAddKernelNode_v2(Out::new(&mut kernel), handle, In::new(&last), 1, In::new(&params)));
    let host =
        CUDA_HOST_NODE_PARAMS { function: Some(count_up), userData: (&raw const COUNT).cast_mut().cast() };
    let mut node = 0;
    cu!(graph::cuGraphAddHostNode(Out::new(&mut node), handle, In::new(&kernel), 1, In::new(&host)));
    let stream = new_stream(0);
    let exec = instantiate(handle);
    replay(exec, stream);
    assert_eq!(fetch::<u32>(device, 2), [4, 2]);
    assert_eq!(COUNT.load(Ordering::Acquire), 1);

    // Other parameters for the executable graph only.
    let other = device + 4;
    let argument: *const c_void = (&raw const other).cast();
    let params = CUDA_KERNEL_NODE_PARAMS_v2 { kernelParams: &raw const argument, ..params };
    cu!(graph_exec::cuGraphExecKernelNodeSetParams_v2(exec, kernel, In::new(&params)));
    replay(exec, stream);
    assert_eq!(fetch::<u32>(device, 2), [2, 4]);

    // And back, by an update from the graph, whose node was left alone.
    let mut info = CUgraphExecUpdateResultInfo::default();
    cu!(graph_exec::cuGraphExecUpdate_v2(exec, handle, Out::new(&mut info)));
    replay(exec, stream);
    assert_eq!(fetch::<u32>(device, 2), [4, 2]);
    let mut told = CUDA_KERNEL_NODE_PARAMS_v2::default();
    cu!(graph::cuGraphKernelNodeGetParams_v2(kernel, Out::new(&mut told)));
    // SAFETY: the node hands out one pointer to an argument of 8 bytes.
    assert_eq!(unsafe { (*told.kernelParams).cast::<u64>().read_unaligned() }, device);

    cu!(graph::cuGraphDestroyNode(kernel));
    assert_eq!(code!(graph_exec::cuGraphExecUpdate_v2(exec, handle, Out::new(&mut info))), 910);
    assert_eq!(info.result, 2);
    let mut cycle = 0;
    cu!(graph::cuGraphAddDependencies_v2(handle, In::new(&last), In::new(&first), In::null(), 1));
    assert_eq!(
        code!(graph_exec::cuGraphInstantiateWithFlags(Out::new(&mut cycle), handle, 0)),
        INVALID_VALUE
    );
}

#[test]
fn child_graphs_and_event_nodes() {
    let _ctx = Ctx::on(0);
    let (device, event, stream) = (alloc(4), new_event(), new_stream(NON_BLOCKING));
    begin(stream);
    cu!(copy::cuMemsetD32Async(device, 8, 1, stream));
    let child = end(stream);
    let (mut parent, mut inner, mut record) = (0, 0, 0);
    cu!(graph::cuGraphCreate(Out::new(&mut parent), 0));
    cu!(graph::cuGraphAddChildGraphNode(Out::new(&mut inner), parent, In::null(), 0, child));
    cu!(graph::cuGraphAddEventRecordNode(Out::new(&mut record), parent, In::new(&inner), 1, event));
    assert_eq!((kind(inner), kind(record)), (4, 7));
    cu!(graph_exec::cuGraphLaunch(instantiate(parent), stream));
    cu!(event::cuEventSynchronize(event));
    assert_eq!(fetch::<u32>(device, 1), [8]);
    let mut copy = 0;
    cu!(graph::cuGraphClone(Out::new(&mut copy), parent));
    let mut twin = 0;
    cu!(graph::cuGraphNodeFindInClone(Out::new(&mut twin), record, copy));
    assert_eq!(kind(twin), 7);
    assert_ne!(twin, record);
}

#[test]
fn user_objects_outlive_the_graph_in_what_was_made_from_it() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let _ctx = Ctx::on(0);
    let (mut handle, mut object) = (0, 0);
    cu!(graph::cuGraphCreate(Out::new(&mut handle), 0));
    let data = (&raw const COUNT).cast_mut().cast();
    cu!(user_object::cuUserObjectCreate(Out::new(&mut object), data, Some(count_up), 1, 1));
    // The graph takes over our reference.
    cu!(user_object::cuGraphRetainUserObject(handle, object, 1, 1));
    let exec = instantiate(handle);
    cu!(graph::cuGraphDestroy(handle));
    assert_eq!(COUNT.load(Ordering::Acquire), 0);
    cu!(graph_exec::cuGraphExecDestroy(exec));
    assert_eq!(COUNT.load(Ordering::Acquire), 1);
    assert_eq!(code!(user_object::cuUserObjectRelease(object, 1)), INVALID_VALUE);
}

#[test]
fn a_node_can_be_added_by_its_kind_and_switched_off() {
    let _ctx = Ctx::on(0);
    let (device, stream) = (alloc(4), new_stream(NON_BLOCKING));
    let (mut handle, mut node) = (0, 0);
    cu!(graph::cuGraphCreate(Out::new(&mut handle), 0));
    let mut params: graph::NodeParams = [0; 32];
    // A fill: its kind, and behind 16 bytes where, pitch, value and element size, width, height.
    params[0] = 2;
    params[2..7].copy_from_slice(&[device, 0, 9 | 4 << 32, 1, 1]);
    cu!(graph::cuGraphAddNode_v2(Out::new(&mut node), handle, In::null(), In::null(), 0, In::new(&params)));
    let exec = instantiate(handle);
    cu!(graph_exec::cuGraphNodeSetEnabled(exec, node, 0));
    replay(exec, stream);
    assert_eq!(fetch::<u32>(device, 1), [0]);
    cu!(graph_exec::cuGraphNodeSetEnabled(exec, node, 1));
    replay(exec, stream);
    assert_eq!(fetch::<u32>(device, 1), [9]);
}

#[test]
fn a_launched_graph_waits_for_events_as_they_were_at_its_launch() {
    let _ctx = Ctx::on(0);
    let (stream, other, event) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING), new_event());
    let (gate, device) = (pinned(4), alloc(4));
    let (mut handle, mut wait) = (0, 0);
    cu!(graph::cuGraphCreate(Out::new(&mut handle), 0));
    cu!(graph::cuGraphAddEventWaitNode(Out::new(&mut wait), handle, In::null(), 0, event));
    let params =
        CUDA_MEMSET_NODE_PARAMS { dst: device, value: 3, elementSize: 4, width: 1, height: 1, pitch: 0 };
    let mut fill = 0;
    cu!(graph::cuGraphAddMemsetNode(Out::new(&mut fill), handle, In::new(&wait), 1, In::new(&params), 0));
    let exec = instantiate(handle);
    cu!(memops::cuStreamWaitValue32_v2(other, gate, 1, 0));
    cu!(event::cuEventRecord(event, other));
    cu!(graph_exec::cuGraphLaunch(exec, stream));
    // Recorded again behind the graph itself, which must not wait for that.
    cu!(event::cuEventRecord(event, stream));
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(code!(stream::cuStreamQuery(stream)), NOT_READY);
    word(gate).store(1, Ordering::Release);
    cu!(stream::cuStreamSynchronize(stream));
    assert_eq!(fetch::<u32>(device, 1), [3]);
}

#[test]
fn edges_are_kept_and_shown_with_their_data() {
    const PROGRAMMATIC: CUgraphEdgeData =
        CUgraphEdgeData { from_port: 1, to_port: 0, kind: 1, reserved: [0; 5] };
    let _ctx = Ctx::on(0);
    let device = alloc(4);
    let twice = function(load(PTX), "twice");
    let argument: *const c_void = (&raw const device).cast();
    let params = CUDA_KERNEL_NODE_PARAMS_v2 {
        func: twice,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        kernelParams: &raw const argument,
        ..Default::default()
    };
    let (mut handle, mut first, mut last, mut empty) = (0, 0, 0, 0);
    cu!(graph::cuGraphCreate(Out::new(&mut handle), 0));
    cu!(graph::cuGraphAddKernelNode_v2(Out::new(&mut first), handle, In::null(), 0, In::new(&params)));
    cu!(graph::cuGraphAddKernelNode_v2(Out::new(&mut last), handle, In::null(), 0, In::new(&params)));
    cu!(graph::cuGraphAddEmptyNode(Out::new(&mut empty), handle, In::null(), 0));
    let add = |to: &u64, data: &CUgraphEdgeData| {
        code!(graph::cuGraphAddDependencies_v2(handle, In::new(&first), In::new(to), In::new(data), 1))
    };
    assert_eq!(add(&last, &PROGRAMMATIC), 0);
    assert_eq!(add(&empty, &PROGRAMMATIC), INVALID_VALUE, "only between kernels");
    let unknown = CUgraphEdgeData { from_port: 3, ..PROGRAMMATIC };
    assert_eq!(add(&last, &unknown), INVALID_VALUE);
    let (mut from, mut to, mut data, mut count) = (0, 0, CUgraphEdgeData::default(), 1);
    cu!(graph::cuGraphGetEdges_v2(
        handle,
        Out::new(&mut from),
        Out::new(&mut to),
        Out::new(&mut data),
        Out::new(&mut count)
    ));
    assert_eq!((from, to, data, count), (first, last, PROGRAMMATIC, 1));
    let without =
        code!(graph::cuGraphGetEdges(handle, Out::new(&mut from), Out::new(&mut to), Out::new(&mut count)));
    assert_eq!(without, LOSSY_QUERY);
    let mut node = 0;
    let lost = |out, count| code!(graph::cuGraphNodeGetDependencies_v2(last, out, Out::null(), count));
    assert_eq!(lost(Out::new(&mut node), Out::new(&mut count)), LOSSY_QUERY);
    assert_eq!(lost(Out::null(), Out::new(&mut count)), 0, "a count loses nothing");
    let mut copy = 0;
    cu!(graph::cuGraphClone(Out::new(&mut copy), handle));
    data = CUgraphEdgeData::default();
    cu!(graph::cuGraphGetEdges_v2(
        copy,
        Out::new(&mut from),
        Out::new(&mut to),
        Out::new(&mut data),
        Out::new(&mut count)
    ));
    assert_eq!(data, PROGRAMMATIC, "a clone has the same");
}
