//! Streams, and the tickets by which completion is learned.
//!
//! A ticket is a number that a stream writes to its word of pinned memory after the work before it; the shard
//! polls the words of streams that something waits for. What waits is queued per stream, in order. A ticket is
//! never put on a stream that is being captured: it would become part of the graph.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUevent, CUstream};
use fusewire_wire::ops::table::{
    StreamCreate, StreamDefault, StreamMark, StreamQuery, StreamSetAttribute, StreamWaitEvent,
    StreamWaitValue, StreamWriteValue,
};
use fusewire_wire::ops::{Call, Nothing, Status};

use super::backlog;
use super::gpu::Gpu;
use super::pinned::{Block, Word};
use super::ranges::{self, Kind};
use crate::driver::layouts::StreamAttribute;
use crate::driver::{CONTEXT_IS_DESTROYED, INVALID_HANDLE, INVALID_VALUE, NOT_READY, NOT_SUPPORTED, check};

/// The legacy default stream, by the name cuda.h gives it.
const LEGACY: CUstream = 1 as CUstream;
/// Flag of cuStreamCreate: does not synchronise with the legacy stream.
const NON_BLOCKING: u32 = 1;

/// Bytes of a mark: the word that the stream writes, and that by which it is refused.
const MARK_BYTES: u64 = 16;

/// How often the driver is asked whether a stream that is waited for has met a fault.
pub(super) const FAULT_CHECK: Duration = Duration::from_millis(1);

/// A stream by its place in [`Streams`]. Its handle may be gone while it lives on to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamId(u32);

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) raw: CUstream,
    pub(super) context: u64,
    /// Where tickets are written, and the last one issued.
    word: Word,
    issued: u32,
    /// The last ticket that had been written when the shard last looked at all streams.
    seen: u32,
    /// Entries since the last ticket.
    pub(super) unticketed: u32,
    /// Something may have been printed that no marked ticket follows.
    unflushed: bool,
    /// Work was put on the stream after the last ticket.
    pub(super) dirty: bool,
    pub(super) pending: VecDeque<Pending>,
    /// In [`Streams::active`].
    active: bool,
    /// The handle is gone; the stream goes once nothing waits for it.
    dying: bool,
    /// A capture that this stream began is under way.
    pub(super) captures: bool,
    /// Where the client says that host functions have run, and how many have been put on the stream.
    pub(super) hold: Option<(Word, u32)>,
}

/// Something that happens when a ticket is seen.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: u32,
    /// Number of the operation that it came with.
    number: u64,
    /// Entries that are finished with it.
    entries: u32,
    /// Recorded before the ticket: waiting for it makes the driver flush what was printed.
    printed: Option<CUevent>,
    pub(super) then: Then,
}

#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    /// Answers a synchronous operation that returns nothing.
    Reply {
        number: u64,
    },
    Done {
        number: u64,
    },
    /// A small pinned block is free again.
    Release {
        block: Block,
    },
    /// A small device-to-host copy is in its block.
    Inline {
        number: u64,
        block: Block,
        bytes: usize,
    },
    /// Mirrored host memory is to be read and sent. It is read only now, whatever stream it was asked for on, so that
    /// what is read later is told later: nothing older ever follows.
    Mirrored {
        number: u64,
        address: u64,
        bytes: usize,
    },
    /// A piece of a device-to-host copy is in its slots.
    Chunks(Piece),
    /// Device-to-host slots are free again: their copy was given up.
    GiveSlots {
        slots: Range<u32>,
    },
    /// The slots of these host-to-device chunks are free again.
    Retire {
        chunks: Range<u64>,
    },
    HostCall {
        number: u64,
    },
    Fence {
        fence: u64,
    },
    /// The stream wrote host memory that the client must be told of.
    Word {
        address: u64,
        value: u64,
        bytes: u32,
    },
}

/// A piece of a device-to-host copy, and the slots for it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) number: u64,
    pub(super) slots: Range<u32>,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) last: bool,
    /// Mirrored memory, from which the slots are filled only now, as for [`Then::Mirrored`]; 0: the stream has filled
    /// them.
    pub(super) mirrored: u64,
}

impl Then {
    /// Whether the client probably waits for it.
    fn is_awaited(&self) -> bool {
        matches!(
            self,
            Self::Reply { .. }
                | Self::Inline { .. }
                | Self::Mirrored { .. }
                | Self::Chunks(Piece { last: true, .. })
        )
    }

