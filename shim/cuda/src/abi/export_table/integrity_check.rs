//! INTEGRITY_CHECK: the table through which the runtime puts the questions of [`crate::abi::integrity`].

use std::ffi::c_void;

use super::{Slot, Table, cudart_interface, slots, uuid};
use crate::abi::{
    driver_version,
    hooks::{DeviceIdentity, hooks},
    integrity::Subject,
    result::{CUDA_ERROR_INVALID_VALUE, SUCCESS},
    types::CUresult,
};

pub(super) const UUID: [u8; 16] = uuid(0xd4082055_bde6_704b_8d34_ba123c66e1f2);

pub(super) static TABLE: Table<3> = Table({
    let mut slots = slots!(0xd4082055, 3);
    slots[1] = Slot::function(check as *const c_void);
    slots[2] = Slot::function(set as *const c_void);
    slots
});

unsafe extern "C" fn check(version: u32, unix_seconds: u64, out: *mut [u8; 16]) -> CUresult {
    if out.is_null() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    let devices = match hooks().devices() {
        Ok(devices) => devices,
        Err(code) => return code,
    };
    let digest = subject(devices).digest(version, unix_seconds);
    // SAFETY: not NULL: the runtime passes sixteen bytes to be written.
    unsafe { out.write(digest) };
    SUCCESS
}

/// A setting of unknown meaning; the runtime goes on after any success.
extern "C" fn set(_value: i32) -> CUresult {
    SUCCESS
}

/// This process, this thread, now.
fn subject(devices: Vec<DeviceIdentity>) -> Subject {
    // SAFETY: takes no arguments and cannot fail.
    let thread = unsafe { libc::pthread_self() };
    Subject {
        driver_version: driver_version().cast_unsigned(),
        process: std::process::id(),
        #[allow(clippy::cast_possible_truncation, reason = "the check covers the low half only")]
        thread: thread as u32,
        cudart_table: cudart_interface::TABLE.address() as u64,
        integrity_table: TABLE.address() as u64,
        // The word that the runtime reads, not the function's name: the two could differ.
        integrity_function: TABLE.0[1].0 as u64,
        devices,
    }
}
