//! Payloads of either codec: what goes in comes out, what is forged is refused; and the seeds of the fuzz target.

#![allow(clippy::unwrap_used)]

use fusewire_wire::encoded::{Codec, decode, encode, room};
use fusewire_wire::error::ProtocolError;
use fusewire_wire::general::{estimate, is_largely_runs};
use proptest::prelude::*;

#[path = "../fuzz/checks/encoded.rs"]
mod checks;
#[path = "support/noise.rs"]
mod noise;

use noise::Noise;

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = Noise(2);
    (0..bytes).map(|_| noise.next() as u8).collect()
}

/// 32-bit floats, so many of a hundred of which are zero.
fn sparse(words: usize, zeros: u64) -> Vec<u8> {
    let mut noise = Noise(3);
    let word = |_| if noise.next() % 100 < zeros { 0.0 } else { noise.next() as f32 / 1e9 - 1.0 };
    (0..words).map(word).flat_map(f32::to_le_bytes).collect()
}

/// Tokens of 64 bits in rows of 512, of which the last so many are padding.
fn tokens(rows: usize, padding: usize) -> Vec<u8> {
    let mut noise = Noise(4);
    let token = |n: usize| if n % 512 < 512 - padding { noise.next() % 50257 } else { 0 };
    (0..rows * 512).map(token).flat_map(u64::to_le_bytes).collect()
}

/// The encoded form, which was seen to decode to the source.
fn there_and_back(codec: Codec, source: &[u8]) -> Option<Vec<u8>> {
    let mut encoded = vec![0; room(source.len())];
    let bytes = encode(codec, source, &mut encoded)?;
    encoded.truncate(bytes);
    assert_eq!(encoded[0], codec as u8);
    let mut out = vec![0xa5; source.len()];
    decode(&encoded, &mut out).unwrap();
    assert!(out == source);
    Some(encoded)
}

#[test]
fn sparse_data_and_padded_tokens_shrink() {
    for (what, source, most) in [
        ("half zeros", sparse(1 << 18, 50), 70),
        ("nine tenths zeros", sparse(1 << 18, 90), 20),
        ("one in a hundred", sparse(1 << 18, 99), 3),
        ("tokens", tokens(256, 0), 55),
        ("padded tokens", tokens(256, 300), 25),
        ("text", b"mul.wide.u32 %rd2, %r4, 4; add.s64 %rd3, %rd1, %rd2;\n".repeat(1000), 2),
    ] {
        let encoded = there_and_back(Codec::General, &source).unwrap();
        assert!(100 * encoded.len() < most * source.len(), "{what}: {} of {}", encoded.len(), source.len());
        // What the look at a few places has said of it: not much else, and rather more.
        let (looked_at, left) = estimate(&source);
        let (said, is) = (left as f64 / looked_at as f64, encoded.len() as f64 / source.len() as f64);
        assert!(said > 0.8 * is && said < 1.3 * is + 0.1, "{what}: {said} was expected, it is {is}");
    }
}

#[test]
fn runs_are_seen() {
    assert!(is_largely_runs(&sparse(1 << 18, 99)) && is_largely_runs(&vec![7; 1 << 16]));
    assert!(is_largely_runs(&tokens(256, 400)) && !is_largely_runs(&tokens(256, 0)));
    assert!(!is_largely_runs(&sparse(1 << 18, 50)) && !is_largely_runs(&noise(1 << 20)));
    for few in 0..200 {
        assert!(few > 16 || !is_largely_runs(&noise(few)));
        assert!(estimate(&noise(few)).0 <= few);
    }
}

#[test]
fn what_does_not_shrink_is_left_alone() {
    let source = noise(1 << 20);
    for codec in [Codec::Palette, Codec::General] {
        assert_eq!(there_and_back(codec, &source), None);
        assert_eq!(encode(codec, &[0; 1 << 16], &mut [0; 1 << 15]), None, "too little room");
        assert_eq!(encode(codec, &[0; 1 << 16], &mut []), None, "none at all");
    }
    let (looked_at, left) = estimate(&source);
    assert!(left >= looked_at);
}

