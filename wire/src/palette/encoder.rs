//! Encoding: where blocks end, which form they have, and which tables are used again.
//!
//! The planes of all images of a training run share a few palettes, one for each channel. So the tables of blocks
//! are kept on a shelf, and a block begins with one that knows its first words: once they are known, words are
//! only looked up, never added, and a plane ends where the words of another table begin.

use zerocopy::IntoBytes;

use super::kernel::{Form, Kernel, STRIP};
use super::table::{COLOURS, Table};
use super::{BlockHead, HEAD, LEAST_BYTES};

/// A block of fewer words than this is not worth its tables.
const LEAST_WORDS: usize = 512;
/// Bytes that are taken as they are when a table has overflowed too early: the first time, and at most.
const RAW_FIRST: usize = 4 << 10;
const RAW_MOST: usize = 64 << 10;
/// Tables that are kept: three channels, twice, and some.
const SHELF: usize = 8;
/// Rows by which it is judged whether a table is the right one, and how many of them it must know.
const SAMPLE: usize = 32;
const MOST_KNOWN: usize = SAMPLE * 3 / 4;
/// Bytes that must be one row again and again to be kept apart from what a table knows besides.
const PLAIN: usize = 16 << 10;
/// Rows that a table must have been good for to be kept, if it was on the shelf before and then had no room for a
/// word: else it holds what does not belong together.
const GOOD_ROWS: usize = 16 << 10;
/// Tables that may overflow at the beginning, and bytes for each one more: data in which they overflow sooner have no
/// palette, and making tables in vain is dear.
const OVERFLOWS: usize = 4;
const OVERFLOW_BYTES: usize = 4 << 10;
/// Places at which data is looked at beforehand, and rows looked at there: four times what a table holds. Tables that
/// are good for fewer cost more time than they save.
const PLACES: usize = 8;
const PLACE_ROWS: usize = 4 * COLOURS;
/// Bytes of a cache line.
const ALIGNMENT: usize = 64;
/// Chunks after which it is asked anew which form is best.
const TRUST: u32 = 32;

/// Encodes payloads, and remembers palettes from one to the next.
#[derive(Debug)]
pub struct Encoder {
    kernel: &'static dyn Kernel,
    /// The one that was used last is at the end.
    shelf: Vec<Box<Table>>,
    /// The tables of the block that is being made.
    tables: Vec<Box<Table>>,
    spare: Vec<Box<Table>>,
    /// What was good for the last payload, and for how many more it is tried first.
    form: Form,
    trust: u32,
}

/// How a block came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Of the data, or of the room.
    OfAll,
    /// There is another table that fits what comes.
    OtherTable,
    Overflow,
}

impl Encoder {
    #[must_use]
    pub fn new(kernel: &'static dyn Kernel) -> Self {
        let form = Form::ALL[0];
        Self { kernel, shelf: Vec::new(), tables: Vec::new(), spare: Vec::new(), form, trust: 0 }
    }

    /// Encodes `source` into the front of `out` and gives the encoded length. `None`: it would not save at least an
    /// eighth, and `out` holds nothing of use.
    ///
    /// `out` must be at least as long as `source`, or nothing is encoded.
    pub fn encode(&mut self, source: &[u8], out: &mut [u8]) -> Option<usize> {
        if source.len() < LEAST_BYTES || out.len() < source.len() || u32::try_from(source.len()).is_err() {
            return None;
        }
        if self.trust != 0 && self.is_known(source) {
            self.trust -= 1;
            if let Some(bytes) = self.encode_as(self.form, source, out) {
                return Some(bytes);
            }
        }
        self.trust = 0;
        let mut best = None;
        // The one whose work, of use or not, is in `out`.
        let mut last = None;
        for form in Form::ALL.into_iter().filter(|form| is_promising(*form, source)) {
            last = Some(form);
            let Some(bytes) = self.encode_as(form, source, out) else { continue };
            if best.is_none_or(|(least, _)| bytes < least) {
                best = Some((bytes, form));
            }
            // Hardly anything but indices: there is nothing better.
            if bytes <= source.len() / form.width * 9 / 8 {
                break;
            }
        }
        let (bytes, form) = best?;
        (self.form, self.trust) = (form, TRUST);
        if last == Some(form) { Some(bytes) } else { self.encode_as(form, source, out) }
    }

    /// Whether it looks as if the tables of the last payload, and its form, were good for this one: at two of three
    /// places.
    fn is_known(&self, source: &[u8]) -> bool {
        let row = self.form.row();
        let step = source.len() / row / 4 * row;
        let is_known_at = |place: &usize| {
            let rows = source.get(place * step..).unwrap_or_default();
            (0..self.form.planes).all(|plane| {
                self.shelf.iter().rev().any(|table| known(table, self.form, plane, rows) >= MOST_KNOWN)
            })
        };
        (1..4).filter(is_known_at).nth(1).is_some()
    }

