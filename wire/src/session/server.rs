//! The server's end of a session.
//!
//! The daemon reads a Hello with an [`OpeningReader`](crate::hello::OpeningReader), decides, and either writes
//! a [`Refusal`] or lets the worker make a [`ServerSession`], whose first [`ServerSession::transmit`] is the
//! Welcome. Bulk lanes join with [`ServerSession::join_bulk`]; a client that lost its connection comes back
//! with [`ServerSession::resume_client`].

use super::channel::{Channel, ChannelConfig, Transmit};
use super::chunks::{ChunkNumbers, ChunkPlan, ChunkReceiver};
use super::inbox::Flow;
use super::outbox::Outbox;
use super::pulse::Nanos;
use crate::error::ProtocolError;
use crate::frame::{CloseReason, Record};
use crate::hello::{Hello, Lines, Progress, Refusal, RefusedReason, Role, Welcome, features};

/// Settings of a server session.
#[derive(Debug, Clone, Copy)]
pub struct ServerConfig {
    /// The command lane.
    pub channel: ChannelConfig,
    /// Features this server has.
    pub features: u64,
    /// Features without which it refuses a client.
    pub required: u64,
    /// What it offers: name, slots, window, and the most bulk lanes. Version, status, features and the number
    /// of lanes are settled with the Hello.
    pub offer: Welcome,
}

impl ServerConfig {
    /// A server that offers this and has every feature.
    pub fn new(offer: Welcome) -> Self {
        Self { channel: ChannelConfig::default(), features: features::ALL, required: 0, offer }
    }
}

/// The server's end of a session.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    welcome: Welcome,
    channel: Channel,
    greeting: Option<Vec<u8>>,
    chunks: ChunkReceiver,
    d2h: ChunkNumbers,
}

impl ServerSession {
    /// Opens a session for the client that sent `hello`; `snapshot` is the tail of its Welcome.
    ///
    /// # Errors
    /// The refusal to send instead.
    pub fn open(now: Nanos, hello: &Hello, config: ServerConfig, snapshot: &[u8]) -> Result<Self, Refusal> {
        let agreed = hello.negotiate(config.features, config.required)?;
        if hello.role() != Ok(Role::Command) || hello.session != [0; 2] {
            return Err(malformed("a session is opened by a command connection that names no session"));
        }
        let welcome = Welcome {
            features: agreed,
            bulk_lanes: config.offer.bulk_lanes.min(hello.lanes),
            tail_len: 0,
            ..config.offer
        };
        let plan = ChunkPlan::new(welcome.bulk_lanes, welcome.h2d_slots)
            .map_err(|error| Refusal::new(RefusedReason::Unavailable, error.to_string()))?;
        let mut channel = Channel::new(&config.channel, now);
        channel.begin_traffic(now);
        Ok(Self {
            config,
            welcome,
            channel,
            greeting: Some(welcome.with_tail(snapshot)),
            chunks: ChunkReceiver::new(plan),
            d2h: ChunkNumbers::default(),
        })
    }

    /// The client is back on a new command connection, with this Hello and its tail. The old connections are
    /// dead from here on, noticed or not: nothing more that came from them may be given to the session. Gives
    /// the device-to-host chunk below which the client holds all; the caller sends the others again.
    ///
    /// # Errors
    /// The refusal to send instead. The session itself stays as it was.
    pub fn resume_client(&mut self, now: Nanos, hello: &Hello, tail: Vec<u8>) -> Result<u64, Refusal> {
        hello.negotiate(self.config.features, self.config.required)?;
        if self.channel.ended().is_some() || self.welcome.features & features::RESUME == 0 {
            return Err(Refusal::new(
                RefusedReason::UnknownSession,
                "the session has ended; start the program again",
            ));
        }
        if hello.role() != Ok(Role::Command) || hello.session != self.welcome.session {
            return Err(malformed("a session is resumed by a command connection that names it"));
        }
        let judge = |error: ProtocolError| malformed(&error.to_string());
        let progress = Lines::parse(tail).and_then(|lines| Progress::read(&lines)).map_err(judge)?;
        self.d2h.check_resume(progress.chunks).map_err(judge)?;
        self.channel.outbox.resume_after(progress.applied).map_err(judge)?;
        let applied = self.channel.link_lost(now);
        let lines = Progress { applied, chunks: self.chunks.forget_early() }.write(Lines::default());
        self.greeting = Some(self.welcome.with_tail(lines.as_bytes()));
        self.channel.begin_traffic(now);
        Ok(progress.chunks)
    }

