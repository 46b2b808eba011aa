//! The addresses a session may name: an interval map.
//!
//! Kernels are contained by the process; copies and memsets are done on the session's behalf, so their ranges
//! are checked against what the session has really mapped.

use std::collections::BTreeMap;

/// What lies in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An ordinary allocation, made in this context.
    Block { context: u64 },
    /// Part of an allocation that the program mapped itself.
    Mapped,
    /// Host memory with the client's address, registered in this context.
    Mirror { context: u64 },
    /// Host memory that the client and this process share, registered for every context.
    Shared,
    /// A global of a module or library.
    Global { owner: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// Mapped ranges, none of which overlap.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// By start: end and kind.
    by_start: BTreeMap<u64, (u64, Kind)>,
}

impl Ranges {
    /// Whether every byte of `[start, start + bytes)` is mapped. Adjacent ranges count as one.
    #[inline]
    pub(super) fn cover(&self, start: u64, bytes: u64) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        let mut at = start;
        while at < end || bytes == 0 {
            match self.by_start.range(..=at).next_back() {
                Some((_, &(range_end, _))) if range_end > at => at = range_end,
                // An empty copy names no memory.
                _ => return bytes == 0,
            }
            if bytes == 0 {
                return true;
            }
        }
        true
    }

    /// The range that `address` lies in.
    pub(super) fn find(&self, address: u64) -> Option<Range> {
        let (&start, &(end, kind)) = self.by_start.range(..=address).next_back()?;
        (end > address).then_some(Range { start, bytes: end - start, kind })
    }

    /// Whether nothing of `[start, start + bytes)` is mapped.
    pub(super) fn is_free(&self, start: u64, bytes: u64) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        self.by_start.range(..end).next_back().is_none_or(|(_, &(range_end, _))| range_end <= start)
    }

    /// Adds a range if nothing is there yet.
    pub(super) fn add(&mut self, range: Range) -> bool {
        let free = range.bytes != 0 && self.is_free(range.start, range.bytes);
        if free {
            self.by_start.insert(range.start, (range.start + range.bytes, range.kind));
        }
        free
    }

    /// Takes out the whole ranges that make up `[start, start + bytes)` exactly; `None`, and no change, when
    /// they do not or `wanted` refuses one.
    pub(super) fn take(
        &mut self,
        start: u64,
        bytes: u64,
        wanted: impl Fn(Kind) -> bool,
    ) -> Option<Vec<Range>> {
        let end = start.checked_add(bytes)?;
        let mut found = Vec::new();
        let mut at = start;
        while at < end {
            let &(range_end, kind) = self.by_start.get(&at)?;
            if !wanted(kind) {
                return None;
            }
            found.push(Range { start: at, bytes: range_end - at, kind });
            at = range_end;
        }
        if at != end || found.is_empty() {
            return None;
        }
        for range in &found {
            self.by_start.remove(&range.start);
        }
        Some(found)
    }

    /// Takes out every range that `wanted` picks.
    pub(super) fn take_all(&mut self, wanted: impl Fn(Kind) -> bool) -> Vec<Range> {
        let mut found = Vec::new();
        self.by_start.retain(|&start, &mut (end, kind)| {
            let gone = wanted(kind);
            if gone {
                found.push(Range { start, bytes: end - start, kind });
            }
            !gone
        });
        found
    }

    /// Ordinary allocations.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range> {
        let all =
            self.by_start.iter().map(|(&start, &(end, kind))| Range { start, bytes: end - start, kind });
        all.filter(|range| matches!(range.kind, Kind::Block { .. }))
    }

    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for &(start, bytes) in list {
            assert!(ranges.add(Range { start, bytes, kind: Kind::Mapped }));
        }
        ranges
    }

    #[test]
    fn cover_crosses_adjacent_ranges_and_no_gap() {
        let ranges = ranges(&[(100, 50), (150, 50), (300, 10)]);
        assert!(ranges.cover(100, 100));
        assert!(ranges.cover(199, 1));
        assert!(ranges.cover(120, 0));
        for (start, bytes) in
            [(99, 2), (100, 101), (199, 2), (200, 1), (309, 2), (u64::MAX, 2), (305, u64::MAX)]
        {
            assert!(!ranges.cover(start, bytes), "{start} {bytes}");
        }
    }

    #[test]
    fn ranges_do_not_overlap_and_go_whole() {
        let mut ranges = ranges(&[(100, 50), (150, 50)]);
        for (start, bytes) in [(100, 1), (90, 20), (149, 1), (120, 200), (0, 101), (u64::MAX, 1)] {
            assert!(!ranges.add(Range { start, bytes, kind: Kind::Mapped }), "{start} {bytes}");
        }
        assert!(ranges.take(100, 40, |_| true).is_none());
        assert!(ranges.take(110, 40, |_| true).is_none());
        assert!(ranges.take(100, 100, |kind| kind != Kind::Mapped).is_none());
        assert_eq!(ranges.take(100, 100, |_| true).map(|list| list.len()), Some(2));
        assert_eq!(ranges.len(), 0);
    }
}
