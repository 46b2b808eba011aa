//! How fast a connection takes what is sent over it, from what the peer has acknowledged.
//!
//! The kernel has a measure of its own (`tcpi_delivery_rate`), of a few packets at a time: of a burst that buffers on
//! the way take it says the speed of memory. Here it is the bytes acknowledged from one chunk to the next. Where more
//! was under way at both ends of that than the connection needs to be full, it cannot do better.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Fewer bytes than this say little: acknowledgements come in lots.
const LEAST: u64 = 128 << 10;

/// A rate, and whether it is all that the connection can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    /// Bytes per second.
    pub(super) bytes: f64,
    pub(super) is_limit: bool,
}

/// What was seen of the connection at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    acknowledged: u64,
    /// Bytes that the kernel had taken and the peer not acknowledged.
    under_way: u64,
    /// The shortest round trip so far.
    round_trip: Duration,
}

impl Look {
    /// Whether more was under way than a connection of so many bytes a second needs to be full.
    fn is_full(self, rate: f64) -> bool {
        self.under_way as f64 >= (2.0 * rate * self.round_trip.as_secs_f64()).max(LEAST as f64)
    }
}

/// One connection's meter. For the thread that sends, which looks before each chunk.
#[derive(Debug, Default)]
pub(super) struct Goodput {
    last: Cell<Option<Look>>,
    found: Cell<Option<Rate>>,
}

impl Goodput {
    /// The rate that was found last, after looking once more. `None`: there is none yet, or the kernel does not tell.
    pub(super) fn of(&self, fd: BorrowedFd<'_>) -> Option<Rate> {
        self.look(counters(fd)?)
    }

    fn look(&self, look: Look) -> Option<Rate> {
        let last = self.last.replace(Some(look))?;
        let bytes = look.acknowledged.saturating_sub(last.acknowledged);
        let time = look.at.saturating_duration_since(last.at).max(Duration::from_nanos(1));
        let rate = bytes as f64 / time.as_secs_f64();
        let is_limit = last.is_full(rate) && look.is_full(rate);
        if bytes >= LEAST {
            self.found.set(Some(Rate { bytes: rate, is_limit }));
        } else if is_limit {
            // Too little, but without a pause: the next look tells of both.
            self.last.set(Some(last));
        }
        self.found.get()
    }
}

/// Looks at a connection.
fn counters(fd: BorrowedFd<'_>) -> Option<Look> {
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
    let status =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length) };
    if status != 0 || length as usize != info.len() {
        return None;
    }
    let word = |at: usize| info.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let acknowledged = u64::from_ne_bytes(*info.get(ACKNOWLEDGED_AT..)?.first_chunk()?);
    let sent = u64::from(word(SEGMENTS_AT)?) * u64::from(word(SEGMENT_AT)?);
    Some(Look {
        at: Instant::now(),
        acknowledged,
        under_way: sent + u64::from(word(UNSENT_AT)?),
        round_trip: Duration::from_micros(word(ROUND_TRIP_AT)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Looks at so many milliseconds, with so many bytes acknowledged, and as many under way.
    fn rates(looks: &[(u64, u64, u64)]) -> Vec<Option<Rate>> {
        let (meter, start) = (Goodput::default(), Instant::now());
        let look = |&(ms, acknowledged, under_way)| {
            let (at, round_trip) = (start + Duration::from_millis(ms), Duration::from_micros(50));
            meter.look(Look { at, acknowledged, under_way, round_trip })
        };
        looks.iter().map(look).collect()
    }

    fn is(found: Option<Rate>, mib_a_ms: u64, is_limit: bool) -> bool {
        found.is_some_and(|rate| {
            (rate.bytes / (mib_a_ms * MIB * 1000) as f64 - 1.0).abs() < 0.01 && rate.is_limit == is_limit
        })
    }

    #[test]
    fn a_connection_that_always_had_more_to_send_can_do_no_better() {
        let found = rates(&[(0, 0, 0), (1, MIB, MIB), (2, 2 * MIB, MIB), (4, 4 * MIB, MIB)]);
        assert_eq!(found[0], None);
        // It may have had nothing at first.
        assert!(is(found[1], 1, false) && is(found[2], 1, true) && is(found[3], 1, true), "{found:?}");
    }

    #[test]
    fn a_pause_is_no_slow_connection() {
        let found = rates(&[
            (0, 0, MIB),
            (1, 4 * MIB, MIB),
            (101, 5 * MIB, 0),
            (102, 9 * MIB, MIB),
            (103, 13 * MIB, MIB),
        ]);
        assert!(is(found[1], 4, true), "{found:?}");
        assert!(found[2].is_some_and(|rate| !rate.is_limit), "{found:?}");
        assert!(is(found[3], 4, false) && is(found[4], 4, true), "{found:?}");
    }

    #[test]
    fn a_few_acknowledgements_are_told_with_the_next() {
        let found = rates(&[
            (0, 0, MIB),
            (1, 1000, MIB),
            (2, 4 * MIB, MIB),
            (3, 4 * MIB + 10, 0),
            (4, 4 * MIB + 20, MIB),
        ]);
        assert_eq!(found[1], None);
        assert!(is(found[2], 2, true) && is(found[3], 2, true) && is(found[4], 2, true), "{found:?}");
    }

    #[test]
    fn what_a_long_connection_needs_to_be_full_is_no_backlog() {
        let (meter, start) = (Goodput::default(), Instant::now());
        let look = |n: u64, under_way| {
            let (at, round_trip) = (start + Duration::from_millis(10 * n), Duration::from_millis(10));
            meter.look(Look { at, acknowledged: n * MIB, under_way, round_trip })
        };
        assert_eq!(look(0, MIB), None);
        assert!(look(1, MIB).is_some_and(|rate| !rate.is_limit), "a megabyte each round trip");
        assert!(look(2, 4 * MIB).is_some_and(|rate| !rate.is_limit));
        assert!(look(3, 4 * MIB).is_some_and(|rate| rate.is_limit), "the network holds four");
    }

    #[test]
    fn the_kernel_counts_what_the_peer_has_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let before = counters(stream.as_fd()).unwrap();
        let data = vec![7; 3 << 20];
        let sending = std::thread::spawn(move || {
            stream.write_all(&data).unwrap();
            stream
        });
        let mut got = vec![0; 3 << 20];
        peer.read_exact(&mut got).unwrap();
        let stream = sending.join().unwrap();
        let patience = Instant::now();
        loop {
            let after = counters(stream.as_fd()).unwrap();
            if after.acknowledged - before.acknowledged >= 3 << 20 {
                assert_eq!(after.under_way, 0);
                assert!(!after.round_trip.is_zero());
                break;
            }
            assert!(patience.elapsed() < Duration::from_secs(10), "{before:?} {after:?}");
        }
    }
}
