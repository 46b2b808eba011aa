//! Packets and descriptors over the control socket.
//!
//! The only place that touches ancillary data. The worker's end blocks, or is
//! polled by its shard; the daemon's end never blocks — a worker that does not
//! read its socket must not hold up anybody else.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use thiserror::Error;

use super::message::{FromWorker, MAX_MESSAGE, Malformed, ToWorker};

/// Why a control message could not be moved.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The other process is gone, or has closed its end.
    #[error("the control socket was closed by the other side")]
    Closed,
    /// Nothing came within the time given.
    #[error("nothing came over the control socket within {0:?}")]
    Timeout(Duration),
    /// The other side does not read; its socket buffer is full.
    #[error("the worker does not read its control socket")]
    Full,
    /// The other side misbehaved.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The system refused.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

/// A connected pair: the daemon's end, and the descriptor to start a worker with.
///
/// # Errors
/// Whatever socketpair(2) says.
pub fn pair() -> io::Result<(DaemonEnd, OwnedFd)> {
    let (daemon, worker) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((DaemonEnd(daemon), worker))
}

/// The daemon's end. Sending never blocks.
#[derive(Debug)]
pub struct DaemonEnd(OwnedFd);

impl DaemonEnd {
    /// Sends a message, or says at once why it cannot.
    ///
    /// # Errors
    /// [`ControlError::Closed`] when the worker is gone, [`ControlError::Full`]
    /// when it does not read.
    pub fn send(&self, message: &ToWorker) -> Result<(), ControlError> {
        let (bytes, fd) = message.encode();
        send(self.0.as_fd(), &bytes, fd.map(AsFd::as_fd), SendFlags::DONTWAIT)
    }

    /// Waits for a message for at most `limit`.
    ///
    /// # Errors
    /// [`ControlError::Timeout`], or as for [`WorkerEnd::recv`].
    pub fn recv_within(&self, limit: Duration) -> Result<FromWorker, ControlError> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = left.try_into().ok();
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, wait.as_ref()) {
                Ok(0) => return Err(ControlError::Timeout(limit)),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        let mut buffer = vec![0; MAX_MESSAGE];
        let (bytes, _) = recv(self.0.as_fd(), &mut buffer, RecvFlags::DONTWAIT)?;
        Ok(FromWorker::decode(bytes)?)
    }

    /// The socket itself, for an executor that reads packets its own way.
    /// Messages from a worker carry no descriptors, so a plain receive will do;
    /// [`FromWorker::decode`] reads what it returns, and an empty packet is end-of-file.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct WorkerEnd {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl WorkerEnd {
    /// Takes over the descriptor a worker was started with. It is marked
    /// close-on-exec.
    ///
    /// # Errors
    /// When `fd` is not an open SOCK_SEQPACKET socket: the process was not
    /// started by a daemon.
    pub fn from_fd(fd: RawFd) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: the daemon starts a worker with this descriptor and nothing else in the
        // process knows of it, so it is ours to own. That it is open is checked next, and a
        // descriptor that is not ours to close is given up again without closing it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        match sockopt::socket_type(&fd) {
            Ok(SocketType::SEQPACKET) => {}
            other => {
                std::mem::forget(fd);
                return Err(other
                    .err()
                    .map_or_else(|| io::Error::from_raw_os_error(libc::EPROTOTYPE), Into::into));
            }
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { fd, buffer: vec![0; MAX_MESSAGE] })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`ControlError::Closed`] when the daemon is gone: the worker then closes
    /// its session and exits.
    pub fn recv(&mut self) -> Result<ToWorker, ControlError> {
        let (bytes, fd) = recv(self.fd.as_fd(), &mut self.buffer, RecvFlags::empty())?;
        Ok(ToWorker::decode(bytes, fd)?)
    }

    /// The next message if one is there; for a shard that polls the descriptor.
    ///
    /// # Errors
    /// As for [`WorkerEnd::recv`].
    pub fn try_recv(&mut self) -> Result<Option<ToWorker>, ControlError> {
        match recv(self.fd.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok((bytes, fd)) => Ok(Some(ToWorker::decode(bytes, fd)?)),
            Err(ControlError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a message; waits while the daemon's socket is full.
    ///
    /// # Errors
    /// [`ControlError::Closed`] when the daemon is gone.
    pub fn send(&self, message: &FromWorker) -> Result<(), ControlError> {
        send(self.fd.as_fd(), &message.encode(), None, SendFlags::empty())
    }
}

impl AsFd for WorkerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Closes every descriptor from `first` up.
///
/// The first thing a worker process does: a socket accepted by the daemon at
/// the moment the worker was started may have come along, and would keep a
/// client's connection open for as long as the worker lives.
///
/// # Safety
/// Nothing in the process may own a descriptor from `first` up. At the start
/// of main this holds.
pub unsafe fn close_inherited(first: u32) {
    // SAFETY: the caller promises that nobody owns these descriptors.
    // A kernel without the call leaves them open, which costs nothing but tidiness.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

fn send(to: BorrowedFd, bytes: &[u8], fd: Option<BorrowedFd>, flags: SendFlags) -> Result<(), ControlError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Malformed("longer than a control message may be").into());
    }
    let fds: &[BorrowedFd] = fd.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Malformed("no room for the descriptor").into());
    }
    loop {
        match sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, flags | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ControlError::Closed),
            Err(Errno::AGAIN) => return Err(ControlError::Full),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

