//! Faults, exhaustion, work that never ends, and ends that come at the wrong moment.

use std::io::Write;
use std::time::{Duration, Instant};

use fusewire_server::control::{FromWorker, ToWorker};
use fusewire_wire::bulk::ChunkHeader;
use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::CloseReason;
use fusewire_wire::ops::table::*;
use zerocopy::IntoBytes;

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("a_fault_is_reported_at_the_next_completion", a_fault_is_reported_at_the_next_completion),
    ("an_ordered_fault_reaches_every_waiter", an_ordered_fault_reaches_every_waiter),
    ("a_kernel_that_never_ends_holds_nobody_else_up", a_kernel_that_never_ends_holds_nobody_else_up),
    ("a_stream_that_is_watched_is_told_of_once", a_stream_that_is_watched_is_told_of_once),
    ("slow_data_does_not_hold_launches_up", slow_data_does_not_hold_launches_up),
    ("memory_that_runs_out_is_refused_and_comes_back", memory_that_runs_out_is_refused_and_comes_back),
    (
        "a_client_killed_in_the_middle_of_a_copy_leaves_nothing",
        a_client_killed_in_the_middle_of_a_copy_leaves_nothing,
    ),
    ("a_stop_is_told_to_the_client", a_stop_is_told_to_the_client),
    ("a_worker_whose_daemon_dies_ends", a_worker_whose_daemon_dies_ends),
    ("an_idle_session_uses_no_processor", an_idle_session_uses_no_processor),
];

/// `forever()` never ends; `wild(a)` stores through its argument.
pub const BAD: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry forever()
{
again:
    bra again;
}
.visible .entry wild(.param .u64 a)
{
    .reg .b64 %rd<2>;
    .reg .b32 %r<2>;
    ld.param.u64 %rd1, [a];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
";

fn a_fault_is_reported_at_the_next_completion() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (stream, other) = (client.stream(context), client.stream(context));
    let block = client.block(context, 4096);
    let module = client.module(context, BAD.as_bytes());
    let (wild, _) = client.function(module, "wild");
    client.launch(wild, stream, 1, &[block]);
    client.synchronize(stream).unwrap();
    client.launch(wild, stream, 1, &[16]);
    assert_eq!(client.synchronize(stream), Err(700));
    let sticky: Vec<_> = client.failed.iter().filter(|failed| failed.2).map(|failed| failed.1).collect();
    assert_eq!(sticky, [700]);
    // From here on, everything in that context gives the same error.
    assert_eq!(client.synchronize(other), Err(700));
    assert_eq!(client.ask(CtxSynchronize { context }).err(), Some(700));
    assert_eq!(client.copy_out(stream, block, 4).err(), Some(700));
    let address = client.address(client.granularity());
    let bytes = client.granularity();
    assert_eq!(client.ask(BlockMap { context, address, bytes }).err(), Some(700));
    if client.snapshot.devices.len() < 2 {
        return;
    }
    // The other device's context is another.
    let second = client.handle();
    client.ask(PrimaryRetain { context: second, device: 1, flags: 0 }).unwrap();
    let stream = client.stream(second);
    client.synchronize(stream).unwrap();
}

fn an_ordered_fault_reaches_every_waiter() {
    let setup = Setup { environment: vec![("SOFTGPU_FAULT", "add:assert")], ..Setup::default() };
    let mut client = Client::open(&setup);
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    let event = client.handle();
    client.send(EventCreate { event, context, flags: 2, reserved: 0 });
    client.launch(add, stream, 1, &[block, block]);
    let record = client.send(EventRecord { event, stream, flags: 0, silent: 0 });
    let out = client.send(CopyOut { stream, source: block, bytes: 1 << 20 });
    let small = client.send(CopyOut { stream, source: block, bytes: 16 });
    let fence = client.send(Fence { context, through: 0 });
    for number in [record, out, small, fence] {
        // Refused when it came, or failed when it was waited for.
        client.until("the fault", |client| {
            client.done.get(&number) == Some(&710)
                || client.failed.iter().any(|f| f.0 == number && f.1 == 710)
        });
    }
}

fn a_kernel_that_never_ends_holds_nobody_else_up() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (stuck, free) = (client.stream(context), client.stream(context));
    let block = client.block(context, 1 << 20);
    let module =
        client.module(context, [ADD.trim_end(), &BAD[BAD.find(".visible").unwrap()..]].concat().as_bytes());
    let (forever, _) = client.function(module, "forever");
    let (add, _) = client.function(module, "add");
    client.launch(forever, stuck, 1, &[]);
    let waiting = client.push(&StreamSynchronize { stream: stuck }, &[]);
    for round in 0..20 {
        client.copy_in(free, block, &vec![round; 300 << 10]);
        client.launch(add, free, 4, &[block, block]);
        client.synchronize(free).unwrap();
        assert_eq!(client.copy_out(free, block + 1000, 4).unwrap(), [round; 4]);
    }
    assert_eq!(client.ask(StreamQuery { stream: stuck, watch: 0, reserved: 0 }).err(), Some(600));
    assert!(!client.replies.contains_key(&waiting));
    // Leaving is possible all the same.
    assert!(matches!(client.close(), FromWorker::Ended { .. }));
}

