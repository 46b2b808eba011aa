//! What a pointer is: answered from the client's map.

use std::ffi::c_void;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_SUCCESS};
use crate::abi::types::{CUdeviceptr, CUresult};
use crate::runtime::memory::{Place, Region};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, handles};

use super::arguments::{give, need, offer};

// CUpointer_attribute of cuda.h.
const CONTEXT: u32 = 1;
const MEMORY_TYPE: u32 = 2;
const DEVICE_POINTER: u32 = 3;
const HOST_POINTER: u32 = 4;
const P2P_TOKENS: u32 = 5;
const SYNC_MEMOPS: u32 = 6;
const BUFFER_ID: u32 = 7;
const IS_MANAGED: u32 = 8;
const DEVICE_ORDINAL: u32 = 9;
const IS_LEGACY_IPC: u32 = 10;
const RANGE_START: u32 = 11;
const RANGE_SIZE: u32 = 12;
const MAPPED: u32 = 13;
const ALLOWED_HANDLE_TYPES: u32 = 14;
const IS_GPU_DIRECT: u32 = 15;
const ACCESS_FLAGS: u32 = 16;
const MEMPOOL: u32 = 17;
const MAPPING_SIZE: u32 = 18;
const MAPPING_BASE: u32 = 19;
const MEMORY_BLOCK_ID: u32 = 20;
const IS_HW_DECOMPRESS: u32 = 21;

const TYPE_HOST: u32 = 1;
const TYPE_DEVICE: u32 = 2;

/// Writes one attribute of a known region.
///
/// # Safety
/// `data` is good for the attribute's type.
unsafe fn attribute(
    runtime: &Runtime,
    data: *mut c_void,
    which: u32,
    address: u64,
    region: &Region,
) -> Result<(), CUresult> {
    let host = region.is_host();
    let ordinal = i32::try_from(region.device).unwrap_or(0);
    // SAFETY: the caller's promise: `data` has the type that cuda.h gives the attribute.
    unsafe {
        match which {
            CONTEXT => match region.place {
                Place::Mapped { .. } | Place::Device { pooled: true, .. } => {
                    give(data.cast::<*mut c_void>(), std::ptr::null_mut())
                }
                _ => give(data.cast(), handles::pointer(region.context)),
            },
            MEMORY_TYPE => give(data.cast(), if host { TYPE_HOST } else { TYPE_DEVICE }),
            DEVICE_POINTER => give(data.cast::<u64>(), address),
            HOST_POINTER if host => give(data.cast::<u64>(), address),
            HOST_POINTER => {
                give(data.cast::<u64>(), 0)?;
                Err(CUDA_ERROR_INVALID_VALUE)
            }
            P2P_TOKENS => Err(CUDA_ERROR_INVALID_VALUE),
            // Booleans, of which driver 580 writes four bytes.
            SYNC_MEMOPS => give(data.cast::<u32>(), u32::from(region.sync_memops)),
            IS_MANAGED => give(data.cast::<u32>(), 0),
            BUFFER_ID => give(data.cast::<u64>(), region.id),
            IS_LEGACY_IPC | IS_GPU_DIRECT | IS_HW_DECOMPRESS => give(data.cast::<u32>(), 0),
            DEVICE_ORDINAL => give(data.cast(), ordinal),
            RANGE_START => give(data.cast::<u64>(), region.base),
            RANGE_SIZE => give(data.cast::<u64>(), region.bytes),
            MAPPED => give(data.cast::<u32>(), 1),
            ALLOWED_HANDLE_TYPES => give(data.cast::<u64>(), 0),
            ACCESS_FLAGS => give(data.cast::<u32>(), 3),
            MEMPOOL => match region.place {
                Place::Device { pooled: true, .. } => {
                    let pool = runtime.device(ordinal)?.default_pool.handle;
                    give(data.cast(), handles::pointer(pool))
                }
                _ => give(data.cast::<*mut c_void>(), std::ptr::null_mut()),
            },
            MAPPING_SIZE => give(data.cast::<u64>(), region.bytes),
            MAPPING_BASE => give(data.cast::<u64>(), region.base),
            MEMORY_BLOCK_ID => give(data.cast::<u64>(), region.id),
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
}

/// `data`: room for the attribute's type, as cuda.h gives it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(
    data: *mut c_void,
    which: u32,
    pointer: CUdeviceptr,
) -> CUresult {
    runtime::call(counter!("cuPointerGetAttribute"), |runtime| {
        need(data)?;
        let region = runtime.memory.find(pointer).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        // SAFETY: the program's room for this attribute.
        unsafe { attribute(runtime, data, which, pointer, &region) }
    })
}

/// `which` and `data`: `count` elements each. An address that CUDA does not know is no error here: its type
/// is 0 and its device -2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttributes(
    count: u32,
    which: *const u32,
    data: *mut *mut c_void,
    pointer: CUdeviceptr,
) -> CUresult {
    runtime::call(counter!("cuPointerGetAttributes"), |runtime| {
        need(which)?;
        need(data)?;
        let region = runtime.memory.find(pointer);
        for n in 0..count as usize {
            // SAFETY: the program's arrays of `count` elements.
            let (which, data) = unsafe { (*which.add(n), *data.add(n)) };
            let refused = |code: &CUresult| *code != CUDA_SUCCESS;
            match &region {
                Some(region) => {
                    // SAFETY: the program's room for this attribute. What has no answer keeps its zero.
                    let outcome = unsafe { attribute(runtime, data, which, pointer, region) };
                    if outcome.as_ref().is_err_and(refused) && which > IS_HW_DECOMPRESS {
                        return outcome;
                    }
                }
                // SAFETY: the program's room for this attribute.
                None => unsafe { unknown(data, which) }?,
            }
        }
        Ok(())
    })
}

