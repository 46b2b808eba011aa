//! What can go wrong, by what the caller can do about it: each kind has its exit code.

use std::process::ExitCode;

use thiserror::Error;

/// One line for the user.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The command line, or a file that it names, cannot be used.
    #[error("{0}")]
    Usage(String),
    /// This machine lacks what the measurement needs.
    #[error("{0}")]
    Unsupported(String),
    /// A measurement did not succeed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::Failed(_) => ExitCode::FAILURE,
            Error::Usage(_) => ExitCode::from(2),
            Error::Unsupported(_) => ExitCode::from(3),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Makes an [`enum@Error`] of another error, with what was tried.
pub(crate) trait Context<T> {
    fn failed(self, tried: impl FnOnce() -> String) -> Result<T>;
    fn usage(self, tried: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn failed(self, tried: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Failed(format!("{}: {error}", tried())))
    }

    fn usage(self, tried: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Usage(format!("{}: {error}", tried())))
    }
}
