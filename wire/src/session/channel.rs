//! An open command lane: what the two ends have in common once they have greeted each other.
//!
//! Joins an [`Outbox`] and an [`Inbox`] with acknowledgement, Pings and the last word. `client` and `server`
//! add the greeting and the bulk counts.

use std::ops::Deref;

use zerocopy::IntoBytes;

use super::inbox::{AckPolicy, Flow, Inbox, Sink};
use super::outbox::{Outbox, OutboxConfig, SealedBatch};
use super::pulse::{Nanos, Patience, Pulse};
use crate::error::{Culprit, ProtocolError};
use crate::frame::{CloseReason, FRAME_HEADER_BYTES, Frame, FrameHeader, FrameKind, Record, close_frame};

/// Something for the link to write, whole and in order. Dereferences to its bytes.
#[derive(Debug, Clone)]
pub enum Transmit {
    /// A batch, shared with the session's retention: dropping it soon lets its buffer be used again.
    Batch(SealedBatch),
    /// An Ack, Ping or Pong.
    Control([u8; FRAME_HEADER_BYTES]),
    /// A greeting or a Close.
    Owned(Vec<u8>),
}

impl Deref for Transmit {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Batch(bytes) => bytes,
            Self::Control(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Settings of a command lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelConfig {
    /// What is gathered and kept for sending.
    pub outbox: OutboxConfig,
    /// When acknowledgements go out by themselves.
    pub ack: AckPolicy,
    /// How long the other end may be silent.
    pub patience: Patience,
}

/// An open command lane, at either end.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) outbox: Outbox,
    pub(super) inbox: Inbox,
    pub(super) pulse: Pulse,
    /// Without a connection, or before the greeting is over, nothing but greetings is sent.
    pub(super) connected: bool,
    /// Only the latest Ping is answered: a flood of them costs nothing.
    pong: Option<u64>,
    ping: Option<u64>,
    pings: u64,
    ack_asked: bool,
    last_word: LastWord,
    ended: Option<ProtocolError>,
}

#[derive(Debug)]
enum LastWord {
    None,
    /// Goes out after everything that has been pushed.
    AfterAll(CloseReason, String),
    /// Goes out before anything else.
    AtOnce(CloseReason, String),
    Said,
}

/// Why delivery stopped: the protocol's fault, or the receiver's own.
enum Fault<E> {
    Protocol(ProtocolError),
    Receiver(E),
}

impl<E> From<ProtocolError> for Fault<E> {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

struct ChannelSink<'a, F> {
    outbox: &'a mut Outbox,
    pong: &'a mut Option<u64>,
    on_record: F,
}

impl<E, F: FnMut(Record<'_>) -> Result<Flow, E>> Sink for ChannelSink<'_, F> {
    type Error = Fault<E>;

    #[inline]
    fn record(&mut self, record: Record<'_>) -> Result<Flow, Fault<E>> {
        (self.on_record)(record).map_err(Fault::Receiver)
    }

    fn ack(&mut self, seq: u64) -> Result<(), Fault<E>> {
        Ok(self.outbox.ack(seq)?)
    }

    fn close(&mut self, reason: CloseReason, text: String) -> Result<(), Fault<E>> {
        // The text is shown to people: control characters do not reach their terminal.
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Err(Fault::Protocol(ProtocolError::Closed { reason, text }))
    }

    fn ping(&mut self, number: u64) {
        *self.pong = Some(number);
    }
}

impl Channel {
    pub(super) fn new(config: &ChannelConfig, now: Nanos) -> Self {
        Self {
            outbox: Outbox::new(config.outbox),
            inbox: Inbox::new(config.ack),
            pulse: Pulse::opening(config.patience, now),
            connected: false,
            pong: None,
            ping: None,
            pings: 0,
            ack_asked: false,
            last_word: LastWord::None,
            ended: None,
        }
    }

    /// Delivers bytes; `None` goes on after a pause.
    pub(super) fn receive<E: From<ProtocolError>>(
        &mut self,
        now: Nanos,
        bytes: Option<&[u8]>,
        on_record: impl FnMut(Record<'_>) -> Result<Flow, E>,
    ) -> Result<(), E> {
        if let Some(error) = &self.ended {
            return Err(error.clone().into());
        }
        let mut sink = ChannelSink { outbox: &mut self.outbox, pong: &mut self.pong, on_record };
        let result = match bytes {
            Some(bytes) => {
                self.pulse.heard(now);
                self.inbox.receive(bytes, &mut sink)
            }
            None => self.inbox.resume(&mut sink),
        };
        match result {
            Ok(()) => Ok(()),
            Err(Fault::Receiver(error)) => Err(error),
            Err(Fault::Protocol(error)) => {
                self.end(error.clone());
                Err(error.into())
            }
        }
    }

    /// The next thing for the link to write.
    pub(super) fn transmit(&mut self) -> Option<Transmit> {
        if !self.connected {
            return None;
        }
        if let LastWord::AtOnce(reason, text) = &self.last_word {
            let frame = close_frame(*reason, text, self.inbox.applied());
            self.last_word = LastWord::Said;
            return Some(Transmit::Owned(frame));
        }
        if self.ended.is_some() || matches!(self.last_word, LastWord::Said) {
            return None;
        }
        let applied = self.inbox.applied();
        if let Some(number) = self.pong.take() {
            return Some(self.control(FrameKind::Pong, number));
        }
        if let Some(number) = self.ping.take() {
            return Some(self.control(FrameKind::Ping, number));
        }
        if let Some(batch) = self.outbox.seal(applied) {
            // A batch that is sent again while the old link still holds it says an older number.
            if let Ok(Some(Frame { ack, .. })) = Frame::parse(&batch) {
                self.acked(ack);
            }
            return Some(Transmit::Batch(batch));
        }
        if self.inbox.ack_due() || (self.ack_asked && self.inbox.ack_owed()) {
            return Some(self.control(FrameKind::Ack, 0));
        }
        if let LastWord::AfterAll(reason, text) = &self.last_word {
            let frame = close_frame(*reason, text, applied);
            self.last_word = LastWord::Said;
            return Some(Transmit::Owned(frame));
        }
        None
    }

    /// Sends a Ping if one is due.
    pub(super) fn check_pulse(&mut self, now: Nanos) -> Result<(), ProtocolError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        if self.pulse.check(now)? {
            self.pings += 1;
            self.ping = Some(self.pings);
        }
        Ok(())
    }

    /// Lets an acknowledgement go out even if the policy would wait.
    pub(super) fn acknowledge(&mut self) {
        self.ack_asked = true;
    }

    pub(super) fn close(&mut self, reason: CloseReason, text: &str) {
        let word = (reason, text.to_owned());
        if matches!(self.last_word, LastWord::None) {
            self.last_word = match reason {
                CloseReason::Done => LastWord::AfterAll(word.0, word.1),
                _ => LastWord::AtOnce(word.0, word.1),
            };
        }
    }

    /// The session is over; a peer that broke the protocol is told so.
    pub(super) fn end(&mut self, error: ProtocolError) {
        if error.culprit() == Culprit::Peer {
            self.close(CloseReason::Protocol, &error.to_string());
        }
        self.ended.get_or_insert(error);
    }

    pub(super) fn ended(&self) -> Option<&ProtocolError> {
        self.ended.as_ref()
    }

    /// The connection is gone. Gives the last batch that is held in full.
    pub(super) fn link_lost(&mut self, now: Nanos) -> u64 {
        self.connected = false;
        self.pong = None;
        self.ping = None;
        self.pulse.begin_lost(now);
        self.inbox.link_lost()
    }

    /// The greeting is over.
    pub(super) fn begin_traffic(&mut self, now: Nanos) {
        self.connected = true;
        self.pulse.begin_traffic(now);
    }

    fn control(&mut self, kind: FrameKind, number: u64) -> Transmit {
        let ack = self.inbox.applied();
        self.acked(ack);
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(FrameHeader::bare(kind, number, ack).as_bytes());
        Transmit::Control(bytes)
    }

    fn acked(&mut self, ack: u64) {
        self.inbox.ack_sent(ack);
        if !self.inbox.ack_owed() {
            self.ack_asked = false;
        }
    }
}
