//! Bulk lanes: one thread per connection that sends and receives chunks of copied memory at once.
//!
//! [`BulkMover`] starts the thread, a [`ChunkQueue`] feeds it, and a [`BulkSink`] says where payload has to land
//! and hears what became of it. *How* bytes travel is a [`BulkEngine`]'s business: TCP on `io_uring`, on
//! `poll(2)`, or memory. Payload is never copied between buffers here: it is sent from, and received into,
//! the memory that is named.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fusewire_wire::bulk::ChunkHeader;

use crate::CoreId;
use crate::error::LinkError;
use crate::queue::ChunkQueue;
use crate::ring::Owner;
use crate::waker::Waker;

/// Memory to send from. Its lifetime is a promise, not a borrow: see [`RawSlice::new`].
#[derive(Debug, Clone, Copy)]
pub struct RawSlice {
    start: *const u8,
    length: usize,
}

/// Memory to receive into. Its lifetime is a promise, not a borrow: see [`RawSliceMut::new`].
#[derive(Debug, Clone, Copy)]
pub struct RawSliceMut {
    start: *mut u8,
    length: usize,
}

// SAFETY: only a name for memory; what may be done with it was promised to `new`.
unsafe impl Send for RawSlice {}
// SAFETY: as above.
unsafe impl Send for RawSliceMut {}

impl RawSlice {
    /// # Safety
    /// The memory must stay valid and unchanged until the lane has reported [`BulkSink::sent`] for its
    /// chunk, or [`BulkSink::closed`].
    pub unsafe fn new(start: *const u8, length: usize) -> Self {
        RawSlice { start, length }
    }

    pub fn start(&self) -> *const u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl RawSliceMut {
    /// # Safety
    /// The memory must stay valid, and nobody else may use it, until the lane has reported
    /// [`BulkSink::landed`] for its chunk, or [`BulkSink::closed`].
    pub unsafe fn new(start: *mut u8, length: usize) -> Self {
        RawSliceMut { start, length }
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A chunk to be sent.
#[derive(Debug, Clone, Copy)]
pub struct OutChunk {
    /// Its `bytes` must be the payload's length.
    pub header: ChunkHeader,
    pub payload: RawSlice,
    /// Handed back by [`BulkSink::sent`].
    pub done: u64,
    /// Somebody waits for [`BulkSink::sent`]: the lane may copy the payload to let go of it before the peer has it.
    pub waited_for: bool,
}

/// How fast a connection has been seen to be.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// Bytes per second.
    pub rate: f64,
    /// There was always something to send: faster the connection is not. Else it may be.
    pub is_limit: bool,
    /// Chunks that are queued behind this one, for each lane that shares the queue.
    pub behind: f64,
}

/// The lane's user, called on the lane's thread. Must not block.
pub trait BulkSink: Send {
    /// Says where the payload of an arriving chunk has to land: exactly `header.bytes` long. Of the header
    /// only the magic number has been checked.
    ///
    /// # Errors
    /// An error (the peer named something that does not exist, or a wrong length) ends the lane.
    fn place(&mut self, header: &ChunkHeader) -> Result<RawSliceMut, LinkError>;

    /// The payload is there, completely.
    fn landed(&mut self, header: &ChunkHeader);

    /// A chunk is about to be sent, and may be replaced by one that says the same in fewer bytes; `done` stays.
    /// `delivery`: how fast the connection has been seen to be. Links on which fewer bytes are no gain do not ask.
    fn prepare(&mut self, chunk: OutChunk, _delivery: &dyn Fn() -> Option<Delivery>) -> OutChunk {
        chunk
    }

    /// The lane has no more use for the memory of the chunk sent with `token`. In the order of sending,
    /// and without saying that the peer has it.
    fn sent(&mut self, token: u64);

    /// The lane is over: last call of all. None of the memory named to the lane is touched from now on;
    /// chunks for which `sent` was not called may or may not have reached the peer.
    fn closed(&mut self, why: LinkError);
}

/// What moves the bytes of a bulk lane.
pub trait BulkEngine: Send {
    /// Runs the lane on the calling thread until it is over, and says why it is. On return no memory named
    /// by `outbox` or `sink` may be in use any more. When `outbox` is told to stop, everything queued
    /// before is sent first; when it is told to abort, nothing more is.
    fn run(self: Box<Self>, outbox: &Outbox, sink: &mut dyn BulkSink) -> LinkError;

    /// Wakes the engine's thread.
    fn waker(&self) -> Waker;

    /// See [`CommandLane::descriptors`](crate::CommandLane::descriptors).
    fn descriptors(&self) -> Vec<RawFd>;
}

/// What a lane's users want of it.
pub struct Outbox {
    queue: Arc<ChunkQueue>,
    /// The lane's number there.
    seat: usize,
    stop: AtomicBool,
    abort: AtomicBool,
}

impl Outbox {
    /// The next chunk. `None`: the lane's waker is called for the next one.
    pub(crate) fn take(&self) -> Option<OutChunk> {
        self.queue.take(self.seat)
    }

    /// A chunk to go along with one that was taken, if other lanes do not want it.
    pub(crate) fn take_another(&self) -> Option<OutChunk> {
        self.queue.take_another()
    }

    /// See [`Delivery::behind`].
    pub(crate) fn behind(&self) -> f64 {
        self.queue.for_each_lane()
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether to end the lane once nothing is left to send.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether to end the lane at once.
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }
}

/// Starts bulk lanes: threads that sleep in the kernel when there is nothing to do, and take no signals. Each is
/// confined to `cores`, if any are given.
pub struct BulkMover;

impl BulkMover {
    /// Starts a lane on any engine, with a queue of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn_on(
        engine: Box<dyn BulkEngine>,
        cores: Vec<CoreId>,
        sink: impl BulkSink + 'static,
    ) -> Result<BulkHandle, LinkError> {
        Self::spawn_for(Arc::default(), engine, cores, sink)
    }

    /// Starts a lane that sends what is in `queue`, as other lanes do.
    ///
    /// # Errors
    /// When the thread cannot be started, or the queue has as many lanes as it can.
    pub fn spawn_for(
        queue: Arc<ChunkQueue>,
        engine: Box<dyn BulkEngine>,
        cores: Vec<CoreId>,
        mut sink: impl BulkSink + 'static,
    ) -> Result<BulkHandle, LinkError> {
        let waker = engine.waker();
        let seat = queue.join(waker.clone())?;
        let outbox =
            Arc::new(Outbox { queue, seat, stop: AtomicBool::new(false), abort: AtomicBool::new(false) });
        let descriptors = engine.descriptors();
        let shared = outbox.clone();
        let body = move || {
            confine(&cores);
            let why = engine.run(&shared, &mut sink);
            shared.queue.close();
            sink.closed(why);
        };
        let thread = without_signals(|| std::thread::Builder::new().name("fusewire-bulk".into()).spawn(body))
            .map_err(|error| LinkError::system("starting a bulk lane's thread", &error))?;
        Ok(BulkHandle { outbox, waker, descriptors, thread: Some(thread), owner: Owner::this_process() })
    }
}

/// A bulk lane, from any thread. Dropping it shuts the lane down and waits for its thread.
pub struct BulkHandle {
    outbox: Arc<Outbox>,
    waker: Waker,
    descriptors: Vec<RawFd>,
    thread: Option<JoinHandle<()>>,
    owner: Owner,
}

impl BulkHandle {
    /// See [`ChunkQueue::send`].
    pub fn send(&self, chunk: OutChunk) {
        self.outbox.queue.send(chunk);
    }

