//! Writing answers where the caller wants them.

use std::ffi::{CStr, c_char};

use crate::status::{ARGUMENT_VERSION_MISMATCH, INSUFFICIENT_SIZE, INVALID_ARGUMENT, Status};

/// Writes a value.
///
/// # Safety
/// `to` is NULL or points to memory that may be written as a `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Status> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not NULL, so as the caller promises. Callers' buffers need not be aligned.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Writes a text and its zero into `length` bytes.
///
/// # Safety
/// `to` is NULL or points to `length` bytes that may be written.
pub(crate) unsafe fn put_text(to: *mut c_char, length: u32, text: &str) -> Result<(), Status> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its zero fit the length that the caller promises.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// A text in a fixed field, cut if need be.
pub(crate) fn field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *to = from as c_char;
    }
    field
}

/// Reads a text.
///
/// # Safety
/// `from` is NULL or points to a text that ends with a zero.
pub(crate) unsafe fn text<'a>(from: *const c_char) -> Result<&'a str, Status> {
    if from.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not NULL, so as the caller promises.
    unsafe { CStr::from_ptr(from) }.to_str().map_err(|_| INVALID_ARGUMENT)
}

/// Checks the `version` that starts a structure.
///
/// # Safety
/// `at` is NULL or points to a structure that starts with its version.
pub(crate) unsafe fn check_version<T>(at: *const T, version: u32) -> Result<(), Status> {
    if at.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not NULL, so as the caller promises.
    let found = unsafe { at.cast::<u32>().read_unaligned() };
    if found == version { Ok(()) } else { Err(ARGUMENT_VERSION_MISMATCH) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_or_are_refused() {
        let mut buffer = [0x7f as c_char; 4];
        // SAFETY: the lengths are those of the buffer, or less.
        unsafe {
            assert_eq!(put_text(buffer.as_mut_ptr(), 3, "abc"), Err(INSUFFICIENT_SIZE));
            assert_eq!(buffer, [0x7f; 4]);
            assert_eq!(put_text(buffer.as_mut_ptr(), 4, "abc"), Ok(()));
            assert_eq!(put_text(buffer.as_mut_ptr(), 0, ""), Err(INSUFFICIENT_SIZE));
            assert_eq!(put_text(std::ptr::null_mut(), 9, "abc"), Err(INVALID_ARGUMENT));
            assert_eq!(text(buffer.as_ptr()), Ok("abc"));
            assert_eq!(check_version(&7u32, 7), Ok(()));
            assert_eq!(check_version(&7u32, 8), Err(ARGUMENT_VERSION_MISMATCH));
        }
        assert_eq!(field::<3>("abc"), [b'a' as c_char, b'b' as c_char, 0]);
    }
}
