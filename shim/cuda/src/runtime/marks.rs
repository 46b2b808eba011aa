//! Marks: where memory is shared, the GPU itself tells a caller that his stream is finished.
//!
//! A synchronisation has the stream write a word that both ends have mapped, and watches it: what the worker would say
//! of it need not be said, sent and heard first. Asked in the ordinary way is whoever does not see his word in time:
//! the stream is busy for longer, its context is lost, or the worker refuses, which it says in the next word.
//!
//! A word that is seen says as much as the reply would: it names the last event that the worker had for this process
//! when the stream was given the word, and those are taken notice of first. What the worker would only come to know
//! meanwhile, and tell before its reply, it knows nothing of: of data on their way into the program's memory, words that
//! streams write to mirrored memory, what is printed. With any of that the ordinary way is taken.
//!
//! Nor does the word name the events that are reached and the streams that are finished with this one. Those that it
//! comes behind by events are known here (`Stream::finished_with_others`). It may come behind others too: by the legacy
//! stream, by words, by more events than are kept. So of an event or a stream that was given its work before, and is not
//! known to have finished it, the server is asked once after the program has been told (`Session::ask_again`).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed};
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
    /// So many callers more do not try: the worker has refused, and what it refuses for may last.
    rests: AtomicU32,
}

/// Callers that do not try after a refusal.
const RESTS: u32 = 16;

/// What a mark says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Finished,
    Refused { for_good: bool },
}

impl Marks {
    /// Whether a caller is to try, now that one comes who would.
    fn is_to_be_tried(&self) -> bool {
        let one_less = |rests: u32| rests.checked_sub(1);
        self.rests.load(Relaxed) == 0 || self.rests.fetch_update(Relaxed, Relaxed, one_less).is_err()
    }

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

/// Whether callers can be told in this way, as it seems.
pub(super) fn are_there(runtime: &Runtime) -> bool {
    usable(runtime).is_some_and(|marks| marks.made.get().is_some())
}

fn usable(runtime: &Runtime) -> Option<&Marks> {
    let session = &runtime.session;
    shared::marks(runtime)
        .filter(|marks| !marks.refused.load(Relaxed) && session.spins())
        // Data that this process puts in their place itself may be behind the word.
        .filter(|_| !session.counts.any_copies_out())
}

/// A mark that a stream was given.
pub(super) struct Posted<'a> {
    runtime: &'a Runtime,
    marks: &'a Marks,
    address: u64,
    value: u32,
    /// Of the operation that writes it.
    number: u64,
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        lock(&self.marks.free).push((self.address, self.value));
    }
}

/// Has the stream tell when it has got here, if that can be learned in this way.
///
/// # Errors
/// When the session is over.
pub(super) fn post<'a>(runtime: &'a Runtime, stream: &Stream) -> Result<Option<Posted<'a>>, CUresult> {
    // What kernels have changed in mirrored memory is on its way then.
    runtime.session.bring_back()?;
    let marks = usable(runtime).filter(|marks| marks.is_to_be_tried());
    let Some((marks, (address, value))) = marks.and_then(|marks| Some((marks, marks.take()?))) else {
        return Ok(None);
    };
    let mut posted = Posted { runtime, marks, address, value, number: 0 };
    let record = StreamMark { stream: stream.handle, address, value, reserved: 0 };
    let Some(number) = runtime.session.post_mark(stream, &record)? else { return Ok(None) };
    posted.number = number;
    Ok(Some(posted))
}

impl Posted<'_> {
    /// Of the operation that writes the mark.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Waits until the stream has got there, for a while. Gives the number up to which it is finished, if it has. `bytes`
    /// come with that.
    ///
    /// # Errors
    /// When the session is over.
    pub(super) fn wait(self, stream: &Stream, bytes: usize) -> Result<Option<u64>, CUresult> {
        let since = Instant::now();
        let session = &self.runtime.session;
        session.hurry();
        let said = || said(session, self.address, self.value);
        let over = || session.check().is_err() || stream.context.check().is_err();
        session.spin_until(|| said() != Said::Nothing || over());
        let said = said();
        stats::waited(since, if said == Said::Finished { bytes } else { 0 });
        session.check()?;
        match said {
            Said::Finished => {
                session.is_answered();
                Ok(Some(self.number))
            }
            Said::Refused { for_good } => {
                self.marks.refused.fetch_or(for_good, Relaxed);
                self.marks.rests.store(RESTS, Relaxed);
                Ok(None)
            }
            Said::Nothing => Ok(None),
        }
    }
}

/// Waits until everything on the stream is finished, for a while and if that can be learned in this way. Gives the
/// number up to which it is.
///
/// # Errors
/// When the session is over.
pub(super) fn wait(runtime: &Runtime, stream: &Stream) -> Result<Option<u64>, CUresult> {
    post(runtime, stream)?.map_or(Ok(None), |posted| posted.wait(stream, 0))
}
