//! The two ends of a session as state machines: bytes and time in, bytes and events out.
//!
//! Nothing here opens a socket, starts a thread, reads a clock or knows what a record means. The parts can be
//! used alone, each under its own lock:
//!
//! * [`outbox`] and [`inbox`] — one direction each: batches, acknowledgement, replay;

pub mod inbox;
pub mod outbox;

pub use inbox::{AckPolicy, Flow, Inbox, Sink};
pub use outbox::{Outbox, OutboxConfig, SealedBatch};
