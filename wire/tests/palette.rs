//! The word palette: what goes in comes out, what is forged is refused; and the seeds of its fuzz target.

#![allow(clippy::unwrap_used)]

use fusewire_wire::palette::{Encoder, LEAST_BYTES, Portable, decode, encode};
use proptest::prelude::*;

#[path = "../fuzz/checks/palette.rs"]
mod checks;
#[path = "support/noise.rs"]
mod noise;

use noise::Noise;

/// 8-bit pixels, normalised as torchvision does it, as 32-bit floats: so many of one channel, then of the next.
fn pixels_in(pixels: usize, run: usize) -> Vec<u8> {
    let mut noise = Noise(1);
    let channels = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
    let mut pixel = |at: usize| {
        let (mean, deviation) = channels[at / run % 3];
        let pixel = (noise.next() % 256) as f32 / 255.0;
        ((pixel - mean) / deviation).to_le_bytes()
    };
    (0..pixels).flat_map(&mut pixel).collect()
}

fn pixels(planes: usize, side: usize) -> Vec<u8> {
    pixels_in(planes * side * side, side * side)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = Noise(2);
    (0..bytes).map(|_| noise.next() as u8).collect()
}

/// The encoded form, which was seen to decode to the source.
fn there_and_back(source: &[u8]) -> Option<Vec<u8>> {
    let mut encoded = vec![0; source.len()];
    let bytes = encode(source, &mut encoded)?;
    encoded.truncate(bytes);
    let mut out = vec![0xa5; source.len()];
    decode(&encoded, &mut out).unwrap();
    assert!(out == source);
    Some(encoded)
}

#[test]
fn pixels_as_floats_become_a_quarter() {
    let source = pixels(6, 224);
    let encoded = there_and_back(&source).unwrap();
    assert!(encoded.len() * 38 < source.len() * 10, "{} of {} bytes", encoded.len(), source.len());
    // A piece of it, which begins and ends within a plane and a word.
    let piece = &source[100_001..800_004];
    assert!(there_and_back(&piece[3..]).is_some());
}

#[test]
fn interleaved_pixels_become_a_quarter() {
    let source = pixels_in(6 * 224 * 224, 1);
    let encoded = there_and_back(&source).unwrap();
    assert!(encoded.len() * 38 < source.len() * 10, "{} of {} bytes", encoded.len(), source.len());
    let halves: Vec<u8> = source.chunks_exact(4).flat_map(|word| [word[2], word[3]]).collect();
    let encoded = there_and_back(&halves).unwrap();
    assert!(encoded.len() * 19 < halves.len() * 10, "{} of {} bytes", encoded.len(), halves.len());
    // Whatever is first.
    assert!(there_and_back(&source[4..]).is_some() && there_and_back(&source[8..]).is_some());
}

#[test]
fn what_was_learnt_from_one_payload_serves_the_next() {
    let mut encoder = Encoder::new(&Portable);
    let mut out = vec![0; 1 << 20];
    let mut encode = |source: &[u8]| {
        let bytes = encoder.encode(source, &mut out)?;
        let mut back = vec![0; source.len()];
        decode(&out[..bytes], &mut back).unwrap();
        assert!(back == source);
        Some(bytes)
    };
    // Planes so small that one table would hold the beginning of another's.
    let small = pixels_in(128 << 10, 2000);
    let first = encode(&small).unwrap();
    let second = encode(&small).unwrap();
    assert!(second <= first, "{first} bytes, and {second}");
    // 66 planes with a table each.
    assert!(second < small.len() / 4 + 67 * 1040, "{second} of {}", small.len());
    // Other data, other forms, nothing to be done, and back.
    assert!(encode(&pixels_in(100_000, 1)).is_some());
    assert_eq!(encode(&noise(1 << 20)), None);
    assert!(encode(&vec![7; 1 << 20]).is_some_and(|bytes| bytes < 100));
    let black: Vec<u8> = small[..4].repeat(1 << 18);
    assert!(encode(&black).is_some_and(|bytes| bytes < 100), "one word, though a table of many has it");
    for cut in (0..40).step_by(4) {
        assert!(encode(&small[cut..]).unwrap() < small.len() * 2 / 5);
    }
}

#[test]
fn pixels_as_halves_become_half() {
    let floats = pixels(3, 224);
    // The upper halves: bfloat16.
    let source: Vec<u8> = floats.chunks_exact(4).flat_map(|word| [word[2], word[3]]).collect();
    let encoded = there_and_back(&source).unwrap();
    assert!(encoded.len() * 19 < source.len() * 10, "{} of {} bytes", encoded.len(), source.len());
}

#[test]
fn nothing_at_all_takes_next_to_nothing() {
    assert!(there_and_back(&vec![0; 1 << 20]).unwrap().len() < 64);
}

#[test]
fn what_has_no_palette_is_left_alone() {
    let mut out = vec![0; 1 << 20];
    assert_eq!(encode(&noise(1 << 20), &mut out), None);
    // Too short, and too little room.
    assert_eq!(encode(&vec![0; LEAST_BYTES - 1], &mut out), None);
    assert_eq!(encode(&vec![0; LEAST_BYTES], &mut out[..LEAST_BYTES - 1]), None);
}

#[test]
fn pixels_between_noise_are_found() {
    let mut source = pixels(2, 224);
    source.extend(noise(60_000));
    source.extend(pixels(2, 224));
    let encoded = there_and_back(&source).unwrap();
    assert!(encoded.len() < source.len() / 2, "{} of {} bytes", encoded.len(), source.len());
}