/// When what was on it then is finished, whatever came after; and when a fault keeps it from that. Unasked, never.
fn a_stream_that_is_watched_is_told_of_once() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (held, free) = (client.stream(context), client.stream(context));
    let flag = client.block(context, 4096);
    let module = client.module(context, BAD.as_bytes());
    let (wild, _) = client.function(module, "wild");
    client.copy_in_inline(free, flag, &[0; 4]);
    client.synchronize(free).unwrap();
    let query = |client: &mut Client, watch| {
        let number = client.push(&StreamQuery { stream: held, watch, reserved: 0 }, &[]);
        (number, client.answer::<StreamQuery>(number).err())
    };
    let (idle, answer) = query(&mut client, 1);
    assert_eq!(answer, None);
    let hold = |client: &mut Client, value| {
        client.send(StreamWaitValue { stream: held, address: flag, value, flags: 0, bytes: 4 })
    };
    hold(&mut client, 1);
    let (unasked, answer) = query(&mut client, 0);
    assert_eq!(answer, Some(600));
    let (watched, answer) = query(&mut client, 1);
    assert_eq!(answer, Some(600));
    hold(&mut client, 2);
    client.launch(wild, held, 1, &[16]);
    let (faulty, answer) = query(&mut client, 1);
    assert_eq!(answer, Some(600));
    assert!(client.done.is_empty(), "{:?}", client.done);
    client.copy_in_inline(free, flag, &1u32.to_le_bytes());
    assert_eq!(client.point(watched), 0);
    assert_eq!(query(&mut client, 0).1, Some(600));
    client.copy_in_inline(free, flag, &2u32.to_le_bytes());
    assert_eq!(client.point(faulty), 700);
    assert_eq!(client.failed.iter().filter(|failed| failed.2).count(), 1, "the context's error goes ahead");
    assert!(![idle, unasked].iter().any(|number| client.done.contains_key(number)));
}

fn slow_data_does_not_hold_launches_up() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (slow, fast) = (client.stream(context), client.stream(context));
    let (a, b) = (client.block(context, 4 << 20), client.block(context, 4096));
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    // The first launch of a kernel may wait for the GPU, and the worker makes it wait for the data then.
    client.launch(add, fast, 4, &[b, b]);
    client.hold_chunks = true;
    let data = vec![3; 1 << 20];
    client.copy_in(slow, a, &data);
    for _ in 0..50 {
        client.launch(add, fast, 4, &[b, b]);
    }
    client.synchronize(fast).unwrap();
    assert_eq!(client.ask(StreamQuery { stream: slow, watch: 0, reserved: 0 }).err(), Some(600));
    client.hold_chunks = false;
    assert!(client.copy_out(slow, a, 1 << 20).unwrap() == data);
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}

fn memory_that_runs_out_is_refused_and_comes_back() {
    let setup = Setup { environment: vec![("SOFTGPU_MEMORY", "64M")], ..Setup::default() };
    let mut client = Client::open(&setup);
    let context = client.context();
    let stream = client.stream(context);
    let bytes = 32 << 20;
    let first = client.block(context, bytes);
    let address = client.address(2 * bytes);
    assert_eq!(client.ask(BlockMap { context, address, bytes: 2 * bytes }).err(), Some(2));
    // Memory that is on its way back is waited for: the stream still has to finish with it.
    client.hold_chunks = true;
    client.copy_in(stream, first, &vec![9; 200 << 10]);
    let unmapped = client.send(BlockUnmap { context, address: first, bytes });
    let mapped = client.push(&BlockMap { context, address, bytes: 48 << 20 }, &[]);
    client.linger(Duration::from_millis(50));
    assert!(!client.done.contains_key(&unmapped) && !client.replies.contains_key(&mapped));
    // Freed is freed: it may not be named any more.
    assert_eq!(client.copy_out(stream, first, 4).err(), Some(1));
    client.hold_chunks = false;
    assert_eq!(client.point(unmapped), 0);
    client.answer::<BlockMap>(mapped).unwrap();
    let info = client.ask(MemInfo { context }).unwrap();
    assert!(info.free <= 16 << 20 && info.total == 64 << 20, "{info:?}");
}

fn a_client_killed_in_the_middle_of_a_copy_leaves_nothing() {
    let mut client = Client::open(&Setup { lanes: 1, ..Setup::default() });
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    client.hold_chunks = true;
    client.copy_in(stream, block, &vec![1; 1 << 20]);
    client.linger(Duration::from_millis(10));
    client.lanes[0].write_all(ChunkHeader::host_to_device(0, 64 << 10).as_bytes()).unwrap();
    client.lanes[0].write_all(&[1; 1000]).unwrap();
    for socket in [&client.command, &client.lanes[0]] {
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    }
    match client.worker.hear() {
        FromWorker::Ended { reason, .. } => assert_eq!(reason, "the program ended"),
        other => panic!("{other:?}"),
    }
    let end = Instant::now() + Duration::from_secs(5);
    while client.worker.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the worker outlives its client");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_stop_is_told_to_the_client() {
    let mut client = Client::open(&Setup::default());
    client.worker.daemon.send(&ToWorker::Shutdown { reason: "maintenance at noon".into() }).unwrap();
    match client.end() {
        ProtocolError::Closed { reason: CloseReason::ShuttingDown, text } => {
            assert!(text.contains("maintenance at noon"), "{text}");
        }
        other => panic!("{other}"),
    }
    assert!(matches!(client.worker.hear(), FromWorker::Ended { .. }));
}

fn a_worker_whose_daemon_dies_ends() {
    let mut client = Client::open(&Setup::default());
    let (other, _) = fusewire_server::control::pair().unwrap();
    drop(std::mem::replace(&mut client.worker.daemon, other));
    match client.end() {
        ProtocolError::Closed { reason: CloseReason::ShuttingDown, .. } => {}
        other => panic!("{other}"),
    }
    assert!(client.worker.child.wait().unwrap().success());
}

fn an_idle_session_uses_no_processor() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    client.synchronize(stream).unwrap();
    let stat = format!("/proc/{}/stat", client.worker.child.id());
    let ticks = || -> u64 {
        let text = std::fs::read_to_string(&stat).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(100));
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks() - before;
    assert!(used <= 1, "{used} hundredths of a second of processor time in one idle second");
}
