//! What must hold for any bytes that arrive as a compressed payload, and for any bytes that are compressed.

use fusewire_wire::palette::{Encoder, Kernel, LEAST_BYTES, decode_with};

pub(crate) fn check(data: &[u8], kernel: &'static dyn Kernel) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    // Decoding: into memory of any length, sound or not.
    let mut out = vec![0xa5; usize::from(u16::from_le_bytes(*length))];
    let _ = decode_with(kernel, rest, &mut out);
    // Encoding: the same bytes, repeated until they are worth it; and what is left of them, which makes other words,
    // after the first were seen.
    let mut encoder = Encoder::new(kernel);
    for rest in [rest, rest.get(1..).unwrap_or_default(), rest] {
        if rest.is_empty() {
            return;
        }
        let source: Vec<u8> =
            rest.iter().copied().cycle().take(LEAST_BYTES.max(rest.len()) + rest.len() % 7).collect();
        let mut encoded = vec![0; source.len()];
        if let Some(bytes) = encoder.encode(&source, &mut encoded) {
            assert!(bytes <= source.len() - source.len() / 8);
            let mut again = vec![0x5a; source.len()];
            assert_eq!(decode_with(kernel, &encoded[..bytes], &mut again), Ok(()));
            assert!(again == source, "what came out is not what went in");
        }
    }
}