#[test]
fn a_forged_payload_is_refused() {
    let source = pixels(1, 64);
    let encoded = there_and_back(&source).unwrap();
    let mut out = vec![0; source.len()];
    for cut in 0..encoded.len() {
        assert!(decode(&encoded[..cut], &mut out).is_err(), "cut to {cut} bytes");
    }
    for length in [0, source.len() - 1, source.len() - 4] {
        assert!(decode(&encoded, &mut out[..length]).is_err(), "into {length} bytes");
    }
    out.push(0);
    assert!(decode(&encoded, &mut out).is_err(), "into one byte more");
    let block = |width: u8, last: &[u8], count: u32, rest: &[u8]| {
        let mut block = vec![width, last.len() as u8, 0, 0, 0, 0, 0, 0];
        block[5..5 + last.len().min(3)].copy_from_slice(&last[..last.len().min(3)]);
        block.extend_from_slice(&count.to_le_bytes());
        block.extend_from_slice(rest);
        block
    };
    let mut four = [0; 4];
    assert!(decode(&block(4, &[0], 1, &[1, 2, 3, 4]), &mut four).is_ok());
    assert_eq!(four, [1, 2, 3, 4]);
    assert!(decode(&block(2, &[1], 2, &[0, 1, 5, 6, 7, 8]), &mut four).is_ok());
    assert_eq!(four, [5, 6, 7, 8]);
    let mut twelve = [0; 12];
    assert!(
        decode(&block(2, &[1, 0, 0], 2, &[1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), &mut twelve).is_ok()
    );
    assert_eq!(twelve, [3, 4, 5, 6, 7, 8, 1, 2, 5, 6, 7, 8]);
    for forged in [
        block(2, &[1, 0, 0], 2, &[1, 0, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        block(2, &[1, 0, 0], 2, &[1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
    ] {
        assert!(decode(&forged, &mut twelve).is_err(), "{forged:?}");
    }
    let damaged = |at: usize| {
        let mut sound = block(4, &[0], 1, &[1, 2, 3, 4]);
        sound[at] = 1;
        sound
    };
    for forged in [
        block(2, &[1], 2, &[0, 2, 5, 6, 7, 8]),
        block(4, &[0], 0, &[1, 2, 3, 4]),
        block(3, &[0], 1, &[1, 2, 3, 4]),
        block(1, &[0], 4, &[1, 2, 3, 4]),
        block(0, &[1], 4, &[1, 2, 3, 4]),
        block(0, &[], 4, &[1, 2, 3, 4]),
        block(0, &[0, 0, 0], 4, &[1, 2, 3, 4]),
        block(2, &[0, 0], 1, &[1, 2, 3, 4]),
        block(2, &[0; 4], 1, &[1, 2, 3, 4]),
        block(2, &[0; 255], 1, &[1, 2, 3, 4]),
        block(4, &[0], u32::MAX, &[1, 2, 3, 4]),
        block(0, &[0], u32::MAX, &[1, 2, 3, 4]),
        block(4, &[255], 1, &[0; 1000]),
        block(4, &[0], 1, &[1, 2, 3]),
        damaged(2),
        damaged(4),
        damaged(6),
        damaged(7),
    ] {
        assert!(decode(&forged, &mut four).is_err(), "{forged:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Runs of few and of many distinct words, of any length and alignment.
    #[test]
    fn whatever_goes_in_comes_out(
        runs in prop::collection::vec((1..2000_u64, 1..9000_usize), 1..12),
        cut in 0..4_usize,
        wide in any::<bool>(),
    ) {
        let mut noise = Noise(runs.len() as u64);
        let mut source = Vec::new();
        for (colours, words) in runs {
            for _ in 0..words {
                let word = (noise.next() % colours).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                source.extend_from_slice(&word.to_le_bytes()[..if wide { 4 } else { 2 }]);
            }
        }
        let source = &source[cut.min(source.len())..];
        there_and_back(source);
    }

    #[test]
    fn any_bytes_can_be_decoded(data in prop::collection::vec(any::<u8>(), 0..4000)) {
        checks::check(&data, &Portable);
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let source = pixels(1, 64);
    let mut sound = (source.len() as u16).to_le_bytes().to_vec();
    sound.extend(there_and_back(&source).unwrap());
    let mut mixed = noise(2000);
    mixed.extend(&source);
    let mut forged = sound.clone();
    forged[3] = 7;
    vec![("pixels", sound), ("mixed", mixed), ("bad-table", forged)]
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/palette")
}

/// `cargo test -p fusewire-wire --test palette -- --ignored write_the_seeds` after the format changes.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, seed) in seeds() {
        std::fs::write(folder().join(name), seed).unwrap();
    }
}

#[test]
fn the_seeds() {
    for (name, seed) in seeds() {
        assert_eq!(std::fs::read(folder().join(name)).ok().as_ref(), Some(&seed), "{name} is out of date");
    }
    for entry in std::fs::read_dir(folder()).unwrap() {
        let mut data = std::fs::read(entry.unwrap().path()).unwrap();
        checks::check(&data, &Portable);
        for at in 0..data.len().min(300) {
            data[at] ^= 0x81;
            checks::check(&data, &Portable);
            data[at] ^= 0x81;
        }
    }
}
