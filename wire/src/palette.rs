//! The word palette: lossless compression of data with few distinct values, at the speed of memory.
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

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ProtocolError;

/// Payloads shorter than this are not worth a try.
pub const LEAST_BYTES: usize = 16 << 10;

/// Words in a table at most.
const COLOURS: usize = 256;
/// Pairs of slots in the encoder's hash table, as a power of two.
const PAIR_BITS: u32 = 10;
/// A word to fill empty slots with.
const STRANGER: u32 = 0x5a5a_5a5a;
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

/// Words seen so far, by their hash. A word lies in one of the two slots of its pair, so that it is found without
/// a branch that depends on the data; the few for which there is no room there lie in a list.
struct Palette {
    /// The word in the upper half, its index in the lower.
    slots: [u64; 2 << PAIR_BITS],
    words: [u32; COLOURS],
    count: usize,
    /// Indices of the words that have no slot.
    homeless: [u8; COLOURS],
    homeless_count: usize,
}

impl Palette {
    fn new() -> Self {
        let mut palette = Self {
            slots: [0; 2 << PAIR_BITS],
            words: [0; COLOURS],
            count: 0,
            homeless: [0; COLOURS],
            homeless_count: 0,
        };
        palette.clear();
        palette
    }

    fn clear(&mut self) {
        // An empty slot holds a word that belongs elsewhere, so it is equal to none that is looked for there.
        self.slots.fill(u64::from(STRANGER) << 32);
        let pair = Self::pair(STRANGER);
        for other in 0.. {
            if Self::pair(other) != pair {
                self.slots[pair] = u64::from(other) << 32;
                self.slots[pair + 1] = u64::from(other) << 32;
                break;
            }
        }
        self.count = 0;
        self.homeless_count = 0;
    }

    /// The first slot of the word's pair.
    #[inline]
    fn pair(word: u32) -> usize {
        // Steps between floats are regular; without the shift many of them would share a pair.
        2 * ((word ^ word >> 15).wrapping_mul(0x9e37_79b1) >> (32 - PAIR_BITS)) as usize
    }

    /// The index of a word; `None` when it is one too many.
    #[inline]
    fn index(&mut self, word: u32) -> Option<u8> {
        let pair = Self::pair(word);
        let second = usize::from((self.slots[pair + 1] >> 32) as u32 == word);
        let found = self.slots[pair + second];
        if (found >> 32) as u32 == word { Some(found as u8) } else { self.other_index(pair, word) }
    }

    #[cold]
    #[inline(never)]
    fn other_index(&mut self, pair: usize, word: u32) -> Option<u8> {
        let homeless = self.homeless[..self.homeless_count].iter();
        if let Some(index) = homeless.copied().find(|&index| self.words[usize::from(index)] == word) {
            return Some(index);
        }
        let index = u8::try_from(self.count).ok()?;
        self.words[usize::from(index)] = word;
        self.count += 1;
        let empty = |slot: &u64| Self::pair((slot >> 32) as u32) != pair;
        match self.slots[pair..pair + 2].iter_mut().find(|slot| empty(slot)) {
            Some(slot) => *slot = u64::from(word) << 32 | u64::from(index),
            None => {
                self.homeless[self.homeless_count] = index;
                self.homeless_count += 1;
            }
        }
        Some(index)
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

#[inline]
fn word<const WIDTH: usize>(bytes: &[u8; WIDTH]) -> u32 {
    let mut whole = [0; 4];
    whole[..WIDTH].copy_from_slice(bytes);
    u32::from_le_bytes(whole)
}

/// Whether most of the places that are looked at have few distinct words.
fn is_promising<const WIDTH: usize>(source: &[u8], palette: &mut Palette) -> bool {
    let (words, _) = source.as_chunks::<WIDTH>();
    let step = words.len() / SAMPLES;
    let mut good = 0;
    for sample in 0..SAMPLES {
        let some = words.iter().skip(sample * step).take(SAMPLE_WORDS.min(step));
        palette.clear();
        let fits = some.into_iter().all(|bytes| palette.index(word(bytes)).is_some());
        good += usize::from(fits);
        if good + (SAMPLES - 1 - sample) < SAMPLES / 2 {
            return false;
        }
    }
    true
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
        palette.clear();
        let mut count = 0;
        for (bytes, place) in words[from..].iter().zip(rest.iter_mut()) {
            match palette.index(word(bytes)) {
                Some(index) => *place = index,
                None => break,
            }
            count += 1;
        }
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
