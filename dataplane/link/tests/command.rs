//! Command lanes: order, back-pressure, endings, waking, and what they may cost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fusewire_link::tcp::{self, Engine};
use fusewire_link::{Closing, LinkError, Wait};
use support::{Denied, Lane, Noise, deny, lane_and_socket, lane_pairs, tcp_pair};

const ENGINES: [Engine; 2] = [Engine::IoUring, Engine::Poll];
const LONG: Duration = Duration::from_secs(20);

/// Sends `frames` of noise seeded with `seed` and checks that the noise seeded with `expected` arrives.
fn exchange(mut lane: Lane, frames: usize, seed: u64, expected: u64) -> Lane {
    let sizes = |seed: u64| {
        let mut noise = Noise::new(seed ^ 0xabcd);
        move || match noise.below(20) {
            0 => 1 + noise.below(3_000_000),
            1..5 => 1 + noise.below(100_000),
            _ => 1 + noise.below(300),
        }
    };
    let mut due = Noise::new(expected);
    let mut due_size = sizes(expected);
    let mut due_bytes: Vec<u8> = Vec::new();
    let (mut due_at, mut frames_due) = (0, frames);
    let mut out = Noise::new(seed);
    let mut out_size = sizes(seed);
    let (mut queued, mut sent) = (0, 0);
    let mut pace = Noise::new(seed ^ 0x77);
    let give_up = Instant::now() + LONG;
    while sent < frames || frames_due > 0 || due_at < due_bytes.len() {
        while queued < frames && lane.in_flight() < 100 {
            lane.send(Arc::new(out.bytes(out_size()))).unwrap();
            queued += 1;
            if pace.below(10) == 0 {
                break;
            }
        }
        let wait = match pace.below(3) {
            0 => Wait::No,
            1 => Wait::AtMost(Duration::from_micros(pace.below(500) as u64)),
            _ if queued == frames => Wait::AtMost(Duration::from_secs(5)),
            _ => Wait::No,
        };
        let mut got = 0;
        let turn = lane
            .turn(wait, &mut |mut bytes| {
                got += bytes.len();
                while !bytes.is_empty() {
                    if due_at == due_bytes.len() {
                        assert!(frames_due > 0, "more arrived than was sent");
                        frames_due -= 1;
                        due_bytes = due.bytes(due_size());
                        due_at = 0;
                    }
                    let take = bytes.len().min(due_bytes.len() - due_at);
                    assert!(bytes[..take] == due_bytes[due_at..due_at + take], "bytes differ");
                    due_at += take;
                    bytes = &bytes[take..];
                }
            })
            .unwrap();
        assert_eq!(turn.received_bytes, got);
        sent += turn.sent_frames;
        assert!(Instant::now() < give_up, "stuck: {sent} of {frames} sent, {frames_due} still due");
    }
    assert_eq!(lane.in_flight(), 0);
    lane
}

#[test]
fn frames_of_any_size_arrive_whole_and_in_order_both_ways() {
    for (name, one, other) in lane_pairs() {
        eprintln!("{name}");
        let there = std::thread::spawn(move || exchange(other, 300, 2, 1));
        let here = exchange(one, 300, 1, 2);
        drop(there.join().unwrap());
        drop(here);
    }
}

#[test]
fn a_stalled_peer_shows_as_frames_in_flight_and_blocks_nobody() {
    for engine in ENGINES {
        let (one, mut other) = tcp_pair();
        socket2::SockRef::from(&one).set_send_buffer_size(16 << 10).unwrap();
        let mut lane = tcp::command_lane(one.into(), engine).unwrap();
        let frame = Arc::new(Noise::new(5).bytes(1 << 20));
        for _ in 0..3 {
            lane.send(frame.clone()).unwrap();
        }
        let start = Instant::now();
        let mut heard = Vec::new();
        other.write_all(b"still here").unwrap();
        while start.elapsed() < Duration::from_millis(100) {
            lane.turn(Wait::AtMost(Duration::from_millis(10)), &mut |bytes| heard.extend_from_slice(bytes))
                .unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "a limited wait took {:?}", start.elapsed());
        assert_eq!(heard, b"still here", "{engine:?} does not receive while it cannot send");
        assert!(lane.in_flight() > 0, "{engine:?}");
        assert!(Arc::strong_count(&frame) > 1, "a frame not sent must be kept");

        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 3 * (1 << 20)];
            other.read_exact(&mut got).unwrap();
            got
        });
        let mut sent = 0;
        while sent < 3 {
            sent += lane.turn(Wait::AtMost(LONG), &mut |_| {}).unwrap().sent_frames;
        }
        assert_eq!(Arc::strong_count(&frame), 1, "a frame that was sent must be let go");
        let got = reader.join().unwrap();
        for part in got.chunks(1 << 20) {
            assert!(part == &frame[..]);
        }
    }
}

