//! Cubins, NVIDIA's machine code in ELF files: which kernels they hold and how those are called.
//!
//! The code itself is never looked at, for nothing here could run it. The names are read when a cubin is
//! opened and the rest of a kernel when somebody asks for it, because libraries bring tens of thousands.
//! Nothing in a file is believed: what does not fit is an error or left out, never a panic.

use std::collections::HashMap;
use std::sync::OnceLock;

use object::LittleEndian as Le;
use object::elf::{FileHeader64, SHN_UNDEF, SHT_NOBITS, SHT_SYMTAB, STT_FUNC, STT_OBJECT};
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};
use softgpu_ptx::{Global, Param, Space};

use crate::attributes::{MAX_THREADS_PER_BLOCK, SHARED_RESERVED_PER_BLOCK};
use crate::program::Kernel;

/// The type of a section with attributes.
const SHT_INFO: u32 = 0x7000_0000;
/// Marks the symbol of a kernel, as opposed to that of a function that kernels call.
const STO_ENTRY: u8 = 0x10;
/// What a kernel uses of registers if its cubin does not say.
const REGISTERS: u32 = 32;
/// Size of an ELF header, and of a row of the two tables it points to.
const HEADER: usize = 64;
const SECTION_ROW: u64 = 64;
const SEGMENT_ROW: u64 = 56;

/// Attributes, by their numbers in the sections of [`SHT_INFO`].
mod attribute {
    pub(super) const MAX_THREADS: u8 = 0x05;
    pub(super) const REQUIRED_THREADS: u8 = 0x10;
    pub(super) const FRAME_SIZE: u8 = 0x11;
    pub(super) const PARAM: u8 = 0x17;
    pub(super) const PARAM_BYTES: u8 = 0x19;
    pub(super) const REGISTERS: u8 = 0x2F;
    pub(super) const CLUSTER: u8 = 0x3D;
    pub(super) const PARAM_LONG: u8 = 0x45;
}

/// The cubins of an image, of which the names are known.
#[derive(Debug, Default)]
pub(crate) struct Cubins {
    files: Vec<Vec<u8>>,
    by_name: HashMap<String, usize>,
    entries: Vec<Entry>,
    globals: Vec<Global>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    file: usize,
    /// Where its attributes are in the file.
    info: (usize, usize),
    shared: usize,
    registers: u32,
    frame: u32,
    kernel: OnceLock<Kernel>,
}

impl Cubins {
    /// Lists what is in some files. One that is no cubin counts as empty, and of two kernels or variables
    /// with the same name the first.
    pub(crate) fn open(files: impl Iterator<Item = Vec<u8>>) -> Cubins {
        let mut all = Cubins::default();
        for bytes in files {
            let (entries, globals) = index(&bytes, all.files.len()).unwrap_or_default();
            for entry in entries {
                if !all.by_name.contains_key(&entry.name) {
                    all.by_name.insert(entry.name.clone(), all.entries.len());
                    all.entries.push(entry);
                }
            }
            all.globals.extend(globals);
            all.files.push(bytes);
        }
        all
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        let entry = self.entries.get(*self.by_name.get(name)?)?;
        Some(entry.kernel.get_or_init(|| {
            let (start, len) = entry.info;
            let file = self.files.get(entry.file).map_or(&[][..], Vec::as_slice);
            entry.read(start.checked_add(len).and_then(|end| file.get(start..end)).unwrap_or_default())
        }))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    pub(crate) fn globals(&self) -> &[Global] {
        &self.globals
    }
}

impl Entry {
    fn read(&self, info: &[u8]) -> Kernel {
        let mut params = Vec::new();
        let mut param_bytes = 0;
        let (mut max_threads, mut required_block, mut required_cluster) = (None, None, None);
        for (number, value) in Attributes(info) {
            match number {
                attribute::PARAM | attribute::PARAM_LONG => params.extend(param(number, value)),
                attribute::PARAM_BYTES => param_bytes = half(value, 0).map_or(0, usize::from),
                attribute::MAX_THREADS => max_threads = three(value),
                attribute::REQUIRED_THREADS => required_block = three(value),
                attribute::CLUSTER => required_cluster = three(value),
                _ => (),
            }
        }
        params.sort_by_key(|(ordinal, _)| *ordinal);
        let params: Vec<Param> = params.into_iter().map(|(_, param)| param).collect();
        let end = params.iter().map(|param| param.offset + param.size).max().unwrap_or(0);
        let threads = |size: [u32; 3]| size.iter().fold(1, |all: u32, size| all.saturating_mul(*size));
        Kernel {
            param_bytes: end.max(param_bytes),
            params,
            // The section counts what the system keeps of every block's memory.
            static_shared: self.shared.saturating_sub(SHARED_RESERVED_PER_BLOCK as usize),
            local_bytes: self.frame as usize,
            max_threads: required_block.or(max_threads).map_or(MAX_THREADS_PER_BLOCK, threads),
            required_block,
            required_cluster,
            num_regs: self.registers,
        }
    }
}

/// A parameter and which one it is.
fn param(number: u8, value: &[u8]) -> Option<(u32, Param)> {
    if number == attribute::PARAM {
        let (ordinal, offset) = (half(value, 4)?.into(), half(value, 6)?.into());
        let size = (word(value, 8)? >> 18) as usize;
        return Some((ordinal, Param { offset, size, align: 1 }));
    }
    // Where half a word does not hold the offset or fourteen bits the size.
    let (ordinal, offset) = (half(value, 4)?.into(), word(value, 8)? as usize);
    Some((ordinal, Param { offset, size: word(value, 12)? as usize, align: 1 }))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn three(bytes: &[u8]) -> Option<[u32; 3]> {
    Some([word(bytes, 0)?, word(bytes, 4)?, word(bytes, 8)?])
}

/// The attributes in a section: number and value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let [format, number, low, high] = *head;
        // Only the last format has more than the two bytes that each has; there they are the length.
        if format == 4 {
            let (value, rest) = rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
            self.0 = rest;
            return Some((number, value));
        }
        let value = self.0.get(2..4)?;
        self.0 = rest;
        Some((number, value))
    }
}

