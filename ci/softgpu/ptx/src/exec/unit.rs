//! A unit: the blocks of one cluster, run together by one host thread.
//!
//! The order of turns is fixed: warps one after another, lanes one after
//! another, each until it blocks. A warp is left when none of its lanes can
//! go on, or when all that can are spinning.

use super::Fault;
use super::memory::{GlobalMemory, Span};
use super::step::{Context, turn};
use super::thread::{BarWait, State, Thread};
use super::warp;
use crate::inst::BarKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a thread may ask about its block.
pub(super) struct BlockInfo {
    pub(super) ctaid: [u32; 3],
    pub(super) linear: u64,
    /// Rank in the cluster.
    pub(super) rank: usize,
    /// Shared memory of all blocks of the cluster.
    pub(super) shared: Vec<Span>,
}

#[derive(Clone, Copy, Default)]
struct Barrier {
    arrived: u32,
    expected: u32,
    popc: u32,
    and: bool,
    or: bool,
}

struct Block {
    info: BlockInfo,
    threads: Vec<Thread>,
    barriers: [Barrier; 16],
    live: u32,
    /// Threads that wait at block barriers, and at operations of their warp:
    /// while there are none, a thread's end concerns nobody.
    at_barriers: u32,
    at_warps: u32,
}

/// How a round of turns ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    Done,
    /// Threads still run, but none got past a barrier, an operation of its
    /// warp, or its end: perhaps they wait for another unit.
    Spinning,
}

pub(super) struct Unit {
    blocks: Vec<Block>,
    /// Backs the spans in `BlockInfo::shared`; never resized after.
    shared: Vec<Vec<u64>>,
    cluster_arrived: u32,
    cluster_phase: u64,
}

impl Unit {
    /// Memory for a unit; [`Unit::start`] gives it its place in the grid.
    pub(super) fn new(cx: &Context<'_>) -> Unit {
        let l = cx.launch;
        let blocks: u32 = l.cluster.iter().product();
        let threads: u32 = l.block.iter().product();
        let words = cx.shared_bytes.div_ceil(8);
        let mut shared: Vec<Vec<u64>> = (0..blocks).map(|_| vec![0; words]).collect();
        let spans: Vec<Span> = shared.iter_mut().map(|s| Span::of(s).cut(cx.shared_bytes)).collect();
        let blocks = (0..blocks)
            .map(|rank| Block {
                info: BlockInfo { ctaid: [0; 3], linear: 0, rank: rank as usize, shared: spans.clone() },
                threads: (0..threads).map(|i| Thread::new(i, l.block)).collect(),
                barriers: [Barrier::default(); 16],
                live: 0,
                at_barriers: 0,
                at_warps: 0,
            })
            .collect();
        Unit { blocks, shared, cluster_arrived: 0, cluster_phase: 0 }
    }

    /// Roughly what a unit of this launch takes in host memory.
    pub(super) fn bytes(cx: &Context<'_>) -> usize {
        let l = cx.launch;
        let blocks: u32 = l.cluster.iter().product();
        let threads: u32 = l.block.iter().product();
        let regs = cx.templates.get(l.kernel.function).map_or(0, Vec::len);
        let each = 256 + 8 * regs + l.kernel.local_bytes;
        blocks as usize * (cx.shared_bytes + threads as usize * each)
    }

