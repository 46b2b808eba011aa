//! Reading and writing what a program passes by pointer.

use std::ffi::{CStr, c_char};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;

/// Writes a result where the program wants it.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for NULL.
///
/// # Safety
/// `target` is NULL or good for one `T`.
#[inline]
pub(crate) unsafe fn give<T>(target: *mut T, value: T) -> Result<(), CUresult> {
    if target.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { target.write(value) };
    Ok(())
}

/// As [`give`], where NULL says that the program does not want it.
///
/// # Safety
/// As [`give`].
pub(crate) unsafe fn offer<T>(target: *mut T, value: T) {
    if !target.is_null() {
        // SAFETY: the caller's promise.
        unsafe { target.write(value) };
    }
}

/// Refuses NULL before anything is done that a refusal would have to undo.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE`.
#[inline]
pub(crate) fn need<T>(pointer: *const T) -> Result<(), CUresult> {
    if pointer.is_null() { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
}

/// A name that the program passes.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for NULL.
///
/// # Safety
/// `name` is NULL or a C string.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> Result<&'a CStr, CUresult> {
    need(name)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(name) })
}

/// Copies a string into a buffer of `room` bytes, cut to fit, with a NUL.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for NULL or no room.
///
/// # Safety
/// `buffer` is NULL or good for `room` bytes.
pub(crate) unsafe fn give_text(buffer: *mut c_char, room: i32, text: &[u8]) -> Result<(), CUresult> {
    need(buffer)?;
    let room = usize::try_from(room).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    if room == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let text = &text[..text.iter().position(|b| *b == 0).unwrap_or(text.len()).min(room - 1)];
    // SAFETY: at most `room` bytes are written.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}
