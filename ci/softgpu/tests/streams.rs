//! Streams, events and stream memory operations: what runs when.

#![allow(clippy::macro_metavars_in_unsafe, reason = "the tests call the driver through one macro")]

mod common;

use common::*;
use softgpu::abi::Out;
use softgpu::{context, copy, event, memops, stream};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const NON_BLOCKING: u32 = 1;
const PER_THREAD: u64 = 2;

fn new_event() -> u64 {
    let mut handle = 0;
    cu!(event::cuEventCreate(Out::new(&mut handle), 0));
    handle
}

/// A stream that stands still until the word is set.
fn hold(stream: u64, gate: u64) {
    cu!(memops::cuStreamWaitValue32_v2(stream, gate, 1, 0));
}

fn open(gate: u64) {
    word(gate).store(1, Ordering::Release);
}

fn mark(stream: u64, place: u64, value: u32) {
    cu!(memops::cuStreamWriteValue32_v2(stream, place, value, 0));
}

fn is_idle(stream: u64) -> bool {
    match code!(stream::cuStreamQuery(stream)) {
        0 => true,
        NOT_READY => false,
        other => {
            assert_eq!(other, 0, "a query failed");
            false
        }
    }
}

/// Long enough for something wrong to happen.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn a_stream_waits_while_its_caller_goes_on() {
    let _ctx = Ctx::on(0);
    let (held, free) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING));
    let (gate, place) = (pinned(4), pinned(8));
    hold(held, gate);
    mark(held, place, 5);
    mark(free, place + 4, 6);
    cu!(stream::cuStreamSynchronize(free));
    a_moment();
    assert!(!is_idle(held));
    assert_eq!((word(place).load(Ordering::Acquire), word(place + 4).load(Ordering::Acquire)), (0, 6));
    open(gate);
    cu!(stream::cuStreamSynchronize(held));
    assert_eq!(word(place).load(Ordering::Acquire), 5);
    assert!(is_idle(held));
}

#[test]
fn the_conditions_of_waiting() {
    let _ctx = Ctx::on(0);
    // (value in memory, value asked for, flags, whether it passes)
    let cases = [
        (5u32, 5, 0, true),
        (4, 5, 0, false),
        (0, u32::MAX, 0, true),
        (u32::MAX, 0, 0, false),
        (5, 5, 1, true),
        (6, 5, 1, false),
        (6, 2, 2, true),
        (4, 2, 2, false),
        (0, u32::MAX - 1, 3, true),
        (1, u32::MAX - 1, 3, false),
    ];
    for (seen, asked, flags, passes) in cases {
        let (handle, place) = (new_stream(NON_BLOCKING), pinned(4));
        word(place).store(seen, Ordering::Release);
        cu!(memops::cuStreamWaitValue32_v2(handle, place, asked, flags));
        if passes {
            cu!(stream::cuStreamSynchronize(handle));
        } else {
            std::thread::sleep(Duration::from_millis(10));
            assert!(!is_idle(handle), "{seen} {asked} {flags}");
        }
    }
    let handle = new_stream(0);
    assert_eq!(code!(memops::cuStreamWaitValue32_v2(handle, 0x1000, 0, 0)), INVALID_VALUE);
    assert_eq!(code!(memops::cuStreamWriteValue64_v2(handle, pinned(16) + 4, 0, 0)), INVALID_VALUE);
}

#[test]
fn legacy_work_waits_for_blocking_streams_and_they_for_it() {
    let _ctx = Ctx::on(0);
    let (blocking, free) = (new_stream(0), new_stream(NON_BLOCKING));
    let (gate, place) = (pinned(4), pinned(16));
    hold(blocking, gate);
    mark(0, place, 1);
    mark(PER_THREAD, place + 4, 1);
    mark(free, place + 8, 1);
    cu!(stream::cuStreamSynchronize(free));
    a_moment();
    assert_eq!(word(place).load(Ordering::Acquire), 0, "the legacy stream did not wait");
    assert_eq!(word(place + 4).load(Ordering::Acquire), 0, "the thread's stream did not wait for it");
    assert!(!is_idle(0));
    open(gate);
    cu!(stream::cuStreamSynchronize(PER_THREAD));
    assert_eq!((word(place).load(Ordering::Acquire), word(place + 4).load(Ordering::Acquire)), (1, 1));
    cu!(stream::cuStreamSynchronize(0));
}

#[test]
fn per_thread_streams_are_different_streams() {
    let ctx = Ctx::on(0);
    let handle = ctx.0;
    let gate = pinned(4);
    hold(PER_THREAD, gate);
    std::thread::spawn(move || {
        cu!(context::cuCtxSetCurrent(handle));
        assert!(is_idle(PER_THREAD));
    })
    .join()
    .unwrap();
    assert!(!is_idle(PER_THREAD));
    open(gate);
    cu!(stream::cuStreamSynchronize(PER_THREAD));
}

