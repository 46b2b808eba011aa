//! Host memory that is mirrored: what is written there and read, and when.

use std::time::Duration;

use fusewire_wire::ops::table::*;
use fusewire_wire::ops::window;
use zerocopy::IntoBytes;

use crate::Test;
use crate::client::{Client, Setup, words};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("mirrored_memory_keeps_its_address", mirrored_memory_keeps_its_address),
    ("mirrored_memory_is_written_at_once_and_read_last", mirrored_memory_is_written_at_once_and_read_last),
    ("mirrored_memory_is_told_before_what_comes_behind", mirrored_memory_is_told_before_what_comes_behind),
    (
        "mirrored_memory_is_written_before_what_has_to_wait",
        mirrored_memory_is_written_before_what_has_to_wait,
    ),
    ("mirrored_memory_that_is_gone_is_not_read", mirrored_memory_that_is_gone_is_not_read),
    (
        "large_mirrored_memory_is_read_when_its_stream_is_there",
        large_mirrored_memory_is_read_when_its_stream_is_there,
    ),
];

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

/// A stream that waits until the first word of `block` is 1, and one that does not.
fn held(client: &mut Client, context: u64, block: u64) -> (u64, u64) {
    let (stream, side) = (client.stream(context), client.stream(context));
    client.copy_in_inline(side, block, &[0; 4]);
    client.synchronize(side).unwrap();
    client.send(StreamWaitValue { stream, address: block, value: 1, bytes: 4, flags: 0 });
    (stream, side)
}

fn mirrored_memory_is_written_at_once_and_read_last() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let block = client.block(context, 4096);
    let mirror = window::HOST_BASE + (5 << 30);
    let bytes = 256 << 10;
    client.ask(HostMirror { context, address: mirror, bytes }).unwrap();
    let (stream, side) = held(&mut client, context, block);
    let early = client.send(CopyOut { stream, source: mirror, bytes });
    client.push(&HostWrite { address: mirror + 8, bytes: 8 }, &[5; 8]);
    client.push(&HostWrite { address: mirror + bytes - 4, bytes: 4 }, &[6; 4]);
    assert_eq!(client.copy_out(side, mirror, 16).unwrap(), [[0; 8], [5; 8]].concat());
    assert!(!client.done.contains_key(&early));
    client.push(&HostWrite { address: mirror + 8, bytes: 4 }, &[7; 4]);
    client.send(StreamWriteValue { stream: side, address: block, value: 1, bytes: 4, flags: 0 });
    assert_eq!(client.point(early), 0);
    let read = client.data.remove(&early).unwrap();
    assert_eq!(read.len() as u64, bytes);
    assert_eq!(
        (&read[..16], &read[read.len() - 4..]),
        (&[[0; 8], [7, 7, 7, 7, 5, 5, 5, 5]].concat()[..], &[6; 4][..])
    );
    // Nowhere else.
    for (address, bytes) in
        [(mirror + bytes - 4, 8), (block, 4), (mirror - 4, 4), (mirror, 1 << 20), (mirror, 16)]
    {
        let refused = client.push(&HostWrite { address, bytes }, &[1; 8]);
        client.until("the refusal", |client| client.failed.iter().any(|failed| failed.0 == refused));
    }
    assert_eq!(client.copy_out(side, mirror, 8).unwrap(), [0; 8]);
}

/// What has been read on one stream is told before another one comes to what is behind it, whichever is looked at first.
fn mirrored_memory_is_told_before_what_comes_behind() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let block = client.block(context, 4096);
    let mirror = window::HOST_BASE + (5 << 30);
    client.ask(HostMirror { context, address: mirror, bytes: 8192 }).unwrap();
    let event = client.handle();
    client.send(EventCreate { event, context, flags: 2, reserved: 0 });
    let (first, side) = (client.stream(context), client.stream(context));
    for turn in 1..50 {
        // This one is waited for from now on, before the other.
        let behind = client.stream(context);
        client.send(StreamWaitValue { stream: behind, address: block, value: turn, bytes: 4, flags: 0 });
        client.send(CopyOut { stream: behind, source: block, bytes: 4 });
        client.send(StreamWaitValue { stream: first, address: block, value: turn, bytes: 4, flags: 0 });
        let read = client.send(CopyOut { stream: first, source: mirror, bytes: 8192 });
        client.send(EventRecord { event, stream: first, flags: 0, silent: 0 });
        client.send(StreamWaitEvent { stream: behind, event, flags: 0, reserved: 0 });
        let function = client.send(HostFunc { stream: behind });
        client.send(StreamWriteValue { stream: side, address: block, value: turn, bytes: 4, flags: 0 });
        client.until("the call", |client| client.host_calls.contains(&function));
        assert!(client.data_then.contains(&read), "turn {turn}");
        client.send(HostFuncDone { function });
        client.synchronize(behind).unwrap();
    }
}

