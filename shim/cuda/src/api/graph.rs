//! Graphs and executable graphs: made by the server's driver; launches are published and never waited for.
//!
//! What a replay uses of host memory goes over before the launch and comes back after it. A graph that also
//! calls host functions would have to do so in its middle, and is refused.

use std::ffi::{CString, c_char};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::table::{
    CtxSynchronize, ExecUpdateReply, GraphClone, GraphCreate, GraphDestroy, GraphDot, GraphExecDestroy,
    GraphExecUpdate, GraphInstantiate, GraphLaunch, GraphUpload,
};

use crate::abi::per_thread::default_stream;
use crate::abi::report;
use crate::abi::result::{
    CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED,
    CUDA_ERROR_OPERATING_SYSTEM,
};
use crate::abi::types::{CUdevice, CUgraph, CUgraphExec, CUgraphNode, CUresult, CUstream};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::{Graph, GraphExec, HostUse, Stream};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, copies, current, graphs, mirror, user_objects};

use super::arguments::{give, name, need, offer};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD`.
const UPLOAD: u64 = 2;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_*` of cuda.h: free on launch, upload, launch from the device, node priority.
const FLAGS: u64 = 1 | UPLOAD | 4 | 8;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: *mut CUgraph, flags: u32) -> CUresult {
    runtime::call(counter!("cuGraphCreate"), |runtime| {
        need(graph)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let handle = handles::mint()?;
        runtime.session.post(&GraphCreate { graph: handle }, &[])?;
        handles::fill(handle, Object::Graph(Arc::new(Graph::new(handle))));
        // SAFETY: the program's pointer, for one value.
        unsafe { give(graph, handles::pointer(handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    runtime::call(counter!("cuGraphDestroy"), |runtime| {
        let graph = handles::graph(graph)?;
        handles::end(graph.handle);
        let graph = graphs::forget_graph(graph.handle);
        runtime.session.post(&GraphDestroy { graph }, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphClone(clone: *mut CUgraph, graph: CUgraph) -> CUresult {
    runtime::call(counter!("cuGraphClone"), |runtime| {
        need(clone)?;
        let graph = handles::graph(graph)?;
        let handle = handles::mint()?;
        if let Err(code) = runtime.session.call(&GraphClone { graph: graph.handle, clone: handle }, &[]) {
            handles::end(handle);
            return Err(code);
        }
        let made = Graph::new(handle);
        *lock(&made.host) = lock(&graph.host).clone();
        handles::fill(handle, Object::Graph(Arc::new(made)));
        graphs::share_objects(graph.handle, handle);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(clone, handles::pointer(handle)) }
    })
}

/// What a graph uses of the host, if replays of it can be carried.
fn carried(graph: &Graph) -> Result<HostUse, CUresult> {
    let host = lock(&graph.host).clone();
    if !host.ranges.is_empty() && !host.functions.is_empty() {
        report(
            "a graph that both calls host functions and uses host memory is not supported: its functions would see that memory as it was before the launch; returned CUDA_ERROR_NOT_SUPPORTED",
        );
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    Ok(host)
}

fn instantiate(
    runtime: &Runtime,
    target: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
) -> Result<Arc<GraphExec>, CUresult> {
    need(target)?;
    let graph = handles::graph(graph)?;
    if flags & !FLAGS != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let context = current::sound_context()?;
    let host = carried(&graph)?;
    let handle = handles::mint()?;
    let record = GraphInstantiate { graph: graph.handle, exec: handle, context: context.handle, flags };
    if let Err(code) = runtime.session.call(&record, &[]) {
        handles::end(handle);
        return Err(code);
    }
    let exec = Arc::new(GraphExec { handle, context, host: std::sync::Mutex::new(host) });
    handles::fill(handle, Object::GraphExec(exec.clone()));
    graphs::add_exec(handle, graph.handle, flags);
    // SAFETY: the program's pointer, for one value.
    unsafe { give(target, handles::pointer(handle)) }?;
    Ok(exec)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
) -> CUresult {
    runtime::call(counter!("cuGraphInstantiateWithFlags"), |runtime| {
        if flags & UPLOAD != 0 {
            // There is no stream to do it on.
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        instantiate(runtime, exec, graph, flags).map(drop)
    })
}

/// The old form: `error` and `log` are told nothing, as when all went well.
///
/// # Safety
/// The pointers are NULL or good for what they are for.
unsafe fn instantiate_with_log(
    runtime: &Runtime,
    exec: *mut CUgraphExec,
    graph: CUgraph,
    error: *mut CUgraphNode,
    log: *mut c_char,
    room: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's promise.
    unsafe {
        offer(error, std::ptr::null_mut());
        if room != 0 {
            offer(log, 0);
        }
    }
    instantiate(runtime, exec, graph, 0).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    error: *mut CUgraphNode,
    log: *mut c_char,
    room: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphInstantiate"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { instantiate_with_log(runtime, exec, graph, error, log, room) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate_v2(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    error: *mut CUgraphNode,
    log: *mut c_char,
    room: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphInstantiate_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { instantiate_with_log(runtime, exec, graph, error, log, room) }
    })
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
pub struct InstantiateParams {
    pub flags: u64,
    pub upload: CUstream,
    pub error: CUgraphNode,
    pub result: u32,
}

const _: () = assert!(size_of::<InstantiateParams>() == 32);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithParams(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    params: *mut InstantiateParams,
) -> CUresult {
    // CUgraphInstantiateResult of cuda.h.
    const SUCCESS: u32 = 0;
    const ERROR: u32 = 1;
    runtime::call(counter!("cuGraphInstantiateWithParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's structure.
        let params = unsafe { &mut *params };
        params.error = std::ptr::null_mut();
        params.result = ERROR;
        let made = instantiate(runtime, exec, graph, params.flags)?;
        params.result = SUCCESS;
        if params.flags & UPLOAD != 0 {
            let stream = current::stream(runtime, default_stream(params.upload))?;
            upload(runtime, &made, &stream)?;
        }
        Ok(())
    })
}

/// Publishes a launch, with the host memory that the graph uses before and after it.
fn launch(runtime: &Runtime, exec: &GraphExec, stream: &Arc<Stream>) -> Result<(), CUresult> {
    super::event::replayed();
    let record = GraphLaunch { exec: exec.handle, stream: stream.handle };
    let post = || {
        let number = runtime.session.post_on(stream, &record, &[])?;
        // It may wait for events.
        stream.waited.fetch_max(number, Relaxed);
        Ok(())
    };
    let host = lock(&exec.host);
    if host.ranges.is_empty() && host.functions.is_empty() {
        drop(host);
        runtime.captures.active(stream)?;
        return post();
    }
    let host = host.clone();
    let capture = runtime.captures.active(stream)?;
    if capture != 0 {
        // The graph becomes part of another one, whose replays do for it.
        for &(base, bytes) in &host.ranges {
            runtime.captures.uses(capture, base, bytes);
        }
        for &number in &host.functions {
            runtime.captures.calls(capture, number);
        }
        return post();
    }
    let mirrors = copies::replay_mirrors(runtime, stream, &host)?;
    let ahead = mirror::push(&runtime.session, stream, &mirrors)?;
    // Host functions and event records may be part of it.
    runtime.session.bring_back()?;
    post()?;
    mirror::owe(&runtime.session, stream, ahead);
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: CUgraphExec, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuGraphLaunch"), |runtime| {
        let exec = handles::graph_exec(exec)?;
        let stream = current::stream(runtime, stream)?;
        stream.context.report()?;
        launch(runtime, &exec, &stream)
    })
}

fn upload(runtime: &Runtime, exec: &GraphExec, stream: &Stream) -> Result<(), CUresult> {
    let record = GraphUpload { exec: exec.handle, stream: stream.handle };
    runtime.session.post_on(stream, &record, &[]).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(exec: CUgraphExec, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuGraphUpload"), |runtime| {
        let exec = handles::graph_exec(exec)?;
        let stream = current::stream(runtime, stream)?;
        stream.context.check()?;
        upload(runtime, &exec, &stream)
    })
}

/// Lets go of user objects once the work that may use them is finished; nobody waits for that here.
fn let_go_later(runtime: &'static Runtime, context: u64, objects: Vec<u64>) {
    let wait_and_release = move || {
        // After a lost session or a fault nothing uses them any more.
        let _ = runtime.session.call(&CtxSynchronize { context }, &[]);
        for object in objects {
            // What an executable graph holds is alive.
            let _ = user_objects::release(object, 1);
        }
    };
    if std::thread::Builder::new().name("fusewire-objects".into()).spawn(wait_and_release).is_err() {
        report("no thread could be started to destroy the user objects of a graph: they stay");
    }
}

/// Returns at once; a replay under way goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: CUgraphExec) -> CUresult {
    runtime::call(counter!("cuGraphExecDestroy"), |runtime| {
        let exec = handles::graph_exec(exec)?;
        handles::end(exec.handle);
        let objects = graphs::forget_exec(exec.handle);
        runtime.session.post(&GraphExecDestroy { exec: exec.handle }, &[])?;
        if !objects.is_empty() {
            let_go_later(runtime, exec.context.handle, objects);
        }
        Ok(())
    })
}

/// What an update came to.
fn update(runtime: &Runtime, exec: CUgraphExec, graph: CUgraph) -> Result<ExecUpdateReply, CUresult> {
    let exec = handles::graph_exec(exec)?;
    let graph = handles::graph(graph)?;
    let host = carried(&graph)?;
    let (reply, _) =
        runtime.session.call(&GraphExecUpdate { exec: exec.handle, graph: graph.handle }, &[])?;
    if reply.result == 0 {
        *lock(&exec.host) = host;
    }
    Ok(reply)
}

/// Result and code, as the program is told of them.
fn outcome(reply: Result<ExecUpdateReply, CUresult>) -> (UpdateInfo, Result<(), CUresult>) {
    /// `CU_GRAPH_EXEC_UPDATE_ERROR`.
    const ERROR: u32 = 1;
    let null = std::ptr::null_mut();
    match reply {
        Ok(reply) => {
            // Only nodes that the program can know.
            let node = |name| {
                if graphs::node(handles::pointer(name)).is_ok() { handles::pointer(name) } else { null }
            };
            let info = UpdateInfo { result: reply.result, node: node(reply.node), from: node(reply.from) };
            (info, if reply.result == 0 { Ok(()) } else { Err(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE) })
        }
        Err(code) => (UpdateInfo { result: ERROR, node: null, from: null }, Err(code)),
    }
}

/// `CUgraphExecUpdateResultInfo`, as cuda.h lays it out.
#[repr(C)]
pub struct UpdateInfo {
    pub result: u32,
    pub node: CUgraphNode,
    pub from: CUgraphNode,
}

const _: () = assert!(size_of::<UpdateInfo>() == 24);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate_v2(
    exec: CUgraphExec,
    graph: CUgraph,
    info: *mut UpdateInfo,
) -> CUresult {
    runtime::call(counter!("cuGraphExecUpdate_v2"), |runtime| {
        need(info)?;
        let (found, code) = outcome(update(runtime, exec, graph));
        // SAFETY: the program's pointer, for one structure.
        unsafe { give(info, found) }?;
        code
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate(
    exec: CUgraphExec,
    graph: CUgraph,
    node: *mut CUgraphNode,
    result: *mut u32,
) -> CUresult {
    runtime::call(counter!("cuGraphExecUpdate"), |runtime| {
        let (found, code) = outcome(update(runtime, exec, graph));
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            offer(node, found.node);
            offer(result, found.result);
        }
        code
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecGetFlags(exec: CUgraphExec, flags: *mut u64) -> CUresult {
    runtime::call(counter!("cuGraphExecGetFlags"), |_| {
        let exec = handles::graph_exec(exec)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(flags, graphs::exec_flags(exec.handle)) }
    })
}

/// The server describes the graph; the file is written where the program runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDebugDotPrint(graph: CUgraph, path: *const c_char, flags: u32) -> CUresult {
    runtime::call(counter!("cuGraphDebugDotPrint"), |runtime| {
        // SAFETY: the program's string.
        let path: CString = unsafe { name(path) }?.to_owned();
        let graph = handles::graph(graph)?;
        let (_, text) = runtime.session.call(&GraphDot { graph: graph.handle, flags, reserved: 0 }, &[])?;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        std::fs::File::create(path).and_then(|mut file| file.write_all(&text)).map_err(|error| {
            report(&format!("writing the graph to {} failed: {error}", path.display()));
            CUDA_ERROR_OPERATING_SYSTEM
        })
    })
}

/// Graphs with nodes that allocate are not carried: there is never anything to give back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGraphMemTrim(device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceGraphMemTrim"), |runtime| runtime.device(device).map(drop))
}

/// Highest `CUgraphMem_attribute` of cuda.h: used and reserved memory, now and at most.
const LAST_MEMORY_ATTRIBUTE: u32 = 3;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetGraphMemAttribute(
    device: CUdevice,
    attribute: u32,
    value: *mut u64,
) -> CUresult {
    runtime::call(counter!("cuDeviceGetGraphMemAttribute"), |runtime| {
        runtime.device(device)?;
        if attribute > LAST_MEMORY_ATTRIBUTE {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the program's pointer, for one value of 8 bytes.
        unsafe { give(value, 0) }
    })
}

crate::abi::variants!("graph.rs");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_functions_and_host_memory_exclude_each_other() {
        let graph = Graph::new(0x51);
        assert!(carried(&graph).is_ok());
        lock(&graph.host).ranges.push((0x1000, 64));
        assert_eq!(carried(&graph).unwrap().ranges, [(0x1000, 64)]);
        lock(&graph.host).functions.push(1);
        assert_eq!(carried(&graph).err(), Some(CUDA_ERROR_NOT_SUPPORTED));
        lock(&graph.host).ranges.clear();
        assert!(carried(&graph).is_ok());
    }

    #[test]
    fn a_refused_update_says_why() {
        let told = |result| {
            let known = graphs::name_node();
            graphs::add_node(known, 0x71, 0, graphs::Made::Other);
            let (info, code) = outcome(Ok(ExecUpdateReply { result, reserved: 0, node: known, from: 0x10 }));
            assert_eq!(
                (handles::number(info.node), handles::number(info.from)),
                (known, 0),
                "no unknown nodes"
            );
            (info.result, code)
        };
        assert_eq!(told(0), (0, Ok(())));
        assert_eq!(told(2), (2, Err(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE)));
        let (info, code) = outcome(Err(CUDA_ERROR_INVALID_VALUE));
        assert_eq!((info.result, code), (1, Err(CUDA_ERROR_INVALID_VALUE)));
    }
}
