//! Contexts, their default streams, and their end.

use std::time::Duration;

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("a_context_takes_its_objects_with_it", a_context_takes_its_objects_with_it),
    ("default_streams_and_peers", default_streams_and_peers),
];

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
