//! What the server still has to say about operations, under their numbers.

use std::sync::Arc;

use crate::abi::result::CUDA_SUCCESS;
use crate::abi::types::CUresult;

use super::copy_out::CopyOut;
use super::memory::Share;
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
}

/// A silent record of an event, and its stream, for which the server was asked.
pub(crate) struct Asked {
    pub(crate) event: Arc<Event>,
    pub(crate) stream: Option<Arc<Stream>>,
    pub(crate) record: u64,
}

impl Asked {
    /// What the server, or the end of the session, has said of it.
    pub(crate) fn answered(&self, status: CUresult) {
        if status == CUDA_SUCCESS
            && let Some(stream) = &self.stream
        {
            stream.finished(self.record);
        }
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