fn recv<'b>(
    from: BorrowedFd,
    buffer: &'b mut [u8],
    flags: RecvFlags,
) -> Result<(&'b [u8], Option<OwnedFd>), ControlError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg(from, &mut parts, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(ControlError::Closed),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    };
    // Collected whatever the message says, so that none stays open unowned.
    let mut fd = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    if got.bytes == 0 {
        return Err(ControlError::Closed);
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(Malformed("longer than a control message may be").into());
    }
    Ok((&buffer[..got.bytes], fd))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    use fusewire_wire::hello::Hello;

    use super::*;
    use crate::control::{Open, SessionStats, Staging};

    fn ends() -> (DaemonEnd, WorkerEnd) {
        let (daemon, worker) = pair().unwrap();
        (daemon, WorkerEnd::from_fd(worker.into_raw_fd()).unwrap())
    }

    #[test]
    fn a_socket_arrives_and_works() {
        let (daemon, mut worker) = ends();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let open = Open {
            hello: Hello::blank(),
            lines: Vec::new(),
            session: [1, 2],
            device: 0,
            staging: Staging::default(),
            peer: "a".into(),
            cores: Vec::new(),
            tenant: [0; 32],
        };
        daemon.send(&ToWorker::Open { open: open.clone(), socket: theirs.into() }).unwrap();
        let ToWorker::Open { open: got, socket } = worker.recv().unwrap() else { panic!("not an open") };
        assert_eq!(got, open);
        UnixStream::from(socket).write_all(b"hi").unwrap();
        let mut text = String::new();
        // End-of-file comes only if no other copy of the socket is left anywhere.
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
    }

    #[test]
    fn each_side_notices_the_other_going() {
        let (daemon, worker) = ends();
        worker.send(&FromWorker::Ended { reason: "x".into(), stats: SessionStats::default() }).unwrap();
        drop(worker);
        let limit = Duration::from_secs(5);
        assert!(matches!(daemon.recv_within(limit), Ok(FromWorker::Ended { .. })));
        assert!(matches!(daemon.recv_within(limit), Err(ControlError::Closed)));
        assert!(matches!(daemon.send(&ToWorker::Refresh), Err(ControlError::Closed)));
        let (daemon, mut worker) = ends();
        assert!(worker.try_recv().unwrap().is_none());
        drop(daemon);
        assert!(matches!(worker.recv(), Err(ControlError::Closed)));
    }

    #[test]
    fn a_worker_that_does_not_read_does_not_hold_the_daemon_up() {
        let (daemon, _worker) = ends();
        let reason = "x".repeat(4096);
        let mut sent = 0;
        let error = loop {
            match daemon.send(&ToWorker::Shutdown { reason: reason.clone() }) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 100_000);
        };
        assert!(matches!(error, ControlError::Full), "{error}");
        let limit = Duration::from_millis(20);
        assert!(matches!(daemon.recv_within(limit), Err(ControlError::Timeout(_))));
    }

    #[test]
    fn what_is_not_a_control_socket_is_refused() {
        assert!(WorkerEnd::from_fd(-1).is_err());
        assert!(WorkerEnd::from_fd(1 << 20).is_err());
        let (a, _b) = UnixStream::pair().unwrap();
        let raw = a.into_raw_fd();
        assert_eq!(WorkerEnd::from_fd(raw).unwrap_err().raw_os_error(), Some(libc::EPROTOTYPE));
        // SAFETY: from_fd refused the descriptor and left it open; it is still this test's.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
    }
}