/// An attribute of an address that CUDA does not know, as the driver gives it.
unsafe fn unknown(data: *mut c_void, which: u32) -> Result<(), CUresult> {
    // SAFETY: the caller's promise: `data` has the type of the attribute.
    unsafe {
        match which {
            CONTEXT | DEVICE_POINTER | HOST_POINTER | BUFFER_ID | RANGE_START | RANGE_SIZE
            | ALLOWED_HANDLE_TYPES | MEMPOOL | MAPPING_SIZE | MAPPING_BASE | MEMORY_BLOCK_ID | P2P_TOKENS => {
                offer(data.cast::<u64>(), 0)
            }
            MEMORY_TYPE | ACCESS_FLAGS | SYNC_MEMOPS | IS_MANAGED | IS_LEGACY_IPC | MAPPED
            | IS_GPU_DIRECT | IS_HW_DECOMPRESS => offer(data.cast::<u32>(), 0),
            DEVICE_ORDINAL => offer(data.cast::<i32>(), -2),
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerSetAttribute(
    value: *const c_void,
    which: u32,
    pointer: CUdeviceptr,
) -> CUresult {
    runtime::call(counter!("cuPointerSetAttribute"), |runtime| {
        need(value)?;
        if which != SYNC_MEMOPS {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the program's `unsigned int`.
        let value = unsafe { value.cast::<u32>().read_unaligned() };
        let base = runtime.memory.find(pointer).ok_or(CUDA_ERROR_INVALID_VALUE)?.base;
        if let Some(region) = runtime.memory.map_mut().at_mut(base) {
            region.sync_memops = value != 0;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(
    base: *mut CUdeviceptr,
    bytes: *mut usize,
    address: CUdeviceptr,
) -> CUresult {
    runtime::call(counter!("cuMemGetAddressRange_v2"), |runtime| {
        let region = runtime.memory.find(address).ok_or(crate::abi::result::CUDA_ERROR_NOT_FOUND)?;
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            offer(base, region.base);
            offer(bytes, usize::try_from(region.bytes).unwrap_or(usize::MAX));
        }
        Ok(())
    })
}

crate::abi::variants!("pointer.rs");
