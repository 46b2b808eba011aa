//! Waking a lane's thread: a token and an eventfd.
//!
//! The token works as a parked thread's does: a `wake` that comes before the sleep is not lost, the sleep
//! then does not happen. The eventfd is written only when the owner really sleeps, so that waking an owner
//! that is awake costs a fence and a load.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crossbeam::utils::CachePadded;

use crate::error::LinkError;

/// Nobody sleeps and no wake-up is owed.
const AWAKE: u32 = 0;
/// A wake-up is owed: the next sleep returns at once.
const NOTIFIED: u32 = 1;
/// The owner sleeps, or is about to: the eventfd has to be written.
const ASLEEP: u32 = 2;

/// Makes a waiting lane return. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

struct Shared {
    state: CachePadded<AtomicU32>,
    event: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> Result<Self, LinkError> {
        // SAFETY: no pointers are passed; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(LinkError::system("eventfd (for waking a lane)", &std::io::Error::last_os_error()));
        }
        // SAFETY: as above, `fd` is open and ours alone.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker(Arc::new(Shared { state: CachePadded::new(AtomicU32::new(AWAKE)), event })))
    }

    /// Makes the owner's waiting turn return, or its next one if it is not waiting now.
    ///
    /// What the caller has written before this call is seen by the owner after its turn.
    pub fn wake(&self) {
        // With the fence in `begin_sleep`/`end_sleep`: either we see that the token was taken, or the
        // owner, after taking it, sees what our caller wrote before.
        fence(Ordering::SeqCst);
        if self.0.state.load(Ordering::Relaxed) == NOTIFIED {
            return;
        }
        if self.0.state.swap(NOTIFIED, Ordering::SeqCst) == ASLEEP {
            self.ring_bell();
        }
    }

    /// Writes the eventfd, so that a read of it ends.
    pub(crate) fn ring_bell(&self) {
        let one = 1u64;
        // SAFETY: writes 8 bytes from a live u64. The counter cannot overflow (2^64 wake-ups), so the
        // write neither blocks nor fails while the descriptor, which we hold, is open.
        unsafe { libc::write(self.fd(), (&raw const one).cast(), 8) };
    }

    /// The owner is about to sleep. False: it must not, a wake-up is owed (and now taken).
    pub(crate) fn begin_sleep(&self) -> bool {
        let slept = self.0.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !slept {
            self.0.state.swap(AWAKE, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        slept
    }

    /// Whether a wake-up is owed, so that a sleep would end at once.
    pub(crate) fn is_owed(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == NOTIFIED
    }

    /// The owner has slept. True: it was woken by [`wake`](Self::wake).
    pub(crate) fn end_sleep(&self) -> bool {
        let woken = self.0.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED;
        fence(Ordering::SeqCst);
        woken
    }

    /// The eventfd, readable after a wake-up until it is read.
    pub(crate) fn fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }

    /// Reads the eventfd. Blocks unless it is readable.
    pub(crate) fn drain(&self) {
        let mut count = 0u64;
        // SAFETY: reads 8 bytes into a live u64.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), 8) };
    }
}
