//! Fences: what they wait for.

use std::time::Duration;

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};

pub const TESTS: &[Test] = &[(
    "a_fence_waits_for_copies_and_not_for_what_came_later",
    a_fence_waits_for_copies_and_not_for_what_came_later,
)];

fn a_fence_waits_for_copies_and_not_for_what_came_later() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (stream, side) = (client.stream(context), client.stream(context));
    let block = client.block(context, 1 << 20);
    client.copy_in_inline(side, block, &[0; 4]);
    client.synchronize(side).unwrap();
    let first = client.copy_in_inline(stream, block + 64, &[1; 64]);
    client.send(StreamWaitValue { stream, address: block, value: 1, bytes: 4, flags: 0 });
    let inline = client.copy_in_inline(stream, block + 64, &[2; 64]);
    let long = client.copy_in(stream, block + 4096, &[3; 100 << 10]);
    let last = client.copy_in_inline(stream, block + 128, &[4; 64]);
    let fences = [first, inline, long, last].map(|through| client.send(Fence { context, through }));
    let all = client.send(Fence { context, through: 0 });
    assert_eq!(client.point(fences[0]), 0);
    assert_eq!(client.copy_out(side, block + 64, 64).unwrap(), [1; 64]);
    client.linger(Duration::from_millis(10));
    for fence in fences[1..].iter().chain([&all]) {
        assert!(!client.done.contains_key(fence), "a copy behind what is not finished");
    }
    client.send(StreamWriteValue { stream: side, address: block, value: 1, bytes: 4, flags: 0 });
    for fence in fences[1..].iter().chain([&all]) {
        assert_eq!(client.point(*fence), 0);
    }
    // Nothing is left to wait for.
    let late = client.send(Fence { context, through: last });
    assert_eq!(client.point(late), 0);
    let nowhere = client.send(Fence { context: context + 1, through: last });
    client.until("the refusal", |client| client.failed.iter().any(|failed| failed.0 == nowhere));
}
