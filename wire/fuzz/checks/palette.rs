//! What must hold for any bytes that arrive as a compressed payload, and for any bytes that are compressed.

use fusewire_wire::palette::{LEAST_BYTES, decode, encode};

pub(crate) fn check(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    // Decoding: into memory of any length, sound or not.
    let mut out = vec![0xa5; usize::from(u16::from_le_bytes(*length))];
    let _ = decode(rest, &mut out);
    // Encoding: the same bytes, repeated until they are worth it.
    if rest.is_empty() {
        return;
    }
    let source: Vec<u8> =
        rest.iter().copied().cycle().take(LEAST_BYTES.max(rest.len()) + rest.len() % 7).collect();
    let mut encoded = vec![0; source.len()];
    if let Some(bytes) = encode(&source, &mut encoded) {
        assert!(bytes <= source.len() - source.len() / 8);
        let mut again = vec![0x5a; source.len()];
        assert_eq!(decode(&encoded[..bytes], &mut again), Ok(()));
        assert!(again == source, "what came out is not what went in");
    }
}
