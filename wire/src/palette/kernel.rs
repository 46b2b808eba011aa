//! The inner loops: looking up many words, or many indices. What is here runs anywhere; other implementations of
//! [`Kernel`], which may use what a processor offers, must give the same.

use std::fmt::Debug;
use std::hint::black_box;

use super::table::{COLOURS, Table, is_its};

/// Rows whose indices lie together, one plane after the other.
pub const STRIP: usize = 64;
/// Strips by which memory is fetched ahead.
const AHEAD: usize = 8;

/// What words are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bytes of a word: 2 or 4.
    pub width: usize,
    /// Planes that are interleaved, with a table for each: 1 or 3.
    pub planes: usize,
}

impl Form {
    pub const ALL: [Self; 4] = [
        Self { width: 4, planes: 1 },
        Self { width: 4, planes: 3 },
        Self { width: 2, planes: 1 },
        Self { width: 2, planes: 3 },
    ];

    /// Bytes of one word of each plane.
    #[must_use]
    pub fn row(self) -> usize {
        self.width * self.planes
    }
}

pub trait Kernel: Debug + Sync {
    /// Writes the indices of the words in `from`, looked up in their planes' `tables`: strip by strip up to the
    /// first that holds a word which has none, or does not fit `from` or `to`. Gives the number of strips; what is
    /// in `to` behind them is of no use.
    fn find(&self, form: Form, tables: &[Box<Table>], from: &[u8], to: &mut [u8]) -> usize;

    /// The reverse, for as many whole strips as fit `indices` and `to`. Gives their number.
    fn expand(&self, form: Form, colours: &[[u32; COLOURS]; 3], indices: &[u8], to: &mut [u8]) -> usize;
}

/// For any processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl Kernel for Portable {
    fn find(&self, form: Form, tables: &[Box<Table>], from: &[u8], to: &mut [u8]) -> usize {
        match (form.width, form.planes, tables) {
            (4, 1, [table]) => find_plain::<4>(table, from, to),
            (2, 1, [table]) => find_plain::<2>(table, from, to),
            (4, 3, [_, _, _]) => find_interleaved::<4>(tables, from, to),
            (2, 3, [_, _, _]) => find_interleaved::<2>(tables, from, to),
            _ => 0,
        }
    }

    fn expand(&self, form: Form, colours: &[[u32; COLOURS]; 3], indices: &[u8], to: &mut [u8]) -> usize {
        match (form.width, form.planes) {
            (4, 1) => expand_plain::<4>(&colours[0], indices, to),
            (2, 1) => expand_plain::<2>(&colours[0], indices, to),
            (4, 3) => expand_interleaved::<4>(colours, indices, to),
            (2, 3) => expand_interleaved::<2>(colours, indices, to),
            _ => 0,
        }
    }
}

fn find_plain<const WIDTH: usize>(table: &Table, from: &[u8], to: &mut [u8]) -> usize {
    let (strips, _) = from.as_chunks::<WIDTH>().0.as_chunks::<STRIP>();
    let (places, _) = to.as_chunks_mut::<STRIP>();
    for (at, (strip, places)) in strips.iter().zip(places.iter_mut()).enumerate() {
        if let Some(ahead) = strips.get(at + AHEAD) {
            touch(ahead);
        }
        let (mut difference, mut all) = (0, !0);
        for (bytes, place) in strip.iter().zip(places) {
            let (turned, entry) = table.look(word(bytes));
            *place = entry as u8;
            difference |= turned ^ entry;
            all &= entry;
        }
        if !is_its(difference, all) {
            return at;
        }
    }
    strips.len().min(places.len())
}

fn find_interleaved<const WIDTH: usize>(tables: &[Box<Table>], from: &[u8], to: &mut [u8]) -> usize {
    let [red, green, blue] = tables else { return 0 };
    let (strips, _) = from.as_chunks::<WIDTH>().0.as_chunks::<3>().0.as_chunks::<STRIP>();
    let (places, _) = to.as_chunks_mut::<STRIP>().0.as_chunks_mut::<3>();
    for (at, (strip, [reds, greens, blues])) in strips.iter().zip(places.iter_mut()).enumerate() {
        if let Some(ahead) = strips.get(at + AHEAD) {
            touch(ahead.as_flattened());
        }
        let (mut difference, mut all) = (0, !0);
        for (((row, r), g), b) in strip.iter().zip(reds).zip(greens).zip(blues) {
            for ((bytes, table), place) in row.iter().zip([red, green, blue]).zip([r, g, b]) {
                let (turned, entry) = table.look(word(bytes));
                *place = entry as u8;
                difference |= turned ^ entry;
                all &= entry;
            }
        }
        if !is_its(difference, all) {
            return at;
        }
    }
    strips.len().min(places.len())
}

fn expand_plain<const WIDTH: usize>(colours: &[u32; COLOURS], indices: &[u8], to: &mut [u8]) -> usize {
    let (strips, _) = indices.as_chunks::<STRIP>();
    let (places, _) = to.as_chunks_mut::<WIDTH>().0.as_chunks_mut::<STRIP>();
    for (strip, places) in strips.iter().zip(places.iter_mut()) {
        for (&index, place) in strip.iter().zip(places) {
            *place = bytes(colours[usize::from(index)]);
        }
    }
    strips.len().min(places.len())
}

fn expand_interleaved<const WIDTH: usize>(
    colours: &[[u32; COLOURS]; 3],
    indices: &[u8],
    to: &mut [u8],
) -> usize {
    let (strips, _) = indices.as_chunks::<STRIP>().0.as_chunks::<3>();
    let (places, _) = to.as_chunks_mut::<WIDTH>().0.as_chunks_mut::<3>().0.as_chunks_mut::<STRIP>();
    for ([reds, greens, blues], places) in strips.iter().zip(places.iter_mut()) {
        for (((row, &r), &g), &b) in places.iter_mut().zip(reds).zip(greens).zip(blues) {
            for ((place, colours), index) in row.iter_mut().zip(colours).zip([r, g, b]) {
                *place = bytes(colours[usize::from(index)]);
            }
        }
    }
    strips.len().min(places.len())
}

/// Has memory fetched, without waiting for it: a look at each of its cache lines.
#[inline]
fn touch<const WIDTH: usize>(words: &[[u8; WIDTH]]) {
    let mut all = 0;
    for bytes in words.iter().step_by(64 / WIDTH) {
        all |= bytes[0];
    }
    black_box(all);
}

#[inline]
fn word<const WIDTH: usize>(bytes: &[u8; WIDTH]) -> u32 {
    // Not by copying: that is a call of `memcpy` for two bytes, where it is not optimised away.
    match bytes.first_chunk::<4>() {
        Some(four) => u32::from_le_bytes(*four),
        None => bytes.first_chunk::<2>().map_or(0, |two| u32::from(u16::from_le_bytes(*two))),
    }
}

#[inline]
fn bytes<const WIDTH: usize>(word: u32) -> [u8; WIDTH] {
    let four = word.to_le_bytes();
    std::array::from_fn(|at| four[at % 4])
}
