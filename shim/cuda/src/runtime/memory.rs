//! The client's picture of memory: which addresses are the device's, which are pinned, and whose.
//!
//! Device addresses are chosen here, inside the session's window, and are the same on the server. The
//! window is reserved in this process, so no mapping of the program's own ever lies there.
//!
//! Small allocations are cut from 2 MiB blocks; a large one is blocks of its own. Freed memory is used
//! again only after the work issued before the free is finished, as `cuMemFree` promises by waiting.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::session::lock;

/// Free address ranges, coalesced.
#[derive(Default)]
pub(crate) struct Ranges {
    free: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(crate) fn new(base: u64, bytes: u64) -> Self {
        let mut free = BTreeMap::new();
        free.insert(base, bytes);
        Self { free }
    }

    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// Takes the first range that fits.
    pub(crate) fn take(&mut self, bytes: u64, alignment: u64) -> Option<u64> {
        let alignment = alignment.max(1);
        let (base, size, at) = self.free.iter().find_map(|(&base, &size)| {
            let at = base.checked_next_multiple_of(alignment)?;
            let end = at.checked_add(bytes)?;
            (end <= base + size).then_some((base, size, at))
        })?;
        self.carve(base, size, at, bytes);
        Some(at)
    }

    /// Takes this very range, if it is free.
    pub(crate) fn take_at(&mut self, at: u64, bytes: u64) -> bool {
        let Some((&base, &size)) = self.free.range(..=at).next_back() else { return false };
        let Some(end) = at.checked_add(bytes) else { return false };
        if end > base + size {
            return false;
        }
        self.carve(base, size, at, bytes);
        true
    }

    fn carve(&mut self, base: u64, size: u64, at: u64, bytes: u64) {
        self.free.remove(&base);
        if at > base {
            self.free.insert(base, at - base);
        }
        let end = at + bytes;
        if end < base + size {
            self.free.insert(end, base + size - end);
        }
    }

    /// Gives a range back; returns the free range it is now part of.
    pub(crate) fn give(&mut self, at: u64, bytes: u64) -> (u64, u64) {
        let (mut base, mut end) = (at, at + bytes);
        if let Some((&before, &size)) = self.free.range(..at).next_back()
            && before + size == at
        {
            self.free.remove(&before);
            base = before;
        }
        if let Some(size) = self.free.remove(&end) {
            end += size;
        }
        self.free.insert(base, end - base);
        (base, end - base)
    }
}

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `cuMemAlloc` and its like. `block`: it has blocks of its own.
    Device { block: bool, pooled: bool },
    /// `cuMemMap`, of this allocation.
    Mapped { allocation: u64 },
    /// A variable of a module.
    Global,
    /// `cuMemHostAlloc`.
    Pinned { flags: u32, share: Share },
    /// `cuMemHostRegister` of the program's own memory.
    Registered { flags: u32 },
}

/// Whether pinned memory is the server's as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// It is this process's own; the server may have a mirror of it.
    No,
    /// Pages that both ends map at this address.
    Pages,
    /// A piece of such pages.
    Piece,
}

/// A range of memory that the driver knows of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) place: Place,
    /// Handle of the context it belongs to.
    pub(crate) context: u64,
    pub(crate) device: usize,
    /// As `CU_POINTER_ATTRIBUTE_BUFFER_ID`.
    pub(crate) id: u64,
    /// As `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`.
    pub(crate) sync_memops: bool,
}

impl Region {
    pub(crate) fn is_host(&self) -> bool {
        matches!(self.place, Place::Pinned { .. } | Place::Registered { .. })
    }

    /// Host memory that the GPU reads and writes itself.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.place, Place::Pinned { share: Share::Pages | Share::Piece, .. })
    }
}

/// All regions, by address.
#[derive(Default)]
pub(crate) struct Map {
    regions: BTreeMap<u64, Region>,
    next_id: u64,
}

impl Map {
    pub(crate) fn insert(&mut self, base: u64, bytes: u64, place: Place, context: u64, device: usize) {
        // Addresses of variables come from the server: whatever it says, sums of them do not overflow.
        let bytes = bytes.min(u64::MAX - base);
        self.next_id += 1;
        let region = Region { base, bytes, place, context, device, id: self.next_id, sync_memops: false };
        self.regions.insert(base, region);
    }

    pub(crate) fn remove(&mut self, base: u64) -> Option<Region> {
        self.regions.remove(&base)
    }

    pub(crate) fn at(&self, base: u64) -> Option<&Region> {
        self.regions.get(&base)
    }

    pub(crate) fn at_mut(&mut self, base: u64) -> Option<&mut Region> {
        self.regions.get_mut(&base)
    }

    /// The region that holds `address`.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<&Region> {
        let (_, region) = self.regions.range(..=address).next_back()?;
        (address - region.base < region.bytes).then_some(region)
    }

    pub(crate) fn overlaps(&self, base: u64, bytes: u64) -> bool {
        let end = base.saturating_add(bytes);
        self.regions.range(..end).next_back().is_some_and(|(_, r)| r.base + r.bytes > base)
    }

    /// Whether `bytes` bytes from `address` on are device memory throughout; regions may adjoin.
    pub(crate) fn is_device(&self, address: u64, bytes: u64) -> bool {
        let Some(end) = address.checked_add(bytes) else { return false };
        let mut at = address;
        loop {
            let Some(region) = self.find(at) else { return false };
            if region.is_host() {
                return false;
            }
            at = region.base + region.bytes;
            if at >= end {
                return true;
            }
        }
    }

    pub(crate) fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}

