//! Links inside one process, for tests: the same promises, no sockets.
//!
//! Each end of a pair is turned by its own thread, or both by one. What one end sends waits in a queue until
//! the other end's turn, so that [`in_flight`](CommandLane::in_flight) shows back-pressure as a real lane
//! does. Dropping an end closes the link; the other end still gets what was sent before.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fusewire_wire::bulk::ChunkHeader;

use crate::bulk::{BulkEngine, BulkSink, Outbox};
use crate::error::{Closing, LinkError};
use crate::lane::{CommandLane, Turn, Wait};
use crate::poll;
use crate::waker::Waker;

const PEER: &str = "the other end of a link in memory";

/// Both ends of a command lane in memory. Received slices are at most `most` bytes long (0: whole frames),
/// so that a receiver can be tested with every split.
///
/// # Errors
/// When descriptors run out.
pub fn command_pair(most: usize) -> Result<(MemoryCommand, MemoryCommand), LinkError> {
    let (a, b) = (Arc::new(Way::new()?), Arc::new(Way::new()?));
    let most = if most == 0 { usize::MAX } else { most };
    let one = MemoryCommand { to_us: a.clone(), to_them: b.clone(), most, reported: 0 };
    Ok((one, MemoryCommand { to_us: b, to_them: a, most, reported: 0 }))
}

/// Both ends of a bulk lane in memory, for [`BulkMover::spawn_on`](crate::BulkMover::spawn_on).
///
/// # Errors
/// When descriptors run out.
pub fn bulk_pair() -> Result<(MemoryBulk, MemoryBulk), LinkError> {
    let (a, b) = (Arc::new(Way::new()?), Arc::new(Way::new()?));
    let one = MemoryBulk { to_us: a.clone(), to_them: b.clone() };
    Ok((one, MemoryBulk { to_us: b, to_them: a }))
}

/// One direction: what is under way, and how to wake the end it goes to.
struct Way<T> {
    state: Mutex<State<T>>,
    waker: Waker,
}

struct State<T> {
    under_way: VecDeque<T>,
    /// Taken out by the receiver, ever.
    taken: u64,
    /// One of the ends is gone.
    closed: bool,
}

impl<T> Way<T> {
    fn new() -> Result<Self, LinkError> {
        let state = State { under_way: VecDeque::new(), taken: 0, closed: false };
        Ok(Way { state: Mutex::new(state), waker: Waker::new()? })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the other end is gone.
    fn put(&self, item: T) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.under_way.push_back(item);
        drop(state);
        self.waker.wake();
        true
    }

    fn take(&self) -> Option<T> {
        let mut state = self.lock();
        let item = state.under_way.pop_front()?;
        state.taken += 1;
        Some(item)
    }

    /// Nothing is under way and nothing will be.
    fn is_over(&self) -> bool {
        let state = self.lock();
        state.closed && state.under_way.is_empty()
    }

    fn close(&self) {
        self.lock().closed = true;
        self.waker.wake();
    }
}

fn closed(how: Closing) -> LinkError {
    LinkError::Closed { peer: PEER.to_owned(), how }
}

/// One end of a command lane in memory.
pub struct MemoryCommand {
    to_us: Arc<Way<Arc<Vec<u8>>>>,
    to_them: Arc<Way<Arc<Vec<u8>>>>,
    most: usize,
    /// Frames that turns have reported as sent, ever.
    reported: u64,
}

impl MemoryCommand {
    fn collect(&mut self, turn: &mut Turn, sink: &mut dyn FnMut(&[u8])) {
        while let Some(frame) = self.to_us.take() {
            frame.chunks(self.most).for_each(&mut *sink);
            turn.received_bytes += frame.len();
            // The other end's frame is no longer in flight, which may be what it waits for.
            if self.to_us.lock().under_way.is_empty() {
                self.to_them.waker.wake();
            }
        }
        let taken = self.to_them.lock().taken;
        // A test never has 2^64 frames under way.
        turn.sent_frames += (taken - self.reported) as usize;
        self.reported = taken;
    }
}

