//! What daemon and worker say to each other, and how it is laid out.
//!
//! Every message is a [`Head`], a fixed `zerocopy` part, and a tail whose
//! pieces' lengths the fixed part gives. Decoding checks all of it: a worker
//! runs its tenant's session, so the daemon trusts it no more than a client.

use std::os::fd::OwnedFd;

use fusewire_wire::hello::Hello;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest message either side sends, in bytes. An inventory of the most
/// devices an inventory may list fits.
pub const MAX_MESSAGE: usize = 64 << 10;

/// Longest text (a reason, an error) that is sent; the rest is cut.
const MAX_TEXT: usize = 8 << 10;
/// Most cores an `Open` may list.
const MAX_CORES: usize = 1024;

/// Daemon to worker.
#[derive(Debug)]
pub enum ToWorker {
    /// Serve this session; the socket is its command connection, whose hello
    /// has been read and not yet answered.
    Open {
        /// The session.
        open: Open,
        /// Its command connection, in blocking mode.
        socket: OwnedFd,
    },
    /// One more connection of the session — a bulk lane, or a command connection that resumes it — whose
    /// hello has been read and not yet answered.
    Join {
        /// What the client said; its role and lane say what the connection is.
        hello: Hello,
        /// The hello's `key=value` lines, without the token.
        lines: Vec<u8>,
        /// The connection, in blocking mode.
        socket: OwnedFd,
    },
    /// Send the inventory again, with live figures. Only before `Open`.
    Refresh,
    /// Close the session with this reason and exit.
    Shutdown {
        /// What the client is to be told.
        reason: String,
    },
}

/// What a worker needs to know to serve a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What the client said.
    pub hello: Hello,
    /// The hello's `key=value` lines, without the token.
    pub lines: Vec<u8>,
    /// The session's name, as the client will use it on its other connections.
    pub session: [u64; 2],
    /// The device the session was placed by (the home of its shard).
    pub device: u32,
    /// How bulk data is staged.
    pub staging: Staging,
    /// Where the client is, for messages.
    pub peer: String,
    /// Cores for the session: the first for its shard, the rest near it for
    /// helper threads. Empty when nothing is to be pinned.
    pub cores: Vec<u32>,
    /// The key of the tenant whose images the session may find: made of its token.
    pub tenant: [u8; 32],
}

/// How bulk data is staged. Zero means the worker's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Staging {
    /// Bytes of one slot.
    pub slot_bytes: u32,
    /// Slots towards the device.
    pub h2d_slots: u32,
    /// Slots from the device.
    pub d2h_slots: u32,
    /// Zero.
    pub reserved: u32,
}

impl Staging {
    /// Slots at most, each way. A worker takes as many of a larger number.
    pub const MAX_SLOTS: u32 = 4096;
    /// Bytes of a slot at most.
    pub const MAX_SLOT_BYTES: u32 = 64 << 20;
}

/// Worker to daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// The driver works; this is what it drives.
    Ready {
        /// A `fusewire_wire::inventory`, as bytes.
        inventory: Vec<u8>,
    },
    /// The driver does not work; the worker exits after this.
    Failed {
        /// What was tried and what to do, in one line.
        text: String,
    },
    /// The session is over; the worker exits after this.
    Ended {
        /// Why, in a few words.
        reason: String,
        /// What it did.
        stats: SessionStats,
    },
}

