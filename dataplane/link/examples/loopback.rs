//! Measures the lanes between two threads over loopback TCP: command round trips in µs, bulk data in GB/s, and what
//! they cost the processors of both ends.
//!
//! `cargo run --release -p fusewire-link --example loopback [poll] [bulk] [over SERVER CLIENT ADDRESS]`
//!
//! `bulk` leaves out the command lanes. `over` names two network namespaces and the server's address in its own:
//!
//! ```text
//! ip netns add a; ip netns add b; ip link add v netns a mtu 9000 type veth peer name v netns b mtu 9000
//! ip -n a addr add 10.9.0.1/30 dev v; ip -n b addr add 10.9.0.2/30 dev v; ip -n a link set v up; ip -n b link set v up
//! loopback over /run/netns/a /run/netns/b 10.9.0.1
//! ```

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fusewire_link::tcp::{self, Engine, ZeroCopy};
use fusewire_link::{
    BulkHandle, BulkMover, BulkSink, ChunkHeader, LinkError, OutChunk, RawSlice, RawSliceMut, Wait,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let (mut how, mut only_bulk) = (How { engine: Engine::Auto, over: None }, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut next = || arguments.next().ok_or("over SERVER CLIENT ADDRESS");
        match argument.as_str() {
            "poll" => how.engine = Engine::Poll,
            "bulk" => only_bulk = true,
            "over" => how.over = Some((File::open(next()?)?, File::open(next()?)?, next()?.parse()?)),
            _ => return Err(format!("what is {argument}?").into()),
        }
    }
    println!("io_uring: {:?}", fusewire_link::probe::probe());
    if !only_bulk {
        command(&how)?;
    }
    for zero_copy in [ZeroCopy::Never, ZeroCopy::Auto, ZeroCopy::Always] {
        for chunk in [128 << 10, 1 << 20, 4 << 20] {
            bulk(&how, zero_copy, chunk, false)?;
        }
        bulk(&how, zero_copy, 1 << 20, true)?;
        if how.engine == Engine::Poll {
            break;
        }
    }
    Ok(())
}

struct How {
    engine: Engine,
    over: Option<(File, File, IpAddr)>,
}

fn command(how: &How) -> Result<(), Failure> {
    for (name, ours, theirs) in [
        ("both asleep", Wait::Forever, Wait::Forever),
        ("server polling", Wait::Forever, Wait::No),
        ("both polling", Wait::No, Wait::No),
    ] {
        round_trips(how, name, ours, theirs)?;
    }
    idle_turns(how)
}

fn pair(how: &How) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (server, client, address) = match &how.over {
        Some((server, client, address)) => (Some(server), Some(client), *address),
        None => (None, None, Ipv4Addr::LOCALHOST.into()),
    };
    let listener = within(server, || TcpListener::bind((address, 0)))?;
    let to = listener.local_addr()?;
    let one = within(client, || TcpStream::connect(to))?;
    let (other, _) = listener.accept()?;
    Ok((one.into(), other.into()))
}

