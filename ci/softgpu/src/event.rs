//! Events: points in streams that can be asked about, waited for and timed.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use crate::abi::{CUgraphEdgeData, Out};
use crate::capture::{self, Capture};
use crate::context::{Context, Health};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::graph::Edge;
use crate::handles::{self, Registry};
use crate::stream::{self, Fence, Stream};
use crate::sync::lock;
use crate::work::Work;

const DISABLE_TIMING: u32 = 2;
const ALL_FLAGS: u32 = 7;
/// Flag of recording and waiting: inside a capture, make a node of it.
const EXTERNAL: u32 = 1;

static EVENTS: Registry<Event> = Registry::new();

pub(crate) struct Event {
    pub(crate) handle: u64,
    ctx: Weak<Context>,
    health: Arc<Health>,
    flags: u32,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Never,
    Recorded(Arc<Record>),
    /// Recorded in a capture: the nodes that it stands for.
    Captured {
        capture: Arc<Capture>,
        edges: Vec<Edge>,
    },
}

/// One recording of an event.
pub(crate) struct Record {
    fence: Mutex<Option<Fence>>,
    time: Mutex<Option<Instant>>,
}

impl Record {
    fn pending() -> Arc<Record> {
        Arc::new(Record { fence: Mutex::new(None), time: Mutex::new(None) })
    }

    pub(crate) fn stamp(&self) {
        *lock(&self.time) = Some(Instant::now());
    }

    fn fence(&self) -> Option<Fence> {
        lock(&self.fence).clone()
    }

    fn reached(&self) -> bool {
        lock(&self.time).is_some() || self.fence().is_none_or(|fence| fence.reached())
    }
}

impl Event {
    /// Records on a stream that is not capturing.
    fn record(&self, stream: &Arc<Stream>, waits: Vec<Fence>) {
        let record = Record::pending();
        let fence = stream::submit_after(stream, Work::Stamp(record.clone()), waits);
        *lock(&record.fence) = Some(fence);
        *lock(&self.state) = State::Recorded(record);
    }

    /// A node of a graph was reached. The graph's launch made the record.
    pub(crate) fn record_now(&self) {
        if let State::Recorded(record) = &*lock(&self.state) {
            record.stamp();
        }
    }

    /// A graph that records this event has been launched, and ends at `fence`.
    pub(crate) fn expect(&self, fence: Fence) {
        let record = Record::pending();
        *lock(&record.fence) = Some(fence);
        *lock(&self.state) = State::Recorded(record);
    }

    /// Where the last recording ends, unless that has been reached.
    pub(crate) fn pending(&self) -> Option<Fence> {
        let State::Recorded(record) = &*lock(&self.state) else { return None };
        if record.reached() { None } else { record.fence() }
    }

    fn recorded(&self) -> Res<Option<Arc<Record>>> {
        match &*lock(&self.state) {
            State::Never => Ok(None),
            State::Recorded(record) => Ok(Some(record.clone())),
            State::Captured { .. } => Err(Code::CAPTURED_EVENT),
        }
    }

    fn timed(&self) -> Res<Instant> {
        if self.flags & DISABLE_TIMING != 0 {
            return Err(Code::INVALID_HANDLE);
        }
        let record = self.recorded()?.ok_or(Code::INVALID_HANDLE)?;
        self.health.check()?;
        if !record.reached() {
            return Err(Code::NOT_READY);
        }
        lock(&record.time).ok_or(Code::NOT_READY)
    }
}

pub(crate) fn get(handle: u64) -> Res<Arc<Event>> {
    EVENTS.get(handle)
}

pub(crate) fn forget(ctx: u64) {
    EVENTS.remove_where(|event| event.ctx.upgrade().is_none_or(|owner| owner.handle == ctx));
}

pub(crate) fn record(stream: &Arc<Stream>, event: u64, flags: u32) -> Res {
    record_as(stream, event, flags, CUgraphEdgeData::default())
}

