//! The container: a header, then entries, each a header of its own size and a padded payload.
//!
//! ```text
//! +--------+---------------------+---------+---------------------+---------+ ...
//! | header | entry header (>=64) | payload | entry header (>=64) | payload |
//! +--------+---------------------+---------+---------------------+---------+ ...
//!          |<-------------------- files_bytes of the header --------------------->|
//! ```
//!
//! Entry headers grow with compiler versions, so only the first 64 bytes are interpreted and the
//! size they state is what leads to the payload.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::FatbinError;
use super::kind::CONTAINER_MAGIC;

const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCH_SPECIFIC: u64 = 0x10_0000;
const FLAG_FAMILY_SPECIFIC: u64 = 0x20_0000;

/// The fixed start of a container.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct ContainerHeader {
    magic: U32,
    version: U16,
    header_bytes: U16,
    pub(super) files_bytes: U64,
}

impl ContainerHeader {
    pub(super) const BYTES: usize = size_of::<Self>();

    /// Header and entries together.
    pub(super) fn total(&self) -> Result<u64, FatbinError> {
        let bad =
            |what, offset, found, expected| Err(FatbinError::BadField { what, offset, found, expected });
        if self.magic.get() != CONTAINER_MAGIC {
            return bad("container magic", 0, self.magic.get().into(), "0xba55ed50");
        }
        if self.version.get() != 1 {
            return bad("container version", 4, self.version.get().into(), "1");
        }
        if usize::from(self.header_bytes.get()) < Self::BYTES {
            return bad("container header size", 6, self.header_bytes.get().into(), "at least 16");
        }
        let Some(total) = u64::from(self.header_bytes.get()).checked_add(self.files_bytes.get()) else {
            return bad("container files size", 8, self.files_bytes.get(), "a total below 2^64");
        };
        Ok(total)
    }
}

/// A container that lies whole in memory.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    header: &'a [u8],
    files: &'a [u8],
}

impl<'a> Container<'a> {
    /// Takes the container at the start of `bytes`; bytes after its end are ignored.
    ///
    /// # Errors
    /// The header is not a container's, or the container reaches beyond `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FatbinError> {
        let truncated =
            |what, needed| FatbinError::Truncated { what, offset: 0, needed, available: bytes.len() };
        let (header, _) = ContainerHeader::read_from_prefix(bytes)
            .map_err(|_| truncated("container header", ContainerHeader::BYTES as u64))?;
        let total = header.total()?;
        let whole = usize::try_from(total)
            .ok()
            .and_then(|total| bytes.get(..total))
            .ok_or_else(|| truncated("container", total))?;
        let (header, files) = whole
            .split_at_checked(header.header_bytes.get().into())
            .ok_or_else(|| truncated("container header", header.header_bytes.get().into()))?;
        Ok(Self { header, files })
    }

    /// Bytes of header and entries together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.header.len() + self.files.len()
    }

    /// The entries in order. After an error the iterator ends: what follows a broken entry is unknown.
    #[must_use]
    pub fn entries(&self) -> Entries<'a> {
        Entries { rest: self.files, offset: self.header.len() }
    }

    pub(super) fn header(&self) -> &'a [u8] {
        self.header
    }
}

/// Iterator over the entries of a [`Container`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, FatbinError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = Entry::parse(self.rest, self.offset);
        match &entry {
            Ok(entry) => {
                self.rest = &self.rest[entry.bytes.len()..];
                self.offset += entry.bytes.len();
            }
            Err(_) => self.rest = &[],
        }
        Some(entry)
    }
}

impl std::iter::FusedIterator for Entries<'_> {}

/// What an entry holds.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// PTX text, which the driver compiles for the GPU it finds.
    Ptx,
    /// A cubin: machine code for one architecture.
    Elf,
    /// Anything else, by its number.
    Other(u16),
}

/// How an entry's payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// One LZ4 block, without a frame.
    Lz4,
    /// A Zstandard frame.
    Zstd,
}

