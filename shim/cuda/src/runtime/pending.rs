//! What the server still has to say about operations, under their numbers.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::abi::types::CUresult;

use super::copy_out::CopyOut;
use super::memory::Share;
use super::mirror::Stop;
use super::objects::{Event, HostFunction, Stream};
use super::waiter::Waiter;

/// What the server still has to say about an operation.
pub(crate) enum Pending {
    /// A caller waits for the reply.
    Call(Arc<Waiter>),
    /// A caller waits to hear whether a stream is finished. If it is not, it is watched from then on.
    Query(Arc<Waiter>, Arc<Stream>),
    /// A stream that is watched.
    Watch(Arc<Stream>),
    /// Data come into the program's memory.
    CopyOut(Arc<CopyOut>),
    /// An event record to be reached.
    Event(Arc<Event>, Arc<Stream>),
    /// A silent record, for which the program has asked. The caller waits for the answer.
    EventQuery(Arc<Waiter>, Asked),
    /// The same, once the answer was that it is not reached.
    EventWatch(Asked),
    /// Freed memory to be used again.
    Reclaim(Reclaim),
    /// A function to be run here when its stream gets there. Stays pending for each replay if `again`.
    HostFunction { function: HostFunction, stream: Option<Arc<Stream>>, again: bool },
    /// A stream stands still until changes of mirrored memory have been sent.
    Stop(Arc<Stop>),
}

/// What is pending, by number. Of some kinds it is known without a look how many there are.
#[derive(Default)]
pub(crate) struct Table {
    entries: HashMap<u64, Pending>,
    counts: Arc<Counts>,
}

#[derive(Default)]
pub(crate) struct Counts {
    copies_out: AtomicUsize,
    changes: AtomicUsize,
}

impl Counts {
    /// Whether any copy into host memory is pending; if not, no source needs a look.
    #[inline]
    pub(crate) fn any_copies_out(&self) -> bool {
        self.copies_out.load(Acquire) != 0
    }

    /// Whether any of the program's memory is still to be changed ([`Pending::changes`]).
    #[inline]
    pub(crate) fn any_changes(&self) -> bool {
        self.changes.load(Acquire) != 0
    }

    fn count(&self, pending: &Pending, how: impl Fn(&AtomicUsize) -> usize) {
        if matches!(pending, Pending::CopyOut(_)) {
            how(&self.copies_out);
        }
        if pending.changes().is_some() {
            how(&self.changes);
        }
    }
}

impl Pending {
    /// The stream of a copy into host memory that the program asked for, or of a host function, which may write
    /// anywhere: it changes memory of the program's, and the device does not know of it. (What is brought back of a
    /// mirror, it does.)
    pub(crate) fn changes(&self) -> Option<&Arc<Stream>> {
        match self {
            Self::CopyOut(copy) if !copy.is_of_mirror => Some(&copy.stream),
            Self::HostFunction { stream: Some(stream), again: false, .. } => Some(stream),
            _ => None,
        }
    }
}

impl Table {
    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    pub(crate) fn insert(&mut self, number: u64, pending: Pending) {
        self.counts.count(&pending, |count| count.fetch_add(1, Relaxed));
        if let Some(gone) = self.entries.insert(number, pending) {
            self.uncount(&gone);
        }
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Pending> {
        self.entries.remove(&number).inspect(|gone| self.uncount(gone))
    }

    /// Everything; there is nothing left.
    pub(crate) fn take(&mut self) -> HashMap<u64, Pending> {
        let all = std::mem::take(&mut self.entries);
        all.values().for_each(|gone| self.uncount(gone));
        all
    }

    fn uncount(&self, gone: &Pending) {
        // What it has brought is seen by who sees that it is gone.
        self.counts.count(gone, |count| count.fetch_sub(1, Release));
    }
}

impl Deref for Table {
    type Target = HashMap<u64, Pending>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

/// A silent record of an event for which the server was asked.
pub(crate) struct Asked {
    pub(crate) event: Arc<Event>,
    pub(crate) record: u64,
}

impl Asked {
    /// What the server, or the end of the session, has said of it. Of the stream that says nothing: the event may have
    /// been recorded again since, by a graph too, or have been reached before what it is part of is finished.
    pub(crate) fn answered(&self, status: CUresult) {
        self.event.reach(self.record, status);
    }
}

/// Freed memory: what to do once the work that may have used it is finished.
pub(crate) enum Reclaim {
    /// Pieces of shared blocks of this context, of the heap of this number.
    Pieces { context: u64, heap: u64, pieces: Vec<(u64, u64)> },
    /// A whole address range.
    Range(u64, u64),
    /// Kept memory of this device, by the name of its stay.
    Kept { device: usize, id: u64 },
    /// Pinned memory that the server had as well: address, bytes, what it was.
    Host(u64, u64, Share),
    /// Pinned memory that was mirrored: its addresses are used again once the server has nothing there any more.
    HostWindow(u64, u64),
    /// A slot of `staging`. It comes back whatever became of its copy.
    Slot(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::copy_out::Landing;
    use crate::runtime::objects::{Context, HostCode, StreamKind};

    unsafe extern "C" fn nothing(_: *mut std::ffi::c_void) {}

    #[test]
    fn what_is_pending_is_counted_for_as_long_as_it_is() {
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = Arc::new(Stream::new(16, context, StreamKind::Created, 1, 0));
        let copy = || CopyOut::new(stream.clone(), 8, Landing::Direct(0x1000), 0x1000..0x1008, None);
        let function = |again| {
            let function = HostFunction { run: HostCode::Function(nothing), argument: std::ptr::null_mut() };
            Pending::HostFunction { function, stream: Some(stream.clone()), again }
        };
        let mut table = Table::default();
        let counts = table.counts();
        let known = || (counts.any_copies_out(), counts.any_changes());
        let cases = [
            (Pending::CopyOut(Arc::new(copy())), (true, true)),
            (Pending::CopyOut(Arc::new(copy().of_mirror())), (true, false)),
            (function(false), (false, true)),
            (function(true), (false, false)),
            (Pending::Watch(stream.clone()), (false, false)),
        ];
        for (pending, counted) in cases {
            table.insert(7, pending);
            assert_eq!(known(), counted);
            // In its place.
            table.insert(7, Pending::Watch(stream.clone()));
            assert_eq!(known(), (false, false));
        }
        table.insert(7, function(false));
        assert!(table.remove(8).is_none() && table.remove(7).is_some() && table.remove(7).is_none());
        assert_eq!(known(), (false, false));
        table.insert(7, function(false));
        table.insert(8, Pending::CopyOut(Arc::new(copy())));
        assert_eq!((table.take().len(), known()), (2, (false, false)));
    }
}
