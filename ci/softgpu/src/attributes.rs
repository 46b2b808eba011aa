//! Device attributes: a compute capability 9.0 card with few multiprocessors and no features that
//! this library lacks. The numbers are those of `CUdevice_attribute`.

use crate::device::Device;
use crate::faults;

pub(crate) const MAJOR: i32 = 9;
pub(crate) const MINOR: i32 = 0;
pub(crate) const WARP: u32 = 32;
pub(crate) const MAX_THREADS_PER_BLOCK: u32 = 1024;
pub(crate) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub(crate) const MAX_GRID: [u32; 3] = [0x7FFF_FFFF, 65535, 65535];
pub(crate) const SHARED_PER_BLOCK: u32 = 49152;
pub(crate) const SHARED_PER_BLOCK_OPTIN: u32 = 232_448;
pub(crate) const SHARED_PER_MULTIPROCESSOR: u32 = 233_472;
pub(crate) const SHARED_RESERVED_PER_BLOCK: u32 = 1024;
pub(crate) const THREADS_PER_MULTIPROCESSOR: u32 = 2048;
pub(crate) const BLOCKS_PER_MULTIPROCESSOR: u32 = 32;
pub(crate) const REGISTERS: u32 = 65536;

/// Few, since the interpreter is slow; but libraries of machine code choose their kernels by this
/// number and have some for the cards that exist.
pub(crate) fn multiprocessors() -> u32 {
    if faults::config().machine_code { 132 } else { 4 }
}

/// The value of an attribute, or `None` for a number that cuda.h 13.0 does not know.
pub(crate) fn value(device: &Device, attribute: i32) -> Option<i32> {
    let value = match attribute {
        1 => MAX_THREADS_PER_BLOCK,
        2..=4 => MAX_BLOCK[usize::try_from(attribute - 2).unwrap_or(0)],
        5..=7 => MAX_GRID[usize::try_from(attribute - 5).unwrap_or(0)],
        8 => SHARED_PER_BLOCK,
        9 => 65536,
        10 => WARP,
        11 => 0x7FFF_FFFF,
        12 | 82 => REGISTERS,
        13 => 1_980_000,
        14 | 30 => 512,
        15 => 1,
        16 => multiprocessors(),
        19 => 1,
        21 | 22 | 42 | 45 | 55 | 56 | 58 | 61 | 63 | 73 => 32768,
        23 | 27 | 28 | 46 | 57 | 59 | 62 | 64 | 74 | 77 => 32768,
        24..=26 | 47..=49 | 60 => 16384,
        29 | 43 | 54 | 65 | 68 => 2046,
        31 => 1,
        32 => 1,
        33 => return Some(device.bus()),
        36 => 2_619_000,
        37 => 5120,
        38 => 52_428_800,
        39 => THREADS_PER_MULTIPROCESSOR,
        40 => 3,
        41 => 1,
        44 => 1,
        51 => 32,
        52 | 53 | 66 | 67 => 32768,
        69 => 1 << 28,
        70 => 131_072,
        71 => 65000,
        72 => 2_097_120,
        75 => return Some(MAJOR),
        76 => return Some(MINOR),
        78..=80 => 1,
        81 => SHARED_PER_MULTIPROCESSOR,
        85 => device.ordinal,
        87 => 2,
        90 => 1,
        91 => 1,
        // Stream memory operations, first and second interface.
        92..=94 | 122 | 123 => 1,
        95 => 1,
        97 => SHARED_PER_BLOCK_OPTIN,
        98 => 0,
        99 => 1,
        102 => 1,
        106 => BLOCKS_PER_MULTIPROCESSOR,
        108 => 32_768_000,
        109 => 134_213_632,
        111 => SHARED_RESERVED_PER_BLOCK,
        113 => 1,
        115 => 1,
        120 => 1,
        126 => 4,
        // Tensor maps.
        127 => u32::from(faults::config().machine_code),
        129 => 1,
        130 => 0,
        131 | 134 => return Some(-1),
        139 => 0x2330_10DE,
        140 => 0x0001_F05E,
        // Everything else that exists is absent: textures of odd kinds, managed memory, pageable
        // access, native host atomics, exportable handles, GPUDirect, tensor maps.
        _ if (1..=147).contains(&attribute) => 0,
        _ => return None,
    };
    Some(value.cast_signed())
}
