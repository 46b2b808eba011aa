//! Barriers in memory (`mbarrier`): arrivals and bytes still expected, counted
//! in one word that threads, and asynchronous copies, update atomically.

use crate::inst::{Mbarrier, MbarrierOp};
use std::sync::atomic::{AtomicU64, Ordering};

// An mbarrier object: bit 63 the phase, then 21 bits of transaction count
// (two's complement), 20 bits pending arrivals, 20 bits expected arrivals.
const COUNT: u64 = 0xf_ffff;
const PENDING: u32 = 20;
const TX: u32 = 40;
const TX_MASK: u64 = 0x1f_ffff;
const PHASE: u64 = 1 << 63;

/// Does one operation; gives the state before it, or whether the phase ended.
pub(super) fn apply(m: &Mbarrier, cell: &AtomicU64, a: Option<u64>) -> u64 {
    let mut old = cell.load(Ordering::Acquire);
    loop {
        let new = match m.op {
            MbarrierOp::Init => {
                let n = a.unwrap_or(0) & COUNT;
                n | n << PENDING
            }
            MbarrierOp::Inval => 0,
            MbarrierOp::Arrive { drop, expect_tx } => {
                let count = if expect_tx { 1 } else { a.unwrap_or(1) & COUNT };
                let tx = if expect_tx { a.unwrap_or(0) } else { 0 };
                let v = add_tx(old, tx);
                let v = if drop { (v & !COUNT) | ((v & COUNT).wrapping_sub(count) & COUNT) } else { v };
                let pending = (v >> PENDING & COUNT).wrapping_sub(count) & COUNT;
                settle((v & !(COUNT << PENDING)) | pending << PENDING)
            }
            MbarrierOp::ExpectTx => add_tx(old, a.unwrap_or(0)),
            MbarrierOp::CompleteTx => settle(add_tx(old, a.unwrap_or(0).wrapping_neg())),
            MbarrierOp::TestWait { parity, .. } => {
                let a = a.unwrap_or(0);
                let waited = if parity { a & 1 == 1 } else { a & PHASE != 0 };
                return u64::from((old & PHASE != 0) != waited);
            }
        };
        match cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return old,
            Err(v) => old = v,
        }
    }
}

fn add_tx(v: u64, tx: u64) -> u64 {
    let sum = (v >> TX & TX_MASK).wrapping_add(tx) & TX_MASK;
    (v & !(TX_MASK << TX)) | sum << TX
}

/// Starts the next phase once nothing is pending.
fn settle(v: u64) -> u64 {
    if v >> PENDING & COUNT != 0 || v >> TX & TX_MASK != 0 {
        return v;
    }
    let expected = v & COUNT;
    ((v & PHASE) ^ PHASE) | expected << PENDING | expected
}
