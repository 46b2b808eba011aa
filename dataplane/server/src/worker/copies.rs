//! Copies and memsets.
//!
//! Payload is never waited for by a thread. Towards the device, the stream waits until the arrival counter has passed
//! the chunk and copies from its slot; from the device, the stream waits until the slot is free, copies into it, and the
//! ticket behind the copy hands the slot to a bulk lane. Small payloads travel in the command lane and pass
//! through small pinned blocks.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::Ordering;

use cudarc::driver::sys::CUstream;
use fusewire_wire::bulk::{ChunkHeader, MAX_LANES, chunk_bytes};
use fusewire_wire::ops::table::{
    CopyIn, CopyInInline, CopyOut, CopyRect, CopyWithin, INLINE_BYTES, INLINE_REPLY_BYTES, MIRROR_READ_BYTES,
    Memset,
};
use fusewire_wire::ops::{Call, Status};

use super::backlog::{Continuing, QUEUE};
use super::bulk::arrival_of;
use super::gpu::Gpu;
use super::pinned::Block;
use super::ranges::Kind;
use super::streams::{Piece, StreamId, Then};
use crate::driver::layouts::{Memcpy3d, Side};
use crate::driver::{CAPTURE_UNSUPPORTED, INVALID_VALUE};

/// cuStreamWaitValue32: until the word is at least the value, in the arithmetic of counters that wrap.
const WAIT_GEQ: u32 = 0;
/// Bytes of chunks that are copied as one at most, towards the device and from it. Each copy has its price on the GPU,
/// and so has each wait in front of it.
const TOGETHER_IN: u64 = 4 << 20;
const TOGETHER_OUT: u64 = 1 << 20;
/// Pieces of a copy from the device that are enqueued before anything else is looked at.
const PIECES: u32 = 16;
/// Of the slots there are, no copy takes more than this part, so that some fill while others are emptied.
const FEWEST_ROUNDS: u32 = 4;
/// Chunks that a refused copy may leave behind for the session to throw away.
const MAX_UNWANTED: usize = 1 << 20;

impl Gpu {
    pub(super) fn copy_in(&mut self, call: Call, record: &CopyIn) -> Result<(), Status> {
        let chunk_bytes = chunk_bytes(record.bytes, self.pinned.plan().slot_bytes);
        let chunks = self.expect_chunks(record.first_chunk, record.bytes.div_ceil(chunk_bytes))?;
        let first = chunks.start;
        self.enqueue_in(call.number, *record, chunks, first, first)
    }

    /// Numbers chunks as the client has. The two must agree, or data would end up in the wrong place.
    fn expect_chunks(&mut self, first: u64, count: u64) -> Result<Range<u64>, Status> {
        if self.lanes.count() == 0 || count > MAX_UNWANTED as u64 || self.lanes.unwanted() > MAX_UNWANTED {
            self.misbehave(format!("it announced {count} bulk chunks that cannot come"));
            return Err(INVALID_VALUE);
        }
        let chunks = self.lanes.number(count);
        if chunks.start != first {
            self.misbehave(format!("it numbered a bulk chunk {first} where {} is due", chunks.start));
            return Err(INVALID_VALUE);
        }
        Ok(chunks)
    }