    /// Whether the program, once it hears of it, expects to see what was printed before.
    fn shows_output(&self) -> bool {
        matches!(
            self,
            Self::Reply { .. }
                | Self::Done { .. }
                | Self::Inline { .. }
                | Self::Mirrored { .. }
                | Self::Chunks(Piece { last: true, .. })
                | Self::HostCall { .. }
                | Self::Fence { .. }
        )
    }
}

/// All streams of the session.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
    /// Streams that something waits for.
    active: Vec<StreamId>,
    /// Where in `active` the last look for faults was.
    looked: usize,
    /// A stream has written a word of mirrored memory.
    tell_words: bool,
}

impl Streams {
    pub(super) fn get(&self, id: StreamId) -> Result<&Stream, Status> {
        self.slots.get(id.0 as usize).and_then(Option::as_ref).ok_or(INVALID_HANDLE)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: StreamId) -> Result<&mut Stream, Status> {
        self.slots.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(INVALID_HANDLE)
    }

    fn add(&mut self, stream: Stream) -> StreamId {
        match self.free.pop() {
            Some(index) => {
                if let Some(slot) = self.slots.get_mut(index as usize) {
                    *slot = Some(stream);
                }
                StreamId(index)
            }
            None => {
                self.slots.push(Some(stream));
                StreamId(self.slots.len() as u32 - 1)
            }
        }
    }

    fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        Some(stream)
    }

    /// The streams of a context, those that only finish included.
    pub(super) fn of_context(&self, context: u64) -> Vec<StreamId> {
        let ids = self.slots.iter().zip(0..);
        ids.filter(|(slot, _)| slot.as_ref().is_some_and(|stream| stream.context == context))
            .map(|(_, index)| StreamId(index))
            .collect()
    }

    /// Forgets to read mirrored memory that is going: the client has given it up. Gives how often that was.
    pub(super) fn forget_mirrored(&mut self, memory: &Range<u64>) -> u32 {
        let mut forgotten = 0;
        let pending = self.slots.iter_mut().flatten().flat_map(|stream| &mut stream.pending);
        for Pending { then, .. } in pending {
            let concerns = |address: u64, bytes: u64| {
                address < memory.end && memory.start < address.saturating_add(bytes)
            };
            match then {
                Then::Mirrored { number, address, bytes } if concerns(*address, *bytes as u64) => {
                    *then = Then::Done { number: *number };
                    forgotten += 1;
                }
                Then::Chunks(piece) if concerns(piece.mirrored, piece.bytes.into()) => piece.mirrored = 0,
                _ => {}
            }
        }
        forgotten
    }

    /// Streams with entries that no ticket follows.
    pub(super) fn unticketed(&self) -> Vec<StreamId> {
        let ids = self.slots.iter().zip(0..);
        ids.filter(|(slot, _)| slot.as_ref().is_some_and(|stream| stream.unticketed != 0))
            .map(|(_, index)| StreamId(index))
            .collect()
    }

    /// Whether anything waits for the GPU.
    pub(super) fn is_waiting(&self) -> bool {
        !self.active.is_empty()
    }
}

/// Whether a word says that a ticket has been written, in the arithmetic of counters that wrap.
fn has_reached(word: u32, ticket: u32) -> bool {
    word.wrapping_sub(ticket).cast_signed() >= 0
}

impl Gpu {
    /// The stream of that handle, with its context current.
    #[inline]
    pub(super) fn stream(&mut self, handle: u64) -> Result<(StreamId, CUstream), Status> {
        let id = *self.stream_names.get(handle)?;
        let stream = self.streams.get(id)?;
        let (raw, context) = (stream.raw, stream.context);
        self.enter(context)?;
        Ok((id, raw))
    }

    /// As [`Gpu::stream`], for an operation that puts work on it.
    #[inline]
    pub(super) fn stream_for_work(&mut self, handle: u64) -> Result<(StreamId, CUstream), Status> {
        let (id, raw) = self.stream(handle)?;
        self.count(id, 1)?;
        Ok((id, raw))
    }

    /// Whether a ticket may not be put on the stream because it is being captured, by itself or by having
    /// waited for an event of a capture.
    pub(super) fn is_capturing(&mut self, id: StreamId) -> bool {
        let Ok(stream) = self.streams.get(id) else { return false };
        if self.contexts.iter().all(|(_, context)| context.captures == 0) {
            return false;
        }
        let mut state = 0;
        // SAFETY: a live stream and a live integer. An error means the legacy stream next to a capture, where
        // nothing may be put either.
        let status = unsafe { self.d.cuStreamIsCapturing(stream.raw, &raw mut state) };
        status != 0 || state != 0
    }

