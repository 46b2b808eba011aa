//! The memory that both ends of a session share: one sealed memfd with a section for each lane.
//!
//! The server makes it and passes it over the command connection, behind the Welcome; so its size is the
//! server's to choose, and a client needs no right to make one. Memory for the session's own use can go along.
//!
//! A section is a page of positions and flags, then the data of two rings: to the server, to the client.
//! Positions lie 128 bytes apart, so that no two ends write to one pair of cache lines.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};

use rustix::process::{Resource, getrlimit};

use super::Side;
use super::ring::{Consumer, Producer};
use crate::error::LinkError;

/// Bytes of one ring. Small enough to stay in a core's cache, large enough that a bulk copy seldom waits.
pub(super) const RING: usize = 1 << 20;
/// Where the data of a section's first ring begins.
const DATA: usize = 4096;
const SECTION: usize = DATA + 2 * RING;

/// Offsets in a section's page. "To the server" first.
const WRITTEN: [usize; 2] = [0, 256];
const TAKEN: [usize; 2] = [128, 384];
/// What the client, and what the server, waits for while it sleeps.
const ASLEEP: [usize; 2] = [512, 640];

/// Without these seals memory is not shared: the other end could take it away under our feet.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The shared memory of a session, mapped.
#[derive(Debug)]
pub struct Area {
    map: MmapRaw,
    lanes: usize,
}

/// Whether a socket's other end is a process on this host, to which memory can be passed.
pub fn is_local(socket: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

/// Memory that can be shared with another process: nobody can make it smaller or larger. Pages are taken when they
/// are touched.
///
/// # Errors
/// [`LinkError::System`]: no memfd, or a limit on the size of files that it would exceed.
pub fn sealed_memory(name: &str, bytes: u64) -> Result<OwnedFd, LinkError> {
    // Beyond the limit, ftruncate would kill the process with a signal.
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < bytes) {
        let error = io::Error::from_raw_os_error(libc::EFBIG);
        return Err(LinkError::system("making memory to share (see ulimit -f)", &error));
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags).map_err(system("memfd_create for memory to share"))?;
    ftruncate(&fd, bytes).map_err(system("ftruncate of memory to share"))?;
    fcntl_add_seals(&fd, SEALS).map_err(system("sealing memory to share"))?;
    Ok(fd)
}

fn system(doing: &'static str) -> impl Fn(rustix::io::Errno) -> LinkError {
    move |errno| LinkError::system(doing, &io::Error::from(errno))
}

impl Area {
    /// Makes the memory of a session with this many bulk lanes, and the descriptor to pass to the client.
    ///
    /// # Errors
    /// [`LinkError::System`]: no memfd, or no memory to be had.
    pub fn create(bulk_lanes: usize) -> Result<(Arc<Area>, OwnedFd), LinkError> {
        let fd = sealed_memory("fusewire-link", size(bulk_lanes) as u64)?;
        Ok((Area::map(&fd, bulk_lanes)?, fd))
    }

