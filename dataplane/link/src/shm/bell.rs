//! Sleeping and waking across two processes, and noticing that the other one is gone.
//!
//! Who is about to sleep says in shared memory what it waits for, looks once more, and sleeps in one `ppoll` for
//! the lane's socket and its own process's [`Waker`]. The peer, having written or read, looks at that word and
//! sends a byte if it has to: a system call only when there is somebody to wake. The byte goes through the
//! socket, and not through a futex or a shared eventfd, because one wait then covers the peer's news, its death
//! and this process's own callers, and because no peer can make that wait or that send block.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::area::Ends;
use crate::error::{Closing, LinkError};
use crate::poll::{self, Seen};
use crate::ring::Owner;
use crate::waker::Waker;

/// What a sleeper waits for.
pub(super) const DATA: u32 = 1;
pub(super) const ROOM: u32 = 2;

/// How often an end that never sleeps looks whether the peer is still there.
const LOOK: Duration = Duration::from_millis(100);
/// Idle looks between two readings of the clock.
const LOOKS: u32 = 64;

pub(super) struct Bell {
    socket: OwnedFd,
    our_sleep: *mut u32,
    their_sleep: *mut u32,
    owner: Owner,
    looks: u32,
    looked: Instant,
    _area: std::sync::Arc<super::Area>,
}

// SAFETY: the pointers lead to atomics in the area, which the value holds.
unsafe impl Send for Bell {}

/// What ended a wait.
enum Heard {
    Ring,
    Waker,
    /// The time is over, or a signal came.
    Nothing,
}

pub(super) const PEER: &str = "the other process on this host";

