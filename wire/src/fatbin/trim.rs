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
        if may_run(&entry, target_sm) {
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

fn may_run(entry: &Entry<'_>, target_sm: (u32, u32)) -> bool {
    let major = entry.sm / 10;
    match entry.kind {
        // 0: the number is no architecture.
        EntryKind::Elf => major == 0 || major == target_sm.0 || is_renamed(entry.sm, target_sm),
        EntryKind::Ptx | EntryKind::Other(_) => true,
    }
}

/// CUDA 13 calls 11.0 the GPU that was 10.1 before. Whether a loader takes code under the other name is
/// its business.
fn is_renamed(sm: u32, target_sm: (u32, u32)) -> bool {
    matches!((sm, target_sm), (101, (11, 0)) | (110, (10, 1)))
}
