//! Leaving out of a container what the far GPU cannot run, so that it need not travel.

use std::borrow::Cow;

use zerocopy::FromBytes;

use super::container::{Container, ContainerHeader, Entry, EntryKind};
use super::error::FatbinError;

/// The container at the start of `bytes` without the machine code of other GPUs.
///
/// `target_sm` is the far GPU's compute capability. Only ELF entries of another *major* version go:
/// those can never run there. Everything else stays, byte for byte and in order: PTX, unknown kinds,
/// other minor versions, and variants such as `sm_90a`, whose rules of compatibility are the loader's
/// business. If nothing would be left, all stays, so that the loader reports what it would have
/// reported. Borrowed if nothing changed; bytes after the container's end are never part of the result.
///
/// # Errors
/// The container or one of its entries is inconsistent. Ship the image whole then.
pub fn trim(bytes: &[u8], target_sm: (u32, u32)) -> Result<Cow<'_, [u8]>, FatbinError> {
    let container = Container::parse(bytes)?;
    let whole = &bytes[..container.total_bytes()];
    let mut kept = Vec::new();
    let mut kept_bytes = 0_usize;
    for entry in container.entries() {
        let entry = entry?;
        if may_run(&entry, target_sm.0) {
            kept_bytes += entry.bytes().len();
            kept.push(entry.bytes());
        }
    }
    if kept.is_empty() || container.header().len() + kept_bytes == whole.len() {
        return Ok(Cow::Borrowed(whole));
    }

    let mut trimmed = Vec::with_capacity(container.header().len() + kept_bytes);
    trimmed.extend_from_slice(container.header());
    if let Ok((header, _)) = ContainerHeader::mut_from_prefix(trimmed.as_mut_slice()) {
        header.files_bytes = (kept_bytes as u64).into();
    }
    for entry in kept {
        trimmed.extend_from_slice(entry);
    }
    Ok(Cow::Owned(trimmed))
}

fn may_run(entry: &Entry<'_>, target_major: u32) -> bool {
    match entry.kind {
        EntryKind::Elf => major(entry.sm) == 0 || major(entry.sm) == target_major,
        EntryKind::Ptx | EntryKind::Other(_) => true,
    }
}

/// 0 for a number that is no architecture.
fn major(sm: u32) -> u32 {
    sm / 10
}
