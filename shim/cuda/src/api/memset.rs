//! Memsets: one operation, published; the plain and the `Async` forms differ in the stream alone.

use fusewire_wire::ops::table::Memset;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUdeviceptr, CUresult, CUstream};
use crate::runtime::copies::{Side, check_device, side};
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
    check_device(runtime, to, bytes)?;
    let record = Memset {
        stream: stream.handle,
        destination: to,
        pitch: area.pitch as u64,
        width: area.width as u64,
        height: area.height as u64,
        value,
        element,
    };
    if side(runtime, to, bytes)? != Side::Pinned || stream.is_capturing() {
        return runtime.session.post_on(&stream, &record, &[]).map(drop);
    }
    // Host memory that the server does not have: what it makes of it comes back.
    let mirror = mirror::ensure(runtime, &stream.context, to, bytes as u64)?;
    mirror::push(runtime, &stream, &mirror)?;
    runtime.session.post_on(&stream, &record, &[])?;
    mirror::owe(&runtime.session, &stream, &[mirror]);
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8_v2(to: CUdeviceptr, value: u8, count: usize) -> CUresult {
    runtime::call(counter!("cuMemsetD8_v2"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, std::ptr::null_mut(), to, &area, u32::from(value), 1)
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
        memset(runtime, std::ptr::null_mut(), to, &Rectangle { pitch, width, height }, u32::from(value), 1)
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
        memset(runtime, stream, to, &area, u32::from(value), 1)
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
        memset(runtime, stream, to, &Rectangle { pitch, width, height }, u32::from(value), 1)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD16_v2(to: CUdeviceptr, value: u16, count: usize) -> CUresult {
    runtime::call(counter!("cuMemsetD16_v2"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, std::ptr::null_mut(), to, &area, u32::from(value), 2)
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
        memset(runtime, std::ptr::null_mut(), to, &Rectangle { pitch, width, height }, u32::from(value), 2)
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
        memset(runtime, stream, to, &area, u32::from(value), 2)
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
        memset(runtime, stream, to, &Rectangle { pitch, width, height }, u32::from(value), 2)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD32_v2(to: CUdeviceptr, value: u32, count: usize) -> CUresult {
    runtime::call(counter!("cuMemsetD32_v2"), |runtime| {
        let area = Rectangle { pitch: 0, width: count, height: 1 };
        memset(runtime, std::ptr::null_mut(), to, &area, value, 4)
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
        memset(runtime, std::ptr::null_mut(), to, &Rectangle { pitch, width, height }, value, 4)
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
        memset(runtime, stream, to, &area, value, 4)
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
        memset(runtime, stream, to, &Rectangle { pitch, width, height }, value, 4)
    })
}

crate::abi::variants!("memset.rs");