    /// Enqueues the chunks of a copy from `next` on, as many as the queues take.
    pub(super) fn enqueue_in(
        &mut self,
        number: u64,
        record: CopyIn,
        chunks: Range<u64>,
        mut next: u64,
        mut ticketed: u64,
    ) -> Result<(), Status> {
        let result = self.enqueue_chunks(&record, &chunks, &mut next, &mut ticketed);
        match result {
            Ok(()) if next < chunks.end => {
                self.continuing = Some(Continuing::In { number, record, chunks, next, ticketed });
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(status) => {
                // The client sends them all the same.
                self.lanes.retire(ticketed..chunks.end, status);
                Err(status)
            }
        }
    }

    fn enqueue_chunks(
        &mut self,
        record: &CopyIn,
        chunks: &Range<u64>,
        next: &mut u64,
        ticketed: &mut u64,
    ) -> Result<(), Status> {
        let plan = self.pinned.plan();
        let chunk_bytes = chunk_bytes(record.bytes, plan.slot_bytes);
        // The slots of a long copy come back as it goes on.
        let every = u64::from(plan.h2d_slots / 8).max(1);
        self.covered(record.destination, record.bytes)?;
        let (id, raw) = self.stream(record.stream)?;
        if self.is_capturing(id) {
            // At a replay the data would have to come again.
            return Err(CAPTURE_UNSUPPORTED);
        }
        while *next < chunks.end && self.queued < QUEUE {
            let count = self.together(chunks, *next, chunk_bytes);
            let offset = (*next - chunks.start) * chunk_bytes;
            let bytes = (record.bytes - offset).min(count * chunk_bytes);
            self.count(id, 2)?;
            self.await_chunk(raw, *next + count - 1)?;
            let slot = self.lanes.slot_of(*next);
            let source = self.pinned.h2d_slot(slot).cast_const().cast::<c_void>();
            let destination = record.destination + offset;
            // SAFETY: the slots are registered, lie side by side, and hold these chunks until they are retired; the
            // destination was checked.
            let status = unsafe { self.d.cuMemcpyHtoDAsync_v2(destination, source, bytes as usize, raw) };
            self.ok(status)?;
            *next += count;
            if *next - *ticketed >= every || *next == chunks.end || self.queued >= QUEUE {
                self.after(id, Then::Retire { chunks: *ticketed..*next })?;
                *ticketed = *next;
            }
        }
        Ok(())
    }

    /// How many chunks from `next` on are copied as one, where their slots lie side by side: half of what is left at
    /// most, so that little is to be done when the last has come.
    fn together(&self, chunks: &Range<u64>, next: u64, chunk_bytes: u64) -> u64 {
        let plan = self.pinned.plan();
        if chunk_bytes != u64::from(plan.slot_bytes) {
            return 1;
        }
        let slots_left = plan.h2d_slots - self.lanes.slot_of(next);
        let most = u64::from(slots_left.min(plan.h2d_slots / FEWEST_ROUNDS));
        most.min(TOGETHER_IN / chunk_bytes).min((chunks.end - next) / 2).max(1)
    }

    /// The stream waits until a chunk, and every one before it, is in its slot.
    fn await_chunk(&mut self, stream: CUstream, chunk: u64) -> Result<(), Status> {
        self.lanes.await_chunk(chunk);
        if !self.lanes.has_arrived(chunk) {
            let word = self.pinned.word_address(self.pinned.arrived());
            // SAFETY: a live stream and a registered word, which the lanes' threads set.
            let status = unsafe { self.d.cuStreamWaitValue32_v2(stream, word, arrival_of(chunk), WAIT_GEQ) };
            self.ok(status)?;
        }
        Ok(())
    }

    pub(super) fn copy_in_inline(&mut self, record: &CopyInInline, tail: &[u8]) -> Result<(), Status> {
        let bytes = usize::try_from(record.bytes).ok().filter(|&bytes| bytes <= INLINE_BYTES);
        let data = bytes.and_then(|bytes| tail.get(..bytes)).ok_or(INVALID_VALUE)?;
        self.covered(record.destination, record.bytes)?;
        let (id, raw) = self.stream_for_work(record.stream)?;
        if data.is_empty() {
            return Ok(());
        }
        let block = self.take_block(data.len())?;
        // SAFETY: the block is at least that long and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), block.start(), data.len()) };
        let source = block.start().cast_const().cast::<c_void>();
        // SAFETY: the block stays as it is until its ticket is seen; the destination was checked.
        let status = unsafe { self.d.cuMemcpyHtoDAsync_v2(record.destination, source, data.len(), raw) };
        if let Err(status) = self.ok(status) {
            self.arena.give(block);
            return Err(status);
        }
        if self.is_capturing(id) {
            // Every replay copies what was captured: the block stays for the session.
            return Ok(());
        }
        self.after(id, Then::Release { block })
    }

    pub(super) fn copy_out(&mut self, call: Call, record: &CopyOut) -> Result<(), Status> {
        self.covered(record.source, record.bytes)?;
        let (id, raw) = self.stream_for_work(record.stream)?;
        if self.is_capturing(id) {
            return Err(CAPTURE_UNSUPPORTED);
        }
        if record.bytes == 0 {
            return self.after(id, Then::Done { number: call.number });
        }
        if record.bytes <= MIRROR_READ_BYTES && self.mirrors(record.source, record.bytes) {
            let (address, bytes) = (record.source, record.bytes as usize);
            return self.after(id, Then::Mirrored { number: call.number, address, bytes });
        }
        if record.bytes <= INLINE_REPLY_BYTES as u64 {
            return self.copy_out_inline(call.number, id, raw, record);
        }
        self.enqueue_out(call.number, *record, 0)
    }

    /// Enqueues the chunks of a copy from `offset` on, as many as the queues take.
    pub(super) fn enqueue_out(
        &mut self,
        number: u64,
        record: CopyOut,
        mut offset: u64,
    ) -> Result<(), Status> {
        let (id, _) = self.stream(record.stream)?;
        let mut pieces = 0;
        while offset < record.bytes {
            if self.queued >= QUEUE || pieces == PIECES {
                self.continuing = Some(Continuing::Out { number, record, offset });
                return Ok(());
            }
            match self.enqueue_piece(number, &record, offset) {
                Ok(bytes) => {
                    offset += bytes;
                    pieces += 1;
                    // To enqueue all of a long copy takes a good part of what it takes the link: the first pieces leave
                    // meanwhile.
                    self.poll();
                }
                Err(status) => {
                    self.cancel_chunks(id, number);
                    return Err(status);
                }
            }
        }
        Ok(())
    }

    fn enqueue_piece(&mut self, number: u64, record: &CopyOut, offset: u64) -> Result<u64, Status> {
        let (id, raw) = self.stream(record.stream)?;
        let left = record.bytes - offset;
        let chunk_bytes = chunk_bytes(record.bytes, self.pinned.plan().slot_bytes);
        let slots = self.lanes.next_slots(self.together_out(record.bytes, left, chunk_bytes));
        let bytes = left.min(slots.len() as u64 * chunk_bytes);
        self.count(id, 1 + slots.len() as u32)?;
        let destination = self.await_slots(raw, slots.clone())?;
        let source = record.source + offset;
        // From host memory to host memory the driver would copy itself, once the stream is there, and this thread would
        // wait for it (CUDA driver API, API synchronization behavior).
        let mirrored = if self.mirrors(source, bytes) { source } else { 0 };
        let status = if mirrored == 0 {
            // SAFETY: the slot is registered and, where the stream has got to, free; the source was checked.
            unsafe { self.d.cuMemcpyDtoHAsync_v2(destination, source, bytes as usize, raw) }
        } else {
            0
        };
        let last = offset + bytes == record.bytes;
        let then =
            Then::Chunks(Piece { number, slots: slots.clone(), offset, bytes: bytes as u32, last, mirrored });
        let queued = self.ok(status).and_then(|()| self.after(id, then));
        queued.inspect_err(|_| self.lanes.give_slots(slots))?;
        Ok(bytes)
    }

    /// How many slots are filled by one copy, where the whole is of so many bytes, of which some are left: few enough
    /// that all lanes have something to send before long.
    fn together_out(&self, whole: u64, left: u64, chunk_bytes: u64) -> u32 {
        let plan = self.pinned.plan();
        if chunk_bytes != u64::from(plan.slot_bytes) {
            return 1;
        }
        let share = whole / MAX_LANES as u64;
        let most = share.min(TOGETHER_OUT).min(left) / chunk_bytes;
        u32::try_from(most).unwrap_or(u32::MAX).min(plan.d2h_slots / FEWEST_ROUNDS).max(1)
    }

    /// The copy is refused half way: the client is told so, and gets none of it.
    fn cancel_chunks(&mut self, id: StreamId, copy: u64) {
        let Ok(stream) = self.streams.get_mut(id) else { return };
        for pending in &mut stream.pending {
            if let Then::Chunks(piece) = &pending.then
                && piece.number == copy
            {
                pending.then = Then::GiveSlots { slots: piece.slots.clone() };
            }
        }
    }

    fn copy_out_inline(
        &mut self,
        number: u64,
        id: StreamId,
        raw: CUstream,
        record: &CopyOut,
    ) -> Result<(), Status> {
        let bytes = record.bytes as usize;
        let block = self.take_block(bytes)?;
        let destination = block.start().cast::<c_void>();
        // SAFETY: the block is at least that long and nobody else's until its ticket is seen; the source was
        // checked.
        let status = unsafe { self.d.cuMemcpyDtoHAsync_v2(destination, record.source, bytes, raw) };
        let result = self.ok(status).and_then(|()| self.after(id, Then::Inline { number, block, bytes }));
        if result.is_err() {
            self.arena.give(block);
        }
        result
    }

    /// Takes the next device-to-host slots, and lets the stream wait until they are free. Gives where they lie.
    fn await_slots(&mut self, stream: CUstream, slots: Range<u32>) -> Result<*mut c_void, Status> {
        let mut result = Ok(());
        for slot in slots.clone() {
            let count = self.lanes.take_slot(slot);
            let word = self.pinned.freed(slot);
            let freed = self.pinned.word(word).load(Ordering::Acquire);
            if result.is_ok() && freed.wrapping_sub(count).cast_signed() < 0 {
                let address = self.pinned.word_address(word);
                // SAFETY: a live stream and a registered word, which the lane's thread sets.
                let status = unsafe { self.d.cuStreamWaitValue32_v2(stream, address, count, WAIT_GEQ) };
                result = self.ok(status);
            }
        }
        if let Err(status) = result {
            self.lanes.give_slots(slots);
            return Err(status);
        }
        Ok(self.pinned.d2h_slot(slots.start).cast())
    }

    /// Whether a range is mirrored host memory.
    fn mirrors(&self, address: u64, bytes: u64) -> bool {
        self.ranges.find(address).is_some_and(|range| {
            matches!(range.kind, Kind::Mirror { .. }) && bytes <= range.bytes - (address - range.start)
        })
    }

    /// Reads mirrored memory, and sends what is there.
    pub(super) fn mirrored_data(&mut self, number: u64, address: u64, bytes: usize) {
        let mut copy = vec![0; bytes];
        // SAFETY: a mapping of ours, which is not taken back before this is forgotten (`unmirror`). Kernels may
        // write there meanwhile: whoever asked for theirs will read them.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, copy.as_mut_ptr(), bytes) };
        for (piece, offset) in copy.chunks(INLINE_REPLY_BYTES).zip((0..).step_by(INLINE_REPLY_BYTES)) {
            self.out.data(number, offset, piece);
        }
    }

    pub(super) fn inline_arrived(&mut self, number: u64, block: Block, bytes: usize, status: Status) {
        if status == 0 {
            self.inline_data(number, block, bytes);
        } else {
            self.arena.give(block);
        }
        self.out.done(number, status);
    }

    /// Sends what a small copy has brought, and gives its block back.
    pub(super) fn inline_data(&mut self, number: u64, block: Block, bytes: usize) {
        // SAFETY: the copy into the block is finished, and it was at least that long.
        let data = unsafe { std::slice::from_raw_parts(block.start(), bytes.min(block.len())) };
        self.out.data(number, 0, data);
        self.arena.give(block);
    }

    /// What a copy has brought into these slots goes out, a chunk each.
    pub(super) fn chunks_arrived(&mut self, piece: Piece, status: Status) {
        let Piece { number, slots, offset, bytes, last, mirrored } = piece;
        if status != 0 {
            self.lanes.give_slots(slots);
        } else {
            if mirrored != 0 {
                let from = std::ptr::with_exposed_provenance::<u8>(mirrored as usize);
                // SAFETY: a mapping of ours, as in `mirrored_data`; the slots are free, lie side by side, and have room
                // for the piece.
                unsafe {
                    std::ptr::copy_nonoverlapping(from, self.pinned.d2h_slot(slots.start), bytes as usize)
                };
            }
            let slot_bytes = self.pinned.plan().slot_bytes;
            for (slot, before) in slots.zip((0..bytes).step_by(slot_bytes.max(1) as usize)) {
                let offset = offset + u64::from(before);
                self.chunk_arrived(number, slot, offset, slot_bytes.min(bytes - before));
            }
        }
        if last {
            self.out.done(number, status);
        }
    }

    fn chunk_arrived(&mut self, number: u64, slot: u32, offset: u64, bytes: u32) {
        if self.lanes.count() == 0 {
            // A client without bulk lanes takes it all in the command lane.
            // SAFETY: the copy into the slot is finished, and the slot is at least that long.
            let data = unsafe { std::slice::from_raw_parts(self.pinned.d2h_slot(slot), bytes as usize) };
            self.out.data(number, offset, data);
            self.lanes.give_slots(slot..slot + 1);
        } else {
            let chunk = self.out.next_chunk();
            self.lanes.send(ChunkHeader::device_to_host(chunk, number, offset, bytes), slot);
        }
    }

    pub(super) fn copy_within(&mut self, record: &CopyWithin) -> Result<(), Status> {
        self.covered(record.destination, record.bytes)?;
        self.covered(record.source, record.bytes)?;
        let (_, raw) = self.stream_for_work(record.stream)?;
        // SAFETY: both ranges were checked.
        let status =
            unsafe { self.d.cuMemcpyAsync(record.destination, record.source, record.bytes as usize, raw) };
        self.ok(status)
    }

    pub(super) fn copy_rect(&mut self, call: Call, record: &CopyRect) -> Result<(), Status> {
        let bytes = record.width.checked_mul(record.height).and_then(|bytes| bytes.checked_mul(record.depth));
        match record.direction {
            0 => {
                let chunks = self.expect_chunks(record.first_chunk, 1)?;
                let result = self.rect_in(record, bytes, chunks.start);
                if let Err(status) = result {
                    self.lanes.retire(chunks, status);
                }
                result
            }
            1 => self.rect_out(call, record, bytes),
            2 => {
                let destination = self.rect_destination(record)?;
                let source = self.rect_source(record)?;
                let (_, raw) = self.stream_for_work(record.stream)?;
                self.copy_3d(record, source, destination, raw)
            }
            _ => Err(INVALID_VALUE),
        }
    }

    fn rect_in(&mut self, record: &CopyRect, bytes: Option<u64>, chunk: u64) -> Result<(), Status> {
        self.fits_slot(bytes)?;
        let destination = self.rect_destination(record)?;
        let (id, raw) = self.stream_for_work(record.stream)?;
        if self.is_capturing(id) {
            return Err(CAPTURE_UNSUPPORTED);
        }
        self.await_chunk(raw, chunk)?;
        let slot = self.lanes.slot_of(chunk);
        let packed =
            Side::host(self.pinned.h2d_slot(slot).cast(), record.width as usize, record.height as usize);
        self.copy_3d(record, packed, destination, raw)?;
        self.after(id, Then::Retire { chunks: chunk..chunk + 1 })
    }

    fn rect_out(&mut self, call: Call, record: &CopyRect, bytes: Option<u64>) -> Result<(), Status> {
        let bytes = self.fits_slot(bytes)?;
        let source = self.rect_source(record)?;
        let (id, raw) = self.stream_for_work(record.stream)?;
        if self.is_capturing(id) {
            return Err(CAPTURE_UNSUPPORTED);
        }
        if bytes == 0 {
            return self.after(id, Then::Done { number: call.number });
        }
        let slots = self.lanes.next_slots(1);
        let start = self.await_slots(raw, slots.clone())?;
        let packed = Side::host(start, record.width as usize, record.height as usize);
        let number = call.number;
        let piece = Piece { number, slots: slots.clone(), offset: 0, bytes, last: true, mirrored: 0 };
        let then = Then::Chunks(piece);
        let result = self.copy_3d(record, source, packed, raw).and_then(|()| self.after(id, then));
        if result.is_err() {
            self.lanes.give_slots(slots);
        }
        result
    }

    fn fits_slot(&self, bytes: Option<u64>) -> Result<u32, Status> {
        let bytes = bytes.and_then(|bytes| u32::try_from(bytes).ok()).ok_or(INVALID_VALUE)?;
        if bytes > self.pinned.plan().slot_bytes { Err(INVALID_VALUE) } else { Ok(bytes) }
    }

    fn rect_destination(&self, record: &CopyRect) -> Result<Side, Status> {
        let at = (record.destination_x, record.destination_y, record.destination_z);
        let pitch = (record.destination_pitch, record.destination_height);
        self.rect_side(record, record.destination, record.destination_array, at, pitch)
    }

    fn rect_source(&self, record: &CopyRect) -> Result<Side, Status> {
        let at = (record.source_x, record.source_y, record.source_z);
        let pitch = (record.source_pitch, record.source_height);
        self.rect_side(record, record.source, record.source_array, at, pitch)
    }

    fn rect_side(
        &self,
        record: &CopyRect,
        address: u64,
        array: u64,
        (x, y, z): (u64, u64, u64),
        (pitch, height): (u64, u64),
    ) -> Result<Side, Status> {
        let small =
            |value: u64| usize::try_from(value).ok().filter(|&value| value < 1 << 40).ok_or(INVALID_VALUE);
        let (at_x, at_y, at_z) = (small(x)?, small(y)?, small(z)?);
        if array != 0 {
            // The driver knows how large an array is.
            return Ok(Side::array(self.arrays.get(array)?.raw.cast()).at(at_x, at_y, at_z));
        }
        self.covered_rect(address, (x, y, z), (pitch, height), (record.width, record.height, record.depth))?;
        Ok(Side::unified(address, small(pitch)?, small(height)?).at(at_x, at_y, at_z))
    }

    /// Whether a pitched box lies in mapped memory, from its first byte to its last.
    pub(super) fn covered_rect(
        &self,
        address: u64,
        (x, y, z): (u64, u64, u64),
        (pitch, rows): (u64, u64),
        (width, height, depth): (u64, u64, u64),
    ) -> Result<(), Status> {
        if width == 0 || height == 0 || depth == 0 {
            return Ok(());
        }
        let last = || {
            let first = z.checked_mul(rows)?.checked_add(y)?.checked_mul(pitch)?.checked_add(x)?;
            let rows_between = (depth - 1).checked_mul(rows)?.checked_add(height - 1)?;
            let bytes = rows_between.checked_mul(pitch)?.checked_add(width)?;
            Some((address.checked_add(first)?, bytes))
        };
        let fits = (height == 1 && depth == 1) || pitch >= width;
        match last() {
            Some((start, bytes)) if fits => self.covered(start, bytes),
            _ => Err(INVALID_VALUE),
        }
    }

    fn copy_3d(
        &mut self,
        record: &CopyRect,
        source: Side,
        destination: Side,
        raw: CUstream,
    ) -> Result<(), Status> {
        if record.width == 0 || record.height == 0 || record.depth == 0 {
            return Ok(());
        }
        let (width, height, depth) = (record.width as usize, record.height as usize, record.depth as usize);
        let copy = Memcpy3d { source, destination, width, height, depth };
        // SAFETY: both sides were checked; the description is live.
        let status = unsafe { self.d.cuMemcpy3DAsync_v2(&raw const copy, raw) };
        self.ok(status)
    }

    pub(super) fn memset(&mut self, record: &Memset) -> Result<(), Status> {
        let element = u64::from(record.element);
        let row = record.width.checked_mul(element).ok_or(INVALID_VALUE)?;
        if !matches!(element, 1 | 2 | 4) || !record.destination.is_multiple_of(element) {
            return Err(INVALID_VALUE);
        }
        self.covered_rect(
            record.destination,
            (0, 0, 0),
            (record.pitch, record.height),
            (row, record.height, 1),
        )?;
        let (_, raw) = self.stream_for_work(record.stream)?;
        if row == 0 || record.height == 0 {
            return Ok(());
        }
        let (start, value) = (record.destination, record.value);
        let (pitch, width, height) = (record.pitch as usize, record.width as usize, record.height as usize);
        // SAFETY: the range was checked.
        let status = unsafe {
            match (element, height) {
                (1, 1) => self.d.cuMemsetD8Async(start, value as u8, width, raw),
                (2, 1) => self.d.cuMemsetD16Async(start, value as u16, width, raw),
                (_, 1) => self.d.cuMemsetD32Async(start, value, width, raw),
                (1, _) => self.d.cuMemsetD2D8Async(start, pitch, value as u8, width, height, raw),
                (2, _) => self.d.cuMemsetD2D16Async(start, pitch, value as u16, width, height, raw),
                _ => self.d.cuMemsetD2D32Async(start, pitch, value, width, height, raw),
            }
        };
        self.ok(status)
    }
}
