//! Sealed batches, kept until the peer has acknowledged them.
//!
//! A batch is never copied: the link and what is retained share it. Buffers come back when both have let go of them.

use std::collections::VecDeque;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::open_batch;
use super::outbox::{OutboxConfig, SealedBatch};
use crate::error::ProtocolError;
use crate::frame::{FLAG_ACK_NOW, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameKind};

/// The batches of one direction of a session.
///
/// State: batches `acked + 1 ..= sealed` are retained, in order; of these the link has been handed those up to
/// `handed`. So `acked <= handed <= sealed` and `retained.len() == sealed - acked`, always.
#[derive(Debug)]
pub struct Retained {
    config: OutboxConfig,
    retained: VecDeque<SealedBatch>,
    retained_bytes: usize,
    acked: u64,
    handed: u64,
    sealed: u64,
    /// Batches done with, whose buffers are reused as soon as the link has dropped them.
    pool: VecDeque<SealedBatch>,
    pool_bytes: usize,
}

impl Retained {
    /// Nothing yet.
    pub fn new(config: OutboxConfig) -> Self {
        Self {
            config,
            retained: VecDeque::new(),
            retained_bytes: 0,
            acked: 0,
            handed: 0,
            sealed: 0,
            pool: VecDeque::new(),
            pool_bytes: 0,
        }
    }

    /// An unshared batch, empty but for room for a header: an old one if the link has let go of it.
    pub fn blank(&mut self) -> SealedBatch {
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
        Arc::new(open_batch::blank(self.config.buffer_bytes))
    }

    /// Gives back what nothing was put into.
    pub fn discard(&mut self, batch: SealedBatch) {
        self.recycle(batch);
    }

    /// Makes the next batch of so many records, which have been put into it. It must not be shared.
    pub fn seal(&mut self, mut batch: SealedBatch, records: u32) {
        self.sealed += 1;
        let header = FrameHeader {
            magic: FRAME_MAGIC,
            kind: FrameKind::Batch as u8,
            flags: 0,
            records,
            // An open batch is kept within MAX_FRAME_PAYLOAD.
            bytes: u32::try_from(batch.len().saturating_sub(FRAME_HEADER_BYTES)).unwrap_or(u32::MAX),
            reserved: 0,
            seq: self.sealed,
            ack: 0,
        };
        debug_assert_eq!(Arc::strong_count(&batch), 1, "a batch that is being filled is nobody else's");
        if let Some(room) = Arc::get_mut(&mut batch).and_then(|batch| batch.get_mut(..FRAME_HEADER_BYTES)) {
            room.copy_from_slice(header.as_bytes());
        }
        self.retained_bytes += batch.len();
        self.retained.push_back(batch);
    }

    /// Whether [`Retained::next`] would give a batch.
    #[inline]
    pub fn has_next(&self) -> bool {
        self.handed < self.sealed
    }

    /// The next batch for the link: first what must be sent again, then what has been sealed. `ack` is what this end
    /// has applied of the other direction. The batch stays retained.
    pub fn next(&mut self, ack: u64) -> Option<SealedBatch> {
        if !self.has_next() {
            return None;
        }
        let index = usize::try_from(self.handed - self.acked).ok()?;
        let ask = self.retained_bytes >= self.config.window_bytes / 2;
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

    /// Batches that the peer has not acknowledged, oldest first.
    pub fn unacked(&self) -> impl ExactSizeIterator<Item = &SealedBatch> {
        self.retained.iter()
    }

    /// Their bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.retained_bytes
    }

    /// Starts over on a new link, after the last batch that the peer holds: [`Retained::next`] gives every later
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

    /// Batches after `seq`, oldest first, without changing anything.
    pub fn replay_after(&self, seq: u64) -> impl Iterator<Item = SealedBatch> {
        let skip = usize::try_from(seq.saturating_sub(self.acked)).unwrap_or(usize::MAX);
        self.retained.iter().skip(skip).map(Arc::clone)
    }

    fn recycle(&mut self, batch: SealedBatch) {
        let bytes = batch.capacity();
        if self.pool_bytes + bytes <= self.config.pool_bytes {
            self.pool_bytes += bytes;
            self.pool.push_back(batch);
        }
    }
}
