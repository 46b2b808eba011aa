//! An `io_uring` as the lanes use it: made on one thread, owned by another, submitting and waiting.
//!
//! The ring is created disabled, so that the thread that first turns the lane becomes its one issuer, and
//! with deferred task work where the kernel has it: completions are then posted only while the owner is in
//! the kernel, and a flag in shared memory says when that is worth a system call. (Measured over loopback on
//! 16 cores, both ends polling, in turn in one run: a round trip takes 7.8 µs deferred, 9.0 cooperative, 11.8
//! interrupting; on plain `recv`/`send` 7.1, where an idle turn then costs 240 ns instead of 18.)

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use crate::error::LinkError;
use crate::probe;

/// How the kernel runs completion work, from best to oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskWork {
    /// Only in the owner's own system calls (6.1).
    Deferred,
    /// At the owner's next return from the kernel, without interrupting it (5.19).
    Cooperative,
    /// At once, interrupting the owner.
    Interrupting,
}

pub(crate) struct Ring {
    /// Dropped by the process that made it only: where the ring is mapped there, a forked child may by now
    /// have something else.
    io: ManuallyDrop<IoUring>,
    task_work: TaskWork,
    enabled: bool,
    /// Requests submitted whose last completion has not been seen.
    outstanding: usize,
    owner: Owner,
}

/// A completion: which request, its result, and the kernel's flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) tag: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Completion {
    pub(crate) fn more_follow(&self) -> bool {
        cqueue::more(self.flags)
    }

    pub(crate) fn is_notification(&self) -> bool {
        cqueue::notif(self.flags)
    }
}

