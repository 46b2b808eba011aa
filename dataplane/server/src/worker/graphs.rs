//! Stream capture and graphs.
//!
//! Captures begin in the relaxed mode and this thread is in it too, so that one client thread's capture never
//! stands in another's way; what the other modes forbid, the client refuses. Nodes that the driver makes get
//! names when the client asks for them.

use std::ffi::{CString, c_void};
use std::io::Read;

use cudarc::driver::sys::{CUgraph, CUgraphNode};
use fusewire_wire::ops::table::{
    AddKernelNode, AddMemcpyNode, AddMemsetNode, AddNode, CaptureBeginTo, CaptureInfo, CaptureInfoReply,
    CaptureUpdate, ExecUpdateReply, GraphInstantiate, GraphNodes, KernelNodeReply, NODE_HANDLE_STEP,
    NodeSetKernel,
};
use fusewire_wire::ops::{Answer, Call, Dim3, NodeLaunch, Nothing, Status};
use zerocopy::IntoBytes;

use super::gpu::{Exec, Gpu, Graph, Node};
use super::graph_edges::{Dependencies, MAX_DEPENDENCIES, listed};
use super::handles::MAX_OBJECTS;
use super::hostfunc;
use super::launch::{Extra, PARAM_END, PARAM_POINTER, PARAM_SIZE, dims};
use crate::driver::layouts::{
    EdgeData, ExecUpdate, HostNode, KernelNode, MemcpyNode, MemsetNodeV2, NodeParams,
};
use crate::driver::{GRAPH_EXEC_UPDATE_FAILURE, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
pub(super) const RELAXED: u32 = 2;
/// Highest capture mode.
const LAST_MODE: u32 = 2;
/// Instantiation flags that are carried: free on launch, launch from the device, priorities of nodes. Upload needs
/// a stream, and happens at the first launch anyway.
const INSTANTIATE_FLAGS: u64 = 1 | 4 | 8;
const INSTANTIATE_UPLOAD: u64 = 2;

/// A node to be added.
struct New {
    graph: CUgraph,
    node: u64,
    dependencies: Dependencies,
}

impl Gpu {
    pub(super) fn capture_begin(&mut self, stream: u64, mode: u32) -> Result<(), Status> {
        if mode > LAST_MODE {
            return Err(INVALID_VALUE);
        }
        let (id, raw) = self.stream(stream)?;
        // SAFETY: a live stream.
        let status = unsafe { self.d.cuStreamBeginCapture_v2(raw, RELAXED) };
        self.ok(status)?;
        self.began(id)
    }

    fn began(&mut self, id: super::streams::StreamId) -> Result<(), Status> {
        let stream = self.streams.get_mut(id)?;
        stream.captures = true;
        let context = stream.context;
        self.contexts.get_mut(context)?.captures += 1;
        Ok(())
    }

    pub(super) fn capture_begin_to(&mut self, record: &CaptureBeginTo, tail: &[u8]) -> Result<(), Status> {
        if record.mode > LAST_MODE {
            return Err(INVALID_VALUE);
        }
        let graph = self.graphs.get(record.graph)?.raw;
        let (dependencies, _) = self.dependencies_of(tail, record.dependencies)?;
        let (id, raw) = self.stream(record.stream)?;
        // SAFETY: stream, graph and nodes are live; the arrays are as long as is said.
        let status = unsafe {
            let (nodes, count) = (dependencies.nodes.as_ptr(), dependencies.nodes.len());
            self.d.cuStreamBeginCaptureToGraph(raw, graph, nodes, dependencies.edges(), count, RELAXED)
        };
        self.ok(status)?;
        self.began(id)
    }

    pub(super) fn capture_end(&mut self, stream: u64, handle: u64) -> Result<(), Status> {
        self.mint("graph", handle, self.graphs.has(handle))?;
        let (id, raw) = self.stream(stream)?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: a live stream.
        let status = unsafe { self.d.cuStreamEndCapture(raw, &raw mut graph) };
        let stream = self.streams.get_mut(id)?;
        let context = stream.context;
        if std::mem::take(&mut stream.captures) {
            let found = self.contexts.get_mut(context)?;
            found.captures = found.captures.saturating_sub(1);
            self.release_held_fences(context);
        }
        self.ok(status)?;
        if graph.is_null() {
            return Err(crate::driver::UNKNOWN);
        }
        // A capture into a graph ends with that graph, which has an owner already.
        let owned = !self.graphs.iter().any(|(_, known)| known.owned && known.raw == graph);
        self.graphs.put(handle, Graph { raw: graph, owned });
        Ok(())
    }

    pub(super) fn capture_info(&mut self, record: &CaptureInfo) -> Result<Answer<CaptureInfoReply>, Status> {
        let (_, raw) = self.stream(record.stream)?;
        let (mut state, mut id, mut graph) = (0, 0, std::ptr::null_mut());
        let (mut nodes, mut edges, mut count) = (std::ptr::null(), std::ptr::null(), 0usize);
        // SAFETY: a live stream; every result is a live place.
        let status = unsafe {
            let status = self.d.cuStreamGetCaptureInfo_v3(
                raw,
                &raw mut state,
                &raw mut id,
                &raw mut graph,
                &raw mut nodes,
                &raw mut edges,
                &raw mut count,
            );
            if status == NOT_SUPPORTED {
                self.d.cuStreamGetCaptureInfo_v2(
                    raw,
                    &raw mut state,
                    &raw mut id,
                    &raw mut graph,
                    &raw mut nodes,
                    &raw mut count,
                )
            } else {
                status
            }
        };
        self.ok(status)?;
        let mut reply = CaptureInfoReply { status: state, dependencies: 0, id, graph: 0 };
        if state != 1 || graph.is_null() {
            return Ok(Answer::of(reply));
        }
        let known = self.graphs.iter().find(|(_, known)| known.raw == graph).map(|(handle, _)| handle);
        reply.graph = match known {
            Some(handle) => handle,
            None if record.graph == 0 => 0,
            None => {
                self.mint("graph", record.graph, self.graphs.has(record.graph))?;
                self.graphs.put(record.graph, Graph { raw: graph, owned: false });
                record.graph
            }
        };
        let count = if nodes.is_null() || count > MAX_DEPENDENCIES as usize { 0 } else { count };
        let (mut list, mut data) = (Vec::new(), vec![EdgeData::default(); count]);
        if count != 0 {
            // SAFETY: the driver's arrays, good until the next call on the stream; that of the edges may be missing.
            unsafe {
                list = std::slice::from_raw_parts(nodes, count).to_vec();
                if !edges.is_null() {
                    data = std::slice::from_raw_parts(edges, count).to_vec();
                }
            }
        }
        let (names, _) = self.name_nodes(&list, graph, record.first_node)?;
        reply.dependencies = names.len() as u32;
        Ok(Answer::Now(reply, listed(&names, &data)))
    }

    pub(super) fn capture_update(&mut self, record: &CaptureUpdate, tail: &[u8]) -> Result<(), Status> {
        // Add to the dependencies, or set them.
        if record.flags > 1 {
            return Err(INVALID_VALUE);
        }
        let (mut dependencies, _) = self.dependencies_of(tail, record.dependencies)?;
        let (_, raw) = self.stream(record.stream)?;
        let (edges, count) = (dependencies.edges(), dependencies.nodes.len());
        // SAFETY: stream and nodes are live; the arrays are as long as is said.
        let status = unsafe {
            let nodes = dependencies.nodes.as_mut_ptr();
            self.d.cuStreamUpdateCaptureDependencies_v2(raw, nodes, edges, count, record.flags)
        };
        self.ok(status)
    }

    pub(super) fn graph_create(&mut self, handle: u64) -> Result<(), Status> {
        self.mint("graph", handle, self.graphs.has(handle))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live place.
        let status = unsafe { self.d.cuGraphCreate(&raw mut raw, 0) };
        self.ok(status)?;
        self.graphs.put(handle, Graph { raw, owned: true });
        Ok(())
    }

    pub(super) fn graph_destroy(&mut self, handle: u64) -> Result<(), Status> {
        let graph = self.graphs.take(handle)?;
        if !graph.owned {
            return Ok(());
        }
        self.forget_graph(graph.raw);
        // SAFETY: ours, and named no more.
        let status = unsafe { self.d.cuGraphDestroy(graph.raw) };
        self.ok(status)
    }

    /// Forgets the other names of a graph and its nodes.
    fn forget_graph(&mut self, raw: CUgraph) {
        self.graphs.take_all(|graph| graph.raw == raw);
        for node in self.nodes.take_all(|node| node.graph == raw as usize) {
            self.node_names.remove(&(node.raw as usize));
        }
    }

    pub(super) fn graph_clone(&mut self, graph: u64, handle: u64) -> Result<(), Status> {
        self.mint("graph", handle, self.graphs.has(handle))?;
        let graph = self.graphs.get(graph)?.raw;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live graph and a live place.
        let status = unsafe { self.d.cuGraphClone(&raw mut raw, graph) };
        self.ok(status)?;
        self.graphs.put(handle, Graph { raw, owned: true });
        Ok(())
    }

    pub(super) fn graph_instantiate(&mut self, record: &GraphInstantiate) -> Result<(), Status> {
        self.mint("executable graph", record.exec, self.execs.has(record.exec))?;
        if record.flags & !(INSTANTIATE_FLAGS | INSTANTIATE_UPLOAD) != 0 {
            return Err(INVALID_VALUE);
        }
        let graph = self.graphs.get(record.graph)?.raw;
        self.enter(record.context)?;
        let mut raw = std::ptr::null_mut();
        let flags = record.flags & INSTANTIATE_FLAGS;
        // SAFETY: a live graph and a live place.
        let status = unsafe { self.d.cuGraphInstantiateWithFlags(&raw mut raw, graph, flags) };
        self.ok(status)?;
        self.execs.put(record.exec, Exec { raw, context: record.context, launched: false });
        Ok(())
    }

    pub(super) fn graph_launch(&mut self, exec: u64, stream: u64) -> Result<(), Status> {
        let (_, raw) = self.stream_for_work(stream)?;
        let exec = self.execs.get_mut(exec)?;
        exec.launched = true;
        let exec = exec.raw;
        // SAFETY: both are live.
        let status = unsafe { self.d.cuGraphLaunch(exec, raw) };
        self.ok(status)
    }

    pub(super) fn graph_upload(&mut self, exec: u64, stream: u64) -> Result<(), Status> {
        let exec = self.execs.get(exec)?.raw;
        let (_, raw) = self.stream_for_work(stream)?;
        // SAFETY: both are live.
        let status = unsafe { self.d.cuGraphUpload(exec, raw) };
        self.ok(status)
    }

    pub(super) fn graph_exec_destroy(&mut self, handle: u64) -> Result<(), Status> {
        let exec = self.execs.take(handle)?;
        self.enter(exec.context)?;
        // SAFETY: ours, and named no more; the driver keeps it while it runs.
        let status = unsafe { self.d.cuGraphExecDestroy(exec.raw) };
        self.ok(status)
    }

    pub(super) fn drop_execs(&mut self, context: u64) {
        let execs = self.execs.take_all(|exec| exec.context == context);
        if self.enter(context).is_ok() {
            for exec in execs {
                // SAFETY: ours, and named no more.
                unsafe { self.d.cuGraphExecDestroy(exec.raw) };
            }
        }
    }

    /// An update that the driver refuses for what the graph looks like is an answer, not a failure: the reason
    /// travels with it, and the nodes that are its cause if they have names.
    pub(super) fn graph_exec_update(&mut self, exec: u64, graph: u64) -> Result<ExecUpdateReply, Status> {
        /// `CU_GRAPH_EXEC_UPDATE_ERROR`.
        const UNNAMED: u32 = 1;
        let graph = self.graphs.get(graph)?.raw;
        let (exec, context) = self.execs.get(exec).map(|exec| (exec.raw, exec.context))?;
        self.enter(context)?;
        let null = std::ptr::null_mut();
        let mut info = ExecUpdate { result: 0, node: null, from: null };
        // SAFETY: both are live, the result is a live place.
        let status = unsafe { self.d.cuGraphExecUpdate_v2(exec, graph, &raw mut info) };
        if status != GRAPH_EXEC_UPDATE_FAILURE {
            self.ok(status)?;
            return Ok(ExecUpdateReply { result: 0, reserved: 0, node: 0, from: 0 });
        }
        let name = |node: *mut c_void| self.node_names.get(&(node as usize)).copied().unwrap_or(0);
        let result = if info.result == 0 { UNNAMED } else { info.result };
        Ok(ExecUpdateReply { result, reserved: 0, node: name(info.node), from: name(info.from) })
    }

    /// Our names for the driver's nodes, new ones from `first` on. Gives how many are new, too.
    pub(super) fn name_nodes(
        &mut self,
        nodes: &[CUgraphNode],
        graph: CUgraph,
        first: u64,
    ) -> Result<(Vec<u64>, u32), Status> {
        let mut made = 0u32;
        let mut names = Vec::with_capacity(nodes.len());
        for &raw in nodes {
            if let Some(&name) = self.node_names.get(&(raw as usize)) {
                names.push(name);
                continue;
            }
            if self.nodes.len() >= MAX_OBJECTS {
                return Err(OUT_OF_MEMORY);
            }
            let name = first.wrapping_add(u64::from(made) * NODE_HANDLE_STEP);
            self.mint("graph node", name, self.nodes.has(name))?;
            self.add_node(name, raw, graph);
            names.push(name);
            made += 1;
        }
        Ok((names, made))
    }

    fn add_node(&mut self, name: u64, raw: CUgraphNode, graph: CUgraph) {
        self.nodes.put(name, Node { raw, graph: graph as usize });
        self.node_names.insert(raw as usize, name);
    }

    pub(super) fn graph_nodes(&mut self, record: &GraphNodes) -> Result<(u32, u32, Vec<u8>), Status> {
        let graph = self.graphs.get(record.graph)?.raw;
        let d = self.d;
        let list = |nodes, count| {
            // SAFETY: a live graph; nodes is null, or has as many places as count says.
            unsafe {
                match record.roots {
                    0 => d.cuGraphGetNodes(graph, nodes, count),
                    _ => d.cuGraphGetRootNodes(graph, nodes, count),
                }
            }
        };
        let nodes = self.list_nodes(list)?;
        let (names, made) = self.name_nodes(&nodes, graph, record.first_node)?;
        Ok((names.len() as u32, made, names.as_bytes().to_vec()))
    }

    /// Asks for a list of nodes in the driver's two steps: how many, and which.
    fn list_nodes(
        &mut self,
        list: impl Fn(*mut CUgraphNode, *mut usize) -> Status,
    ) -> Result<Vec<CUgraphNode>, Status> {
        let mut count = 0usize;
        self.ok(list(std::ptr::null_mut(), &raw mut count))?;
        if count > MAX_OBJECTS {
            return Err(OUT_OF_MEMORY);
        }
        let mut nodes = vec![std::ptr::null_mut(); count];
        if count != 0 {
            self.ok(list(nodes.as_mut_ptr(), &raw mut count))?;
            nodes.truncate(count);
        }
        Ok(nodes)
    }

    pub(super) fn node_type(&mut self, node: u64) -> Result<u32, Status> {
        let node = self.nodes.get(node)?.raw;
        let mut kind = 0;
        // SAFETY: a live node and a live integer.
        let status = unsafe { self.d.cuGraphNodeGetType(node, &raw mut kind) };
        self.ok(status)?;
        Ok(kind)
    }

    /// What every operation that adds a node begins with; and the rest of the tail.
    fn new_node<'a>(
        &mut self,
        graph: u64,
        node: u64,
        tail: &'a [u8],
        dependencies: u32,
    ) -> Result<(New, &'a [u8]), Status> {
        self.mint("graph node", node, self.nodes.has(node))?;
        let graph = self.graphs.get(graph)?.raw;
        let (dependencies, rest) = self.dependencies_of(tail, dependencies)?;
        Ok((New { graph, node, dependencies }, rest))
    }

    /// What every operation that adds a node ends with: it is added by the function for its kind (where it goes,
    /// its dependencies, how many), or, if an edge to it is not an ordinary one, by the function that takes such
    /// edges. Everything that `params` names has to be live.
    fn add_new(
        &mut self,
        new: &New,
        mut params: NodeParams,
        plain: impl FnOnce(*mut CUgraphNode, *const CUgraphNode, usize) -> Status,
    ) -> Result<(), Status> {
        let mut raw = std::ptr::null_mut();
        let New { graph, node, dependencies } = new;
        let (nodes, count) = (dependencies.nodes.as_ptr(), dependencies.nodes.len());
        let status = if dependencies.are_ordinary() {
            plain(&raw mut raw, nodes, count)
        } else {
            let (edges, params) = (dependencies.edges(), &raw mut params);
            // SAFETY: everything named is live, and copied by the driver; the arrays are as long as is said.
            unsafe { self.d.cuGraphAddNode_v2(&raw mut raw, *graph, nodes, edges, count, params) }
        };
        self.ok(status)?;
        self.add_node(*node, raw, *graph);
        Ok(())
    }

    pub(super) fn add_kernel_node(&mut self, record: &AddKernelNode, tail: &[u8]) -> Result<(), Status> {
        let (new, buffer) = self.new_node(record.graph, record.node, tail, record.dependencies)?;
        let (function, buffer) =
            self.function_with(record.function, buffer, record.launch.parameter_bytes)?;
        let context = self.enter(record.context)?;
        let mut extra = Extra::new(buffer);
        let params = self.kernel_node(record.function, function, &record.launch);
        let params = KernelNode { extra: extra.as_mut_ptr(), context: context.cast(), ..params? };
        let (d, graph) = (self.d, new.graph);
        self.add_new(&new, NodeParams::of(0, params), |out, nodes, count| {
            // SAFETY: everything named is live, and copied by the driver.
            unsafe { d.cuGraphAddKernelNode_v2(out, graph, nodes, count, &raw const params) }
        })
    }

    /// A kernel node's parameters, without the buffer: a kernel of a library has a field of its own.
    fn kernel_node(
        &self,
        handle: u64,
        function: cudarc::driver::sys::CUfunction,
        launch: &NodeLaunch,
    ) -> Result<KernelNode, Status> {
        let kernel = self.functions.get(handle)?.kernel;
        let null = std::ptr::null_mut();
        Ok(KernelNode {
            function: if kernel { null } else { function.cast() },
            grid: dims(launch.grid),
            block: dims(launch.block),
            shared_bytes: launch.shared_bytes,
            parameters: std::ptr::null_mut(),
            extra: std::ptr::null_mut(),
            kernel: if kernel { function.cast() } else { null },
            context: null,
        })
    }

    pub(super) fn add_memcpy_node(&mut self, record: &AddMemcpyNode, tail: &[u8]) -> Result<(), Status> {
        let (new, _) = self.new_node(record.graph, record.node, tail, record.dependencies)?;
        let copy = self.node_copy(&record.copy)?;
        let context = self.enter(record.context)?;
        let params = NodeParams::of(1, MemcpyNode { flags: 0, reserved: 0, context: context.cast(), copy });
        let (d, graph) = (self.d, new.graph);
        self.add_new(&new, params, |out, nodes, count| {
            // SAFETY: everything named is live, and copied by the driver; the ranges were checked.
            unsafe { d.cuGraphAddMemcpyNode(out, graph, nodes, count, &raw const copy, context) }
        })
    }

    pub(super) fn add_memset_node(&mut self, record: &AddMemsetNode, tail: &[u8]) -> Result<(), Status> {
        let (new, _) = self.new_node(record.graph, record.node, tail, record.dependencies)?;
        let memset = self.node_fill(&record.fill)?;
        let context = self.enter(record.context)?;
        let params = NodeParams::of(2, MemsetNodeV2 { memset, context: context.cast() });
        let (d, graph) = (self.d, new.graph);
        self.add_new(&new, params, |out, nodes, count| {
            // SAFETY: everything named is live, and copied by the driver; the range was checked.
            unsafe { d.cuGraphAddMemsetNode(out, graph, nodes, count, &raw const memset, context) }
        })
    }

    pub(super) fn add_plain_node(&mut self, call: Call, record: &AddNode, tail: &[u8]) -> Result<(), Status> {
        let (new, _) = self.new_node(record.graph, record.node, tail, record.dependencies)?;
        let (d, graph) = (self.d, new.graph);
        match record.kind {
            0 => self.add_new(&new, NodeParams::of(5, ()), |out, nodes, count| {
                // SAFETY: everything named is live.
                unsafe { d.cuGraphAddEmptyNode(out, graph, nodes, count) }
            }),
            1 => {
                let number = if record.function == 0 { call.number } else { record.function };
                let params = HostNode { function: hostfunc::reached, data: self.hosts.capture(number)? };
                self.add_new(&new, NodeParams::of(3, params), |out, nodes, count| {
                    // SAFETY: everything named is live; the data live until the process ends.
                    unsafe { d.cuGraphAddHostNode(out, graph, nodes, count, &raw const params) }
                })
            }
            2 => {
                let child = self.graphs.get(record.object)?.raw;
                // A child that is copied, which is what 0 says behind it.
                self.add_new(&new, NodeParams::of(4, child), |out, nodes, count| {
                    // SAFETY: everything named is live, and copied by the driver.
                    unsafe { d.cuGraphAddChildGraphNode(out, graph, nodes, count, child) }
                })
            }
            3 => {
                let event = self.events.get(record.object)?.raw;
                self.add_new(&new, NodeParams::of(7, event), |out, nodes, count| {
                    // SAFETY: everything named is live.
                    unsafe { d.cuGraphAddEventRecordNode(out, graph, nodes, count, event) }
                })
            }
            4 => {
                let event = self.events.get(record.object)?.raw;
                self.add_new(&new, NodeParams::of(6, event), |out, nodes, count| {
                    // SAFETY: everything named is live.
                    unsafe { d.cuGraphAddEventWaitNode(out, graph, nodes, count, event) }
                })
            }
            _ => Err(INVALID_VALUE),
        }
    }

    pub(super) fn node_destroy(&mut self, handle: u64) -> Result<(), Status> {
        let node = self.nodes.take(handle)?;
        self.node_names.remove(&(node.raw as usize));
        // SAFETY: a live node, named no more.
        let status = unsafe { self.d.cuGraphDestroyNode(node.raw) };
        self.ok(status)
    }

    pub(super) fn node_set_kernel(&mut self, record: &NodeSetKernel, tail: &[u8]) -> Result<(), Status> {
        let node = self.nodes.get(record.node)?.raw;
        let exec = match record.exec {
            0 => None,
            exec => Some(self.execs.get(exec)?.raw),
        };
        let (function, buffer) = self.function_with(record.function, tail, record.launch.parameter_bytes)?;
        let context = self.enter(record.context)?;
        let mut extra = Extra::new(buffer);
        let params = self.kernel_node(record.function, function, &record.launch);
        let params = KernelNode { extra: extra.as_mut_ptr(), context: context.cast(), ..params? };
        // SAFETY: everything named is live, and copied by the driver.
        let status = unsafe {
            match exec {
                None => self.d.cuGraphKernelNodeSetParams_v2(node, &raw const params),
                Some(exec) => self.d.cuGraphExecKernelNodeSetParams_v2(exec, node, &raw const params),
            }
        };
        self.ok(status)
    }

    pub(super) fn node_get_kernel(&mut self, node: u64) -> Result<Answer<KernelNodeReply>, Status> {
        let node = self.nodes.get(node)?.raw;
        let null = std::ptr::null_mut();
        let mut params = KernelNode {
            function: null,
            grid: [0; 3],
            block: [0; 3],
            shared_bytes: 0,
            parameters: std::ptr::null_mut(),
            extra: std::ptr::null_mut(),
            kernel: null,
            context: null,
        };
        // SAFETY: a live node and a live place.
        let status = unsafe { self.d.cuGraphKernelNodeGetParams_v2(node, &raw mut params) };
        self.ok(status)?;
        let (raw, kernel) =
            if params.kernel.is_null() { (params.function, false) } else { (params.kernel, true) };
        let known = self.functions.iter().find(|(_, function)| function.raw.cast() == raw);
        let (name, places) = match known {
            Some((handle, function)) => (handle, function.parameters.clone()),
            None => (0, self.parameters_of(raw.cast(), kernel)),
        };
        let bytes = places.iter().map(|p| p.offset as usize + p.bytes as usize).max().unwrap_or(0);
        let mut buffer = vec![0u8; bytes];
        if !params.parameters.is_null() {
            for (index, place) in places.iter().enumerate() {
                let (start, length) = (place.offset as usize, place.bytes as usize);
                let Some(room) = buffer.get_mut(start..start + length) else { continue };
                // SAFETY: the driver's array has a pointer for every parameter, to as many bytes as the
                // parameter has; both are the node's.
                unsafe {
                    let value = *params.parameters.add(index);
                    if !value.is_null() {
                        std::ptr::copy_nonoverlapping(
                            value.cast_const().cast::<u8>(),
                            room.as_mut_ptr(),
                            length,
                        );
                    }
                }
            }
        } else if !params.extra.is_null() {
            // As the worker's own launches give them, and the driver gives them back.
            // SAFETY: the driver's list, which is the node's and well-formed.
            unsafe { copy_extra(params.extra, &mut buffer) };
        }
        let dim = |[x, y, z]: [u32; 3]| Dim3 { x, y, z };
        let reply = KernelNodeReply {
            function: name,
            grid: dim(params.grid),
            block: dim(params.block),
            shared_bytes: params.shared_bytes,
            parameter_bytes: bytes as u32,
        };
        Ok(Answer::Now(reply, buffer))
    }

    pub(super) fn node_set_enabled(&mut self, node: u64, exec: u64, enabled: u32) -> Result<(), Status> {
        let node = self.nodes.get(node)?.raw;
        let exec = self.execs.get(exec)?.raw;
        // SAFETY: both are live.
        let status = unsafe { self.d.cuGraphNodeSetEnabled(exec, node, u32::from(enabled != 0)) };
        self.ok(status)
    }

    pub(super) fn graph_dot(&mut self, graph: u64, flags: u32) -> Result<Answer<Nothing>, Status> {
        let graph = self.graphs.get(graph)?.raw;
        let failed = |_| crate::driver::UNKNOWN;
        let file =
            rustix::fs::memfd_create("fusewire-dot", rustix::fs::MemfdFlags::CLOEXEC).map_err(failed)?;
        let mut file = std::fs::File::from(file);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let path = CString::new(path).map_err(|_| INVALID_VALUE)?;
        // SAFETY: a live graph and a NUL-terminated path.
        let status = unsafe { self.d.cuGraphDebugDotPrint(graph, path.as_ptr(), flags) };
        self.ok(status)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|_| crate::driver::UNKNOWN)?;
        Ok(Answer::Now(Nothing {}, text))
    }
}

