//! The state of one device thread between its turns.

use crate::inst::{BarKind, Slot, WarpKind};

/// A call in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) function: usize,
    pub(super) pc: usize,
    /// Where its registers start.
    pub(super) regs: usize,
    /// Where its part of local memory starts, in bytes.
    pub(super) local: usize,
}

/// What a thread waits for at a warp operation, with its own contribution.
#[derive(Clone, Copy, Debug)]
pub(super) struct WarpWait {
    pub(super) kind: WarpKind,
    pub(super) mask: u32,
    pub(super) a: u64,
    pub(super) b: u32,
    pub(super) c: u32,
    /// Destinations, absolute in the thread's registers.
    pub(super) d: Option<usize>,
    pub(super) p: Option<usize>,
}

/// Arrival at a block barrier.
#[derive(Clone, Copy, Debug)]
pub(super) struct BarWait {
    pub(super) kind: BarKind,
    pub(super) id: usize,
    /// Threads expected; 0 for the whole block.
    pub(super) count: u32,
    pub(super) pred: bool,
    pub(super) d: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Ready,
    Done,
    Bar(BarWait),
    Warp(WarpWait),
    /// At `activemask`, whose result goes to register `d`.
    Active {
        d: usize,
    },
    ClusterArrive,
    ClusterWait,
}

#[derive(Debug)]
pub(super) struct Thread {
    pub(super) state: State,
    pub(super) frames: Vec<Frame>,
    pub(super) regs: Vec<u64>,
    /// Local memory, in words.
    pub(super) local: Vec<u64>,
    pub(super) carry: bool,
    pub(super) tid: [u32; 3],
    pub(super) linear: u32,
    /// The cluster barrier's phase when this thread arrived there.
    pub(super) cluster_phase: u64,
}

impl Thread {
    pub(super) fn new(linear: u32, block: [u32; 3]) -> Thread {
        let [x, y, _] = block.map(|d| d.max(1));
        Thread {
            state: State::Ready,
            frames: Vec::new(),
            regs: Vec::new(),
            local: Vec::new(),
            carry: false,
            tid: [linear % x, linear / x % y, linear / x / y],
            linear,
            cluster_phase: 0,
        }
    }

    /// Back to the start of a kernel.
    pub(super) fn reset(&mut self, function: usize, template: &[u64], local_bytes: usize) {
        self.state = State::Ready;
        self.frames.clear();
        self.frames.push(Frame { function, pc: 0, regs: 0, local: 0 });
        self.regs.clear();
        self.regs.extend_from_slice(template);
        self.local.clear();
        self.local.resize(local_bytes.div_ceil(8), 0);
        self.carry = false;
        self.cluster_phase = 0;
    }

    /// Whether both threads stand at the same place of the same calls.
    pub(super) fn beside(&self, other: &Thread) -> bool {
        let place = |f: &Frame| (f.function, f.pc);
        self.frames.iter().map(place).eq(other.frames.iter().map(place))
    }

    pub(super) fn set(&mut self, at: Option<usize>, v: u64) {
        if let Some(r) = at.and_then(|i| self.regs.get_mut(i)) {
            *r = v;
        }
    }
}

/// An optional slot of the frame that starts at `base`.
pub(super) fn absolute(base: usize, s: Slot) -> Option<usize> {
    (s != crate::inst::NO_SLOT).then(|| base + s as usize)
}
