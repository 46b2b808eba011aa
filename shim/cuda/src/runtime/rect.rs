//! Pitched and three-dimensional copies: what one touches, and the pieces in which it travels.
//!
//! A host side travels packed, without gaps, in pieces that fit one bulk chunk. What stays on the device is
//! one operation.

use std::ops::Range;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;

/// A box of rows: bytes, rows, layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Extent {
    pub(crate) fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` for more than there are addresses.
    pub(crate) fn bytes(&self) -> Result<usize, CUresult> {
        let rows = self.height.checked_mul(self.depth);
        rows.and_then(|rows| rows.checked_mul(self.width)).ok_or(CUDA_ERROR_INVALID_VALUE)
    }
}

/// Where a box begins in something larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) z: usize,
}

/// Pitched memory: bytes from row to row, rows from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pitch {
    pub(crate) row: usize,
    pub(crate) rows: usize,
}

impl Pitch {
    /// A pitch as the program gives it; 0 says that there are no gaps.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` when rows or layers would overlap.
    pub(crate) fn of(row: usize, rows: usize, at: Offset, extent: Extent) -> Result<Self, CUresult> {
        let wide = at.x.checked_add(extent.width).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let high = at.y.checked_add(extent.height).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let row = if row == 0 { wide } else { row };
        let one_layer = extent.depth <= 1 && at.z == 0;
        let rows = if rows == 0 || (one_layer && rows < high) { high } else { rows };
        if row < wide || rows < high { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(Self { row, rows }) }
    }

    /// Bytes from the base to a place.
    pub(crate) fn at(&self, at: Offset) -> Option<usize> {
        at.z.checked_mul(self.rows)?.checked_add(at.y)?.checked_mul(self.row)?.checked_add(at.x)
    }

    /// The bytes that a box spans, gaps included, from the base.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` for more than there are addresses.
    pub(crate) fn span(&self, at: Offset, extent: Extent) -> Result<Range<usize>, CUresult> {
        let span = || {
            let start = self.at(at)?;
            let rows = extent
                .depth
                .checked_sub(1)?
                .checked_mul(self.rows)?
                .checked_add(extent.height.checked_sub(1)?)?;
            let end = rows.checked_mul(self.row)?.checked_add(extent.width)?.checked_add(start)?;
            Some(start..end)
        };
        span().ok_or(CUDA_ERROR_INVALID_VALUE)
    }

    /// Whether a box is one run of bytes.
    pub(crate) fn is_dense(&self, extent: Extent) -> bool {
        (extent.height == 1 || self.row == extent.width || extent.depth * extent.height == 1)
            && (extent.depth == 1 || (self.rows == extent.height && self.row == extent.width))
    }
}

/// A part of a copy, which fits one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: Offset,
    pub(crate) extent: Extent,
}

/// Cuts a box into pieces of at most `most` bytes: whole layers, else whole rows, else parts of a row.
pub(crate) fn pieces(whole: Extent, most: usize) -> impl Iterator<Item = Piece> {
    let most = most.max(1);
    let whole = if whole.is_empty() { Extent::default() } else { whole };
    let width = whole.width.min(most).max(1);
    let rows = if whole.width > most { 1 } else { (most / width).clamp(1, whole.height.max(1)) };
    let layer = whole.width.saturating_mul(whole.height).max(1);
    let layers = if layer > most { 1 } else { (most / layer).clamp(1, whole.depth.max(1)) };
    let steps =
        |length: usize, step: usize| (0..length).step_by(step).map(move |at| (at, step.min(length - at)));
    steps(whole.depth, layers).flat_map(move |(z, depth)| {
        steps(whole.height, rows).flat_map(move |(y, height)| {
            steps(whole.width, width).map(move |(x, width)| Piece {
                at: Offset { x, y, z },
                extent: Extent { width, height, depth },
            })
        })
    })
}

/// The rows of a piece, as offsets in pitched memory.
fn row_offsets(pitch: Pitch, at: Offset, extent: Extent) -> impl Iterator<Item = usize> {
    let layers = at.z..at.z + extent.depth;
    layers.flat_map(move |z| {
        (at.y..at.y + extent.height).filter_map(move |y| pitch.at(Offset { x: at.x, y, z }))
    })
}

/// Takes a box out of pitched memory, packed.
///
/// # Safety
/// The box lies in readable memory.
pub(crate) unsafe fn gather(base: *const u8, pitch: Pitch, at: Offset, extent: Extent) -> Box<[u8]> {
    let mut packed = Vec::with_capacity(extent.width * extent.height * extent.depth);
    for offset in row_offsets(pitch, at, extent) {
        // SAFETY: a row of the box.
        packed.extend_from_slice(unsafe { std::slice::from_raw_parts(base.add(offset), extent.width) });
    }
    packed.into_boxed_slice()
}

