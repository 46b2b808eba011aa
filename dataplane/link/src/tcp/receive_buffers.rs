//! The memory a command lane receives into: a few buffers that the kernel takes in turn.
//!
//! They are registered with the ring as a *buffer ring*, so that one multishot receive serves the whole life
//! of the connection and giving a buffer back is a store to memory. Without buffer rings (Linux before 5.19)
//! the same memory serves one receive at a time.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use memmap2::{Advice, MmapMut};

use crate::error::LinkError;
use crate::ring::Ring;

/// A power of two.
const COUNT: u16 = 16;
const EACH: usize = 64 << 10;
/// The entries of the buffer ring come first, on a page of their own.
const ENTRIES_PAGE: usize = 4096;

/// The one buffer group of a lane's ring.
pub(super) const GROUP: u16 = 0;

pub(super) struct ReceiveBuffers {
    /// Start of the mapping, which is only ever touched through this pointer: the kernel writes there too.
    base: *mut u8,
    /// Buffers handed to the kernel so far, modulo 2^16.
    tail: u16,
    _mapping: MmapMut,
}

// SAFETY: `base` points into the mapping that the struct owns; nothing about it belongs to a thread.
unsafe impl Send for ReceiveBuffers {}

impl ReceiveBuffers {
    pub(super) fn new() -> Result<Self, LinkError> {
        let failed = |error: io::Error| LinkError::system("mapping a lane's receive buffers", &error);
        let mut mapping = MmapMut::map_anon(ENTRIES_PAGE + usize::from(COUNT) * EACH).map_err(failed)?;
        // The kernel goes on writing to these pages; a forked child must not make us copy them.
        mapping.advise(Advice::DontFork).map_err(failed)?;
        Ok(ReceiveBuffers { base: mapping.as_mut_ptr(), tail: 0, _mapping: mapping })
    }

    /// Hands all buffers to `ring`.
    ///
    /// # Safety
    /// The struct must outlive the ring's use of it: until the ring is quiet.
    pub(super) unsafe fn register(&mut self, ring: &Ring) -> io::Result<()> {
        // SAFETY: the first page of the mapping is page-aligned and holds COUNT entries.
        unsafe { ring.submitter().register_buf_ring_with_flags(self.base as u64, COUNT, GROUP, 0)? };
        for id in 0..COUNT {
            self.give_back(id);
        }
        Ok(())
    }

    /// The first `length` bytes of a buffer that the kernel has filled.
    pub(super) fn filled(&self, id: u16, length: usize) -> Option<&[u8]> {
        if id >= COUNT || length > EACH {
            return None;
        }
        // SAFETY: within the mapping; the kernel does not write to a buffer it has completed until
        // `give_back`, which needs `&mut self` and so cannot happen while the slice lives.
        Some(unsafe { std::slice::from_raw_parts(self.buffer(id), length) })
    }

    /// Lets the kernel have a buffer (again).
    pub(super) fn give_back(&mut self, id: u16) {
        let entries = self.base.cast::<BufRingEntry>();
        // SAFETY: the index is below COUNT, and that entry is not the kernel's: it takes entries only up
        // to the tail, which we publish afterwards, and there are no more buffers than entries.
        let entry = unsafe { &mut *entries.add(usize::from(self.tail % COUNT)) };
        entry.set_addr(self.buffer(id) as u64);
        entry.set_len(EACH as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, is aligned for u16, and only we write it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// All buffers as one, for a lane without a buffer ring.
    pub(super) fn whole(&self) -> (*mut u8, usize) {
        (self.buffer(0), usize::from(COUNT) * EACH)
    }

    /// The first `length` bytes of [`whole`](Self::whole), once received.
    pub(super) fn received(&self, length: usize) -> &[u8] {
        let (start, most) = self.whole();
        // SAFETY: within the mapping; no receive is posted while the caller looks at it.
        unsafe { std::slice::from_raw_parts(start, length.min(most)) }
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        self.base.wrapping_add(ENTRIES_PAGE + usize::from(id % COUNT) * EACH)
    }
}
