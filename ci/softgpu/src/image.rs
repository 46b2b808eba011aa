//! Kernel images: finds the code in what a program hands to the driver.
//!
//! Images come without a length, as pointers; how far they reach is in their headers. Only PTX can be
//! executed here: an image with machine code alone has nothing for this device, unless kernels that do
//! nothing were asked for.

use std::borrow::Cow;
use std::ffi::{CStr, c_char};
use std::io::Read;

use crate::attributes::{MAJOR, MINOR};
use crate::cubin;
use crate::errors::{Code, Res};
use crate::faults;

const WRAPPER: u32 = 0x4662_43B1;
const CONTAINER: u32 = 0xBA55_ED50;
const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");
const PTX_ENTRY: u16 = 1;
const ELF_ENTRY: u16 = 2;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// No PTX is larger; a length beyond this is damage.
const LARGEST: usize = 1 << 30;

/// The code of an image that suits this device.
#[derive(Debug, PartialEq)]
pub(crate) enum Image {
    Ptx(String),
    /// Cubins, as they lie in a container or alone.
    Machine(Vec<Packed>),
}

/// The contents of an entry, still as they were in the image.
#[derive(Debug, PartialEq)]
pub(crate) struct Packed {
    payload: Vec<u8>,
    flags: u64,
    uncompressed: usize,
}

impl Packed {
    pub(crate) fn contents(&self) -> Option<Vec<u8>> {
        unpack(&self.payload, self.flags, self.uncompressed).map(Cow::into_owned)
    }
}

/// The code at an address that a program passed.
pub(crate) fn at(image: u64) -> Res<Image> {
    if image == 0 {
        return Err(Code::INVALID_VALUE);
    }
    match first_word(image) {
        WRAPPER => {
            // SAFETY: a wrapper has three words; the second is the container's address.
            let container = unsafe { ((image + 8) as *const u64).read_unaligned() };
            if container == 0 { Err(Code::INVALID_IMAGE) } else { at(container) }
        }
        CONTAINER => {
            // SAFETY: the header is there, and after it as much as it says.
            let bytes = unsafe {
                let header = usize::from(((image + 6) as *const u16).read_unaligned());
                let len = usize::try_from(((image + 8) as *const u64).read_unaligned());
                let len = len.ok().filter(|len| *len < LARGEST).ok_or(Code::INVALID_IMAGE)?;
                std::slice::from_raw_parts(image as *const u8, header + len)
            };
            from_container(bytes, faults::config().machine_code)
        }
        ELF if faults::config().machine_code => {
            // SAFETY: a file that begins like this has a header, and after it what the header says.
            let bytes = unsafe {
                let len = cubin::extent(image as *const u8).filter(|len| *len < LARGEST);
                std::slice::from_raw_parts(image as *const u8, len.ok_or(Code::INVALID_IMAGE)?)
            };
            Ok(alone(bytes))
        }
        ELF => Err(Code::NO_BINARY_FOR_GPU),
        _ => {
            // SAFETY: what is none of the above is text that ends in NUL.
            let text = unsafe { CStr::from_ptr(image as *const c_char) };
            as_ptx(text.to_bytes()).map(Image::Ptx)
        }
    }
}

/// The same, for the functions that load a module: they take no wrapper, as NVIDIA's do not.
pub(crate) fn bare_at(image: u64) -> Res<Image> {
    if image != 0 && first_word(image) == WRAPPER { Err(Code::INVALID_IMAGE) } else { at(image) }
}

/// The code in a file's contents.
pub(crate) fn of_file(mut bytes: Vec<u8>) -> Res<Image> {
    bytes.push(0);
    match bytes.first_chunk().map(|word| u32::from_le_bytes(*word)) {
        Some(CONTAINER) => from_container(&bytes, faults::config().machine_code),
        Some(ELF) if faults::config().machine_code => Ok(alone(&bytes)),
        Some(ELF) => Err(Code::NO_BINARY_FOR_GPU),
        _ => as_ptx(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).map(Image::Ptx),
    }
}

fn alone(bytes: &[u8]) -> Image {
    Image::Machine(vec![Packed { payload: bytes.to_vec(), flags: 0, uncompressed: 0 }])
}

