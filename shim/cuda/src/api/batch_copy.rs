//! Batches of copies: made one after the other. The driver promises no order among them.

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED};
use crate::abi::types::{CUarray, CUdeviceptr, CUmemLocation, CUresult, CUstream};
use crate::runtime::copies::{self, Form};
use crate::runtime::objects::{Stream, StreamKind};
use crate::runtime::rect::Offset;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles};

use super::arguments::{need, offer};
use super::copy_rect::{self, Memcpy3D, Side3D};

/// `CUmemcpyAttributes`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attributes {
    pub order: u32,
    pub source: CUmemLocation,
    pub destination: CUmemLocation,
    pub flags: u32,
}

/// `CUmemcpy3DOperand`: a pointer (row length and layer height in elements, a hint where it is) or an array
/// (and where in it).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Operand {
    pub kind: u32,
    pub words: [u64; 4],
}

/// `CUDA_MEMCPY3D_BATCH_OP`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchOp {
    pub source: Operand,
    pub destination: Operand,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub order: u32,
    pub flags: u32,
}

const _: () =
    assert!(size_of::<Attributes>() == 24 && size_of::<Operand>() == 40 && size_of::<BatchOp>() == 112);

// CUmemcpySrcAccessOrder of cuda.h: of the stream, during the call, any. Ours reads early or in order.
const FIRST_ORDER: u32 = 1;
const LAST_ORDER: u32 = 3;

// CUmemcpy3DOperandType of cuda.h.
const POINTER: u32 = 1;
const ARRAY: u32 = 2;

/// The index that says that it was no copy in particular.
const NONE: usize = usize::MAX;

/// A stream that a batch may go to: the default streams are not taken.
fn batch_stream(runtime: &Runtime, stream: CUstream) -> Result<std::sync::Arc<Stream>, CUresult> {
    let stream = current::stream(runtime, stream)?;
    if stream.kind == StreamKind::Legacy {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if stream.is_capturing() {
        return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    stream.context.check()?;
    Ok(stream)
}

/// Whether every copy has attributes, and ones that exist: each set holds from its index to the next.
fn check_attributes(attributes: &[Attributes], indices: &[usize], count: usize) -> Result<(), CUresult> {
    let ascending = indices.windows(2).all(|pair| pair[0] < pair[1]);
    let first = indices.first() == Some(&0);
    let last = indices.last().is_some_and(|last| *last < count);
    let known = attributes.iter().all(|a| (FIRST_ORDER..=LAST_ORDER).contains(&a.order));
    if ascending && first && last && known { Ok(()) } else { Err(CUDA_ERROR_INVALID_VALUE) }
}

/// What a batch of linear copies is described by.
struct Batch {
    destinations: *const CUdeviceptr,
    sources: *const CUdeviceptr,
    sizes: *const usize,
    count: usize,
    attributes: *const Attributes,
    indices: *const usize,
    sets: usize,
}

/// # Safety
/// The arrays are NULL or as long as is said; host memory is good for its copies.
unsafe fn linear(
    runtime: &Runtime,
    batch: &Batch,
    failed: &mut usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    let &Batch { destinations, sources, sizes, count, attributes, indices, sets } = batch;
    if count == 0 || sets == 0 || sets > count {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    need(destinations)?;
    need(sources)?;
    need(sizes)?;
    need(attributes)?;
    need(indices)?;
    let stream = batch_stream(runtime, stream)?;
    // SAFETY: the caller's promise.
    let (destinations, sources, sizes, attributes, indices) = unsafe {
        (
            std::slice::from_raw_parts(destinations, count),
            std::slice::from_raw_parts(sources, count),
            std::slice::from_raw_parts(sizes, count),
            std::slice::from_raw_parts(attributes, sets),
            std::slice::from_raw_parts(indices, sets),
        )
    };
    check_attributes(attributes, indices, count)?;
    // Refused as a whole where one of them cannot be made.
    for n in 0..count {
        *failed = n;
        if sizes[n] == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        copies::side(runtime, destinations[n], sizes[n])?;
        copies::side(runtime, sources[n], sizes[n])?;
    }
    for n in 0..count {
        *failed = n;
        // SAFETY: the caller's promise.
        unsafe { copies::copy(runtime, &stream, destinations[n], sources[n], sizes[n], Form::Async) }?;
    }
    *failed = NONE;
    Ok(())
}

/// The arrays hold `count` elements, those of attributes `sets`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuMemcpyBatchAsync_v2(
    destinations: *mut CUdeviceptr,
    sources: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut Attributes,
    indices: *mut usize,
    sets: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyBatchAsync_v2"), |runtime| {
        let batch = Batch { destinations, sources, sizes, count, attributes, indices, sets };
        // SAFETY: the program's arrays.
        unsafe { linear(runtime, &batch, &mut NONE.clone(), stream) }
    })
}

/// `failed` is told which copy was refused, or `SIZE_MAX`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuMemcpyBatchAsync(
    destinations: *mut CUdeviceptr,
    sources: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut Attributes,
    indices: *mut usize,
    sets: usize,
    failed: *mut usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyBatchAsync"), |runtime| {
        let batch = Batch { destinations, sources, sizes, count, attributes, indices, sets };
        let mut which = NONE;
        // SAFETY: the program's arrays.
        let result = unsafe { linear(runtime, &batch, &mut which, stream) };
        if result.is_err() {
            // SAFETY: the program's pointer, for one value.
            unsafe { offer(failed, which) };
        }
        result
    })
}

