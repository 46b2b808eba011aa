//! The two default streams, and how one function serves both.
//!
//! A program built for per-thread default streams calls `_ptsz` and `_ptds` variants, in which a NULL
//! stream means the calling thread's own stream. Every function is written once, for the legacy
//! meaning; the build script makes the variant around it. Where the function takes a stream the variant
//! passes [`substitute`]`(stream)`; where it does not (synchronous copies, a stream inside a structure)
//! the variant holds the guard of [`enter`], and the function asks [`default_stream`].

use std::{cell::Cell, ptr};

use super::types::CUstream;

/// The handle by which a program names the legacy default stream explicitly.
pub const CU_STREAM_LEGACY: CUstream = ptr::without_provenance_mut(1);
/// The handle by which a program names its thread's default stream explicitly.
pub const CU_STREAM_PER_THREAD: CUstream = ptr::without_provenance_mut(2);

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Inside a per-thread variant NULL is the thread's own stream; elsewhere it stays NULL.
pub fn default_stream(stream: CUstream) -> CUstream {
    if stream.is_null() && ACTIVE.get() { CU_STREAM_PER_THREAD } else { stream }
}

/// What a variant passes on in place of the stream it was given.
pub fn substitute(stream: CUstream) -> CUstream {
    if stream.is_null() { CU_STREAM_PER_THREAD } else { stream }
}

/// Makes NULL mean the per-thread stream on this thread until the guard is dropped.
#[must_use = "the per-thread meaning ends when the guard is dropped"]
pub fn enter() -> Guard {
    Guard { before: ACTIVE.replace(true) }
}

/// See [`enter`].
pub struct Guard {
    before: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        ACTIVE.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_changes_what_null_means_and_puts_it_back() {
        assert!(default_stream(ptr::null_mut()).is_null());
        {
            let _outer = enter();
            drop(enter());
            assert_eq!(default_stream(ptr::null_mut()), CU_STREAM_PER_THREAD);
            assert_eq!(default_stream(CU_STREAM_LEGACY), CU_STREAM_LEGACY);
        }
        assert!(default_stream(ptr::null_mut()).is_null());
    }
}
