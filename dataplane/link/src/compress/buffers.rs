//! The memory that compressed chunks are sent from: a few buffers, used in turn.

use std::collections::VecDeque;

/// Compressed chunks that may be under way on a lane; the next ones go as they are.
pub(super) const MOST_BUFFERS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// For each chunk that is under way, in order: the memory that it is sent from, if that is ours.
    sending: VecDeque<Option<Box<[u8]>>>,
    spare: Vec<Box<[u8]>>,
    count: usize,
}

impl Buffers {
    /// One of at least this length; `None` while all are under way.
    pub(super) fn take(&mut self, length: usize) -> Option<Box<[u8]>> {
        // The one that was used last: it is still in the cache.
        if let Some(at) = self.spare.iter().rposition(|buffer| buffer.len() >= length) {
            return Some(self.spare.swap_remove(at));
        }
        if self.count == MOST_BUFFERS {
            // One that is too short is exchanged.
            self.spare.pop()?;
            self.count -= 1;
        }
        self.count += 1;
        Some(vec![0; length].into_boxed_slice())
    }

    /// Takes back what was not needed.
    pub(super) fn put(&mut self, buffer: Box<[u8]>) {
        self.spare.push(buffer);
    }

    /// A chunk goes under way, from this memory if it is one of ours.
    pub(super) fn send(&mut self, buffer: Option<Box<[u8]>>) {
        self.sending.push_back(buffer);
    }

    /// The oldest chunk under way has been sent.
    pub(super) fn sent(&mut self) {
        if let Some(Some(buffer)) = self.sending.pop_front() {
            self.spare.push(buffer);
        }
    }

    #[cfg(test)]
    pub(super) fn under_way_and_spare(&self) -> (usize, usize) {
        (self.sending.len(), self.spare.len())
    }
}
