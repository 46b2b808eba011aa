//! Host functions and stream callbacks: the stream stops until the function has run here.

use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::table::HostFunc;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED};
use crate::abi::types::{CUhostFn, CUresult, CUstream, CUstreamCallback};
use crate::runtime::objects::{HostCode, HostFunction};
use crate::runtime::pending::Pending;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current};

fn launch(runtime: &Runtime, stream: CUstream, function: HostFunction) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    stream.context.check()?;
    let capture = stream.capture.load(Relaxed);
    let on = stream.clone();
    let number =
        runtime.session.post_pending(Some(&stream), &HostFunc { stream: stream.handle }, &[], move |_| {
            Pending::HostFunction { function, stream: Some(on), again: capture != 0 }
        })?;
    if capture != 0 {
        runtime.captures.calls(capture, number);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: CUstream,
    function: CUhostFn,
    argument: *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuLaunchHostFunc"), |runtime| {
        let code = function.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        launch(runtime, stream, HostFunction { run: HostCode::Function(code), argument })
    })
}

/// `flags` must be 0. Not to be captured.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamAddCallback(
    stream: CUstream,
    callback: CUstreamCallback,
    argument: *mut c_void,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamAddCallback"), |runtime| {
        let code = callback.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if current::stream(runtime, stream)?.is_capturing() {
            return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        launch(runtime, stream, HostFunction { run: HostCode::Callback(code, stream.addr()), argument })
    })
}

crate::abi::variants!("host_function.rs");
