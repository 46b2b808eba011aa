//! Kernel launches and occupancy.

use std::ffi::c_void;

use cudarc::driver::sys::CUfunction;
use fusewire_wire::ops::Call;
use fusewire_wire::ops::table::{
    BlockSizeReply, Launch, LaunchAttribute, LaunchEx, Occupancy, OccupancyBlockSize, OccupancyClusters,
    OccupancySharedMem,
};
use fusewire_wire::ops::{Dim3, Status};
use zerocopy::FromBytes;

use super::gpu::Gpu;
use super::streams::Then;
use crate::driver::layouts::{Attribute, LaunchConfig};
use crate::driver::{INVALID_VALUE, NOT_SUPPORTED};

/// Attributes of one launch at most.
const MAX_ATTRIBUTES: u32 = 32;
/// Highest `CUlaunchAttributeID` of CUDA 13, inclusive.
const LAST_ATTRIBUTE: u32 = 16;
/// Attributes whose value begins with an event: programmatic event, launch completion event.
const EVENT_ATTRIBUTES: [u32; 2] = [7, 12];
/// Returns a handle into the client's memory when the node is made.
const DEVICE_UPDATABLE_NODE: u32 = 13;
/// Threads of a block at most, on every device so far.
const MAX_THREADS: u64 = 1024;

/// `CU_LAUNCH_PARAM_…`: names of the entries in `extra`.
pub(super) const PARAM_END: *mut c_void = std::ptr::null_mut();
pub(super) const PARAM_POINTER: *mut c_void = std::ptr::without_provenance_mut(1);
pub(super) const PARAM_SIZE: *mut c_void = std::ptr::without_provenance_mut(2);

/// A parameter buffer in the form that the driver takes.
pub(super) struct Extra<'a> {
    buffer: &'a [u8],
    bytes: usize,
    entries: [*mut c_void; 5],
}

impl<'a> Extra<'a> {
    pub(super) fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, bytes: buffer.len(), entries: [PARAM_END; 5] }
    }

    /// The array, which points into self.
    pub(super) fn as_mut_ptr(&mut self) -> *mut *mut c_void {
        if self.buffer.is_empty() {
            return std::ptr::null_mut();
        }
        let size: *mut usize = &raw mut self.bytes;
        self.entries =
            [PARAM_POINTER, self.buffer.as_ptr().cast_mut().cast(), PARAM_SIZE, size.cast(), PARAM_END];
        self.entries.as_mut_ptr()
    }
}

pub(super) fn dims(of: Dim3) -> [u32; 3] {
    [of.x, of.y, of.z]
}

