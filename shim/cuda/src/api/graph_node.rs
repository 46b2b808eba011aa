//! Nodes that a program adds to graphs itself, and their parameters.
//!
//! What a program made a node of is remembered here; the parameters of kernel nodes are asked of the server,
//! whose driver made most of them in captures.

use std::ffi::c_void;
use std::sync::Arc;

use fusewire_wire::ops::Dim3;
use fusewire_wire::ops::table::{
    AddKernelNode, AddMemcpyNode, AddMemsetNode, AddNode, NodeDestroy, NodeGetKernel, NodeSetEnabled,
    NodeSetKernel, NodeType,
};
use zerocopy::IntoBytes;

use crate::abi::result::{CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{
    CUcontext, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUhostFn, CUkernel, CUresult,
};
use crate::runtime::graphs::{self, Kept, Made, Node};
use crate::runtime::objects::{Context, Function, Graph, HostCode, HostFunction, Owner};
use crate::runtime::parameters::Packed;
use crate::runtime::rect::{Extent, Offset, Pitch};
use crate::runtime::session::{Pending, lock};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, copies, current, handles, mirror};

use super::arguments::{give, need};
use super::copy_rect::{Copy, Memcpy3D};
use super::graph_edges::Dependencies;

// CUgraphNodeType of cuda.h.
pub(crate) const KERNEL: u32 = 0;
pub(crate) const MEMCPY: u32 = 1;
pub(crate) const MEMSET: u32 = 2;
pub(crate) const HOST: u32 = 3;
pub(crate) const GRAPH: u32 = 4;
const EMPTY: u32 = 5;
pub(crate) const WAIT_EVENT: u32 = 6;
pub(crate) const EVENT_RECORD: u32 = 7;

// Kinds of `AddNode`.
const ADD_EMPTY: u32 = 0;
pub(crate) const ADD_HOST: u32 = 1;
pub(crate) const ADD_GRAPH: u32 = 2;
pub(crate) const ADD_EVENT_RECORD: u32 = 3;
pub(crate) const ADD_EVENT_WAIT: u32 = 4;

/// `CUDA_KERNEL_NODE_PARAMS_v1`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParamsV1 {
    pub function: CUfunction,
    pub grid: Dim3,
    pub block: Dim3,
    pub shared_bytes: u32,
    pub parameters: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2` and `_v3`, as cuda.h lays them out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    pub v1: KernelParamsV1,
    pub kernel: CUkernel,
    pub context: CUcontext,
}

/// `CUDA_MEMSET_NODE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemsetParams {
    pub destination: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: u32,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostParams {
    pub function: CUhostFn,
    pub argument: *mut c_void,
}

/// `CUgraphNodeParams`, as cuda.h lays it out: a type, and room for the parameters of each.
#[repr(C)]
pub struct NodeParams {
    pub kind: u32,
    pub reserved: [u32; 3],
    pub room: [u64; 29],
    pub reserved_after: u64,
}

const _: () = assert!(
    size_of::<KernelParamsV1>() == 56
        && size_of::<KernelParams>() == 72
        && size_of::<MemsetParams>() == 40
        && size_of::<HostParams>() == 16
        && size_of::<NodeParams>() == 256
);

/// What every new node has: its graph, what it depends on, and where its handle goes.
struct New {
    graph: Arc<Graph>,
    dependencies: Dependencies,
    count: u32,
    node: u64,
    target: *mut CUgraphNode,
}

impl New {
    /// # Safety
    /// `dependencies` is NULL or holds `count` elements.
    unsafe fn read(
        target: *mut CUgraphNode,
        graph: CUgraph,
        dependencies: *const CUgraphNode,
        count: usize,
    ) -> Result<Self, CUresult> {
        // SAFETY: the caller's promise.
        unsafe { Self::read_v2(target, graph, dependencies, std::ptr::null(), count) }
    }

    /// # Safety
    /// `dependencies` and `edges` are NULL or hold `count` elements.
    unsafe fn read_v2(
        target: *mut CUgraphNode,
        graph: CUgraph,
        dependencies: *const CUgraphNode,
        edges: *const u64,
        count: usize,
    ) -> Result<Self, CUresult> {
        need(target)?;
        let graph = handles::graph(graph)?;
        // SAFETY: the caller's promise.
        let dependencies = unsafe { Dependencies::read(dependencies, edges, count) }?;
        let count = dependencies.count()?;
        Ok(Self { graph, dependencies, count, node: graphs::name_node(), target })
    }

    /// The server has made the node.
    fn done(self, kind: u32, made: Made) -> Result<(), CUresult> {
        graphs::add_node(self.node, self.graph.handle, kind, made);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(self.target, handles::pointer(self.node)) }
    }

    /// A node without parameters, or with one handle.
    fn add_plain(&self, runtime: &Runtime, kind: u32, object: u64, function: u64) -> Result<(), CUresult> {
        let (graph, node, dependencies) = (self.graph.handle, self.node, self.count);
        let record = AddNode { graph, node, object, function, kind, dependencies };
        runtime.session.call(&record, &self.dependencies.pieces()).map(drop)
    }
}

