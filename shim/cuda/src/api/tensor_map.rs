//! Tensor maps: encoded by the server's driver, for the device that will read them; the address in one can be
//! replaced here.
//!
//! Seen on driver 580 (H200): the address is the first 8 bytes of the map, and the driver asks for no
//! alignment of the map itself.

use std::ffi::c_void;

use fusewire_wire::ops::table::TensorMap;
use zerocopy::IntoBytes;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_UNKNOWN};
use crate::abi::types::CUresult;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime};

use super::arguments::need;

/// `CUtensorMap`: 128 bytes, of which only the device knows the meaning.
pub type Map = [u8; 128];

/// Dimensions of a tensor map at most.
const MOST_DIMENSIONS: u32 = 5;
/// Addresses of tensors are aligned to as much.
const ALIGNMENT: u64 = 16;

// Kinds of `TensorMap`.
const TILED: u32 = 0;
const IM2COL: u32 = 1;

/// What both kinds of map have in common.
struct Shape {
    address: u64,
    data_type: u32,
    rank: u32,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
}

/// Appends `count` values, each in 8 bytes.
///
/// # Safety
/// `values` is NULL or holds `count` elements.
unsafe fn append<T: std::marker::Copy + Into<i64>>(
    words: &mut Vec<u64>,
    values: *const T,
    count: usize,
) -> Result<(), CUresult> {
    if count == 0 {
        return Ok(());
    }
    need(values)?;
    // SAFETY: the caller's promise.
    let values = unsafe { std::slice::from_raw_parts(values, count) };
    words.extend(values.iter().map(|&value| Into::<i64>::into(value).cast_unsigned()));
    Ok(())
}

/// # Safety
/// `values` is NULL or holds `count` elements.
unsafe fn append_wide(words: &mut Vec<u64>, values: *const u64, count: usize) -> Result<(), CUresult> {
    // SAFETY: the caller's promise; the same bytes, which are not looked at.
    unsafe { append(words, values.cast::<i64>(), count) }
}

fn rank(rank: u32, least: u32) -> Result<usize, CUresult> {
    if (least..=MOST_DIMENSIONS).contains(&rank) { Ok(rank as usize) } else { Err(CUDA_ERROR_INVALID_VALUE) }
}

fn encode(
    runtime: &Runtime,
    target: *mut Map,
    kind: u32,
    shape: &Shape,
    words: &[u64],
) -> Result<(), CUresult> {
    let Shape { address, data_type, rank, interleave, swizzle, promotion, fill } = *shape;
    let record =
        TensorMap { address, kind, data_type, rank, interleave, swizzle, promotion, fill, reserved: 0 };
    let (_, map) = runtime.session.call(&record, &[words.as_bytes()])?;
    let map = map.first_chunk::<128>().ok_or(CUDA_ERROR_UNKNOWN)?;
    // SAFETY: the program's pointer, for one map.
    unsafe { target.write(*map) };
    Ok(())
}

/// `dims`, `boxes` and `elements` hold `dimensions` elements, `strides` one less.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut Map,
    data_type: u32,
    dimensions: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    boxes: *const u32,
    elements: *const u32,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> CUresult {
    runtime::call(counter!("cuTensorMapEncodeTiled"), |runtime| {
        need(map)?;
        let count = rank(dimensions, 1)?;
        let mut words = Vec::with_capacity(4 * count);
        // SAFETY: the program's arrays.
        unsafe {
            append_wide(&mut words, dims, count)?;
            append_wide(&mut words, strides, count - 1)?;
            append(&mut words, boxes, count)?;
            append(&mut words, elements, count)?;
        }
        let address = address.addr() as u64;
        let shape = Shape { address, data_type, rank: dimensions, interleave, swizzle, promotion, fill };
        encode(runtime, map, TILED, &shape, &words)
    })
}

/// `dims` and `elements` hold `dimensions` elements, `strides` one less, `lower` and `upper` two less.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuTensorMapEncodeIm2col(
    map: *mut Map,
    data_type: u32,
    dimensions: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    lower: *const i32,
    upper: *const i32,
    channels: u32,
    pixels: u32,
    elements: *const u32,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> CUresult {
    runtime::call(counter!("cuTensorMapEncodeIm2col"), |runtime| {
        need(map)?;
        let count = rank(dimensions, 3)?;
        let mut words = Vec::with_capacity(5 * count);
        // SAFETY: the program's arrays.
        unsafe {
            append_wide(&mut words, dims, count)?;
            append_wide(&mut words, strides, count - 1)?;
            append(&mut words, lower, count - 2)?;
            append(&mut words, upper, count - 2)?;
            words.extend([u64::from(channels), u64::from(pixels)]);
            append(&mut words, elements, count)?;
        }
        let address = address.addr() as u64;
        let shape = Shape { address, data_type, rank: dimensions, interleave, swizzle, promotion, fill };
        encode(runtime, map, IM2COL, &shape, &words)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapReplaceAddress(map: *mut Map, address: *mut c_void) -> CUresult {
    runtime::call(counter!("cuTensorMapReplaceAddress"), |_| {
        need(map)?;
        let address = address.addr() as u64;
        if !address.is_multiple_of(ALIGNMENT) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the program's map, which is as long.
        unsafe { map.cast::<[u8; 8]>().write(address.to_le_bytes()) };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_widened_with_their_sign() {
        let mut words = Vec::new();
        // SAFETY: arrays as long as is said.
        unsafe {
            append(&mut words, [-1i32, 2].as_ptr(), 2).unwrap();
            append(&mut words, [u32::MAX].as_ptr(), 1).unwrap();
            append_wide(&mut words, [u64::MAX].as_ptr(), 1).unwrap();
            append_wide(&mut words, std::ptr::null(), 0).unwrap();
            assert!(append_wide(&mut words, std::ptr::null(), 1).is_err());
        }
        assert_eq!(words, [u64::MAX, 2, u64::from(u32::MAX), u64::MAX]);
    }

    #[test]
    fn ranks_are_the_drivers() {
        assert!(rank(0, 1).is_err() && rank(6, 1).is_err() && rank(2, 3).is_err());
        assert_eq!(rank(5, 3), Ok(5));
    }
}
