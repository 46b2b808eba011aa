//! Occupancy: asked once for each function and shape, until an attribute of the function is set.

use fusewire_wire::ops::table::{Occupancy, OccupancyBlockSize, OccupancyClusters, OccupancySharedMem};
use zerocopy::IntoBytes;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUfunction, CUresult};
use crate::runtime::objects::Function;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, handles};

use super::arguments::{give, need};
use super::function::place;
use super::launch::{Config, attributes};

/// Answers from the cache of the function, or asks. The key's first word says which question it is.
fn cached(
    function: &Function,
    key: (u64, u64),
    ask: impl FnOnce() -> Result<(u64, u64), CUresult>,
) -> Result<(u64, u64), CUresult> {
    if let Some(known) = lock(&function.occupancy).get(&key) {
        return Ok(*known);
    }
    let found = ask()?;
    lock(&function.occupancy).insert(key, found);
    Ok(found)
}

fn key(question: u64, a: u32, b: u32, shared: u64) -> (u64, u64) {
    (question << 60 | u64::from(a) << 24 | u64::from(b), shared)
}

fn max_active(
    runtime: &Runtime,
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    shared: usize,
    flags: u32,
) -> Result<(), CUresult> {
    need(blocks)?;
    if block <= 0 || flags & !1 != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let function = handles::function(function)?;
    let shared_bytes = shared as u64;
    let (found, _) = cached(&function, key(0, block.unsigned_abs(), flags, shared_bytes), || {
        let context = place(runtime, &function)?.handle;
        let record = Occupancy { function: function.handle, context, shared_bytes, block, flags };
        Ok((runtime.session.call(&record, &[])?.0.blocks as u64, 0))
    })?;
    // SAFETY: the program's pointer, for one value.
    unsafe { give(blocks, found as i32) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    shared: usize,
) -> CUresult {
    runtime::call(counter!("cuOccupancyMaxActiveBlocksPerMultiprocessor"), |runtime| {
        max_active(runtime, blocks, function, block, shared, 0)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    shared: usize,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"), |runtime| {
        max_active(runtime, blocks, function, block, shared, flags)
    })
}

/// `CUoccupancyB2DSize`: dynamic shared bytes of a block size.
type SharedOf = Option<unsafe extern "C" fn(block: i32) -> usize>;

fn block_size(
    runtime: &Runtime,
    targets: (*mut i32, *mut i32),
    function: CUfunction,
    shared_of: SharedOf,
    shared: usize,
    limit: i32,
    flags: u32,
) -> Result<(), CUresult> {
    need(targets.0)?;
    need(targets.1)?;
    if limit < 0 || flags & !1 != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let function = handles::function(function)?;
    let context = place(runtime, &function)?;
    let record = OccupancyBlockSize {
        function: function.handle,
        context: context.handle,
        shared_bytes: shared as u64,
        limit,
        flags,
    };
    // The program's function cannot be called from the server: its answers for every block size go along.
    let table: Vec<u64> = match shared_of {
        // SAFETY: the program's function, called as the driver calls it.
        Some(of) => (1..=32).map(|warps| unsafe { of(warps * 32) } as u64).collect(),
        None => Vec::new(),
    };
    let (reply, _) = runtime.session.call(&record, &[table.as_bytes()])?;
    // SAFETY: the program's pointers, for one value each.
    unsafe {
        give(targets.0, reply.grid)?;
        give(targets.1, reply.block)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut i32,
    block: *mut i32,
    function: CUfunction,
    shared_of: SharedOf,
    shared: usize,
    limit: i32,
) -> CUresult {
    runtime::call(counter!("cuOccupancyMaxPotentialBlockSize"), |runtime| {
        block_size(runtime, (grid, block), function, shared_of, shared, limit, 0)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: *mut i32,
    block: *mut i32,
    function: CUfunction,
    shared_of: SharedOf,
    shared: usize,
    limit: i32,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuOccupancyMaxPotentialBlockSizeWithFlags"), |runtime| {
        block_size(runtime, (grid, block), function, shared_of, shared, limit, flags)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: CUfunction,
    blocks: i32,
    block: i32,
) -> CUresult {
    runtime::call(counter!("cuOccupancyAvailableDynamicSMemPerBlock"), |runtime| {
        need(bytes)?;
        if blocks <= 0 || block <= 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let function = handles::function(function)?;
        let (found, _) = cached(&function, key(1, block.unsigned_abs(), blocks.unsigned_abs(), 0), || {
            let context = place(runtime, &function)?.handle;
            let record = OccupancySharedMem { function: function.handle, context, blocks, block };
            Ok((runtime.session.call(&record, &[])?.0.bytes, 0))
        })?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(bytes, usize::try_from(found).unwrap_or(usize::MAX)) }
    })
}

fn clusters(
    runtime: &Runtime,
    value: *mut i32,
    function: CUfunction,
    config: *const Config,
    kind: u32,
) -> Result<(), CUresult> {
    need(value)?;
    need(config)?;
    let function = handles::function(function)?;
    // SAFETY: the program's configuration.
    let config = unsafe { &*config };
    // SAFETY: it says how many attributes there are.
    let attributes = unsafe { attributes(config.attributes, config.count) }?;
    let record = OccupancyClusters {
        function: function.handle,
        context: place(runtime, &function)?.handle,
        grid: config.grid,
        block: config.block,
        shared_bytes: config.shared_bytes,
        attributes: u32::try_from(attributes.len()).unwrap_or(0),
        kind,
        reserved: 0,
    };
    let (reply, _) = runtime.session.call(&record, &[attributes.as_bytes()])?;
    // SAFETY: the program's pointer, for one value.
    unsafe { give(value, reply.value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveClusters(
    count: *mut i32,
    function: CUfunction,
    config: *const Config,
) -> CUresult {
    runtime::call(counter!("cuOccupancyMaxActiveClusters"), |runtime| {
        clusters(runtime, count, function, config, 0)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialClusterSize(
    size: *mut i32,
    function: CUfunction,
    config: *const Config,
) -> CUresult {
    runtime::call(counter!("cuOccupancyMaxPotentialClusterSize"), |runtime| {
        clusters(runtime, size, function, config, 1)
    })
}

crate::abi::variants!("occupancy.rs");
