//! Nodes that do nothing but keep an order.

use crate::abi::types::{CUgraph, CUgraphNode, CUresult};
use crate::runtime::graphs::Made;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::{ADD_EMPTY, EMPTY, New};

pub(super) fn add_empty(runtime: &Runtime, new: New) -> Result<(), CUresult> {
    new.add_plain(runtime, ADD_EMPTY, 0, 0)?;
    new.done(EMPTY, Made::Other)
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
        add_empty(runtime, unsafe { New::read(node, graph, dependencies, count) }?)
    })
}
