//! Credit and order of bulk chunks, at both ends of both directions.
//!
//! Counting only: payloads, slots' memory and connections are the caller's. Chunks are numbered in each direction and
//! travel on whichever lane is free first, so that they may come in another order. Host-to-device chunks are numbered
//! by both ends alike, in the order of the commands that move them; chunk `c` uses slot `c mod slots`, and may be
//! sent once credit exceeds it. Device-to-host chunks are numbered by the server, and the client learns from barriers
//! below which number all must have landed before it may show what depends on them.

use std::ops::Range;

use super::window::Window;
use crate::bulk::MAX_LANES;
use crate::error::ProtocolError;

/// What a session has for its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlan {
    lanes: u64,
    slots: u64,
}

impl ChunkPlan {
    /// A session without bulk lanes.
    pub const NONE: Self = Self { lanes: 0, slots: 0 };

    /// `lanes` bulk lanes, `slots` slots towards the device.
    ///
    /// # Errors
    /// Lanes beyond 8, or lanes without slots. No lanes at all is fine: no chunk ever goes then.
    pub fn new(lanes: u32, slots: u32) -> Result<Self, ProtocolError> {
        if lanes as usize > MAX_LANES || (lanes != 0 && slots == 0) {
            return Err(ProtocolError::BadHello { what: "bulk lanes must be at most 8, and have slots" });
        }
        Ok(Self { lanes: lanes.into(), slots: if lanes == 0 { 0 } else { slots.into() } })
    }

    /// How many bulk lanes there are.
    pub fn lanes(self) -> usize {
        // At most MAX_LANES.
        usize::try_from(self.lanes).unwrap_or(MAX_LANES)
    }

    /// The slot that holds host-to-device `chunk`.
    pub fn slot_of(self, chunk: u64) -> usize {
        usize::try_from(chunk % self.slots.max(1)).unwrap_or(0)
    }
}

fn misuse(what: &'static str) -> ProtocolError {
    ProtocolError::Misuse { what }
}

/// The client's end of host-to-device.
#[derive(Debug, Clone)]
pub struct ChunkSender {
    plan: ChunkPlan,
    /// Chunks below this have numbers.
    numbered: u64,
    /// Chunks below this may be sent. `credit - slots` are retired.
    credit: u64,
    /// Chunks below this were sent at least once since the last rewind, or before it.
    sent: u64,
}

impl ChunkSender {
    /// Nothing numbered, every slot free.
    pub fn new(plan: ChunkPlan) -> Self {
        Self { plan, numbered: 0, credit: plan.slots, sent: 0 }
    }

    /// What there is for chunks.
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

    /// The chunk that is due, if it has a number and credit.
    pub fn due(&self) -> Option<u64> {
        (self.sent < self.numbered && self.sent < self.credit).then_some(self.sent)
    }

    /// The chunk that is due goes to a link, any of them. Gives its number.
    ///
    /// # Errors
    /// Nothing is due.
    pub fn sent(&mut self) -> Result<u64, ProtocolError> {
        let chunk = self.due().ok_or(misuse("a chunk was sent that is not due"))?;
        self.sent += 1;
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
        let most = self.sent.saturating_add(self.plan.slots).max(self.credit);
        if upto < self.credit || upto > most {
            return Err(ProtocolError::BadCredit { credit: upto, least: self.credit, most });
        }
        self.credit = upto;
        Ok(())
    }

    /// Starts over on new links: the server holds the chunks below `held`, and none of the others.
    ///
    /// # Errors
    /// A server that claims what it was never sent, or lost what it had retired.
    pub fn rewind(&mut self, held: u64) -> Result<(), ProtocolError> {
        if held > self.sent || held < self.retired() {
            return Err(ProtocolError::BadResume { held, least: self.retired(), most: self.sent });
        }
        self.sent = held;
        Ok(())
    }
}

/// What is in a slot towards the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Free,
    /// A chunk is being received.
    Coming,
    Arrived,
    /// The GPU is done with it, and not yet with all that went before.
    Retired,
}

/// The server's end of host-to-device.
#[derive(Debug, Clone)]
pub struct ChunkReceiver {
    plan: ChunkPlan,
    numbered: u64,
    /// Of the chunks from `retired` to `told`, which are never more than there are slots.
    slots: Vec<Slot>,
    /// Chunks below this are in their slots, or were.
    arrived: u64,
    /// Chunks below this are retired.
    retired: u64,
    /// The credit that the client has been told.
    told: u64,
}

impl ChunkReceiver {
    /// Nothing arrived, every slot free.
    pub fn new(plan: ChunkPlan) -> Self {
        let slots = vec![Slot::Free; usize::try_from(plan.slots).unwrap_or(0)];
        Self { plan, numbered: 0, slots, arrived: 0, retired: 0, told: plan.slots }
    }

    /// What there is for chunks.
    pub fn plan(&self) -> ChunkPlan {
        self.plan
    }

