//! Compressing bulk payloads where, and only where, that makes them arrive sooner.
//!
//! For [`BulkSink`](crate::BulkSink)s: a [`Compressor`] in `prepare` and `sent`, an [`Expander`] in `place` and
//! `landed`. Both belong to one lane and work on its thread, so nothing that launches waits for them.
//!
//! Whether it pays is decided for each chunk from what was measured on its lane: the rate at which the
//! connection delivers, the rate at which the codec works, and what has become of the bytes. On a link that is
//! quicker than the codec nothing is done at all; data that the codec can do nothing for is looked at in a few
//! places, and for twice as many chunks not at all after each vain look.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;

use std::collections::VecDeque;
use std::time::Instant;

use fusewire_wire::bulk::ChunkHeader;
use fusewire_wire::error::ProtocolError;
use fusewire_wire::palette;

use crate::bulk::{Delivery, OutChunk, RawSlice, RawSliceMut};

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

/// Compressed chunks that may be under way on a lane; the next ones go as they are.
const MOST_BUFFERS: usize = 8;
/// Vain looks after which every 32nd chunk is looked at.
const MOST_VAIN: u32 = 5;
/// What the codec is thought to do before it was measured: bytes per second.
const CODEC_RATE: f64 = 6e9;
/// What the other end is thought to take to decode, on the thread that receives: bytes per second that come out.
/// Its own writing to memory is what holds it up, so that it hardly depends on the processor.
const DECODE_RATE: f64 = 8e9;
/// What is thought to become of a byte before it was seen.
const RATIO: f64 = 0.25;
/// What the rate of a burst counts for, in the rate of a link.
const BURST: f64 = 0.05;
/// Share of a measure that is forgotten with each chunk that is left alone.
const FORGET: f64 = 0.005;
/// Bytes after which the rate of a link says something.
const WARM_UP: usize = 4 << 20;
/// Share of the time that compressing must save to be done: where there are cores to spare, and where there are
/// not, so that the codec takes its time from somebody.
const GAIN: f64 = 0.1;
const GAIN_ON_FEW_CORES: f64 = 0.5;
const FEW_CORES: usize = 2;

/// What a lane's sending side remembers.
#[derive(Debug)]
pub struct Compressor {
    mode: Compress,
    /// For each chunk that is under way, in order: the memory that it is sent from, if that is ours.
    sending: VecDeque<Option<Box<[u8]>>>,
    spare: Vec<Box<[u8]>>,
    buffers: usize,
    decision: Decision,
    palette: palette::Encoder,
}

impl Compressor {
    #[must_use]
    pub fn new(mode: Compress) -> Self {
        let gain = match std::thread::available_parallelism() {
            Ok(cores) if cores.get() > FEW_CORES => GAIN,
            _ => GAIN_ON_FEW_CORES,
        };
        let decision = Decision { gain, ..Decision::default() };
        Self {
            mode,
            sending: VecDeque::new(),
            spare: Vec::new(),
            buffers: 0,
            decision,
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
        self.sending.push_back(buffer);
        replaced
    }

    fn compress(
        &mut self,
        chunk: &OutChunk,
        delivery: &dyn Fn() -> Option<Delivery>,
    ) -> Option<(OutChunk, Box<[u8]>)> {
        let length = chunk.payload.len();
        if length < palette::LEAST_BYTES || chunk.header.decoded != 0 {
            return None;
        }
        if self.mode == Compress::Auto && !self.decision.is_due(length, delivery) {
            return None;
        }
        let mut buffer = self.buffer(length)?;
        let since = Instant::now();
        // SAFETY: the payload stays valid and unchanged until the lane reports it sent: `RawSlice::new`.
        let source = unsafe { std::slice::from_raw_parts(chunk.payload.start(), length) };
        let encoded = self.palette.encode(source, &mut buffer);
        self.decision.learn(length, encoded, since.elapsed().as_secs_f64());
        let Some(encoded) = encoded else {
            self.spare.push(buffer);
            return None;
        };
        let header = ChunkHeader {
            bytes: u32::try_from(encoded).unwrap_or(u32::MAX),
            decoded: chunk.header.bytes,
            ..chunk.header
        };
        // SAFETY: the buffer is kept in `sending`, and not touched, until the lane reports the chunk sent.
        let payload = unsafe { RawSlice::new(buffer.as_ptr(), encoded) };
        Some((OutChunk { header, payload, ..*chunk }, buffer))
    }

    fn buffer(&mut self, length: usize) -> Option<Box<[u8]>> {
        // The one that was used last: it is still in the cache.
        if let Some(at) = self.spare.iter().rposition(|buffer| buffer.len() >= length) {
            return Some(self.spare.swap_remove(at));
        }
        if self.buffers == MOST_BUFFERS {
            // One that is too short is exchanged.
            self.spare.pop()?;
            self.buffers -= 1;
        }
        self.buffers += 1;
        Some(vec![0; length].into_boxed_slice())
    }

    /// For [`BulkSink::sent`](crate::BulkSink::sent).
    pub fn sent(&mut self) {
        if let Some(Some(buffer)) = self.sending.pop_front() {
            self.spare.push(buffer);
        }
    }
}

/// A measure in which the latest counts for a quarter.
fn mix(old: f64, new: f64) -> f64 {
    0.75 * old + 0.25 * new
}

/// What was measured on a lane, and what follows.
#[derive(Debug)]
struct Decision {
    /// Bytes that were to be sent; of the first nothing is known of the link yet.
    bytes: usize,
    /// Share of the time that compressing must save.
    gain: f64,
    /// Seconds that the link takes for a byte, once it has been seen at its limit.
    link: Option<f64>,
    /// The rate that was seen last: one that stays the same was not measured again.
    seen: f64,
    /// Bytes per second that the codec takes in.
    codec: f64,
    /// What becomes of a byte.
    ratio: f64,
    /// Looks in vain since the last that was not.
    vain: u32,
    /// Chunks still to be left alone.
    skip: u32,
}

impl Default for Decision {
    fn default() -> Self {
        Self {
            bytes: 0,
            gain: GAIN,
            link: None,
            seen: 0.0,
            codec: CODEC_RATE,
            ratio: RATIO,
            vain: 0,
            skip: 0,
        }
    }
}

impl Decision {
    /// Whether the next chunk, of so many bytes, should be compressed.
    fn is_due(&mut self, bytes: usize, delivery: &dyn Fn() -> Option<Delivery>) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < WARM_UP {
            return false;
        }
        if self.skip != 0 {
            self.skip -= 1;
            return false;
        }
        let Some(seen) = delivery() else { return false };
        if seen.rate != self.seen {
            self.seen = seen.rate;
            // Seconds are averaged, not rates: single ones are far too high, when buffers on the way take a burst.
            let cost = 1.0 / seen.rate.max(1.0);
            self.link = match self.link {
                Some(link) if seen.is_limit => Some(mix(link, cost)),
                // It may have become faster, or not.
                Some(link) => Some(link + BURST * (cost - link).min(0.0)),
                None => seen.is_limit.then_some(cost),
            };
        }
        let due = self.link.is_some_and(|cost| self.pays(cost));
        if !due {
            // Nothing is measured while nothing is compressed: what was is forgotten, and tried again one day.
            self.codec += FORGET * (CODEC_RATE - self.codec);
            self.ratio += FORGET * (RATIO - self.ratio);
        }
        due
    }

