//! The private tables with a runtime behind them, as NVIDIA's libraries use them.
//!
//! What is expected was observed on driver 580 (CUDA 13.0).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    ffi::c_void,
    ptr,
    sync::{Mutex, Once},
};

use cuda::abi::{
    driver_version,
    export_table::{context_storage::run_destructors, cuGetExportTable},
    hooks::{DeviceIdentity, Hooks, install},
    integrity::Subject,
    per_thread::{CU_STREAM_LEGACY, CU_STREAM_PER_THREAD},
    result::{CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_INVALID_HANDLE, SUCCESS},
    types::{CUcontext, CUdevice, CUfunction, CUmodule, CUresult, CUstream, CUuuid},
};

const CUDART_INTERFACE: u128 = 0x6bd5fb6c_5bf4_e74a_8987_d93912fd9df9;
const TOOLS_TLS: u128 = 0x42d85a81_23f6_cb47_8298_f6e78a3aecdc;
const CONTEXT_STORAGE: u128 = 0xc693336e_1121_df11_a8c3_68f355d89593;
const CONTEXT_CHECKS: u128 = 0x263e8860_7cd2_6143_92f6_bbd5006dfa7e;
const INTEGRITY_CHECK: u128 = 0xd4082055_bde6_704b_8d34_ba123c66e1f2;
const TOOLS_CONTEXT: u128 = 0x21318c60_9714_3248_8ca6_41ff7324c8f2;

const TOOLS_MODULE: u128 = 0x6e163fbe_b958_444d_835c_e182aff1991e;

const DEVICE: DeviceIdentity = DeviceIdentity { uuid: [0xAB; 16], pci_domain: 0, pci_bus: 0, pci_device: 6 };

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

struct Runtime;

impl Hooks for Runtime {
    fn current_context(&self) -> Result<CUcontext, CUresult> {
        Ok(address(CURRENT.get()))
    }

    fn primary_context_of(&self, device: CUdevice) -> Result<CUcontext, CUresult> {
        if device == 0 { Ok(address(0x9000)) } else { Err(CUDA_ERROR_INVALID_DEVICE) }
    }

    unsafe fn load_fatbin_wrapper(&self, wrapper: *const c_void) -> Result<CUmodule, CUresult> {
        Ok(address(wrapper.addr() + 1))
    }

    unsafe fn load_fatbin_container(&self, container: *const c_void) -> Result<CUmodule, CUresult> {
        Ok(address(container.addr() + 2))
    }

    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult> {
        Ok(vec![DEVICE])
    }

    fn context_id(&self, context: CUcontext) -> Result<u64, CUresult> {
        Ok(context.addr() as u64 / 2)
    }

    fn module_functions(&self, module: CUmodule) -> Result<Vec<CUfunction>, CUresult> {
        if module.is_null() {
            return Err(CUDA_ERROR_INVALID_HANDLE);
        }
        Ok(vec![address(module.addr() + 1), address(module.addr() + 2)])
    }

    fn stream_private(&self, _context: CUcontext, stream: CUstream) -> Result<*mut c_void, CUresult> {
        Ok(address(stream.addr() + 0x70))
    }
}

fn address(number: usize) -> *mut c_void {
    ptr::without_provenance_mut(number)
}

fn table(id: u128) -> *const usize {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| assert!(install(&Runtime)));
    let mut out = ptr::null();
    // SAFETY: both are locals.
    assert_eq!(unsafe { cuGetExportTable(&mut out, &CUuuid { bytes: id.to_be_bytes() }) }, SUCCESS);
    out.cast()
}

macro_rules! slot {
    ($id:expr, $slot:expr, fn($($kind:ty),*)) => {{
        let word = word($id, $slot);
        #[allow(unused_unsafe, reason = "some uses are inside another unsafe block")]
        // SAFETY: the function in this slot has this type.
        let function = unsafe {
            std::mem::transmute::<usize, unsafe extern "C" fn($($kind),*) -> CUresult>(word)
        };
        function
    }};
}

fn word(id: u128, slot: usize) -> usize {
    // SAFETY: the tests ask for slots that the table has.
    unsafe { table(id).add(slot).read() }
}

/// What the destructors were called with.
static DESTROYED: Mutex<Vec<[usize; 3]>> = Mutex::new(Vec::new());

