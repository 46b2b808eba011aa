//! How a client finds and greets a Fusewire server.
//!
//! [`Config::from_env`] reads the settings that `fusewire run` made,
//! [`open_session`] opens the connections of a session, [`query`] asks a server
//! what it has. Plain blocking sockets: this runs inside other people's
//! programs, before there is anything to be fast about, and must need nothing
//! but glibc.
//!
//! [`log`] says what the user wants said on stderr.
//!
//! Everything read here is bounded in size and in time, and every error is one
//! line that says what was tried and what to do. What travels once a session
//! is open is the business of `fusewire-link` and `fusewire-wire`.

#![deny(unsafe_code)]

mod config;
mod error;
mod greet;
pub mod log;
mod said;
mod stream;

pub use config::{Config, DEFAULT_PORT, DEFAULT_TIMEOUT, Token};
pub use error::ConnectError;
pub use greet::{Opened, open_session, query, query_server};
pub use said::said_by;
pub use stream::Stream;