    /// Has `then` happen once the work on the stream so far is finished. On error nothing was queued and
    /// `then` has not happened.
    pub(super) fn after(&mut self, id: StreamId, then: Then) -> Result<(), Status> {
        let stream = self.streams.get_mut(id)?;
        let (raw, ticket) = (stream.raw, stream.issued.wrapping_add(1));
        let address = self.pinned.word_address(stream.word);
        let mut printed = None;
        if self.prints && then.shows_output() {
            printed = self.mark(raw);
        }
        // SAFETY: a live stream; the word is registered pinned memory.
        let status = unsafe { self.d.cuStreamWriteValue32_v2(raw, address, ticket, 0) };
        self.ok(status)?;
        let stream = self.streams.get_mut(id)?;
        stream.issued = ticket;
        stream.unflushed = printed.is_none() && (stream.unflushed || stream.dirty);
        stream.dirty = false;
        let entries = std::mem::take(&mut stream.unticketed);
        self.unticketed = self.unticketed.saturating_sub(entries);
        let entries = entries + 1;
        self.awaited += u32::from(then.is_awaited());
        stream.pending.push_back(Pending { ticket, number: self.serving, entries, printed, then });
        self.queued += 1;
        self.activate(id);
        Ok(())
    }

    /// As [`Gpu::after`], with no new ticket when nothing was put on the stream since the last one. Gives
    /// whether there was anything to wait for; if not, `then` has not been queued.
    pub(super) fn after_all(&mut self, id: StreamId, then: Then) -> Result<bool, Status> {
        let stream = self.streams.get_mut(id)?;
        if stream.dirty || (self.prints && stream.unflushed) {
            return self.after(id, then).map(|()| true);
        }
        if stream.pending.is_empty() {
            return Ok(false);
        }
        let ticket = stream.issued;
        self.awaited += u32::from(then.is_awaited());
        stream.pending.push_back(Pending { ticket, number: self.serving, entries: 0, printed: None, then });
        Ok(true)
    }

    /// Has `then` happen with the last ticket that an operation up to `through` has left, and puts nothing on the
    /// stream. Gives whether there was one to wait for; if not, `then` has not been queued.
    pub(super) fn after_ticket(&mut self, id: StreamId, through: u64, then: Then) -> bool {
        let Ok(stream) = self.streams.get_mut(id) else { return false };
        let Some(at) = stream.pending.iter().rposition(|pending| pending.number <= through) else {
            return false;
        };
        let Some(&Pending { ticket, number, .. }) = stream.pending.get(at) else { return false };
        self.awaited += u32::from(then.is_awaited());
        stream.pending.insert(at + 1, Pending { ticket, number, entries: 0, printed: None, then });
        true
    }

    fn activate(&mut self, id: StreamId) {
        if let Ok(stream) = self.streams.get_mut(id)
            && !stream.active
        {
            stream.active = true;
            self.streams.active.push(id);
        }
    }

    fn mark(&mut self, stream: CUstream) -> Option<CUevent> {
        let mut event = std::ptr::null_mut();
        // SAFETY: a live stream, whose context is current; the event is ours.
        unsafe {
            // 2: without timing.
            if self.d.cuEventCreate(&raw mut event, 2) != 0 {
                return None;
            }
            if self.d.cuEventRecord(event, stream) != 0 {
                self.d.cuEventDestroy_v2(event);
                return None;
            }
        }
        Some(event)
    }

