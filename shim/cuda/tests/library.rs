//! The library as a file: what it exports, what it needs, and that look-ups lead to its own symbols.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    ffi::{CString, c_char, c_void},
    fs,
    path::PathBuf,
    ptr,
};

use object::{
    Endianness, Object, ObjectSymbol,
    elf::{DF_1_NODELETE, DT_FLAGS_1, DT_NEEDED, DT_SONAME},
    read::elf::{Dyn, ElfFile64, FileHeader},
};

/// What every Linux machine with glibc has.
const GLIBC: &[&str] =
    &["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"];

/// Cargo puts the library beside the test's own program.
fn library() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libcuda.so")
}

fn rows() -> Vec<[String; 4]> {
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/abi/functions.txt");
    let text = fs::read_to_string(table).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            std::array::from_fn(|_| words.next().unwrap())
        })
        .collect()
}

#[test]
fn exports_the_whole_interface_and_nothing_else() {
    let data = fs::read(library()).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let exported: BTreeSet<&str> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .map(|symbol| symbol.name().unwrap())
        .collect();
    let rows = rows();
    let interface: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert!(interface.len() > 660);
    assert_eq!(interface.difference(&exported).collect::<Vec<_>>(), Vec::<&&str>::new(), "missing");
    // Between the two libraries: which of them has said that there is no server.
    let interface: BTreeSet<&str> = interface.into_iter().chain(["fusewire_said_no_server"]).collect();
    assert_eq!(exported.difference(&interface).collect::<Vec<_>>(), Vec::<&&str>::new(), "too much");
}

#[test]
fn needs_only_glibc_and_is_called_libcuda_and_stays() {
    let data = fs::read(library()).unwrap();
    let file = ElfFile64::<Endianness>::parse(&*data).unwrap();
    let (order, header) = (file.endian(), file.elf_header());
    let sections = header.sections(order, &*data).unwrap();
    let (entries, link) = sections.dynamic(order, &*data).unwrap().unwrap();
    let strings = sections.strings(order, &*data, link).unwrap();
    let named = |tag: u32| -> Vec<&str> {
        let of_tag = entries.iter().filter(|entry| entry.tag32(order) == Some(tag));
        of_tag.map(|entry| str::from_utf8(entry.string(order, strings).unwrap()).unwrap()).collect()
    };
    assert_eq!(named(DT_SONAME), ["libcuda.so.1"]);
    let needed = named(DT_NEEDED);
    assert!(needed.contains(&"libc.so.6"));
    assert!(needed.iter().all(|name| GLIBC.contains(name)), "{needed:?}");
    let flags = entries.iter().find(|entry| entry.tag32(order) == Some(DT_FLAGS_1)).unwrap();
    assert_ne!(flags.val32(order).unwrap() & DF_1_NODELETE, 0, "a dlclose would unmap running threads");
}

type GetProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, i32, u64) -> u32;
type GetProcAddressV2 = unsafe extern "C" fn(*const c_char, *mut *mut c_void, i32, u64, *mut i32) -> u32;

/// The library, opened as a CUDA runtime opens it.
struct Opened(*mut c_void);

impl Opened {
    fn open() -> Self {
        let path = CString::new(library().into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: a C string; the library has no initialisers that need anything.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        Self(handle)
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: an open handle and a C string.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }

    /// Result, address and status; the two start as -1.
    fn look_up(&self, name: &str, version: i32, flags: u64) -> (u32, isize, i32) {
        // SAFETY: the symbol has this type.
        let function = unsafe {
            std::mem::transmute::<*mut c_void, GetProcAddressV2>(self.symbol("cuGetProcAddress_v2"))
        };
        let name = CString::new(name).unwrap();
        let (mut out, mut status) = (ptr::without_provenance_mut(usize::MAX), -1);
        // SAFETY: a C string and two locals.
        let result = unsafe { function(name.as_ptr(), &mut out, version, flags, &mut status) };
        (result, out.addr().cast_signed(), status)
    }
}

/// Every form of every function is found in exactly its range of versions. The expectations come from the
/// table line by line, not from the code under test.
#[test]
fn every_look_up_leads_to_the_exported_symbol() {
    let opened = Opened::open();
    let rows = rows();
    for [symbol, base, version, variant] in &rows {
        let version: i32 = version.parse().unwrap();
        let flags: &[u64] = if variant == "-" { &[0, 1] } else { &[2, 3] };
        let siblings = rows.iter().filter(|row| row[1] == *base && (row[3] == "-") == (variant == "-"));
        let versions: Vec<i32> = siblings.map(|row| row[2].parse().unwrap()).collect();
        let next = versions.iter().copied().filter(|other| *other > version).min();
        let expected = opened.symbol(symbol).addr().cast_signed();
        assert_ne!(expected, 0, "{symbol}");
        for &flags in flags {
            assert_eq!(opened.look_up(base, version, flags), (0, expected, 0), "{symbol}");
            let last = next.map_or(13_000, |next| next - 1);
            assert_eq!(opened.look_up(base, last, flags), (0, expected, 0), "{symbol}");
            if next.is_none() {
                assert_eq!(opened.look_up(base, -1, flags), (0, expected, 0), "{symbol}: the newest");
            }
            if versions.iter().all(|other| *other >= version) {
                assert_eq!(opened.look_up(base, version - 1, flags), (0, 0, 2), "{symbol}: too old");
            }
        }
    }
}

#[test]
fn look_ups_that_fail() {
    let opened = Opened::open();
    for name in ["", "cuNope", "cuMemAlloc_v2", "cuMemcpyHtoD_v2_ptds", "printf"] {
        assert_eq!(opened.look_up(name, 13_000, 0), (0, 0, 1), "{name}");
    }
    for (version, flags) in [(13_001, 0), (99_999, 0), (13_000, 4), (13_000, 1 << 32)] {
        assert_eq!(opened.look_up("cuInit", version, flags), (1, -1, -1), "outputs stay");
    }
    // A function without a per-thread form has only the one.
    assert_eq!(opened.look_up("cuInit", 13_000, 2), opened.look_up("cuInit", 13_000, 0));
}

#[test]
fn the_old_look_up_has_no_status() {
    let opened = Opened::open();
    // SAFETY: the symbol has this type.
    let function =
        unsafe { std::mem::transmute::<*mut c_void, GetProcAddress>(opened.symbol("cuGetProcAddress")) };
    let ask = |name: &str, version| {
        let name = CString::new(name).unwrap();
        let mut out = ptr::without_provenance_mut(usize::MAX);
        // SAFETY: a C string and a local.
        (unsafe { function(name.as_ptr(), &mut out, version, 0) }, out)
    };
    assert_eq!(ask("cuGetProcAddress", 11_030), (0, opened.symbol("cuGetProcAddress")));
    assert_eq!(ask("cuGetProcAddress", 12_000), (0, opened.symbol("cuGetProcAddress_v2")));
    let untouched = ptr::without_provenance_mut(usize::MAX);
    assert_eq!(ask("cuNope", 13_000), (500, untouched));
    assert_eq!(ask("cuGetProcAddress", 1000), (500, untouched));
    assert_eq!(ask("cuInit", 99_999), (1, untouched));
}
