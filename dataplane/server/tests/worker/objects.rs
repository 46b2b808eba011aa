//! Everything that is neither the thin path nor trouble: events, host functions, graphs, mapped memory, mirrors,
//! pitched copies, libraries, printed text.

use std::time::Duration;

use fusewire_wire::ops::table::*;
use fusewire_wire::ops::{Dim3, window};
use zerocopy::{FromBytes, IntoBytes};

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("events_are_told_in_order_and_timed", events_are_told_in_order_and_timed),
    ("a_host_function_holds_its_stream", a_host_function_holds_its_stream),
    ("a_graph_is_captured_and_replayed", a_graph_is_captured_and_replayed),
    ("a_graph_is_built_by_hand", a_graph_is_built_by_hand),
    ("edges_keep_their_data", edges_keep_their_data),
    ("captures_keep_the_data_of_edges", captures_keep_the_data_of_edges),
    ("lists_of_edges_are_as_long_as_they_say", lists_of_edges_are_as_long_as_they_say),
    (
        "host_functions_of_graphs_are_called_at_each_replay",
        host_functions_of_graphs_are_called_at_each_replay,
    ),
    ("nothing_foreign_gets_into_a_capture", nothing_foreign_gets_into_a_capture),
    ("memory_the_program_maps_itself", memory_the_program_maps_itself),
    ("mirrored_memory_keeps_its_address", mirrored_memory_keeps_its_address),
    ("pitched_copies_and_memsets", pitched_copies_and_memsets),
    ("libraries_and_their_kernels", libraries_and_their_kernels),
    ("globals_are_part_of_the_session", globals_are_part_of_the_session),
    ("loads_that_fail_bring_their_log", loads_that_fail_bring_their_log),
    ("a_context_takes_its_objects_with_it", a_context_takes_its_objects_with_it),
    ("default_streams_and_peers", default_streams_and_peers),
    ("what_a_kernel_prints_comes_before_the_answer", what_a_kernel_prints_comes_before_the_answer),
    ("attributes_and_occupancy", attributes_and_occupancy),
    (
        "a_client_without_bulk_lanes_reads_in_the_command_lane",
        a_client_without_bulk_lanes_reads_in_the_command_lane,
    ),
];

/// `CUgraphEdgeData` as the words that they are on the wire.
const ORDINARY: u64 = 0;
/// From port 1, to port 0, type 1.
const PROGRAMMATIC: u64 = 0x1_0001;

const ONE: Dim3 = Dim3 { x: 1, y: 1, z: 1 };

fn event(client: &mut Client, context: u64, flags: u32) -> u64 {
    let event = client.handle();
    client.send(EventCreate { event, context, flags, reserved: 0 });
    event
}

fn events_are_told_in_order_and_timed() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (a, b) = (client.stream(context), client.stream(context));
    let block = client.block(context, 1 << 20);
    let (start, end) = (event(&mut client, context, 0), event(&mut client, context, 0));
    client.send(EventRecord { event: start, stream: a, flags: 0, reserved: 0 });
    client.hold_chunks = true;
    client.copy_in(a, block, &[5; 64 << 10]);
    let recorded = client.send(EventRecord { event: end, stream: a, flags: 0, reserved: 0 });
    // The other stream waits for it.
    client.send(StreamWaitEvent { stream: b, event: end, flags: 0, reserved: 0 });
    let out = client.send(CopyOut { stream: b, source: block, bytes: 8 });
    client.linger(Duration::from_millis(30));
    assert!(!client.done.contains_key(&recorded) && !client.done.contains_key(&out));
    client.hold_chunks = false;
    assert_eq!(client.point(recorded), 0);
    assert_eq!(client.point(out), 0);
    assert_eq!(client.data[&out], [5; 8]);
    let elapsed = client.ask(EventElapsed { start, end }).unwrap();
    assert!(elapsed.milliseconds >= 25.0, "{elapsed:?}");
    client.send(EventDestroy { event: start });
    assert_eq!(client.ask(EventElapsed { start, end }).err(), Some(400));
}

fn a_host_function_holds_its_stream() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (a, b) = (client.stream(context), client.stream(context));
    let block = client.block(context, 4096);
    client.copy_in_inline(a, block, &[1; 8]);
    let first = client.send(HostFunc { stream: a });
    let second = client.send(HostFunc { stream: a });
    client.copy_in_inline(a, block, &[2; 8]);
    let out = client.send(CopyOut { stream: a, source: block, bytes: 8 });
    client.until("the call", |client| !client.host_calls.is_empty());
    client.synchronize(b).unwrap();
    client.linger(Duration::from_millis(20));
    assert_eq!(client.host_calls, [first], "the second waits for the first");
    assert!(!client.done.contains_key(&out));
    client.send(HostFuncDone { function: first });
    client.until("the second call", |client| client.host_calls.len() == 2);
    assert_eq!(client.host_calls, [first, second]);
    client.send(HostFuncDone { function: second });
    assert_eq!(client.point(out), 0);
    assert_eq!(client.data[&out], [2; 8]);
}

/// Captures `a += b` twice over.
fn captured(client: &mut Client, context: u64, stream: u64, a: u64, b: u64) -> u64 {
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    client.send(CaptureBegin { stream, mode: 0, reserved: 0 });
    client.launch(add, stream, 4, &[a, b]);
    client.launch(add, stream, 4, &[a, b]);
    let graph = client.handle();
    client.ask(CaptureEnd { stream, graph }).unwrap();
    graph
}

