//! Memory that the GPU, the shard and the bulk lanes all reach: words, staging slots, and small blocks.
//!
//! One anonymous mapping, laid out as words, host-to-device slots and device-to-host slots. It is there from the
//! start of the session, so that bulk data may come early, and is registered with the driver when the first
//! context is there; only then are its pages taken. Small blocks come from further segments, registered as they
//! are needed. Registered memory has the same address on the GPU (attribute 91).

use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::CUcontext;
use memmap2::{MmapOptions, MmapRaw};

use crate::driver::{Driver, OUT_OF_MEMORY, Status, check};

/// Portable and mapped: usable from every context, and by kernels and streams.
const REGISTER_FLAGS: u32 = 1 | 2;
/// Words: tickets, holds, the arrival counter, free counters.
const WORDS: usize = 32 << 10;

/// How bulk data is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) slot_bytes: u32,
    pub(super) h2d_slots: u32,
    pub(super) d2h_slots: u32,
}

/// The context in which memory is registered: a primary one that is never released, so that the memory outlives
/// every context that the program makes and destroys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home(pub(super) CUcontext);

/// The mapping. Shared with the bulk lanes' threads.
#[derive(Debug)]
pub(super) struct Pinned {
    map: MmapRaw,
    plan: Plan,
}

impl Pinned {
    pub(super) fn new(plan: Plan) -> io::Result<Self> {
        let slots = plan.h2d_slots as usize + plan.d2h_slots as usize;
        let bytes = WORDS * size_of::<u32>() + slots * plan.slot_bytes as usize;
        let map = MmapRaw::from(MmapOptions::new().len(bytes).map_anon()?);
        // Registering takes the pages: hundreds instead of tens of thousands, where the kernel has large ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, plan })
    }

    pub(super) fn plan(&self) -> Plan {
        self.plan
    }

    /// Registers the mapping with the driver.
    pub(super) fn register(&self, driver: &Driver, home: Home) -> Result<(), Status> {
        register(driver, home, self.map.as_mut_ptr().cast(), self.map.len())
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.map.len());
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    /// One of the words. The GPU writes them too.
    pub(super) fn word(&self, word: Word) -> &AtomicU32 {
        let index = (word.0 as usize).min(WORDS - 1);
        // SAFETY: inside the mapping, which lives as long as self, aligned, and only ever used as an atomic.
        unsafe { AtomicU32::from_ptr(self.at(index * size_of::<u32>()).cast()) }
    }

    /// A word's address on the GPU, which is its address here.
    pub(super) fn word_address(&self, word: Word) -> u64 {
        std::ptr::from_ref(self.word(word)) as u64
    }

    /// The number of the first host-to-device chunk that has not arrived: its lower half.
    pub(super) fn arrived(&self) -> Word {
        Word(0)
    }

    /// How often a device-to-host slot has been given back.
    pub(super) fn freed(&self, slot: u32) -> Word {
        Word(1 + slot.min(self.plan.d2h_slots))
    }

    pub(super) fn h2d_slot(&self, slot: u32) -> *mut u8 {
        self.slot(slot.min(self.plan.h2d_slots.saturating_sub(1)))
    }

    pub(super) fn d2h_slot(&self, slot: u32) -> *mut u8 {
        self.slot(self.plan.h2d_slots + slot.min(self.plan.d2h_slots.saturating_sub(1)))
    }

    fn slot(&self, index: u32) -> *mut u8 {
        self.at(WORDS * size_of::<u32>() + index as usize * self.plan.slot_bytes as usize)
    }

    /// The words that no slot uses.
    pub(super) fn free_words(&self) -> Words {
        let first = self.plan.d2h_slots + 2;
        Words { next: first, end: WORDS as u32, free: Vec::new() }
    }
}

/// A word of the mapping, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u32);

/// Gives words out.
#[derive(Debug)]
pub(super) struct Words {
    next: u32,
    end: u32,
    free: Vec<Word>,
}

impl Words {
    /// A word, set to 0.
    pub(super) fn take(&mut self, pinned: &Pinned) -> Result<Word, Status> {
        let word = match self.free.pop() {
            Some(word) => word,
            None if self.next < self.end => {
                self.next += 1;
                Word(self.next - 1)
            }
            None => return Err(OUT_OF_MEMORY),
        };
        pinned.word(word).store(0, Ordering::Relaxed);
        Ok(word)
    }

    pub(super) fn give(&mut self, word: Word) {
        self.free.push(word);
    }
}

/// Bytes of a segment of small blocks.
const SEGMENT: usize = 4 << 20;
/// Segments at most: what a client can make the server pin beyond the slots.
const MAX_SEGMENTS: usize = 128;
/// The smallest block, as a power of two.
const SMALLEST: u32 = 6;
/// The largest, as a power of two.
const LARGEST: u32 = 16;

/// A small pinned block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    start: *mut u8,
    class: u8,
}

impl Block {
    pub(super) fn start(self) -> *mut u8 {
        self.start
    }

    pub(super) fn len(self) -> usize {
        1 << (u32::from(self.class) + SMALLEST)
    }
}

/// Small pinned blocks, in sizes of powers of two. Freed in any order; segments stay for the session.
#[derive(Debug, Default)]
pub(super) struct Arena {
    segments: Vec<MmapRaw>,
    /// Bytes of the last segment that have been cut.
    used: usize,
    free: [Vec<Block>; (LARGEST - SMALLEST + 1) as usize],
}

impl Arena {
    /// A block of at least `bytes`, which must be at most 64 KiB. May register a segment.
    pub(super) fn take(&mut self, driver: &Driver, home: Home, bytes: usize) -> Result<Block, Status> {
        let power = bytes.max(1).next_power_of_two().trailing_zeros().max(SMALLEST);
        if power > LARGEST {
            return Err(OUT_OF_MEMORY);
        }
        let class = power - SMALLEST;
        if let Some(block) = self.free.get_mut(class as usize).and_then(Vec::pop) {
            return Ok(block);
        }
        let bytes = 1usize << power;
        if self.segments.is_empty() || self.used + bytes > SEGMENT {
            if self.segments.len() == MAX_SEGMENTS {
                return Err(OUT_OF_MEMORY);
            }
            let map = MmapOptions::new().len(SEGMENT).map_anon().map_err(|_| OUT_OF_MEMORY)?;
            let map = MmapRaw::from(map);
            register(driver, home, map.as_mut_ptr().cast(), map.len())?;
            self.segments.push(map);
            self.used = 0;
        }
        let segment = self.segments.last().ok_or(OUT_OF_MEMORY)?;
        // Blocks of a segment are cut in any order of sizes; keep each aligned to its own size up to 256.
        let start = segment.as_mut_ptr().wrapping_add(self.used);
        self.used += bytes.max(256);
        Ok(Block { start, class: class as u8 })
    }

    pub(super) fn give(&mut self, block: Block) {
        if let Some(list) = self.free.get_mut(usize::from(block.class)) {
            list.push(block);
        }
    }
}

/// Registers whole pages of ours, for every context.
pub(super) fn register(driver: &Driver, home: Home, start: *mut c_void, bytes: usize) -> Result<(), Status> {
    let mut before = std::ptr::null_mut();
    // SAFETY: the mapping is ours, whole pages, and stays until it is unregistered; the context, to the end.
    unsafe {
        check(driver.cuCtxPushCurrent_v2(home.0))?;
        let registered = check(driver.cuMemHostRegister_v2(start, bytes, REGISTER_FLAGS));
        check(driver.cuCtxPopCurrent_v2(&raw mut before))?;
        registered
    }
}
