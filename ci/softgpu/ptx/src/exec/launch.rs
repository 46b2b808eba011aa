//! From a launch to units, and units to host threads.

use super::memory::{GlobalMemory, Span};
use super::step::Context;
use super::unit::{Round, Unit, stopper};
use super::{Fault, Launch, Memory};
use crate::decode::Patch;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

/// Host threads for one launch, at most.
const MAX_WORKERS: usize = 8;
/// Device threads that make a second host thread worth its start.
const WORTH_A_WORKER: u64 = 4096;
/// Host memory for units that are set aside while others run.
const SET_ASIDE_BYTES: usize = 256 << 20;

/// Runs a kernel to its end, on the calling thread and a few helpers.
///
/// Blocks of a grid that wait for each other (a grid-wide barrier, a chained
/// scan) make progress: a block that only spins is set aside for the others.
///
/// # Errors
/// The first fault of any thread. Memory keeps whatever was written before.
pub fn run(l: &Launch<'_>, mem: &dyn Memory) -> Result<(), Fault> {
    check(l)?;
    let kernel = l.kernel;
    let mut params = vec![0u64; l.params.len().max(kernel.param_bytes).div_ceil(8)];
    for (i, b) in l.params.iter().enumerate() {
        params[i / 8] |= u64::from(*b) << (8 * (i % 8));
    }
    let cx = Context {
        launch: l,
        templates: templates(l),
        started: Instant::now(),
        shared_bytes: kernel.dynamic_shared_offset.max(kernel.static_shared) + l.dynamic_shared as usize,
    };
    let units = volume(l.grid) / volume(l.cluster);
    let threads = volume(l.grid).saturating_mul(volume(l.block));
    let workers = processors()
        .min(MAX_WORKERS)
        .min(usize::try_from(units).unwrap_or(MAX_WORKERS))
        .min(usize::try_from(threads / WORTH_A_WORKER).unwrap_or(MAX_WORKERS))
        .max(1);
    let shared = Shared {
        cx: &cx,
        mem,
        params: Params(params),
        units,
        next: AtomicU64::new(0),
        faulted: AtomicBool::new(false),
        fault: Mutex::new(None),
        resident: (SET_ASIDE_BYTES / Unit::bytes(&cx).max(1) / workers).clamp(2, 4096),
    };
    if workers == 1 {
        shared.work();
    } else {
        std::thread::scope(|s| {
            for _ in 1..workers {
                s.spawn(|| shared.work());
            }
            shared.work();
        });
    }
    let fault = match shared.fault.into_inner() {
        Ok(f) => f,
        Err(poisoned) => poisoned.into_inner(),
    };
    fault.map_or(Ok(()), Err)
}

/// How many there are for this process. Asking reads several files, which takes longer than a short kernel.
fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Blocks of a grid, threads of a block. More than fit are as good as endless.
fn volume(dims: [u32; 3]) -> u64 {
    dims.iter().fold(1, |n: u64, d| n.saturating_mul(u64::from(*d)))
}

fn check(l: &Launch<'_>) -> Result<(), Fault> {
    let bad = |what: String| Err(Fault::IllegalInstruction(what));
    let threads = volume(l.block);
    if threads == 0 || threads > 1024 {
        return bad(format!("a block of {:?} threads", l.block));
    }
    if l.grid.contains(&0) || l.cluster.contains(&0) {
        return bad(format!("a grid of {:?} blocks", l.grid));
    }
    let ranks = volume(l.cluster);
    if ranks > 16 || (0..3).any(|i| !l.grid[i].is_multiple_of(l.cluster[i])) {
        return bad(format!("a cluster of {:?} blocks", l.cluster));
    }
    if l.params.len() < l.kernel.param_bytes {
        return bad(format!(
            "{} bytes of parameters where {} takes {}",
            l.params.len(),
            l.kernel.name,
            l.kernel.param_bytes
        ));
    }
    if l.dynamic_shared as usize + l.kernel.dynamic_shared_offset > 1 << 20 {
        return bad(format!("{} bytes of shared memory", l.dynamic_shared));
    }
    Ok(())
}

/// Register frames of all functions the kernel may run, with the addresses of
/// this launch.
fn templates(l: &Launch<'_>) -> Vec<Vec<u64>> {
    let mut out = vec![Vec::new(); l.module.functions.len()];
    for i in &l.kernel.reachable {
        let (Some(f), Some(t)) = (l.module.functions.get(*i), out.get_mut(*i)) else {
            continue;
        };
        t.clone_from(&f.template);
        for (slot, patch, addend) in &f.patches {
            let base = match patch {
                Patch::Global(g) => l.global_addrs.get(*g).copied().unwrap_or(0),
                Patch::Shared(s) => l.kernel.shared_offsets.get(s).copied().unwrap_or(0) as u64,
            };
            if let Some(v) = t.get_mut(*slot as usize) {
                *v = base.wrapping_add_signed(*addend);
            }
        }
    }
    out
}

/// The parameter buffer, in words for its alignment.
struct Params(Vec<u64>);

/// What the host threads of one launch share.
struct Shared<'a> {
    cx: &'a Context<'a>,
    mem: &'a dyn Memory,
    params: Params,
    units: u64,
    next: AtomicU64,
    faulted: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// Units a host thread may hold at once.
    resident: usize,
}

impl Shared<'_> {
    fn work(&self) {
        if let Err(f) = self.units() {
            let mut slot = match self.fault.lock() {
                Ok(s) => s,
                Err(poisoned) => poisoned.into_inner(),
            };
            // The others stop with `Cancelled` because of the first fault.
            if slot.is_none() {
                *slot = Some(f);
            }
            self.faulted.store(true, Ordering::Relaxed);
        }
    }

    fn units(&self) -> Result<(), Fault> {
        let cx = self.cx;
        // Each host thread reads its own copy, so that nothing is shared
        // mutably.
        let mut words = self.params.0.clone();
        let bytes = cx.launch.params.len().max(cx.launch.kernel.param_bytes);
        let params = Span::of(&mut words).cut(bytes);
        let mut global = GlobalMemory::new(self.mem);
        let stop = stopper(cx, &self.faulted);
        let mut aside: VecDeque<Unit> = VecDeque::new();
        let mut spare: Option<Unit> = None;
        loop {
            // A fresh unit while there is room, else the one that has waited
            // longest.
            let mut unit = None;
            if aside.len() < self.resident {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index < self.units {
                    let mut u = spare.take().unwrap_or_else(|| Unit::new(cx));
                    u.start(cx, index);
                    unit = Some(u);
                }
            }
            let Some(mut u) = unit.or_else(|| aside.pop_front()) else {
                return Ok(());
            };
            if stop() {
                return Err(Fault::Cancelled);
            }
            match u.run(cx, &mut global, params, &stop)? {
                Round::Done => spare = Some(u),
                Round::Spinning => aside.push_back(u),
            }
        }
    }
}
