//! Events: made, recorded, timed. That one has been reached is learned by a ticket behind its record
//! ([`super::streams`]).

use fusewire_wire::ops::table::{EventCreate, EventElapsed, EventRecord};
use fusewire_wire::ops::{Call, Status};

use super::gpu::{Event, Gpu};
use super::streams::Then;
use crate::driver::{INVALID_VALUE, NOT_SUPPORTED};

/// Flags of cuEventCreate that are carried: blocking waits, no timing.
const EVENT_FLAGS: u32 = 1 | 2;
/// Flag of cuEventCreate that cannot be carried.
const EVENT_INTERPROCESS: u32 = 4;

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
        // SAFETY: both are live.
        let status = unsafe {
            match record.flags {
                0 => self.d.cuEventRecord(event, raw),
                flags => self.d.cuEventRecordWithFlags(event, raw, flags),
            }
        };
        self.ok(status)?;
        if capturing { Ok(()) } else { self.after(id, Then::Done { number: call.number }) }
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
