//! Arrays: what one is like is remembered here; its memory is the server's.

use std::sync::Arc;

use fusewire_wire::ops::table::{ArrayCreate, ArrayDestroy};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUarray, CUresult};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::Array;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, kept};

use super::arguments::{give, need};

/// `CUDA_ARRAY_DESCRIPTOR`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub width: usize,
    pub height: usize,
    pub format: u32,
    pub channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor3D {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub format: u32,
    pub channels: u32,
    pub flags: u32,
}

const _: () = assert!(size_of::<Descriptor>() == 24 && size_of::<Descriptor3D>() == 40);

/// Bytes of one element of an array, by `CUarray_format`.
///
/// # Errors
/// `CUDA_ERROR_NOT_SUPPORTED` for formats whose elements are not bytes in a row: compressed blocks and video.
pub(crate) fn element_bytes(format: u32, channels: u32) -> Result<usize, CUresult> {
    let channels = channels as usize;
    Ok(match format {
        // 8-bit, 16-bit and 32-bit integers; half, float.
        0x01 | 0x08 => channels,
        0x02 | 0x09 | 0x10 => 2 * channels,
        0x03 | 0x0a | 0x20 => 4 * channels,
        // Normalised integers, whose format counts the channels.
        0xc0 | 0xc6 => 1,
        0xc1 | 0xc7 | 0xc3 | 0xc9 => 2,
        0xc2 | 0xc8 | 0xc4 | 0xca | 0x50 => 4,
        0xc5 | 0xcb => 8,
        _ => return Err(CUDA_ERROR_NOT_SUPPORTED),
    })
}

fn create(runtime: &Runtime, target: *mut CUarray, given: &Descriptor3D) -> Result<(), CUresult> {
    need(target)?;
    let Descriptor3D { width, height, depth, format, channels, flags } = *given;
    if width == 0 || !matches!(channels, 1 | 2 | 4) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let context = current::sound_context()?;
    let handle = handles::mint()?;
    let record = ArrayCreate {
        array: handle,
        context: context.handle,
        width: width as u64,
        height: height as u64,
        depth: depth as u64,
        format,
        channels,
        flags,
        reserved: 0,
    };
    if let Err(code) = kept::with_room(runtime, context.device, || runtime.session.call(&record, &[])) {
        handles::end(handle);
        return Err(code);
    }
    let array = Array { handle, context, width, height, depth, format, channels, flags };
    handles::fill(handle, Object::Array(Arc::new(array)));
    // SAFETY: the program's pointer, for one value.
    unsafe { give(target, handles::pointer(handle)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate_v2(array: *mut CUarray, descriptor: *const Descriptor) -> CUresult {
    runtime::call(counter!("cuArrayCreate_v2"), |runtime| {
        need(descriptor)?;
        // SAFETY: the program's description.
        let Descriptor { width, height, format, channels } = unsafe { descriptor.read() };
        create(runtime, array, &Descriptor3D { width, height, depth: 0, format, channels, flags: 0 })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate_v2(
    array: *mut CUarray,
    descriptor: *const Descriptor3D,
) -> CUresult {
    runtime::call(counter!("cuArray3DCreate_v2"), |runtime| {
        need(descriptor)?;
        // SAFETY: the program's description.
        create(runtime, array, &unsafe { descriptor.read() })
    })
}

/// Comes after the work that uses the array, as the operations do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayDestroy(array: CUarray) -> CUresult {
    runtime::call(counter!("cuArrayDestroy"), |runtime| {
        let array = handles::array(array)?;
        handles::end(array.handle);
        runtime.session.post(&ArrayDestroy { array: array.handle }, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayGetDescriptor_v2(descriptor: *mut Descriptor, array: CUarray) -> CUresult {
    runtime::call(counter!("cuArrayGetDescriptor_v2"), |_| {
        let Array { width, height, format, channels, .. } = *handles::array(array)?;
        // SAFETY: the program's pointer, for one description.
        unsafe { give(descriptor, Descriptor { width, height, format, channels }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DGetDescriptor_v2(
    descriptor: *mut Descriptor3D,
    array: CUarray,
) -> CUresult {
    runtime::call(counter!("cuArray3DGetDescriptor_v2"), |_| {
        let Array { width, height, depth, format, channels, flags, .. } = *handles::array(array)?;
        // SAFETY: the program's pointer, for one description.
        unsafe { give(descriptor, Descriptor3D { width, height, depth, format, channels, flags }) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_as_large_as_their_format_says() {
        assert_eq!(element_bytes(0x01, 4), Ok(4));
        assert_eq!(element_bytes(0x10, 2), Ok(4));
        assert_eq!(element_bytes(0x20, 4), Ok(16));
        assert_eq!(element_bytes(0xc5, 4), Ok(8), "the format counts the channels");
        assert!(element_bytes(0x91, 4).is_err(), "compressed blocks");
    }
}
