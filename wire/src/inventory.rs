//! The inventory: what a server says about its devices.
//!
//! A worker fills it in when it starts, the daemon keeps it and answers query
//! connections with it, and `fusewire gpus`, `fusewire health` and the NVML
//! stand-in read it.
//!
//! Layout: one [`InventoryHeader`] of `header_bytes`, then `count` entries of
//! `entry_bytes` each. A newer peer may append fields to both; [`parse`] copies
//! the part both sides know and leaves the rest zero, so the list can grow
//! without a new protocol version. For the same reason a sender may leave out
//! what is zero at the end of every entry, and does. A figure is known only when
//! its bit is set: zero is a fine temperature.
//!
//! This module only lays out and checks bytes; it never asks a driver. The
//! numbers that only NVML is asked for are in [`Figure`].

mod figure;

pub use figure::{FIGURES, Figure};

use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Most devices one inventory may list.
pub const MAX_DEVICES: usize = 64;
/// Longest entry, and longest header, accepted from a peer, in bytes.
pub const MAX_ENTRY_BYTES: usize = 4096;
/// Shortest header: up to and including its own length.
const MIN_HEADER_BYTES: usize = 24;

/// `memory_used` is known.
pub const KNOWN_MEMORY_USED: u64 = 1 << 0;
/// `utilisation_gpu` and `utilisation_memory` are known.
pub const KNOWN_UTILISATION: u64 = 1 << 1;
/// `temperature` is known.
pub const KNOWN_TEMPERATURE: u64 = 1 << 2;
/// `power_draw` is known.
pub const KNOWN_POWER_DRAW: u64 = 1 << 3;
/// `power_limit` is known.
pub const KNOWN_POWER_LIMIT: u64 = 1 << 4;
/// `fan` is known.
pub const KNOWN_FAN: u64 = 1 << 5;
/// `performance_state` is known.
pub const KNOWN_PERFORMANCE_STATE: u64 = 1 << 6;
/// `clock_sm` and `clock_memory` (the present clocks) are known.
pub const KNOWN_CLOCKS: u64 = 1 << 7;

/// What precedes the entries.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InventoryHeader {
    /// Entries that follow.
    pub count: u32,
    /// Bytes of each entry, a multiple of 8.
    pub entry_bytes: u32,
    /// What cuDriverGetVersion says: 13000 for CUDA 13.0.
    pub cuda_version: u32,
    /// Sessions open when the answer was made.
    pub sessions: u32,
    /// Most sessions the server admits; 0 when it sets no limit.
    pub max_sessions: u32,
    /// Bytes of this header, a multiple of 8.
    pub header_bytes: u32,
    /// Version of the kernel driver as text, such as `580.159.03`; empty when not known.
    pub driver: [u8; 64],
    /// Version of the Fusewire server as text.
    pub server: [u8; 32],
    /// Version of the server's NVML as text; empty when it has none.
    pub nvml: [u8; 40],
}

/// One device.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    /// Name as the driver gives it, UTF-8, zero padded.
    pub name: [u8; 128],
    /// The device's UUID.
    pub uuid: [u8; 16],
    /// Total memory, bytes.
    pub memory_total: u64,
    /// Memory in use, bytes.
    pub memory_used: u64,
    /// Which of the live figures are known: `KNOWN_…` bits.
    pub known: u64,
    /// Compute capability, major.
    pub compute_major: u32,
    /// Compute capability, minor.
    pub compute_minor: u32,
    /// PCI domain.
    pub pci_domain: u32,
    /// PCI bus.
    pub pci_bus: u32,
    /// PCI device.
    pub pci_device: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Busy share of the last sampling period, percent.
    pub utilisation_gpu: u32,
    /// Share of the last sampling period in which memory was read or written, percent.
    pub utilisation_memory: u32,
    /// Degrees Celsius.
    pub temperature: u32,
    /// Milliwatts.
    pub power_draw: u32,
    /// Milliwatts.
    pub power_limit: u32,
    /// Percent of full speed.
    pub fan: u32,
    /// 0 (fastest) to 15.
    pub performance_state: u32,
    /// MHz, now.
    pub clock_sm: u32,
    /// MHz, now.
    pub clock_memory: u32,
    /// MHz, at most.
    pub clock_sm_max: u32,
    /// MHz, at most.
    pub clock_memory_max: u32,
    /// 1 when error correction is on.
    pub ecc: u32,
    /// Serial number as text; empty when not known.
    pub serial: [u8; 32],
    /// Version of the video BIOS as text; empty when not known.
    pub vbios: [u8; 32],
    /// Part number of the board as text; empty when not known.
    pub part_number: [u8; 32],
    /// Version of the infoROM image as text; empty when not known.
    pub inforom_image: [u8; 16],
    /// Versions of the infoROM's OEM, ECC and power objects as text; empty when not known.
    pub inforom: [[u8; 16]; 3],
    /// Version of the GSP firmware as text; empty when not known.
    pub gsp_firmware: [u8; 32],
    /// Which figures are known: bit `n % 64` of word `n / 64` for figure `n`.
    pub figures_known: [u64; 4],
    /// The figures. This stays the last field: it grows.
    pub figures: [u64; FIGURES],
}

