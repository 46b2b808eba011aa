//! Memory pools: allocation in stream order, from the same memory as any other.
//!
//! The pool's own bookkeeping is here; memory given back in stream order is used again when the work of its
//! context that was issued before is finished.

use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use crate::abi::result::{
    CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
};
use crate::abi::types::{CUdeviceptr, CUmemoryPool, CUresult, CUstream};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::Pool;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, kept, memory_state};

use super::arguments::{give, need};
use super::virtual_memory::FILE_DESCRIPTOR;

// CUmemPool_attribute of cuda.h.
const RELEASE_THRESHOLD: u32 = 4;
const RESERVED_CURRENT: u32 = 5;
const USED_HIGH: u32 = 8;

fn allocate(
    runtime: &Runtime,
    target: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    need(target)?;
    let stream = current::stream(runtime, stream)?;
    stream.context.check()?;
    if stream.is_capturing() {
        // A captured allocation belongs to its graph: not carried.
        return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    let address = memory_state::allocate(runtime, &stream.context, bytes, true)?;
    // SAFETY: the program's pointer, for one value.
    unsafe { give(target, address) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(
    target: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemAllocAsync"), |runtime| allocate(runtime, target, bytes, stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(
    target: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemAllocFromPoolAsync"), |runtime| {
        handles::pool(pool)?;
        allocate(runtime, target, bytes, stream)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuMemFreeAsync"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        stream.context.check()?;
        if stream.is_capturing() {
            return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        memory_state::free(runtime, address, true)
    })
}

/// `CUmemPoolProps`, as cuda.h lays it out: type, handle types, location, and 80 bytes more.
#[repr(C)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location_kind: u32,
    location: i32,
    rest: [u64; 9],
}

const _: () = assert!(size_of::<Properties>() == 88);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(pool: *mut CUmemoryPool, properties: *const Properties) -> CUresult {
    runtime::call(counter!("cuMemPoolCreate"), |runtime| {
        need(pool)?;
        need(properties)?;
        // SAFETY: the program's properties.
        let properties = unsafe { &*properties };
        // Pinned, on a device; to share it is refused when that is asked for (see `virtual_memory`).
        if properties.kind != 1 || properties.location_kind != 1 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if properties.handle_types & !FILE_DESCRIPTOR != 0 {
            return Err(CUDA_ERROR_NOT_SUPPORTED);
        }
        runtime.device(properties.location)?;
        let handle = handles::mint()?;
        let made = Pool {
            handle,
            device: usize::try_from(properties.location).unwrap_or(0),
            attributes: Mutex::default(),
            is_default: false,
        };
        handles::fill(handle, Object::Pool(Arc::new(made)));
        // SAFETY: the program's pointer, for one value.
        unsafe { give(pool, handles::pointer(handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolDestroy(pool: CUmemoryPool) -> CUresult {
    runtime::call(counter!("cuMemPoolDestroy"), |runtime| {
        let found = handles::pool(pool)?;
        if found.is_default {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let device = runtime.devices.get(found.device).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let mut current = lock(&device.pool);
        if current.handle == found.handle {
            *current = device.default_pool.clone();
        }
        handles::end(found.handle);
        Ok(())
    })
}

/// `value`: 4 bytes for the reuse switches, 8 for sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    pool: CUmemoryPool,
    attribute: u32,
    value: *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuMemPoolGetAttribute"), |runtime| {
        need(value)?;
        let pool = handles::pool(pool)?;
        let set = lock(&pool.attributes).get(&attribute).copied();
        // SAFETY: the program's room for the attribute's type.
        unsafe {
            match attribute {
                1..=3 => give(value.cast::<i32>(), i32::from(set.unwrap_or(1) != 0)),
                RELEASE_THRESHOLD => give(value.cast::<u64>(), set.unwrap_or(0)),
                RESERVED_CURRENT..=USED_HIGH => {
                    let used: u64 = runtime
                        .memory
                        .map()
                        .regions()
                        .filter(|r| {
                            r.device == pool.device
                                && matches!(r.place, runtime::memory::Place::Device { pooled: true, .. })
                        })
                        .map(|r| r.bytes)
                        .sum();
                    give(value.cast::<u64>(), used)
                }
                _ => Err(CUDA_ERROR_INVALID_VALUE),
            }
        }
    })
}

/// `value`: as for `cuMemPoolGetAttribute`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attribute: u32,
    value: *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuMemPoolSetAttribute"), |_| {
        need(value)?;
        let pool = handles::pool(pool)?;
        // SAFETY: the program's value of the attribute's type.
        let given = unsafe {
            match attribute {
                1..=3 => u64::from(value.cast::<i32>().read_unaligned() != 0),
                RELEASE_THRESHOLD => value.cast::<u64>().read_unaligned(),
                // High-water marks can only be reset.
                6 | USED_HIGH if value.cast::<u64>().read_unaligned() == 0 => 0,
                _ => return Err(CUDA_ERROR_INVALID_VALUE),
            }
        };
        lock(&pool.attributes).insert(attribute, given);
        Ok(())
    })
}

/// All that is kept is given back, of whatever pool it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolTrimTo(pool: CUmemoryPool, keep: usize) -> CUresult {
    runtime::call(counter!("cuMemPoolTrimTo"), |runtime| {
        let pool = handles::pool(pool)?;
        if runtime.memory.kept.bytes(pool.device) > keep as u64 {
            kept::give_back(runtime, pool.device);
        }
        Ok(())
    })
}

/// Every device that can reach the memory may use it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAccess(
    flags: *mut u32,
    pool: CUmemoryPool,
    location: *mut [i32; 2],
) -> CUresult {
    runtime::call(counter!("cuMemPoolGetAccess"), |runtime| {
        need(location)?;
        handles::pool(pool)?;
        // SAFETY: the program's CUmemLocation.
        let [_, device] = unsafe { location.read() };
        runtime.device(device)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(flags, 3) }
    })
}

/// `descriptors`: `count` elements. Access is given when the memory is mapped, to all that can have it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAccess(
    pool: CUmemoryPool,
    descriptors: *const [i32; 3],
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuMemPoolSetAccess"), |runtime| {
        need(descriptors)?;
        handles::pool(pool)?;
        for n in 0..count {
            // SAFETY: the program's array of `count` CUmemAccessDesc.
            let [_, device, _] = unsafe { descriptors.add(n).read() };
            runtime.device(device)?;
        }
        Ok(())
    })
}

crate::abi::variants!("pool.rs");
