//! The client's end of a session.
//!
//! The caller opens a command connection, writes what [`ClientSession::connect`] gives, feeds what it reads to
//! [`ClientSession::receive`], and writes what [`ClientSession::transmit`] gives until it gives nothing. Once
//! open, it connects the bulk lanes with [`ClientSession::bulk_hello`]. A session is one unit: when any of its
//! connections is lost all are closed, and [`ClientSession::connect`] begins again where both ends stopped.

use super::channel::{Channel, ChannelConfig, Transmit};
use super::chunks::{ArrivalGate, ChunkPlan, ChunkSender};
use super::inbox::Flow;
use super::outbox::Outbox;
use super::pulse::Nanos;
use crate::bulk::MAX_LANES;
use crate::error::ProtocolError;
use crate::frame::{CloseReason, Record};
use crate::hello::{Hello, Lines, OpeningReader, Progress, Role, Welcome, features};

/// Settings of a client session.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The command lane.
    pub channel: ChannelConfig,
    /// Features this client has.
    pub features: u64,
    /// Features without which it ends the attempt.
    pub required: u64,
    /// Bulk lanes it will open; the server may agree to fewer.
    pub lanes: u32,
    /// What it tells the server about itself: token, program, process.
    pub about: Lines,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            channel: ChannelConfig::default(),
            features: features::ALL,
            required: 0,
            lanes: 4,
            about: Lines::default(),
        }
    }
}

/// What the receiver of an event wants done before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Give the next event.
    Continue,
    /// Keep the following events until [`ClientSession::resume`].
    Pause,
    /// The event was a Barrier: keep the following ones until all chunks below this have landed.
    Barrier(u64),
    /// The event was a Credit: chunks below this may be sent.
    Credit(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing connected.
    Idle,
    /// Greeted, not answered; a resume if the session has a name.
    Greeting,
    Open,
}

/// The client's end of a session.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    phase: Phase,
    greeting: OpeningReader,
    channel: Channel,
    welcome: Option<Welcome>,
    snapshot: Option<Vec<u8>>,
    chunks: ChunkSender,
    gate: ArrivalGate,
}

impl ClientSession {
    /// A session that is not connected yet. Records may be pushed already.
    pub fn new(config: ClientConfig, now: Nanos) -> Self {
        Self {
            phase: Phase::Idle,
            greeting: OpeningReader::default(),
            channel: Channel::new(&config.channel, now),
            welcome: None,
            snapshot: None,
            chunks: ChunkSender::new(ChunkPlan::NONE),
            gate: ArrivalGate::new(ChunkPlan::NONE),
            config,
        }
    }

    /// A new command connection is there: gives what to write on it first. The session opens, or resumes if it
    /// was open before.
    ///
    /// # Errors
    /// The session has ended, the server cannot resume, or the settings do not fit in a Hello.
    pub fn connect(&mut self, now: Nanos) -> Result<Vec<u8>, ProtocolError> {
        if let Some(error) = self.channel.ended() {
            return Err(error.clone());
        }
        let applied = self.channel.link_lost(now);
        let mut lines = self.config.about.clone();
        if let Some(welcome) = &self.welcome {
            if welcome.features & features::RESUME == 0 {
                return Err(ProtocolError::MissingFeatures { missing: features::RESUME });
            }
            lines = Progress { applied, chunks: self.gate.forget_early() }.write(lines);
        }
        let hello = self.hello(Role::Command, 0).with_tail(&lines)?;
        self.greeting = OpeningReader::default();
        self.phase = Phase::Greeting;
        self.channel.pulse.begin_opening(now);
        Ok(hello)
    }

    /// What to write first on the connection of bulk lane `lane`. The server answers it with a Welcome, which
    /// the caller reads with an [`OpeningReader`] and judges with [`Welcome::accept`].
    ///
    /// # Errors
    /// The session is not open, or has no such lane.
    pub fn bulk_hello(&self, lane: u32) -> Result<Vec<u8>, ProtocolError> {
        if self.phase != Phase::Open || lane as usize >= self.chunks.plan().lanes() {
            return Err(ProtocolError::Misuse {
                what: "a bulk lane was opened that the session does not have",
            });
        }
        self.hello(Role::Bulk, lane).with_tail(&self.config.about)
    }

    /// A connection was lost or closed. Nothing is sent until [`ClientSession::connect`].
    pub fn link_lost(&mut self, now: Nanos) {
        self.phase = Phase::Idle;
        self.channel.link_lost(now);
    }

