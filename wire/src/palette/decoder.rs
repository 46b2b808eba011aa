//! Decoding: every length and index is checked against what is there.

use zerocopy::FromBytes;

use super::BlockHead;
use super::kernel::{Form, Kernel, STRIP};
use super::table::COLOURS;
use crate::error::ProtocolError;

/// Bytes of a cache line.
const ALIGNMENT: usize = 64;

/// Decodes a payload into `out`, which it must fill exactly.
///
/// # Errors
/// [`ProtocolError::BadPalette`] for anything that no encoder makes; `out` then holds nothing of use.
pub fn decode_with(kernel: &dyn Kernel, mut encoded: &[u8], mut out: &mut [u8]) -> Result<(), ProtocolError> {
    let bad = |what| ProtocolError::BadPalette { what };
    while !encoded.is_empty() {
        let (head, rest) =
            BlockHead::read_from_prefix(encoded).map_err(|_| bad("a block's head is cut short"))?;
        if head.reserved != [0; 3] || head.count.get() == 0 {
            return Err(bad("a block's head makes no sense"));
        }
        let form = Form { width: head.width.into(), planes: head.planes.into() };
        let is_raw = head.width == 0 && head.planes == 1 && head.last == [0; 3];
        let tables_fit =
            head.last.get(form.planes..).is_some_and(|others| others.iter().all(|last| *last == 0));
        if !(is_raw || Form::ALL.contains(&form) && tables_fit) {
            return Err(bad("a block has a form that there is not"));
        }
        let count = head.count.get() as usize;
        let row = if is_raw { 1 } else { form.row() };
        let bytes = count.checked_mul(row).ok_or(bad("a block is too long"))?;
        let (place, after) =
            out.split_at_mut_checked(bytes).ok_or(bad("more comes out than was announced"))?;
        out = after;
        encoded = if is_raw {
            let (data, rest) = rest.split_at_checked(count).ok_or(bad("a block is cut short"))?;
            place.copy_from_slice(data);
            rest
        } else {
            decode_rows(kernel, form, head.last, rest, place).map_err(bad)?
        };
    }
    if out.is_empty() { Ok(()) } else { Err(bad("less comes out than was announced")) }
}

/// Gives what follows the block.
fn decode_rows<'a>(
    kernel: &dyn Kernel,
    form: Form,
    last: [u8; 3],
    block: &'a [u8],
    out: &mut [u8],
) -> Result<&'a [u8], &'static str> {
    let cut = "a block is cut short";
    let rows = out.len() / form.row();
    let is_plain = last == [0; 3];
    let (indices, mut rest) =
        block.split_at_checked(if is_plain { 0 } else { rows * form.planes }).ok_or(cut)?;
    let mut colours = [[0; COLOURS]; 3];
    for (colours, last) in colours.iter_mut().zip(last).take(form.planes) {
        let (words, after) = rest.split_at_checked((usize::from(last) + 1) * form.width).ok_or(cut)?;
        if form.width == 4 {
            for (place, word) in colours.iter_mut().zip(words.as_chunks::<4>().0) {
                *place = u32::from_le_bytes(*word);
            }
        } else {
            for (place, word) in colours.iter_mut().zip(words.as_chunks::<2>().0) {
                *place = u16::from_le_bytes(*word).into();
            }
        }
        rest = after;
    }
    if is_plain {
        for (n, place) in out.chunks_exact_mut(form.width).enumerate() {
            place.copy_from_slice(&colours[n % form.planes][0].to_le_bytes()[..form.width]);
        }
        return Ok(rest);
    }
    check(form.planes, last, indices)?;
    // To where whole cache lines can be written. (Strips of several planes lie as they lie.)
    let early = out.as_ptr().align_offset(ALIGNMENT);
    let is_early = form.planes == 1 && early < out.len() && early.is_multiple_of(form.width);
    let early = if is_early { early } else { 0 };
    let (few, out) = out.split_at_mut(early);
    let (few_indices, indices) = indices.split_at(early / form.width);
    expand_strip(form, &colours, few_indices, few);
    let done = kernel.expand(form, &colours, indices, out) * STRIP * form.planes;
    expand_strip(form, &colours, &indices[done..], &mut out[done * form.width..]);
    Ok(rest)
}

/// Decodes the rows of one strip, or of a part of one.
fn expand_strip(form: Form, colours: &[[u32; COLOURS]; 3], indices: &[u8], out: &mut [u8]) {
    let rows = indices.len() / form.planes;
    for (n, place) in out.chunks_exact_mut(form.width).enumerate() {
        let (row, plane) = (n / form.planes, n % form.planes);
        let index = usize::from(indices[plane * rows + row]);
        place.copy_from_slice(&colours[plane][index].to_le_bytes()[..form.width]);
    }
}

/// Whether all indices are in their tables.
fn check(planes: usize, last: [u8; 3], indices: &[u8]) -> Result<(), &'static str> {
    if last[..planes].iter().all(|last| *last == u8::MAX) {
        return Ok(());
    }
    let highest = |indices: &[u8]| indices.iter().fold(0, |most, &index| most.max(index));
    let is_sound = if planes == 1 {
        highest(indices) <= last[0]
    } else {
        indices.chunks(STRIP * planes).all(|strip| {
            let rows = strip.len() / planes;
            rows != 0 && strip.chunks(rows).zip(last).all(|(plane, last)| highest(plane) <= last)
        })
    };
    if is_sound { Ok(()) } else { Err("an index is past the end of its table") }
}
