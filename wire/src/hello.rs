//! The opening of every connection: Hello from the client, Welcome from the server.
//!
//! Layout, reading in pieces, and the negotiation of version and features. Whether a token is good or a GPU is
//! free is the daemon's to decide, between reading a Hello and writing a Welcome. The first 16 bytes of both
//! messages (magic, version, and role or status) keep their place in every version, and so does the position of
//! a Welcome's tail, so that ends of different versions can still tell each other what is wrong.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bulk::MAX_LANES;
use crate::error::ProtocolError;

/// What both opening messages start with.
pub const HELLO_MAGIC: [u8; 8] = *b"FUSEWIRE";
/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The longest tail of a Hello.
pub const MAX_HELLO_TAIL: usize = 4096;
/// The longest tail of a Welcome.
pub const MAX_WELCOME_TAIL: usize = 1 << 20;

/// Feature bits. What both ends have is agreed; what one end requires and the other lacks ends the attempt.
pub mod features {
    /// A lost connection can be resumed, with nothing lost and nothing done twice.
    pub const RESUME: u64 = 1 << 0;
    /// Both ends are on one host: after the Welcome the server passes memory that the lanes run in.
    pub const SHARED_MEMORY: u64 = 1 << 1;
    /// With SHARED_MEMORY: the server passes memory for the host window, too, so that pinned memory is the same at
    /// both ends.
    pub const SHARED_PINNED: u64 = 1 << 2;
    /// The server keeps images, and can be asked for one by its hash.
    pub const IMAGES: u64 = 1 << 3;
    /// Bulk payloads and images may be compressed (`encoded`).
    pub const COMPRESSION: u64 = 1 << 4;
    /// All that this version of the crate can do.
    pub const ALL: u64 = RESUME | SHARED_MEMORY | SHARED_PINNED | IMAGES | COMPRESSION;
}

/// A Hello, as it lies on the wire before its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`HELLO_MAGIC`].
    pub magic: [u8; 8],
    /// The client's [`PROTOCOL_VERSION`].
    pub version: u32,
    /// A [`Role`].
    pub role: u32,
    /// The features that the client has.
    pub features: u64,
    /// Zero for a new session. Names the session that a bulk lane joins or a command lane resumes.
    pub session: [u64; 2],
    /// Bulk: which lane this is, from 0.
    pub lane: u32,
    /// How many bulk lanes the client will open.
    pub lanes: u32,
    /// Bytes of tail: `key=value` lines.
    pub tail_len: u32,
    /// 0.
    pub reserved: u32,
}

/// A Welcome, as it lies on the wire before its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Welcome {
    /// [`HELLO_MAGIC`].
    pub magic: [u8; 8],
    /// The server's [`PROTOCOL_VERSION`].
    pub version: u32,
    /// 0, or a [`RefusedReason`].
    pub status: u32,
    /// The agreed features.
    pub features: u64,
    /// The session's name.
    pub session: [u64; 2],
    /// The most that a bulk chunk may have, both ways.
    pub slot_bytes: u32,
    /// How many host-to-device slots there are: the first credit.
    pub h2d_slots: u32,
    /// How many device-to-host slots there are.
    pub d2h_slots: u32,
    /// How many bulk lanes the session has.
    pub bulk_lanes: u32,
    /// Where the address window that both ends reserve begins.
    pub window_base: u64,
    /// How long that window is.
    pub window_bytes: u64,
    /// Bytes of tail. Refused: one line for people. New session: the device snapshot, see `ops`. Resumed
    /// session: `key=value` lines.
    pub tail_len: u32,
    /// 0.
    pub reserved: u32,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// The command lane of a new session, or of one that resumes.
    Command = 0,
    /// A bulk lane of an existing session.
    Bulk = 1,
    /// A question to the daemon, with no session.
    Query = 2,
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedReason {
    /// The two ends speak different versions.
    Version,
    /// The token is missing or wrong.
    Authentication,
    /// No GPU, no share or no memory is free.
    NoCapacity,
    /// The session to join or resume is not known (any more).
    UnknownSession,
    /// The opening message made no sense.
    Malformed,
    /// The server requires a feature that the client lacks.
    Features,
    /// The server is being stopped.
    ShuttingDown,
    /// The driver or the worker could not be started; the text says why.
    Unavailable,
    /// A reason that this version does not know.
    Other(u32),
}