impl Bell {
    pub(super) fn new(socket: OwnedFd, ends: &Ends) -> Result<Self, LinkError> {
        SockRef::from(&socket)
            .set_nonblocking(true)
            .map_err(|error| LinkError::system("fcntl(F_SETFL) on a lane's socket", &error))?;
        Ok(Bell {
            socket,
            our_sleep: ends.our_sleep,
            their_sleep: ends.their_sleep,
            owner: Owner::this_process(),
            looks: 0,
            looked: Instant::now(),
            _area: ends.area.clone(),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn ours(&self) -> &AtomicU32 {
        // SAFETY: an aligned word of the area, which we hold; used as an atomic by both ends.
        unsafe { AtomicU32::from_ptr(self.our_sleep) }
    }

    fn theirs(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.their_sleep) }
    }

    /// Wakes the peer if it sleeps for `news`. Call it after publishing that news.
    pub(super) fn ring(&self, news: u32) {
        // With the fence in `sleep`: either we see that it sleeps, or it sees what we have published.
        fence(Ordering::SeqCst);
        if self.theirs().load(Ordering::Relaxed) & news != 0 && self.theirs().swap(0, Ordering::SeqCst) != 0 {
            // A full buffer holds bytes enough to wake it, and an end is noticed by who sleeps next.
            let byte = 1u8;
            // SAFETY: sends one live byte.
            unsafe {
                libc::send(self.fd(), (&raw const byte).cast(), 1, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            };
        }
    }

    /// Sleeps until the peer rings for one of `wants`, the waker is used, the peer is gone, or `limit` is over.
    /// Does not sleep if `ready` finds something, once the sleep has been announced. Gives whether the waker was
    /// used.
    ///
    /// # Errors
    /// [`LinkError::Closed`]: the peer is gone. What it wrote before is still to be read.
    pub(super) fn sleep(
        &mut self,
        waker: &Waker,
        wants: u32,
        limit: Option<Duration>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, LinkError> {
        if !waker.begin_sleep() {
            return Ok(true);
        }
        let until = limit.map(|limit| Instant::now() + limit);
        let slept = loop {
            self.ours().store(wants, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if ready() {
                break Ok(());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match self.poll(Some(waker), left) {
                // A ring may be left over from news that was seen without it. A peer that does nothing but ring
                // does not keep us here.
                Ok(Heard::Ring) if left != Some(Duration::ZERO) => {}
                other => break other.map(drop),
            }
        };
        self.ours().store(0, Ordering::SeqCst);
        let woken = waker.end_sleep();
        slept.map(|()| woken)
    }

    /// For an end that found nothing to do and does not sleep: notices, now and then, that the peer is gone.
    ///
    /// # Errors
    /// As [`sleep`](Self::sleep).
    pub(super) fn look(&mut self) -> Result<(), LinkError> {
        self.looks += 1;
        if self.looks < LOOKS {
            return Ok(());
        }
        self.looks = 0;
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        self.poll(None, Some(Duration::ZERO)).map(drop)
    }

    fn poll(&mut self, waker: Option<&Waker>, limit: Option<Duration>) -> Result<Heard, LinkError> {
        let seen = poll::wait(self.fd(), false, waker, limit)?;
        if seen.socket {
            self.answer()?;
        }
        Ok(match seen {
            Seen { waker: true, .. } => Heard::Waker,
            Seen { socket: true, .. } => Heard::Ring,
            Seen { .. } => Heard::Nothing,
        })
    }

    /// Takes what came over the socket: rings, or the end.
    fn answer(&self) -> Result<(), LinkError> {
        let mut rings = [0u8; 64];
        // SAFETY: receives into a live buffer of that length.
        let got =
            unsafe { libc::recv(self.fd(), rings.as_mut_ptr().cast(), rings.len(), libc::MSG_DONTWAIT) };
        match got {
            1.. => Ok(()),
            0 => Err(LinkError::Closed { peer: PEER.into(), how: Closing::ByPeer }),
            _ => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => Ok(()),
                    // What it wrote is in the rings, and not lost with the connection.
                    Some(libc::ECONNRESET | libc::EPIPE) => {
                        Err(LinkError::Closed { peer: PEER.into(), how: Closing::ByPeer })
                    }
                    errno => {
                        Err(LinkError::socket("listening to the peer", PEER, errno.unwrap_or(libc::EIO)))
                    }
                }
            }
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // A forked child leaves the connection to its parent.
        if self.owner.is_us() {
            let _ = SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

/// How long to look before sleeping: less when looking was in vain, more again when it was not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spin {
    most: Duration,
    now: Duration,
}

impl Spin {
    /// Never below this share of the most, so that a link that wakes up again is noticed.
    const LEAST: u32 = 16;

    pub(super) fn new(most: Duration) -> Self {
        Spin { most, now: most }
    }

    /// Looks until `ready`, for as long as it is worth.
    pub(super) fn wait(&mut self, limit: Option<Duration>, mut ready: impl FnMut() -> bool) -> bool {
        if self.now.is_zero() {
            return false;
        }
        let start = Instant::now();
        let limit = limit.map_or(self.now, |limit| limit.min(self.now));
        loop {
            for _ in 0..32 {
                if ready() {
                    self.now = (self.now * 2).min(self.most);
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= limit {
                self.now = (self.now / 2).max(self.most / Self::LEAST);
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::super::{Area, Side};
    use super::*;

    #[test]
    fn a_peer_that_only_rings_keeps_nobody() {
        let (area, _memory) = Area::create(1).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ends = area.ends(0, Side::Server).unwrap();
        let mut bell = Bell::new(ours.into(), &ends).unwrap();
        let waker = Waker::new().unwrap();
        let rings = [1u8; 8192];
        assert_eq!((&theirs).write(&rings).unwrap(), rings.len());
        assert!(!bell.sleep(&waker, DATA, Some(Duration::ZERO), || false).unwrap());
        let mut rest = [0u8; 8192];
        // SAFETY: receives into a live buffer of that length.
        let left = unsafe {
            libc::recv(bell.fd(), rest.as_mut_ptr().cast(), rest.len(), libc::MSG_DONTWAIT | libc::MSG_PEEK)
        };
        assert!(left >= 8192 - 128, "only {left} rings were left: it stays for as long as there are any");
    }
}
