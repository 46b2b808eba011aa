//! Events and host functions: what a stream tells, and what holds it.

use std::time::Duration;

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};

pub const TESTS: &[Test] = &[
    ("events_are_told_in_order_and_timed", events_are_told_in_order_and_timed),
    ("a_silent_record_is_told_of_when_asked_for", a_silent_record_is_told_of_when_asked_for),
    ("a_host_function_holds_its_stream", a_host_function_holds_its_stream),
];

pub fn event(client: &mut Client, context: u64, flags: u32) -> u64 {
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
    client.send(EventRecord { event: start, stream: a, flags: 0, silent: 0 });
    client.hold_chunks = true;
    client.copy_in(a, block, &[5; 64 << 10]);
    let recorded = client.send(EventRecord { event: end, stream: a, flags: 0, silent: 0 });
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

fn a_silent_record_is_told_of_when_asked_for() {
    const NOT_READY: u32 = 600;
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    let (point, other) = (event(&mut client, context, 2), event(&mut client, context, 2));
    client.hold_chunks = true;
    client.copy_in(stream, block, &[5; 64 << 10]);
    let silent = client.send(EventRecord { event: point, stream, flags: 0, silent: 1 });
    let unasked = client.send(EventRecord { event: other, stream, flags: 0, silent: 1 });
    let asked = client.push(&EventQuery { event: point, watch: 1, reserved: 0 }, &[]);
    assert_eq!(client.answer::<EventQuery>(asked).err(), Some(NOT_READY));
    let gone = client.push(&EventQuery { event: other, watch: 1, reserved: 0 }, &[]);
    assert_eq!(client.answer::<EventQuery>(gone).err(), Some(NOT_READY));
    client.linger(Duration::from_millis(30));
    assert!(!client.done.contains_key(&asked));
    client.send(EventDestroy { event: other });
    assert_eq!(client.point(gone), 400, "nobody waits for an event that is gone");
    client.hold_chunks = false;
    assert_eq!(client.point(asked), 0);
    assert!(client.ask(EventQuery { event: point, watch: 1, reserved: 0 }).is_ok());
    client.synchronize(stream).unwrap();
    assert!(!client.done.contains_key(&silent) && !client.done.contains_key(&unasked));
    assert_eq!(client.ask(EventQuery { event: other, watch: 1, reserved: 0 }).err(), Some(400));
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