    /// A bulk connection with this Hello wants to join. Gives its lane and the Welcome to write on it.
    ///
    /// # Errors
    /// The refusal to send instead.
    pub fn join_bulk(&self, hello: &Hello) -> Result<(usize, Vec<u8>), Refusal> {
        hello.negotiate(self.config.features, self.config.required)?;
        if hello.role() != Ok(Role::Bulk) || hello.session != self.welcome.session {
            return Err(malformed("a bulk lane must name the session that it joins"));
        }
        if hello.lane >= self.welcome.bulk_lanes {
            return Err(malformed("the session does not have that bulk lane"));
        }
        Ok((hello.lane as usize, self.welcome.with_tail(&[])))
    }

    /// A connection was lost. The session waits for the client to come back.
    pub fn link_lost(&mut self, now: Nanos) {
        self.greeting = None;
        self.channel.link_lost(now);
    }

    /// Takes the next bytes of the command connection, after the Hello, and delivers the operations that they
    /// complete.
    ///
    /// # Errors
    /// The client closed the session or broke the protocol, or `on_operation` failed. Each ends the session:
    /// what [`ServerSession::transmit`] still gives tells the client why.
    pub fn receive<E: From<ProtocolError>>(
        &mut self,
        now: Nanos,
        bytes: &[u8],
        on_operation: impl FnMut(Record<'_>) -> Result<Flow, E>,
    ) -> Result<(), E> {
        if !self.channel.connected {
            return Err(ProtocolError::Misuse { what: "bytes came without a connection" }.into());
        }
        self.channel.receive(now, Some(bytes), on_operation)
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// As [`ServerSession::receive`].
    pub fn resume<E: From<ProtocolError>>(
        &mut self,
        now: Nanos,
        on_operation: impl FnMut(Record<'_>) -> Result<Flow, E>,
    ) -> Result<(), E> {
        self.channel.receive(now, None, on_operation)
    }

    /// A whole host-to-device chunk is in its slot.
    ///
    /// # Errors
    /// It was not admitted; see [`ChunkReceiver::admit`].
    pub fn chunk_arrived(&mut self, now: Nanos, chunk: u64) -> Result<(), ProtocolError> {
        self.channel.pulse.heard(now);
        self.chunks.arrived(chunk)
    }

    /// The next thing to write on the command connection. Calling it less often makes larger batches.
    pub fn transmit(&mut self) -> Option<Transmit> {
        match self.greeting.take() {
            Some(welcome) => Some(Transmit::Owned(welcome)),
            None => self.channel.transmit(),
        }
    }

    /// Where events are pushed.
    #[inline]
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.channel.outbox
    }

    /// Host-to-device chunks: their numbers, slots and credit.
    #[inline]
    pub fn chunks(&mut self) -> &mut ChunkReceiver {
        &mut self.chunks
    }

    /// Device-to-host chunks: their numbers, and what a Barrier says.
    #[inline]
    pub fn d2h(&mut self) -> &mut ChunkNumbers {
        &mut self.d2h
    }

    /// What was agreed.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether there is a connection and the session has not ended.
    pub fn is_open(&self) -> bool {
        self.channel.connected && self.channel.ended().is_none()
    }

    /// Whether operations are being kept behind a pause. Best not to read from the command connection
    /// meanwhile.
    pub fn is_held(&self) -> bool {
        self.channel.inbox.is_paused()
    }

    /// The last batch of operations that was delivered in full.
    pub fn applied(&self) -> u64 {
        self.channel.inbox.applied()
    }

    /// Lets an acknowledgement go out with the next [`ServerSession::transmit`] even if it is not due yet.
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

    /// When [`ServerSession::handle_timeout`] should be called; `None` for never.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.channel.pulse.deadline()
    }

    /// Time has passed.
    ///
    /// # Errors
    /// The client has been silent, or away, for too long. The session has not ended: the caller decides
    /// whether to wait for a resume ([`ServerSession::link_lost`]) or to drop it.
    pub fn handle_timeout(&mut self, now: Nanos) -> Result<(), ProtocolError> {
        self.channel.check_pulse(now)
    }
}

fn malformed(text: &str) -> Refusal {
    Refusal::new(RefusedReason::Malformed, text)
}
