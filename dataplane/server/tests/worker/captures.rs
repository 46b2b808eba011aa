//! Captures that are under way.

use std::time::Duration;

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};
use crate::events::event;
use crate::graphs::instantiate;

pub const TESTS: &[Test] = &[("nothing_foreign_gets_into_a_capture", nothing_foreign_gets_into_a_capture)];

fn nothing_foreign_gets_into_a_capture() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (stream, joined, free) = (client.stream(context), client.stream(context), client.stream(context));
    let block = client.block(context, 1 << 20);
    let gone = client.block(context, 1 << 20);
    let point = event(&mut client, context, 2);
    client.send(CaptureBegin { stream, mode: 0, reserved: 0 });
    let recorded = client.send(EventRecord { event: point, stream, flags: 0, silent: 0 });
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
    client.send(EventRecord { event: back, stream: joined, flags: 0, silent: 0 });
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
