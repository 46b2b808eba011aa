//! One wait in the kernel for a lane's socket and its waker, for every lane that does not sleep in a ring.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::error::LinkError;
use crate::waker::Waker;

/// What ended a wait. Neither: the time is over, or a signal came.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    /// There is something to receive, room to send (if that was asked for), or the end.
    pub(crate) socket: bool,
    /// The waker was used, and is ready to be used again.
    pub(crate) waker: bool,
}

/// Waits for something to receive on `socket` (negative for none), for room if `to_send`, and for `waker` if there is
/// one, but not longer than `limit`.
pub(crate) fn wait(
    socket: RawFd,
    to_send: bool,
    waker: Option<&Waker>,
    limit: Option<Duration>,
) -> Result<Seen, LinkError> {
    let events = if to_send { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
    let mut fds = [
        libc::pollfd { fd: socket, events, revents: 0 },
        // Negative descriptors are passed over.
        libc::pollfd { fd: waker.map_or(-1, Waker::fd), events: libc::POLLIN, revents: 0 },
    ];
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(limit.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), |limit| &raw const *limit);
    // SAFETY: the array and the timespec are live; a null signal mask leaves the mask alone.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), 2, limit, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok(Seen::default())
        } else {
            Err(LinkError::system("poll", &error))
        };
    }
    let woken = waker.filter(|_| fds[1].revents & libc::POLLIN != 0);
    if let Some(waker) = woken {
        waker.drain();
    }
    Ok(Seen { socket: fds[0].revents != 0, waker: woken.is_some() })
}
