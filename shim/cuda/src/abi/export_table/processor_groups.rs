//! A table that cuBLASLt asks for when it plans cluster launches on Hopper. Its slot 4 writes, through two
//! pointers, where a byte for each pair of multiprocessors lies. A caller that is refused there plans without
//! them; one that gets no table at all does not check, and crashes. So there is a table, and it refuses.

use super::{Slot, Table, slots, uuid};
use crate::abi::{result::CUDA_ERROR_NOT_SUPPORTED, types::CUresult};

pub(super) const UUID: [u8; 16] = uuid(0x1734dc26_800d_4745_8726_c0f1e7dd8bca);

/// As many slots as its caller can reach are filled; the real table's size is not known.
const SLOTS: usize = 16;

/// Expected, so not reported: see above.
extern "C" fn no_groups() -> CUresult {
    CUDA_ERROR_NOT_SUPPORTED
}

pub(super) static TABLE: Table<SLOTS> = Table({
    let mut table: [Slot; SLOTS] = slots!(0x1734dc26, 16);
    table[4] = Slot::function(no_groups as *const _);
    table
});
