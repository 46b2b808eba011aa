//! Lanes in shared memory: what they cost, and what they notice of a peer that does as it likes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusewire_link::shm::{self, Area, Side};
use fusewire_link::{Closing, LinkError, Wait};
use support::{Denied, Lane, Noise, deny, shm_pair};

const LONG: Duration = Duration::from_secs(20);

fn receive(lane: &mut Lane, wait: Wait, bytes: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let give_up = Instant::now() + LONG;
    while got.len() < bytes {
        lane.turn(wait, &mut |piece| got.extend_from_slice(piece)).unwrap();
        assert!(Instant::now() < give_up, "{} of {bytes} bytes came", got.len());
    }
    got
}

#[test]
fn ends_that_are_awake_exchange_frames_without_a_system_call() {
    std::thread::spawn(|| {
        let (mut one, mut other) = shm_pair(Duration::ZERO);
        let calls =
            [libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_recvfrom, libc::SYS_ppoll, libc::SYS_poll];
        deny(&calls.map(|call| Denied(call, None, libc::EPERM)));
        deny(&[Denied(libc::SYS_write, None, libc::EPERM), Denied(libc::SYS_futex, None, libc::EPERM)]);
        let start = Instant::now();
        for n in 0..2000u32 {
            let frame = Arc::new(n.to_le_bytes().to_vec());
            one.send(frame.clone()).unwrap();
            one.turn(Wait::No, &mut |_| {}).unwrap();
            assert_eq!(receive(&mut other, Wait::No, 4), *frame);
            other.send(frame.clone()).unwrap();
            other.turn(Wait::No, &mut |_| {}).unwrap();
            assert_eq!(receive(&mut one, Wait::No, 4), *frame);
            if start.elapsed() > Duration::from_millis(90) {
                // From here on an idle lane would look after its peer now and then.
                break;
            }
        }
        // And the denial is real: an end that sleeps has to ask the kernel.
        assert!(one.turn(Wait::AtMost(Duration::from_millis(1)), &mut |_| {}).is_err());
        one.leak();
        other.leak();
    })
    .join()
    .unwrap();
}

#[test]
fn no_ring_is_lost_between_sleepers() {
    for spin in [Duration::ZERO, Duration::from_micros(30)] {
        let (mut one, mut other) = shm_pair(spin);
        const ROUNDS: usize = 20_000;
        let dawdle = |noise: &mut Noise| (0..noise.below(400)).for_each(|_| std::hint::spin_loop());
        let there = std::thread::spawn(move || {
            let mut noise = Noise::new(9);
            for _ in 0..ROUNDS {
                // The turn that waits for the next frame is the one that sends the last.
                let got = receive(&mut other, Wait::AtMost(LONG), 8);
                dawdle(&mut noise);
                other.send(Arc::new(got)).unwrap();
            }
            other.turn(Wait::No, &mut |_| {}).unwrap();
            other
        });
        let mut noise = Noise::new(4);
        for _ in 0..ROUNDS {
            let frame = Arc::new(noise.bytes(8));
            dawdle(&mut noise);
            one.send(frame.clone()).unwrap();
            assert_eq!(receive(&mut one, Wait::AtMost(LONG), 8), *frame);
        }
        drop(there.join().unwrap());
    }
}

#[test]
fn a_writer_that_waits_for_room_is_woken() {
    let (mut one, mut other) = shm_pair(Duration::ZERO);
    let frame = Arc::new(Noise::new(3).bytes(10 << 20));
    one.send(frame.clone()).unwrap();
    let there = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        (receive(&mut other, Wait::AtMost(LONG), 10 << 20), other)
    });
    let start = Instant::now();
    while one.in_flight() > 0 {
        let turn = one.turn(Wait::AtMost(LONG), &mut |_| {}).unwrap();
        assert!(turn.sent_frames > 0 || start.elapsed() < LONG / 2, "it slept on");
    }
    let (got, _other) = there.join().unwrap();
    assert!(got == *frame);
    assert_eq!(Arc::strong_count(&frame), 1, "a frame that was written must be let go");
}

#[test]
fn the_peers_death_is_noticed_whether_one_sleeps_or_polls() {
    for wait in [Wait::No, Wait::Forever] {
        let (area, _) = Area::create(0).unwrap();
        let (socket, peer) = UnixStream::pair().unwrap();
        let mut lane = shm::command_lane(&area, socket.into(), Side::Server, Duration::ZERO).unwrap();
        lane.turn(Wait::No, &mut |_| {}).unwrap();
        let dies = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            // Unread data in it, as when a process is killed.
            drop(peer);
            Instant::now()
        });
        let why = loop {
            match lane.turn(wait, &mut |_| {}) {
                Ok(_) => {}
                Err(why) => break why,
            }
        };
        let noticed = Instant::now();
        let died = dies.join().unwrap();
        assert!(noticed.saturating_duration_since(died) < Duration::from_secs(1), "{wait:?}");
        assert!(matches!(why, LinkError::Closed { how: Closing::ByPeer, .. }), "{why}");
    }
}

#[test]
fn a_peer_that_rings_for_nothing_keeps_nobody_from_a_limit() {
    let (area, _) = Area::create(0).unwrap();
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let mut lane = shm::command_lane(&area, socket.into(), Side::Server, Duration::ZERO).unwrap();
    peer.write_all(&[7; 10_000]).unwrap();
    let start = Instant::now();
    let turn = lane.turn(Wait::AtMost(Duration::from_millis(30)), &mut |_| {}).unwrap();
    assert_eq!(turn, Default::default());
    assert!((25..5_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}
