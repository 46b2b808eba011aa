//! Compressing bulk payloads where, and only where, that makes them arrive sooner.
//!
//! For [`BulkSink`](crate::BulkSink)s: a [`Compressor`] in `prepare` and `sent`, an [`Expander`] in `place` and
//! `landed`. Both belong to one lane and work on its thread, so nothing that launches waits for them.
//!
//! There are two codecs: the word palette, and for what it is no use for a general one. Whether either pays is
//! decided for each chunk from what was measured on its lane: the rate at which the connection delivers, the rate at
//! which the codec works, and what becomes of the bytes. On a link that is quicker than the codecs nothing is done at
//! all; data that they can do nothing for is looked at in a few places, and for twice as many chunks not at all after
//! each vain look.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffers;
mod decision;
mod expander;
mod kernel;
mod patience;

use std::time::Instant;

use fusewire_wire::bulk::ChunkHeader;
use fusewire_wire::encoded::{self, Codec};
use fusewire_wire::{general, palette};

use crate::bulk::{Delivery, OutChunk, RawSlice};
use buffers::Buffers;
use decision::{Decision, Due, Measure, PALETTE_RATIO};
pub use expander::Expander;
pub use kernel::kernel;

/// When to compress: `FUSEWIRE_COMPRESS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// When it makes the transfer faster.
    #[default]
    Auto,
    Off,
    /// Whatever becomes smaller. For tests, and for those who pay by the byte.
    Always,
}

impl Compress {
    /// Reads a setting; `None` if there is no such.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "off" => Some(Self::Off),
            "always" => Some(Self::Always),
            _ => None,
        }
    }
}

/// What a lane's sending side remembers.
#[derive(Debug)]
pub struct Compressor {
    mode: Compress,
    buffers: Buffers,
    decision: Decision,
    palette: palette::Encoder,
}

impl Compressor {
    #[must_use]
    pub fn new(mode: Compress) -> Self {
        Self {
            mode,
            buffers: Buffers::default(),
            decision: Decision::on_this_host(),
            palette: palette::Encoder::new(kernel()),
        }
    }

    /// For [`BulkSink::prepare`](crate::BulkSink::prepare).
    pub fn prepare(&mut self, chunk: OutChunk, delivery: &dyn Fn() -> Option<Delivery>) -> OutChunk {
        if self.mode == Compress::Off {
            return chunk;
        }
        let (replaced, buffer) = match self.compress(&chunk, delivery) {
            Some((replaced, buffer)) => (replaced, Some(buffer)),
            None => (chunk, None),
        };
        self.buffers.send(buffer);
        replaced
    }

    fn compress(
        &mut self,
        chunk: &OutChunk,
        delivery: &dyn Fn() -> Option<Delivery>,
    ) -> Option<(OutChunk, Box<[u8]>)> {
        let length = chunk.payload.len();
        if length < encoded::LEAST_BYTES || chunk.header.decoded != 0 {
            return None;
        }
        let due = match self.mode {
            Compress::Auto => self.decision.due(length, delivery),
            _ => Due::BOTH,
        };
        if !due.any() {
            return None;
        }
        let mut buffer = self.buffers.take(encoded::room(length))?;
        // SAFETY: the payload stays valid and unchanged until the lane reports it sent: `RawSlice::new`.
        let source = unsafe { std::slice::from_raw_parts(chunk.payload.start(), length) };
        let Some(encoded) = self.encode(due, source, &mut buffer) else {
            self.buffers.put(buffer);
            return None;
        };
        let header = ChunkHeader {
            bytes: u32::try_from(encoded).unwrap_or(u32::MAX),
            decoded: chunk.header.bytes,
            ..chunk.header
        };
        // SAFETY: the buffer is kept in `buffers`, and not touched, until the lane reports the chunk sent.
        let payload = unsafe { RawSlice::new(buffer.as_ptr(), encoded) };
        Some((OutChunk { header, payload, ..*chunk }, buffer))
    }

    /// First the palette, which is quicker, and made for pixels, which are most of what training sends; unless there
    /// are so many runs that the general codec leaves less than the palette could.
    fn encode(&mut self, due: Due, source: &[u8], out: &mut [u8]) -> Option<usize> {
        let early = (due.general && general::is_largely_runs(source)).then(|| look(source));
        if let Some(estimate) = early
            && estimate.ratio() < PALETTE_RATIO
            && let Some(encoded) = self.by_general(estimate, source, out)
        {
            return Some(encoded);
        }
        if due.palette
            && let Some(encoded) = self.by_palette(source, out)
        {
            return Some(encoded);
        }
        if !due.general {
            return None;
        }
        self.by_general(early.unwrap_or_else(|| look(source)), source, out)
    }

