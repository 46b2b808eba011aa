//! Graphs: work and what must come before it. Running one is `graph_exec.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, Weak};

use crate::abi::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2,
    CUDA_MEMCPY_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUgraphEdgeData, In, Out, text,
};
use crate::context::Context;
use crate::copy::{Copy3, Fill};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::event;
use crate::graph_exec::Run;
use crate::handles::{self, Registry};
use crate::launch::Launch;
use crate::memops;
use crate::sync::lock;
use crate::user_object::Held;
use crate::work::{Opaque, Work};

static GRAPHS: Registry<Graph> = Registry::new();
/// Which graph a node belongs to.
static NODES: Mutex<BTreeMap<u64, Weak<Graph>>> = Mutex::new(BTreeMap::new());

pub(crate) struct Graph {
    pub(crate) handle: u64,
    nodes: Mutex<Vec<Node>>,
    /// For a child graph inside another graph: the program may look at it but not destroy it.
    is_child: bool,
    /// User objects that live as long as the graph and what is made from it.
    pub(crate) held: Arc<Held>,
}

/// What a node comes after, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) before: u64,
    pub(crate) data: CUgraphEdgeData,
}

impl Edge {
    /// Edges as the functions take them: `data` may be NULL.
    pub(crate) fn list(before: In<u64>, data: In<CUgraphEdgeData>, count: usize) -> Res<Vec<Edge>> {
        let data_at = |index| if data.is_null() { Ok(CUgraphEdgeData::default()) } else { data.at(index) };
        (0..count).map(|index| Ok(Edge { before: before.at(index)?, data: data_at(index)? })).collect()
    }
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) handle: u64,
    pub(crate) work: Work,
    pub(crate) after: Vec<Edge>,
    /// For a child graph, the graph to look at.
    child: Option<Arc<Graph>>,
    /// For a clone, the node it was made from.
    origin: u64,
}

pub(crate) fn create() -> Arc<Graph> {
    new_graph(false, Arc::default())
}

fn new_graph(is_child: bool, held: Arc<Held>) -> Arc<Graph> {
    let graph = Arc::new(Graph { handle: handles::mint(), nodes: Mutex::default(), is_child, held });
    GRAPHS.insert(graph.handle, graph.clone());
    graph
}

pub(crate) fn get(handle: u64) -> Res<Arc<Graph>> {
    GRAPHS.find(handle).ok_or(Code::INVALID_VALUE)
}

/// The graph of a node.
fn owner(node: u64) -> Res<Arc<Graph>> {
    lock(&NODES).get(&node).and_then(Weak::upgrade).ok_or(Code::INVALID_VALUE)
}

/// The work of a node.
fn work_of(node: u64) -> Res<Work> {
    owner(node)?.with_node(node, |node| node.work.clone())
}

impl Graph {
    pub(crate) fn add(self: &Arc<Self>, work: Work, after: &[Edge]) -> Res<u64> {
        self.add_node(work, after, None)
    }

    fn add_node(self: &Arc<Self>, work: Work, after: &[Edge], child: Option<Arc<Graph>>) -> Res<u64> {
        let unique: BTreeSet<u64> = after.iter().map(|edge| edge.before).collect();
        if unique.len() != after.len() {
            return Err(Code::INVALID_VALUE);
        }
        self.check_edges(&work, after)?;
        let handle = handles::mint();
        lock(&NODES).insert(handle, Arc::downgrade(self));
        lock(&self.nodes).push(Node { handle, work, after: after.to_vec(), child, origin: 0 });
        Ok(handle)
    }

    /// Whether edges may lead to this work: from nodes of the graph, and other than ordinary ones from kernel to
    /// kernel alone.
    fn check_edges(&self, work: &Work, after: &[Edge]) -> Res {
        let nodes = lock(&self.nodes);
        for Edge { before, data } in after {
            let before = nodes.iter().find(|node| node.handle == *before).ok_or(Code::INVALID_VALUE)?;
            let kernels = matches!((&before.work, work), (Work::Kernel(_), Work::Kernel(_)));
            let known = [CUgraphEdgeData::PROGRAMMATIC, CUgraphEdgeData::LAUNCH_ORDER].contains(data);
            let may_be = data.is_ordinary() || (kernels && known);
            if !may_be {
                return Err(Code::INVALID_VALUE);
            }
        }
        Ok(())
    }

