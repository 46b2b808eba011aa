//! What device code prints.
//!
//! The driver writes printf's text to this process's standard output, and an assertion's to its standard error.
//! Both are pointed at files in memory, which the shard reads before it sends the completion that makes the text
//! visible. A pipe would do the same until a kernel prints more than the pipe holds: the shard, inside the
//! driver's call that writes, would wait for itself to read.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, fallocate, fcntl_setfl, fstat, memfd_create};

/// The most that is read at once.
const PIECE: usize = 1 << 20;

/// One captured descriptor.
#[derive(Debug)]
struct Capture {
    descriptor: u32,
    file: OwnedFd,
    /// What lies before this was read and its memory given back.
    read: u64,
}

/// The captured descriptors, none in a process that shares them with others.
#[derive(Debug, Default)]
pub(super) struct Output {
    captures: Vec<Capture>,
}

impl Output {
    /// Points standard output and standard error of this process into memory. Returns where standard error
    /// went before, for the process's own messages.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn capture() -> io::Result<(Self, OwnedFd)> {
        let stderr = rustix::io::fcntl_dupfd_cloexec(io::stderr().as_fd(), 3)?;
        let mut captures = Vec::new();
        for descriptor in [1u32, 2] {
            let file = memfd_create("fusewire-output", MemfdFlags::CLOEXEC)?;
            // Whatever writes there, and however often it was opened, writes at the end.
            fcntl_setfl(&file, OFlags::APPEND)?;
            // SAFETY: replaces a standard descriptor, which nothing in this process owns.
            if unsafe { libc::dup2(file.as_raw_fd(), descriptor.cast_signed()) } < 0 {
                return Err(io::Error::last_os_error());
            }
            captures.push(Capture { descriptor, file, read: 0 });
        }
        Ok((Self { captures }, stderr))
    }

    /// Gives what has been written since the last call.
    pub(super) fn drain(&mut self, mut take: impl FnMut(u32, &[u8])) {
        if self.captures.is_empty() {
            return;
        }
        // SAFETY: flushes the C library's streams, where the driver's text may lie.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        for capture in &mut self.captures {
            capture.drain(&mut take);
        }
    }
}

impl Capture {
    fn drain(&mut self, take: &mut impl FnMut(u32, &[u8])) {
        let Ok(stat) = fstat(&self.file) else { return };
        let end = stat.st_size.cast_unsigned();
        while self.read < end {
            let wanted = (end - self.read).min(PIECE as u64);
            let mut buffer = vec![0; usize::try_from(wanted).unwrap_or(PIECE)];
            match rustix::io::pread(&self.file, &mut buffer, self.read) {
                Ok(0) | Err(_) => break,
                Ok(bytes) => {
                    take(self.descriptor, buffer.get(..bytes).unwrap_or_default());
                    // A hole instead of a truncation: what is written meanwhile is not lost. If the system
                    // cannot do it, the text stays in memory until the session ends.
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    let _ = fallocate(&self.file, hole, self.read, bytes as u64);
                    self.read += bytes as u64;
                }
            }
        }
    }
}
