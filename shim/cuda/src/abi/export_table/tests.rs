//! The tables as a library sees them, before the runtime is there: through `cuGetExportTable` and raw
//! words. With a runtime: `tests/tables.rs`.

use super::*;
use crate::abi::{
    result::{CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_NOT_INITIALIZED},
    types::{CUcontext, CUstream},
};

fn ask(id: [u8; 16]) -> Result<*const usize, CUresult> {
    let mut out = ptr::dangling::<c_void>();
    // SAFETY: both are locals.
    let result = unsafe { cuGetExportTable(&mut out, &CUuuid { bytes: id }) };
    if result == SUCCESS {
        return Ok(out.cast());
    }
    assert!(out.is_null(), "a refusal clears the output");
    Err(result)
}

fn word(id: [u8; 16], slot: usize) -> usize {
    // SAFETY: the tests ask for slots that the table has.
    unsafe { ask(id).unwrap().add(slot).read() }
}

macro_rules! slot {
    ($id:expr, $slot:expr, $kind:ty) => {{
        let word = word($id, $slot);
        #[allow(unused_unsafe, reason = "some uses are inside another unsafe block")]
        // SAFETY: the function in this slot has this type.
        let function = unsafe { std::mem::transmute::<usize, $kind>(word) };
        function
    }};
}

#[test]
fn uuids_are_in_memory_order() {
    assert_eq!(cudart_interface::UUID[..4], [0x6b, 0xd5, 0xfb, 0x6c]);
    assert_eq!(tools_module::UUID[12..], [0xaf, 0xf1, 0x99, 0x1e]);
}

#[test]
fn every_table_says_its_size_and_has_no_hole() {
    let sizes = [
        (cudart_interface::UUID, 13),
        (runtime_hooks::UUID, 7),
        (tools_tls::UUID, 3),
        (context_checks::UUID, 15),
        (integrity_check::UUID, 3),
        (tools_context::UUID, 93),
        (tools_module::UUID, 99),
    ];
    for (id, words) in sizes {
        assert_eq!(word(id, 0), words * 8);
        assert!((1..words).all(|slot| word(id, slot) != 0));
        assert_eq!(ask(id), ask(id), "an address that stays");
    }
}

#[test]
fn an_unknown_table_is_refused() {
    assert!(ask([7; 16]).is_err());
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { cuGetExportTable(ptr::null_mut(), ptr::null()) }, CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn an_unknown_slot_is_refused() {
    let slot = slot!(tools_module::UUID, 34, extern "C" fn() -> CUresult);
    assert_eq!(slot(), CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn profiler_flags_are_zero() {
    for (slot, size) in [(2, 1024), (6, 14)] {
        let lend =
            slot!(runtime_hooks::UUID, slot, unsafe extern "C" fn(*mut *const u8, *mut usize) -> CUresult);
        let (mut flags, mut bytes) = (ptr::null(), 0);
        // SAFETY: both are locals.
        assert_eq!(unsafe { lend(&mut flags, &mut bytes) }, SUCCESS);
        assert_eq!(bytes, size);
        // The runtimes read further than they are told; see `BACKING`.
        let read = runtime_hooks::BACKING;
        // SAFETY: the table lends that many bytes for ever.
        assert!(unsafe { std::slice::from_raw_parts(flags, read) }.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn before_the_runtime_is_there_the_tables_say_not_initialised() {
    let mut out = ptr::null_mut();
    let primary = slot!(cudart_interface::UUID, 2, unsafe extern "C" fn(*mut *mut c_void, i32) -> CUresult);
    let current = slot!(tools_tls::UUID, 2, unsafe extern "C" fn(*mut *mut c_void) -> CUresult);
    let private = slot!(
        tools_context::UUID,
        51,
        unsafe extern "C" fn(CUcontext, CUstream, *mut *mut c_void, i32) -> CUresult
    );
    // SAFETY: `out` is a local.
    unsafe {
        assert_eq!(primary(&mut out, 0), CUDA_ERROR_NOT_INITIALIZED);
        assert_eq!(current(&mut out), CUDA_ERROR_NOT_INITIALIZED);
        let check =
            slot!(integrity_check::UUID, 1, unsafe extern "C" fn(u32, u64, *mut [u8; 16]) -> CUresult);
        assert_eq!(check(13_000, 1, &mut [0; 16]), CUDA_ERROR_NOT_INITIALIZED);
        let get = slot!(
            context_storage::UUID,
            2,
            unsafe extern "C" fn(*mut *mut c_void, CUcontext, *mut c_void) -> CUresult
        );
        assert_eq!(
            get(&mut out, ptr::without_provenance_mut(0x1000), ptr::null_mut()),
            CUDA_ERROR_NOT_INITIALIZED
        );
        let minus_one = ptr::without_provenance_mut(usize::MAX);
        assert_eq!(private(ptr::null_mut(), minus_one, &mut out, 0), CUDA_ERROR_INVALID_HANDLE);
    }
}