fn instantiate(client: &mut Client, context: u64, graph: u64) -> u64 {
    let exec = client.handle();
    client.ask(GraphInstantiate { graph, exec, context, flags: 0 }).unwrap();
    exec
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::read_from_bytes(word).unwrap()).collect()
}

fn handles(bytes: &[u8], count: u32) -> Vec<u64> {
    bytes.chunks_exact(8).take(count as usize).map(|word| u64::read_from_bytes(word).unwrap()).collect()
}

fn a_graph_is_captured_and_replayed() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let (a, b) = (client.block(context, 4096), client.block(context, 4096));
    client.copy_in_inline(stream, a, [0u32; 4].as_bytes());
    client.copy_in_inline(stream, b, [1u32, 2, 3, 4].as_bytes());
    let graph = captured(&mut client, context, stream, a, b);
    let first_node = 0x9000_0000;
    let (nodes, tail) =
        client.ask_with(GraphNodes { graph, first_node, roots: 0, reserved: 0 }, &[]).unwrap();
    assert_eq!((nodes.count, nodes.made), (2, 2));
    assert_eq!(handles(&tail, 2), [first_node, first_node + NODE_HANDLE_STEP]);
    // Asked again, the same names come back and none is new.
    let (again, tail_again) =
        client.ask_with(GraphNodes { graph, first_node: 1, roots: 0, reserved: 0 }, &[]).unwrap();
    assert_eq!((again.count, again.made, &tail_again[..16]), (2, 0, &tail[..16]));
    let (edges, _) = client.ask_with(GraphEdges { graph, first_node: 1 }, &[]).unwrap();
    assert_eq!((edges.count, edges.made), (1, 0));
    assert_eq!(client.ask(NodeType { node: first_node }).unwrap().kind, 0);
    let (kernel, parameters) = client.ask_with(NodeGetKernel { node: first_node }, &[]).unwrap();
    assert_eq!((kernel.block.x, kernel.parameter_bytes), (4, 16));
    assert_eq!(handles(&parameters, 2), [a, b]);
    let exec = instantiate(&mut client, context, graph);
    for _ in 0..3 {
        client.send(GraphLaunch { exec, stream });
    }
    assert_eq!(words(&client.copy_out(stream, a, 16).unwrap()), [6, 12, 18, 24]);
    // Another block size for one node of the instance.
    let function = kernel.function;
    assert_ne!(function, 0);
    let set = NodeSetKernel {
        node: first_node,
        exec,
        function,
        context,
        grid: ONE,
        block: ONE,
        shared_bytes: 0,
        parameter_bytes: 16,
    };
    client.ask_with(set, [a, b].as_bytes()).unwrap();
    client.send(GraphLaunch { exec, stream });
    assert_eq!(words(&client.copy_out(stream, a, 16).unwrap()), [8, 14, 21, 28]);
    client.send(GraphExecDestroy { exec });
    client.send(GraphDestroy { graph });
    assert_eq!(client.ask(NodeType { node: first_node }).err(), Some(1), "its nodes went with the graph");
    client.send(GraphLaunch { exec, stream });
    client.synchronize(stream).unwrap();
    assert_eq!(client.failed.len(), 1, "{:?}", client.failed);
}

fn a_graph_is_built_by_hand() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let (a, b) = (client.block(context, 4096), client.block(context, 4096));
    let module = client.module(context, ADD.as_bytes());
    let (function, _) = client.function(module, "add");
    let graph = client.handle();
    client.send(GraphCreate { graph });
    let [set_a, set_b, copy, kernel] = [0; 4].map(|_| client.handle());
    for (node, destination, value) in [(set_a, a, 7), (set_b, b, 5)] {
        client
            .ask(AddMemsetNode {
                graph,
                node,
                context,
                destination,
                pitch: 0,
                width: 4,
                height: 1,
                value,
                element: 4,
                dependencies: 0,
                reserved: 0,
            })
            .unwrap();
    }
    let record = AddMemcpyNode {
        graph,
        node: copy,
        context,
        destination: a + 16,
        destination_pitch: 0,
        destination_height: 0,
        source: a,
        source_pitch: 0,
        source_height: 0,
        width: 16,
        height: 1,
        depth: 1,
        dependencies: 1,
        reserved: 0,
    };
    client.ask_with(record, [set_a, ORDINARY].as_bytes()).unwrap();
    let record = AddKernelNode {
        graph,
        node: kernel,
        function,
        context,
        grid: ONE,
        block: Dim3 { x: 4, ..ONE },
        shared_bytes: 0,
        parameter_bytes: 16,
        dependencies: 2,
        reserved: 0,
    };
    let mut tail = [set_b, copy, ORDINARY, ORDINARY].as_bytes().to_vec();
    tail.extend_from_slice([a + 16, b].as_bytes());
    client.ask_with(record, &tail).unwrap();
    let (found, tail) = client
        .ask_with(NodeNeighbours { node: kernel, first_node: 1, forward: 0, reserved: 0 }, &[])
        .unwrap();
    assert_eq!((found.count, found.made), (2, 0));
    let mut neighbours = handles(&tail, 2);
    neighbours.sort_unstable();
    assert_eq!(neighbours, [set_b, copy]);
    // Outside the session's memory.
    let wild = AddMemsetNode {
        graph,
        node: client.handle(),
        context,
        destination: 4096,
        pitch: 0,
        width: 4,
        height: 1,
        value: 0,
        element: 4,
        dependencies: 0,
        reserved: 0,
    };
    assert_eq!(client.ask(wild).err(), Some(1));
    let clone = client.handle();
    client.ask(GraphClone { graph, clone }).unwrap();
    let exec = instantiate(&mut client, context, clone);
    client.send(GraphLaunch { exec, stream });
    assert_eq!(words(&client.copy_out(stream, a, 32).unwrap()), [7, 7, 7, 7, 12, 12, 12, 12]);
    client.ask(NodeDestroy { node: copy }).unwrap();
    let update = client.ask(GraphExecUpdate { exec, graph }).unwrap();
    assert_eq!(update.result, 2, "a node less is another graph");
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

