//! Telling images apart by their first bytes.

use super::error::FatbinError;

pub(super) const WRAPPER_MAGIC: u32 = 0x4662_43B1;
pub(super) const CONTAINER_MAGIC: u32 = 0xBA55_ED50;
const LTO_IR_MAGIC: u32 = 0x7F4E_43ED;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const ARCHIVE_MAGIC: [u8; 4] = *b"!<ar";

/// What an image is.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// The 24-byte record around a container that compilers place in a program. It holds *addresses*,
    /// so it means nothing in another process; see [`Wrapper`](super::Wrapper).
    Wrapper,
    /// A fat binary: a header and a row of entries; see [`Container`](super::Container).
    Container,
    /// An ELF file: a cubin, or an object for the linker.
    Elf,
    /// PTX text, ended by a NUL. Also the guess for any other text: the loader reports INVALID_PTX or
    /// INVALID_IMAGE, by rules of its own.
    Ptx,
    /// Intermediate code for link-time optimisation. Only the linker takes it, with an explicit size.
    LtoIr,
    /// An `ar` archive of objects. Only the linker takes it, with an explicit size.
    Archive,
}

/// Names the kind of an image that begins with `first`.
///
/// Four bytes decide; fewer are enough where the image is a text shorter than that.
///
/// # Errors
/// [`FatbinError::UnknownImage`] when no image begins so. The driver answers INVALID_IMAGE to such bytes,
/// and to an empty text and one with a byte order mark, which are unknown here too.
pub fn image_kind(first: &[u8]) -> Result<ImageKind, FatbinError> {
    if let Some(&magic) = first.first_chunk::<4>() {
        match u32::from_le_bytes(magic) {
            WRAPPER_MAGIC => return Ok(ImageKind::Wrapper),
            CONTAINER_MAGIC => return Ok(ImageKind::Container),
            LTO_IR_MAGIC => return Ok(ImageKind::LtoIr),
            _ => {}
        }
        match magic {
            ELF_MAGIC => return Ok(ImageKind::Elf),
            ARCHIVE_MAGIC => return Ok(ImageKind::Archive),
            _ => {}
        }
    }
    let first = &first[..first.len().min(4)];
    if begins_like_text(first) {
        return Ok(ImageKind::Ptx);
    }
    let mut shown = [0; 4];
    shown[..first.len()].copy_from_slice(first);
    Err(FatbinError::UnknownImage { first: shown })
}

/// Text starts with a printable character or white space; later bytes may be UTF-8 (a comment), but no
/// control characters. A NUL ends it.
fn begins_like_text(first: &[u8]) -> bool {
    let is_space = |byte: u8| (b'\t'..=b'\r').contains(&byte);
    let text = first.split(|&byte| byte == 0).next().unwrap_or_default();
    text.first().is_some_and(|&byte| is_space(byte) || (0x20..0x7f).contains(&byte))
        && text.iter().all(|&byte| is_space(byte) || (byte >= 0x20 && byte != 0x7f))
}
