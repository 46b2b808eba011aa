//! Each kind of bad input: the error names it, the peer is told, nothing is allocated for it.

use fusewire_wire::error::{Culprit, ProtocolError};
use fusewire_wire::frame::{CloseReason, Frame, FrameKind, MAX_FRAME_PAYLOAD, close_frame};
use fusewire_wire::hello::{Hello, Welcome};
use fusewire_wire::session::{AckPolicy, Flow, Inbox, ServerConfig, ServerSession, Sink};
use proptest::prelude::*;

use crate::allocations;

fn header(kind: u8, flags: u8, records: u32, bytes: u32, reserved: u32, seq: u64, ack: u64) -> Vec<u8> {
    let mut frame = vec![0x57, 0x46, kind, flags];
    frame.extend(records.to_le_bytes());
    frame.extend(bytes.to_le_bytes());
    frame.extend(reserved.to_le_bytes());
    frame.extend(seq.to_le_bytes());
    frame.extend(ack.to_le_bytes());
    frame
}

fn record(op: u16, bytes: u32, body: usize) -> Vec<u8> {
    let mut record = op.to_le_bytes().to_vec();
    record.extend([0, 0]);
    record.extend(bytes.to_le_bytes());
    record.extend(vec![0; body]);
    record
}

fn batch(seq: u64, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(0, 0, records, payload.len() as u32, 0, seq, 0);
    frame.extend(payload);
    frame
}

pub(crate) fn server() -> ServerSession {
    let offer = Welcome { session: [1, 2], ..Welcome::blank() };
    let mut server = ServerSession::open(0, &Hello::blank(), ServerConfig::new(offer), &[]).unwrap();
    server.transmit().unwrap();
    server
}

/// Every malformed stream, and a word of the line that a person reads about it.
pub(crate) fn streams() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let sound = record(1, 16, 8);
    let three = [sound.clone(), sound.clone(), sound.clone()].concat();
    vec![
        ("not-fusewire", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "is it a Fusewire peer"),
        ("one-wrong-byte", vec![0x57, 0x47], "is it a Fusewire peer"),
        ("unknown-kind", header(5, 0, 0, 0, 0, 0, 0), "unknown kind 5"),
        ("unknown-kind-255", header(255, 0, 0, 0, 0, 0, 0), "unknown kind 255"),
        ("undefined-flags", header(1, 0x82, 0, 0, 0, 0, 0), "undefined bits 0x82"),
        ("reserved-set", header(1, 0, 0, 0, 9, 0, 0), "undefined bits 0x9"),
        ("frame-of-4-gib", header(0, 0, 1, u32::MAX, 0, 1, 0), "4294967295 bytes; the limit is"),
        ("frame-just-too-long", header(0, 0, 1, (16 << 20) + 8, 0, 1, 0), "16777224 bytes; the limit is"),
        ("empty-batch", header(0, 0, 0, 0, 0, 1, 0), "at least 8"),
        ("batch-of-no-records", batch(1, 0, &sound), "announces 0 records, and 16 bytes are left"),
        ("odd-batch", header(0, 0, 1, 12, 0, 1, 0), "not a multiple of 8"),
        ("more-records-than-fit", header(0, 0, u32::MAX, 16, 0, 1, 0), "at least 34359738360"),
        ("fewer-records-than-announced", batch(1, 2, &sound), "at least 8"),
        ("record-of-0-bytes", batch(1, 1, &record(1, 0, 8)), "a record of 0 bytes"),
        ("record-of-4-bytes", batch(1, 1, &record(1, 4, 8)), "a record of 4 bytes"),
        ("odd-record", batch(1, 1, &record(1, 12, 8)), "not a multiple of 8"),
        ("record-of-4-gib", batch(1, 1, &record(1, 0xffff_fff8, 8)), "a record of 4294967288 bytes"),
        ("record-overruns", batch(1, 1, &record(1, 24, 8)), "announces 24 bytes, but 16 are left"),
        ("last-record-overruns", batch(1, 2, &[sound.clone(), record(1, 24, 8)].concat()), "but 16 are left"),
        ("bytes-left-over", batch(1, 2, &three), "16 bytes are left over"),
        ("batch-0", [batch(1, 1, &sound), batch(3, 1, &sound)].concat(), "batch 3 where 2 is due"),
        ("first-batch-is-2", batch(2, 1, &sound), "batch 2 where 1 is due"),
        ("batch-2-to-the-63", batch(1 << 63, 1, &sound), "where 1 is due"),
        ("last-batch-number", batch(u64::MAX, 1, &sound), "where 1 is due"),
        ("ack-of-nothing", header(1, 0, 0, 0, 0, 0, 1), "acknowledged batch 1; only 0 were sent"),
        ("ack-2-to-the-63", header(3, 0, 0, 0, 0, 0, 1 << 63), "only 0 were sent"),
        ("ack-with-payload", header(1, 0, 0, 8, 0, 0, 0), "without payload"),
        ("ping-with-payload", header(3, 0, 0, 1, 0, 0, 0), "without payload"),
        ("ack-with-records", header(1, 0, 7, 0, 0, 0, 0), "undefined bits 0x7"),
        ("close-too-short", header(2, 0, 0, 3, 0, 0, 0), "at least 4"),
        ("close-too-long", header(2, 0, 0, 1 << 20, 0, 0, 0), "the limit is 4100"),
    ]
}

