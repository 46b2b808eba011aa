//! What a client must not be able to do: everything here ends that session with a named reason, or is refused.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use fusewire_server::control::FromWorker;
use fusewire_wire::bulk::ChunkHeader;
use fusewire_wire::encoded::{self, Codec};
use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::CloseReason;
use fusewire_wire::ops::table::*;
use fusewire_wire::ops::{Dim3, window};
use zerocopy::IntoBytes;

use crate::Test;
use crate::client::{Client, Setup, Worker};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("handles_that_are_not_alive_are_refused", handles_that_are_not_alive_are_refused),
    ("a_handle_minted_twice_ends_the_session", a_handle_minted_twice_ends_the_session),
    ("a_module_and_a_library_share_no_handle", a_module_and_a_library_share_no_handle),
    ("pointers_outside_the_session_are_refused", pointers_outside_the_session_are_refused),
    ("numbers_out_of_range_are_refused", numbers_out_of_range_are_refused),
    ("unknown_and_truncated_operations_end_the_session", unknown_and_truncated_operations_end_the_session),
    ("random_bytes_end_the_session", random_bytes_end_the_session),
    ("every_operation_survives_nonsense", every_operation_survives_nonsense),
    ("bulk_chunks_that_are_not_due_end_the_session", bulk_chunks_that_are_not_due_end_the_session),
    ("parts_of_images_that_cannot_be_decoded_end_the_session", parts_of_images_that_cannot_be_decoded),
    ("chunks_of_a_refused_copy_are_thrown_away", chunks_of_a_refused_copy_are_thrown_away),
    ("what_is_not_a_driver_is_one_line", what_is_not_a_driver_is_one_line),
];

/// The reason that the client was given, and that the worker gave the daemon.
fn ended(mut client: Client) -> String {
    match client.end() {
        ProtocolError::Closed { reason: CloseReason::Protocol, text } => match client.worker.hear() {
            FromWorker::Ended { reason, .. } => {
                assert_eq!(reason, text, "daemon and client are told the same");
                assert!(client.worker.child.wait().unwrap().success());
                text
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other}"),
    }
}

fn handles_that_are_not_alive_are_refused() {
    let mut client = Client::open(&Setup::default());
    assert_eq!(client.ask(CtxSynchronize { context: 0x5555 }), Err(201));
    let context = client.context();
    let stream = client.stream(context);
    client.send(StreamDestroy { stream });
    for stream in [stream, stream ^ 8, 0, 1, 2, u64::MAX] {
        assert_eq!(client.synchronize(stream), Err(400), "{stream:#x}");
    }
    let event = client.handle();
    client.send(EventDestroy { event });
    client.send(ModuleUnload { module: context });
    client.send(LibraryUnload { library: context });
    client.send(GraphDestroy { graph: stream });
    client.send(HostFuncDone { function: 77 });
    let one = Dim3 { x: 1, y: 1, z: 1 };
    let stream = client.stream(context);
    let launch = Launch { function: 99, stream, grid: one, block: one, shared_bytes: 0, parameter_bytes: 0 };
    client.send(launch);
    client.synchronize(stream).unwrap();
    let codes: Vec<u32> = client.failed.iter().map(|failed| failed.1).collect();
    assert_eq!(codes, [400, 400, 400, 1, 1, 400]);
    assert!(client.failed.iter().all(|failed| !failed.2), "none of these is sticky");
}

fn a_handle_minted_twice_ends_the_session() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    client.send(StreamCreate { stream, context, flags: 0, priority: 0 });
    let text = ended(client);
    assert!(text.contains("stream") && text.contains("in use"), "{text}");
}

