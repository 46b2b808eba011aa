//! What all nodes have: a type, an end, whether they are enabled, and counterparts in clones.

use fusewire_wire::ops::table::{NodeDestroy, NodeInClone, NodeSetEnabled};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUgraph, CUgraphExec, CUgraphNode, CUresult};
use crate::api::arguments::{give, need};
use crate::runtime::graphs::{self, Node};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, handles};

use super::{KERNEL, MEMCPY, MEMSET, kind};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetType(node: CUgraphNode, target: *mut u32) -> CUresult {
    runtime::call(counter!("cuGraphNodeGetType"), |runtime| {
        need(target)?;
        let kind = kind(runtime, &*graphs::node(node)?)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(target, kind) }
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeFindInClone(
    found: *mut CUgraphNode,
    node: CUgraphNode,
    clone: CUgraph,
) -> CUresult {
    runtime::call(counter!("cuGraphNodeFindInClone"), |runtime| {
        need(found)?;
        let node = graphs::node(node)?.handle;
        let clone = handles::graph(clone)?.handle;
        let named = graphs::list(clone, |first_node| {
            let (reply, _) = runtime.session.call(&NodeInClone { node, clone, first_node }, &[])?;
            Ok(vec![reply.node])
        })?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(found, handles::pointer(named.first().copied().unwrap_or(0))) }
    })
}
