//! Measures the word palette on one chunk at a time: GB/s of what goes in and comes out.
//!
//! `cargo run --release -p fusewire-link --example palette [THREADS [KIB_OF_A_CHUNK [MIB_OF_A_BATCH]]]`
//!
//! `near`: the same chunk again and again, which stays in the cache. `far`: one after the other of a batch, as it is
//! when it was made by another core, or is to be fetched by another device. `portable` is what runs where there is
//! nothing better; `memory` is what reading and filling the same batch comes to, without any codec.

use std::hint::black_box;
use std::time::Instant;

use fusewire_link::compress::kernel;
use fusewire_wire::palette::{Encoder, Kernel, Portable, decode_with};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 5;
const PLANE: usize = 224 * 224;
/// Mean and deviation of each channel.
const CHANNELS: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

fn main() -> Result<(), Failure> {
    let argument = |n, otherwise| std::env::args().nth(n).map_or(Ok(otherwise), |text| text.parse::<usize>());
    let (threads, chunk, batch) = (argument(1, 1)?, argument(2, 512)? << 10, argument(3, 64)? << 20);
    if !(1..=batch).contains(&chunk) {
        return Err("a batch has to hold a chunk".into());
    }
    let batch = batch / chunk * chunk;
    let pixels = |shades, channel: &dyn Fn(usize) -> usize, form: &dyn Fn([u8; 4]) -> Vec<u8>| {
        pixels(batch, shades, channel, form)
    };
    let mut noise = Noise(1);
    let whole = |bytes: [u8; 4]| bytes.to_vec();
    let upper = |bytes: [u8; 4]| bytes[2..].to_vec();
    let by_plane = |at| at / PLANE % 3;
    let interleaved = |at| at % 3;
    let sources = [
        ("f32", pixels(256, &by_plane, &whole)),
        ("f32 like photos", photos(batch)),
        ("f32, 16 shades", pixels(16, &by_plane, &whole)),
        ("f32 interleaved", pixels(256, &interleaved, &whole)),
        ("bf16", pixels(256, &by_plane, &upper)),
        ("bf16 interleaved", pixels(256, &interleaved, &upper)),
        ("noise", (0..batch).map(|_| noise.next() as u8).collect()),
    ];
    let (read, filled) = memory(&sources[0].1);
    println!("memory: read {read:.2}, filled {filled:.2} GB/s");
    for (name, kernel) in [("portable", &Portable as &'static dyn Kernel), ("best", kernel())] {
        println!("{name}: {kernel:?}, {threads} threads at once, GB/s of one");
        for (name, source) in &sources {
            let results = std::thread::scope(|scope| {
                let all: Vec<_> =
                    (0..threads).map(|_| scope.spawn(|| measure(kernel, source, chunk))).collect();
                all.into_iter().map(|thread| thread.join().map_err(|_| "a thread died")?).collect()
            });
            let results: Result<Vec<[f64; 5]>, Failure> = results;
            for [ratio, near, far, near_back, far_back] in results? {
                println!(
                    "{name:16} 1:{ratio:5.3}  encode near {near:6.2} far {far:6.2}  \
                     decode near {near_back:6.2} far {far_back:6.2}"
                );
            }
        }
    }
    Ok(())
}

/// GB/s at which a batch is read, and one like it is filled.
fn memory(source: &[u8]) -> (f64, f64) {
    let mut target = vec![0_u8; source.len()];
    let (mut read, mut filled) = (0_f64, 0_f64);
    for round in 0..ROUNDS {
        let since = Instant::now();
        black_box(source.as_chunks::<8>().0.iter().fold(0, |sum, bytes| sum ^ u64::from_le_bytes(*bytes)));
        read = read.max(source.len() as f64 / since.elapsed().as_secs_f64() / 1e9);
        let since = Instant::now();
        black_box(&mut target).fill(round as u8);
        filled = filled.max(source.len() as f64 / since.elapsed().as_secs_f64() / 1e9);
    }
    (read, filled)
}

/// What becomes of a byte; and GB/s of encoding and decoding what is near and far.
fn measure(kernel: &'static dyn Kernel, source: &[u8], chunk: usize) -> Result<[f64; 5], Failure> {
    let mut encoder = Encoder::new(kernel);
    let mut out = vec![0; chunk];
    let mut back = vec![0; chunk];
    // As the memory that is copied to and from: frameworks align theirs.
    let mut target = vec![0; source.len() + 64];
    let start = target.as_ptr().align_offset(64);
    let target = &mut target[start..][..source.len()];
    let near = source.get(..chunk).unwrap_or(source);
    let mut best = [f64::MAX; 4];
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let mut seconds = [0.0; 4];
        bytes = 0;
        for (piece, place) in source.chunks(chunk).zip(target.chunks_mut(chunk)) {
            let since = Instant::now();
            let encoded = encoder.encode(piece, &mut out);
            seconds[1] += since.elapsed().as_secs_f64();
            bytes += encoded.unwrap_or(piece.len());
            let Some(encoded) = encoded else { continue };
            let since = Instant::now();
            decode_with(kernel, &out[..encoded], place)?;
            seconds[3] += since.elapsed().as_secs_f64();
        }
        for _ in source.chunks(chunk) {
            let since = Instant::now();
            let encoded = encoder.encode(near, &mut out);
            seconds[0] += since.elapsed().as_secs_f64();
            let Some(encoded) = encoded else { continue };
            let since = Instant::now();
            decode_with(kernel, &out[..encoded], &mut back)?;
            seconds[2] += since.elapsed().as_secs_f64();
        }
        for (best, seconds) in best.iter_mut().zip(seconds) {
            *best = best.min(seconds);
        }
    }
    if bytes < source.len() && *target != *source {
        return Err("what came out is not what went in".into());
    }
    let [near, far, near_back, far_back] = best.map(|seconds| source.len() as f64 / seconds / 1e9);
    Ok([bytes as f64 / source.len() as f64, near, far, near_back, far_back])
}

/// Pixels of so many shades, normalised as torchvision does it, in channels by their place.
fn pixels(
    bytes: usize,
    shades: u64,
    channel: &dyn Fn(usize) -> usize,
    form: &dyn Fn([u8; 4]) -> Vec<u8>,
) -> Vec<u8> {
    let mut noise = Noise(2);
    let mut pixel = |at: usize| {
        let (mean, deviation) = CHANNELS[channel(at)];
        form(normalised(noise.next() % shades, mean, deviation))
    };
    (0..bytes / 2).flat_map(&mut pixel).take(bytes).collect()
}

/// Planes whose neighbours are alike, each with a range of shades of its own.
fn photos(bytes: usize) -> Vec<u8> {
    let mut noise = Noise(3);
    let (mut darkest, mut brightest, mut shade) = (0, 255, 0);
    let mut pixel = |at: usize| {
        if at.is_multiple_of(PLANE) {
            darkest = noise.next() % 100;
            brightest = 255 - noise.next() % 100;
        }
        shade = (shade + noise.next() % 9).saturating_sub(4).clamp(darkest, brightest);
        let (mean, deviation) = CHANNELS[at / PLANE % 3];
        normalised(shade, mean, deviation)
    };
    (0..bytes / 4).flat_map(&mut pixel).collect()
}

fn normalised(shade: u64, mean: f32, deviation: f32) -> [u8; 4] {
    ((shade as f32 / 255.0 - mean) / deviation).to_le_bytes()
}

/// Small steady noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