/// Functions, globals and what is learnt of an image go by the owner's handle: one of each kind with the same handle
/// would be taken for each other.
fn a_module_and_a_library_share_no_handle() {
    for first in ["module", "library"] {
        let mut client = Client::open(&Setup::default());
        let context = client.context();
        let blobs = [client.handle(), client.handle()];
        for blob in blobs {
            client.push(&BlobPart { blob, total: ADD.len() as u64 }, ADD.as_bytes());
        }
        let handle = client.handle();
        let module = |blob| ModuleLoad { module: handle, context, blob, options: 0, reserved: 0 };
        let library = |blob| LibraryLoad { library: handle, context, blob, options: 0, library_options: 0 };
        if first == "module" {
            client.ask(module(blobs[0])).unwrap();
            client.push(&library(blobs[1]), &[]);
        } else {
            client.ask(library(blobs[0])).unwrap();
            client.push(&module(blobs[1]), &[]);
        }
        let text = ended(client);
        assert!(text.contains("in use"), "{text}");
    }
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (blob, library) = (client.handle(), client.handle());
    client.push(&BlobPart { blob, total: ADD.len() as u64 }, ADD.as_bytes());
    client.ask(LibraryLoad { library, context, blob, options: 0, library_options: 0 }).unwrap();
    client.push(&LibraryGetModule { library, module: library, context }, &[]);
    let text = ended(client);
    assert!(text.contains("module") && text.contains("in use"), "{text}");
}

fn pointers_outside_the_session_are_refused() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let size = client.granularity();
    let block = client.block(context, size);
    let here = &raw const client as u64;
    let outside = [
        0,
        8,
        here,
        block - 1,
        block + size,
        block + size - 7,
        window::DEVICE_BASE + (1 << 39),
        u64::MAX - 3,
    ];
    for address in outside {
        assert_eq!(client.copy_out(stream, address, 8).err(), Some(1), "{address:#x}");
    }
    client.copy_in_inline(stream, block + size - 4, &[1; 8]);
    client.send(CopyWithin { stream, destination: block, source: block + 8, bytes: size });
    client.send(CopyWithin { stream, destination: here, source: block, bytes: 8 });
    client.send(Memset {
        stream,
        destination: block,
        pitch: 0,
        width: size / 4 + 1,
        height: 1,
        value: 0,
        element: 4,
    });
    client.send(Memset {
        stream,
        destination: block,
        pitch: size,
        width: 8,
        height: 2,
        value: 0,
        element: 1,
    });
    client.send(Memset {
        stream,
        destination: block,
        pitch: u64::MAX,
        width: 8,
        height: u64::MAX,
        value: 0,
        element: 1,
    });
    client.send(StreamWriteValue { stream, address: here & !7, value: 1, flags: 0, bytes: 8 });
    client.send(BlockUnmap { context, address: block, bytes: size / 2 });
    client.send(BlockUnmap { context, address: here, bytes: size });
    let granularity = client.granularity();
    for (address, bytes) in [
        (block, size),
        (block + 1, size),
        (block + size, size - 1),
        (window::HOST_BASE, size),
        (0, size),
        (window::DEVICE_BASE + window::DEVICE_BYTES - granularity, 2 * granularity),
        (u64::MAX - granularity + 1, granularity),
        (block + size, 0),
    ] {
        assert_eq!(
            client.ask(BlockMap { context, address, bytes }).err(),
            Some(1),
            "{address:#x} {bytes:#x}"
        );
    }
    for (address, bytes) in [
        (0, 4096),
        (window::HOST_BASE + 1, 4096),
        (window::HOST_BASE, !4095),
        (block + size, 4096),
        (window::DEVICE_BASE - 4096, 8192),
        (1 << 47, 4096),
    ] {
        assert_eq!(client.ask(HostMirror { context, address, bytes }).err(), Some(1), "{address:#x}");
    }
    // What the worker itself has at an address stays its own.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", client.worker.child.id())).unwrap();
    let taken = maps.lines().find(|line| line.contains("libsoftgpu")).unwrap();
    let address = u64::from_str_radix(taken.split('-').next().unwrap(), 16).unwrap();
    assert_eq!(client.ask(HostMirror { context, address, bytes: 4096 }).err(), Some(2));
    // Nothing is shared over this link, and a mirror is not shared memory.
    assert_eq!(client.ask(HostShare { address: window::HOST_BASE, bytes: 4096 }).err(), Some(1));
    client.ask(HostMirror { context, address: window::HOST_BASE, bytes: 4096 }).unwrap();
    client.send(HostUnshare { address: window::HOST_BASE, bytes: 4096 });
    for address in [window::HOST_BASE, block, here & !15, 0, u64::MAX - 15] {
        client.send(StreamMark { stream, address, value: 1, reserved: 0 });
    }
    let nothing = client.send(HostUnshare { address: 0, bytes: 0 });
    assert_eq!(client.point(nothing), 0);
    client.synchronize(stream).unwrap();
    let codes: Vec<u32> = client.failed.iter().map(|failed| failed.1).collect();
    assert_eq!(codes, [1; 23], "{:?}", client.failed);
}