impl CommandLane for MemoryCommand {
    fn send(&mut self, frame: Arc<Vec<u8>>) -> Result<(), LinkError> {
        if frame.is_empty() || self.to_them.put(frame) { Ok(()) } else { Err(closed(Closing::ByPeer)) }
    }

    fn turn(&mut self, wait: Wait, sink: &mut dyn FnMut(&[u8])) -> Result<Turn, LinkError> {
        let until = match wait {
            Wait::AtMost(limit) => Some(Instant::now() + limit),
            Wait::No | Wait::Forever => None,
        };
        let mut turn = Turn::default();
        self.collect(&mut turn, sink);
        if wait != Wait::No && turn.is_idle() && !self.to_us.is_over() {
            if self.to_us.waker.begin_sleep() {
                let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
                let slept = poll::wait(-1, false, Some(&self.to_us.waker), limit);
                turn.woken = self.to_us.waker.end_sleep();
                slept?;
            } else {
                turn.woken = true;
            }
            self.collect(&mut turn, sink);
        }
        if turn.is_idle() && self.to_us.is_over() {
            return Err(closed(Closing::ByPeer));
        }
        Ok(turn)
    }

    fn in_flight(&self) -> usize {
        self.to_them.lock().under_way.len()
    }

    fn waker(&self) -> Waker {
        self.to_us.waker.clone()
    }

    fn leak(self: Box<Self>) {
        std::mem::forget(self);
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.to_us.waker.fd()]
    }
}

impl Drop for MemoryCommand {
    fn drop(&mut self) {
        self.to_us.close();
        self.to_them.close();
    }
}

/// One end of a bulk lane in memory.
pub struct MemoryBulk {
    to_us: Arc<Way<(ChunkHeader, Vec<u8>)>>,
    to_them: Arc<Way<(ChunkHeader, Vec<u8>)>>,
}

impl MemoryBulk {
    fn carry(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<LinkError, LinkError> {
        loop {
            if outbox.is_aborted() {
                return Ok(closed(Closing::Here));
            }
            let stopping = outbox.is_stopping();
            let mut idle = true;
            while let Some(chunk) = outbox.take() {
                idle = false;
                let (start, length) = (chunk.payload.start(), chunk.payload.len());
                let mut payload = vec![0; length];
                // SAFETY: the payload's memory was promised to be valid until `sent`, below.
                unsafe { std::ptr::copy_nonoverlapping(start, payload.as_mut_ptr(), length) };
                self.to_them.put((chunk.header, payload));
                sink.sent(chunk.done);
            }
            while let Some((header, payload)) = self.to_us.take() {
                idle = false;
                let into = sink.place(&header)?;
                if into.len() != payload.len() {
                    return Err(LinkError::Misuse("place() gave memory of another length than the chunk's"));
                }
                // SAFETY: the memory was promised to be ours until `landed`.
                unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), into.start(), payload.len()) };
                sink.landed(&header);
            }
            if stopping {
                return Ok(closed(Closing::Here));
            }
            if self.to_us.is_over() {
                return Ok(closed(Closing::ByPeer));
            }
            if idle && self.to_us.waker.begin_sleep() {
                let slept = poll::wait(-1, false, Some(&self.to_us.waker), None);
                self.to_us.waker.end_sleep();
                slept?;
            }
        }
    }
}

impl BulkEngine for MemoryBulk {
    fn run(mut self: Box<Self>, outbox: &Outbox, sink: &mut dyn BulkSink) -> LinkError {
        match self.carry(outbox, sink) {
            Ok(closed) | Err(closed) => closed,
        }
    }

    fn waker(&self) -> Waker {
        self.to_us.waker.clone()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.to_us.waker.fd()]
    }
}

impl Drop for MemoryBulk {
    fn drop(&mut self) {
        self.to_us.close();
        self.to_them.close();
    }
}
