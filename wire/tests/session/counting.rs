//! Credit, barriers and keep-alive.

use fusewire_wire::bulk::{ChunkHeader, ChunkKind};
use fusewire_wire::error::{Culprit, ProtocolError};
use fusewire_wire::frame::{CloseReason, Frame, FrameKind};
use fusewire_wire::hello::{Hello, OpeningReader, Welcome};
use fusewire_wire::session::{
    ArrivalGate, ChunkNumbers, ChunkPlan, ChunkReceiver, ChunkSender, ClientConfig, ClientSession, Flow,
    Nanos, Next, ServerConfig, ServerSession, Transmit,
};
use zerocopy::IntoBytes;

const MS: Nanos = 1_000_000;

fn plan() -> ChunkPlan {
    ChunkPlan::new(2, 3).unwrap()
}

#[test]
fn a_plan_needs_slots_and_at_most_eight_lanes() {
    assert!(ChunkPlan::new(0, 0).is_ok());
    assert!(ChunkPlan::new(8, 1).is_ok());
    assert!(ChunkPlan::new(9, 1).is_err());
    assert!(ChunkPlan::new(1, 0).is_err());
    assert!(ChunkPlan::new(u32::MAX, u32::MAX).is_err());
    assert_eq!((plan().lanes(), plan().slot_of(5)), (2, 2));
}

#[test]
fn chunks_are_sent_in_order_within_credit() {
    let mut chunks = ChunkSender::new(plan());
    assert_eq!(chunks.due(), None, "nothing has a number yet");
    assert_eq!(chunks.number(5), 0..5);
    assert!(chunks.may_send(2) && !chunks.may_send(3));
    for chunk in 0..3 {
        assert_eq!(chunks.sent(), Ok(chunk));
    }
    assert_eq!(chunks.due(), None, "chunk 3 has no credit");
    assert_eq!(chunks.sent().unwrap_err().culprit(), Culprit::Caller);
    chunks.credit(5).unwrap();
    assert_eq!((chunks.retired(), chunks.due()), (2, Some(3)));
}

#[test]
fn credit_that_cannot_be() {
    let mut chunks = ChunkSender::new(plan());
    chunks.number(10);
    // Nothing was sent, so nothing can be retired.
    assert_eq!(chunks.credit(4), Err(ProtocolError::BadCredit { credit: 4, least: 3, most: 3 }));
    chunks.sent().unwrap();
    chunks.credit(4).unwrap();
    assert!(chunks.credit(3).is_err(), "credit does not go back");
    assert!(chunks.credit(u64::MAX).is_err());
    chunks.credit(4).unwrap();
}

#[test]
fn what_is_retired_is_not_asked_for_again() {
    let mut chunks = ChunkSender::new(plan());
    chunks.number(10);
    for _ in 0..3 {
        chunks.sent().unwrap();
    }
    chunks.credit(5).unwrap();
    assert!(chunks.rewind(4).is_err(), "more than was sent");
    assert!(chunks.rewind(1).is_err(), "chunk 1 was retired: its source may be gone");
    chunks.rewind(2).unwrap();
    assert_eq!(chunks.due(), Some(2));
}

#[test]
fn slots_retire_in_any_order_and_credit_follows_the_prefix() {
    let mut chunks = ChunkReceiver::new(plan());
    for chunk in [1, 0, 2] {
        assert_eq!(chunks.admit(chunk), Ok(chunk as usize));
    }
    assert_eq!(chunks.admit(3), Err(ProtocolError::CreditExceeded { chunk: 3, credit: 3 }));
    assert!(chunks.arrived(3).is_err(), "not admitted");
    chunks.arrived(1).unwrap();
    assert_eq!(chunks.arrived_below(), 0, "another lane is behind");
    assert!(chunks.retire(1).is_err(), "nobody can have used it");
    chunks.arrived(0).unwrap();
    assert_eq!(chunks.arrived_below(), 2);
    chunks.arrived(2).unwrap();
    assert_eq!(chunks.arrived_below(), 3);
    chunks.retire(2).unwrap();
    chunks.retire(1).unwrap();
    assert_eq!((chunks.credit(), chunks.tell_credit(1)), (3, None));
    assert!(chunks.retire(1).is_err(), "twice, out of order");
    chunks.retire(0).unwrap();
    assert!(chunks.retire(0).is_err(), "twice");
    assert!(chunks.retire(3).is_err(), "not arrived");
    assert_eq!(chunks.credit(), 6);
    assert!(chunks.admit(3).is_err(), "the client has not been told of its credit");
    assert_eq!(chunks.tell_credit(4), None);
    assert_eq!(chunks.tell_credit(3), Some(6));
    assert_eq!(chunks.tell_credit(1), None);
    assert_eq!(chunks.admit(3), Ok(0));
    assert_eq!(chunks.arrived_below(), 3);
}