    /// Looks at the words and does what became due. Gives whether anything did.
    ///
    /// A stream may have waited for another, and what the other brought must not be told after it. So all words
    /// are read before anything is told, and then all data that have come are handed over: whatever a ticket that
    /// was seen depends on had its own ticket by then.
    pub(super) fn poll(&mut self) -> bool {
        // Looked at first: what their streams have brought is told first, below.
        let reached = self.reached();
        let mut progress = !reached.is_empty();
        let mut due = progress;
        for at in 0..self.streams.active.len() {
            let Some(&id) = self.streams.active.get(at) else { break };
            let Ok(stream) = self.streams.get_mut(id) else { continue };
            let front = stream.pending.front().map(|front| front.ticket);
            let seen = self.pinned.word(stream.word).load(Ordering::Acquire);
            stream.seen = seen;
            due |= front.is_some_and(|ticket| has_reached(seen, ticket));
        }
        if due && self.streams.active.len() > 1 {
            for at in 0..self.streams.active.len() {
                let Some(&id) = self.streams.active.get(at) else { break };
                self.hand_over(id);
            }
        }
        let mut at = 0;
        while let Some(&id) = self.streams.active.get(at) {
            while let Some(pending) = self.due(id) {
                progress = true;
                self.complete(id, pending, 0);
            }
            let waits = self.streams.get(id).is_ok_and(|stream| !stream.pending.is_empty());
            if waits {
                at += 1;
                continue;
            }
            self.streams.active.swap_remove(at);
            if let Ok(stream) = self.streams.get_mut(id) {
                stream.active = false;
                if stream.dying {
                    self.bury(id);
                }
            }
        }
        self.tell(reached);
        progress
    }

    #[inline]
    fn due(&mut self, id: StreamId) -> Option<Pending> {
        let stream = self.streams.get_mut(id).ok()?;
        let front = stream.pending.front()?;
        if !has_reached(stream.seen, front.ticket) {
            return None;
        }
        stream.pending.pop_front()
    }

    /// Gives the client the data that a stream has brought by now. What depends on them stays pending.
    fn hand_over(&mut self, id: StreamId) {
        let Ok(stream) = self.streams.get(id) else { return };
        let reached = self.pinned.word(stream.word).load(Ordering::Acquire);
        let mut at = 0;
        while let Some(pending) = self.streams.get_mut(id).ok().and_then(|stream| stream.pending.get_mut(at))
        {
            if !has_reached(reached, pending.ticket) {
                return;
            }
            at += 1;
            let end = match pending.then {
                Then::Inline { number, .. }
                | Then::Mirrored { number, .. }
                | Then::Chunks(Piece { number, last: true, .. }) => Then::Done { number },
                Then::Chunks(_) | Then::Word { .. } => Then::Nothing,
                _ => continue,
            };
            self.awaited = self.awaited.saturating_sub(u32::from(pending.then.is_awaited()));
            match std::mem::replace(&mut pending.then, end) {
                Then::Inline { number, block, bytes } => self.inline_data(number, block, bytes),
                Then::Mirrored { number, address, bytes } => self.mirrored_data(number, address, bytes),
                Then::Chunks(piece) => self.chunks_arrived(Piece { last: false, ..piece }, 0),
                Then::Word { address, value, bytes } => self.out.word(address, value, bytes),
                _ => {}
            }
        }
    }

    pub(super) fn complete(&mut self, id: StreamId, pending: Pending, mut status: Status) {
        if pending.entries != 0 {
            self.queued = self.queued.saturating_sub(pending.entries);
            let before = std::mem::replace(&mut self.shortened, Instant::now());
            self.ticket_every = backlog::ticket_every(pending.entries, self.shortened - before);
        }
        self.awaited = self.awaited.saturating_sub(u32::from(pending.then.is_awaited()));
        if let Some(event) = pending.printed {
            self.collect_printed(id, event, status);
        }
        match pending.then {
            Then::Nothing => {}
            Then::Reply { number } => {
                // What came before the ticket went well. Another stream may have met a fault.
                if status == 0 && self.fault_check.elapsed() >= FAULT_CHECK {
                    status = self.fault_of(id);
                }
                self.out.reply(number, status, &[], &[]);
            }
            Then::Done { number } => self.out.done(number, status),
            Then::Release { block } => self.arena.give(block),
            Then::Inline { number, block, bytes } => self.inline_arrived(number, block, bytes, status),
            Then::Mirrored { number, address, bytes } => {
                if status == 0 {
                    self.mirrored_data(number, address, bytes);
                }
                self.out.done(number, status);
            }
            Then::Chunks(piece) => self.chunks_arrived(piece, status),
            Then::GiveSlots { slots } => self.lanes.give_slots(slots),
            Then::Retire { chunks } => self.lanes.retire(chunks, status),
            Then::HostCall { number } => {
                if status == 0 {
                    self.out.host_call(number);
                } else {
                    self.out.done(number, status);
                }
            }
            Then::Fence { fence } => self.fence_reached(fence, status),
            Then::Word { address, value, bytes } => {
                if status == 0 {
                    self.out.word(address, value, bytes);
                }
            }
        }
    }

