//! One direction's receiver: bytes in, records out, each exactly once and in order.
//!
//! A frame that lies whole in the bytes given is parsed there; only a frame cut by their end is gathered in a
//! buffer, which grows with what has arrived and never with what a header promises. Batches that were already
//! applied are skipped, gaps are refused. The sending end is `outbox`.

use crate::error::ProtocolError;
use crate::frame::{CloseReason, FRAME_HEADER_BYTES, Frame, FrameKind, Record, read_close, record_at};

/// Whether the inbox goes on to the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop after this record and keep what follows until [`Inbox::resume`].
    Pause,
}

/// What takes the contents of frames.
///
/// An error from any of these ends the inbox: nothing more is delivered.
pub trait Sink {
    /// What taking a record can fail with.
    type Error: From<ProtocolError>;

    /// A record, exactly once and in order.
    ///
    /// # Errors
    /// Whatever makes the session end.
    fn record(&mut self, record: Record<'_>) -> Result<Flow, Self::Error>;

    /// The peer has applied our batches up to `seq`. May repeat and go back after a reconnect.
    ///
    /// # Errors
    /// Whatever makes the session end, such as an acknowledgement of what was never sent.
    fn ack(&mut self, seq: u64) -> Result<(), Self::Error>;

    /// The peer ends the session. Nothing follows.
    ///
    /// # Errors
    /// Whatever the caller wants `receive` to return.
    fn close(&mut self, reason: CloseReason, text: String) -> Result<(), Self::Error>;

    /// The peer wants a Pong with this number.
    fn ping(&mut self, number: u64);

    /// The peer answers a Ping.
    fn pong(&mut self, _number: u64) {}
}

/// When an acknowledgement is due although there is nothing else to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckPolicy {
    /// After this many bytes of batches.
    pub bytes: usize,
    /// After this many batches.
    pub batches: u32,
}

impl Default for AckPolicy {
    fn default() -> Self {
        Self { bytes: 1 << 20, batches: 32 }
    }
}

/// The most bytes that are kept while paused. Beyond any window that a peer of ours uses.
const MAX_HELD: usize = 128 << 20;
/// A gathering buffer that once held more than this is given back.
const KEEP_CAPACITY: usize = 1 << 20;

/// The receiving half of one direction of a session.
#[derive(Debug)]
pub struct Inbox {
    policy: AckPolicy,
    applied: u64,
    next_record: u64,
    /// Bytes not yet delivered; those before `start` are done with.
    gathered: Vec<u8>,
    start: usize,
    /// Where a pause interrupted the batch at `start`: payload offset and index of the next record.
    interrupted: Option<(usize, u32)>,
    paused: bool,
    /// The peer said Close: whatever follows is ignored.
    closed: bool,
    failed: bool,
    /// Applied since the last acknowledgement went out.
    owed_bytes: usize,
    owed_batches: u32,
    ack_asked: bool,
}

enum Done {
    /// The frame is done with.
    Whole,
    /// The sink paused in the middle of the batch.
    Midway,
}

impl Inbox {
    /// An inbox that has received nothing.
    pub fn new(policy: AckPolicy) -> Self {
        Self {
            policy,
            applied: 0,
            next_record: 1,
            gathered: Vec::new(),
            start: 0,
            interrupted: None,
            paused: false,
            closed: false,
            failed: false,
            owed_bytes: 0,
            owed_batches: 0,
            ack_asked: false,
        }
    }