/// A parsed inventory.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// What holds for the server as a whole.
    pub header: InventoryHeader,
    /// The devices, in the driver's order.
    pub devices: Vec<DeviceInfo>,
}

/// Why bytes are not an inventory.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InventoryError {
    /// Fewer bytes than the header and its entries need.
    #[error("the inventory is cut short: {have} of {need} bytes")]
    Truncated {
        /// Bytes needed.
        need: usize,
        /// Bytes present.
        have: usize,
    },
    /// The header names more devices than [`MAX_DEVICES`].
    #[error("the inventory lists {0} devices, more than {MAX_DEVICES}")]
    TooMany(u32),
    /// The size of an entry is zero, not a multiple of 8, or above [`MAX_ENTRY_BYTES`].
    #[error("the inventory has entries of {0} bytes")]
    EntryBytes(u32),
    /// The size of the header is too small, not a multiple of 8, or above [`MAX_ENTRY_BYTES`].
    #[error("the inventory has a header of {0} bytes")]
    HeaderBytes(u32),
}

impl Inventory {
    /// An inventory of `devices` with an otherwise empty header. Devices past
    /// [`MAX_DEVICES`] are left out.
    #[must_use]
    pub fn new(mut devices: Vec<DeviceInfo>) -> Self {
        devices.truncate(MAX_DEVICES);
        Self { header: InventoryHeader::new_zeroed(), devices }
    }

    /// The bytes that travel. The header's counts and sizes are set from the list.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let devices = &self.devices[..self.devices.len().min(MAX_DEVICES)];
        let used = |device: &DeviceInfo| {
            device.as_bytes().iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
        };
        let entry = devices.iter().map(used).max().unwrap_or(0).next_multiple_of(8).max(8);
        let mut header = self.header;
        header.count = devices.len() as u32;
        header.entry_bytes = entry as u32;
        header.header_bytes = size_of::<InventoryHeader>() as u32;
        let mut out = Vec::with_capacity(size_of::<InventoryHeader>() + entry * devices.len());
        out.extend_from_slice(header.as_bytes());
        for device in devices {
            out.extend_from_slice(&device.as_bytes()[..entry]);
        }
        out
    }
}

/// Reads an inventory. Bytes after the last entry are ignored.
///
/// # Errors
/// [`InventoryError`] when the bytes do not hold what their header says.
pub fn parse(bytes: &[u8]) -> Result<Inventory, InventoryError> {
    let cut_short = |need| InventoryError::Truncated { need, have: bytes.len() };
    let mut header = InventoryHeader::new_zeroed();
    let start = bytes.get(..MIN_HEADER_BYTES).ok_or(cut_short(MIN_HEADER_BYTES))?;
    header.as_mut_bytes()[..MIN_HEADER_BYTES].copy_from_slice(start);
    let head = header.header_bytes as usize;
    if head < MIN_HEADER_BYTES || !head.is_multiple_of(8) || head > MAX_ENTRY_BYTES {
        return Err(InventoryError::HeaderBytes(header.header_bytes));
    }
    let (start, rest) = bytes.split_at_checked(head).ok_or(cut_short(head))?;
    copy_shared(header.as_mut_bytes(), start);
    let count = header.count as usize;
    if count > MAX_DEVICES {
        return Err(InventoryError::TooMany(header.count));
    }
    let entry = header.entry_bytes as usize;
    if count > 0 && (entry == 0 || !entry.is_multiple_of(8) || entry > MAX_ENTRY_BYTES) {
        return Err(InventoryError::EntryBytes(header.entry_bytes));
    }
    let mut devices = Vec::with_capacity(count);
    if count > 0 {
        let need = entry * count;
        let entries = rest.get(..need).ok_or(cut_short(head + need))?;
        for from in entries.chunks_exact(entry) {
            let mut device = DeviceInfo::new_zeroed();
            copy_shared(device.as_mut_bytes(), from);
            devices.push(device);
        }
    }
    Ok(Inventory { header, devices })
}

