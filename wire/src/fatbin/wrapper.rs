//! The wrapper: the 24-byte record that a compiled program passes instead of the container itself.
//!
//! It holds addresses of the program that made it. Nothing here follows them: the holder of the memory
//! does, sends the containers, and a new wrapper is made on the far side ([`Wrapper::to_bytes`]).
//!
//! Seen with driver 580: `cuLibraryLoadData` and the runtime's private table take a wrapper, but
//! `cuModuleLoadData` and `cuModuleLoadFatBinary` answer INVALID_IMAGE to one. The loader accepts other
//! version numbers as it does 1, and an ELF or PTX image where a container is expected.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::FatbinError;
use super::kind::WRAPPER_MAGIC;
use super::source::{ByteSource, read_record};

/// The most pre-linked containers a version-2 wrapper may name here.
pub const MAX_PRELINKED: usize = 1 << 16;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: U32,
    version: U32,
    data: U64,
    extra: U64,
}

/// What a wrapper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrapper {
    /// 1, or 2 for code that was linked on the device side. Anything else counts as 1.
    pub version: u32,
    /// Address of the (primary) image, by rule a container.
    pub data: u64,
    /// Version 2: address of an array of addresses of containers, ended by 0 (see
    /// [`prelinked_pointers`]), or 0. Otherwise address of a file name, or 0.
    pub extra: u64,
}

impl Wrapper {
    /// Bytes of a wrapper.
    pub const BYTES: usize = size_of::<Layout>();

    /// Reads the wrapper at the start of `source`.
    ///
    /// # Errors
    /// The bytes cannot be read, the magic is another, or the container address is 0.
    pub fn read<S: ByteSource + ?Sized>(source: &S) -> Result<Self, FatbinError> {
        let layout: Layout = read_record(source, 0, "wrapper")?;
        let bad = |what, offset, found, expected| FatbinError::BadField { what, offset, found, expected };
        if layout.magic.get() != WRAPPER_MAGIC {
            return Err(bad("wrapper magic", 0, layout.magic.get().into(), "0x466243b1"));
        }
        if layout.data.get() == 0 {
            return Err(bad("wrapper's container address", 8, 0, "an address"));
        }
        Ok(Self { version: layout.version.get(), data: layout.data.get(), extra: layout.extra.get() })
    }

    /// The bytes of this wrapper, to be placed at an address that is a multiple of 8.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        zerocopy::transmute!(Layout {
            magic: WRAPPER_MAGIC.into(),
            version: self.version.into(),
            data: self.data.into(),
            extra: self.extra.into(),
        })
    }
}

/// The container addresses in the list that a version-2 wrapper's `extra` points to; `list` reads there.
///
/// # Errors
/// The list cannot be read, or does not end within [`MAX_PRELINKED`] addresses.
pub fn prelinked_pointers<S: ByteSource + ?Sized>(list: &S) -> Result<Vec<u64>, FatbinError> {
    let mut pointers = Vec::new();
    loop {
        let offset = pointers.len() * size_of::<U64>();
        let pointer: U64 = read_record(list, offset as u64, "pre-linked container address")?;
        if pointer.get() == 0 {
            return Ok(pointers);
        }
        if pointers.len() == MAX_PRELINKED {
            return Err(FatbinError::TooLarge {
                what: "list of pre-linked containers",
                offset,
                size: pointers.len() as u64 + 1,
                limit: MAX_PRELINKED as u64,
            });
        }
        pointers.push(pointer.get());
    }
}
