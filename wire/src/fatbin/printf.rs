//! A guess whether device code can write to standard output, so that output need not be looked for
//! after programs that have none.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::container::{Container, EntryKind};
use super::error::FatbinError;
use super::kind::{ImageKind, image_kind};

/// Entries that claim to be larger are not decompressed: the answer is then "unsure".
const MAX_CONTENTS_BYTES: usize = 256 << 20;

/// The function behind `printf` in device code; the loader supplies it, so whoever calls it names it. A failed
/// `assert` writes as well, but ends its context: its text is collected with the fault.
static PRINTER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"vprintf"));

/// Whether the code in `image` may call `printf`.
///
/// False only if every part of the image was searched and does not name it. True if one does, and whenever
/// the answer is unsure: damaged or unknown contents, a wrapper (whose container lies elsewhere), code
/// that is still to be linked with other code.
#[must_use]
pub fn uses_printf(image: &[u8]) -> bool {
    match image_kind(image) {
        Ok(ImageKind::Elf | ImageKind::Ptx) => names_printer(image),
        Ok(ImageKind::Container) => container_names_printer(image).unwrap_or(true),
        _ => true,
    }
}

fn container_names_printer(image: &[u8]) -> Result<bool, FatbinError> {
    for entry in Container::parse(image)?.entries() {
        let entry = entry?;
        match entry.kind {
            EntryKind::Elf | EntryKind::Ptx => {
                if names_printer(&entry.contents(MAX_CONTENTS_BYTES)?) {
                    return Ok(true);
                }
            }
            EntryKind::Other(_) => return Ok(true),
        }
    }
    Ok(false)
}

fn names_printer(code: &[u8]) -> bool {
    PRINTER.find(code).is_some()
}
