//! Linear copies.

use std::ffi::c_void;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUcontext, CUdeviceptr, CUresult, CUstream};
use crate::runtime::copies::{self, Form, Side, check_device, copy, side};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles};

/// Host to device, the host side checked as far as it can be.
unsafe fn to_device(
    runtime: &Runtime,
    stream: CUstream,
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    form: Form,
) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    stream.context.check()?;
    if bytes == 0 {
        return Ok(());
    }
    check_device(runtime, to, bytes)?;
    // SAFETY: `from` is the program's, good for `bytes` bytes.
    unsafe { copy(runtime, &stream, to, from.expose_provenance() as u64, bytes, form) }
}

unsafe fn to_host(
    runtime: &Runtime,
    stream: CUstream,
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    form: Form,
) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    stream.context.check()?;
    if bytes == 0 {
        return Ok(());
    }
    check_device(runtime, from, bytes)?;
    // SAFETY: `to` is the program's, good for `bytes` bytes.
    unsafe { copy(runtime, &stream, to.expose_provenance() as u64, from, bytes, form) }
}

unsafe fn between(
    runtime: &Runtime,
    stream: CUstream,
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    form: Form,
) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    // SAFETY: the program's addresses, of whatever kind, good for `bytes` bytes.
    unsafe { copy(runtime, &stream, to, from, bytes, form) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemcpyHtoD_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { to_device(runtime, std::ptr::null_mut(), to, from, bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyHtoDAsync_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { to_device(runtime, stream, to, from, bytes, Form::Async) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemcpyDtoH_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { to_host(runtime, std::ptr::null_mut(), to, from, bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyDtoHAsync_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { to_host(runtime, stream, to, from, bytes, Form::Async) }
    })
}

fn within(
    runtime: &Runtime,
    stream: CUstream,
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
) -> Result<(), CUresult> {
    check_device(runtime, to, bytes)?;
    check_device(runtime, from, bytes)?;
    // SAFETY: both are addresses that the client has handed out for at least `bytes` bytes.
    unsafe { between(runtime, stream, to, from, bytes, Form::Async) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoD_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemcpyDtoD_v2"), |runtime| {
        within(runtime, std::ptr::null_mut(), to, from, bytes)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyDtoDAsync_v2"), |runtime| within(runtime, stream, to, from, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    runtime::call(counter!("cuMemcpy"), |runtime| {
        // SAFETY: the program's addresses.
        unsafe { between(runtime, std::ptr::null_mut(), to, from, bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAsync(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyAsync"), |runtime| {
        // SAFETY: the program's addresses.
        unsafe { between(runtime, stream, to, from, bytes, Form::Async) }
    })
}

/// Addresses say which device they are on; the contexts are only checked.
fn peers(
    runtime: &Runtime,
    to: (CUdeviceptr, CUcontext),
    from: (CUdeviceptr, CUcontext),
    bytes: usize,
) -> Result<(), CUresult> {
    handles::context(to.1)?;
    handles::context(from.1)?;
    for address in [to.0, from.0] {
        if bytes != 0 && side(runtime, address, bytes)? == Side::Pageable {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyPeer(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    bytes: usize,
) -> CUresult {
    runtime::call(counter!("cuMemcpyPeer"), |runtime| {
        peers(runtime, (to, to_context), (from, from_context), bytes)?;
        let stream = handles::context(from_context)?.legacy.get().cloned().ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let target = handles::context(to_context)?.legacy.get().cloned().ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if target.handle != stream.handle {
            // The copy comes after the work of both devices and before any later work of either.
            copies::synchronize(runtime, &target)?;
        }
        // SAFETY: both ranges were found in the client's map.
        unsafe { copy(runtime, &stream, to, from, bytes, Form::Sync)? };
        if target.handle != stream.handle { copies::synchronize(runtime, &stream) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyPeerAsync(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyPeerAsync"), |runtime| {
        peers(runtime, (to, to_context), (from, from_context), bytes)?;
        // SAFETY: both ranges were found in the client's map.
        unsafe { between(runtime, stream, to, from, bytes, Form::Async) }
    })
}

crate::abi::variants!("copy.rs");
