//! The words of a plane, and how the index of a word is found: by one look, without a branch.
//!
//! A word is multiplied by an odd number, which loses nothing, and turned so that the best mixed bits lie lowest.
//! Five other bits name its *bucket*. Each bucket has a *displacement*, and the low bits, changed by that, are the
//! word's slot. Displacements are chosen so that each word has a slot to itself. The entry there holds all other
//! bits of the turned word, so that the look which finds the index also says whether it is the word's.

/// Words in a table at most.
pub const COLOURS: usize = 256;
/// Low bits of a turned word that make its slot.
pub const SLOT_BITS: u32 = 11;
pub const SLOTS: usize = 1 << SLOT_BITS;
/// By how much a multiplied word is turned to the left, so that its highest bits are those.
pub const WINDOW_TURN: u32 = SLOT_BITS;
/// The highest bits of a turned word name one of so many buckets.
pub const BUCKETS: usize = 32;
/// What an entry has besides the index in its lowest bits and the word's other bits: an empty one is 0.
pub const OCCUPIED: u32 = 1 << INDEX_BITS;
pub const INDEX_BITS: u32 = 8;

const BUCKET_SHIFT: u32 = 32 - BUCKETS.trailing_zeros();
const SLOT_MASK: u32 = SLOTS as u32 - 1;
/// Displacements that are tried for a bucket, and multipliers if there is none.
const DISPLACEMENTS: u32 = 256;
const MULTIPLIERS: usize = 8;

#[derive(Clone, Debug)]
pub struct Table {
    entries: [u32; SLOTS],
    displacements: [u32; BUCKETS],
    multiplier: u32,
    words: [u32; COLOURS],
    count: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: [0; SLOTS],
            displacements: [0; BUCKETS],
            multiplier: 0x9e37_79b1,
            words: [0; COLOURS],
            count: 0,
        }
    }
}

impl Table {
    /// By slot: the turned word, with its index and [`OCCUPIED`] where the slot's bits would be; or 0.
    #[must_use]
    pub fn entries(&self) -> &[u32; SLOTS] {
        &self.entries
    }

    /// By bucket: what the slot's bits are changed by.
    #[must_use]
    pub fn displacements(&self) -> &[u32; BUCKETS] {
        &self.displacements
    }

    #[must_use]
    pub fn multiplier(&self) -> u32 {
        self.multiplier
    }

    /// By index.
    pub(super) fn words(&self) -> &[u32] {
        &self.words[..self.count]
    }

    pub(super) fn forget_all(&mut self) {
        self.entries.fill(0);
        self.displacements.fill(0);
        self.count = 0;
    }

    /// The turned word, and the entry in its slot: see [`is_its`].
    #[inline]
    pub(super) fn look(&self, word: u32) -> (u32, u32) {
        let turned = self.turned(word);
        (turned, self.entries[self.slot(turned)])
    }

    #[inline]
    pub(super) fn find(&self, word: u32) -> Option<u8> {
        let (turned, entry) = self.look(word);
        is_its(turned ^ entry, entry).then_some(entry as u8)
    }

