//! The bulk lanes of a session: where chunks land, what is sent, and when slots are free.
//!
//! A lane's thread makes no driver call: it stores to words of pinned memory for which streams wait.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fusewire_link::bulk::BulkEngine;
use fusewire_link::compress::{Compress, Compressor, Expander};
use fusewire_link::{
    BulkHandle, BulkMover, BulkSink, ChunkHeader, ChunkQueue, CoreId, Delivery, LinkError, OutChunk,
    RawSlice, RawSliceMut, Waker,
};
use fusewire_wire::bulk::{ChunkKind, MAX_LANES};
use fusewire_wire::error::ProtocolError;
use fusewire_wire::ops::Status;
use fusewire_wire::session::{ChunkPlan, ChunkReceiver};

use super::pinned::Pinned;

/// What the lanes' threads and the shard share.
pub(super) struct Shared {
    pinned: Arc<Pinned>,
    chunks: Mutex<ChunkReceiver>,
    peer: String,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// Why a lane ended, once one has.
    ended: OnceLock<String>,
    waker: OnceLock<Waker>,
}

impl Shared {
    /// A lane is over, or as good as.
    fn end(&self, lane: usize, why: &LinkError) {
        let _ = self.ended.set(format!("bulk lane {lane}: {why}"));
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    fn chunks(&self) -> MutexGuard<'_, ChunkReceiver> {
        // Nothing that holds the lock can leave it half done.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shard's end of the lanes.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    handles: [Option<BulkHandle>; MAX_LANES],
    /// Chunks for the client. They wait here for the first lane that it opens.
    queue: Arc<ChunkQueue>,
    count: usize,
    /// Whether device-to-host chunks are compressed.
    pub(super) compress: Compress,
    /// Device-to-host chunks so far: chunk d uses slot d mod slots.
    d2h: u64,
    /// By device-to-host slot: chunks that streams copy into it and that have not been handed to a lane. Every one
    /// but the first waits for this thread; `crowded` counts those.
    unhanded: Vec<u32>,
    crowded: u32,
    /// Host-to-device chunks below this have streams waiting for them; the client may send those below the others,
    /// as it will hear, and as it has been told for certain.
    awaited: u64,
    told: u64,
    confirmed: u64,
    /// Chunks of copies that were refused: their slots are free as soon as they have arrived.
    unwanted: Vec<u64>,
}

impl Lanes {
    pub(super) fn new(count: u32, pinned: Arc<Pinned>, peer: String) -> Result<Self, ProtocolError> {
        let plan = ChunkPlan::new(count, pinned.plan().h2d_slots)?;
        let first_credit = u64::from(pinned.plan().h2d_slots);
        let unhanded = vec![0; pinned.plan().d2h_slots as usize];
        let shared = Shared {
            pinned,
            chunks: Mutex::new(ChunkReceiver::new(plan)),
            peer,
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            ended: OnceLock::new(),
            waker: OnceLock::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            handles: Default::default(),
            queue: Arc::default(),
            count: plan.lanes(),
            compress: Compress::Off,
            d2h: 0,
            unhanded,
            crowded: 0,
            awaited: 0,
            told: first_credit,
            confirmed: first_credit,
            unwanted: Vec::new(),
        })
    }

