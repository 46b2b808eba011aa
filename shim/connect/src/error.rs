//! Why there is no session: each in one line that says what was tried and what to do.

use std::io;
use std::time::Duration;

use fusewire_wire::error::ProtocolError;
use fusewire_wire::hello::RefusedReason;
use thiserror::Error;

/// Why a server could not be reached or would not talk.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No server is named.
    #[error(
        "no Fusewire server is named: start the program with `fusewire run --server HOST:PORT -- …` \
         or set FUSEWIRE_SERVER=HOST:PORT"
    )]
    NoServer,
    /// A setting cannot be used.
    #[error("{name} = {value:?} {why}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token file cannot be used.
    #[error("the token file {path} cannot be used: {why}")]
    TokenFile {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The name does not resolve.
    #[error(
        "the Fusewire server's name does not resolve ({server}: {error}): correct FUSEWIRE_SERVER or DNS"
    )]
    Resolve {
        /// `HOST:PORT` as given.
        server: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// No connection.
    #[error(
        "no Fusewire server answers at {server} ({error}): start `fusewire serve` there, \
         or correct FUSEWIRE_SERVER"
    )]
    Connect {
        /// `HOST:PORT` as given.
        server: String,
        /// What the system said.
        error: io::Error,
    },
    /// Connected, and then nothing.
    #[error(
        "{server} accepted the connection but said nothing for {} s: check that a Fusewire server \
         listens there and is not stuck, or raise FUSEWIRE_CONNECT_TIMEOUT",
        .waited.as_secs_f32()
    )]
    Silent {
        /// `HOST:PORT` as given.
        server: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Something else listens there.
    #[error("what listens at {server} is not a Fusewire server ({what}): correct FUSEWIRE_SERVER")]
    NotFusewire {
        /// `HOST:PORT` as given.
        server: String,
        /// How it shows.
        what: String,
    },
    /// The two sides speak different versions.
    #[error(
        "this client speaks Fusewire protocol {ours}, the server at {server} speaks {theirs}: \
         install the same Fusewire release on both"
    )]
    Version {
        /// `HOST:PORT` as given.
        server: String,
        /// This side's version.
        ours: u32,
        /// The server's version.
        theirs: u32,
    },
    /// The server said no.
    #[error("the Fusewire server at {server} refused ({reason}): {text}")]
    Refused {
        /// `HOST:PORT` as given.
        server: String,
        /// Why, for programs.
        reason: RefusedReason,
        /// Why, for people.
        text: String,
    },
    /// The connection was lost in the middle of the greeting.
    #[error("the Fusewire server at {server} hung up during the greeting ({error}): see the server's log")]
    Lost {
        /// `HOST:PORT` as given.
        server: String,
        /// What the system said.
        error: io::Error,
    },
    /// The server broke the protocol.
    #[error("the Fusewire server at {server} cannot be used: {error}")]
    Protocol {
        /// `HOST:PORT` as given.
        server: String,
        /// How.
        error: ProtocolError,
    },
}
