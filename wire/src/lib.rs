//! Fusewire's protocol core: op table, framing and session state machines

#![forbid(unsafe_code)]

pub mod bulk;
pub mod error;
pub mod fatbin;
pub mod frame;
pub mod hello;
pub mod inventory;
pub mod ops;
pub mod session;
