//! Fusewire's protocol core: bytes and time in, bytes and events out.
//!
//! * [`mod@ops`] — the op table: every driver function, declared once; events; the device snapshot.
//! * [`hello`] — how a connection opens; versions and features.
//! * [`frame`], [`bulk`] — what travels: batches of records, and chunks of copied memory.
//! * [`encoded`], [`palette`], [`general`] — how payloads are compressed on slow links.
//! * [`session`] — the state machines of both ends: order, acknowledgement, replay, credit, barriers.
//! * [`fatbin`], [`digest`] — how long an image is, what of it a GPU needs, and its name in a cache.
//! * [`inventory`] — what a server says about its GPUs.
//! * [`error`] — whose fault it was.
//!
//! It never does I/O, never asks for the time, and has no unsafe code. The links are in `fusewire-link`.

#![forbid(unsafe_code)]

pub mod bulk;
pub mod digest;
pub mod encoded;
pub mod error;
pub mod fatbin;
pub mod frame;
pub mod general;
pub mod hello;
pub mod inventory;
pub mod ops;
pub mod palette;
pub mod session;