    fn collect_printed(&mut self, id: StreamId, event: CUevent, status: Status) {
        if status == 0
            && let Ok(context) = self.streams.get(id).map(|stream| stream.context)
            && self.enter(context).is_ok()
        {
            // SAFETY: an event of ours whose turn has come, since the ticket behind it was seen: it does not
            // wait, it flushes.
            unsafe { self.d.cuEventSynchronize(event) };
        }
        // SAFETY: ours, and not used again.
        unsafe { self.d.cuEventDestroy_v2(event) };
        self.forward_output();
    }

    /// Asks the driver about one of the streams that something waits for, in turn: a ticket never comes from a
    /// stream that met a fault.
    pub(super) fn look_for_faults(&mut self) {
        let count = self.streams.active.len();
        if count == 0 {
            self.fault_check = Instant::now();
            return;
        }
        self.streams.looked = (self.streams.looked + 1) % count;
        if let Some(&id) = self.streams.active.get(self.streams.looked) {
            self.fault_of(id);
        }
    }

    /// The error that the stream's context has met; 0 for none. The context is lost then.
    fn fault_of(&mut self, id: StreamId) -> Status {
        let Ok((raw, context)) = self.streams.get(id).map(|stream| (stream.raw, stream.context)) else {
            return 0;
        };
        self.fault_check = Instant::now();
        let concerned = self.concerned;
        let status = match self.enter(context) {
            Err(status) => status,
            // A query would spoil the capture.
            Ok(_) if self.is_capturing(id) => 0,
            // SAFETY: a live stream of the current context. A query does not wait.
            Ok(_) => unsafe { self.d.cuStreamQuery(raw) },
        };
        self.concerned = concerned;
        if matches!(status, 0 | NOT_READY) {
            return 0;
        }
        self.lose(context, status);
        status
    }

    fn bury(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(id) else { return };
        self.forget_unticketed(stream.unticketed);
        if stream.raw != LEGACY && self.enter(stream.context).is_ok() {
            // SAFETY: ours, and nothing names it any more.
            unsafe { self.d.cuStreamDestroy_v2(stream.raw) };
        }
        self.words.give(stream.word);
        if let Some((word, _)) = stream.hold {
            self.words.give(word);
        }
    }

    fn add_stream(&mut self, handle: u64, raw: CUstream, context: u64) -> Result<(), Status> {
        let word = self.words.take(&self.pinned)?;
        let id = self.streams.add(Stream {
            raw,
            context,
            word,
            issued: 0,
            seen: 0,
            unticketed: 0,
            unflushed: false,
            dirty: false,
            pending: VecDeque::new(),
            active: false,
            dying: false,
            captures: false,
            hold: None,
        });
        self.stream_names.put(handle, id);
        Ok(())
    }

    pub(super) fn stream_create(&mut self, record: &StreamCreate) -> Result<(), Status> {
        self.mint("stream", record.stream, self.stream_names.has(record.stream))?;
        self.enter(record.context)?;
        if record.flags & !NON_BLOCKING != 0 {
            return Err(INVALID_VALUE);
        }
        self.make_stream(record.stream, record.context, record.flags, record.priority)
    }

