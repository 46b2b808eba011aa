//! Stream capture: work that would run is added to a graph instead.
//!
//! A capture begins on one stream and spreads to others through events. A stream's position in it is
//! the set of nodes that its next node will depend on. Anything that would need a result, or would
//! tie the capture to work outside it, is refused and makes the capture invalid.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use crate::abi::{CUgraphEdgeData, In, Out};
use crate::context::Context;
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::graph::{self, Edge, Graph};
use crate::stream::{self, Stream};
use crate::sync::lock;
use crate::work::Work;

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

/// How many captures of the global mode there are: they restrict every thread.
static GLOBAL_CAPTURES: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
    /// How many captures that are not relaxed this thread has begun.
    static OWN_CAPTURES: Cell<u32> = const { Cell::new(0) };
}

pub(crate) struct Capture {
    id: u64,
    graph: Arc<Graph>,
    mode: u32,
    origin: u64,
    thread: ThreadId,
    invalid: AtomicBool,
    ended: AtomicBool,
    members: Mutex<Vec<Arc<Stream>>>,
}

/// A stream's part in a capture.
pub(crate) struct Member {
    capture: Arc<Capture>,
    edges: Vec<Edge>,
    /// What cuStreamGetCaptureInfo_v3 hands out of the edges: the nodes, and the data.
    shown: (Vec<u64>, Vec<CUgraphEdgeData>),
}

