//! Where `io_uring` is refused: the reason in words, and lanes that work all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::time::Duration;

use fusewire_link::tcp::{self, Engine, ZeroCopy};
use fusewire_link::{LinkError, Wait, probe};
use support::{Denied, deny, lane_and_socket, tcp_pair};

#[test]
fn the_probe_finds_io_uring_or_says_why_not() {
    match probe::probe() {
        Ok(features) => assert!(!features.kernel.is_empty()),
        Err(LinkError::NoRing(text)) => assert!(text.contains("io_uring cannot be used"), "{text}"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_refusal_is_put_into_words_and_poll_takes_over() {
    for (errno, words) in [
        (libc::ENOSYS, "Linux 5.11 or later"),
        (libc::EPERM, "seccomp"),
        (libc::ENOMEM, "ulimit -l"),
        (libc::EMFILE, "ulimit -n"),
        (libc::EINVAL, "too old"),
    ] {
        std::thread::spawn(move || {
            deny(&[Denied(libc::SYS_io_uring_setup, None, errno)]);
            let Err(LinkError::NoRing(text)) = probe::probe() else { panic!("the probe noticed nothing") };
            assert!(text.contains(words) && text.contains("io_uring_setup"), "{text}");

            let (one, other) = tcp_pair();
            assert!(matches!(tcp::command_lane(one.into(), Engine::IoUring), Err(LinkError::NoRing(_))));
            assert!(tcp::bulk_engine(other.into(), Engine::IoUring, ZeroCopy::Auto).is_err());

            let (mut lane, mut other) = lane_and_socket(Engine::Auto);
            other.write_all(b"hello").unwrap();
            let mut heard = Vec::new();
            while heard.len() < 5 {
                lane.turn(Wait::AtMost(Duration::from_secs(5)), &mut |bytes| heard.extend_from_slice(bytes))
                    .unwrap();
            }
            assert_eq!(heard, b"hello");
        })
        .join()
        .unwrap();
    }
}

#[test]
fn older_kernels_are_served_with_what_they_have() {
    // IORING_REGISTER_PBUF_RING is 22: without it one receive at a time.
    std::thread::spawn(|| {
        deny(&[Denied(libc::SYS_io_uring_register, Some(22), libc::EINVAL)]);
        let (mut lane, mut other) = lane_and_socket(Engine::IoUring);
        let mut heard = Vec::new();
        for round in 1..=3 {
            other.write_all(&vec![round; 200_000]).unwrap();
            while heard.len() < usize::from(round) * 200_000 {
                lane.turn(Wait::AtMost(Duration::from_secs(5)), &mut |bytes| heard.extend_from_slice(bytes))
                    .unwrap();
            }
        }
        assert!(heard.chunks(200_000).zip(1u8..).all(|(part, round)| part.iter().all(|&byte| byte == round)));
    })
    .join()
    .unwrap();
}

/// The second half of the test below, in a process of its own.
#[test]
fn fall_back_three_times() {
    if std::env::var_os("FALL_BACK").is_some() {
        deny(&[Denied(libc::SYS_io_uring_setup, None, libc::EPERM)]);
        for _ in 0..3 {
            drop(lane_and_socket(Engine::Auto));
        }
    }
}

#[test]
fn falling_back_is_mentioned_once_and_only_to_those_who_ask() {
    for (level, lines) in [("", 0), ("warn", 0), ("info", 1)] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fall_back_three_times", "--nocapture"])
            .envs([("FALL_BACK", "1"), ("FUSEWIRE_LOG", level)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.matches("going on with poll(2)").count(), lines, "{level}: {said}");
        assert_eq!(said.lines().count(), lines, "{level}: {said}");
    }
}
