//! A bulk lane on plain system calls, for where `io_uring` is forbidden or too old.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::chunks::{Receiver, Sender};
use super::command_poll::{receive_now, send_message_now};
use super::socket::Socket;
use crate::bulk::{BulkEngine, BulkSink, Outbox};
use crate::error::{Closing, LinkError};
use crate::poll;
use crate::waker::Waker;

/// How long a lane that was told to stop waits for a peer that takes nothing.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Calls one way before the other way gets a chance.
const STREAK: usize = 4;

pub(super) struct PollBulk {
    socket: Socket,
    waker: Waker,
    receiver: Receiver,
    sender: Sender,
    send_failed: Option<LinkError>,
}

impl PollBulk {
    pub(super) fn new(socket: Socket) -> Result<Self, LinkError> {
        Ok(PollBulk {
            socket,
            waker: Waker::new()?,
            receiver: Receiver::new(),
            sender: Sender::default(),
            send_failed: None,
        })
    }

    fn carry(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<LinkError, LinkError> {
        let mut last_progress = Instant::now();
        loop {
            if outbox.is_aborted() {
                return Ok(LinkError::Closed { peer: self.socket.peer.clone(), how: Closing::Here });
            }
            let stopping = outbox.is_stopping();
            if stopping {
                let unsendable = self.send_failed.is_some() || last_progress.elapsed() > STOP_PATIENCE;
                if (self.sender.is_empty() && outbox.is_empty()) || unsendable {
                    return Ok(LinkError::Closed { peer: self.socket.peer.clone(), how: Closing::Here });
                }
            }
            let sent = self.send(outbox, sink)?;
            let received = self.receive(sink)?;
            if sent || (received && !stopping) {
                last_progress = Instant::now();
            }
            if !sent && !received && self.waker.begin_sleep() {
                let to_send = self.send_failed.is_none() && !self.sender.is_empty();
                let limit = stopping.then_some(STOP_PATIENCE);
                let slept = poll::wait(self.socket.raw(), to_send, Some(&self.waker), limit);
                self.waker.end_sleep();
                slept?;
            }
        }
    }

    /// True: something was sent.
    fn send(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<bool, LinkError> {
        let mut progress = false;
        for _ in 0..STREAK {
            if self.send_failed.is_some() {
                break;
            }
            let delivery = || self.socket.delivery(outbox);
            let Some(group) = self.sender.current(outbox, usize::MAX, sink, &delivery)? else { break };
            // SAFETY: the group is live, and the payloads' memory was promised to be until `sent`.
            match unsafe { send_message_now(&self.socket, group.message()) } {
                Ok(0) => break,
                Ok(sent) => {
                    group.advance(sent);
                    self.sender.settle(sink);
                    progress = true;
                }
                Err(errno) => {
                    let why = self.socket.failed("sending on a bulk lane", errno);
                    if !matches!(why, LinkError::Closed { .. }) {
                        return Err(why);
                    }
                    self.send_failed = Some(why);
                }
            }
        }
        Ok(progress)
    }

    /// True: something was received.
    fn receive(&mut self, sink: &mut dyn BulkSink) -> Result<bool, LinkError> {
        let mut progress = false;
        for _ in 0..STREAK {
            let (into, length) = self.receiver.room();
            match receive_now(&self.socket, into, length) {
                Ok(Some(0)) => {
                    let how = self.receiver.ended_by_peer();
                    let closed = LinkError::Closed { peer: self.socket.peer.clone(), how };
                    return Err(self.send_failed.take().unwrap_or(closed));
                }
                Ok(Some(received)) => {
                    self.receiver.advance(received, &self.socket.peer, sink)?;
                    progress = true;
                }
                Ok(None) => break,
                Err(errno) => return Err(self.socket.failed("receiving on a bulk lane", errno)),
            }
        }
        Ok(progress)
    }
}

impl BulkEngine for PollBulk {
    fn run(mut self: Box<Self>, outbox: &Outbox, sink: &mut dyn BulkSink) -> LinkError {
        let why = match self.carry(outbox, sink) {
            Ok(closed) | Err(closed) => closed,
        };
        if matches!(why, LinkError::Closed { how: Closing::Here, .. }) && self.sender.is_empty() {
            self.socket.shut();
        } else {
            self.socket.abort();
        }
        why
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.socket.raw(), self.waker.fd()]
    }
}
