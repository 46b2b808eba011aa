//! Host-to-device payloads on their way: chunks, credit, and who may use the source again.
//!
//! Chunks are numbered in the order of the command lane. A chunk may be sent once the server has given credit for
//! it, and travels on whichever bulk lane is free first. The program's memory is sent from where it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use fusewire_link::{ChunkHeader, ChunkQueue, OutChunk, RawSlice};

use super::session::lock;

/// One copy's payload.
pub(crate) struct Transfer {
    first: u64,
    source: RawSlice,
    /// Bytes of each chunk, but for the last.
    chunk_bytes: usize,
    /// Captured bytes, if the source is not the program's own memory.
    _keep: Option<Box<[u8]>>,
    /// A caller waits until the source has been read.
    waited_for: bool,
    /// Chunks not yet sent.
    left: Mutex<u64>,
    sent: Condvar,
}

// SAFETY: `source` is a name for memory, which stays valid until the transfer is sent: its maker promised.
unsafe impl Sync for Transfer {}

impl Transfer {
    fn chunks(&self) -> u64 {
        self.source.len().div_ceil(self.chunk_bytes) as u64
    }

    /// Waits until the source has been read to its end.
    pub(crate) fn wait(&self) {
        let mut left = lock(&self.left);
        while *left != 0 {
            left = self.sent.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn is_sent(&self) -> bool {
        *lock(&self.left) == 0
    }

    /// Whether the source lies in this range.
    pub(crate) fn reads(&self, base: u64, bytes: u64) -> bool {
        let start = self.source.start().addr() as u64;
        start < base.saturating_add(bytes) && base < start + self.source.len() as u64
    }

    fn chunk_sent(&self) {
        let mut left = lock(&self.left);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.sent.notify_all();
        }
    }
}

pub(crate) struct Transfers {
    queue: Mutex<Queue>,
    /// Chunks below this may be sent.
    credit: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Transfer>>,
    /// The next chunk to be sent.
    next: u64,
    /// Handed to the lanes, not yet reported sent; kept so that a source in use can be waited for.
    sending: Vec<Arc<Transfer>>,
    over: bool,
}

impl Transfers {
    pub(crate) fn new(slots: u64) -> Self {
        Self { queue: Mutex::default(), credit: AtomicU64::new(slots) }
    }

    /// Enters a payload whose chunks start at `first`. Called in the order of chunks. `waited_for`: the caller is
    /// going to wait.
    pub(crate) fn queue(
        &self,
        first: u64,
        source: RawSlice,
        keep: Option<Box<[u8]>>,
        waited_for: bool,
        chunk_bytes: usize,
    ) -> Arc<Transfer> {
        let chunks = source.len().div_ceil(chunk_bytes) as u64;
        let transfer = Arc::new(Transfer {
            first,
            source,
            chunk_bytes,
            _keep: keep,
            waited_for,
            left: Mutex::new(chunks),
            sent: Condvar::new(),
        });
        let mut queue = lock(&self.queue);
        if queue.over {
            *lock(&transfer.left) = 0;
        } else {
            queue.waiting.push_back(transfer.clone());
        }
        transfer
    }

    /// Hands all chunks for which there is credit to the lanes.
    pub(crate) fn push(&self, lanes: &ChunkQueue) {
        let mut queue = lock(&self.queue);
        let credit = self.credit.load(Relaxed);
        queue.sending.retain(|transfer| !transfer.is_sent());
        while queue.next < credit {
            let Some(transfer) = queue.waiting.front().cloned() else { return };
            let chunk = queue.next;
            let offset = (chunk - transfer.first) as usize * transfer.chunk_bytes;
            let bytes = transfer.chunk_bytes.min(transfer.source.len() - offset);
            // SAFETY: a part of the transfer's source, which stays as it is until its chunks are sent.
            let payload = unsafe { RawSlice::new(transfer.source.start().add(offset), bytes) };
            let header = ChunkHeader::host_to_device(chunk, u32::try_from(bytes).unwrap_or(u32::MAX));
            let waited_for = transfer.waited_for;
            let done = Arc::into_raw(transfer.clone()).expose_provenance() as u64;
            queue.next += 1;
            if queue.next == transfer.first + transfer.chunks() {
                queue.waiting.pop_front();
                queue.sending.push(transfer);
            }
            lanes.send(OutChunk { header, payload, done, waited_for });
        }
    }

    pub(crate) fn raise_credit(&self, upto: u64) {
        self.credit.fetch_max(upto, Relaxed);
    }

    /// A lane has sent the chunk with this token.
    pub(crate) fn sent(token: u64) {
        let pointer = std::ptr::with_exposed_provenance::<Transfer>(token as usize);
        // SAFETY: `push` made the token from an `Arc`, and the lane gives each token back once.
        let transfer = unsafe { Arc::from_raw(pointer) };
        transfer.chunk_sent();
    }

    /// Payloads that are still read from this range.
    pub(crate) fn reading(&self, base: u64, bytes: u64) -> Vec<Arc<Transfer>> {
        let queue = lock(&self.queue);
        queue
            .waiting
            .iter()
            .chain(&queue.sending)
            .filter(|t| t.reads(base, bytes) && !t.is_sent())
            .cloned()
            .collect()
    }

    /// The session is over, and no lane holds a chunk any more: nobody needs to wait.
    pub(crate) fn abandon(&self) {
        let mut queue = lock(&self.queue);
        queue.over = true;
        let all: Vec<_> = queue.waiting.drain(..).collect();
        for transfer in all.into_iter().chain(queue.sending.drain(..)) {
            *lock(&transfer.left) = 0;
            transfer.sent.notify_all();
        }
    }
}
