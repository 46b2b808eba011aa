//! How long an image is, found from the image itself.

use super::container::ContainerHeader;
use super::elf;
use super::error::FatbinError;
use super::kind::{ImageKind, image_kind};
use super::source::{ByteSource, read_record};
use super::wrapper::Wrapper;

/// The largest image this reader accepts: 4 GiB. Libraries ship containers of some hundred megabytes;
/// a size far beyond that is a sign of garbage, and believing it would mean reading wild memory.
pub const MAX_IMAGE_BYTES: u64 = 1 << 32;

/// The longest PTX text this reader accepts, with its NUL: 1 GiB.
pub const MAX_PTX_BYTES: usize = 1 << 30;

/// The exact number of bytes of the image at the start of `source`.
///
/// For a wrapper it is the length of the wrapper itself, which holds the *address* of the container:
/// measure that separately. For PTX it counts the terminating NUL.
///
/// # Errors
/// The image is of no known kind, contradicts itself, is larger than [`MAX_IMAGE_BYTES`] (PTX:
/// [`MAX_PTX_BYTES`]), cannot be read, or is of a kind without a length ([`FatbinError::NoLength`]).
pub fn image_length<S: ByteSource + ?Sized>(source: &S) -> Result<usize, FatbinError> {
    match image_kind(&first_bytes(source)?)? {
        ImageKind::Wrapper => Ok(Wrapper::BYTES),
        ImageKind::Container => {
            let header: ContainerHeader = read_record(source, 0, "container header")?;
            bounded("container", 8, header.total()?)
        }
        ImageKind::Elf => bounded("ELF image", 0, elf::extent(source)?),
        ImageKind::Ptx => match source.find_nul(0, MAX_PTX_BYTES) {
            Some(nul) => Ok(nul + 1),
            None => Err(FatbinError::Unterminated { searched: MAX_PTX_BYTES }),
        },
        kind @ (ImageKind::LtoIr | ImageKind::Archive) => Err(FatbinError::NoLength { kind }),
    }
}

/// Up to four bytes, but none beyond a NUL: a very short text may lie at the end of its page.
fn first_bytes<S: ByteSource + ?Sized>(source: &S) -> Result<Vec<u8>, FatbinError> {
    let mut first = Vec::with_capacity(4);
    let mut byte = [0_u8];
    while first.len() < 4 {
        if !source.read(first.len(), &mut byte) {
            break;
        }
        first.push(byte[0]);
        if byte[0] == 0 {
            break;
        }
    }
    if first.is_empty() {
        return Err(FatbinError::Unreadable { what: "image", offset: 0, needed: 1 });
    }
    Ok(first)
}

fn bounded(what: &'static str, offset: usize, size: u64) -> Result<usize, FatbinError> {
    let too_large = FatbinError::TooLarge { what, offset, size, limit: MAX_IMAGE_BYTES };
    match usize::try_from(size) {
        Ok(length) if size <= MAX_IMAGE_BYTES => Ok(length),
        _ => Err(too_large),
    }
}
