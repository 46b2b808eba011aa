//! Chunks on a byte stream: where received bytes go next, and what is to be sent next.
//!
//! Every engine on a byte stream keeps its state here, the one in shared memory too; neither files nor rings are
//! known in this file.

use std::collections::VecDeque;

use fusewire_wire::bulk::{CHUNK_HEADER_BYTES, CHUNK_MAGIC, ChunkHeader};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::bulk::{BulkSink, Delivery, OutChunk, Outbox, RawSliceMut};
use crate::error::{Closing, LinkError};
use crate::lane::EMPTY_IOVEC;

/// The receiving side: a header, its payload, a header, …
pub(crate) struct Receiver {
    /// Boxed because the kernel writes to it while the struct may be moved.
    header: Box<[u8; CHUNK_HEADER_BYTES]>,
    /// Where the payload goes; `None` while the header is being received.
    payload: Option<(ChunkHeader, RawSliceMut)>,
    /// Bytes of the header, or of the payload, that are there.
    got: usize,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Receiver { header: Box::new([0; CHUNK_HEADER_BYTES]), payload: None, got: 0 }
    }

    /// Where the next bytes of the stream belong. Never empty.
    pub(crate) fn room(&mut self) -> (*mut u8, usize) {
        match &self.payload {
            None => (self.header[self.got..].as_mut_ptr(), CHUNK_HEADER_BYTES - self.got),
            Some((_, into)) => (into.start().wrapping_add(self.got), into.len() - self.got),
        }
    }

    /// Accounts for `bytes` received into [`room`](Self::room).
    pub(crate) fn advance(
        &mut self,
        bytes: usize,
        peer: &str,
        sink: &mut dyn BulkSink,
    ) -> Result<(), LinkError> {
        self.got += bytes;
        match self.payload {
            None if self.got == CHUNK_HEADER_BYTES => {
                let header = ChunkHeader::read_from_bytes(&self.header[..])
                    .unwrap_or_else(|_| ChunkHeader::new_zeroed());
                if header.magic != CHUNK_MAGIC {
                    let what = format!(
                        "{:#010x} where a chunk has to start with {CHUNK_MAGIC:#010x}: it lost its place in \
                         the stream, or is not a Fusewire peer",
                        header.magic
                    );
                    return Err(LinkError::PeerMisbehaved { peer: peer.to_owned(), what });
                }
                let into = sink.place(&header)?;
                if into.len() != header.bytes as usize {
                    return Err(LinkError::Misuse("place() gave memory of another length than the chunk's"));
                }
                self.got = 0;
                if into.is_empty() {
                    sink.landed(&header);
                } else {
                    self.payload = Some((header, into));
                }
            }
            Some((header, into)) if self.got == into.len() => {
                self.got = 0;
                self.payload = None;
                sink.landed(&header);
            }
            _ => {}
        }
        Ok(())
    }

    /// What it means that the stream ends here.
    pub(crate) fn ended_by_peer(&self) -> Closing {
        match &self.payload {
            None if self.got == 0 => Closing::ByPeer,
            None => Closing::MidChunk { got: self.got, of: CHUNK_HEADER_BYTES },
            Some((_, into)) => {
                Closing::MidChunk { got: CHUNK_HEADER_BYTES + self.got, of: CHUNK_HEADER_BYTES + into.len() }
            }
        }
    }
}

/// Most chunks, and most bytes of small chunks, that are sent by one call.
const GROUP_CHUNKS: usize = 16;
const GROUP_BYTES: usize = 256 << 10;

/// Chunks that are sent together: headers and payloads in turn.
pub(crate) struct Group {
    headers: [ChunkHeader; GROUP_CHUNKS],
    iovecs: [libc::iovec; 2 * GROUP_CHUNKS],
    message: libc::msghdr,
    tokens: [u64; GROUP_CHUNKS],
    chunks: usize,
    /// Whether the payloads may be sent without copying them.
    may_stay: bool,
    /// The first iovec that has not been sent completely; it is kept trimmed to what is left.
    at: usize,
    /// Notifications owed by the kernel for zero-copy sends.
    pub(crate) notifications: usize,
    pub(crate) number: u64,
}

// SAFETY: the pointers in a group point to its own headers (it stays in its box) and to memory that
// `RawSlice::new` was promised may be used from any thread.
unsafe impl Send for Group {}

impl Group {
    fn new() -> Box<Self> {
        Box::new(Group {
            headers: [ChunkHeader::new_zeroed(); GROUP_CHUNKS],
            iovecs: [EMPTY_IOVEC; 2 * GROUP_CHUNKS],
            // SAFETY: all zero is a valid msghdr: null pointers and lengths of nothing.
            message: unsafe { std::mem::zeroed() },
            tokens: [0; GROUP_CHUNKS],
            chunks: 0,
            may_stay: false,
            at: 0,
            notifications: 0,
            number: 0,
        })
    }

