//! A guess whether device code can write to standard output, so that output need not be looked for
//! after programs that have none.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::container::{Container, EntryKind};
use super::error::FatbinError;
use super::kind::{ImageKind, image_kind};

/// Entries that claim to be larger are not decompressed: the answer is then "unsure".
const MAX_CONTENTS_BYTES: usize = 256 << 20;

/// The functions behind `printf` and `assert` in device code; the loader supplies them, so whoever calls
/// them names them.
static PRINTERS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [Finder::new(b"vprintf"), Finder::new(b"__assertfail")]);

/// Whether the code in `image` may call `printf` or fail an `assert`.
///
/// False only if every part of the image was searched and names neither. True if one does, and whenever
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
    PRINTERS.iter().any(|name| name.find(code).is_some())
}
