//! TOOLS_RUNTIME_CALLBACK_HOOKS: where a profiler would switch on callbacks of the CUDA runtime.
//!
//! The runtime reads enable flags from two buffers at every one of its calls. No tool can set them here,
//! so they stay zero and the callback is never made.

use std::{ffi::c_void, sync::atomic::AtomicU8};

use super::{Slot, Table, slots, uuid};
use crate::abi::{
    result::{CUDA_ERROR_INVALID_VALUE, SUCCESS},
    types::CUresult,
};

pub(super) const UUID: [u8; 16] = uuid(0xa094798c_2e74_2e74_93f2_0800200c0a66);

pub(super) static TABLE: Table<7> = Table({
    let mut slots = slots!(0xa094798c, 7);
    slots[1] = Slot::function(callback as *const c_void);
    slots[2] = Slot::function(function_flags as *const c_void);
    slots[4] = Slot::function(query as *const c_void);
    slots[6] = Slot::function(domain_flags as *const c_void);
    slots
});

/// What is really behind a buffer, whatever its size is said to be: a runtime has a word of flags for each of
/// its functions and trusts its driver to have as many. cudart 13 reads at byte 1760 of the first buffer.
pub(super) const BACKING: usize = 16 << 10;

/// A buffer that is said to have `BYTES` bytes. Aligned so that the runtime may read the flags by words.
#[repr(align(64))]
struct Flags<const BYTES: usize>([AtomicU8; BACKING]);

static FUNCTION_FLAGS: Flags<1024> = Flags([const { AtomicU8::new(0) }; BACKING]);
static DOMAIN_FLAGS: Flags<14> = Flags([const { AtomicU8::new(0) }; BACKING]);

extern "C" fn callback(_id: u32, _data: *mut c_void) -> CUresult {
    SUCCESS
}

unsafe extern "C" fn function_flags(out: *mut *mut c_void, size: *mut usize) -> CUresult {
    // SAFETY: the runtime passes two words to be written.
    unsafe { lend(&FUNCTION_FLAGS, out, size) }
}

unsafe extern "C" fn domain_flags(out: *mut *mut c_void, size: *mut usize) -> CUresult {
    // SAFETY: the runtime passes two words to be written.
    unsafe { lend(&DOMAIN_FLAGS, out, size) }
}

/// # Safety
/// `out` and `size` are NULL or may be written.
unsafe fn lend<const BYTES: usize>(
    flags: &'static Flags<BYTES>,
    out: *mut *mut c_void,
    size: *mut usize,
) -> CUresult {
    if out.is_null() || size.is_null() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: neither is NULL, so the caller promises that they may be written.
    unsafe {
        out.write(flags.0.as_ptr().cast_mut().cast());
        size.write(BYTES);
    }
    SUCCESS
}

/// Asked with NULL at start-up: nothing is listening.
unsafe extern "C" fn query(_in: *mut c_void, out: *mut u64) -> CUresult {
    if !out.is_null() {
        // SAFETY: not NULL: the runtime passes a word to be written.
        unsafe { out.write(0) };
    }
    SUCCESS
}
