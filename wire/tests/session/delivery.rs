//! Whatever the link does, everything arrives once, in order and unchanged.

use proptest::prelude::*;

use crate::pair::{Pair, Setup, Step};

fn bytes() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..=8, 1u16..=200, Just(u16::MAX)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..300).prop_map(|bytes| Step::Push { bytes }),
        3 => (0u8..6).prop_map(|chunks| Step::CopyToDevice { chunks }),
        3 => (0u8..6).prop_map(|chunks| Step::CopyToHost { chunks }),
        6 => Just(Step::ClientWrites),
        6 => Just(Step::ServerWrites),
        8 => bytes().prop_map(|bytes| Step::CommandArrives { bytes }),
        8 => bytes().prop_map(|bytes| Step::EventArrives { bytes }),
        4 => (0u8..8).prop_map(|lane| Step::SendChunks { lane }),
        5 => (0u8..8, bytes()).prop_map(|(lane, bytes)| Step::BulkUpArrives { lane, bytes }),
        5 => (0u8..8, bytes()).prop_map(|(lane, bytes)| Step::BulkDownArrives { lane, bytes }),
        3 => any::<u8>().prop_map(|pick| Step::Retire { pick }),
        2 => Just(Step::ServerResumes),
        2 => Just(Step::ClientResumes),
        1 => Just(Step::Acknowledge),
        1 => Just(Step::Repeat),
        1 => any::<bool>().prop_map(|server_notices| Step::Cut { server_notices }),
        3 => Just(Step::Reconnect),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let window = prop_oneof![Just(1 << 20), 400usize..4000];
    let batch = prop_oneof![Just(1 << 16), 8usize..600];
    let pause = prop_oneof![Just(0u64), 1u64..6];
    (0u32..=8, 1u32..9, window, batch, pause).prop_map(
        |(lanes, slots, window_bytes, batch_bytes, pause_every)| Setup {
            lanes,
            slots,
            window_bytes,
            batch_bytes,
            pause_every,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_once_in_order_whatever_the_link_does(
        setup in setup(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = Pair::new(setup);
        for step in &steps {
            pair.step(step);
        }
        pair.settle();
    }
}

/// The connection is cut after each possible byte of a fixed conversation, in each direction in turn.
#[test]
fn a_cut_at_every_byte() {
    let mut resumed = 0;
    for down in [false, true] {
        for cut_at in 0..1200u16 {
            let mut pair = Pair::new(Setup { batch_bytes: 200, pause_every: 3, ..Setup::default() });
            let everything = u16::MAX;
            pair.step(&Step::ClientWrites);
            pair.step(&Step::CommandArrives { bytes: everything });
            pair.step(&Step::ServerWrites);
            pair.step(&Step::EventArrives { bytes: everything });
            for bytes in 0..8 {
                pair.step(&Step::Push { bytes: bytes * 16 });
            }
            pair.step(&Step::CopyToDevice { chunks: 4 });
            pair.step(&Step::CopyToHost { chunks: 4 });
            pair.step(&Step::ClientWrites);
            if down {
                pair.step(&Step::CommandArrives { bytes: everything });
                for _ in 0..4 {
                    pair.step(&Step::ServerResumes);
                }
                pair.step(&Step::ServerWrites);
                pair.step(&Step::EventArrives { bytes: cut_at });
            } else {
                pair.step(&Step::CommandArrives { bytes: cut_at });
            }
            pair.step(&Step::Cut { server_notices: cut_at % 2 == 0 });
            pair.step(&Step::Reconnect);
            // Resumed, and cut again before anything was acknowledged.
            pair.step(&Step::CommandArrives { bytes: cut_at });
            pair.step(&Step::Cut { server_notices: cut_at % 3 == 0 });
            resumed += pair.cuts;
            pair.settle();
        }
    }
    assert_eq!(resumed, 4 * 1200);
}

#[test]
fn a_full_window_makes_the_caller_wait_and_opens_again() {
    let mut pair = Pair::new(Setup { window_bytes: 1000, ..Setup::default() });
    for _ in 0..100 {
        pair.step(&Step::Push { bytes: 100 });
    }
    assert!(pair.client.outbox().open_bytes() <= 1000);
    assert!(pair.client.outbox().next_record() < 12);
    pair.settle();
    let before = pair.client.outbox().next_record();
    pair.step(&Step::Push { bytes: 100 });
    assert_eq!(pair.client.outbox().next_record(), before + 1);
    pair.settle();
}
