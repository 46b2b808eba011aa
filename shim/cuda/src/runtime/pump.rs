//! The I/O thread of a session: sends the batches that callers fill, and takes what the server says.
//!
//! While one batch is on its way the next one gathers. The thread spins briefly after activity, then
//! sleeps in the kernel until a caller wakes it or the server speaks; with few cores it does not spin.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use fusewire_link::{BulkSink, ChunkHeader, CommandLane, LinkError, RawSliceMut, Wait};
use fusewire_wire::bulk::LaneCounts;
use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::{CloseReason, FrameHeader, FrameKind, Record};
use fusewire_wire::ops::events::Event;
use fusewire_wire::session::{AckPolicy, Flow, Inbox, Sink};

use zerocopy::IntoBytes;

use crate::abi::result::CUDA_SUCCESS;

use super::host_functions::HostThread;
use super::memory_state;
use super::session::{Pending, Session, lock};
use super::transfer::Transfers;
use super::{handles, mirror};

/// Runs the I/O thread until the session is over.
pub(crate) fn run(mut link: Box<dyn CommandLane>, session: &Arc<Session>, spin: Duration) {
    let mut inbox = Inbox::new(AckPolicy::default());
    let mut events = Events {
        session: session.clone(),
        barrier: LaneCounts::default(),
        pongs: Vec::new(),
        host: HostThread::new(session.clone()),
    };
    let mut active = Instant::now();
    let why = loop {
        match turn(&mut *link, session, &mut inbox, &mut events, &mut active, spin) {
            Ok(()) => {}
            Err(why) => break why,
        }
    };
    session.lose(&why.to_string());
}

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum Over {
    Link(LinkError),
    Protocol(ProtocolError),
    Closed(CloseReason, String),
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
            Self::Closed(_, text) => write!(f, "the server closed it: {text}"),
        }
    }
}