#[test]
fn a_chunk_comes_once() {
    let twice = |chunk| Err(ProtocolError::ChunkTwice { chunk });
    let mut chunks = ChunkReceiver::new(plan());
    chunks.admit(1).unwrap();
    assert_eq!(chunks.admit(1), twice(1), "it is being received");
    chunks.arrived(1).unwrap();
    assert_eq!(chunks.admit(1), twice(1), "it waits for the one before");
    assert!(chunks.arrived(1).is_err());
    chunks.admit(0).unwrap();
    chunks.arrived(0).unwrap();
    chunks.retire(0).unwrap();
    assert_eq!(chunks.tell_credit(1), Some(4));
    assert_eq!(chunks.admit(0), twice(0), "its slot is another's");
    chunks.admit(3).unwrap();
    assert!(chunks.admit(1 << 63).is_err());
}

#[test]
fn what_came_early_is_forgotten_with_the_links() {
    let mut chunks = ChunkReceiver::new(plan());
    for chunk in 0..3 {
        chunks.admit(chunk).unwrap();
    }
    chunks.arrived(0).unwrap();
    chunks.arrived(2).unwrap();
    assert_eq!(chunks.forget_early(), 1);
    for chunk in [2, 1] {
        chunks.admit(chunk).unwrap();
        chunks.arrived(chunk).unwrap();
    }
    assert_eq!(chunks.arrived_below(), 3);
}

#[test]
fn without_lanes_there_are_no_chunks() {
    let (mut sender, mut receiver) = (ChunkSender::new(ChunkPlan::NONE), ChunkReceiver::new(ChunkPlan::NONE));
    sender.number(4);
    assert_eq!(sender.due(), None);
    assert!(sender.credit(1).is_err());
    assert!(receiver.admit(0).is_err());
    assert!(receiver.retire(0).is_err());
    let mut gate = ArrivalGate::new(ChunkPlan::NONE);
    assert!(gate.is_open());
    assert!(gate.require(1).is_err(), "it would never open");
}

#[test]
fn a_barrier_opens_when_all_before_it_have_landed() {
    let mut gate = ArrivalGate::new(plan());
    let mut sender = ChunkNumbers::default();
    assert_eq!([sender.next_chunk(), sender.next_chunk()], [0, 1]);
    assert_eq!(gate.require(sender.barrier()), Ok(false));
    assert_eq!(sender.next_chunk(), 2);
    assert_eq!(gate.arrived(2), Ok(false), "as many chunks are not the same chunks");
    assert_eq!(gate.arrived(1), Ok(false));
    assert!(!gate.is_open());
    assert_eq!(gate.arrived(0), Ok(true));
    assert!(gate.arrived(0).is_err());
    assert_eq!(gate.require(2), Ok(true));
    assert_eq!(gate.require(sender.barrier()), Ok(true), "it landed early");
    assert_eq!(gate.arrived(3), Ok(false), "it was open already");
    assert!(sender.check_resume(3).is_ok());
    assert!(sender.check_resume(4).is_err());
}