/// Turns until the lane ends; gives what was received and why it ended.
fn until_the_end(lane: &mut Lane) -> (Vec<u8>, LinkError) {
    let mut heard = Vec::new();
    loop {
        match lane.turn(Wait::AtMost(LONG), &mut |bytes| heard.extend_from_slice(bytes)) {
            Ok(turn) => assert!(turn != Default::default(), "waited in vain"),
            Err(why) => return (heard, why),
        }
    }
}

#[test]
fn the_peers_last_words_come_before_the_news_of_its_end() {
    for (name, mut one, mut other) in lane_pairs() {
        // Unread data in the peer's socket: closing it would reset the connection and lose its last words.
        one.send(Arc::new(vec![0; 100_000])).unwrap();
        one.turn(Wait::No, &mut |_| {}).unwrap();
        other.send(Arc::new(b"farewell".to_vec())).unwrap();
        while other.in_flight() > 0 && !name.starts_with("memory") {
            other.turn(Wait::No, &mut |_| {}).unwrap();
        }
        drop(other);
        let (heard, why) = until_the_end(&mut one);
        assert_eq!(heard, b"farewell", "{name}");
        assert!(matches!(why, LinkError::Closed { how: Closing::ByPeer, .. }), "{name}: {why}");
        assert_eq!(one.turn(Wait::Forever, &mut |_| {}), Err(why.clone()), "{name}");
        assert!(one.send(Arc::new(vec![1])).is_err(), "{name}");
    }
}

#[test]
fn a_peer_that_dies_is_reported_as_a_reset_that_names_it() {
    for engine in ENGINES {
        let (mut lane, other) = lane_and_socket(engine);
        let address = other.local_addr().unwrap().to_string();
        lane.send(Arc::new(vec![0; 100])).unwrap();
        lane.turn(Wait::No, &mut |_| {}).unwrap();
        // What a killed process with unread data does.
        socket2::SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
        drop(other);
        let (_, why) = until_the_end(&mut lane);
        assert_eq!(why, LinkError::Closed { peer: address.clone(), how: Closing::Reset });
        assert!(why.to_string().contains(&address) && why.to_string().contains("reset"), "{why}");
    }
}

#[test]
fn sending_to_a_dead_peer_still_hears_what_it_said() {
    for engine in ENGINES {
        let (mut lane, mut other) = lane_and_socket(engine);
        other.write_all(b"I am dying").unwrap();
        drop(other);
        // The first of these provokes a reset, the later ones fail.
        for _ in 0..3 {
            lane.send(Arc::new(vec![0; 1000])).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let (heard, _) = until_the_end(&mut lane);
        assert_eq!(heard, b"I am dying", "{engine:?}");
    }
}

#[test]
fn waits_end_when_they_should() {
    for (name, mut one, other) in lane_pairs() {
        let start = Instant::now();
        let turn = one.turn(Wait::AtMost(Duration::from_millis(30)), &mut |_| {}).unwrap();
        assert_eq!(turn, Default::default(), "{name}");
        assert!((25..10_000).contains(&start.elapsed().as_millis()), "{name}: {:?}", start.elapsed());

        // A wake-up before the sleep is not lost, one during the sleep ends it.
        let waker = one.waker();
        waker.wake();
        assert!(one.turn(Wait::Forever, &mut |_| {}).unwrap().woken, "{name}");
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        assert!(one.turn(Wait::Forever, &mut |_| {}).unwrap().woken, "{name}");
        later.join().unwrap();
        assert!(!one.turn(Wait::AtMost(Duration::from_millis(1)), &mut |_| {}).unwrap().woken, "{name}");
        drop(other);
    }
}

#[test]
fn no_wake_up_is_lost_under_contention() {
    const THREADS: u64 = 3;
    const ROUNDS: u64 = 3_000;
    for (name, mut one, other) in lane_pairs() {
        // Each thread publishes once a round, and the next round begins when the owner has seen all: every
        // wake-up counts, none is made good by a later one.
        let (published, round) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (waker, published, round) = (one.waker(), published.clone(), round.clone());
                std::thread::spawn(move || {
                    let mut noise = Noise::new(seed + 1);
                    for n in 0..ROUNDS {
                        while round.load(Ordering::Acquire) < n {
                            std::thread::yield_now();
                        }
                        for _ in 0..noise.below(3000) {
                            std::hint::spin_loop();
                        }
                        published.fetch_add(1, Ordering::Relaxed);
                        waker.wake();
                    }
                })
            })
            .collect();
        for n in 1..=ROUNDS {
            while published.load(Ordering::Relaxed) < THREADS * n {
                let turn = one.turn(Wait::AtMost(LONG), &mut |_| {}).unwrap();
                assert!(turn.woken, "{name}, round {n}: a wake-up was lost");
            }
            round.store(n, Ordering::Release);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        drop(other);
    }
}

