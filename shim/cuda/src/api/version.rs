//! Version management.

use crate::abi::{
    driver_version,
    result::{CUDA_ERROR_INVALID_VALUE, SUCCESS},
    types::CUresult,
};

/// # Safety
/// `version` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> CUresult {
    if version.is_null() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not NULL, so the caller promises that it may be written.
    unsafe { version.write(driver_version()) };
    SUCCESS
}
