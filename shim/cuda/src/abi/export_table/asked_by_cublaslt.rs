//! A table that cuBLASLt asks for while it chooses an algorithm on Hopper. It does not check whether it got one,
//! and calls slot 4; refused there, it goes on without. So there is a table, and it refuses.

use super::{Slot, Table, slots, uuid};
use crate::abi::{result::CUDA_ERROR_NOT_SUPPORTED, types::CUresult};

pub(super) const UUID: [u8; 16] = uuid(0x1734dc26_800d_4745_8726_c0f1e7dd8bca);

/// As many slots as its caller can reach are filled; the real table's size is not known.
const SLOTS: usize = 16;

/// Expected, so not reported: see above.
extern "C" fn refused() -> CUresult {
    CUDA_ERROR_NOT_SUPPORTED
}

pub(super) static TABLE: Table<SLOTS> = Table({
    let mut table: [Slot; SLOTS] = slots!(0x1734dc26, 16);
    table[4] = Slot::function(refused as *const _);
    table
});