/// Reads the first four bytes, or fewer if a NUL comes first.
fn first_word(image: u64) -> u32 {
    let mut word = [0; 4];
    for (index, byte) in word.iter_mut().enumerate() {
        // SAFETY: every image has a first byte, and text goes on until its NUL.
        *byte = unsafe { ((image + index as u64) as *const u8).read() };
        if *byte == 0 {
            break;
        }
    }
    u32::from_le_bytes(word)
}

fn as_ptx(bytes: &[u8]) -> Res<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| Code::INVALID_IMAGE)?;
    // NVIDIA's compilers begin with comments; anything that is no PTX has no version line.
    if text.contains(".version") { Ok(text.to_owned()) } else { Err(Code::INVALID_IMAGE) }
}

/// One entry of a container.
struct Entry<'a> {
    kind: u16,
    sm: u32,
    payload: &'a [u8],
    flags: u64,
    compressed: usize,
    uncompressed: usize,
}

/// The machine code of this device's architecture if that is accepted and there is any, else the PTX.
fn from_container(bytes: &[u8], machine_code: bool) -> Res<Image> {
    let entries = entries(bytes).ok_or(Code::INVALID_IMAGE)?;
    let suits = |entry: &&Entry<'_>| {
        entry.kind == ELF_ENTRY && (MAJOR * 10..=MAJOR * 10 + MINOR).contains(&entry.sm.cast_signed())
    };
    let machine: Vec<Packed> =
        entries.iter().filter(|_| machine_code).filter(suits).filter_map(Entry::packed).collect();
    if machine.is_empty() { newest_ptx(&entries).map(Image::Ptx) } else { Ok(Image::Machine(machine)) }
}

/// The PTX for the newest architecture that is not newer than this device. Failing that, for the
/// oldest that is: a card would refuse it, but the interpreter does not mind, and libraries often
/// carry PTX for the latest architecture alone.
fn newest_ptx(entries: &[Entry<'_>]) -> Res<String> {
    let own = (MAJOR * 10 + MINOR).cast_unsigned();
    let ptx = || entries.iter().filter(|entry| entry.kind == PTX_ENTRY);
    let best = ptx().filter(|entry| entry.sm <= own).max_by_key(|entry| entry.sm);
    let best = best.or_else(|| ptx().min_by_key(|entry| entry.sm));
    let entry = best.ok_or(Code::NO_BINARY_FOR_GPU)?;
    let packed = entry.data().ok_or(Code::INVALID_IMAGE)?;
    let text = unpack(packed, entry.flags, entry.uncompressed).ok_or(Code::INVALID_IMAGE)?;
    as_ptx(text.split(|byte| *byte == 0).next().unwrap_or_default())
}

fn entries(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    let header = usize::from(u16::from_le_bytes(*bytes.get(6..)?.first_chunk()?));
    let len = usize::try_from(u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?)).ok()?;
    let mut rest = bytes.get(header..header.checked_add(len)?)?;
    let mut found = Vec::new();
    while rest.len() >= 64 {
        let word = |at: usize| Some(u32::from_le_bytes(*rest.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*rest.get(at..)?.first_chunk()?));
        let header = usize::try_from(word(4)?).ok()?;
        let padded = usize::try_from(long(8)?).ok()?;
        let end = header.checked_add(padded)?;
        if header < 64 {
            return None;
        }
        found.push(Entry {
            kind: u16::from_le_bytes(*rest.first_chunk()?),
            sm: word(28)?,
            payload: rest.get(header..end)?,
            flags: long(40)?,
            compressed: usize::try_from(word(16)?).ok()?,
            uncompressed: usize::try_from(long(56)?).ok()?,
        });
        rest = rest.get(end..)?;
    }
    Some(found)
}

impl<'a> Entry<'a> {
    /// The payload without its padding, as far as that is known.
    fn data(&self) -> Option<&'a [u8]> {
        if self.flags & (LZ4 | ZSTD) == 0 || self.compressed == 0 {
            return Some(self.payload);
        }
        self.payload.get(..self.compressed)
    }

    fn packed(&self) -> Option<Packed> {
        Some(Packed { payload: self.data()?.to_vec(), flags: self.flags, uncompressed: self.uncompressed })
    }
}