#[test]
fn each_is_named_and_ends_the_session_alone() {
    for (name, stream, words) in streams() {
        let mut server = server();
        let mut calls = 0;
        let count = |_: fusewire_wire::frame::Record<'_>| {
            calls += 1;
            Ok::<_, ProtocolError>(Flow::Continue)
        };
        let (_, largest, result) = allocations::during(|| server.receive(1, &stream, count));
        let error = result.expect_err(name);
        let line = error.to_string();
        assert!(line.contains(words), "{name}: {line}");
        assert!(!line.contains('\n'), "{name}: {line}");
        assert_eq!(error.culprit(), Culprit::Peer, "{name}");
        assert!(largest < 1024, "{name} made us allocate {largest} bytes");
        assert!(calls <= 2, "{name}");

        assert_eq!(server.ended(), Some(&error), "{name}");
        let told = server.transmit().expect(name);
        assert_eq!(Frame::parse(&told).unwrap().unwrap().kind, FrameKind::Close);
        assert!(String::from_utf8_lossy(&told).contains(words), "{name}: the peer is told what is wrong");
        assert!(server.transmit().is_none(), "{name}");
    }
}

struct Ignore;

impl Sink for Ignore {
    type Error = ProtocolError;

    fn record(&mut self, _: fusewire_wire::frame::Record<'_>) -> Result<Flow, ProtocolError> {
        Ok(Flow::Continue)
    }

    fn ack(&mut self, _: u64) -> Result<(), ProtocolError> {
        Ok(())
    }

    fn close(&mut self, _: CloseReason, _: String) -> Result<(), ProtocolError> {
        Ok(())
    }

    fn ping(&mut self, _: u64) {}
}

#[test]
fn a_batch_that_never_ends_costs_what_arrived() {
    let promise = header(0, 0, 1, MAX_FRAME_PAYLOAD as u32, 0, 1, 0);
    let mut inbox = Inbox::new(AckPolicy::default());
    let (_, largest, ()) = allocations::during(|| {
        inbox.receive(&promise, &mut Ignore).unwrap();
        for _ in 0..100 {
            inbox.receive(&[0; 100], &mut Ignore).unwrap();
        }
    });
    assert!(largest < 64 << 10, "{largest} bytes for 10,032 that came");
    assert_eq!(inbox.applied(), 0);
}