    /// Numbers `count` chunks, for the command that has come. Their data may be here already, or come later.
    pub fn number(&mut self, count: u64) -> Range<u64> {
        let first = self.numbered;
        self.numbered = first.saturating_add(count);
        first..self.numbered
    }

    /// The slot of a chunk that may be in one.
    fn slot(&mut self, chunk: u64) -> Option<&mut Slot> {
        let slot = self.plan.slot_of(chunk);
        if (self.retired..self.told).contains(&chunk) { self.slots.get_mut(slot) } else { None }
    }

    /// A chunk's header has come: may its payload go into its slot? Gives the slot.
    ///
    /// # Errors
    /// A chunk that has come before, or beyond the credit given.
    pub fn admit(&mut self, chunk: u64) -> Result<usize, ProtocolError> {
        if chunk >= self.told {
            return Err(ProtocolError::CreditExceeded { chunk, credit: self.told });
        }
        match self.slot(chunk) {
            Some(slot @ Slot::Free) => *slot = Slot::Coming,
            _ => return Err(ProtocolError::ChunkTwice { chunk }),
        }
        Ok(self.plan.slot_of(chunk))
    }

    /// The admitted chunk's payload is in its slot, all of it.
    ///
    /// # Errors
    /// It was not admitted.
    pub fn arrived(&mut self, chunk: u64) -> Result<(), ProtocolError> {
        match self.slot(chunk) {
            Some(slot @ Slot::Coming) => *slot = Slot::Arrived,
            _ => return Err(misuse("a chunk arrived that was not admitted")),
        }
        while matches!(self.slot(self.arrived), Some(Slot::Arrived)) {
            self.arrived += 1;
        }
        Ok(())
    }

    /// Every chunk below this is in its slot, or was.
    pub fn arrived_below(&self) -> u64 {
        self.arrived
    }

    /// The links are lost. Gives the chunk from which on the client has to send again; those of them that had come
    /// are forgotten.
    pub fn forget_early(&mut self) -> u64 {
        for chunk in self.arrived..self.told {
            if let Some(slot) = self.slot(chunk) {
                *slot = Slot::Free;
            }
        }
        self.arrived
    }

    /// The GPU is done with the slot of `chunk`. Any order.
    ///
    /// # Errors
    /// A chunk that was retired before, or that has not arrived, and all before it.
    pub fn retire(&mut self, chunk: u64) -> Result<(), ProtocolError> {
        let arrived = chunk < self.arrived;
        match self.slot(chunk) {
            Some(slot @ Slot::Arrived) if arrived => *slot = Slot::Retired,
            _ => return Err(misuse("a chunk was retired twice or before it arrived")),
        }
        while let Some(slot @ Slot::Retired) = self.slot(self.retired) {
            *slot = Slot::Free;
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

/// The server's end of device-to-host: chunks' numbers.
#[derive(Debug, Clone, Default)]
pub struct ChunkNumbers {
    next: u64,
}

impl ChunkNumbers {
    /// A chunk is queued. Gives its number.
    pub fn next_chunk(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// What a Barrier event says now: all chunks below this have been queued.
    pub fn barrier(&self) -> u64 {
        self.next
    }

    /// Judges what a resuming client says it holds. The caller then sends again what followed.
    ///
    /// # Errors
    /// A client that claims what it was never sent.
    pub fn check_resume(&self, held: u64) -> Result<(), ProtocolError> {
        if held > self.next {
            return Err(ProtocolError::BadResume { held, least: 0, most: self.next });
        }
        Ok(())
    }
}

/// The client's end of device-to-host: what has landed, and the barrier that waits for more.
#[derive(Debug, Clone)]
pub struct ArrivalGate {
    plan: ChunkPlan,
    landed: Window,
    needed: u64,
}

impl ArrivalGate {
    /// Nothing landed, nothing needed.
    pub fn new(plan: ChunkPlan) -> Self {
        Self { plan, landed: Window::default(), needed: 0 }
    }

    /// A barrier has come: all chunks below `chunks` have to land first. Whether they have.
    ///
    /// # Errors
    /// A barrier that needs chunks in a session without lanes: it would never open.
    pub fn require(&mut self, chunks: u64) -> Result<bool, ProtocolError> {
        if self.plan.lanes == 0 && chunks != 0 {
            return Err(ProtocolError::BadChunk { what: "barrier, without lanes,", found: chunks });
        }
        self.needed = self.needed.max(chunks);
        Ok(self.is_open())
    }

    /// A whole chunk has landed, from any lane. Whether that opened the gate.
    ///
    /// # Errors
    /// It had landed before, or is impossibly far ahead.
    pub fn arrived(&mut self, number: u64) -> Result<bool, ProtocolError> {
        let was_open = self.is_open();
        self.landed.mark(number)?;
        Ok(!was_open && self.is_open())
    }

    /// Whether events may be shown.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.landed.below() >= self.needed
    }

    /// The links are lost. Gives the chunk from which on the server has to send again; those of them that had
    /// landed are forgotten.
    pub fn forget_early(&mut self) -> u64 {
        self.landed.forget_early();
        self.landed.below()
    }
}