/// Records where the stream is; who waits for the event in a capture gets an edge with these data.
pub(crate) fn record_as(stream: &Arc<Stream>, event: u64, flags: u32, data: CUgraphEdgeData) -> Res {
    let event = get(event)?;
    if flags & !EXTERNAL != 0 {
        return Err(Code::INVALID_VALUE);
    }
    event.health.check()?;
    if event.health.device != stream.health.device {
        return Err(Code::INVALID_HANDLE);
    }
    if capture::is_capturing(stream) {
        if flags & EXTERNAL != 0 {
            return stream::submit(stream, Work::RecordEvent(event)).map(drop);
        }
        let (capture, mut edges) = capture::position(stream)?;
        if !data.is_ordinary() {
            edges.iter_mut().for_each(|edge| edge.data = data);
        }
        *lock(&event.state) = State::Captured { capture, edges };
        return Ok(());
    }
    capture::legacy_allowed(stream)?;
    event.record(stream, Vec::new());
    Ok(())
}

pub(crate) fn wait(stream: &Arc<Stream>, event: u64, flags: u32) -> Res {
    let event = get(event)?;
    if flags & !EXTERNAL != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let state = lock(&event.state).clone();
    if let State::Captured { capture, edges } = state {
        return capture::join(stream, &capture, &edges);
    }
    if capture::is_capturing(stream) {
        if flags & EXTERNAL == 0 {
            capture::invalidate(stream);
            return Err(Code::STREAM_CAPTURE_ISOLATION);
        }
        return stream::submit(stream, Work::WaitEvent(event)).map(drop);
    }
    capture::legacy_allowed(stream)?;
    if let Some(fence) = event.pending() {
        stream::submit_after(stream, Work::Empty, vec![fence]);
    }
    Ok(())
}

/// Records everything that a context has been given.
pub(crate) fn record_context(ctx: &Arc<Context>, event: u64) -> Res {
    let event = get(event)?;
    let waits = ctx.fences(|_| true);
    event.record(&ctx.hidden, waits);
    Ok(())
}

/// Makes all of a context's streams wait.
pub(crate) fn wait_context(ctx: &Arc<Context>, event: u64) -> Res {
    let Some(record) = get(event)?.recorded()? else { return Ok(()) };
    for stream in ctx.all_streams() {
        stream::submit_after(&stream, Work::Empty, record.fence().into_iter().collect());
    }
    Ok(())
}

fn elapsed(milliseconds: Out<f32>, start: u64, end: u64) -> Res {
    let (start, end) = (get(start)?.timed()?, get(end)?.timed()?);
    let forward = end.saturating_duration_since(start).as_secs_f32();
    let backward = start.saturating_duration_since(end).as_secs_f32();
    milliseconds.set((forward - backward) * 1000.0)
}

api! {
    fn cuEventCreate(out: Out<u64>, flags: u32) [ctx context] {
        if flags & !ALL_FLAGS != 0 || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let event = Event {
            handle: handles::mint(),
            ctx: Arc::downgrade(context),
            health: context.health.clone(),
            flags,
            state: Mutex::default(),
        };
        let handle = event.handle;
        EVENTS.insert(handle, Arc::new(event));
        out.set(handle)
    }

    fn cuEventDestroy_v2(event: u64) [init] {
        let event = EVENTS.remove(event)?;
        event.health.check()
    }

    fn cuEventRecord(event: u64, handle: u64) [ctx context] {
        record(&stream::get(context, handle)?, event, 0)
    }

    fn cuEventRecordWithFlags(event: u64, handle: u64, flags: u32) [ctx context] {
        record(&stream::get(context, handle)?, event, flags)
    }

    fn cuEventQuery(event: u64) [init] {
        let event = get(event)?;
        event.health.check()?;
        let done = event.recorded()?.is_none_or(|record| record.reached());
        event.health.check()?;
        if done { Ok(()) } else { Err(Code::NOT_READY) }
    }

    fn cuEventSynchronize(event: u64) [init] {
        let event = get(event)?;
        event.health.check()?;
        if let Some(record) = event.recorded()?
            && !record.reached()
            && let Some(fence) = record.fence()
        {
            fence.wait(&event.health)?;
        }
        event.health.check()
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: u64, end: u64) [init] {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: u64, end: u64) [init] {
        elapsed(milliseconds, start, end)
    }
}