    /// Takes the next bytes of the connection, all of them, and delivers what they complete. While paused they
    /// are only kept.
    ///
    /// # Errors
    /// Anything that a sound peer does not send, or the sink's own error. The inbox has ended then.
    pub fn receive<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        if self.failed {
            return Err(
                ProtocolError::Misuse { what: "bytes were given to a session that has failed" }.into()
            );
        }
        if self.closed {
            return Ok(());
        }
        let result = self.take(bytes, sink);
        self.failed |= result.is_err();
        result
    }

    /// Goes on after a pause, with what was kept meanwhile.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub fn resume<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        self.paused = false;
        self.receive(&[], sink)
    }

    /// Whether the sink paused. Best not to read from the connection meanwhile.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The last batch of which every record was delivered.
    #[inline]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The number that the next record will have.
    #[inline]
    pub fn next_record(&self) -> u64 {
        self.next_record
    }

    /// Whether an acknowledgement should go out by itself if nothing else does.
    #[inline]
    pub fn ack_due(&self) -> bool {
        self.owed_batches != 0
            && (self.ack_asked
                || self.owed_bytes >= self.policy.bytes
                || self.owed_batches >= self.policy.batches)
    }

    /// Whether anything was applied that the peer has not been told of.
    #[inline]
    pub fn ack_owed(&self) -> bool {
        self.owed_batches != 0
    }

    /// A frame with this `ack` field goes out now: if it says all, nothing is owed any more.
    #[inline]
    pub fn ack_sent(&mut self, seq: u64) {
        if seq == self.applied {
            self.owed_bytes = 0;
            self.owed_batches = 0;
            self.ack_asked = false;
        }
    }

    /// The connection is gone: forgets the frame that it cut, keeps the batch that is being delivered. Gives
    /// the last batch held in full: the peer replays what follows it.
    pub fn link_lost(&mut self) -> u64 {
        if self.interrupted.is_some() {
            let rest = self.gathered.get(self.start..).unwrap_or_default();
            // An interrupted batch was complete and sound when its delivery began.
            let whole = match Frame::parse(rest) {
                Ok(Some(frame)) => FRAME_HEADER_BYTES + frame.bytes,
                _ => 0,
            };
            self.gathered.truncate(self.start + whole);
            return self.applied + 1;
        }
        self.gathered.clear();
        self.start = 0;
        self.applied
    }

    fn take<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        loop {
            if self.paused {
                return Ok(self.keep(bytes)?);
            }
            if self.start == self.gathered.len() {
                self.gathered.clear();
                self.start = 0;
                self.gathered.shrink_to(KEEP_CAPACITY);
                return self.take_in_place(bytes, sink);
            }
            // A frame lies in the gathered bytes, in part or (after a pause) in full.
            let gathered = self.gathered.get(self.start..).unwrap_or_default();
            let frame = Frame::parse(gathered)?;
            let whole = FRAME_HEADER_BYTES + frame.map_or(0, |frame| frame.bytes);
            if gathered.len() < whole {
                let (taken, rest) = bytes.split_at((whole - gathered.len()).min(bytes.len()));
                self.gathered.extend_from_slice(taken);
                bytes = rest;
                if taken.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if let Some(frame) = frame {
                let start = self.start;
                let buffer = std::mem::take(&mut self.gathered);
                let payload = buffer.get(start + FRAME_HEADER_BYTES..start + whole).unwrap_or_default();
                let done = self.frame(frame, payload, sink);
                self.gathered = buffer;
                if matches!(done?, Done::Whole) {
                    self.start += whole;
                }
            }
            if self.closed {
                return Ok(());
            }
        }
    }

    fn take_in_place<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() && !self.closed {
            let frame = Frame::parse(bytes)?;
            let whole = FRAME_HEADER_BYTES + frame.map_or(0, |frame| frame.bytes);
            let (Some(frame), Some(payload)) = (frame, bytes.get(FRAME_HEADER_BYTES..whole)) else {
                return Ok(self.keep(bytes)?);
            };
            if matches!(self.frame(frame, payload, sink)?, Done::Whole) {
                bytes = bytes.get(whole..).unwrap_or_default();
            }
            if self.paused {
                return Ok(self.keep(bytes)?);
            }
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        if self.start != 0 && self.gathered.len() + bytes.len() > self.gathered.capacity() {
            self.gathered.drain(..self.start);
            self.start = 0;
        }
        let held = self.gathered.len() - self.start + bytes.len();
        if held > MAX_HELD {
            return Err(ProtocolError::HeldTooMuch { bytes: held, limit: MAX_HELD });
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn frame<S: Sink>(&mut self, frame: Frame, payload: &[u8], sink: &mut S) -> Result<Done, S::Error> {
        if self.interrupted.is_none() {
            sink.ack(frame.ack)?;
            self.ack_asked |= frame.ack_now;
        }
        match frame.kind {
            FrameKind::Batch => return self.batch(frame, payload, sink),
            FrameKind::Ack => {}
            FrameKind::Ping => sink.ping(frame.seq),
            FrameKind::Pong => sink.pong(frame.seq),
            FrameKind::Close => {
                self.closed = true;
                let (reason, text) = read_close(payload);
                sink.close(reason, text)?;
            }
        }
        Ok(Done::Whole)
    }

    fn batch<S: Sink>(&mut self, frame: Frame, payload: &[u8], sink: &mut S) -> Result<Done, S::Error> {
        let expected = self.applied + 1;
        if frame.seq < expected {
            // Replayed by a peer that has not heard our acknowledgement: say it again.
            self.owed_batches += 1;
            self.ack_asked = true;
            return Ok(Done::Whole);
        }
        if frame.seq > expected {
            return Err(ProtocolError::SequenceGap { expected, found: frame.seq }.into());
        }
        let (mut offset, first) = self.interrupted.take().unwrap_or((0, 0));
        for index in first..frame.records {
            let (header, body, next) = record_at(payload, offset, frame.seq, index)?;
            let number = self.next_record;
            let last = index + 1 == frame.records;
            if last && next != payload.len() {
                let left = payload.len() - next;
                return Err(
                    ProtocolError::BatchLeftover { seq: frame.seq, records: frame.records, left }.into()
                );
            }
            let flow = sink.record(Record { number, op: header.op, flags: header.flags, body })?;
            self.next_record += 1;
            offset = next;
            if flow == Flow::Pause {
                self.paused = true;
                if !last {
                    self.interrupted = Some((offset, index + 1));
                    return Ok(Done::Midway);
                }
            }
        }
        self.applied = frame.seq;
        self.owed_bytes += FRAME_HEADER_BYTES + payload.len();
        self.owed_batches += 1;
        Ok(Done::Whole)
    }
}
