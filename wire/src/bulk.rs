//! Bulk lanes: the header in front of each chunk of copied memory.
//!
//! Bulk data has connections of its own so that a launch never queues behind pixels. This file is the layout
//! and its checks; who may send which chunk when is `session::chunks`. Payloads never pass through this crate.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::ProtocolError;

/// What every chunk starts with ("BULK" in memory).
pub const CHUNK_MAGIC: u32 = 0x4b4c_5542;
/// Size of a [`ChunkHeader`].
pub const CHUNK_HEADER_BYTES: usize = 40;
/// The most bulk connections that a session can have.
pub const MAX_LANES: usize = 8;

/// No chunk but a copy's last is smaller: below this, what a chunk costs weighs more than what it carries.
pub const LEAST_CHUNK_BYTES: u64 = 64 << 10;

/// Bytes of each chunk of a copy of `bytes` bytes, but for its last. Both ends cut by this rule.
///
/// A copy too short to keep all lanes busy with full slots is cut smaller, so that it has them all the same.
pub fn chunk_bytes(bytes: u64, slot_bytes: u32) -> u64 {
    let slot = u64::from(slot_bytes).max(1);
    let share = bytes.div_ceil(MAX_LANES as u64);
    if share >= slot { slot } else { share.next_multiple_of(LEAST_CHUNK_BYTES).clamp(1, slot) }
}

/// The header in front of a chunk, as it lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`CHUNK_MAGIC`].
    pub magic: u32,
    /// Bytes of payload after this header; never 0.
    pub bytes: u32,
    /// A [`ChunkKind`].
    pub kind: u32,
    /// 0, or the payload is compressed (`encoded`) and comes to this many bytes.
    pub decoded: u32,
    /// The chunk's number in the session, of those that go this way.
    pub number: u64,
    /// Device-to-host: the copy's op number. Host-to-device: 0.
    pub copy: u64,
    /// Device-to-host: where in the copy's destination the payload belongs. Host-to-device: 0.
    pub offset: u64,
}

/// Which way a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ChunkKind {
    /// Client to server, into slot `number mod h2d_slots`.
    HostToDevice = 0,
    /// Server to client, into the program's own buffer.
    DeviceToHost = 1,
}

impl ChunkHeader {
    /// The header of host-to-device chunk `number`.
    pub fn host_to_device(number: u64, bytes: u32) -> Self {
        let kind = ChunkKind::HostToDevice as u32;
        Self { magic: CHUNK_MAGIC, bytes, kind, decoded: 0, number, copy: 0, offset: 0 }
    }

    /// The header of device-to-host chunk `number`: a piece of the copy with op number `copy`.
    pub fn device_to_host(number: u64, copy: u64, offset: u64, bytes: u32) -> Self {
        let kind = ChunkKind::DeviceToHost as u32;
        Self { magic: CHUNK_MAGIC, bytes, kind, decoded: 0, number, copy, offset }
    }

    /// Bytes of memory that the payload holds.
    pub fn contents(&self) -> u32 {
        if self.decoded == 0 { self.bytes } else { self.decoded }
    }

    /// Reads and judges the header at the start of `bytes`; `None` while fewer than 40 bytes are there.
    ///
    /// `expected` is the direction of this connection's incoming side, and `slot_bytes` the agreed most that
    /// a chunk may have. The destination range of a device-to-host chunk is for the caller to check.
    ///
    /// # Errors
    /// A header that no sound peer sends.
    pub fn parse(bytes: &[u8], expected: ChunkKind, slot_bytes: u32) -> Result<Option<Self>, ProtocolError> {
        if let Ok((magic, _)) = u32::read_from_prefix(bytes)
            && magic != CHUNK_MAGIC
        {
            return Err(ProtocolError::BadChunk { what: "magic", found: magic.into() });
        }
        let Ok((header, _)) = Self::read_from_prefix(bytes) else { return Ok(None) };
        if header.kind != expected as u32 {
            return Err(ProtocolError::BadChunk { what: "kind", found: header.kind.into() });
        }
        if header.bytes == 0 {
            return Err(ProtocolError::TooShort { what: "a chunk", bytes: 0, least: 1 });
        }
        if header.bytes > slot_bytes {
            let limit = slot_bytes.into();
            return Err(ProtocolError::TooLong { what: "a chunk", bytes: header.bytes.into(), limit });
        }
        if header.decoded != 0 && (header.decoded <= header.bytes || header.decoded > slot_bytes) {
            return Err(ProtocolError::BadChunk { what: "decoded length", found: header.decoded.into() });
        }
        let past_the_end = header.offset.checked_add(header.contents().into()).is_none();
        if past_the_end || (expected == ChunkKind::HostToDevice && header.offset != 0) {
            return Err(ProtocolError::BadChunk { what: "offset", found: header.offset });
        }
        if expected == ChunkKind::HostToDevice && header.copy != 0 {
            return Err(ProtocolError::BadChunk { what: "copy", found: header.copy });
        }
        Ok(Some(header))
    }
}

const _: () = assert!(size_of::<ChunkHeader>() == CHUNK_HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_copies_are_cut_for_all_lanes_and_long_ones_by_slots() {
        const SLOT: u32 = 1 << 20;
        assert_eq!(chunk_bytes(0, SLOT), 1);
        assert_eq!(chunk_bytes(1, SLOT), LEAST_CHUNK_BYTES);
        assert_eq!(chunk_bytes(1 << 20, SLOT), 128 << 10);
        assert_eq!(chunk_bytes((8 << 20) - 1, SLOT), 1 << 20);
        assert_eq!(chunk_bytes(1 << 30, SLOT), 1 << 20);
        assert_eq!(chunk_bytes(1 << 20, 4096), 4096);
        assert_eq!(chunk_bytes(u64::MAX, u32::MAX), u32::MAX.into());
        for bytes in [1u64, 65_535, 65_537, 1 << 20, 3_000_001] {
            assert!(bytes.div_ceil(chunk_bytes(bytes, SLOT)) <= MAX_LANES as u64);
        }
    }
}
