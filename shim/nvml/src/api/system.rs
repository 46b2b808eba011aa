//! Versions, and what a machine has besides GPUs: here, nothing.

use std::ffi::{c_char, c_void};

use fusewire_wire::inventory::InventoryHeader;

use crate::status::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Status, answer};
use crate::{out, server, session};

/// # Safety
/// `version` is NULL or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: u32) -> Status {
    answer(|| {
        session::check()?;
        let driver = server::known()?.header.driver_text();
        if driver.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: as the caller promises.
        unsafe { out::put_text(version, length, &driver) }
    })
}

/// # Safety
/// `version` is NULL or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: u32) -> Status {
    answer(|| {
        let text = library_version(&server::known()?.header);
        // SAFETY: as the caller promises.
        unsafe { out::put_text(version, length, &text) }
    })
}

/// The server's NVML, which this library stands for; else the CUDA version and the driver's, as there.
fn library_version(header: &InventoryHeader) -> String {
    let (nvml, driver) = (header.nvml_text(), header.driver_text());
    match (nvml.is_empty(), driver.is_empty()) {
        (false, _) => nvml,
        (true, false) => format!("{}.{driver}", header.cuda_version / 1000),
        (true, true) => format!("{}.0", header.cuda_version / 1000),
    }
}

/// # Safety
/// `version` is NULL or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut i32) -> Status {
    answer(|| {
        let cuda = server::known()?.header.cuda_version;
        // SAFETY: as the caller promises.
        unsafe { out::put(version, cuda.cast_signed()) }
    })
}

/// # Safety
/// As [`nvmlSystemGetCudaDriverVersion_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut i32) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { nvmlSystemGetCudaDriverVersion_v2(version) }
}

/// A process of this machine, which is the only one whose processes this library speaks of.
///
/// # Safety
/// `name` is NULL or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetProcessName(pid: u32, name: *mut c_char, length: u32) -> Status {
    answer(|| {
        session::check()?;
        if name.is_null() || length == 0 {
            return Err(INVALID_ARGUMENT);
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| NOT_FOUND)?;
        let program = String::from_utf8_lossy(line.split(|&byte| byte == 0).next().unwrap_or_default());
        let room =
            (0..=program.len().min(length as usize - 1)).rev().find(|&end| program.is_char_boundary(end));
        // SAFETY: as the caller promises.
        unsafe { out::put_text(name, length, &program[..room.unwrap_or(0)]) }
    })
}

/// # Safety
/// `count` is NULL or points to an unsigned int.
unsafe fn none(count: *mut u32) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        unsafe { out::put(count, 0) }
    })
}

/// # Safety
/// `count` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlUnitGetCount(count: *mut u32) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { none(count) }
}

/// # Safety
/// `count` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGetExcludedDeviceCount(count: *mut u32) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { none(count) }
}

/// # Safety
/// `count` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGetBlacklistDeviceCount(count: *mut u32) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { none(count) }
}

/// # Safety
/// `count` is NULL or points to an unsigned int. `entries` is not used: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetHicVersion(count: *mut u32, _entries: *mut c_void) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { none(count) }
}

#[cfg(test)]
mod tests {
    use fusewire_wire::inventory::{Inventory, set_text};

    use super::*;

    #[test]
    fn the_library_has_a_version_whatever_the_server_knows() {
        let mut header = Inventory::new(Vec::new()).header;
        header.cuda_version = 13000;
        assert_eq!(library_version(&header), "13.0");
        set_text(&mut header.driver, "580.159.03");
        assert_eq!(library_version(&header), "13.580.159.03");
        set_text(&mut header.nvml, "12.1");
        assert_eq!(library_version(&header), "12.1");
    }
}
