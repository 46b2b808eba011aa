//! The plain contents of an entry.

use std::borrow::Cow;

use ruzstd::decoding::FrameDecoder;

use super::container::{Compression, Entry};
use super::error::FatbinError;

/// Frames with a small content may still name a window of this size.
const LEAST_WINDOW_LIMIT: u64 = 8 << 20;

impl<'a> Entry<'a> {
    /// The contents of the entry: the payload itself if it is not compressed (with its padding), else the
    /// decompressed bytes.
    ///
    /// # Errors
    /// The contents would be larger than `max_bytes`, the sizes in the header contradict each other, or
    /// the compressed data is damaged.
    pub fn contents(&self, max_bytes: usize) -> Result<Cow<'a, [u8]>, FatbinError> {
        let compression = self.compression()?;
        if compression == Compression::None {
            return Ok(Cow::Borrowed(self.payload));
        }
        let compressed = self.compressed()?;
        let size = match usize::try_from(self.uncompressed_bytes) {
            Ok(size) if size <= max_bytes => size,
            _ => {
                return Err(FatbinError::TooLarge {
                    what: "uncompressed size",
                    offset: self.offset + 56,
                    size: self.uncompressed_bytes,
                    limit: max_bytes as u64,
                });
            }
        };
        let mut contents = vec![0; size];
        let (codec, written) = match compression {
            Compression::Lz4 => (
                "LZ4",
                lz4_flex::block::decompress_into(compressed, &mut contents).map_err(|e| e.to_string()),
            ),
            _ => ("Zstandard", decompress_zstd(compressed, &mut contents)),
        };
        let damaged = |reason| FatbinError::Decompress { codec, offset: self.payload_offset(), reason };
        match written {
            Ok(written) if written == size => Ok(Cow::Owned(contents)),
            Ok(written) => Err(damaged(format!("{written} bytes came out, {size} expected"))),
            Err(reason) => Err(damaged(reason)),
        }
    }

    fn compressed(&self) -> Result<&'a [u8], FatbinError> {
        let truncated = FatbinError::Truncated {
            what: "compressed payload",
            offset: self.payload_offset(),
            needed: self.compressed_bytes.into(),
            available: self.payload.len(),
        };
        usize::try_from(self.compressed_bytes).ok().and_then(|size| self.payload.get(..size)).ok_or(truncated)
    }
}

fn decompress_zstd(compressed: &[u8], contents: &mut [u8]) -> Result<usize, String> {
    let mut decoder = FrameDecoder::new();
    // The window is allocated before the data proves that it is needed.
    decoder.set_max_window_size(LEAST_WINDOW_LIMIT.max(contents.len() as u64));
    decoder.decode_all(compressed, contents).map_err(|error| error.to_string())
}
