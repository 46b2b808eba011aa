//! The tools' view of modules and functions, of which cuFFT uses a little: it takes the one function of each
//! module that it loads, whatever its name.

use std::ffi::c_void;

use super::{Slot, Table, slots, uuid};
use crate::abi::{
    hooks::hooks,
    types::{CUcontext, CUfunction, CUmodule},
};

pub(super) const UUID: [u8; 16] = uuid(0x6e163fbe_b958_444d_835c_e182aff1991e);

pub(super) static TABLE: Table<99> = Table({
    let mut slots = slots!(0x6e163fbe, 99);
    slots[7] = Slot::function(visit_functions as *const c_void);
    slots
});

/// What a caller has done with each function. cuFFT's stores it where `user` points.
type Visit = unsafe extern "C" fn(user: *mut c_void, function: CUfunction, module: CUmodule);

/// Shows the caller each function of a module. Says whether it did, which is not a `CUresult`: cuFFT takes
/// 0 for a failure.
unsafe extern "C" fn visit_functions(
    _context: CUcontext,
    module: CUmodule,
    visit: Option<Visit>,
    user: *mut c_void,
) -> u32 {
    let (Some(visit), Ok(functions)) = (visit, hooks().module_functions(module)) else { return 0 };
    for function in functions {
        // SAFETY: the caller's function, with the argument that it asked for.
        unsafe { visit(user, function, module) };
    }
    1
}
