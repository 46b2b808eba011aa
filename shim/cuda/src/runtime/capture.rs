//! Stream capture, followed in the client: which streams take part, and what host memory a graph will use.
//!
//! A stream takes part from `cuStreamBeginCapture`, or from the moment it waits for an event that was
//! recorded in a capture, until that capture ends.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::abi::result::{
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
};
use crate::abi::types::CUresult;

use super::objects::{HostUse, Stream, StreamKind};
use super::session::lock;

/// `CU_STREAM_CAPTURE_MODE_*`.
pub(crate) const GLOBAL: u32 = 0;
pub(crate) const THREAD_LOCAL: u32 = 1;
pub(crate) const RELAXED: u32 = 2;

struct Capture {
    mode: u32,
    thread: std::thread::ThreadId,
    /// The first is the one it began on, where it has to end.
    streams: Vec<Arc<Stream>>,
    host: HostUse,
    /// The handle under which the program was given the graph before its end.
    graph: Option<u64>,
    /// The graph is one that the program had before.
    into: bool,
    invalid: bool,
    /// Dependencies as last given to the program, by stream: it may look at them until its next call.
    given: HashMap<u64, Given>,
}

/// Nodes that the next operation of a stream will depend on, as the program reads them.
struct Given {
    nodes: Box<[usize]>,
    /// `CUgraphEdgeData` of each.
    edges: Box<[u64]>,
}

/// How a stream takes part in captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    None,
    Active(u64),
    Invalidated,
}

/// What a capture has left behind.
#[derive(Default)]
pub(crate) struct Ended {
    pub(crate) host: HostUse,
    /// The handle that its graph has already.
    pub(crate) graph: Option<u64>,
    /// That graph is one that the program had before.
    pub(crate) into: bool,
    pub(crate) invalid: bool,
}

#[derive(Default)]
pub(crate) struct Captures {
    running: AtomicUsize,
    last: AtomicU64,
    all: Mutex<HashMap<u64, Capture>>,
}

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// Exchanges the calling thread's interaction mode.
pub(crate) fn exchange_mode(mode: u32) -> u32 {
    MODE.try_with(|cell| cell.replace(mode)).unwrap_or(GLOBAL)
}