    /// Whether a byte arrives sooner if it is compressed first, sent then, and decoded at last. Lanes that share a link need not ask
    /// each other: each sees its share of the link, and what is left of a core for it.
    fn pays(&self, cost: f64) -> bool {
        1.0 / self.codec + self.ratio * cost + 1.0 / DECODE_RATE < (1.0 - self.gain) * cost
    }

    fn learn(&mut self, bytes: usize, encoded: Option<usize>, seconds: f64) {
        match encoded {
            Some(encoded) => {
                self.codec = mix(self.codec, bytes as f64 / seconds.max(1e-9));
                self.ratio = mix(self.ratio, encoded as f64 / bytes as f64);
                self.vain = 0;
            }
            None => {
                // The codec was not at fault: only the data are judged, by leaving some alone.
                self.skip = 1 << self.vain;
                self.vain = (self.vain + 1).min(MOST_VAIN);
            }
        }
    }
}

/// What a lane's receiving side remembers.
#[derive(Debug, Default)]
pub struct Expander {
    compressed: Vec<u8>,
    /// Where the chunk that is arriving belongs, if it is compressed.
    target: Option<RawSliceMut>,
}

impl Expander {
    /// For [`BulkSink::place`](crate::BulkSink::place): where to receive a chunk whose contents belong in
    /// `target`. The header must have been judged; `target` has room for its `contents()`.
    pub fn place(&mut self, header: &ChunkHeader, target: RawSliceMut) -> RawSliceMut {
        if header.decoded == 0 {
            self.target = None;
            return target;
        }
        self.target = Some(target);
        let bytes = header.bytes as usize;
        if self.compressed.len() < bytes {
            self.compressed = vec![0; bytes];
        }
        // SAFETY: nobody touches the buffer until the chunk has landed, which is the next call of all.
        unsafe { RawSliceMut::new(self.compressed.as_mut_ptr(), bytes) }
    }

