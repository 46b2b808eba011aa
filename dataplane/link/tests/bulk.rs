//! Bulk lanes: every byte in its place both ways at once, endings told apart, memory let go of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fusewire_link::bulk::BulkEngine;
use fusewire_link::tcp::{self, Engine, ZeroCopy};
use fusewire_link::{
    BulkHandle, BulkMover, BulkSink, ChunkHeader, ChunkQueue, Closing, LinkError, OutChunk, RawSlice,
    RawSliceMut, memory,
};
use fusewire_wire::bulk::CHUNK_HEADER_BYTES;
use support::{Noise, shm_bulk_pair, tcp_pair};
use zerocopy::IntoBytes;

const LONG: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum News {
    Landed(ChunkHeader, Vec<u8>),
    Sent(u64),
    Closed(LinkError),
}

/// Gives each chunk memory of its own, and tells the test what happens.
struct Teller {
    landing: HashMap<(u64, u64), Vec<u8>>,
    news: Sender<News>,
}

impl BulkSink for Teller {
    fn place(&mut self, header: &ChunkHeader) -> Result<RawSliceMut, LinkError> {
        if header.bytes > 8 << 20 {
            let what = format!("a chunk of {} bytes, more than a slot has", header.bytes);
            return Err(LinkError::PeerMisbehaved { peer: "the test".into(), what });
        }
        let memory = self.landing.entry((header.number, header.offset)).or_default();
        memory.resize(header.bytes as usize, 0xee);
        // SAFETY: the vector stays in the map, untouched, until `landed` or the end of the lane.
        Ok(unsafe { RawSliceMut::new(memory.as_mut_ptr(), memory.len()) })
    }
    fn landed(&mut self, header: &ChunkHeader) {
        let memory = self.landing.remove(&(header.number, header.offset)).unwrap();
        let _ = self.news.send(News::Landed(*header, memory));
    }
    fn sent(&mut self, token: u64) {
        let _ = self.news.send(News::Sent(token));
    }
    fn closed(&mut self, why: LinkError) {
        let _ = self.news.send(News::Closed(why));
    }
}

struct End {
    lane: BulkHandle,
    news: Receiver<News>,
}

impl End {
    fn new(engine: Box<dyn BulkEngine>) -> Self {
        let (tell, news) = channel();
        let lane =
            BulkMover::spawn_on(engine, Vec::new(), Teller { landing: HashMap::new(), news: tell }).unwrap();
        End { lane, news }
    }

    fn send(&self, id: u64, offset: u64, payload: &[u8]) {
        self.send_for(id, offset, payload, id % 5 == 4);
    }

    fn send_for(&self, id: u64, offset: u64, payload: &[u8], waited_for: bool) {
        // SAFETY: every test keeps the payload until `sent`, or until the lane is joined.
        let raw = unsafe { RawSlice::new(payload.as_ptr(), payload.len()) };
        let header = ChunkHeader::device_to_host(id, 1, offset, payload.len() as u32);
        self.lane.send(OutChunk { header, payload: raw, done: id, waited_for });
    }

    /// Whether a payload that was sent is held while the peer takes nothing.
    fn holds_on(&self) -> bool {
        self.news.recv_timeout(Duration::from_millis(300)).is_err()
    }

    fn next(&self) -> News {
        self.news.recv_timeout(LONG).expect("nothing happens on this lane")
    }

    fn until_closed(&self) -> LinkError {
        loop {
            if let News::Closed(why) = self.next() {
                return why;
            }
        }
    }
}

fn engine(socket: TcpStream, engine: Engine, zero_copy: ZeroCopy) -> Box<dyn BulkEngine> {
    tcp::bulk_engine(socket.into(), engine, zero_copy).unwrap()
}

fn ring(socket: TcpStream) -> Box<dyn BulkEngine> {
    engine(socket, Engine::IoUring, ZeroCopy::Auto)
}

fn poll(socket: TcpStream) -> Box<dyn BulkEngine> {
    engine(socket, Engine::Poll, ZeroCopy::Auto)
}

