//! Executable graphs: a graph's work in the order in which it will run, and the running of it.
//!
//! A launch is one piece of work of its stream, and the nodes run one after another: the graph allows
//! that, and nothing in it may count on running beside something else.

use std::collections::BTreeSet;
use std::ffi::c_char;
use std::sync::{Arc, Mutex};

use crate::abi::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D,
    CUDA_MEMSET_NODE_PARAMS, CUgraphExecUpdateResultInfo, In, Out,
};
use crate::capture;
use crate::context::Health;
use crate::copy::{Copy3, Fill};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::event::{self, Event};
use crate::graph::{self, Graph, Node, host_work};
use crate::handles::{self, Registry};
use crate::launch::Launch;
use crate::stream::{self, Fence, Stream};
use crate::sync::lock;
use crate::user_object::Held;
use crate::work::Work;

const ALL_FLAGS: u64 = 15;

static EXECS: Registry<Exec> = Registry::new();

struct Exec {
    handle: u64,
    flags: u64,
    steps: Mutex<Vec<Node>>,
    /// Nodes that were switched off.
    disabled: Mutex<BTreeSet<u64>>,
    _held: Arc<Held>,
    /// Two launches of one executable graph never overlap.
    last: Mutex<Option<Fence>>,
}

/// The work of one launch.
pub(crate) struct Run {
    steps: Vec<Work>,
}

impl Run {
    pub(crate) fn of(graph: &Graph) -> Res<Run> {
        Ok(Run { steps: graph.in_order()?.into_iter().map(|node| node.work).collect() })
    }

    pub(crate) fn run(&self, health: &Health) -> Res {
        for step in &self.steps {
            if health.stopped() {
                return Ok(());
            }
            step.run(health)?;
        }
        Ok(())
    }

    /// Whether a launch of this records the event.
    fn records(&self, event: &Arc<Event>) -> bool {
        self.steps.iter().any(|step| match step {
            Work::RecordEvent(other) => Arc::ptr_eq(other, event),
            Work::Graph(child) => child.records(event),
            _ => false,
        })
    }

    /// This run with its waits for events bound to what these were last recorded at: what is recorded
    /// after the launch is not waited for. Events of the graph's own are left to the graph.
    fn bound(&self, whole: &Run) -> Run {
        let bind = |step: &Work| match step {
            Work::WaitEvent(event) if !whole.records(event) => {
                event.pending().map_or(Work::Empty, Work::WaitFence)
            }
            Work::Graph(child) => Work::Graph(Arc::new(child.bound(whole))),
            other => other.clone(),
        };
        Run { steps: self.steps.iter().map(bind).collect() }
    }

    /// Tells the events that this launch will record that they are pending.
    fn announce(&self, fence: &Fence) {
        for step in &self.steps {
            match step {
                Work::RecordEvent(event) => event.expect(fence.clone()),
                Work::Graph(child) => child.announce(fence),
                _ => {}
            }
        }
    }
}

fn instantiate(graph: u64, flags: u64) -> Res<u64> {
    if flags & !ALL_FLAGS != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let graph = graph::get(graph)?;
    let steps = graph.in_order()?;
    let exec = Arc::new(Exec {
        handle: handles::mint(),
        flags,
        steps: Mutex::new(steps),
        disabled: Mutex::default(),
        _held: graph.held.clone(),
        last: Mutex::new(None),
    });
    EXECS.insert(exec.handle, exec.clone());
    Ok(exec.handle)
}

fn launch(exec: &Exec, stream: &Arc<Stream>) -> Res {
    let steps = {
        let (steps, disabled) = (lock(&exec.steps), lock(&exec.disabled));
        steps.iter().filter(|node| !disabled.contains(&node.handle)).map(|node| node.work.clone()).collect()
    };
    let run = Arc::new(Run { steps });
    if capture::is_capturing(stream) {
        return stream::submit(stream, Work::Graph(run)).map(drop);
    }
    capture::legacy_allowed(stream)?;
    let run = Arc::new(run.bound(&run));
    let mut last = lock(&exec.last);
    let waits = last.take().filter(|fence| !fence.reached()).into_iter().collect();
    let fence = stream::submit_after(stream, Work::Graph(run.clone()), waits);
    run.announce(&fence);
    *last = Some(fence);
    Ok(())
}

/// Gives one node of an executable graph other parameters of the same kind.
fn set_step(exec: u64, node: u64, work: Work) -> Res {
    let exec = EXECS.get(exec)?;
    let mut steps = lock(&exec.steps);
    let step = steps.iter_mut().find(|step| step.handle == node).ok_or(Code::INVALID_VALUE)?;
    if step.work.node_type() != work.node_type() {
        return Err(Code::INVALID_VALUE);
    }
    step.work = work;
    Ok(())
}

/// Only kernels, copies and fills can be switched off.
fn can_be_disabled(exec: &Exec, node: u64) -> Res {
    let steps = lock(&exec.steps);
    let step = steps.iter().find(|step| step.handle == node);
    step.filter(|step| step.work.node_type() <= 2).map(|_| ()).ok_or(Code::INVALID_VALUE)
}