/// Copies a node's parameter buffer from its `CU_LAUNCH_PARAM_*` list: a pointer and a size.
///
/// # Safety
/// The list is well-formed, and the buffer that it names is there.
unsafe fn copy_extra(list: *const *mut c_void, buffer: &mut [u8]) {
    let (mut source, mut bytes) = (std::ptr::null::<u8>(), 0usize);
    // Two pairs and the end: there are no other names.
    for pair in 0..2 {
        // SAFETY: the caller's promise; nothing is read beyond the end.
        unsafe {
            let name = *list.add(2 * pair);
            if name == PARAM_END {
                break;
            }
            let value = *list.add(2 * pair + 1);
            if name == PARAM_POINTER {
                source = value.cast_const().cast();
            } else if name == PARAM_SIZE && !value.is_null() {
                bytes = value.cast_const().cast::<usize>().read();
            }
        }
    }
    if !source.is_null() {
        // SAFETY: as above; no more than there is room for.
        unsafe { std::ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), bytes.min(buffer.len())) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_form_of_parameters_is_read() {
        let (values, mut size) = ([1u8, 2, 3, 4], 4usize);
        let start = values.as_ptr().cast_mut().cast::<c_void>();
        let size: *mut usize = &raw mut size;
        for list in [
            [PARAM_POINTER, start, PARAM_SIZE, size.cast(), PARAM_END],
            [PARAM_SIZE, size.cast(), PARAM_POINTER, start, PARAM_END],
        ] {
            let mut buffer = [9u8; 6];
            // SAFETY: a well-formed list.
            unsafe { copy_extra(list.as_ptr(), &mut buffer) };
            assert_eq!(buffer, [1, 2, 3, 4, 9, 9]);
        }
        let mut buffer = [9u8; 2];
        // SAFETY: an empty list.
        unsafe { copy_extra([PARAM_END].as_ptr(), &mut buffer) };
        assert_eq!(buffer, [9, 9]);
    }
}
