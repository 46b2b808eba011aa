//! A command lane on `io_uring`: one multishot receive, and at most one `sendmsg` under way.
//!
//! A polling owner pays for a system call only to submit a send or when the kernel says that completions
//! wait to be posted. An owner that sleeps does so in the same system call that submits.

use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{cqueue, opcode, types};

use super::receive_buffers::{GROUP, ReceiveBuffers};
use super::socket::Socket;
use crate::error::{Closing, LinkError};
use crate::lane::{CommandLane, EMPTY_IOVEC, IOVECS, SendQueue, Turn, Wait};
use crate::probe;
use crate::ring::{Completion, Ring, TaskWork};
use crate::waker::Waker;

const TAG_RECEIVE: u64 = 1;
const TAG_SEND: u64 = 2;
const TAG_WAKE: u64 = 3;

/// Everything that can fail for want of `io_uring`, made before a socket is committed to it.
pub(super) struct Prepared {
    ring: Ring,
    touched: Touched,
    multishot: bool,
    waker: Waker,
}

/// What the kernel may touch while requests are under way.
struct Touched {
    buffers: ReceiveBuffers,
    queue: SendQueue,
    message: Box<Message>,
    /// Where the eventfd's counter is read to.
    wake_count: Box<u64>,
}

struct Message {
    header: libc::msghdr,
    iovecs: [libc::iovec; IOVECS],
}

// SAFETY: the pointers in the message point into frames that `Touched::queue` owns; no thread owns them.
unsafe impl Send for Message {}

pub(super) struct RingCommand {
    ring: Ring,
    touched: ManuallyDrop<Touched>,
    socket: Socket,
    waker: Waker,
    multishot: bool,
    receiving: bool,
    sending: bool,
    wake_armed: bool,
    /// Why nothing can be sent any more. The lane lives on until the receiving side has ended too, so that
    /// the peer's last words are heard.
    send_failed: Option<LinkError>,
    /// What ended the lane. Reported by the turn after the one that delivered the last bytes.
    ended: Option<LinkError>,
}

impl Prepared {
    pub(super) fn new() -> Result<Self, LinkError> {
        let ring = Ring::new(16, TaskWork::Deferred)?;
        let mut buffers = ReceiveBuffers::new()?;
        // SAFETY: the buffers live in the lane, whose Drop lets go of them only when the ring is quiet.
        let multishot = match unsafe { buffers.register(&ring) } {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
            Err(error) => return Err(probe::refusal("io_uring_register(PBUF_RING)", &error)),
        };
        // SAFETY: all zero is a valid msghdr: null pointers and lengths of nothing.
        let header = unsafe { std::mem::zeroed() };
        let message = Box::new(Message { header, iovecs: [EMPTY_IOVEC; IOVECS] });
        let touched = Touched { buffers, queue: SendQueue::default(), message, wake_count: Box::new(0) };
        Ok(Prepared { ring, touched, multishot, waker: Waker::new()? })
    }

    pub(super) fn attach(self, socket: Socket) -> RingCommand {
        let Prepared { ring, touched, multishot, waker } = self;
        RingCommand {
            ring,
            touched: ManuallyDrop::new(touched),
            socket,
            waker,
            multishot,
            receiving: false,
            sending: false,
            wake_armed: false,
            send_failed: None,
            ended: None,
        }
    }
}

impl CommandLane for RingCommand {
    fn send(&mut self, frame: Arc<Vec<u8>>) -> Result<(), LinkError> {
        match self.ended.as_ref().or(self.send_failed.as_ref()) {
            Some(why) => Err(why.clone()),
            None => {
                self.touched.queue.push(frame);
                Ok(())
            }
        }
    }

    fn turn(&mut self, wait: Wait, sink: &mut dyn FnMut(&[u8])) -> Result<Turn, LinkError> {
        let mut turn = Turn::default();
        self.ring.enable()?;
        if self.ended.is_none() {
            self.arm()?;
            if wait != Wait::No && !self.ring.has_completions() {
                self.sleep(wait, &mut turn)?;
            } else {
                self.ring.poke()?;
            }
            self.collect(&mut turn, sink)?;
            // A send that the kernel took at once makes room for the next.
            while self.send_is_due() && self.ended.is_none() {
                self.arm()?;
                self.ring.poke()?;
                self.collect(&mut turn, sink)?;
            }
        }
        match &self.ended {
            Some(ended) if turn.is_idle() => Err(ended.clone()),
            _ => Ok(turn),
        }
    }

    fn in_flight(&self) -> usize {
        self.touched.queue.len()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn leak(self: Box<Self>) {
        std::mem::forget(self);
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.socket.raw(), self.ring.raw(), self.waker.fd()]
    }
}

