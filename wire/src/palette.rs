//! The word palette: lossless compression of data with few distinct values.
//!
//! What training sends are pixels, normalised from 8-bit images: a plane of an image holds at most 256 distinct
//! words of 32 (or 16) bits. Such a run of words becomes one byte a word and a table of the words. Where there
//! are more, data goes as it is; a look at a few places says beforehand whether there is any use in trying.
//!
//! An encoded payload is a sequence of blocks, each a [`BlockHead`] and, without padding:
//!
//! * raw (`width` 0): `count` bytes;
//! * palette (`width` 2 or 4): `count` indices of one byte — none if the table has one word — and the table.
//!
//! The encoder starts a new block when a table overflows, so blocks end about where planes do. The decoder
//! believes nothing: every length and index is checked against what is there.

use std::hint::black_box;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ProtocolError;

/// Payloads shorter than this are not worth a try.
pub const LEAST_BYTES: usize = 16 << 10;

/// Words in a table at most.
const COLOURS: usize = 256;
/// Entries of the encoder's table, as a power of two: with the words of a batch it fits a core's nearest cache.
const TABLE_BITS: u32 = 14;
/// Words that are looked up at once, before it is asked whether all of them were found.
const BATCH: usize = 64;
/// Batches by which memory is fetched ahead.
const AHEAD: usize = 8;
/// Words looked for in the list of the homeless before other multipliers are tried: at first, and then.
const PATIENCE: usize = 32;
const LONG_PATIENCE: usize = 512;
/// Multipliers that are tried each time.
const MULTIPLIERS: usize = 16;
/// A palette of fewer words than this is not worth its table.
const LEAST_WORDS: usize = 1024;
/// Bytes that are taken as they are when a table has overflowed too early: the first time, and at most.
const RAW_FIRST: usize = 4 << 10;
const RAW_MOST: usize = 64 << 10;
/// Places at which data is looked at beforehand, and words looked at there: twice what a table holds.
const SAMPLES: usize = 8;
const SAMPLE_WORDS: usize = 2 * COLOURS;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct BlockHead {
    /// Bytes of a word; 0 for bytes as they are.
    width: u8,
    /// Words in the table, less one.
    last: u8,
    reserved: [u8; 2],
    /// Words, or bytes as they are.
    count: U32,
}

const HEAD: usize = size_of::<BlockHead>();

/// Words seen so far, by their hash. Each has an entry of the table to itself, so that a word is found without a
/// branch that depends on the data; those whose entry was taken lie in a list, until a multiplier is found with
/// which there are none, or hardly any.
struct Palette {
    /// Indices by hash: 0 where there is none, which the word there contradicts.
    table: [u8; 1 << TABLE_BITS],
    words: [u32; COLOURS],
    /// At least one, or nothing would contradict an empty entry.
    count: usize,
    multiplier: u32,
    /// Indices of the words that have no entry.
    homeless: [u8; COLOURS],
    homeless_count: usize,
    /// Words still to be looked for among those.
    patience: usize,
}

impl Palette {
    fn new() -> Self {
        Self {
            table: [0; 1 << TABLE_BITS],
            words: [0; COLOURS],
            count: 1,
            multiplier: 0x9e37_79b1,
            homeless: [0; COLOURS],
            homeless_count: 0,
            patience: PATIENCE,
        }
    }

    /// Forgets all words and begins with this one.
    fn restart(&mut self, first: u32) {
        self.empty_table();
        self.words[0] = first;
        self.count = 1;
        self.homeless_count = 0;
        self.patience = PATIENCE;
    }

    /// Takes all words out of the table: far fewer stores than filling it anew.
    fn empty_table(&mut self) {
        for &word in &self.words[..self.count] {
            self.table[Self::hash(word, self.multiplier)] = 0;
        }
    }

    #[inline]
    fn hash(word: u32, multiplier: u32) -> usize {
        (word.wrapping_mul(multiplier) >> (32 - TABLE_BITS)) as usize
    }

    /// Gives the words' indices; `false`: some of them are wrong.
    #[inline]
    fn indices<const WIDTH: usize>(&self, from: &[[u8; WIDTH]; BATCH], to: &mut [u8; BATCH]) -> bool {
        let mut difference = 0;
        // Several words are read at once: loads are what a core has too few of.
        let (several, _) = from.as_flattened().as_chunks::<8>();
        for (bytes, places) in several.iter().zip(to.chunks_exact_mut(8 / WIDTH)) {
            let mut rest = u64::from_le_bytes(*bytes);
            for place in places {
                let word = if WIDTH == 4 { rest as u32 } else { u32::from(rest as u16) };
                rest >>= 8 * WIDTH;
                let index = self.table[Self::hash(word, self.multiplier)];
                *place = index;
                difference |= self.words[usize::from(index)] ^ word;
            }
        }
        difference == 0
    }

