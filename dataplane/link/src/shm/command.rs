//! A command lane in shared memory.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Side;
use super::area::{Area, Ends};
use super::bell::{Bell, DATA, PEER, ROOM, Spin};
use super::ring::Forged;
use crate::error::LinkError;
use crate::lane::{CommandLane, EMPTY_IOVEC, IOVECS, SendQueue, Turn, Wait};
use crate::waker::Waker;

/// What is received is copied here before anybody looks at it.
const BUFFER: usize = 64 << 10;
/// Pieces in a row before sending gets another chance.
const PIECES: usize = 16;

pub(super) struct ShmCommand {
    ends: Ends,
    bell: Bell,
    waker: Waker,
    queue: SendQueue,
    buffer: Vec<u8>,
    spin: Spin,
    /// The peer is gone; what it wrote before is still to be delivered.
    gone: Option<LinkError>,
    ended: Option<LinkError>,
}

// SAFETY: the pointers in `Ends` lead to the area that it holds; see `Bell`, `Producer` and `Consumer`.
unsafe impl Send for ShmCommand {}

pub(super) fn forged(Forged: Forged) -> LinkError {
    LinkError::PeerMisbehaved {
        peer: PEER.to_owned(),
        what: "a position in the shared ring that cannot be".to_owned(),
    }
}

impl ShmCommand {
    pub(super) fn new(
        area: &Arc<Area>,
        socket: OwnedFd,
        side: Side,
        spin: Duration,
    ) -> Result<Self, LinkError> {
        let ends = area.ends(0, side)?;
        Ok(ShmCommand {
            bell: Bell::new(socket, &ends)?,
            ends,
            waker: Waker::new()?,
            queue: SendQueue::default(),
            buffer: vec![0; BUFFER],
            spin: Spin::new(spin),
            gone: None,
            ended: None,
        })
    }

    fn flush(&mut self, turn: &mut Turn) -> Result<(), Forged> {
        let mut written = 0;
        'full: while !self.queue.is_empty() {
            let mut iovecs = [EMPTY_IOVEC; IOVECS];
            let filled = self.queue.fill(&mut iovecs);
            for iovec in &iovecs[..filled] {
                // SAFETY: fill() points at queued frames, which stay until advance().
                let put = unsafe { self.ends.out.write(iovec.iov_base.cast(), iovec.iov_len) }?;
                written += put;
                turn.sent_frames += self.queue.advance(put);
                if put < iovec.iov_len {
                    break 'full;
                }
            }
        }
        if written != 0 {
            self.ends.out.publish();
            self.bell.ring(DATA);
        }
        Ok(())
    }

    fn receive(&mut self, turn: &mut Turn, sink: &mut dyn FnMut(&[u8])) -> Result<(), Forged> {
        for _ in 0..PIECES {
            // SAFETY: the buffer is live and that long.
            let got = unsafe { self.ends.back.read(self.buffer.as_mut_ptr(), self.buffer.len()) }?;
            if got == 0 {
                break;
            }
            self.ends.back.publish();
            self.bell.ring(ROOM);
            sink(&self.buffer[..got]);
            turn.received_bytes += got;
        }
        Ok(())
    }

    fn pass(&mut self, turn: &mut Turn, sink: &mut dyn FnMut(&[u8])) {
        let flushed = if self.gone.is_none() { self.flush(turn) } else { Ok(()) };
        // Delivered even if the writing side is broken: the peer's last words.
        if let Err(error) = self.receive(turn, sink).and(flushed) {
            self.ended = Some(forged(error));
        }
        // It wrote nothing more after it had gone.
        if turn.received_bytes == 0 && self.ended.is_none() {
            self.ended = self.gone.clone();
        }
    }

    fn note(&mut self, outcome: Result<bool, LinkError>) -> bool {
        outcome.unwrap_or_else(|why| {
            if matches!(why, LinkError::Closed { .. }) {
                self.gone = Some(why);
            } else {
                self.ended = Some(why);
            }
            false
        })
    }

    fn sleep(&mut self, wait: Wait, turn: &mut Turn) {
        let limit = match wait {
            Wait::AtMost(limit) => Some(limit),
            Wait::No | Wait::Forever => None,
        };
        let start = Instant::now();
        let to_send = !self.queue.is_empty();
        let Self { ends, bell, waker, spin, .. } = self;
        let mut ready = || {
            // A forged position is something to look at, too.
            ends.back.available() != Ok(0) || (to_send && ends.out.room(1) != Ok(0))
        };
        if spin.wait(limit, || waker.is_owed() || ready()) && ready() {
            return;
        }
        let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
        let slept = bell.sleep(waker, if to_send { DATA | ROOM } else { DATA }, left, ready);
        turn.woken = self.note(slept);
    }
}

impl CommandLane for ShmCommand {
    fn send(&mut self, frame: Arc<Vec<u8>>) -> Result<(), LinkError> {
        match self.ended.as_ref().or(self.gone.as_ref()) {
            Some(why) => Err(why.clone()),
            None => {
                self.queue.push(frame);
                Ok(())
            }
        }
    }

    fn turn(&mut self, wait: Wait, sink: &mut dyn FnMut(&[u8])) -> Result<Turn, LinkError> {
        let mut turn = Turn::default();
        if self.ended.is_none() {
            self.pass(&mut turn, sink);
            if turn.is_idle() && self.ended.is_none() {
                if wait == Wait::No {
                    let looked = self.bell.look().map(|()| false);
                    self.note(looked);
                } else {
                    self.sleep(wait, &mut turn);
                    self.pass(&mut turn, sink);
                }
            }
        }
        match &self.ended {
            Some(ended) if turn.is_idle() => Err(ended.clone()),
            _ => Ok(turn),
        }
    }

    fn any_thread(&self) -> bool {
        true
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn leak(self: Box<Self>) {
        std::mem::forget(self);
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.bell.fd(), self.waker.fd()]
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_forged_position_ends_the_lane_and_nothing_else() {
        for wait in [Wait::No, Wait::AtMost(Duration::from_secs(5))] {
            let (area, _) = Area::create(0).unwrap();
            let (socket, _peer) = UnixStream::pair().unwrap();
            let mut lane = ShmCommand::new(&area, socket.into(), Side::Server, Duration::ZERO).unwrap();
            area.ends(0, Side::Client).unwrap().out.forge(1 << 40);
            let why = lane.turn(wait, &mut |_| panic!("nothing came")).unwrap_err();
            assert!(matches!(why, LinkError::PeerMisbehaved { .. }), "{why}");
            assert_eq!(lane.send(Arc::new(vec![1])), Err(why));
        }
    }
}