    /// Makes this the `index`-th unit of the grid, from its beginning.
    pub(super) fn start(&mut self, cx: &Context<'_>, index: u64) {
        let l = cx.launch;
        let [cx_, cy, _] = l.cluster.map(|c| u64::from(c.max(1)));
        let units = [0, 1, 2].map(|i| u64::from(l.grid[i] / l.cluster[i].max(1)).max(1));
        let origin = [index % units[0], index / units[0] % units[1], index / units[0] / units[1]];
        self.cluster_arrived = 0;
        self.cluster_phase = 0;
        let empty = Vec::new();
        let template = cx.templates.get(l.kernel.function).unwrap_or(&empty);
        for b in &mut self.blocks {
            let r = b.info.rank as u64;
            let within = [r % cx_, r / cx_ % cy, r / cx_ / cy];
            b.info.ctaid = [0, 1, 2].map(|i| (origin[i] * u64::from(l.cluster[i].max(1)) + within[i]) as u32);
            let [x, y, z] = b.info.ctaid.map(u64::from);
            b.info.linear = (z * u64::from(l.grid[1]) + y) * u64::from(l.grid[0]) + x;
            b.barriers = [Barrier::default(); 16];
            b.live = b.threads.len() as u32;
            (b.at_barriers, b.at_warps) = (0, 0);
            for t in &mut b.threads {
                t.reset(l.kernel.function, template, l.kernel.local_bytes);
            }
        }
        // The spans point into these vectors, whose length never changes.
        for s in &mut self.shared {
            s.fill(0);
        }
    }

    /// Gives every thread that can run its turns, until all are done or none
    /// makes progress.
    pub(super) fn run(
        &mut self,
        cx: &Context<'_>,
        global: &mut GlobalMemory<'_>,
        params: Span,
        stop: &dyn Fn() -> bool,
    ) -> Result<Round, Fault> {
        loop {
            let (mut progress, mut ran) = (false, false);
            for b in 0..self.blocks.len() {
                let warps = self.blocks[b].threads.len().div_ceil(32);
                for w in 0..warps {
                    let r = self.warp(cx, global, params, b, w, stop)?;
                    progress |= r.0;
                    ran |= r.1;
                }
            }
            if self.blocks.iter().all(|b| b.live == 0) {
                return Ok(Round::Done);
            }
            if !ran {
                // Every thread waits for another: on a GPU this hangs until
                // somebody ends it, and so it does here.
                while !stop() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                return Err(Fault::Cancelled);
            }
            if !progress {
                return Ok(Round::Spinning);
            }
        }
    }

