//! The tools' view of modules and functions. The maths libraries ask for the table on some paths; no
//! program has been seen to need a slot of it, so every slot reports its use.

use super::{Table, slots, uuid};

pub(super) const UUID: [u8; 16] = uuid(0x6e163fbe_b958_444d_835c_e182aff1991e);

pub(super) static TABLE: Table<99> = Table(slots!(0x6e163fbe, 99));