    fn by_palette(&mut self, source: &[u8], out: &mut [u8]) -> Option<usize> {
        let since = Instant::now();
        let encoded = encoded::tagged(Codec::Palette, out, |body| self.palette.encode(source, body));
        match encoded {
            Some(encoded) => self.decision.learn_palette(measure(source.len(), encoded, since)),
            None => self.decision.palette_in_vain(source.len(), since.elapsed().as_secs_f64()),
        }
        encoded
    }

    fn by_general(&mut self, estimate: Measure, source: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.mode == Compress::Auto && !self.decision.general_pays(estimate) {
            self.decision.general_in_vain(source.len(), estimate.seconds);
            return None;
        }
        let since = Instant::now();
        let encoded = encoded::encode(Codec::General, source, out);
        match encoded {
            Some(encoded) => self.decision.learn_general(estimate, measure(source.len(), encoded, since)),
            None => self.decision.general_in_vain(source.len(), since.elapsed().as_secs_f64()),
        }
        encoded
    }

    /// Seconds that the link takes for a byte, if that is known.
    #[must_use]
    pub fn link(&self) -> Option<f64> {
        self.decision.link()
    }

    /// For [`BulkSink::sent`](crate::BulkSink::sent).
    pub fn sent(&mut self) {
        self.buffers.sent();
    }
}

/// What the general codec makes of a few places of a payload.
fn look(source: &[u8]) -> Measure {
    let since = Instant::now();
    let (looked_at, left) = general::estimate(source);
    measure(looked_at, left, since)
}