impl RingCommand {
    /// Queues the requests that are due: the receive if none is posted, a send if there is one to make.
    fn arm(&mut self) -> Result<(), LinkError> {
        let socket = types::Fd(self.socket.raw());
        if !self.receiving {
            let receive = if self.multishot {
                opcode::RecvMulti::new(socket, GROUP).build()
            } else {
                let (start, length) = self.touched.buffers.whole();
                opcode::Recv::new(socket, start, length as u32).build()
            };
            // SAFETY: the buffers stay until the ring is quiet (Drop).
            unsafe { self.ring.push(receive, TAG_RECEIVE)? };
            self.receiving = true;
        }
        if self.send_is_due() {
            let Touched { queue, message, .. } = &mut *self.touched;
            let filled = queue.fill(&mut message.iovecs);
            message.header.msg_iov = message.iovecs.as_mut_ptr();
            message.header.msg_iovlen = filled;
            let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
            let send = opcode::SendMsg::new(socket, &raw const message.header).flags(flags).build();
            // SAFETY: message and frames stay, the queue being advanced only after the completion.
            unsafe { self.ring.push(send, TAG_SEND)? };
            self.sending = true;
        }
        Ok(())
    }

    fn send_is_due(&self) -> bool {
        !self.sending && self.send_failed.is_none() && !self.touched.queue.is_empty()
    }

    /// Submits and sleeps until something completes, unless a wake-up is owed already.
    fn sleep(&mut self, wait: Wait, turn: &mut Turn) -> Result<(), LinkError> {
        if !self.wake_armed {
            let into: *mut u64 = &raw mut *self.touched.wake_count;
            let read = opcode::Read::new(types::Fd(self.waker.fd()), into.cast(), 8).build();
            // SAFETY: `wake_count` stays until the ring is quiet (Drop).
            unsafe { self.ring.push(read, TAG_WAKE)? };
            self.wake_armed = true;
        }
        if !self.waker.begin_sleep() {
            turn.woken = true;
            return self.ring.poke();
        }
        let limit = match wait {
            Wait::AtMost(limit) => Some(limit),
            Wait::No | Wait::Forever => None,
        };
        let slept = self.ring.wait(limit);
        turn.woken = self.waker.end_sleep();
        slept
    }

    fn collect(&mut self, turn: &mut Turn, sink: &mut dyn FnMut(&[u8])) -> Result<(), LinkError> {
        while let Some(completion) = self.ring.pop() {
            match completion.tag {
                TAG_RECEIVE => self.received(completion, turn, sink),
                TAG_SEND => self.sent(completion, turn),
                TAG_WAKE => self.wake_armed = false,
                _ => {}
            }
        }
        Ok(())
    }

    fn received(&mut self, completion: Completion, turn: &mut Turn, sink: &mut dyn FnMut(&[u8])) {
        if !completion.more_follow() {
            self.receiving = false;
        }
        match completion.result {
            1.. => {
                let length = completion.result as usize;
                match cqueue::buffer_select(completion.flags) {
                    Some(id) => {
                        if let Some(bytes) = self.touched.buffers.filled(id, length) {
                            sink(bytes);
                        }
                        self.touched.buffers.give_back(id);
                    }
                    None => sink(self.touched.buffers.received(length)),
                }
                turn.received_bytes += length;
            }
            0 => {
                let closed = LinkError::Closed { peer: self.socket.peer.clone(), how: Closing::ByPeer };
                self.ended = Some(self.send_failed.take().unwrap_or(closed));
            }
            error => match -error {
                // All buffers were full for a moment; they are ours again by now.
                libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {}
                // Buffer rings but no multishot receive: Linux 5.19.
                libc::EINVAL if self.multishot => self.multishot = false,
                errno => self.ended = Some(self.socket.failed("receiving on the command lane", errno)),
            },
        }
    }

    fn sent(&mut self, completion: Completion, turn: &mut Turn) {
        self.sending = false;
        match completion.result {
            0.. => turn.sent_frames += self.touched.queue.advance(completion.result as usize),
            error => match -error {
                libc::EINTR | libc::EAGAIN => {}
                errno => {
                    let why = self.socket.failed("sending on the command lane", errno);
                    if matches!(why, LinkError::Closed { .. }) {
                        self.send_failed = Some(why);
                    } else {
                        self.ended = Some(why);
                    }
                }
            },
        }
    }
}

impl Drop for RingCommand {
    fn drop(&mut self) {
        self.socket.shut();
        self.waker.ring_bell();
        if self.ring.quiesce(Duration::from_secs(1)) {
            // SAFETY: dropped once, here; nothing uses it afterwards, the ring being quiet.
            unsafe { ManuallyDrop::drop(&mut self.touched) };
        }
    }
}