fn unpack(packed: &[u8], flags: u64, uncompressed: usize) -> Option<Cow<'_, [u8]>> {
    if flags & (LZ4 | ZSTD) == 0 {
        return Some(Cow::Borrowed(packed));
    }
    if uncompressed > LARGEST {
        return None;
    }
    if flags & LZ4 != 0 {
        return lz4_flex::block::decompress(packed, uncompressed).ok().map(Cow::Owned);
    }
    let mut text = Vec::new();
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).ok()?;
    decoder.take(LARGEST as u64).read_to_end(&mut text).ok()?;
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &[u8] = b"//\n.version 8.0\n.target sm_90\n\0";

    fn entry(kind: u16, sm: u32, payload: &[u8], flags: u64, uncompressed: usize) -> Vec<u8> {
        let padded = payload.len().next_multiple_of(8);
        let mut bytes = vec![0; 64 + padded];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        if flags != 0 {
            bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        }
        bytes[28..32].copy_from_slice(&sm.to_le_bytes());
        bytes[40..48].copy_from_slice(&flags.to_le_bytes());
        bytes[56..64].copy_from_slice(&(uncompressed as u64).to_le_bytes());
        bytes[64..64 + payload.len()].copy_from_slice(payload);
        bytes
    }

    fn container(entries: &[Vec<u8>]) -> Vec<u8> {
        let files = entries.concat();
        let mut bytes = CONTAINER.to_le_bytes().to_vec();
        bytes.extend([1, 0, 16, 0]);
        bytes.extend((files.len() as u64).to_le_bytes());
        bytes.extend(files);
        bytes
    }

    fn ptx(image: &[u8]) -> String {
        match from_container(image, false).unwrap() {
            Image::Ptx(text) => text,
            Image::Machine(_) => panic!("machine code was not asked for"),
        }
    }

    #[test]
    fn plain_and_lz4_entries_are_found() {
        let lz4 = lz4_flex::block::compress(PTX);
        for image in [
            container(&[entry(2, 90, b"\x7fELF", 0, 0), entry(PTX_ENTRY, 90, PTX, 0, 0)]),
            container(&[entry(PTX_ENTRY, 80, &lz4, LZ4, PTX.len())]),
        ] {
            assert!(ptx(&image).starts_with("//\n.version"));
        }
    }

    #[test]
    fn machine_code_alone_is_refused() {
        let image = container(&[entry(2, 90, b"\x7fELF", 0, 0)]);
        assert_eq!(from_container(&image, false), Err(Code::NO_BINARY_FOR_GPU));
    }

    #[test]
    fn machine_code_goes_before_ptx_if_it_is_accepted() {
        let elf = b"\x7fELF....";
        let ptx = entry(PTX_ENTRY, 90, PTX, 0, 0);
        let image = container(&[ptx.clone(), entry(2, 80, b"older...", 0, 0), entry(2, 90, elf, 0, 0)]);
        assert_eq!(from_container(&image, true), Ok(alone(elf)));
        let image = container(&[ptx, entry(2, 100, elf, 0, 0)]);
        assert!(matches!(from_container(&image, true), Ok(Image::Ptx(_))));
    }

    #[test]
    fn ptx_for_this_device_is_preferred_to_newer() {
        let other = |name: &str| format!("// {name}\n.version 8.0\n\0").into_bytes();
        let (old, own, new) = (other("old"), other("own"), other("new"));
        let [old, own, new] =
            [(80, old), (90, own), (100, new)].map(|(sm, ptx)| entry(PTX_ENTRY, sm, &ptx, 0, 0));
        let image = container(&[new.clone(), own, old]);
        assert!(ptx(&image).starts_with("// own"));
        assert!(ptx(&container(&[new])).starts_with("// new"));
    }

    #[test]
    fn damage_is_an_error() {
        let whole = container(&[entry(PTX_ENTRY, 90, PTX, LZ4, PTX.len())]);
        for cut in 0..whole.len() {
            assert!(from_container(&whole[..cut], false).is_err());
        }
    }
}