/// What a session did, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionStats {
    /// Bytes received from the client, all lanes.
    pub bytes_in: u64,
    /// Bytes sent to the client, all lanes.
    pub bytes_out: u64,
    /// Driver calls made for the client.
    pub calls: u64,
    /// Batches applied.
    pub batches: u64,
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("malformed control message: {0}")]
pub struct Malformed(pub &'static str);

const OPEN: u32 = 1;
const JOIN: u32 = 2;
const REFRESH: u32 = 3;
const SHUTDOWN: u32 = 4;
const READY: u32 = 16;
const FAILED: u32 = 17;
const ENDED: u32 = 18;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    kind: u32,
    /// Zero.
    reserved: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OpenFixed {
    hello: Hello,
    session: [u64; 2],
    staging: Staging,
    device: u32,
    peer_bytes: u32,
    lines_bytes: u32,
    cores: u32,
    tenant: [u8; 32],
}

impl ToWorker {
    /// The message's bytes and the descriptor that goes with them.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, Option<&OwnedFd>) {
        match self {
            Self::Open { open, socket } => (open.encode(), Some(socket)),
            Self::Join { hello, lines, socket } => {
                let mut out = head(JOIN);
                out.extend_from_slice(hello.as_bytes());
                out.extend_from_slice(lines);
                (out, Some(socket))
            }
            Self::Refresh => (head(REFRESH), None),
            Self::Shutdown { reason } => (with_text(SHUTDOWN, reason), None),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] names what is wrong; the descriptor, if any, is closed.
    pub fn decode(bytes: &[u8], fd: Option<OwnedFd>) -> Result<Self, Malformed> {
        let (head, rest) = read_head(bytes)?;
        let socket = || fd.ok_or(Malformed("the socket is missing"));
        match head.kind {
            OPEN => Ok(Self::Open { open: Open::decode(rest)?, socket: socket()? }),
            JOIN => {
                let (hello, lines) =
                    Hello::read_from_prefix(rest).map_err(|_| Malformed("a join message cut short"))?;
                Ok(Self::Join { hello, lines: lines.to_vec(), socket: socket()? })
            }
            REFRESH => Ok(Self::Refresh),
            SHUTDOWN => Ok(Self::Shutdown { reason: text(rest) }),
            _ => Err(Malformed("unknown kind of message to a worker")),
        }
    }
}

impl FromWorker {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready { inventory } => {
                let mut out = head(READY);
                out.extend_from_slice(inventory);
                out
            }
            Self::Failed { text } => with_text(FAILED, text),
            Self::Ended { reason, stats } => {
                let mut out = head(ENDED);
                out.extend_from_slice(stats.as_bytes());
                out.extend_from_slice(cut(reason).as_bytes());
                out
            }
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] names what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, rest) = read_head(bytes)?;
        match head.kind {
            READY => Ok(Self::Ready { inventory: rest.to_vec() }),
            FAILED => Ok(Self::Failed { text: text(rest) }),
            ENDED => {
                let (stats, rest) = SessionStats::read_from_prefix(rest)
                    .map_err(|_| Malformed("an ended session without its figures"))?;
                Ok(Self::Ended { reason: text(rest), stats })
            }
            _ => Err(Malformed("unknown kind of message from a worker")),
        }
    }
}

impl Open {
    fn encode(&self) -> Vec<u8> {
        let peer = cut(&self.peer);
        let cores = &self.cores[..self.cores.len().min(MAX_CORES)];
        let fixed = OpenFixed {
            hello: self.hello,
            session: self.session,
            staging: self.staging,
            device: self.device,
            peer_bytes: peer.len() as u32,
            lines_bytes: self.lines.len() as u32,
            cores: cores.len() as u32,
            tenant: self.tenant,
        };
        let mut out = head(OPEN);
        out.extend_from_slice(fixed.as_bytes());
        out.extend_from_slice(cores.as_bytes());
        out.extend_from_slice(peer.as_bytes());
        out.extend_from_slice(&self.lines);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (fixed, rest) =
            OpenFixed::read_from_prefix(bytes).map_err(|_| Malformed("an open message cut short"))?;
        let count = fixed.cores as usize;
        if count > MAX_CORES {
            return Err(Malformed("too many cores in an open message"));
        }
        let (cores, rest) = split(rest, count * size_of::<u32>())?;
        let (peer, rest) = split(rest, fixed.peer_bytes as usize)?;
        let (lines, rest) = split(rest, fixed.lines_bytes as usize)?;
        if !rest.is_empty() {
            return Err(Malformed("an open message with bytes left over"));
        }
        Ok(Self {
            hello: fixed.hello,
            lines: lines.to_vec(),
            session: fixed.session,
            device: fixed.device,
            staging: fixed.staging,
            peer: text(peer),
            tenant: fixed.tenant,
            cores: cores.chunks_exact(4).filter_map(|core| u32::read_from_bytes(core).ok()).collect(),
        })
    }
}

fn head(kind: u32) -> Vec<u8> {
    Head { kind, reserved: 0 }.as_bytes().to_vec()
}

