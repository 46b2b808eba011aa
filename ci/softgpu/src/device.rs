//! The devices: how many, what they are called, how much memory each has and who has taken it.
//!
//! Memory is counted exactly: what was taken is given back when the [`Charge`] for it is dropped.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::abi::{CUuuid, In, Out, put_text, text};
use crate::attributes;
use crate::context::Primary;
use crate::entry::{self, api};
use crate::errors::{Code, Res};
use crate::faults;

/// What cuDriverGetVersion reports: nothing newer than what is implemented.
pub(crate) const VERSION: i32 = 13000;

pub(crate) struct Device {
    pub(crate) ordinal: u32,
    pub(crate) total: u64,
    used: AtomicU64,
    pub(crate) primary: Mutex<Primary>,
}

/// Device memory taken; given back on drop.
pub(crate) struct Charge {
    device: u32,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Ok(device) = get(self.device.cast_signed()) {
            device.used.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }
}

impl Device {
    /// Takes memory of this device, in the units in which it hands it out.
    pub(crate) fn take(&self, bytes: u64) -> Res<Charge> {
        let bytes = bytes.checked_next_multiple_of(512).ok_or(Code::OUT_OF_MEMORY)?;
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.total);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).map_err(|_| Code::OUT_OF_MEMORY)?;
        let charge = Charge { device: self.ordinal, bytes };
        faults::hand_out(bytes)?;
        Ok(charge)
    }

    pub(crate) fn free_memory(&self) -> u64 {
        self.total - self.used.load(Ordering::Acquire)
    }

    /// Recognisable, and different for each device.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        let mut bytes = *b"softgpu-device-0";
        bytes[15] = b'a' + u8::try_from(self.ordinal % 26).unwrap_or(0);
        bytes
    }

    /// PCI bus number: domain and device number are 0.
    pub(crate) fn bus(&self) -> i32 {
        0x10 + self.ordinal.cast_signed()
    }
}

pub(crate) fn all() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let config = faults::config();
        let device = |ordinal| Device {
            ordinal,
            total: config.memory,
            used: AtomicU64::new(0),
            primary: Mutex::new(Primary::default()),
        };
        (0..config.devices).map(device).collect()
    })
}

pub(crate) fn get(ordinal: i32) -> Res<&'static Device> {
    usize::try_from(ordinal).ok().and_then(|index| all().get(index)).ok_or(Code::INVALID_DEVICE)
}

fn bus_id(device: &Device) -> String {
    format!("0000:{:02X}:00.0", device.bus())
}

api! {
    fn cuInit(flags: u32) [any] {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if all().is_empty() {
            return Err(Code::NO_DEVICE);
        }
        entry::mark_initialised();
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<i32>) [any] {
        version.set(VERSION)
    }

    fn cuDeviceGetCount(count: Out<i32>) [init] {
        count.set(i32::try_from(all().len()).unwrap_or(i32::MAX))
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) [init] {
        get(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: i32, device: i32) [init] {
        get(device)?;
        put_text(name, room, "Fusewire Software GPU")
    }

    fn cuDeviceGetUuid(uuid: Out<CUuuid>, device: i32) [init] {
        uuid.set(CUuuid { bytes: get(device)?.uuid() })
    }

    fn cuDeviceGetUuid_v2(uuid: Out<CUuuid>, device: i32) [init] {
        uuid.set(CUuuid { bytes: get(device)?.uuid() })
    }

    fn cuDeviceGetLuid(luid: Out<c_char>, mask: Out<u32>, device: i32) [init] {
        // Identifiers of this kind exist only on Windows.
        let _ = (luid, mask, get(device)?);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) [init] {
        bytes.set(usize::try_from(get(device)?.total).map_err(|_| Code::UNKNOWN)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) [init] {
        get(device)?;
        major.set(attributes::MAJOR)?;
        minor.set(attributes::MINOR)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) [init] {
        let device = get(device)?;
        value.set(attributes::value(device, attribute).ok_or(Code::INVALID_VALUE)?)
    }

    fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, device: i32) [init] {
        put_text(id, room, &bus_id(get(device)?))
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: In<c_char>) [init] {
        let wanted = text(id)?;
        let found = all().iter().find(|device| {
            let full = bus_id(device);
            full.eq_ignore_ascii_case(&wanted) || full["0000:".len()..].eq_ignore_ascii_case(&wanted)
        });
        device.set(found.ok_or(Code::INVALID_DEVICE)?.ordinal.cast_signed())
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) [init] {
        can.set(i32::from(get(device)?.ordinal != get(peer)?.ordinal))
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, attribute: u32, from: i32, to: i32) [init] {
        if get(from)?.ordinal == get(to)?.ordinal {
            return Err(Code::INVALID_DEVICE);
        }
        value.set(match attribute {
            1 | 3 | 5 => 0,
            2 | 4 => 1,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, kind: u32, device: i32) [init] {
        let _ = (kind, get(device)?);
        supported.set(0)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<usize>, format: u32, channels: u32, device: i32) [init] {
        let _ = (format, channels, get(device)?);
        width.set(1 << 28)
    }
}
