//! Lockable memory: io_uring's buffers are locked, and a limit of nothing stops the daemon from starting.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;

/// What the daemon's executors insist on, in bytes.
pub const NEEDED: u64 = 512 << 10;

/// The present soft limit in bytes; `None` when there is none.
#[must_use]
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Raises the soft limit as far as allowed — workers inherit it and register
/// more — and fails with what to do when that is not enough.
pub(super) fn ensure() -> Result<(), Failure> {
    let old = getrlimit(Resource::Memlock);
    // Best effort: what counts is the limit that results.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: old.maximum, maximum: old.maximum });
    if enough(limit()) {
        return Ok(());
    }
    // The hard limit itself is too low. A privileged daemon may raise it.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: Some(NEEDED), maximum: Some(NEEDED) });
    if enough(limit()) { Ok(()) } else { Err(text(limit().unwrap_or(0))) }
}

fn enough(limit: Option<u64>) -> bool {
    limit.is_none_or(|limit| limit >= NEEDED)
}

fn text(limit: u64) -> String {
    format!(
        "only {} KiB of memory may be locked and io_uring needs {} KiB: raise the limit with `ulimit -l 65536` \
         (as root, or memlock in /etc/security/limits.conf), LimitMEMLOCK=infinity in a systemd unit, \
         or --ulimit memlock=-1 for a container",
        limit >> 10,
        NEEDED >> 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged_and_named() {
        assert!(enough(None) && enough(Some(NEEDED)));
        assert!(!enough(Some(NEEDED - 1)) && !enough(Some(0)));
        let line = text(64 << 10);
        assert!(line.contains("64 KiB") && line.contains("512 KiB") && line.contains("ulimit -l"), "{line}");
    }
}
