//! Stream memory operations: a stream waits for a word of memory, or writes one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::abi::{CUstreamBatchMemOpParams, In};
use crate::context::{Context, Health};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::space;
use crate::stream;
use crate::work::Work;

/// Looks at memory that many times before the waiting thread begins to sleep between looks.
const EAGER_LOOKS: u32 = 2000;
const PAUSE: Duration = Duration::from_micros(20);

#[derive(Clone, Copy)]
pub(crate) enum MemOp {
    Wait {
        address: u64,
        width: Width,
        value: u64,
        condition: Condition,
    },
    Write {
        address: u64,
        width: Width,
        value: u64,
    },
    /// A flush or a barrier: memory is coherent here.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Four,
    Eight,
}

#[derive(Clone, Copy)]
pub(crate) enum Condition {
    /// At or past the value, on a counter that wraps.
    AtLeast,
    Equal,
    And,
    Nor,
}

impl Width {
    fn bytes(self) -> u64 {
        if self == Width::Four { 4 } else { 8 }
    }

    /// The word at an address that has been checked.
    fn load(self, address: u64) -> u64 {
        // SAFETY: the caller has just found the aligned word in the address map. A program that frees
        // memory on which a stream waits has no promise from any driver.
        unsafe {
            match self {
                Width::Four => u64::from((*(address as *const AtomicU32)).load(Ordering::Acquire)),
                Width::Eight => (*(address as *const AtomicU64)).load(Ordering::Acquire),
            }
        }
    }

    fn store(self, address: u64, value: u64) {
        // SAFETY: as for `load`.
        unsafe {
            match self {
                Width::Four => (*(address as *const AtomicU32)).store(value as u32, Ordering::Release),
                Width::Eight => (*(address as *const AtomicU64)).store(value, Ordering::Release),
            }
        }
    }
}

impl Condition {
    fn holds(self, width: Width, seen: u64, value: u64) -> bool {
        match (self, width) {
            (Condition::AtLeast, Width::Four) => (seen as u32).wrapping_sub(value as u32).cast_signed() >= 0,
            (Condition::AtLeast, Width::Eight) => seen.wrapping_sub(value).cast_signed() >= 0,
            (Condition::Equal, _) => seen == value,
            (Condition::And, _) => seen & value != 0,
            (Condition::Nor, Width::Four) => !(seen as u32 | value as u32) != 0,
            (Condition::Nor, Width::Eight) => !(seen | value) != 0,
        }
    }
}

pub(crate) fn run(ops: &[MemOp], health: &Health) -> Res {
    for op in ops {
        match *op {
            MemOp::Nothing => {}
            MemOp::Write { address, width, value } => {
                let map = space::map();
                if !space::mapped(&map, address, width.bytes()) {
                    return Err(Code::ILLEGAL_ADDRESS);
                }
                width.store(address, value);
            }
            MemOp::Wait { address, width, value, condition } => {
                let mut looks = 0u32;
                loop {
                    let map = space::map();
                    if !space::mapped(&map, address, width.bytes()) {
                        return Err(Code::ILLEGAL_ADDRESS);
                    }
                    if condition.holds(width, width.load(address), value) {
                        break;
                    }
                    if health.stopped() {
                        return Ok(());
                    }
                    looks = looks.saturating_add(1);
                    match looks {
                        0..=100 => std::hint::spin_loop(),
                        101..=EAGER_LOOKS => std::thread::yield_now(),
                        _ => std::thread::sleep(PAUSE),
                    }
                }
            }
        }
    }
    Ok(())
}

fn checked(address: u64, width: Width) -> Res {
    let aligned = address.is_multiple_of(width.bytes());
    if aligned && space::mapped(&space::map(), address, width.bytes()) {
        Ok(())
    } else {
        Err(Code::INVALID_VALUE)
    }
}

fn wait_op(address: u64, width: Width, value: u64, flags: u32) -> Res<MemOp> {
    checked(address, width)?;
    // The highest flag asks for remote writes to be flushed; there are none.
    let condition = match flags & !(1 << 30) {
        0 => Condition::AtLeast,
        1 => Condition::Equal,
        2 => Condition::And,
        3 => Condition::Nor,
        _ => return Err(Code::INVALID_VALUE),
    };
    Ok(MemOp::Wait { address, width, value, condition })
}

fn write_op(address: u64, width: Width, value: u64, flags: u32) -> Res<MemOp> {
    checked(address, width)?;
    // The one flag says that no barrier is needed before the write.
    if flags > 1 { Err(Code::INVALID_VALUE) } else { Ok(MemOp::Write { address, width, value }) }
}

/// Reads the array of cuStreamBatchMemOp and of the graph node of that kind.
pub(crate) fn batch(ops: In<CUstreamBatchMemOpParams>, count: u32) -> Res<Arc<[MemOp]>> {
    if count > 256 {
        return Err(Code::INVALID_VALUE);
    }
    let parsed: Res<Vec<MemOp>> = (0..count as usize)
        .map(|index| {
            let op = ops.at(index)?;
            let half = op.value & 0xFFFF_FFFF;
            match op.operation {
                1 => wait_op(op.address, Width::Four, half, op.flags),
                2 => write_op(op.address, Width::Four, half, op.flags),
                4 => wait_op(op.address, Width::Eight, op.value, op.flags),
                5 => write_op(op.address, Width::Eight, op.value, op.flags),
                3 | 6 => Ok(MemOp::Nothing),
                _ => Err(Code::INVALID_VALUE),
            }
        })
        .collect();
    Ok(parsed?.into())
}

fn one(context: &Arc<Context>, handle: u64, op: MemOp) -> Res {
    stream::submit(&stream::get(context, handle)?, Work::MemOps(Arc::new([op]))).map(drop)
}

api! {
    fn cuStreamWaitValue32_v2(handle: u64, address: u64, value: u32, flags: u32) [ctx context] {
        one(context, handle, wait_op(address, Width::Four, u64::from(value), flags)?)
    }

    fn cuStreamWaitValue64_v2(handle: u64, address: u64, value: u64, flags: u32) [ctx context] {
        one(context, handle, wait_op(address, Width::Eight, value, flags)?)
    }

    fn cuStreamWriteValue32_v2(handle: u64, address: u64, value: u32, flags: u32) [ctx context] {
        one(context, handle, write_op(address, Width::Four, u64::from(value), flags)?)
    }

    fn cuStreamWriteValue64_v2(handle: u64, address: u64, value: u64, flags: u32) [ctx context] {
        one(context, handle, write_op(address, Width::Eight, value, flags)?)
    }

    fn cuStreamBatchMemOp_v2(handle: u64, count: u32, ops: In<CUstreamBatchMemOpParams>, flags: u32) [ctx context] {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        stream::submit(&stream::get(context, handle)?, Work::MemOps(batch(ops, count)?)).map(drop)
    }
}