/// A kernel node that adds `b` to `a`, after these nodes. Gives the status if it is refused.
fn add_kernel(
    client: &mut Client,
    (graph, function, context): (u64, u64, u64),
    after: &[(u64, u64)],
    parameters: [u64; 2],
) -> Result<u64, u32> {
    let node = client.handle();
    let record = AddKernelNode {
        graph,
        node,
        function,
        context,
        grid: ONE,
        block: Dim3 { x: 4, ..ONE },
        shared_bytes: 0,
        parameter_bytes: 16,
        dependencies: after.len() as u32,
        reserved: 0,
    };
    let (nodes, edges): (Vec<u64>, Vec<u64>) = after.iter().copied().unzip();
    let tail = [nodes.as_bytes(), edges.as_bytes(), parameters.as_bytes()].concat();
    client.ask_with(record, &tail).map(|_| node)
}

/// Edges of a graph: from, to, data.
fn edges_of(client: &mut Client, graph: u64) -> Vec<[u64; 3]> {
    // Nodes that a capture made have no names yet: from here on, and each time others.
    let first_node = 0xa000_0000 + (client.handle() << 16);
    let (reply, tail) = client.ask_with(GraphEdges { graph, first_node }, &[]).unwrap();
    let (ends, data) = tail.split_at(16 * reply.count as usize);
    let ends = handles(ends, 2 * reply.count);
    let mut edges: Vec<_> =
        ends.chunks(2).zip(handles(data, reply.count)).map(|(ends, data)| [ends[0], ends[1], data]).collect();
    edges.sort_unstable();
    edges
}

