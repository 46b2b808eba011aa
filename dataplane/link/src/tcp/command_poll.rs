//! A command lane on plain system calls, for where `io_uring` is forbidden or too old.
//!
//! The same promises at a higher price: a polling owner pays one `recv` each turn.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::socket::Socket;
use crate::error::{Closing, LinkError};
use crate::lane::{CommandLane, EMPTY_IOVEC, IOVECS, SendQueue, Turn, Wait};
use crate::poll;
use crate::waker::Waker;

const RECEIVE_BUFFER: usize = 256 << 10;
/// Receives in a row before sends get another chance.
const RECEIVES: usize = 8;

pub(super) struct PollCommand {
    socket: Socket,
    waker: Waker,
    queue: SendQueue,
    buffer: Vec<u8>,
    /// As in the `io_uring` lane: the peer's last words are still heard.
    send_failed: Option<LinkError>,
    ended: Option<LinkError>,
}

impl PollCommand {
    pub(super) fn new(socket: Socket) -> Result<Self, LinkError> {
        Ok(PollCommand {
            socket,
            waker: Waker::new()?,
            queue: SendQueue::default(),
            buffer: vec![0; RECEIVE_BUFFER],
            send_failed: None,
            ended: None,
        })
    }

    fn send_is_due(&self) -> bool {
        self.send_failed.is_none() && !self.queue.is_empty()
    }

    fn flush(&mut self, turn: &mut Turn) {
        while self.send_is_due() {
            let mut iovecs = [EMPTY_IOVEC; IOVECS];
            let filled = self.queue.fill(&mut iovecs);
            match send_now(&self.socket, &mut iovecs[..filled]) {
                Ok(0) => break,
                Ok(sent) => turn.sent_frames += self.queue.advance(sent),
                Err(errno) => {
                    let why = self.socket.failed("sending on the command lane", errno);
                    if matches!(why, LinkError::Closed { .. }) {
                        self.send_failed = Some(why);
                    } else {
                        self.ended = Some(why);
                    }
                    break;
                }
            }
        }
    }

    fn receive(&mut self, turn: &mut Turn, sink: &mut dyn FnMut(&[u8])) {
        for _ in 0..RECEIVES {
            match receive_now(&self.socket, self.buffer.as_mut_ptr(), self.buffer.len()) {
                Ok(Some(0)) => {
                    let closed = LinkError::Closed { peer: self.socket.peer.clone(), how: Closing::ByPeer };
                    self.ended = Some(self.send_failed.take().unwrap_or(closed));
                    break;
                }
                Ok(Some(received)) => {
                    sink(&self.buffer[..received]);
                    turn.received_bytes += received;
                    if received < self.buffer.len() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(errno) => {
                    self.ended = Some(self.socket.failed("receiving on the command lane", errno));
                    break;
                }
            }
        }
    }

    fn sleep(&mut self, wait: Wait, turn: &mut Turn) -> Result<(), LinkError> {
        if !self.waker.begin_sleep() {
            turn.woken = true;
            return Ok(());
        }
        let limit = match wait {
            Wait::AtMost(limit) => Some(limit),
            Wait::No | Wait::Forever => None,
        };
        let slept = poll::wait(self.socket.raw(), self.send_is_due(), Some(&self.waker), limit);
        turn.woken = self.waker.end_sleep();
        slept.map(drop)
    }
}

impl CommandLane for PollCommand {
    fn send(&mut self, frame: Arc<Vec<u8>>) -> Result<(), LinkError> {
        match self.ended.as_ref().or(self.send_failed.as_ref()) {
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
            self.flush(&mut turn);
            self.receive(&mut turn, sink);
            if wait != Wait::No && turn.is_idle() && self.ended.is_none() {
                self.sleep(wait, &mut turn)?;
                self.flush(&mut turn);
                self.receive(&mut turn, sink);
            }
        }
        match &self.ended {
            Some(ended) if turn.is_idle() => Err(ended.clone()),
            _ => Ok(turn),
        }
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
        vec![self.socket.raw(), self.waker.fd()]
    }
}

impl Drop for PollCommand {
    fn drop(&mut self) {
        self.socket.shut();
    }
}

/// Sends what the kernel takes at once; 0: nothing.
pub(super) fn send_now(socket: &Socket, iovecs: &mut [libc::iovec]) -> Result<usize, i32> {
    // SAFETY: all zero is a valid msghdr: null pointers and lengths of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    // SAFETY: the caller's iovecs point to live memory.
    unsafe { send_message_now(socket, &raw const message) }
}

/// # Safety
/// `message` and all it points to must be live.
pub(super) unsafe fn send_message_now(socket: &Socket, message: *const libc::msghdr) -> Result<usize, i32> {
    // SAFETY: passed on to the caller.
    let result = unsafe { libc::sendmsg(socket.raw(), message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if result >= 0 {
        return Ok(result as usize);
    }
    match last_errno() {
        libc::EAGAIN | libc::EINTR => Ok(0),
        errno => Err(errno),
    }
}

/// Receives what is there; `None`: nothing, `Some(0)`: the end.
pub(super) fn receive_now(socket: &Socket, into: *mut u8, length: usize) -> Result<Option<usize>, i32> {
    // SAFETY: the callers pass memory of that length that is theirs to write.
    let result = unsafe { libc::recv(socket.raw(), into.cast(), length, libc::MSG_DONTWAIT) };
    if result >= 0 {
        return Ok(Some(result as usize));
    }
    match last_errno() {
        libc::EAGAIN | libc::EINTR => Ok(None),
        errno => Err(errno),
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
