//! Failures: those of kernels, and those that the environment orders.
//!
//! The environment is read once, so these tests share one process, and one setting.

#![allow(clippy::macro_metavars_in_unsafe, reason = "the tests call the driver through one macro")]

mod common;

use common::*;
use softgpu::abi::Out;
use softgpu::{context, copy, event, memops, memory, stream};
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn arranged() -> Ctx {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: no other thread of this process reads the environment yet.
        unsafe {
            std::env::set_var("SOFTGPU_FAULT", "twice:misaligned_address");
            std::env::set_var("SOFTGPU_SLOW", "cuCtxGetFlags:200");
            std::env::set_var("SOFTGPU_OOM_AFTER", "64M");
            std::env::set_var("SOFTGPU_MEMORY", "1G");
        }
    });
    Ctx::on(0)
}

#[test]
fn a_wild_store_is_seen_and_sticks() {
    let _ctx = arranged();
    let poke = function(load(PTX), "poke");
    let (handle, other) = (new_stream(0), new_stream(1));
    let (device, place) = (alloc(4), pinned(4));
    let mut event = 0;
    cu!(event::cuEventCreate(Out::new(&mut event), 0));
    assert_eq!(launch(poke, 1, 1, handle, &[device]), 0);
    assert_eq!(fetch::<u32>(device, 1), [7]);
    // Held back until all of it is queued.
    let gate = pinned(4);
    cu!(memops::cuStreamWaitValue32_v2(handle, gate, 1, 0));
    assert_eq!(launch(poke, 1, 1, handle, &[device + 4]), 0, "a launch does not know yet");
    cu!(memops::cuStreamWriteValue32_v2(handle, place, 1, 0));
    cu!(event::cuEventRecord(event, handle));
    word(gate).store(1, Ordering::Release);
    eventually(|| code!(stream::cuStreamQuery(handle)) == ILLEGAL_ADDRESS);
    // From now on everything says so, on every stream.
    assert_eq!(code!(stream::cuStreamQuery(other)), ILLEGAL_ADDRESS);
    assert_eq!(code!(stream::cuStreamSynchronize(handle)), ILLEGAL_ADDRESS);
    assert_eq!(code!(event::cuEventQuery(event)), ILLEGAL_ADDRESS);
    assert_eq!(code!(event::cuEventSynchronize(event)), ILLEGAL_ADDRESS);
    assert_eq!(code!(context::cuCtxSynchronize()), ILLEGAL_ADDRESS);
    let mut address = 0;
    assert_eq!(code!(memory::cuMemAlloc_v2(Out::new(&mut address), 4)), ILLEGAL_ADDRESS);
    assert_eq!(launch(poke, 1, 1, handle, &[device]), ILLEGAL_ADDRESS);
    assert_eq!(word(place).load(Ordering::Acquire), 0, "work behind the fault is dropped");
}

#[test]
fn a_fault_stays_in_its_context() {
    let _healthy = arranged();
    let device = alloc(4);
    {
        let _sick = Ctx::on(0);
        assert_eq!(launch(function(load(PTX), "poke"), 1, 1, 0, &[16]), 0);
        assert_eq!(code!(context::cuCtxSynchronize()), ILLEGAL_ADDRESS);
    }
    cu!(copy::cuMemsetD8_v2(device, 1, 4));
    cu!(context::cuCtxSynchronize());
}

#[test]
fn an_ordered_fault_hits_its_kernel_only() {
    let _ctx = arranged();
    let handle = load(PTX);
    let device = alloc(4);
    assert_eq!(launch(function(handle, "poke"), 1, 1, 0, &[device]), 0);
    cu!(context::cuCtxSynchronize());
    assert_eq!(launch(function(handle, "twice"), 1, 1, 0, &[device]), 0);
    assert_eq!(code!(context::cuCtxSynchronize()), 716);
}

#[test]
fn a_kernel_that_never_ends_ends_with_its_context() {
    let ctx = arranged();
    let handle = new_stream(1);
    assert_eq!(launch(function(load(PTX), "spin"), 1, 1, handle, &[]), 0);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(code!(stream::cuStreamQuery(handle)), NOT_READY);
    let started = Instant::now();
    drop(ctx);
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[test]
fn an_ordered_call_is_slow() {
    let _ctx = arranged();
    let started = Instant::now();
    let mut flags = 0;
    cu!(context::cuCtxGetFlags(Out::new(&mut flags)));
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[test]
fn memory_runs_out_when_it_was_ordered_to() {
    let _ctx = arranged();
    let mut address = 0;
    assert_eq!(code!(memory::cuMemAlloc_v2(Out::new(&mut address), 65 << 20)), OUT_OF_MEMORY);
    let (mut free, mut total) = (0, 0);
    cu!(memory::cuMemGetInfo_v2(Out::new(&mut free), Out::new(&mut total)));
    assert_eq!(total, 1 << 30);
    assert!(free > 900 << 20, "what was refused is not counted");
}
