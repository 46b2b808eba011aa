//! Whether `io_uring` can be used here, and if not, why and what to do about it.

use std::fs;
use std::io;

use io_uring::opcode;

use crate::error::LinkError;
use crate::ring::{Ring, TaskWork};

/// What this kernel lets this process do with `io_uring`.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Completion work runs only when the owner asks for it (Linux 6.1).
    pub deferred_task_work: bool,
    /// `SENDMSG_ZC` (Linux 6.1): payload goes to the network card without a copy.
    pub send_zero_copy: bool,
}

/// Tries `io_uring` for real: sets a ring up, enables it, and asks for what the lanes need.
///
/// # Errors
/// [`LinkError::NoRing`]: what was tried, what the kernel said, what it means and what to do.
pub fn probe() -> Result<Features, LinkError> {
    let mut ring = Ring::new(8, TaskWork::Deferred)?;
    ring.enable()?;
    let mut known = io_uring::Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(|error| refusal("io_uring_register(PROBE)", &error))?;
    for (code, name) in
        [(opcode::SendMsg::CODE, "SENDMSG"), (opcode::Recv::CODE, "RECV"), (opcode::Read::CODE, "READ")]
    {
        if !known.is_supported(code) {
            return Err(LinkError::NoRing(format!(
                "io_uring cannot be used: Linux {} has no {name} operation; Linux 5.11 or later is needed",
                kernel()
            )));
        }
    }
    Ok(Features {
        kernel: kernel(),
        deferred_task_work: ring.task_work() == TaskWork::Deferred,
        send_zero_copy: known.is_supported(opcode::SendMsgZc::CODE),
    })
}

/// Puts an `io_uring` call's failure into words.
pub(crate) fn refusal(tried: &str, error: &io::Error) -> LinkError {
    let kernel = kernel();
    let meaning = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel or sandbox has no io_uring (it needs Linux 5.11 or later, or a \
             sandbox that passes it on, which gVisor for one does not)"
            .to_owned(),
        Some(libc::EPERM | libc::EACCES) => match disabled_by_sysctl() {
            Some(level) => {
                format!("sysctl kernel.io_uring_disabled is {level}; set it to 0 to allow io_uring")
            }
            None => "a seccomp filter forbids it; let the container's seccomp profile allow io_uring_setup, \
                 io_uring_enter and io_uring_register"
                .to_owned(),
        },
        Some(libc::ENOMEM) => format!(
            "not enough lockable memory (the limit is {}); raise it with `ulimit -l`, LimitMEMLOCK= or \
             --ulimit memlock",
            memlock_limit()
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            "too many open files; raise the limit with `ulimit -n` or LimitNOFILE=".to_owned()
        }
        Some(libc::EINVAL) => "this kernel's io_uring is too old; Linux 5.11 or later is needed".to_owned(),
        _ => "an unexpected error".to_owned(),
    };
    LinkError::NoRing(format!(
        "io_uring cannot be used: {tried} failed on Linux {kernel}: {error}: {meaning}"
    ))
}

/// The limit on locked memory, in words.
pub(crate) fn memlock_limit() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills in the live rlimit it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return "unknown".to_owned();
    }
    if limit.rlim_cur == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        format!("{} KiB", limit.rlim_cur / 1024)
    }
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "(unknown release)".to_owned(), |release| release.trim().to_owned())
}

fn disabled_by_sysctl() -> Option<u32> {
    let level = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()?;
    (level > 0).then_some(level)
}