    /// Who is woken when a lane ends.
    pub(super) fn set_waker(&self, waker: Waker) {
        let _ = self.shared.waker.set(waker);
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// How many lanes the session has.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Why a lane ended, if one has.
    pub(super) fn ended(&self) -> Option<&str> {
        self.shared.ended.get().map(String::as_str)
    }

    /// The client has opened a lane; its greeting is over.
    ///
    /// # Errors
    /// The lane is there already, or its thread could not be started.
    pub(super) fn open(
        &mut self,
        lane: usize,
        engine: Box<dyn BulkEngine>,
        cores: Vec<CoreId>,
    ) -> Result<(), LinkError> {
        let Some(place) = self.handles.get_mut(lane).filter(|_| lane < self.count) else {
            return Err(LinkError::Misuse("the session does not have that bulk lane"));
        };
        if place.is_some() {
            let peer = self.shared.peer.clone();
            return Err(LinkError::PeerMisbehaved { peer, what: format!("a second bulk lane {lane}") });
        }
        let sink = Sink {
            lane,
            shared: Arc::clone(&self.shared),
            compressor: Compressor::new(self.compress),
            expander: Expander::default(),
            failed: false,
        };
        *place = Some(BulkMover::spawn_for(Arc::clone(&self.queue), engine, cores, sink)?);
        Ok(())
    }

    /// Numbers the chunks of a host-to-device copy.
    pub(super) fn number(&self, count: u64) -> Range<u64> {
        self.shared.chunks().number(count)
    }

    /// The slot of a host-to-device chunk.
    pub(super) fn slot_of(&self, chunk: u64) -> u32 {
        (chunk % u64::from(self.shared.pinned.plan().h2d_slots).max(1)) as u32
    }

    /// Whether a chunk is in its slot, and every one before it.
    pub(super) fn has_arrived(&self, chunk: u64) -> bool {
        let word = self.shared.pinned.word(self.shared.pinned.arrived());
        word.load(Ordering::Acquire).wrapping_sub(arrival_of(chunk)).cast_signed() >= 0
    }

    /// The GPU is done with these chunks; after an error they may not even have arrived.
    pub(super) fn retire(&mut self, chunks: Range<u64>, status: Status) {
        if status != 0 {
            self.unwanted.extend(chunks);
            return;
        }
        let mut receiver = self.shared.chunks();
        for chunk in chunks {
            // Refused only for chunks that have not arrived, whose copy cannot have been done.
            let _ = receiver.retire(chunk);
        }
    }

    /// The credit to tell the client, if it has grown enough to be worth an event.
    pub(super) fn credit(&mut self) -> Option<u64> {
        let arrived: Vec<u64> =
            self.unwanted.iter().copied().filter(|&chunk| self.has_arrived(chunk)).collect();
        let mut receiver = self.shared.chunks();
        if !arrived.is_empty() {
            for &chunk in &arrived {
                let _ = receiver.retire(chunk);
            }
            self.unwanted.retain(|chunk| !arrived.contains(chunk));
        }
        let credit = receiver.tell_credit(u64::from(self.shared.pinned.plan().h2d_slots / 8));
        self.told = credit.unwrap_or(self.told);
        credit
    }

    /// A stream waits for a host-to-device chunk.
    pub(super) fn await_chunk(&mut self, chunk: u64) {
        self.awaited = self.awaited.max(chunk + 1);
    }

    /// All that the client is to be told has left.
    pub(super) fn confirm_credit(&mut self) {
        self.confirmed = self.told;
    }

    /// Whether streams wait for what only the shard can bring about: credit, or a slot's being handed on.
    pub(super) fn is_depended_on(&self) -> bool {
        self.awaited > self.confirmed || self.crowded != 0
    }

    /// The chunk in a device-to-host slot has been handed on, or given up.
    fn handed(&mut self, slot: u32) {
        if let Some(count) = self.unhanded.get_mut(slot as usize) {
            self.crowded -= u32::from(*count > 1);
            *count = count.saturating_sub(1);
        }
    }

    /// Whether chunks that nobody wants are still to come.
    pub(super) fn awaits_unwanted(&self) -> bool {
        !self.unwanted.is_empty()
    }

    /// Chunks that may be refused and not yet come: what a client can make the server remember.
    pub(super) fn unwanted(&self) -> usize {
        self.unwanted.len()
    }

    /// The device-to-host slots whose turn is next: so many, or as many as lie side by side.
    pub(super) fn next_slots(&self, count: u32) -> Range<u32> {
        let slots = self.shared.pinned.plan().d2h_slots.max(1);
        let first = (self.d2h % u64::from(slots)) as u32;
        first..first.saturating_add(count).min(slots)
    }

    /// Takes the device-to-host slot whose turn is next. Gives how often it must have been given back before it can be
    /// used.
    pub(super) fn take_slot(&mut self, slot: u32) -> u32 {
        let slots = u64::from(self.shared.pinned.plan().d2h_slots).max(1);
        let round = self.d2h / slots;
        debug_assert_eq!(self.d2h % slots, u64::from(slot));
        self.d2h += 1;
        if let Some(count) = self.unhanded.get_mut(slot as usize) {
            self.crowded += u32::from(*count != 0);
            *count += 1;
        }
        round as u32
    }

    /// Device-to-host slots are free again.
    pub(super) fn give_slots(&mut self, slots: Range<u32>) {
        for slot in slots {
            self.handed(slot);
            self.shared.pinned.word(self.shared.pinned.freed(slot)).fetch_add(1, Ordering::Release);
        }
    }

    /// Sends a device-to-host chunk from its slot.
    pub(super) fn send(&mut self, header: ChunkHeader, slot: u32) {
        self.handed(slot);
        // SAFETY: the slot belongs to this chunk until the lane reports it sent, and the mapping outlives the lanes.
        let payload = unsafe { RawSlice::new(self.shared.pinned.d2h_slot(slot), header.bytes as usize) };
        self.shared.bytes_out.fetch_add(u64::from(header.bytes), Ordering::Relaxed);
        self.queue.send(OutChunk { header, payload, done: u64::from(slot), waited_for: false });
    }

    /// Shuts every lane down once what is queued has been sent, and gives the threads up: they end with the
    /// process.
    pub(super) fn shutdown(&mut self) {
        for handle in self.handles.iter_mut().filter_map(Option::take) {
            handle.shutdown();
            handle.leak();
        }
    }
}

/// What the arrival counter is at least, once a chunk and every one before it are there.
pub(super) fn arrival_of(chunk: u64) -> u32 {
    chunk.wrapping_add(1) as u32
}

/// What a lane's thread calls.
struct Sink {
    lane: usize,
    shared: Arc<Shared>,
    compressor: Compressor,
    expander: Expander,
    /// A chunk could not be decoded. The lane takes nothing more: arrivals are counted, and the next one would be
    /// taken for the arrival of this one.
    failed: bool,
}

impl Sink {
    fn refuse(&self, what: String) -> LinkError {
        LinkError::PeerMisbehaved { peer: self.shared.peer.clone(), what }
    }
}

impl BulkSink for Sink {
    fn place(&mut self, header: &ChunkHeader) -> Result<RawSliceMut, LinkError> {
        if self.failed {
            return Err(self.refuse("a bulk chunk behind one that cannot be decoded".to_owned()));
        }
        let pinned = &self.shared.pinned;
        let decoded = header.decoded == 0 || header.decoded > header.bytes;
        let elsewhere = header.offset != 0 || header.copy != 0;
        if header.kind != ChunkKind::HostToDevice as u32 || !decoded || elsewhere {
            return Err(self.refuse(format!("a bulk chunk with a header that makes no sense: {header:?}")));
        }
        let bytes = header.contents();
        if header.bytes == 0 || bytes > pinned.plan().slot_bytes {
            let limit = pinned.plan().slot_bytes;
            return Err(self.refuse(format!("a bulk chunk of {bytes} bytes; the limit is {limit}")));
        }
        let admitted = self.shared.chunks().admit(header.number);
        let slot = admitted.map_err(|error| self.refuse(error.to_string()))?;
        let start = pinned.h2d_slot(slot as u32);
        // SAFETY: the slot belongs to this chunk from here until it is retired, and the mapping outlives the lanes.
        let slot = unsafe { RawSliceMut::new(start, bytes as usize) };
        Ok(self.expander.place(header, slot))
    }