/// Every kind of pair of bulk lanes, by name.
type Pair = (&'static str, Box<dyn BulkEngine>, Box<dyn BulkEngine>);

fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    let (one, other) = tcp_pair();
    pairs.push(("ring to ring", ring(one), ring(other)));
    let (one, other) = tcp_pair();
    pairs.push(("ring to poll", ring(one), poll(other)));
    let (one, other) = tcp_pair();
    pairs.push(("poll to poll", poll(one), poll(other)));
    let (one, other) = tcp_pair();
    let zero_copy = engine(one, Engine::IoUring, ZeroCopy::Always);
    pairs.push(("zero copy", zero_copy, engine(other, Engine::IoUring, ZeroCopy::Always)));
    for (name, zero_copy) in
        [("small buffers", ZeroCopy::Never), ("small buffers, zero copy", ZeroCopy::Always)]
    {
        let (one, other) = tcp_pair();
        let ends = [one.try_clone().unwrap(), other.try_clone().unwrap()];
        pairs.push((name, engine(one, Engine::IoUring, zero_copy), poll(other)));
        // What the lanes set themselves is undone.
        for socket in ends {
            socket2::SockRef::from(&socket).set_send_buffer_size(512 << 10).unwrap();
        }
    }
    let (one, other) = memory::bulk_pair().unwrap();
    pairs.push(("memory", Box::new(one), Box::new(other)));
    let [one, other] = shm_bulk_pair();
    pairs.push(("shared memory", one, other));
    pairs
}

fn payload(id: u64, seed: u64) -> Vec<u8> {
    let mut noise = Noise::new(seed << 32 | id);
    let size = match noise.below(8) {
        0 => 1 + noise.below(3 << 20),
        1 => 64 << 10,
        2 => 1,
        _ => 1 + noise.below(100_000),
    };
    noise.bytes(size)
}

/// Sends chunks of seed `ours`, checks those of seed `theirs`, each in any order with the other.
fn exchange(engine: Box<dyn BulkEngine>, chunks: u64, ours: u64, theirs: u64) -> End {
    let end = End::new(engine);
    let mut held = HashMap::new();
    let (mut queued, mut sent, mut landed) = (0, 0, 0);
    while sent < chunks || landed < chunks {
        while queued < chunks && held.len() < 20 {
            let bytes = payload(queued, ours);
            end.send(queued, queued * 3, &bytes);
            held.insert(queued, bytes);
            queued += 1;
        }
        match end.next() {
            News::Sent(token) => {
                assert_eq!(token, sent, "memory is let go of in order");
                // What is overwritten now must have left already.
                held.remove(&token).unwrap().fill(0);
                sent += 1;
            }
            News::Landed(header, bytes) => {
                assert_eq!((header.number, header.offset), (landed, landed * 3));
                assert!(bytes == payload(landed, theirs), "chunk {landed} arrived damaged");
                landed += 1;
            }
            News::Closed(why) => panic!("closed after {sent} sent, {landed} landed: {why}"),
        }
    }
    end
}

#[test]
fn chunks_of_any_size_land_whole_both_ways_at_once() {
    for (name, one, other) in pairs() {
        eprintln!("{name}");
        let there = std::thread::spawn(move || exchange(other, 200, 2, 1));
        let here = exchange(one, 200, 1, 2);
        let there = there.join().unwrap();
        here.lane.shutdown();
        let why = here.until_closed();
        assert!(matches!(why, LinkError::Closed { how: Closing::Here, .. }), "{name}: {why}");
        let why = there.until_closed();
        assert!(matches!(why, LinkError::Closed { how: Closing::ByPeer, .. }), "{name}: {why}");
        here.lane.join();
        there.lane.join();
    }
}

#[test]
fn shutdown_sends_what_was_queued_before() {
    for (name, one, other) in pairs() {
        let (one, other) = (End::new(one), End::new(other));
        let payloads: Vec<_> = (0..50).map(|id| payload(id, 9)).collect();
        for (id, bytes) in payloads.iter().enumerate() {
            one.send(id as u64, 0, bytes);
        }
        one.lane.shutdown();
        one.lane.join();
        for bytes in &payloads {
            match other.next() {
                News::Landed(_, landed) => assert!(&landed == bytes, "{name}"),
                news => panic!("{name}: {news:?}"),
            }
        }
        assert!(matches!(other.next(), News::Closed(_)), "{name}");
    }
}

