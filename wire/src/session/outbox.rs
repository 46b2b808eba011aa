//! One direction's sender: the open batch that callers append to, and the sealed ones kept until acknowledged.
//!
//! Its two halves can be used apart, where callers on several threads append and one sends: see [`OpenBatch`] and
//! [`Retained`]. The receiving end is `inbox`.

use std::sync::Arc;

use super::open_batch::OpenBatch;
use super::retained::Retained;
use crate::error::ProtocolError;
#[cfg(doc)]
use crate::frame::{MAX_FRAME_PAYLOAD, MAX_RECORD_BYTES};

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
#[derive(Debug)]
pub struct Outbox {
    open: OpenBatch,
    sent: Retained,
}

impl Outbox {
    /// An outbox that has sent nothing.
    pub fn new(config: OutboxConfig) -> Self {
        Self { open: OpenBatch::new(config), sent: Retained::new(config) }
    }

    /// Appends a record: `fixed`, then the pieces of `tail`, zero padded to 8. Gives the record's number.
    ///
    /// # Errors
    /// [`ProtocolError::WindowFull`] when the caller must wait for the peer; nothing has changed then.
    /// [`ProtocolError::RecordTooLarge`] beyond [`MAX_RECORD_BYTES`].
    #[inline]
    pub fn push(&mut self, op: u16, flags: u16, fixed: &[u8], tail: &[&[u8]]) -> Result<u64, ProtocolError> {
        self.open.push(op, flags, fixed, tail)
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
        self.open.reserve_record(op, flags, fixed, tail_len)
    }

    /// Bytes of records in the open batch.
    #[inline]
    pub fn open_bytes(&self) -> usize {
        self.open.open_bytes()
    }

    /// Records in the open batch.
    #[inline]
    pub fn open_records(&self) -> u32 {
        self.open.open_records()
    }

    /// The number that the next record will have.
    #[inline]
    pub fn next_record(&self) -> u64 {
        self.open.next_record()
    }

    /// Whether [`Outbox::seal`] would give a frame.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.sent.has_next() || self.open.has_output()
    }

    /// The next frame for the link: first what must be sent again, then what is full, then the open batch. `ack` is
    /// what this end has applied of the other direction. The frame stays retained.
    pub fn seal(&mut self, ack: u64) -> Option<SealedBatch> {
        if !self.sent.has_next() && self.open.has_output() {
            let mut batch = self.sent.blank();
            // A blank one is unshared, so this always takes.
            let taken = Arc::get_mut(&mut batch).and_then(|buffer| self.open.take(buffer));
            if let Some(records) = taken {
                self.sent.seal(batch, records);
                self.open.set_retained_bytes(self.sent.bytes());
            }
        }
        self.sent.next(ack)
    }

    /// Takes the peer's word that it has applied every batch up to `seq`. Older words are ignored.
    ///
    /// # Errors
    /// An acknowledgement of what was never handed to the link.
    pub fn ack(&mut self, seq: u64) -> Result<(), ProtocolError> {
        self.sent.ack(seq)?;
        self.open.set_retained_bytes(self.sent.bytes());
        Ok(())
    }

    /// The last batch that the peer is known to have applied.
    #[inline]
    pub fn acked(&self) -> u64 {
        self.sent.acked()
    }

    /// Sealed batches that the peer has not acknowledged, oldest first.
    pub fn unacked(&self) -> impl ExactSizeIterator<Item = &SealedBatch> {
        self.sent.unacked()
    }

    /// Bytes of batches that are full or sealed and that the peer has not acknowledged.
    #[inline]
    pub fn retained_bytes(&self) -> usize {
        self.sent.bytes() + self.open.full_bytes()
    }

    /// Starts over on a new link, after the last batch that the peer holds: [`Outbox::seal`] gives every later
    /// one again.
    ///
    /// # Errors
    /// A peer that claims what it was never sent, or has forgotten what it acknowledged.
    pub fn resume_after(&mut self, seq: u64) -> Result<(), ProtocolError> {
        self.sent.resume_after(seq)?;
        self.open.set_retained_bytes(self.sent.bytes());
        Ok(())
    }

    /// Retained batches after `seq`, oldest first, without changing anything.
    pub fn replay_after(&self, seq: u64) -> impl Iterator<Item = SealedBatch> {
        self.sent.replay_after(seq)
    }
}
