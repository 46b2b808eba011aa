//! What the system must grant before the daemon can start: io_uring, memory
//! that may be locked for its buffers, and enough descriptors.
//!
//! All of it is tried beforehand, because what the executors say when they
//! cannot have it is not for people.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;

/// How much memory the daemon's executors must be able to lock, in bytes.
pub const MEMLOCK_NEEDED: u64 = 512 << 10;

/// How much memory may be locked, in bytes; `None` when there is no limit.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Whether a ring can be made and says what it can do, as the executors will ask it to.
///
/// # Errors
/// What the kernel says, such as EPERM under a seccomp filter.
pub fn try_io_uring() -> io::Result<()> {
    let ring = io_uring::IoUring::new(8)?;
    ring.submitter().register_probe(&mut io_uring::Probe::new())
}

/// Raises what may be raised — workers inherit it — and fails with what to do when that is not enough.
pub(super) fn ensure() -> Result<(), Failure> {
    // One or two descriptors for each connection and worker. Best effort: running out is reported where it happens.
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    ensure_memlock()?;
    try_io_uring().map_err(|error| super::no_io_uring(&error))
}

fn ensure_memlock() -> Result<(), Failure> {
    let old = getrlimit(Resource::Memlock);
    // Best effort: what counts is the limit that results.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: old.maximum, maximum: old.maximum });
    if enough(memlock_limit()) {
        return Ok(());
    }
    // The hard limit itself is too low. A privileged daemon may raise it.
    let _ =
        setrlimit(Resource::Memlock, Rlimit { current: Some(MEMLOCK_NEEDED), maximum: Some(MEMLOCK_NEEDED) });
    if enough(memlock_limit()) { Ok(()) } else { Err(text(memlock_limit().unwrap_or(0))) }
}

fn enough(limit: Option<u64>) -> bool {
    limit.is_none_or(|limit| limit >= MEMLOCK_NEEDED)
}

fn text(limit: u64) -> String {
    format!(
        "only {} KiB of memory may be locked and io_uring needs {} KiB: raise the limit with `ulimit -l 65536` \
         (as root, or memlock in /etc/security/limits.conf), LimitMEMLOCK=infinity in a systemd unit, \
         or --ulimit memlock=-1 for a container",
        limit >> 10,
        MEMLOCK_NEEDED >> 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged_and_named() {
        assert!(enough(None) && enough(Some(MEMLOCK_NEEDED)));
        assert!(!enough(Some(MEMLOCK_NEEDED - 1)) && !enough(Some(0)));
        let line = text(64 << 10);
        assert!(line.contains("64 KiB") && line.contains("512 KiB") && line.contains("ulimit -l"), "{line}");
    }
}
