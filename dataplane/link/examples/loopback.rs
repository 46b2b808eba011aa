//! Measures the lanes between two threads over loopback TCP: command round trips in µs, bulk data in GB/s.
//!
//! `cargo run --release -p fusewire-link --example loopback [poll]`

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fusewire_link::tcp::{self, Engine, ZeroCopy};
use fusewire_link::{
    BulkHandle, BulkMover, BulkSink, ChunkHeader, LinkError, OutChunk, RawSlice, RawSliceMut, Wait,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let engine = match std::env::args().nth(1).as_deref() {
        Some("poll") => Engine::Poll,
        _ => Engine::Auto,
    };
    println!("io_uring: {:?}", fusewire_link::probe::probe());
    for (name, ours, theirs) in [
        ("both asleep", Wait::Forever, Wait::Forever),
        ("server polling", Wait::Forever, Wait::No),
        ("both polling", Wait::No, Wait::No),
    ] {
        round_trips(engine, name, ours, theirs)?;
    }
    idle_turns(engine)?;
    for chunk in [256 << 10, 1 << 20, 4 << 20] {
        bulk(engine, chunk, false)?;
    }
    bulk(engine, 1 << 20, true)
}

fn pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    Ok((one.into(), other.into()))
}

/// Sends a small frame and waits for its echo, many times.
fn round_trips(engine: Engine, name: &str, ours: Wait, theirs: Wait) -> Result<(), Failure> {
    const BYTES: usize = 256;
    let (one, other) = pair()?;
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
fn idle_turns(engine: Engine) -> Result<(), Failure> {
    let (one, _other) = pair()?;
    let mut lane = tcp::command_lane(one, engine)?;
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
        let start = self.memory[header.id as usize % slots * bytes..].as_mut_ptr();
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

fn end(socket: OwnedFd, engine: Engine) -> Result<End, Failure> {
    let (tell, news) = channel();
    let sink = Counter { memory: vec![0; 16 << 20], news: tell };
    let handle = BulkMover::spawn_on(tcp::bulk_engine(socket, engine, ZeroCopy::Auto)?, None, sink)?;
    Ok(End { handle, news })
}

/// Streams chunks one way, or both ways at once.
fn bulk(engine: Engine, chunk: usize, both_ways: bool) -> Result<(), Failure> {
    const TOTAL: usize = 8 << 30;
    let (one, other) = pair()?;
    let (one, other) = (end(one, engine)?, end(other, engine)?);
    let memory = vec![7u8; 16 << 20];
    let count = TOTAL / chunk;
    let start = Instant::now();
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
    println!("bulk, {} KiB chunks, {ways}: {:.2} GB/s", chunk >> 10, TOTAL as f64 / seconds / 1e9);
    Ok(())
}