fn turn(
    link: &mut dyn CommandLane, session: &Arc<Session>, inbox: &mut Inbox, events: &mut Events,
    active: &mut Instant, spin: Duration,
) -> Result<(), Over> {
    let mut busy = false;
    while link.in_flight() < 2 {
        let frame = session.lane().outbox.seal(inbox.applied());
        let Some(frame) = frame else { break };
        link.send(frame)?;
        inbox.ack_sent(inbox.applied());
        busy = true;
    }
    if inbox.ack_due() {
        link.send(Arc::new(FrameHeader::bare(FrameKind::Ack, 0, inbox.applied()).as_bytes().to_vec()))?;
        inbox.ack_sent(inbox.applied());
    }
    for number in events.pongs.drain(..) {
        link.send(Arc::new(FrameHeader::bare(FrameKind::Pong, number, inbox.applied()).as_bytes().to_vec()))?;
    }
    let wait = if busy || active.elapsed() < spin { Wait::No } else { Wait::Forever };
    let mut outcome = Ok(());
    let turn = link.turn(wait, &mut |bytes| {
        if outcome.is_ok() {
            outcome = inbox.receive(bytes, events);
        }
    });
    outcome?;
    let turn = turn?;
    if inbox.is_paused() && session.has_landed(&events.barrier) {
        session.held_back.store(false, Relaxed);
        inbox.resume(events)?;
        busy = true;
    }
    if busy || turn.received_bytes != 0 || turn.sent_frames != 0 || turn.woken {
        *active = Instant::now();
    } else if wait == Wait::No {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Takes the server's events, in order.
struct Events {
    session: Arc<Session>,
    /// Chunks that must have landed before later events are seen.
    barrier: LaneCounts,
    pongs: Vec<u64>,
    host: HostThread,
}

impl Sink for Events {
    type Error = Over;

    fn record(&mut self, record: Record<'_>) -> Result<Flow, Over> {
        let Some(event) = Event::decode(record.op, record.body) else {
            return Err(Over::Closed(
                CloseReason::Protocol,
                format!("it sent event {:#06x}, which this client does not know", record.op),
            ));
        };
        Ok(self.event(&event))
    }

    fn ack(&mut self, seq: u64) -> Result<(), Over> {
        Ok(self.session.acknowledged(seq)?)
    }

    fn close(&mut self, reason: CloseReason, text: String) -> Result<(), Over> {
        Err(Over::Closed(reason, text))
    }

    fn ping(&mut self, number: u64) {
        self.pongs.push(number);
    }
}

impl Events {
    fn event(&mut self, event: &Event<'_>) -> Flow {
        let session = &self.session;
        let take = |number: u64| lock(&session.pending).remove(&number);
        match event {
            Event::Reply(reply, body) => {
                if let Some(Pending::Call(waiter)) = take(reply.number) {
                    let fixed = body.len().saturating_sub(reply.tail_bytes.next_multiple_of(8) as usize);
                    let used = (fixed + reply.tail_bytes as usize).min(body.len());
                    waiter.complete(reply.status, body[..used].to_vec());
                }
            }
            Event::Done(done, _) => self.done(done.number, done.status),
            Event::Failed(failed, _) => {
                if let Some(handles::Object::Context(context)) = handles::object(failed.context) {
                    let cell = if failed.sticky != 0 { &context.fault } else { &context.late_error };
                    let _ = cell.compare_exchange(CUDA_SUCCESS, failed.status, Relaxed, Relaxed);
                }
                if super::log::traces() {
                    eprintln!("fusewire: operation {} failed with {}", failed.number, failed.status);
                }
                match take(failed.number) {
                    Some(Pending::CopyOut(copy)) => {
                        session.copies_out.fetch_sub(1, Relaxed);
                        copy.complete(failed.number, failed.status);
                    }
                    Some(Pending::Event(event, _)) => event.reach(failed.number, failed.status),
                    Some(Pending::Call(waiter)) => waiter.complete(failed.status, Vec::new()),
                    Some(Pending::Reclaim(_) | Pending::HostFunction { .. }) | None => {}
                }
            }
            Event::Credit(credit, _) => {
                session.transfers.raise_credit(credit.upto);
                session.push_chunks();
            }
            Event::Barrier(barrier, _) => {
                self.barrier = barrier.counts;
                session.held_back.store(true, std::sync::atomic::Ordering::SeqCst);
                if !session.has_landed(&self.barrier) {
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
                    copy.place(data.offset, bytes);
                }
            }
            Event::HostCall(call, _) => self.host.call(call.number),
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
        let session = &self.session;
        match lock(&session.pending).remove(&number) {
            Some(Pending::CopyOut(copy)) => {
                session.copies_out.fetch_sub(1, Relaxed);
                copy.complete(number, status);
            }
            Some(Pending::Event(event, stream)) => {
                if status == CUDA_SUCCESS {
                    stream.finished(number);
                }
                event.reach(number, status);
            }
            Some(Pending::Reclaim(reclaim)) => memory_state::reclaim(reclaim),
            Some(Pending::Call(waiter)) => waiter.complete(status, Vec::new()),
            Some(Pending::HostFunction { .. }) | None => {}
        }
    }
}

/// The client's end of a bulk lane.
pub(crate) struct Landings {
    pub(crate) session: Arc<Session>,
    pub(crate) lane: usize,
}

impl Landings {
    fn refuse(&self, what: &str) -> LinkError {
        LinkError::PeerMisbehaved { peer: format!("the server, on bulk lane {},", self.lane), what: what.to_owned() }
    }
}

impl BulkSink for Landings {
    fn place(&mut self, header: &ChunkHeader) -> Result<RawSliceMut, LinkError> {
        let copy = match lock(&self.session.pending).get(&header.id) {
            Some(Pending::CopyOut(copy)) => copy.clone(),
            _ => return Err(self.refuse(&format!("data of operation {}, which is no pending copy", header.id))),
        };
        copy.room(header.offset, header.bytes as usize).ok_or_else(|| {
            self.refuse(&format!(
                "{} bytes at {} for a copy of {} bytes",
                header.bytes, header.offset, copy.bytes
            ))
        })
    }

    fn landed(&mut self, _header: &ChunkHeader) {
        if let Some(landed) = self.session.landed.get(self.lane) {
            landed.fetch_add(1, Release);
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if self.session.held_back.load(Acquire) {
            self.session.wake();
        }
    }

    fn sent(&mut self, token: u64) {
        Transfers::sent(token);
    }

    fn closed(&mut self, why: LinkError) {
        self.session.lose(&why.to_string());
    }
}