fn numbers_out_of_range_are_refused() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 4096);
    assert_eq!(client.ask(CtxSetLimit { context, value: 1, limit: 999, reserved: 0 }).err(), Some(1));
    assert_eq!(client.ask(CtxSetLimit { context, value: u64::MAX, limit: 1, reserved: 0 }).err(), Some(1));
    let other = client.handle();
    assert_eq!(client.ask(PrimaryRetain { context: other, device: 99, flags: 0 }).err(), Some(101));
    assert_eq!(client.ask(PrimaryRetain { context: other, device: -1, flags: 0 }).err(), Some(101));
    let (a, b) = (client.handle(), client.handle());
    client.send(StreamCreate { stream: a, context, flags: 0xffff, priority: 0 });
    client.send(EventCreate { event: b, context, flags: 0xffff_fff8, reserved: 0 });
    client.send(CaptureBegin { stream, mode: 77, reserved: 0 });
    client.send(Memset { stream, destination: block, pitch: 0, width: 8, height: 1, value: 0, element: 3 });
    client.send(Memset {
        stream,
        destination: block + 1,
        pitch: 0,
        width: 8,
        height: 1,
        value: 0,
        element: 4,
    });
    client.send(StreamWaitValue { stream, address: block, value: 0, flags: 1 << 29, bytes: 4 });
    client.send(StreamWaitValue { stream, address: block, value: 0, flags: 0, bytes: 3 });
    // Inline payloads that are shorter than they say, or longer than they may be.
    client.push(&CopyInInline { stream, destination: block, bytes: 4096 }, &[0; 64]);
    client.push(
        &CopyInInline { stream, destination: block, bytes: INLINE_BYTES as u64 + 8 },
        &[0; INLINE_BYTES + 8],
    );
    client.synchronize(stream).unwrap();
    assert_eq!(client.failed.len(), 9, "{:?}", client.failed);
    // Parameters that are fewer than the kernel takes.
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    client.failed.clear();
    client.launch(add, stream, 1, &[block]);
    client.synchronize(stream).unwrap();
    assert_eq!(client.failed.iter().map(|failed| failed.1).collect::<Vec<_>>(), [1]);
}

fn unknown_and_truncated_operations_end_the_session() {
    let mut client = Client::open(&Setup::default());
    client.push_raw(0x7fff, &[], &[]);
    let text = ended(client);
    assert!(text.contains("unknown code 0x7fff"), "{text}");
    let mut client = Client::open(&Setup::default());
    client.push_raw(0x0301, &[0; 8], &[]);
    let text = ended(client);
    assert!(text.contains("CopyIn") && text.contains("8 bytes"), "{text}");
}

fn random_bytes_end_the_session() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..8 {
        let mut client = Client::open(&Setup { lanes: 0, ..Setup::default() });
        let mut bytes = vec![0u8; 4096];
        for byte in &mut bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        if round % 2 == 1 {
            // A frame's magic, then nonsense.
            bytes[..2].copy_from_slice(&0x4657u16.to_le_bytes());
        }
        client.command.write_all(&bytes).unwrap();
        ended(client);
    }
    // A frame that is cut off: the connection ends inside it.
    let client = Client::open(&Setup::default());
    let mut head = [0u8; 40];
    head[..2].copy_from_slice(&0x4657u16.to_le_bytes());
    head[4] = 1;
    head[8..12].copy_from_slice(&4096u32.to_le_bytes());
    head[16] = 1;
    (&client.command).write_all(&head).unwrap();
    client.command.shutdown(std::net::Shutdown::Write).unwrap();
    match client.worker.hear() {
        FromWorker::Ended { reason, .. } => assert_eq!(reason, "the program ended"),
        other => panic!("{other:?}"),
    }
}

