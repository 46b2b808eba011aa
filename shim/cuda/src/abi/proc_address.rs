//! `cuGetProcAddress`: from a name, a CUDA version and a default-stream flag to a function.
//!
//! A name is asked for without version suffix. The answer is the newest form that is not newer than the
//! version asked for. With the per-thread flag it is the per-thread form where one exists.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
};

use super::{
    driver_version,
    generated::{ENTRIES, Entry},
    result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_FOUND, SUCCESS},
    types::CUresult,
};

/// `CUdriverProcAddressQueryResult`.
const FOUND: i32 = 0;
const NOT_FOUND: i32 = 1;
const VERSION_TOO_SMALL: i32 = 2;

/// `CUdriverProcAddress_flags`.
const FLAG_LEGACY: u64 = 1;
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
    let forms = ENTRIES.iter().skip(start).take_while(|entry| entry.base.as_bytes() == name);
    let mut known = false;
    let mut best: Option<&Entry> = None;
    for form in forms {
        known = true;
        // Forms are in order: legacy before per-thread, then by version. The last that fits is it.
        if form.version <= version && (per_thread || !form.per_thread) {
            best = Some(form);
        }
    }
    match best {
        Some(form) => Found::Function(form.address),
        None if known => Found::VersionTooSmall,
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
    if symbol.is_null() || out.is_null() || version > driver_version() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if flags & !(FLAG_LEGACY | FLAG_PER_THREAD) != 0 || flags == FLAG_LEGACY | FLAG_PER_THREAD {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not NULL, so the caller promises a C string.
    let name = unsafe { CStr::from_ptr(symbol) };
    let (address, answer) = match find(name.to_bytes(), version, flags == FLAG_PER_THREAD) {
        Found::Function(address) => (address as *mut c_void, FOUND),
        Found::UnknownName => (ptr::null_mut(), NOT_FOUND),
        Found::VersionTooSmall => (ptr::null_mut(), VERSION_TOO_SMALL),
    };
    // SAFETY: not NULL, so the caller promises that it may be written.
    unsafe { out.write(address) };
    if !status.is_null() {
        // SAFETY: as above.
        unsafe { status.write(answer) };
    }
    SUCCESS
}

/// The form of CUDA 11.3, which has no status: a function that is not there is an error.
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
    let mut status = FOUND;
    // SAFETY: the caller's promises are the ones that are asked for, and `status` is a local.
    let result = unsafe { cuGetProcAddress_v2(symbol, out, version, flags, &mut status) };
    if result == SUCCESS && status != FOUND { CUDA_ERROR_NOT_FOUND } else { result }
}