/// What the sections say that belong to the code in one of them.
#[derive(Clone, Copy, Default)]
struct About {
    info: (usize, usize),
    shared: usize,
}

fn index(bytes: &[u8], file: usize) -> Option<(Vec<Entry>, Vec<Global>)> {
    let header = FileHeader64::<Le>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, bytes).ok()?;
    let symbols = sections.symbols(endian, bytes, SHT_SYMTAB).ok()?;
    let mut about: HashMap<usize, About> = HashMap::new();
    // By symbol: registers and frame.
    let mut needs: HashMap<u32, (u32, u32)> = HashMap::new();
    for section in sections.iter() {
        let place = section.sh_info(endian) as usize;
        let size = usize::try_from(section.sh_size(endian)).ok()?;
        if section.sh_type(endian) == SHT_INFO {
            if place == 0 {
                read_needs(section.data(endian, bytes).ok()?, &mut needs);
            } else {
                about.entry(place).or_default().info =
                    (usize::try_from(section.sh_offset(endian)).ok()?, size);
            }
        } else if place != 0 && sections.section_name(endian, section).ok()?.starts_with(b".nv.shared.") {
            about.entry(place).or_default().shared = size;
        }
    }
    let (mut entries, mut globals) = (Vec::new(), Vec::new());
    for (number, symbol) in symbols.enumerate() {
        let section = usize::from(symbol.st_shndx(endian));
        if symbol.st_shndx(endian) == SHN_UNDEF {
            continue;
        }
        let section =
            symbols.symbol_section(endian, symbol, number).ok().flatten().map_or(section, |at| at.0);
        let name = || String::from_utf8(symbol.name(endian, symbols.strings()).ok()?.to_vec()).ok();
        match symbol.st_type() {
            STT_FUNC if symbol.st_other() & STO_ENTRY != 0 => {
                let About { info, shared } = about.get(&section).copied().unwrap_or_default();
                let number = u32::try_from(number.0).ok()?;
                let (registers, frame) = needs.get(&number).copied().unwrap_or((REGISTERS, 0));
                entries.push(Entry {
                    name: name()?,
                    file,
                    info,
                    shared,
                    registers,
                    frame,
                    kernel: OnceLock::new(),
                });
            }
            STT_OBJECT => {
                let offset = usize::try_from(symbol.st_value(endian)).ok()?;
                let size = usize::try_from(symbol.st_size(endian)).ok()?;
                globals.extend(global(&sections, bytes, section, name()?, offset, size));
            }
            _ => (),
        }
    }
    Some((entries, globals))
}

fn read_needs(info: &[u8], needs: &mut HashMap<u32, (u32, u32)>) {
    for (number, value) in Attributes(info) {
        let (Some(symbol), Some(value)) = (word(value, 0), word(value, 4)) else { continue };
        match number {
            attribute::REGISTERS => needs.entry(symbol).or_insert((REGISTERS, 0)).0 = value,
            attribute::FRAME_SIZE => needs.entry(symbol).or_insert((REGISTERS, 0)).1 = value,
            _ => (),
        }
    }
}

