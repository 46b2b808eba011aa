//! The command lane: the trait, and the queue of frames that its socket implementations share.
//!
//! One thread owns a lane and *turns* it: a turn hands queued frames to the peer, delivers what has
//! arrived, and may wait. There is no other thread and no timer behind it. Frames are opaque here.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::LinkError;
use crate::waker::Waker;

/// An ordered, reliable, two-way stream of frames, turned by one thread at a time.
///
/// A lane may be built on one thread and moved to another, but from its first [`turn`](Self::turn) on it
/// has to stay on the thread that turns it, unless [`any_thread`](Self::any_thread). Dropping it closes the connection: what the kernel or the peer
/// has been handed still arrives, frames still in flight are lost.
pub trait CommandLane: Send {
    /// Queues a whole frame behind those already queued. The lane's clone is dropped once the frame has
    /// been handed to the kernel or the peer.
    ///
    /// # Errors
    /// The error that ended the lane, if it has ended.
    fn send(&mut self, frame: Arc<Vec<u8>>) -> Result<(), LinkError>;

    /// Flushes queued frames, passes what has arrived to `sink`, and waits at most `wait` for something to
    /// happen: bytes from the peer, room for more frames, or the [`Waker`].
    ///
    /// Slices given to `sink` follow the order of the stream, split anywhere, and are valid during the
    /// call only. With [`Wait::No`] and nothing to do, no system call is made.
    ///
    /// # Errors
    /// [`LinkError::Closed`] when the connection has ended; bytes that came before are delivered first.
    fn turn(&mut self, wait: Wait, sink: &mut dyn FnMut(&[u8])) -> Result<Turn, LinkError>;

    /// Whether threads may take turns at turning it.
    fn any_thread(&self) -> bool {
        false
    }

    /// Frames queued and not yet handed to the kernel or the peer: the signal for batching by
    /// back-pressure (gather records while this is not zero).
    fn in_flight(&self) -> usize;

    /// A handle with which any thread can make a waiting [`turn`](Self::turn) return.
    fn waker(&self) -> Waker;

    /// Gives the lane's resources up without touching them: for a forked child, where the ring and the
    /// connection still belong to the parent.
    fn leak(self: Box<Self>);

    /// The lane's file descriptors. A forked child may `close` these numbers, and nothing else, so that
    /// the peer sees the connection end when the parent does.
    fn descriptors(&self) -> Vec<RawFd>;
}

/// How long a turn may wait for something to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    pub received_bytes: usize,
    /// Frames completely handed to the kernel or the peer.
    pub sent_frames: usize,
    /// The waker was used. May be reported once for a wake-up that an earlier [`Wait::No`] turn has
    /// already made superfluous.
    pub woken: bool,
}

impl Turn {
    pub(crate) fn is_idle(&self) -> bool {
        *self == Turn::default()
    }
}

/// Most frames that one `sendmsg` takes.
pub(crate) const IOVECS: usize = 64;

/// Frames on their way out, the first of them possibly in part.
#[derive(Default)]
pub(crate) struct SendQueue {
    frames: VecDeque<Arc<Vec<u8>>>,
    /// Bytes of the first frame that have been sent; less than its length.
    sent: usize,
}

impl SendQueue {
    pub(crate) fn push(&mut self, frame: Arc<Vec<u8>>) {
        if !frame.is_empty() {
            self.frames.push_back(frame);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Points `iovecs` at what is to be sent next, in order, and returns how many were filled. They stay
    /// good until [`advance`](Self::advance): a queued frame is neither moved nor changed.
    pub(crate) fn fill(&self, iovecs: &mut [libc::iovec; IOVECS]) -> usize {
        let mut skip = self.sent;
        let mut filled = 0;
        for (slot, frame) in iovecs.iter_mut().zip(&self.frames) {
            let rest = &frame[skip..];
            *slot = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// Accounts for `bytes` more bytes sent; returns how many frames that finished.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> usize {
        let mut finished = 0;
        while let Some(front) = self.frames.front() {
            let rest = front.len() - self.sent;
            if bytes < rest {
                self.sent += bytes;
                break;
            }
            bytes -= rest;
            self.sent = 0;
            self.frames.pop_front();
            finished += 1;
        }
        finished
    }
}

pub(crate) const EMPTY_IOVEC: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advance_counts_frames_across_any_split() {
        let sizes = [3usize, 1, 7, 64, 5];
        let total: usize = sizes.iter().sum();
        for step in 1..=total {
            let mut queue = SendQueue::default();
            for (n, &size) in sizes.iter().enumerate() {
                queue.push(Arc::new(vec![n as u8; size]));
            }
            queue.push(Arc::new(Vec::new()));
            let mut out: Vec<u8> = Vec::new();
            let mut finished = 0;
            while !queue.is_empty() {
                let mut iovecs = [EMPTY_IOVEC; IOVECS];
                let filled = queue.fill(&mut iovecs);
                let mut left = step;
                for iovec in &iovecs[..filled] {
                    let take = left.min(iovec.iov_len);
                    // SAFETY: fill() points at live frames, which stay until advance() below.
                    out.extend_from_slice(unsafe { std::slice::from_raw_parts(iovec.iov_base.cast(), take) });
                    left -= take;
                }
                finished += queue.advance(step - left);
            }
            assert_eq!(finished, sizes.len());
            let expected: Vec<u8> =
                sizes.iter().enumerate().flat_map(|(n, &size)| vec![n as u8; size]).collect();
            assert_eq!(out, expected, "step {step}");
        }
    }
}