#[test]
fn a_peer_that_dies_in_the_middle_of_a_payload_is_told_from_one_that_leaves() {
    for make in [ring, poll] {
        for reset in [false, true] {
            let (one, mut other) = tcp_pair();
            let end = End::new(make(one));
            let header = ChunkHeader::host_to_device(5, 1 << 20);
            other.write_all(header.as_bytes()).unwrap();
            other.write_all(&vec![1; 300_000]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            if reset {
                socket2::SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(other);
            let LinkError::Closed { how, .. } = end.until_closed() else { panic!("not closed") };
            let expected =
                Closing::MidChunk { got: 300_000 + CHUNK_HEADER_BYTES, of: (1 << 20) + CHUNK_HEADER_BYTES };
            assert!(how == expected || (reset && how == Closing::Reset), "{how:?}");
            end.lane.join();
        }
    }
}

#[test]
fn nonsense_ends_the_lane_with_its_name() {
    for make in [ring, poll] {
        for (bytes, expected) in [
            (Noise::new(3).bytes(1000), "where a chunk has to start"),
            (ChunkHeader::host_to_device(0, u32::MAX).as_bytes().to_vec(), "more than a slot has"),
        ] {
            let (one, mut other) = tcp_pair();
            let end = End::new(make(one));
            other.write_all(&bytes).unwrap();
            let why = end.until_closed();
            assert!(matches!(why, LinkError::PeerMisbehaved { .. }), "{why}");
            assert!(why.to_string().contains(expected), "{why}");
            // Sending on a lane that is over is harmless.
            let late = vec![1; 100];
            end.send(1, 0, &late);
            drop(end);
        }
    }
}

#[test]
fn a_header_that_belies_its_payload_is_the_callers_mistake() {
    for make in [ring, poll] {
        let (one, _other) = tcp_pair();
        let end = End::new(make(one));
        let bytes = [0; 10];
        // SAFETY: the payload outlives the lane.
        let payload = unsafe { RawSlice::new(bytes.as_ptr(), 10) };
        let header = ChunkHeader::host_to_device(0, 11);
        end.lane.send(OutChunk { header, payload, done: 0, waited_for: false });
        assert!(matches!(end.until_closed(), LinkError::Misuse(_)));
    }
}

#[test]
fn a_peer_that_takes_nothing_does_not_hold_up_shutdown_for_ever() {
    for zero_copy in [None, Some(ZeroCopy::Auto), Some(ZeroCopy::Always)] {
        let (one, _other) = tcp_pair();
        let end = match zero_copy {
            None => End::new(poll(one)),
            Some(zero_copy) => End::new(engine(one, Engine::IoUring, zero_copy)),
        };
        let bytes = vec![0; 64 << 20];
        end.send(1, 0, &bytes);
        let start = Instant::now();
        end.lane.shutdown();
        let why = end.until_closed();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        assert!(matches!(why, LinkError::Closed { how: Closing::Here, .. }), "{why}");
        end.lane.join();
    }
}

#[test]
fn what_a_slow_lane_has_not_taken_goes_on_the_others() {
    const CHUNKS: u64 = 200;
    let (stuck, silent) = tcp_pair();
    let (stuck_poll, silent_poll) = tcp_pair();
    let (one, other) = tcp_pair();
    let bytes = Noise::new(9).bytes(64 << 10);
    let queue = Arc::new(ChunkQueue::default());
    let mut ends = Vec::new();
    for engine in [ring(stuck), poll(stuck_poll), ring(one)] {
        let (tell, news) = channel();
        let teller = Teller { landing: HashMap::new(), news: tell };
        ends.push((BulkMover::spawn_for(queue.clone(), engine, Vec::new(), teller).unwrap(), news));
    }
    let peer = End::new(ring(other));
    for id in 0..CHUNKS {
        // SAFETY: the payload outlives the lanes.
        let payload = unsafe { RawSlice::new(bytes.as_ptr(), bytes.len()) };
        let header = ChunkHeader::host_to_device(id, payload.len() as u32);
        queue.send(OutChunk { header, payload, done: id, waited_for: false });
        // The last ones when all lanes sleep.
        std::thread::sleep(Duration::from_millis(u64::from(id + 10 > CHUNKS)));
    }
    let mut came = 0;
    while let Ok(News::Landed(header, memory)) = peer.news.recv_timeout(Duration::from_millis(300)) {
        assert!(memory == bytes, "chunk {} is damaged", header.number);
        came += 1;
    }
    let kept: usize = ends[..2].iter().map(|(_, news)| news.try_iter().count()).sum();
    // What the kernel took for a peer that never reads, and a group that it has not taken.
    assert!(came >= CHUNKS as usize - kept - 2 * 16 && came >= 100, "{came} came, {kept} are under way");
    drop((silent, silent_poll));
    for (lane, _) in ends {
        lane.abort();
        lane.join();
    }
}

/// A lane with room for `WAITING` in its own kernel, and the bare socket at its other end with next to none.
fn lane_to_a_reluctant_peer(zero_copy: ZeroCopy) -> (End, TcpStream) {
    let (one, other) = tcp_pair();
    socket2::SockRef::from(&other).set_recv_buffer_size(64 << 10).unwrap();
    (End::new(engine(one, Engine::IoUring, zero_copy)), other)
}

const WAITING: usize = 512 << 10;

fn take(socket: &mut TcpStream, payload: &[u8]) {
    let mut taken = vec![0; ChunkHeader::device_to_host(0, 0, 0, 0).as_bytes().len() + payload.len()];
    socket.read_exact(&mut taken).unwrap();
    assert!(taken.ends_with(payload), "damaged");
}

#[test]
fn memory_that_is_not_copied_is_in_use_until_the_peer_has_it() {
    let bytes = Noise::new(5).bytes(WAITING);
    let (end, mut peer) = lane_to_a_reluctant_peer(ZeroCopy::Always);
    end.send_for(1, 0, &bytes, false);
    assert!(end.holds_on(), "the kernel still needs it");
    take(&mut peer, &bytes);
    assert!(matches!(end.next(), News::Sent(1)));
    // A copy is made for who waits.
    end.send_for(2, 0, &bytes, true);
    assert!(matches!(end.next(), News::Sent(2)));
    take(&mut peer, &bytes);

    // Nor is it in use once the lane is over, however it ends: by itself, or because the peer breaks off.
    for by_peer in [false, true] {
        let (end, peer) = lane_to_a_reluctant_peer(ZeroCopy::Always);
        end.send_for(1, 0, &bytes, false);
        assert!(end.holds_on());
        let start = Instant::now();
        let peer = if by_peer {
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            None
        } else {
            end.lane.shutdown();
            Some(peer)
        };
        let why = end.until_closed();
        let expected = if by_peer { Closing::Reset } else { Closing::Here };
        assert!(matches!(why, LinkError::Closed { how, .. } if how == expected), "{why}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        end.lane.join();
        drop(peer);
    }
}

#[test]
fn a_lane_copies_where_the_kernel_does_so_anyway() {
    let bytes = Noise::new(6).bytes(WAITING);
    let (end, mut peer) = lane_to_a_reluctant_peer(ZeroCopy::Tried);
    end.send_for(1, 0, &bytes, false);
    assert!(end.holds_on());
    take(&mut peer, &bytes);
    assert!(matches!(end.next(), News::Sent(1)), "and the kernel says that it copied");
    end.send_for(2, 0, &bytes, false);
    assert!(matches!(end.next(), News::Sent(2)));
    take(&mut peer, &bytes);
}

/// Takes the right to lock any amount of memory from the calling thread.
fn give_up_ipc_lock() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable, of the first 32 capabilities and of the others.
    let mut sets = [0_u32; 6];
    // SAFETY: as the kernel has these structures, live.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0] &= !(1 << CAP_IPC_LOCK);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

#[test]
fn what_exceeds_the_limit_on_locked_memory_is_copied() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills in the live rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if limit.rlim_cur > 256 << 20 {
        eprintln!("the limit is {} bytes: not tried", limit.rlim_cur);
        return;
    }
    let made = std::thread::spawn(|| {
        give_up_ipc_lock();
        lane_to_a_reluctant_peer(ZeroCopy::Always)
    });
    let (end, mut peer) = made.join().unwrap();
    let much = Noise::new(8).bytes(limit.rlim_cur as usize + WAITING);
    end.send_for(1, 0, &much, false);
    take(&mut peer, &much);
    assert!(matches!(end.next(), News::Sent(1)));
    // What does not exceed it still goes without a copy.
    end.send_for(2, 0, &much[..WAITING], false);
    assert!(end.holds_on());
    take(&mut peer, &much[..WAITING]);
    assert!(matches!(end.next(), News::Sent(2)));
}

#[test]
fn what_cannot_be_sent_without_a_copy_is_copied() {
    // Sockets that cannot ...
    let bytes = Noise::new(7).bytes(3 << 20);
    let (one, other) = UnixStream::pair().unwrap();
    let one = End::new(tcp::bulk_engine(one.into(), Engine::IoUring, ZeroCopy::Always).unwrap());
    let other = End::new(tcp::bulk_engine(other.into(), Engine::Poll, ZeroCopy::Never).unwrap());
    one.send_for(1, 0, &bytes, false);
    assert!(matches!(other.next(), News::Landed(_, landed) if landed == bytes));
    assert!(matches!(one.next(), News::Sent(1)));

    // ... and memory of which the kernel itself has no page.
    // SAFETY: makes a descriptor.
    let secret = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    if secret < 0 {
        eprintln!("memfd_secret: {}: not tried", std::io::Error::last_os_error());
        return;
    }
    // SAFETY: the descriptor was just made, and is nobody else's.
    let secret = unsafe { File::from_raw_fd(secret as i32) };
    secret.set_len(1 << 20).unwrap();
    // SAFETY: nobody else has the file.
    let mut memory = unsafe { memmap2::MmapMut::map_mut(&secret) }.unwrap();
    memory.copy_from_slice(&bytes[..1 << 20]);
    let (one, other) = tcp_pair();
    let one = End::new(engine(one, Engine::IoUring, ZeroCopy::Always));
    let other = End::new(poll(other));
    one.send_for(1, 0, &memory, false);
    assert!(matches!(other.next(), News::Landed(_, landed) if landed == bytes[..1 << 20]));
    assert!(matches!(one.next(), News::Sent(1)));
    drop(one);
}

#[test]
fn an_abort_ends_a_lane_that_could_go_on_for_ever() {
    for (name, one, other) in pairs() {
        let (one, _other) = (End::new(one), End::new(other));
        one.lane.abort();
        let why = one.until_closed();
        assert!(matches!(why, LinkError::Closed { how: Closing::Here, .. }), "{name}: {why}");
    }
    let engines = [
        |socket| poll(socket),
        |socket| ring(socket),
        |socket| engine(socket, Engine::IoUring, ZeroCopy::Always),
    ];
    for make in engines {
        let (one, mut other) = tcp_pair();
        // In the middle of a payload both ways, with a peer that takes a little now and then.
        other.write_all(ChunkHeader::host_to_device(5, 1 << 20).as_bytes()).unwrap();
        other.write_all(&[1; 1000]).unwrap();
        let slow = std::thread::spawn(move || {
            let mut piece = [0; 1000];
            while other.read(&mut piece).is_ok_and(|got| got != 0) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let end = End::new(make(one));
        let bytes = vec![0; 512 << 20];
        end.send(1, 0, &bytes);
        end.lane.shutdown();
        assert!(end.news.recv_timeout(Duration::from_millis(100)).is_err(), "nothing to abort");
        end.lane.abort();
        let why = end.until_closed();
        assert!(matches!(why, LinkError::Closed { how: Closing::Here, .. }), "{why}");
        end.lane.join();
        slow.join().unwrap();
    }
}

#[test]
fn a_forked_child_can_drop_the_handle() {
    let (one, other) = tcp_pair();
    let (one, other) = (End::new(ring(one)), End::new(ring(other)));
    // SAFETY: the child drops the handle and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(one.lane);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    let mut status = -1;
    // SAFETY: waits for our own child; status is live.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    let bytes = vec![3; 1000];
    one.send(1, 0, &bytes);
    assert!(matches!(other.next(), News::Landed(..)));
}
