//! Which devices there are, and their handles.
//!
//! All devices of the server, in its order. As with NVIDIA's library, CUDA_VISIBLE_DEVICES has no effect.

use std::ffi::c_char;

use fusewire_wire::inventory::DeviceInfo;

use crate::status::{INVALID_ARGUMENT, NOT_FOUND, Status, answer};
use crate::types::{Device, Uuid, versioned};
use crate::{device, out, server, session};

/// # Safety
/// `count` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut u32) -> Status {
    answer(|| {
        session::check()?;
        let devices = server::known()?.devices.len();
        // SAFETY: as the caller promises.
        unsafe { out::put(count, devices as u32) }
    })
}

/// # Safety
/// As [`nvmlDeviceGetCount_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount(count: *mut u32) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { nvmlDeviceGetCount_v2(count) }
}

/// # Safety
/// `to` is NULL or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, to: *mut Device) -> Status {
    answer(|| {
        session::check()?;
        if index as usize >= server::known()?.devices.len() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: as the caller promises.
        unsafe { out::put(to, device::handle(index as usize)) }
    })
}

/// # Safety
/// As [`nvmlDeviceGetHandleByIndex_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex(index: u32, to: *mut Device) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { nvmlDeviceGetHandleByIndex_v2(index, to) }
}

/// # Safety
/// `uuid` is NULL or a text that ends with a zero; `to` is NULL or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut Device) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        let wanted = unsafe { out::text(uuid)? };
        // SAFETY: as the caller promises.
        unsafe { put_first(to, |found| found.uuid_text() == wanted) }
    })
}

/// # Safety
/// `uuid` is NULL or points to a structure of its version; `to` is NULL or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUIDV(uuid: *const Uuid, to: *mut Device) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        unsafe { out::check_version(uuid, versioned::<Uuid>(1))? };
        // SAFETY: its version says that it is whole.
        let wanted = unsafe { uuid.read_unaligned() };
        let matches = |found: &DeviceInfo| match wanted.kind {
            1 => {
                let text = wanted.value.split(|&byte| byte == 0).next().unwrap_or_default();
                found.uuid_text().as_bytes() == text
            }
            _ => wanted.value.starts_with(&found.uuid),
        };
        if !(1..=2).contains(&wanted.kind) {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: as the caller promises.
        unsafe { put_first(to, matches) }
    })
}

/// # Safety
/// `serial` is NULL or a text that ends with a zero; `to` is NULL or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleBySerial(serial: *const c_char, to: *mut Device) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        let wanted = unsafe { out::text(serial)? };
        let serial_of = |found: &DeviceInfo| fusewire_wire::inventory::text_of(&found.serial);
        // SAFETY: as the caller promises.
        unsafe { put_first(to, |found| !wanted.is_empty() && serial_of(found) == wanted) }
    })
}

/// # Safety
/// `address` is NULL or a text that ends with a zero; `to` is NULL or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(address: *const c_char, to: *mut Device) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        let wanted = parse_pci(unsafe { out::text(address)? }).ok_or(INVALID_ARGUMENT)?;
        // SAFETY: as the caller promises.
        unsafe { put_first(to, |found| (found.pci_domain, found.pci_bus, found.pci_device) == wanted) }
    })
}

/// # Safety
/// As [`nvmlDeviceGetHandleByPciBusId_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId(address: *const c_char, to: *mut Device) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { nvmlDeviceGetHandleByPciBusId_v2(address, to) }
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: Device, to: *mut u32) -> Status {
    answer(|| {
        let index = device::index(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, index as u32) }
    })
}

/// # Safety
/// `to` is NULL or points to a handle.
unsafe fn put_first(to: *mut Device, matches: impl Fn(&DeviceInfo) -> bool) -> Result<(), Status> {
    let found = server::known()?.devices.iter().position(matches).ok_or(NOT_FOUND)?;
    // SAFETY: as the caller promises.
    unsafe { out::put(to, device::handle(found)) }
}

/// `DOMAIN:BUS:DEVICE.FUNCTION` in hexadecimal; the domain and the function may be missing.
fn parse_pci(text: &str) -> Option<(u32, u32, u32)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let (rest, function) = text.rsplit_once('.').unwrap_or((text, "0"));
    number(function)?;
    let parts: Vec<&str> = rest.split(':').collect();
    match parts[..] {
        [bus, device] => Some((0, number(bus)?, number(device)?)),
        [domain, bus, device] => Some((number(domain)?, number(bus)?, number(device)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse_pci;

    #[test]
    fn pci_addresses_in_all_their_forms() {
        for text in ["00000000:3B:00.0", "0000:3b:00.0", "3b:00.0", "0:3b:0", "3b:0"] {
            assert_eq!(parse_pci(text), Some((0, 0x3b, 0)), "{text}");
        }
        assert_eq!(parse_pci("0001:0a:1f.0"), Some((1, 10, 31)));
        for text in ["", ":", "::", "x:0", "1:2:3:4", "+1:0", "1:0.", "3b", "123456789:0:0"] {
            assert_eq!(parse_pci(text), None, "{text}");
        }
    }
}
