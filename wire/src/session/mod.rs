//! The two ends of a session as state machines: bytes and time in, bytes and events out.
//!
//! Nothing here opens a socket, starts a thread, reads a clock or knows what a record means. The whole ends are
//! [`ClientSession`] and [`ServerSession`]. Their parts can be used alone, each under its own lock:
//!
//! * [`outbox`] and [`inbox`]: one direction each: batches, acknowledgement, replay; the halves of the former are
//!   [`OpenBatch`] and [`Retained`];
//! * [`chunks`]: numbers, credit and barriers of the bulk lanes;
//! * [`pulse`]: whether the other end is still there.

mod channel;
pub mod chunks;
mod client;
pub mod inbox;
mod open_batch;
pub mod outbox;
pub mod pulse;
mod retained;
mod server;
mod window;

pub use channel::{ChannelConfig, Transmit};
pub use chunks::{ArrivalGate, ChunkNumbers, ChunkPlan, ChunkReceiver, ChunkSender};
pub use client::{ClientConfig, ClientSession, Next};
pub use inbox::{AckPolicy, Flow, Inbox, Sink};
pub use open_batch::OpenBatch;
pub use outbox::{Outbox, OutboxConfig, SealedBatch};
pub use pulse::{Nanos, Patience, Pulse};
pub use retained::Retained;
pub use server::{ServerConfig, ServerSession};
pub use window::Window;