#[test]
fn chunk_headers() {
    let sound = ChunkHeader::host_to_device(7, 64);
    let parse = |header: ChunkHeader, kind| ChunkHeader::parse(header.as_bytes(), kind, 64);
    assert_eq!(parse(sound, ChunkKind::HostToDevice), Ok(Some(sound)));
    let back = ChunkHeader::device_to_host(7, 3, 1 << 40, 64);
    assert_eq!(parse(back, ChunkKind::DeviceToHost), Ok(Some(back)));
    let bad = [
        ("magic", ChunkHeader { magic: 1, ..sound }),
        ("kind", back),
        ("decoded", ChunkHeader { decoded: 1, ..sound }),
        ("at least 1", ChunkHeader { bytes: 0, ..sound }),
        ("limit is 64", ChunkHeader { bytes: 65, ..sound }),
        ("limit is 64", ChunkHeader { bytes: u32::MAX, ..sound }),
        ("offset", ChunkHeader { offset: 1, ..sound }),
        ("copy", ChunkHeader { copy: 1, ..sound }),
    ];
    for (word, header) in bad {
        let line = parse(header, ChunkKind::HostToDevice).unwrap_err().to_string();
        assert!(line.contains(word), "{line}");
    }
    let wraps = ChunkHeader { offset: u64::MAX - 62, ..back };
    assert!(parse(wraps, ChunkKind::DeviceToHost).is_err());
    assert_eq!(ChunkHeader::parse(&sound.as_bytes()[..39], ChunkKind::HostToDevice, 64), Ok(None));
}

fn offer() -> Welcome {
    Welcome { session: [1, 2], slot_bytes: 64, h2d_slots: 4, bulk_lanes: 4, ..Welcome::blank() }
}

fn ignore(_: fusewire_wire::frame::Record<'_>) -> Result<Next, ProtocolError> {
    Ok(Next::Continue)
}

fn apply(_: fusewire_wire::frame::Record<'_>) -> Result<Flow, ProtocolError> {
    Ok(Flow::Continue)
}

/// A client and a server that have greeted each other at time 0.
fn greeted() -> (ClientSession, ServerSession) {
    let mut client = ClientSession::new(ClientConfig::default(), 0);
    let hello = client.connect(0).unwrap();
    let (hello, _) = OpeningReader::default().receive::<Hello>(&mut &hello[..]).unwrap().unwrap();
    let mut server = ServerSession::open(0, &hello, ServerConfig::new(offer()), b"").unwrap();
    client.receive(0, &server.transmit().unwrap(), ignore).unwrap();
    assert!(client.is_open());
    (client, server)
}

fn kind(transmit: Option<Transmit>) -> Option<FrameKind> {
    transmit.map(|bytes| Frame::parse(&bytes).unwrap().unwrap().kind)
}

#[test]
fn a_server_that_accepts_and_says_nothing() {
    let mut client = ClientSession::new(ClientConfig::default(), 0);
    assert_eq!(client.next_timeout(), None);
    client.connect(5 * MS).unwrap();
    assert_eq!(client.next_timeout(), Some(20_005 * MS));
    client.handle_timeout(20_004 * MS).unwrap();
    assert!(client.transmit().is_none(), "nothing follows a Hello before its Welcome");
    let error = client.handle_timeout(20_005 * MS).unwrap_err();
    assert_eq!(error.culprit(), Culprit::Link);
    assert!(error.to_string().contains("20000 ms"), "{error}");
}

#[test]
fn silence_is_answered_with_a_ping_and_then_an_error() {
    let (mut client, mut server) = greeted();
    assert_eq!(client.next_timeout(), Some(5_000 * MS));
    client.handle_timeout(4_999 * MS).unwrap();
    assert!(client.transmit().is_none());
    client.handle_timeout(5_000 * MS).unwrap();
    client.handle_timeout(5_001 * MS).unwrap();
    let ping = client.transmit().unwrap();
    assert!(client.transmit().is_none(), "one Ping");
    assert_eq!(client.next_timeout(), Some(20_000 * MS));

    // An answer starts the watch again.
    server.receive(5_002 * MS, &ping, apply).unwrap();
    let pong = server.transmit().unwrap();
    client.receive(5_003 * MS, &pong, ignore).unwrap();
    assert_eq!(client.next_timeout(), Some(10_003 * MS));
    assert!(client.transmit().is_none(), "a Pong is not answered");

    client.handle_timeout(10_003 * MS).unwrap();
    client.handle_timeout(25_002 * MS).unwrap();
    let error = client.handle_timeout(25_003 * MS).unwrap_err();
    assert!(matches!(error, ProtocolError::PeerSilent { millis: 20_000, .. }), "{error}");
    assert!(client.is_open(), "the caller decides whether to reconnect");
}

