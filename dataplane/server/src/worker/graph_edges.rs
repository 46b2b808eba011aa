//! What graph nodes depend on, and how: nodes, and the data of the edges from them.
//!
//! On the wire every list of dependencies is two of the same length: node handles, then `CUgraphEdgeData`. What an
//! edge may be is for the driver to say; here it is only made sure that both lists are as long as they say.

use cudarc::driver::sys::{CUgraph, CUgraphNode};
use fusewire_wire::ops::Status;
use fusewire_wire::ops::table::{AddDependencies, GraphEdges, NodeNeighbours};
use zerocopy::{FromBytes, IntoBytes};

use super::gpu::Gpu;
use super::handles::MAX_OBJECTS;
use crate::driver::layouts::EdgeData;
use crate::driver::{INVALID_VALUE, OUT_OF_MEMORY};

/// Dependencies of a node, or edges of one operation, at most.
pub(super) const MAX_DEPENDENCIES: u32 = 1 << 20;

/// Nodes, and the data of an edge from each.
pub(super) struct Dependencies {
    pub(super) nodes: Vec<CUgraphNode>,
    edges: Vec<EdgeData>,
}

impl Dependencies {
    /// Whether all are ordinary edges, which every function of the driver knows.
    pub(super) fn are_ordinary(&self) -> bool {
        self.edges.iter().all(|edge| *edge == EdgeData::default())
    }

    /// As long as the nodes, or null, which says that all edges are ordinary.
    pub(super) fn edges(&self) -> *const EdgeData {
        if self.are_ordinary() { std::ptr::null() } else { self.edges.as_ptr() }
    }
}

/// Edge data that a list on the wire holds, and what follows them.
fn edge_data(tail: &[u8], count: u32) -> Result<(Vec<EdgeData>, &[u8]), Status> {
    if count > MAX_DEPENDENCIES {
        return Err(INVALID_VALUE);
    }
    let (edges, rest) =
        <[EdgeData]>::ref_from_prefix_with_elems(tail, count as usize).map_err(|_| INVALID_VALUE)?;
    Ok((edges.to_vec(), rest))
}

