//! Libraries, kernels, globals, and loads that fail.

use fusewire_wire::ops::Dim3;
use fusewire_wire::ops::table::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::Test;
use crate::client::{Client, Setup, words};
use crate::graphs::ONE;
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("libraries_and_their_kernels", libraries_and_their_kernels),
    ("globals_are_part_of_the_session", globals_are_part_of_the_session),
    ("loads_that_fail_bring_their_log", loads_that_fail_bring_their_log),
    ("attributes_and_occupancy", attributes_and_occupancy),
];

fn library(client: &mut Client, context: u64, image: &[u8]) -> u64 {
    let (library, blob) = (client.handle(), client.handle());
    client.push(&BlobPart { blob, total: image.len() as u64 }, image);
    client.ask(LibraryLoad { library, context, blob, options: 0, library_options: 0 }).unwrap();
    library
}

fn libraries_and_their_kernels() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 4096);
    let library = library(&mut client, context, ADD.as_bytes());
    let function = client.handle();
    let (info, tail) = client.ask_with(LibraryGetKernel { library, function, context }, b"add").unwrap();
    assert_eq!((info.parameters, info.parameter_bytes), (2, 16));
    let second = ParameterInfo::read_from_bytes(&tail[8..16]).unwrap();
    assert_eq!((second.offset, second.bytes), (8, 8));
    let other = client.handle();
    assert_eq!(
        client.ask_with(LibraryGetKernel { library, function: other, context }, b"sub").err(),
        Some(500)
    );
    let (names, tail) = client.ask_with(LibraryNames { library }, &[]).unwrap();
    assert_eq!((names.count, &tail[..4]), (1, &b"add\0"[..]));
    client.copy_in_inline(stream, block, [5u32; 4].as_bytes());
    // A kernel is taken wherever a function is, attributes and all.
    let cooperative = LaunchAttribute { id: 2, reserved: 0, value: [1; 64] };
    let mut tail = cooperative.as_bytes().to_vec();
    tail[8..].fill(0);
    tail[8] = 1;
    tail.extend_from_slice([block, block].as_bytes());
    let record = LaunchEx {
        function,
        stream,
        grid: ONE,
        block: Dim3 { x: 4, ..ONE },
        shared_bytes: 0,
        parameter_bytes: 16,
        attributes: 1,
        reserved: 0,
    };
    client.push(&record, &tail);
    assert_eq!(words(&client.copy_out(stream, block, 16).unwrap()), [10; 4]);
    let module = client.handle();
    client.ask(LibraryGetModule { library, context, module }).unwrap();
    let (from_module, _) = client.function(module, "add");
    client.launch(from_module, stream, 1, &[block, block]);
    client.send(LibraryUnload { library });
    client.launch(function, stream, 1, &[block, block]);
    client.launch(from_module, stream, 1, &[block, block]);
    client.synchronize(stream).unwrap();
    let codes: Vec<u32> = client.failed.iter().map(|failed| failed.1).collect();
    assert_eq!(codes, [400, 400], "what was in the library went with it");
}

fn globals_are_part_of_the_session() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let image = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .global .align 4 .b8 table[64];\n";
    let module = client.module(context, image.as_bytes());
    let (global, _) = client.ask_with(ModuleGetGlobal { module }, b"table").unwrap();
    assert_eq!(global.bytes, 64);
    client.copy_in_inline(stream, global.address, &[6; 64]);
    assert_eq!(client.copy_out(stream, global.address + 32, 4).unwrap(), [6; 4]);
    assert_eq!(client.copy_out(stream, global.address + 62, 4).err(), Some(1));
    client.send(ModuleUnload { module });
    assert_eq!(client.copy_out(stream, global.address, 4).err(), Some(1));
}

fn loads_that_fail_bring_their_log() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let (module, blob) = (client.handle(), client.handle());
    let image = b".version 8.0\n.target sm_80\n.address_size 64\nnonsense here;\n";
    client.push(&BlobPart { blob, total: image.len() as u64 }, image);
    let number = client.push(&ModuleLoad { module, context, blob, options: 0, reserved: 0 }, &[]);
    client.until("the refusal", |client| client.replies.contains_key(&number));
    let (status, tail) = client.replies[&number].clone();
    assert_eq!(status, 218, "invalid PTX");
    let (info, errors) =
        (u32::read_from_bytes(&tail[..4]).unwrap(), u32::read_from_bytes(&tail[4..8]).unwrap());
    assert!(errors > 0, "{info} {errors}");
    // A blob is used up by its load, and one that is not whole is refused.
    assert_eq!(client.ask(ModuleLoad { module, context, blob, options: 0, reserved: 0 }).err(), Some(400));
    client.push(&BlobPart { blob, total: 1 << 20 }, image);
    assert_eq!(client.ask(ModuleLoad { module, context, blob, options: 0, reserved: 0 }).err(), Some(1));
}

fn attributes_and_occupancy() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let module = client.module(context, ADD.as_bytes());
    let (function, info) = client.function(module, "add");
    assert!(info.max_threads >= 256, "{info:?}");
    let attribute = 8;
    client.send(FuncSetAttribute { function, context, attribute, value: 1024, device: 0, reserved: 0 });
    let value = client.ask(FuncGetAttribute { function, context, attribute, device: 0 }).unwrap().value;
    assert_eq!(value, 1024);
    let blocks =
        client.ask(Occupancy { function, context, shared_bytes: 0, block: 128, flags: 0 }).unwrap().blocks;
    assert!(blocks > 0);
    let best =
        client.ask(OccupancyBlockSize { function, context, shared_bytes: 0, limit: 0, flags: 0 }).unwrap();
    let table = vec![0u64; 32];
    let record = OccupancyBlockSize { function, context, shared_bytes: 0, limit: 0, flags: 0 };
    let (of_table, _) = client.ask_with(record, table.as_bytes()).unwrap();
    assert_eq!((best.grid, best.block), (of_table.grid, of_table.block));
    assert!(client.failed.is_empty(), "{:?}", client.failed);
}
