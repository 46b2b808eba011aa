//! One direction's sender: the open batch that callers append to, and the sealed ones kept until acknowledged.
//!
//! Appending is a bounds check and a copy into a buffer that has room; sealing writes a header and swaps
//! buffers. Neither allocates once the session is warm, and a batch is never copied: the link and the retention
//! share it. The receiving end is `inbox`.

use std::collections::VecDeque;
use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::error::ProtocolError;
use crate::frame::{
    FLAG_ACK_NOW, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameKind, MAX_FRAME_PAYLOAD,
    MAX_RECORD_BYTES, RECORD_HEADER_BYTES, RecordHeader,
};

/// A sealed batch: a whole frame, header first.
pub type SealedBatch = Arc<Vec<u8>>;

/// How much an [`Outbox`] gathers and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxConfig {
    /// The most bytes that may be open or unacknowledged before [`Outbox::push`] makes the caller wait. A
    /// single record always passes when nothing else is outstanding.
    pub window_bytes: usize,
    /// A record that would make the open batch longer than this starts a new one. At most
    /// [`MAX_FRAME_PAYLOAD`]; a record that is longer by itself travels alone.
    pub batch_bytes: usize,
    /// What a fresh batch buffer has room for.
    pub buffer_bytes: usize,
    /// The most bytes of buffers that are kept for reuse.
    pub pool_bytes: usize,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self { window_bytes: 64 << 20, batch_bytes: 1 << 20, buffer_bytes: 64 << 10, pool_bytes: 8 << 20 }
    }
}

/// The sending half of one direction of a session.
///
/// State: batches `acked + 1 ..= sealed` are retained, in order; of these the link has been handed those up to
/// `handed`. So `acked <= handed <= sealed` and `retained.len() == sealed - acked`, always.
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    /// A frame under construction: room for its header, then records.
    open: Vec<u8>,
    open_records: u32,
    next_record: u64,
    retained: VecDeque<SealedBatch>,
    retained_bytes: usize,
    acked: u64,
    handed: u64,
    sealed: u64,
    /// Batches done with, whose buffers are reused as soon as the link has dropped them.
    pool: VecDeque<SealedBatch>,
    pool_bytes: usize,
}