#[test]
fn an_idle_polling_turn_makes_no_system_call() {
    std::thread::spawn(|| {
        let (mut lane, mut other) = lane_and_socket(Engine::IoUring);
        lane.turn(Wait::No, &mut |_| {}).unwrap();
        deny(&[Denied(libc::SYS_io_uring_enter, None, libc::EPERM)]);
        for _ in 0..1000 {
            lane.turn(Wait::No, &mut |_| {}).unwrap();
        }
        // And the denial is real: with something to fetch, the lane has to ask the kernel.
        other.write_all(b"x").unwrap();
        let failed = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            lane.turn(Wait::No, &mut |_| {}).is_err()
        });
        assert!(failed);
        lane.leak();
    })
    .join()
    .unwrap();
}

#[test]
fn a_lane_that_changes_threads_says_so() {
    let (mut lane, _other) = lane_and_socket(Engine::IoUring);
    std::thread::spawn(move || {
        lane.send(Arc::new(vec![1])).unwrap();
        lane.turn(Wait::No, &mut |_| {}).unwrap();
        lane
    })
    .join()
    .map(|mut lane| {
        lane.send(Arc::new(vec![2])).unwrap();
        let result = lane.turn(Wait::AtMost(Duration::from_millis(1)), &mut |_| {});
        assert!(matches!(result, Err(LinkError::Misuse(_))), "{result:?}");
    })
    .unwrap();
}

#[test]
fn a_lane_can_be_dropped_at_any_time() {
    for engine in ENGINES {
        let (mut lane, other) = lane_and_socket(engine);
        let frame = Arc::new(vec![7; 16 << 20]);
        for _ in 0..4 {
            lane.send(frame.clone()).unwrap();
        }
        lane.turn(Wait::No, &mut |_| {}).unwrap();
        let start = Instant::now();
        drop(lane);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(Arc::strong_count(&frame), 1, "{engine:?}");
        drop(other);
    }
}

#[test]
fn a_forked_child_leaves_its_parents_lane_alone() {
    for engine in ENGINES {
        let (mut lane, mut other) = lane_and_socket(engine);
        lane.turn(Wait::No, &mut |_| {}).unwrap();
        for leak in [true, false] {
            // SAFETY: the child uses only the lane, and leaves by _exit.
            let child = unsafe { libc::fork() };
            if child == 0 {
                if leak {
                    lane.leak();
                } else {
                    drop(lane);
                }
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(0) };
            }
            let mut status = -1;
            // SAFETY: waits for our own child; status is live.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0);
            lane.send(Arc::new(b"ping".to_vec())).unwrap();
            let mut heard = [0; 4];
            while lane.in_flight() > 0 {
                lane.turn(Wait::No, &mut |_| {}).unwrap();
            }
            other.read_exact(&mut heard).unwrap();
            other.write_all(b"pong").unwrap();
            let mut answer = Vec::new();
            while answer.len() < 4 {
                lane.turn(Wait::AtMost(LONG), &mut |bytes| answer.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!(answer, b"pong");
        }
    }
}

#[test]
fn descriptors_name_the_socket() {
    let (one, _other) = tcp_pair();
    let number = one.as_raw_fd();
    let lane = tcp::command_lane(one.into(), Engine::Auto).unwrap();
    assert!(lane.descriptors().contains(&number));
}