    /// The index of a word, which is taken in if it is new. `None`: there is no room for it.
    pub(super) fn add(&mut self, word: u32) -> Option<u8> {
        if let Some(index) = self.find(word) {
            return Some(index);
        }
        let index = u8::try_from(self.count).ok()?;
        self.words[usize::from(index)] = word;
        self.count += 1;
        if self.place(index) {
            return Some(index);
        }
        // Two words of a bucket with the same bits for a slot: another multiplier parts them.
        let mut other = self.clone();
        for _ in 0..MULTIPLIERS {
            other.entries.fill(0);
            other.displacements.fill(0);
            other.multiplier = other.multiplier.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35e);
            if (0..=index).all(|index| other.place(index)) {
                self.clone_from(&other);
                return Some(index);
            }
        }
        self.count -= 1;
        None
    }

    #[inline]
    fn turned(&self, word: u32) -> u32 {
        word.wrapping_mul(self.multiplier).rotate_left(WINDOW_TURN)
    }

    #[inline]
    fn slot(&self, turned: u32) -> usize {
        ((turned ^ self.displacements[bucket(turned)]) & SLOT_MASK) as usize
    }

    /// Gives a word its slot; words placed later have higher indices. `false`, and nothing has changed: there is no
    /// displacement that parts the words of its bucket.
    fn place(&mut self, index: u8) -> bool {
        let turned = self.turned(self.words[usize::from(index)]);
        let slot = self.slot(turned);
        if self.entries[slot] == 0 {
            self.entries[slot] = tag(turned) | u32::from(index);
            return true;
        }
        self.displace(bucket(turned), index)
    }

    #[cold]
    #[inline(never)]
    fn displace(&mut self, bucket_of_it: usize, newest: u8) -> bool {
        let mut members = [(0, 0); COLOURS];
        let mut count = 0;
        for (index, &word) in (0..=newest).zip(&self.words) {
            let turned = self.turned(word);
            if bucket(turned) == bucket_of_it {
                members[count] = (turned, index);
                count += 1;
            }
        }
        let members = &members[..count];
        let before = self.displacements[bucket_of_it];
        let slot = |turned: u32, displacement: u32| ((turned ^ displacement) & SLOT_MASK) as usize;
        for &(turned, index) in members {
            if index != newest {
                self.entries[slot(turned, before)] = 0;
            }
        }
        for n in 1..=DISPLACEMENTS {
            let displacement = before.wrapping_add(n.wrapping_mul(0x2c7)) & SLOT_MASK;
            let fit = members
                .iter()
                .take_while(|&&(turned, index)| {
                    let entry = &mut self.entries[slot(turned, displacement)];
                    let is_free = *entry == 0;
                    if is_free {
                        *entry = tag(turned) | u32::from(index);
                    }
                    is_free
                })
                .count();
            if fit == count {
                self.displacements[bucket_of_it] = displacement;
                return true;
            }
            for &(turned, _) in &members[..fit] {
                self.entries[slot(turned, displacement)] = 0;
            }
        }
        for &(turned, index) in members {
            if index != newest {
                self.entries[slot(turned, before)] = tag(turned) | u32::from(index);
            }
        }
        false
    }
}

/// Whether the entry that was found is the word's, or all of some are: from what some turned word and its entry
/// differ in, and from what all entries have.
#[inline]
pub(super) fn is_its(difference: u32, entry: u32) -> bool {
    difference & !SLOT_MASK == 0 && entry & OCCUPIED != 0
}

#[inline]
fn bucket(turned: u32) -> usize {
    (turned >> BUCKET_SHIFT) as usize
}

/// What an entry holds besides its index.
#[inline]
fn tag(turned: u32) -> u32 {
    turned & !SLOT_MASK | OCCUPIED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(table: &Table, words: &[u32]) {
        assert_eq!(table.words(), words);
        for (index, &word) in words.iter().enumerate() {
            assert_eq!(table.find(word).map(usize::from), Some(index));
        }
        assert_eq!(table.entries.iter().filter(|entry| **entry != 0).count(), words.len());
    }

    #[test]
    fn any_256_words_find_room_and_one_more_does_not() {
        let kinds: [fn(u32) -> u32; 5] = [
            |n| n,
            |n| n << 24,
            |n| n.wrapping_mul(0x9e37_79b9).rotate_left(7),
            |n| (n as f32).to_bits(),
            |n| ((n as f32 / 255.0 - 0.485) / 0.229).to_bits(),
        ];
        let mut table = Table::default();
        for kind in kinds {
            table.forget_all();
            let words: Vec<_> = (0..256).map(kind).collect();
            for (index, word) in words.iter().enumerate() {
                assert_eq!(table.find(*word), None, "not there yet");
                assert_eq!(table.add(*word).map(usize::from), Some(index));
                assert_eq!(table.add(*word).map(usize::from), Some(index), "and but once");
            }
            holds(&table, &words);
            assert_eq!(table.add(0x1234_5678), None);
            holds(&table, &words);
            assert_eq!((1000..9000).filter_map(|n| table.find(kind(n) ^ 1 << 17)).count(), 0);
        }
    }

    /// Words that all belong into one bucket, or into one slot besides, as long as the first multiplier is used.
    #[test]
    fn words_that_quarrel_are_parted_or_refused() {
        let multiplier = Table::default().multiplier;
        let inverse = (0..5).fold(multiplier, |inverse, _| {
            inverse.wrapping_mul(2_u32.wrapping_sub(multiplier.wrapping_mul(inverse)))
        });
        let turns: [fn(u32) -> u32; 3] = [|n| n, |n| n << 11, |n| n << 9];
        for turn in turns {
            let words: Vec<_> =
                (0..256).map(|n| turn(n).rotate_right(WINDOW_TURN).wrapping_mul(inverse)).collect();
            let mut table = Table::default();
            let mut taken = Vec::new();
            for word in words {
                if table.add(word).is_some() {
                    taken.push(word);
                }
                holds(&table, &taken);
            }
            assert!(taken.len() > 200, "{} of 256 found room", taken.len());
        }
    }
}
