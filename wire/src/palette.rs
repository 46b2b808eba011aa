//! The word palette: lossless compression of data with few distinct values.
//!
//! What training sends are pixels, normalised from 8-bit images: a plane of an image holds at most 256 distinct
//! words of 32 (or 16) bits. Such a run of words becomes one byte a word and a table of the words. Where three
//! planes are interleaved (`channels_last`) there are three tables, for every third word each. Where there are more
//! distinct words, data goes as it is.
//!
//! An encoded payload is a sequence of blocks, each a head and, without padding:
//!
//! * raw (`width` 0): `count` bytes;
//! * palette (`width` 2 or 4, `planes` 1 or 3): `count` rows of one index for each plane — none if every table has
//!   one word — and the tables. Rows come in strips of 64: first the indices of one plane, then those of the next.
//!   The last strip may have fewer.
//!
//! * `table`: how the index of a word is found;
//! * `kernel`: looking words up, and indices, in bulk: what is worth writing anew for a processor;
//! * `encoder`: where blocks end, which form they have, which tables are used again;
//! * `decoder`: believes nothing.

mod decoder;
mod encoder;
mod kernel;
mod table;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use decoder::decode_with;
pub use encoder::Encoder;
pub use kernel::{Form, Kernel, Portable, STRIP};
pub use table::{BUCKETS, COLOURS, INDEX_BITS, OCCUPIED, SLOT_BITS, SLOTS, Table, WINDOW_TURN};

use crate::error::ProtocolError;

/// Payloads shorter than this are not worth a try.
pub const LEAST_BYTES: usize = 16 << 10;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct BlockHead {
    /// Bytes of a word; 0 for bytes as they are.
    width: u8,
    planes: u8,
    reserved: [u8; 3],
    /// Words in the table of each plane, less one.
    last: [u8; 3],
    /// Rows, or bytes as they are.
    count: U32,
}

const HEAD: usize = size_of::<BlockHead>();

/// Encodes `source` without anything remembered from before: see [`Encoder::encode`].
pub fn encode(source: &[u8], out: &mut [u8]) -> Option<usize> {
    Encoder::new(&Portable).encode(source, out)
}

/// Decodes a payload into `out`, which it must fill exactly.
///
/// # Errors
/// [`ProtocolError::BadPalette`] for anything that [`encode`] does not make; `out` then holds nothing of use.
pub fn decode(encoded: &[u8], out: &mut [u8]) -> Result<(), ProtocolError> {
    decode_with(&Portable, encoded, out)
}
