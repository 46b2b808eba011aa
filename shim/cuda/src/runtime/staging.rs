//! Pageable copies where pinned memory is shared: through slots of it, copied once by this process's processor.
//!
//! Towards the device the caller fills a slot, publishes the copy out of it, and goes on with the next; a slot
//! comes back when the stream has passed it. From the device the caller empties slots as they arrive. The server does
//! nothing that it would not do for the program's own pinned memory. Bounded: a caller that gets no slot sends the
//! rest over the lanes for bulk data.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fusewire_wire::ops::table::{CopyOut, CopyWithin};

use crate::abi::types::CUresult;

use super::Runtime;
use super::marks;
use super::objects::Stream;
use super::pending::{Pending, Reclaim};
use super::session::lock;
use super::shared;
use super::waiter::Waiter;

/// Large enough that the GPU's engine is at its speed, small enough to stay in a processor's cache on its way.
const SLOT: usize = 256 << 10;
const SLOTS: usize = 128;
/// The longest copy that is worth it: one processor copies here, and the lanes have one each.
const MOST: usize = 1 << 20;
/// The shortest one from the device that comes with the server's answer: of less, the answer brings the data.
const LEAST_ANSWERED: usize = 16 << 10;
/// What the caller takes out of a slot at a time, while the next comes from the device.
const PIECE: usize = SLOT / 2;
/// Pieces of one copy from the device. All are under way at the same time, if there are as many slots.
const PIECES: usize = MOST.div_ceil(PIECE);
/// How long a caller waits for a slot. All of them may belong to streams that wait for what this caller does next;
/// the lanes have room of their own.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(crate) struct Staging {
    /// Where the slots begin; `None`: the server would not have them.
    base: OnceLock<Option<u64>>,
    free: Mutex<Free>,
    given: Condvar,
}

#[derive(Default)]
struct Free {
    /// Addresses of slots that nobody uses. The one that came last is taken first: it may still be in the cache.
    slots: Vec<u64>,
    /// Callers that wait for one.
    waiting: usize,
}

impl Staging {
    /// Whether there are slots. The first caller makes them.
    fn is_there(&self, runtime: &Runtime) -> bool {
        let make = || {
            let base = shared::staging_pages(runtime, (SLOT * SLOTS) as u64)?;
            lock(&self.free).slots.extend((0..SLOTS).map(|slot| base + (slot * SLOT) as u64));
            Some(base)
        };
        self.base.get_or_init(make).is_some()
    }

    fn try_take(&self) -> Option<u64> {
        lock(&self.free).slots.pop()
    }

    /// A slot, waited for a little.
    fn take(&self, runtime: &Runtime) -> Option<u64> {
        let until = Instant::now() + PATIENCE;
        let mut free = lock(&self.free);
        loop {
            if let Some(slot) = free.slots.pop() {
                return Some(slot);
            }
            let left = until.checked_duration_since(Instant::now())?;
            // What gives slots back may not have left yet.
            runtime.session.hurry();
            runtime.session.wake();
            free.waiting += 1;
            free = self.given.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0;
            free.waiting -= 1;
        }
    }

    /// A slot is free again. For any thread; never waits.
    pub(crate) fn give(&self, slot: u64) {
        let mut free = lock(&self.free);
        free.slots.push(slot);
        let waiting = free.waiting;
        drop(free);
        // A system call even with nobody to wake.
        if waiting != 0 {
            self.given.notify_one();
        }
    }
}

/// The slots, where the link has them.
fn slots(runtime: &Runtime) -> Option<&Staging> {
    shared::staging(runtime).filter(|staging| staging.is_there(runtime))
}

/// Copies to the device from memory that is read before this returns. Gives how many bytes, from the first, were
/// copied so, and the number of the last operation of that. `patient`: a slot may be waited for.
///
/// # Errors
/// When the session is over.
///
/// # Safety
/// `from` must be good for `bytes` bytes.
pub(crate) unsafe fn copy_in(
    runtime: &Runtime,
    stream: &Stream,
    to: u64,
    from: u64,
    bytes: usize,
    patient: bool,
) -> Result<(usize, u64), CUresult> {
    let Some(staging) = slots(runtime).filter(|_| bytes <= MOST) else { return Ok((0, 0)) };
    let mut last = 0;
    let source = std::ptr::with_exposed_provenance::<u8>(from as usize);
    for offset in (0..bytes).step_by(SLOT) {
        let length = SLOT.min(bytes - offset);
        let slot = if patient { staging.take(runtime) } else { staging.try_take() };
        let Some(slot) = slot else { return Ok((offset, last)) };
        let target = std::ptr::with_exposed_provenance_mut::<u8>(slot as usize);
        // SAFETY: the caller's promise for the source; the slot is ours and at least that long.
        unsafe { std::ptr::copy_nonoverlapping(source.add(offset), target, length) };
        let record = CopyWithin {
            stream: stream.handle,
            destination: to + offset as u64,
            source: slot,
            bytes: length as u64,
        };
        let session = &runtime.session;
        session.post_quiet_on(stream, &record, &[], None)?;
        // A part of the copy: by this the server knows its end.
        let given = Pending::Reclaim(Reclaim::Slot(slot));
        last = session.post_quiet_on(stream, &passed(stream, slot), &[], Some(given))?;
    }
    Ok((bytes, last))
}