/// Puts packed rows where they belong in pitched memory.
///
/// # Safety
/// The box lies in writable memory.
pub(crate) unsafe fn scatter(packed: &[u8], base: *mut u8, pitch: Pitch, at: Offset, extent: Extent) {
    for (row, offset) in packed.chunks_exact(extent.width.max(1)).zip(row_offsets(pitch, at, extent)) {
        // SAFETY: a row of the box; the source is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), base.add(offset), row.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Offset = Offset { x: 0, y: 0, z: 0 };

    fn extent(width: usize, height: usize, depth: usize) -> Extent {
        Extent { width, height, depth }
    }

    #[test]
    fn pieces_cover_a_box_once_and_fit() {
        for (whole, most) in [
            (extent(10, 7, 3), 1000),
            (extent(10, 7, 3), 70),
            (extent(10, 7, 3), 69),
            (extent(10, 7, 3), 25),
            (extent(10, 7, 3), 10),
            (extent(10, 7, 3), 4),
            (extent(1, 1, 1), 1),
            (extent(5, 1, 9), 11),
        ] {
            let mut seen = vec![0u8; whole.bytes().unwrap()];
            for Piece { at, extent } in pieces(whole, most) {
                assert!(extent.bytes().unwrap() <= most, "{whole:?} in {most}: {extent:?}");
                for z in at.z..at.z + extent.depth {
                    for y in at.y..at.y + extent.height {
                        for x in at.x..at.x + extent.width {
                            seen[(z * whole.height + y) * whole.width + x] += 1;
                        }
                    }
                }
            }
            assert!(seen.iter().all(|times| *times == 1), "{whole:?} in {most}");
        }
        assert_eq!(pieces(extent(10, 0, 3), 100).count(), 0);
        assert_eq!(pieces(extent(10, 7, 3), 1000).count(), 1);
        assert_eq!(pieces(extent(10, 7, 3), 140).count(), 2, "whole layers");
        assert_eq!(pieces(extent(10, 7, 1), 25).count(), 4, "whole rows");
    }

    #[test]
    fn pitches_are_as_the_driver_takes_them() {
        let at = Offset { x: 8, y: 1, z: 0 };
        assert_eq!(Pitch::of(0, 0, NONE, extent(32, 4, 1)), Ok(Pitch { row: 32, rows: 4 }));
        assert_eq!(Pitch::of(64, 0, at, extent(32, 4, 1)), Ok(Pitch { row: 64, rows: 5 }));
        assert!(Pitch::of(39, 0, at, extent(32, 4, 1)).is_err(), "x and width are beyond the pitch");
        assert!(Pitch::of(16, 0, NONE, extent(32, 1, 1)).is_err(), "even with one row");
        assert!(Pitch::of(32, 3, NONE, extent(32, 4, 2)).is_err(), "layers overlap");
        assert!(Pitch::of(0, 0, Offset { x: usize::MAX, y: 0, z: 0 }, extent(1, 1, 1)).is_err());
    }

    #[test]
    fn spans_reach_from_the_first_byte_to_the_last() {
        let pitch = Pitch { row: 64, rows: 10 };
        let at = Offset { x: 4, y: 2, z: 1 };
        assert_eq!(pitch.span(at, extent(8, 3, 2)), Ok(772..772 + 12 * 64 + 8));
        assert!(Pitch { row: usize::MAX, rows: 2 }.span(at, extent(8, 3, 2)).is_err());
        assert!(pitch.span(at, extent(8, 0, 1)).is_err());
    }

    #[test]
    fn dense_boxes_are_one_run_of_bytes() {
        let pitch = Pitch { row: 16, rows: 4 };
        assert!(pitch.is_dense(extent(8, 1, 1)));
        assert!(pitch.is_dense(extent(16, 3, 1)));
        assert!(pitch.is_dense(extent(16, 4, 2)));
        assert!(!pitch.is_dense(extent(16, 3, 2)));
        assert!(!pitch.is_dense(extent(8, 2, 1)));
        assert!(!pitch.is_dense(extent(8, 1, 2)));
    }

    #[test]
    fn what_is_gathered_can_be_scattered() {
        let memory: Vec<u8> = (0..=255).collect();
        let pitch = Pitch { row: 16, rows: 4 };
        let (at, size) = (Offset { x: 3, y: 1, z: 1 }, extent(5, 2, 2));
        // SAFETY: rows of 16 bytes, 4 to a layer: the box ends in the third of four layers.
        let packed = unsafe { gather(memory.as_ptr(), pitch, at, size) };
        assert_eq!(packed[..10], [83, 84, 85, 86, 87, 99, 100, 101, 102, 103]);
        assert_eq!(packed[10], 147);
        let mut target = vec![0u8; 256];
        // SAFETY: as above.
        unsafe { scatter(&packed, target.as_mut_ptr(), pitch, at, size) };
        assert_eq!(target.iter().filter(|byte| **byte != 0).count(), 20);
        assert_eq!(target[147..152], memory[147..152]);
    }
}
