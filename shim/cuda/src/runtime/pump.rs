//! The I/O thread of a session: sends the batches that callers fill, and takes what the server says.
//!
//! While one batch is on its way the next one gathers. The thread spins briefly after activity, then
//! sleeps in the kernel until a caller wakes it or the server speaks; with few cores it does not spin.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use fusewire_link::compress::{Compress, Compressor, Expander};
use fusewire_link::{BulkSink, ChunkHeader, CommandLane, Delivery, LinkError, OutChunk, RawSliceMut, Wait};
use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::{CloseReason, FrameHeader, FrameKind, Record, close_frame};
use fusewire_wire::ops::events::Event;
use fusewire_wire::session::pulse::{Patience, Pulse};
use fusewire_wire::session::{AckPolicy, Flow, Inbox, Retained, SealedBatch, Sink};

use zerocopy::{FromBytes, IntoBytes};

use crate::abi::result::{CUDA_ERROR_DEVICE_UNAVAILABLE, CUDA_ERROR_NOT_READY, CUDA_SUCCESS};

use super::copy_out::CopyOut;
use super::host_functions::HostThreads;
use super::kept;
use super::memory_state;
use super::objects::Stream;
use super::pending::{Pending, Reclaim};
use super::session::{Room, Session, lock};
use super::stats;
use super::transfer::Transfers;
use super::{handles, mirror, waiter};

/// A server that has not spoken for this long is asked to; one that stays silent is gone. Long, because
/// the driver may take its time over one call (compiling a large image), and a dead host is noticed sooner,
/// by TCP.
const PATIENCE: Patience =
    Patience { ping: 10_000_000_000, silence: 180_000_000_000, opening: u64::MAX, resume: u64::MAX };

/// How long what nobody waits for gathers before it is sent: a few launches go in one message, and in one
/// message with the synchronisation that follows them. The GPU would not have begun sooner by more than this, and
/// callers meet the I/O thread at their lock that much less often. Not where cores are scarce, and the thread sleeps
/// until it is woken.
const GATHER: Duration = Duration::from_micros(3);
/// How much longer it may be behind a message of many records, for each of them: half of what a launch takes the
/// server, so that it does not run out of them. And the longest of all.
const GATHER_RECORD: Duration = Duration::from_nanos(1500);
const GATHER_MOST: Duration = Duration::from_micros(192);

/// How long what kernels may have changed in mirrored memory waits for somebody to ask for it: a program may look
/// at the memory without asking. Twice as long after each time that nothing had changed, up to the other.
const UNASKED: Duration = Duration::from_millis(1);
const UNASKED_IN_VAIN: Duration = Duration::from_millis(16);

/// How often memory that is kept is looked at while there is other work.
const LOOK: Duration = Duration::from_secs(1);

/// How long a bulk lane that is closed leaves it to the command lane to report the end.
const COMMAND_LANE_FIRST: Duration = Duration::from_millis(250);

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum Over {
    Link(LinkError),
    Protocol(ProtocolError),
    /// The server says why.
    Closed(String),
}

impl From<LinkError> for Over {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<ProtocolError> for Over {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::Closed(text) => write!(f, "the server closed it: {text}"),
        }
    }
}

pub(crate) struct Pump {
    session: Arc<Session>,
    inbox: Inbox,
    events: Events,
    start: Instant,
    /// When something last happened.
    active: Instant,
    pulse: Pulse,
    spin: Duration,
    /// Since when there has been something to send.
    gathering: Option<Instant>,
    /// How long it gathers.
    gather: Duration,
    /// When memory that is kept was last looked at.
    looked: Instant,
    /// Since when there have been mirrors that are behind the device.
    owing: Option<Instant>,
    /// How long that may be the case with nobody asking.
    unasked: Duration,
}

impl Pump {
    pub(crate) fn new(session: Arc<Session>, spin: Duration) -> Self {
        let events = Events {
            session: session.clone(),
            barrier: 0,
            pong: None,
            sent: Retained::new(super::session::outbox()),
            host: HostThreads::new(session.clone()),
        };
        Self {
            session,
            inbox: Inbox::new(AckPolicy::default()),
            events,
            start: Instant::now(),
            active: Instant::now(),
            pulse: Pulse::open(PATIENCE, 0),
            spin,
            gathering: None,
            gather: GATHER,
            looked: Instant::now(),
            owing: None,
            unasked: UNASKED,
        }
    }

