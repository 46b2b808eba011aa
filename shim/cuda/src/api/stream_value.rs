//! Stream memory operations: a stream waits for a word, or writes one.

use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::table::{StreamWaitValue, StreamWriteValue};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUdeviceptr, CUresult, CUstream};
use crate::runtime::objects::Stream;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, mirror};

use super::arguments::need;

#[derive(Clone, Copy)]
enum What {
    Wait,
    Write,
}

/// A word that a stream waits for or writes: 4 or 8 bytes, in device memory or in host memory.
struct Word {
    address: u64,
    value: u64,
    flags: u32,
    bytes: u32,
}

/// The condition in bits 0 and 1, CU_STREAM_WAIT_VALUE_FLUSH in bit 30.
const WAIT_FLAGS: u32 = 0x4000_0003;
/// CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER.
const WRITE_FLAGS: u32 = 1;

fn issue(runtime: &Runtime, stream: &Stream, what: What, word: &Word) -> Result<(), CUresult> {
    stream.context.check()?;
    let known = match what {
        What::Wait => WAIT_FLAGS,
        What::Write => WRITE_FLAGS,
    };
    let &Word { address, value, flags, bytes } = word;
    if flags & !known != 0 || !address.is_multiple_of(u64::from(bytes)) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let region = runtime.memory.find(address).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if region.is_host() && address - region.base + u64::from(bytes) > region.bytes {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // Host memory that the server does not have.
    let _ahead = if region.is_host() && !region.is_shared() {
        let mirror = mirror::ensure(runtime, &stream.context, address, u64::from(bytes))?;
        mirror::before_use(runtime, stream, &[mirror])?
    } else {
        Vec::new()
    };
    let posted = match what {
        What::Wait => {
            // The program may give the sign only when it has seen what earlier work has written, for which it asks
            // nobody: nothing of that may come behind the wait.
            runtime.session.bring_back()?;
            let record = StreamWaitValue { stream: stream.handle, address, value, flags, bytes };
            runtime.session.words.store(true, Relaxed);
            runtime.session.post_on(stream, &record, &[]).inspect(|&number| {
                stream.waited.fetch_max(number, Relaxed);
            })
        }
        What::Write => {
            // The program may take the word for a sign that earlier work is finished.
            runtime.session.bring_back()?;
            let record = StreamWriteValue { stream: stream.handle, address, value, flags, bytes };
            runtime.session.post_on(stream, &record, &[])
        }
    };
    posted.map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitValue32_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuStreamWaitValue32_v2"), |runtime| {
        let word = Word { address, value: u64::from(value), flags, bytes: 4 };
        issue(runtime, &*current::stream(runtime, stream)?, What::Wait, &word)
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
        let word = Word { address, value, flags, bytes: 8 };
        issue(runtime, &*current::stream(runtime, stream)?, What::Wait, &word)
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
        let word = Word { address, value: u64::from(value), flags, bytes: 4 };
        issue(runtime, &*current::stream(runtime, stream)?, What::Write, &word)
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
        let word = Word { address, value, flags, bytes: 8 };
        issue(runtime, &*current::stream(runtime, stream)?, What::Write, &word)
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
            let narrow = Word { address, value: value & 0xffff_ffff, flags, bytes: 4 };
            let wide = Word { address, value, flags, bytes: 8 };
            match operation.operation {
                1 => issue(runtime, &stream, What::Wait, &narrow)?,
                2 => issue(runtime, &stream, What::Write, &narrow)?,
                4 => issue(runtime, &stream, What::Wait, &wide)?,
                5 => issue(runtime, &stream, What::Write, &wide)?,
                3 | 6 => {}
                _ => return Err(CUDA_ERROR_NOT_SUPPORTED),
            }
        }
        Ok(())
    })
}

crate::abi::variants!("stream_value.rs");