/// For which GPUs of its SM number an entry was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchVariant {
    /// Plain `sm_90`: that and later minor versions.
    Generic,
    /// `sm_90a`: exactly that GPU.
    ArchSpecific,
    /// `sm_100f`: that family.
    FamilySpecific,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryHeader {
    kind: U16,
    version: U16,
    header_bytes: U32,
    payload_bytes: U64,
    compressed_bytes: U32,
    options_at: U32,
    code_minor: U16,
    code_major: U16,
    sm: U32,
    name_at: U32,
    name_bytes: U32,
    flags: U64,
    reserved: U64,
    uncompressed_bytes: U64,
}

/// One entry of a container, as its header describes it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Where the entry's header starts, in bytes from the start of the container.
    pub offset: usize,
    /// What it holds.
    pub kind: EntryKind,
    /// The architecture it was compiled for, ten times the major version plus the minor: 90 for `sm_90`.
    pub sm: u32,
    /// Version of the code format: of PTX for PTX.
    pub code_version: (u16, u16),
    /// All flags, uninterpreted.
    pub flags: u64,
    /// Bytes of the compressed data; 0 if it is not compressed. Unchecked.
    pub compressed_bytes: u32,
    /// Bytes of the data when decompressed; may be 0 if it is not compressed. Unchecked.
    pub uncompressed_bytes: u64,
    /// The payload with its padding.
    pub payload: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(rest: &'a [u8], offset: usize) -> Result<Self, FatbinError> {
        let truncated = |what, needed| FatbinError::Truncated { what, offset, needed, available: rest.len() };
        let least = size_of::<EntryHeader>();
        let (header, _) =
            EntryHeader::ref_from_prefix(rest).map_err(|_| truncated("entry header", least as u64))?;
        let header_bytes = u64::from(header.header_bytes.get());
        if header_bytes < least as u64 {
            return Err(FatbinError::BadField {
                what: "entry header size",
                offset: offset + 4,
                found: header_bytes,
                expected: "at least 64",
            });
        }
        let needed = header_bytes.saturating_add(header.payload_bytes.get());
        let bytes = usize::try_from(needed)
            .ok()
            .and_then(|needed| rest.get(..needed))
            .ok_or_else(|| truncated("entry", needed))?;
        let payload = usize::try_from(header_bytes)
            .ok()
            .and_then(|start| bytes.get(start..))
            .ok_or_else(|| truncated("entry header", header_bytes))?;
        Ok(Self {
            offset,
            kind: match header.kind.get() {
                1 => EntryKind::Ptx,
                2 => EntryKind::Elf,
                other => EntryKind::Other(other),
            },
            sm: header.sm.get(),
            code_version: (header.code_major.get(), header.code_minor.get()),
            flags: header.flags.get(),
            compressed_bytes: header.compressed_bytes.get(),
            uncompressed_bytes: header.uncompressed_bytes.get(),
            payload,
            bytes,
        })
    }

    /// The entry as it lies in the container: header, payload and padding.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the payload starts, in bytes from the start of the container.
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        self.offset + (self.bytes.len() - self.payload.len())
    }

    /// How the payload is compressed.
    ///
    /// # Errors
    /// Two compressions at once are claimed.
    pub fn compression(&self) -> Result<Compression, FatbinError> {
        match (self.flags & FLAG_LZ4 != 0, self.flags & FLAG_ZSTD != 0) {
            (false, false) => Ok(Compression::None),
            (true, false) => Ok(Compression::Lz4),
            (false, true) => Ok(Compression::Zstd),
            (true, true) => Err(FatbinError::BadField {
                what: "entry flags",
                offset: self.offset + 40,
                found: self.flags,
                expected: "at most one of 0x2000 (LZ4) and 0x8000 (Zstandard)",
            }),
        }
    }

    /// Whether the entry is for all GPUs of its SM number and later, one, or a family.
    #[must_use]
    pub fn arch_variant(&self) -> ArchVariant {
        if self.flags & FLAG_ARCH_SPECIFIC != 0 {
            ArchVariant::ArchSpecific
        } else if self.flags & FLAG_FAMILY_SPECIFIC != 0 {
            ArchVariant::FamilySpecific
        } else {
            ArchVariant::Generic
        }
    }
}