/// A variable, if the section is one for variables. Addresses in initial values are left out.
fn global(
    sections: &SectionTable<'_, FileHeader64<Le>>,
    bytes: &[u8],
    section: usize,
    name: String,
    offset: usize,
    size: usize,
) -> Option<Global> {
    let section = sections.section(object::SectionIndex(section)).ok()?;
    let space = match sections.section_name(Le, section).ok()? {
        b".nv.global" | b".nv.global.init" => Space::Global,
        b".nv.constant3" => Space::Const,
        _ => return None,
    };
    let end = offset.checked_add(size)?;
    if end as u64 > section.sh_size(Le) {
        return None;
    }
    let init = if section.sh_type(Le) == SHT_NOBITS {
        Vec::new()
    } else {
        section.data(Le, bytes).ok()?.get(offset..end)?.to_vec()
    };
    let relocs = Vec::new();
    Some(Global {
        name,
        size,
        align: 256,
        space,
        init,
        relocs,
        visible: true,
        external: false,
        managed: false,
    })
}

/// How many bytes the file at an address has.
///
/// # Safety
/// There must be a whole ELF file.
pub(crate) unsafe fn extent(address: *const u8) -> Option<usize> {
    // SAFETY: what is read is in the header or in the table of sections that the header points to.
    let bytes = |at: u64, len: usize| unsafe {
        Some(std::slice::from_raw_parts(address.wrapping_add(usize::try_from(at).ok()?), len))
    };
    let header = bytes(0, HEADER)?;
    let (segments_at, sections_at) = (long(header, 32)?, long(header, 40)?);
    let (segments, count) = (u64::from(half(header, 56)?), u64::from(half(header, 60)?));
    let mut rows = count;
    let mut end = (HEADER as u64).max(segments_at.checked_add(segments * SEGMENT_ROW)?);
    let mut at = 0;
    while sections_at != 0 && at < rows.max(1) {
        let row = bytes(sections_at.checked_add(at * SECTION_ROW)?, HEADER)?;
        if at == 0 && count == 0 {
            // Too many for the header.
            rows = long(row, 32)?;
        }
        if at != 0 && word(row, 4)? != SHT_NOBITS {
            end = end.max(long(row, 24)?.checked_add(long(row, 32)?)?);
        }
        at += 1;
    }
    usize::try_from(end.max(sections_at.checked_add(rows.checked_mul(SECTION_ROW)?)?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let (name, kernel) = ("kernel".to_owned(), OnceLock::new());
        Entry { name, file: 0, info: (0, 0), shared: 3072, registers: 10, frame: 8, kernel }
    }

    fn attribute(number: u8, words: &[u32]) -> Vec<u8> {
        let mut bytes = vec![4, number, (words.len() * 4) as u8, 0];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// As a compiler writes it: the last parameter first, and attributes of other formats in between.
    fn info() -> Vec<u8> {
        let mut bytes = attribute(0x37, &[0x82]);
        bytes.extend(attribute(attribute::PARAM, &[0, 1 | 32 << 16, 0x0021_F000]));
        bytes.extend(attribute(attribute::PARAM, &[0, 0, 0x0081_F000]));
        bytes.extend([2, 0x4C, 1, 0, 3, 0x19, 40, 0, 1, 0x3E, 0, 0]);
        bytes.extend(attribute(attribute::MAX_THREADS, &[64, 4, 1]));
        bytes.extend(attribute(attribute::CLUSTER, &[2, 1, 1]));
        bytes
    }

    #[test]
    fn attributes_of_a_kernel_are_read() {
        let kernel = entry().read(&info());
        let params: Vec<_> = kernel.params.iter().map(|param| (param.offset, param.size)).collect();
        assert_eq!(params, [(0, 32), (32, 8)]);
        assert_eq!((kernel.param_bytes, kernel.static_shared, kernel.max_threads), (40, 2048, 256));
        assert_eq!(kernel.required_cluster, Some([2, 1, 1]));
    }

    #[test]
    fn damage_is_survived() {
        let info = info();
        for cut in 0..info.len() {
            let _ = entry().read(&info[..cut]);
        }
        for file in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01\x01", &[0; 64]] {
            assert_eq!(Cubins::open([file.to_vec()].into_iter()).names().count(), 0);
        }
    }
}
