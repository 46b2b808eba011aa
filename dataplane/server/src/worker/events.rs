//! Events: made, recorded, timed. That one has been reached is learned by a ticket behind its record
//! ([`super::streams`]). A silent record has none: tickets cost the GPU something, and programs order streams by
//! events for which they never ask. Should one ask all the same, the driver is asked, until the event is reached.

use cudarc::driver::sys::CUevent;
use fusewire_wire::ops::table::{EventCreate, EventElapsed, EventQuery, EventRecord};
use fusewire_wire::ops::{Call, Nothing, Status};

use super::gpu::{Event, Gpu};
use super::streams::Then;
use crate::driver::{CAPTURED_EVENT, INVALID_HANDLE, INVALID_VALUE, NOT_READY, NOT_SUPPORTED};

/// Flags of cuEventCreate that are carried: blocking waits, no timing.
const EVENT_FLAGS: u32 = 1 | 2;
/// Flag of cuEventCreate that cannot be carried.
const EVENT_INTERPROCESS: u32 = 4;
/// Events that may be watched at once: more than a program has threads that ask.
const MOST_WATCHED: usize = 1 << 16;

/// An event that was not reached when the client asked.
#[derive(Debug)]
pub(super) struct Watched {
    handle: u64,
    raw: CUevent,
    pub(super) context: u64,
    /// The question.
    number: u64,
}

impl Gpu {
    pub(super) fn event_create(&mut self, record: &EventCreate) -> Result<(), Status> {
        self.mint("event", record.event, self.events.has(record.event))?;
        if record.flags & EVENT_INTERPROCESS != 0 {
            return Err(NOT_SUPPORTED);
        }
        if record.flags & !EVENT_FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        self.enter(record.context)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the result is a live pointer.
        let status = unsafe { self.d.cuEventCreate(&raw mut raw, record.flags) };
        self.ok(status)?;
        self.events.put(record.event, Event { raw, context: record.context });
        Ok(())
    }

    pub(super) fn event_destroy(&mut self, handle: u64) -> Result<(), Status> {
        let event = self.events.take(handle)?;
        // Nobody can ask for it any more; who did is let go.
        self.give_watches_up(|watched| watched.handle == handle, INVALID_HANDLE);
        self.enter(event.context)?;
        // SAFETY: ours; the driver keeps it for as long as streams need it.
        let status = unsafe { self.d.cuEventDestroy_v2(event.raw) };
        self.ok(status)
    }

    pub(super) fn event_record(&mut self, call: Call, record: &EventRecord) -> Result<(), Status> {
        let event = self.events.get(record.event)?.raw;
        // Flag 1, external, matters in captures only.
        if record.flags & !1 != 0 {
            return Err(INVALID_VALUE);
        }
        let (id, raw) = self.stream_for_work(record.stream)?;
        let capturing = self.is_capturing(id);
        if capturing {
            // To ask the driver for it would spoil the capture.
            self.give_watches_up(|watched| watched.handle == record.event, CAPTURED_EVENT);
        }
        // SAFETY: both are live.
        let status = unsafe {
            match record.flags {
                0 => self.d.cuEventRecord(event, raw),
                flags => self.d.cuEventRecordWithFlags(event, raw, flags),
            }
        };
        self.ok(status)?;
        if capturing || record.silent != 0 {
            Ok(())
        } else {
            self.after(id, Then::Done { number: call.number })
        }
    }

    pub(super) fn event_query(&mut self, call: Call, record: &EventQuery) -> Result<Nothing, Status> {
        let handle = record.event;
        let (raw, context) = self.events.get(handle).map(|event| (event.raw, event.context))?;
        self.enter(context)?;
        // SAFETY: a live event. A query does not wait.
        let status = unsafe { self.d.cuEventQuery(raw) };
        if status == NOT_READY && record.watch != 0 {
            if self.watched.len() >= MOST_WATCHED {
                self.misbehave(format!("it asked for {MOST_WATCHED} events at once"));
            }
            self.awaited += 1;
            self.watched.push(Watched { handle, raw, context, number: call.number });
        }
        self.ok(status)?;
        // What its stream has brought goes first.
        self.poll();
        self.flush_printed(handle, raw);
        Ok(Nothing {})
    }

    /// Takes out the watched events that are reached, with what the driver says of them.
    pub(super) fn reached(&mut self) -> Vec<(Watched, Status)> {
        let mut reached = Vec::new();
        if self.watched.is_empty() {
            return reached;
        }
        let concerned = self.concerned;
        let mut at = 0;
        while let Some(&Watched { raw, context, .. }) = self.watched.get(at) {
            let status = match self.enter(context) {
                // SAFETY: a live event: who destroys it ends its being watched.
                Ok(_) => unsafe { self.d.cuEventQuery(raw) },
                Err(status) => status,
            };
            if status == NOT_READY {
                at += 1;
                continue;
            }
            self.awaited = self.awaited.saturating_sub(1);
            reached.push((self.watched.swap_remove(at), status));
        }
        self.concerned = concerned;
        reached
    }

    /// Tells the client of events that are reached.
    pub(super) fn tell(&mut self, reached: Vec<(Watched, Status)>) {
        let concerned = self.concerned;
        for (Watched { handle, raw, context, number }, status) in reached {
            if status == 0 {
                self.flush_printed(handle, raw);
            } else if self.enter(context).is_ok() {
                // A fault, which concerns the whole context.
                let _ = self.ok(status);
            }
            self.out.done(number, status);
        }
        self.concerned = concerned;
    }

    /// Nobody will hear of these events from the driver any more.
    pub(super) fn give_watches_up(&mut self, which: impl Fn(&Watched) -> bool, status: Status) {
        for watched in self.watched.extract_if(.., |watched| which(watched)) {
            self.awaited = self.awaited.saturating_sub(1);
            self.out.done(watched.number, status);
        }
    }

    /// What was printed before an event that is reached goes out.
    fn flush_printed(&mut self, handle: u64, reached: CUevent) {
        // What went before in this look may have taken its context down, and the event with it.
        let is_there = self.events.get(handle).is_ok_and(|event| event.raw == reached);
        if self.prints && is_there {
            // SAFETY: a live event that is reached: this does not wait, it flushes.
            unsafe { self.d.cuEventSynchronize(reached) };
            self.forward_output();
        }
    }

    pub(super) fn event_elapsed(&mut self, record: &EventElapsed) -> Result<f32, Status> {
        let (start, context) = self.events.get(record.start).map(|event| (event.raw, event.context))?;
        let end = self.events.get(record.end)?.raw;
        self.enter(context)?;
        let mut milliseconds = 0f32;
        // SAFETY: both events are live, the result is a live pointer.
        let status = unsafe {
            match self.d.cuEventElapsedTime_v2(&raw mut milliseconds, start, end) {
                NOT_SUPPORTED => self.d.cuEventElapsedTime(&raw mut milliseconds, start, end),
                status => status,
            }
        };
        self.ok(status)?;
        Ok(milliseconds)
    }
}
