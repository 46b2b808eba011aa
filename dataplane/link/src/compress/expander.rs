//! The receiving side of a lane on which chunks may come compressed.
//!
//! It believes nothing: a chunk that no compressor made is an error, and nothing that was announced is allocated
//! but room for the bytes that arrive, which the header's judge has bounded.

use fusewire_wire::bulk::ChunkHeader;
use fusewire_wire::encoded;
use fusewire_wire::error::ProtocolError;

use super::kernel;
use crate::bulk::RawSliceMut;

/// What a lane's receiving side remembers.
#[derive(Debug, Default)]
pub struct Expander {
    compressed: Vec<u8>,
    /// Where the chunk that is arriving belongs, if it is compressed.
    target: Option<RawSliceMut>,
}

impl Expander {
    /// For [`BulkSink::place`](crate::BulkSink::place): where to receive a chunk whose contents belong in
    /// `target`. The header must have been judged; `target` has room for its `contents()`.
    pub fn place(&mut self, header: &ChunkHeader, target: RawSliceMut) -> RawSliceMut {
        if header.decoded == 0 {
            self.target = None;
            return target;
        }
        self.target = Some(target);
        let bytes = header.bytes as usize;
        if self.compressed.len() < bytes {
            self.compressed = vec![0; bytes];
        }
        // SAFETY: nobody touches the buffer until the chunk has landed, which is the next call of all.
        unsafe { RawSliceMut::new(self.compressed.as_mut_ptr(), bytes) }
    }

    /// For [`BulkSink::landed`](crate::BulkSink::landed): brings what has arrived to its place.
    ///
    /// # Errors
    /// It is not what a compressor makes. What is in its place then is of no use.
    pub fn landed(&mut self, header: &ChunkHeader) -> Result<(), ProtocolError> {
        let Some(target) = self.target.take() else { return Ok(()) };
        let bytes = self.compressed.get(..header.bytes as usize).unwrap_or_default();
        // SAFETY: the memory was promised to stay, and to be the lane's alone, until the chunk has landed.
        let target = unsafe { std::slice::from_raw_parts_mut(target.start(), target.len()) };
        encoded::decode_with(kernel(), bytes, target)
    }
}
