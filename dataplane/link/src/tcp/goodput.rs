//! How fast a connection takes what is sent over it, from what the peer has acknowledged.
//!
//! The kernel has a measure of its own (`tcpi_delivery_rate`), of a few packets at a time: of a burst that buffers on
//! the way take it says the speed of memory. Here it is the bytes acknowledged from one chunk to the next. Where the
//! kernel had more to send at both ends of that, or the network had more of it than the connection needs to be full, it
//! cannot do better.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::info::Info;

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
    info: Info,
}

impl Look {
    /// Whether the connection has all it can take, where it takes so many bytes a second.
    fn is_full(self, rate: f64) -> bool {
        let needs = self.info.round_trip.map_or(f64::INFINITY, |time| 2.0 * rate * time.as_secs_f64());
        self.info.unsent != 0 || self.info.in_flight as f64 >= needs.max(LEAST as f64)
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
        self.look(Look { at: Instant::now(), info: Info::of(fd)? })
    }

    fn look(&self, look: Look) -> Option<Rate> {
        let last = self.last.replace(Some(look))?;
        let bytes = look.info.acknowledged.saturating_sub(last.info.acknowledged);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn look(at: Instant, acknowledged: u64, in_flight: u64, round_trip: Duration) -> Look {
        Look { at, info: Info { acknowledged, in_flight, unsent: 0, round_trip: Some(round_trip) } }
    }

    /// Looks at so many milliseconds, with so many bytes acknowledged, and as many in flight.
    fn rates(looks: &[(u64, u64, u64)]) -> Vec<Option<Rate>> {
        let (meter, start) = (Goodput::default(), Instant::now());
        let one = |&(ms, acknowledged, in_flight)| {
            let at = start + Duration::from_millis(ms);
            meter.look(look(at, acknowledged, in_flight, Duration::from_micros(50)))
        };
        looks.iter().map(one).collect()
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
        let see = |n: u64, in_flight, unsent| {
            let round_trip = Duration::from_millis(10);
            let mut look = look(start + n as u32 * round_trip, n * MIB, in_flight, round_trip);
            look.info.unsent = unsent;
            meter.look(look)
        };
        assert_eq!(see(0, MIB, 0), None);
        assert!(see(1, MIB, 0).is_some_and(|rate| !rate.is_limit), "a megabyte each round trip");
        assert!(see(2, 4 * MIB, 0).is_some_and(|rate| !rate.is_limit));
        assert!(see(3, 4 * MIB, 0).is_some_and(|rate| rate.is_limit), "the network holds four");
        assert!(
            see(4, MIB, 1).is_some_and(|rate| rate.is_limit),
            "the kernel holds something back, as BBR does"
        );
        assert!(see(5, MIB, 1).is_some_and(|rate| rate.is_limit));
    }
}
