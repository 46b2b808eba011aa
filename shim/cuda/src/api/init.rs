//! Initialisation and versions.

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;
use crate::runtime::stats::counter;
use crate::runtime::{self, process};

use super::arguments::give;

/// Connects to the server. `flags` must be 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: u32) -> CUresult {
    process::report_at_exit();
    runtime::plain(counter!("cuInit"), || {
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        runtime::init().map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> CUresult {
    runtime::plain(counter!("cuDriverGetVersion"), || {
        // SAFETY: the program's pointer, for one value.
        unsafe { give(version, crate::abi::driver_version()) }
    })
}
