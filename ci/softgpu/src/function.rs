//! Questions about functions, and how many of their blocks fit on a multiprocessor.

use std::ffi::c_char;
use std::sync::atomic::Ordering::Relaxed;

use crate::abi::{CUlaunchConfig, In, Out};
use crate::attributes::{
    BLOCKS_PER_MULTIPROCESSOR, MAX_THREADS_PER_BLOCK, REGISTERS, SHARED_PER_MULTIPROCESSOR,
    SHARED_RESERVED_PER_BLOCK, THREADS_PER_MULTIPROCESSOR, WARP, multiprocessors,
};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::library;
use crate::program::Function;

/// How many blocks of this shape run on one multiprocessor at once.
pub(crate) fn blocks_per_multiprocessor(
    function: &Function,
    threads: u32,
    dynamic_shared: usize,
) -> Res<u32> {
    let kernel = function.kernel()?;
    if threads == 0 {
        return Err(Code::INVALID_VALUE);
    }
    if threads > kernel.max_threads.min(MAX_THREADS_PER_BLOCK) {
        return Ok(0);
    }
    let warps = threads.div_ceil(WARP);
    let registers = warps * WARP * kernel.num_regs.max(16).next_multiple_of(8);
    let shared = kernel.static_shared + dynamic_shared + SHARED_RESERVED_PER_BLOCK as usize;
    let by_shared = SHARED_PER_MULTIPROCESSOR as usize / shared.max(1);
    let by_others = (THREADS_PER_MULTIPROCESSOR / (warps * WARP)).min(REGISTERS / registers);
    Ok(by_others.min(BLOCKS_PER_MULTIPROCESSOR).min(u32::try_from(by_shared).unwrap_or(u32::MAX)))
}

type SharedForBlock = Option<unsafe extern "C" fn(i32) -> usize>;

/// The block size with the most resident threads, the larger one if several have.
fn best_block(function: &Function, per_block: SharedForBlock, shared: usize, limit: i32) -> Res<(u32, u32)> {
    let kernel = function.kernel()?;
    let mut most = kernel.max_threads.min(MAX_THREADS_PER_BLOCK);
    if limit > 0 {
        most = most.min(limit.cast_unsigned());
    }
    let mut best = (0, 0);
    for threads in (1..=most).rev().filter(|threads| threads.is_multiple_of(WARP) || *threads == most) {
        // SAFETY: the program gave the function for this purpose.
        let shared = per_block.map_or(shared, |ask| unsafe { ask(threads.cast_signed()) });
        let blocks = blocks_per_multiprocessor(function, threads, shared)?;
        if blocks * threads > best.0 * best.1 {
            best = (blocks, threads);
        }
    }
    Ok(best)
}

fn active_blocks(function: &Function, out: Out<i32>, threads: i32, shared: usize) -> Res {
    let threads = u32::try_from(threads).map_err(|_| Code::INVALID_VALUE)?;
    out.set(blocks_per_multiprocessor(function, threads, shared)?.cast_signed())
}

fn potential(
    function: &Function,
    grid: Out<i32>,
    block: Out<i32>,
    ask: SharedForBlock,
    shared: usize,
    limit: i32,
) -> Res {
    let (blocks, threads) = best_block(function, ask, shared, limit)?;
    grid.set((blocks * multiprocessors()).cast_signed())?;
    block.set(threads.cast_signed())
}

api! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: u64) [ctx context] {
        let function = library::function(context, function)?;
        if function.kernel == 0 && !function.is_loaded.load(Relaxed) {
            return Err(Code::FUNCTION_NOT_LOADED);
        }
        value.set(function.attribute(attribute)?)
    }

    fn cuFuncSetAttribute(function: u64, attribute: u32, value: i32) [ctx context] {
        library::function(context, function)?.set_attribute(attribute, value)
    }

    fn cuFuncSetCacheConfig(function: u64, config: u32) [ctx context] {
        library::function(context, function)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: u64, config: u32) [ctx context] {
        library::function(context, function)?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncGetModule(out: Out<u64>, function: u64) [ctx context] {
        let function = library::function(context, function)?;
        out.set(function.loaded.upgrade().ok_or(Code::INVALID_HANDLE)?.handle)
    }

    fn cuFuncGetName(out: Out<*const c_char>, function: u64) [ctx context] {
        // The function keeps the text until its module is unloaded.
        out.set(library::function(context, function)?.name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: u64, index: usize, offset: Out<usize>, len: Out<usize>) [ctx context] {
        let function = library::function(context, function)?;
        let param = *function.kernel()?.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.set(param.offset)?;
        len.set_if_wanted(param.size);
        Ok(())
    }

    fn cuFuncLoad(function: u64) [ctx context] {
        library::function(context, function)?.is_loaded.store(true, Relaxed);
        Ok(())
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: u64) [ctx context] {
        let function = library::function(context, function)?;
        state.set(u32::from(function.kernel != 0 || function.is_loaded.load(Relaxed)))
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        out: Out<i32>, function: u64, threads: i32, shared: usize,
    ) [ctx context] {
        active_blocks(&*library::function(context, function)?, out, threads, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: Out<i32>, function: u64, threads: i32, shared: usize, flags: u32,
    ) [ctx context] {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        active_blocks(&*library::function(context, function)?, out, threads, shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, function: u64, ask: SharedForBlock, shared: usize, limit: i32,
    ) [ctx context] {
        potential(&*library::function(context, function)?, grid, block, ask, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, function: u64, ask: SharedForBlock, shared: usize, limit: i32, flags: u32,
    ) [ctx context] {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        potential(&*library::function(context, function)?, grid, block, ask, shared, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        out: Out<usize>, function: u64, blocks: i32, threads: i32,
    ) [ctx context] {
        let function = library::function(context, function)?;
        let blocks = usize::try_from(blocks).ok().filter(|blocks| *blocks > 0).ok_or(Code::INVALID_VALUE)?;
        if threads <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        let share = SHARED_PER_MULTIPROCESSOR as usize / blocks;
        let fixed = function.kernel()?.static_shared + SHARED_RESERVED_PER_BLOCK as usize;
        out.set(share.saturating_sub(fixed).min(function.dynamic_shared_limit()? as usize))
    }

    fn cuOccupancyMaxPotentialClusterSize(out: Out<i32>, function: u64, config: In<CUlaunchConfig>) [ctx context] {
        let _ = (library::function(context, function)?, config.get()?);
        out.set(8)
    }

    fn cuOccupancyMaxActiveClusters(out: Out<i32>, function: u64, config: In<CUlaunchConfig>) [ctx context] {
        let function = library::function(context, function)?;
        let config = config.get()?;
        let threads = config.blockDimX.saturating_mul(config.blockDimY).saturating_mul(config.blockDimZ);
        let blocks = blocks_per_multiprocessor(&function, threads, config.sharedMemBytes as usize)? * multiprocessors();
        let cluster = crate::launch::cluster_of(&config)?.iter().product::<u32>().max(1);
        out.set((blocks / cluster).cast_signed())
    }

    fn cuProfilerStart() [any] {
        Ok(())
    }

    fn cuProfilerStop() [any] {
        Ok(())
    }
}
