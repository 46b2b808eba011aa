//! The batch that callers append to.
//!
//! Appending is a bounds check and a copy into a buffer that has room; taking what there is swaps buffers, so that a
//! lock around it is held for a moment. Neither allocates once the session is warm.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use super::outbox::OutboxConfig;
use crate::error::ProtocolError;
use crate::frame::{
    FRAME_HEADER_BYTES, MAX_FRAME_PAYLOAD, MAX_RECORD_BYTES, RECORD_HEADER_BYTES, RecordHeader,
};

/// Buffers that are kept for batches that become full before they are taken.
const SPARES: usize = 8;

/// Records on their way into a batch: room for the frame's header, then records.
#[derive(Debug)]
pub struct OpenBatch {
    window_bytes: usize,
    batch_bytes: usize,
    buffer_bytes: usize,
    open: Vec<u8>,
    records: u32,
    next_record: u64,
    /// Batches that became full, oldest first, with the number of their records.
    full: VecDeque<(Vec<u8>, u32)>,
    full_bytes: usize,
    spares: Vec<Vec<u8>>,
    retained_bytes: usize,
}

impl OpenBatch {
    /// Nothing yet.
    pub fn new(config: OutboxConfig) -> Self {
        Self {
            window_bytes: config.window_bytes,
            batch_bytes: config.batch_bytes.clamp(RECORD_HEADER_BYTES, MAX_FRAME_PAYLOAD),
            buffer_bytes: config.buffer_bytes,
            open: blank(config.buffer_bytes),
            records: 0,
            next_record: 1,
            full: VecDeque::new(),
            full_bytes: 0,
            spares: Vec::new(),
            retained_bytes: 0,
        }
    }

    /// Appends a record: `fixed`, then the pieces of `tail`, zero padded to 8. Gives the record's number.
    ///
    /// # Errors
    /// [`ProtocolError::WindowFull`] when the caller must wait for the peer; nothing has changed then.
    /// [`ProtocolError::RecordTooLarge`] beyond [`MAX_RECORD_BYTES`].
    #[inline]
    pub fn push(&mut self, op: u16, flags: u16, fixed: &[u8], tail: &[&[u8]]) -> Result<u64, ProtocolError> {
        let tail_len = tail.iter().map(|piece| piece.len()).fold(0, usize::saturating_add);
        let whole = self.admit(op, flags, fixed.len().saturating_add(tail_len))?;
        let end = self.open.len() + whole - RECORD_HEADER_BYTES;
        self.open.extend_from_slice(fixed);
        for piece in tail {
            self.open.extend_from_slice(piece);
        }
        self.open.resize(end, 0);
        Ok(self.commit())
    }

    /// Appends a record whose tail of `tail_len` zero bytes the caller fills in place.
    ///
    /// # Errors
    /// As [`OpenBatch::push`].
    #[inline]
    pub fn reserve_record(
        &mut self,
        op: u16,
        flags: u16,
        fixed: &[u8],
        tail_len: usize,
    ) -> Result<(u64, &mut [u8]), ProtocolError> {
        let whole = self.admit(op, flags, fixed.len().saturating_add(tail_len))?;
        let end = self.open.len() + whole - RECORD_HEADER_BYTES;
        self.open.extend_from_slice(fixed);
        let tail = self.open.len();
        self.open.resize(end, 0);
        let number = self.commit();
        let room = self.open.get_mut(tail..tail + tail_len).unwrap_or_default();
        Ok((number, room))
    }

    /// Bytes of records that have not been taken, those in full batches apart.
    #[inline]
    pub fn open_bytes(&self) -> usize {
        self.open.len() - FRAME_HEADER_BYTES
    }

    /// Their number.
    #[inline]
    pub fn open_records(&self) -> u32 {
        self.records
    }

    /// Bytes of batches that are full and have not been taken.
    #[inline]
    pub fn full_bytes(&self) -> usize {
        self.full_bytes
    }

    /// The number that the next record will have.
    #[inline]
    pub fn next_record(&self) -> u64 {
        self.next_record
    }

    /// Whether [`OpenBatch::take`] would give anything.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.records != 0 || !self.full.is_empty()
    }

    /// Says how much of what has been taken the peer has not acknowledged: the window is for that, too.
    #[inline]
    pub fn set_retained_bytes(&mut self, bytes: usize) {
        self.retained_bytes = bytes;
    }

    /// Takes the oldest batch, in exchange for an empty buffer with room for a header, of
    /// [`Retained::blank`](super::Retained::blank). Gives the number of its records; nothing, and leaves the buffer, if
    /// there are none.
    #[inline]
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> Option<u32> {
        if let Some((full, records)) = self.full.pop_front() {
            self.full_bytes -= full.len();
            let blank = std::mem::replace(buffer, full);
            if self.spares.len() < SPARES {
                self.spares.push(blank);
            }
            return Some(records);
        }
        if self.records == 0 {
            return None;
        }
        std::mem::swap(buffer, &mut self.open);
        Some(std::mem::take(&mut self.records))
    }

    /// Makes room for a record with a body of `body` bytes and writes its header. Gives its whole length.
    #[inline]
    fn admit(&mut self, op: u16, flags: u16, body: usize) -> Result<usize, ProtocolError> {
        let whole = body.saturating_add(RECORD_HEADER_BYTES + 7) & !7;
        let bytes = match u32::try_from(whole) {
            Ok(bytes) if whole <= MAX_RECORD_BYTES => bytes,
            _ => return Err(ProtocolError::RecordTooLarge { bytes: whole, limit: MAX_RECORD_BYTES }),
        };
        let outstanding = self.retained_bytes + self.full_bytes + self.open_bytes();
        if outstanding != 0 && outstanding + whole > self.window_bytes {
            let window = self.window_bytes;
            return Err(ProtocolError::WindowFull { retained: outstanding, wanted: whole, window });
        }
        if self.records != 0 && self.open_bytes() + whole > self.batch_bytes {
            self.put_aside();
        }
        self.open.reserve(whole);
        self.open.extend_from_slice(RecordHeader { op, flags, bytes }.as_bytes());
        Ok(whole)
    }

    /// Begins a new batch; the one before is full.
    fn put_aside(&mut self) {
        let open = self.spares.pop().unwrap_or_else(|| blank(self.buffer_bytes));
        let full = std::mem::replace(&mut self.open, open);
        self.full_bytes += full.len();
        self.full.push_back((full, std::mem::take(&mut self.records)));
    }

    #[inline]
    fn commit(&mut self) -> u64 {
        let number = self.next_record;
        self.next_record += 1;
        self.records += 1;
        number
    }
}

/// An empty buffer with room for a header.
pub(super) fn blank(bytes: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(FRAME_HEADER_BYTES + bytes);
    buffer.resize(FRAME_HEADER_BYTES, 0);
    buffer
}