fn measure(bytes: usize, encoded: usize, since: Instant) -> Measure {
    Measure { bytes, encoded, seconds: since.elapsed().as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::buffers::MOST_BUFFERS;
    use super::*;
    use crate::bulk::RawSliceMut;

    fn chunk(payload: &[u8]) -> OutChunk {
        // SAFETY: the tests keep their payloads.
        let slice = unsafe { RawSlice::new(payload.as_ptr(), payload.len()) };
        let header = ChunkHeader::host_to_device(0, payload.len() as u32);
        OutChunk { header, payload: slice, done: 7, waited_for: false }
    }

    fn sent(compressor: &mut Compressor, payload: &[u8], rate: f64) -> usize {
        let out =
            compressor.prepare(chunk(payload), &|| Some(Delivery { rate, is_limit: true, behind: 0.0 }));
        assert_eq!((out.header.bytes as usize, out.done), (out.payload.len(), 7));
        compressor.sent();
        out.payload.len()
    }

    fn pixels(bytes: usize) -> Vec<u8> {
        (0..bytes / 4).flat_map(|n| ((n * 7 % 256) as f32 / 255.0).to_le_bytes()).collect()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as u8
        };
        (0..bytes).map(next).collect()
    }

    #[test]
    fn what_is_compressed_arrives_whole() {
        let source = pixels(1 << 20);
        let mut compressor = Compressor::new(Compress::Always);
        let out = compressor.prepare(chunk(&source), &|| None);
        assert_eq!((out.header.decoded as usize, out.header.contents()), (source.len(), 1 << 20));
        assert!(out.payload.len() < source.len() / 3);
        let mut target = vec![0; source.len()];
        let mut expander = Expander::default();
        // SAFETY: the memory lives to the end of the test.
        let into = unsafe { RawSliceMut::new(target.as_mut_ptr(), target.len()) };
        let into = expander.place(&out.header, into);
        assert_eq!(into.len(), out.payload.len());
        // SAFETY: both are that long.
        unsafe { std::ptr::copy_nonoverlapping(out.payload.start(), into.start(), into.len()) };
        expander.landed(&out.header).unwrap();
        assert!(target == source);
        // And one that was damaged on the way.
        // SAFETY: as above.
        let into = unsafe { RawSliceMut::new(target.as_mut_ptr(), target.len()) };
        let into = expander.place(&out.header, into);
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(into.start(), 0xff, into.len()) };
        assert!(expander.landed(&out.header).is_err());
    }

    /// Rows of a sparse gradient or of an embedding: most are zeros.
    fn rows(bytes: usize) -> Vec<u8> {
        let mut rows = noise(bytes);
        for (n, row) in rows.chunks_mut(256).enumerate() {
            if n % 5 != 0 {
                row.fill(0);
            }
        }
        rows
    }

    /// Batches of tokens, padded with zeros.
    fn tokens(bytes: usize) -> Vec<u8> {
        let numbers = noise(bytes);
        let token = |(n, pair): (usize, &[u8])| {
            let token = if n % 512 < 100 { u64::from(pair[0]) * 195 + u64::from(pair[1]) } else { 0 };
            token.to_le_bytes()
        };
        numbers.chunks_exact(8).enumerate().flat_map(token).collect()
    }

    /// One-hot labels of a thousand classes: two colours for the palette, but hardly anything for the other codec.
    fn one_hot(bytes: usize) -> Vec<u8> {
        let word = |n| if n % 1000 == n / 1000 * 37 % 1000 { 1_f32 } else { 0.0 };
        (0..bytes / 4).flat_map(|n| word(n).to_le_bytes()).collect()
    }

    #[test]
    fn sparse_and_repetitive_data_shrink_by_the_other_codec() {
        for (what, source, divisor) in
            [("rows", rows(1 << 20), 4), ("tokens", tokens(1 << 20), 6), ("one hot", one_hot(1 << 20), 50)]
        {
            // So slow that a codec without optimisation pays.
            let mut compressor = Compressor::new(Compress::Auto);
            let slow = Delivery { rate: 1e5, is_limit: true, behind: 0.0 };
            let mut left = 0;
            for _ in 0..8 {
                let out = compressor.prepare(chunk(&source), &|| Some(slow));
                left = out.payload.len();
                if out.header.decoded == 0 {
                    compressor.sent();
                    continue;
                }
                // SAFETY: the compressor's memory, and it is not told yet that the chunk was sent.
                let payload = unsafe { std::slice::from_raw_parts(out.payload.start(), left) };
                assert_eq!(payload[0], Codec::General as u8, "{what}");
                let mut back = vec![0xa5; source.len()];
                encoded::decode(payload, &mut back).unwrap();
                assert!(back == source, "{what}");
                compressor.sent();
            }
            assert!(left < source.len() / divisor, "{what}: {left} of {} bytes", source.len());
            // And where the link is faster, not one byte is changed.
            let mut compressor = Compressor::new(Compress::Auto);
            assert!((0..8).all(|_| sent(&mut compressor, &source, 6e9) == source.len()), "{what}");
        }
    }

    #[test]
    fn fewer_bytes_leave_only_where_the_link_is_slow() {
        let source = pixels(1 << 20);
        let mut compressor = Compressor::new(Compress::Auto);
        for _ in 0..8 {
            assert_eq!(sent(&mut compressor, &source, 6e9), source.len());
        }
        // So slow that a codec without optimisation pays.
        let mut compressor = Compressor::new(Compress::Auto);
        let left: Vec<_> = (0..8).map(|_| sent(&mut compressor, &source, 1e5)).collect();
        assert!(left.last().is_some_and(|bytes| *bytes < source.len() / 3));
        let mut off = Compressor::new(Compress::Off);
        assert_eq!(sent(&mut off, &source, 1e6), source.len());
    }

    #[test]
    fn what_cannot_be_compressed_is_left_alone_more_and_more() {
        let source = noise(1 << 20);
        let mut compressor = Compressor::new(Compress::Auto);
        let mut looks = 0;
        for _ in 0..200 {
            looks += u32::from(compressor.decision.is_curious());
            assert_eq!(sent(&mut compressor, &source, 1e5), source.len());
        }
        assert!((5..20).contains(&looks), "{looks} looks at 200 chunks");
        let pixels = pixels(1 << 20);
        let left: Vec<_> = (0..40).map(|_| sent(&mut compressor, &pixels, 1e5)).collect();
        assert!(left.last().is_some_and(|bytes| *bytes < pixels.len() / 3), "and is found when it comes");
    }

    #[test]
    fn memory_is_bounded_when_nothing_is_reported_sent() {
        let source = pixels(64 << 10);
        let mut compressor = Compressor::new(Compress::Always);
        let sizes: Vec<_> =
            (0..20).map(|_| compressor.prepare(chunk(&source), &|| None).payload.len()).collect();
        assert_eq!(sizes.iter().filter(|bytes| **bytes < source.len()).count(), MOST_BUFFERS);
        (0..20).for_each(|_| compressor.sent());
        assert_eq!(compressor.buffers.under_way_and_spare(), (0, MOST_BUFFERS));
        // A longer one takes the place of a short one.
        assert!(sent(&mut compressor, &pixels(256 << 10), 1.0) < 128 << 10);
        assert_eq!(compressor.buffers.under_way_and_spare(), (0, MOST_BUFFERS));
    }
}