#[test]
fn a_forged_payload_is_refused() {
    let source = sparse(1 << 12, 80);
    let encoded = there_and_back(Codec::General, &source).unwrap();
    let mut out = vec![0; source.len()];
    for cut in 0..encoded.len() {
        assert!(decode(&encoded[..cut], &mut out).is_err(), "cut to {cut} bytes");
    }
    for length in [0, 1, source.len() - 1] {
        assert!(decode(&encoded, &mut out[..length]).is_err(), "into {length} bytes");
    }
    out.push(0);
    assert!(decode(&encoded, &mut out).is_err(), "into one byte more");
    out.pop();
    for tag in (0..=255).filter(|tag| *tag != Codec::General as u8) {
        let forged = [&[tag], &encoded[1..]].concat();
        assert!(decode(&forged, &mut out).is_err(), "of codec {tag}");
    }
    let what = "its LZ4 block is damaged";
    for forged in [
        // Nothing; a match before the beginning; at no distance; longer than there is room; more bytes than follow.
        &[][..],
        &[0x00, 1, 0],
        &[0x10, b'a', 0, 0],
        &[0x1f, b'a', 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0],
        &[0xf0, 255, 255, 255],
    ] {
        let forged = [&[Codec::General as u8], forged].concat();
        assert_eq!(decode(&forged, &mut [0; 64]), Err(ProtocolError::BadEncoded { what }), "{forged:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Zeros and other words in runs, of any length and alignment.
    #[test]
    fn whatever_goes_in_comes_out(
        runs in prop::collection::vec((any::<bool>(), 1..40_000_usize), 0..12),
        cut in 0..8_usize,
    ) {
        let mut noise = Noise(runs.len() as u64);
        let mut source = Vec::new();
        for (zero, bytes) in runs {
            source.extend((0..bytes).map(|_| if zero { 0 } else { noise.next() as u8 }));
        }
        let source = &source[cut.min(source.len())..];
        for codec in [Codec::Palette, Codec::General] {
            there_and_back(codec, source);
        }
    }

    #[test]
    fn any_bytes_can_be_decoded(codec in 0..4_u8, data in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut payload = vec![0, 4, codec];
        payload.extend(data);
        checks::check(&payload);
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |codec, source: &[u8]| {
        let mut seed = (source.len() as u16).to_le_bytes().to_vec();
        seed.extend(there_and_back(codec, source).unwrap());
        seed
    };
    let zeros = sparse(1 << 12, 80);
    let few: Vec<u8> = (0..1 << 14).flat_map(|n: u32| (n * 7 % 31).to_le_bytes()[..2].to_vec()).collect();
    let mut unknown = seed(Codec::General, &zeros);
    unknown[2] = 9;
    let mut damaged = seed(Codec::General, &zeros);
    damaged[3] ^= 0xf0;
    vec![
        ("sparse", seed(Codec::General, &zeros)),
        ("tokens", seed(Codec::General, &tokens(2, 300))),
        ("palette", seed(Codec::Palette, &few)),
        ("bad-codec", unknown),
        ("bad-block", damaged),
        ("bad-distance", vec![64, 0, Codec::General as u8, 0x10, b'a', 9, 0]),
    ]
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/encoded")
}

/// `cargo test -p fusewire-wire --test encoded -- --ignored write_the_seeds` after the format changes.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, seed) in seeds() {
        std::fs::write(folder().join(name), seed).unwrap();
    }
}

/// What an encoder makes of the same bytes may change with it; the seeds need not.
#[test]
fn the_seeds() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let mut data = std::fs::read(entry.unwrap().path()).unwrap();
        checks::check(&data);
        for at in 0..data.len().min(300) {
            data[at] ^= 0x81;
            checks::check(&data);
            data[at] ^= 0x81;
        }
        count += 1;
    }
    assert!(count >= seeds().len());
}
