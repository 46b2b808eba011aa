//! Images that are named instead of sent, and kernels that come with their load.

use std::path::{Path, PathBuf};

use fusewire_wire::digest::Digest;
use fusewire_wire::encoded::{self, Codec};
use fusewire_wire::ops::known::Known;
use fusewire_wire::ops::table::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

pub const TESTS: &[Test] = &[
    ("an_image_is_sent_once", an_image_is_sent_once),
    ("a_compressed_image_is_the_one_that_it_comes_to", a_compressed_image_is_the_one_that_it_comes_to),
    ("a_false_name_is_refused", a_false_name_is_refused),
    ("what_the_driver_refuses_is_not_kept", what_the_driver_refuses_is_not_kept),
    ("without_a_cache_no_image_is_there", without_a_cache_no_image_is_there),
    ("few_kernels_come_with_the_load", few_kernels_come_with_the_load),
    ("kernels_that_were_asked_for_come_with_the_next_load", kernels_that_were_asked_for_come_next),
    ("what_a_program_has_set_is_not_learnt", what_a_program_has_set_is_not_learnt),
    ("what_options_make_of_an_image_is_not_learnt", what_options_make_of_an_image_is_not_learnt),
];

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("fusewire-test-{}-{name}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A session whose worker keeps images there.
fn open(folder: &Path) -> Client {
    let folder: &'static str = Box::leak(folder.to_string_lossy().into_owned().into_boxed_str());
    Client::open(&Setup { environment: vec![("FUSEWIRE_TEST_IMAGES", folder)], ..Setup::default() })
}

/// An image of `count` kernels, `add_0` and so on.
fn image(count: usize) -> Vec<u8> {
    let kernel = &ADD[ADD.find(".visible").unwrap()..];
    let kernels = (0..count).map(|n| kernel.replace("entry add(", &format!("entry add_{n}(")));
    (ADD[..ADD.find(".visible").unwrap()].to_owned() + &kernels.collect::<String>()).into_bytes()
}

fn name(client: &mut Client, image: &[u8], digest: Digest) -> u64 {
    let blob = client.handle();
    let [digest_0, digest_1, digest_2, digest_3] = digest.words();
    client.send(BlobNamed { blob, bytes: image.len() as u64, digest_0, digest_1, digest_2, digest_3 });
    blob
}

/// Loads a blob as a library; gives it and what is told of its kernels.
fn load(client: &mut Client, context: u64, blob: u64) -> Result<(u64, Vec<Known>), u32> {
    load_with(client, context, blob, &[])
}

/// The same with JIT options.
fn load_with(
    client: &mut Client,
    context: u64,
    blob: u64,
    options: &[(u32, u64)],
) -> Result<(u64, Vec<Known>), u32> {
    let library = client.handle();
    let record = LibraryLoad { library, context, blob, options: options.len() as u32, library_options: 0 };
    let options: Vec<JitOption> =
        options.iter().map(|&(option, value)| JitOption { option, reserved: 0, value }).collect();
    let (_, tail) = client.ask_with(record, options.as_bytes())?;
    let logs = <[u32; 2]>::read_from_prefix(&tail).unwrap().0;
    let rest = &tail[8 + (logs[0] + logs[1]) as usize..];
    let (bytes, list) = u64::read_from_prefix(rest).unwrap();
    Ok((library, Known::read_list(&list[..bytes as usize]).unwrap()))
}

fn send(client: &mut Client, blob: u64, image: &[u8]) {
    client.push(&BlobPart { blob, total: image.len() as u64 }, image);
}

fn names(kernels: &[Known]) -> Vec<String> {
    kernels.iter().map(|known| String::from_utf8(known.name.clone()).unwrap()).collect()
}

fn an_image_is_sent_once() {
    let folder = Folder::new("once");
    let image = image(6);
    let digest = Digest::of(&image);
    let mut client = open(&folder.0);
    let context = client.context();
    let blob = name(&mut client, &image, digest);
    assert_eq!(load(&mut client, context, blob).err(), Some(IMAGE_MISSING));
    send(&mut client, blob, &image);
    load(&mut client, context, blob).unwrap();
    assert_eq!(load(&mut client, context, blob).err(), Some(400), "a blob is loaded once");
    client.close();

    let mut client = open(&folder.0);
    let context = client.context();
    let blob = name(&mut client, &image, digest);
    let (library, _) = load(&mut client, context, blob).unwrap();
    let function = client.handle();
    client.ask_with(LibraryGetKernel { library, function, context }, b"add_5").unwrap();
    // Of another length it is another image.
    let blob = name(&mut client, &image[1..], digest);
    assert_eq!(load(&mut client, context, blob).err(), Some(IMAGE_MISSING));
    client.close();
}

fn a_compressed_image_is_the_one_that_it_comes_to() {
    let folder = Folder::new("compressed");
    let image = image(6);
    let digest = Digest::of(&image);
    let mut client = open(&folder.0);
    let context = client.context();
    // In two parts, of which one is compressed; what follows that is nothing of it.
    let (first, second) = image.split_at(image.len() / 16 * 8);
    let mut packed = vec![0; encoded::room(second.len())];
    let bytes = encoded::encode(Codec::General, second, &mut packed).unwrap();
    let total = image.len() as u64;
    let (encoded_bytes, bytes) = (bytes as u32, second.len() as u32);
    let blob = name(&mut client, &image, digest);
    assert_eq!(load(&mut client, context, blob).err(), Some(IMAGE_MISSING));
    client.push(&BlobPart { blob, total }, first);
    packed[encoded_bytes as usize..].fill(0xee);
    client.push(&BlobEncoded { blob, total, encoded_bytes, bytes }, &packed);
    load(&mut client, context, blob).unwrap();
    client.close();
    // It is kept under the name of what it comes to.
    let mut client = open(&folder.0);
    let context = client.context();
    let blob = name(&mut client, &image, digest);
    load(&mut client, context, blob).unwrap();
    client.close();
}

fn a_false_name_is_refused() {
    let folder = Folder::new("false");
    let image = image(6);
    let mut client = open(&folder.0);
    let context = client.context();
    let blob = name(&mut client, &image, Digest::of(b"something else"));
    send(&mut client, blob, &image);
    assert_eq!(load(&mut client, context, blob).err(), Some(1));
    let blob = name(&mut client, &image, Digest::of(b"something else"));
    assert_eq!(load(&mut client, context, blob).err(), Some(IMAGE_MISSING), "nothing was kept");
    client.close();
}

fn what_the_driver_refuses_is_not_kept() {
    let folder = Folder::new("refused");
    let image = vec![b'x'; 10_000];
    let digest = Digest::of(&image);
    for _ in 0..2 {
        let mut client = open(&folder.0);
        let context = client.context();
        let blob = name(&mut client, &image, digest);
        assert_eq!(load(&mut client, context, blob).err(), Some(IMAGE_MISSING));
        send(&mut client, blob, &image);
        let refused = load(&mut client, context, blob).err();
        assert!(refused.is_some_and(|code| code != IMAGE_MISSING), "{refused:?}");
        client.close();
    }
}

fn without_a_cache_no_image_is_there() {
    let image = image(6);
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let blob = name(&mut client, &image, Digest::of(&image));
    assert_eq!(load(&mut client, context, blob).err(), Some(IMAGE_MISSING));
    send(&mut client, blob, &image);
    load(&mut client, context, blob).unwrap();
}

fn few_kernels_come_with_the_load() {
    let mut client = Client::open(&Setup::default());
    let context = client.context();
    let stream = client.stream(context);
    let block = client.block(context, 4096);
    let blob = client.handle();
    send(&mut client, blob, &image(2));
    let (library, kernels) = load(&mut client, context, blob).unwrap();
    assert_eq!(names(&kernels), ["add_0", "add_1"]);
    let (function, asked) = (client.handle(), client.handle());
    let (info, tail) =
        client.ask_with(LibraryGetKernel { library, function: asked, context }, b"add_1").unwrap();
    let told = &kernels[1];
    assert_eq!((told.info.max_threads, told.info.parameter_bytes), (info.max_threads, 16));
    assert_eq!(told.parameters.len() * size_of::<ParameterInfo>(), tail.len());
    // One that was told of is named without an answer, and launched.
    client.push(&FunctionBind { function, module: 0, library, context }, b"add_1");
    client.copy_in_inline(stream, block, &[3; 16]);
    client.launch(function, stream, 4, &[block, block]);
    assert_eq!(client.copy_out(stream, block, 4).unwrap(), [6; 4]);
    // Names and owners that there are not.
    let other = client.handle();
    client.push(&FunctionBind { function: other, module: 0, library, context }, b"sub");
    client.push(&FunctionBind { function: other, module: 0, library: 0, context }, b"add_1");
    client.push(&FunctionBind { function: other, module: library, library: 0, context }, b"add_1");
    client.launch(other, stream, 4, &[block, block]);
    client.synchronize(stream).unwrap();
    let codes: Vec<u32> = client.failed.iter().map(|failed| failed.1).collect();
    assert_eq!(codes, [500, 400, 400, 400]);
}

fn kernels_that_were_asked_for_come_next() {
    let folder = Folder::new("known");
    let image = image(6);
    let digest = Digest::of(&image);
    for (expected, ask) in [(&[][..], "add_3"), (&["add_3"], "add_5"), (&["add_3", "add_5"], "add_3")] {
        let mut client = open(&folder.0);
        let context = client.context();
        let blob = name(&mut client, &image, digest);
        let loaded = load(&mut client, context, blob);
        let (library, kernels) = loaded.unwrap_or_else(|code| {
            assert_eq!(code, IMAGE_MISSING);
            send(&mut client, blob, &image);
            load(&mut client, context, blob).unwrap()
        });
        let mut told = names(&kernels);
        told.sort();
        assert_eq!(told, expected);
        let function = client.handle();
        client.ask_with(LibraryGetKernel { library, function, context }, ask.as_bytes()).unwrap();
        client.close();
    }
}

fn what_a_program_has_set_is_not_learnt() {
    let folder = Folder::new("altered");
    let image = image(6);
    let digest = Digest::of(&image);
    for round in 0..2 {
        let mut client = open(&folder.0);
        let context = client.context();
        let blob = name(&mut client, &image, digest);
        if round == 0 {
            send(&mut client, blob, &image);
        }
        let (library, kernels) = load(&mut client, context, blob).unwrap();
        assert_eq!(names(&kernels), if round == 0 { &[][..] } else { &["add_5"] });
        // Named without asking, changed (dynamic shared memory, attribute 8), and only then asked for.
        let (bound, asked, other) = (client.handle(), client.handle(), client.handle());
        client.push(&FunctionBind { function: bound, module: 0, library, context }, b"add_3");
        let attribute =
            FuncSetAttribute { function: bound, context, attribute: 8, value: 4096, device: 0, reserved: 0 };
        client.send(attribute);
        let ask = |function| LibraryGetKernel { library, function, context };
        let (info, _) = client.ask_with(ask(asked), b"add_3").unwrap();
        assert_eq!(info.max_dynamic_shared, 4096);
        client.ask_with(ask(other), b"add_5").unwrap();
        client.close();
    }
}

fn what_options_make_of_an_image_is_not_learnt() {
    // `CUjit_option`: registers at most, and a longer log.
    const MAX_REGISTERS: (u32, u64) = (0, 32);
    const LOG_VERBOSE: (u32, u64) = (12, 1);
    let folder = Folder::new("options");
    let image = image(6);
    let digest = Digest::of(&image);
    let rounds = [
        (&[MAX_REGISTERS][..], &[][..], "add_1"),
        (&[LOG_VERBOSE], &[], "add_2"),
        (&[LOG_VERBOSE, MAX_REGISTERS], &[], "add_3"),
        (&[], &["add_2"], "add_2"),
    ];
    for (round, (options, told, ask)) in rounds.into_iter().enumerate() {
        let mut client = open(&folder.0);
        let context = client.context();
        let blob = name(&mut client, &image, digest);
        if round == 0 {
            send(&mut client, blob, &image);
        }
        let (library, kernels) = load_with(&mut client, context, blob, options).unwrap();
        assert_eq!(names(&kernels), told, "in round {round}");
        let function = client.handle();
        client.ask_with(LibraryGetKernel { library, function, context }, ask.as_bytes()).unwrap();
        client.close();
    }
}
