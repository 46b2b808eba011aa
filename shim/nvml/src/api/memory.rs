//! Memory and utilisation.

use fusewire_wire::inventory::{DeviceInfo, Figure};

use crate::status::{NOT_SUPPORTED, Status, answer};
use crate::types::{Bar1Memory, Device, Memory, MemoryV2, Utilization, versioned};
use crate::{device, out};

/// # Safety
/// `to` is NULL or points to an `nvmlMemory_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: Device, to: *mut Memory) -> Status {
    answer(|| {
        let MemoryV2 { total, reserved, free, used, .. } = amounts(&device::now(device)?);
        // SAFETY: as the caller promises.
        unsafe { out::put(to, Memory { total, free, used: used.saturating_add(reserved) }) }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlMemory_v2_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, to: *mut MemoryV2) -> Status {
    answer(|| {
        let info = device::now(device)?;
        // SAFETY: as the caller promises.
        unsafe {
            out::check_version(to, versioned::<MemoryV2>(2))?;
            out::put(to, amounts(&info))
        }
    })
}

/// The total is always known, and what most programs ask for. A server that does not know what is in use
/// reports 0 in use: there is no way to say less without keeping the total back.
fn amounts(info: &DeviceInfo) -> MemoryV2 {
    let total = info.memory_total;
    let reserved = info.figure(Figure::MemoryReserved).unwrap_or(0).min(total);
    let used = info.memory_used.min(total - reserved);
    MemoryV2 { version: versioned::<MemoryV2>(2), total, reserved, free: total - reserved - used, used }
}

/// # Safety
/// `to` is NULL or points to an `nvmlBAR1Memory_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetBAR1MemoryInfo(device: Device, to: *mut Bar1Memory) -> Status {
    answer(|| {
        let info = device::now(device)?;
        let figure = |which| info.figure(which).ok_or(NOT_SUPPORTED);
        let (total, free, used) =
            (figure(Figure::Bar1Total)?, figure(Figure::Bar1Free)?, figure(Figure::Bar1Used)?);
        // SAFETY: as the caller promises.
        unsafe { out::put(to, Bar1Memory { total, free, used }) }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlUtilization_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, to: *mut Utilization) -> Status {
    answer(|| {
        let info = device::now(device)?;
        let figure = |which| info.figure(which).map(|value| value as u32).ok_or(NOT_SUPPORTED);
        let rates =
            Utilization { gpu: figure(Figure::UtilisationGpu)?, memory: figure(Figure::UtilisationMemory)? };
        // SAFETY: as the caller promises.
        unsafe { out::put(to, rates) }
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn amounts_add_up_whatever_the_server_says() {
        let mut info = DeviceInfo::new_zeroed();
        (info.memory_total, info.memory_used) = (100, 30);
        info.set_figure(Figure::MemoryReserved, 5);
        let at = amounts(&info);
        assert_eq!((at.total, at.reserved, at.used, at.free), (100, 5, 30, 65));
        (info.memory_used, info.memory_total) = (u64::MAX, 10);
        let at = amounts(&info);
        assert_eq!((at.total, at.reserved, at.used, at.free), (10, 5, 5, 0));
    }
}
