//! What must hold for the fat binary reader, whatever bytes it is given.

#![allow(clippy::expect_used, reason = "a broken promise must stop the run")]

use fusewire_wire::fatbin::{
    ByteSource, Container, EntryKind, FatbinError, ImageKind, MAX_IMAGE_BYTES, Wrapper, image_kind,
    image_length, prelinked_pointers, trim, uses_printf,
};

/// Contents are decompressed up to this size.
const CONTENTS_LIMIT: usize = 1 << 20;

/// Panics if the reader breaks a promise on `data`.
pub(crate) fn check(data: &[u8]) {
    check_length(data);
    check_wrapper(data);
    check_container(data);
    for major in [0, 8, 9, 10, 12] {
        check_trim(data, major);
    }
    let _ = uses_printf(data);
}

fn check_length(data: &[u8]) {
    let measured = image_length(data);
    let Ok(length) = measured else { return };
    assert!(length > 0 && length as u64 <= MAX_IMAGE_BYTES);
    // What measuring looks at lies inside the image, so the image alone measures the same.
    if let Some(image) = data.get(..length) {
        assert_eq!(image_length(&Fenced(image)), Ok(length));
    }
    if image_kind(data) == Ok(ImageKind::Ptx) {
        assert_eq!(data.iter().position(|&byte| byte == 0), Some(length - 1));
    }
}

/// A source where looking beyond the end is a failure, not an error.
struct Fenced<'a>(&'a [u8]);

impl ByteSource for Fenced<'_> {
    fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        assert!(self.0.read(offset, out), "read of {} bytes at {offset} of {}", out.len(), self.0.len());
        true
    }
}

fn check_wrapper(data: &[u8]) {
    if let Ok(wrapper) = Wrapper::read(data) {
        assert_eq!(wrapper.to_bytes(), data[..Wrapper::BYTES]);
    }
    if let Ok(pointers) = prelinked_pointers(data) {
        assert!(pointers.iter().all(|&pointer| pointer != 0));
        assert!((pointers.len() + 1) * 8 <= data.len());
    }
}

fn check_container(data: &[u8]) {
    let Ok(container) = Container::parse(data) else { return };
    assert_eq!(image_length(data), Ok(container.total_bytes()));
    let mut end = None;
    for entry in container.entries() {
        let Ok(entry) = entry else {
            end = None;
            continue;
        };
        assert_eq!(entry.offset, end.unwrap_or(entry.offset), "entries must tile the container");
        assert_eq!(entry.bytes(), &data[entry.offset..entry.offset + entry.bytes().len()]);
        assert!(entry.payload_offset() >= entry.offset + 64);
        let _ = entry.arch_variant();
        match entry.contents(CONTENTS_LIMIT) {
            Ok(contents) => {
                assert!(contents.len() <= CONTENTS_LIMIT.max(entry.payload.len()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        end = Some(entry.offset + entry.bytes().len());
    }
    if let Some(end) = end {
        assert_eq!(end, container.total_bytes());
    }
}

fn check_trim(data: &[u8], major: u32) {
    let Ok(before) = entries(data) else {
        assert!(trim(data, (major, 0)).is_err(), "what cannot be listed must not be rewritten");
        return;
    };
    let trimmed = trim(data, (major, 0)).expect("what can be listed can be trimmed");
    let after = entries(&trimmed).expect("a trimmed container parses");
    assert_eq!(image_length(&*trimmed), Ok(trimmed.len()));

    // Entries are only left out, and only machine code.
    let mut kept = after.iter();
    let mut next = kept.next();
    for entry in &before {
        if next == Some(entry) {
            next = kept.next();
        } else {
            assert_eq!(entry.0, EntryKind::Elf, "only machine code may be left out");
            assert_ne!(entry.1 / 10, major, "machine code for the target must stay");
        }
    }
    assert_eq!(next, None, "nothing may be added or reordered");
    assert_eq!(before.is_empty(), after.is_empty());

    let again = trim(&trimmed, (major, 0)).expect("a trimmed container can be trimmed");
    assert_eq!(again, trimmed, "trimming twice changes nothing more");
}

type Listed = (EntryKind, u32, Vec<u8>);

fn entries(data: &[u8]) -> Result<Vec<Listed>, FatbinError> {
    Container::parse(data)?
        .entries()
        .map(|entry| entry.map(|entry| (entry.kind, entry.sm, entry.bytes().to_vec())))
        .collect()
}
