//! The client's end of a session, as its callers use it: publish an operation, or call and wait.
//!
//! Callers append records under one short lock and leave; the I/O thread ([`super::pump`]) takes whole
//! batches from there. What the server has to say about an operation later is *pending* under the
//! operation's number, entered before the record can leave.
//!
//! Locks, in the order they may be taken: `lane`, then `pending`. Neither is held across I/O.
//!
//! A launch takes 0.2 µs, and to fetch a cache line that another core has written half as much. So the I/O thread holds
//! the lane's lock only while it swaps buffers, and what one thread writes all the time lies in no line that others read.

use std::cell::Cell;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
    Ordering::SeqCst,
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use fusewire_link::{BulkHandle, ChunkQueue, RawSlice, Waker};
use fusewire_wire::bulk::chunk_bytes;
use fusewire_wire::error::ProtocolError;
use fusewire_wire::ops::table::{EventQuery, EventRecord, Fence, StreamMark, StreamQuery, StreamWaitEvent};
use fusewire_wire::ops::{AsyncRecord, Record, SyncRecord};
use fusewire_wire::session::{OpenBatch, OutboxConfig, Window};
use zerocopy::{FromZeros, IntoBytes};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_READY, CUDA_ERROR_UNKNOWN, CUDA_SUCCESS};
use crate::abi::types::CUresult;

use super::concurrency::Concurrency;
use super::copy_out::CopyOut;
use super::ending::Ending;
use super::helm::Helm;
use super::mirror;
use super::objects::{Context, Event, Stream, StreamKind};
use super::overlap::Overlaps;
use super::packing::Packing;
use super::pending::{Asked, Counts, Pending, Table};
use super::stats;
use super::transfer::{Transfer, Transfers};
use super::waiter::{self, Waiter};

/// What an operation does when too much is published and not yet acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Await,
    /// For the I/O thread, without which there would never be any: it publishes little.
    Take,
}

/// The sending side that callers share.
pub(crate) struct Lane {
    open: OpenBatch,
    pub(crate) next_chunk: u64,
}

pub(crate) struct Session {
    pub(super) lane: CachePadded<Mutex<Lane>>,
    /// Bytes that have been taken from there and not been acknowledged.
    retained: AtomicUsize,
    /// Something was published since the I/O thread last looked: it takes the lane only then.
    gathered: AtomicBool,
    /// Somebody waits for what has been published: it is not to wait for company.
    urgent: AtomicBool,
    /// How many callers spin for an answer.
    awaited: AtomicUsize,
    /// The last thing that happened is that a caller got his answer, with the lane in his own hands: the server has
    /// nothing to do.
    answered: AtomicBool,
    /// The peer has acknowledged something: there may be room again.
    pub(super) room: Condvar,
    /// Callers that wait for room.
    waiting: AtomicUsize,
    pub(crate) pending: CachePadded<Mutex<Table>>,
    /// How many of some kinds are pending.
    pub(crate) counts: Arc<Counts>,
    /// A stream has waited for a word that something else will write, once at least.
    pub(crate) words: AtomicBool,
    pub(crate) overlaps: Overlaps,
    /// Mirrors that are behind the device.
    pub(crate) owed: mirror::Owed,
    pub(crate) helm: Helm,
    pub(crate) waker: OnceLock<Waker>,
    pub(super) bulk: OnceLock<Vec<BulkHandle>>,
    /// Chunks to the device that may be sent.
    pub(crate) outgoing: Arc<ChunkQueue>,
    /// Chunks from the device that have landed, and below which number all have.
    landed: Mutex<Window>,
    landed_below: AtomicU64,
    /// The I/O thread holds events back until more has landed.
    pub(crate) held_back: AtomicBool,
    pub(crate) transfers: Transfers,
    pub(super) concurrency: Concurrency,
    pub(super) ending: Mutex<Ending>,
    /// Not 0: the session is over, and this is what every call gives.
    pub(super) lost: AtomicU32,
    pub(crate) quiet: bool,
    /// The server keeps images, and may be asked for one by its hash.
    pub(crate) keeps_images: bool,
    pub(crate) packing: Packing,
    pub(crate) slot_bytes: usize,
    /// The number of the last event of the server's that has been taken notice of.
    heard: CachePadded<AtomicU64>,
    /// The last of the operations up to which the program, having waited for a stream, knows that to be finished; and how
    /// often it has been told such a thing.
    told: AtomicU64,
    tellings: AtomicU64,
    /// How long a caller spins for its answer before it sleeps.
    spin: Duration,
}