impl Gpu {
    /// The driver's nodes for a list of ours, and what follows it.
    fn nodes_of<'a>(&self, tail: &'a [u8], count: u32) -> Result<(Vec<CUgraphNode>, &'a [u8]), Status> {
        if count > MAX_DEPENDENCIES {
            return Err(INVALID_VALUE);
        }
        let (names, rest) = tail.split_at_checked(count as usize * 8).ok_or(INVALID_VALUE)?;
        let node = |name| {
            let name = u64::read_from_bytes(name).map_err(|_| INVALID_VALUE)?;
            Ok(self.nodes.get(name)?.raw)
        };
        Ok((names.chunks_exact(8).map(node).collect::<Result<_, Status>>()?, rest))
    }

    /// Reads dependencies, and gives what follows them.
    pub(super) fn dependencies_of<'a>(
        &self,
        tail: &'a [u8],
        count: u32,
    ) -> Result<(Dependencies, &'a [u8]), Status> {
        let (nodes, rest) = self.nodes_of(tail, count)?;
        let (edges, rest) = edge_data(rest, count)?;
        Ok((Dependencies { nodes, edges }, rest))
    }

    pub(super) fn add_dependencies(&mut self, record: &AddDependencies, tail: &[u8]) -> Result<(), Status> {
        let graph = self.graphs.get(record.graph)?.raw;
        let (from, rest) = self.nodes_of(tail, record.count)?;
        let (to, rest) = self.nodes_of(rest, record.count)?;
        let (edges, _) = edge_data(rest, record.count)?;
        let from = Dependencies { nodes: from, edges };
        let (edges, from, count) = (from.edges(), from.nodes.as_ptr(), from.nodes.len());
        // SAFETY: the graph and every node are live; the arrays are as long as is said.
        let status = unsafe {
            match record.remove {
                0 => self.d.cuGraphAddDependencies_v2(graph, from, to.as_ptr(), edges, count),
                _ => self.d.cuGraphRemoveDependencies_v2(graph, from, to.as_ptr(), edges, count),
            }
        };
        self.ok(status)
    }

    pub(super) fn graph_edges(&mut self, record: &GraphEdges) -> Result<(u32, u32, Vec<u8>), Status> {
        let graph = self.graphs.get(record.graph)?.raw;
        let mut count = 0usize;
        let (none, no_edges) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: a live graph; no arrays, only the count.
        let status = unsafe { self.d.cuGraphGetEdges_v2(graph, none, none, no_edges, &raw mut count) };
        self.ok(status)?;
        if count > MAX_OBJECTS {
            return Err(OUT_OF_MEMORY);
        }
        let (mut from, mut to) = (vec![std::ptr::null_mut(); count], vec![std::ptr::null_mut(); count]);
        let mut edges = vec![EdgeData::default(); count];
        if count != 0 {
            // SAFETY: as many places as count says.
            let status = unsafe {
                let (from, to) = (from.as_mut_ptr(), to.as_mut_ptr());
                self.d.cuGraphGetEdges_v2(graph, from, to, edges.as_mut_ptr(), &raw mut count)
            };
            self.ok(status)?;
            edges.truncate(count);
        }
        let count = edges.len();
        let nodes: Vec<CUgraphNode> =
            from.into_iter().zip(to).take(count).flat_map(|(f, t)| [f, t]).collect();
        let (names, made) = self.name_nodes(&nodes, graph, record.first_node)?;
        Ok((count as u32, made, listed(&names, &edges)))
    }

    pub(super) fn node_neighbours(&mut self, record: &NodeNeighbours) -> Result<(u32, u32, Vec<u8>), Status> {
        let (node, graph) = self.nodes.get(record.node).map(|node| (node.raw, node.graph as CUgraph))?;
        let d = self.d;
        let list = |nodes: *mut CUgraphNode, edges: *mut EdgeData, count: &mut usize| {
            let count: *mut usize = count;
            // SAFETY: a live node; the arrays are null, or have as many places as count says.
            unsafe {
                match record.forward {
                    0 => d.cuGraphNodeGetDependencies_v2(node, nodes, edges, count),
                    _ => d.cuGraphNodeGetDependentNodes_v2(node, nodes, edges, count),
                }
            }
        };
        let mut count = 0usize;
        self.ok(list(std::ptr::null_mut(), std::ptr::null_mut(), &mut count))?;
        if count > MAX_OBJECTS {
            return Err(OUT_OF_MEMORY);
        }
        let (mut nodes, mut edges) = (vec![std::ptr::null_mut(); count], vec![EdgeData::default(); count]);
        if count != 0 {
            self.ok(list(nodes.as_mut_ptr(), edges.as_mut_ptr(), &mut count))?;
            nodes.truncate(count);
            edges.truncate(count);
        }
        let (names, made) = self.name_nodes(&nodes, graph, record.first_node)?;
        Ok((names.len() as u32, made, listed(&names, &edges)))
    }
}

/// Names and edge data as the client reads them.
pub(super) fn listed(names: &[u64], edges: &[EdgeData]) -> Vec<u8> {
    [names.as_bytes(), edges.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_data_are_as_many_as_they_say() {
        let wire = [1, 0, 1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 9];
        let (edges, rest) = edge_data(&wire, 2).unwrap();
        let kinds: Vec<_> = edges.iter().map(|edge| (edge.from_port, edge.to_port, edge.kind)).collect();
        assert_eq!((kinds, rest), (vec![(1, 0, 1), (2, 0, 1)], &[9][..]));
        assert_eq!(edge_data(&wire, 3).err(), Some(INVALID_VALUE));
        assert_eq!(edge_data(&wire, u32::MAX).err(), Some(INVALID_VALUE));
    }

    #[test]
    fn ordinary_edges_need_no_data() {
        let of = |edges: &[EdgeData]| {
            let nodes = vec![std::ptr::null_mut(); edges.len()];
            Dependencies { nodes, edges: edges.to_vec() }.edges().is_null()
        };
        let programmatic = EdgeData { from_port: 1, kind: 1, ..EdgeData::default() };
        assert!(of(&[]) && of(&[EdgeData::default(); 2]));
        assert!(!of(&[EdgeData::default(), programmatic]));
    }
}
