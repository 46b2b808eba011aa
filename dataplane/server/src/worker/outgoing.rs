//! What goes back to the client: events, gathered between turns of the command lane.
//!
//! Events wait here while the dispatcher runs and while the client's window is full. A completion that depends
//! on bulk chunks is preceded by a Barrier with their number; that is kept here, in one place, so that nobody
//! can forget it.

use std::collections::VecDeque;

use fusewire_wire::error::ProtocolError;
use fusewire_wire::ops::Status;
use fusewire_wire::ops::events::{Barrier, Credit, Data, Done, Failed, HostCall, Print, Reply, Word};
use fusewire_wire::session::{ChunkNumbers, Outbox};
use zerocopy::IntoBytes;

/// Bytes that may wait for a client that does not read. Then the session ends.
const MAX_WAITING: usize = 256 << 20;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Code, bytes of the fixed part, bytes of the tail.
    records: VecDeque<(u16, u32, u32)>,
    bytes: VecDeque<Vec<u8>>,
    waiting: usize,
    /// How many there have been, which is the number of the last one on the wire.
    events: u64,
    /// Chunks handed to the bulk lanes, and what the client has been told of them.
    chunks: ChunkNumbers,
    told: u64,
}

impl Outgoing {
    fn event(&mut self, code: u16, fixed: &[u8], tail: &[&[u8]]) {
        let tail_bytes: usize = tail.iter().map(|piece| piece.len()).sum();
        let mut bytes = Vec::with_capacity(fixed.len() + tail_bytes);
        bytes.extend_from_slice(fixed);
        for piece in tail {
            bytes.extend_from_slice(piece);
        }
        self.waiting += bytes.len();
        self.events += 1;
        self.records.push_back((code, fixed.len() as u32, tail_bytes as u32));
        self.bytes.push_back(bytes);
    }

    /// The number of the last event, whether it has left or not.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The client must not act on what follows before it has the chunks sent so far.
    fn barrier(&mut self) {
        let chunks = self.chunks.barrier();
        if chunks != self.told {
            self.told = chunks;
            self.event(Barrier::CODE, Barrier { chunks }.as_bytes(), &[]);
        }
    }

    /// The number of a chunk that is handed to the bulk lanes.
    pub(super) fn next_chunk(&mut self) -> u64 {
        self.chunks.next_chunk()
    }

    pub(super) fn reply(&mut self, number: u64, status: Status, fixed: &[u8], tail: &[u8]) {
        self.barrier();
        let reply = Reply { number, status, tail_bytes: tail.len() as u32 };
        self.event(Reply::CODE, reply.as_bytes(), &[fixed, tail]);
    }

    pub(super) fn done(&mut self, number: u64, status: Status) {
        self.barrier();
        self.event(Done::CODE, Done { number, status, reserved: 0 }.as_bytes(), &[]);
    }

    pub(super) fn failed(&mut self, number: u64, context: u64, status: Status, sticky: bool) {
        // A copy that fails half way is over for the client too: nothing of it may land later.
        self.barrier();
        let failed = Failed { number, context, status, sticky: sticky.into() };
        self.event(Failed::CODE, failed.as_bytes(), &[]);
    }

    pub(super) fn credit(&mut self, upto: u64) {
        self.event(Credit::CODE, Credit { upto }.as_bytes(), &[]);
    }

    pub(super) fn data(&mut self, number: u64, offset: u64, data: &[u8]) {
        let head = Data { number, offset, bytes: data.len() as u32, reserved: 0 };
        self.event(Data::CODE, head.as_bytes(), &[data]);
    }

    pub(super) fn host_call(&mut self, number: u64) {
        self.barrier();
        self.event(HostCall::CODE, HostCall { number }.as_bytes(), &[]);
    }

    pub(super) fn print(&mut self, descriptor: u32, text: &[u8]) {
        for piece in text.chunks(1 << 20) {
            let head = Print { descriptor, bytes: piece.len() as u32 };
            self.event(Print::CODE, head.as_bytes(), &[piece]);
        }
    }

    pub(super) fn word(&mut self, address: u64, value: u64, bytes: u32) {
        self.barrier();
        self.event(Word::CODE, Word { address, value, bytes, reserved: 0 }.as_bytes(), &[]);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Moves what fits into the session.
    ///
    /// # Errors
    /// The client has not read for too long.
    pub(super) fn flush(&mut self, outbox: &mut Outbox) -> Result<(), ProtocolError> {
        while let (Some(&(code, fixed, _)), Some(bytes)) = (self.records.front(), self.bytes.front()) {
            let (fixed, tail) = bytes.split_at((fixed as usize).min(bytes.len()));
            match outbox.push(code, 0, fixed, &[tail]) {
                Ok(_) => {
                    self.waiting -= bytes.len();
                    self.records.pop_front();
                    self.bytes.pop_front();
                }
                Err(error) if error.must_wait() && self.waiting <= MAX_WAITING => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_wire::session::OutboxConfig;

    #[test]
    fn a_completion_waits_behind_the_chunks_it_depends_on() {
        let mut out = Outgoing::default();
        out.done(1, 0);
        out.next_chunk();
        out.done(2, 0);
        out.done(3, 0);
        let codes: Vec<u16> = out.records.iter().map(|record| record.0).collect();
        assert_eq!(codes, [Done::CODE, Barrier::CODE, Done::CODE, Done::CODE]);
    }

    #[test]
    fn a_failure_waits_behind_the_chunks_that_went_before() {
        let mut out = Outgoing::default();
        out.next_chunk();
        out.failed(1, 2, 700, true);
        out.failed(2, 2, 700, true);
        let codes: Vec<u16> = out.records.iter().map(|record| record.0).collect();
        assert_eq!(codes, [Barrier::CODE, Failed::CODE, Failed::CODE]);
    }

    #[test]
    fn a_client_that_does_not_read_ends_its_session() {
        let mut outbox = Outbox::new(OutboxConfig { window_bytes: 1 << 20, ..OutboxConfig::default() });
        let mut out = Outgoing::default();
        let piece = vec![0; 1 << 20];
        let mut rounds = 0;
        let ended = loop {
            out.data(1, 0, &piece);
            rounds += 1;
            if let Err(error) = out.flush(&mut outbox) {
                break error;
            }
            assert!(rounds < 1000);
        };
        assert!(ended.must_wait() && rounds > 200, "{rounds}");
    }
}
