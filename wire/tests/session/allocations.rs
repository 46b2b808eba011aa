//! Counts what a test's own thread allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    LARGEST.set(LARGEST.get().max(bytes));
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counters are thread-local cells
// without destructors, whose use does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from System, with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: the block came from System, with this layout.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

/// How often `work` allocates, and the largest piece it asks for.
pub(crate) fn during<R>(work: impl FnOnce() -> R) -> (u64, usize, R) {
    let before = COUNT.get();
    LARGEST.set(0);
    let result = work();
    (COUNT.get() - before, LARGEST.get(), result)
}
