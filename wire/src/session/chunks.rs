//! Credit and order of bulk chunks, at both ends of both directions.
//!
//! Counting only: payloads, slots' memory and connections are the caller's. Host-to-device chunks are numbered
//! by both ends alike, in the order of the commands that move them; chunk `c` uses slot `c mod slots` and lane
//! `c mod lanes`, and may be sent once credit exceeds it. Device-to-host chunks go on the lane that the server
//! picks, and the client learns from barriers how many must have landed before it may show what depends on them.

use std::ops::Range;

use crate::bulk::{LaneCounts, MAX_LANES};
use crate::error::ProtocolError;

/// How a session's host-to-device chunks are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlan {
    lanes: u64,
    slots: u64,
}

impl ChunkPlan {
    /// A session without bulk lanes.
    pub const NONE: Self = Self { lanes: 0, slots: 0 };

    /// `lanes` bulk lanes, `slots` slots.
    ///
    /// # Errors
    /// Lanes beyond 8, or lanes without slots. No lanes at all is fine: no chunk ever goes then.
    pub fn new(lanes: u32, slots: u32) -> Result<Self, ProtocolError> {
        if lanes as usize > MAX_LANES || (lanes != 0 && slots == 0) {
            return Err(ProtocolError::BadHello { what: "bulk lanes must be at most 8, and have slots" });
        }
        Ok(Self { lanes: lanes.into(), slots: slots.into() })
    }

    /// How many bulk lanes there are.
    pub fn lanes(self) -> usize {
        // At most MAX_LANES.
        usize::try_from(self.lanes).unwrap_or(MAX_LANES)
    }

    /// The lane that carries `chunk`.
    pub fn lane_of(self, chunk: u64) -> usize {
        usize::try_from(chunk % self.lanes.max(1)).unwrap_or(0)
    }

    /// The slot that holds `chunk`.
    pub fn slot_of(self, chunk: u64) -> usize {
        usize::try_from(chunk % self.slots.max(1)).unwrap_or(0)
    }

    /// The chunk that comes after `count` others on `lane`.
    fn nth(self, lane: usize, count: u64) -> u64 {
        count.saturating_mul(self.lanes).saturating_add(lane as u64)
    }

    /// How many of the chunks below `end` go on `lane`.
    fn count_below(self, lane: usize, end: u64) -> u64 {
        end.saturating_sub(lane as u64).div_ceil(self.lanes.max(1))
    }
}

fn misuse(what: &'static str) -> ProtocolError {
    ProtocolError::Misuse { what }
}

fn at(counts: &mut LaneCounts, plan: ChunkPlan, lane: usize) -> Result<&mut u64, ProtocolError> {
    match counts.get_mut(lane) {
        Some(count) if lane < plan.lanes() => Ok(count),
        _ => Err(misuse("there is no such bulk lane")),
    }
}

/// The client's end of host-to-device.
#[derive(Debug, Clone)]
pub struct ChunkSender {
    plan: ChunkPlan,
    /// Chunks below this have numbers.
    numbered: u64,
    /// Chunks below this may be sent. `credit - slots` are retired.
    credit: u64,
    sent: LaneCounts,
}

impl ChunkSender {
    /// Nothing numbered, every slot free.
    pub fn new(plan: ChunkPlan) -> Self {
        Self { plan, numbered: 0, credit: plan.slots, sent: [0; MAX_LANES] }
    }

    /// How chunks are spread.
    pub fn plan(&self) -> ChunkPlan {
        self.plan
    }

    /// The number that the next chunk will have.
    pub fn next_chunk(&self) -> u64 {
        self.numbered
    }

    /// Numbers `count` chunks, for the command about to be pushed.
    pub fn number(&mut self, count: u64) -> Range<u64> {
        let first = self.numbered;
        self.numbered = first.saturating_add(count);
        first..self.numbered
    }

    /// Whether there is credit for `chunk`.
    #[inline]
    pub fn may_send(&self, chunk: u64) -> bool {
        chunk < self.credit
    }

    /// The chunk that is due on `lane`, if it has a number and credit.
    pub fn due(&self, lane: usize) -> Option<u64> {
        let count = self.sent.get(lane).filter(|_| lane < self.plan.lanes())?;
        let chunk = self.plan.nth(lane, *count);
        (chunk < self.numbered && chunk < self.credit).then_some(chunk)
    }

    /// The chunk due on `lane` goes to the link. Gives its number.
    ///
    /// # Errors
    /// Nothing is due there.
    pub fn sent(&mut self, lane: usize) -> Result<u64, ProtocolError> {
        let chunk = self.due(lane).ok_or(misuse("a chunk was sent that is not due"))?;
        *at(&mut self.sent, self.plan, lane)? += 1;
        Ok(chunk)
    }

