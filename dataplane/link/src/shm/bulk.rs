//! A bulk lane in shared memory: chunks in the rings, as on a byte stream.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Side;
use super::area::{Area, Ends};
use super::bell::{Bell, DATA, PEER, ROOM, Spin};
use super::command::forged;
use crate::bulk::{BulkEngine, BulkSink, Outbox};
use crate::error::{Closing, LinkError};
use crate::tcp::chunks::{Receiver, Sender};
use crate::waker::Waker;

/// How long a lane that was told to stop waits for a peer that takes nothing.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes one way before the other way gets a chance, and before the peer hears of them.
const STREAK: usize = 256 << 10;

pub(super) struct ShmBulk {
    ends: Ends,
    bell: Bell,
    waker: Waker,
    receiver: Receiver,
    sender: Sender,
    spin: Spin,
    gone: Option<LinkError>,
}

// SAFETY: as for the command lane.
unsafe impl Send for ShmBulk {}

impl ShmBulk {
    pub(super) fn new(
        area: &Arc<Area>,
        lane: usize,
        socket: OwnedFd,
        side: Side,
        spin: Duration,
    ) -> Result<Self, LinkError> {
        let ends = area.ends(1 + lane, side)?;
        Ok(ShmBulk {
            bell: Bell::new(socket, &ends)?,
            ends,
            waker: Waker::new()?,
            receiver: Receiver::new(),
            sender: Sender::default(),
            spin: Spin::new(spin),
            gone: None,
        })
    }

    fn carry(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<LinkError, LinkError> {
        let mut last_progress = Instant::now();
        loop {
            if outbox.is_aborted() {
                return Ok(LinkError::Closed { peer: PEER.to_owned(), how: Closing::Here });
            }
            let stopping = outbox.is_stopping();
            if stopping {
                let unsendable = self.gone.is_some() || last_progress.elapsed() > STOP_PATIENCE;
                if (self.sender.is_empty() && outbox.is_empty()) || unsendable {
                    return Ok(LinkError::Closed { peer: PEER.to_owned(), how: Closing::Here });
                }
            }
            let sent = self.gone.is_none() && self.send(outbox, sink)?;
            let received = self.receive(sink)?;
            if sent || (received && !stopping) {
                last_progress = Instant::now();
            }
            if sent || received {
                continue;
            }
            if let Some(gone) = self.gone.take() {
                let how = self.receiver.ended_by_peer();
                return Err(if how == Closing::ByPeer {
                    gone
                } else {
                    LinkError::Closed { peer: PEER.to_owned(), how }
                });
            }
            self.sleep(stopping.then_some(STOP_PATIENCE))?;
        }
    }

    fn sleep(&mut self, limit: Option<Duration>) -> Result<(), LinkError> {
        let to_send = !self.sender.is_empty();
        let Self { ends, bell, waker, spin, .. } = self;
        let mut ready = || {
            // A forged position is something to look at, too.
            ends.back.available() != Ok(0) || (to_send && ends.out.room(1) != Ok(0))
        };
        if spin.wait(limit, || waker.is_owed() || ready()) && ready() {
            return Ok(());
        }
        match bell.sleep(waker, if to_send { DATA | ROOM } else { DATA }, limit, ready) {
            Ok(_) => Ok(()),
            Err(why @ LinkError::Closed { .. }) => {
                self.gone = Some(why);
                Ok(())
            }
            Err(why) => Err(why),
        }
    }

    /// True: something was written.
    fn send(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<bool, LinkError> {
        let mut written = 0;
        while written < STREAK {
            let Some(group) = self.sender.current(outbox, usize::MAX, sink, &|| None)? else { break };
            let Some((piece, _)) = group.piece() else { break };
            // SAFETY: the group is live, and the payload's memory was promised to be until `sent`.
            let put = unsafe { self.ends.out.write(piece.iov_base.cast(), piece.iov_len.min(STREAK)) };
            let put = put.map_err(forged)?;
            group.advance(put);
            // Copied: its memory is free.
            self.sender.settle(sink);
            written += put;
            if put == 0 && piece.iov_len != 0 {
                break;
            }
        }
        if written != 0 {
            self.ends.out.publish();
            self.bell.ring(DATA);
        }
        Ok(written != 0)
    }

    /// True: something was read.
    fn receive(&mut self, sink: &mut dyn BulkSink) -> Result<bool, LinkError> {
        let mut taken = 0;
        while taken < STREAK {
            let (into, length) = self.receiver.room();
            // SAFETY: the receiver's own header, or memory that was promised to be the lane's until `landed`.
            let got = unsafe { self.ends.back.read(into, length.min(STREAK)) }.map_err(forged)?;
            if got == 0 {
                break;
            }
            taken += got;
            self.receiver.advance(got, PEER, sink)?;
        }
        if taken != 0 {
            self.ends.back.publish();
            self.bell.ring(ROOM);
        }
        Ok(taken != 0)
    }
}

impl BulkEngine for ShmBulk {
    fn run(mut self: Box<Self>, outbox: &Outbox, sink: &mut dyn BulkSink) -> LinkError {
        // What was published stays readable for the peer after the connection's end, which `Bell` brings about.
        match self.carry(outbox, sink) {
            Ok(closed) | Err(closed) => closed,
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.bell.fd(), self.waker.fd()]
    }
}
