//! Stream capture. Which streams take part is followed here ([`crate::runtime::capture`]); the graph is made
//! by the server's driver, which is asked for it when the program wants to see it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::table::{
    CaptureBegin, CaptureBeginTo, CaptureEnd, CaptureInfo, CaptureUpdate, GraphDestroy,
};

use crate::abi::result::{
    CUDA_ERROR_ILLEGAL_STATE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
};
use crate::abi::types::{CUgraph, CUgraphNode, CUresult, CUstream};
use crate::runtime::capture::{self, Ended, RELAXED, Status};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::{Graph, HostUse, Stream, StreamKind};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, graphs};

use super::arguments::{give, need, offer};
use super::graph_edges::{Dependencies, check_loss, listed};

// CUstreamCaptureStatus of cuda.h.
const STATUS_NONE: u32 = 0;
const STATUS_ACTIVE: u32 = 1;
const STATUS_INVALIDATED: u32 = 2;

/// A stream that a capture may begin on.
fn free_stream(runtime: &Runtime, stream: CUstream, mode: u32) -> Result<Arc<Stream>, CUresult> {
    let stream = current::stream(runtime, stream)?;
    if mode > RELAXED {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    stream.context.check()?;
    if stream.kind == StreamKind::Legacy {
        return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if stream.is_capturing() {
        return Err(CUDA_ERROR_ILLEGAL_STATE);
    }
    Ok(stream)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, mode: u32) -> CUresult {
    runtime::call(counter!("cuStreamBeginCapture_v2"), |runtime| {
        let stream = free_stream(runtime, stream, mode)?;
        // Not to become part of the capture.
        runtime.session.bring_back()?;
        let record = CaptureBegin { stream: stream.handle, mode, reserved: 0 };
        runtime.session.post_on(&stream, &record, &[])?;
        runtime.captures.begin(&stream, mode, None);
        Ok(())
    })
}

/// The first form of the function, which had one mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture(stream: CUstream) -> CUresult {
    // SAFETY: nothing but a handle and a number.
    unsafe { cuStreamBeginCapture_v2(stream, capture::GLOBAL) }
}

/// `dependencies` and `edges` hold `count` elements; `edges` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCaptureToGraph(
    stream: CUstream,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    edges: *const u64,
    count: usize,
    mode: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamBeginCaptureToGraph"), |runtime| {
        let stream = free_stream(runtime, stream, mode)?;
        let graph = handles::graph(graph)?;
        // SAFETY: the program's arrays, of `count` elements.
        let given = unsafe { Dependencies::read(dependencies, edges, count) }?;
        let dependencies = given.count()?;
        let record = CaptureBeginTo { stream: stream.handle, graph: graph.handle, mode, dependencies };
        runtime.session.call(&record, &given.pieces())?;
        runtime.captures.begin(&stream, mode, Some(graph.handle));
        Ok(())
    })
}

/// Takes what a capture has left behind into the graph that the program gets.
fn adopt(runtime: &Runtime, ended: Ended, fresh: u64) -> u64 {
    let Ended { host, graph, into, .. } = ended;
    let Some(named) = graph else {
        let graph = Arc::new(Graph::new(fresh));
        *lock(&graph.host) = host;
        handles::fill(fresh, Object::Graph(graph));
        return fresh;
    };
    if let Ok(graph) = handles::graph(handles::pointer(named)) {
        let HostUse { ranges, functions } = host;
        let mut host = lock(&graph.host);
        host.ranges.extend(ranges);
        host.functions.extend(functions);
    }
    if into {
        discard(runtime, fresh);
    } else {
        // The server has two names for the graph now, of which the second owns it.
        graphs::alias(named, fresh);
    }
    named
}

/// Takes back a name for a graph that the program never sees.
fn discard(runtime: &Runtime, graph: u64) {
    handles::end(graph);
    // A session that is over has nothing left of it.
    let _ = runtime.session.post(&GraphDestroy { graph }, &[]);
}