#[test]
fn a_peer_that_sends_without_end_behind_a_pause_is_stopped() {
    let mut server = server();
    let pause = |_: fusewire_wire::frame::Record<'_>| Ok::<_, ProtocolError>(Flow::Pause);
    server.receive(1, &batch(1, 1, &record(1, 16, 8)), pause).unwrap();
    let block = vec![0; 8 << 20];
    let error = (0..100).find_map(|_| server.receive(1, &block, pause).err()).unwrap();
    assert!(matches!(error, ProtocolError::HeldTooMuch { .. }), "{error}");
}

#[test]
fn a_flood_of_pings_gets_one_answer() {
    let mut server = server();
    let on_operation = |_: fusewire_wire::frame::Record<'_>| Ok::<_, ProtocolError>(Flow::Continue);
    for number in 0..1000 {
        server.receive(1, &header(3, 0, 0, 0, 0, number, 0), on_operation).unwrap();
    }
    let pong = server.transmit().unwrap();
    let pong = Frame::parse(&pong).unwrap().unwrap();
    assert_eq!((pong.kind, pong.seq), (FrameKind::Pong, 999));
    assert!(server.transmit().is_none());
}

#[test]
fn a_close_carries_its_reason_and_nothing_dangerous() {
    let mut server = server();
    let text = format!("out of cheese\n\x1b[2J{}", "ä".repeat(5000));
    let frame = close_frame(CloseReason::Evicted, &text, 0);
    let on_operation = |_: fusewire_wire::frame::Record<'_>| Ok::<_, ProtocolError>(Flow::Continue);
    let error = server.receive(1, &frame, on_operation).unwrap_err();
    let ProtocolError::Closed { reason, text } = &error else { panic!("{error}") };
    assert_eq!(*reason, CloseReason::Evicted);
    assert!(text.starts_with("out of cheese  [2Jä") && text.ends_with('ä') && text.len() <= 4096);
    assert_eq!(error.culprit(), Culprit::Closed);
    assert!(server.transmit().is_none(), "a Close is not answered");
}

#[test]
fn a_receiver_that_fails_ends_delivery() {
    let mut server = server();
    let bad = |record: fusewire_wire::frame::Record<'_>| {
        Err(ProtocolError::BadRecord { number: record.number, op: record.op, what: "no such stream" })
    };
    let error = server.receive(1, &batch(1, 1, &record(77, 16, 8)), bad).unwrap_err();
    assert_eq!(error.to_string(), "record 1 (op 77) is malformed: no such stream");
    server.close(CloseReason::Protocol, &error.to_string());
    assert_eq!(Frame::parse(&server.transmit().unwrap()).unwrap().unwrap().kind, FrameKind::Close);
    assert!(server.receive(1, &batch(2, 1, &record(1, 16, 8)), bad).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_get_through(stream in prop::collection::vec(any::<u8>(), 2..200)) {
        prop_assume!(stream[..2] != [0x57, 0x46]);
        let mut server = server();
        let never = |_: fusewire_wire::frame::Record<'_>| -> Result<Flow, ProtocolError> { panic!("delivered") };
        let error = server.receive(1, &stream, never).unwrap_err();
        let is_magic = matches!(error, ProtocolError::BadFrameMagic { .. });
        prop_assert!(is_magic);
    }

    #[test]
    fn damage_is_refused_or_harmless(at in 0usize..128, bit in 0u8..8, piece in 1usize..64) {
        let mut stream = batch(1, 3, &[record(1, 32, 24), record(2, 8, 0), record(3, 24, 16)].concat());
        stream.extend(header(1, 0, 0, 0, 0, 0, 0));
        prop_assume!(at < stream.len());
        stream[at] ^= 1 << bit;
        let mut server = server();
        let mut seen = 0;
        for piece in stream.chunks(piece) {
            let result = server.receive(1, piece, |record| {
                seen += 1;
                assert!(record.number == seen && record.body.len() <= 88);
                Ok::<_, ProtocolError>(Flow::Continue)
            });
            if let Err(error) = result {
                prop_assert!(matches!(error.culprit(), Culprit::Peer | Culprit::Closed), "{}", error);
                break;
            }
        }
        prop_assert!(seen <= 3);
    }
}
