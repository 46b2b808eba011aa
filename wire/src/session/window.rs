//! Numbers of a sequence that come in any order: which have come, and up to where all have.

use std::collections::VecDeque;

use crate::error::ProtocolError;

/// Numbers that may have come ahead of one that has not: a bound for memory, far above what lanes have under way.
const MOST_EARLY: usize = 1 << 20;

/// What has come of the numbers from 0.
#[derive(Debug, Clone, Default)]
pub struct Window {
    below: u64,
    /// From `below` on, whose own has not come.
    early: VecDeque<bool>,
}

impl Window {
    /// All numbers below this have come.
    #[inline]
    pub fn below(&self) -> u64 {
        self.below
    }

    /// `number` has come.
    ///
    /// # Errors
    /// It had come before, or is so far ahead that no sound peer sends it.
    pub fn mark(&mut self, number: u64) -> Result<(), ProtocolError> {
        let ahead = number.checked_sub(self.below).ok_or(ProtocolError::ChunkTwice { chunk: number })?;
        let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
        if ahead >= MOST_EARLY {
            let credit = self.below.saturating_add(MOST_EARLY as u64);
            return Err(ProtocolError::CreditExceeded { chunk: number, credit });
        }
        if self.early.len() <= ahead {
            self.early.resize(ahead + 1, false);
        }
        match self.early.get_mut(ahead) {
            Some(come) if !*come => *come = true,
            _ => return Err(ProtocolError::ChunkTwice { chunk: number }),
        }
        while self.early.front() == Some(&true) {
            self.early.pop_front();
            self.below += 1;
        }
        Ok(())
    }

    /// Forgets what came early: it will come again.
    pub fn forget_early(&mut self) {
        self.early.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_below_have_come() {
        let mut window = Window::default();
        for (number, below) in [(2, 0), (0, 1), (3, 1), (1, 4), (4, 5), (6, 5)] {
            window.mark(number).unwrap();
            assert_eq!(window.below(), below, "after {number}");
        }
        for number in [0, 4, 6] {
            assert_eq!(window.mark(number), Err(ProtocolError::ChunkTwice { chunk: number }));
        }
        window.forget_early();
        window.mark(6).unwrap();
        window.mark(5).unwrap();
        assert_eq!(window.below(), 7);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut window = Window::default();
        assert!(window.mark(MOST_EARLY as u64).is_err() && window.mark(u64::MAX).is_err());
        window.mark(MOST_EARLY as u64 - 1).unwrap();
        assert_eq!(window.below(), 0);
    }
}