    /// Chunks below this are in GPU memory: their sources are not needed any more, not even for a resume.
    pub fn retired(&self) -> u64 {
        self.credit - self.plan.slots
    }

    /// Takes the server's word that chunks below `upto` may be sent.
    ///
    /// # Errors
    /// Credit that goes back, or that chunks never sent would have to have given.
    pub fn credit(&mut self, upto: u64) -> Result<(), ProtocolError> {
        let most = self.contiguous_sent().saturating_add(self.plan.slots).max(self.credit);
        if upto < self.credit || upto > most {
            return Err(ProtocolError::BadCredit { credit: upto, least: self.credit, most });
        }
        self.credit = upto;
        Ok(())
    }

    /// Starts over on new links, after what the server holds on each lane.
    ///
    /// # Errors
    /// A server that claims what it was never sent, or lost what it had retired.
    pub fn rewind(&mut self, held: &LaneCounts) -> Result<(), ProtocolError> {
        for (lane, (sent, held)) in self.sent.iter().zip(held).enumerate() {
            let least =
                if lane < self.plan.lanes() { self.plan.count_below(lane, self.retired()) } else { 0 };
            if held > sent || *held < least {
                let (lane, expected) = (u32::try_from(lane).unwrap_or(0), *sent);
                return Err(ProtocolError::ChunkOutOfOrder { lane, expected, found: *held });
            }
        }
        self.sent = *held;
        Ok(())
    }

    /// Every chunk below this was sent at least once since the last rewind, or before it.
    fn contiguous_sent(&self) -> u64 {
        (0..self.plan.lanes())
            .zip(self.sent)
            .map(|(lane, count)| self.plan.nth(lane, count))
            .min()
            .unwrap_or(0)
    }
}

/// The server's end of host-to-device.
#[derive(Debug, Clone)]
pub struct ChunkReceiver {
    plan: ChunkPlan,
    numbered: u64,
    arrived: LaneCounts,
    /// Chunks below this are retired.
    retired: u64,
    /// By slot: retired out of order, beyond the prefix.
    early: Vec<bool>,
    /// The credit that the client has been told.
    told: u64,
}

impl ChunkReceiver {
    /// Nothing arrived, every slot free.
    pub fn new(plan: ChunkPlan) -> Self {
        let slots = usize::try_from(plan.slots).unwrap_or(0);
        Self {
            plan,
            numbered: 0,
            arrived: [0; MAX_LANES],
            retired: 0,
            early: vec![false; slots],
            told: plan.slots,
        }
    }

    /// How chunks are spread.
    pub fn plan(&self) -> ChunkPlan {
        self.plan
    }

    /// Numbers `count` chunks, for the command that has come. Their data may be here already, or come later.
    pub fn number(&mut self, count: u64) -> Range<u64> {
        let first = self.numbered;
        self.numbered = first.saturating_add(count);
        first..self.numbered
    }

    /// A chunk's header has come on `lane`: may its payload go into its slot? Gives the slot.
    ///
    /// # Errors
    /// A chunk that is not due there, or beyond the credit given.
    pub fn admit(&mut self, lane: usize, chunk: u64) -> Result<usize, ProtocolError> {
        let count = *at(&mut self.arrived, self.plan, lane)?;
        let expected = self.plan.nth(lane, count);
        if chunk != expected {
            let lane = u32::try_from(lane).unwrap_or(u32::MAX);
            return Err(ProtocolError::ChunkOutOfOrder { lane, expected, found: chunk });
        }
        if chunk >= self.told {
            return Err(ProtocolError::CreditExceeded { chunk, credit: self.told });
        }
        Ok(self.plan.slot_of(chunk))
    }

    /// The admitted chunk's payload is in its slot, all of it. Gives its number.
    ///
    /// # Errors
    /// Nothing can have been admitted there.
    pub fn arrived(&mut self, lane: usize) -> Result<u64, ProtocolError> {
        let (plan, told) = (self.plan, self.told);
        let count = at(&mut self.arrived, plan, lane)?;
        let chunk = plan.nth(lane, *count);
        if chunk >= told {
            return Err(misuse("a chunk arrived that was not admitted"));
        }
        *count += 1;
        Ok(chunk)
    }

    /// Every chunk below this is in its slot.
    pub fn arrived_below(&self) -> u64 {
        (0..self.plan.lanes())
            .zip(self.arrived)
            .map(|(lane, count)| self.plan.nth(lane, count))
            .min()
            .unwrap_or(0)
    }

