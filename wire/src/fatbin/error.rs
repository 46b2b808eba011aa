//! What can be wrong with an image: each error says what was read, where, and what would have been right.

use super::kind::ImageKind;

/// Why an image, or a part of it, cannot be read.
///
/// Offsets count bytes from the start of the image (for a payload: of the container it lies in).
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    /// The source could not deliver bytes that the image says it has.
    #[error("{what} at offset {offset:#x}: {needed} bytes needed, but they cannot be read")]
    Unreadable {
        /// What was being read.
        what: &'static str,
        /// Where it should start.
        offset: usize,
        /// How long it should be.
        needed: usize,
    },
    /// Something reaches past the end of what encloses it.
    #[error("{what} at offset {offset:#x}: {needed} bytes needed, {available} there")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// How long it claims to be.
        needed: u64,
        /// How many bytes there are.
        available: usize,
    },
    /// The first bytes belong to no image the driver loads.
    #[error("not a CUDA image: it begins with {first:02x?}")]
    UnknownImage {
        /// The first bytes, as far as there are any; the rest is zero.
        first: [u8; 4],
    },
    /// A field has a value that it cannot have.
    #[error("{what} at offset {offset:#x} is {found:#x}, expected {expected}")]
    BadField {
        /// The field.
        what: &'static str,
        /// Where it lies.
        offset: usize,
        /// What it holds.
        found: u64,
        /// What would have been right.
        expected: &'static str,
    },
    /// A size is larger than this reader is willing to handle.
    #[error("{what} at offset {offset:#x} is {size}, more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Where the size was found.
        offset: usize,
        /// The size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// No NUL byte ends the PTX text.
    #[error("PTX text has no terminating NUL in its first {searched} bytes")]
    Unterminated {
        /// How many bytes were searched.
        searched: usize,
    },
    /// The image carries no length of its own; only a call that is given the size can take it.
    #[error("the length of {kind:?} cannot be found from its bytes; the caller must give it")]
    NoLength {
        /// What the image is.
        kind: ImageKind,
    },
    /// A compressed payload does not decompress.
    #[error("{codec} payload at offset {offset:#x}: {reason}")]
    Decompress {
        /// The compression, by name.
        codec: &'static str,
        /// Where the payload starts.
        offset: usize,
        /// What the decompressor said.
        reason: String,
    },
}