    fn encode_as(&mut self, form: Form, source: &[u8], out: &mut [u8]) -> Option<usize> {
        let mut out = Out { memory: out.get_mut(..source.len() - source.len() / 8)?, at: 0, raw_at: None };
        let (mut rest, tail) = source.split_at(source.len() / form.row() * form.row());
        let mut raw_bytes = RAW_FIRST;
        let mut overflows = 0;
        while !rest.is_empty() {
            let taken_off = self.shelf.len();
            self.choose(form, rest);
            let is_from_shelf = self.shelf.len() < taken_off;
            let indices = out.memory.get_mut(out.at + HEAD..)?;
            let (rows, end) = self.fill(form, rest, indices);
            overflows += usize::from(end == End::Overflow);
            if overflows > OVERFLOWS + (source.len() - rest.len()) / OVERFLOW_BYTES {
                return None;
            }
            let words = rows * form.planes;
            let table_bytes = self.tables.iter().map(|table| table.words().len() * form.width).sum::<usize>();
            let saves = HEAD + words + table_bytes < words * form.width;
            if saves && (words >= LEAST_WORDS || rows * form.row() == rest.len()) {
                out.push_rows(form, rows, &self.tables)?;
                let is_muddled = is_from_shelf && end == End::Overflow && rows < GOOD_ROWS;
                let kept = if is_muddled { &mut self.spare } else { &mut self.shelf };
                kept.append(&mut self.tables);
                rest = &rest[rows * form.row()..];
                raw_bytes = RAW_FIRST;
            } else {
                let (taken, after) = rest
                    .split_at((raw_bytes / form.row()).max(rows).saturating_mul(form.row()).min(rest.len()));
                self.spare.append(&mut self.tables);
                out.push_raw(taken)?;
                rest = after;
                raw_bytes = (2 * raw_bytes).min(RAW_MOST);
            }
            while self.shelf.len() > SHELF {
                self.spare.push(self.shelf.remove(0));
            }
            self.spare.truncate(SHELF);
        }
        if !tail.is_empty() {
            out.push_raw(tail)?;
        }
        Some(out.at)
    }

    /// Finds a table for each plane: the one on the shelf that knows most of what comes first, or a fresh one.
    fn choose(&mut self, form: Form, rows: &[u8]) {
        // What was left when a payload came to nothing.
        self.spare.append(&mut self.tables);
        let least = SAMPLE.min(rows.len() / form.row());
        // All the same: with tables of its own it takes no indices.
        let is_plain = rows.get(..PLAIN).is_some_and(|rows| rows[form.row()..] == rows[..PLAIN - form.row()]);
        for plane in 0..form.planes {
            let mut best = None;
            for (at, table) in self.shelf.iter().enumerate().rev() {
                if is_plain && table.words().len() > 1 {
                    continue;
                }
                let known = known(table, form, plane, rows);
                if best.is_none_or(|(most, _)| known > most) {
                    best = Some((known, at));
                }
                if known == least {
                    break;
                }
            }
            let table = match best {
                Some((known, at))
                    if known == least
                        || (known >= MOST_KNOWN
                            && self.shelf[at].words().len() + least - known <= COLOURS) =>
                {
                    self.shelf.remove(at)
                }
                _ => {
                    let mut table = self.spare.pop().unwrap_or_default();
                    table.forget_all();
                    table
                }
            };
            self.tables.push(table);
        }
    }

    /// Gives the indices of as many rows as fit the tables, and takes in new words.
    fn fill(&mut self, form: Form, mut from: &[u8], to: &mut [u8]) -> (usize, End) {
        let all = (from.len() / form.row()).min(to.len() / form.planes);
        let mut to = &mut to[..all * form.planes];
        let mut rows = 0;
        // To where the words of a strip lie in as few cache lines as they can. (Strips of several planes cannot be
        // shorter.)
        let early = from.as_ptr().align_offset(ALIGNMENT);
        if form.planes == 1 && early < all * form.width && early.is_multiple_of(form.width) {
            let strip = early / form.width;
            let (done, end) = self.fill_strip(form, from, &mut to[..strip]);
            if done < strip {
                return (done, end);
            }
            rows = strip;
            from = &from[early..];
            to = &mut to[strip..];
        }
        while rows < all {
            let whole = (all - rows) / STRIP * STRIP;
            let found = STRIP * self.kernel.find(form, &self.tables, &from[..whole * form.row()], to);
            rows += found;
            from = &from[found * form.row()..];
            to = &mut to[found * form.planes..];
            let strip = STRIP.min(all - rows);
            let (done, end) = self.fill_strip(form, from, &mut to[..strip * form.planes]);
            rows += done;
            if done < strip {
                return (rows, end);
            }
            from = &from[strip * form.row()..];
            to = &mut to[strip * form.planes..];
        }
        (rows, End::OfAll)
    }

