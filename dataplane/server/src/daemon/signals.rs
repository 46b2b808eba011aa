//! Termination signals, as bytes on a socket that an executor can wait for.

use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::Failure;

/// From now on SIGTERM, SIGINT and SIGHUP each put a byte into the socket returned.
pub(super) fn register() -> Result<UnixStream, Failure> {
    let failed = |error: std::io::Error| format!("cannot watch for signals: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        pipe::register(signal, theirs.try_clone().map_err(failed)?).map_err(failed)?;
    }
    Ok(ours)
}
