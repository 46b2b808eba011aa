//! What can go wrong on a link, told apart by whose doing it was.
//!
//! Every message says what was tried, on what, and what happened. The type is `Clone` so that the error
//! that ended a lane can be reported again to whoever uses the lane afterwards.

use std::fmt;
use std::io;

/// Why a link operation failed.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The connection is over. Nothing more will be sent or received on this lane.
    #[error("the connection to {peer} is closed: {how}")]
    Closed { peer: String, how: Closing },

    /// The peer sent something the protocol does not allow. The lane ends.
    #[error("{peer} sent {what}")]
    PeerMisbehaved { peer: String, what: String },

    /// A system call on our own side failed in a way that is not the peer's doing.
    #[error("{doing} failed: {}", describe(*.errno))]
    System { doing: &'static str, errno: i32 },

    /// `io_uring` cannot be used in this process; the text says why and what to do about it.
    #[error("{0}")]
    NoRing(String),

    /// The caller broke a rule of this crate's interface.
    #[error("misuse of a link: {0}")]
    Misuse(&'static str),
}

/// How a connection came to its end.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The peer closed it between two messages.
    ByPeer,
    /// The peer closed it, or died, with this much of a chunk (header included) received.
    MidChunk { got: usize, of: usize },
    /// The peer's host reset it: the process there ended with data unread, or nobody listens any more.
    Reset,
    /// Nothing was heard from the peer's host for too long.
    TimedOut,
    /// The peer's host cannot be reached.
    Unreachable,
    /// This side closed it.
    Here,
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closing::ByPeer => f.write_str("the peer closed it"),
            Closing::MidChunk { got, of } => {
                write!(f, "the peer went away in the middle of a chunk ({got} of {of} bytes received)")
            }
            Closing::Reset => f.write_str("it was reset by the peer's host (has the process there died?)"),
            Closing::TimedOut => f.write_str("the peer's host did not answer in time"),
            Closing::Unreachable => f.write_str("the peer's host cannot be reached"),
            Closing::Here => f.write_str("it was closed on this side"),
        }
    }
}

impl LinkError {
    /// The error for a socket call that failed with `errno`.
    pub(crate) fn socket(doing: &'static str, peer: &str, errno: i32) -> Self {
        let how = match errno {
            libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => Closing::Reset,
            libc::ETIMEDOUT => Closing::TimedOut,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => Closing::Unreachable,
            libc::ENOTCONN | libc::ESHUTDOWN => Closing::ByPeer,
            _ => return LinkError::System { doing, errno },
        };
        LinkError::Closed { peer: peer.to_owned(), how }
    }

    pub(crate) fn system(doing: &'static str, error: &io::Error) -> Self {
        LinkError::System { doing, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

fn describe(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