    /// Whole chunks that have come, for each lane.
    pub fn arrived_counts(&self) -> LaneCounts {
        self.arrived
    }

    /// The GPU is done with the slot of `chunk`. Any order.
    ///
    /// # Errors
    /// A chunk that has not arrived or was retired before.
    pub fn retire(&mut self, chunk: u64) -> Result<(), ProtocolError> {
        const WRONG: ProtocolError =
            ProtocolError::Misuse { what: "a chunk was retired twice or before it arrived" };
        let lane = self.plan.lane_of(chunk);
        let arrived = self.arrived.get(lane).is_some_and(|count| chunk < self.plan.nth(lane, *count));
        let slot = self.plan.slot_of(chunk);
        let early = self.early.get_mut(slot).ok_or(WRONG)?;
        if chunk < self.retired || !arrived || *early {
            return Err(WRONG);
        }
        *early = true;
        while let Some(done) = self.early.get_mut(self.plan.slot_of(self.retired)) {
            if !std::mem::take(done) {
                break;
            }
            self.retired += 1;
        }
        Ok(())
    }

    /// Chunks below this may be sent: every chunk of the prefix that is retired gives one more.
    pub fn credit(&self) -> u64 {
        self.retired + self.plan.slots
    }

    /// The credit to tell the client, if it has grown by `least` or more since it was told. The client is
    /// held to it from here on, so a Credit event must be pushed with it.
    pub fn tell_credit(&mut self, least: u64) -> Option<u64> {
        let credit = self.credit();
        if credit - self.told < least.max(1) {
            return None;
        }
        self.told = credit;
        Some(credit)
    }
}

/// The server's end of device-to-host: how many chunks went on each lane.
#[derive(Debug, Clone)]
pub struct LaneSender {
    plan: ChunkPlan,
    sent: LaneCounts,
}

impl LaneSender {
    /// Nothing sent.
    pub fn new(plan: ChunkPlan) -> Self {
        Self { plan, sent: [0; MAX_LANES] }
    }

    /// A chunk is queued on `lane`.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn sent(&mut self, lane: usize) -> Result<(), ProtocolError> {
        *at(&mut self.sent, self.plan, lane)? += 1;
        Ok(())
    }

    /// What a Barrier event says now.
    pub fn barrier(&self) -> LaneCounts {
        self.sent
    }

    /// Judges what a resuming client says it holds. The caller then sends again, on each lane, what followed.
    ///
    /// # Errors
    /// A client that claims what it was never sent.
    pub fn check_resume(&self, held: &LaneCounts) -> Result<(), ProtocolError> {
        for (lane, (sent, held)) in self.sent.iter().zip(held).enumerate() {
            if held > sent {
                let (lane, expected) = (u32::try_from(lane).unwrap_or(0), *sent);
                return Err(ProtocolError::ChunkOutOfOrder { lane, expected, found: *held });
            }
        }
        Ok(())
    }
}

/// The client's end of device-to-host: what has landed, and the barrier that waits for more.
#[derive(Debug, Clone)]
pub struct ArrivalGate {
    plan: ChunkPlan,
    landed: LaneCounts,
    needed: LaneCounts,
}

impl ArrivalGate {
    /// Nothing landed, nothing needed.
    pub fn new(plan: ChunkPlan) -> Self {
        Self { plan, landed: [0; MAX_LANES], needed: [0; MAX_LANES] }
    }

    /// A barrier has come. Whether everything that it needs has landed.
    ///
    /// # Errors
    /// A barrier that names a lane that the session does not have: it would never open.
    pub fn require(&mut self, counts: &LaneCounts) -> Result<bool, ProtocolError> {
        if counts.iter().skip(self.plan.lanes()).any(|count| *count != 0) {
            return Err(ProtocolError::BadChunk { what: "barrier's lane", found: self.plan.lanes });
        }
        for (needed, count) in self.needed.iter_mut().zip(counts) {
            *needed = (*needed).max(*count);
        }
        Ok(self.is_open())
    }

    /// A whole chunk has landed from `lane`. Whether that opened the gate.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn arrived(&mut self, lane: usize) -> Result<bool, ProtocolError> {
        let was_open = self.is_open();
        *at(&mut self.landed, self.plan, lane)? += 1;
        Ok(!was_open && self.is_open())
    }

    /// Whether events may be shown.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.landed.iter().zip(&self.needed).all(|(landed, needed)| landed >= needed)
    }

    /// Whole chunks that have landed, for each lane.
    pub fn landed(&self) -> LaneCounts {
        self.landed
    }
}
