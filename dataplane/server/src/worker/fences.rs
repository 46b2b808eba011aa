//! Fences: the moment when everything that a context was given before is finished.
//!
//! Memory that the program frees is taken back then, and not before. A fence is a ticket on every stream of the
//! context that has unfinished work; while a capture is under way it waits for the capture's end, because
//! nothing foreign may be put on a captured stream.

use fusewire_wire::ops::Status;
use rustc_hash::FxHashMap;

use super::gpu::Gpu;
use super::ranges::Range;
use super::streams::{StreamId, Then};

/// What a fence was asked for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Tell the client that the point was reached.
    Done { number: u64 },
    /// Answer a synchronous operation.
    Reply { number: u64 },
    /// Take memory back, then tell the client.
    Unmap { number: u64, ranges: Vec<Range> },
    /// Take mirrored host memory back, then tell the client.
    Unmirror { number: u64, ranges: Vec<Range> },
    /// One context less to wait for.
    Unshare { group: u64 },
    /// Destroy what the session has in the context, and the context itself unless it is a primary one.
    Purge { reply: Option<u64>, destroy: bool },
}

/// Shared host memory to take back when no context uses it any more; then tell the client.
#[derive(Debug)]
pub(super) struct Unshare {
    pub(super) number: u64,
    pub(super) ranges: Vec<Range>,
}

#[derive(Debug)]
struct Fence {
    context: u64,
    purpose: Purpose,
    /// Streams that have not come by yet.
    left: usize,
}

#[derive(Debug, Default)]
pub(super) struct Fences {
    next: u64,
    raised: FxHashMap<u64, Fence>,
    /// Fences on all contexts at once, and how many of them have not been reached.
    groups: FxHashMap<u64, (usize, Unshare)>,
    /// Waiting for the end of a capture.
    held: Vec<(u64, Purpose)>,
    /// Reached, and to be carried out when nothing depends on this thread: it may wait for the GPU.
    ripe: Vec<(u64, Purpose, Status)>,
}

impl Fences {
    /// Whether all memory of some context is on its way back.
    pub(super) fn purges(&self) -> bool {
        let purge = |purpose: &Purpose| matches!(purpose, Purpose::Purge { .. });
        self.raised.values().any(|fence| purge(&fence.purpose))
            || self.held.iter().any(|(_, purpose)| purge(purpose))
            || self.ripe.iter().any(|(_, purpose, _)| purge(purpose))
    }

    /// Whether memory is on its way back.
    pub(super) fn frees_memory(&self) -> bool {
        self.raised.values().any(|fence| matches!(fence.purpose, Purpose::Unmap { .. }))
            || !self.ripe.is_empty()
            || self.purges()
    }
}

impl Gpu {
    /// Does `purpose` once all work that the context has been given is finished.
    pub(super) fn fence(&mut self, context: u64, purpose: Purpose) {
        let Ok(found) = self.contexts.get(context) else {
            return self.fence_done(context, purpose, 0);
        };
        if let Some(status) = found.lost {
            return self.fence_done(context, purpose, status);
        }
        if found.captures != 0 {
            self.fences.held.push((context, purpose));
            return;
        }
        // Where the stream's work cannot be waited for, the context is lost, or it will be.
        self.raise(context, purpose, |gpu, id, then| gpu.after_all(id, then).unwrap_or(false));
    }

    /// Does `purpose` once the copies of the context are finished that came with the operations up to `through`.
    /// Each has left its ticket, so nothing is put on any stream for this, and no work behind them is waited for: it
    /// may in turn wait for what the client does next.
    pub(super) fn fence_through(&mut self, context: u64, through: u64, purpose: Purpose) {
        match self.contexts.get(context).map(|context| context.lost) {
            Ok(None) => self.raise(context, purpose, |gpu, id, then| gpu.after_ticket(id, through, then)),
            Ok(Some(status)) => self.fence_done(context, purpose, status),
            Err(_) => self.fence_done(context, purpose, 0),
        }
    }

    /// Raises a fence on every stream of a context where `queue` finds something to wait for.
    fn raise(&mut self, context: u64, purpose: Purpose, queue: impl Fn(&mut Self, StreamId, Then) -> bool) {
        self.fences.next += 1;
        let fence = self.fences.next;
        let mut left = 0;
        if self.enter(context).is_ok() {
            for id in self.streams.of_context(context) {
                left += usize::from(queue(self, id, Then::Fence { fence }));
            }
        }
        if left == 0 {
            let status = self.contexts.get(context).ok().and_then(|context| context.lost).unwrap_or(0);
            return self.fence_done(context, purpose, status);
        }
        self.fences.raised.insert(fence, Fence { context, purpose, left });
    }

