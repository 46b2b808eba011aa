//! What a client learns about the server's devices when the session opens.
//!
//! The blob in the tail of `Welcome`: a [`SnapshotHeader`], then for each device a
//! [`DeviceSnapshot`] followed by `attributes` × [`Attribute`], then `errors` times an error's
//! code, name and description, as [`ErrorText`] and its two strings.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotHeader {
    /// `cuDriverGetVersion`.
    pub driver_version: i32,
    pub devices: u32,
    pub errors: u32,
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceSnapshot {
    /// NUL-terminated.
    pub name: [u8; 128],
    pub uuid: [u8; 16],
    /// NUL-terminated, as `cuDeviceGetPCIBusId` writes it.
    pub pci_bus_id: [u8; 32],
    pub luid: [u8; 8],
    pub luid_node_mask: u32,
    pub luid_status: u32,
    pub total_memory: u64,
    /// Bit d set: this device can access memory of device d (`cuDeviceCanAccessPeer`).
    pub peers: u64,
    /// Granularity of the device's virtual-memory mappings, in bytes.
    pub granularity: u64,
    pub least_priority: i32,
    pub greatest_priority: i32,
    pub attributes: u32,
    pub reserved: u32,
}

/// A device attribute that the driver answered for.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attribute {
    pub id: i32,
    pub value: i32,
}

/// Lengths of an error's name and description, which follow, without NUL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ErrorText {
    pub code: u32,
    pub name_bytes: u16,
    pub text_bytes: u16,
}

/// One device, decoded.
#[derive(Clone, Debug)]
pub struct Device {
    pub info: DeviceSnapshot,
    pub attributes: Vec<Attribute>,
}

impl Device {
    /// The value of a device attribute (`CUdevice_attribute`), if the driver knew it.
    pub fn attribute(&self, id: i32) -> Option<i32> {
        self.attributes.iter().find(|a| a.id == id).map(|a| a.value)
    }
}

/// A decoded snapshot.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub driver_version: i32,
    pub devices: Vec<Device>,
    /// Error code, name, description.
    pub errors: Vec<(u32, String, String)>,
}

impl Snapshot {
    /// Forms the blob.
    pub fn encode(&self) -> Vec<u8> {
        let header = SnapshotHeader {
            driver_version: self.driver_version,
            devices: u32::try_from(self.devices.len()).unwrap_or(0),
            errors: u32::try_from(self.errors.len()).unwrap_or(0),
            reserved: 0,
        };
        let mut out = header.as_bytes().to_vec();
        for device in &self.devices {
            let mut info = device.info;
            info.attributes = u32::try_from(device.attributes.len()).unwrap_or(0);
            out.extend_from_slice(info.as_bytes());
            out.extend_from_slice(device.attributes.as_bytes());
        }
        for (code, name, text) in &self.errors {
            let (name, text) = (clip(name), clip(text));
            let lengths = ErrorText {
                code: *code,
                name_bytes: u16::try_from(name.len()).unwrap_or(0),
                text_bytes: u16::try_from(text.len()).unwrap_or(0),
            };
            out.extend_from_slice(lengths.as_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(text);
        }
        out
    }

    /// Reads the blob. `None` when it is cut short or makes no sense.
    pub fn decode(blob: &[u8]) -> Option<Self> {
        let (header, mut rest) = SnapshotHeader::read_from_prefix(blob).ok()?;
        let mut snapshot = Self { driver_version: header.driver_version, ..Self::default() };
        for _ in 0..header.devices {
            let (info, after) = DeviceSnapshot::read_from_prefix(rest).ok()?;
            rest = after;
            let mut attributes = Vec::new();
            for _ in 0..info.attributes {
                let (attribute, after) = Attribute::read_from_prefix(rest).ok()?;
                rest = after;
                attributes.push(attribute);
            }
            snapshot.devices.push(Device { info, attributes });
        }
        for _ in 0..header.errors {
            let (lengths, after) = ErrorText::read_from_prefix(rest).ok()?;
            let (name, after) = after.split_at_checked(usize::from(lengths.name_bytes))?;
            let (text, after) = after.split_at_checked(usize::from(lengths.text_bytes))?;
            rest = after;
            snapshot.errors.push((
                lengths.code,
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(text).into_owned(),
            ));
        }
        Some(snapshot)
    }
}

fn clip(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    &bytes[..bytes.len().min(1024)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        let info = DeviceSnapshot::read_from_bytes(&[7; size_of::<DeviceSnapshot>()]).unwrap();
        Snapshot {
            driver_version: 13000,
            devices: vec![Device { info, attributes: vec![Attribute { id: 1, value: 1024 }] }],
            errors: vec![(2, "CUDA_ERROR_OUT_OF_MEMORY".into(), "out of memory".into())],
        }
    }

    #[test]
    fn a_snapshot_survives_the_wire() {
        let decoded = Snapshot::decode(&sample().encode()).unwrap();
        assert_eq!(decoded.driver_version, 13000);
        assert_eq!(decoded.devices[0].attribute(1), Some(1024));
        assert_eq!(decoded.devices[0].attribute(2), None);
        assert_eq!(decoded.errors[0].2, "out of memory");
    }

    #[test]
    fn every_truncation_is_refused() {
        let blob = sample().encode();
        for cut in 0..blob.len() {
            assert!(Snapshot::decode(&blob[..cut]).is_none(), "{cut} of {} bytes decoded", blob.len());
        }
    }
}
