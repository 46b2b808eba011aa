//! `nvmlInternalGetExportTable`: what `nvidia-smi` asks for before anything else.

use std::ffi::c_void;

use crate::out;
use crate::status::{INVALID_ARGUMENT, NOT_FOUND, Status, answer};

/// The one table that is served. Its entries are optional: `nvidia-smi` does without those that are NULL.
const SERVED: [u8; 16] =
    [0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e, 0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4];

/// Never written. Atomic, so that it may be given out as a pointer that is not to const.
static TABLE: [std::sync::atomic::AtomicUsize; 512] = [const { std::sync::atomic::AtomicUsize::new(0) }; 512];

/// # Safety
/// `table` is NULL or points to a pointer; `uuid` is NULL or points to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInternalGetExportTable(
    table: *mut *const c_void,
    uuid: *const [u8; 16],
) -> Status {
    answer(|| {
        if uuid.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not NULL, so as the caller promises.
        let served = unsafe { uuid.read_unaligned() } == SERVED;
        // SAFETY: as the caller promises.
        unsafe { out::put(table, if served { TABLE.as_ptr().cast() } else { std::ptr::null() })? };
        if served { Ok(()) } else { Err(NOT_FOUND) }
    })
}
