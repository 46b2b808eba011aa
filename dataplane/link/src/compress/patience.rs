//! How long a codec leaves data alone after a look in vain.
//!
//! Twice as long after each, and so long that looking costs next to nothing of the time that the link takes, however
//! dear looks are. One that was dear by chance, because the processor was somebody else's, does not count.

/// Share of the link's time that looks in vain may take.
const DEAREST: f64 = 0.004;
/// Looks in vain after which they do not get rarer: cheap ones are made at every 32nd chunk then.
const MOST_VAIN: u32 = 5;
/// Chunks that dear looks have left alone at most, for each that they would have without.
const MOST_DEAR: u32 = 64;

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Looks in vain since the last that was not.
    vain: u32,
    /// Chunks still to be left alone.
    skip: u32,
    /// What the last look in vain cost, as a share of the link's time.
    last: f64,
}

impl Patience {
    /// Whether the next chunk may be looked at.
    pub(super) fn is_over(&mut self) -> bool {
        let over = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        over
    }

    /// The same, without a chunk.
    #[cfg(test)]
    pub(super) fn will_be_over(&self) -> bool {
        self.skip == 0
    }

    /// A look took so many seconds and was of no use; the link takes so many for the chunk.
    pub(super) fn in_vain(&mut self, seconds: f64, link: f64) {
        let share = seconds / link;
        let dear = (share.min(self.last) / DEAREST) as u32;
        let skip = 1 << self.vain;
        self.skip = dear.clamp(skip, MOST_DEAR * skip);
        self.last = share;
        self.vain = (self.vain + 1).min(MOST_VAIN);
    }

    pub(super) fn rewarded(&mut self) {
        self.vain = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at so many chunks that are all of no use; each takes this share of the link's time.
    fn looks(patience: &mut Patience, chunks: u32, share: f64) -> u32 {
        let look = |_| {
            let over = patience.is_over();
            if over {
                patience.in_vain(share, 1.0);
            }
            u32::from(over)
        };
        (0..chunks).map(look).sum()
    }

    #[test]
    fn looks_in_vain_get_rare_and_dear_ones_rarer() {
        let mut patience = Patience::default();
        assert!((30..50).contains(&looks(&mut patience, 1200, 0.001)));
        patience.rewarded();
        assert!(looks(&mut patience, 100, 0.001) > 4);
        // Four times what the link takes, and less than 1 % of it in the end.
        let mut patience = Patience::default();
        assert_eq!(looks(&mut patience, 3, 4.0), 2, "the first may have been chance");
        looks(&mut patience, 5000, 4.0);
        assert!(looks(&mut patience, 100_000, 4.0) < 250);
    }
}