fn edges_keep_their_data() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let (a, b) = (client.block(context, 4096), client.block(context, 4096));
    client.copy_in_inline(stream, a, [1u32; 4].as_bytes());
    client.copy_in_inline(stream, b, [2u32; 4].as_bytes());
    let module = client.module(context, ADD.as_bytes());
    let (function, _) = client.function(module, "add");
    let graph = client.handle();
    client.send(GraphCreate { graph });
    let place = (graph, function, context);
    let first = add_kernel(&mut client, place, &[], [a, b]).unwrap();
    let second = add_kernel(&mut client, place, &[(first, PROGRAMMATIC)], [a, b]).unwrap();
    let third = add_kernel(&mut client, place, &[(first, ORDINARY), (second, PROGRAMMATIC)], [a, b]).unwrap();
    let all = [[first, second, PROGRAMMATIC], [first, third, ORDINARY], [second, third, PROGRAMMATIC]];
    assert_eq!(edges_of(&mut client, graph), all);
    for (node, forward, expected) in [
        (third, 0, [first, second, ORDINARY, PROGRAMMATIC]),
        (first, 1, [second, third, PROGRAMMATIC, ORDINARY]),
    ] {
        let record = NodeNeighbours { node, first_node: 1, forward, reserved: 0 };
        let (found, tail) = client.ask_with(record, &[]).unwrap();
        assert_eq!((found.count, handles(&tail, 4)), (2, expected.to_vec()));
    }
    // What the driver refuses leaves nothing behind.
    assert_eq!(add_kernel(&mut client, place, &[(first, 0x0300)], [a, b]).err(), Some(1), "no such port");
    let node = client.handle();
    let empty = AddNode { graph, node, object: 0, function: 0, kind: 0, dependencies: 1 };
    let refused = client.ask_with(empty, [first, PROGRAMMATIC].as_bytes());
    assert_eq!(refused.err(), Some(1), "only a kernel can begin before the end of another one");
    assert_eq!(edges_of(&mut client, graph), all);
    // An edge is named with its data.
    let remove = AddDependencies { graph, count: 1, remove: 1 };
    assert_eq!(client.ask_with(remove, [first, second, ORDINARY].as_bytes()).err(), Some(1));
    client.ask_with(remove, [first, second, PROGRAMMATIC].as_bytes()).unwrap();
    let add = AddDependencies { graph, count: 1, remove: 0 };
    client.ask_with(add, [first, second, ORDINARY].as_bytes()).unwrap();
    assert_eq!(edges_of(&mut client, graph)[0], [first, second, ORDINARY]);
    let exec = instantiate(&mut client, context, graph);
    client.send(GraphLaunch { exec, stream });
    assert_eq!(words(&client.copy_out(stream, a, 16).unwrap()), [7; 4]);
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn captures_keep_the_data_of_edges() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (stream, side) = (client.stream(context), client.stream(context));
    let (a, b) = (client.block(context, 4096), client.block(context, 4096));
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    let point = event(&mut client, context, 2);
    // A launch with one attribute, whose value begins with this number.
    let launch = |client: &mut Client, stream, id, begin: u64| {
        let mut value = [0; 64];
        value[..8].copy_from_slice(begin.as_bytes());
        let record = LaunchEx {
            function: add,
            stream,
            grid: ONE,
            block: Dim3 { x: 4, ..ONE },
            shared_bytes: 0,
            parameter_bytes: 16,
            attributes: 1,
            reserved: 0,
        };
        let attribute = LaunchAttribute { id, reserved: 0, value };
        client.push(&record, &[attribute.as_bytes(), [a, b].as_bytes()].concat());
    };
    client.send(CaptureBegin { stream, mode: 2, reserved: 0 });
    client.launch(add, stream, 4, &[a, b]);
    // Programmatic stream serialization; then a programmatic event, for which the other stream waits.
    launch(&mut client, stream, 6, 1);
    launch(&mut client, stream, 7, point);
    client.send(StreamWaitEvent { stream: side, event: point, flags: 0, reserved: 0 });
    let (graph, first_node) = (client.handle(), 0x7000_0000);
    let (info, tail) = client.ask_with(CaptureInfo { stream: side, graph, first_node }, &[]).unwrap();
    assert_eq!((info.status, info.dependencies), (1, 1));
    assert_eq!(handles(&tail, 2), [first_node, PROGRAMMATIC]);
    client.launch(add, side, 4, &[a, b]);
    let kinds = |client: &mut Client, graph| -> Vec<u64> {
        let mut kinds: Vec<u64> = edges_of(client, graph).iter().map(|edge| edge[2]).collect();
        kinds.sort_unstable();
        kinds
    };
    assert_eq!(kinds(&mut client, graph), [ORDINARY, PROGRAMMATIC, PROGRAMMATIC]);
    // The position can be set, data and all.
    let set = CaptureUpdate { stream: side, dependencies: 1, flags: 1 };
    client.ask_with(set, [first_node, PROGRAMMATIC].as_bytes()).unwrap();
    client.launch(add, side, 4, &[a, b]);
    assert_eq!(kinds(&mut client, graph), [ORDINARY, PROGRAMMATIC, PROGRAMMATIC, PROGRAMMATIC]);
    let back = event(&mut client, context, 2);
    client.send(EventRecord { event: back, stream: side, flags: 0, reserved: 0 });
    client.send(StreamWaitEvent { stream, event: back, flags: 0, reserved: 0 });
    let update = CaptureUpdate { stream: side, dependencies: 1, flags: 1 };
    assert_eq!(client.ask_with(update, [first_node].as_bytes()).err(), Some(1), "a word is missing");
    let ended = client.handle();
    client.ask(CaptureEnd { stream, graph: ended }).unwrap();
    assert!(client.failed.is_empty(), "{:?}", client.failed);
    // A capture that begins where another graph is.
    let graph = client.handle();
    client.send(GraphCreate { graph });
    let node = add_kernel(&mut client, (graph, add, context), &[], [a, b]).unwrap();
    let begin = CaptureBeginTo { stream, graph, mode: 2, dependencies: 1 };
    assert_eq!(client.ask_with(begin, [node].as_bytes()).err(), Some(1), "a word is missing");
    client.ask_with(begin, [node, PROGRAMMATIC].as_bytes()).unwrap();
    client.launch(add, stream, 4, &[a, b]);
    let ended = client.handle();
    client.ask(CaptureEnd { stream, graph: ended }).unwrap();
    assert_eq!(kinds(&mut client, graph), [PROGRAMMATIC]);
}

fn lists_of_edges_are_as_long_as_they_say() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let graph = client.handle();
    client.send(GraphCreate { graph });
    let [one, two] = [0; 2].map(|_| client.handle());
    let empty = |node, dependencies| AddNode { graph, node, object: 0, function: 0, kind: 0, dependencies };
    client.ask_with(empty(one, 0), &[]).unwrap();
    client.ask_with(empty(two, 0), &[]).unwrap();
    let three = client.handle();
    for tail in [&[][..], &[one][..], &[one, two][..], &[one, two, ORDINARY][..]] {
        assert_eq!(client.ask_with(empty(three, 2), tail.as_bytes()).err(), Some(1), "{tail:?}");
        let add = AddDependencies { graph, count: 2, remove: 0 };
        assert_eq!(client.ask_with(add, tail.as_bytes()).err(), Some(1), "{tail:?}");
    }
    for count in [1 << 20, (1 << 20) + 1, 1 << 29, 1 << 31, u32::MAX] {
        let tail = [one; 64];
        assert_eq!(client.ask_with(empty(three, count), tail.as_bytes()).err(), Some(1), "{count}");
        let add = AddDependencies { graph, count, remove: 0 };
        assert_eq!(client.ask_with(add, tail.as_bytes()).err(), Some(1), "{count}");
        let stream = client.stream(context);
        let begin = CaptureBeginTo { stream, graph, mode: 2, dependencies: count };
        assert_eq!(client.ask_with(begin, tail.as_bytes()).err(), Some(1), "{count}");
    }
    client.ask_with(empty(three, 2), [one, two, ORDINARY, ORDINARY].as_bytes()).unwrap();
    assert_eq!(edges_of(&mut client, graph).len(), 2);
}

