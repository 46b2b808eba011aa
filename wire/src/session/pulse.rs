//! Is the other end still there? Silence becomes a Ping, longer silence an error.
//!
//! Times are nanoseconds of any clock that does not go back; the caller brings them.

use crate::error::ProtocolError;

/// Nanoseconds of the caller's monotonic clock.
pub type Nanos = u64;

/// How long an end waits for the other. `u64::MAX` means for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Silence after which a Ping goes out.
    pub ping: Nanos,
    /// Silence after which the connection counts as dead.
    pub silence: Nanos,
    /// How long the answer to an opening message may take.
    pub opening: Nanos,
    /// How long a session without connection waits to be resumed.
    pub resume: Nanos,
}

impl Default for Patience {
    fn default() -> Self {
        const SECOND: Nanos = 1_000_000_000;
        Self { ping: 5 * SECOND, silence: 20 * SECOND, opening: 20 * SECOND, resume: 30 * SECOND }
    }
}

/// What an end is waiting for, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Opening,
    Traffic { pinged: bool },
    Resume,
}

/// One end's watch over the other.
#[derive(Debug, Clone)]
pub struct Pulse {
    patience: Patience,
    waiting: Waiting,
    since: Nanos,
}

impl Pulse {
    /// Waits for the answer to an opening message.
    pub fn opening(patience: Patience, now: Nanos) -> Self {
        Self { patience, waiting: Waiting::Opening, since: now }
    }

    /// Waits for traffic.
    pub fn open(patience: Patience, now: Nanos) -> Self {
        Self { patience, waiting: Waiting::Traffic { pinged: false }, since: now }
    }

    /// The opening message went out (again).
    pub fn begin_opening(&mut self, now: Nanos) {
        *self = Self::opening(self.patience, now);
    }

    /// The connection is open.
    pub fn begin_traffic(&mut self, now: Nanos) {
        *self = Self::open(self.patience, now);
    }

    /// The connection is lost.
    pub fn begin_lost(&mut self, now: Nanos) {
        self.waiting = Waiting::Resume;
        self.since = now;
    }

    /// Something came, on any connection of the session.
    #[inline]
    pub fn heard(&mut self, now: Nanos) {
        if let Waiting::Traffic { pinged } = &mut self.waiting {
            *pinged = false;
            self.since = self.since.max(now);
        }
    }

    /// When [`Pulse::check`] should be called next; `None` for never.
    pub fn deadline(&self) -> Option<Nanos> {
        let patience = match self.waiting {
            Waiting::Opening => self.patience.opening,
            Waiting::Traffic { pinged: false } => self.patience.ping.min(self.patience.silence),
            Waiting::Traffic { pinged: true } => self.patience.silence,
            Waiting::Resume => self.patience.resume,
        };
        self.since.checked_add(patience)
    }

    /// Whether a Ping should go out now.
    ///
    /// # Errors
    /// The other end has been silent for too long.
    pub fn check(&mut self, now: Nanos) -> Result<bool, ProtocolError> {
        let silent = now.saturating_sub(self.since);
        let (limit, during) = match self.waiting {
            Waiting::Opening => (self.patience.opening, "waiting for the answer to the opening message"),
            Waiting::Traffic { .. } => (self.patience.silence, "session open, Ping unanswered"),
            Waiting::Resume => (self.patience.resume, "connection lost, waiting to resume"),
        };
        if silent >= limit {
            return Err(ProtocolError::PeerSilent { millis: silent / 1_000_000, during });
        }
        match &mut self.waiting {
            Waiting::Traffic { pinged } if !*pinged && silent >= self.patience.ping => {
                *pinged = true;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