    fn make_stream(&mut self, handle: u64, context: u64, flags: u32, priority: i32) -> Result<(), Status> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the result is a live pointer.
        let status = unsafe { self.d.cuStreamCreateWithPriority(&raw mut raw, flags, priority) };
        self.ok(status)?;
        self.add_stream(handle, raw, context)
    }

    pub(super) fn stream_default(&mut self, record: &StreamDefault) -> Result<(), Status> {
        self.mint("stream", record.stream, self.stream_names.has(record.stream))?;
        self.enter(record.context)?;
        match record.per_thread {
            0 => self.add_stream(record.stream, LEGACY, record.context),
            _ => self.make_stream(record.stream, record.context, 0, 0),
        }
    }

    pub(super) fn stream_destroy(&mut self, handle: u64) -> Result<(), Status> {
        let id = self.stream_names.take(handle)?;
        self.retire_stream(id);
        Ok(())
    }

    /// The stream goes as soon as nothing waits for it. Work on it is finished as CUDA promises.
    pub(super) fn retire_stream(&mut self, id: StreamId) {
        let Ok(stream) = self.streams.get_mut(id) else { return };
        stream.dying = true;
        let context = stream.context;
        if std::mem::take(&mut stream.captures)
            && let Ok(context) = self.contexts.get_mut(context)
        {
            context.captures = context.captures.saturating_sub(1);
        }
        let dirty = self.streams.get(id).is_ok_and(|stream| stream.dirty);
        // A fence that comes later still has to wait for what is on the stream now.
        if dirty && self.enter(context).is_ok() && !self.is_capturing(id) {
            let _ = self.after(id, Then::Nothing);
        }
        if self.streams.get(id).is_ok_and(|stream| stream.pending.is_empty() && !stream.active) {
            self.bury(id);
        }
    }

    pub(super) fn stream_synchronize(&mut self, call: Call, handle: u64) -> Result<Option<Nothing>, Status> {
        let (id, _) = self.stream(handle)?;
        if self.is_capturing(id) {
            return Err(crate::driver::CAPTURE_UNSUPPORTED);
        }
        self.after(id, Then::Reply { number: call.number })?;
        Ok(None)
    }

    pub(super) fn stream_query(&mut self, call: Call, record: &StreamQuery) -> Result<Nothing, Status> {
        let (id, raw) = self.stream(record.stream)?;
        // SAFETY: a live stream of the current context. A query does not wait.
        let status = unsafe { self.d.cuStreamQuery(raw) };
        if status == NOT_READY && record.watch != 0 {
            // The client asks no more about what is on the stream now: a ticket behind it tells. The driver gives
            // this answer for no stream of a capture, on which none may be put.
            self.after(id, Then::Done { number: call.number })?;
        }
        self.ok(status)?;
        // What the stream has brought goes first: the client takes the answer for the end of it.
        self.poll();
        if self.prints {
            self.forward_output();
        }
        Ok(Nothing {})
    }

    pub(super) fn stream_wait_event(&mut self, record: &StreamWaitEvent) -> Result<(), Status> {
        let event = self.events.get(record.event)?.raw;
        // Flag 1, external, matters in captures only.
        if record.flags & !1 != 0 {
            return Err(INVALID_VALUE);
        }
        let (_, raw) = self.stream_for_work(record.stream)?;
        // SAFETY: both are live.
        let status = unsafe { self.d.cuStreamWaitEvent(raw, event, record.flags) };
        self.ok(status)
    }

    pub(super) fn stream_wait_value(&mut self, record: &StreamWaitValue) -> Result<(), Status> {
        // GEQ, EQ, AND, NOR. Bit 30 asks for a flush of remote writes, of which there are none.
        let flags = record.flags & !(1 << 30);
        if flags > 3 || !record.address.is_multiple_of(u64::from(record.bytes.max(1))) {
            return Err(INVALID_VALUE);
        }
        self.covered(record.address, u64::from(record.bytes))?;
        let (_, raw) = self.stream_for_work(record.stream)?;
        // SAFETY: a live stream and an address of the session's.
        let status = unsafe {
            match record.bytes {
                4 => self.d.cuStreamWaitValue32_v2(raw, record.address, record.value as u32, flags),
                8 => self.d.cuStreamWaitValue64_v2(raw, record.address, record.value, flags),
                _ => INVALID_VALUE,
            }
        };
        self.ok(status)
    }

    pub(super) fn stream_write_value(&mut self, record: &StreamWriteValue) -> Result<(), Status> {
        // Default, and without the barrier before it.
        if record.flags > 1 || !record.address.is_multiple_of(u64::from(record.bytes.max(1))) {
            return Err(INVALID_VALUE);
        }
        self.covered(record.address, u64::from(record.bytes))?;
        let (id, raw) = self.stream_for_work(record.stream)?;
        // SAFETY: a live stream and an address of the session's.
        let status = unsafe {
            match record.bytes {
                4 => self.d.cuStreamWriteValue32_v2(raw, record.address, record.value as u32, record.flags),
                8 => self.d.cuStreamWriteValue64_v2(raw, record.address, record.value, record.flags),
                _ => INVALID_VALUE,
            }
        };
        self.ok(status)?;
        let mirror =
            self.ranges.find(record.address).is_some_and(|range| matches!(range.kind, Kind::Mirror { .. }));
        if mirror && !self.is_capturing(id) {
            let (address, value, bytes) = (record.address, record.value, record.bytes);
            self.streams.tell_words = true;
            self.after(id, Then::Word { address, value, bytes })?;
        }
        Ok(())
    }

    /// The client looks at the word itself: nobody here waits for it, and should it never come, the client asks.
    pub(super) fn stream_mark(&mut self, record: &StreamMark) -> Result<(), Status> {
        let address = record.address;
        let fits = |range: ranges::Range| {
            range.kind == Kind::Shared && address - range.start + MARK_BYTES <= range.bytes
        };
        if !address.is_multiple_of(MARK_BYTES) || !self.ranges.find(address).is_some_and(fits) {
            return Err(INVALID_VALUE);
        }
        let put = self.put_mark(record);
        if put != Ok(true) {
            let for_good = self.prints || self.streams.tell_words || put == Err(NOT_SUPPORTED);
            let refusal = std::ptr::with_exposed_provenance_mut::<u64>(address as usize).wrapping_add(1);
            // SAFETY: an aligned word of memory that this process has mapped, which the client may be reading.
            let refusal = unsafe { AtomicU64::from_ptr(refusal) };
            refusal.store(u64::from(for_good) << 32 | u64::from(record.value), Ordering::Release);
        }
        // Who is refused asks, and is told why.
        Ok(())
    }

    /// Gives whether the stream will write the mark. What kernels print and streams write to mirrored memory is known
    /// here alone, and comes before a reply; so does what the legacy stream has done, which a stream may come behind. A
    /// capture is nothing that can be waited for.
    fn put_mark(&mut self, record: &StreamMark) -> Result<bool, Status> {
        let (id, _) = self.stream(record.stream)?;
        let is_legacy = |other: &StreamId| self.streams.get(*other).is_ok_and(|stream| stream.raw == LEGACY);
        let legacy_waits = self.streams.active.iter().any(|other| *other != id && is_legacy(other));
        if self.prints || self.streams.tell_words || legacy_waits || self.is_capturing(id) {
            return Ok(false);
        }
        let (_, raw) = self.stream_for_work(record.stream)?;
        let value = u64::from(record.value) << 32 | self.out.events() & u64::from(u32::MAX);
        // SAFETY: a live stream and a word of registered memory.
        let status = unsafe { self.d.cuStreamWriteValue64_v2(raw, record.address, value, 0) };
        self.ok(status).map(|()| true)
    }

    pub(super) fn stream_set_attribute(
        &mut self,
        record: &StreamSetAttribute,
        tail: &[u8],
    ) -> Result<(), Status> {
        let Some(value) = tail.first_chunk::<64>() else { return Err(INVALID_VALUE) };
        // Access policy, synchronisation policy, priority, memory synchronisation domain (map and number).
        if !matches!(record.attribute, 1 | 3 | 8 | 9 | 10) {
            return Err(NOT_SUPPORTED);
        }
        let value = StreamAttribute(*value);
        let (_, raw) = self.stream(record.stream)?;
        // SAFETY: a live stream and a live value of the size that every attribute has.
        let status = unsafe { self.d.cuStreamSetAttribute(raw, record.attribute, &raw const value) };
        self.ok(status)
    }

    /// The word on which host functions hold the stream, and the number of the next one.
    pub(super) fn next_hold(&mut self, id: StreamId) -> Result<(Word, u32), Status> {
        let (word, count) = match self.streams.get(id)?.hold {
            Some(hold) => hold,
            None => (self.words.take(&self.pinned)?, 0),
        };
        let count = count.wrapping_add(1);
        self.streams.get_mut(id)?.hold = Some((word, count));
        Ok((word, count))
    }

    /// Drops every stream and event that belongs to a context, as its release or destruction does. The legacy stream
    /// of a primary context stays: the client knows it by the same handle when it retains the context again.
    pub(super) fn drop_streams(&mut self, context: u64, with_legacy: bool) {
        for id in self.streams.of_context(context) {
            if with_legacy || self.streams.get(id).is_ok_and(|stream| stream.raw != LEGACY) {
                self.retire_stream(id);
            }
        }
        let Self { streams, stream_names, .. } = self;
        stream_names.take_all(|id| streams.get(*id).map_or(true, |stream| stream.dying));
        self.give_watches_up(|watched| watched.context == context, CONTEXT_IS_DESTROYED);
        for event in self.events.take_all(|event| event.context == context) {
            if self.enter(context).is_ok() {
                // SAFETY: ours, and named no more.
                let _ = check(unsafe { self.d.cuEventDestroy_v2(event.raw) });
            }
        }
    }
}
