//! Marks: where memory is shared, the GPU itself tells a caller that his stream is finished.
//!
//! A synchronisation has the stream write a word that both ends have mapped, and watches it: what the worker would say
//! of it need not be said, sent and heard first. Asked in the ordinary way is whoever does not see his word in time:
//! the stream is busy for longer, its context is lost, or the worker refuses, which it says in the next word.
//!
//! A word that is seen says as much as the reply would: it names the last event that the worker had for this process
//! when the stream was given the word, and those are taken notice of first. What the worker would only come to know
//! meanwhile, and tell before its reply, it knows nothing of: of data on their way into the program's memory, words that
//! streams write to mirrored memory, what is printed. With any of that the ordinary way is taken. That events are reached
//! and other streams finished which this one comes behind is known here (`Stream::finished_with_others`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use fusewire_wire::ops::table::StreamMark;

use crate::abi::types::CUresult;

use super::objects::Stream;
use super::session::{Session, lock};
use super::{Runtime, shared, stats};

/// Bytes of a mark: each has a cache line of its own.
const BYTES: u64 = 64;
/// Callers that may wait in this way at a time.
const MARKS: u64 = 64;

#[derive(Default)]
pub(crate) struct Marks {
    made: OnceLock<()>,
    /// Those that nobody uses: address, and the value it had last. No two uses of one have the same value, so that a
    /// word which comes too late says nothing to the next.
    free: Mutex<Vec<(u64, u32)>>,
    /// The worker refuses, and always will.
    refused: AtomicBool,
}

/// What a mark says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Finished,
    Refused { for_good: bool },
}

impl Marks {
    fn take(&self) -> Option<(u64, u32)> {
        let (address, value) = lock(&self.free).pop()?;
        // What has just been made says 0.
        Some((address, value.wrapping_add(1).max(1)))
    }
}

/// The first context has been made: gets the marks, where there is memory to share. Not later, since the server is asked
/// for it, which it may keep until nothing on the GPU waits for this process.
pub(super) fn prepare(runtime: &Runtime) {
    let Some(marks) = shared::marks(runtime).filter(|_| runtime.session.spins()) else { return };
    marks.made.get_or_init(|| {
        let Some(base) = shared::page_for_marks(runtime, BYTES * MARKS) else { return };
        let start = std::ptr::with_exposed_provenance_mut::<u8>(base as usize);
        // SAFETY: shared memory that nobody else was given. It may have been somebody's before.
        unsafe { std::ptr::write_bytes(start, 0, (BYTES * MARKS) as usize) };
        lock(&marks.free).extend((0..MARKS).map(|mark| (base + mark * BYTES, 0)));
    });
}

/// What the mark at `address` says of its use with this value.
fn said(session: &Session, address: u64, value: u32) -> Said {
    let word = std::ptr::with_exposed_provenance_mut::<u64>(address as usize);
    // SAFETY: two aligned words of shared memory that stays mapped as long as the session; others write them.
    let (mark, refusal) = unsafe { (AtomicU64::from_ptr(word), AtomicU64::from_ptr(word.add(1))) };
    let mark = mark.load(Acquire);
    if mark >> 32 == u64::from(value) {
        return if session.has_heard(mark as u32) { Said::Finished } else { Said::Nothing };
    }
    let refusal = refusal.load(Acquire);
    if refusal as u32 == value { Said::Refused { for_good: refusal >> 32 != 0 } } else { Said::Nothing }
}

/// Waits until everything on the stream is finished, for a while and if that can be learned in this way. Gives the
/// number up to which it is.
///
/// # Errors
/// When the session is over.
pub(super) fn wait(runtime: &Runtime, stream: &Stream) -> Result<Option<u64>, CUresult> {
    let session = &runtime.session;
    let marks = shared::marks(runtime).filter(|marks| !marks.refused.load(Relaxed) && session.spins());
    // Data that this process puts in their place itself may be behind the word.
    if marks.is_none() || session.counts.any_copies_out() {
        return Ok(None);
    }
    let Some((marks, (address, value))) = marks.and_then(|marks| Some((marks, marks.take()?))) else {
        return Ok(None);
    };
    let since = Instant::now();
    let record = StreamMark { stream: stream.handle, address, value, reserved: 0 };
    let posted = session.post_on(stream, &record, &[]);
    let said = || said(session, address, value);
    if posted.is_ok() {
        session.hurry();
        let over = || session.check().is_err() || stream.context.check().is_err();
        session.spin_until(|| said() != Said::Nothing || over());
        stats::waited(since, 0);
    }
    let said = said();
    lock(&marks.free).push((address, value));
    let number = posted?;
    session.check()?;
    match said {
        Said::Finished => {
            session.is_answered();
            Ok(Some(number))
        }
        Said::Refused { for_good } => {
            marks.refused.fetch_or(for_good, Relaxed);
            Ok(None)
        }
        Said::Nothing => Ok(None),
    }
}