impl Captures {
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.running.load(Relaxed) != 0
    }

    /// A capture begins, into the graph of this handle if there is one.
    pub(crate) fn begin(&self, stream: &Arc<Stream>, mode: u32, into: Option<u64>) -> u64 {
        let id = self.last.fetch_add(1, Relaxed) + 1;
        stream.capture.store(id, Relaxed);
        let capture = Capture {
            mode,
            thread: std::thread::current().id(),
            streams: vec![stream.clone()],
            host: HostUse::default(),
            graph: into,
            into: into.is_some(),
            invalid: false,
            given: HashMap::new(),
        };
        lock(&self.all).insert(id, capture);
        self.running.fetch_add(1, Relaxed);
        id
    }

    /// Another stream takes part.
    pub(crate) fn join(&self, id: u64, stream: &Arc<Stream>) {
        if let Some(capture) = lock(&self.all).get_mut(&id) {
            stream.capture.store(id, Relaxed);
            capture.streams.push(stream.clone());
        }
    }

    /// Whether a capture may be ended by the calling thread on this stream. Where it may not, it is invalid
    /// from now on.
    ///
    /// # Errors
    /// `CUDA_ERROR_STREAM_CAPTURE_UNMATCHED` on a stream that joined later: the capture goes on, invalid.
    /// `CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD`: the capture has to be ended all the same.
    pub(crate) fn may_end(&self, id: u64, stream: &Stream) -> Result<(), CUresult> {
        let mut all = lock(&self.all);
        let Some(capture) = all.get_mut(&id) else { return Ok(()) };
        if capture.streams.first().is_none_or(|origin| origin.handle != stream.handle) {
            capture.invalid = true;
            return Err(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            capture.invalid = true;
            return Err(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        Ok(())
    }

    /// Ends a capture for all streams that take part.
    pub(crate) fn end(&self, id: u64) -> Ended {
        let Some(capture) = lock(&self.all).remove(&id) else { return Ended::default() };
        self.running.fetch_sub(1, Relaxed);
        for stream in &capture.streams {
            let _ = stream.capture.compare_exchange(id, 0, Relaxed, Relaxed);
        }
        let Capture { host, graph, into, invalid, .. } = capture;
        Ended { host, graph, into, invalid }
    }

    /// How a stream takes part.
    ///
    /// # Errors
    /// `CUDA_ERROR_STREAM_CAPTURE_IMPLICIT` for the legacy stream while a stream that blocks with it is
    /// captured.
    pub(crate) fn status(&self, stream: &Stream) -> Result<Status, CUresult> {
        if !self.any() {
            return Ok(Status::None);
        }
        let all = lock(&self.all);
        if stream.kind == StreamKind::Legacy {
            let blocked = all
                .values()
                .flat_map(|capture| &capture.streams)
                .any(|other| other.blocks_with_legacy() && other.context.handle == stream.context.handle);
            return if blocked { Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) } else { Ok(Status::None) };
        }
        let id = stream.capture.load(Relaxed);
        Ok(match all.get(&id) {
            None => Status::None,
            Some(capture) if capture.invalid => Status::Invalidated,
            Some(_) => Status::Active(id),
        })
    }

    /// The capture that a stream takes part in, for an operation that becomes part of it; 0 when there is none.
    ///
    /// # Errors
    /// `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED` when it can only be ended.
    pub(crate) fn active(&self, stream: &Stream) -> Result<u64, CUresult> {
        match stream.capture.load(Relaxed) {
            0 => Ok(0),
            id if lock(&self.all).get(&id).is_some_and(|capture| capture.invalid) => {
                Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
            }
            id => Ok(id),
        }
    }

    /// A forbidden call has met the capture: it can only be ended now, and gives no graph.
    pub(crate) fn invalidate(&self, id: u64) {
        if let Some(capture) = lock(&self.all).get_mut(&id) {
            capture.invalid = true;
        }
    }

    /// Keeps the dependencies of a stream for the program: where the nodes are, and the data of their edges.
    pub(crate) fn keep(
        &self,
        id: u64,
        stream: u64,
        nodes: &[u64],
        edges: &[u64],
    ) -> (*const usize, *const u64) {
        let given = Given {
            nodes: nodes.iter().map(|node| usize::try_from(*node).unwrap_or(0)).collect(),
            edges: edges.into(),
        };
        let places = (given.nodes.as_ptr(), given.edges.as_ptr());
        if let Some(capture) = lock(&self.all).get_mut(&id) {
            capture.given.insert(stream, given);
            return places;
        }
        (std::ptr::null(), std::ptr::null())
    }

    /// The graph's replays use this host memory.
    pub(crate) fn uses(&self, id: u64, base: u64, bytes: u64) {
        if let Some(capture) = lock(&self.all).get_mut(&id)
            && !capture.host.ranges.contains(&(base, bytes))
        {
            capture.host.ranges.push((base, bytes));
        }
    }

    /// The graph's replays call this host function.
    pub(crate) fn calls(&self, id: u64, number: u64) {
        if let Some(capture) = lock(&self.all).get_mut(&id) {
            capture.host.functions.push(number);
        }
    }

    /// The handle of the graph that is being captured, if the program has been given one.
    pub(crate) fn graph(&self, id: u64) -> Option<u64> {
        lock(&self.all).get(&id).and_then(|capture| capture.graph)
    }

    /// The program is given a handle of the graph that is being captured.
    pub(crate) fn name_graph(&self, id: u64, graph: u64) {
        if let Some(capture) = lock(&self.all).get_mut(&id) {
            capture.graph.get_or_insert(graph);
        }
    }

    /// A call that may disturb captures (an allocation, a query of the legacy stream) is being made.
    ///
    /// # Errors
    /// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED` when a capture forbids it to this thread; that capture is
    /// then invalid.
    pub(crate) fn unsafe_call(&self) -> Result<(), CUresult> {
        if !self.any() {
            return Ok(());
        }
        let mode = MODE.try_with(Cell::get).unwrap_or(GLOBAL);
        if mode == RELAXED {
            return Ok(());
        }
        let me = std::thread::current().id();
        let mut refused = false;
        for capture in lock(&self.all).values_mut() {
            let forbids = match capture.mode {
                GLOBAL => mode == GLOBAL || capture.thread == me,
                THREAD_LOCAL => capture.thread == me,
                _ => false,
            };
            if forbids {
                capture.invalid = true;
                refused = true;
            }
        }
        if refused { Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Whether a capture has not ended yet.
    pub(crate) fn is_running(&self, id: u64) -> bool {
        self.any() && lock(&self.all).contains_key(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::objects::{Context, NON_BLOCKING};

    fn stream(kind: StreamKind, context: &Arc<Context>, flags: u32) -> Arc<Stream> {
        static HANDLES: AtomicU64 = AtomicU64::new(0x100);
        Arc::new(Stream::new(HANDLES.fetch_add(16, Relaxed), context.clone(), kind, flags, 0))
    }

    fn context() -> Arc<Context> {
        Arc::new(Context::new(0x50, 0, true, 0, 0))
    }

    #[test]
    fn a_stream_takes_part_from_its_joining_to_the_end() {
        let captures = Captures::default();
        let context = context();
        let origin = stream(StreamKind::Created, &context, NON_BLOCKING);
        let joined = stream(StreamKind::Created, &context, NON_BLOCKING);
        assert_eq!(captures.status(&origin), Ok(Status::None));
        let id = captures.begin(&origin, GLOBAL, None);
        assert_eq!(captures.status(&joined), Ok(Status::None));
        captures.join(id, &joined);
        assert_eq!(captures.status(&joined), Ok(Status::Active(id)));
        captures.uses(id, 0x1000, 64);
        captures.uses(id, 0x1000, 64);
        captures.calls(id, 7);
        captures.name_graph(id, 0x99);
        captures.name_graph(id, 0x9a);
        assert_eq!(captures.graph(id), Some(0x99), "a graph keeps its first name");
        assert_eq!(captures.may_end(id, &origin), Ok(()));
        let ended = captures.end(id);
        assert_eq!(ended.host.ranges, [(0x1000, 64)]);
        assert_eq!(ended.host.functions, [7]);
        assert_eq!((ended.graph, ended.into, ended.invalid), (Some(0x99), false, false));
        assert!(!origin.is_capturing() && !joined.is_capturing() && !captures.any());
    }

    #[test]
    fn only_the_first_stream_and_thread_end_a_capture() {
        let captures = Captures::default();
        let context = context();
        let origin = stream(StreamKind::Created, &context, NON_BLOCKING);
        let joined = stream(StreamKind::Created, &context, NON_BLOCKING);
        let id = captures.begin(&origin, GLOBAL, None);
        captures.join(id, &joined);
        assert_eq!(captures.may_end(id, &joined), Err(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED));
        assert_eq!(captures.status(&origin), Ok(Status::Invalidated));
        assert!(captures.end(id).invalid);
        let id = captures.begin(&origin, THREAD_LOCAL, None);
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| captures.may_end(id, &origin)).join());
        assert_eq!(elsewhere.unwrap(), Err(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
        captures.end(id);
        let id = captures.begin(&origin, RELAXED, None);
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| captures.may_end(id, &origin)).join());
        assert_eq!(elsewhere.unwrap(), Ok(()));
    }

    #[test]
    fn a_blocking_capture_makes_the_legacy_stream_unusable() {
        let captures = Captures::default();
        let context = context();
        let legacy = stream(StreamKind::Legacy, &context, 0);
        let apart = stream(StreamKind::Created, &context, NON_BLOCKING);
        let id = captures.begin(&apart, GLOBAL, None);
        assert_eq!(captures.status(&legacy), Ok(Status::None));
        captures.end(id);
        captures.begin(&stream(StreamKind::Created, &context, 0), RELAXED, None);
        assert_eq!(captures.status(&legacy), Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT));
    }

    #[test]
    fn an_unsafe_call_invalidates_what_forbids_it() {
        let captures = Captures::default();
        let context = context();
        let relaxed = stream(StreamKind::Created, &context, NON_BLOCKING);
        let strict = stream(StreamKind::Created, &context, NON_BLOCKING);
        let id = captures.begin(&relaxed, RELAXED, None);
        assert_eq!(captures.unsafe_call(), Ok(()));
        captures.begin(&strict, GLOBAL, None);
        let before = exchange_mode(RELAXED);
        assert_eq!(captures.unsafe_call(), Ok(()));
        exchange_mode(before);
        assert_eq!(captures.unsafe_call(), Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
        assert_eq!(captures.status(&strict), Ok(Status::Invalidated));
        assert_eq!(captures.status(&relaxed), Ok(Status::Active(id)));
    }

    #[test]
    fn dependencies_stay_readable() {
        let captures = Captures::default();
        let one = stream(StreamKind::Created, &context(), 0);
        let id = captures.begin(&one, GLOBAL, None);
        let (nodes, edges) = captures.keep(id, one.handle, &[0x60, 0x70], &[0, 5]);
        // SAFETY: kept until the next `keep` for the stream, or the end.
        let (nodes, edges) =
            unsafe { (std::slice::from_raw_parts(nodes, 2), std::slice::from_raw_parts(edges, 2)) };
        assert_eq!((nodes, edges), (&[0x60, 0x70][..], &[0, 5][..]));
        assert!(captures.keep(id + 1, one.handle, &[1], &[0]).0.is_null(), "no such capture");
    }
}
