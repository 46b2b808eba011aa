//! What the daemon is told about the devices.

use fusewire_wire::inventory::{DeviceInfo, Inventory, set_text};
use zerocopy::FromZeros;

use super::{Driver, Status, check, snapshot};

const PCI_BUS: i32 = 33;
const PCI_DEVICE: i32 = 34;
const PCI_DOMAIN: i32 = 50;
const CLOCK_KHZ: i32 = 13;
const MEMORY_CLOCK_KHZ: i32 = 36;
const MULTIPROCESSORS: i32 = 16;
const ECC: i32 = 32;
const MAJOR: i32 = 75;
const MINOR: i32 = 76;

/// Lists the devices as the driver describes them.
///
/// # Errors
/// The driver's, when it cannot name its devices.
pub fn take(driver: &Driver) -> Result<Inventory, Status> {
    let mut version = 0;
    let mut count = 0;
    // SAFETY: both are live integers.
    unsafe {
        check(driver.cuDriverGetVersion(&raw mut version))?;
        check(driver.cuDeviceGetCount(&raw mut count))?;
    }
    let mut devices = Vec::new();
    for device in 0..count.clamp(0, 64) {
        devices.push(describe(driver, device)?);
    }
    let mut inventory = Inventory::new(devices);
    inventory.header.cuda_version = version.unsigned_abs();
    set_text(&mut inventory.header.driver, &kernel_driver());
    set_text(&mut inventory.header.server, env!("CARGO_PKG_VERSION"));
    Ok(inventory)
}

fn describe(driver: &Driver, device: i32) -> Result<DeviceInfo, Status> {
    let mut info = DeviceInfo::new_zeroed();
    let mut total = 0usize;
    // SAFETY: the pointers are to live fields of the length that is passed.
    unsafe {
        check(driver.cuDeviceGetName(info.name.as_mut_ptr().cast(), info.name.len() as i32 - 1, device))?;
        check(driver.cuDeviceTotalMem_v2(&raw mut total, device))?;
    }
    let value =
        |id| snapshot::attribute(driver, id, device).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    info.uuid = snapshot::uuid(driver, device);
    info.memory_total = total as u64;
    info.compute_major = value(MAJOR);
    info.compute_minor = value(MINOR);
    info.pci_domain = value(PCI_DOMAIN);
    info.pci_bus = value(PCI_BUS);
    info.pci_device = value(PCI_DEVICE);
    info.multiprocessors = value(MULTIPROCESSORS);
    info.clock_sm_max = value(CLOCK_KHZ) / 1000;
    info.clock_memory_max = value(MEMORY_CLOCK_KHZ) / 1000;
    info.ecc = u32::from(value(ECC) != 0);
    Ok(info)
}

/// The kernel driver's version, from where it publishes it; empty when there is none.
fn kernel_driver() -> String {
    std::fs::read_to_string("/sys/module/nvidia/version")
        .map_or_else(|_| String::new(), |text| text.trim().into())
}
