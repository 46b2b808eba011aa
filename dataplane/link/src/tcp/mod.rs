//! Links over connected TCP sockets: on `io_uring`, or on `poll(2)` where `io_uring` is not to be had.
//!
//! This file chooses between the two; [`Engine::Auto`] is right for everybody but tests. The sockets come
//! connected, hellos exchanged: nothing here resolves, connects or authenticates.
//!
//! On Linux 6.18 a lane on `io_uring` counts 8 to 12 KiB against the limit on locked memory (per user, unless
//! privileged): a session of five lanes fits into 64 KiB, and the usual 8 MiB carry some 900 lanes. A lane
//! that does not fit runs on `poll(2)`. A payload that is sent without a copy counts until the peer has it; one that
//! does not fit is copied.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

use crate::bulk::BulkEngine;
use crate::error::LinkError;
use crate::lane::CommandLane;
use crate::ring::note_once;

mod bulk_poll;
mod bulk_ring;
pub(crate) mod chunks;
mod command_poll;
mod command_ring;
mod congestion;
mod goodput;
mod info;
mod receive_buffers;
mod socket;

/// Which system interface a TCP lane runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// `io_uring` if it works here, else `poll(2)`. `FUSEWIRE_IO_URING=off` in the environment chooses
    /// `poll(2)` without trying.
    #[default]
    Auto,
    /// `io_uring` or an error.
    IoUring,
    Poll,
}

/// Whether large payloads are sent without the kernel copying them (on `io_uring` only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// To other hosts, until the kernel reports that it copies all the same. Within a host it always does.
    #[default]
    Auto,
    Never,
    /// Within a host, too, until the kernel reports that it copies; for tests.
    Tried,
    /// Whatever the kernel reports; for tests.
    Always,
}

/// A command lane over a connected socket.
///
/// The socket's blocking mode and options are changed.
///
/// # Errors
/// [`LinkError::NoRing`] with [`Engine::IoUring`] only; [`LinkError::System`] when descriptors or memory
/// run out.
pub fn command_lane(socket: OwnedFd, engine: Engine) -> Result<Box<dyn CommandLane>, LinkError> {
    let socket = socket::Socket::adopt(socket, socket::Use::Command)?;
    match choose(engine, command_ring::Prepared::new)? {
        Some(prepared) => Ok(Box::new(prepared.attach(socket))),
        None => Ok(Box::new(command_poll::PollCommand::new(socket)?)),
    }
}

/// The engine of a bulk lane over a connected socket, for [`BulkMover`](crate::BulkMover).
///
/// # Errors
/// As [`command_lane`].
pub fn bulk_engine(
    socket: OwnedFd,
    engine: Engine,
    zero_copy: ZeroCopy,
) -> Result<Box<dyn BulkEngine>, LinkError> {
    let socket = socket::Socket::adopt(socket, socket::Use::Bulk)?;
    match choose(engine, bulk_ring::Prepared::new)? {
        Some(prepared) => Ok(Box::new(prepared.attach(socket, zero_copy))),
        None => Ok(Box::new(bulk_poll::PollBulk::new(socket)?)),
    }
}

/// What `make` makes with `io_uring`, or `None` where `poll(2)` is to be used.
fn choose<T>(engine: Engine, make: fn() -> Result<T, LinkError>) -> Result<Option<T>, LinkError> {
    static SAID: AtomicBool = AtomicBool::new(false);
    match engine {
        Engine::Poll => Ok(None),
        Engine::IoUring => make().map(Some),
        Engine::Auto if std::env::var_os("FUSEWIRE_IO_URING").is_some_and(|value| value == "off") => Ok(None),
        Engine::Auto => match make() {
            Ok(made) => Ok(Some(made)),
            Err(why) => {
                note_once(&SAID, format_args!("{why}; going on with poll(2), which is slower"));
                Ok(None)
            }
        },
    }
}