/// The context that a program names, or the thread's.
pub(crate) fn context_of(named: CUcontext) -> Result<Arc<Context>, CUresult> {
    if named.is_null() { current::sound_context() } else { handles::context(named) }
}

impl KernelParamsV1 {
    fn whole(self) -> KernelParams {
        KernelParams { v1: self, kernel: std::ptr::null_mut(), context: std::ptr::null_mut() }
    }
}

/// A kernel node's parameters, read.
struct Kernel {
    function: Arc<Function>,
    context: Arc<Context>,
    grid: Dim3,
    block: Dim3,
    shared_bytes: u32,
    parameters: Vec<u8>,
    /// Host memory that the kernel is given.
    ranges: Vec<(u64, u64)>,
}

impl Kernel {
    /// # Safety
    /// The pointers in `given` are what the driver takes for the function.
    unsafe fn read(runtime: &Runtime, given: &KernelParams) -> Result<Self, CUresult> {
        let KernelParams { v1, kernel, context } = *given;
        let named = if v1.function.is_null() { kernel } else { v1.function };
        let function = handles::function(named).map_err(|_| CUDA_ERROR_INVALID_HANDLE)?;
        let context = match &function.owner {
            Owner::Module(module) if context.is_null() => module.context.clone(),
            _ => context_of(context)?,
        };
        let KernelParamsV1 { grid, block, shared_bytes, parameters, extra, .. } = v1;
        if [grid.x, grid.y, grid.z, block.x, block.y, block.z].contains(&0) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let mut packed = Packed::new();
        // SAFETY: the caller's promise.
        let parameters = unsafe { packed.pack(&function, parameters, extra) }?.to_vec();
        let mirrors = mirror::pointed_to(runtime, &context, &parameters)?;
        let ranges = mirrors.iter().map(|mirror| (mirror.base, mirror.bytes as u64)).collect();
        Ok(Self { function, context, grid, block, shared_bytes, parameters, ranges })
    }

    fn parameter_bytes(&self) -> u32 {
        u32::try_from(self.parameters.len()).unwrap_or(0)
    }
}

/// Host memory that replays use from now on.
pub(crate) fn add_ranges(host: &std::sync::Mutex<runtime::objects::HostUse>, ranges: &[(u64, u64)]) {
    let mut host = lock(host);
    for range in ranges {
        if !host.ranges.contains(range) {
            host.ranges.push(*range);
        }
    }
}