/// Makes a socket in a network namespace. It can be used anywhere.
fn within<T: Send>(
    namespace: Option<&File>,
    make: impl FnOnce() -> std::io::Result<T> + Send,
) -> Result<T, Failure> {
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(namespace) = namespace {
                // SAFETY: moves this thread, which ends with this.
                if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            make()
        });
        thread.join()
    });
    Ok(made.map_err(|_| "a thread panicked")??)
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sends a small frame and waits for its echo, many times.
fn round_trips(how: &How, name: &str, ours: Wait, theirs: Wait) -> Result<(), Failure> {
    const BYTES: usize = 256;
    let (one, other) = pair(how)?;
    let engine = how.engine;
    let echo = std::thread::spawn(move || -> Result<(), LinkError> {
        let mut lane = tcp::command_lane(other, engine)?;
        let frame = Arc::new(vec![1; BYTES]);
        let mut due = 0;
        loop {
            match lane.turn(theirs, &mut |bytes| due += bytes.len()) {
                Ok(_) => {}
                Err(LinkError::Closed { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
            while due >= BYTES {
                due -= BYTES;
                lane.send(frame.clone())?;
            }
        }
    });
    let mut lane = tcp::command_lane(one, engine)?;
    let frame = Arc::new(vec![2; BYTES]);
    let mut times = Vec::new();
    for _ in 0..20_000 {
        let start = Instant::now();
        lane.send(frame.clone())?;
        let mut got = 0;
        while got < BYTES {
            lane.turn(ours, &mut |bytes| got += bytes.len())?;
        }
        times.push(start.elapsed());
    }
    drop(lane);
    echo.join().map_err(|_| "the echo thread panicked")??;
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("round trip, {name}: median {:.1} µs, 99 % {:.1} µs", at(0.5), at(0.99));
    Ok(())
}

/// What a turn costs that finds nothing to do.
fn idle_turns(how: &How) -> Result<(), Failure> {
    let (one, _other) = pair(how)?;
    let mut lane = tcp::command_lane(one, how.engine)?;
    lane.turn(Wait::No, &mut |_| {})?;
    let turns = 1_000_000;
    let start = Instant::now();
    for _ in 0..turns {
        lane.turn(Wait::No, &mut |_| {})?;
    }
    println!("idle turn: {:.1} ns", start.elapsed().as_secs_f64() * 1e9 / f64::from(turns));
    let waker = lane.waker();
    let start = Instant::now();
    for _ in 0..turns {
        waker.wake();
    }
    println!("wake of an awake owner: {:.1} ns", start.elapsed().as_secs_f64() * 1e9 / f64::from(turns));
    Ok(())
}

/// Lands everything in one buffer and counts.
struct Counter {
    memory: Vec<u8>,
    news: Sender<News>,
}

enum News {
    Landed,
    Sent,
}

impl BulkSink for Counter {
    fn place(&mut self, header: &ChunkHeader) -> Result<RawSliceMut, LinkError> {
        let (slots, bytes) = (self.memory.len() / header.bytes as usize, header.bytes as usize);
        let start = self.memory[header.number as usize % slots * bytes..].as_mut_ptr();
        // SAFETY: within `memory`, which lives as long as the sink and is not looked at.
        Ok(unsafe { RawSliceMut::new(start, bytes) })
    }
    fn landed(&mut self, _header: &ChunkHeader) {
        let _ = self.news.send(News::Landed);
    }
    fn sent(&mut self, _token: u64) {
        let _ = self.news.send(News::Sent);
    }
    fn closed(&mut self, _why: LinkError) {}
}

struct End {
    handle: BulkHandle,
    news: Receiver<News>,
}

fn end(socket: OwnedFd, engine: Engine, zero_copy: ZeroCopy) -> Result<End, Failure> {
    let (tell, news) = channel();
    let sink = Counter { memory: vec![0; 64 << 20], news: tell };
    let handle = BulkMover::spawn_on(tcp::bulk_engine(socket, engine, zero_copy)?, Vec::new(), sink)?;
    Ok(End { handle, news })
}

/// Streams chunks one way, or both ways at once.
fn bulk(how: &How, zero_copy: ZeroCopy, chunk: usize, both_ways: bool) -> Result<(), Failure> {
    const TOTAL: usize = 4 << 30;
    let (one, other) = pair(how)?;
    let (one, other) = (end(one, how.engine, zero_copy)?, end(other, how.engine, zero_copy)?);
    let memory = vec![7u8; 64 << 20];
    let count = TOTAL / chunk;
    let (start, before) = (Instant::now(), processor_time());
    let feeding = |end: End, ends: (bool, bool)| -> Result<End, Failure> {
        let (mut queued, mut free, mut landed) = (0, 8, 0);
        while (ends.0 && queued < count) || (ends.1 && landed < count) {
            while ends.0 && queued < count && free > 0 {
                let payload = &memory[queued * chunk % memory.len()..][..chunk];
                // SAFETY: `memory` outlives both lanes and is not written.
                let payload = unsafe { RawSlice::new(payload.as_ptr(), chunk) };
                let header = ChunkHeader::host_to_device(queued as u64, chunk as u32);
                end.handle.send(OutChunk { header, payload, done: queued as u64, waited_for: false });
                queued += 1;
                free -= 1;
            }
            match end.news.recv_timeout(Duration::from_secs(10))? {
                News::Landed => landed += 1,
                News::Sent => free += 1,
            }
        }
        Ok(end)
    };
    std::thread::scope(|scope| -> Result<(), Failure> {
        let there = scope.spawn(|| feeding(other, (both_ways, true)));
        let here = feeding(one, (true, both_ways))?;
        drop(there.join().map_err(|_| "a feeding thread panicked")??);
        drop(here);
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let ways = if both_ways { "both ways at once, each way" } else { "one way" };
    let moved = TOTAL * if both_ways { 2 } else { 1 };
    println!(
        "bulk, zero copy {zero_copy:?}, {} KiB chunks, {ways}: {:.2} GB/s, {:.0} ns of processors for a KiB",
        chunk >> 10,
        TOTAL as f64 / seconds / 1e9,
        (processor_time() - before).as_nanos() as f64 / (moved >> 10) as f64
    );
    Ok(())
}
