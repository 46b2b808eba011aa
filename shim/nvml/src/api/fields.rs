//! `nvmlDeviceGetFieldValues`: many figures by number, each with its own status.

use std::time::{SystemTime, UNIX_EPOCH};

use fusewire_wire::inventory::{DeviceInfo, Figure};

use crate::status::{INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, Status, answer};
use crate::types::{Device, FieldValue};
use crate::{device, out};

/// NVML_VALUE_TYPE_UNSIGNED_INT.
const UNSIGNED_INT: u32 = 1;
/// NVML_VALUE_TYPE_UNSIGNED_LONG_LONG.
const UNSIGNED_LONG_LONG: u32 = 3;
/// NVML_VALUE_TYPE_SIGNED_INT.
const SIGNED_INT: u32 = 5;

/// # Safety
/// `values` is NULL or points to `count` structures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: Device,
    count: i32,
    values: *mut FieldValue,
) -> Status {
    answer(|| {
        let info = device::now(device)?;
        let count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        for index in 0..count {
            // SAFETY: the caller promises that this many are there.
            unsafe {
                let at = values.add(index);
                let mut value = at.read_unaligned();
                (value.timestamp, value.latency) = (now, 0);
                look_up(&info, &mut value);
                out::put(at, value)?;
            }
        }
        Ok(())
    })
}

fn look_up(info: &DeviceInfo, value: &mut FieldValue) {
    let found = figure(value.field)
        // Of power there is also that of the memory, or of the module, under another scope.
        .filter(|_| value.scope == 0)
        .and_then(|(figure, kind)| Some((info.figure(figure)?, kind)));
    match found {
        Some((number, kind)) => {
            // In a union: what is beside a smaller type is left zero.
            let number = if kind == UNSIGNED_LONG_LONG { number } else { number & 0xffff_ffff };
            (value.value, value.kind, value.status) = (number, kind, SUCCESS);
        }
        None => (value.value, value.kind, value.status) = (0, UNSIGNED_INT, NOT_SUPPORTED),
    }
}

/// The fields that are figures, and their types.
fn figure(field: u32) -> Option<(Figure, u32)> {
    Some(match field {
        1 => (Figure::EccMode, UNSIGNED_LONG_LONG),
        2 => (Figure::EccModePending, UNSIGNED_LONG_LONG),
        82 => (Figure::MemoryTemperature, UNSIGNED_INT),
        83 => (Figure::Energy, UNSIGNED_LONG_LONG),
        94 => (Figure::PcieReplays, UNSIGNED_INT),
        185 => (Figure::PowerAverage, UNSIGNED_INT),
        186 => (Figure::PowerInstant, UNSIGNED_INT),
        187 => (Figure::PowerLimitLeast, UNSIGNED_INT),
        188 => (Figure::PowerLimitMost, UNSIGNED_INT),
        189 => (Figure::PowerLimitDefault, UNSIGNED_INT),
        190 => (Figure::PowerLimitEnforced, UNSIGNED_INT),
        192 => (Figure::PowerLimit, UNSIGNED_INT),
        193 => (Figure::MarginShutdown, SIGNED_INT),
        194 => (Figure::MarginSlowdown, SIGNED_INT),
        195 => (Figure::MarginMemory, SIGNED_INT),
        196 => (Figure::MarginGpu, SIGNED_INT),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn each_field_has_its_own_status() {
        let mut info = DeviceInfo::new_zeroed();
        info.set_figure(Figure::Energy, 1 << 40);
        let mut value =
            FieldValue { field: 83, scope: 0, timestamp: 0, latency: 0, kind: 9, status: 9, value: 9 };
        look_up(&info, &mut value);
        assert_eq!((value.value, value.kind, value.status), (1 << 40, UNSIGNED_LONG_LONG, SUCCESS));
        info.set_figure(Figure::PowerInstant, 7);
        for (field, scope) in [(82, 0), (91, 0), (4711, 0), (186, 1)] {
            (value.field, value.scope) = (field, scope);
            look_up(&info, &mut value);
            assert_eq!((value.value, value.status), (0, NOT_SUPPORTED));
        }
    }
}
