//! What works: the thinnest whole path, and every kind of copy.

use fusewire_server::control::{FromWorker, Staging};
use fusewire_wire::ops::table::{CopyOut, StreamQuery};

use crate::Test;
use crate::client::{Client, Setup};

pub const TESTS: &[Test] = &[
    ("the_thin_path", the_thin_path),
    ("copies_of_every_size_come_back", copies_of_every_size_come_back),
    ("a_query_that_succeeds_comes_after_the_data", a_query_that_succeeds_comes_after_the_data),
];

/// `add(a, b)`: a[i] += b[i] for the threads of one block.
pub const ADD: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b)
{
    .reg .b64 %rd<6>;
    .reg .b32 %r<5>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r2, [%rd4];
    ld.global.u32 %r3, [%rd5];
    add.u32 %r4, %r2, %r3;
    st.global.u32 [%rd4], %r4;
    ret;
}
";

fn the_thin_path() {
    let mut client = Client::open(&Setup::default());
    assert_eq!(client.snapshot.devices.len() >= 2, crate::client::is_softgpu());
    assert_eq!(client.snapshot.devices[0].attribute(88), Some(0), "no pageable access across a link");
    let context = client.context();
    let stream = client.stream(context);
    let (a, b) = (client.block(context, 4096), client.block(context, 4096));
    let numbers: Vec<u8> = (0..64u32).flat_map(u32::to_le_bytes).collect();
    client.copy_in_inline(stream, a, &numbers);
    client.copy_in_inline(stream, b, &numbers);
    let module = client.module(context, ADD.as_bytes());
    let (add, info) = client.function(module, "add");
    assert_eq!((info.parameters, info.parameter_bytes), (2, 16));
    client.launch(add, stream, 64, &[a, b]);
    client.synchronize(stream).unwrap();
    let sums = client.copy_out(stream, a, 256).unwrap();
    let expected: Vec<u8> = (0..64u32).flat_map(|n| (2 * n).to_le_bytes()).collect();
    assert_eq!(sums, expected);
    assert!(client.failed.is_empty(), "{:?}", client.failed);
    match client.close() {
        FromWorker::Ended { stats, .. } => assert!(stats.calls >= 10 && stats.bytes_in > 0, "{stats:?}"),
        other => panic!("{other:?}"),
    }
}

fn pattern(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn copies_of_every_size_come_back() {
    // Four slots of 64 KiB each way: the longest copy goes round them eight times.
    for lanes in [1, 2, 3] {
        let setup = Setup {
            lanes,
            staging: Staging { slot_bytes: 64 << 10, h2d_slots: 4, d2h_slots: 4, reserved: 0 },
            ..Setup::default()
        };
        let mut client = Client::open(&setup);
        let context = client.context();
        let streams = [client.stream(context), client.stream(context)];
        let block = client.block(context, 4 << 20);
        for (round, bytes) in
            [1, 7, 65_535, 65_536, 65_537, 131_072, 262_144, 262_145, 2 << 20].into_iter().enumerate()
        {
            let data = pattern(bytes, round as u32);
            let stream = streams[round % 2];
            client.copy_in(stream, block + 3, &data);
            let back = client.copy_out(stream, block + 3, bytes as u64).unwrap();
            assert!(back == data, "{bytes} bytes over {lanes} lanes");
        }
        assert!(client.failed.is_empty(), "{:?}", client.failed);
        client.close();
    }
}

/// The client takes a successful query for the end of the copies before it.
fn a_query_that_succeeds_comes_after_the_data() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 2 << 20);
    for bytes in [64, 1 << 20].repeat(50) {
        let copy = client.send(CopyOut { stream, source: block, bytes });
        while let Err(status) = client.ask(StreamQuery { stream, watch: 0, reserved: 0 }) {
            assert_eq!(status, 600, "not ready");
        }
        assert_eq!(client.data.remove(&copy).map_or(0, |data| data.len()), bytes as usize);
    }
}
