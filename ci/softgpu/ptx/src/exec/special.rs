//! Special registers.

use super::step::Context;
use super::unit::BlockInfo;
use crate::inst::Sreg;
use std::time::{SystemTime, UNIX_EPOCH};

/// Multiprocessors the device pretends to spread blocks over.
const MULTIPROCESSORS: u32 = 16;

pub(super) fn special(what: Sreg, cx: &Context<'_>, b: &BlockInfo, tid: [u32; 3], linear: u32) -> u64 {
    let l = cx.launch;
    let lane = linear % 32;
    let threads: u32 = l.block.iter().product();
    let nanos = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let clock = || cx.started.elapsed().as_nanos() as u64;
    let v = match what {
        Sreg::Tid(i) => tid[usize::from(i)],
        Sreg::Ntid(i) => l.block[usize::from(i)],
        Sreg::Ctaid(i) => b.ctaid[usize::from(i)],
        Sreg::Nctaid(i) => l.grid[usize::from(i)],
        Sreg::LaneId => lane,
        Sreg::WarpId => linear / 32,
        Sreg::NwarpId => threads.div_ceil(32),
        Sreg::SmId => b.linear as u32 % MULTIPROCESSORS,
        Sreg::NsmId => MULTIPROCESSORS,
        Sreg::GridId | Sreg::Zero => 0,
        Sreg::LanemaskEq => 1 << lane,
        Sreg::LanemaskLe => u32::MAX >> (31 - lane),
        Sreg::LanemaskLt => (1 << lane) - 1,
        Sreg::LanemaskGe => u32::MAX << lane,
        Sreg::LanemaskGt => (u32::MAX << lane) << 1,
        Sreg::Clock => clock() as u32,
        Sreg::ClockHi => (clock() >> 32) as u32,
        Sreg::Clock64 => return clock(),
        Sreg::GlobalTimer => return nanos(),
        Sreg::GlobalTimerLo => nanos() as u32,
        Sreg::GlobalTimerHi => (nanos() >> 32) as u32,
        Sreg::DynamicSmemSize => l.dynamic_shared,
        Sreg::TotalSmemSize => cx.shared_bytes as u32,
        Sreg::ClusterId(i) => b.ctaid[usize::from(i)] / l.cluster[usize::from(i)].max(1),
        Sreg::NclusterId(i) => l.grid[usize::from(i)] / l.cluster[usize::from(i)].max(1),
        Sreg::ClusterCtaid(i) => b.ctaid[usize::from(i)] % l.cluster[usize::from(i)].max(1),
        Sreg::ClusterNctaid(i) => l.cluster[usize::from(i)].max(1),
        Sreg::ClusterCtarank => b.rank as u32,
        Sreg::ClusterNctarank => b.shared.len() as u32,
        Sreg::IsExplicitCluster => u32::from(b.shared.len() > 1),
    };
    v.into()
}