impl Ring {
    /// # Errors
    /// [`LinkError::NoRing`], with what to do about it.
    pub(crate) fn new(entries: u32, best: TaskWork) -> Result<Self, LinkError> {
        let modes = [TaskWork::Deferred, TaskWork::Cooperative, TaskWork::Interrupting];
        let from = modes.iter().position(|&mode| mode == best).unwrap_or(0);
        let mut refusal = None;
        for &task_work in &modes[from..] {
            let mut builder = IoUring::builder();
            builder.setup_r_disabled().setup_clamp().dontfork();
            match task_work {
                TaskWork::Deferred => {
                    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
                }
                TaskWork::Cooperative => {
                    builder.setup_coop_taskrun().setup_taskrun_flag();
                }
                TaskWork::Interrupting => {}
            }
            match builder.build(entries) {
                Ok(io) => {
                    let io = ManuallyDrop::new(io);
                    let owner = Owner::this_process();
                    return Ok(Ring { io, task_work, enabled: false, outstanding: 0, owner });
                }
                // Flags the kernel does not know: try with fewer.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
                Err(error) => return Err(probe::refusal("io_uring_setup", &error)),
            }
        }
        let error = refusal.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL));
        Err(probe::refusal("io_uring_setup", &error))
    }

    pub(crate) fn task_work(&self) -> TaskWork {
        self.task_work
    }

    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.io.submitter()
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.io.as_raw_fd()
    }

    /// Makes the calling thread the ring's owner. Does nothing the second time.
    pub(crate) fn enable(&mut self) -> Result<(), LinkError> {
        if !self.enabled {
            self.io
                .submitter()
                .register_enable_rings()
                .map_err(|e| probe::refusal("io_uring_register(ENABLE_RINGS)", &e))?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Queues a request; it reaches the kernel with the next [`poke`](Self::poke) or [`wait`](Self::wait).
    ///
    /// # Safety
    /// What the request points to must stay valid until its last completion has been popped.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry, tag: u64) -> Result<(), LinkError> {
        let entry = entry.user_data(tag);
        // SAFETY: passed on to the caller.
        if unsafe { self.io.submission().push(&entry) }.is_err() {
            self.submit(None, false)?;
            // SAFETY: as above; the first push did not take the entry.
            if unsafe { self.io.submission().push(&entry) }.is_err() {
                return Err(LinkError::Misuse("more requests than the ring has room for"));
            }
        }
        self.outstanding += 1;
        Ok(())
    }

    /// Submits what is queued and lets pending completion work run; no system call when there is neither.
    pub(crate) fn poke(&mut self) -> Result<(), LinkError> {
        let queue = self.io.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        self.submit(None, false)
    }

    /// Submits what is queued and sleeps until a completion is there or `limit` has passed.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> Result<(), LinkError> {
        self.submit(limit, true)
    }

    fn submit(&mut self, limit: Option<Duration>, wait: bool) -> Result<(), LinkError> {
        let queue = self.io.submission();
        let to_submit = queue.len() as u32;
        let mut flags = EnterFlags::empty();
        flags.set(EnterFlags::GETEVENTS, wait || queue.taskrun() || queue.cq_overflow());
        drop(queue);
        // An idle lane is not a busy disk: keep its sleep out of the host's iowait (Linux 6.15).
        flags.set(EnterFlags::NO_IOWAIT, wait && self.io.params().is_feature_no_iowait());
        let limit = limit.filter(|_| wait).map(Timespec::from);
        let submitter = self.io.submitter();
        // SAFETY: the arguments fit the flags: with EXT_ARG a live SubmitArgs, otherwise none.
        let result = unsafe {
            match &limit {
                Some(limit) => {
                    let arguments = SubmitArgs::new().timespec(limit);
                    let flags = flags | EnterFlags::EXT_ARG;
                    submitter.enter(to_submit, 1, flags.bits(), Some(&arguments))
                }
                None => submitter.enter::<libc::sigset_t>(to_submit, wait.into(), flags.bits(), None),
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Timed out; interrupted; or the completion queue wants emptying first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                Some(libc::EEXIST) => {
                    Err(LinkError::Misuse("a lane was turned by another thread than the one that first did"))
                }
                _ => Err(LinkError::system("io_uring_enter", &error)),
            },
        }
    }

    /// The next completion that is in memory; makes no system call.
    pub(crate) fn pop(&mut self) -> Option<Completion> {
        let entry = self.io.completion().next()?;
        let completion = Completion { tag: entry.user_data(), result: entry.result(), flags: entry.flags() };
        if !completion.more_follow() {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        Some(completion)
    }

    pub(crate) fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty()
    }

    /// Cancels every request and waits, at most `limit`, until none is left, so that the kernel no longer
    /// touches the memory they point to. False when that could not be had: the memory must then be leaked.
    pub(crate) fn quiesce(&mut self, limit: Duration) -> bool {
        if !self.owner.is_us() {
            return false;
        }
        if self.outstanding == 0 {
            return true;
        }
        let until = Instant::now() + limit;
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        // SAFETY: a cancellation points to nothing.
        if unsafe { self.push(cancel, TAG_CANCEL) }.is_err() {
            return false;
        }
        while self.outstanding > 0 {
            if self.submit(Some(Duration::from_millis(20)), true).is_err() || Instant::now() > until {
                return false;
            }
            while self.pop().is_some() {}
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.owner.is_us() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.io) };
        }
    }
}

/// The process that made something which a forked child must not touch.
#[derive(Clone, Copy)]
pub(crate) struct Owner(u32);

impl Owner {
    pub(crate) fn this_process() -> Self {
        Owner(std::process::id())
    }

    /// False in a forked child.
    pub(crate) fn is_us(self) -> bool {
        self.0 == std::process::id()
    }
}

/// The tag of the cancellation in [`Ring::quiesce`]; nobody looks at its result.
const TAG_CANCEL: u64 = u64::MAX;

/// Says something on stderr, once per process, if the user asked for it with `FUSEWIRE_LOG=info`.
pub(crate) fn note_once(said: &AtomicBool, text: std::fmt::Arguments<'_>) {
    let asked = std::env::var_os("FUSEWIRE_LOG").is_some_and(|level| {
        ["info", "debug", "trace"].iter().any(|known| level.to_string_lossy().contains(known))
    });
    if asked && !said.swap(true, Ordering::Relaxed) {
        eprintln!("fusewire: {text}");
    }
}