/// Who says that a host function has run has sent first what it wrote.
fn mirrored_memory_is_written_before_what_has_to_wait() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let block = client.block(context, 4096);
    let mirror = window::HOST_BASE + (5 << 30);
    client.ask(HostMirror { context, address: mirror, bytes: 8192 }).unwrap();
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    let (stream, side) = (client.stream(context), client.stream(context));
    let function = client.send(HostFunc { stream });
    client.send(CopyWithin { stream, destination: block, source: mirror, bytes: 8 });
    let other = client.send(HostFunc { stream: side });
    client.until("the calls", |client| client.host_calls.len() == 2);
    // The first launch of a kernel may wait for the GPU, and is kept until both functions have run.
    client.launch(add, side, 1, &[block + 64, block + 128]);
    client.push(&HostWrite { address: mirror, bytes: 8 }, &[5; 8]);
    client.send(HostFuncDone { function });
    client.linger(Duration::from_millis(20));
    client.send(HostFuncDone { function: other });
    assert_eq!(client.copy_out(stream, block, 8).unwrap(), [5; 8]);
}

/// The driver would wait for the stream in the copy from host memory to host memory, and the stream for the worker.
fn large_mirrored_memory_is_read_when_its_stream_is_there() {
    const BYTES: u64 = 3 << 20;
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let block = client.block(context, BYTES);
    let mirror = window::HOST_BASE + (5 << 30);
    client.ask(HostMirror { context, address: mirror, bytes: BYTES }).unwrap();
    let (stream, side) = (client.stream(context), client.stream(context));
    for turn in 1..=3u8 {
        let function = client.send(HostFunc { stream });
        let value = u32::from(turn);
        let memset =
            Memset { stream, destination: block, pitch: 0, width: BYTES, height: 1, value, element: 1 };
        client.send(memset);
        client.send(CopyWithin { stream, destination: mirror, source: block, bytes: BYTES });
        let read = client.send(CopyOut { stream, source: mirror, bytes: BYTES });
        client.until("the call", |client| client.host_calls.contains(&function));
        // The worker goes on with others.
        client.synchronize(side).unwrap();
        client.send(HostFuncDone { function });
        assert_eq!(client.point(read), 0);
        assert!(
            client.data[&read].iter().all(|byte| *byte == turn) && client.data[&read].len() as u64 == BYTES
        );
    }
    // What is given up with its memory ends all the same.
    let function = client.send(HostFunc { stream });
    let read = client.send(CopyOut { stream, source: mirror, bytes: BYTES });
    client.until("the call", |client| client.host_calls.contains(&function));
    let gone = client.send(HostUnmirror { context, address: mirror, bytes: BYTES });
    client.send(HostFuncDone { function });
    assert_eq!(client.point(read), 0);
    assert_eq!(client.point(gone), 0);
}

/// The read waits on a stream of one context, and the memory goes with another.
fn mirrored_memory_that_is_gone_is_not_read() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let own = client.handle();
    client.ask(CtxCreate { context: own, device: 0, flags: 0 }).unwrap();
    let block = client.block(context, 4096);
    let mirror = window::HOST_BASE + (5 << 30);
    client.ask(HostMirror { context: own, address: mirror, bytes: 8192 }).unwrap();
    let (stream, side) = held(&mut client, context, block);
    let read = client.send(CopyOut { stream, source: mirror, bytes: 8192 });
    let gone = client.send(HostUnmirror { context: own, address: mirror, bytes: 8192 });
    assert_eq!(client.point(gone), 0);
    client.send(StreamWriteValue { stream: side, address: block, value: 1, bytes: 4, flags: 0 });
    assert_eq!(client.point(read), 0);
    assert!(!client.data.contains_key(&read));
}