impl Outbox {
    /// An outbox that has sent nothing.
    pub fn new(mut config: OutboxConfig) -> Self {
        config.batch_bytes = config.batch_bytes.clamp(RECORD_HEADER_BYTES, MAX_FRAME_PAYLOAD);
        let mut open = Vec::with_capacity(FRAME_HEADER_BYTES + config.buffer_bytes);
        open.resize(FRAME_HEADER_BYTES, 0);
        Self {
            config,
            open,
            open_records: 0,
            next_record: 1,
            retained: VecDeque::new(),
            retained_bytes: 0,
            acked: 0,
            handed: 0,
            sealed: 0,
            pool: VecDeque::new(),
            pool_bytes: 0,
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
    /// As [`Outbox::push`].
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

    /// Bytes of records in the open batch.
    #[inline]
    pub fn open_bytes(&self) -> usize {
        self.open.len() - FRAME_HEADER_BYTES
    }

    /// Records in the open batch.
    #[inline]
    pub fn open_records(&self) -> u32 {
        self.open_records
    }

    /// The number that the next record will have.
    #[inline]
    pub fn next_record(&self) -> u64 {
        self.next_record
    }

    /// Whether [`Outbox::seal`] would give a frame.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.handed < self.sealed || self.open_records != 0
    }

    /// The next frame for the link: first what must be sent again, then what has been sealed, then the open
    /// batch. `ack` is what this end has applied of the other direction. The frame stays retained.
    pub fn seal(&mut self, ack: u64) -> Option<SealedBatch> {
        if self.handed == self.sealed {
            if self.open_records == 0 {
                return None;
            }
            self.seal_open();
        }
        let index = usize::try_from(self.handed - self.acked).ok()?;
        let ask = self.outstanding() >= self.config.window_bytes / 2;
        let batch = self.retained.get_mut(index)?;
        self.handed += 1;
        // The link may still hold a batch that is sent again; its older acknowledgement does no harm.
        if let Some(frame) = Arc::get_mut(batch) {
            if let Some(field) = frame.get_mut(FrameHeader::ACK_OFFSET..FRAME_HEADER_BYTES) {
                field.copy_from_slice(&ack.to_le_bytes());
            }
            if ask && let Some(flags) = frame.get_mut(3) {
                *flags |= FLAG_ACK_NOW;
            }
        }
        Some(Arc::clone(batch))
    }

    /// Takes the peer's word that it has applied every batch up to `seq`. Older words are ignored.
    ///
    /// # Errors
    /// An acknowledgement of what was never handed to the link.
    pub fn ack(&mut self, seq: u64) -> Result<(), ProtocolError> {
        if seq > self.handed {
            return Err(ProtocolError::AckAhead { acked: seq, sent: self.handed });
        }
        while self.acked < seq {
            let Some(batch) = self.retained.pop_front() else { break };
            self.acked += 1;
            self.retained_bytes -= batch.len();
            self.recycle(batch);
        }
        Ok(())
    }

    /// The last batch that the peer is known to have applied.
    #[inline]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Sealed batches that the peer has not acknowledged, oldest first.
    pub fn unacked(&self) -> impl ExactSizeIterator<Item = &SealedBatch> {
        self.retained.iter()
    }

    /// Bytes of sealed batches that the peer has not acknowledged.
    #[inline]
    pub fn retained_bytes(&self) -> usize {
        self.retained_bytes
    }

    /// Starts over on a new link, after the last batch that the peer holds: [`Outbox::seal`] gives every later
    /// one again.
    ///
    /// # Errors
    /// A peer that claims what it was never sent, or has forgotten what it acknowledged.
    pub fn resume_after(&mut self, seq: u64) -> Result<(), ProtocolError> {
        if seq < self.acked {
            return Err(ProtocolError::ResumeBehind { resume: seq, acked: self.acked });
        }
        self.ack(seq)?;
        self.handed = seq;
        Ok(())
    }

    /// Retained batches after `seq`, oldest first, without changing anything.
    pub fn replay_after(&self, seq: u64) -> impl Iterator<Item = SealedBatch> {
        let skip = usize::try_from(seq.saturating_sub(self.acked)).unwrap_or(usize::MAX);
        self.retained.iter().skip(skip).map(Arc::clone)
    }

    fn outstanding(&self) -> usize {
        self.retained_bytes + self.open_bytes()
    }

    /// Makes room for a record with a body of `body` bytes and writes its header. Gives its whole length.
    #[inline]
    fn admit(&mut self, op: u16, flags: u16, body: usize) -> Result<usize, ProtocolError> {
        let whole = body.saturating_add(RECORD_HEADER_BYTES + 7) & !7;
        let bytes = match u32::try_from(whole) {
            Ok(bytes) if whole <= MAX_RECORD_BYTES => bytes,
            _ => return Err(ProtocolError::RecordTooLarge { bytes: whole, limit: MAX_RECORD_BYTES }),
        };
        let outstanding = self.outstanding();
        if outstanding != 0 && outstanding + whole > self.config.window_bytes {
            let window = self.config.window_bytes;
            return Err(ProtocolError::WindowFull { retained: outstanding, wanted: whole, window });
        }
        if self.open_records != 0 && self.open_bytes() + whole > self.config.batch_bytes {
            self.seal_open();
        }
        self.open.reserve(whole);
        self.open.extend_from_slice(RecordHeader { op, flags, bytes }.as_bytes());
        Ok(whole)
    }

    #[inline]
    fn commit(&mut self) -> u64 {
        let number = self.next_record;
        self.next_record += 1;
        self.open_records += 1;
        number
    }

    fn seal_open(&mut self) {
        self.sealed += 1;
        let header = FrameHeader {
            magic: FRAME_MAGIC,
            kind: FrameKind::Batch as u8,
            flags: 0,
            records: self.open_records,
            // `admit` keeps a batch within MAX_FRAME_PAYLOAD.
            bytes: u32::try_from(self.open_bytes()).unwrap_or(u32::MAX),
            reserved: 0,
            seq: self.sealed,
            ack: 0,
        };
        if let Some(room) = self.open.get_mut(..FRAME_HEADER_BYTES) {
            room.copy_from_slice(header.as_bytes());
        }
        let mut batch = self.fresh();
        // A fresh batch is unshared, so this always swaps.
        if let Some(buffer) = Arc::get_mut(&mut batch) {
            std::mem::swap(buffer, &mut self.open);
        }
        self.open_records = 0;
        self.retained_bytes += batch.len();
        self.retained.push_back(batch);
    }

    /// An unshared buffer with room for a header: an old one if the link has let go of it.
    fn fresh(&mut self) -> SealedBatch {
        // A link drops batches in the order it sent them, so the oldest is the likeliest to be free.
        for _ in 0..self.pool.len().min(4) {
            let Some(mut batch) = self.pool.pop_front() else { break };
            if let Some(buffer) = Arc::get_mut(&mut batch) {
                self.pool_bytes -= buffer.capacity();
                buffer.clear();
                buffer.resize(FRAME_HEADER_BYTES, 0);
                return batch;
            }
            self.pool.push_back(batch);
        }
        let mut buffer = Vec::with_capacity(FRAME_HEADER_BYTES + self.config.buffer_bytes);
        buffer.resize(FRAME_HEADER_BYTES, 0);
        Arc::new(buffer)
    }

    fn recycle(&mut self, batch: SealedBatch) {
        let bytes = batch.capacity();
        if self.pool_bytes + bytes <= self.config.pool_bytes {
            self.pool_bytes += bytes;
            self.pool.push_back(batch);
        }
    }
}
