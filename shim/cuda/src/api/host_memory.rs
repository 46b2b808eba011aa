//! Pinned host memory. Over a network it is the client's own memory; the server gets a mirror of it when a
//! kernel is given its address.

use std::ffi::c_void;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUdeviceptr, CUresult};
use crate::runtime::memory::Place;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, memory_state};

use super::arguments::{give, need};

// CU_MEMHOSTALLOC_* and CU_MEMHOSTREGISTER_* of cuda.h.
const PORTABLE: u32 = 1;
const DEVICEMAP: u32 = 2;
const ALLOC_FLAGS: u32 = 7;
const REGISTER_IOMEMORY: u32 = 4;
const REGISTER_FLAGS: u32 = 15;

fn allocate(runtime: &Runtime, target: *mut *mut c_void, bytes: usize, flags: u32) -> Result<(), CUresult> {
    need(target)?;
    let context = current::sound_context()?;
    let address = memory_state::allocate_host(runtime, &context, bytes, flags)?;
    // SAFETY: the program's pointer, for one value.
    unsafe { give(target, std::ptr::with_exposed_provenance_mut(address as usize)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(target: *mut *mut c_void, bytes: usize, flags: u32) -> CUresult {
    runtime::call(counter!("cuMemHostAlloc"), |runtime| {
        if flags & !ALLOC_FLAGS != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // With unified addressing all pinned memory is portable and mapped.
        allocate(runtime, target, bytes, flags | PORTABLE | DEVICEMAP)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(target: *mut *mut c_void, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemAllocHost_v2"), |runtime| {
        allocate(runtime, target, bytes, PORTABLE | DEVICEMAP)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> CUresult {
    runtime::call(counter!("cuMemFreeHost"), |runtime| {
        if address.is_null() {
            return Ok(());
        }
        memory_state::free_host(runtime, address.expose_provenance() as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: u32) -> CUresult {
    runtime::call(counter!("cuMemHostRegister_v2"), |runtime| {
        if address.is_null() || bytes == 0 || flags & !REGISTER_FLAGS != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if flags & REGISTER_IOMEMORY != 0 {
            return Err(CUDA_ERROR_NOT_SUPPORTED);
        }
        let context = current::sound_context()?;
        let base = address.expose_provenance() as u64;
        memory_state::register(runtime, &context, base, bytes as u64, flags | PORTABLE | DEVICEMAP)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostUnregister(address: *mut c_void) -> CUresult {
    runtime::call(counter!("cuMemHostUnregister"), |runtime| {
        memory_state::unregister(runtime, address.addr() as u64)
    })
}

/// The address is the host's own. `flags` must be 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    target: *mut CUdeviceptr,
    address: *mut c_void,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuMemHostGetDevicePointer_v2"), |runtime| {
        current::context()?;
        let address = address.addr() as u64;
        match runtime.memory.find(address) {
            Some(region) if region.is_host() && flags == 0 => {
                // SAFETY: the program's pointer, for one value.
                unsafe { give(target, address) }
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetFlags(flags: *mut u32, address: *mut c_void) -> CUresult {
    runtime::call(counter!("cuMemHostGetFlags"), |runtime| {
        let region = runtime.memory.find(address.addr() as u64).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        match region.place {
            Place::Pinned { flags: found, .. } | Place::Registered { flags: found } => {
                // SAFETY: the program's pointer, for one value.
                unsafe { give(flags, found) }
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    })
}

crate::abi::variants!("host_memory.rs");