fn host_functions_of_graphs_are_called_at_each_replay() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    client.send(CaptureBegin { stream, mode: 2, reserved: 0 });
    let function = client.send(HostFunc { stream });
    let graph = client.handle();
    client.ask(CaptureEnd { stream, graph }).unwrap();
    let exec = instantiate(&mut client, context, graph);
    for round in 1..=3 {
        client.send(GraphLaunch { exec, stream });
        let waiting = client.push(&StreamSynchronize { stream }, &[]);
        client.until("the call", |client| client.host_calls.len() == round);
        client.linger(Duration::from_millis(5));
        assert!(!client.replies.contains_key(&waiting), "the replay waits for its host function");
        client.send(HostFuncDone { function });
        client.answer::<StreamSynchronize>(waiting).unwrap();
    }
    assert_eq!(client.host_calls, [function; 3]);
}

fn nothing_foreign_gets_into_a_capture() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (stream, joined, free) = (client.stream(context), client.stream(context), client.stream(context));
    let block = client.block(context, 1 << 20);
    let gone = client.block(context, 1 << 20);
    let point = event(&mut client, context, 2);
    client.send(CaptureBegin { stream, mode: 0, reserved: 0 });
    let recorded = client.send(EventRecord { event: point, stream, flags: 0, reserved: 0 });
    client.send(StreamWaitEvent { stream: joined, event: point, flags: 0, reserved: 0 });
    client.send(Memset {
        stream: joined,
        destination: block,
        pitch: 0,
        width: 16,
        height: 1,
        value: 3,
        element: 1,
    });
    client.copy_in_inline(joined, block + 16, &[4; 16]);
    let back = event(&mut client, context, 2);
    client.send(EventRecord { event: back, stream: joined, flags: 0, reserved: 0 });
    client.send(StreamWaitEvent { stream, event: back, flags: 0, reserved: 0 });
    // Meanwhile, life goes on elsewhere.
    client.copy_in(free, block + 64, &[9; 100 << 10]);
    assert_eq!(client.copy_out(free, block + 64, 4).unwrap(), [9; 4]);
    // What would have to wait for the capture is refused or waits for its end.
    assert_eq!(client.synchronize(joined), Err(900));
    assert_eq!(client.copy_out(joined, block, 4).err(), Some(900));
    let fence = client.send(Fence { context, through: 0 });
    let unmapped = client.send(BlockUnmap { context, address: gone, bytes: 1 << 20 });
    client.linger(Duration::from_millis(10));
    assert!(!client.done.contains_key(&fence) && !client.done.contains_key(&recorded));
    let graph = client.handle();
    let (info, _) = client.ask_with(CaptureInfo { stream, graph, first_node: 0x7000_0000 }, &[]).unwrap();
    assert_eq!((info.status, info.graph, info.dependencies), (1, graph, 1));
    let graph = client.handle();
    client.ask(CaptureEnd { stream, graph }).unwrap();
    assert_eq!(client.point(fence), 0);
    let granularity = client.granularity();
    if granularity == 1 << 20 {
        assert_eq!(client.point(unmapped), 0);
    }
    let (nodes, _) =
        client.ask_with(GraphNodes { graph, first_node: 0x8000_0000, roots: 0, reserved: 0 }, &[]).unwrap();
    assert_eq!(nodes.count, 2, "the memset and the copy, and no tickets");
    let exec = instantiate(&mut client, context, graph);
    for _ in 0..2 {
        client.send(Memset {
            stream,
            destination: block,
            pitch: 0,
            width: 32,
            height: 1,
            value: 0,
            element: 1,
        });
        client.send(GraphLaunch { exec, stream });
        let found = client.copy_out(stream, block, 32).unwrap();
        assert_eq!((&found[..16], &found[16..]), (&[3; 16][..], &[4; 16][..]));
    }
}

fn memory_the_program_maps_itself() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let bytes = client.granularity();
    let [one, two] = [0; 2].map(|_| client.handle());
    for allocation in [one, two] {
        client.ask(VmmCreate { allocation, bytes, device: 0, compression: 0 }).unwrap();
    }
    let address = client.address(4 * bytes);
    client.ask(VmmMap { allocation: one, address, bytes, offset: 0 }).unwrap();
    client.ask(VmmMap { allocation: two, address: address + bytes, bytes, offset: 0 }).unwrap();
    assert_eq!(client.ask(VmmMap { allocation: two, address, bytes, offset: 0 }).err(), Some(1), "taken");
    assert_eq!(
        client.ask(VmmMap { allocation: two, address: address + 2 * bytes, bytes, offset: bytes }).err(),
        Some(1)
    );
    client.ask(VmmSetAccess { address, bytes: 2 * bytes, device: 0, flags: 3 }).unwrap();
    assert_eq!(client.ask(VmmSetAccess { address, bytes: 3 * bytes, device: 0, flags: 3 }).err(), Some(1));
    // A copy across the seam.
    client.copy_in(stream, address + bytes - 40_000, &[8; 80_000]);
    assert_eq!(client.copy_out(stream, address + bytes - 4, 8).unwrap(), [8; 8]);
    client.send(VmmRelease { allocation: one });
    client.ask(VmmUnmap { address, bytes: 2 * bytes }).unwrap();
    assert_eq!(client.copy_out(stream, address, 8).err(), Some(1));
    assert_eq!(client.ask(VmmUnmap { address, bytes }).err(), Some(1));
    // The other allocation lives on, with its contents.
    client.ask(VmmMap { allocation: two, address: address + 3 * bytes, bytes, offset: 0 }).unwrap();
    client.ask(VmmSetAccess { address: address + 3 * bytes, bytes, device: 0, flags: 3 }).unwrap();
    assert_eq!(client.copy_out(stream, address + 3 * bytes, 8).unwrap(), [8; 8]);
}