    /// Passes the memory to the client, and that for the session's own use if there is any, behind what has been
    /// written to the connection so far.
    ///
    /// # Errors
    /// [`LinkError::Closed`] when the client is gone, [`LinkError::System`] otherwise.
    pub fn pass(
        memory: BorrowedFd<'_>,
        own: Option<BorrowedFd<'_>>,
        socket: BorrowedFd<'_>,
    ) -> Result<(), LinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = [memory].into_iter().chain(own).collect();
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(LinkError::Misuse("no room for descriptors"));
        }
        loop {
            match sendmsg(socket, &[IoSlice::new(b"m")], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(LinkError::socket(
                        "passing a link's memory",
                        "the client",
                        errno.raw_os_error(),
                    ));
                }
            }
        }
    }

    /// Receives what [`pass`](Self::pass) sent, and maps the lanes. Not a byte more is read from the socket.
    /// `own`: how many bytes the session's own memory was agreed to have.
    ///
    /// # Errors
    /// [`LinkError::PeerMisbehaved`]: something else came, or memory that is not sealed or of another size.
    pub fn receive(
        socket: BorrowedFd<'_>,
        bulk_lanes: usize,
        own: Option<u64>,
        limit: Duration,
    ) -> Result<(Arc<Area>, Option<OwnedFd>), LinkError> {
        let refuse = |what: &str| LinkError::PeerMisbehaved { peer: "the server".into(), what: what.into() };
        let timeout = |limit| sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, limit);
        timeout(Some(limit)).map_err(system("limiting the wait for a link's memory"))?;
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(system("receiving a link's memory"))?,
            }
        };
        timeout(None).map_err(system("lifting the limit on the wait for a link's memory"))?;
        let mut received = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                received.extend(descriptors);
            }
        }
        let whole = message.bytes == 1 && !message.flags.contains(ReturnFlags::CTRUNC);
        let expected: Vec<u64> = [size(bulk_lanes) as u64].into_iter().chain(own).collect();
        if !whole || received.len() != expected.len() {
            return Err(refuse("something else where a link's memory was due"));
        }
        for (fd, &due) in received.iter().zip(&expected) {
            let sealed = fcntl_get_seals(fd).map_err(system("reading the seals of a link's memory"))?;
            let bytes = fstat(fd).map_err(system("fstat of a link's memory"))?.st_size;
            if !sealed.contains(SealFlags::SHRINK) || u64::try_from(bytes) != Ok(due) {
                return Err(refuse("memory for a link that is not sealed, or not of the size agreed"));
            }
        }
        let own = if own.is_some() { received.pop() } else { None };
        let Some(fd) = received.pop() else { return Err(LinkError::Misuse("counted above")) };
        Ok((Area::map(&fd, bulk_lanes)?, own))
    }

    fn map(fd: &OwnedFd, bulk_lanes: usize) -> Result<Arc<Area>, LinkError> {
        let map = MmapOptions::new()
            .len(size(bulk_lanes))
            .map_raw(fd)
            .map_err(|error| LinkError::system("mapping a link's memory", &error))?;
        Ok(Arc::new(Area { map, lanes: 1 + bulk_lanes }))
    }

    /// What one end of a lane uses. Lane 0 is the command lane.
    pub(super) fn ends(self: &Arc<Self>, lane: usize, side: Side) -> Result<Ends, LinkError> {
        if lane >= self.lanes {
            return Err(LinkError::Misuse("a link in shared memory does not have that lane"));
        }
        let start = self.map.as_mut_ptr().wrapping_add(lane * SECTION);
        let (out, back, ours, theirs) = match side {
            Side::Client => (0, 1, 0, 1),
            Side::Server => (1, 0, 1, 0),
        };
        let word = |offset: usize| start.wrapping_add(offset);
        let data = |ring: usize| start.wrapping_add(DATA + ring * RING);
        Ok(Ends {
            // SAFETY: the offsets lie in the section, are aligned to 128 bytes, and the area outlives its ends,
            // each of which holds it.
            out: unsafe { Producer::new(self.clone(), word(WRITTEN[out]), word(TAKEN[out]), data(out)) },
            // SAFETY: as above.
            back: unsafe { Consumer::new(self.clone(), word(WRITTEN[back]), word(TAKEN[back]), data(back)) },
            our_sleep: word(ASLEEP[ours]).cast(),
            their_sleep: word(ASLEEP[theirs]).cast(),
            area: self.clone(),
        })
    }
}

/// One end of a lane: the ring to the peer, the ring from it, and the flags for sleeping.
pub(super) struct Ends {
    pub(super) out: Producer,
    pub(super) back: Consumer,
    pub(super) our_sleep: *mut u32,
    pub(super) their_sleep: *mut u32,
    pub(super) area: Arc<Area>,
}

fn size(bulk_lanes: usize) -> usize {
    (1 + bulk_lanes) * SECTION
}

const _: () = assert!(RING.is_power_of_two());
const _: () = assert!(ASLEEP[1] + 128 <= DATA);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        (one.into(), other.into())
    }

    #[test]
    fn memory_that_can_shrink_or_is_of_another_size_is_refused() {
        let (server, client) = pair();
        let open = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, size(2) as u64).unwrap();
        let (_, sealed) = Area::create(2).unwrap();
        let own = sealed_memory("own", 1 << 40).unwrap();
        let receive = |lanes, own| Area::receive(client.as_fd(), lanes, own, Duration::from_secs(1));
        for (memory, more, lanes, wanted, good) in [
            (&open, None, 2, None, false),
            (&sealed, None, 3, None, false),
            (&sealed, None, 2, Some(1 << 40), false),
            (&sealed, Some(own.as_fd()), 2, None, false),
            (&sealed, Some(own.as_fd()), 2, Some(1 << 30), false),
            (&sealed, Some(own.as_fd()), 2, Some(1 << 40), true),
            (&sealed, None, 2, None, true),
        ] {
            Area::pass(memory.as_fd(), more, server.as_fd()).unwrap();
            let received = receive(lanes, wanted);
            assert_eq!(received.is_ok(), good);
            assert!(received.is_ok_and(|(_, own)| own.is_some() == wanted.is_some()) == good);
        }
        // A byte without memory, silence, and an end.
        rustix::io::write(&server, b"m").unwrap();
        assert!(matches!(receive(2, None), Err(LinkError::PeerMisbehaved { .. })));
        assert!(Area::receive(client.as_fd(), 2, None, Duration::from_millis(20)).is_err());
        drop(server);
        assert!(receive(2, None).is_err());
        assert!(ftruncate(&sealed, 0).is_err() && ftruncate(&sealed, 1 << 40).is_err());
    }
}
