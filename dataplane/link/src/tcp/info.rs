//! What the kernel tells of a connection: `TCP_INFO` (tcp(7)).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// A part of `struct tcp_info`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    /// Bytes that the peer has acknowledged.
    pub(super) acknowledged: u64,
    /// Bytes that have been sent and not acknowledged, counted in whole segments.
    pub(super) in_flight: u64,
    /// Bytes that the kernel has taken and not sent.
    pub(super) unsent: u64,
    /// The shortest round trip of late, at first that of the connection's making.
    pub(super) round_trip: Option<Duration>,
}

impl Info {
    /// Asks the kernel. `None`: it does not tell, or that is no TCP socket.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        // `struct tcp_info` of linux/tcp.h (4.6) up to `tcpi_min_rtt`, which libc does not declare.
        const SEGMENT_AT: usize = 16;
        const SEGMENTS_AT: usize = 24;
        const ACKNOWLEDGED_AT: usize = 120;
        const UNSENT_AT: usize = 144;
        const ROUND_TRIP_AT: usize = 148;
        let mut info = [0_u8; ROUND_TRIP_AT + 4];
        let mut length = info.len() as libc::socklen_t;
        let to = info.as_mut_ptr().cast();
        // SAFETY: as much room as is said, and a live length.
        let status = unsafe {
            libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length)
        };
        if status != 0 || length as usize != info.len() {
            return None;
        }
        let word = |at: usize| info.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        let round_trip = word(ROUND_TRIP_AT)?;
        Some(Self {
            acknowledged: u64::from_ne_bytes(*info.get(ACKNOWLEDGED_AT..)?.first_chunk()?),
            in_flight: u64::from(word(SEGMENTS_AT)?) * u64::from(word(SEGMENT_AT)?),
            unsent: word(UNSENT_AT)?.into(),
            // All ones: none has been measured.
            round_trip: (round_trip != u32::MAX).then(|| Duration::from_micros(round_trip.into())),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_kernel_counts_what_the_peer_has_taken() {
        const BYTES: usize = 3 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let before = Info::of(stream.as_fd()).unwrap();
        let sending = std::thread::spawn(move || {
            stream.write_all(&vec![7; BYTES]).unwrap();
            stream
        });
        peer.read_exact(&mut vec![0; BYTES]).unwrap();
        let stream = sending.join().unwrap();
        let patience = Instant::now();
        loop {
            let after = Info::of(stream.as_fd()).unwrap();
            if after.acknowledged - before.acknowledged >= BYTES as u64 {
                assert_eq!((after.in_flight, after.unsent), (0, 0));
                assert!(
                    after.round_trip.is_some_and(|time| !time.is_zero() && time < Duration::from_secs(1))
                );
                break;
            }
            assert!(patience.elapsed() < Duration::from_secs(10), "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_waits_for_a_peer_that_does_not_read_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_peer, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[7; 64 << 10]).is_ok() {}
        let info = Info::of(stream.as_fd()).unwrap();
        assert!(info.unsent > 0, "{info:?}");
    }

    #[test]
    fn other_sockets_tell_nothing() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Info::of(one.as_fd()).is_none());
    }
}