#[test]
fn an_event_is_the_point_it_was_recorded_at() {
    let _ctx = Ctx::on(0);
    let (first, second) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING));
    let (gate, later, place) = (pinned(4), pinned(4), pinned(8));
    let (before, event) = (new_event(), new_event());
    cu!(event::cuEventQuery(event));
    cu!(event::cuEventRecord(before, first));
    hold(first, gate);
    cu!(event::cuEventRecord(event, first));
    // What comes after the recording is not part of it.
    hold(first, later);
    cu!(stream::cuStreamWaitEvent(second, event, 0));
    mark(second, place, 1);
    a_moment();
    assert_eq!(code!(event::cuEventQuery(event)), NOT_READY);
    let mut milliseconds = 0.0f32;
    assert_eq!(code!(event::cuEventElapsedTime_v2(Out::new(&mut milliseconds), before, event)), NOT_READY);
    assert_eq!(word(place).load(Ordering::Acquire), 0);
    open(gate);
    cu!(event::cuEventSynchronize(event));
    cu!(stream::cuStreamSynchronize(second));
    assert_eq!(word(place).load(Ordering::Acquire), 1);
    cu!(event::cuEventElapsedTime_v2(Out::new(&mut milliseconds), before, event));
    assert!((45.0..20_000.0).contains(&milliseconds), "{milliseconds} ms");
    assert!(!is_idle(first));
    open(later);
    cu!(event::cuEventDestroy_v2(event));
    assert_eq!(code!(event::cuEventQuery(event)), INVALID_HANDLE);
}

#[test]
fn a_context_event_covers_all_streams() {
    let ctx = Ctx::on(0);
    let (gate, event) = (pinned(4), new_event());
    hold(new_stream(NON_BLOCKING), gate);
    cu!(context::cuCtxRecordEvent(ctx.0, event));
    a_moment();
    assert_eq!(code!(event::cuEventQuery(event)), NOT_READY);
    open(gate);
    cu!(event::cuEventSynchronize(event));
}

unsafe extern "C" fn count_up(data: *mut c_void) {
    std::thread::sleep(Duration::from_millis(20));
    // SAFETY: the test passes a counter that lives as long as the process.
    unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::AcqRel);
}

#[test]
fn host_functions_run_in_their_place() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let _ctx = Ctx::on(0);
    let handle = new_stream(0);
    let (gate, data) = (pinned(4), (&raw const COUNT).cast_mut().cast());
    hold(handle, gate);
    cu!(stream::cuLaunchHostFunc(handle, Some(count_up), data));
    a_moment();
    assert_eq!(COUNT.load(Ordering::Acquire), 0);
    open(gate);
    cu!(stream::cuStreamSynchronize(handle));
    assert_eq!(COUNT.load(Ordering::Acquire), 1);
}

#[test]
fn pageable_memory_is_read_at_once_and_pinned_memory_when_its_turn_comes() {
    let _ctx = Ctx::on(0);
    let handle = new_stream(NON_BLOCKING);
    let (gate, device) = (pinned(4), alloc(8));
    let (mut pageable, pinned_word) = ([1u32], pinned(4));
    word(pinned_word).store(1, Ordering::Release);
    hold(handle, gate);
    cu!(copy::cuMemcpyHtoDAsync_v2(device, pageable.as_ptr() as u64, 4, handle));
    cu!(copy::cuMemcpyHtoDAsync_v2(device + 4, pinned_word, 4, handle));
    pageable[0] = 2;
    word(pinned_word).store(2, Ordering::Release);
    open(gate);
    cu!(copy::cuMemcpyDtoHAsync_v2(pageable.as_mut_ptr() as u64, device, 4, handle));
    assert_eq!(pageable[0], 1, "a pageable destination is filled on return");
    cu!(stream::cuStreamSynchronize(handle));
    assert_eq!(fetch::<u32>(device, 2), [1, 2]);
}

#[test]
fn a_destroyed_stream_finishes_its_work() {
    let _ctx = Ctx::on(0);
    let handle = new_stream(0);
    let (gate, place) = (pinned(4), pinned(4));
    hold(handle, gate);
    mark(handle, place, 3);
    cu!(stream::cuStreamDestroy_v2(handle));
    assert_eq!(code!(stream::cuStreamQuery(handle)), INVALID_HANDLE);
    open(gate);
    cu!(context::cuCtxSynchronize());
    assert_eq!(word(place).load(Ordering::Acquire), 3);
}

#[test]
fn destroying_a_context_ends_what_would_wait_for_ever() {
    let ctx = Ctx::on(0);
    hold(new_stream(0), pinned(4));
    let started = std::time::Instant::now();
    drop(ctx);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn many_threads_and_streams_at_once() {
    let ctx = Ctx::on(1);
    let handle = ctx.0;
    let place = pinned(4 * 8);
    let threads: Vec<_> = (0..8u64)
        .map(|index| {
            std::thread::spawn(move || {
                cu!(context::cuCtxSetCurrent(handle));
                let counter = place + 4 * index;
                let streams = [new_stream(0), new_stream(NON_BLOCKING), 0, PER_THREAD];
                let event = new_event();
                for round in 1..=100u32 {
                    // Each round follows the one before through the event, on another stream.
                    let stream = streams[round as usize % 4];
                    cu!(stream::cuStreamWaitEvent(stream, event, 0));
                    cu!(memops::cuStreamWaitValue32_v2(stream, counter, round - 1, 1));
                    mark(stream, counter, round);
                    cu!(event::cuEventRecord(event, stream));
                }
                cu!(event::cuEventSynchronize(event));
                for stream in &streams[..2] {
                    cu!(stream::cuStreamDestroy_v2(*stream));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    cu!(context::cuCtxSynchronize());
    assert!((0..8).all(|index| word(place + 4 * index).load(Ordering::Acquire) == 100));
}