    /// Takes the next bytes of the command connection and delivers the events that they complete.
    ///
    /// # Errors
    /// The server refused, closed the session or broke the protocol, or `on_event` failed. Each ends the
    /// session: what [`ClientSession::transmit`] still gives tells the server why.
    pub fn receive<E: From<ProtocolError>>(
        &mut self,
        now: Nanos,
        mut bytes: &[u8],
        on_event: impl FnMut(Record<'_>) -> Result<Next, E>,
    ) -> Result<(), E> {
        match self.phase {
            Phase::Idle => {
                return Err(ProtocolError::Misuse { what: "bytes came without a connection" }.into());
            }
            Phase::Greeting => match self.greeting.receive::<Welcome>(&mut bytes) {
                Ok(None) => return Ok(()),
                Ok(Some((welcome, tail))) => {
                    self.open(now, welcome, tail).inspect_err(|error| self.channel.end(error.clone()))?;
                }
                Err(error) => {
                    self.channel.end(error.clone());
                    return Err(error.into());
                }
            },
            Phase::Open => {}
        }
        self.deliver(now, Some(bytes), on_event)
    }

    /// Goes on after a pause, once the barrier that caused it (if one did) is fulfilled.
    ///
    /// # Errors
    /// As [`ClientSession::receive`].
    pub fn resume<E: From<ProtocolError>>(
        &mut self,
        now: Nanos,
        on_event: impl FnMut(Record<'_>) -> Result<Next, E>,
    ) -> Result<(), E> {
        if !self.gate.is_open() {
            return Ok(());
        }
        self.deliver(now, None, on_event)
    }

    /// A whole device-to-host chunk has landed. When true, a barrier is fulfilled and
    /// [`ClientSession::resume`] gives the events behind it.
    ///
    /// # Errors
    /// It had landed before.
    pub fn chunk_landed(&mut self, now: Nanos, number: u64) -> Result<bool, ProtocolError> {
        self.channel.pulse.heard(now);
        self.gate.arrived(number)
    }

    /// The next thing to write on the command connection. Calling it less often makes larger batches.
    pub fn transmit(&mut self) -> Option<Transmit> {
        self.channel.transmit()
    }

    /// Where records are pushed.
    #[inline]
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.channel.outbox
    }

    /// Host-to-device chunks: their numbers, order and credit.
    #[inline]
    pub fn chunks(&mut self) -> &mut ChunkSender {
        &mut self.chunks
    }

    /// What the server said when the session opened; `None` before.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// The device snapshot that came with the Welcome, once.
    pub fn take_snapshot(&mut self) -> Option<Vec<u8>> {
        self.snapshot.take()
    }

    /// Whether records travel now.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.channel.ended().is_none()
    }

    /// Whether events are being kept behind a barrier or a pause. Best not to read from the command connection
    /// meanwhile.
    pub fn is_held(&self) -> bool {
        self.channel.inbox.is_paused()
    }

    /// The last batch of events that was delivered in full.
    pub fn applied(&self) -> u64 {
        self.channel.inbox.applied()
    }

    /// Lets an acknowledgement go out with the next [`ClientSession::transmit`] even if it is not due yet.
    pub fn acknowledge(&mut self) {
        self.channel.acknowledge();
    }

    /// Ends the session: `Done` after everything that was pushed, any other reason at once.
    pub fn close(&mut self, reason: CloseReason, text: &str) {
        self.channel.close(reason, text);
    }

    /// Why the session ended, if it has.
    pub fn ended(&self) -> Option<&ProtocolError> {
        self.channel.ended()
    }

    /// When [`ClientSession::handle_timeout`] should be called; `None` for never.
    pub fn next_timeout(&self) -> Option<Nanos> {
        if self.phase == Phase::Idle && self.welcome.is_none() {
            return None;
        }
        self.channel.pulse.deadline()
    }

    /// Time has passed.
    ///
    /// # Errors
    /// The server has been silent for too long. The session has not ended: the caller may connect again, or
    /// give up.
    pub fn handle_timeout(&mut self, now: Nanos) -> Result<(), ProtocolError> {
        if self.phase == Phase::Idle && self.welcome.is_none() {
            return Ok(());
        }
        self.channel.check_pulse(now)
    }

    fn hello(&self, role: Role, lane: u32) -> Hello {
        Hello {
            role: role as u32,
            features: self.config.features,
            session: self.welcome.map_or([0; 2], |welcome| welcome.session),
            lane,
            lanes: self.config.lanes.min(MAX_LANES as u32),
            ..Hello::blank()
        }
    }

    fn open(&mut self, now: Nanos, welcome: Welcome, tail: Vec<u8>) -> Result<(), ProtocolError> {
        welcome.accept(&tail, self.config.required)?;
        if welcome.features & !self.config.features != 0 {
            return Err(ProtocolError::BadHello { what: "it agrees to features that were not offered" });
        }
        if let Some(first) = &self.welcome {
            if (Welcome { tail_len: 0, ..welcome }) != (Welcome { tail_len: 0, ..*first }) {
                return Err(ProtocolError::BadHello {
                    what: "it resumes another session than the one asked for",
                });
            }
            let progress = Progress::read(&Lines::parse(tail)?)?;
            self.channel.outbox.resume_after(progress.applied)?;
            self.chunks.rewind(progress.chunks)?;
        } else {
            if welcome.bulk_lanes > self.config.lanes {
                return Err(ProtocolError::BadHello { what: "it has more bulk lanes than were asked for" });
            }
            let plan = ChunkPlan::new(welcome.bulk_lanes, welcome.h2d_slots)?;
            self.chunks = ChunkSender::new(plan);
            self.gate = ArrivalGate::new(plan);
            self.snapshot = Some(tail);
            self.welcome = Some(welcome);
        }
        self.phase = Phase::Open;
        self.channel.begin_traffic(now);
        Ok(())
    }

    fn deliver<E: From<ProtocolError>>(
        &mut self,
        now: Nanos,
        bytes: Option<&[u8]>,
        mut on_event: impl FnMut(Record<'_>) -> Result<Next, E>,
    ) -> Result<(), E> {
        let Self { channel, chunks, gate, .. } = self;
        let mut fault = None;
        let result = channel.receive(now, bytes, |record| {
            let result = match on_event(record)? {
                Next::Continue => Ok(Flow::Continue),
                Next::Pause => Ok(Flow::Pause),
                Next::Barrier(chunks) => {
                    gate.require(chunks).map(|open| if open { Flow::Continue } else { Flow::Pause })
                }
                Next::Credit(upto) => chunks.credit(upto).map(|()| Flow::Continue),
            };
            result.map_err(|error| {
                fault = Some(error.clone());
                E::from(error)
            })
        });
        if let Some(error) = fault {
            channel.end(error);
        }
        result
    }
}