    /// For [`BulkSink::landed`](crate::BulkSink::landed): brings what has arrived to its place.
    ///
    /// # Errors
    /// It is not what a compressor makes. What is in its place then is of no use.
    pub fn landed(&mut self, header: &ChunkHeader) -> Result<(), ProtocolError> {
        let Some(target) = self.target.take() else { return Ok(()) };
        let bytes = self.compressed.get(..header.bytes as usize).unwrap_or_default();
        // SAFETY: the memory was promised to stay, and to be the lane's alone, until the chunk has landed.
        let target = unsafe { std::slice::from_raw_parts_mut(target.start(), target.len()) };
        palette::decode_with(kernel(), bytes, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(payload: &[u8]) -> OutChunk {
        // SAFETY: the tests keep their payloads.
        let slice = unsafe { RawSlice::new(payload.as_ptr(), payload.len()) };
        let header = ChunkHeader::host_to_device(0, payload.len() as u32);
        OutChunk { header, payload: slice, done: 7, waited_for: false }
    }

    fn sent(compressor: &mut Compressor, payload: &[u8], rate: f64) -> usize {
        let out = compressor.prepare(chunk(payload), &|| Some(Delivery { rate, is_limit: true }));
        assert_eq!((out.header.bytes as usize, out.done), (out.payload.len(), 7));
        compressor.sent();
        out.payload.len()
    }

    fn warm() -> Decision {
        Decision { bytes: WARM_UP, ..Decision::default() }
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

    #[test]
    fn slow_links_get_fewer_bytes_and_fast_ones_no_delay() {
        let source = pixels(1 << 20);
        let due = |decision: &mut Decision, rate, is_limit| {
            decision.is_due(1, &|| Some(Delivery { rate, is_limit }))
        };
        assert!(!due(&mut Decision::default(), 1e8, true), "nothing is known yet");
        assert!(due(&mut warm(), 1.5e8, true));
        assert!(!due(&mut warm(), 6e9, true), "faster than the codec");
        assert!(!due(&mut warm(), 1e8, false), "slow because there was little to send");
        assert!(!warm().is_due(1, &|| None), "nothing is known at all");
        // Once compressed there is less to send, which says nothing against the link.
        let mut decision = warm();
        assert!(due(&mut decision, 2e8, true) && due(&mut decision, 1e7, false));
        assert!(due(&mut decision, 5e9, false), "nor does a burst");
        let faster = |n| 5e9 + f64::from(n);
        assert!((0..60).any(|n| !due(&mut decision, faster(n), false)), "but if it is faster it is seen");
        // A codec that turns out slow, or data that hardly shrink.
        assert!(!Decision { codec: 1e8, ..Decision::default() }.pays(1.0 / 2e8));
        assert!(!Decision { ratio: 0.85, ..Decision::default() }.pays(1.0 / 1.2e9));
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

    /// What a training step sends over 100 Gbit/s: each 20 ms 2.4 MB on each of eight lanes. Until the network has
    /// acknowledged some of a burst, what is seen is how the one before it ended.
    #[test]
    fn short_bursts_on_a_fast_link_are_compressed_as_soon_as_it_is_known() {
        const CHUNKS: u32 = 10;
        let mut decision = Decision::default();
        let burst = |decision: &mut Decision, codec: f64, seen: Option<Delivery>| {
            let due = (0..CHUNKS).filter(|_| {
                let due = decision.is_due(256 << 10, &|| seen);
                if due {
                    decision.learn(256 << 10, Some(66 << 10), f64::from(256 << 10) / codec);
                }
                due
            });
            due.count()
        };
        let lane = |n: u32| 1.4e9 + 2e7 * f64::from(n % 7);
        let limit = |n| Some(Delivery { rate: lane(n), is_limit: true });
        // Of a few small things beforehand nothing is learnt.
        assert_eq!(burst(&mut decision, 8e9, Some(Delivery { rate: 3e7, is_limit: false })), 0);
        assert!(burst(&mut decision, 8e9, limit(1)) > 0, "the second step at the latest");
        // From then on there is less to send, and a burst may fit into what the network has room for: then it has
        // come to no limit, and the kernel's measure of it counts only if it is a higher one.
        let due: usize = (2..200)
            .map(|n| {
                let seen = match n % 4 {
                    0 => Some(Delivery { rate: 1.5 * lane(n), is_limit: false }),
                    _ => limit(n),
                };
                burst(&mut decision, 8e9, seen)
            })
            .sum();
        assert_eq!(due, 198 * CHUNKS as usize);
        // A codec that is too slow here is left alone, but for a try now and then.
        let due: usize = (200..400).map(|n| burst(&mut decision, 2e9, limit(n))).sum();
        assert!(due < 100 * CHUNKS as usize / 2, "{due} of {}", 200 * CHUNKS);
    }

    #[test]
    fn what_cannot_be_compressed_is_left_alone_more_and_more() {
        let source = noise(1 << 20);
        let mut compressor = Compressor::new(Compress::Auto);
        let mut looks = 0;
        for _ in 0..200 {
            looks += usize::from(compressor.decision.skip == 0);
            assert_eq!(sent(&mut compressor, &source, 1e8), source.len());
        }
        assert!((5..15).contains(&looks), "{looks} looks at 200 chunks");
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
        assert_eq!((compressor.sending.len(), compressor.spare.len()), (0, MOST_BUFFERS));
        // A longer one takes the place of a short one.
        assert!(sent(&mut compressor, &pixels(256 << 10), 1.0) < 128 << 10);
        assert_eq!(compressor.buffers, MOST_BUFFERS);
    }
}