    /// Begins anew and gives the indices of the first so many words, as many as fit into one table.
    fn fill<const WIDTH: usize>(&mut self, from: &[[u8; WIDTH]], to: &mut [u8]) -> usize {
        let Some(first) = from.first() else { return 0 };
        self.restart(word(first));
        let mut count = 0;
        let (batches, _) = from.as_chunks::<BATCH>();
        for (at, (batch, places)) in batches.iter().zip(to.as_chunks_mut::<BATCH>().0).enumerate() {
            if let Some(ahead) = batches.get(at + AHEAD) {
                touch(ahead);
            }
            let done = if self.indices(batch, places) { BATCH } else { self.add(batch, places) };
            count += done;
            if done < BATCH {
                return count;
            }
        }
        count + self.add(&from[count..], to.get_mut(count..).unwrap_or_default())
    }

    /// Gives indices word by word, and takes in new words until there is no more room.
    #[inline(never)]
    fn add<const WIDTH: usize>(&mut self, from: &[[u8; WIDTH]], to: &mut [u8]) -> usize {
        let mut count = 0;
        for (bytes, place) in from.iter().zip(to) {
            match self.index(word(bytes)) {
                Some(index) => *place = index,
                None => break,
            }
            count += 1;
        }
        count
    }

    /// The index of a word; `None` when it is one too many.
    #[inline]
    fn index(&mut self, word: u32) -> Option<u8> {
        let hash = Self::hash(word, self.multiplier);
        let index = self.table[hash];
        if self.words[usize::from(index)] == word { Some(index) } else { self.other_index(hash, word) }
    }

    #[cold]
    #[inline(never)]
    fn other_index(&mut self, hash: usize, word: u32) -> Option<u8> {
        let homeless = self.homeless[..self.homeless_count].iter();
        if let Some(index) = homeless.copied().find(|&index| self.words[usize::from(index)] == word) {
            match self.patience.checked_sub(1) {
                Some(less) => self.patience = less,
                None => self.rehash(),
            }
            return Some(index);
        }
        let index = u8::try_from(self.count).ok()?;
        self.words[usize::from(index)] = word;
        self.count += 1;
        if self.table[hash] == 0 && Self::hash(self.words[0], self.multiplier) != hash {
            self.table[hash] = index;
        } else {
            self.homeless[self.homeless_count] = index;
            self.homeless_count += 1;
        }
        Some(index)
    }

    /// Looks for a multiplier that leaves no word without an entry, and takes the best of some.
    fn rehash(&mut self) {
        let mut best = (self.homeless_count, self.multiplier);
        let mut multiplier = self.multiplier;
        for _ in 0..MULTIPLIERS {
            multiplier = multiplier.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35e);
            self.settle(multiplier, best.0);
            if self.homeless_count < best.0 {
                best = (self.homeless_count, multiplier);
            }
            if best.0 == 0 {
                break;
            }
        }
        if self.multiplier != best.1 || self.homeless_count != best.0 {
            self.settle(best.1, COLOURS);
        }
        self.patience = LONG_PATIENCE;
    }

    /// Places all words anew, unless as many as `most` are left over: then some lie nowhere.
    fn settle(&mut self, multiplier: u32, most: usize) {
        self.empty_table();
        self.multiplier = multiplier;
        self.homeless_count = 0;
        let first = Self::hash(self.words[0], multiplier);
        for (index, &word) in self.words[..self.count].iter().enumerate().skip(1) {
            let hash = Self::hash(word, multiplier);
            if self.table[hash] == 0 && hash != first {
                self.table[hash] = index as u8;
            } else {
                self.homeless[self.homeless_count] = index as u8;
                self.homeless_count += 1;
                if self.homeless_count == most {
                    break;
                }
            }
        }
    }
}

