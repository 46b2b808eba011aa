//! What has to wait in the worker before the driver is given it, so that no driver call ever waits for the GPU
//! while the GPU waits for the worker.
//!
//! Two things make a driver call wait. A hardware queue takes about a thousand entries (1,020 measured on an
//! H200, streams sharing eight such queues); one more launch blocks until there is room. And some calls, an unload
//! or the first launch of a kernel, wait until the device is idle. Either is harmless to the GPU's own work, but
//! not when that work waits for this thread: for credit that the client has not been told of, for a
//! device-to-host slot that this thread has not handed on, for a host function. So entries are counted and kept
//! below the limit, copies of many chunks are enqueued piece by piece, and calls that may wait are made when
//! nothing depends on this thread. Records that come meanwhile are kept, in order.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use fusewire_wire::ops::table::{
    BlobEncoded, BlobNamed, BlobPart, BlockMap, BlockUnmap, CaptureBegin, CopyIn, CopyInInline, CopyOut,
    CopyRect, CopyWithin, CtxSynchronize, EventCreate, EventDestroy, EventElapsed, EventQuery, EventRecord,
    Fence, FuncGetAttribute, GraphLaunch, HostFunc, HostFuncDone, HostUnshare, HostWrite, Launch, LaunchEx,
    MemInfo, Memset, Occupancy, StreamCreate, StreamDefault, StreamDestroy, StreamMark, StreamQuery,
    StreamSynchronize, StreamWaitEvent, StreamWaitValue, StreamWriteValue,
};
use fusewire_wire::ops::{Call, Record, Replies, Status};
use zerocopy::FromBytes;

use super::gpu::Gpu;
use super::streams::StreamId;

/// Entries that are kept on the GPU's queues at most, all streams together.
pub(super) const QUEUE: u32 = 900;
/// A ticket at least every so many entries, all streams together, so that it is known how many are left. Each holds the
/// GPU up for some microseconds, and nothing is heard of the entries before it: so about so much of the GPU's time lies
/// between two, as far as these bounds allow.
const TICKET_EVERY: RangeInclusive<u32> = 64..=300;
const TICKET_TIME: Duration = Duration::from_millis(20);
/// Entries of a stream that are worth a ticket, where several streams share the queues.
const WORTH_A_TICKET: u32 = 64;
/// How long full queues are trusted to become shorter by themselves: what has tickets may stand behind what waits for
/// records that are kept.
const STANDSTILL: Duration = Duration::from_millis(20);
/// Bytes of records that are kept before the command lane is left alone.
const MAX_KEPT: usize = 32 << 20;

/// Operations whose driver calls never wait for the GPU, launches apart. Everything else may.
const NEVER_WAIT: &[u16] = &[
    CtxSynchronize::CODE,
    BlockMap::CODE,
    BlockUnmap::CODE,
    Fence::CODE,
    HostUnshare::CODE,
    HostWrite::CODE,
    MemInfo::CODE,
    CopyIn::CODE,
    CopyInInline::CODE,
    CopyOut::CODE,
    CopyWithin::CODE,
    CopyRect::CODE,
    Memset::CODE,
    StreamCreate::CODE,
    StreamDefault::CODE,
    StreamDestroy::CODE,
    StreamSynchronize::CODE,
    StreamQuery::CODE,
    StreamWaitEvent::CODE,
    StreamWaitValue::CODE,
    StreamWriteValue::CODE,
    StreamMark::CODE,
    EventCreate::CODE,
    EventDestroy::CODE,
    EventRecord::CODE,
    EventElapsed::CODE,
    EventQuery::CODE,
    HostFunc::CODE,
    HostFuncDone::CODE,
    BlobEncoded::CODE,
    BlobNamed::CODE,
    BlobPart::CODE,
    FuncGetAttribute::CODE,
    Occupancy::CODE,
    CaptureBegin::CODE,
];

/// A copy of which only a part has been enqueued.
#[derive(Debug)]
pub(super) enum Continuing {
    In {
        number: u64,
        record: CopyIn,
        chunks: Range<u64>,
        /// Chunks below this have been enqueued; of these, those below the other have their ticket.
        next: u64,
        ticketed: u64,
    },
    Out {
        number: u64,
        record: CopyOut,
        offset: u64,
    },
}

/// Records that have come and not been looked at yet.
#[derive(Debug, Default)]
pub(super) struct Kept {
    records: VecDeque<(Call, u16, Box<[u8]>)>,
    bytes: usize,
}

impl Kept {
    pub(super) fn push(&mut self, call: Call, op: u16, body: &[u8]) {
        self.bytes += body.len();
        self.records.push_back((call, op, body.into()));
    }

    pub(super) fn front(&self) -> Option<(u16, &[u8])> {
        self.records.front().map(|(_, op, body)| (*op, &**body))
    }

    pub(super) fn pop(&mut self) -> Option<(Call, u16, Box<[u8]>)> {
        let record = self.records.pop_front()?;
        self.bytes -= record.2.len();
        Some(record)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes > MAX_KEPT
    }
}

/// Whether queues with so many entries will become shorter, seeing how many have no ticket behind them.
fn frees_itself(queued: u32, unticketed: u32) -> bool {
    queued.saturating_sub(unticketed) >= QUEUE / 2
}

/// Whether a stream gets a ticket that has so many entries without one, as have all streams together.
#[inline]
fn is_ticket_due(of_stream: u32, of_all: u32, every: u32) -> bool {
    of_all >= every && of_stream >= WORTH_A_TICKET
}

/// How many entries are to lie between two tickets, where so many took so long.
pub(super) fn ticket_every(entries: u32, took: Duration) -> u32 {
    let fit = TICKET_TIME.as_nanos() * u128::from(entries) / took.as_nanos().max(1);
    u32::try_from(fit).unwrap_or(u32::MAX).clamp(*TICKET_EVERY.start(), *TICKET_EVERY.end())
}