impl Gpu {
    /// A function and its parameters, of which there must be as many bytes as it takes: the driver reads no
    /// further than its own idea of them.
    pub(super) fn function_with<'a>(
        &self,
        handle: u64,
        tail: &'a [u8],
        bytes: u32,
    ) -> Result<(CUfunction, &'a [u8]), Status> {
        let function = self.functions.get(handle)?;
        let buffer = tail.get(..bytes as usize).ok_or(INVALID_VALUE)?;
        if bytes < function.parameter_bytes {
            return Err(INVALID_VALUE);
        }
        Ok((function.raw, buffer))
    }

    pub(super) fn launch(&mut self, record: &Launch, tail: &[u8]) -> Result<(), Status> {
        let (function, buffer) = self.function_with(record.function, tail, record.parameter_bytes)?;
        let (_, stream) = self.stream_for_work(record.stream)?;
        self.functions.get_mut(record.function)?.launched = true;
        let (grid, block) = (record.grid, record.block);
        let mut extra = Extra::new(buffer);
        // SAFETY: function and stream are live, the parameters are as long as the function takes. What the
        // kernel does is contained by the process.
        let status = unsafe {
            self.d.cuLaunchKernel(
                function,
                grid.x,
                grid.y,
                grid.z,
                block.x,
                block.y,
                block.z,
                record.shared_bytes,
                stream,
                std::ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        self.ok(status)
    }

    pub(super) fn launch_ex(&mut self, call: Call, record: &LaunchEx, tail: &[u8]) -> Result<(), Status> {
        let (attributes, rest) = self.launch_attributes(tail, record.attributes)?;
        let (function, buffer) = self.function_with(record.function, rest, record.parameter_bytes)?;
        let (id, stream) = self.stream_for_work(record.stream)?;
        self.functions.get_mut(record.function)?.launched = true;
        let config = LaunchConfig {
            grid: dims(record.grid),
            block: dims(record.block),
            shared_bytes: record.shared_bytes,
            stream: stream.cast(),
            attributes: attributes.as_ptr(),
            attribute_count: attributes.len() as u32,
        };
        let mut extra = Extra::new(buffer);
        // SAFETY: as for a plain launch; the attributes are live and their events were looked up.
        let status = unsafe {
            self.d.cuLaunchKernelEx(&raw const config, function, std::ptr::null_mut(), extra.as_mut_ptr())
        };
        self.ok(status)?;
        // An event in an attribute is recorded by the launch: the client learns of it as of any other.
        let records = attributes.iter().any(|attribute| EVENT_ATTRIBUTES.contains(&attribute.id));
        if records && !self.is_capturing(id) {
            self.after(id, Then::Done { number: call.number })?;
        }
        Ok(())
    }

    /// Reads launch attributes, with the driver's events in place of ours. Gives what follows them, too.
    fn launch_attributes<'a>(
        &self,
        mut tail: &'a [u8],
        count: u32,
    ) -> Result<(Vec<Attribute>, &'a [u8]), Status> {
        if count > MAX_ATTRIBUTES {
            return Err(INVALID_VALUE);
        }
        let mut attributes = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (LaunchAttribute { id, mut value, .. }, rest) =
                LaunchAttribute::read_from_prefix(tail).map_err(|_| INVALID_VALUE)?;
            tail = rest;
            if id > LAST_ATTRIBUTE {
                return Err(INVALID_VALUE);
            }
            if id == DEVICE_UPDATABLE_NODE {
                return Err(NOT_SUPPORTED);
            }
            if EVENT_ATTRIBUTES.contains(&id) {
                let place = value.first_chunk_mut::<8>().ok_or(INVALID_VALUE)?;
                let event = self.events.get(u64::from_le_bytes(*place))?.raw;
                *place = (event as u64).to_le_bytes();
            }
            attributes.push(Attribute { id, reserved: 0, value });
        }
        Ok((attributes, tail))
    }

    pub(super) fn occupancy(&mut self, record: &Occupancy) -> Result<i32, Status> {
        let (function, _) = self.function(record.function)?;
        if record.flags > 1 {
            return Err(INVALID_VALUE);
        }
        self.enter(record.context)?;
        let mut blocks = 0;
        let shared = record.shared_bytes as usize;
        // SAFETY: a live function and a live integer.
        let status = unsafe {
            self.d.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                &raw mut blocks,
                function,
                record.block,
                shared,
                record.flags,
            )
        };
        self.ok(status)?;
        Ok(blocks)
    }

    pub(super) fn occupancy_block_size(
        &mut self,
        record: &OccupancyBlockSize,
        tail: &[u8],
    ) -> Result<BlockSizeReply, Status> {
        let (function, _) = self.function(record.function)?;
        if record.flags > 1 {
            return Err(INVALID_VALUE);
        }
        self.enter(record.context)?;
        let (mut grid, mut block) = (0, 0);
        if tail.is_empty() {
            let (null, shared) = (std::ptr::null(), record.shared_bytes as usize);
            // SAFETY: a live function and live integers; no callback.
            let status = unsafe {
                self.d.cuOccupancyMaxPotentialBlockSizeWithFlags(
                    &raw mut grid,
                    &raw mut block,
                    function,
                    null,
                    shared,
                    record.limit,
                    record.flags,
                )
            };
            self.ok(status)?;
            return Ok(BlockSizeReply { grid, block });
        }
        self.block_size_of_table(function, record, tail)
    }

    /// The driver's search, with the client's shared-memory sizes: the block size that keeps most threads
    /// resident, the largest of equals.
    fn block_size_of_table(
        &mut self,
        function: CUfunction,
        record: &OccupancyBlockSize,
        tail: &[u8],
    ) -> Result<BlockSizeReply, Status> {
        const WARP: u64 = 32;
        let most = match u64::try_from(record.limit) {
            Ok(0) | Err(_) => MAX_THREADS,
            Ok(limit) => limit.min(MAX_THREADS),
        };
        let mut best = (0u64, BlockSizeReply { grid: 0, block: 0 });
        for (entry, size) in tail.chunks_exact(8).zip((1..).map(|warps| warps * WARP)) {
            if size > most {
                break;
            }
            let shared = u64::read_from_bytes(entry).unwrap_or(0) as usize;
            let mut blocks = 0;
            // SAFETY: a live function and a live integer.
            let status = unsafe {
                self.d.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                    &raw mut blocks,
                    function,
                    size as i32,
                    shared,
                    record.flags,
                )
            };
            if self.ok(status).is_err() {
                continue;
            }
            let resident = u64::from(blocks.unsigned_abs()) * size;
            if resident >= best.0 && resident != 0 {
                best = (resident, BlockSizeReply { grid: blocks, block: size as i32 });
            }
        }
        let device = self.contexts.get(record.context)?.device;
        // 16: multiprocessors.
        let processors = crate::driver::snapshot::attribute(self.d, 16, device).unwrap_or(1);
        best.1.grid = best.1.grid.saturating_mul(processors);
        Ok(best.1)
    }

    pub(super) fn occupancy_shared_mem(&mut self, record: &OccupancySharedMem) -> Result<u64, Status> {
        let (function, _) = self.function(record.function)?;
        self.enter(record.context)?;
        let mut bytes = 0usize;
        // SAFETY: a live function and a live integer.
        let status = unsafe {
            self.d.cuOccupancyAvailableDynamicSMemPerBlock(
                &raw mut bytes,
                function,
                record.blocks,
                record.block,
            )
        };
        self.ok(status)?;
        Ok(bytes as u64)
    }

    pub(super) fn occupancy_clusters(
        &mut self,
        record: &OccupancyClusters,
        tail: &[u8],
    ) -> Result<i32, Status> {
        let (function, _) = self.function(record.function)?;
        let (attributes, _) = self.launch_attributes(tail, record.attributes)?;
        self.enter(record.context)?;
        let config = LaunchConfig {
            grid: dims(record.grid),
            block: dims(record.block),
            shared_bytes: record.shared_bytes,
            stream: std::ptr::null_mut(),
            attributes: attributes.as_ptr(),
            attribute_count: attributes.len() as u32,
        };
        let mut value = 0;
        // SAFETY: a live function, configuration and integer.
        let status = unsafe {
            match record.kind {
                0 => self.d.cuOccupancyMaxActiveClusters(&raw mut value, function, &raw const config),
                1 => self.d.cuOccupancyMaxPotentialClusterSize(&raw mut value, function, &raw const config),
                _ => INVALID_VALUE,
            }
        };
        self.ok(status)?;
        Ok(value)
    }
}