impl RefusedReason {
    /// The code on the wire; never 0.
    pub fn code(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Authentication => 2,
            Self::NoCapacity => 3,
            Self::UnknownSession => 4,
            Self::Malformed => 5,
            Self::Features => 6,
            Self::ShuttingDown => 7,
            Self::Unavailable => 8,
            Self::Other(code) => code.max(1),
        }
    }

    /// The reason that a code stands for; `None` for 0, which is no refusal.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::Version,
            2 => Self::Authentication,
            3 => Self::NoCapacity,
            4 => Self::UnknownSession,
            5 => Self::Malformed,
            6 => Self::Features,
            7 => Self::ShuttingDown,
            8 => Self::Unavailable,
            other => Self::Other(other),
        })
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("other version"),
            Self::Authentication => f.write_str("not authenticated"),
            Self::NoCapacity => f.write_str("no capacity"),
            Self::UnknownSession => f.write_str("unknown session"),
            Self::Malformed => f.write_str("malformed opening"),
            Self::Features => f.write_str("missing features"),
            Self::ShuttingDown => f.write_str("server stopping"),
            Self::Unavailable => f.write_str("unavailable"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

/// A refusal: what the server says instead of opening a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub reason: RefusedReason,
    /// Why, for people: one line that says what was tried and what to do.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: RefusedReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// The Welcome that says so, with its tail.
    pub fn to_bytes(&self) -> Vec<u8> {
        Welcome { status: self.reason.code(), ..Welcome::blank() }.with_tail(self.text.as_bytes())
    }
}

impl Hello {
    /// A Hello of this version for a new session's command lane; fill in the rest.
    pub fn blank() -> Self {
        Self {
            magic: HELLO_MAGIC,
            version: PROTOCOL_VERSION,
            role: Role::Command as u32,
            features: features::ALL,
            session: [0; 2],
            lane: 0,
            lanes: 0,
            tail_len: 0,
            reserved: 0,
        }
    }

    /// The message with its tail, whose length is set here.
    ///
    /// # Errors
    /// A tail longer than [`MAX_HELLO_TAIL`] is the caller's mistake.
    pub fn with_tail(mut self, tail: &Lines) -> Result<Vec<u8>, ProtocolError> {
        if tail.text.len() > MAX_HELLO_TAIL {
            return Err(ProtocolError::Misuse { what: "the settings in a Hello exceed 4096 bytes" });
        }
        self.tail_len = u32::try_from(tail.text.len()).unwrap_or(0);
        let mut bytes = self.as_bytes().to_vec();
        bytes.extend_from_slice(tail.text.as_bytes());
        Ok(bytes)
    }

    /// What the connection is for.
    ///
    /// # Errors
    /// A role that this version does not have.
    pub fn role(&self) -> Result<Role, ProtocolError> {
        match self.role {
            0 => Ok(Role::Command),
            1 => Ok(Role::Bulk),
            2 => Ok(Role::Query),
            _ => Err(ProtocolError::BadHello { what: "its role is not known" }),
        }
    }

    /// The features that both ends have, or the refusal to send back.
    ///
    /// # Errors
    /// Another version, or a feature in `required` that the client lacks.
    pub fn negotiate(&self, have: u64, required: u64) -> Result<u64, Refusal> {
        if self.version != PROTOCOL_VERSION {
            return Err(Refusal::new(
                RefusedReason::Version,
                format!(
                    "the client speaks Fusewire protocol {}, this server {PROTOCOL_VERSION}; \
                     install the same release on both",
                    self.version
                ),
            ));
        }
        let missing = required & !self.features;
        if missing != 0 {
            return Err(Refusal::new(
                RefusedReason::Features,
                format!(
                    "this server requires features {missing:#x}, which the client lacks; update the client"
                ),
            ));
        }
        Ok(self.features & have)
    }
}

impl Welcome {
    /// A Welcome of this version that agrees to nothing; fill in the rest.
    pub fn blank() -> Self {
        Self {
            magic: HELLO_MAGIC,
            version: PROTOCOL_VERSION,
            status: 0,
            features: 0,
            session: [0; 2],
            slot_bytes: 0,
            h2d_slots: 0,
            d2h_slots: 0,
            bulk_lanes: 0,
            window_base: 0,
            window_bytes: 0,
            tail_len: 0,
            reserved: 0,
        }
    }

    /// The message with its tail, whose length is set here. A tail beyond [`MAX_WELCOME_TAIL`] is cut.
    pub fn with_tail(mut self, tail: &[u8]) -> Vec<u8> {
        let tail = tail.get(..MAX_WELCOME_TAIL).unwrap_or(tail);
        self.tail_len = u32::try_from(tail.len()).unwrap_or(0);
        let mut bytes = self.as_bytes().to_vec();
        bytes.extend_from_slice(tail);
        bytes
    }

    /// Judges a Welcome as a client that requires `required` does.
    ///
    /// # Errors
    /// The refusal it carries, another version, a missing feature, or numbers that make no sense.
    pub fn accept(&self, tail: &[u8], required: u64) -> Result<(), ProtocolError> {
        // A refusal for the version says more than the bare numbers would only if the versions are equal.
        if self.version != PROTOCOL_VERSION {
            return Err(ProtocolError::VersionMismatch { ours: PROTOCOL_VERSION, theirs: self.version });
        }
        if let Some(reason) = RefusedReason::from_code(self.status) {
            // The line is shown to people: control characters do not reach their terminal.
            let text = String::from_utf8_lossy(tail.get(..MAX_HELLO_TAIL).unwrap_or(tail));
            let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Err(ProtocolError::Refused { reason, text });
        }
        let missing = required & !self.features;
        if missing != 0 {
            return Err(ProtocolError::MissingFeatures { missing });
        }
        if self.bulk_lanes as usize > MAX_LANES {
            return Err(ProtocolError::BadHello { what: "it has more than 8 bulk lanes" });
        }
        if self.bulk_lanes != 0 && (self.h2d_slots == 0 || self.slot_bytes == 0) {
            return Err(ProtocolError::BadHello { what: "it has bulk lanes but no slots" });
        }
        Ok(())
    }
}

