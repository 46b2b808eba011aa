//! Compressed payloads: a byte that names the codec, then what it made.
//!
//! This file only tells codecs apart. When to use which is for `fusewire_link::compress` and, for images, for the
//! client; what they do is in [`crate::palette`] and [`crate::general`]. The decoder believes nothing: a payload
//! fills the memory that it is for to the last byte, or is refused, and nothing is allocated for it.

use crate::error::ProtocolError;
use crate::palette::{Kernel, Portable};
use crate::{general, palette};

/// Payloads shorter than this are not worth a try.
pub const LEAST_BYTES: usize = palette::LEAST_BYTES;

/// How a payload was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The word palette: few distinct words, such as pixels.
    Palette = 1,
    /// LZ4: sparse and repetitive data.
    General = 2,
}

/// Bytes that [`encode`] needs room for, whatever becomes of the payload.
#[must_use]
pub fn room(bytes: usize) -> usize {
    1 + general::room(bytes)
}

/// Encodes a payload into `out`, which has [`room`] for it. `None` if the codec saves less than about an eighth.
#[must_use]
pub fn encode(codec: Codec, source: &[u8], out: &mut [u8]) -> Option<usize> {
    tagged(codec, out, |body| match codec {
        Codec::Palette => palette::encode(source, body),
        Codec::General => general::encode(source, body),
    })
}

/// The same for who has an encoder of that codec: it is given the room behind the codec's name.
pub fn tagged(
    codec: Codec,
    out: &mut [u8],
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Option<usize> {
    let (tag, body) = out.split_first_mut()?;
    *tag = codec as u8;
    Some(1 + encode(body)?)
}

/// Decodes a payload into `out`, which it must fill exactly.
///
/// # Errors
/// [`ProtocolError::BadEncoded`] or [`ProtocolError::BadPalette`] for anything that [`encode`] does not make; `out`
/// then holds nothing of use.
pub fn decode(encoded: &[u8], out: &mut [u8]) -> Result<(), ProtocolError> {
    decode_with(&Portable, encoded, out)
}

/// The same with a palette kernel of the caller's choice.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(kernel: &dyn Kernel, encoded: &[u8], out: &mut [u8]) -> Result<(), ProtocolError> {
    match encoded.split_first() {
        Some((&tag, body)) if tag == Codec::Palette as u8 => palette::decode_with(kernel, body, out),
        Some((&tag, body)) if tag == Codec::General as u8 => general::decode(body, out),
        Some(_) => Err(ProtocolError::BadEncoded { what: "its codec is none that there is" }),
        None => Err(ProtocolError::BadEncoded { what: "it is empty" }),
    }
}