/// Ends the capture that began on this stream, and gives its graph.
fn end(runtime: &Runtime, stream: &Arc<Stream>) -> Result<u64, CUresult> {
    let id = stream.capture.load(Relaxed);
    if id == 0 {
        return Err(CUDA_ERROR_ILLEGAL_STATE);
    }
    let allowed = runtime.captures.may_end(id, stream);
    if allowed == Err(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED) {
        allowed?;
    }
    let fresh = handles::mint()?;
    let made = runtime.session.call(&CaptureEnd { stream: stream.handle, graph: fresh }, &[]);
    let ended = runtime.captures.end(id);
    let refused = match made {
        Err(code) => {
            handles::end(fresh);
            Some(code)
        }
        Ok(_) if ended.invalid => {
            discard(runtime, fresh);
            None
        }
        Ok(_) => None,
    };
    allowed?;
    let refused = if ended.invalid { Some(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) } else { refused };
    if let Some(code) = refused {
        if let (Some(named), false) = (ended.graph, ended.into) {
            graphs::forget_graph(named);
            discard(runtime, named);
        }
        return Err(code);
    }
    Ok(adopt(runtime, ended, fresh))
}

/// A NULL `graph` says that the program does not want it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    runtime::call(counter!("cuStreamEndCapture"), |runtime| {
        // SAFETY: the program's pointer, for one value.
        unsafe { offer(graph, std::ptr::null_mut()) };
        let stream = current::stream(runtime, stream)?;
        let made = end(runtime, &stream)?;
        if graph.is_null() {
            // SAFETY: the graph that was made above, which nobody else knows.
            unsafe { super::graph::cuGraphDestroy(handles::pointer(made)) };
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { give(graph, handles::pointer(made)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: CUstream, status: *mut u32) -> CUresult {
    runtime::call(counter!("cuStreamIsCapturing"), |runtime| {
        need(status)?;
        let stream = current::stream(runtime, stream)?;
        let found = match runtime.captures.status(&stream)? {
            Status::None => STATUS_NONE,
            Status::Active(_) => STATUS_ACTIVE,
            Status::Invalidated => STATUS_INVALIDATED,
        };
        // SAFETY: the program's pointer, for one value.
        unsafe { give(status, found) }
    })
}

/// Where the program wants what is known of a capture; each may be NULL but `status`.
struct Wanted {
    status: *mut u32,
    id: *mut u64,
    graph: *mut CUgraph,
    nodes: *mut *const CUgraphNode,
    edges: *mut *const u64,
    count: *mut usize,
}

/// Status and id are known here; the rest is asked for when it is wanted.
fn info(runtime: &Runtime, stream: CUstream, wanted: &Wanted) -> Result<(), CUresult> {
    need(wanted.status)?;
    if wanted.nodes.is_null() && !wanted.edges.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let stream = current::stream(runtime, stream)?;
    let (status, active) = match runtime.captures.status(&stream)? {
        Status::None => (STATUS_NONE, None),
        Status::Active(id) => (STATUS_ACTIVE, Some(id)),
        Status::Invalidated => (STATUS_INVALIDATED, None),
    };
    // SAFETY: the program's pointer, for one value.
    unsafe { give(wanted.status, status) }?;
    let Some(id) = active else { return Ok(()) };
    // SAFETY: as above.
    unsafe { offer(wanted.id, id) };
    let lists = !wanted.nodes.is_null() || !wanted.edges.is_null() || !wanted.count.is_null();
    let known = runtime.captures.graph(id);
    if let (Some(graph), false) = (known, lists) {
        // SAFETY: as above.
        unsafe { offer(wanted.graph, handles::pointer(graph)) };
        return Ok(());
    }
    if wanted.graph.is_null() && !lists {
        return Ok(());
    }
    let graph = match known {
        Some(graph) => graph,
        None => handles::mint()?,
    };
    let mut data = Vec::new();
    let nodes = graphs::list(graph, |first_node| {
        let record = CaptureInfo { stream: stream.handle, graph, first_node };
        let (reply, tail) = runtime.session.call(&record, &[])?;
        match reply.status {
            STATUS_ACTIVE => {
                let (nodes, edges) = listed(&tail, reply.dependencies as usize, reply.dependencies as usize)?;
                data = edges;
                Ok(nodes)
            }
            _ => Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        }
    });
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(code) => {
            if known.is_none() {
                handles::end(graph);
            }
            return Err(code);
        }
    };
    if known.is_none() {
        handles::fill(graph, Object::Graph(Arc::new(Graph::new(graph))));
        runtime.captures.name_graph(id, graph);
    }
    check_loss(!wanted.nodes.is_null(), !wanted.edges.is_null(), &data)?;
    let (list, edges) = runtime.captures.keep(id, stream.handle, &nodes, &data);
    // SAFETY: as above; what the lists point to stays until the program's next call for the stream.
    unsafe {
        offer(wanted.graph, handles::pointer(graph));
        offer(wanted.nodes, list.cast());
        offer(wanted.edges, edges);
        offer(wanted.count, nodes.len());
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: CUstream,
    status: *mut u32,
    id: *mut u64,
    graph: *mut CUgraph,
    nodes: *mut *const CUgraphNode,
    edges: *mut *const u64,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuStreamGetCaptureInfo_v3"), |runtime| {
        info(runtime, stream, &Wanted { status, id, graph, nodes, edges, count })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: CUstream,
    status: *mut u32,
    id: *mut u64,
    graph: *mut CUgraph,
    nodes: *mut *const CUgraphNode,
    count: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuStreamGetCaptureInfo_v2"), |runtime| {
        info(runtime, stream, &Wanted { status, id, graph, nodes, edges: std::ptr::null_mut(), count })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo(
    stream: CUstream,
    status: *mut u32,
    id: *mut u64,
) -> CUresult {
    runtime::call(counter!("cuStreamGetCaptureInfo"), |runtime| {
        let (graph, nodes) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (edges, count) = (std::ptr::null_mut(), std::ptr::null_mut());
        info(runtime, stream, &Wanted { status, id, graph, nodes, edges, count })
    })
}

unsafe fn update(
    runtime: &Runtime,
    stream: CUstream,
    dependencies: *const CUgraphNode,
    edges: *const u64,
    count: usize,
    flags: u32,
) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    if flags > 1 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    match runtime.captures.status(&stream)? {
        Status::Active(_) => {}
        Status::Invalidated => return Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        Status::None => return Err(CUDA_ERROR_ILLEGAL_STATE),
    }
    // SAFETY: the caller's promise.
    let given = unsafe { Dependencies::read(dependencies, edges, count) }?;
    let record = CaptureUpdate { stream: stream.handle, dependencies: given.count()?, flags };
    runtime.session.call(&record, &given.pieces()).map(drop)
}

/// `dependencies` and `edges` hold `count` elements; `edges` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamUpdateCaptureDependencies_v2(
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    edges: *const u64,
    count: usize,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamUpdateCaptureDependencies_v2"), |runtime| {
        // SAFETY: the program's arrays.
        unsafe { update(runtime, stream, dependencies, edges, count, flags) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamUpdateCaptureDependencies(
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    count: usize,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamUpdateCaptureDependencies"), |runtime| {
        // SAFETY: the program's array.
        unsafe { update(runtime, stream, dependencies, std::ptr::null(), count, flags) }
    })
}

/// The driver takes any number for a mode, and gives back the one before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> CUresult {
    runtime::call(counter!("cuThreadExchangeStreamCaptureMode"), |_| {
        need(mode)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(mode, capture::exchange_mode(mode.read())) }
    })
}

crate::abi::variants!("capture.rs");
