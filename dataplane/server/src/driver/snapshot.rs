//! The snapshot of devices and error texts that a session opens with.

use cudarc::driver::sys::CUuuid;
use fusewire_wire::ops::snapshot::{Attribute, Device, DeviceSnapshot, Snapshot};
use zerocopy::FromZeros;

use super::layouts::AllocationProp;
use super::{Driver, Status, check, policy};

/// Attributes that are asked for: all that CUDA 13 has, and room for what comes.
const ATTRIBUTES: std::ops::RangeInclusive<i32> = 1..=150;
/// Error codes that are asked for.
const ERRORS: std::ops::RangeInclusive<Status> = 0..=999;
/// Allocation granularity: the recommended one, so that the driver uses its large pages.
const RECOMMENDED: u32 = 1;
/// What the driver's mappings are multiples of when it does not say.
const USUAL_GRANULARITY: u64 = 2 << 20;

/// Asks the driver for everything that a client answers from memory.
///
/// # Errors
/// The driver's, when it cannot even name its devices.
pub fn take(driver: &Driver) -> Result<Snapshot, Status> {
    let mut version = 0;
    let mut count = 0;
    // SAFETY: both are live integers.
    unsafe {
        check(driver.cuDriverGetVersion(&raw mut version))?;
        check(driver.cuDeviceGetCount(&raw mut count))?;
    }
    let count = count.clamp(0, 64);
    let devices = (0..count).map(|ordinal| device(driver, ordinal, count)).collect::<Result<_, _>>()?;
    let errors =
        ERRORS.filter_map(|code| driver.error_text(code).map(|(name, text)| (code, name, text))).collect();
    Ok(Snapshot { driver_version: version, devices, errors })
}

/// The granularity of a device's mappings.
pub fn granularity(driver: &Driver, device: i32) -> u64 {
    let mut bytes = 0usize;
    let prop = AllocationProp::on_device(device);
    // SAFETY: both are live.
    let status =
        unsafe { driver.cuMemGetAllocationGranularity(&raw mut bytes, &raw const prop, RECOMMENDED) };
    if status == 0 && bytes.is_power_of_two() { bytes as u64 } else { USUAL_GRANULARITY }
}

/// The UUID of a device; zero when the driver has none.
pub fn uuid(driver: &Driver, device: i32) -> [u8; 16] {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: the structure is live, and either function fills it in.
    unsafe {
        if driver.cuDeviceGetUuid_v2(&raw mut uuid, device) != 0 {
            driver.cuDeviceGetUuid(&raw mut uuid, device);
        }
    }
    uuid.bytes.map(|byte| byte.cast_unsigned())
}

/// The value of one attribute, unfiltered.
pub fn attribute(driver: &Driver, attribute: i32, device: i32) -> Option<i32> {
    let mut value = 0;
    // SAFETY: a live integer.
    let status = unsafe { driver.cuDeviceGetAttribute(&raw mut value, attribute, device) };
    (status == 0).then_some(value)
}

fn device(driver: &Driver, ordinal: i32, count: i32) -> Result<Device, Status> {
    let mut info = DeviceSnapshot::new_zeroed();
    let mut total = 0usize;
    let mut device = 0;
    // SAFETY: every pointer is to a live field of the length that is passed.
    unsafe {
        check(driver.cuDeviceGet(&raw mut device, ordinal))?;
        check(driver.cuDeviceGetName(info.name.as_mut_ptr().cast(), info.name.len() as i32 - 1, device))?;
        check(driver.cuDeviceTotalMem_v2(&raw mut total, device))?;
        let (text, bytes) = (info.pci_bus_id.as_mut_ptr().cast(), info.pci_bus_id.len() as i32 - 1);
        driver.cuDeviceGetPCIBusId(text, bytes, device);
        info.luid_status =
            driver.cuDeviceGetLuid(info.luid.as_mut_ptr().cast(), &raw mut info.luid_node_mask, device);
    }
    info.uuid = uuid(driver, device);
    info.total_memory = total as u64;
    info.granularity = granularity(driver, device);
    // The range of every driver so far; there may be no context yet in which to ask.
    (info.least_priority, info.greatest_priority) = (0, -5);
    for peer in (0..count).filter(|&peer| peer != ordinal) {
        let mut can = 0;
        // SAFETY: a live integer.
        let status = unsafe { driver.cuDeviceCanAccessPeer(&raw mut can, device, peer) };
        if status == 0 && can != 0 {
            info.peers |= 1 << peer;
        }
    }
    let attributes = ATTRIBUTES
        .filter_map(|id| {
            let value = attribute(driver, id, device)?;
            Some(Attribute { id, value: policy::advertised(id, value) })
        })
        .collect();
    Ok(Device { info, attributes })
}