    /// Ends the lane once everything queued so far has been sent. Does not wait.
    pub fn shutdown(&self) {
        self.outbox.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ends the lane whatever is queued or under way, and whatever the peer does. Does not wait.
    pub fn abort(&self) {
        self.outbox.abort.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Waits for the lane's thread to end: after [`shutdown`](Self::shutdown), or when the peer ends it.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }

    /// Gives the handle up without touching anything: for a forked child, where there is no such thread.
    pub fn leak(self) {
        std::mem::forget(self);
    }

    /// See [`CommandLane::descriptors`](crate::CommandLane::descriptors).
    pub fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }
}

impl Drop for BulkHandle {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.owner.is_us() {
            self.shutdown();
            let _ = thread.join();
        } else {
            // A forked child has no such thread.
            std::mem::forget(thread);
        }
    }
}

/// Confines the calling thread to some cores, if any are named. Not to one each: a lane with work would have to wait
/// for another thread on its core while the next core is idle.
fn confine(cores: &[CoreId]) {
    // SAFETY: all zero is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let most = 8 * size_of::<libc::cpu_set_t>();
    let named = cores.iter().filter(|core| core.id < most);
    if named.clone().next().is_none() {
        return;
    }
    for core in named {
        // SAFETY: within the set.
        unsafe { libc::CPU_SET(core.id, &mut set) };
    }
    // SAFETY: a live set and its size. Best effort: a container's cpuset may exclude the cores.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Runs `start` with every signal blocked, so that a thread it starts never runs the program's handlers.
/// For every thread that is started inside a program that is not ours.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: all zero is a valid signal set, and the calls below fill it in anyway.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = all;
    // SAFETY: both sets are live; the mask of this thread is put back below.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    let result = start();
    // SAFETY: `before` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}