impl Gpu {
    /// Whether an operation has to wait, and with it all that come after it.
    #[inline]
    pub(super) fn must_wait(&self, op: u16, body: &[u8]) -> bool {
        self.continuing.is_some()
            || self.queued >= QUEUE
            || (self.is_depended_on() && self.may_wait(op, body))
    }

    /// Whether work on the GPU waits for this thread.
    #[inline]
    pub(super) fn is_depended_on(&self) -> bool {
        self.lanes.is_depended_on() || self.hosts.is_depended_on(self.queued != 0)
    }

    /// Whether the driver's call for an operation may wait for the GPU.
    fn may_wait(&self, op: u16, body: &[u8]) -> bool {
        let handle = || u64::read_from_prefix(body).map_or(0, |(handle, _)| handle);
        match op {
            // The first launch loads the code, and makes room for its stack.
            Launch::CODE | LaunchEx::CODE => {
                self.functions.get(handle()).is_ok_and(|function| !function.launched)
            }
            GraphLaunch::CODE => self.execs.get(handle()).is_ok_and(|exec| !exec.launched),
            op => !NEVER_WAIT.contains(&op),
        }
    }

    /// Counts entries that are about to be put on a stream.
    #[inline]
    pub(super) fn count(&mut self, id: StreamId, entries: u32) -> Result<(), Status> {
        self.streams.get_mut(id)?.dirty = true;
        // What is captured is not on any queue.
        if self.is_capturing(id) {
            return Ok(());
        }
        if is_ticket_due(self.streams.get(id)?.unticketed, self.unticketed, self.ticket_every) {
            self.after(id, super::streams::Then::Nothing)?;
        }
        let stream = self.streams.get_mut(id)?;
        stream.dirty = true;
        stream.unticketed += entries;
        self.unticketed += entries;
        self.queued += entries;
        Ok(())
    }

    /// Entries of a stream that is over, or whose context is lost: no ticket will follow them.
    pub(super) fn forget_unticketed(&mut self, entries: u32) {
        self.unticketed = self.unticketed.saturating_sub(entries);
        self.queued = self.queued.saturating_sub(entries);
    }

    /// Sees to it that the queues' becoming empty will be noticed.
    ///
    /// A ticket costs the GPU about what an empty kernel does. So where the queues are only full, those that are under
    /// way will do: were there one more for each few entries that become free, there would soon be one for each entry.
    pub(super) fn watch_queues(&mut self) {
        let frees_itself = self.queued >= QUEUE && frees_itself(self.queued, self.unticketed);
        if frees_itself && self.shortened.elapsed() < STANDSTILL {
            return;
        }
        for id in self.streams.unticketed() {
            let Ok(context) = self.streams.get(id).map(|stream| stream.context) else { continue };
            if self.enter(context).is_ok() && !self.is_capturing(id) {
                // On an error the context is lost, and its entries are not counted any more.
                let _ = self.after(id, super::streams::Then::Nothing);
            }
        }
    }

    /// Goes on with a copy that did not fit. Gives whether it went on.
    pub(super) fn proceed(&mut self) -> bool {
        let before = self.queued;
        if before >= QUEUE {
            return false;
        }
        let Some(copy) = self.continuing.take() else { return false };
        let (Continuing::In { number, .. } | Continuing::Out { number, .. }) = copy;
        self.serving = number;
        let result = match copy {
            Continuing::In { record, chunks, next, ticketed, .. } => {
                self.enqueue_in(number, record, chunks, next, ticketed)
            }
            Continuing::Out { record, offset, .. } => self.enqueue_out(number, record, offset),
        };
        if let Err(status) = result {
            self.failed(number, status);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queues_get_no_ticket_for_each_entry_that_becomes_free() {
        // One stream: a ticket every 300 entries, and the GPU always at the first of them.
        assert!(frees_itself(QUEUE, TICKET_EVERY.end() - 1));
        // Many streams with a few entries each, none of which has had its ticket; or some that nobody uses any more.
        assert!(!frees_itself(QUEUE, QUEUE));
        assert!(!frees_itself(QUEUE + 3, QUEUE - 200));
    }

    #[test]
    fn tickets_are_rare_where_kernels_are_short_and_nothing_is_long_unheard_of() {
        let each = |micros: u64| ticket_every(10, Duration::from_micros(10 * micros));
        assert_eq!((each(0), each(2), each(80), each(200), each(10_000)), (300, 300, 250, 100, 64));
    }

    /// Entries that streams in turn have when the queues are full, and how many of them no ticket follows.
    fn filled(streams: usize, every: u32) -> (u32, u32) {
        let mut unticketed = vec![0_u32; streams];
        let mut queued = 0;
        for stream in (0..streams).cycle() {
            if is_ticket_due(unticketed[stream], unticketed.iter().sum(), every) {
                unticketed[stream] = 0;
                queued += 1;
            }
            unticketed[stream] += 1;
            queued += 1;
            if queued >= QUEUE {
                break;
            }
        }
        (queued, unticketed.iter().sum())
    }

    #[test]
    fn where_few_streams_fill_the_queues_tickets_are_under_way() {
        for (streams, every) in [(1, 300), (2, 300), (4, 300), (6, 300), (1, 64), (6, 64)] {
            let (queued, unticketed) = filled(streams, every);
            assert!(frees_itself(queued, unticketed), "{streams}, {every}: {unticketed} of {queued}");
        }
        let (queued, unticketed) = filled(40, 300);
        assert!(!frees_itself(queued, unticketed), "each stream gets one when the queues are full");
    }
}