fn mirrored_memory_keeps_its_address() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 4096);
    let mirror = window::HOST_BASE + (5 << 30);
    client.ask(HostMirror { context, address: mirror, bytes: 8192 }).unwrap();
    client.copy_in_inline(stream, mirror + 64, [10u32, 20, 30, 40].as_bytes());
    client.copy_in_inline(stream, block, [1u32, 2, 3, 4].as_bytes());
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    client.launch(add, stream, 4, &[mirror + 64, block]);
    assert_eq!(words(&client.copy_out(stream, mirror + 64, 16).unwrap()), [11, 22, 33, 44]);
    client.send(CopyWithin { stream, destination: block, source: mirror + 64, bytes: 16 });
    assert_eq!(words(&client.copy_out(stream, block, 16).unwrap()), [11, 22, 33, 44]);
    // A word that a stream writes there is told to the client; one elsewhere is not.
    client.send(StreamWriteValue { stream, address: block, value: 1, flags: 0, bytes: 4 });
    client.send(StreamWriteValue { stream, address: mirror, value: 77, flags: 0, bytes: 4 });
    client.until("the word", |client| !client.words.is_empty());
    assert_eq!(client.words, [(mirror, 77)]);
    client.send(StreamWaitValue { stream, address: mirror, value: 78, flags: 0, bytes: 4 });
    assert_eq!(client.ask(StreamQuery { stream, watch: 0, reserved: 0 }).err(), Some(600));
    let other = client.stream(context);
    client.copy_in_inline(other, mirror, &78u32.to_le_bytes());
    client.synchronize(stream).unwrap();
    let gone = client.send(HostUnmirror { context, address: mirror, bytes: 8192 });
    assert_eq!(client.point(gone), 0);
    assert_eq!(client.copy_out(stream, mirror, 4).err(), Some(1));
    client.ask(HostMirror { context, address: mirror, bytes: 4096 }).unwrap();
    assert_eq!(client.copy_out(stream, mirror, 4).unwrap(), [0; 4], "fresh memory");
}

fn pitched_copies_and_memsets() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    client.send(Memset {
        stream,
        destination: block,
        pitch: 0,
        width: 256,
        height: 1,
        value: 0x0102,
        element: 2,
    });
    assert_eq!(client.copy_out(stream, block + 510, 4).unwrap(), [2, 1, 0, 0]);
    client.send(Memset { stream, destination: block, pitch: 64, width: 3, height: 4, value: 9, element: 4 });
    let found = client.copy_out(stream, block + 64, 16).unwrap();
    assert_eq!(words(&found), [9, 9, 9, 0x0102_0102]);
    let rect = CopyRect {
        stream,
        destination: block + 4096,
        destination_array: 0,
        destination_pitch: 32,
        destination_height: 4,
        destination_x: 1,
        destination_y: 1,
        destination_z: 0,
        source: block,
        source_array: 0,
        source_pitch: 64,
        source_height: 4,
        source_x: 2,
        source_y: 0,
        source_z: 0,
        width: 3,
        height: 2,
        depth: 1,
        first_chunk: 0,
        direction: 2,
        reserved: 0,
    };
    client.send(rect);
    let from = client.copy_out(stream, block + 66, 3).unwrap();
    assert_eq!(client.copy_out(stream, block + 4096 + 65, 3).unwrap(), from);
    // Out, packed.
    let out = client.send(CopyRect { direction: 1, source_x: 0, width: 12, height: 3, ..rect });
    assert_eq!(client.point(out), 0);
    assert_eq!(words(&client.data[&out]), [9; 9]);
    // In, packed, through one bulk chunk.
    let data: Vec<u8> = (0..24).collect();
    let chunk = client.bulk(&data);
    client.send(CopyRect {
        direction: 0,
        first_chunk: chunk,
        destination_x: 0,
        destination_y: 0,
        width: 6,
        height: 4,
        ..rect
    });
    assert_eq!(client.copy_out(stream, block + 4096 + 32, 6).unwrap(), [6, 7, 8, 9, 10, 11]);
    // Boxes that reach out of the block, or do not fit a slot.
    for bad in [
        CopyRect { source_pitch: 1 << 30, ..rect },
        CopyRect { source_z: u64::MAX, ..rect },
        CopyRect { destination_y: 1 << 38, ..rect },
        CopyRect { width: 33, ..rect },
        CopyRect { direction: 1, source_pitch: 1 << 10, width: 1 << 10, height: 1 << 9, ..rect },
        CopyRect { direction: 7, ..rect },
    ] {
        client.send(bad);
    }
    client.synchronize(stream).unwrap();
    assert_eq!(client.failed.iter().map(|failed| failed.1).collect::<Vec<_>>(), [1; 6]);
}

