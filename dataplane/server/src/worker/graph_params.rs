//! Parameters of graph nodes: how they are read, and set in nodes that there are already, in a graph or in an
//! executable one.

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphNode};
use fusewire_wire::ops::table::{NodeInClone, NodeSetMemcpy, NodeSetMemset, NodeSetObject};
use fusewire_wire::ops::{NodeCopy, NodeFill, Status};
use zerocopy::FromBytes;

use super::gpu::{Gpu, Graph};
use super::hostfunc;
use crate::driver::layouts::{HostNode, Memcpy3d, MemsetNode, Side, StreamAttribute};
use crate::driver::{INVALID_VALUE, NOT_SUPPORTED, UNKNOWN};

/// `CUlaunchAttributeID` numbers that a node may be asked for: those whose values hold no handle. Access policy,
/// cooperative, cluster dimension and scheduling, programmatic stream serialization, priority, memory domains,
/// preferred cluster, carve-out.
const ATTRIBUTES: [u32; 10] = [1, 2, 4, 5, 6, 8, 9, 10, 11, 14];

impl Gpu {
    /// The driver's node, and the executable graph if one is named.
    fn place(&self, node: u64, exec: u64) -> Result<(CUgraphNode, Option<CUgraphExec>), Status> {
        let node = self.nodes.get(node)?.raw;
        match exec {
            0 => Ok((node, None)),
            exec => Ok((node, Some(self.execs.get(exec)?.raw))),
        }
    }

    /// A copy node's parameters as the driver takes them, checked.
    pub(super) fn node_copy(&self, copy: &NodeCopy) -> Result<Memcpy3d, Status> {
        let extent = (copy.width, copy.height, copy.depth);
        let to = (copy.destination_pitch, copy.destination_height);
        let from = (copy.source_pitch, copy.source_height);
        self.covered_rect(copy.destination, (0, 0, 0), to, extent)?;
        self.covered_rect(copy.source, (0, 0, 0), from, extent)?;
        Ok(Memcpy3d {
            source: Side::unified(copy.source, from.0 as usize, from.1 as usize),
            destination: Side::unified(copy.destination, to.0 as usize, to.1 as usize),
            width: copy.width as usize,
            height: copy.height as usize,
            depth: copy.depth as usize,
        })
    }

    /// A memset node's parameters as the driver takes them, checked.
    pub(super) fn node_fill(&self, fill: &NodeFill) -> Result<MemsetNode, Status> {
        let row = fill.width.checked_mul(u64::from(fill.element)).ok_or(INVALID_VALUE)?;
        if !matches!(fill.element, 1 | 2 | 4) {
            return Err(INVALID_VALUE);
        }
        let rows = (fill.pitch, fill.height);
        self.covered_rect(fill.destination, (0, 0, 0), rows, (row, fill.height, 1))?;
        Ok(MemsetNode {
            destination: fill.destination,
            pitch: fill.pitch as usize,
            value: fill.value,
            element: fill.element,
            width: fill.width as usize,
            height: fill.height as usize,
        })
    }

    pub(super) fn node_set_memcpy(&mut self, record: &NodeSetMemcpy) -> Result<(), Status> {
        let (node, exec) = self.place(record.node, record.exec)?;
        let copy = self.node_copy(&record.copy)?;
        let context = self.enter(record.context)?;
        // SAFETY: everything named is live, and copied by the driver; the ranges were checked.
        let status = unsafe {
            match exec {
                None => self.d.cuGraphMemcpyNodeSetParams(node, &raw const copy),
                Some(exec) => self.d.cuGraphExecMemcpyNodeSetParams(exec, node, &raw const copy, context),
            }
        };
        self.ok(status)
    }

    pub(super) fn node_set_memset(&mut self, record: &NodeSetMemset) -> Result<(), Status> {
        let (node, exec) = self.place(record.node, record.exec)?;
        let params = self.node_fill(&record.fill)?;
        let context = self.enter(record.context)?;
        // SAFETY: everything named is live, and copied by the driver; the range was checked.
        let status = unsafe {
            match exec {
                None => self.d.cuGraphMemsetNodeSetParams(node, &raw const params),
                Some(exec) => self.d.cuGraphExecMemsetNodeSetParams(exec, node, &raw const params, context),
            }
        };
        self.ok(status)
    }

