//! What must hold for any bytes that arrive as a compressed payload of any codec, and for any that are compressed.

use fusewire_wire::encoded::{Codec, LEAST_BYTES, decode, encode, room};
use fusewire_wire::general::{estimate, is_largely_runs};

pub(crate) fn check(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    // Decoding: into memory of any length, sound or not.
    let mut out = vec![0xa5; usize::from(u16::from_le_bytes(*length))];
    let _ = decode(rest, &mut out);
    // Encoding: the bytes as they are, and repeated until they are worth it.
    let long: Vec<u8> =
        rest.iter().copied().cycle().take(LEAST_BYTES.max(rest.len()) + rest.len() % 7).collect();
    for source in [rest, &long] {
        let _ = is_largely_runs(source);
        let (looked_at, _) = estimate(source);
        assert!(looked_at <= source.len());
        for codec in [Codec::Palette, Codec::General] {
            let mut encoded = vec![0; room(source.len())];
            if let Some(bytes) = encode(codec, source, &mut encoded) {
                assert!(bytes <= 1 + source.len() - source.len() / 8);
                let mut again = vec![0x5a; source.len()];
                assert_eq!(decode(&encoded[..bytes], &mut again), Ok(()));
                assert!(again == source, "what came out is not what went in");
            }
        }
    }
}
