//! Handles: addresses in a table of this library, one for each device of the inventory, in its order.

use std::sync::Arc;

use fusewire_wire::inventory::{DeviceInfo, Figure, Inventory, MAX_DEVICES};

use crate::status::{INVALID_ARGUMENT, NOT_SUPPORTED, Status};
use crate::types::Device;
use crate::{out, server, session};

static HANDLES: [u64; MAX_DEVICES] = [0; MAX_DEVICES];

/// The handle of the device at `index`, which the caller has checked.
pub(crate) fn handle(index: usize) -> Device {
    HANDLES.get(index).map_or(std::ptr::null_mut(), |slot| std::ptr::from_ref(slot).cast_mut().cast())
}

/// Which device a handle is.
pub(crate) fn index(device: Device) -> Result<usize, Status> {
    session::check()?;
    let offset = device.addr().wrapping_sub(HANDLES.as_ptr().addr());
    let index = offset / size_of::<u64>();
    let count = server::known()?.devices.len();
    if offset.is_multiple_of(size_of::<u64>()) && index < count { Ok(index) } else { Err(INVALID_ARGUMENT) }
}

/// What does not change about a device.
pub(crate) fn known(device: Device) -> Result<DeviceInfo, Status> {
    of(&server::known()?, device)
}

/// A device as it is now.
pub(crate) fn now(device: Device) -> Result<DeviceInfo, Status> {
    index(device)?;
    of(&server::fresh()?, device)
}

/// A figure, as it is now if it can change.
pub(crate) fn figure(device: Device, figure: Figure) -> Result<u64, Status> {
    if figure.is_fixed()
        && let Some(value) = known(device)?.figure(figure)
    {
        return Ok(value);
    }
    now(device)?.figure(figure).ok_or(NOT_SUPPORTED)
}

/// Writes a figure as the 32-bit number it is.
///
/// # Safety
/// `to` is NULL or points to four bytes that may be written.
pub(crate) unsafe fn put_figure(device: Device, to: *mut u32, which: Figure) -> Result<(), Status> {
    if to.is_null() {
        index(device)?;
        return Err(INVALID_ARGUMENT);
    }
    let value = figure(device, which)?;
    // Some are signed: what is cut off is their sign.
    // SAFETY: as the caller promises.
    unsafe { out::put(to, value as u32) }
}

fn of(inventory: &Arc<Inventory>, device: Device) -> Result<DeviceInfo, Status> {
    inventory.devices.get(index(device)?).copied().ok_or(INVALID_ARGUMENT)
}