/// Every operation of the table, with fixed parts and tails of random and of extreme bytes: the worker answers,
/// refuses or ends the session; it never crashes.
fn every_operation_survives_nonsense() {
    let mut state = 42u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u8
    };
    let mut client: Option<(Client, u64, u64)> = None;
    for round in 0..6 {
        for op in OPS {
            let (open, context, stream) = client.get_or_insert_with(|| {
                let mut client = Client::open(&Setup { lanes: 1, ..Setup::default() });
                let context = client.context();
                let stream = client.stream(context);
                client.block(context, 4096);
                (client, context, stream)
            });
            let mut fixed: Vec<u8> = match round {
                0 => vec![0; op.fixed_bytes],
                1 => vec![0xff; op.fixed_bytes],
                _ => (0..op.fixed_bytes).map(|_| random()).collect(),
            };
            // Handles that exist, so that the rest is looked at too.
            let handle = if op.name.starts_with("Ctx") || op.name.starts_with("Primary") || round == 3 {
                *context
            } else {
                *stream
            };
            if round >= 2 && fixed.len() >= 8 {
                fixed[..8].copy_from_slice(&handle.to_le_bytes());
            }
            if round == 4 {
                for word in fixed.chunks_exact_mut(8).skip(1) {
                    word.copy_from_slice(&u64::from(random() % 4).to_le_bytes());
                }
            }
            let tail: Vec<u8> = (0..usize::from(random()) & !7)
                .map(|_| if round < 2 { round as u8 * 0xff } else { random() })
                .collect();
            open.push_raw(op.code, &fixed, &tail);
            open.linger(Duration::from_millis(1));
            if let Some(error) = &open.ended {
                let ProtocolError::Closed { reason: CloseReason::Protocol, .. } = error else {
                    panic!("{} in round {round}: {error}", op.name);
                };
                client = None;
            }
        }
        if let Some((mut open, _, _)) = client.take() {
            open.linger(Duration::from_millis(20));
            assert!(open.worker.child.try_wait().unwrap().is_none_or(|status| status.success()));
        }
    }
}

fn parts_of_images_that_cannot_be_decoded() {
    let text = ADD.repeat(20);
    let mut packed = vec![0; encoded::room(text.len())];
    let used = encoded::encode(Codec::General, text.as_bytes(), &mut packed).unwrap();
    let (encoded_bytes, bytes) = (used as u32, text.len() as u32);
    packed.truncate(used);
    packed.resize(used.next_multiple_of(8), 0);
    let most = BLOB_PART_BYTES as u32;
    for (encoded_bytes, bytes, what) in [
        // More than there is; to nothing more; to more than a part; and other lengths than that of the text.
        (packed.len() as u32 + 1, bytes, "come to"),
        (u32::MAX, bytes, "come to"),
        (encoded_bytes, encoded_bytes, "come to"),
        (encoded_bytes, most + 1, "come to"),
        (encoded_bytes, u32::MAX, "come to"),
        (encoded_bytes, bytes - 1, "cannot be decoded"),
        (encoded_bytes, bytes + 1, "cannot be decoded"),
        (encoded_bytes - 1, bytes, "cannot be decoded"),
        (0, bytes, "cannot be decoded"),
    ] {
        let mut client = Client::open(&Setup::default());
        let blob = client.handle();
        let total = text.len() as u64;
        client.push(&BlobEncoded { blob, total, encoded_bytes, bytes }, &packed);
        let text = ended(client);
        assert!(text.contains("image") && text.contains(what), "{text}");
    }
    // Of another length than was announced: an error of that operation.
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (blob, library) = (client.handle(), client.handle());
    client.push(&BlobEncoded { blob, total: u64::from(bytes) + 1, encoded_bytes, bytes }, &packed);
    let record = LibraryLoad { library, context, blob, options: 0, library_options: 0 };
    assert_eq!(client.ask(record).err(), Some(1));
}

