//! Virtual memory management: addresses are reserved here, physical memory is the server's.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use fusewire_wire::ops::table::{VmmCreate, VmmMap, VmmRelease, VmmSetAccess, VmmUnmap};

use crate::abi::result::{
    CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_OUT_OF_MEMORY,
};
use crate::abi::types::{CUdeviceptr, CUmemGenericAllocationHandle, CUresult};
use crate::runtime::handles::{self, Object};
use crate::runtime::memory::Place;
use crate::runtime::objects::Allocation;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, kept};

use super::arguments::{give, need};

/// `CUmemAllocationProp`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location_kind: u32,
    location: i32,
    metadata: *mut c_void,
    compression: u8,
    gpu_direct: u8,
    usage: u16,
    reserved: [u8; 4],
}

const _: () = assert!(size_of::<Properties>() == 32);

/// `CUmemAccessDesc`, as cuda.h lays it out.
#[repr(C)]
pub struct Access {
    location_kind: u32,
    location: i32,
    flags: u32,
}

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`. PyTorch's expandable segments ask for memory that could be shared so,
/// whatever the device's attributes say, and hardly ever share it. So the memory is had, and only to share it is refused.
pub(super) const FILE_DESCRIPTOR: u32 = 1;

/// Pinned memory on a device.
fn check(runtime: &Runtime, properties: &Properties) -> Result<(), CUresult> {
    if properties.kind != 1 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if properties.location_kind != 1
        || properties.handle_types & !FILE_DESCRIPTOR != 0
        || properties.usage != 0
    {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    runtime.device(properties.location).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    properties: *const Properties,
    _option: u32,
) -> CUresult {
    runtime::call(counter!("cuMemGetAllocationGranularity"), |runtime| {
        need(properties)?;
        // SAFETY: the program's properties.
        let device = runtime.device(unsafe { (*properties).location })?;
        let found = usize::try_from(device.snapshot.info.granularity).unwrap_or(2 << 20);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(granularity, found) }
    })
}

/// Addresses come from the session's window; a wish that cannot be granted is ignored, as by the driver.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    address: *mut CUdeviceptr,
    bytes: usize,
    alignment: usize,
    wish: CUdeviceptr,
    flags: u64,
) -> CUresult {
    runtime::call(counter!("cuMemAddressReserve"), |runtime| {
        need(address)?;
        let granularity = runtime.devices.first().map_or(2 << 20, |d| d.snapshot.info.granularity);
        let bytes = bytes as u64;
        let alignment = (alignment as u64).max(granularity);
        if bytes == 0 || !bytes.is_multiple_of(granularity) || !alignment.is_power_of_two() || flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let wish = if wish.is_multiple_of(alignment) { wish } else { 0 };
        let found = runtime.memory.take_addresses(wish, bytes, alignment).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
        runtime.memory.note_reserved(found, bytes);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(address, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressFree(address: CUdeviceptr, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemAddressFree"), |runtime| {
        let bytes = bytes as u64;
        if runtime.memory.map().overlaps(address, bytes) || !runtime.memory.forget_reserved(address, bytes) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        runtime.memory.give_addresses(address, bytes);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut CUmemGenericAllocationHandle,
    bytes: usize,
    properties: *const Properties,
    flags: u64,
) -> CUresult {
    runtime::call(counter!("cuMemCreate"), |runtime| {
        need(handle)?;
        need(properties)?;
        // SAFETY: the program's properties.
        let properties = unsafe { *properties };
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        check(runtime, &properties)?;
        let device = runtime.device(properties.location)?;
        if bytes == 0 || !(bytes as u64).is_multiple_of(device.snapshot.info.granularity) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let allocation = handles::mint()?;
        let record = VmmCreate {
            allocation,
            bytes: bytes as u64,
            device: device.remote,
            compression: u32::from(properties.compression),
        };
        let ordinal = usize::try_from(properties.location).unwrap_or(0);
        if let Err(code) = kept::with_room(runtime, ordinal, || runtime.session.call(&record, &[])) {
            handles::end(allocation);
            return Err(code);
        }
        let mut kept = [0; 32];
        for (target, source) in kept.chunks_exact_mut(4).zip([
            properties.kind,
            properties.handle_types,
            properties.location_kind,
            properties.location.cast_unsigned(),
        ]) {
            target.copy_from_slice(&source.to_ne_bytes());
        }
        kept[24] = properties.compression;
        let made = Allocation {
            handle: allocation,
            bytes: bytes as u64,
            device: properties.location,
            properties: kept,
            references: AtomicU32::new(1),
        };
        handles::fill(allocation, Object::Allocation(Arc::new(made)));
        // SAFETY: the program's pointer, for one value.
        unsafe { give(handle, allocation) }
    })
}

fn allocation(handle: u64) -> Result<Arc<Allocation>, CUresult> {
    match handles::object(handle) {
        Some(Object::Allocation(allocation)) => Ok(allocation),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// Gives one reference up; the memory goes with the last.
fn release(runtime: &Runtime, allocation: &Allocation) -> Result<(), CUresult> {
    if allocation.references.fetch_sub(1, Relaxed) != 1 {
        return Ok(());
    }
    handles::end(allocation.handle);
    runtime.session.post(&VmmRelease { allocation: allocation.handle }, &[]).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRelease(handle: CUmemGenericAllocationHandle) -> CUresult {
    runtime::call(counter!("cuMemRelease"), |runtime| release(runtime, &*allocation(handle)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMap(
    address: CUdeviceptr,
    bytes: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> CUresult {
    runtime::call(counter!("cuMemMap"), |runtime| {
        let allocation = allocation(handle)?;
        let (bytes, offset) = (bytes as u64, offset as u64);
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= allocation.bytes);
        if flags != 0 || bytes == 0 || !fits || !runtime.memory.is_reserved(address, bytes) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if runtime.memory.map().overlaps(address, bytes) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let record = VmmMap { allocation: handle, address, bytes, offset };
        runtime.session.call(&record, &[])?;
        allocation.references.fetch_add(1, Relaxed);
        let device = usize::try_from(allocation.device).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?;
        let context = runtime.devices.get(device).map_or(0, |d| d.primary.handle);
        runtime.memory.map_mut().insert(
            address,
            bytes,
            Place::Mapped { allocation: handle },
            context,
            device,
        );
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemUnmap(address: CUdeviceptr, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemUnmap"), |runtime| {
        let end = address.checked_add(bytes as u64).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        // Whole mappings only, one or several that adjoin.
        let mut mapped = Vec::new();
        {
            let map = runtime.memory.map();
            let mut at = address;
            while at < end {
                match map.at(at) {
                    Some(region) if region.base + region.bytes <= end => match region.place {
                        Place::Mapped { allocation } => {
                            mapped.push((at, allocation));
                            at += region.bytes;
                        }
                        _ => return Err(CUDA_ERROR_INVALID_VALUE),
                    },
                    _ => return Err(CUDA_ERROR_INVALID_VALUE),
                }
            }
        }
        runtime.session.call(&VmmUnmap { address, bytes: bytes as u64 }, &[])?;
        for (base, handle) in mapped {
            runtime.memory.map_mut().remove(base);
            if let Ok(allocation) = allocation(handle) {
                release(runtime, &allocation)?;
            }
        }
        Ok(())
    })
}

/// `descriptors`: `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(
    address: CUdeviceptr,
    bytes: usize,
    descriptors: *const Access,
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuMemSetAccess"), |runtime| {
        need(descriptors)?;
        if !runtime.memory.map().is_device(address, bytes as u64) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        for n in 0..count {
            // SAFETY: the program's array of `count` elements.
            let Access { location_kind, location, flags } = unsafe { descriptors.add(n).read() };
            if location_kind != 1 {
                return Err(CUDA_ERROR_NOT_SUPPORTED);
            }
            let device = runtime.device(location)?.remote;
            runtime.session.call(&VmmSetAccess { address, bytes: bytes as u64, device, flags }, &[])?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAccess(
    flags: *mut u64,
    location: *const [i32; 2],
    address: CUdeviceptr,
) -> CUresult {
    runtime::call(counter!("cuMemGetAccess"), |runtime| {
        need(location)?;
        let region = runtime.memory.find(address).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        // SAFETY: the program's CUmemLocation.
        let [_, device] = unsafe { location.read() };
        runtime.device(device)?;
        let own = usize::try_from(device) == Ok(region.device);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(flags, if own { 3 } else { 0 }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationPropertiesFromHandle(
    properties: *mut [u8; 32],
    handle: CUmemGenericAllocationHandle,
) -> CUresult {
    runtime::call(counter!("cuMemGetAllocationPropertiesFromHandle"), |_| {
        let allocation = allocation(handle)?;
        // SAFETY: the program's CUmemAllocationProp, of 32 bytes.
        unsafe { give(properties, allocation.properties) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRetainAllocationHandle(
    handle: *mut CUmemGenericAllocationHandle,
    address: *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuMemRetainAllocationHandle"), |runtime| {
        need(handle)?;
        match runtime.memory.find(address.addr() as u64).map(|region| region.place) {
            Some(Place::Mapped { allocation: found }) => {
                allocation(found)?.references.fetch_add(1, Relaxed);
                // SAFETY: the program's pointer, for one value.
                unsafe { give(handle, found) }
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    })
}

/// Memory is not shared with other processes: that is not advertised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemExportToShareableHandle(
    _shared: *mut c_void,
    handle: CUmemGenericAllocationHandle,
    _kind: u32,
    _flags: u64,
) -> CUresult {
    runtime::call(counter!("cuMemExportToShareableHandle"), |_| {
        allocation(handle)?;
        Err(CUDA_ERROR_NOT_SUPPORTED)
    })
}

crate::abi::variants!("virtual_memory.rs");
