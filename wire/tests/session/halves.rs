//! One outbox, one inbox, and what they cost.

use std::sync::Arc;

use fusewire_wire::error::{Culprit, ProtocolError};
use fusewire_wire::frame::{
    CloseReason, FLAG_ACK_NOW, FRAME_HEADER_BYTES, Frame, MAX_FIXED_BYTES, MAX_TAIL_BYTES, Record,
};
use fusewire_wire::session::{
    AckPolicy, Flow, Inbox, OpenBatch, Outbox, OutboxConfig, Retained, SealedBatch, Sink,
};

use crate::allocations;

/// Remembers record numbers and first words, without allocating.
#[derive(Default)]
struct Tally {
    records: u64,
    bytes: usize,
    acked: u64,
    pause_at: Option<u64>,
}

impl Sink for Tally {
    type Error = ProtocolError;

    fn record(&mut self, record: Record<'_>) -> Result<Flow, ProtocolError> {
        assert_eq!(record.number, self.records + 1);
        self.records = record.number;
        self.bytes += record.body.len();
        Ok(if self.pause_at == Some(record.number) { Flow::Pause } else { Flow::Continue })
    }

    fn ack(&mut self, seq: u64) -> Result<(), ProtocolError> {
        self.acked = seq;
        Ok(())
    }

    fn close(&mut self, _: CloseReason, _: String) -> Result<(), ProtocolError> {
        Ok(())
    }

    fn ping(&mut self, _: u64) {}
}

fn outbox() -> Outbox {
    Outbox::new(OutboxConfig::default())
}

fn batch_of(outbox: &mut Outbox, records: usize) -> Arc<Vec<u8>> {
    for _ in 0..records {
        outbox.push(1, 0, &[1; 16], &[&[2; 20]]).unwrap();
    }
    outbox.seal(0).unwrap()
}

#[test]
fn a_warm_session_does_not_allocate() {
    let mut outbox = outbox();
    let mut inbox = Inbox::new(AckPolicy::default());
    let mut tally = Tally::default();
    let mut rounds = |count: u64| {
        for _ in 0..count {
            for _ in 0..50 {
                outbox.push(3, 1, &[7; 24], &[&[1; 100], &[2; 11]]).unwrap();
                let (_, room) = outbox.reserve_record(4, 1, &[7; 8], 13).unwrap();
                room.fill(9);
            }
            let batch = outbox.seal(inbox.applied()).unwrap();
            inbox.receive(&batch, &mut tally).unwrap();
            drop(batch);
            outbox.ack(inbox.applied()).unwrap();
            inbox.ack_sent(inbox.applied());
        }
    };
    rounds(3);
    let (allocations, ..) = allocations::during(|| rounds(100));
    assert_eq!(allocations, 0);
}

#[test]
fn a_batch_in_flight_is_never_overwritten() {
    let mut outbox = outbox();
    let held = batch_of(&mut outbox, 3);
    let copy = held.to_vec();
    outbox.ack(1).unwrap();
    for seq in 2..20 {
        batch_of(&mut outbox, 5);
        outbox.ack(seq).unwrap();
    }
    assert_eq!(*held, copy);
}