    pub(crate) fn has_all(&self, wanted: &[Edge]) -> bool {
        let nodes = lock(&self.nodes);
        wanted.iter().all(|edge| nodes.iter().any(|node| node.handle == edge.before))
    }

    pub(crate) fn is_kernel(&self, handle: u64) -> bool {
        self.with_node(handle, |node| matches!(node.work, Work::Kernel(_))).unwrap_or(false)
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        lock(&self.nodes).clone()
    }

    fn with_node<T>(&self, handle: u64, look: impl FnOnce(&mut Node) -> T) -> Res<T> {
        let mut nodes = lock(&self.nodes);
        nodes.iter_mut().find(|node| node.handle == handle).map(look).ok_or(Code::INVALID_VALUE)
    }

    /// These nodes and everything that comes before them.
    pub(crate) fn ancestors(&self, of: &[u64]) -> BTreeSet<u64> {
        let nodes = lock(&self.nodes);
        let mut found = BTreeSet::new();
        let mut todo = of.to_vec();
        while let Some(handle) = todo.pop() {
            if found.insert(handle)
                && let Some(node) = nodes.iter().find(|node| node.handle == handle)
            {
                todo.extend(node.after.iter().map(|edge| edge.before));
            }
        }
        found
    }

    /// The nodes in an order that respects what must come first; fails on a cycle.
    pub(crate) fn in_order(&self) -> Res<Vec<Node>> {
        let mut waiting = self.nodes();
        let mut done = BTreeSet::new();
        let mut ordered = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|node| {
                let ready = node.after.iter().all(|edge| done.contains(&edge.before));
                if ready {
                    done.insert(node.handle);
                    ordered.push(node.clone());
                }
                !ready
            });
            if waiting.len() == before {
                return Err(Code::INVALID_VALUE);
            }
        }
        Ok(ordered)
    }

    /// A graph with nodes of its own that do the same.
    fn duplicate(&self, is_child: bool) -> Arc<Graph> {
        let copy = new_graph(is_child, self.held.clone());
        let nodes = self.nodes();
        let renamed: BTreeMap<u64, u64> = nodes.iter().map(|node| (node.handle, handles::mint())).collect();
        let renew_edge =
            |edge: &Edge| renamed.get(&edge.before).map(|before| Edge { before: *before, data: edge.data });
        let renew = |node: Node| Node {
            handle: renamed[&node.handle],
            after: node.after.iter().filter_map(renew_edge).collect(),
            child: node.child.map(|child| child.duplicate(true)),
            origin: node.handle,
            work: node.work,
        };
        let nodes: Vec<Node> = nodes.into_iter().map(renew).collect();
        lock(&NODES).extend(nodes.iter().map(|node| (node.handle, Arc::downgrade(&copy))));
        *lock(&copy.nodes) = nodes;
        copy
    }

    /// What each edge leads to, and the edge.
    fn edges(&self) -> Vec<(u64, Edge)> {
        let nodes = lock(&self.nodes);
        nodes.iter().flat_map(|node| node.after.iter().map(|edge| (node.handle, *edge))).collect()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let mut all = lock(&NODES);
        for node in lock(&self.nodes).iter() {
            all.remove(&node.handle);
        }
    }
}

/// The pattern of functions that list something: without an array they say how many there are, with
/// one they fill it, zeros behind the last.
fn list<T: Default>(out: Out<T>, count: Out<usize>, values: Vec<T>) -> Res {
    let total = values.len();
    if out.is_null() {
        return count.set(total);
    }
    let room = count.get()?;
    let padding = std::iter::repeat_with(T::default).take(room.saturating_sub(total));
    out.set_all(values.into_iter().chain(padding), room)?;
    count.set(total.min(room))
}

