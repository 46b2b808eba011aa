//! Events: recorded without waiting; the server says when one is reached, so that a query asks nobody. Of events that
//! only put streams in order it says nothing, until the program asks for one.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use fusewire_wire::ops::AsyncRecord;
use fusewire_wire::ops::table::{EventCreate, EventDestroy, EventElapsed, EventRecord};

use crate::abi::result::{
    CUDA_ERROR_CAPTURED_EVENT, CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_READY,
};
use crate::abi::types::{CUevent, CUresult, CUstream};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::{DISABLE_TIMING, Elapsed, Event, Stream, waits_are_forgotten};
use crate::runtime::pending::Pending;
use crate::runtime::session::{is_news, lock};
use crate::runtime::stats::{self, counter};
use crate::runtime::{self, Runtime, current};

use super::arguments::{give, need};

const FLAGS: u32 = 7;
const INTERPROCESS: u32 = 4;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut CUevent, flags: u32) -> CUresult {
    runtime::call(counter!("cuEventCreate"), |runtime| {
        need(event)?;
        if flags & !FLAGS != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            return Err(crate::abi::result::CUDA_ERROR_NOT_SUPPORTED);
        }
        let context = current::sound_context()?;
        let handle = handles::mint()?;
        let record = EventCreate { event: handle, context: context.handle, flags, reserved: 0 };
        runtime.session.post(&record, &[])?;
        handles::fill(handle, Object::Event(Arc::new(Event::new(handle, context, flags))));
        // SAFETY: the program's pointer, for one value.
        unsafe { give(event, handles::pointer(handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    runtime::call(counter!("cuEventDestroy_v2"), |runtime| {
        let found = handles::event(event)?;
        handles::end(found.handle);
        runtime.session.post(&EventDestroy { event: found.handle }, &[]).map(drop)
    })
}

fn record(runtime: &Runtime, event: CUevent, stream: CUstream, flags: u32) -> Result<(), CUresult> {
    if flags & !1 != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let event = handles::event(event)?;
    let stream = current::stream(runtime, stream)?;
    if event.context.handle != stream.context.handle {
        return Err(CUDA_ERROR_INVALID_HANDLE);
    }
    stream.context.check()?;
    record_on(runtime, &event, &stream, flags)
}

/// Records an event of the stream's context.
pub(crate) fn record_on(
    runtime: &Runtime,
    event: &Arc<Event>,
    stream: &Arc<Stream>,
    flags: u32,
) -> Result<(), CUresult> {
    // What kernels did to mirrored memory is brought back with the server's word that an event is reached.
    let silent = event.may_be_silent() && !runtime.session.owed.any() && stream.capture.load(Relaxed) == 0;
    if note(event, stream) {
        let op = EventRecord { event: event.handle, stream: stream.handle, flags, silent: 0 };
        return runtime.session.post_on(stream, &op, &[]).map(drop);
    }
    runtime.session.post_event(event, stream, flags, silent)
}

/// The event's last record is this one, on this stream. Gives whether it is part of a capture.
pub(crate) fn note(event: &Event, stream: &Arc<Stream>) -> bool {
    let capture = stream.capture.load(Relaxed);
    let mut state = lock(&event.state);
    state.capture = capture;
    drop(state);
    // Else the record says which stream it is on, with its number.
    if capture != 0 {
        event.recorded.fetch_max(1, Relaxed);
    }
    capture != 0
}

/// Publishes an operation that records an event, and of which the server says when the stream has got there.
pub(crate) fn post_record<R: AsyncRecord>(
    runtime: &Runtime,
    event: &Arc<Event>,
    stream: &Arc<Stream>,
    op: &R,
    tail: &[&[u8]],
) -> Result<(), CUresult> {
    if note(event, stream) {
        return runtime.session.post_on(stream, op, tail).map(drop);
    }
    let pending = event.clone();
    let on = stream.clone();
    runtime.session.post_pending(Some(stream), op, tail, move |number| {
        pending.is_recorded(number, &on, false);
        Pending::Event(pending, on)
    })?;
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuEventRecord"), |runtime| record(runtime, event, stream, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: u32) -> CUresult {
    runtime::call(counter!("cuEventRecordWithFlags"), |runtime| record(runtime, event, stream, flags))
}

/// A captured event is reached at replays alone. Asking for it spoils its capture.
fn refuse_captured(runtime: &Runtime, event: &Event) -> Result<(), CUresult> {
    if runtime.captures.any() {
        let capture = lock(&event.state).capture;
        if capture != 0 {
            runtime.captures.invalidate(capture);
            return Err(CUDA_ERROR_CAPTURED_EVENT);
        }
    }
    Ok(())
}

/// The program wants to know of an event. If the server has not been told to say it, it is asked; then it will.
///
/// # Errors
/// What the driver says of the event, if that is neither that it is reached nor that it is not.
fn ask(runtime: &Runtime, event: &Arc<Event>) -> Result<(), CUresult> {
    if event.is_asked_for_and_reached() {
        return Ok(());
    }
    if !event.was_asked()
        && let Err(code) = runtime.session.ask_for(event)
        && code != CUDA_ERROR_NOT_READY
    {
        return Err(code);
    }
    if !event.is_reached() {
        // The program may know it from its stream.
        event.catch_up();
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: CUevent) -> CUresult {
    runtime::call(counter!("cuEventQuery"), |runtime| {
        // Nearly always there is nothing to ask for, and nothing to keep.
        let known = |event: &Event| event.is_asked_for_and_reached().then(|| event.outcome());
        if !runtime.captures.any()
            && !waits_are_forgotten()
            && let Some(outcome) = handles::look_at_event(event, known)?
        {
            return outcome;
        }
        let event = handles::event(event)?;
        refuse_captured(runtime, &event)?;
        if !event.is_asked_for_and_reached() {
            ask(runtime, &event)?;
            if !event.is_reached() {
                runtime.session.ask_again(&event)?;
            }
            if !event.is_reached() {
                return Err(unreached(runtime, &event));
            }
        }
        tell(runtime, &event);
        event.outcome()
    })
}

/// The program is about to be told that an event is reached, and so that what it comes behind is. That the server has told
/// of, or it is known here, unless it has been forgotten.
fn tell(runtime: &Runtime, event: &Event) {
    let recorded = event.recorded.load(Relaxed);
    if waits_are_forgotten() && is_news(&event.told, recorded) {
        runtime.session.tells_of_all(recorded);
    }
}

/// Why an event is not reached.
#[cold]
fn unreached(runtime: &Runtime, event: &Event) -> CUresult {
    match runtime.session.check() {
        Err(code) => code,
        // Its capture is over, and nothing tells us of replays.
        Ok(()) if lock(&event.state).capture != 0 => CUDA_ERROR_CAPTURED_EVENT,
        Ok(()) => CUDA_ERROR_NOT_READY,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    runtime::call(counter!("cuEventSynchronize"), |runtime| {
        let event = handles::event(event)?;
        refuse_captured(runtime, &event)?;
        ask(runtime, &event)?;
        if event.is_reached() {
            tell(runtime, &event);
            return event.outcome();
        }
        let since = Instant::now();
        if lock(&event.state).capture == 0 {
            runtime.session.hurry();
            runtime.session.spin_until(|| event.is_reached());
        }
        let mut state = lock(&event.state);
        while !event.is_reached() {
            runtime.session.check()?;
            if state.capture != 0 {
                return Err(CUDA_ERROR_CAPTURED_EVENT);
            }
            state.asleep += 1;
            state = event.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
        drop(state);
        stats::waited(since, 0);
        tell(runtime, &event);
        event.outcome()?;
        event.context.report()
    })
}

/// A graph has been launched: a node of it may record an event, of which nothing is known here.
static REPLAYED: AtomicBool = AtomicBool::new(false);

/// A graph is being launched: times between events are not kept any more.
pub(crate) fn replayed() {
    REPLAYED.store(true, Relaxed);
}

/// A time is asked for once, and holds until one of the events is recorded again.
fn elapsed(runtime: &Runtime, milliseconds: *mut f32, start: CUevent, end: CUevent) -> Result<(), CUresult> {
    need(milliseconds)?;
    let (start, end) = (handles::event(start)?, handles::event(end)?);
    for event in [&start, &end] {
        if event.flags & DISABLE_TIMING != 0 || event.recorded.load(Relaxed) == 0 {
            return Err(CUDA_ERROR_INVALID_HANDLE);
        }
        if !event.is_reached() {
            // The program may know it from its stream.
            event.catch_up();
        }
        if !event.is_reached() {
            runtime.session.ask_again(event)?;
        }
        if !event.is_reached() {
            return Err(CUDA_ERROR_NOT_READY);
        }
    }
    let records = (start.recorded.load(Relaxed), end.recorded.load(Relaxed));
    let known =
        lock(&end.state).elapsed.filter(|known| known.start == start.handle && known.records == records);
    let found = match known.filter(|_| !REPLAYED.load(Relaxed)) {
        Some(known) => {
            // What the server would say first.
            runtime.session.check()?;
            end.context.check()?;
            known.milliseconds
        }
        None => {
            let op = EventElapsed { start: start.handle, end: end.handle };
            let found = runtime.session.call(&op, &[])?.0.milliseconds;
            lock(&end.state).elapsed = Some(Elapsed { start: start.handle, records, milliseconds: found });
            found
        }
    };
    // SAFETY: the program's pointer, for one value.
    unsafe { give(milliseconds, found) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    runtime::call(counter!("cuEventElapsedTime"), |runtime| elapsed(runtime, milliseconds, start, end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    runtime::call(counter!("cuEventElapsedTime_v2"), |runtime| elapsed(runtime, milliseconds, start, end))
}

crate::abi::variants!("event.rs");