/// Bytes below which an allocation shares a block with others.
pub(crate) const SMALL: u64 = 1 << 20;
/// Alignment of every allocation, as the driver's.
pub(crate) const ALIGNMENT: u64 = 512;

/// Small allocations of one context: the blocks it shares out, and what waits to be used again.
#[derive(Default)]
pub(crate) struct Heap {
    /// Counts the heaps that the context has had: a new one begins when it is reset.
    pub(crate) number: u64,
    /// Free pieces of the shared blocks.
    pub(crate) pieces: Ranges,
    /// Shared blocks: address and bytes.
    pub(crate) blocks: Vec<(u64, u64)>,
    /// Freed pieces that work in flight may still use.
    pub(crate) quarantine: Vec<(u64, u64)>,
    pub(crate) quarantined: u64,
}

/// Address and bytes of each.
type Pieces = Vec<(u64, u64)>;

/// A context's heap. Its blocks go with the context, so no two share one.
#[derive(Default)]
pub(crate) struct Small {
    heap: Mutex<Heap>,
    /// Pieces that may be used again, and of which heap, until an allocation puts them there. Who holds the heap may
    /// be waiting for the server's answer, so the I/O thread, which brings it, never takes it.
    returned: Mutex<Vec<(u64, Pieces)>>,
}

impl Small {
    /// The heap, with all that has come back to it.
    pub(crate) fn heap(&self) -> MutexGuard<'_, Heap> {
        let mut heap = lock(&self.heap);
        for (number, pieces) in std::mem::take(&mut *lock(&self.returned)) {
            // Of a heap that is gone, the addresses went too.
            if number == heap.number {
                for (address, bytes) in pieces {
                    heap.pieces.give(address, bytes);
                }
            }
        }
        heap
    }

    /// Pieces of the heap of that number may be used again. Never waits.
    pub(crate) fn give(&self, number: u64, pieces: Pieces) {
        lock(&self.returned).push((number, pieces));
    }

    /// Begins anew; gives the address and bytes of each block that there was.
    pub(crate) fn renew(&self) -> Pieces {
        let mut heap = lock(&self.heap);
        let number = heap.number + 1;
        std::mem::replace(&mut *heap, Heap { number, ..Heap::default() }).blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_give_and_take() {
        let mut ranges = Ranges::new(0x1000, 0x1000);
        let a = ranges.take(0x100, 0x100).unwrap();
        let b = ranges.take(0x100, 0x400).unwrap();
        assert_eq!((a, b), (0x1000, 0x1400));
        assert!(!ranges.take_at(0x1000, 1), "taken");
        assert!(ranges.take_at(0x1100, 0x300));
        assert_eq!(ranges.give(0x1100, 0x300), (0x1100, 0x300));
        ranges.give(a, 0x100);
        assert_eq!(ranges.give(b, 0x100), (0x1000, 0x1000));
        assert!(ranges.take(0x1001, 1).is_none());
        assert!(ranges.take(u64::MAX, 1).is_none());
        assert!(!ranges.take_at(u64::MAX, 2));
    }

    #[test]
    fn pieces_come_back_while_an_allocation_holds_the_heap() {
        let small = Small::default();
        let held = small.heap();
        // What the I/O thread does before it can bring the answer that the holder waits for.
        small.give(held.number, vec![(0x1000, 0x200)]);
        drop(held);
        assert_eq!(small.heap().pieces.take(0x200, 0x200), Some(0x1000));
    }

    #[test]
    fn pieces_of_a_heap_that_is_gone_do_not_come_back() {
        let small = Small::default();
        small.heap().blocks.push((0x1000, 0x1000));
        assert_eq!(small.renew(), [(0x1000, 0x1000)]);
        small.give(0, vec![(0x1000, 0x200)]);
        assert_eq!(small.heap().pieces.take(0x200, 0x200), None);
    }

    #[test]
    fn adjoining_regions_are_one_to_a_copy() {
        let mut map = Map::default();
        map.insert(0x1000, 0x1000, Place::Mapped { allocation: 1 }, 1, 0);
        map.insert(0x2000, 0x1000, Place::Mapped { allocation: 2 }, 1, 0);
        map.insert(0x4000, 0x1000, Place::Pinned { flags: 0, share: Share::No }, 1, 0);
        assert!(map.is_device(0x1800, 0x1000));
        assert!(!map.is_device(0x2800, 0x1000));
        assert!(!map.is_device(0x4000, 8));
        assert!(!map.is_device(0x1000, u64::MAX));
        map.insert(u64::MAX - 8, 64, Place::Global, 1, 0);
        assert!(map.find(u64::MAX - 1).is_some() && !map.is_device(u64::MAX - 8, 64));
        assert!(map.overlaps(0x2fff, 1) && !map.overlaps(0x3000, 0x1000));
        map.remove(0x4000);
        assert!(map.find(0x4000).is_none());
    }
}
