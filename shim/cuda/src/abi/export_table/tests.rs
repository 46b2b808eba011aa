//! The tables as a library sees them: through `cuGetExportTable` and raw words.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::abi::{
    driver_version,
    hooks::{DeviceIdentity, hooks},
    integrity::Subject,
    result::{CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE},
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
    ($id:expr, $slot:expr, $kind:ty) => {
        // SAFETY: the type is the slot's.
        unsafe { std::mem::transmute::<usize, $kind>(word($id, $slot)) }
    };
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
        // SAFETY: the table lends that many bytes for ever.
        assert!(unsafe { std::slice::from_raw_parts(flags, bytes) }.iter().all(|byte| *byte == 0));
    }
}

type Put = unsafe extern "C" fn(CUcontext, *mut c_void, *mut c_void, usize) -> CUresult;
type Get = unsafe extern "C" fn(*mut *mut c_void, CUcontext, *mut c_void) -> CUresult;
type Delete = unsafe extern "C" fn(CUcontext, *mut c_void) -> CUresult;

static DESTROYED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn destroy(context: CUcontext, key: *mut c_void, value: *mut c_void) {
    DESTROYED.fetch_add(context.addr() + key.addr() + value.addr(), Ordering::Relaxed);
    // A destructor may use the table: no lock is held here.
    let get = slot!(context_storage::UUID, 2, Get);
    let mut out = ptr::null_mut();
    // SAFETY: `out` is a local.
    assert_eq!(unsafe { get(&mut out, context, key) }, CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn storage_is_by_context_and_key_and_ends_with_the_context() {
    let put = slot!(context_storage::UUID, 0, Put);
    let delete = slot!(context_storage::UUID, 1, Delete);
    let get = slot!(context_storage::UUID, 2, Get);
    let address = ptr::without_provenance_mut::<c_void>;
    let look = |context: usize, key: usize| {
        let mut out = ptr::null_mut();
        // SAFETY: `out` is a local.
        match unsafe { get(&mut out, address(context), address(key)) } {
            SUCCESS => Ok(out.addr()),
            code => Err(code),
        }
    };
    let destructor = destroy as *const () as usize;
    // SAFETY: the destructor has the type that the table calls.
    unsafe {
        assert_eq!(put(address(0x1000), address(1), address(0x10), destructor), SUCCESS);
        assert_eq!(put(address(0x1000), address(2), address(0x20), 0), SUCCESS);
        assert_eq!(put(address(0x2000), address(1), address(0x30), destructor), SUCCESS);
    }
    assert_eq!((look(0x1000, 1), look(0x1000, 2), look(0x2000, 1)), (Ok(0x10), Ok(0x20), Ok(0x30)));
    assert_eq!(look(0x2000, 2), Err(CUDA_ERROR_INVALID_HANDLE));
    assert_eq!(look(0, 1), Err(CUDA_ERROR_INVALID_CONTEXT), "no current context");
    // SAFETY: plain words.
    unsafe {
        assert_eq!(delete(address(0x2000), address(1)), SUCCESS);
        assert_eq!(delete(address(0x2000), address(1)), CUDA_ERROR_INVALID_HANDLE);
    }
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 0, "deleting does not destroy");
    context_storage::run_destructors(address(0x1000));
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 0x1000 + 1 + 0x10);
    assert_eq!(look(0x1000, 2), Err(CUDA_ERROR_INVALID_HANDLE));
}

#[test]
fn the_integrity_slot_answers_for_this_process_thread_and_tables() {
    type Check = unsafe extern "C" fn(u32, u64, *mut [u8; 16]) -> CUresult;
    let ask_here = || {
        let check = slot!(integrity_check::UUID, 1, Check);
        let mut out = [0; 16];
        // SAFETY: `out` is a local.
        assert_eq!(unsafe { check(13_002, 99, &mut out) }, SUCCESS);
        // SAFETY: takes no arguments.
        let thread = unsafe { libc::pthread_self() };
        let expected = Subject {
            driver_version: driver_version().cast_unsigned(),
            process: std::process::id(),
            thread: thread as u32,
            cudart_table: ask(cudart_interface::UUID).unwrap() as u64,
            integrity_table: ask(integrity_check::UUID).unwrap() as u64,
            integrity_function: word(integrity_check::UUID, 1) as u64,
            devices: hooks().devices(),
        };
        assert_eq!(out, expected.digest(13_002, 99));
        out
    };
    let elsewhere = std::thread::spawn(ask_here);
    let here = ask_here();
    assert_ne!(here, elsewhere.join().unwrap());
}

#[test]
fn before_the_runtime_is_there_the_tables_say_not_initialised() {
    let not_initialised = crate::abi::result::CUDA_ERROR_NOT_INITIALIZED;
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
        assert_eq!(primary(&mut out, 0), not_initialised);
        assert_eq!(current(&mut out), not_initialised);
        let minus_one = ptr::without_provenance_mut(usize::MAX);
        assert_eq!(private(ptr::null_mut(), minus_one, &mut out, 0), CUDA_ERROR_INVALID_HANDLE);
    }
    assert_eq!(hooks().devices(), Vec::<DeviceIdentity>::new());
}
