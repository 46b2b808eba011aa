//! Driver calls that wait for the GPU, and queues that are full, while the GPU waits for the worker: nothing of it
//! may end in everybody waiting for everybody.

use std::time::Duration;

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("an_unload_behind_a_long_copy_out", an_unload_behind_a_long_copy_out),
    ("an_unload_behind_a_copy_in_without_data", an_unload_behind_a_copy_in_without_data),
    ("an_unload_behind_a_host_function", an_unload_behind_a_host_function),
    ("thousands_of_launches_behind_a_copy", thousands_of_launches_behind_a_copy),
    ("copies_longer_than_the_queues", copies_longer_than_the_queues),
    ("memory_freed_behind_a_long_copy", memory_freed_behind_a_long_copy),
];

struct Ready {
    client: Client,
    context: u64,
    stream: u64,
    block: u64,
    add: u64,
    /// A module that nothing uses.
    spare: u64,
}

fn ready() -> Ready {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 128 << 20);
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    let spare = client.module(context, ADD.as_bytes());
    client.synchronize(stream).unwrap();
    Ready { client, context, stream, block, add, spare }
}

fn an_unload_behind_a_long_copy_out() {
    let Ready { mut client, stream, block, add, spare, .. } = ready();
    let bytes = 2 << 20;
    client.send(Memset {
        stream,
        destination: block,
        pitch: 0,
        width: bytes,
        height: 1,
        value: 5,
        element: 1,
    });
    let out = client.send(CopyOut { stream, source: block, bytes });
    client.send(ModuleUnload { module: spare });
    // The first launch of a kernel may wait as well.
    client.launch(add, stream, 1, &[block, block]);
    assert_eq!(client.point(out), 0);
    client.synchronize(stream).unwrap();
    assert!(client.data[&out] == vec![5; bytes as usize]);
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn an_unload_behind_a_copy_in_without_data() {
    let Ready { mut client, stream, block, spare, .. } = ready();
    client.hold_chunks = true;
    let data: Vec<u8> = (0..2u32 << 20).map(|n| (n >> 3) as u8).collect();
    client.copy_in(stream, block, &data);
    client.send(ModuleUnload { module: spare });
    client.linger(Duration::from_millis(20));
    client.hold_chunks = false;
    assert!(client.copy_out(stream, block, data.len() as u64).unwrap() == data);
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn an_unload_behind_a_host_function() {
    let Ready { mut client, stream, block, add, spare, .. } = ready();
    let function = client.send(HostFunc { stream });
    client.send(ModuleUnload { module: spare });
    for _ in 0..2000 {
        client.launch(add, stream, 1, &[block, block]);
    }
    let waiting = client.push(&StreamSynchronize { stream }, &[]);
    client.until("the call", |client| client.host_calls == [function]);
    client.linger(Duration::from_millis(20));
    assert!(!client.replies.contains_key(&waiting));
    client.send(HostFuncDone { function });
    client.answer::<StreamSynchronize>(waiting).unwrap();
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn thousands_of_launches_behind_a_copy() {
    let Ready { mut client, stream, block, add, .. } = ready();
    client.send(Memset { stream, destination: block, pitch: 0, width: 16, height: 1, value: 0, element: 1 });
    client.copy_in_inline(stream, block + 64, &[1, 0, 0, 0]);
    client.hold_chunks = true;
    client.copy_in(stream, block + (1 << 20), &vec![1; 1 << 20]);
    for _ in 0..5000 {
        client.launch(add, stream, 1, &[block, block + 64]);
    }
    let out = client.send(CopyOut { stream, source: block, bytes: 4 });
    client.linger(Duration::from_millis(50));
    assert!(!client.done.contains_key(&out));
    client.hold_chunks = false;
    assert_eq!(client.point(out), 0);
    assert_eq!(client.data[&out], 5000u32.to_le_bytes());
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn copies_longer_than_the_queues() {
    let Ready { mut client, stream, block, .. } = ready();
    let other = client.handle();
    // 1,600 chunks of 64 KiB each way, with work behind them.
    let data: Vec<u8> = (0..100u32 << 20).map(|n| (n / 3) as u8).collect();
    client.copy_in(stream, block, &data);
    client.send(Memset { stream, destination: block, pitch: 0, width: 8, height: 1, value: 9, element: 1 });
    client.send(StreamDestroy { stream: other });
    let back = client.copy_out(stream, block, data.len() as u64).unwrap();
    assert_eq!(back[..8], [9; 8]);
    assert!(back[8..] == data[8..]);
    assert_eq!(client.failed.iter().map(|failed| failed.1).collect::<Vec<_>>(), [400]);
}

fn memory_freed_behind_a_long_copy() {
    let Ready { mut client, context, stream, block, .. } = ready();
    let gone = client.block(context, 4 << 20);
    let bytes = (4u64 << 20).next_multiple_of(client.granularity());
    let out = client.send(CopyOut { stream, source: gone, bytes: 4 << 20 });
    let unmapped = client.send(BlockUnmap { context, address: gone, bytes });
    let after = client.send(CopyOut { stream, source: block, bytes: 4 << 20 });
    for number in [out, unmapped, after] {
        assert_eq!(client.point(number), 0);
    }
    // Its address is free again.
    client.ask(BlockMap { context, address: gone, bytes }).unwrap();
}