    /// The same for a strip, word by word.
    fn fill_strip(&mut self, form: Form, from: &[u8], to: &mut [u8]) -> (usize, End) {
        let strip = to.len() / form.planes;
        let mut is_judged = false;
        let mut end = End::OfAll;
        let mut done = 0;
        'rows: while done < strip {
            for plane in 0..form.planes {
                let word = word(&from[done * form.row() + plane * form.width..][..form.width]);
                if !is_judged && self.tables[plane].find(word).is_none() {
                    is_judged = true;
                    if self.has_better(form, plane, &from[done * form.row()..]) {
                        end = End::OtherTable;
                        break 'rows;
                    }
                }
                let Some(index) = self.tables[plane].add(word) else {
                    end = End::Overflow;
                    break 'rows;
                };
                to[plane * strip + done] = index;
            }
            done += 1;
        }
        // A strip that ends early is shorter: its planes move together.
        for plane in 1..form.planes {
            to.copy_within(plane * strip..plane * strip + done, plane * done);
        }
        (done, end)
    }

    /// Whether what comes is strange to a plane's table, and another table knows it.
    fn has_better(&self, form: Form, plane: usize, rows: &[u8]) -> bool {
        let least = SAMPLE.min(rows.len() / form.row());
        // A fresh one was chosen with open eyes.
        !self.tables[plane].words().is_empty()
            && known(&self.tables[plane], form, plane, rows) < least * 3 / 4
            && self.shelf.iter().any(|table| known(table, form, plane, rows) == least)
    }
}

/// How many of a plane's first words a table knows; or 0, as soon as it is seen to be too few.
fn known(table: &Table, form: Form, plane: usize, rows: &[u8]) -> usize {
    let mut known = 0;
    let mut strange = 0;
    for row in rows.chunks_exact(form.row()).take(SAMPLE) {
        match table.find(word(&row[plane * form.width..][..form.width])) {
            Some(_) => known += 1,
            None if strange == SAMPLE - MOST_KNOWN => return 0,
            None => strange += 1,
        }
    }
    known
}

#[inline]
fn word(bytes: &[u8]) -> u32 {
    match *bytes {
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        [a, b] => u32::from_le_bytes([a, b, 0, 0]),
        _ => 0,
    }
}

/// Whether most of the places that are looked at have few distinct words.
fn is_promising(form: Form, source: &[u8]) -> bool {
    let rows = source.len() / form.row();
    let step = rows / PLACES;
    let mut good = 0;
    for place in 0..PLACES {
        let from = &source[place * step * form.row()..][..PLACE_ROWS.min(step) * form.row()];
        good += usize::from((0..form.planes).all(|plane| has_few(form, plane, from)));
        if good == PLACES / 2 {
            return true;
        }
        if good + (PLACES - 1 - place) < PLACES / 2 {
            return false;
        }
    }
    false
}

/// Whether a plane's words are about as few as a table holds.
fn has_few(form: Form, plane: usize, rows: &[u8]) -> bool {
    // Words that share a bit are seldom, and do no harm.
    const BITS: u32 = 13;
    let mut seen = [0_u64; 1 << (BITS - 6)];
    let mut count = 0;
    for row in rows.chunks_exact(form.row()) {
        let hash = word(&row[plane * form.width..][..form.width]).wrapping_mul(0x9e37_79b1) >> (32 - BITS);
        let place = &mut seen[hash as usize >> 6];
        let bit = 1 << (hash & 63);
        count += usize::from(*place & bit == 0);
        *place |= bit;
        if count > COLOURS {
            return false;
        }
    }
    true
}

/// Where blocks are written to.
struct Out<'a> {
    memory: &'a mut [u8],
    at: usize,
    /// Where the last raw block began, while it is the last of all: more raw bytes are added to it.
    raw_at: Option<usize>,
}

impl Out<'_> {
    /// Completes a block whose indices are there already, at their place.
    fn push_rows(&mut self, form: Form, rows: usize, tables: &[Box<Table>]) -> Option<()> {
        let head = self.at;
        let mut at = head + HEAD;
        if tables.iter().any(|table| table.words().len() > 1) {
            at += rows * form.planes;
        }
        let mut last = [0; 3];
        for (table, last) in tables.iter().zip(&mut last) {
            let words = table.words();
            let place = self.memory.get_mut(at..at + words.len() * form.width)?;
            for (place, word) in place.chunks_exact_mut(form.width).zip(words) {
                place.copy_from_slice(&word.to_le_bytes()[..form.width]);
            }
            at += place.len();
            *last = u8::try_from(words.len() - 1).ok()?;
        }
        self.at = at;
        self.raw_at = None;
        self.put_head(head, form, last, rows)
    }

    fn push_raw(&mut self, bytes: &[u8]) -> Option<()> {
        let head = *self.raw_at.get_or_insert_with(|| {
            let head = self.at;
            self.at += HEAD;
            head
        });
        self.memory.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        self.put_head(head, Form { width: 0, planes: 1 }, [0; 3], self.at - head - HEAD)
    }

    fn put_head(&mut self, at: usize, form: Form, last: [u8; 3], count: usize) -> Option<()> {
        let head = BlockHead {
            width: u8::try_from(form.width).ok()?,
            planes: u8::try_from(form.planes).ok()?,
            reserved: [0; 3],
            last,
            count: u32::try_from(count).ok()?.into(),
        };
        self.memory.get_mut(at..at + HEAD)?.copy_from_slice(head.as_bytes());
        Some(())
    }
}
