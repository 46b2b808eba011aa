//! TOOLS_TLS: the calling thread's context, which libraries key their registries on.

use std::ffi::c_void;

use super::{Slot, Table, give, slots, uuid};
use crate::abi::{
    hooks::hooks,
    types::{CUcontext, CUresult},
};

pub(super) const UUID: [u8; 16] = uuid(0x42d85a81_23f6_cb47_8298_f6e78a3aecdc);

pub(super) static TABLE: Table<3> = Table({
    let mut slots = slots!(0x42d85a81, 3);
    slots[2] = Slot::function(current_context as *const c_void);
    slots
});

unsafe extern "C" fn current_context(out: *mut CUcontext) -> CUresult {
    // SAFETY: the caller passes a context to be written.
    unsafe { give(out, hooks().current_context()) }
}
