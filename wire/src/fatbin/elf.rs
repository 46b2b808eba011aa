//! The extent of an ELF file: the largest end over its header, tables, sections and segments.
//!
//! Nothing else of ELF is read here. Only 64-bit little-endian files are known; every cubin of the
//! supported drivers is one.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::FatbinError;
use super::source::{ByteSource, read_record};

/// More table rows than this mean garbage. A large cubin has some ten thousand sections.
const MAX_TABLE_ROWS: u64 = 1 << 22;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const SECTION_NULL: u32 = 0;
const SECTION_NO_BITS: u32 = 8;
/// `e_phnum` with this value stands for "see the first section".
const MANY_SEGMENTS: u16 = 0xffff;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileHeader {
    ident: [u8; 16],
    file_type: U16,
    machine: U16,
    version: U32,
    entry: U64,
    segments_at: U64,
    sections_at: U64,
    flags: U32,
    header_bytes: U16,
    segment_row_bytes: U16,
    segments: U16,
    section_row_bytes: U16,
    sections: U16,
    names_section: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentRow {
    segment_type: U32,
    flags: U32,
    offset: U64,
    virtual_address: U64,
    physical_address: U64,
    file_bytes: U64,
    memory_bytes: U64,
    align: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SectionRow {
    name: U32,
    section_type: U32,
    flags: U64,
    address: U64,
    offset: U64,
    bytes: U64,
    link: U32,
    info: U32,
    align: U64,
    entry_bytes: U64,
}

/// The number of bytes of the ELF file at the start of `source`.
pub(super) fn extent<S: ByteSource + ?Sized>(source: &S) -> Result<u64, FatbinError> {
    let header: FileHeader = read_record(source, 0, "ELF header")?;
    expect_byte("ELF class", 4, header.ident[4], CLASS_64, "2 (64-bit)")?;
    expect_byte("ELF byte order", 5, header.ident[5], LITTLE_ENDIAN, "1 (little endian)")?;

    let mut end = size_of::<FileHeader>() as u64;
    let sections_at = header.sections_at.get();
    let segments_at = header.segments_at.get();
    let mut section_count = u64::from(header.sections.get());
    let mut segment_count = u64::from(header.segments.get());

    // Counts that do not fit their fields are in the first section.
    if sections_at != 0 && (section_count == 0 || header.segments.get() == MANY_SEGMENTS) {
        let first: SectionRow = read_record(source, sections_at, "first ELF section header")?;
        if section_count == 0 {
            // The first section was read, so it is a part of the file even if it counts none.
            section_count = first.bytes.get().max(1);
        }
        if header.segments.get() == MANY_SEGMENTS {
            segment_count = u64::from(first.info.get());
        }
    }

    if sections_at != 0 && section_count != 0 {
        let table = Table {
            what: "ELF section table",
            at: sections_at,
            rows: section_count,
            row_bytes: header.section_row_bytes.get().into(),
        };
        end = end.max(table.end(58, size_of::<SectionRow>())?);
        for row in table.row_offsets() {
            let section: SectionRow = read_record(source, row, "ELF section header")?;
            let has_bytes = !matches!(section.section_type.get(), SECTION_NULL | SECTION_NO_BITS);
            if has_bytes && section.bytes.get() != 0 {
                end = end.max(piece_end("ELF section", row, section.offset.get(), section.bytes.get())?);
            }
        }
    }

    if segments_at != 0 && segment_count != 0 {
        let table = Table {
            what: "ELF segment table",
            at: segments_at,
            rows: segment_count,
            row_bytes: header.segment_row_bytes.get().into(),
        };
        end = end.max(table.end(54, size_of::<SegmentRow>())?);
        for row in table.row_offsets() {
            let segment: SegmentRow = read_record(source, row, "ELF segment header")?;
            if segment.file_bytes.get() != 0 {
                let bytes = segment.file_bytes.get();
                end = end.max(piece_end("ELF segment", row, segment.offset.get(), bytes)?);
            }
        }
    }
    Ok(end)
}

struct Table {
    what: &'static str,
    at: u64,
    rows: u64,
    row_bytes: u64,
}

impl Table {
    /// The end of the table, which also proves that no row offset overflows.
    fn end(&self, size_field: usize, least: usize) -> Result<u64, FatbinError> {
        if self.row_bytes < least as u64 {
            return Err(FatbinError::BadField {
                what: self.what,
                offset: size_field,
                found: self.row_bytes,
                expected: "rows of at least 64 bytes for sections, 56 for segments",
            });
        }
        if self.rows > MAX_TABLE_ROWS {
            return Err(FatbinError::TooLarge {
                what: self.what,
                offset: as_offset(self.at),
                size: self.rows,
                limit: MAX_TABLE_ROWS,
            });
        }
        piece_end(self.what, self.at, self.at, self.rows * self.row_bytes)
    }

    fn row_offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let (at, row_bytes) = (self.at, self.row_bytes);
        (0..self.rows).map(move |row| at + row * row_bytes)
    }
}

fn piece_end(what: &'static str, named_at: u64, offset: u64, bytes: u64) -> Result<u64, FatbinError> {
    offset.checked_add(bytes).ok_or(FatbinError::BadField {
        what,
        offset: as_offset(named_at),
        found: offset,
        expected: "an offset whose end is below 2^64",
    })
}

fn expect_byte(
    what: &'static str,
    offset: usize,
    found: u8,
    wanted: u8,
    expected: &'static str,
) -> Result<(), FatbinError> {
    if found == wanted {
        return Ok(());
    }
    Err(FatbinError::BadField { what, offset, found: found.into(), expected })
}

/// Only for messages.
fn as_offset(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