fn library(client: &mut Client, context: u64, image: &[u8]) -> u64 {
    let (library, blob) = (client.handle(), client.handle());
    client.push(&BlobPart { blob, total: image.len() as u64 }, image);
    client.ask(LibraryLoad { library, context, blob, options: 0, library_options: 0 }).unwrap();
    library
}

fn libraries_and_their_kernels() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 4096);
    let library = library(&mut client, context, ADD.as_bytes());
    let function = client.handle();
    let (info, tail) = client.ask_with(LibraryGetKernel { library, function, context }, b"add").unwrap();
    assert_eq!((info.parameters, info.parameter_bytes), (2, 16));
    let second = ParameterInfo::read_from_bytes(&tail[8..16]).unwrap();
    assert_eq!((second.offset, second.bytes), (8, 8));
    let other = client.handle();
    assert_eq!(
        client.ask_with(LibraryGetKernel { library, function: other, context }, b"sub").err(),
        Some(500)
    );
    let (names, tail) = client.ask_with(LibraryNames { library }, &[]).unwrap();
    assert_eq!((names.count, &tail[..4]), (1, &b"add\0"[..]));
    client.copy_in_inline(stream, block, [5u32; 4].as_bytes());
    // A kernel is taken wherever a function is, attributes and all.
    let cooperative = LaunchAttribute { id: 2, reserved: 0, value: [1; 64] };
    let mut tail = cooperative.as_bytes().to_vec();
    tail[8..].fill(0);
    tail[8] = 1;
    tail.extend_from_slice([block, block].as_bytes());
    let record = LaunchEx {
        function,
        stream,
        grid: ONE,
        block: Dim3 { x: 4, ..ONE },
        shared_bytes: 0,
        parameter_bytes: 16,
        attributes: 1,
        reserved: 0,
    };
    client.push(&record, &tail);
    assert_eq!(words(&client.copy_out(stream, block, 16).unwrap()), [10; 4]);
    let module = client.handle();
    client.ask(LibraryGetModule { library, context, module }).unwrap();
    let (from_module, _) = client.function(module, "add");
    client.launch(from_module, stream, 1, &[block, block]);
    client.send(LibraryUnload { library });
    client.launch(function, stream, 1, &[block, block]);
    client.launch(from_module, stream, 1, &[block, block]);
    client.synchronize(stream).unwrap();
    let codes: Vec<u32> = client.failed.iter().map(|failed| failed.1).collect();
    assert_eq!(codes, [400, 400], "what was in the library went with it");
}

fn globals_are_part_of_the_session() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let image = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .global .align 4 .b8 table[64];\n";
    let module = client.module(context, image.as_bytes());
    let (global, _) = client.ask_with(ModuleGetGlobal { module }, b"table").unwrap();
    assert_eq!(global.bytes, 64);
    client.copy_in_inline(stream, global.address, &[6; 64]);
    assert_eq!(client.copy_out(stream, global.address + 32, 4).unwrap(), [6; 4]);
    assert_eq!(client.copy_out(stream, global.address + 62, 4).err(), Some(1));
    client.send(ModuleUnload { module });
    assert_eq!(client.copy_out(stream, global.address, 4).err(), Some(1));
}

fn loads_that_fail_bring_their_log() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (module, blob) = (client.handle(), client.handle());
    let image = b".version 8.0\n.target sm_80\n.address_size 64\nnonsense here;\n";
    client.push(&BlobPart { blob, total: image.len() as u64 }, image);
    let number = client.push(&ModuleLoad { module, context, blob, options: 0, reserved: 0 }, &[]);
    client.until("the refusal", |client| client.replies.contains_key(&number));
    let (status, tail) = client.replies[&number].clone();
    assert_eq!(status, 218, "invalid PTX");
    let (info, errors) =
        (u32::read_from_bytes(&tail[..4]).unwrap(), u32::read_from_bytes(&tail[4..8]).unwrap());
    assert!(errors > 0, "{info} {errors}");
    // A blob is used up by its load, and one that is not whole is refused.
    assert_eq!(client.ask(ModuleLoad { module, context, blob, options: 0, reserved: 0 }).err(), Some(400));
    client.push(&BlobPart { blob, total: 1 << 20 }, image);
    assert_eq!(client.ask(ModuleLoad { module, context, blob, options: 0, reserved: 0 }).err(), Some(1));
}

fn a_context_takes_its_objects_with_it() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let before = client.ask(MemInfo { context }).unwrap().free;
    let own = client.handle();
    client.ask(CtxCreate { context: own, device: 0, flags: 0 }).unwrap();
    let stream = client.stream(own);
    let block = client.block(own, 8 << 20);
    let module = client.module(own, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    client.copy_in(stream, block, &[1; 100 << 10]);
    client.launch(add, stream, 4, &[block, block]);
    client.send(CtxDestroy { context: own });
    // At once or once its work is finished, the context and all that is in it are gone.
    let _ = client.synchronize(stream);
    assert_eq!(client.synchronize(stream), Err(400));
    let kept = client.stream(context);
    client.launch(add, kept, 4, &[block, block]);
    assert_eq!(client.copy_out(kept, block, 4).err(), Some(1));
    assert_eq!(client.ask(CtxSynchronize { context: own }).err(), Some(201));
    assert_eq!(client.ask(MemInfo { context }).unwrap().free, before);
    // The primary context: its objects go, its handle stays.
    let block = client.block(context, 4096);
    client.ask(PrimaryReset { context }).unwrap();
    assert_eq!(client.synchronize(kept), Err(400));
    client.ask(PrimaryRetain { context, device: 0, flags: 0 }).unwrap();
    let stream = client.stream(context);
    assert_eq!(client.copy_out(stream, block, 4).err(), Some(1));
    client.synchronize(stream).unwrap();
}

