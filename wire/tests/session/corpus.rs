//! Replays the fuzz seeds of frames and greetings, whole, cut short and damaged.
//!
//! The seeds are written by this file as well: `cargo test -p fusewire-wire --test session -- --ignored
//! write_the_seeds` after the format changes. Finds of the fuzzer are added beside them by hand.

#[path = "../../fuzz/checks/frames.rs"]
mod checks;

use std::path::PathBuf;

use fusewire_wire::bulk::ChunkHeader;
use fusewire_wire::frame::{CloseReason, FrameHeader, FrameKind, close_frame};
use fusewire_wire::hello::{Hello, Lines, Progress, Refusal, RefusedReason, Welcome};
use fusewire_wire::session::{Outbox, OutboxConfig};
use zerocopy::IntoBytes;

use crate::malformed;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/frames")
}

fn batches() -> Vec<u8> {
    let mut outbox = Outbox::new(OutboxConfig::default());
    let mut stream = Vec::new();
    for records in 1..4u16 {
        for op in 0..records {
            outbox.push(op, op, &[1; 16], &[&[2; 5]]).unwrap();
        }
        stream.extend_from_slice(&outbox.seal(0).unwrap());
    }
    stream
}

fn sound() -> Vec<(String, Vec<u8>)> {
    let welcome =
        Welcome { session: [1, 2], slot_bytes: 64, h2d_slots: 4, bulk_lanes: 4, ..Welcome::blank() };
    let progress = Progress { applied: 3, chunks: 1 }.write(Lines::default());
    let bare = |kind, number| FrameHeader::bare(kind, number, 0).as_bytes().to_vec();
    let named: Vec<(&str, Vec<u8>)> = vec![
        ("batches", batches()),
        ("batches-twice", [batches(), batches()].concat()),
        (
            "small-frames",
            [FrameKind::Ack, FrameKind::Ping, FrameKind::Pong].map(|kind| bare(kind, 5)).concat(),
        ),
        ("close", close_frame(CloseReason::Evicted, "enough", 0)),
        ("hello", Hello::blank().with_tail(&Lines::default().with("token", "secret")).unwrap()),
        ("hello-resume", Hello { session: [1, 2], ..Hello::blank() }.with_tail(&progress).unwrap()),
        ("welcome-and-batches", [welcome.with_tail(b"snapshot"), batches()].concat()),
        ("refusal", Refusal::new(RefusedReason::NoCapacity, "try later").to_bytes()),
        ("chunk-up", ChunkHeader::host_to_device(3, 64).as_bytes().to_vec()),
        ("chunk-down", ChunkHeader::device_to_host(7, 3, 1 << 40, 64).as_bytes().to_vec()),
        ("lines", progress.as_bytes().to_vec()),
    ];
    named.into_iter().map(|(name, stream)| (name.to_owned(), stream)).collect()
}

/// Every seed by name: a byte for the length of pieces, then the stream.
fn written_here() -> Vec<(String, Vec<u8>)> {
    let bad = malformed::streams().into_iter().map(|(name, stream, _)| (format!("bad-{name}"), stream));
    sound().into_iter().chain(bad).map(|(name, stream)| (name, [vec![12], stream].concat())).collect()
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, seed) in written_here() {
        std::fs::write(folder().join(name), seed).unwrap();
    }
}

#[test]
fn the_seeds_are_those_written_here() {
    for (name, seed) in written_here() {
        assert_eq!(std::fs::read(folder().join(&name)).ok(), Some(seed), "{name} is out of date");
    }
}

#[test]
fn replay() {
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        let seed = std::fs::read(&path).unwrap();
        checks::check(&seed);
        for end in 0..seed.len() {
            checks::check(&seed[..end]);
        }
        // Every byte in turn becomes each of a few values that lengths and kinds dislike.
        for at in 0..seed.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = seed.clone();
                damaged[at] = value;
                checks::check(&damaged);
            }
        }
        replayed += 1;
    }
    assert!(replayed >= written_here().len());
}
