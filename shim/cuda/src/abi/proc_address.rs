//! `cuGetProcAddress`: from a name, a CUDA version and a default-stream flag to a function.
//!
//! A name is asked for without version suffix. The answer is the newest form that is not newer than the
//! version asked for; a negative version means the newest of all. With the per-thread flag a function that
//! has per-thread forms is answered with one of those or not at all.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
};

use super::{
    driver_version,
    generated::ENTRIES,
    result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_FOUND, SUCCESS},
    types::CUresult,
};

/// `CUdriverProcAddressQueryResult`.
const FOUND: i32 = 0;
const NOT_FOUND: i32 = 1;
const VERSION_TOO_SMALL: i32 = 2;

/// `CUdriverProcAddress_flags`.
const FLAG_LEGACY: u64 = 1;
/// Wins over the other when both are given.
const FLAG_PER_THREAD: u64 = 2;

/// What a look-up came to.
#[derive(Clone, Copy)]
pub enum Found {
    Function(unsafe extern "C" fn()),
    UnknownName,
    VersionTooSmall,
}

/// Looks a base name up; the arguments are taken to be legal.
pub fn find(name: &[u8], version: i32, per_thread: bool) -> Found {
    let start = ENTRIES.partition_point(|entry| entry.base.as_bytes() < name);
    let count = ENTRIES.iter().skip(start).take_while(|entry| entry.base.as_bytes() == name).count();
    let forms = ENTRIES.get(start..start + count).unwrap_or_default();
    // Legacy forms come first, each kind in order of version.
    let (legacy, threaded) = forms.split_at(forms.partition_point(|form| !form.per_thread));
    let forms = if per_thread && !threaded.is_empty() { threaded } else { legacy };
    match forms.iter().rfind(|form| version < 0 || form.version <= version) {
        Some(form) => Found::Function(form.address),
        None if count > 0 => Found::VersionTooSmall,
        None => Found::UnknownName,
    }
}

/// # Safety
/// `symbol` is NULL or a C string; `out` and `status` are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    out: *mut *mut c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> CUresult {
    // SAFETY: the caller's promises are the ones that are asked for.
    let found = match unsafe { look_up(symbol, out, version, flags) } {
        Ok(found) => found,
        Err(code) => return code,
    };
    let (address, answer) = match found {
        Found::Function(address) => (address as *mut c_void, FOUND),
        Found::UnknownName => (ptr::null_mut(), NOT_FOUND),
        Found::VersionTooSmall => (ptr::null_mut(), VERSION_TOO_SMALL),
    };
    // SAFETY: `look_up` has refused NULL, so the caller promises that it may be written.
    unsafe { out.write(address) };
    if !status.is_null() {
        // SAFETY: not NULL, so the caller promises that it may be written.
        unsafe { status.write(answer) };
    }
    SUCCESS
}

/// The form of CUDA 11.3, which has no status: a function that is not there is an error, and the output
/// is left as it was.
///
/// # Safety
/// As [`cuGetProcAddress_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    out: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> CUresult {
    // SAFETY: the caller's promises are the ones that are asked for.
    match unsafe { look_up(symbol, out, version, flags) } {
        Ok(Found::Function(address)) => {
            // SAFETY: `look_up` has refused NULL, so the caller promises that it may be written.
            unsafe { out.write(address as *mut c_void) };
            SUCCESS
        }
        Ok(Found::UnknownName | Found::VersionTooSmall) => CUDA_ERROR_NOT_FOUND,
        Err(code) => code,
    }
}

/// Checks the arguments, then [`find`]s.
///
/// # Safety
/// `symbol` is NULL or a C string.
unsafe fn look_up(
    symbol: *const c_char,
    out: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> Result<Found, CUresult> {
    let unknown_flags = flags & !(FLAG_LEGACY | FLAG_PER_THREAD);
    if symbol.is_null() || out.is_null() || version > driver_version() || unknown_flags != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not NULL, so the caller promises a C string.
    let name = unsafe { CStr::from_ptr(symbol) };
    Ok(find(name.to_bytes(), version, flags & FLAG_PER_THREAD != 0))
}