fn list_edges(
    graph: &Graph,
    from: Out<u64>,
    to: Out<u64>,
    data: Out<CUgraphEdgeData>,
    count: Out<usize>,
) -> Res {
    let edges = graph.edges();
    if from.is_null() && to.is_null() {
        return count.set(edges.len());
    }
    let room = count.get()?;
    give_data(data, edges.iter().map(|(_, edge)| edge.data), room)?;
    from.set_all(edges.iter().map(|(_, edge)| edge.before), room)?;
    to.set_all(edges.iter().map(|(to, _)| *to), room)?;
    count.set(edges.len().min(room))
}

/// Data of edges; whoever does not want them must not miss any.
fn give_data(
    out: Out<CUgraphEdgeData>,
    data: impl Iterator<Item = CUgraphEdgeData> + Clone,
    room: usize,
) -> Res {
    if !out.is_null() {
        return out.set_all(data, room);
    }
    if data.clone().all(CUgraphEdgeData::is_ordinary) { Ok(()) } else { Err(Code::LOSSY_QUERY) }
}

/// The nodes at one end of some edges, and the edges' data.
fn list_ends(
    out: Out<u64>,
    data: Out<CUgraphEdgeData>,
    count: Out<usize>,
    ends: &[(u64, CUgraphEdgeData)],
) -> Res {
    if !out.is_null() {
        give_data(data, ends.iter().map(|end| end.1), count.get()?)?;
    }
    list(out, count, ends.iter().map(|end| end.0).collect())
}

fn add_to(out: Out<u64>, graph: u64, after: In<u64>, count: usize, work: Work) -> Res {
    out.set(get(graph)?.add(work, &Edge::list(after, In::null(), count)?)?)
}

fn change_edges(
    graph: u64,
    from: In<u64>,
    to: In<u64>,
    data: In<CUgraphEdgeData>,
    count: usize,
    add: bool,
) -> Res {
    let graph = get(graph)?;
    for (index, edge) in Edge::list(from, data, count)?.into_iter().enumerate() {
        let to = to.at(index)?;
        if edge.before == to {
            return Err(Code::INVALID_VALUE);
        }
        graph.check_edges(&graph.with_node(to, |node| node.work.clone())?, &[edge])?;
        graph.with_node(to, |node| match (node.after.iter().position(|known| *known == edge), add) {
            (None, true) => {
                node.after.push(edge);
                Ok(())
            }
            (Some(place), false) => {
                node.after.remove(place);
                Ok(())
            }
            _ => Err(Code::INVALID_VALUE),
        })??;
    }
    Ok(())
}

fn set_work(node: u64, work: Work) -> Res {
    owner(node)?.with_node(node, |node| {
        if node.work.node_type() == work.node_type() {
            node.work = work;
            Ok(())
        } else {
            Err(Code::INVALID_VALUE)
        }
    })?
}

/// `CUgraphNodeParams`: the kind, and behind it the parameters of that kind.
pub type NodeParams = [u64; 32];

/// The parameters of a kind, which begin at the third word.
fn inner<T: Copy>(params: &NodeParams) -> Res<T> {
    const { assert!(size_of::<T>() <= size_of::<NodeParams>() - 16) };
    In::from_raw(params.as_ptr().wrapping_add(2).cast::<T>()).get()
}

/// Work of any kind, and the child graph if it is one.
pub(crate) fn any_work(ctx: &Context, params: &NodeParams) -> Res<(Work, Option<Arc<Graph>>)> {
    let work = match params[0] & 0xFFFF_FFFF {
        0 => Work::Kernel(Launch::from_node(ctx, &inner(params)?)?),
        1 => {
            let node: CUDA_MEMCPY_NODE_PARAMS = inner(params)?;
            Work::Copy(Arc::new(Copy3::from_params(&node.copyParams)?))
        }
        2 => Work::Fill(Fill::from_node(&inner(params)?)?),
        3 => {
            let host: CUDA_HOST_NODE_PARAMS = inner(params)?;
            host_work(In::new(&host))?
        }
        4 => {
            let child = get(inner(params)?)?.duplicate(true);
            return Ok((Work::Graph(Arc::new(Run::of(&child)?)), Some(child)));
        }
        5 => Work::Empty,
        6 => Work::WaitEvent(event::get(inner(params)?)?),
        7 => Work::RecordEvent(event::get(inner(params)?)?),
        12 => {
            let batch: CUDA_BATCH_MEM_OP_NODE_PARAMS = inner(params)?;
            Work::MemOps(memops::batch(In::from_raw(batch.paramArray), batch.count)?)
        }
        _ => return Err(Code::NOT_SUPPORTED),
    };
    Ok((work, None))
}

