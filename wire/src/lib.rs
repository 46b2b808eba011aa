//! Fusewire's protocol core: op table, framing and session state machines

pub mod fatbin;
pub mod inventory;
pub mod ops;
