//! Measures the word palette on one MiB at a time: GB/s of what goes in and comes out.
//!
//! `cargo run --release -p fusewire-wire --example palette [THREADS]`
//!
//! `near`: the same chunk again and again, which stays in the cache. `far`: a batch of 64 MiB, as it is when it was
//! made by another core.

use std::time::Instant;

use fusewire_wire::palette::{decode, encode};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CHUNK: usize = 1 << 20;
const BATCH: usize = 64 << 20;
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let threads = std::env::args().nth(1).map_or(Ok(1), |threads| threads.parse())?;
    let floats = pixels(256, |bytes| bytes.to_vec());
    let few = pixels(16, |bytes| bytes.to_vec());
    let halves = pixels(256, |bytes| bytes[2..].to_vec());
    let mut noise = Noise(1);
    let random: Vec<u8> = (0..BATCH).map(|_| noise.next() as u8).collect();
    for (name, source) in
        [("pixels", &floats), ("of 16 colours", &few), ("as bfloat16", &halves), ("noise", &random)]
    {
        let results = std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| measure(source))).collect();
            all.into_iter().map(|thread| thread.join().map_err(|_| "a thread died")?).collect()
        });
        let results: Result<Vec<[f64; 4]>, Failure> = results;
        for [ratio, near, far, back] in results? {
            println!(
                "{name:14} 1:{ratio:5.3}, encode near {near:6.2} far {far:6.2}, decode far {back:6.2} GB/s"
            );
        }
    }
    Ok(())
}

/// What becomes of a byte; and GB/s of encoding what is near, of encoding and of decoding what is far.
fn measure(source: &[u8]) -> Result<[f64; 4], Failure> {
    let mut out = vec![0; CHUNK];
    let near = source.get(..CHUNK).unwrap_or(source);
    let (mut near_best, mut far_best, mut back_best) = (0_f64, 0_f64, 0_f64);
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let since = Instant::now();
        for _ in 0..source.len() / CHUNK {
            encode(near, &mut out);
        }
        near_best = near_best.max(source.len() as f64 / since.elapsed().as_secs_f64() / 1e9);
        let since = Instant::now();
        bytes = source.chunks(CHUNK).map(|chunk| encode(chunk, &mut out).unwrap_or(chunk.len())).sum();
        far_best = far_best.max(source.len() as f64 / since.elapsed().as_secs_f64() / 1e9);
    }
    if let Some(encoded) = encode(near, &mut out) {
        let mut target = vec![0; source.len()];
        for _ in 0..ROUNDS {
            let since = Instant::now();
            target.chunks_mut(near.len()).try_for_each(|place| decode(&out[..encoded], place))?;
            back_best = back_best.max(source.len() as f64 / since.elapsed().as_secs_f64() / 1e9);
        }
    }
    Ok([bytes as f64 / source.len() as f64, near_best, far_best, back_best])
}

/// Planes of 224 x 224 pixels of so many shades, normalised as torchvision does it.
fn pixels(shades: u64, form: impl Fn([u8; 4]) -> Vec<u8>) -> Vec<u8> {
    let channels = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
    let mut noise = Noise(2);
    let mut pixel = |at: usize| {
        let (mean, deviation) = channels[at / (224 * 224) % 3];
        let value = (noise.next() % shades) as f32 / 255.0;
        form(((value - mean) / deviation).to_le_bytes())
    };
    let mut bytes: Vec<u8> = (0..BATCH / 4).flat_map(&mut pixel).collect();
    bytes.truncate(bytes.len() / CHUNK * CHUNK);
    bytes
}

/// Small steady noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
