//! Devices: everything is answered from the snapshot taken at connect.

use std::ffi::{c_char, c_void};

use fusewire_wire::ops::snapshot::Device;

use crate::abi::result::{CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUdevice, CUmemoryPool, CUresult, CUuuid};
use crate::runtime::handles;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::arguments::{give, give_text, name, offer};

fn snapshot(runtime: &Runtime, device: CUdevice) -> Result<&Device, CUresult> {
    Ok(&runtime.device(device)?.snapshot)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: i32) -> CUresult {
    runtime::call(counter!("cuDeviceGet"), |runtime| {
        runtime.device(ordinal)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> CUresult {
    runtime::call(counter!("cuDeviceGetCount"), |runtime| {
        // SAFETY: the program's pointer, for one value.
        unsafe { give(count, i32::try_from(runtime.devices.len()).unwrap_or(i32::MAX)) }
    })
}

/// `name`: `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: i32, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetName"), |runtime| {
        let snapshot = snapshot(runtime, device)?;
        // SAFETY: the program's buffer of `length` bytes.
        unsafe { give_text(name, length, &snapshot.info.name) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetUuid_v2"), |runtime| {
        let bytes = snapshot(runtime, device)?.info.uuid;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(uuid, CUuuid { bytes }) }
    })
}

/// `luid`: 8 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetLuid(luid: *mut c_char, mask: *mut u32, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetLuid"), |runtime| {
        let info = &snapshot(runtime, device)?.info;
        if info.luid_status != 0 {
            return Err(info.luid_status);
        }
        // SAFETY: the program's pointers, for 8 bytes and one value.
        unsafe {
            give(luid.cast::<[u8; 8]>(), info.luid)?;
            offer(mask, info.luid_node_mask);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceTotalMem_v2"), |runtime| {
        let total = snapshot(runtime, device)?.info.total_memory;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(bytes, usize::try_from(total).unwrap_or(usize::MAX)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetAttribute"), |runtime| {
        let found = snapshot(runtime, device)?.attribute(attribute).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(value, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(
    major: *mut i32,
    minor: *mut i32,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuDeviceComputeCapability"), |runtime| {
        let snapshot = snapshot(runtime, device)?;
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            give(major, snapshot.attribute(75).unwrap_or(0))?;
            give(minor, snapshot.attribute(76).unwrap_or(0))
        }
    })
}

/// `CUdevprop`, as cuda.h lays it out.
#[repr(C)]
pub struct Properties {
    max_threads_per_block: i32,
    max_threads_dim: [i32; 3],
    max_grid_size: [i32; 3],
    shared_memory_per_block: i32,
    total_constant_memory: i32,
    simd_width: i32,
    mem_pitch: i32,
    regs_per_block: i32,
    clock_rate: i32,
    texture_align: i32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetProperties(properties: *mut Properties, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetProperties"), |runtime| {
        let snapshot = snapshot(runtime, device)?;
        let of = |id| snapshot.attribute(id).unwrap_or(0);
        let found = Properties {
            max_threads_per_block: of(1),
            max_threads_dim: [of(2), of(3), of(4)],
            max_grid_size: [of(5), of(6), of(7)],
            shared_memory_per_block: of(8),
            total_constant_memory: of(9),
            simd_width: of(10),
            mem_pitch: of(11),
            regs_per_block: of(12),
            clock_rate: of(13),
            texture_align: of(14),
        };
        // SAFETY: the program's pointer, for one value.
        unsafe { give(properties, found) }
    })
}

/// `text`: `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(text: *mut c_char, length: i32, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetPCIBusId"), |runtime| {
        let snapshot = snapshot(runtime, device)?;
        // SAFETY: the program's buffer of `length` bytes.
        unsafe { give_text(text, length, &snapshot.info.pci_bus_id) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetByPCIBusId(device: *mut CUdevice, text: *const c_char) -> CUresult {
    runtime::call(counter!("cuDeviceGetByPCIBusId"), |runtime| {
        // SAFETY: the program's C string.
        let wanted = pci_place(unsafe { name(text) }?.to_bytes()).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let found = runtime
            .devices
            .iter()
            .position(|d| {
                pci_place(d.snapshot.info.pci_bus_id.split(|b| *b == 0).next().unwrap_or(&[])) == Some(wanted)
            })
            .ok_or(CUDA_ERROR_INVALID_DEVICE)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(device, i32::try_from(found).unwrap_or(0)) }
    })
}

/// Domain, bus, device of `[domain:]bus:device[.function]`, in hexadecimal.
fn pci_place(text: &[u8]) -> Option<(u32, u32, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.split_once('.').map_or(text, |(place, _)| place);
    let parts: Option<Vec<u32>> = text.split(':').map(|part| u32::from_str_radix(part, 16).ok()).collect();
    match parts?[..] {
        [domain, bus, device] => Some((domain, bus, device)),
        [bus, device] => Some((0, bus, device)),
        _ => None,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetTexture1DLinearMaxWidth(
    width: *mut usize,
    format: u32,
    channels: u32,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuDeviceGetTexture1DLinearMaxWidth"), |runtime| {
        let limit = snapshot(runtime, device)?.attribute(21).unwrap_or(0);
        if format == 0 || !matches!(channels, 1 | 2 | 4) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the program's pointer, for one value.
        unsafe { give(width, usize::try_from(limit).unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetDefaultMemPool"), |runtime| {
        let handle = runtime.device(device)?.default_pool.handle;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(pool, handles::pointer(handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGetMemPool"), |runtime| {
        let handle = lock(&runtime.device(device)?.pool).handle;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(pool, handles::pointer(handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceSetMemPool(device: CUdevice, pool: CUmemoryPool) -> CUresult {
    runtime::call(counter!("cuDeviceSetMemPool"), |runtime| {
        let target = runtime.device(device)?;
        let pool = handles::pool(pool)?;
        if i32::try_from(pool.device) != Ok(device) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        *lock(&target.pool) = pool;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetExecAffinitySupport(
    supported: *mut i32,
    _kind: u32,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuDeviceGetExecAffinitySupport"), |runtime| {
        runtime.device(device)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(supported, 0) }
    })
}

/// `nvSciSyncAttrList` and the like need the device's own driver.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetNvSciSyncAttributes(
    _list: *mut c_void,
    device: CUdevice,
    _flags: i32,
) -> CUresult {
    runtime::call(counter!("cuDeviceGetNvSciSyncAttributes"), |runtime| {
        runtime.device(device)?;
        Err(CUDA_ERROR_NOT_SUPPORTED)
    })
}

crate::abi::variants!("device.rs");

#[cfg(test)]
mod tests {
    use super::pci_place;

    #[test]
    fn pci_places_are_read_with_and_without_domain() {
        assert_eq!(pci_place(b"0000:0a:00.0"), Some((0, 10, 0)));
        assert_eq!(pci_place(b"1A:3"), Some((0, 26, 3)));
        assert_eq!(pci_place(b"00000001:02:03.0"), Some((1, 2, 3)));
        assert_eq!(pci_place(b"x"), None);
        assert_eq!(pci_place(b""), None);
    }
}
