//! The name of an image by its contents, under which a server keeps it.
//!
//! BLAKE3: nobody can make a second image for a name, and it is quicker than the memory of the images that are
//! hashed. What is hashed is what is sent: the image without the entries that the GPU cannot use.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Images up to this many bytes are sent without asking whether the server has them: the question would cost more.
pub const SMALL_IMAGE_BYTES: usize = 4096;

/// The hash of an image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of these bytes that only who has `key` can make.
    #[must_use]
    pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> Self {
        Self(*blake3::keyed_hash(key, bytes).as_bytes())
    }

    /// A key made of a secret, of no use for anything but `purpose`.
    #[must_use]
    pub fn derive_key(purpose: &str, secret: &[u8]) -> [u8; 32] {
        blake3::derive_key(purpose, secret)
    }

    /// As four numbers, as a record carries it.
    #[must_use]
    pub fn words(&self) -> [u64; 4] {
        zerocopy::transmute!(self.0)
    }

    /// From the numbers of a record.
    #[must_use]
    pub fn from_words(words: [u64; 4]) -> Self {
        Self(zerocopy::transmute!(words))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_blake3_and_survives_a_record() {
        // The test vector for no input: <https://github.com/BLAKE3-team/BLAKE3>.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), empty);
        assert_eq!(Digest::from_words(digest.words()), digest);
        assert_ne!(Digest::keyed(&[1; 32], b""), Digest::keyed(&[2; 32], b""));
    }
}