    /// Runs one warp as far as it goes: whether it made progress, and whether
    /// any lane ran at all.
    fn warp(
        &mut self,
        cx: &Context<'_>,
        global: &mut GlobalMemory<'_>,
        params: Span,
        b: usize,
        w: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<(bool, bool), Fault> {
        let first = w * 32;
        let last = (first + 32).min(self.blocks[b].threads.len());
        let (mut progress, mut ran) = (false, false);
        loop {
            let mut changed = false;
            for i in first..last {
                let block = &mut self.blocks[b];
                if !matches!(block.threads[i].state, State::Ready) {
                    continue;
                }
                if stop() {
                    return Err(Fault::Cancelled);
                }
                ran = true;
                turn(cx, global, &block.info, params, &mut block.threads[i])?;
                changed |= self.stopped(b, i);
            }
            if !changed {
                changed = self.release_active(b, first, last);
            }
            if !changed {
                return Ok((progress, ran));
            }
            progress = true;
        }
    }

    /// Acts on the state a thread stopped in; whether that was more than the
    /// end of its turn.
    fn stopped(&mut self, b: usize, i: usize) -> bool {
        let block = &mut self.blocks[b];
        match block.threads[i].state {
            State::Ready => return false,
            State::Done => {
                block.live -= 1;
                // Others may have waited for this thread only.
                if block.at_barriers > 0 {
                    for id in 0..block.barriers.len() {
                        block.complete(id);
                    }
                }
                if block.at_warps > 0 {
                    let lanes = block.warp_of(i);
                    let released: u32 = (0..lanes.len()).map(|l| warp::try_complete(lanes, l)).sum();
                    block.at_warps -= released;
                }
                self.complete_cluster();
            }
            State::Bar(w) => block.arrive(i, &w),
            State::Warp(_) => {
                block.at_warps += 1;
                block.at_warps -= warp::try_complete(block.warp_of(i), i % 32);
            }
            State::Active { .. } => {}
            State::ClusterArrive => {
                let t = &mut block.threads[i];
                t.cluster_phase = self.cluster_phase;
                t.state = State::Ready;
                self.cluster_arrived += 1;
                self.complete_cluster();
            }
            State::ClusterWait => {
                let t = &mut block.threads[i];
                if t.cluster_phase < self.cluster_phase {
                    t.state = State::Ready;
                }
            }
        }
        true
    }

    fn complete_cluster(&mut self) {
        let live: u32 = self.blocks.iter().map(|b| b.live).sum();
        if self.cluster_arrived == 0 || self.cluster_arrived < live {
            return;
        }
        self.cluster_arrived = 0;
        self.cluster_phase += 1;
        let phase = self.cluster_phase;
        for t in self.blocks.iter_mut().flat_map(|b| &mut b.threads) {
            if matches!(t.state, State::ClusterWait) && t.cluster_phase < phase {
                t.state = State::Ready;
            }
        }
    }

    /// Lets lanes go on that wait at `activemask`. Lanes at the same place
    /// count as converged; this happens when no lane of the warp can run any
    /// further without them, so that as many as can are there.
    fn release_active(&mut self, b: usize, first: usize, last: usize) -> bool {
        let lanes = &mut self.blocks[b].threads[first..last];
        let waits = |t: &Thread| matches!(t.state, State::Active { .. });
        let Some(first) = lanes.iter().find(|t| waits(t)) else {
            return false;
        };
        let mask =
            lanes.iter().enumerate().fold(0u32, |m, (i, t)| m | u32::from(waits(t) && t.beside(first)) << i);
        for (i, t) in lanes.iter_mut().enumerate() {
            if let State::Active { d } = t.state
                && mask >> i & 1 == 1
            {
                t.set(Some(d), mask.into());
                t.state = State::Ready;
            }
        }
        true
    }
}

impl Block {
    fn arrive(&mut self, i: usize, w: &BarWait) {
        let bar = &mut self.barriers[w.id];
        if bar.arrived == 0 {
            *bar = Barrier { and: true, ..Barrier::default() };
        }
        bar.arrived += 1;
        bar.expected = w.count;
        if w.kind != BarKind::Arrive {
            bar.popc += u32::from(w.pred);
            bar.and &= w.pred;
            bar.or |= w.pred;
            self.at_barriers += 1;
        } else {
            self.threads[i].state = State::Ready;
        }
        self.complete(w.id);
    }

    /// The threads of the warp that thread `i` belongs to.
    fn warp_of(&mut self, i: usize) -> &mut [Thread] {
        let first = i / 32 * 32;
        let last = (first + 32).min(self.threads.len());
        &mut self.threads[first..last]
    }

    /// Opens barrier `id` if everybody is there.
    fn complete(&mut self, id: usize) {
        let bar = self.barriers[id];
        let expected = if bar.expected == 0 { self.live } else { bar.expected };
        if bar.arrived == 0 || bar.arrived < expected {
            return;
        }
        self.barriers[id] = Barrier::default();
        for t in &mut self.threads {
            let State::Bar(w) = t.state else { continue };
            if w.id != id {
                continue;
            }
            let v = match w.kind {
                BarKind::RedPopc => bar.popc.into(),
                BarKind::RedAnd => bar.and.into(),
                BarKind::RedOr => bar.or.into(),
                BarKind::Sync | BarKind::Arrive => 0,
            };
            t.set(w.d, v);
            t.state = State::Ready;
            self.at_barriers -= 1;
        }
    }
}

/// Whether the launch was cancelled or a fault ended it elsewhere.
pub(super) fn stopper<'a>(
    cx: &'a Context<'_>,
    faulted: &'a std::sync::atomic::AtomicBool,
) -> impl Fn() -> bool + 'a {
    move || cx.launch.cancel.load(Ordering::Relaxed) || faulted.load(Ordering::Relaxed)
}
