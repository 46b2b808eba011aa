//! How devices reach each other: through the server's program only, and never directly.

use std::ffi::c_void;

use crate::status::{NOT_FOUND, Status, answer};
use crate::types::Device;
use crate::{device, out};

/// NVML_TOPOLOGY_INTERNAL.
const INTERNAL: u32 = 0;
/// NVML_TOPOLOGY_SYSTEM: as far apart as devices of one machine can be.
const SYSTEM: u32 = 50;
/// NVML_P2P_STATUS_NOT_SUPPORTED.
const NO_PEERS: u32 = 5;

/// # Safety
/// `to` is NULL or points to an enumeration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    one: Device,
    other: Device,
    to: *mut u32,
) -> Status {
    answer(|| {
        let same = device::index(one)? == device::index(other)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, if same { INTERNAL } else { SYSTEM }) }
    })
}

/// # Safety
/// `count` is NULL or points to an unsigned int. `devices` is not used: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyNearestGpus(
    device: Device,
    _level: u32,
    count: *mut u32,
    _devices: *mut Device,
) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(count, 0) }
    })
}

/// # Safety
/// `to` is NULL or points to an enumeration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    one: Device,
    other: Device,
    _what: u32,
    to: *mut u32,
) -> Status {
    answer(|| {
        device::index(one)?;
        device::index(other)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, NO_PEERS) }
    })
}

/// # Safety
/// `to` is NULL or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceOnSameBoard(one: Device, other: Device, to: *mut i32) -> Status {
    answer(|| {
        let same = device::index(one)? == device::index(other)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, i32::from(same)) }
    })
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: Device, to: *mut u32) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, 0) }
    })
}

/// A device is offered whole, or as the one instance that the server was given: it has no parts to name.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Device,
    _index: u32,
    _to: *mut c_void,
) -> Status {
    answer(|| device::index(device).and(Err(NOT_FOUND)))
}

/// Whether the device is joined to the program's processor: no, there is a network between them.
///
/// # Safety
/// `to` is NULL or points to an `nvmlC2cModeInfo_v1_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetC2cModeInfoV(device: Device, to: *mut u32) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, 0) }
    })
}
