//! Memsets: one operation, published. The plain and the `Async` forms differ in the stream, and where host memory is
//! set: "asynchronous with respect to the host except when the target is pinned host memory" (CUDA driver API,
//! "API synchronization behavior").

use fusewire_wire::ops::table::Memset;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUdeviceptr, CUresult, CUstream};
use crate::runtime::copies::{self, Form, Side};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, mirror};

struct Rectangle {
    pitch: usize,
    width: usize,
    height: usize,
}

fn memset(
    runtime: &Runtime,
    stream: CUstream,
    to: CUdeviceptr,
    area: &Rectangle,
    value: u32,
    element: u32,
    form: Form,
) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    stream.context.check()?;
    if area.width == 0 || area.height == 0 {
        return Ok(());
    }
    let row = area.width.checked_mul(element as usize).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let aligned = |pitch: usize| pitch.is_multiple_of(element as usize);
    if !to.is_multiple_of(u64::from(element))
        || (area.height > 1 && (area.pitch < row || !aligned(area.pitch)))
    {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let bytes = (area.height - 1)
        .checked_mul(area.pitch)
        .and_then(|above| above.checked_add(row))
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let target = copies::side(runtime, to, bytes)?;
    if target == Side::Pageable {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let waits = form == Form::Sync && target != Side::Device;
    let record = Memset {
        stream: stream.handle,
        destination: to,
        pitch: area.pitch as u64,
        width: area.width as u64,
        height: area.height as u64,
        value,
        element,
    };
    let is_captured = stream.is_capturing();
    if is_captured && waits {
        runtime.captures.unsafe_call()?;
    }
    let ahead = if target == Side::Pinned {
        // Host memory that the server does not have: what it makes of it comes back.
        let mirror = mirror::ensure(runtime, &stream.context, to, bytes as u64)?;
        mirror::before_use(runtime, &stream, &[mirror])?
    } else {
        Vec::new()
    };
    runtime.session.post_on(&stream, &record, &[])?;
    mirror::owe(&runtime.session, &stream, ahead);
    if waits && !is_captured { copies::synchronize(runtime, &stream) } else { Ok(()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8_v2(to: CUdeviceptr, value: u8, count: usize) -> CUresult {
    runtime::call(counter!("cuMemsetD8_v2"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, std::ptr::null_mut(), to, &area, u32::from(value), 1, Form::Sync)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D8_v2(
    to: CUdeviceptr,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> CUresult {
    runtime::call(counter!("cuMemsetD2D8_v2"), |runtime| {
        memset(
            runtime,
            std::ptr::null_mut(),
            to,
            &Rectangle { pitch, width, height },
            u32::from(value),
            1,
            Form::Sync,
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(
    to: CUdeviceptr,
    value: u8,
    count: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemsetD8Async"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, stream, to, &area, u32::from(value), 1, Form::Async)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D8Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemsetD2D8Async"), |runtime| {
        memset(runtime, stream, to, &Rectangle { pitch, width, height }, u32::from(value), 1, Form::Async)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD16_v2(to: CUdeviceptr, value: u16, count: usize) -> CUresult {
    runtime::call(counter!("cuMemsetD16_v2"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, std::ptr::null_mut(), to, &area, u32::from(value), 2, Form::Sync)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D16_v2(
    to: CUdeviceptr,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
) -> CUresult {
    runtime::call(counter!("cuMemsetD2D16_v2"), |runtime| {
        memset(
            runtime,
            std::ptr::null_mut(),
            to,
            &Rectangle { pitch, width, height },
            u32::from(value),
            2,
            Form::Sync,
        )
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD16Async(
    to: CUdeviceptr,
    value: u16,
    count: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemsetD16Async"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, stream, to, &area, u32::from(value), 2, Form::Async)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D16Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemsetD2D16Async"), |runtime| {
        memset(runtime, stream, to, &Rectangle { pitch, width, height }, u32::from(value), 2, Form::Async)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD32_v2(to: CUdeviceptr, value: u32, count: usize) -> CUresult {
    runtime::call(counter!("cuMemsetD32_v2"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, std::ptr::null_mut(), to, &area, value, 4, Form::Sync)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D32_v2(
    to: CUdeviceptr,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
) -> CUresult {
    runtime::call(counter!("cuMemsetD2D32_v2"), |runtime| {
        memset(runtime, std::ptr::null_mut(), to, &Rectangle { pitch, width, height }, value, 4, Form::Sync)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD32Async(
    to: CUdeviceptr,
    value: u32,
    count: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemsetD32Async"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, stream, to, &area, value, 4, Form::Async)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D32Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemsetD2D32Async"), |runtime| {
        memset(runtime, stream, to, &Rectangle { pitch, width, height }, value, 4, Form::Async)
    })
}

crate::abi::variants!("memset.rs");