fn bulk_chunks_that_are_not_due_end_the_session() {
    for (header, what) in [
        (ChunkHeader::host_to_device(5, 64), "chunk 5"),
        (ChunkHeader::host_to_device(0, 65 << 10), "66560 bytes"),
        (ChunkHeader::device_to_host(0, 0, 0, 64), "makes no sense"),
        // Compressed: to nothing less, to more than a slot, and what no compressor made.
        (ChunkHeader { decoded: 64, ..ChunkHeader::host_to_device(0, 64) }, "makes no sense"),
        (ChunkHeader { decoded: u32::MAX, ..ChunkHeader::host_to_device(0, 64) }, "4294967295 bytes"),
        (ChunkHeader { decoded: 4096, ..ChunkHeader::host_to_device(0, 64) }, "cannot be decoded"),
    ] {
        let mut client = Client::open(&Setup { lanes: 1, ..Setup::default() });
        client.lanes[0].write_all(header.as_bytes()).unwrap();
        // The header may have ended the lane already.
        let _ = client.lanes[0].write_all(&[0; 64]);
        let text = ended_by_link(&mut client);
        assert!(text.contains(what), "{text}");
    }
    // More than the credit: four slots, and nothing that frees one.
    let mut client = Client::open(&Setup { lanes: 1, ..Setup::default() });
    for chunk in 0..5 {
        client.lanes[0].write_all(ChunkHeader::host_to_device(chunk, 8).as_bytes()).unwrap();
        let _ = client.lanes[0].write_all(&[0; 8]);
    }
    let text = ended_by_link(&mut client);
    assert!(text.contains("credit"), "{text}");
    // One that came on another lane.
    let mut client = Client::open(&Setup { lanes: 2, ..Setup::default() });
    for lane in 0..2 {
        client.lanes[lane].write_all(ChunkHeader::host_to_device(1, 8).as_bytes()).unwrap();
        let _ = client.lanes[lane].write_all(&[0; 8]);
    }
    let text = ended_by_link(&mut client);
    assert!(text.contains("chunk 1 a second time"), "{text}");
    // A copy whose numbers are not the next ones.
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 1 << 20);
    client.send(CopyIn { stream, destination: block, bytes: 64, first_chunk: 3 });
    let text = ended(client);
    assert!(text.contains("chunk 3"), "{text}");
}

fn ended_by_link(client: &mut Client) -> String {
    match client.end() {
        ProtocolError::Closed { text, .. } => text,
        other => panic!("{other}"),
    }
}

fn chunks_of_a_refused_copy_are_thrown_away() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 4 << 20);
    // Each goes round the slots twice; were its slots not given back, the last would never get through.
    for _ in 0..3 {
        client.copy_in(stream, 0x1234, &vec![1; 512 << 10]);
    }
    let data: Vec<u8> = (0..512u32 << 10).map(|n| n as u8).collect();
    client.copy_in(stream, block, &data);
    assert!(client.copy_out(stream, block, data.len() as u64).unwrap() == data);
    assert_eq!(client.failed.iter().map(|failed| failed.1).collect::<Vec<_>>(), [1, 1, 1]);
}

fn what_is_not_a_driver_is_one_line() {
    for (driver, what) in [
        ("/nonexistent/libcuda.so.1", "does not exist"),
        ("/proc/self/status", "cannot be loaded"),
        ("libc.so.6", "has no function cuInit"),
    ] {
        let mut worker = Worker::start(Path::new(driver), &[]);
        match worker.hear() {
            FromWorker::Failed { text } => assert!(text.contains(driver) && text.contains(what), "{text}"),
            other => panic!("{other:?}"),
        }
        assert!(!worker.child.wait().unwrap().success());
    }
    if !crate::client::is_softgpu() {
        return;
    }
    let worker = Worker::start(&crate::client::driver(), &[("SOFTGPU_DEVICES", "0")]);
    match worker.hear() {
        FromWorker::Failed { text } => {
            assert!(text.contains("cuInit") && text.contains("NO_DEVICE"), "{text}")
        }
        other => panic!("{other:?}"),
    }
}
