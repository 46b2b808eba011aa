//! Copies that are not plain ones, and memsets.

use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup, words};

pub const TESTS: &[Test] = &[
    ("pitched_copies_and_memsets", pitched_copies_and_memsets),
    (
        "a_client_without_bulk_lanes_reads_in_the_command_lane",
        a_client_without_bulk_lanes_reads_in_the_command_lane,
    ),
];

fn pitched_copies_and_memsets() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    client.send(Memset {
        stream,
        destination: block,
        pitch: 0,
        width: 256,
        height: 1,
        value: 0x0102,
        element: 2,
    });
    assert_eq!(client.copy_out(stream, block + 510, 4).unwrap(), [2, 1, 0, 0]);
    client.send(Memset { stream, destination: block, pitch: 64, width: 3, height: 4, value: 9, element: 4 });
    let found = client.copy_out(stream, block + 64, 16).unwrap();
    assert_eq!(words(&found), [9, 9, 9, 0x0102_0102]);
    let rect = CopyRect {
        stream,
        destination: block + 4096,
        destination_array: 0,
        destination_pitch: 32,
        destination_height: 4,
        destination_x: 1,
        destination_y: 1,
        destination_z: 0,
        source: block,
        source_array: 0,
        source_pitch: 64,
        source_height: 4,
        source_x: 2,
        source_y: 0,
        source_z: 0,
        width: 3,
        height: 2,
        depth: 1,
        first_chunk: 0,
        direction: 2,
        reserved: 0,
    };
    client.send(rect);
    let from = client.copy_out(stream, block + 66, 3).unwrap();
    assert_eq!(client.copy_out(stream, block + 4096 + 65, 3).unwrap(), from);
    // Out, packed.
    let out = client.send(CopyRect { direction: 1, source_x: 0, width: 12, height: 3, ..rect });
    assert_eq!(client.point(out), 0);
    assert_eq!(words(&client.data[&out]), [9; 9]);
    // In, packed, through one bulk chunk.
    let data: Vec<u8> = (0..24).collect();
    let chunk = client.bulk(&data);
    client.send(CopyRect {
        direction: 0,
        first_chunk: chunk,
        destination_x: 0,
        destination_y: 0,
        width: 6,
        height: 4,
        ..rect
    });
    assert_eq!(client.copy_out(stream, block + 4096 + 32, 6).unwrap(), [6, 7, 8, 9, 10, 11]);
    // Boxes that reach out of the block, or do not fit a slot.
    for bad in [
        CopyRect { source_pitch: 1 << 30, ..rect },
        CopyRect { source_z: u64::MAX, ..rect },
        CopyRect { destination_y: 1 << 38, ..rect },
        CopyRect { width: 33, ..rect },
        CopyRect { direction: 1, source_pitch: 1 << 10, width: 1 << 10, height: 1 << 9, ..rect },
        CopyRect { direction: 7, ..rect },
    ] {
        client.send(bad);
    }
    client.synchronize(stream).unwrap();
    assert_eq!(client.failed.iter().map(|failed| failed.1).collect::<Vec<_>>(), [1; 6]);
}

fn a_client_without_bulk_lanes_reads_in_the_command_lane() {
    let mut client = Client::open(&Setup { lanes: 0, ..Setup::default() });
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    client.send(Memset {
        stream,
        destination: block,
        pitch: 0,
        width: 1 << 20,
        height: 1,
        value: 7,
        element: 1,
    });
    assert!(client.copy_out(stream, block, 1 << 20).unwrap() == vec![7; 1 << 20]);
}