/// Copies from the device; the data are there when this returns. Gives how many bytes, from the first, were copied
/// so.
///
/// # Errors
/// The stream's or session's.
///
/// # Safety
/// `to` must be good for `bytes` bytes.
pub(crate) unsafe fn copy_out(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    to: u64,
    from: u64,
    bytes: usize,
) -> Result<usize, CUresult> {
    // Before anything is told of what it is owed for.
    runtime.session.bring_back()?;
    let fits = (1..=MOST).contains(&bytes) && (bytes >= LEAST_ANSWERED || marks::are_there(runtime));
    let Some(staging) = slots(runtime).filter(|_| fits) else { return Ok(0) };
    let target = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
    let mut coming: [Option<(u64, Arrival)>; PIECES] = [const { None }; PIECES];
    let mut result = Ok(());
    let (mut next, mut last) = (0, 0);
    for piece in 0..bytes.div_ceil(PIECE) {
        while next < bytes && result.is_ok() {
            // Who has one slot does not wait for another: somebody else may be doing the same.
            let slot = if next == piece * PIECE { staging.take(runtime) } else { staging.try_take() };
            let Some(slot) = slot else { break };
            let length = PIECE.min(bytes - next);
            let record = CopyWithin {
                stream: stream.handle,
                destination: slot,
                source: from + next as u64,
                bytes: length as u64,
            };
            runtime.session.post_on(stream, &record, &[])?;
            coming[next / PIECE] = Some((slot, Arrival::of(runtime, stream, slot)?));
            next += length;
        }
        let Some((slot, arrival)) = coming[piece].take() else { break };
        let offset = piece * PIECE;
        let length = PIECE.min(bytes - offset);
        let arrived = arrival.wait(runtime, stream, slot, length, last).map(|number| last = last.max(number));
        if arrived.is_ok() && result.is_ok() {
            let source = std::ptr::with_exposed_provenance::<u8>(slot as usize);
            // SAFETY: the caller's promise for the target; the slot is ours, and its copy is finished.
            unsafe { std::ptr::copy_nonoverlapping(source, target.add(offset), length) };
        }
        result = result.and(arrived);
        staging.give(slot);
    }
    result?;
    if next == bytes {
        runtime.session.tells(stream, last);
        runtime.session.finished(stream, last);
    }
    // A copy that the server refused was said so before its slot was passed.
    stream.context.report().map(|()| next)
}

/// How the caller learns that a slot is filled.
enum Arrival<'a> {
    /// From the GPU.
    Mark(marks::Posted<'a>),
    /// From the server: the number of the operation that it tells the end of.
    Answer(Arc<Waiter>, u64),
}

impl<'a> Arrival<'a> {
    fn of(runtime: &'a Runtime, stream: &Arc<Stream>, slot: u64) -> Result<Self, CUresult> {
        marks::post(runtime, stream)?
            .map_or_else(|| Self::asked(runtime, stream, slot), |mark| Ok(Self::Mark(mark)))
    }

    fn asked(runtime: &Runtime, stream: &Arc<Stream>, slot: u64) -> Result<Self, CUresult> {
        let waiter = Waiter::new();
        let mine = waiter.clone();
        let pending = |_| Pending::Call(mine);
        let number = runtime.session.post_pending(Some(stream), &passed(stream, slot), &[], pending)?;
        Ok(Self::Answer(waiter, number))
    }

    /// Waits for `bytes` bytes in the slot; the stream is known to be finished up to operation `known`. Gives up to where
    /// it is then.
    fn wait(
        self,
        runtime: &Runtime,
        stream: &Arc<Stream>,
        slot: u64,
        bytes: usize,
        known: u64,
    ) -> Result<u64, CUresult> {
        match self {
            // It was asked for behind this one.
            Self::Mark(mark) if mark.number() <= known => Ok(known),
            Self::Mark(mark) => match mark.wait(stream, bytes)? {
                Some(number) => Ok(number),
                None => Self::asked(runtime, stream, slot)?.wait(runtime, stream, slot, bytes, known),
            },
            Self::Answer(waiter, number) => runtime.session.wait_for(&waiter, bytes).map(|()| number),
        }
    }
}

/// Says `Done` when the stream gets there, and does nothing else.
fn passed(stream: &Stream, slot: u64) -> CopyOut {
    CopyOut { stream: stream.handle, source: slot, bytes: 0 }
}