    fn landed(&mut self, header: &ChunkHeader) {
        self.shared.bytes_in.fetch_add(u64::from(header.bytes), Ordering::Relaxed);
        if let Err(error) = self.expander.landed(header) {
            // No stream is told that it has arrived, and the session ends.
            self.failed = true;
            self.shared.end(self.lane, &self.refuse(error.to_string()));
            return;
        }
        let mut chunks = self.shared.chunks();
        if chunks.arrived(header.number).is_ok() {
            // Releases the payload to the streams that wait for it. Under the lock, so that it never goes back.
            let word = self.shared.pinned.word(self.shared.pinned.arrived());
            word.store(chunks.arrived_below() as u32, Ordering::Release);
        }
    }

    fn prepare(&mut self, chunk: OutChunk, delivery: &dyn Fn() -> Option<Delivery>) -> OutChunk {
        let chunk = self.compressor.prepare(chunk, delivery);
        let saved = chunk.header.contents() - chunk.header.bytes;
        self.shared.bytes_out.fetch_sub(saved.into(), Ordering::Relaxed);
        chunk
    }

    fn sent(&mut self, token: u64) {
        self.compressor.sent();
        self.shared.pinned.word(self.shared.pinned.freed(token as u32)).fetch_add(1, Ordering::Release);
    }

    fn closed(&mut self, why: LinkError) {
        self.shared.end(self.lane, &why);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pinned::Plan;
    use super::*;

    #[test]
    fn nothing_arrives_behind_what_cannot_be_decoded() {
        let plan = Plan { slot_bytes: 4096, h2d_slots: 4, d2h_slots: 1 };
        let lanes = Lanes::new(1, Arc::new(Pinned::new(plan).unwrap()), "a test".into()).unwrap();
        let mut sink = Sink {
            lane: 0,
            shared: Arc::clone(&lanes.shared),
            compressor: Compressor::new(Compress::Off),
            expander: Expander::default(),
            failed: false,
        };
        let whole = |id| ChunkHeader::host_to_device(id, 64);
        let broken = ChunkHeader { decoded: 4096, ..whole(1) };
        for header in [whole(0), broken] {
            assert_eq!(sink.place(&header).unwrap().len(), 64);
            sink.landed(&header);
        }
        assert!(lanes.has_arrived(0) && !lanes.has_arrived(1));
        let why = sink.place(&whole(2)).unwrap_err().to_string();
        assert!(why.contains("cannot be decoded"), "{why}");
        sink.closed(LinkError::Misuse("over"));
        assert!(!lanes.has_arrived(1) && !lanes.has_arrived(2));
        assert!(
            lanes.ended().unwrap().contains("cannot be decoded"),
            "the first cause is the one that is told"
        );
    }
}