impl Capture {
    fn spoil(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    fn check(&self) -> Res {
        if self.invalid.load(Ordering::Acquire) { Err(Code::STREAM_CAPTURE_INVALIDATED) } else { Ok(()) }
    }

    fn admit(self: &Arc<Self>, stream: &Arc<Stream>, edges: Vec<Edge>) {
        *lock(&stream.capture) = Some(Member { capture: self.clone(), edges, shown: Default::default() });
        lock(&self.members).push(stream.clone());
        count_blocking(stream, 1);
    }

    fn finish(&self) {
        self.ended.store(true, Ordering::Release);
        for stream in lock(&self.members).drain(..) {
            if lock(&stream.capture).take().is_some() {
                count_blocking(&stream, -1);
            }
        }
        if self.mode == GLOBAL {
            GLOBAL_CAPTURES.fetch_sub(1, Ordering::AcqRel);
        }
        if self.mode != RELAXED && self.thread == std::thread::current().id() {
            OWN_CAPTURES.set(OWN_CAPTURES.get().saturating_sub(1));
        }
    }
}

fn count_blocking(stream: &Stream, by: i32) {
    if stream.is_blocking()
        && let Some(ctx) = stream.ctx.upgrade()
    {
        ctx.capturing.fetch_add(by.cast_unsigned(), Ordering::AcqRel);
    }
}

pub(crate) fn is_capturing(stream: &Stream) -> bool {
    lock(&stream.capture).is_some()
}

/// Adds the work to the stream's graph, or gives it back because the stream is not capturing.
pub(crate) fn divert(stream: &Arc<Stream>, work: Work) -> Res<Option<Work>> {
    let mut slot = lock(&stream.capture);
    let Some(member) = slot.as_mut() else {
        drop(slot);
        legacy_allowed(stream)?;
        return Ok(Some(work));
    };
    member.capture.check()?;
    let graph = &member.capture.graph;
    let edge = |edge: &Edge| {
        let data = match &work {
            Work::Kernel(_) if !edge.data.is_ordinary() => edge.data,
            Work::Kernel(launch) if launch.overlaps && graph.is_kernel(edge.before) => {
                CUgraphEdgeData::PROGRAMMATIC
            }
            // Nothing but a kernel can begin before what is before it has ended.
            _ => CUgraphEdgeData::default(),
        };
        Edge { before: edge.before, data }
    };
    let edges: Vec<Edge> = member.edges.iter().map(edge).collect();
    let before = graph.add(work, &edges)?;
    member.edges = vec![Edge { before, data: CUgraphEdgeData::default() }];
    Ok(None)
}

/// Work on the legacy stream would order itself with every blocking stream that captures.
pub(crate) fn legacy_allowed(stream: &Stream) -> Res {
    legacy_known(stream).inspect_err(|_| {
        let ctx = stream.ctx.upgrade();
        for other in ctx.iter().flat_map(|ctx| ctx.all_streams()).filter(|other| other.is_blocking()) {
            invalidate(&other);
        }
    })
}

/// To ask whether the legacy stream captures is as wrong then, but leaves the captures as they are (CUDA driver API,
/// `cuStreamIsCapturing`).
fn legacy_known(stream: &Stream) -> Res {
    let is_next_to_capture = |ctx: Arc<Context>| ctx.capturing.load(Ordering::Acquire) != 0;
    if stream.is_legacy() && stream.ctx.upgrade().is_some_and(is_next_to_capture) {
        return Err(Code::STREAM_CAPTURE_IMPLICIT);
    }
    Ok(())
}

/// For calls that ask a stream for its progress.
pub(crate) fn forbid(stream: &Arc<Stream>) -> Res {
    if invalidate(stream) {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    legacy_allowed(stream)
}

pub(crate) fn forbid_in_context(ctx: &Context) -> Res {
    let mut found = false;
    for stream in ctx.all_streams() {
        found |= invalidate(&stream);
    }
    if found { Err(Code::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

/// For calls that may synchronise behind the program's back, such as cuMemAlloc.
pub(crate) fn forbid_unsafe() -> Res {
    let mode = MODE.get();
    let global = mode == GLOBAL && GLOBAL_CAPTURES.load(Ordering::Acquire) > 0;
    let own = mode != RELAXED && OWN_CAPTURES.get() > 0;
    if global || own { Err(Code::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

/// Spoils the stream's capture, if it has one, and says whether it had.
pub(crate) fn invalidate(stream: &Stream) -> bool {
    let slot = lock(&stream.capture);
    if let Some(member) = slot.as_ref() {
        member.capture.spoil();
    }
    slot.is_some()
}

/// The stream is destroyed.
pub(crate) fn abandon(stream: &Arc<Stream>) {
    let member = lock(&stream.capture).take();
    let Some(member) = member else { return };
    count_blocking(stream, -1);
    member.capture.spoil();
    if member.capture.origin == stream.handle {
        member.capture.finish();
    }
}

/// The capture a stream is in, and the nodes its next one would depend on.
pub(crate) fn position(stream: &Stream) -> Res<(Arc<Capture>, Vec<Edge>)> {
    let slot = lock(&stream.capture);
    let member = slot.as_ref().ok_or(Code::ILLEGAL_STATE)?;
    member.capture.check()?;
    Ok((member.capture.clone(), member.edges.clone()))
}

/// The stream waits for an event that was recorded in a capture.
pub(crate) fn join(stream: &Arc<Stream>, capture: &Arc<Capture>, edges: &[Edge]) -> Res {
    if capture.ended.load(Ordering::Acquire) {
        return Err(Code::CAPTURED_EVENT);
    }
    capture.check()?;
    if stream.is_legacy() {
        capture.spoil();
        return Err(Code::STREAM_CAPTURE_IMPLICIT);
    }
    let mut slot = lock(&stream.capture);
    match slot.as_mut() {
        Some(member) if Arc::ptr_eq(&member.capture, capture) => {
            extend(&mut member.edges, edges);
            Ok(())
        }
        Some(member) => {
            member.capture.spoil();
            capture.spoil();
            Err(Code::STREAM_CAPTURE_MERGE)
        }
        None => {
            drop(slot);
            capture.admit(stream, edges.to_vec());
            Ok(())
        }
    }
}

/// One edge from each node: the one that was there first.
fn extend(edges: &mut Vec<Edge>, more: &[Edge]) {
    for edge in more {
        if edges.iter().all(|known| known.before != edge.before) {
            edges.push(*edge);
        }
    }
}

fn begin(stream: &Arc<Stream>, graph: Arc<Graph>, edges: Vec<Edge>, mode: u32) -> Res {
    static IDS: AtomicU64 = AtomicU64::new(1);
    if mode > RELAXED {
        return Err(Code::INVALID_VALUE);
    }
    if stream.is_legacy() {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    if is_capturing(stream) {
        return Err(Code::ILLEGAL_STATE);
    }
    let capture = Arc::new(Capture {
        id: IDS.fetch_add(1, Ordering::Relaxed),
        graph,
        mode,
        origin: stream.handle,
        thread: std::thread::current().id(),
        invalid: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        members: Mutex::default(),
    });
    if mode == GLOBAL {
        GLOBAL_CAPTURES.fetch_add(1, Ordering::AcqRel);
    }
    if mode != RELAXED {
        OWN_CAPTURES.set(OWN_CAPTURES.get() + 1);
    }
    capture.admit(stream, edges);
    Ok(())
}

fn end(stream: &Arc<Stream>) -> Res<Arc<Graph>> {
    let (capture, nodes) = {
        let slot = lock(&stream.capture);
        let member = slot.as_ref().ok_or(Code::ILLEGAL_STATE)?;
        (member.capture.clone(), member.edges.iter().map(|edge| edge.before).collect::<Vec<u64>>())
    };
    if capture.origin != stream.handle {
        capture.spoil();
        return Err(Code::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
    }
    let loose = {
        let behind = capture.graph.ancestors(&nodes);
        let members = lock(&capture.members).clone();
        members.iter().filter(|other| other.handle != stream.handle).any(|other| {
            lock(&other.capture)
                .as_ref()
                .is_some_and(|member| member.edges.iter().any(|edge| !behind.contains(&edge.before)))
        })
    };
    let verdict = capture.check();
    capture.finish();
    verdict?;
    if loose { Err(Code::STREAM_CAPTURE_UNJOINED) } else { Ok(capture.graph.clone()) }
}

struct Wanted {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<u64>,
    nodes: Out<*const u64>,
    edges: Out<*const CUgraphEdgeData>,
    count: Out<usize>,
}

fn info(stream: &Arc<Stream>, wanted: &Wanted) -> Res {
    let mut slot = lock(&stream.capture);
    let Some(member) = slot.as_mut() else {
        drop(slot);
        legacy_known(stream)?;
        return wanted.status.set(0);
    };
    if member.capture.check().is_err() {
        return wanted.status.set(2);
    }
    // Who does not ask for the data must not miss any.
    if !wanted.nodes.is_null() && wanted.edges.is_null() && !member.edges.iter().all(|e| e.data.is_ordinary())
    {
        return Err(Code::LOSSY_QUERY);
    }
    member.shown = member.edges.iter().map(|edge| (edge.before, edge.data)).unzip();
    wanted.id.set_if_wanted(member.capture.id);
    wanted.graph.set_if_wanted(member.capture.graph.handle);
    // Valid until the stream's next call, which is what cuda.h promises.
    wanted.nodes.set_if_wanted(member.shown.0.as_ptr());
    wanted.edges.set_if_wanted(member.shown.1.as_ptr());
    wanted.count.set_if_wanted(member.edges.len());
    wanted.status.set(1)
}

fn update(stream: &Arc<Stream>, edges: Vec<Edge>, flags: u32) -> Res {
    let mut slot = lock(&stream.capture);
    let member = slot.as_mut().ok_or(Code::ILLEGAL_STATE)?;
    member.capture.check()?;
    if !member.capture.graph.has_all(&edges) {
        return Err(Code::INVALID_VALUE);
    }
    match flags {
        0 => extend(&mut member.edges, &edges),
        1 => member.edges = edges,
        _ => return Err(Code::INVALID_VALUE),
    }
    Ok(())
}

api! {
    fn cuStreamBeginCapture_v2(handle: u64, mode: u32) [ctx context] {
        begin(&stream::get(context, handle)?, graph::create(), Vec::new(), mode)
    }

    fn cuStreamBeginCaptureToGraph(
        handle: u64, graph: u64, nodes: In<u64>, edges: In<CUgraphEdgeData>, count: usize, mode: u32,
    ) [ctx context] {
        let (graph, edges) = (graph::get(graph)?, Edge::list(nodes, edges, count)?);
        if !graph.has_all(&edges) {
            return Err(Code::INVALID_VALUE);
        }
        begin(&stream::get(context, handle)?, graph, edges, mode)
    }

    fn cuStreamEndCapture(handle: u64, out: Out<u64>) [ctx context] {
        match end(&stream::get(context, handle)?) {
            Ok(graph) => out.set(graph.handle),
            Err(code) => {
                out.set_if_wanted(0);
                Err(code)
            }
        }
    }

    fn cuStreamIsCapturing(handle: u64, status: Out<u32>) [ctx context] {
        let stream = stream::get(context, handle)?;
        let nothing = Wanted {
            status, id: Out::null(), graph: Out::null(), nodes: Out::null(), edges: Out::null(), count: Out::null(),
        };
        info(&stream, &nothing)
    }

    fn cuStreamGetCaptureInfo_v2(
        handle: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>, nodes: Out<*const u64>, count: Out<usize>,
    ) [ctx context] {
        info(&stream::get(context, handle)?, &Wanted { status, id, graph, nodes, edges: Out::null(), count })
    }

    fn cuStreamGetCaptureInfo_v3(
        handle: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>, nodes: Out<*const u64>,
        edges: Out<*const CUgraphEdgeData>, count: Out<usize>,
    ) [ctx context] {
        info(&stream::get(context, handle)?, &Wanted { status, id, graph, nodes, edges, count })
    }

    fn cuStreamUpdateCaptureDependencies(handle: u64, nodes: In<u64>, count: usize, flags: u32) [ctx context] {
        update(&stream::get(context, handle)?, Edge::list(nodes, In::null(), count)?, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2(
        handle: u64, nodes: In<u64>, edges: In<CUgraphEdgeData>, count: usize, flags: u32,
    ) [ctx context] {
        update(&stream::get(context, handle)?, Edge::list(nodes, edges, count)?, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) [init] {
        let new = mode.get()?;
        if new > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        mode.set(MODE.replace(new))
    }
}
