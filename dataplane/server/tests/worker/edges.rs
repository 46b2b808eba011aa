//! Edges of graphs, and the data that they carry.

use fusewire_wire::ops::table::*;
use fusewire_wire::ops::{Dim3, NodeLaunch};
use zerocopy::IntoBytes;

use crate::Test;
use crate::client::{Client, Setup, words};
use crate::events::event;
use crate::graphs::{ONE, handles, instantiate};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("edges_keep_their_data", edges_keep_their_data),
    ("captures_keep_the_data_of_edges", captures_keep_the_data_of_edges),
    ("lists_of_edges_are_as_long_as_they_say", lists_of_edges_are_as_long_as_they_say),
];

/// `CUgraphEdgeData` as the words that they are on the wire.
pub const ORDINARY: u64 = 0;
/// From port 1, to port 0, type 1.
const PROGRAMMATIC: u64 = 0x1_0001;

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
        launch: NodeLaunch { grid: ONE, block: Dim3 { x: 4, ..ONE }, shared_bytes: 0, parameter_bytes: 16 },
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
    client.send(EventRecord { event: back, stream: side, flags: 0, silent: 0 });
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