fn copy_shared(to: &mut [u8], from: &[u8]) {
    let shared = from.len().min(to.len());
    to[..shared].copy_from_slice(&from[..shared]);
}

impl InventoryHeader {
    /// The driver's version, empty when not known.
    #[must_use]
    pub fn driver_text(&self) -> String {
        text_of(&self.driver)
    }

    /// The server's version.
    #[must_use]
    pub fn server_text(&self) -> String {
        text_of(&self.server)
    }

    /// The version of the server's NVML, empty when it has none.
    #[must_use]
    pub fn nvml_text(&self) -> String {
        text_of(&self.nvml)
    }
}

impl DeviceInfo {
    /// The device's name.
    #[must_use]
    pub fn name_text(&self) -> String {
        text_of(&self.name)
    }

    /// The UUID as NVIDIA's tools write it: `GPU-` and 8-4-4-4-12 hex digits.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        let mut out = String::from("GPU");
        for (index, byte) in self.uuid.iter().enumerate() {
            if matches!(index, 0 | 4 | 6 | 8 | 10) {
                out.push('-');
            }
            out.push_str(&format!("{byte:02x}"));
        }
        out
    }

    /// The PCI address as sysfs writes it: `0000:3b:00.0`.
    #[must_use]
    pub fn pci_text(&self) -> String {
        format!("{:04x}:{:02x}:{:02x}.0", self.pci_domain, self.pci_bus, self.pci_device)
    }

    /// Whether all of the given `KNOWN_…` bits are set.
    #[must_use]
    pub fn knows(&self, bits: u64) -> bool {
        self.known & bits == bits
    }

    /// A figure, if it is known: as set, or else as one of the fields above has it.
    #[must_use]
    pub fn figure(&self, figure: Figure) -> Option<u64> {
        let index = figure as usize;
        let set = self.figures_known[index / 64] & (1 << (index % 64)) != 0;
        if set { self.figures.get(index).copied() } else { self.field(figure).map(u64::from) }
    }

    /// Sets a figure, and the field that has the same meaning if there is one.
    pub fn set_figure(&mut self, figure: Figure, value: u64) {
        let index = figure as usize;
        self.figures_known[index / 64] |= 1 << (index % 64);
        if let Some(place) = self.figures.get_mut(index) {
            *place = value;
        }
        let short = u32::try_from(value).unwrap_or(u32::MAX);
        let (field, bit) = match figure {
            Figure::UtilisationGpu => (&mut self.utilisation_gpu, KNOWN_UTILISATION),
            Figure::UtilisationMemory => (&mut self.utilisation_memory, KNOWN_UTILISATION),
            Figure::Temperature => (&mut self.temperature, KNOWN_TEMPERATURE),
            Figure::PowerUsage => (&mut self.power_draw, KNOWN_POWER_DRAW),
            Figure::PowerLimitEnforced => (&mut self.power_limit, KNOWN_POWER_LIMIT),
            Figure::FanSpeed => (&mut self.fan, KNOWN_FAN),
            Figure::PerformanceState => (&mut self.performance_state, KNOWN_PERFORMANCE_STATE),
            Figure::ClockSm => (&mut self.clock_sm, KNOWN_CLOCKS),
            Figure::ClockMemory => (&mut self.clock_memory, KNOWN_CLOCKS),
            Figure::ClockSmMost => (&mut self.clock_sm_max, 0),
            Figure::ClockMemoryMost => (&mut self.clock_memory_max, 0),
            Figure::EccMode => (&mut self.ecc, 0),
            _ => return,
        };
        *field = short;
        self.known |= bit;
    }

    /// What the fields say of a figure.
    fn field(&self, figure: Figure) -> Option<u32> {
        let (value, known) = match figure {
            Figure::UtilisationGpu => (self.utilisation_gpu, self.knows(KNOWN_UTILISATION)),
            Figure::UtilisationMemory => (self.utilisation_memory, self.knows(KNOWN_UTILISATION)),
            Figure::Temperature => (self.temperature, self.knows(KNOWN_TEMPERATURE)),
            Figure::PowerUsage => (self.power_draw, self.knows(KNOWN_POWER_DRAW)),
            Figure::PowerLimit | Figure::PowerLimitEnforced => {
                (self.power_limit, self.knows(KNOWN_POWER_LIMIT))
            }
            Figure::FanSpeed => (self.fan, self.knows(KNOWN_FAN)),
            Figure::PerformanceState => (self.performance_state, self.knows(KNOWN_PERFORMANCE_STATE)),
            Figure::ClockSm | Figure::ClockGraphics => (self.clock_sm, self.knows(KNOWN_CLOCKS)),
            Figure::ClockMemory => (self.clock_memory, self.knows(KNOWN_CLOCKS)),
            Figure::ClockSmMost | Figure::ClockGraphicsMost => (self.clock_sm_max, self.clock_sm_max != 0),
            Figure::ClockMemoryMost => (self.clock_memory_max, self.clock_memory_max != 0),
            Figure::EccMode | Figure::EccModePending => (self.ecc, true),
            _ => return None,
        };
        known.then_some(value)
    }
}

