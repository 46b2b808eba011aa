//! Measures what compression does for a lane: what it leaves of the bytes, and how much sooner they are sent.
//!
//! `cargo run --release -p fusewire-link --example compression [MEGABITS …]`
//!
//! The link is arithmetic, so many megabits a second for this lane; the codecs' time is real. `time`: that of the
//! chunks as they are, as a multiple of that of compressing and sending them one after the other. Nothing is counted
//! of the decoder, which works beside them.

use std::time::Instant;

use fusewire_link::compress::{Compress, Compressor};
use fusewire_link::{Delivery, OutChunk, RawSlice};
use fusewire_wire::bulk::ChunkHeader;

type Failure = Box<dyn std::error::Error>;

const CHUNK: usize = 256 << 10;
/// Chunks that pass before anything counts, and those that do.
const BEFORE: usize = 64;
const COUNTED: usize = 512;

fn main() -> Result<(), Failure> {
    let mut links: Vec<f64> = std::env::args().skip(1).map(|rate| rate.parse()).collect::<Result<_, _>>()?;
    if links.is_empty() {
        links = vec![250.0, 1000.0, 2500.0, 10_000.0, 25_000.0];
    }
    print!("{:28}", "Mbit/s");
    links.iter().for_each(|rate| print!("{rate:>8}        "));
    print!("\n{:28}", "");
    links.iter().for_each(|_| print!("  left     time "));
    println!();
    for (name, data) in kinds() {
        print!("{name:28}");
        for rate in &links {
            let (left, times) = measure(&data, rate * 1e6 / 8.0)?;
            print!("{left:6.3} {times:7.3}x ");
        }
        println!();
    }
    Ok(())
}

/// What is left of a byte, and how many times as fast that is.
fn measure(data: &[u8], rate: f64) -> Result<(f64, f64), Failure> {
    let mut compressor = Compressor::new(Compress::Auto);
    let (mut before, mut after, mut seconds) = (0, 0, 0.0);
    for (n, chunk) in data.chunks_exact(CHUNK).cycle().take(BEFORE + COUNTED).enumerate() {
        // SAFETY: the data outlive the chunk.
        let payload = unsafe { RawSlice::new(chunk.as_ptr(), chunk.len()) };
        let header = ChunkHeader::host_to_device(n as u64, u32::try_from(chunk.len())?);
        let chunk = OutChunk { header, payload, done: 0, waited_for: false };
        let since = Instant::now();
        // As the kernel's measure never is the same twice.
        let seen = Delivery { rate: rate + n as f64, is_limit: true, behind: 0.0 };
        let sent = compressor.prepare(chunk, &|| Some(seen));
        if n >= BEFORE {
            seconds += since.elapsed().as_secs_f64();
            before += CHUNK;
            after += sent.payload.len();
        }
        compressor.sent();
    }
    let (before, after) = (before as f64, after as f64);
    Ok((after / before, before / rate / (seconds + after / rate)))
}

/// Several chunks of each kind, more than a cache holds.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = Noise(1);
    let bytes = 64 * CHUNK;
    let pixels =
        (0..bytes / 4).flat_map(|_| ((noise.next() % 256) as f32 / 255.0 - 0.5).to_le_bytes()).collect();
    let mut all = vec![("pixels", pixels)];
    for (name, zeros) in [
        ("floats, 50 % zeros", 50),
        ("floats, 80 % zeros", 80),
        ("floats, 95 % zeros", 95),
        ("floats, 99 % zeros", 99),
    ] {
        let word = |_| if noise.next() % 100 < zeros { 0.0 } else { noise.float() };
        all.push((name, (0..bytes / 4).map(word).flat_map(f32::to_le_bytes).collect()));
    }
    let rows = (0..bytes / 256).flat_map(|_| {
        let zero = noise.next() % 100 < 80;
        [0; 64]
            .map(|_: i32| if zero { 0.0 } else { noise.float() })
            .map(f32::to_le_bytes)
            .as_flattened()
            .to_vec()
    });
    all.push(("rows of 64, 80 % zeros", rows.collect()));
    let hot = |n: usize| if n % 1000 == n / 1000 * 37 % 1000 { 1_f32 } else { 0.0 };
    all.push(("one-hot of 1000", (0..bytes / 4).map(hot).flat_map(f32::to_le_bytes).collect()));
    for (name, padded) in [("64-bit tokens", 1), ("64-bit tokens, padded", 4)] {
        let mut rows = Vec::new();
        while rows.len() < bytes {
            let length = 512 / padded + (noise.next() % 64) as usize;
            rows.extend(
                (0..512).flat_map(|n| if n < length { noise.next() % 50_257 } else { 0 }.to_le_bytes()),
            );
        }
        all.push((name, rows));
    }
    let labels = (0..bytes / 8).map(|_| noise.next() % 1000).flat_map(u64::to_le_bytes);
    all.push(("64-bit labels of 1000", labels.collect()));
    all.push(("dense floats", (0..bytes / 4).map(|_| noise.float()).flat_map(f32::to_le_bytes).collect()));
    all.push(("noise", (0..bytes).map(|_| noise.next() as u8).collect()));
    all
}

/// Small steady noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn float(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 24) as f32 - 0.5
    }
}
