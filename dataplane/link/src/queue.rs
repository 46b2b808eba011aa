//! The chunks that several bulk lanes have to send: each goes on whichever lane is free first.
//!
//! Connections that share a network are never equally fast, not even for a millisecond. Were chunks dealt out
//! beforehand, all lanes would wait for the slowest. So a lane takes a chunk when the kernel has taken the one before,
//! and only lanes without anything to do are woken.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize, fence};

use crossbeam::queue::SegQueue;
use fusewire_wire::bulk::MAX_LANES;

use crate::bulk::OutChunk;
use crate::error::LinkError;
use crate::waker::Waker;

/// Chunks for all lanes of a session that go one way.
#[derive(Default)]
pub struct ChunkQueue {
    chunks: SegQueue<OutChunk>,
    seats: [OnceLock<Seat>; MAX_LANES],
    /// How many lanes there are, and how many of them have something to send.
    lanes: AtomicUsize,
    busy: AtomicUsize,
    over: AtomicBool,
}

/// A lane.
struct Seat {
    waker: Waker,
    /// It found nothing to send and has not been called since.
    waiting: AtomicBool,
    /// It counts as busy. The lane's own.
    busy: AtomicBool,
}

impl ChunkQueue {
    /// Queues a chunk: lock-free, never waits. Chunks queued by one thread are taken in that order; on several lanes
    /// they may overtake one another. Once a lane is over the chunk is forgotten; [`BulkSink::closed`] has said so.
    ///
    /// [`BulkSink::closed`]: crate::BulkSink::closed
    pub fn send(&self, chunk: OutChunk) {
        self.chunks.push(chunk);
        // Either this thread sees that a lane waits, or the lane sees the chunk.
        fence(SeqCst);
        let waiting = |seat: &&Seat| {
            seat.waiting.load(Relaxed) && seat.waiting.compare_exchange(true, false, Acquire, Relaxed).is_ok()
        };
        if let Some(seat) = self.seats.iter().filter_map(OnceLock::get).find(waiting) {
            seat.waker.wake();
        }
        // A lane empties the queue as its last act; what came too late for that is dropped here.
        if self.over.load(SeqCst) {
            self.forget();
        }
    }

    /// A lane is over, and with it the session.
    pub(crate) fn close(&self) {
        self.over.store(true, SeqCst);
        self.forget();
    }

    fn forget(&self) {
        while self.chunks.pop().is_some() {}
    }

    /// A lane joins those that empty the queue. Gives its number.
    ///
    /// # Errors
    /// There are as many as a session can have.
    pub(crate) fn join(&self, waker: Waker) -> Result<usize, LinkError> {
        let lane = self.lanes.fetch_add(1, Relaxed);
        let seat = Seat { waker, waiting: AtomicBool::new(false), busy: AtomicBool::new(false) };
        match self.seats.get(lane).map(|place| place.set(seat)) {
            Some(Ok(())) => Ok(lane),
            _ => Err(LinkError::Misuse("more lanes than a session can have")),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many chunks there are for each lane.
    pub(crate) fn for_each_lane(&self) -> f64 {
        self.chunks.len() as f64 / self.lanes.load(Relaxed).max(1) as f64
    }

    /// The next chunk, for `lane`. `None`: it will be woken for the next one.
    pub(crate) fn take(&self, lane: usize) -> Option<OutChunk> {
        let seat = self.seats.get(lane).and_then(OnceLock::get)?;
        let mut chunk = self.chunks.pop();
        if chunk.is_none() {
            if seat.busy.swap(false, Relaxed) {
                self.busy.fetch_sub(1, Relaxed);
            }
            seat.waiting.store(true, Release);
            fence(SeqCst);
            chunk = self.chunks.pop();
        }
        if chunk.is_some() {
            seat.waiting.store(false, Relaxed);
            if !seat.busy.swap(true, Relaxed) {
                self.busy.fetch_add(1, Relaxed);
            }
        }
        chunk
    }

    /// The next chunk, for a lane that has one already: only if there is more than the lanes with nothing to do will
    /// take.
    pub(crate) fn take_another(&self) -> Option<OutChunk> {
        let idle = self.lanes.load(Relaxed).saturating_sub(self.busy.load(Relaxed));
        if self.chunks.len() > idle { self.chunks.pop() } else { None }
    }
}