impl Operand {
    /// Rows are given in elements, which for memory against memory are bytes.
    fn side(&self, element: usize) -> Result<Side3D, CUresult> {
        let [first, second, third, fourth] = self.words;
        let size = |word: u64| usize::try_from(word).map_err(|_| CUDA_ERROR_INVALID_VALUE);
        match self.kind {
            POINTER => {
                let pitch = size(second)?.checked_mul(element).ok_or(CUDA_ERROR_INVALID_VALUE)?;
                Ok(Side3D::pitched(first, pitch, size(third)?))
            }
            ARRAY => {
                let x = size(second)?.checked_mul(element).ok_or(CUDA_ERROR_INVALID_VALUE)?;
                let at = Offset { x, y: size(third)?, z: size(fourth)? };
                Ok(Side3D::array(handles::pointer(first), at))
            }
            _ => Err(CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// Bytes of an element, where the operand says.
    fn element(&self) -> Result<Option<usize>, CUresult> {
        if self.kind != ARRAY {
            return Ok(None);
        }
        let array: CUarray = handles::pointer(self.words[0]);
        let array = handles::array(array)?;
        super::array::element_bytes(array.format, array.channels).map(Some)
    }
}

/// # Safety
/// `ops` is NULL or holds `count` elements; host memory is good for its copies.
unsafe fn boxes(
    runtime: &Runtime,
    ops: *const BatchOp,
    count: usize,
    flags: u64,
    failed: &mut usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    if count == 0 || flags != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    need(ops)?;
    let stream = batch_stream(runtime, stream)?;
    // SAFETY: the caller's promise.
    let ops = unsafe { std::slice::from_raw_parts(ops, count) };
    let mut copies = Vec::with_capacity(count);
    for (n, op) in ops.iter().enumerate() {
        *failed = n;
        if !(FIRST_ORDER..=LAST_ORDER).contains(&op.order) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let element = op.source.element()?.or(op.destination.element()?).unwrap_or(1);
        let copy = Memcpy3D {
            source: op.source.side(element)?,
            destination: op.destination.side(element)?,
            width: op.width.checked_mul(element).ok_or(CUDA_ERROR_INVALID_VALUE)?,
            height: op.height,
            depth: op.depth,
        };
        // Refused as a whole where one of them cannot be made.
        copy_rect::Copy::read(runtime, &copy)?;
        copies.push(copy);
    }
    for (n, copy) in copies.iter().enumerate() {
        *failed = n;
        // SAFETY: the caller's promise.
        unsafe { copy_rect::copy(runtime, &stream, copy, Form::Async) }?;
    }
    *failed = NONE;
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy3DBatchAsync_v2(
    count: usize,
    ops: *mut BatchOp,
    flags: u64,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpy3DBatchAsync_v2"), |runtime| {
        // SAFETY: the program's descriptions.
        unsafe { boxes(runtime, ops, count, flags, &mut NONE.clone(), stream) }
    })
}

/// `failed` is told which copy was refused, or `SIZE_MAX`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy3DBatchAsync(
    count: usize,
    ops: *mut BatchOp,
    failed: *mut usize,
    flags: u64,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpy3DBatchAsync"), |runtime| {
        let mut which = NONE;
        // SAFETY: the program's descriptions.
        let result = unsafe { boxes(runtime, ops, count, flags, &mut which, stream) };
        if result.is_err() {
            // SAFETY: the program's pointer, for one value.
            unsafe { offer(failed, which) };
        }
        result
    })
}

crate::abi::variants!("batch_copy.rs");

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(order: u32) -> Attributes {
        Attributes {
            order,
            source: CUmemLocation::default(),
            destination: CUmemLocation::default(),
            flags: 0,
        }
    }

    #[test]
    fn attribute_sets_begin_at_the_first_copy_and_ascend() {
        let two = [attributes(1), attributes(3)];
        assert_eq!(check_attributes(&two, &[0, 2], 3), Ok(()));
        for indices in [[1, 2], [0, 0], [0, 3]] {
            assert!(check_attributes(&two, &indices, 3).is_err(), "{indices:?}");
        }
        assert!(check_attributes(&[attributes(0)], &[0], 1).is_err(), "no order");
    }

    #[test]
    fn operands_are_rows_of_elements() {
        let pointer = Operand { kind: POINTER, words: [0x1000, 8, 4, 0] };
        let side = pointer.side(4).unwrap();
        assert_eq!((side.device, side.pitch, side.rows), (0x1000, 32, 4));
        let array = Operand { kind: ARRAY, words: [0x51, 2, 3, 1] };
        let side = array.side(4).unwrap();
        assert_eq!((side.x, side.y, side.z), (8, 3, 1));
        assert!(Operand { kind: 3, words: [0; 4] }.side(1).is_err());
        assert!(Operand { kind: POINTER, words: [0, u64::MAX, 0, 0] }.side(4).is_err());
    }
}