fn default_streams_and_peers() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (legacy, thread) = (client.handle(), client.handle());
    client.send(StreamDefault { stream: legacy, context, per_thread: 0, reserved: 0 });
    client.send(StreamDefault { stream: thread, context, per_thread: 1, reserved: 0 });
    let block = client.block(context, 1 << 20);
    client.hold_chunks = true;
    client.copy_in(thread, block, &[4; 20 << 10]);
    let out = client.send(CopyOut { stream: legacy, source: block, bytes: 4 });
    client.linger(Duration::from_millis(10));
    assert!(!client.done.contains_key(&out), "the legacy stream waits for blocking streams");
    client.hold_chunks = false;
    assert_eq!(client.point(out), 0);
    assert_eq!(client.data[&out], [4; 4]);
    client.ask(CtxSetLimit { context, value: 4096, limit: 0, reserved: 0 }).unwrap();
    assert_eq!(client.ask(CtxGetLimit { context, limit: 0, reserved: 0 }).unwrap().value, 4096);
    if client.snapshot.devices.len() < 2 {
        return;
    }
    let second = client.handle();
    client.ask(PrimaryRetain { context: second, device: 1, flags: 0 }).unwrap();
    let far = client.block(second, 4096);
    client.send(CopyWithin { stream: legacy, destination: far, source: block, bytes: 4096 });
    client.ask(CtxSynchronize { context }).unwrap();
    let stream = client.stream(second);
    assert_eq!(client.copy_out(stream, far, 4).unwrap(), [4; 4]);
    client.ask(CtxEnablePeer { context, peer: second, flags: 0, reserved: 0 }).unwrap();
    assert_eq!(client.ask(CtxEnablePeer { context, peer: second, flags: 0, reserved: 0 }).err(), Some(704));
    client.ask(CtxDisablePeer { context, peer: second }).unwrap();
}

const PRINT: &str = "
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 result) vprintf(.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 text[17] = {104, 101, 108, 108, 111, 32, 102, 114, 111, 109, 32, 97, 102, 97, 114, 10, 0};
.visible .entry print()
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<2>;
    mov.u64 %rd1, text;
    cvta.global.u64 %rd2, %rd1;
    {
        .param .b64 format;
        .param .b64 arguments;
        .param .b32 result;
        st.param.b64 [format], %rd2;
        st.param.b64 [arguments], 0;
        call.uni (result), vprintf, (format, arguments);
        ld.param.b32 %r1, [result];
    }
    ret;
}
";

fn what_a_kernel_prints_comes_before_the_answer() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let module = client.module(context, PRINT.as_bytes());
    let (print, _) = client.function(module, "print");
    for round in 1..=3 {
        client.launch(print, stream, 2, &[]);
        client.synchronize(stream).unwrap();
        assert_eq!(client.printed, "hello from afar\n".repeat(2 * round));
    }
    let point = event(&mut client, context, 2);
    client.launch(print, stream, 1, &[]);
    let recorded = client.send(EventRecord { event: point, stream, flags: 0, reserved: 0 });
    assert_eq!(client.point(recorded), 0);
    assert_eq!(client.printed.lines().count(), 7);
    client.launch(print, stream, 1, &[]);
    client.ask(CtxSynchronize { context }).unwrap();
    assert_eq!(client.printed.lines().count(), 8);
}

fn attributes_and_occupancy() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let module = client.module(context, ADD.as_bytes());
    let (function, info) = client.function(module, "add");
    assert!(info.max_threads >= 256, "{info:?}");
    let attribute = 8;
    client.send(FuncSetAttribute { function, context, attribute, value: 1024, device: 0, reserved: 0 });
    let value = client.ask(FuncGetAttribute { function, context, attribute, device: 0 }).unwrap().value;
    assert_eq!(value, 1024);
    let blocks =
        client.ask(Occupancy { function, context, shared_bytes: 0, block: 128, flags: 0 }).unwrap().blocks;
    assert!(blocks > 0);
    let best =
        client.ask(OccupancyBlockSize { function, context, shared_bytes: 0, limit: 0, flags: 0 }).unwrap();
    let table = vec![0u64; 32];
    let record = OccupancyBlockSize { function, context, shared_bytes: 0, limit: 0, flags: 0 };
    let (of_table, _) = client.ask_with(record, table.as_bytes()).unwrap();
    assert_eq!((best.grid, best.block), (of_table.grid, of_table.block));
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn a_client_without_bulk_lanes_reads_in_the_command_lane() {
    let mut client = Client::open(&Setup { lanes: 0, ..Setup::default() });
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    client.send(Memset {
        stream,
        destination: block,
        pitch: 0,
        width: 1 << 20,
        height: 1,
        value: 7,
        element: 1,
    });
    assert!(client.copy_out(stream, block, 1 << 20).unwrap() == vec![7; 1 << 20]);
}