/// Copies `text` into a zero-padded field, cut at a character if it does not
/// fit; at least one zero byte always remains.
pub fn set_text(field: &mut [u8], text: &str) {
    field.fill(0);
    let mut end = text.len().min(field.len().saturating_sub(1));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
}

/// Text up to the first zero byte. Control characters are replaced, because
/// the text ends up on somebody's terminal.
#[must_use]
pub fn text_of(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

const _: () = {
    assert!(size_of::<InventoryHeader>().is_multiple_of(8));
    assert!(size_of::<DeviceInfo>().is_multiple_of(8));
    assert!(size_of::<DeviceInfo>() <= MAX_ENTRY_BYTES);
    assert!(FIGURES <= 4 * 64);
    // What the protocol's first version had ends before the first text that was added.
    assert!(std::mem::offset_of!(DeviceInfo, serial) == 240);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceInfo {
        let mut device = DeviceInfo::new_zeroed();
        set_text(&mut device.name, name);
        device.memory_total = 5 << 30;
        device.pci_bus = 0x3b;
        device.ecc = 1;
        device
    }

    #[test]
    fn survives_the_trip() {
        let mut sent = Inventory::new(vec![device("one"), device("two")]);
        sent.header.cuda_version = 13000;
        set_text(&mut sent.header.driver, "580.159.03");
        let got = parse(&sent.to_bytes()).unwrap();
        assert_eq!(got.devices.len(), 2);
        assert_eq!(got.devices[1].name_text(), "two");
        assert_eq!(got.devices[1].ecc, 1);
        assert_eq!(got.devices[0].pci_text(), "0000:3b:00.0");
        assert_eq!(got.header.driver_text(), "580.159.03");
        assert_eq!(got.devices[0].uuid_text(), "GPU-00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn entries_may_be_longer_or_shorter_than_ours() {
        let bytes = Inventory::new(vec![device("one")]).to_bytes();
        let head = size_of::<InventoryHeader>();
        let mut longer = bytes.clone();
        longer.resize(head + size_of::<DeviceInfo>(), 0);
        longer[4..8].copy_from_slice(&(size_of::<DeviceInfo>() as u32 + 16).to_le_bytes());
        longer.extend_from_slice(&[0xff; 16]);
        assert_eq!(parse(&longer).unwrap().devices[0].ecc, 1);
        let mut shorter = bytes[..head + 152].to_vec();
        shorter[4..8].copy_from_slice(&152u32.to_le_bytes());
        let got = parse(&shorter).unwrap().devices[0];
        assert_eq!((got.memory_total, got.ecc), (5 << 30, 0));
    }

    #[test]
    fn the_header_may_be_longer_or_shorter_than_ours() {
        let mut sent = Inventory::new(vec![device("one")]);
        set_text(&mut sent.header.driver, "580");
        set_text(&mut sent.header.nvml, "13.580");
        let bytes = sent.to_bytes();
        let head = size_of::<InventoryHeader>();
        let with = |length: usize, middle: &[u8]| {
            let mut out = bytes[..length.clamp(MIN_HEADER_BYTES, head)].to_vec();
            out[20..24].copy_from_slice(&(length as u32).to_le_bytes());
            out.extend_from_slice(middle);
            out.extend_from_slice(&bytes[head..]);
            parse(&out)
        };
        let longer = with(head + 8, &[0xff; 8]).unwrap();
        assert_eq!((longer.header.nvml_text().as_str(), longer.devices[0].ecc), ("13.580", 1));
        let shorter = with(120, &[]).unwrap();
        assert_eq!((shorter.header.driver_text(), shorter.header.nvml_text()), ("580".into(), String::new()));
        assert_eq!(shorter.devices[0].name_text(), "one");
        for bad in [0, 16, 25, 8192] {
            assert_eq!(with(bad, &[0; 8192]).unwrap_err(), InventoryError::HeaderBytes(bad as u32));
        }
    }

    #[test]
    fn zeros_at_the_end_do_not_travel() {
        let mut two = device("two");
        let short = Inventory::new(vec![device("one"), two]).to_bytes().len();
        two.set_figure(Figure::PowerInstant, 7);
        let long = Inventory::new(vec![device("one"), two]).to_bytes();
        assert!(short <= size_of::<InventoryHeader>() + 2 * 240 && long.len() > short);
        let got = parse(&long).unwrap();
        assert_eq!(got.devices[0].figure(Figure::PowerInstant), None);
        assert_eq!(got.devices[1].figure(Figure::PowerInstant), Some(7));
        assert!(parse(&Inventory::new(vec![DeviceInfo::new_zeroed()]).to_bytes()).is_ok());
    }

    #[test]
    fn figures_and_fields_agree() {
        let mut device = DeviceInfo::new_zeroed();
        assert_eq!(device.figure(Figure::Temperature), None);
        device.set_figure(Figure::Temperature, 0);
        assert_eq!(device.figure(Figure::Temperature), Some(0));
        assert!(device.knows(KNOWN_TEMPERATURE));
        device.set_figure(Figure::PowerUsage, u64::MAX);
        assert_eq!((device.power_draw, device.figure(Figure::PowerUsage)), (u32::MAX, Some(u64::MAX)));
        assert_eq!(device.figure(Figure::EccMode), Some(0));
        device.clock_sm_max = 1980;
        assert_eq!(device.figure(Figure::ClockGraphicsMost), Some(1980));
        assert_eq!(device.figure(Figure::Energy), None);
    }

    #[test]
    fn bad_lengths_are_refused() {
        let bytes = Inventory::new(vec![device("one")]).to_bytes();
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Err(InventoryError::Truncated { .. })), "{end}");
        }
        let with = |count: u32, entry: u32| {
            let mut bytes = bytes.clone();
            bytes[..4].copy_from_slice(&count.to_le_bytes());
            bytes[4..8].copy_from_slice(&entry.to_le_bytes());
            parse(&bytes).map(|_| ())
        };
        assert_eq!(with(u32::MAX, 256), Err(InventoryError::TooMany(u32::MAX)));
        assert_eq!(with(1, 0), Err(InventoryError::EntryBytes(0)));
        assert_eq!(with(1, u32::MAX), Err(InventoryError::EntryBytes(u32::MAX)));
        assert_eq!(with(1, 12), Err(InventoryError::EntryBytes(12)));
        assert_eq!(with(0, 0), Ok(()));
    }

    #[test]
    fn text_is_cut_at_a_character_and_made_harmless() {
        let mut field = [0xffu8; 4];
        set_text(&mut field, "aéé");
        assert_eq!(field, [b'a', 0xc3, 0xa9, 0]);
        assert_eq!(text_of(b"a\x1b[2Jb\0zzz"), "a?[2Jb");
        assert_eq!(text_of(&[0xff, b'x']), "\u{fffd}x");
    }
}