/// # Safety
/// As [`Kernel::read`].
unsafe fn add_kernel(runtime: &Runtime, new: New, given: &KernelParams) -> Result<(), CUresult> {
    // SAFETY: the caller's promise.
    let kernel = unsafe { Kernel::read(runtime, given) }?;
    let record = AddKernelNode {
        graph: new.graph.handle,
        node: new.node,
        function: kernel.function.handle,
        context: kernel.context.handle,
        grid: kernel.grid,
        block: kernel.block,
        shared_bytes: kernel.shared_bytes,
        parameter_bytes: kernel.parameter_bytes(),
        dependencies: new.count,
        reserved: 0,
    };
    let [nodes, edges] = new.dependencies.pieces();
    runtime.session.call(&record, &[nodes, edges, &kernel.parameters])?;
    add_ranges(&new.graph.host, &kernel.ranges);
    new.done(KERNEL, Made::Kernel)
}

/// `dependencies` holds `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddKernelNode_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_kernel(runtime, New::read(node, graph, dependencies, count)?, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphAddKernelNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_kernel(runtime, New::read(node, graph, dependencies, count)?, &params.read().whole()) }
    })
}

/// What a copy between pitched memory comes to, as the server takes it.
pub(crate) struct Linear {
    pub(crate) destination: (u64, Pitch),
    pub(crate) source: (u64, Pitch),
    pub(crate) extent: Extent,
    pub(crate) ranges: Vec<(u64, u64)>,
}

impl Linear {
    /// Reads a copy, its host sides mirrored. Arrays are not carried.
    pub(crate) fn read(runtime: &Runtime, context: &Context, given: &Memcpy3D) -> Result<Self, CUresult> {
        let copy = Copy::read(runtime, given)?;
        if copy.extent.is_empty() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let destination = copy.destination.memory().ok_or(CUDA_ERROR_NOT_SUPPORTED)?;
        let source = copy.source.memory().ok_or(CUDA_ERROR_NOT_SUPPORTED)?;
        let mut ranges = Vec::new();
        for end in [&copy.destination, &copy.source] {
            ranges.extend(end.mirror(runtime, context, copy.extent)?);
        }
        Ok(Self { destination, source, extent: copy.extent, ranges })
    }
}

fn add_memcpy(runtime: &Runtime, new: New, given: &Memcpy3D, context: CUcontext) -> Result<(), CUresult> {
    let context = context_of(context)?;
    let Linear { destination, source, extent, ranges } = Linear::read(runtime, &context, given)?;
    let record = AddMemcpyNode {
        graph: new.graph.handle,
        node: new.node,
        context: context.handle,
        destination: destination.0,
        destination_pitch: destination.1.row as u64,
        destination_height: destination.1.rows as u64,
        source: source.0,
        source_pitch: source.1.row as u64,
        source_height: source.1.rows as u64,
        width: extent.width as u64,
        height: extent.height as u64,
        depth: extent.depth as u64,
        dependencies: new.count,
        reserved: 0,
    };
    runtime.session.call(&record, &new.dependencies.pieces())?;
    add_ranges(&new.graph.host, &ranges);
    new.done(MEMCPY, Made::Memcpy(*given))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemcpyNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const Memcpy3D,
    context: CUcontext,
) -> CUresult {
    runtime::call(counter!("cuGraphAddMemcpyNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_memcpy(runtime, New::read(node, graph, dependencies, count)?, &params.read(), context) }
    })
}

/// Checks what a memset touches.
pub(crate) fn check_memset(runtime: &Runtime, given: &MemsetParams) -> Result<(), CUresult> {
    if !matches!(given.element, 1 | 2 | 4) || given.width == 0 || given.height == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let width = given.width.checked_mul(given.element as usize).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let extent = Extent { width, height: given.height, depth: 1 };
    let row = if given.height == 1 { width } else { given.pitch };
    let span = Pitch::of(row, 0, Offset::default(), extent)?.span(Offset::default(), extent)?;
    copies::check_device(runtime, given.destination, span.len())
}