    fn add(&mut self, chunk: &OutChunk) {
        let n = self.chunks;
        self.headers[n] = chunk.header;
        let header = self.headers[n].as_mut_bytes();
        self.iovecs[2 * n] = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() };
        self.iovecs[2 * n + 1] =
            libc::iovec { iov_base: chunk.payload.start().cast_mut().cast(), iov_len: chunk.payload.len() };
        self.tokens[n] = chunk.done;
        // Who waits is let go sooner by a copy. What was compressed is small, lies in the cache, and its buffer is
        // wanted for the next chunk.
        self.may_stay = !chunk.waited_for && chunk.header.decoded == 0;
        self.chunks += 1;
    }

    /// A message with all that is left to send. Good while the box lives and until the next `advance`.
    pub(crate) fn message(&mut self) -> *const libc::msghdr {
        let rest = &mut self.iovecs[self.at..2 * self.chunks];
        self.message.msg_iov = rest.as_mut_ptr();
        self.message.msg_iovlen = rest.len();
        &raw const self.message
    }

    /// The piece that is next, if there is one, and whether it is payload.
    pub(crate) fn piece(&self) -> Option<(libc::iovec, bool)> {
        self.iovecs[..2 * self.chunks].get(self.at).map(|piece| (*piece, self.at % 2 == 1))
    }

    /// Whether what is left to send is one payload of at least so many bytes, which need not be copied.
    pub(crate) fn may_stay(&self, least: usize) -> bool {
        self.chunks == 1 && self.may_stay && self.iovecs[1].iov_len >= least
    }

    /// From now on the payload is to be copied. Gives whether that is new.
    pub(crate) fn take_may_stay(&mut self) -> bool {
        std::mem::take(&mut self.may_stay)
    }

    pub(crate) fn advance(&mut self, mut bytes: usize) {
        while let Some(piece) = self.iovecs[..2 * self.chunks].get_mut(self.at) {
            if bytes < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len -= bytes;
                return;
            }
            bytes -= piece.iov_len;
            self.at += 1;
        }
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.at == 2 * self.chunks
    }
}

fn judge(chunk: &OutChunk) -> Result<(), LinkError> {
    if chunk.header.bytes as usize != chunk.payload.len() || chunk.header.magic != CHUNK_MAGIC {
        return Err(LinkError::Misuse("a chunk whose header does not fit its payload"));
    }
    Ok(())
}

/// The sending side: chunks in order, formed into groups, reported when their memory is free.
#[derive(Default)]
pub(crate) struct Sender {
    /// Taken, and not fit for the group before.
    next: Option<OutChunk>,
    /// Groups being sent (the last one only) or waiting for their notifications.
    groups: VecDeque<Box<Group>>,
    #[expect(
        clippy::vec_box,
        reason = "a group must not move while the kernel uses it, nor be copied about"
    )]
    spare: Vec<Box<Group>>,
    formed: u64,
}

impl Sender {
    /// Whether nothing is half sent, and the kernel has let go of all that was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_none() && self.groups.is_empty()
    }

    /// The group to send from now: the one that is half sent, or a new one of what `outbox` has. A chunk of at least
    /// `alone` bytes gets a group of its own. `None`: there is nothing to send.
    ///
    /// # Errors
    /// A header that does not fit its payload.
    pub(crate) fn current(
        &mut self,
        outbox: &Outbox,
        alone: usize,
        sink: &mut dyn BulkSink,
        delivery: &dyn Fn() -> Option<Delivery>,
    ) -> Result<Option<&mut Group>, LinkError> {
        if self.groups.back().is_none_or(|group| group.is_sent())
            && !self.form(outbox, alone, sink, delivery)?
        {
            return Ok(None);
        }
        Ok(self.groups.back_mut().map(|group| &mut **group))
    }

    /// Forms a group, if there is anything to send.
    fn form(
        &mut self,
        outbox: &Outbox,
        alone: usize,
        sink: &mut dyn BulkSink,
        delivery: &dyn Fn() -> Option<Delivery>,
    ) -> Result<bool, LinkError> {
        let Some(first) = self.next.take().or_else(|| outbox.take()) else { return Ok(false) };
        judge(&first)?;
        let mut group = self.spare.pop().unwrap_or_else(Group::new);
        group.chunks = 0;
        group.at = 0;
        group.notifications = 0;
        self.formed += 1;
        group.number = self.formed;
        group.add(&sink.prepare(first, delivery));
        let mut bytes = first.payload.len();
        while bytes < alone.min(GROUP_BYTES)
            && group.chunks < GROUP_CHUNKS
            && let Some(next) = outbox.take_another()
        {
            judge(&next)?;
            if next.payload.len() >= alone || bytes + next.payload.len() > GROUP_BYTES {
                self.next = Some(next);
                break;
            }
            group.add(&sink.prepare(next, delivery));
            bytes += next.payload.len();
        }
        self.groups.push_back(group);
        Ok(true)
    }

    pub(crate) fn group(&mut self, number: u64) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.number == number).map(|group| &mut **group)
    }

    /// Reports, in order, the chunks whose memory is free.
    pub(crate) fn settle(&mut self, sink: &mut dyn BulkSink) {
        while self.groups.front().is_some_and(|group| group.is_sent() && group.notifications == 0)
            && let Some(front) = self.groups.pop_front()
        {
            for &token in &front.tokens[..front.chunks] {
                sink.sent(token);
            }
            if self.spare.len() < 4 {
                self.spare.push(front);
            }
        }
    }
}
