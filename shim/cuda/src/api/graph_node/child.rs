//! Nodes that are graphs.

use std::sync::Arc;

use fusewire_wire::ops::table::ChildGraph;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::api::arguments::{give, need};
use crate::runtime::graphs::{self, Made};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::Graph;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::{ADD_GRAPH, GRAPH, New, Place, add_ranges, check_instance, kind};

/// The child is copied as it is now.
pub(super) fn add_child(runtime: &Runtime, new: New, child: CUgraph) -> Result<(), CUresult> {
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

/// The graph belongs to the node, and goes with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphChildGraphNodeGetGraph(node: CUgraphNode, graph: *mut CUgraph) -> CUresult {
    runtime::call(counter!("cuGraphChildGraphNodeGetGraph"), |runtime| {
        need(graph)?;
        let node = graphs::node(node)?;
        if kind(runtime, &node)? != GRAPH {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let fresh = handles::mint()?;
        let asked = runtime.session.call(&ChildGraph { node: node.handle, graph: fresh }, &[]);
        match &asked {
            Ok((reply, _)) if reply.graph == fresh => {
                handles::fill(fresh, Object::Graph(Arc::new(Graph::new(fresh))));
            }
            _ => drop(handles::end(fresh)),
        }
        // SAFETY: the program's pointer, for one value.
        unsafe { give(graph, handles::pointer(asked?.0.graph)) }
    })
}

pub(super) fn set_child(
    runtime: &Runtime,
    exec: CUgraphExec,
    node: CUgraphNode,
    child: CUgraph,
) -> Result<(), CUresult> {
    let place = Place::read(runtime, Some(exec), node, GRAPH)?;
    let child = handles::graph(child)?;
    let host = lock(&child.host).clone();
    check_instance(&place, |all| {
        let functions = !all.functions.is_empty() || !host.functions.is_empty();
        functions && (!all.ranges.is_empty() || !host.ranges.is_empty())
    })?;
    place.set_object(runtime, ADD_GRAPH, child.handle, 0)?;
    place.uses(|all| {
        add_ranges(all, &host.ranges);
        lock(all).functions.extend(host.functions);
    });
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecChildGraphNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    child: CUgraph,
) -> CUresult {
    runtime::call(counter!("cuGraphExecChildGraphNodeSetParams"), |runtime| {
        set_child(runtime, exec, node, child)
    })
}