fn add_any(ctx: &Context, out: Out<u64>, graph: u64, after: &[Edge], params: In<NodeParams>) -> Res {
    let (work, child) = any_work(ctx, &params.get()?)?;
    out.set(get(graph)?.add_node(work, after, child)?)
}

pub(crate) fn host_work(params: In<CUDA_HOST_NODE_PARAMS>) -> Res<Work> {
    let params = params.get()?;
    Ok(Work::host(params.function.ok_or(Code::INVALID_VALUE)?, params.userData))
}

api! {
    fn cuGraphCreate(out: Out<u64>, flags: u32) [init] {
        if flags != 0 || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        out.set(create().handle)
    }

    fn cuGraphDestroy(graph: u64) [init] {
        if get(graph)?.is_child {
            return Err(Code::INVALID_VALUE);
        }
        GRAPHS.remove(graph).map(drop)
    }

    fn cuGraphClone(out: Out<u64>, graph: u64) [init] {
        out.set(get(graph)?.duplicate(false).handle)
    }

    fn cuGraphNodeFindInClone(out: Out<u64>, original: u64, clone: u64) [init] {
        let nodes = get(clone)?.nodes();
        out.set(nodes.iter().find(|node| node.origin == original).ok_or(Code::INVALID_VALUE)?.handle)
    }

    fn cuGraphAddKernelNode_v2(
        out: Out<u64>, graph: u64, after: In<u64>, count: usize, params: In<CUDA_KERNEL_NODE_PARAMS_v2>,
    ) [ctx context] {
        add_to(out, graph, after, count, Work::Kernel(Launch::from_node(context, &params.get()?)?))
    }

    fn cuGraphAddMemcpyNode(
        out: Out<u64>, graph: u64, after: In<u64>, count: usize, params: In<CUDA_MEMCPY3D>, ctx: u64,
    ) [init] {
        let _ = ctx;
        add_to(out, graph, after, count, Work::Copy(Arc::new(Copy3::from_params(&params.get()?)?)))
    }

    fn cuGraphAddMemsetNode(
        out: Out<u64>, graph: u64, after: In<u64>, count: usize, params: In<CUDA_MEMSET_NODE_PARAMS>, ctx: u64,
    ) [init] {
        let _ = ctx;
        add_to(out, graph, after, count, Work::Fill(Fill::from_node(&params.get()?)?))
    }

    fn cuGraphAddHostNode(
        out: Out<u64>, graph: u64, after: In<u64>, count: usize, params: In<CUDA_HOST_NODE_PARAMS>,
    ) [init] {
        add_to(out, graph, after, count, host_work(params)?)
    }

    fn cuGraphAddEmptyNode(out: Out<u64>, graph: u64, after: In<u64>, count: usize) [init] {
        add_to(out, graph, after, count, Work::Empty)
    }

    fn cuGraphAddEventRecordNode(out: Out<u64>, graph: u64, after: In<u64>, count: usize, event: u64) [init] {
        add_to(out, graph, after, count, Work::RecordEvent(event::get(event)?))
    }

    fn cuGraphAddEventWaitNode(out: Out<u64>, graph: u64, after: In<u64>, count: usize, event: u64) [init] {
        add_to(out, graph, after, count, Work::WaitEvent(event::get(event)?))
    }

    fn cuGraphAddBatchMemOpNode(
        out: Out<u64>, graph: u64, after: In<u64>, count: usize, params: In<CUDA_BATCH_MEM_OP_NODE_PARAMS>,
    ) [init] {
        let params = params.get()?;
        let ops = memops::batch(In::from_raw(params.paramArray), params.count)?;
        add_to(out, graph, after, count, Work::MemOps(ops))
    }

    fn cuGraphAddChildGraphNode(out: Out<u64>, graph: u64, after: In<u64>, count: usize, child: u64) [init] {
        let copy = get(child)?.duplicate(true);
        let run = Arc::new(Run::of(&copy)?);
        out.set(get(graph)?.add_node(Work::Graph(run), &Edge::list(after, In::null(), count)?, Some(copy))?)
    }

    fn cuGraphChildGraphNodeGetGraph(node: u64, out: Out<u64>) [init] {
        let child = owner(node)?.with_node(node, |node| node.child.clone())?;
        out.set(child.ok_or(Code::INVALID_VALUE)?.handle)
    }

    fn cuGraphAddDependencies(graph: u64, from: In<u64>, to: In<u64>, count: usize) [init] {
        change_edges(graph, from, to, In::null(), count, true)
    }

    fn cuGraphAddDependencies_v2(
        graph: u64, from: In<u64>, to: In<u64>, data: In<CUgraphEdgeData>, count: usize,
    ) [init] {
        change_edges(graph, from, to, data, count, true)
    }

    fn cuGraphRemoveDependencies_v2(
        graph: u64, from: In<u64>, to: In<u64>, data: In<CUgraphEdgeData>, count: usize,
    ) [init] {
        change_edges(graph, from, to, data, count, false)
    }

    fn cuGraphDestroyNode(node: u64) [init] {
        let graph = owner(node)?;
        let mut nodes = lock(&graph.nodes);
        nodes.retain(|other| other.handle != node);
        for other in nodes.iter_mut() {
            other.after.retain(|edge| edge.before != node);
        }
        lock(&NODES).remove(&node);
        Ok(())
    }

    fn cuGraphGetNodes(graph: u64, nodes: Out<u64>, count: Out<usize>) [init] {
        list(nodes, count, get(graph)?.nodes().iter().map(|node| node.handle).collect())
    }

    fn cuGraphGetRootNodes(graph: u64, nodes: Out<u64>, count: Out<usize>) [init] {
        let all = get(graph)?.nodes();
        list(nodes, count, all.iter().filter(|node| node.after.is_empty()).map(|node| node.handle).collect())
    }

    fn cuGraphGetEdges(graph: u64, from: Out<u64>, to: Out<u64>, count: Out<usize>) [init] {
        list_edges(&*get(graph)?, from, to, Out::null(), count)
    }

    fn cuGraphGetEdges_v2(
        graph: u64, from: Out<u64>, to: Out<u64>, data: Out<CUgraphEdgeData>, count: Out<usize>,
    ) [init] {
        list_edges(&*get(graph)?, from, to, data, count)
    }

    fn cuGraphNodeGetDependencies_v2(
        node: u64, before: Out<u64>, data: Out<CUgraphEdgeData>, count: Out<usize>,
    ) [init] {
        let edges = owner(node)?.with_node(node, |node| node.after.clone())?;
        let ends: Vec<_> = edges.iter().map(|edge| (edge.before, edge.data)).collect();
        list_ends(before, data, count, &ends)
    }

    fn cuGraphNodeGetDependentNodes_v2(
        node: u64, after: Out<u64>, data: Out<CUgraphEdgeData>, count: Out<usize>,
    ) [init] {
        let edges = owner(node)?.edges();
        let mine = edges.iter().filter(|(_, edge)| edge.before == node);
        list_ends(after, data, count, &mine.map(|(to, edge)| (*to, edge.data)).collect::<Vec<_>>())
    }

    fn cuGraphNodeGetType(node: u64, kind: Out<u32>) [init] {
        kind.set(work_of(node)?.node_type())
    }

    fn cuGraphKernelNodeGetParams_v2(node: u64, params: Out<CUDA_KERNEL_NODE_PARAMS_v2>) [init] {
        let Work::Kernel(launch) = work_of(node)? else { return Err(Code::INVALID_VALUE) };
        params.set(launch.to_node())
    }

    fn cuGraphKernelNodeSetParams_v2(node: u64, params: In<CUDA_KERNEL_NODE_PARAMS_v2>) [ctx context] {
        set_work(node, Work::Kernel(Launch::from_node(context, &params.get()?)?))
    }

    fn cuGraphMemcpyNodeGetParams(node: u64, params: Out<CUDA_MEMCPY3D>) [init] {
        let Work::Copy(copy) = work_of(node)? else { return Err(Code::INVALID_VALUE) };
        params.set(copy.to_params())
    }

    fn cuGraphMemcpyNodeSetParams(node: u64, params: In<CUDA_MEMCPY3D>) [init] {
        set_work(node, Work::Copy(Arc::new(Copy3::from_params(&params.get()?)?)))
    }

    fn cuGraphMemsetNodeGetParams(node: u64, params: Out<CUDA_MEMSET_NODE_PARAMS>) [init] {
        let Work::Fill(fill) = work_of(node)? else { return Err(Code::INVALID_VALUE) };
        params.set(fill.to_node())
    }

    fn cuGraphMemsetNodeSetParams(node: u64, params: In<CUDA_MEMSET_NODE_PARAMS>) [init] {
        set_work(node, Work::Fill(Fill::from_node(&params.get()?)?))
    }

    fn cuGraphHostNodeGetParams(node: u64, params: Out<CUDA_HOST_NODE_PARAMS>) [init] {
        let Work::Host { function, data: Opaque(data) } = work_of(node)? else { return Err(Code::INVALID_VALUE) };
        params.set(CUDA_HOST_NODE_PARAMS { function: Some(function), userData: data })
    }

    fn cuGraphHostNodeSetParams(node: u64, params: In<CUDA_HOST_NODE_PARAMS>) [init] {
        set_work(node, host_work(params)?)
    }

    fn cuGraphEventRecordNodeGetEvent(node: u64, out: Out<u64>) [init] {
        let Work::RecordEvent(event) = work_of(node)? else { return Err(Code::INVALID_VALUE) };
        out.set(event.handle)
    }

    fn cuGraphEventWaitNodeGetEvent(node: u64, out: Out<u64>) [init] {
        let Work::WaitEvent(event) = work_of(node)? else { return Err(Code::INVALID_VALUE) };
        out.set(event.handle)
    }

    fn cuGraphAddNode(
        out: Out<u64>, graph: u64, after: In<u64>, count: usize, params: In<NodeParams>,
    ) [ctx context] {
        add_any(context, out, graph, &Edge::list(after, In::null(), count)?, params)
    }

    fn cuGraphAddNode_v2(
        out: Out<u64>, graph: u64, after: In<u64>, edges: In<CUgraphEdgeData>, count: usize, params: In<NodeParams>,
    ) [ctx context] {
        add_any(context, out, graph, &Edge::list(after, edges, count)?, params)
    }

    fn cuGraphNodeSetParams(node: u64, params: In<NodeParams>) [ctx context] {
        set_work(node, any_work(context, &params.get()?)?.0)
    }

    fn cuGraphEventRecordNodeSetEvent(node: u64, event: u64) [init] {
        set_work(node, Work::RecordEvent(event::get(event)?))
    }

    fn cuGraphEventWaitNodeSetEvent(node: u64, event: u64) [init] {
        set_work(node, Work::WaitEvent(event::get(event)?))
    }

    fn cuGraphKernelNodeCopyAttributes(to: u64, from: u64) [init] {
        let _ = (work_of(to)?, work_of(from)?);
        Ok(())
    }

    fn cuGraphKernelNodeGetAttribute(node: u64, attribute: u32, value: Out<[u64; 8]>) [init] {
        let _ = (work_of(node)?, attribute);
        value.set([0; 8])
    }

    fn cuGraphKernelNodeSetAttribute(node: u64, attribute: u32, value: In<c_void>) [init] {
        let _ = (work_of(node)?, attribute, value);
        Ok(())
    }

    fn cuGraphDebugDotPrint(graph: u64, path: In<c_char>, flags: u32) [init] {
        let _ = flags;
        let mut dot = String::from("digraph softgpu {\n");
        let graph = get(graph)?;
        for node in graph.nodes() {
            dot += &format!("  n{:x} [label=\"type {}\"];\n", node.handle, node.work.node_type());
        }
        for (to, Edge { before, .. }) in graph.edges() {
            dot += &format!("  n{before:x} -> n{to:x};\n");
        }
        dot += "}\n";
        std::fs::write(text(path)?, dot).map_err(|_| Code::OPERATING_SYSTEM)
    }
}
