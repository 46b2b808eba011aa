//! Device memory: addresses are chosen here, memory comes from the server block by block.

use fusewire_wire::ops::table::MemInfo;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUdeviceptr, CUresult};
use crate::runtime::stats::counter;
use crate::runtime::{self, current, memory_state};

use super::arguments::{give, need, offer};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    runtime::call(counter!("cuMemGetInfo_v2"), |runtime| {
        let context = current::sound_context()?;
        let (reply, _) = runtime.session.call(&MemInfo { context: context.handle }, &[])?;
        // Read after the answer: what has been given back meanwhile is not counted twice.
        let kept = runtime.memory.kept.bytes(context.device);
        let available = reply.free.saturating_add(kept).min(reply.total);
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            offer(free, usize::try_from(available).unwrap_or(usize::MAX));
            offer(total, usize::try_from(reply.total).unwrap_or(usize::MAX));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemAlloc_v2"), |runtime| {
        need(address)?;
        let context = current::sound_context()?;
        runtime.captures.unsafe_call()?;
        let made = memory_state::allocate(runtime, &context, bytes, false)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(address, made) }
    })
}

/// Rows are padded to 512 bytes, as the driver pads them on every architecture so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> CUresult {
    runtime::call(counter!("cuMemAllocPitch_v2"), |runtime| {
        need(address)?;
        need(pitch)?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let context = current::sound_context()?;
        runtime.captures.unsafe_call()?;
        let padded = width.checked_next_multiple_of(512).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let bytes = padded.checked_mul(height).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let made = memory_state::allocate(runtime, &context, bytes, false)?;
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            give(pitch, padded)?;
            give(address, made)
        }
    })
}

/// Returns at once: the memory is used again when the work that may still use it is finished.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    runtime::call(counter!("cuMemFree_v2"), |runtime| {
        if address == 0 {
            return Ok(());
        }
        runtime.captures.unsafe_call()?;
        current::context()?.check()?;
        memory_state::free(runtime, address, false)
    })
}

crate::abi::variants!("device_memory.rs");