    /// Does what is asked once all work that every context has been given is finished.
    pub(super) fn fence_all(&mut self, purpose: Unshare) {
        let contexts: Vec<u64> = self.contexts.iter().map(|(handle, _)| handle).collect();
        self.fences.next += 1;
        let group = self.fences.next;
        // One more than there are, so that it is not over before all have been raised.
        self.fences.groups.insert(group, (contexts.len() + 1, purpose));
        for context in contexts {
            self.fence(context, Purpose::Unshare { group });
        }
        self.fence_done(0, Purpose::Unshare { group }, 0);
    }

    /// A capture has ended: what waited for that goes on.
    pub(super) fn release_held_fences(&mut self, context: u64) {
        if self.contexts.get(context).is_ok_and(|context| context.captures != 0) {
            return;
        }
        let held = std::mem::take(&mut self.fences.held);
        for (of, purpose) in held {
            if of == context {
                self.fence(of, purpose);
            } else {
                self.fences.held.push((of, purpose));
            }
        }
    }

    pub(super) fn fence_reached(&mut self, fence: u64, status: Status) {
        let Some(found) = self.fences.raised.get_mut(&fence) else { return };
        found.left = found.left.saturating_sub(1);
        if found.left == 0
            && let Some(found) = self.fences.raised.remove(&fence)
        {
            self.fence_done(found.context, found.purpose, status);
        }
    }

    /// The context is lost: nothing will reach its fences any more.
    pub(super) fn fail_fences(&mut self, context: u64, status: Status) {
        let raised: Vec<u64> = self
            .fences
            .raised
            .iter()
            .filter(|(_, fence)| fence.context == context)
            .map(|(&id, _)| id)
            .collect();
        for id in raised {
            if let Some(fence) = self.fences.raised.remove(&id) {
                self.fence_done(context, fence.purpose, status);
            }
        }
        let (failed, held) = std::mem::take(&mut self.fences.held)
            .into_iter()
            .partition::<Vec<_>, _>(|(of, _)| *of == context);
        self.fences.held = held;
        for (_, purpose) in failed {
            self.fence_done(context, purpose, status);
        }
    }

    fn fence_done(&mut self, context: u64, purpose: Purpose, status: Status) {
        let may_wait = !matches!(purpose, Purpose::Done { .. } | Purpose::Reply { .. });
        if may_wait && self.is_depended_on() {
            self.fences.ripe.push((context, purpose, status));
            return;
        }
        self.carry_out(context, purpose, status);
    }

    /// Carries out what waited for nothing to depend on this thread. Gives whether there was anything.
    pub(super) fn carry_out_ripe(&mut self) -> bool {
        if self.fences.ripe.is_empty() || self.is_depended_on() {
            return false;
        }
        for (context, purpose, status) in std::mem::take(&mut self.fences.ripe) {
            self.carry_out(context, purpose, status);
        }
        true
    }

    fn carry_out(&mut self, context: u64, purpose: Purpose, status: Status) {
        if self.prints {
            self.forward_output();
        }
        match purpose {
            Purpose::Done { number } => self.out.done(number, status),
            Purpose::Reply { number } => {
                let status = if status == 0 { self.context_fault(context) } else { status };
                self.out.reply(number, status, &[], &[]);
            }
            Purpose::Unmap { number, ranges } => {
                self.unmap(&ranges);
                self.out.done(number, status);
                self.retry_maps();
            }
            Purpose::Unmirror { number, ranges } => {
                self.unmirror(&ranges);
                self.out.done(number, status);
            }
            Purpose::Unshare { group } => {
                let left = self.fences.groups.get_mut(&group).map_or(0, |(left, _)| {
                    *left = left.saturating_sub(1);
                    *left
                });
                if left == 0
                    && let Some((_, Unshare { number, ranges })) = self.fences.groups.remove(&group)
                {
                    self.unshare(&ranges);
                    self.out.done(number, 0);
                }
            }
            Purpose::Purge { reply, destroy } => {
                self.purge(context, destroy);
                self.retry_maps();
                if let Some(number) = reply {
                    self.out.reply(number, 0, &[], &[]);
                }
            }
        }
    }
}
