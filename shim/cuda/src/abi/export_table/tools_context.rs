//! The tools' view of contexts and streams, of which cuBLASLt uses a little.

use std::ffi::c_void;

use super::{Slot, Table, give, slots, uuid};
use crate::abi::{
    hooks::hooks,
    per_thread::{CU_STREAM_LEGACY, CU_STREAM_PER_THREAD},
    result::{CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE},
    types::{CUcontext, CUdevice, CUresult, CUstream},
};

pub(super) const UUID: [u8; 16] = uuid(0x21318c60_9714_3248_8ca6_41ff7324c8f2);

pub(super) static TABLE: Table<93> = Table({
    let mut slots = slots!(0x21318c60, 93);
    slots[3] = Slot::function(device as *const c_void);
    slots[4] = Slot::function(context_id as *const c_void);
    slots[39] = Slot::function(stream_id as *const c_void);
    slots[51] = Slot::function(stream_private as *const c_void);
    slots
});

unsafe extern "C" fn device(context: CUcontext, out: *mut CUdevice) -> CUresult {
    if context.is_null() {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    // SAFETY: the caller passes a device to be written.
    unsafe { give(out, hooks().context_device(context)) }
}

/// No context has the id 0.
unsafe extern "C" fn context_id(context: CUcontext, out: *mut u64) -> CUresult {
    let id = if context.is_null() { Ok(0) } else { hooks().context_id(context) };
    // SAFETY: the caller passes a word to be written.
    unsafe { give(out, id) }
}

unsafe extern "C" fn stream_id(context: CUcontext, private: *mut c_void, out: *mut u64) -> CUresult {
    // SAFETY: the caller passes a word to be written.
    unsafe { give(out, hooks().stream_id(context, private)) }
}

unsafe extern "C" fn stream_private(
    context: CUcontext,
    stream: CUstream,
    out: *mut *mut c_void,
    per_thread: i32,
) -> CUresult {
    let stream = match stream.addr() {
        usize::MAX => return CUDA_ERROR_INVALID_HANDLE,
        0 if per_thread != 0 => CU_STREAM_PER_THREAD,
        0 => CU_STREAM_LEGACY,
        _ => stream,
    };
    // SAFETY: the caller passes a word to be written.
    unsafe { give(out, hooks().stream_private(context, stream)) }
}