#[test]
fn bulk_traffic_shows_that_the_peer_lives() {
    let (mut client, mut server) = greeted();
    client.chunk_landed(4_000 * MS, 0).unwrap();
    assert_eq!(client.next_timeout(), Some(9_000 * MS));
    server.chunks().admit(0).unwrap();
    server.chunk_arrived(4_000 * MS, 0).unwrap();
    assert_eq!(server.next_timeout(), Some(9_000 * MS));
    assert!(client.chunk_landed(4_000 * MS, 0).is_err());
}

#[test]
fn a_client_that_stays_away_is_given_up() {
    let (_, mut server) = greeted();
    server.link_lost(1_000 * MS);
    assert!(server.transmit().is_none());
    server.handle_timeout(30_999 * MS).unwrap();
    let error = server.handle_timeout(31_000 * MS).unwrap_err();
    assert!(error.to_string().contains("resume"), "{error}");
}

#[test]
fn acknowledgements_travel_with_what_goes_anyway() {
    let (mut client, mut server) = greeted();
    client.outbox().push(1, 0, &[0; 8], &[]).unwrap();
    server.receive(1, &client.transmit().unwrap(), apply).unwrap();
    assert!(server.transmit().is_none(), "one small batch is not worth a frame");
    server.outbox().push(1, 0, &[0; 8], &[]).unwrap();
    client.receive(1, &server.transmit().unwrap(), ignore).unwrap();
    assert_eq!(client.outbox().acked(), 1);
    server.acknowledge();
    assert!(server.transmit().is_none(), "its batch has said it");
    // When asked, it goes by itself, once.
    assert!(client.transmit().is_none());
    client.acknowledge();
    let ack = client.transmit();
    server.receive(1, ack.as_ref().unwrap(), apply).unwrap();
    assert_eq!(kind(ack), Some(FrameKind::Ack));
    assert!(client.transmit().is_none());
    assert_eq!(server.outbox().retained_bytes(), 0);
    client.acknowledge();
    assert!(client.transmit().is_none(), "nothing is owed");
}

#[test]
fn a_batch_that_the_old_link_still_holds_does_not_swallow_an_acknowledgement() {
    let (mut client, mut server) = greeted();
    client.outbox().push(1, 0, &[0; 8], &[]).unwrap();
    let held_by_the_link = client.transmit().unwrap();
    server.outbox().push(1, 0, &[0; 8], &[]).unwrap();
    client.receive(1, &server.transmit().unwrap(), ignore).unwrap();

    let hello = client.connect(2).unwrap();
    let (hello, tail) = OpeningReader::default().receive::<Hello>(&mut &hello[..]).unwrap().unwrap();
    server.resume_client(2, &hello, tail).unwrap();
    client.receive(2, &server.transmit().unwrap(), ignore).unwrap();
    server.outbox().push(1, 0, &[0; 8], &[]).unwrap();
    client.receive(2, &server.transmit().unwrap(), ignore).unwrap();
    client.acknowledge();
    while let Some(bytes) = client.transmit() {
        server.receive(3, &bytes, apply).unwrap();
    }
    assert_eq!(server.outbox().retained_bytes(), 0, "the server was told of both");
    assert_eq!(server.applied(), 1);
    drop(held_by_the_link);
}

#[test]
fn done_is_said_last_and_trouble_at_once() {
    for (reason, last) in [(CloseReason::Done, true), (CloseReason::ShuttingDown, false)] {
        let (mut client, _) = greeted();
        client.outbox().push(1, 0, &[0; 8], &[]).unwrap();
        client.close(reason, "enough");
        client.close(CloseReason::Internal, "a second word is not said");
        let first = kind(client.transmit());
        let second = kind(client.transmit());
        if last {
            assert_eq!((first, second), (Some(FrameKind::Batch), Some(FrameKind::Close)));
        } else {
            assert_eq!((first, second), (Some(FrameKind::Close), None));
        }
        assert!(client.transmit().is_none());
    }
}

#[test]
fn credit_without_reason_ends_the_session() {
    let (mut client, mut server) = greeted();
    server.outbox().push(12, 0, &[], &[]).unwrap();
    let batch = server.transmit().unwrap();
    let error = client.receive(1, &batch, |_| Ok::<_, ProtocolError>(Next::Credit(5))).unwrap_err();
    assert_eq!(error, ProtocolError::BadCredit { credit: 5, least: 4, most: 4 });
    assert_eq!(client.ended(), Some(&error));
    assert_eq!(kind(client.transmit()), Some(FrameKind::Close));
}
