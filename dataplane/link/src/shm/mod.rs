//! Links through shared memory, for a client on the GPU host itself: in a container, or another sandbox.
//!
//! Each lane is a pair of byte rings in one sealed memfd ([`area`]) beside the UNIX socket on which it was
//! greeted. Bytes travel in the rings ([`ring`]), by stores and loads only. The socket tells a sleeping end to
//! look ([`bell`]), and the kernel tells through it, at once, that the peer is gone. While both ends are awake
//! no system call is made.
//!
//! The peer can write any byte of the shared memory at any time. So nothing there is believed: a position is
//! read once and checked, what is received is copied before anybody looks at it, and no Rust reference to
//! shared memory is ever made except to atomics. The memfd is sealed against shrinking before it is shared;
//! otherwise a peer could have the other end killed by SIGBUS.

mod area;
mod bell;
mod bulk;
mod command;
mod ring;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use area::{Area, is_local, sealed_memory};

use crate::bulk::BulkEngine;
use crate::error::LinkError;
use crate::lane::CommandLane;

/// Which end of a lane this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// The command lane of a session: section 0 of the area.
///
/// A turn that may wait looks for up to `spin` before it sleeps; how long it really looks follows from what
/// looking has brought.
///
/// # Errors
/// [`LinkError::System`] when descriptors run out.
pub fn command_lane(
    area: &Arc<Area>,
    socket: OwnedFd,
    side: Side,
    spin: Duration,
) -> Result<Box<dyn CommandLane>, LinkError> {
    Ok(Box::new(command::ShmCommand::new(area, socket, side, spin)?))
}

/// The engine of a bulk lane, for [`BulkMover`](crate::BulkMover): section `1 + lane` of the area.
///
/// # Errors
/// [`LinkError::System`] when descriptors run out; [`LinkError::Misuse`] for a lane that the area lacks.
pub fn bulk_engine(
    area: &Arc<Area>,
    lane: usize,
    socket: OwnedFd,
    side: Side,
    spin: Duration,
) -> Result<Box<dyn BulkEngine>, LinkError> {
    Ok(Box::new(bulk::ShmBulk::new(area, lane, socket, side, spin)?))
}
