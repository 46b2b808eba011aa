//! LZ4: for what the word palette is no use for, sparse and repetitive data, and images of code.
//!
//! Gradients and embeddings that are mostly zeros, padded batches of tokens, labels, text. Whether there is any use
//! in it is found out at a few places before a whole payload is tried. Nothing here that comes from a peer is
//! believed: output has the length that the caller gave it, and more or less than that is an error.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::error::ProtocolError;

/// Places at which a payload is looked at, and bytes looked at there: for repetition, and for what LZ4 makes of them.
const RUN_SAMPLES: usize = 32;
const RUN_BYTES: usize = 256;
const SAMPLES: usize = 4;
const SAMPLE_BYTES: std::ops::RangeInclusive<usize> = 1 << 10..=4 << 10;
/// Share of a payload that is looked at in each place, within those limits.
const SAMPLE_SHARE: usize = 64;

/// Bytes that the encoder needs room for, whatever becomes of the payload.
#[must_use]
pub fn room(bytes: usize) -> usize {
    get_maximum_output_size(bytes)
}

/// Whether at least half of the payload repeats what stands just before it, going by a few places. It is a matter of
/// nanoseconds.
#[must_use]
pub fn is_largely_runs(source: &[u8]) -> bool {
    let mut repeated = 0;
    let mut looked_at = 0;
    for place in places(source, RUN_SAMPLES, RUN_BYTES) {
        let (words, _) = place.as_chunks::<8>();
        repeated += words.windows(2).filter(|pair| pair[0] == pair[1]).count();
        looked_at += words.len().saturating_sub(1);
    }
    looked_at != 0 && 2 * repeated >= looked_at
}

/// Bytes at a few places of the payload, and what becomes of them: somewhat more than of as many bytes of the whole,
/// since each place is taken for itself.
#[must_use]
pub fn estimate(source: &[u8]) -> (usize, usize) {
    let mut out = [0; get_maximum_output_size(*SAMPLE_BYTES.end())];
    let bytes = (source.len() / SAMPLE_SHARE).clamp(*SAMPLE_BYTES.start(), *SAMPLE_BYTES.end());
    let (mut before, mut after) = (0, 0);
    for place in places(source, SAMPLES, bytes) {
        before += place.len();
        after += compress_into(place, &mut out).unwrap_or(place.len());
    }
    (before, after)
}

/// Pieces from all over the payload, at no regular distance: rows and planes are regular themselves.
fn places(source: &[u8], count: usize, bytes: usize) -> impl Iterator<Item = &[u8]> {
    let step = source.len() / count;
    let bytes = bytes.min(step);
    (0..count).filter_map(move |place| {
        let shift = ((place.wrapping_mul(0x9e37_79b1) >> 8) % (step - bytes + 1)) & !7;
        source.get(place * step + shift..)?.get(..bytes)
    })
}

/// Encodes a payload; `None` if that saves less than an eighth, or if `out` has less than its [`room`].
#[must_use]
pub fn encode(source: &[u8], out: &mut [u8]) -> Option<usize> {
    let bytes = compress_into(source, out).ok()?;
    (bytes <= source.len() - source.len() / 8).then_some(bytes)
}

/// Decodes a payload into `out`, which it must fill exactly.
///
/// # Errors
/// [`ProtocolError::BadEncoded`]; `out` then holds nothing of use.
pub fn decode(encoded: &[u8], out: &mut [u8]) -> Result<(), ProtocolError> {
    match decompress_into(encoded, out) {
        Ok(bytes) if bytes == out.len() => Ok(()),
        Ok(_) => Err(ProtocolError::BadEncoded { what: "less comes out than was announced" }),
        Err(_) => Err(ProtocolError::BadEncoded { what: "its LZ4 block is damaged" }),
    }
}
