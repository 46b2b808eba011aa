//! Events: sets can be made and waited for, and nothing ever happens. `nvidia-smi` makes one before it
//! shows anything.

use std::ffi::c_void;
use std::thread;
use std::time::Duration;

use crate::status::{INVALID_ARGUMENT, NOT_SUPPORTED, Status, TIMEOUT, answer};
use crate::types::Device;
use crate::{device, out, session};

/// What every set points to.
static SET: u64 = 0;

fn is_set(set: *mut c_void) -> bool {
    set.addr() == (&raw const SET).addr()
}

/// # Safety
/// `set` is NULL or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut *mut c_void) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        unsafe { out::put(set, (&raw const SET).cast_mut().cast()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: *mut c_void) -> Status {
    answer(|| {
        session::check()?;
        if is_set(set) { Ok(()) } else { Err(INVALID_ARGUMENT) }
    })
}

/// # Safety
/// `types` is NULL or points to an unsigned long long.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: Device, types: *mut u64) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(types, 0) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: Device, types: u64, set: *mut c_void) -> Status {
    answer(|| {
        device::index(device)?;
        match types {
            _ if !is_set(set) => Err(INVALID_ARGUMENT),
            0 => Ok(()),
            _ => Err(NOT_SUPPORTED),
        }
    })
}

/// # Safety
/// `event` is not used: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: *mut c_void,
    _event: *mut c_void,
    milliseconds: u32,
) -> Status {
    answer(|| {
        session::check()?;
        if !is_set(set) {
            return Err(INVALID_ARGUMENT);
        }
        thread::sleep(Duration::from_millis(milliseconds.into()));
        Err(TIMEOUT)
    })
}

/// # Safety
/// As [`nvmlEventSetWait_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait(set: *mut c_void, event: *mut c_void, milliseconds: u32) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { nvmlEventSetWait_v2(set, event, milliseconds) }
}