fn add_memset(runtime: &Runtime, new: New, given: &MemsetParams, context: CUcontext) -> Result<(), CUresult> {
    let context = context_of(context)?;
    check_memset(runtime, given)?;
    let record = AddMemsetNode {
        graph: new.graph.handle,
        node: new.node,
        context: context.handle,
        destination: given.destination,
        pitch: given.pitch as u64,
        width: given.width as u64,
        height: given.height as u64,
        value: given.value,
        element: given.element,
        dependencies: new.count,
        reserved: 0,
    };
    runtime.session.call(&record, &new.dependencies.pieces())?;
    new.done(MEMSET, Made::Memset(*given))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemsetNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const MemsetParams,
    context: CUcontext,
) -> CUresult {
    runtime::call(counter!("cuGraphAddMemsetNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_memset(runtime, New::read(node, graph, dependencies, count)?, &params.read(), context) }
    })
}

fn add_host(runtime: &Runtime, new: New, given: &HostParams) -> Result<(), CUresult> {
    let code = given.function.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let function = HostFunction { run: HostCode::Function(code), argument: given.argument };
    let number = graphs::name_host_function();
    // Stays for as long as the process: nobody says when the last replay of the last graph has been.
    lock(&runtime.session.pending)
        .insert(number, Pending::HostFunction { function, stream: None, again: true });
    if let Err(code) = new.add_plain(runtime, ADD_HOST, 0, number) {
        lock(&runtime.session.pending).remove(&number);
        return Err(code);
    }
    lock(&new.graph.host).functions.push(number);
    new.done(HOST, Made::Host(code as usize, given.argument.expose_provenance()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddHostNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const HostParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddHostNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_host(runtime, New::read(node, graph, dependencies, count)?, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddEmptyNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
) -> CUresult {
    runtime::call(counter!("cuGraphAddEmptyNode"), |runtime| {
        // SAFETY: the program's pointers.
        let new = unsafe { New::read(node, graph, dependencies, count) }?;
        new.add_plain(runtime, ADD_EMPTY, 0, 0)?;
        new.done(EMPTY, Made::Other)
    })
}

/// The child is copied as it is now.
fn add_child(runtime: &Runtime, new: New, child: CUgraph) -> Result<(), CUresult> {
    let child = handles::graph(child)?;
    new.add_plain(runtime, ADD_GRAPH, child.handle, 0)?;
    if child.handle != new.graph.handle {
        let host = lock(&child.host).clone();
        add_ranges(&new.graph.host, &host.ranges);
        lock(&new.graph.host).functions.extend(host.functions);
        graphs::share_objects(child.handle, new.graph.handle);
    }
    new.done(GRAPH, Made::Other)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddChildGraphNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    child: CUgraph,
) -> CUresult {
    runtime::call(counter!("cuGraphAddChildGraphNode"), |runtime| {
        // SAFETY: the program's pointers.
        add_child(runtime, unsafe { New::read(node, graph, dependencies, count) }?, child)
    })
}

fn add_event(runtime: &Runtime, new: New, event: CUevent, kind: u32) -> Result<(), CUresult> {
    let event = handles::event(event)?;
    let (add, kind) =
        if kind == EVENT_RECORD { (ADD_EVENT_RECORD, EVENT_RECORD) } else { (ADD_EVENT_WAIT, WAIT_EVENT) };
    new.add_plain(runtime, add, event.handle, 0)?;
    new.done(kind, Made::Event(event.handle))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddEventRecordNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> CUresult {
    runtime::call(counter!("cuGraphAddEventRecordNode"), |runtime| {
        // SAFETY: the program's pointers.
        add_event(runtime, unsafe { New::read(node, graph, dependencies, count) }?, event, EVENT_RECORD)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddEventWaitNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> CUresult {
    runtime::call(counter!("cuGraphAddEventWaitNode"), |runtime| {
        // SAFETY: the program's pointers.
        add_event(runtime, unsafe { New::read(node, graph, dependencies, count) }?, event, WAIT_EVENT)
    })
}

/// `CUDA_MEMCPY_NODE_PARAMS`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MemcpyParams {
    pub(crate) flags: i32,
    pub(crate) reserved: i32,
    pub(crate) context: CUcontext,
    pub(crate) copy: Memcpy3D,
}

/// `CUDA_MEMSET_NODE_PARAMS_v2`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MemsetParamsV2 {
    pub(crate) v1: MemsetParams,
    pub(crate) context: CUcontext,
}

const _: () = assert!(size_of::<MemcpyParams>() == 216 && size_of::<MemsetParamsV2>() == 48);

/// Adds a node of the type that the parameters name.
///
/// # Safety
/// The room of `params` holds what its type says.
unsafe fn add(runtime: &Runtime, new: New, params: &NodeParams) -> Result<(), CUresult> {
    let room = params.room.as_ptr();
    // SAFETY (all arms): the caller's promise; the room is as large as the largest.
    match params.kind {
        // SAFETY: see above.
        KERNEL => unsafe { add_kernel(runtime, new, &room.cast::<KernelParams>().read()) },
        MEMCPY => {
            // SAFETY: see above.
            let given = unsafe { room.cast::<MemcpyParams>().read() };
            add_memcpy(runtime, new, &given.copy, given.context)
        }
        MEMSET => {
            // SAFETY: see above.
            let given = unsafe { room.cast::<MemsetParamsV2>().read() };
            add_memset(runtime, new, &given.v1, given.context)
        }
        // SAFETY: see above.
        HOST => add_host(runtime, new, &unsafe { room.cast::<HostParams>().read() }),
        // A graph, which is cloned, or moved into the node.
        GRAPH if params.room[1] & 0xffff_ffff == 0 => {
            add_child(runtime, new, handles::pointer(params.room[0]))
        }
        EMPTY => {
            new.add_plain(runtime, ADD_EMPTY, 0, 0)?;
            new.done(EMPTY, Made::Other)
        }
        WAIT_EVENT | EVENT_RECORD => add_event(runtime, new, handles::pointer(params.room[0]), params.kind),
        other => refuse_kind(other),
    }
}

/// Says once that nodes of a type are not carried.
pub(crate) fn refuse_kind(kind: u32) -> Result<(), CUresult> {
    crate::abi::report(&format!(
        "graph nodes of type {kind} are not supported; returned CUDA_ERROR_NOT_SUPPORTED"
    ));
    Err(CUDA_ERROR_NOT_SUPPORTED)
}

/// `edges` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    edges: *const u64,
    count: usize,
    params: *mut NodeParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddNode_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add(runtime, New::read_v2(node, graph, dependencies, edges, count)?, &*params) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *mut NodeParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add(runtime, New::read(node, graph, dependencies, count)?, &*params) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroyNode(node: CUgraphNode) -> CUresult {
    runtime::call(counter!("cuGraphDestroyNode"), |runtime| {
        let node = graphs::node(node)?;
        runtime.session.call(&NodeDestroy { node: node.handle }, &[])?;
        graphs::forget_node(node.handle);
        Ok(())
    })
}

/// `CUgraphNodeType` of a node, asked for once.
pub(crate) fn kind(runtime: &Runtime, node: &Node) -> Result<u32, CUresult> {
    if let Some(kind) = node.kind.get() {
        return Ok(*kind);
    }
    let (reply, _) = runtime.session.call(&NodeType { node: node.handle }, &[])?;
    Ok(*node.kind.get_or_init(|| reply.kind))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetType(node: CUgraphNode, target: *mut u32) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetType"), |runtime| {
        need(target)?;
        let kind = kind(runtime, &*graphs::node(node)?)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(target, kind) }
    })
}

/// Keeps values of parameters for the program, with a pointer to each. A node that is asked again keeps them in
/// the same place.
fn keep(node: &Node, function: &Function, buffer: &[u8]) -> *mut *mut c_void {
    let mut all = lock(&node.kept);
    let words = buffer.len().div_ceil(8).max(1);
    let known = all.iter().position(|kept| kept.function == function.handle && kept.values.len() == words);
    let at = known.unwrap_or_else(|| {
        let mut values = vec![0u64; words].into_boxed_slice();
        let start = values.as_mut_ptr().expose_provenance();
        let pointers = function.parameters.iter().map(|p| start + p.offset as usize).collect();
        all.push(Kept { function: function.handle, values, pointers });
        all.len() - 1
    });
    let kept = &mut all[at];
    kept.values.as_mut_bytes()[..buffer.len()].copy_from_slice(buffer);
    kept.pointers.as_mut_ptr().cast()
}

fn get_kernel(runtime: &Runtime, node: CUgraphNode) -> Result<KernelParams, CUresult> {
    let node = graphs::node(node)?;
    if kind(runtime, &node)? != KERNEL {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let (reply, buffer) = runtime.session.call(&NodeGetKernel { node: node.handle }, &[])?;
    // A kernel that the program never looked up: one that a library launched by itself.
    let function =
        handles::function(handles::pointer(reply.function)).map_err(|_| CUDA_ERROR_NOT_SUPPORTED)?;
    let buffer = buffer.get(..reply.parameter_bytes as usize).ok_or(CUDA_ERROR_NOT_SUPPORTED)?;
    let end = function.parameters.iter().map(|p| p.offset as usize + p.bytes as usize).max().unwrap_or(0);
    if end > buffer.len() {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    let handle = handles::pointer(function.handle);
    let (kernel, context) = match &function.owner {
        Owner::Library(_) => (handle, current::context()?.handle),
        Owner::Module(module) => (std::ptr::null_mut(), module.context.handle),
    };
    let v1 = KernelParamsV1 {
        function: handle,
        grid: reply.grid,
        block: reply.block,
        shared_bytes: reply.shared_bytes,
        parameters: keep(&node, &function, buffer),
        extra: std::ptr::null_mut(),
    };
    Ok(KernelParams { v1, kernel, context: handles::pointer(context) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeGetParams_v2(
    node: CUgraphNode,
    params: *mut KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeGetParams_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointer, for one structure.
        unsafe { give(params, get_kernel(runtime, node)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeGetParams(
    node: CUgraphNode,
    params: *mut KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeGetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointer, for one structure.
        unsafe { give(params, get_kernel(runtime, node)?.v1) }
    })
}

/// Sets a kernel node's parameters, in its graph or in an executable one.
///
/// # Safety
/// As [`Kernel::read`].
pub(crate) unsafe fn set_kernel(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &KernelParams,
) -> Result<(), CUresult> {
    let exec = exec.map(handles::graph_exec).transpose()?;
    let node = graphs::node(node)?;
    // SAFETY: the caller's promise.
    let kernel = unsafe { Kernel::read(runtime, given) }?;
    let record = NodeSetKernel {
        node: node.handle,
        exec: exec.as_ref().map_or(0, |exec| exec.handle),
        function: kernel.function.handle,
        context: kernel.context.handle,
        grid: kernel.grid,
        block: kernel.block,
        shared_bytes: kernel.shared_bytes,
        parameter_bytes: kernel.parameter_bytes(),
    };
    runtime.session.call(&record, &[&kernel.parameters])?;
    match exec {
        Some(exec) => add_ranges(&exec.host, &kernel.ranges),
        None => {
            if let Ok(graph) = handles::graph(handles::pointer(node.graph)) {
                add_ranges(&graph.host, &kernel.ranges);
            }
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetParams_v2(
    node: CUgraphNode,
    params: *const KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeSetParams_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, None, node, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetParams(
    node: CUgraphNode,
    params: *const KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, None, node, &params.read().whole()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphExecKernelNodeSetParams_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, Some(exec), node, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphExecKernelNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, Some(exec), node, &params.read().whole()) }
    })
}

/// What the program made a node of; for one that the driver made, nobody here knows.
fn made(runtime: &Runtime, node: CUgraphNode, expected: u32) -> Result<Made, CUresult> {
    let node = graphs::node(node)?;
    if kind(runtime, &node)? != expected {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let made = *lock(&node.made);
    if matches!(made, Made::Captured) { Err(CUDA_ERROR_NOT_SUPPORTED) } else { Ok(made) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemcpyNodeGetParams(node: CUgraphNode, params: *mut Memcpy3D) -> CUresult {
    runtime::call(counter!("cuGraphMemcpyNodeGetParams"), |runtime| match made(runtime, node, MEMCPY)? {
        // SAFETY: the program's pointer, for one structure.
        Made::Memcpy(copy) => unsafe { give(params, copy) },
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemsetNodeGetParams(
    node: CUgraphNode,
    params: *mut MemsetParams,
) -> CUresult {
    runtime::call(counter!("cuGraphMemsetNodeGetParams"), |runtime| match made(runtime, node, MEMSET)? {
        // SAFETY: the program's pointer, for one structure.
        Made::Memset(memset) => unsafe { give(params, memset) },
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphHostNodeGetParams(node: CUgraphNode, params: *mut HostParams) -> CUresult {
    runtime::call(counter!("cuGraphHostNodeGetParams"), |runtime| match made(runtime, node, HOST)? {
        Made::Host(function, argument) => {
            need(params)?;
            let argument = std::ptr::with_exposed_provenance_mut::<c_void>(argument);
            // SAFETY: the program's pointer, for one structure: two words, the first the function as it came.
            unsafe {
                give(
                    params.cast::<[*mut c_void; 2]>(),
                    [std::ptr::with_exposed_provenance_mut(function), argument],
                )
            }
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    })
}

fn event(runtime: &Runtime, node: CUgraphNode, kind: u32, target: *mut CUevent) -> Result<(), CUresult> {
    match made(runtime, node, kind)? {
        // SAFETY: the program's pointer, for one value.
        Made::Event(event) => unsafe { give(target, handles::pointer(event)) },
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphEventRecordNodeGetEvent(node: CUgraphNode, target: *mut CUevent) -> CUresult {
    runtime::call(counter!("cuGraphEventRecordNodeGetEvent"), |runtime| {
        event(runtime, node, EVENT_RECORD, target)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphEventWaitNodeGetEvent(node: CUgraphNode, target: *mut CUevent) -> CUresult {
    runtime::call(counter!("cuGraphEventWaitNodeGetEvent"), |runtime| {
        event(runtime, node, WAIT_EVENT, target)
    })
}

/// The driver can disable these, and no others.
fn can_be_disabled(runtime: &Runtime, node: &Node) -> Result<(), CUresult> {
    if matches!(kind(runtime, node)?, KERNEL | MEMCPY | MEMSET) {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeSetEnabled(
    exec: CUgraphExec,
    node: CUgraphNode,
    enabled: u32,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeSetEnabled"), |runtime| {
        let exec = handles::graph_exec(exec)?;
        let node = graphs::node(node)?;
        can_be_disabled(runtime, &node)?;
        let record = NodeSetEnabled { node: node.handle, exec: exec.handle, enabled, reserved: 0 };
        runtime.session.call(&record, &[])?;
        graphs::set_enabled(exec.handle, node.handle, enabled != 0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetEnabled(
    exec: CUgraphExec,
    node: CUgraphNode,
    enabled: *mut u32,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetEnabled"), |runtime| {
        let exec = handles::graph_exec(exec)?;
        let node = graphs::node(node)?;
        can_be_disabled(runtime, &node)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(enabled, u32::from(graphs::is_enabled(exec.handle, node.handle))) }
    })
}