fn with_text(kind: u32, text: &str) -> Vec<u8> {
    let mut out = head(kind);
    out.extend_from_slice(cut(text).as_bytes());
    out
}

fn read_head(bytes: &[u8]) -> Result<(Head, &[u8]), Malformed> {
    Head::read_from_prefix(bytes).map_err(|_| Malformed("shorter than its head"))
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Malformed> {
    bytes.split_at_checked(at).ok_or(Malformed("an open message cut short"))
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// Text for a log line: one line, nothing a terminal would obey.
fn text(bytes: &[u8]) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn open() -> Open {
        Open {
            hello: Hello { lanes: 4, ..Hello::blank() },
            lines: b"program=python3\n".to_vec(),
            session: [7, 9],
            device: 1,
            staging: Staging { slot_bytes: 1 << 20, h2d_slots: 8, d2h_slots: 4, reserved: 0 },
            peer: "192.0.2.1:99".into(),
            cores: vec![4, 5, 6],
            tenant: [3; 32],
        }
    }

    #[test]
    fn messages_survive_the_trip() {
        let sent = ToWorker::Open { open: open(), socket: null() };
        let (bytes, fd) = sent.encode();
        assert!(fd.is_some());
        match ToWorker::decode(&bytes, Some(null())).unwrap() {
            ToWorker::Open { open: got, .. } => assert_eq!(got, open()),
            other => panic!("{other:?}"),
        }
        let join = Hello { role: 1, lane: 3, ..Hello::blank() };
        let sent = ToWorker::Join { hello: join, lines: b"pid=1\n".to_vec(), socket: null() };
        let (bytes, _) = sent.encode();
        match ToWorker::decode(&bytes, Some(null())).unwrap() {
            ToWorker::Join { hello, lines, .. } => assert_eq!((hello, &lines[..]), (join, &b"pid=1\n"[..])),
            other => panic!("{other:?}"),
        }
        assert_eq!(ToWorker::decode(&bytes, None).unwrap_err(), Malformed("the socket is missing"));
        for sent in [
            FromWorker::Ready { inventory: vec![1, 2, 3] },
            FromWorker::Failed { text: "no driver".into() },
            FromWorker::Ended {
                reason: "the program ended".into(),
                stats: SessionStats { bytes_in: 1, bytes_out: 2, calls: 3, batches: 4 },
            },
        ] {
            assert_eq!(FromWorker::decode(&sent.encode()).unwrap(), sent);
        }
    }

    #[test]
    fn an_open_message_of_any_other_length_is_refused() {
        let (bytes, _) = ToWorker::Open { open: open(), socket: null() }.encode();
        for end in 0..bytes.len() {
            assert!(ToWorker::decode(&bytes[..end], Some(null())).is_err(), "{end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(ToWorker::decode(&longer, Some(null())).is_err());
        let lengths = size_of::<Head>() + std::mem::offset_of!(OpenFixed, peer_bytes);
        for at in [lengths, lengths + 4, lengths + 8] {
            let mut bad = bytes.clone();
            bad[at..at + 4].fill(0xff);
            assert!(ToWorker::decode(&bad, Some(null())).is_err());
        }
    }

    #[test]
    fn text_is_one_harmless_line() {
        let sent = FromWorker::Failed { text: format!("a\n\x1b[2J{}", "é".repeat(MAX_TEXT)) };
        match FromWorker::decode(&sent.encode()).unwrap() {
            FromWorker::Failed { text } => {
                assert!(text.starts_with("a  [2J"));
                assert!(text.len() <= MAX_TEXT);
                assert!(!text.contains(char::is_control));
            }
            other => panic!("{other:?}"),
        }
    }

    proptest::proptest! {
        /// Whatever a worker (or a daemon) sends, reading it ends in a message or in `Malformed`.
        #[test]
        fn any_bytes_can_be_read(
            kind in proptest::sample::select(vec![0, OPEN, JOIN, REFRESH, SHUTDOWN, READY, FAILED, ENDED, u32::MAX]),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        ) {
            let mut bytes = head(kind);
            bytes.extend_from_slice(&rest);
            let from_worker = FromWorker::decode(&bytes).is_ok();
            let to_worker = ToWorker::decode(&bytes, Some(null())).is_ok();
            proptest::prop_assert!(!(from_worker && to_worker));
        }
    }
}