/// How long a caller tries to send himself what does not make him wait.
const BEGIN_LIMIT: Duration = Duration::from_micros(20);

/// Bytes published and not yet acknowledged, above which callers wait.
const WINDOW: usize = 32 << 20;

/// How much is gathered and kept. As many buffers are kept as there can be bytes under way: where threads sleep, a batch
/// may be a single launch, and some hundred of them not yet acknowledged.
pub(super) fn outbox() -> OutboxConfig {
    OutboxConfig { window_bytes: 2 * WINDOW, pool_bytes: WINDOW, ..OutboxConfig::default() }
}

/// Raises what was told last. Gives whether that is new.
#[inline]
pub(crate) fn is_news(told: &AtomicU64, number: u64) -> bool {
    told.load(Relaxed) < number && told.fetch_max(number, Relaxed) < number
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(crate) fn new(slot_bytes: usize, slots: u64, spin: Duration, quiet: bool) -> Self {
        let pending = Table::default();
        Self {
            lane: CachePadded::new(Mutex::new(Lane { open: OpenBatch::new(outbox()), next_chunk: 0 })),
            retained: AtomicUsize::new(0),
            gathered: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
            room: Condvar::new(),
            waiting: AtomicUsize::new(0),
            counts: pending.counts(),
            words: AtomicBool::new(false),
            pending: CachePadded::new(Mutex::new(pending)),
            overlaps: Overlaps::default(),
            owed: mirror::Owed::default(),
            helm: Helm::default(),
            waker: OnceLock::new(),
            bulk: OnceLock::new(),
            outgoing: Arc::default(),
            landed: Mutex::default(),
            landed_below: AtomicU64::new(0),
            held_back: AtomicBool::new(false),
            transfers: Transfers::new(slots),
            concurrency: Concurrency::default(),
            ending: Mutex::default(),
            lost: AtomicU32::new(CUDA_SUCCESS),
            quiet,
            keeps_images: false,
            packing: Packing::default(),
            slot_bytes,
            heard: CachePadded::new(AtomicU64::new(0)),
            told: AtomicU64::new(0),
            tellings: AtomicU64::new(0),
            spin,
        }
    }

    /// # Errors
    /// The code that a session that is over gives.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), CUresult> {
        match self.lost.load(Relaxed) {
            CUDA_SUCCESS => Ok(()),
            code => Err(code),
        }
    }

    /// Publishes an operation and returns its number.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post<R: AsyncRecord>(&self, record: &R, tail: &[&[u8]]) -> Result<u64, CUresult> {
        self.bring_back()?;
        self.publish(record, tail, |_, _| None)
    }

    /// Publishes what a stream waits for: behind nothing that a caller may be waiting for.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post_answer<R: AsyncRecord>(&self, record: &R) -> Result<u64, CUresult> {
        self.publish(record, &[], |_, _| None)
    }

    /// Publishes an operation on a stream.
    ///
    /// # Errors
    /// When the session is over.
    #[inline]
    pub(crate) fn post_on<R: AsyncRecord>(
        &self,
        stream: &Stream,
        record: &R,
        tail: &[&[u8]],
    ) -> Result<u64, CUresult> {
        self.before_legacy(stream)?;
        self.publish(record, tail, |_, number| {
            stream.issued(number);
            None
        })
    }

    /// Publishes a copy to the device whose source has been read, or a part of it (see `concurrency`).
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post_quiet_on<R: AsyncRecord>(
        &self,
        stream: &Stream,
        record: &R,
        tail: &[&[u8]],
        pending: Option<Pending>,
    ) -> Result<u64, CUresult> {
        self.before_legacy(stream)?;
        self.publish(record, tail, |_, number| {
            self.quiet_on(stream, number);
            pending
        })
    }

    /// Waits until all that the context was given before is finished; with `through`, until the copies up to that
    /// operation are. By a fence, and not by a synchronisation of streams: the server grants one whatever has become
    /// of them, or of the context.
    pub(crate) fn wait_for_context(&self, context: &Context, through: u64) {
        let waiter = Waiter::new();
        let mine = waiter.clone();
        let fence = Fence { context: context.handle, through };
        // No error is lost with this: the context's users are told of its fault, and everybody of a session's end. A
        // context that the server has taken down has no work left.
        let _ = self
            .post_pending(None, &fence, &[], |_| Pending::Call(mine))
            .and_then(|_| self.wait_for(&waiter, 0));
    }

    /// Publishes an operation about which the server will have something to say.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post_pending<R: AsyncRecord>(
        &self,
        stream: Option<&Stream>,
        record: &R,
        tail: &[&[u8]],
        pending: impl FnOnce(u64) -> Pending,
    ) -> Result<u64, CUresult> {
        self.bring_back()?;
        self.publish(record, tail, |_, number| {
            if let Some(stream) = stream {
                stream.issued(number);
            }
            Some(pending(number))
        })
    }

    /// Has a stream write a mark. Gives its number, if the mark says that all before it is finished: data that this
    /// process puts in their place itself may not be there when it is seen.
    ///
    /// # Errors
    /// When the session is over.
    pub(super) fn post_mark(&self, stream: &Stream, record: &StreamMark) -> Result<Option<u64>, CUresult> {
        self.bring_back()?;
        let is_clear = Cell::new(false);
        let number = self.publish(record, &[], |_, number| {
            stream.issued(number);
            // Such data are entered under the lane's lock too.
            is_clear.set(!self.counts.any_copies_out());
            None
        })?;
        Ok(is_clear.get().then_some(number))
    }

    /// The program is about to be told that a stream is finished up to operation `number`; if it has not been.
    pub(crate) fn tells(&self, stream: &Stream, number: u64) {
        let may_say_more = || stream.may_come_behind_others() || self.has_words();
        if self.has_several_streams() && may_say_more() && is_news(&stream.told, number) {
            self.tells_of_all(number);
        }
    }

    /// The same, of an event or of streams that may come behind any.
    pub(crate) fn tells_of_all(&self, number: u64) {
        // Behind a word comes what was given to the stream that writes it, however late.
        let number = if self.has_words() { u64::MAX } else { number };
        self.told.fetch_max(number, Release);
        self.tellings.fetch_add(1, Release);
    }

    fn has_words(&self) -> bool {
        self.words.load(Relaxed)
    }

    /// Whether operation `number`, which is not known to be finished, may be all the same: what the program has been
    /// told of may come behind it in a way that nobody follows here, and nobody has asked since. `asked`: how often the
    /// program had been told something when it was last asked for. Gives how often that is by now.
    fn may_be_finished(&self, number: u64, asked: &AtomicU64) -> Option<u64> {
        let tellings = self.tellings.load(Acquire);
        (asked.load(Acquire) < tellings && number < self.told.load(Acquire)).then_some(tellings)
    }

    /// Whether the stream, of which it is known that it was busy, may be finished all the same.
    pub(crate) fn may_be_finished_by_now(&self, stream: &Stream) -> bool {
        self.may_be_finished(stream.last.load(Relaxed), &stream.asked).is_some()
    }

    /// Asks for an event that is not known to be reached, where it may be all the same.
    ///
    /// # Errors
    /// What the driver says of the event, if that is neither that it is reached nor that it is not.
    pub(crate) fn ask_again(&self, event: &Arc<Event>) -> Result<(), CUresult> {
        let record = event.recorded.load(Acquire);
        let Some(tellings) = self.may_be_finished(record, &event.asked_again) else { return Ok(()) };
        let state = lock(&event.state);
        let capture = state.capture;
        drop(state);
        if capture != 0 {
            return Ok(());
        }
        match self.call(&EventQuery { event: event.handle, watch: 0, reserved: 0 }, &[]) {
            Ok(_) => event.reach(record, CUDA_SUCCESS),
            Err(CUDA_ERROR_NOT_READY) => _ = event.asked_again.fetch_max(tellings, Release),
            Err(code) => return Err(code),
        }
        Ok(())
    }

    /// Publishes a copy into host memory.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post_copy_out<R: AsyncRecord>(
        &self,
        record: &R,
        copy: Arc<CopyOut>,
        room: Room,
    ) -> Result<(), CUresult> {
        let stream = copy.stream.clone();
        self.overlaps.enter(&copy);
        let entered = copy.clone();
        let posted = self.publish_with(
            &[],
            room,
            |_| *record,
            |_, number| {
                stream.issued(number);
                Some(Pending::CopyOut(copy))
            },
        );
        if posted.is_err() {
            self.overlaps.finish(&entered, false, || {});
        }
        posted.map(drop)
    }

    /// Publishes what is owed to the program ([`mirror::Owed`]): to be done before anything from which it may
    /// learn that work is finished, and before a stream goes or is captured.
    ///
    /// # Errors
    /// When the session is over.
    #[inline]
    pub(crate) fn bring_back(&self) -> Result<(), CUresult> {
        if self.owed.any() { mirror::bring_back(self, Room::Await) } else { Ok(()) }
    }

    /// Publishes what is owed of streams that block with the legacy stream, if that is about to be given something. What
    /// comes behind it, on whatever stream, comes behind their work, and has to come behind what that is owed for.
    #[inline]
    pub(crate) fn before_legacy(&self, stream: &Stream) -> Result<(), CUresult> {
        if stream.kind == StreamKind::Legacy && self.owed.any() && self.owed.is_of_blocking() {
            return mirror::bring_back(self, Room::Await);
        }
        Ok(())
    }

    /// Publishes an operation, whose kind nobody checks here, and enters what `then` makes of its number.
    fn publish<R: Record>(
        &self,
        record: &R,
        tail: &[&[u8]],
        then: impl FnOnce(&mut Lane, u64) -> Option<Pending>,
    ) -> Result<u64, CUresult> {
        self.publish_with(tail, Room::Await, |_| *record, then)
    }

    /// As `publish`, with a record that depends on the state of the lane.
    pub(crate) fn publish_with<R: Record>(
        &self,
        tail: &[&[u8]],
        room: Room,
        record: impl FnOnce(&mut Lane) -> R,
        then: impl FnOnce(&mut Lane, u64) -> Option<Pending>,
    ) -> Result<u64, CUresult> {
        let mut lane = lock(&self.lane);
        // Room is waited for before anything is numbered, so that chunks and records keep one order.
        self.check()?;
        while room == Room::Await && self.is_full(&lane) {
            self.wake();
            self.waiting.fetch_add(1, SeqCst);
            // Looked at once more: either the room that there is by now is seen, or it is seen that we wait.
            if self.is_full(&lane) {
                lane = self.room.wait(lane).unwrap_or_else(PoisonError::into_inner);
            }
            self.waiting.fetch_sub(1, SeqCst);
            self.check()?;
        }
        let record = record(&mut lane);
        lane.open.set_retained_bytes(self.retained.load(Relaxed));
        let number = lane
            .open
            .push(R::CODE, 0, record.as_bytes(), tail)
            .map_err(|_: ProtocolError| CUDA_ERROR_INVALID_VALUE)?;
        if let Some(pending) = then(&mut lane, number) {
            lock(&self.pending).insert(number, pending);
        }
        drop(lane);
        // Cleared under the lane's lock, before what there is then is taken: so, where it is still set, the I/O
        // thread has yet to come by, and whoever set it wakes it.
        if !self.gathered.load(Acquire) {
            self.gathered.store(true, Release);
            self.wake();
        }
        stats::published(size_of::<R>() + tail.iter().map(|piece| piece.len()).sum::<usize>());
        Ok(number)
    }

    /// Calls and waits for the answer: the reply and what follows it.
    ///
    /// # Errors
    /// The status that the driver gave, or that of a session that is over.
    pub(crate) fn call<R: SyncRecord>(
        &self,
        record: &R,
        tail: &[&[u8]],
    ) -> Result<(R::Reply, Vec<u8>), CUresult> {
        self.call_numbered(record, tail).map(|(_, reply, tail)| (reply, tail))
    }

    /// As [`call`](Self::call), with the operation's number.
    ///
    /// # Errors
    /// As `call`.
    pub(crate) fn call_numbered<R: SyncRecord>(
        &self,
        record: &R,
        tail: &[&[u8]],
    ) -> Result<(u64, R::Reply, Vec<u8>), CUresult> {
        self.bring_back()?;
        let since = Instant::now();
        let waiter = Waiter::new();
        let mine = waiter.clone();
        let number = self.publish(record, tail, move |_, _| Some(Pending::Call(mine)))?;
        let mut body = self.body(&waiter, since)?;
        let mut reply = R::Reply::new_zeroed();
        let fixed = size_of::<R::Reply>();
        let Some(part) = body.get(..fixed) else { return Err(CUDA_ERROR_UNKNOWN) };
        reply.as_mut_bytes().copy_from_slice(part);
        body.drain(..fixed);
        Ok((number, reply, body))
    }

    /// Asks whether all that is on a stream is finished. One that is not is watched from then on, if that may be.
    ///
    /// # Errors
    /// `CUDA_ERROR_NOT_READY`; otherwise as `call`.
    pub(crate) fn query(&self, stream: &Arc<Stream>) -> Result<(), CUresult> {
        self.bring_back()?;
        let since = Instant::now();
        let tellings = self.tellings.load(Acquire);
        let waiter = Waiter::new();
        let watch = Cell::new(false);
        let number = self.publish_with(
            &[],
            Room::Await,
            |_| {
                watch.set(stream.may_be_watched());
                StreamQuery { stream: stream.handle, watch: watch.get().into(), reserved: 0 }
            },
            |_, _| {
                let mine = waiter.clone();
                Some(match watch.get() {
                    true => Pending::Query(mine, stream.clone()),
                    false => Pending::Call(mine),
                })
            },
        )?;
        self.body(&waiter, since).inspect_err(|_| _ = stream.asked.fetch_max(tellings, Release))?;
        // Else it is the legacy stream, whose own work may be finished before that of the streams that block with
        // it.
        self.tells(stream, number);
        if watch.get() {
            self.finished(stream, number);
        }
        Ok(())
    }

    /// Records an event; silently, if it `may_be` so and nobody has asked for it by now.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post_event(
        &self,
        event: &Arc<Event>,
        stream: &Arc<Stream>,
        flags: u32,
        may_be: bool,
    ) -> Result<(), CUresult> {
        self.bring_back()?;
        let silent = Cell::new(false);
        self.publish_with(
            &[],
            Room::Await,
            |_| {
                silent.set(may_be && !event.was_asked());
                let silent = silent.get().into();
                EventRecord { event: event.handle, stream: stream.handle, flags, silent }
            },
            |_, number| {
                stream.issued(number);
                event.is_recorded(number, stream, silent.get());
                (!silent.get()).then(|| Pending::Event(event.clone(), stream.clone()))
            },
        )
        .map(drop)
    }

    /// Has a stream wait for an event.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn post_wait(
        &self,
        stream: &Stream,
        event: &Event,
        flags: u32,
        is_captured: bool,
    ) -> Result<(), CUresult> {
        self.before_legacy(stream)?;
        let record = StreamWaitEvent { stream: stream.handle, event: event.handle, flags, reserved: 0 };
        self.publish(&record, &[], |_, number| {
            stream.issued(number);
            stream.waited.fetch_max(number, Relaxed);
            // Records are entered under the lane's lock too: this is the one that the server knows then.
            let recorded = event.recorded.load(Relaxed);
            let on = lock(&event.state).stream.clone().filter(|_| !is_captured);
            if let Some(on) = on {
                stream.comes_behind(number, &on, recorded);
            }
            None
        })
        .map(drop)
    }

    /// The program asks for an event for the first time. If its last record was a silent one the server is asked, and
    /// says later when it is reached that is not yet.
    ///
    /// # Errors
    /// `CUDA_ERROR_NOT_READY`; otherwise as `call`.
    pub(crate) fn ask_for(&self, event: &Arc<Event>) -> Result<(), CUresult> {
        let lane = lock(&self.lane);
        let record = event.first_asked();
        drop(lane);
        let Some(record) = record else { return Ok(()) };
        event.catch_up();
        if event.is_reached() {
            return Ok(());
        }
        let asked = || Asked { event: event.clone(), record };
        let tellings = self.tellings.load(Acquire);
        let since = Instant::now();
        let waiter = Waiter::new();
        let pending = Pending::EventQuery(waiter.clone(), asked());
        let watched = EventQuery { event: event.handle, watch: 1, reserved: 0 };
        self.bring_back()
            .and_then(|()| self.publish(&watched, &[], |_, _| Some(pending)))
            // Others may wait for it, too.
            .inspect_err(|code| asked().answered(*code))?;
        self.body(&waiter, since)
            .map(drop)
            .inspect_err(|_| _ = event.asked_again.fetch_max(tellings, Release))
    }

    /// Waits for the answer to what was published at `since`, and gives what came with it.
    fn body(&self, waiter: &Waiter, since: Instant) -> Result<Vec<u8>, CUresult> {
        self.hurry();
        let (status, body) = self.answer(waiter);
        stats::waited(since, body.len());
        if status == CUDA_SUCCESS { Ok(body) } else { Err(status) }
    }

    /// Waits for a copy that was published with this waiter.
    pub(crate) fn wait_for(&self, waiter: &Waiter, bytes: usize) -> Result<(), CUresult> {
        let since = Instant::now();
        self.hurry();
        let (status, _) = self.answer(waiter);
        stats::waited(since, bytes);
        if status == CUDA_SUCCESS { Ok(()) } else { Err(status) }
    }

    /// Waits for an answer, turning the lane meanwhile if that may be.
    fn answer(&self, waiter: &Waiter) -> (CUresult, Vec<u8>) {
        let awaited = self.awaiting();
        if self.helm.take(self.spin, || waiter.is_ready()) {
            self.is_answered();
        }
        waiter::spin_until(self.spin, || waiter.is_ready());
        drop(awaited);
        waiter.wait()
    }

    /// A caller spins for an answer as long as this lives.
    fn awaiting(&self) -> impl Drop + '_ {
        struct Awaiting<'a>(&'a AtomicUsize);
        impl Drop for Awaiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        self.awaited.fetch_add(1, Relaxed);
        Awaiting(&self.awaited)
    }

    /// Whether callers spin for an answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed) != 0
    }

    /// The program is about to be told that everything of a stream up to `number` is finished.
    pub(super) fn finished(&self, stream: &Stream, number: u64) {
        if self.counts.any_copies_out() {
            stream.finished(number);
            stream.forgets_others();
        } else {
            stream.finished_with_others(number);
        }
    }

    /// A caller has what he waited for, and the server nothing to do.
    pub(super) fn is_answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Whether callers spin.
    pub(super) fn spins(&self) -> bool {
        !self.spin.is_zero()
    }

    /// Event `number` of the server's has been taken notice of, and all before it.
    pub(super) fn hears(&self, number: u64) {
        self.heard.store(number, Release);
    }

    /// Whether that is so of the one whose number ends in these bits.
    pub(super) fn has_heard(&self, number: u32) -> bool {
        let heard = self.heard.load(Acquire) as u32;
        heard.wrapping_sub(number).cast_signed() >= 0
    }

    /// The program has published a launch. The first one after an answer is sent at once, where a caller can do that
    /// himself: the server has nothing else to do, and takes longer over it than this takes, so that what follows
    /// catches up. No lock may be held: what has come is taken, too.
    #[inline]
    pub(crate) fn begin(&self) {
        if self.answered.load(Relaxed) && self.answered.swap(false, Relaxed) {
            self.hurry();
            // What others publish meanwhile gathers as ever, and a link that is full is left to the I/O thread.
            let since = Instant::now();
            self.helm.take(self.spin, || !self.is_urgent() || since.elapsed() >= BEGIN_LIMIT);
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// The caller is about to wait for what it has published.
    #[inline]
    pub(crate) fn hurry(&self) {
        self.urgent.store(true, Release);
    }

    /// Whether there is anything to send.
    #[inline]
    pub(crate) fn has_gathered(&self) -> bool {
        self.gathered.load(Acquire)
    }

    /// Whether it is waited for.
    #[inline]
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Acquire)
    }

    /// Spins, while threads are to spin at all, until `done`. Gives whether it came to that.
    pub(crate) fn spin_until(&self, done: impl Fn() -> bool) -> bool {
        let _awaited = self.awaiting();
        self.helm.take(self.spin, &done);
        waiter::spin_until(self.spin, done)
    }

    fn is_full(&self, lane: &Lane) -> bool {
        self.retained.load(SeqCst) + lane.open.full_bytes() + lane.open.open_bytes() > WINDOW
    }

    /// Takes what is to be sent next, for the I/O thread, in exchange for an empty buffer. Gives the number of its
    /// records.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) -> Option<u32> {
        let mut lane = lock(&self.lane);
        // Cleared first: what is published from here on sets it again.
        self.gathered.store(false, Release);
        let records = lane.open.take(buffer);
        if records.is_some() {
            self.retained.fetch_add(buffer.len(), Relaxed);
        }
        if lane.open.has_output() {
            self.gathered.store(true, Release);
        } else {
            self.urgent.store(false, Relaxed);
        }
        records
    }

    /// The server has acknowledged some of what was taken; so many bytes are left.
    pub(super) fn acknowledged(&self, left: usize) {
        self.retained.store(left, SeqCst);
        // A system call even with nobody to wake.
        if self.waiting.load(SeqCst) != 0 {
            drop(lock(&self.lane));
            self.room.notify_all();
        }
    }

    /// A chunk from the device has landed.
    ///
    /// # Errors
    /// When it had landed before.
    pub(crate) fn chunk_landed(&self, number: u64) -> Result<(), ProtocolError> {
        let mut landed = lock(&self.landed);
        landed.mark(number)?;
        // Under the lock, so that it never goes back.
        self.landed_below.store(landed.below(), Release);
        Ok(())
    }

    /// Whether all chunks from the device below this one have landed.
    pub(crate) fn has_landed(&self, below: u64) -> bool {
        self.landed_below.load(Acquire) >= below
    }

    /// Publishes the copy of `source` through bulk chunks. The source must stay as it is until the transfer
    /// says that it is sent. `quiet`: the source has been read when the caller returns (see `concurrency`). Gives the
    /// copy's number as well.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn send_bulk(
        &self,
        stream: &Stream,
        source: RawSlice,
        keep: Option<Box<[u8]>>,
        quiet: bool,
        record: impl FnOnce(u64) -> fusewire_wire::ops::table::CopyIn,
    ) -> Result<(u64, Arc<Transfer>), CUresult> {
        let bytes = source.len();
        let slot_bytes = u32::try_from(self.slot_bytes).unwrap_or(u32::MAX);
        let chunk_bytes = usize::try_from(chunk_bytes(bytes as u64, slot_bytes)).unwrap_or(self.slot_bytes);
        let chunks = bytes.div_ceil(chunk_bytes) as u64;
        let waited_for = quiet && keep.is_none();
        self.before_legacy(stream)?;
        let mut made = None;
        let number = self.publish_with(
            &[],
            Room::Await,
            |lane| {
                let first = lane.next_chunk;
                lane.next_chunk += chunks;
                made = Some(self.transfers.queue(first, source, keep, waited_for, chunk_bytes));
                record(first)
            },
            |_, number| {
                if quiet {
                    self.quiet_on(stream, number);
                } else {
                    stream.issued(number);
                }
                None
            },
        )?;
        stats::published(bytes);
        self.push_chunks();
        made.map(|transfer| (number, transfer)).ok_or(CUDA_ERROR_UNKNOWN)
    }

    /// As `send_bulk`, for a record of which one chunk is a part. Gives its number.
    ///
    /// # Errors
    /// When the session is over.
    pub(crate) fn send_chunk<R: AsyncRecord>(
        &self,
        stream: &Stream,
        packed: Box<[u8]>,
        record: impl FnOnce(u64) -> R,
    ) -> Result<u64, CUresult> {
        // SAFETY: the transfer keeps the buffer until it is sent.
        let source = unsafe { RawSlice::new(packed.as_ptr(), packed.len()) };
        let bytes = packed.len();
        self.before_legacy(stream)?;
        let number = self.publish_with(
            &[],
            Room::Await,
            |lane| {
                let first = lane.next_chunk;
                lane.next_chunk += 1;
                self.transfers.queue(first, source, Some(packed), false, self.slot_bytes);
                record(first)
            },
            |_, number| {
                stream.issued(number);
                None
            },
        )?;
        stats::published(bytes);
        self.push_chunks();
        Ok(number)
    }

    /// Hands chunks for which there is credit to the bulk lanes.
    pub(crate) fn push_chunks(&self) {
        self.transfers.push(&self.outgoing);
    }
}
