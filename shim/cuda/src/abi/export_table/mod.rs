//! `cuGetExportTable`: private tables of functions, by UUID.
//!
//! NVIDIA's libraries reach into the driver through these. Their layouts are not published; what is here
//! is what the CUDA runtime and the maths libraries are seen to need. A slot whose use is not known holds
//! a function that says so once and returns `CUDA_ERROR_NOT_SUPPORTED`. Tables are statics: the start-up
//! check covers their addresses. An unknown UUID is refused, which callers handle.
//!
//! To add a table: a file with its `UUID` and `TABLE`, and a line in `KNOWN`.

mod asked_by_cublaslt;
mod context_checks;
pub mod context_storage;
mod cudart_interface;
mod integrity_check;
mod runtime_hooks;
mod tools_context;
mod tools_module;
mod tools_tls;

use std::{ffi::c_void, ptr};

use super::{
    result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED, SUCCESS},
    types::{CUresult, CUuuid},
    unsupported::report,
};

/// One word of a table: a function's address, or the table's size in bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Slot(*const c_void);

impl Slot {
    const fn size_of_table(slots: usize) -> Self {
        Self(ptr::without_provenance(slots * size_of::<Self>()))
    }

    const fn function(address: *const c_void) -> Self {
        Self(address)
    }
}

/// A table as its callers see it.
#[repr(C, align(16))]
struct Table<const SLOTS: usize>([Slot; SLOTS]);

// SAFETY: the words are addresses of functions and numbers, and are never written.
unsafe impl<const SLOTS: usize> Sync for Table<SLOTS> {}

impl<const SLOTS: usize> Table<SLOTS> {
    fn address(&'static self) -> *const c_void {
        ptr::from_ref(self).cast()
    }
}

/// The sixteen bytes of a UUID in memory order, from the usual hexadecimal spelling.
const fn uuid(text: u128) -> [u8; 16] {
    text.to_be_bytes()
}

/// What a slot of unknown use does. `TABLE` is the first four bytes of the table's UUID.
extern "C" fn unknown_slot<const TABLE: u32, const SLOT: usize>() -> CUresult {
    report(&format!(
        "slot {SLOT} of the private table {TABLE:08x} is not supported; returned CUDA_ERROR_NOT_SUPPORTED"
    ));
    CUDA_ERROR_NOT_SUPPORTED
}

/// An array of `$slots` words: the size, then [`unknown_slot`] everywhere.
macro_rules! slots {
    ($table:literal, $slots:literal) => {
        seq_macro::seq!(N in 1..$slots {
            [
                $crate::abi::export_table::Slot::size_of_table($slots),
                #($crate::abi::export_table::Slot::function(
                    $crate::abi::export_table::unknown_slot::<$table, N> as *const _,
                ),)*
            ]
        })
    };
}
use slots;

fn table_of(id: [u8; 16]) -> Option<*const c_void> {
    Some(match id {
        cudart_interface::UUID => cudart_interface::TABLE.address(),
        runtime_hooks::UUID => runtime_hooks::TABLE.address(),
        tools_tls::UUID => tools_tls::TABLE.address(),
        context_storage::UUID => context_storage::TABLE.address(),
        context_checks::UUID => context_checks::TABLE.address(),
        integrity_check::UUID => integrity_check::TABLE.address(),
        tools_context::UUID => tools_context::TABLE.address(),
        tools_module::UUID => tools_module::TABLE.address(),
        asked_by_cublaslt::UUID => asked_by_cublaslt::TABLE.address(),
        _ => return None,
    })
}

/// # Safety
/// `out` is NULL or may be written; `id` is NULL or points to a UUID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(out: *mut *const c_void, id: *const CUuuid) -> CUresult {
    if out.is_null() || id.is_null() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not NULL, so the caller promises a UUID.
    let id = unsafe { id.read_unaligned() };
    let table = table_of(id.bytes);
    // SAFETY: not NULL, so the caller promises that it may be written.
    unsafe { out.write(table.unwrap_or(ptr::null())) };
    if table.is_some() { SUCCESS } else { CUDA_ERROR_INVALID_VALUE }
}

/// Writes an answer of the runtime through a pointer of the caller's.
///
/// # Safety
/// `out` is NULL or may be written.
unsafe fn give<T>(out: *mut T, answer: Result<T, CUresult>) -> CUresult {
    match answer {
        _ if out.is_null() => CUDA_ERROR_INVALID_VALUE,
        Ok(value) => {
            // SAFETY: not NULL, so the caller promises that it may be written.
            unsafe { out.write(value) };
            SUCCESS
        }
        Err(code) => code,
    }
}

#[cfg(test)]
mod tests;
