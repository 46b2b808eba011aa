//! CUDART_INTERFACE: how the CUDA runtime loads its modules and enumerates devices.

use std::ffi::c_void;

use super::{Slot, Table, give, slots, uuid};
use crate::abi::{
    hooks::hooks,
    result::SUCCESS,
    types::{CUcontext, CUdevice, CUmodule, CUresult},
};

pub(super) const UUID: [u8; 16] = uuid(0x6bd5fb6c_5bf4_e74a_8987_d93912fd9df9);

pub(super) static TABLE: Table<13> = Table({
    let mut slots = slots!(0x6bd5fb6c, 13);
    slots[1] = Slot::function(load_wrapper as *const c_void);
    slots[2] = Slot::function(primary_context as *const c_void);
    slots[6] = Slot::function(load_wrapper_with_options as *const c_void);
    slots[7] = Slot::function(module_destroyed as *const c_void);
    slots[8] = Slot::function(load_container as *const c_void);
    slots[12] = Slot::function(load_compilers as *const c_void);
    slots
});

unsafe extern "C" fn load_wrapper(out: *mut CUmodule, wrapper: *const c_void) -> CUresult {
    // SAFETY: the runtime passes a wrapper that the compiler embedded, and a module to be written.
    unsafe { give(out, hooks().load_fatbin_wrapper(wrapper)) }
}

/// Called for every device while the runtime enumerates them: must not activate anything.
unsafe extern "C" fn primary_context(out: *mut CUcontext, device: CUdevice) -> CUresult {
    // SAFETY: the runtime passes a context to be written.
    unsafe { give(out, hooks().primary_context_of(device)) }
}

unsafe extern "C" fn load_wrapper_with_options(
    out: *mut CUmodule,
    wrapper: *const c_void,
    _option: *mut c_void,
    _value: *mut c_void,
    _count: u32,
) -> CUresult {
    // SAFETY: as in `load_wrapper`.
    unsafe { load_wrapper(out, wrapper) }
}

/// A notice, to which there is nothing to do.
extern "C" fn module_destroyed(_module: usize) {}

unsafe extern "C" fn load_container(
    container: *const c_void,
    out: *mut CUmodule,
    _option: *mut c_void,
    _value: *mut c_void,
    _count: u32,
) -> CUresult {
    // SAFETY: the runtime passes a container that the compiler embedded, and a module to be written.
    unsafe { give(out, hooks().load_fatbin_container(container)) }
}

/// The compilers are on the far side, with the driver.
extern "C" fn load_compilers() -> CUresult {
    SUCCESS
}
