//! CONTEXT_CHECKS: whether a context is one that the runtime may use.

use std::ffi::c_void;

use super::{Slot, Table, slots, uuid};
use crate::abi::{
    result::SUCCESS,
    types::{CUcontext, CUresult},
};

pub(super) const UUID: [u8; 16] = uuid(0x263e8860_7cd2_6143_92f6_bbd5006dfa7e);

pub(super) static TABLE: Table<15> = Table({
    let mut slots = slots!(0x263e8860, 15);
    slots[2] = Slot::function(check as *const c_void);
    slots[3] = Slot::function(nothing as *const c_void);
    slots
});

/// The second output is left as it is: the real driver does not touch it.
unsafe extern "C" fn check(_context: CUcontext, first: *mut u32, _second: *mut *mut c_void) -> CUresult {
    if !first.is_null() {
        // SAFETY: not NULL: the runtime passes a word to be written.
        unsafe { first.write(0) };
    }
    SUCCESS
}

extern "C" fn nothing() -> u32 {
    0
}