/// Encodes `source` into the front of `out` and gives the encoded length. `None`: it would not save at least an
/// eighth, and `out` holds nothing of use.
///
/// `out` must be at least as long as `source`, or nothing is encoded.
pub fn encode(source: &[u8], out: &mut [u8]) -> Option<usize> {
    if source.len() < LEAST_BYTES || out.len() < source.len() || u32::try_from(source.len()).is_err() {
        return None;
    }
    let mut palette = Palette::new();
    if is_promising::<4>(source, &mut palette) {
        encode_words::<4>(source, out, &mut palette)
    } else if is_promising::<2>(source, &mut palette) {
        encode_words::<2>(source, out, &mut palette)
    } else {
        None
    }
}

/// Has the batch fetched from memory, without waiting for it: a look at each of its cache lines.
#[inline]
fn touch<const WIDTH: usize>(batch: &[[u8; WIDTH]; BATCH]) {
    let mut all = 0;
    for bytes in batch.iter().step_by(64 / WIDTH) {
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

/// Whether most of the places that are looked at have few distinct words.
fn is_promising<const WIDTH: usize>(source: &[u8], palette: &mut Palette) -> bool {
    let (words, _) = source.as_chunks::<WIDTH>();
    let step = words.len() / SAMPLES;
    let mut indices = [0; SAMPLE_WORDS];
    let mut good = 0;
    for sample in 0..SAMPLES {
        let some = &words[sample * step..][..SAMPLE_WORDS.min(step)];
        good += usize::from(palette.fill(some, &mut indices) == some.len());
        if good == SAMPLES / 2 {
            return true;
        }
        if good + (SAMPLES - 1 - sample) < SAMPLES / 2 {
            return false;
        }
    }
    false
}

fn encode_words<const WIDTH: usize>(source: &[u8], out: &mut [u8], palette: &mut Palette) -> Option<usize> {
    let most = source.len() - source.len() / 8;
    let out = out.get_mut(..most)?;
    let (words, tail) = source.as_chunks::<WIDTH>();
    let mut from = 0;
    let mut at = 0;
    let mut raw_bytes = RAW_FIRST;
    // Where the last raw block began, while it is the last of all: more raw bytes are added to it.
    let mut raw_at = None;
    while from < words.len() {
        let head = at;
        let rest = out.get_mut(head + HEAD..)?;
        let count = palette.fill(&words[from..], rest);
        let saves = palette.count * WIDTH + count < count * WIDTH;
        if !saves || (count < LEAST_WORDS && from + count < words.len()) {
            let taken = (raw_bytes / WIDTH).max(count).min(words.len() - from);
            at = push_raw(out, at, &mut raw_at, words[from..from + taken].as_flattened())?;
            raw_bytes = (2 * raw_bytes).min(RAW_MOST);
            from += taken;
            continue;
        }
        let mut table_at = head + HEAD;
        if palette.count > 1 {
            table_at += count;
        }
        let table = out.get_mut(table_at..table_at + palette.count * WIDTH)?;
        for (place, colour) in table.as_chunks_mut::<WIDTH>().0.iter_mut().zip(&palette.words) {
            place.copy_from_slice(&colour.to_le_bytes()[..WIDTH]);
        }
        at = table_at + palette.count * WIDTH;
        put_head(out, head, WIDTH, palette.count, count)?;
        raw_at = None;
        raw_bytes = RAW_FIRST;
        from += count;
    }
    if !tail.is_empty() {
        at = push_raw(out, at, &mut raw_at, tail)?;
    }
    Some(at)
}

fn push_raw(out: &mut [u8], mut at: usize, raw_at: &mut Option<usize>, bytes: &[u8]) -> Option<usize> {
    let (head, before) = match *raw_at {
        Some(head) => (head, at - head - HEAD),
        None => {
            let head = at;
            at += HEAD;
            (head, 0)
        }
    };
    out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    put_head(out, head, 0, 1, before + bytes.len())?;
    *raw_at = Some(head);
    Some(at + bytes.len())
}

fn put_head(out: &mut [u8], at: usize, width: usize, colours: usize, count: usize) -> Option<()> {
    let head = BlockHead {
        width: u8::try_from(width).ok()?,
        last: u8::try_from(colours - 1).ok()?,
        reserved: [0; 2],
        count: u32::try_from(count).ok()?.into(),
    };
    out.get_mut(at..at + HEAD)?.copy_from_slice(head.as_bytes());
    Some(())
}

/// Decodes a payload into `out`, which it must fill exactly.
///
/// # Errors
/// [`ProtocolError::BadPalette`] for anything that [`encode`] does not make; `out` then holds nothing of use.
pub fn decode(mut encoded: &[u8], mut out: &mut [u8]) -> Result<(), ProtocolError> {
    let bad = |what| ProtocolError::BadPalette { what };
    while !encoded.is_empty() {
        let (head, rest) =
            BlockHead::read_from_prefix(encoded).map_err(|_| bad("a block's head is cut short"))?;
        if head.reserved != [0; 2] || head.count.get() == 0 {
            return Err(bad("a block's head makes no sense"));
        }
        let count = head.count.get() as usize;
        let width = match head.width {
            0 if head.last == 0 => 1,
            2 => 2,
            4 => 4,
            _ => return Err(bad("a block's words have a width that there is not")),
        };
        let bytes = count.checked_mul(width).ok_or(bad("a block is too long"))?;
        let (place, after) =
            out.split_at_mut_checked(bytes).ok_or(bad("more comes out than was announced"))?;
        out = after;
        encoded = match head.width {
            0 => {
                let (data, rest) = rest.split_at_checked(count).ok_or(bad("a block is cut short"))?;
                place.copy_from_slice(data);
                rest
            }
            2 => decode_words::<2>(rest, head.last, place).ok_or(bad("a block is cut short"))??,
            _ => decode_words::<4>(rest, head.last, place).ok_or(bad("a block is cut short"))??,
        };
    }
    if out.is_empty() { Ok(()) } else { Err(bad("less comes out than was announced")) }
}

/// Gives what follows the block; `None` if it is cut short.
fn decode_words<'a, const WIDTH: usize>(
    block: &'a [u8],
    last: u8,
    out: &mut [u8],
) -> Option<Result<&'a [u8], ProtocolError>> {
    let (words, _) = out.as_chunks_mut::<WIDTH>();
    let colours = usize::from(last) + 1;
    let (indices, rest) = block.split_at_checked(if colours > 1 { words.len() } else { 0 })?;
    let (colours, rest) = rest.split_at_checked(colours * WIDTH)?;
    let mut table = [[0; WIDTH]; COLOURS];
    for (place, colour) in table.iter_mut().zip(colours.as_chunks::<WIDTH>().0) {
        *place = *colour;
    }
    if last == 0 {
        words.fill(table[0]);
        return Some(Ok(rest));
    }
    if indices.iter().fold(0, |most, &index| most.max(index)) > last {
        return Some(Err(ProtocolError::BadPalette { what: "an index is past the end of its table" }));
    }
    for (place, &index) in words.iter_mut().zip(indices) {
        *place = table[usize::from(index)];
    }
    Some(Ok(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that all belong into the first entry, as long as the first multiplier is used.
    fn quarrelling() -> Vec<[u8; 4]> {
        let multiplier = Palette::new().multiplier;
        let inverse = (0..5).fold(multiplier, |inverse, _| {
            inverse.wrapping_mul(2_u32.wrapping_sub(multiplier.wrapping_mul(inverse)))
        });
        (0..COLOURS as u32).map(|n| n.wrapping_mul(inverse).to_le_bytes()).collect()
    }

    #[test]
    fn another_multiplier_is_found_for_words_that_want_one_entry() {
        let colours = quarrelling();
        let words = colours.repeat(40);
        let mut palette = Palette::new();
        let mut indices = vec![0; words.len()];
        assert_eq!(palette.fill(&colours, &mut indices), COLOURS);
        assert_eq!(palette.homeless_count, COLOURS - 1);
        assert_eq!(palette.fill(&words, &mut indices), words.len());
        assert!(palette.homeless_count < 8, "{} without an entry", palette.homeless_count);
        assert!(indices.iter().enumerate().all(|(at, index)| at % COLOURS == usize::from(*index)));
        // And nothing is left of them when others come.
        assert_eq!(palette.fill(&[[1; 4], [2; 4]], &mut indices), 2);
        palette.empty_table();
        assert!(palette.table.iter().all(|index| *index == 0));
    }

    #[test]
    fn one_word_too_many_ends_a_table_wherever_it_comes() {
        let mut palette = Palette::new();
        for before in 0..3 * BATCH {
            let mut words = vec![quarrelling()[7]; before];
            words.extend(quarrelling());
            let fit = words.len();
            words.resize(fit + BATCH, [0xff; 4]);
            let mut indices = vec![0; words.len()];
            assert_eq!(palette.fill(&words, &mut indices), fit);
            assert_eq!(
                palette.fill(&words, &mut indices[..before]),
                before,
                "no more than there is room for"
            );
        }
    }
}