/// Takes over the parameters of a graph of the same shape; says where it differs if it does.
fn update(exec: &Exec, graph: &Graph) -> Result<(), (u32, u64)> {
    const TOPOLOGY_CHANGED: u32 = 2;
    const TYPE_CHANGED: u32 = 3;
    let new = graph.in_order().map_err(|_| (1, 0))?;
    let mut steps = lock(&exec.steps);
    if new.len() != steps.len() {
        return Err((TOPOLOGY_CHANGED, 0));
    }
    let place = |nodes: &[Node], handle: u64| nodes.iter().position(|node| node.handle == handle);
    for (old, node) in steps.iter().zip(&new) {
        if old.work.node_type() != node.work.node_type() {
            return Err((TYPE_CHANGED, node.handle));
        }
        let before: Vec<_> = old.after.iter().map(|edge| (place(&steps, edge.before), edge.data)).collect();
        let after: Vec<_> = node.after.iter().map(|edge| (place(&new, edge.before), edge.data)).collect();
        if before != after {
            return Err((TOPOLOGY_CHANGED, node.handle));
        }
    }
    // The handles by which the program names the nodes stay those of the first graph.
    for (old, node) in steps.iter_mut().zip(new) {
        old.work = node.work;
    }
    Ok(())
}

api! {
    fn cuGraphInstantiate_v2(out: Out<u64>, graph: u64, node: Out<u64>, log: Out<c_char>, room: usize) [ctx _] {
        node.set_if_wanted(0);
        if room > 0 {
            log.set_if_wanted(0);
        }
        out.set(instantiate(graph, 0)?)
    }

    fn cuGraphInstantiateWithFlags(out: Out<u64>, graph: u64, flags: u64) [ctx _] {
        out.set(instantiate(graph, flags)?)
    }

    fn cuGraphInstantiateWithParams(out: Out<u64>, graph: u64, params: Out<CUDA_GRAPH_INSTANTIATE_PARAMS>) [ctx _] {
        let mut told = params.get()?;
        told.hErrNode_out = 0;
        match instantiate(graph, told.flags) {
            Ok(handle) => {
                told.result_out = 0;
                params.set(told)?;
                out.set(handle)
            }
            Err(code) => {
                told.result_out = 1;
                params.set(told)?;
                Err(code)
            }
        }
    }

    fn cuGraphExecGetFlags(exec: u64, flags: Out<u64>) [init] {
        flags.set(EXECS.get(exec)?.flags)
    }

    fn cuGraphExecDestroy(exec: u64) [init] {
        EXECS.remove(exec).map(drop)
    }

    fn cuGraphUpload(exec: u64, handle: u64) [ctx context] {
        let _ = (EXECS.get(exec)?, stream::get(context, handle)?);
        Ok(())
    }

    fn cuGraphLaunch(exec: u64, handle: u64) [ctx context] {
        let exec = EXECS.get(exec)?;
        launch(&exec, &stream::get(context, handle)?)
    }

    fn cuGraphExecUpdate_v2(exec: u64, graph: u64, info: Out<CUgraphExecUpdateResultInfo>) [ctx _] {
        let exec = EXECS.get(exec)?;
        let outcome = update(&exec, &*graph::get(graph)?);
        let (result, node) = outcome.err().unwrap_or((0, 0));
        info.set(CUgraphExecUpdateResultInfo { result, errorNode: node, errorFromNode: 0 })?;
        if result == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    fn cuGraphNodeSetEnabled(exec: u64, node: u64, enabled: u32) [init] {
        let exec = EXECS.get(exec)?;
        can_be_disabled(&exec, node)?;
        let mut disabled = lock(&exec.disabled);
        if enabled != 0 { disabled.remove(&node) } else { disabled.insert(node) };
        Ok(())
    }

    fn cuGraphNodeGetEnabled(exec: u64, node: u64, enabled: Out<u32>) [init] {
        let exec = EXECS.get(exec)?;
        can_be_disabled(&exec, node)?;
        enabled.set(u32::from(!lock(&exec.disabled).contains(&node)))
    }

    fn cuGraphExecNodeSetParams(exec: u64, node: u64, params: In<graph::NodeParams>) [ctx context] {
        set_step(exec, node, graph::any_work(context, &params.get()?)?.0)
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: u64, node: u64, params: In<CUDA_KERNEL_NODE_PARAMS_v2>) [ctx context] {
        set_step(exec, node, Work::Kernel(Launch::from_node(context, &params.get()?)?))
    }

    fn cuGraphExecMemcpyNodeSetParams(exec: u64, node: u64, params: In<CUDA_MEMCPY3D>, ctx: u64) [init] {
        let _ = ctx;
        set_step(exec, node, Work::Copy(Arc::new(Copy3::from_params(&params.get()?)?)))
    }

    fn cuGraphExecMemsetNodeSetParams(exec: u64, node: u64, params: In<CUDA_MEMSET_NODE_PARAMS>, ctx: u64) [init] {
        let _ = ctx;
        set_step(exec, node, Work::Fill(Fill::from_node(&params.get()?)?))
    }

    fn cuGraphExecHostNodeSetParams(exec: u64, node: u64, params: In<CUDA_HOST_NODE_PARAMS>) [init] {
        set_step(exec, node, host_work(params)?)
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: u64, node: u64, event: u64) [init] {
        set_step(exec, node, Work::RecordEvent(event::get(event)?))
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: u64, node: u64, event: u64) [init] {
        set_step(exec, node, Work::WaitEvent(event::get(event)?))
    }

    fn cuGraphExecChildGraphNodeSetParams(exec: u64, node: u64, child: u64) [init] {
        set_step(exec, node, Work::Graph(Arc::new(Run::of(&*graph::get(child)?)?)))
    }
}