#[test]
fn the_same_bytes_however_a_record_is_filled() {
    let (mut one, mut other) = (outbox(), outbox());
    let tail: Vec<u8> = (0..29).collect();
    assert_eq!(one.push(5, 6, &[3; 8], &[&tail[..4], &tail[4..]]), Ok(1));
    let (number, room) = other.reserve_record(5, 6, &[3; 8], tail.len()).unwrap();
    assert_eq!((number, room.len()), (1, 29));
    room.copy_from_slice(&tail);
    let batch = one.seal(4).unwrap();
    assert_eq!(batch, other.seal(4).unwrap());
    // Header, record header, fixed part, tail, padding: written out once, as the wire has it.
    assert_eq!(batch[..8], [0x57, 0x46, 0, 0, 1, 0, 0, 0]);
    assert_eq!(batch[8..16], [48, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(batch[16..32], [1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(batch[32..40], [5, 0, 6, 0, 48, 0, 0, 0]);
    assert_eq!(batch[40..48], [3; 8]);
    assert_eq!(batch[48..77], tail);
    assert_eq!(batch[77..], [0; 3]);
}

#[test]
fn limits_of_a_record() {
    let mut outbox = outbox();
    let fixed = vec![0; MAX_FIXED_BYTES];
    let tail = vec![0; MAX_TAIL_BYTES];
    assert_eq!(outbox.push(1, 0, &fixed, &[&tail]), Ok(1));
    let error = outbox.push(1, 0, &fixed, &[&tail, &[0]]).unwrap_err();
    assert!(matches!(error, ProtocolError::RecordTooLarge { .. }), "{error}");
    assert_eq!(error.culprit(), Culprit::Caller);
    let error = outbox.reserve_record(1, 0, &[], usize::MAX).unwrap_err();
    assert!(matches!(error, ProtocolError::RecordTooLarge { .. }), "{error}");
    let mut tally = Tally::default();
    Inbox::new(AckPolicy::default()).receive(&outbox.seal(0).unwrap(), &mut tally).unwrap();
    assert_eq!(tally.bytes, MAX_FIXED_BYTES + MAX_TAIL_BYTES);
}

#[test]
fn a_batch_that_grows_too_long_is_followed_by_another() {
    let mut outbox = Outbox::new(OutboxConfig { batch_bytes: 100, ..OutboxConfig::default() });
    for bytes in [40usize, 40, 40, 504, 8] {
        outbox.push(1, 0, &vec![0; bytes - 8], &[]).unwrap();
    }
    let sizes: Vec<_> = std::iter::from_fn(|| outbox.seal(0)).map(|b| b.len() - FRAME_HEADER_BYTES).collect();
    assert_eq!(sizes, [80, 40, 504, 8]);
    assert!(!outbox.has_output());
    assert_eq!(outbox.unacked().len(), 4);
}

#[test]
fn the_window_counts_what_is_not_acknowledged() {
    let mut outbox = Outbox::new(OutboxConfig { window_bytes: 200, ..OutboxConfig::default() });
    // A lone record always passes: otherwise one beyond the window could never be sent.
    outbox.push(1, 0, &[0; 392], &[]).unwrap();
    let error = outbox.push(1, 0, &[], &[]).unwrap_err();
    assert!(error.must_wait(), "{error}");
    let batch = outbox.seal(0).unwrap();
    assert_eq!(batch[3], FLAG_ACK_NOW, "the peer is asked to answer at once");
    assert!(outbox.push(1, 0, &[], &[]).unwrap_err().must_wait());
    assert_eq!(outbox.next_record(), 2, "a refused record has no number");
    outbox.ack(1).unwrap();
    assert_eq!(outbox.push(1, 0, &[0; 40], &[]), Ok(2));
    assert_eq!(outbox.seal(0).unwrap()[3], 0);
}

/// Sends what has been gathered, as two threads do that share only the open batch. Gives the batches.
fn send(open: &mut OpenBatch, sent: &mut Retained) -> Vec<SealedBatch> {
    let mut batches = Vec::new();
    while open.has_output() {
        let mut batch = sent.blank();
        let records = open.take(Arc::get_mut(&mut batch).unwrap()).unwrap();
        sent.seal(batch, records);
        batches.extend(sent.next(9));
    }
    batches
}

#[test]
fn apart_the_halves_send_what_they_do_together() {
    let config = OutboxConfig { batch_bytes: 100, ..OutboxConfig::default() };
    let (mut open, mut sent, mut outbox) =
        (OpenBatch::new(config), Retained::new(config), Outbox::new(config));
    for bytes in [40usize, 40, 40, 504, 8] {
        let fixed = vec![bytes as u8; bytes - 8];
        assert_eq!(open.push(1, 0, &fixed, &[]), outbox.push(1, 0, &fixed, &[]));
    }
    let together: Vec<_> = std::iter::from_fn(|| outbox.seal(9)).collect();
    assert_eq!(send(&mut open, &mut sent), together);
    assert_eq!(sent.bytes(), outbox.retained_bytes());
    let mut blank = sent.blank();
    let room = Arc::get_mut(&mut blank).unwrap();
    assert_eq!(open.take(room), None);
    assert_eq!(room.len(), FRAME_HEADER_BYTES, "nothing was put into it");
    sent.discard(blank);
    assert_eq!(sent.next(9), None);
}

#[test]
fn the_window_counts_what_is_full_and_what_is_retained_elsewhere() {
    let config = OutboxConfig { window_bytes: 300, batch_bytes: 100, ..OutboxConfig::default() };
    let mut open = OpenBatch::new(config);
    for _ in 0..2 {
        open.push(1, 0, &[0; 72], &[]).unwrap();
    }
    let outstanding = open.full_bytes() + open.open_bytes();
    assert_eq!(outstanding, FRAME_HEADER_BYTES + 160);
    open.set_retained_bytes(300 - outstanding - 40);
    assert!(open.push(1, 0, &[0; 40], &[]).unwrap_err().must_wait());
    open.push(1, 0, &[0; 32], &[]).unwrap();
    assert!(open.push(1, 0, &[], &[]).unwrap_err().must_wait());
    open.set_retained_bytes(0);
    open.push(1, 0, &[], &[]).unwrap();
}

#[test]
fn full_batches_do_not_allocate_once_warm() {
    let config = OutboxConfig { batch_bytes: 1000, ..OutboxConfig::default() };
    let (mut open, mut sent) = (OpenBatch::new(config), Retained::new(config));
    let mut number = 0;
    let mut rounds = |count: u64| {
        for _ in 0..count {
            for _ in 0..50 {
                open.push(3, 1, &[7; 24], &[&[1; 100]]).unwrap();
            }
            while open.has_output() {
                let mut batch = sent.blank();
                let records = Arc::get_mut(&mut batch).and_then(|buffer| open.take(buffer)).unwrap();
                sent.seal(batch, records);
                number += 1;
                drop(sent.next(0));
            }
            sent.ack(number).unwrap();
        }
    };
    rounds(10);
    let (allocations, ..) = allocations::during(|| rounds(100));
    assert_eq!(allocations, 0);
}

#[test]
fn acknowledgements_that_cannot_be() {
    let mut outbox = outbox();
    batch_of(&mut outbox, 1);
    batch_of(&mut outbox, 1);
    outbox.push(1, 0, &[], &[]).unwrap();
    assert_eq!(outbox.ack(3), Err(ProtocolError::AckAhead { acked: 3, sent: 2 }));
    assert_eq!(outbox.ack(u64::MAX), Err(ProtocolError::AckAhead { acked: u64::MAX, sent: 2 }));
    outbox.ack(1).unwrap();
    outbox.ack(0).unwrap();
    assert_eq!(outbox.acked(), 1, "an older word changes nothing");
    assert_eq!(outbox.resume_after(0), Err(ProtocolError::ResumeBehind { resume: 0, acked: 1 }));
    assert_eq!(outbox.resume_after(3), Err(ProtocolError::AckAhead { acked: 3, sent: 2 }));
}

#[test]
fn replay_gives_the_same_records_with_a_fresh_acknowledgement() {
    let mut outbox = outbox();
    for records in 1..=3 {
        batch_of(&mut outbox, records);
    }
    assert_eq!(outbox.replay_after(1).count(), 2);
    outbox.resume_after(1).unwrap();
    let mut seen = Vec::new();
    while let Some(batch) = outbox.seal(77) {
        let frame = Frame::parse(&batch).unwrap().unwrap();
        seen.push((frame.seq, frame.records, frame.ack));
    }
    assert_eq!(seen, [(2, 2, 77), (3, 3, 77)]);
}

#[test]
fn cut_anywhere_twice_the_records_are_the_same() {
    let mut outbox = outbox();
    let stream: Vec<u8> = (1..4).flat_map(|records| batch_of(&mut outbox, records).to_vec()).collect();
    for first in 0..stream.len() {
        for second in (first..stream.len()).step_by(13) {
            let mut inbox = Inbox::new(AckPolicy::default());
            let mut tally = Tally::default();
            for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                inbox.receive(piece, &mut tally).unwrap();
            }
            assert_eq!((tally.records, inbox.applied()), (6, 3));
        }
    }
}

#[test]
fn a_batch_sent_twice_is_applied_once() {
    let mut outbox = outbox();
    let (one, two) = (batch_of(&mut outbox, 2), batch_of(&mut outbox, 2));
    let mut inbox = Inbox::new(AckPolicy::default());
    let mut tally = Tally::default();
    for batch in [&one, &one, &two, &one, &two] {
        inbox.receive(batch, &mut tally).unwrap();
    }
    assert_eq!((tally.records, inbox.applied()), (4, 2));
    assert!(inbox.ack_due(), "the peer has not heard: it is told again");
}

#[test]
fn a_pause_keeps_the_rest_of_the_batch_and_what_follows() {
    let mut outbox = outbox();
    let stream = [batch_of(&mut outbox, 3).to_vec(), batch_of(&mut outbox, 2).to_vec()].concat();
    for pause_at in 1..=5 {
        for cut in [10, 120, 170, stream.len() - 1, stream.len()] {
            let mut inbox = Inbox::new(AckPolicy::default());
            let mut tally = Tally { pause_at: Some(pause_at), ..Tally::default() };
            inbox.receive(&stream[..cut], &mut tally).unwrap();
            inbox.receive(&stream[cut..], &mut tally).unwrap();
            assert!(inbox.is_paused());
            assert_eq!(tally.records, pause_at);
            assert_eq!(inbox.applied(), if pause_at < 3 { 0 } else { u64::from(pause_at == 5) + 1 });
            inbox.resume(&mut tally).unwrap();
            assert_eq!((tally.records, inbox.applied(), inbox.is_paused()), (5, 2, false));
        }
    }
}

#[test]
fn a_batch_interrupted_by_a_pause_survives_its_link() {
    let mut outbox = outbox();
    let (one, two) = (batch_of(&mut outbox, 3), batch_of(&mut outbox, 2));
    let mut inbox = Inbox::new(AckPolicy::default());
    let mut tally = Tally { pause_at: Some(2), ..Tally::default() };
    inbox.receive(&[one.to_vec(), two[..20].to_vec()].concat(), &mut tally).unwrap();
    assert_eq!(inbox.link_lost(), 1, "the whole batch is here, so the peer need not send it again");
    assert_eq!(inbox.link_lost(), 1);
    inbox.receive(&two, &mut tally).unwrap();
    assert_eq!(tally.records, 2);
    inbox.resume(&mut tally).unwrap();
    assert_eq!((tally.records, inbox.applied()), (5, 2));
}

#[test]
fn an_acknowledgement_is_due_after_bytes_batches_or_a_request() {
    let mut outbox = outbox();
    let mut tally = Tally::default();

    let mut inbox = Inbox::new(AckPolicy { bytes: usize::MAX, batches: 2 });
    inbox.receive(&batch_of(&mut outbox, 1), &mut tally).unwrap();
    assert!(!inbox.ack_due() && inbox.ack_owed());
    inbox.receive(&batch_of(&mut outbox, 1), &mut tally).unwrap();
    assert!(inbox.ack_due());
    inbox.ack_sent(1);
    assert!(inbox.ack_due(), "an older word does not settle it");
    inbox.ack_sent(2);
    assert!(!inbox.ack_due() && !inbox.ack_owed());

    let mut inbox = Inbox::new(AckPolicy { bytes: 100, batches: u32::MAX });
    let mut outbox = self::outbox();
    inbox.receive(&batch_of(&mut outbox, 2), &mut Tally::default()).unwrap();
    assert!(inbox.ack_due());

    let mut inbox = Inbox::new(AckPolicy { bytes: usize::MAX, batches: u32::MAX });
    let mut outbox = Outbox::new(OutboxConfig { window_bytes: 0, ..OutboxConfig::default() });
    inbox.receive(&batch_of(&mut outbox, 1), &mut Tally::default()).unwrap();
    assert!(inbox.ack_due());
}
