//! Nodes of graphs: added by the program, asked about, and given other parameters, in a graph or in an executable
//! one.
//!
//! What a program made a node of is remembered here; the parameters of kernel nodes are asked of the server,
//! whose driver made most of them in captures.
//!
//! * [`kernel`], [`memcpy`], [`memset`], [`host`], [`event`], [`child`], [`empty`] — nodes by what they do.
//! * [`any`] — nodes of the type that their parameters name.
//! * [`common`] — what all nodes have.
//!
//! Here is what these share. The graphs themselves are in [`super::graph`], the edges in [`super::graph_edges`].

pub mod any;
pub mod child;
pub mod common;
pub mod empty;
pub mod event;
pub mod host;
pub mod kernel;
pub mod memcpy;
pub mod memset;

use std::sync::{Arc, Mutex};

use fusewire_wire::ops::table::{AddNode, NodeSetObject, NodeType};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUcontext, CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::runtime::graphs::{self, Made, Node};
use crate::runtime::objects::{Context, Graph, GraphExec, HostUse};
use crate::runtime::session::lock;
use crate::runtime::{Runtime, current, handles};

use super::arguments::{give, need};
use super::graph_edges::Dependencies;

// CUgraphNodeType of cuda.h.
const KERNEL: u32 = 0;
const MEMCPY: u32 = 1;
const MEMSET: u32 = 2;
const HOST: u32 = 3;
const GRAPH: u32 = 4;
const EMPTY: u32 = 5;
const WAIT_EVENT: u32 = 6;
const EVENT_RECORD: u32 = 7;

// Kinds of `AddNode`.
const ADD_EMPTY: u32 = 0;
const ADD_HOST: u32 = 1;
const ADD_GRAPH: u32 = 2;
const ADD_EVENT_RECORD: u32 = 3;
const ADD_EVENT_WAIT: u32 = 4;

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

/// Where parameters are set: at a node of a graph, or at its instance in an executable graph.
struct Place {
    node: Arc<Node>,
    exec: Option<Arc<GraphExec>>,
}

impl Place {
    /// The node has to be of the type that the parameters are for.
    fn read(
        runtime: &Runtime,
        exec: Option<CUgraphExec>,
        node: CUgraphNode,
        expected: u32,
    ) -> Result<Self, CUresult> {
        let exec = exec.map(handles::graph_exec).transpose()?;
        let node = graphs::node(node)?;
        if kind(runtime, &node)? != expected {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        Ok(Self { node, exec })
    }

    fn exec(&self) -> u64 {
        self.exec.as_ref().map_or(0, |exec| exec.handle)
    }

    /// Changes what replays use of the host from now on.
    fn uses(&self, change: impl FnOnce(&Mutex<HostUse>)) {
        match &self.exec {
            Some(exec) => change(&exec.host),
            None => {
                if let Ok(graph) = handles::graph(handles::pointer(self.node.graph)) {
                    change(&graph.host);
                }
            }
        }
    }

    /// The node is made of this now; its instances are as they were.
    fn made(&self, made: Made) {
        if self.exec.is_none() {
            *lock(&self.node.made) = made;
        }
    }

    fn set_object(&self, runtime: &Runtime, kind: u32, object: u64, function: u64) -> Result<(), CUresult> {
        let record =
            NodeSetObject { node: self.node.handle, exec: self.exec(), object, function, kind, reserved: 0 };
        runtime.session.call(&record, &[]).map(drop)
    }
}

/// Refuses what would make replays use host memory and call host functions both.
fn check_instance(place: &Place, adds: impl FnOnce(&HostUse) -> bool) -> Result<(), CUresult> {
    match &place.exec {
        Some(exec) if adds(&lock(&exec.host)) => Err(CUDA_ERROR_NOT_SUPPORTED),
        _ => Ok(()),
    }
}

/// The context that a program names, or the thread's.
fn context_of(named: CUcontext) -> Result<Arc<Context>, CUresult> {
    if named.is_null() { current::sound_context() } else { handles::context(named) }
}

/// Host memory that replays use from now on.
fn add_ranges(host: &Mutex<HostUse>, ranges: &[(u64, u64)]) {
    let mut host = lock(host);
    for range in ranges {
        if !host.ranges.contains(range) {
            host.ranges.push(*range);
        }
    }
}

/// `CUgraphNodeType` of a node, asked for once.
fn kind(runtime: &Runtime, node: &Node) -> Result<u32, CUresult> {
    if let Some(kind) = node.kind.get() {
        return Ok(*kind);
    }
    let (reply, _) = runtime.session.call(&NodeType { node: node.handle }, &[])?;
    Ok(*node.kind.get_or_init(|| reply.kind))
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

/// Says once that nodes of a type are not carried.
fn refuse_kind(kind: u32) -> Result<(), CUresult> {
    crate::abi::report(&format!(
        "graph nodes of type {kind} are not supported; returned CUDA_ERROR_NOT_SUPPORTED"
    ));
    Err(CUDA_ERROR_NOT_SUPPORTED)
}