/// An opening message with a tail.
pub trait Opening: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Judges the fixed part; gives the length of the tail.
    ///
    /// # Errors
    /// Anything that no sound peer of any version sends.
    fn tail_len(&self) -> Result<usize, ProtocolError>;
}

impl Opening for Hello {
    fn tail_len(&self) -> Result<usize, ProtocolError> {
        tail_len(&self.magic, self.tail_len, MAX_HELLO_TAIL, "a Hello's tail")
    }
}

impl Opening for Welcome {
    fn tail_len(&self) -> Result<usize, ProtocolError> {
        tail_len(&self.magic, self.tail_len, MAX_WELCOME_TAIL, "a Welcome's tail")
    }
}

fn tail_len(
    magic: &[u8; 8],
    announced: u32,
    limit: usize,
    what: &'static str,
) -> Result<usize, ProtocolError> {
    if *magic != HELLO_MAGIC {
        return Err(NOT_FUSEWIRE);
    }
    let bytes = announced as usize;
    if bytes > limit {
        return Err(ProtocolError::TooLong { what, bytes: announced.into(), limit: limit as u64 });
    }
    Ok(bytes)
}

const NOT_FUSEWIRE: ProtocolError =
    ProtocolError::BadHello { what: "it does not start with FUSEWIRE; the other end is something else" };

/// Gathers an opening message from pieces. Memory grows only with what has really arrived.
#[derive(Debug, Clone, Default)]
pub struct OpeningReader {
    bytes: Vec<u8>,
}

impl OpeningReader {
    /// Takes from the front of `bytes`; gives the message and its tail once they are complete. What is left in
    /// `bytes` then belongs to the frames that follow.
    ///
    /// # Errors
    /// Anything but an opening message, noticed at its first wrong byte.
    pub fn receive<M: Opening>(&mut self, bytes: &mut &[u8]) -> Result<Option<(M, Vec<u8>)>, ProtocolError> {
        let fixed = size_of::<M>();
        self.take(bytes, fixed);
        if self.bytes.iter().zip(HELLO_MAGIC).any(|(found, expected)| *found != expected) {
            return Err(NOT_FUSEWIRE);
        }
        let Ok((message, _)) = M::read_from_prefix(&self.bytes) else { return Ok(None) };
        let whole = fixed + message.tail_len()?;
        self.take(bytes, whole);
        if self.bytes.len() < whole {
            return Ok(None);
        }
        let tail = self.bytes.split_off(fixed);
        self.bytes.clear();
        Ok(Some((message, tail)))
    }

    fn take(&mut self, bytes: &mut &[u8], upto: usize) {
        let wanted = upto.saturating_sub(self.bytes.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(wanted);
        self.bytes.extend_from_slice(taken);
        *bytes = rest;
    }
}

/// `key=value` lines: the tail of a Hello, and of the Welcome to one who resumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    text: String,
}

impl Lines {
    /// Adds a line. Line breaks in the value become spaces; `=` and line breaks in the key are dropped.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.text.extend(key.chars().filter(|c| !matches!(c, '=' | '\n' | '\r')));
        self.text.push('=');
        self.text.extend(value.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
        self.text.push('\n');
        self
    }

    /// Reads a tail.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    pub fn parse(tail: Vec<u8>) -> Result<Self, ProtocolError> {
        match String::from_utf8(tail) {
            Ok(text) => Ok(Self { text }),
            Err(_) => Err(ProtocolError::BadHello { what: "its tail is not UTF-8" }),
        }
    }

    /// The value of the first line with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.text.lines().filter_map(|line| line.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The text on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// How far one end had come when the connection was lost: what it tells the other when they resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last batch that this end holds in full; the other end replays what follows.
    pub applied: u64,
    /// Of the chunks sent to this end, it holds those below this in full; the other end sends again what follows.
    pub chunks: u64,
}

impl Progress {
    /// Adds the lines that say so.
    #[must_use]
    pub fn write(&self, lines: Lines) -> Lines {
        lines.with("applied", &self.applied.to_string()).with("chunks", &self.chunks.to_string())
    }

    /// Reads those lines.
    ///
    /// # Errors
    /// Lines that are missing or not numbers.
    pub fn read(lines: &Lines) -> Result<Self, ProtocolError> {
        const BAD: ProtocolError = ProtocolError::BadHello { what: "it resumes without saying where" };
        let number = |key| lines.get(key).and_then(|text| text.parse().ok()).ok_or(BAD);
        Ok(Self { applied: number("applied")?, chunks: number("chunks")? })
    }
}

const _: () = {
    assert!(size_of::<Hello>() == 56);
    assert!(size_of::<Welcome>() == 80);
};
