//! A bulk lane on `io_uring`: at every moment one receive and one send under way.
//!
//! The receive asks for exactly what is missing (a header, then its payload, straight into place) and the
//! kernel completes it when all of it is there, so that a megabyte costs two completions whatever the
//! network's idea of a packet. Sends take header and payload from where they lie; on a real network, large
//! payloads are not copied at all. The kernel sends those from the program's own pages and says when it has let
//! go of them, which is when the peer has them. Nothing is registered with the ring; why is in ARCHITECTURE.md,
//! *Links*.

use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use super::ZeroCopy;
use super::chunks::{Receiver, Sender};
use super::socket::Socket;
use crate::bulk::{BulkEngine, BulkSink, Outbox};
use crate::error::{Closing, LinkError};
use crate::ring::{Completion, Ring, TaskWork};
use crate::waker::Waker;

const TAG_RECEIVE: u64 = 1;
const TAG_WAKE: u64 = 2;
/// Sends: the group's number in the upper bits.
const TAG_SEND: u64 = 3;
const TAG_BITS: u32 = 2;

/// The least payload that is worth sending without copying it. (What a KiB of 32 costs the sender: 29 ns, copied 128.)
const ZERO_COPY_LEAST: usize = 32 << 10;
/// Kernel constants that `io-uring` does not name publicly.
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

/// How long a lane that was told to stop waits for a peer that takes nothing.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Prepared {
    ring: Ring,
    waker: Waker,
    send_zero_copy: bool,
}

impl Prepared {
    pub(super) fn new() -> Result<Self, LinkError> {
        let ring = Ring::new(16, TaskWork::Deferred)?;
        let mut known = io_uring::Probe::new();
        let asked = ring.submitter().register_probe(&mut known);
        let send_zero_copy = asked.is_ok() && known.is_supported(opcode::SendMsgZc::CODE);
        Ok(Prepared { ring, waker: Waker::new()?, send_zero_copy })
    }

    pub(super) fn attach(self, socket: Socket, zero_copy: ZeroCopy) -> RingBulk {
        let wanted = match zero_copy {
            ZeroCopy::Auto => !socket.same_host,
            ZeroCopy::Never => false,
            ZeroCopy::Tried | ZeroCopy::Always => true,
        };
        RingBulk {
            ring: self.ring,
            touched: ManuallyDrop::new(Touched {
                receiver: Receiver::new(),
                sender: Sender::default(),
                wake_count: Box::new(0),
            }),
            socket,
            waker: self.waker,
            receiving: false,
            sending: false,
            wake_armed: false,
            send_failed: None,
            zero_copy: wanted && self.send_zero_copy,
            keep_zero_copy: zero_copy == ZeroCopy::Always,
            report_usage: true,
        }
    }
}

/// What the kernel may touch while requests are under way (besides the memory that the lane's user named).
struct Touched {
    receiver: Receiver,
    sender: Sender,
    /// Where the eventfd's counter is read to.
    wake_count: Box<u64>,
}

pub(super) struct RingBulk {
    ring: Ring,
    touched: ManuallyDrop<Touched>,
    socket: Socket,
    waker: Waker,
    receiving: bool,
    sending: bool,
    wake_armed: bool,
    /// Why nothing can be sent any more; what the peer has sent is still received.
    send_failed: Option<LinkError>,
    /// Large payloads are sent without copying them.
    zero_copy: bool,
    /// ... even if the kernel says that it copied them after all.
    keep_zero_copy: bool,
    /// The kernel can say whether it copied (Linux 6.2).
    report_usage: bool,
}

impl BulkEngine for RingBulk {
    fn run(mut self: Box<Self>, outbox: &Outbox, sink: &mut dyn BulkSink) -> LinkError {
        let why = match self.carry(outbox, sink) {
            Ok(closed) | Err(closed) => closed,
        };
        let orderly =
            matches!(why, LinkError::Closed { how: Closing::Here, .. }) && self.touched.sender.is_empty();
        if orderly {
            self.socket.shut();
        } else {
            self.socket.abort();
        }
        self.waker.ring_bell();
        if !self.ring.quiesce(STOP_PATIENCE) {
            // Zero-copy data that nobody acknowledges: throw it away, so that its memory is free.
            self.socket.abort();
            self.ring.quiesce(STOP_PATIENCE);
        }
        why
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.socket.raw(), self.ring.raw(), self.waker.fd()]
    }
}

