//! What the link tests share: connected sockets, repeatable noise, and a thread that is denied system calls.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use fusewire_link::shm::{self, Area, Side};
use fusewire_link::tcp::{self, Engine};
use fusewire_link::{CommandLane, memory};

pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    (one, other)
}

pub(crate) type Lane = Box<dyn CommandLane>;

/// Every kind of pair of command lanes, by name.
pub(crate) fn lane_pairs() -> Vec<(&'static str, Lane, Lane)> {
    let tcp = |ours, theirs| {
        let (one, other) = tcp_pair();
        (tcp::command_lane(one.into(), ours).unwrap(), tcp::command_lane(other.into(), theirs).unwrap())
    };
    let mut pairs = Vec::new();
    for (name, ours, theirs) in [
        ("ring to ring", Engine::IoUring, Engine::IoUring),
        ("ring to poll", Engine::IoUring, Engine::Poll),
        ("poll to poll", Engine::Poll, Engine::Poll),
    ] {
        let (one, other) = tcp(ours, theirs);
        pairs.push((name, one, other));
    }
    for (name, most) in [("memory", 0), ("memory in pieces of 7", 7)] {
        let (one, other) = memory::command_pair(most).unwrap();
        pairs.push((name, Box::new(one) as Lane, Box::new(other) as Lane));
    }
    for (name, spin) in [("shared memory", Duration::ZERO), ("shared memory, spinning", SPIN)] {
        let (one, other) = shm_pair(spin);
        pairs.push((name, one, other));
    }
    pairs
}

const SPIN: Duration = Duration::from_micros(50);

/// Both ends of a command lane in shared memory: the client's, and the server's.
pub(crate) fn shm_pair(spin: Duration) -> (Lane, Lane) {
    let (area, _) = Area::create(0).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let lane = |socket: UnixStream, side| shm::command_lane(&area, socket.into(), side, spin).unwrap();
    (lane(one, Side::Client), lane(other, Side::Server))
}

/// Both ends of bulk lane 1 of 2 in shared memory.
pub(crate) fn shm_bulk_pair() -> [Box<dyn fusewire_link::bulk::BulkEngine>; 2] {
    let (area, _) = Area::create(2).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let lane = |area: &Arc<Area>, socket: UnixStream, side| {
        shm::bulk_engine(area, 1, socket.into(), side, SPIN).unwrap()
    };
    [lane(&area, one, Side::Client), lane(&area, other, Side::Server)]
}

/// A connected lane on `engine`, and the bare socket at its other end.
pub(crate) fn lane_and_socket(engine: Engine) -> (Lane, TcpStream) {
    let (one, other) = tcp_pair();
    (tcp::command_lane(OwnedFd::from(one), engine).unwrap(), other)
}

/// Repeatable noise (xorshift64*).
#[derive(Clone)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// A system call to be refused: its number, optionally a value its second argument must have, and the errno.
pub(crate) struct Denied(pub(crate) libc::c_long, pub(crate) Option<u32>, pub(crate) i32);

/// Makes the kernel refuse `denied` to the calling thread, and to threads it starts, from now on.
pub(crate) fn deny(denied: &[Denied]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless = |k: u32, skip: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let give = |value: u32| statement(libc::BPF_RET | libc::BPF_K, value);
    let mut filter = Vec::new();
    for Denied(number, argument, errno) in denied {
        // struct seccomp_data: nr at 0, args[1] at 24.
        filter.push(load(0));
        filter.push(unless(*number as u32, if argument.is_some() { 3 } else { 1 }));
        if let Some(argument) = argument {
            filter.push(load(24));
            filter.push(unless(*argument, 1));
        }
        filter.push(give(libc::SECCOMP_RET_ERRNO | *errno as u32));
    }
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter are live during the call, which copies them.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}
