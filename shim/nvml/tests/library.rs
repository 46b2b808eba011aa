//! The library as a file: what it exports, what it needs, and what it is called.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;

use object::elf::{DF_1_NODELETE, DT_FLAGS_1, DT_NEEDED, DT_SONAME};
use object::read::elf::{Dyn, ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSymbol};

mod support;

/// What every Linux machine with glibc has.
const GLIBC: &[&str] =
    &["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"];

#[test]
fn exports_the_whole_interface_and_nothing_else() {
    let data = fs::read(support::library()).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let exported: BTreeSet<&str> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .map(|symbol| symbol.name().unwrap())
        .collect();
    let interface: BTreeSet<&str> = nvidia_ml::stubs::FUNCTIONS.iter().copied().collect();
    assert!(interface.len() > 420);
    assert_eq!(interface.difference(&exported).collect::<Vec<_>>(), Vec::<&&str>::new(), "missing");
    // Between the two libraries: which of them has said that there is no server.
    let interface: BTreeSet<&str> = interface.into_iter().chain(["fusewire_said_no_server"]).collect();
    assert_eq!(exported.difference(&interface).collect::<Vec<_>>(), Vec::<&&str>::new(), "too much");
}

#[test]
fn needs_only_glibc_and_has_its_name_and_stays() {
    let data = fs::read(support::library()).unwrap();
    let file = ElfFile64::<Endianness>::parse(&*data).unwrap();
    let (order, header) = (file.endian(), file.elf_header());
    let sections = header.sections(order, &*data).unwrap();
    let (entries, strings) = sections.dynamic(order, &*data).unwrap().unwrap();
    let strings = sections.strings(order, &*data, strings).unwrap();
    let text = |entry: &object::elf::Dyn64<Endianness>| {
        String::from_utf8(entry.string(order, strings).unwrap().to_vec()).unwrap()
    };
    let mut name = None;
    let mut stays = false;
    for entry in entries {
        match entry.tag32(order) {
            Some(DT_NEEDED) => {
                assert!(GLIBC.contains(&text(entry).as_str()), "needs {}", text(entry));
            }
            Some(DT_SONAME) => name = Some(text(entry)),
            Some(DT_FLAGS_1) => stays = entry.val32(order).unwrap() & DF_1_NODELETE != 0,
            _ => {}
        }
    }
    assert_eq!(name.as_deref(), Some("libnvidia-ml.so.1"));
    assert!(stays);
}