impl RingBulk {
    /// Moves chunks until the lane is over.
    fn carry(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<LinkError, LinkError> {
        self.ring.enable()?;
        let mut last_progress = Instant::now();
        loop {
            if outbox.is_aborted() {
                return Ok(LinkError::Closed { peer: self.socket.peer.clone(), how: Closing::Here });
            }
            let stopping = outbox.is_stopping();
            if stopping {
                let unsendable = self.send_failed.is_some() || last_progress.elapsed() > STOP_PATIENCE;
                if (self.touched.sender.is_empty() && outbox.is_empty()) || unsendable {
                    return Ok(LinkError::Closed { peer: self.socket.peer.clone(), how: Closing::Here });
                }
            }
            self.arm_receive()?;
            self.arm_send(outbox, sink)?;
            if self.ring.has_completions() {
                self.ring.poke()?;
            } else {
                self.sleep(stopping.then_some(STOP_PATIENCE))?;
            }
            while let Some(completion) = self.ring.pop() {
                if !stopping || completion.tag & 3 == TAG_SEND {
                    last_progress = Instant::now();
                }
                self.completed(completion, sink)?;
            }
        }
    }

    fn arm_receive(&mut self) -> Result<(), LinkError> {
        if !self.receiving {
            let (into, length) = self.touched.receiver.room();
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let receive = opcode::Recv::new(types::Fd(self.socket.raw()), into, length)
                .flags(libc::MSG_WAITALL)
                .build();
            // SAFETY: the header's box stays until the ring is quiet; the payload's memory was promised to
            // stay until `landed` or `closed`, and `run` returns only when the ring is quiet.
            unsafe { self.ring.push(receive, TAG_RECEIVE)? };
            self.receiving = true;
        }
        Ok(())
    }

    fn arm_send(&mut self, outbox: &Outbox, sink: &mut dyn BulkSink) -> Result<(), LinkError> {
        if self.sending || self.send_failed.is_some() {
            return Ok(());
        }
        let alone = if self.zero_copy { ZERO_COPY_LEAST } else { usize::MAX };
        let delivery = || self.socket.delivery(outbox);
        let Some(group) = self.touched.sender.current(outbox, alone, sink, &delivery)? else { return Ok(()) };
        let socket = types::Fd(self.socket.raw());
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let tag = TAG_SEND | group.number << TAG_BITS;
        let send = if self.zero_copy && group.may_stay(ZERO_COPY_LEAST) {
            let report = if self.report_usage { SEND_ZC_REPORT_USAGE } else { 0 };
            opcode::SendMsgZc::new(socket, group.message()).flags(flags).ioprio(report).build()
        } else {
            opcode::SendMsg::new(socket, group.message()).flags(flags).build()
        };
        // SAFETY: the group, its headers with it, stays until it is settled, which is after the last completion and
        // the last notification; the payload's memory was promised to stay until `sent` or `closed`, and `run`
        // returns only when the ring is quiet.
        unsafe { self.ring.push(send, tag)? };
        self.sending = true;
        Ok(())
    }

    /// Submits and sleeps until something completes, unless a wake-up is owed already.
    fn sleep(&mut self, limit: Option<Duration>) -> Result<(), LinkError> {
        if !self.wake_armed {
            let into: *mut u64 = &raw mut *self.touched.wake_count;
            let read = opcode::Read::new(types::Fd(self.waker.fd()), into.cast(), 8).build();
            // SAFETY: `wake_count` stays until the ring is quiet (Drop).
            unsafe { self.ring.push(read, TAG_WAKE)? };
            self.wake_armed = true;
        }
        if !self.waker.begin_sleep() {
            return self.ring.poke();
        }
        let slept = self.ring.wait(limit);
        self.waker.end_sleep();
        slept
    }

    fn completed(&mut self, completion: Completion, sink: &mut dyn BulkSink) -> Result<(), LinkError> {
        match completion.tag & ((1 << TAG_BITS) - 1) {
            TAG_RECEIVE => self.received(completion.result, sink),
            TAG_SEND => self.sent(completion, sink),
            _ => {
                self.wake_armed = false;
                Ok(())
            }
        }
    }

    fn received(&mut self, result: i32, sink: &mut dyn BulkSink) -> Result<(), LinkError> {
        self.receiving = false;
        match result {
            1.. => self.touched.receiver.advance(result as usize, &self.socket.peer, sink),
            0 => {
                let how = self.touched.receiver.ended_by_peer();
                let closed = LinkError::Closed { peer: self.socket.peer.clone(), how };
                Err(self.send_failed.take().unwrap_or(closed))
            }
            error => match -error {
                libc::EINTR | libc::EAGAIN => Ok(()),
                errno => Err(self.socket.failed("receiving on a bulk lane", errno)),
            },
        }
    }

    fn sent(&mut self, completion: Completion, sink: &mut dyn BulkSink) -> Result<(), LinkError> {
        let Touched { sender, .. } = &mut *self.touched;
        let Some(group) = sender.group(completion.tag >> TAG_BITS) else { return Ok(()) };
        if completion.is_notification() {
            group.notifications -= 1;
            let copied = completion.result as u32 & NOTIF_USAGE_ZC_COPIED != 0;
            if self.report_usage && copied && !self.keep_zero_copy {
                self.zero_copy = false;
            }
        } else {
            self.sending = false;
            if completion.more_follow() {
                group.notifications += 1;
            }
            match completion.result {
                0.. => group.advance(completion.result as usize),
                error => match -error {
                    libc::EINTR | libc::EAGAIN => {}
                    libc::EINVAL if self.zero_copy && self.report_usage => self.report_usage = false,
                    // This socket cannot.
                    libc::EINVAL | libc::EOPNOTSUPP if self.zero_copy => self.zero_copy = false,
                    // No more memory may be locked at the moment; or not this memory, which does not mean that it
                    // cannot be read.
                    libc::ENOMEM | libc::ENOBUFS | libc::EFAULT if group.take_may_stay() => {}
                    errno => {
                        let why = self.socket.failed("sending on a bulk lane", errno);
                        if !matches!(why, LinkError::Closed { .. }) {
                            return Err(why);
                        }
                        self.send_failed = Some(why);
                    }
                },
            }
        }
        sender.settle(sink);
        Ok(())
    }
}

impl Drop for RingBulk {
    fn drop(&mut self) {
        if self.ring.quiesce(Duration::from_millis(100)) {
            // SAFETY: dropped once, here; nothing uses it afterwards, the ring being quiet.
            unsafe { ManuallyDrop::drop(&mut self.touched) };
        }
    }
}
