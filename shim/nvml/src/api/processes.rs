//! Who uses the GPU: nobody that this library would name.
//!
//! The processes there are the server's workers, one for each tenant; none of them exists on this machine.

use std::ffi::c_void;

use crate::status::{NOT_FOUND, Status, answer};
use crate::types::{Device, ProcessDetailList, versioned};
use crate::{device, out};

macro_rules! no_processes {
    ($(fn $name:ident;)+) => {$(
        /// # Safety
        /// `count` is NULL or points to an unsigned int. `infos` is not used: there are none.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, count: *mut u32, _infos: *mut c_void) -> Status {
            answer(|| {
                device::index(device)?;
                // SAFETY: as the caller promises.
                unsafe { out::put(count, 0) }
            })
        }
    )+};
}

no_processes! {
    fn nvmlDeviceGetComputeRunningProcesses;
    fn nvmlDeviceGetComputeRunningProcesses_v2;
    fn nvmlDeviceGetComputeRunningProcesses_v3;
    fn nvmlDeviceGetGraphicsRunningProcesses;
    fn nvmlDeviceGetGraphicsRunningProcesses_v2;
    fn nvmlDeviceGetGraphicsRunningProcesses_v3;
    fn nvmlDeviceGetMPSComputeRunningProcesses;
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2;
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3;
    fn nvmlDeviceGetEncoderSessions;
    fn nvmlDeviceGetFBCSessions;
    fn nvmlDeviceGetAccountingPids;
}

/// # Safety
/// `list` is NULL or points to an `nvmlProcessDetailList_t` of its version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRunningProcessDetailList(
    device: Device,
    list: *mut ProcessDetailList,
) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises; its version says that it is whole.
        unsafe {
            out::check_version(list, versioned::<ProcessDetailList>(1))?;
            out::put(&raw mut (*list).count, 0)
        }
    })
}

/// # Safety
/// `count` is NULL or points to an unsigned int. `samples` is not used: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Device,
    _samples: *mut c_void,
    count: *mut u32,
    _since: u64,
) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(count, 0)? };
        Err(NOT_FOUND)
    })
}

/// # Safety
/// `mode` is NULL or points to an enumeration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAccountingMode(device: Device, mode: *mut u32) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(mode, 0) }
    })
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAccountingBufferSize(device: Device, to: *mut u32) -> Status {
    // As the driver has it. Programs size their list of processes by it.
    const ENTRIES: u32 = 4000;
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, ENTRIES) }
    })
}

/// # Safety
/// The last three are NULL or each point to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEncoderStats(
    device: Device,
    sessions: *mut u32,
    frames: *mut u32,
    latency: *mut u32,
) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe {
            out::put(sessions, 0)?;
            out::put(frames, 0)?;
            out::put(latency, 0)
        }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlFBCStats_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFBCStats(device: Device, to: *mut [u32; 3]) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, [0; 3]) }
    })
}
