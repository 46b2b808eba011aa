//! Network namespaces: this process's own is never changed, so that nothing has to be put back, whatever
//! happens. A namespace goes when the last process in it and the last [`Namespace`] of it have gone.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Context, Error, Result};

/// A network namespace of its own, empty but for a loopback interface that is down.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: OwnedFd,
}

impl Namespace {
    pub(crate) fn new() -> Result<Namespace> {
        let made = thread::spawn(|| {
            // SAFETY: only the network namespace of this thread is changed, which nothing here relies on.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .map_err(|_| Error::Failed("the thread that makes a network namespace".into()))?
            .map_err(|error| {
                Error::Unsupported(format!("a network namespace cannot be made ({error}): are you root?"))
            })?;
        Ok(Namespace { file: file.into() })
    }

    /// Does something in this namespace. Sockets that are made there stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let done = scope.spawn(|| {
                enter(self.file.as_fd()).failed(|| "a network namespace cannot be entered".into())?;
                work()
            });
            done.join().map_err(|_| Error::Failed("a thread in a network namespace".into()))?
        })
    }

    /// Has a command run in this namespace, which must stay until it was started.
    pub(crate) fn confine(&self, command: &mut Command) {
        let file: RawFd = self.file.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor is open for as long as the namespace lives, and forking keeps it.
            let file = unsafe { BorrowedFd::borrow_raw(file) };
            enter(file).map_err(std::io::Error::from)
        };
        // SAFETY: the closure makes one system call and allocates nothing, which is all that is allowed
        // between fork and exec.
        unsafe { command.pre_exec(enter) };
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn enter(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::thread::move_into_link_name_space(file, Some(LinkNameSpaceType::Network))
}