unsafe extern "C" fn destroy(context: CUcontext, key: *mut c_void, value: *mut c_void) {
    DESTROYED.lock().unwrap().push([context.addr(), key.addr(), value.addr()]);
    // A destructor may use the table.
    let get = slot!(CONTEXT_STORAGE, 2, fn(*mut *mut c_void, CUcontext, *mut c_void));
    let mut out = ptr::null_mut();
    // SAFETY: `out` is a local.
    assert_eq!(unsafe { get(&mut out, context, key) }, CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn storage_is_by_context_and_key_and_ends_with_the_context() {
    let put = slot!(CONTEXT_STORAGE, 0, fn(CUcontext, *mut c_void, *mut c_void, usize));
    let delete = slot!(CONTEXT_STORAGE, 1, fn(CUcontext, *mut c_void));
    let get = slot!(CONTEXT_STORAGE, 2, fn(*mut *mut c_void, CUcontext, *mut c_void));
    let destructor = destroy as *const () as usize;
    // SAFETY: plain words, and the destructor has the type that the table calls.
    let put = |context, key, value, destructor| unsafe {
        put(address(context), address(key), address(value), destructor)
    };
    // SAFETY: plain words.
    let delete = |context, key| unsafe { delete(address(context), address(key)) };
    let look = |context, key| {
        let mut out = address(5);
        // SAFETY: `out` is a local.
        let result = unsafe { get(&mut out, address(context), address(key)) };
        assert!(result == SUCCESS || out.addr() == 5, "a miss leaves the output alone");
        if result == SUCCESS { Ok(out.addr()) } else { Err(result) }
    };

    assert_eq!(look(0, 1), Err(CUDA_ERROR_INVALID_CONTEXT), "no current context");
    assert_eq!(look(0x1000, 1), Err(CUDA_ERROR_INVALID_HANDLE));
    assert_eq!(put(0x1000, 1, 0x10, destructor), SUCCESS);
    assert_eq!(put(0x1000, 1, 0x11, destructor), CUDA_ERROR_INVALID_HANDLE, "taken");
    assert_eq!(put(0x1000, 2, 0x20, 0), SUCCESS);
    assert_eq!(put(0x1000, 3, 0, destructor), SUCCESS);
    assert_eq!(put(0x2000, 1, 0x30, destructor), SUCCESS);
    CURRENT.set(0x1000);
    assert_eq!((look(0, 1), look(usize::MAX, 2), look(0x2000, 1)), (Ok(0x10), Ok(0x20), Ok(0x30)));
    assert_eq!(look(0x2000, 2), Err(CUDA_ERROR_INVALID_HANDLE));

    assert_eq!((delete(0x2000, 1), delete(0x2000, 1)), (SUCCESS, CUDA_ERROR_INVALID_HANDLE));
    run_destructors(address(0x2000));
    assert!(DESTROYED.lock().unwrap().is_empty(), "deleting does not destroy");
    run_destructors(address(0x1000));
    assert_eq!(*DESTROYED.lock().unwrap(), [[0x1000, 3, 0], [0x1000, 1, 0x10]], "latest first");
    assert_eq!(look(0x1000, 2), Err(CUDA_ERROR_INVALID_HANDLE));
}

#[test]
fn the_integrity_slot_answers_for_this_process_thread_and_tables() {
    let ask = || {
        let check = slot!(INTEGRITY_CHECK, 1, fn(u32, u64, *mut [u8; 16]));
        let mut out = [0; 16];
        // SAFETY: `out` is a local.
        assert_eq!(unsafe { check(13_002, 99, &mut out) }, SUCCESS);
        // SAFETY: takes no arguments.
        let thread = unsafe { libc::pthread_self() };
        let expected = Subject {
            driver_version: driver_version().cast_unsigned(),
            process: std::process::id(),
            thread: thread as u32,
            cudart_table: table(CUDART_INTERFACE) as u64,
            integrity_table: table(INTEGRITY_CHECK) as u64,
            integrity_function: check as *const () as u64,
            devices: vec![DEVICE],
        };
        assert_eq!(out, expected.digest(13_002, 99));
        out
    };
    let elsewhere = std::thread::spawn(ask);
    let here = ask();
    assert_ne!(here, elsewhere.join().unwrap());
}

#[test]
fn the_runtime_loads_modules_and_enumerates_devices() {
    let mut out = ptr::null_mut();
    // SAFETY: the outputs are locals; the pretended runtime follows no pointer.
    unsafe {
        assert_eq!(slot!(CUDART_INTERFACE, 1, fn(*mut CUmodule, usize))(&mut out, 0x40), SUCCESS);
        assert_eq!(out.addr(), 0x41);
        let load = slot!(CUDART_INTERFACE, 6, fn(*mut CUmodule, usize, usize, usize, u32));
        assert_eq!((load(&mut out, 0x50, 0, 0, 0), out.addr()), (SUCCESS, 0x51));
        let load = slot!(CUDART_INTERFACE, 8, fn(usize, *mut CUmodule, usize, usize, u32));
        assert_eq!((load(0x60, &mut out, 0, 0, 0), out.addr()), (SUCCESS, 0x62));
        let primary = slot!(CUDART_INTERFACE, 2, fn(*mut CUcontext, CUdevice));
        assert_eq!((primary(&mut out, 0), out.addr()), (SUCCESS, 0x9000));
        assert_eq!((primary(&mut out, 9), out.addr()), (CUDA_ERROR_INVALID_DEVICE, 0x9000));
        assert_eq!(slot!(CUDART_INTERFACE, 12, fn())(), SUCCESS);
    }
}

#[test]
fn contexts_and_streams_as_the_maths_libraries_ask_for_them() {
    let (mut out, mut id, mut first) = (ptr::null_mut(), 9, 9);
    let mut second = address(9);
    // SAFETY: the outputs are locals.
    unsafe {
        CURRENT.set(0);
        assert_eq!((slot!(TOOLS_TLS, 2, fn(*mut CUcontext))(&mut out), out.addr()), (SUCCESS, 0));
        CURRENT.set(0x3000);
        assert_eq!((slot!(TOOLS_TLS, 2, fn(*mut CUcontext))(&mut out), out.addr()), (SUCCESS, 0x3000));

        let check = slot!(CONTEXT_CHECKS, 2, fn(CUcontext, *mut u32, *mut *mut c_void));
        assert_eq!(check(address(0x3000), &mut first, &mut second), SUCCESS);
        assert_eq!((first, second.addr()), (0, 9));

        let context_id = slot!(TOOLS_CONTEXT, 4, fn(CUcontext, *mut u64));
        assert_eq!((context_id(address(0x3000), &mut id), id), (SUCCESS, 0x1800));
        assert_eq!((context_id(ptr::null_mut(), &mut id), id), (SUCCESS, 0));
        let mut device = 7;
        let device_of = slot!(TOOLS_CONTEXT, 3, fn(CUcontext, *mut CUdevice));
        assert_eq!(device_of(ptr::null_mut(), &mut device), CUDA_ERROR_INVALID_CONTEXT);
    }
    let private = slot!(TOOLS_CONTEXT, 51, fn(CUcontext, CUstream, *mut *mut c_void, i32));
    let mut private_of = |stream: usize, per_thread| {
        // SAFETY: `out` is a local.
        let result = unsafe { private(address(0x3000), address(stream), &mut out, per_thread) };
        if result == SUCCESS { Ok(out.addr() - 0x70) } else { Err(result) }
    };
    assert_eq!(private_of(0, 0), Ok(CU_STREAM_LEGACY.addr()));
    assert_eq!(private_of(0, 1), Ok(CU_STREAM_PER_THREAD.addr()));
    assert_eq!(private_of(1, 1), Ok(1));
    assert_eq!(private_of(0x8000, 1), Ok(0x8000));
    assert_eq!(private_of(usize::MAX, 0), Err(CUDA_ERROR_INVALID_HANDLE));
}

unsafe extern "C" fn visit(seen: *mut c_void, function: CUfunction, module: CUmodule) {
    // SAFETY: the test's list.
    unsafe { &mut *seen.cast::<Vec<[usize; 2]>>() }.push([function.addr(), module.addr()]);
}

#[test]
fn the_functions_of_a_module_as_cufft_asks_for_them() {
    type Visit = unsafe extern "C" fn(*mut c_void, CUfunction, CUmodule);
    let functions = slot!(TOOLS_MODULE, 7, fn(CUcontext, CUmodule, Option<Visit>, *mut c_void));
    let mut seen: Vec<[usize; 2]> = Vec::new();
    let list = ptr::from_mut(&mut seen).cast();
    // SAFETY: `visit` takes the list.
    unsafe {
        assert_eq!(functions(address(0x3000), address(0x500), Some(visit), list), 1, "done");
        assert_eq!(functions(address(0x3000), ptr::null_mut(), Some(visit), list), 0, "no module");
        assert_eq!(functions(address(0x3000), address(0x500), None, list), 0);
    }
    assert_eq!(seen, [[0x501, 0x500], [0x502, 0x500]]);
}
