//! Graphs: captured, built by hand, replayed, changed.

use std::time::Duration;

use fusewire_wire::ops::table::*;
use fusewire_wire::ops::{Dim3, NodeCopy, NodeFill, NodeLaunch};
use zerocopy::{FromBytes, IntoBytes};

use crate::Test;
use crate::client::{Client, Setup, words};
use crate::edges::ORDINARY;
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("a_graph_is_captured_and_replayed", a_graph_is_captured_and_replayed),
    ("a_graph_is_built_by_hand", a_graph_is_built_by_hand),
    (
        "host_functions_of_graphs_are_called_at_each_replay",
        host_functions_of_graphs_are_called_at_each_replay,
    ),
];

pub const ONE: Dim3 = Dim3 { x: 1, y: 1, z: 1 };

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

pub fn instantiate(client: &mut Client, context: u64, graph: u64) -> u64 {
    let exec = client.handle();
    client.ask(GraphInstantiate { graph, exec, context, flags: 0 }).unwrap();
    exec
}

pub fn handles(bytes: &[u8], count: u32) -> Vec<u64> {
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
        launch: NodeLaunch { grid: ONE, block: ONE, shared_bytes: 0, parameter_bytes: 16 },
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
                fill: NodeFill { destination, pitch: 0, width: 4, height: 1, value, element: 4 },
                dependencies: 0,
                reserved: 0,
            })
            .unwrap();
    }
    let record = AddMemcpyNode {
        graph,
        node: copy,
        context,
        copy: NodeCopy {
            destination: a + 16,
            source: a,
            width: 16,
            height: 1,
            depth: 1,
            ..Default::default()
        },
        dependencies: 1,
        reserved: 0,
    };
    client.ask_with(record, [set_a, ORDINARY].as_bytes()).unwrap();
    let record = AddKernelNode {
        graph,
        node: kernel,
        function,
        context,
        launch: NodeLaunch { grid: ONE, block: Dim3 { x: 4, ..ONE }, shared_bytes: 0, parameter_bytes: 16 },
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
        fill: NodeFill { destination: 4096, pitch: 0, width: 4, height: 1, value: 0, element: 4 },
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