    /// Tells the server why, if it is to be told, and everybody here.
    pub(crate) fn end(&mut self, link: &mut dyn CommandLane, over: &Over) {
        if let Over::Protocol(error) = over {
            // Best effort: the server may be gone, or be the one that does not listen.
            let farewell = close_frame(CloseReason::Protocol, &error.to_string(), self.inbox.applied());
            if link.send(Arc::new(farewell)).is_ok() {
                let _ = link.turn(Wait::AtMost(Duration::from_millis(50)), &mut |_| {});
            }
        }
        self.session.lose(&over.to_string());
    }

    /// Whether nothing has happened for so long that it is time to sleep: as long as a caller spins, while one does.
    pub(crate) fn is_idle(&self) -> bool {
        let spin = if self.session.is_awaited() { self.spin * waiter::LONGER } else { self.spin };
        self.active.elapsed() >= spin
    }

    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, when: Instant) -> u64 {
        u64::try_from(when.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Says everything that is to be said, and hears what has come. Sleeps, if it may, when nothing has happened for
    /// some time.
    ///
    /// # Errors
    /// Why the session is over.
    pub(crate) fn turn(&mut self, link: &mut dyn CommandLane, may_sleep: bool) -> Result<(), Over> {
        let owed = self.bring_back();
        let mut busy = self.send(link)?;
        let wait = if busy || !may_sleep || !self.is_idle() {
            if self.active.saturating_duration_since(self.looked) > LOOK {
                self.give_back_idle();
            }
            Wait::No
        } else {
            let until = self.pulse.deadline().unwrap_or(u64::MAX).saturating_sub(self.now());
            let until = Duration::from_nanos(until).max(Duration::from_millis(1));
            let until = self.give_back_idle().map_or(until, |due| due.max(LOOK).min(until));
            Wait::AtMost(owed.map_or(until, |owed| owed.min(until)))
        };
        let mut outcome = Ok(());
        let turn = link.turn(wait, &mut |bytes| {
            if outcome.is_ok() {
                outcome = self.inbox.receive(bytes, &mut self.events);
            }
        });
        outcome?;
        let turn = turn?;
        if self.inbox.is_paused() && self.session.has_landed(self.events.barrier) {
            self.session.held_back.store(false, Relaxed);
            self.inbox.resume(&mut self.events)?;
            busy = true;
        }
        if busy || turn.received_bytes != 0 || turn.sent_frames != 0 || turn.woken {
            self.active = Instant::now();
            if turn.received_bytes != 0 {
                stats::received_batches(self.inbox.applied());
                self.pulse.heard(self.at(self.active));
            }
        } else if wait == Wait::No {
            if self.active.elapsed() < self.spin { std::hint::spin_loop() } else { std::thread::yield_now() }
        } else if self.pulse.check(self.now())? {
            link.send(bare(FrameKind::Ping, 1, self.inbox.applied()))?;
        }
        Ok(())
    }

    /// Has memory given back that the program has not asked for again. Says when to look next.
    fn give_back_idle(&mut self) -> Option<Duration> {
        self.looked = Instant::now();
        kept::give_back_idle(self.looked).map(|due| due.saturating_duration_since(self.looked))
    }

    /// Has mirrors brought up to date that nobody has asked for. Gives when that is due, if anything is owed.
    fn bring_back(&mut self) -> Option<Duration> {
        if !self.session.owed.any() {
            self.owing = None;
            return None;
        }
        let since = self.owing.get_or_insert_with(Instant::now).elapsed();
        if self.session.owed.take_changed() {
            self.unasked = UNASKED;
        }
        if since < self.unasked {
            return Some(self.unasked.saturating_sub(since));
        }
        self.unasked = (self.unasked * 2).min(UNASKED_IN_VAIN);
        self.owing = None;
        // A session that is over is found so in a moment.
        let _ = mirror::bring_back(&self.session, Room::Take);
        Some(self.unasked)
    }

    /// Hands over what callers have gathered. `true` if there was anything.
    fn send(&mut self, link: &mut dyn CommandLane) -> Result<bool, Over> {
        let mut busy = false;
        while link.in_flight() < 2 {
            if !self.is_ripe() {
                busy |= self.gathering.is_some();
                break;
            }
            let applied = self.inbox.applied();
            let Some(frame) = self.seal(applied) else { break };
            self.gathering = None;
            self.gather = (GATHER_RECORD * records(&frame)).clamp(GATHER, GATHER_MOST);
            link.send(frame)?;
            self.inbox.ack_sent(applied);
            stats::sent_batch();
            busy = true;
        }
        let applied = self.inbox.applied();
        if self.inbox.ack_due() {
            link.send(bare(FrameKind::Ack, 0, applied))?;
            self.inbox.ack_sent(applied);
        }
        if let Some(number) = self.events.pong.take() {
            link.send(bare(FrameKind::Pong, number, applied))?;
        }
        Ok(busy)
    }

    /// Makes a batch of what callers have gathered. `ack` goes along.
    fn seal(&mut self, ack: u64) -> Option<SealedBatch> {
        let sent = &mut self.events.sent;
        let mut batch = sent.blank();
        match Arc::get_mut(&mut batch).and_then(|buffer| self.session.take(buffer)) {
            Some(records) => sent.seal(batch, records),
            None => sent.discard(batch),
        }
        sent.next(ack)
    }

    /// Whether what callers have gathered, if anything, is to be sent now.
    fn is_ripe(&mut self) -> bool {
        if !self.session.has_gathered() {
            self.gathering = None;
            return false;
        }
        if self.spin.is_zero() || self.session.is_urgent() {
            return true;
        }
        self.gathering.get_or_insert_with(Instant::now).elapsed() >= self.gather
    }
}

/// How many records a batch has.
fn records(batch: &[u8]) -> u32 {
    FrameHeader::read_from_prefix(batch).map_or(0, |(header, _)| header.records)
}

fn bare(kind: FrameKind, number: u64, applied: u64) -> Arc<Vec<u8>> {
    Arc::new(FrameHeader::bare(kind, number, applied).as_bytes().to_vec())
}

/// Takes the server's events, in order.
struct Events {
    session: Arc<Session>,
    /// All chunks below this must have landed before later events are seen.
    barrier: u64,
    /// The latest Ping to be answered.
    pong: Option<u64>,
    /// What has been sent and not been acknowledged.
    sent: Retained,
    host: HostThreads,
}

impl Sink for Events {
    type Error = Over;

    fn record(&mut self, record: Record<'_>) -> Result<Flow, Over> {
        let Some(event) = Event::decode(record.op, record.body) else {
            return Err(Over::Closed(format!(
                "it sent event {:#06x}, which this client does not know",
                record.op
            )));
        };
        let flow = self.event(&event);
        self.session.hears(record.number);
        Ok(flow)
    }

    fn ack(&mut self, seq: u64) -> Result<(), Over> {
        let before = self.sent.bytes();
        self.sent.ack(seq)?;
        if self.sent.bytes() != before {
            self.session.acknowledged(self.sent.bytes());
        }
        Ok(())
    }

    fn close(&mut self, _reason: CloseReason, text: String) -> Result<(), Over> {
        Err(Over::Closed(text))
    }

    fn ping(&mut self, number: u64) {
        self.pong = Some(number);
    }
}

impl Events {
    fn event(&mut self, event: &Event<'_>) -> Flow {
        let session = &self.session;
        match event {
            Event::Reply(reply, body) => match self.settled(reply.number) {
                Some(Pending::Call(waiter)) => {
                    let tail = reply.tail_bytes as usize;
                    let fixed = body.len().saturating_sub(tail.next_multiple_of(8));
                    let used = (fixed + tail).min(body.len());
                    waiter.complete(reply.status, body[..used].to_vec());
                }
                Some(Pending::Query(waiter, stream)) => {
                    if reply.status == CUDA_ERROR_NOT_READY {
                        stream.watched.fetch_max(reply.number, Release);
                        lock(&session.pending).insert(reply.number, Pending::Watch(stream));
                    }
                    waiter.complete(reply.status, Vec::new());
                }
                Some(Pending::EventQuery(waiter, asked)) => {
                    if reply.status != CUDA_ERROR_NOT_READY {
                        asked.answered(reply.status);
                    } else {
                        lock(&session.pending).insert(reply.number, Pending::EventWatch(asked));
                        // Who ends the session may have looked for it before.
                        if session.check().is_err() {
                            self.done(reply.number, CUDA_ERROR_DEVICE_UNAVAILABLE);
                        }
                    }
                    waiter.complete(reply.status, Vec::new());
                }
                _ => {}
            },
            Event::Done(done, _) => self.done(done.number, done.status),
            Event::Failed(failed, _) => {
                if let Some(handles::Object::Context(context)) = handles::object(failed.context) {
                    let cell = if failed.sticky != 0 { &context.fault } else { &context.late_error };
                    let _ = cell.compare_exchange(CUDA_SUCCESS, failed.status, Relaxed, Relaxed);
                }
                if super::log::traces() {
                    eprintln!("fusewire: operation {} failed with {}", failed.number, failed.status);
                }
                match self.pending(failed.number) {
                    Some(Pending::CopyOut(copy)) => self.copied(&copy, failed.number, failed.status),
                    Some(Pending::Event(event, _)) => event.reach(failed.number, failed.status),
                    Some(Pending::EventWatch(asked)) => asked.answered(failed.status),
                    Some(Pending::EventQuery(waiter, asked)) => {
                        asked.answered(failed.status);
                        waiter.complete(failed.status, Vec::new());
                    }
                    Some(Pending::Call(waiter) | Pending::Query(waiter, _)) => {
                        waiter.complete(failed.status, Vec::new());
                    }
                    Some(Pending::Watch(stream)) => unwatch(&stream, failed.number),
                    Some(Pending::Reclaim(slot @ Reclaim::Slot(_))) => memory_state::reclaim(slot),
                    Some(Pending::Stop(stop)) => stop.give_up(),
                    Some(Pending::Reclaim(_) | Pending::HostFunction { .. }) | None => {}
                }
            }
            Event::Credit(credit, _) => {
                session.transfers.raise_credit(credit.upto);
                session.push_chunks();
            }
            Event::Barrier(barrier, _) => {
                self.barrier = barrier.chunks;
                session.held_back.store(true, Relaxed);
                // Either this thread sees what has landed, or the lane sees that it is waited for.
                fence(SeqCst);
                if !session.has_landed(self.barrier) {
                    return Flow::Pause;
                }
                session.held_back.store(false, Relaxed);
            }
            Event::Data(data, bytes) => {
                let copy = match lock(&session.pending).get(&data.number) {
                    Some(Pending::CopyOut(copy)) => Some(copy.clone()),
                    _ => None,
                };
                if let (Some(copy), Some(bytes)) = (copy, bytes.get(..data.bytes as usize)) {
                    if !copy.is_clear(data.offset, bytes.len()) {
                        if copy.room(data.offset, bytes.len()).is_some() {
                            session.overlaps.keep(&copy, data.offset, bytes.to_vec());
                        }
                    } else if copy.place(data.offset, bytes) {
                        session.overlaps.landed(&copy, data.offset, bytes.len());
                        if copy.is_of_mirror {
                            copy.unpack_if_whole();
                        }
                    }
                }
            }
            Event::HostCall(call, _) => {
                // What the stream comes behind is in its place for the function to see.
                session.overlaps.unpack_whole();
                self.host.call(call.number);
            }
            Event::Print(print, text) => {
                if let Some(text) = text.get(..print.bytes as usize) {
                    super::log::print(print.descriptor, text);
                }
            }
            Event::Word(word, _) => mirror::word(word.address, word.value, word.bytes),
        }
        Flow::Continue
    }

    fn done(&self, number: u64, status: u32) {
        match self.settled(number) {
            Some(Pending::CopyOut(copy)) => self.copied(&copy, number, status),
            Some(Pending::Event(event, stream)) => {
                if status == CUDA_SUCCESS {
                    self.session.finished(&stream, number);
                }
                event.reach(number, status);
            }
            Some(Pending::EventWatch(asked)) => asked.answered(status),
            Some(Pending::EventQuery(waiter, asked)) => {
                asked.answered(status);
                waiter.complete(status, Vec::new());
            }
            Some(Pending::Reclaim(reclaim)) => memory_state::reclaim(reclaim),
            Some(Pending::Call(waiter) | Pending::Query(waiter, _)) => waiter.complete(status, Vec::new()),
            Some(Pending::Watch(stream)) if status == CUDA_SUCCESS => self.session.finished(&stream, number),
            // Its context's error has come before this.
            Some(Pending::Watch(stream)) => unwatch(&stream, number),
            // Its stream never gets there.
            Some(Pending::Stop(stop)) => stop.give_up(),
            Some(Pending::HostFunction { .. }) | None => {}
        }
    }

    /// As [`pending`](Self::pending), for what the program may learn of. What streams have brought by now is in its place
    /// then, also what is to be unpacked, and of which nothing has been told yet.
    fn settled(&self, number: u64) -> Option<Pending> {
        self.session.overlaps.unpack_whole();
        self.pending(number)
    }

    /// What is pending under a number. It is taken out, since what follows takes locks under which others publish;
    /// but for a copy into host memory, which stays until it is [`copied`](Self::copied).
    fn pending(&self, number: u64) -> Option<Pending> {
        let mut pending = lock(&self.session.pending);
        match pending.get(&number) {
            Some(Pending::CopyOut(copy)) => Some(Pending::CopyOut(copy.clone())),
            _ => pending.remove(number),
        }
    }

    /// Ends a copy into host memory. It stays pending until it has been unpacked: who frees the memory, or looks
    /// for what writes there, finds it until then.
    fn copied(&self, copy: &CopyOut, number: u64, status: u32) {
        let good = status == CUDA_SUCCESS;
        self.session.overlaps.finish(copy, good, || copy.complete(number, status));
        // Dropped under no lock.
        let gone = lock(&self.session.pending).remove(number);
        drop(gone);
    }
}

/// What was on a stream at that query will not be finished: the next query asks the server.
fn unwatch(stream: &Stream, number: u64) {
    let _ = stream.watched.compare_exchange(number, 0, Relaxed, Relaxed);
}

/// The client's end of a bulk lane.
pub(crate) struct Landings {
    pub(crate) session: Arc<Session>,
    pub(crate) lane: usize,
    /// The copy that a chunk is being received for: its buffer stays until the chunk has landed, whatever
    /// becomes of the copy meanwhile.
    receiving: Option<Arc<CopyOut>>,
    /// Where it is received, if something has to be in the program's memory first.
    aside: Option<Vec<u8>>,
    compressor: Compressor,
    expander: Expander,
}

impl Landings {
    pub(crate) fn new(session: Arc<Session>, lane: usize, compress: Compress) -> Self {
        session.lane_opened();
        let (compressor, expander) = (Compressor::new(compress), Expander::default());
        Self { session, lane, receiving: None, aside: None, compressor, expander }
    }

    fn refuse(&self, what: &str) -> LinkError {
        LinkError::PeerMisbehaved {
            peer: format!("the server, on bulk lane {},", self.lane),
            what: what.to_owned(),
        }
    }
}

impl BulkSink for Landings {
    fn place(&mut self, header: &ChunkHeader) -> Result<RawSliceMut, LinkError> {
        let copy = match lock(&self.session.pending).get(&header.copy) {
            Some(Pending::CopyOut(copy)) => copy.clone(),
            _ => {
                return Err(
                    self.refuse(&format!("data of operation {}, which is no pending copy", header.copy))
                );
            }
        };
        let bytes = header.contents();
        let expands = header.decoded == 0 || header.decoded > header.bytes;
        if !expands || bytes as usize > self.session.slot_bytes {
            return Err(self.refuse(&format!("{} bytes that come to {bytes}", header.bytes)));
        }
        let room = copy.room(header.offset, bytes as usize).ok_or_else(|| {
            self.refuse(&format!("{bytes} bytes at {} for a copy of {} bytes", header.offset, copy.bytes))
        })?;
        let room = if copy.is_clear(header.offset, bytes as usize) {
            room
        } else {
            let aside = self.aside.insert(vec![0; bytes as usize]);
            // SAFETY: the buffer is left alone until the chunk has landed, or the lane is over.
            unsafe { RawSliceMut::new(aside.as_mut_ptr(), aside.len()) }
        };
        self.receiving = Some(copy);
        Ok(self.expander.place(header, room))
    }

    fn landed(&mut self, header: &ChunkHeader) {
        let expanded = self.expander.landed(header);
        stats::landed(header.contents(), header.bytes);
        let (copy, aside) = (self.receiving.take(), self.aside.take());
        if let (Some(copy), Ok(())) = (copy, &expanded) {
            match aside {
                Some(data) => self.session.overlaps.keep(&copy, header.offset, data),
                None => self.session.overlaps.landed(&copy, header.offset, header.contents() as usize),
            }
        }
        if let Err(error) = expanded.and_then(|()| self.session.chunk_landed(header.number)) {
            // It never lands, and whoever waits for it is told that the session is over.
            self.session.lose(&self.refuse(&error.to_string()).to_string());
            return;
        }
        fence(SeqCst);
        if self.session.held_back.load(Acquire) {
            self.session.wake();
        }
    }

    fn prepare(&mut self, chunk: OutChunk, delivery: &dyn Fn() -> Option<Delivery>) -> OutChunk {
        let chunk = self.compressor.prepare(chunk, delivery);
        self.session.packing.saw(self.compressor.link());
        stats::carried(chunk.header.contents(), chunk.header.bytes);
        chunk
    }

    fn sent(&mut self, token: u64) {
        self.compressor.sent();
        Transfers::sent(token);
    }

    fn closed(&mut self, why: LinkError) {
        // A session that ends closes all its connections, and only the command lane says why: it goes first.
        let until = Instant::now() + COMMAND_LANE_FIRST;
        while !self.session.is_lost() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.session.lose(&why.to_string());
    }
}

/// The lane's thread gives its sink up as its last act, or as it dies.
impl Drop for Landings {
    fn drop(&mut self) {
        self.session.lane_closed();
    }
}
