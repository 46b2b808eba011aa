//! What a device is called.

use std::ffi::c_char;

use fusewire_wire::inventory::{DeviceInfo, Figure, text_of};

use crate::status::{INVALID_ARGUMENT, NOT_SUPPORTED, Status, answer};
use crate::types::{Device, PciInfo, PciInfoExt, PciInfoV1, PciInfoV2, versioned};
use crate::{device, out};

/// Bytes of the buffers whose length is not passed: firmware versions.
const FIRMWARE_LENGTH: u32 = 64;

/// # Safety
/// `to` is NULL or points to `length` bytes.
unsafe fn put(
    device: Device,
    to: *mut c_char,
    length: u32,
    text: impl FnOnce(&DeviceInfo) -> String,
) -> Status {
    answer(|| {
        let text = text(&device::known(device)?);
        if text.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: as the caller promises.
        unsafe { out::put_text(to, length, &text) }
    })
}

macro_rules! texts {
    ($(fn $name:ident($($from:tt)+);)+) => {$(
        /// # Safety
        /// `to` is NULL or points to `length` bytes.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, to: *mut c_char, length: u32) -> Status {
            // SAFETY: the caller's promises are the ones that are asked for.
            unsafe { put(device, to, length, $($from)+) }
        }
    )+};
}

texts! {
    fn nvmlDeviceGetName(DeviceInfo::name_text);
    fn nvmlDeviceGetUUID(DeviceInfo::uuid_text);
    fn nvmlDeviceGetSerial(|info| text_of(&info.serial));
    fn nvmlDeviceGetVbiosVersion(|info| text_of(&info.vbios));
    fn nvmlDeviceGetBoardPartNumber(|info| text_of(&info.part_number));
    fn nvmlDeviceGetInforomImageVersion(|info| text_of(&info.inforom_image));
}

/// # Safety
/// `to` is NULL or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetInforomVersion(
    device: Device,
    object: u32,
    to: *mut c_char,
    length: u32,
) -> Status {
    // The interface knows four objects; cards have the first three.
    if object > 3 {
        return answer(|| device::index(device).and(Err(INVALID_ARGUMENT)));
    }
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe {
        put(device, to, length, |info| {
            info.inforom.get(object as usize).map_or_else(String::new, |at| text_of(at))
        })
    }
}

/// # Safety
/// `to` is NULL or points to 64 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGspFirmwareVersion(device: Device, to: *mut c_char) -> Status {
    // SAFETY: the caller's promises are the ones that are asked for.
    unsafe { put(device, to, FIRMWARE_LENGTH, |info| text_of(&info.gsp_firmware)) }
}

/// # Safety
/// `major` and `minor` are NULL or each point to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Device,
    major: *mut i32,
    minor: *mut i32,
) -> Status {
    answer(|| {
        let info = device::known(device)?;
        if major.is_null() || minor.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: as the caller promises.
        unsafe {
            out::put(major, info.compute_major.cast_signed())?;
            out::put(minor, info.compute_minor.cast_signed())
        }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlPciInfo_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, to: *mut PciInfo) -> Status {
    answer(|| {
        let pci = pci(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, pci) }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlPciInfo_v2_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v2(device: Device, to: *mut PciInfoV2) -> Status {
    answer(|| {
        let pci = pci(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, PciInfoV2 { first: first_version(&pci), subsystem_id: pci.subsystem_id }) }
    })
}

/// # Safety
/// `to` is NULL or points to the first version of an `nvmlPciInfo_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo(device: Device, to: *mut PciInfoV1) -> Status {
    answer(|| {
        let pci = pci(device)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, first_version(&pci)) }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlPciInfoExt_t` of its version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfoExt(device: Device, to: *mut PciInfoExt) -> Status {
    answer(|| {
        let pci = pci(device)?;
        let version = versioned::<PciInfoExt>(1);
        // SAFETY: as the caller promises.
        unsafe {
            out::check_version(to, version)?;
            let (domain, bus, device) = (pci.domain, pci.bus, pci.device);
            let (device_id, subsystem_id, bus_id) = (pci.device_id, pci.subsystem_id, pci.bus_id);
            // 3D controller, the class of a GPU without a display.
            let (base_class, sub_class) = (3, 2);
            let info = PciInfoExt {
                version,
                domain,
                bus,
                device,
                device_id,
                subsystem_id,
                base_class,
                sub_class,
                bus_id,
            };
            out::put(to, info)
        }
    })
}

fn pci(device: Device) -> Result<PciInfo, Status> {
    let info = device::known(device)?;
    let (domain, bus, slot) = (info.pci_domain, info.pci_bus, info.pci_device);
    // A server without NVML does not know the ids. The address alone is worth having.
    let id = |figure| device::figure(device, figure).unwrap_or(0) as u32;
    Ok(PciInfo {
        bus_id_legacy: out::field(&format!("{domain:04X}:{bus:02X}:{slot:02X}.0")),
        domain,
        bus,
        device: slot,
        device_id: id(Figure::PciDeviceId),
        subsystem_id: id(Figure::PciSubsystemId),
        bus_id: out::field(&format!("{domain:08X}:{bus:02X}:{slot:02X}.0")),
    })
}

fn first_version(pci: &PciInfo) -> PciInfoV1 {
    PciInfoV1 {
        bus_id: pci.bus_id_legacy,
        domain: pci.domain,
        bus: pci.bus,
        device: pci.device,
        device_id: pci.device_id,
    }
}