    pub(super) fn node_set_object(&mut self, record: &NodeSetObject) -> Result<(), Status> {
        let (node, exec) = self.place(record.node, record.exec)?;
        let status = match (record.kind, exec) {
            (1, exec) => {
                let params =
                    HostNode { function: hostfunc::reached, data: self.hosts.capture(record.function)? };
                // SAFETY: everything named is live; the data live until the process ends.
                unsafe {
                    match exec {
                        None => self.d.cuGraphHostNodeSetParams(node, &raw const params),
                        Some(exec) => self.d.cuGraphExecHostNodeSetParams(exec, node, &raw const params),
                    }
                }
            }
            (2, Some(exec)) => {
                let child = self.graphs.get(record.object)?.raw;
                // SAFETY: everything named is live, and copied by the driver.
                unsafe { self.d.cuGraphExecChildGraphNodeSetParams(exec, node, child) }
            }
            (3 | 4, exec) => {
                let event = self.events.get(record.object)?.raw;
                // SAFETY: everything named is live.
                unsafe {
                    match (record.kind, exec) {
                        (3, None) => self.d.cuGraphEventRecordNodeSetEvent(node, event),
                        (3, Some(exec)) => self.d.cuGraphExecEventRecordNodeSetEvent(exec, node, event),
                        (_, None) => self.d.cuGraphEventWaitNodeSetEvent(node, event),
                        (_, Some(exec)) => self.d.cuGraphExecEventWaitNodeSetEvent(exec, node, event),
                    }
                }
            }
            _ => INVALID_VALUE,
        };
        self.ok(status)
    }

    fn known_attribute(attribute: u32) -> Result<(), Status> {
        if ATTRIBUTES.contains(&attribute) { Ok(()) } else { Err(NOT_SUPPORTED) }
    }

    pub(super) fn node_set_attribute(
        &mut self,
        node: u64,
        attribute: u32,
        tail: &[u8],
    ) -> Result<(), Status> {
        Self::known_attribute(attribute)?;
        let node = self.nodes.get(node)?.raw;
        let (value, _) = <[u8; 64]>::read_from_prefix(tail).map_err(|_| INVALID_VALUE)?;
        let value = StreamAttribute(value);
        // SAFETY: a live node and a live value of the driver's size.
        let status = unsafe { self.d.cuGraphKernelNodeSetAttribute(node, attribute, &raw const value) };
        self.ok(status)
    }

    pub(super) fn node_get_attribute(&mut self, node: u64, attribute: u32) -> Result<Vec<u8>, Status> {
        Self::known_attribute(attribute)?;
        let node = self.nodes.get(node)?.raw;
        let mut value = StreamAttribute([0; 64]);
        // SAFETY: a live node and a live place of the driver's size.
        let status = unsafe { self.d.cuGraphKernelNodeGetAttribute(node, attribute, &raw mut value) };
        self.ok(status)?;
        Ok(value.0.to_vec())
    }

    pub(super) fn node_copy_attributes(&mut self, destination: u64, source: u64) -> Result<(), Status> {
        let (destination, source) = (self.nodes.get(destination)?.raw, self.nodes.get(source)?.raw);
        // SAFETY: both are live.
        let status = unsafe { self.d.cuGraphKernelNodeCopyAttributes(destination, source) };
        self.ok(status)
    }

    /// The name of the graph that a node owns.
    pub(super) fn child_graph(&mut self, node: u64, handle: u64) -> Result<u64, Status> {
        let node = self.nodes.get(node)?.raw;
        let mut raw: CUgraph = std::ptr::null_mut();
        // SAFETY: a live node and a live place.
        let status = unsafe { self.d.cuGraphChildGraphNodeGetGraph(node, &raw mut raw) };
        self.ok(status)?;
        if let Some((known, _)) = self.graphs.iter().find(|(_, known)| known.raw == raw) {
            return Ok(known);
        }
        self.mint("graph", handle, self.graphs.has(handle))?;
        self.graphs.put(handle, Graph { raw, owned: false });
        Ok(handle)
    }

    pub(super) fn node_in_clone(&mut self, record: &NodeInClone) -> Result<u64, Status> {
        let node = self.nodes.get(record.node)?.raw;
        let clone = self.graphs.get(record.clone)?.raw;
        let mut found: CUgraphNode = std::ptr::null_mut();
        // SAFETY: node and graph are live, and so is the place.
        let status = unsafe { self.d.cuGraphNodeFindInClone(&raw mut found, node, clone) };
        self.ok(status)?;
        let (names, _) = self.name_nodes(&[found], clone, record.first_node)?;
        names.first().copied().ok_or(UNKNOWN)
    }
}
