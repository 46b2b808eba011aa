//! Builds images for the tests of the fat binary reader, field by field as the driver's format has them.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) const LZ4: u64 = 0x2000;
pub(crate) const ZSTD: u64 = 0x8000;
pub(crate) const ARCH_SPECIFIC: u64 = 0x10_0000;

/// One entry to be.
#[derive(Debug, Clone)]
pub(crate) struct EntrySpec {
    pub(crate) kind: u16,
    pub(crate) sm: u32,
    pub(crate) flags: u64,
    pub(crate) header_bytes: usize,
    pub(crate) payload: Vec<u8>,
    pub(crate) uncompressed_bytes: u64,
}

pub(crate) fn elf_entry(sm: u32) -> EntrySpec {
    EntrySpec { kind: 2, sm, flags: 0x11, header_bytes: 64, payload: elf(40), uncompressed_bytes: 0 }
}

pub(crate) fn ptx_entry(sm: u32, text: &str) -> EntrySpec {
    let payload = [text.as_bytes(), b"\0"].concat();
    EntrySpec { kind: 1, sm, flags: 0x11, header_bytes: 80, payload, uncompressed_bytes: 0 }
}

impl EntrySpec {
    pub(crate) fn compressed(mut self, flag: u64, uncompressed_bytes: usize, payload: Vec<u8>) -> Self {
        self.flags |= flag;
        self.uncompressed_bytes = uncompressed_bytes as u64;
        self.payload = payload;
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let padded = self.payload.len().next_multiple_of(8);
        let compressed = if self.flags & (LZ4 | ZSTD) == 0 { 0 } else { self.payload.len() as u32 };
        let mut bytes = vec![0; self.header_bytes.max(64)];
        put(&mut bytes, 0, &self.kind.to_le_bytes());
        put(&mut bytes, 2, &0x101_u16.to_le_bytes());
        put(&mut bytes, 4, &(self.header_bytes as u32).to_le_bytes());
        put(&mut bytes, 8, &(padded as u32).to_le_bytes());
        put(&mut bytes, 16, &compressed.to_le_bytes());
        put(&mut bytes, 24, &[8, 0, 1, 0]);
        put(&mut bytes, 28, &self.sm.to_le_bytes());
        put(&mut bytes, 40, &self.flags.to_le_bytes());
        put(&mut bytes, 56, &self.uncompressed_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes.resize(bytes.len() + padded - self.payload.len(), 0);
        bytes
    }
}

pub(crate) fn container(entries: &[EntrySpec]) -> Vec<u8> {
    let files: Vec<u8> = entries.iter().flat_map(EntrySpec::to_bytes).collect();
    let mut bytes = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    bytes.extend_from_slice(&(files.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&files);
    bytes
}

pub(crate) fn wrapper(version: u32, data: u64, extra: u64) -> Vec<u8> {
    let mut bytes = vec![0xb1, 0x43, 0x62, 0x46];
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&data.to_le_bytes());
    bytes.extend_from_slice(&extra.to_le_bytes());
    bytes
}

pub(crate) const ELF_HEADER: usize = 64;
pub(crate) const SECTION_ROW: usize = 64;
pub(crate) const SEGMENT_ROW: usize = 56;

/// A header with nothing behind it.
pub(crate) fn elf_header() -> Vec<u8> {
    let mut bytes = vec![0; ELF_HEADER];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 18, &190_u16.to_le_bytes());
    put(&mut bytes, 52, &64_u16.to_le_bytes());
    put(&mut bytes, 54, &(SEGMENT_ROW as u16).to_le_bytes());
    put(&mut bytes, 58, &(SECTION_ROW as u16).to_le_bytes());
    bytes
}

/// A section table row: type, offset, size.
pub(crate) fn section(kind: u32, offset: u64, bytes: u64) -> Vec<u8> {
    let mut row = vec![0; SECTION_ROW];
    put(&mut row, 4, &kind.to_le_bytes());
    put(&mut row, 24, &offset.to_le_bytes());
    put(&mut row, 32, &bytes.to_le_bytes());
    row
}

/// A segment table row: offset, size in the file.
pub(crate) fn segment(offset: u64, bytes: u64) -> Vec<u8> {
    let mut row = vec![0; SEGMENT_ROW];
    put(&mut row, 0, &1_u32.to_le_bytes());
    put(&mut row, 8, &offset.to_le_bytes());
    put(&mut row, 32, &bytes.to_le_bytes());
    put(&mut row, 40, &(1_u64 << 40).to_le_bytes());
    row
}

/// Header, section table and segment table, in this order, without the contents.
pub(crate) fn elf_with(sections: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = elf_header();
    if !sections.is_empty() {
        let at = bytes.len() as u64;
        put(&mut bytes, 40, &at.to_le_bytes());
        put(&mut bytes, 60, &(sections.len() as u16).to_le_bytes());
        bytes.extend(sections.concat());
    }
    if !segments.is_empty() {
        let at = bytes.len() as u64;
        put(&mut bytes, 32, &at.to_le_bytes());
        put(&mut bytes, 56, &(segments.len() as u16).to_le_bytes());
        bytes.extend(segments.concat());
    }
    bytes
}

/// A small whole ELF file with one section of `bytes` bytes.
pub(crate) fn elf(bytes: usize) -> Vec<u8> {
    let contents_at = ELF_HEADER + 2 * SECTION_ROW;
    let rows = [section(0, 0, 0), section(1, contents_at as u64, bytes as u64)];
    let mut image = elf_with(&rows, &[]);
    image.resize(contents_at + bytes, 0xcd);
    image
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
