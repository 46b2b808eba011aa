//! A connected socket as the lanes want it: options set, peer named, closed so that data is not lost.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::congestion;
use super::goodput::{Goodput, Rate};
use crate::bulk::{Delivery, Outbox};
use crate::error::LinkError;
use crate::ring::Owner;

/// Room for bulk data in the kernel, each way: what a fast network has under way, and between two processes
/// of one host what stays in the cache (one stream on 16 cores: 6.1 GB/s, against 5.8 with 4 MiB).
const BULK_BUFFER: usize = 4 << 20;
const BULK_BUFFER_SAME_HOST: usize = 1 << 20;

/// Most unsent data that the kernel takes on a command lane. What it has not taken can still be batched
/// with what comes after; what it has taken cannot.
const COMMAND_UNSENT: u32 = 256 << 10;

/// The same on a bulk lane to another host. What the kernel has taken, and the network has not, no quicker lane can
/// take over, and everybody waits for the slowest.
const BULK_UNSENT: u32 = 128 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Command,
    Bulk,
}

pub(super) struct Socket {
    fd: OwnedFd,
    /// Address of the other end, for messages.
    pub(super) peer: String,
    /// The other end is on this host: payload is copied by the kernel whatever is asked of it.
    pub(super) same_host: bool,
    goodput: Goodput,
    owner: Owner,
}

impl Socket {
    /// Takes over a connected stream socket. Options that the socket does not know are left alone: lanes
    /// also run over UNIX sockets.
    pub(super) fn adopt(fd: OwnedFd, use_for: Use) -> Result<Self, LinkError> {
        let socket = SockRef::from(&fd);
        // io_uring fails a request on a non-blocking descriptor where it would wait on a blocking one.
        socket
            .set_nonblocking(false)
            .map_err(|error| LinkError::system("fcntl(F_SETFL) on a lane's socket", &error))?;
        let _ = socket.set_tcp_nodelay(true);
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let _ = socket.set_tcp_keepalive(&keepalive);
        congestion::choose(fd.as_fd());
        let there = socket.peer_addr().ok().and_then(|address| address.as_socket());
        let here = socket.local_addr().ok().and_then(|address| address.as_socket());
        let same_host = match (here, there) {
            (Some(here), Some(there)) => here.ip() == there.ip() || there.ip().is_loopback(),
            _ => true,
        };
        match use_for {
            Use::Command => {
                let _ = socket.set_tcp_notsent_lowat(COMMAND_UNSENT);
            }
            Use::Bulk if same_host => set_large_buffers(&fd, BULK_BUFFER_SAME_HOST),
            Use::Bulk => {
                set_large_buffers(&fd, BULK_BUFFER);
                let _ = socket.set_tcp_notsent_lowat(BULK_UNSENT);
            }
        }
        let peer = there.map_or_else(|| "a local socket".to_owned(), |address| address.to_string());
        Ok(Socket { fd, peer, same_host, goodput: Goodput::default(), owner: Owner::this_process() })
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// How fast the peer has been seen to take what was sent, with as many chunks queued as `outbox` has. `None` if it
    /// is not known, or of no interest because the other end is on this host.
    pub(super) fn delivery(&self, outbox: &Outbox) -> Option<Delivery> {
        if self.same_host {
            return None;
        }
        let Rate { bytes, is_limit } = self.goodput.of(self.fd.as_fd())?;
        Some(Delivery { rate: bytes, is_limit, behind: outbox.behind() })
    }

    pub(super) fn failed(&self, doing: &'static str, errno: i32) -> LinkError {
        LinkError::socket(doing, &self.peer, errno)
    }

    /// Says goodbye: what has been sent still arrives, and a request waiting on the socket ends. (A forked
    /// child may hold the connection open, so that closing our descriptor would tell the peer nothing. The
    /// child itself leaves the connection alone.)
    pub(super) fn shut(&self) {
        if !self.owner.is_us() {
            return;
        }
        let socket = SockRef::from(&self.fd);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // Closing with unread data makes TCP reset the connection, and the peer then loses what we sent
        // last. Take what is there already; `Shutdown::Read` does not throw it away.
        if socket.set_nonblocking(true).is_ok() {
            let mut scrap = vec![0; 64 << 10];
            for _ in 0..256 {
                match (&*socket).read(&mut scrap) {
                    Ok(read) if read > 0 => {}
                    _ => break,
                }
            }
        }
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }

    /// Breaks the connection off and forgets what is still to be sent, so that the kernel lets go at once
    /// of memory it is sending from.
    pub(super) fn abort(&self) {
        if !self.owner.is_us() {
            return;
        }
        let unspecified = libc::sockaddr {
            // Lossless: AF_UNSPEC is 0.
            sa_family: libc::AF_UNSPEC as libc::sa_family_t,
            sa_data: [0; 14],
        };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: passes a live, initialised sockaddr and its length. For a TCP socket, connecting to
        // AF_UNSPEC disconnects.
        unsafe { libc::connect(self.raw(), &raw const unspecified, length) };
        let _ = SockRef::from(&self.fd).shutdown(std::net::Shutdown::Both);
    }
}

/// Gives the socket room for `size` bytes each way. Setting a size turns the kernel's own tuning off, so where the
/// system's limits would leave us with less than that tuning does, nothing is set.
fn set_large_buffers(fd: &OwnedFd, size: usize) {
    for (force, plain, limit) in [
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, "/proc/sys/net/core/wmem_max"),
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, "/proc/sys/net/core/rmem_max"),
    ] {
        if set_buffer(fd, force, size) {
            continue;
        }
        let allowed = fs::read_to_string(limit).ok().and_then(|text| text.trim().parse::<usize>().ok());
        if allowed.is_some_and(|allowed| allowed >= size) {
            set_buffer(fd, plain, size);
        }
    }
}

fn set_buffer(fd: &OwnedFd, option: libc::c_int, size: usize) -> bool {
    let size = size as libc::c_int;
    // SAFETY: passes a live int and its size.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    result == 0
}
