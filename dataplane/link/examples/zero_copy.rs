//! Measures, in nanoseconds for a KiB, what a byte costs the processor that sends it: copied by the kernel, not
//! copied, and not copied from memory that is registered with the ring. Then what it costs the one that receives it
//! into its place, registered and not.
//!
//! Within a host the kernel copies what is sent in any case, so sending is measured to a device that forgets what it
//! is given, in UDP messages since nobody answers:
//!
//! ```text
//! unshare -n sh -c 'ip link set lo up && ip link add null0 type ifb && ip addr add 10.9.0.1/24 dev null0 && \
//!     ip link set null0 mtu 9000 up && cargo run --release -p fusewire-link --example zero_copy 10.9.0.2:9'
//! ```

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, types};
use memmap2::{Advice, MmapMut, MmapOptions};
use socket2::SockRef;

type Failure = Box<dyn std::error::Error>;

/// Fifteen pages: what one message takes, and what a packet of it has.
const PIECE: usize = 60 << 10;
const SEGMENT: libc::c_int = 8 << 10;
/// Far more than a cache holds.
const MEMORY: usize = 240 << 20;
const DEPTH: usize = 8;
const ROUNDS: usize = 9;
/// What is received at once.
const CHUNK: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Copied,
    NotCopied,
    Registered,
}

fn main() -> Result<(), Failure> {
    let to = std::env::args().nth(1).ok_or("say where to send to, such as 10.9.0.2:9")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(&to)?;
    // SAFETY: passes a live int and its size.
    let set = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        let value = std::ptr::from_ref(&SEGMENT).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, length)
    };
    if set != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    for large_pages in [false, true] {
        let pages = if large_pages { "large pages" } else { "small pages" };
        let mut memory = MmapOptions::new().len(MEMORY).map_anon()?;
        memory.advise(if large_pages { Advice::HugePage } else { Advice::NoHugePage })?;
        memory.fill(7);
        let mut ring = IoUring::new(2 * DEPTH as u32)?;
        let buffer = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: MEMORY };
        let before = processor_time();
        // SAFETY: the memory outlives the ring.
        unsafe { ring.submitter().register_buffers(&[buffer])? };
        println!("{pages}, registering {} MiB: {:.1?}", MEMORY >> 20, processor_time() - before);
        let cases = [How::Copied, How::NotCopied, How::Registered];
        measure(pages, "sending", cases, |how| send_all(&mut ring, &socket, &memory, how))?;

        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut from = TcpStream::connect(listener.local_addr()?)?;
        let (into, _) = listener.accept()?;
        SockRef::from(&from).set_send_buffer_size(1 << 20)?;
        SockRef::from(&into).set_recv_buffer_size(1 << 20)?;
        let feeder = std::thread::spawn(move || {
            let block = vec![7; CHUNK];
            while from.write_all(&block).is_ok() {}
        });
        let cases = [How::Copied, How::Registered];
        measure(pages, "receiving", cases, |how| receive_all(&mut ring, &into, &mut memory, how))?;
        // The ring goes before the memory.
        drop((ring, into));
        feeder.join().map_err(|_| "the feeding thread panicked")?;
    }
    Ok(())
}

/// Measures the cases in turn, some rounds.
fn measure<const N: usize>(
    pages: &str,
    what: &str,
    cases: [How; N],
    mut run: impl FnMut(How) -> Result<usize, Failure>,
) -> Result<(), Failure> {
    let mut costs = cases.map(|_| Vec::new());
    let mut notes = [0; N];
    for _ in 0..ROUNDS {
        for (case, how) in cases.into_iter().enumerate() {
            let before = processor_time();
            notes[case] = run(how)?;
            costs[case].push((processor_time() - before).as_nanos() as f64 / (MEMORY >> 10) as f64);
        }
    }
    for (case, how) in cases.into_iter().enumerate() {
        costs[case].sort_by(f64::total_cmp);
        let (least, median) = (costs[case][0], costs[case][ROUNDS / 2]);
        let note = match what {
            "sending" => "messages copied all the same",
            _ => "requests",
        };
        println!("{pages}, {what}, {how:?}: {median:.1} ns/KiB, least {least:.1}; {} {note}", notes[case]);
    }
    Ok(())
}

/// Sends the whole memory once. Gives how many messages the kernel says that it copied against our wish.
fn send_all(ring: &mut IoUring, socket: &UdpSocket, memory: &MmapMut, how: How) -> Result<usize, Failure> {
    let fd = types::Fd(socket.as_raw_fd());
    let (mut next, mut under_way, mut copied) = (0, 0, 0);
    while next < MEMORY || under_way != 0 {
        while next < MEMORY && under_way < DEPTH {
            let start = memory[next..].as_ptr();
            let entry = match how {
                How::Copied => opcode::Send::new(fd, start, PIECE as u32).build(),
                _ => opcode::SendZc::new(fd, start, PIECE as u32)
                    .buf_index((how == How::Registered).then_some(0))
                    // IORING_SEND_ZC_REPORT_USAGE
                    .zc_flags(1 << 3)
                    .build(),
            };
            // SAFETY: the memory outlives the ring, and nobody writes it.
            unsafe { ring.submission().push(&entry)? };
            next += PIECE;
            under_way += 1;
        }
        ring.submit_and_wait(1)?;
        for done in ring.completion() {
            if cqueue::notif(done.flags()) {
                // IORING_NOTIF_USAGE_ZC_COPIED
                copied += usize::from(done.result() as u32 & 1 << 31 != 0);
            } else if done.result() != PIECE as i32 {
                return Err(format!("sending gave {}", done.result()).into());
            }
            under_way -= usize::from(!cqueue::more(done.flags()));
        }
    }
    Ok(copied)
}

/// Receives as much as the memory holds, in chunks. Gives how many requests that took: a read of registered memory
/// takes what is there.
fn receive_all(
    ring: &mut IoUring,
    socket: &TcpStream,
    memory: &mut MmapMut,
    how: How,
) -> Result<usize, Failure> {
    let fd = types::Fd(socket.as_raw_fd());
    let mut requests = 0;
    for chunk in memory.chunks_mut(CHUNK) {
        let mut got = 0;
        while got < chunk.len() {
            let (start, length) = (chunk[got..].as_mut_ptr(), (chunk.len() - got) as u32);
            let entry = match how {
                How::Registered => opcode::ReadFixed::new(fd, start, length, 0).build(),
                _ => opcode::Recv::new(fd, start, length).flags(libc::MSG_WAITALL).build(),
            };
            // SAFETY: the memory outlives the request, which is waited for.
            unsafe { ring.submission().push(&entry)? };
            ring.submit_and_wait(1)?;
            requests += 1;
            let result = ring.completion().next().map_or(0, |done| done.result());
            got += usize::try_from(result).ok().filter(|bytes| *bytes != 0).ok_or("receiving failed")?;
        }
    }
    Ok(requests)
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
