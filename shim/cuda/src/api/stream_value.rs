//! Stream memory operations: a stream waits for a word, or writes one.

use fusewire_wire::ops::table::{StreamWaitValue, StreamWriteValue};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUdeviceptr, CUresult, CUstream};
use crate::runtime::objects::Stream;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, mirror};

use super::arguments::need;

/// The word may lie in device memory, or in host memory, which is mirrored then.
fn check(runtime: &Runtime, stream: &Stream, address: u64, bytes: u32) -> Result<(), CUresult> {
    stream.context.check()?;
    if !address.is_multiple_of(u64::from(bytes)) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let region = runtime.memory.find(address).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if region.is_host() {
        let mirror = mirror::ensure(runtime, &stream.context, address, u64::from(bytes))?;
        mirror::push(runtime, stream, &mirror)?;
    }
    Ok(())
}

fn wait(
    runtime: &Runtime,
    stream: &Stream,
    address: u64,
    value: u64,
    flags: u32,
    bytes: u32,
) -> Result<(), CUresult> {
    check(runtime, stream, address, bytes)?;
    // The condition in bits 0 and 1, CU_STREAM_WAIT_VALUE_FLUSH in bit 30.
    if flags & !0x4000_0003 != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let record = StreamWaitValue { stream: stream.handle, address, value, flags, bytes };
    runtime.session.post_on(stream, &record, &[]).map(drop)
}

fn write(
    runtime: &Runtime,
    stream: &Stream,
    address: u64,
    value: u64,
    flags: u32,
    bytes: u32,
) -> Result<(), CUresult> {
    check(runtime, stream, address, bytes)?;
    if flags & !1 != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // The program may take the word for a sign that earlier work is finished.
    runtime.session.bring_back()?;
    let record = StreamWriteValue { stream: stream.handle, address, value, flags, bytes };
    runtime.session.post_on(stream, &record, &[]).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitValue32_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamWaitValue32_v2"), |runtime| {
        wait(runtime, &*current::stream(runtime, stream)?, address, u64::from(value), flags, 4)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitValue64_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u64,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamWaitValue64_v2"), |runtime| {
        wait(runtime, &*current::stream(runtime, stream)?, address, value, flags, 8)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWriteValue32_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamWriteValue32_v2"), |runtime| {
        write(runtime, &*current::stream(runtime, stream)?, address, u64::from(value), flags, 4)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWriteValue64_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u64,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamWriteValue64_v2"), |runtime| {
        write(runtime, &*current::stream(runtime, stream)?, address, value, flags, 8)
    })
}

/// `CUstreamBatchMemOpParams`: a union of 48 bytes; the wait and write forms share their layout.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemOp {
    operation: u32,
    reserved: u32,
    address: u64,
    value: u64,
    flags: u32,
    reserved2: u32,
    rest: [u64; 2],
}

const _: () = assert!(size_of::<MemOp>() == 48);

/// `operations`: `count` elements. Flushes and barriers are implied by the order of the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBatchMemOp_v2(
    stream: CUstream,
    count: u32,
    operations: *const MemOp,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamBatchMemOp_v2"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        need(operations)?;
        if flags != 0 || count > 256 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        for n in 0..count as usize {
            // SAFETY: the program's array of `count` elements.
            let operation = unsafe { operations.add(n).read() };
            let MemOp { address, value, flags, .. } = operation;
            match operation.operation {
                1 => wait(runtime, &stream, address, value & 0xffff_ffff, flags, 4)?,
                2 => write(runtime, &stream, address, value & 0xffff_ffff, flags, 4)?,
                4 => wait(runtime, &stream, address, value, flags, 8)?,
                5 => write(runtime, &stream, address, value, flags, 8)?,
                3 | 6 => {}
                _ => return Err(CUDA_ERROR_NOT_SUPPORTED),
            }
        }
        Ok(())
    })
}

crate::abi::variants!("stream_value.rs");
