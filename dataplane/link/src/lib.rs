//! Links: what carries Fusewire's batches and bulk data between a client and its worker.
//!
//! A session has one *command lane* ([`CommandLane`]), owned and turned by one I/O thread, and a few
//! *bulk lanes* ([`BulkMover`]), each a thread of its own, so that a launch never waits behind a large
//! copy. Both are traits; the implementations are
//!
//! - [`shm`]: rings in memory that both processes share, on one host,
//! - [`tcp`]: sockets on `io_uring`, or on `poll(2)` where `io_uring` is not to be had,
//! - [`memory`]: pairs inside one process, for tests.
//!
//! A link knows nothing of what it carries: order, acknowledgement, credit and replay belong to the
//! session in `fusewire-wire`. It runs inside programs that are not ours, so it must never touch a ring
//! in a forked child (use the `leak` methods there), never take a signal meant for the program, and never
//! print unless asked to.
//!
//! [`compress`] is for those who use bulk lanes over slow networks.
//!
//! Start with [`lane`] for the promises, then [`tcp`].

pub mod bulk;
pub mod compress;
pub mod error;
pub mod lane;
pub mod memory;
pub mod probe;
pub mod shm;
pub mod tcp;
pub mod waker;

mod poll;
mod queue;
mod ring;

pub use bulk::{BulkHandle, BulkMover, BulkSink, Delivery, OutChunk, RawSlice, RawSliceMut, without_signals};
pub use core_affinity::CoreId;
pub use error::{Closing, LinkError};
pub use fusewire_wire::bulk::ChunkHeader;
pub use lane::{CommandLane, Turn, Wait};
pub use queue::ChunkQueue;
pub use waker::Waker;
