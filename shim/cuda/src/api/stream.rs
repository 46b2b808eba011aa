//! Streams.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::table::{StreamCreate, StreamDestroy, StreamSetAttribute};

use crate::abi::result::{
    CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_READY,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
};
use crate::abi::types::{CUcontext, CUdevice, CUevent, CUresult, CUstream};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::{Stream, StreamKind};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, copies, current};

use super::arguments::{give, need};

fn create(runtime: &Runtime, target: *mut CUstream, flags: u32, priority: i32) -> Result<(), CUresult> {
    need(target)?;
    if flags & !1 != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let context = current::sound_context()?;
    let info = &runtime.device(i32::try_from(context.device).unwrap_or(0))?.snapshot.info;
    // The driver takes any number and uses the nearest priority that exists.
    let priority = priority.clamp(info.greatest_priority, info.least_priority.max(info.greatest_priority));
    let handle = handles::mint()?;
    let record = StreamCreate { stream: handle, context: context.handle, flags, priority };
    runtime.session.post(&record, &[])?;
    let stream = Arc::new(Stream::new(handle, context, StreamKind::Created, flags, priority));
    handles::fill(handle, Object::Stream(stream.clone()));
    runtime.session.add_stream(&stream);
    // SAFETY: the program's pointer, for one value.
    unsafe { give(target, handles::pointer(handle)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, flags: u32) -> CUresult {
    runtime::call(counter!("cuStreamCreate"), |runtime| create(runtime, stream, flags, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut CUstream,
    flags: u32,
    priority: i32,
) -> CUresult {
    runtime::call(counter!("cuStreamCreateWithPriority"), |runtime| create(runtime, stream, flags, priority))
}

/// Returns at once; the work on the stream goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    runtime::call(counter!("cuStreamDestroy_v2"), |runtime| {
        let found = handles::stream(stream)?;
        if found.kind != StreamKind::Created {
            return Err(CUDA_ERROR_INVALID_HANDLE);
        }
        handles::end(found.handle);
        let posted = runtime.session.post(&StreamDestroy { stream: found.handle }, &[]);
        // Last: more may have been put on it just now (see `bring_back`).
        found.context.remove(&found);
        posted.map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    runtime::call(counter!("cuStreamSynchronize"), |runtime| {
        copies::synchronize(runtime, &current::stream(runtime, stream)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(stream: CUstream) -> CUresult {
    runtime::call(counter!("cuStreamQuery"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        if runtime.captures.any() {
            if stream.is_capturing() {
                runtime.captures.invalidate(stream.capture.load(Relaxed));
                return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            }
            if stream.kind == StreamKind::Legacy {
                runtime.captures.unsafe_call()?;
            }
        }
        runtime.session.check()?;
        // Before it is looked what is finished: what is owed is work on its stream.
        runtime.session.bring_back()?;
        let last = stream.last.load(Relaxed);
        // First: what is watched may end between the two looks.
        let watched = stream.is_watched() && !runtime.session.may_be_finished_by_now(&stream);
        if !stream.is_known_finished() {
            stream.context.check()?;
            if watched {
                return Err(CUDA_ERROR_NOT_READY);
            }
            runtime.session.query(&stream)?;
        } else {
            runtime.session.tells(&stream, last);
        }
        stream.context.report()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: u32) -> CUresult {
    runtime::call(counter!("cuStreamWaitEvent"), |runtime| {
        if flags & !1 != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let stream = current::stream(runtime, stream)?;
        let event = handles::event(event)?;
        stream.context.check()?;
        let captured = lock(&event.state).capture;
        let mine = stream.capture.load(Relaxed);
        if captured != 0 && runtime.captures.is_running(captured) {
            if stream.kind == StreamKind::Legacy {
                return Err(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            }
            if mine == 0 {
                // Not to become part of the capture.
                runtime.session.bring_back()?;
                runtime.captures.join(captured, &stream);
            } else if mine != captured {
                return Err(crate::abi::result::CUDA_ERROR_STREAM_CAPTURE_MERGE);
            }
        } else if mine != 0 && flags & 1 == 0 {
            return Err(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        } else if event.recorded.load(Relaxed) == 0 || (mine == 0 && event.is_reached()) {
            // An event never recorded, or long reached, holds nobody up.
            return Ok(());
        }
        let is_captured = mine != 0 || captured != 0;
        runtime.session.post_wait(&stream, &event, flags, is_captured)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetPriority(stream: CUstream, priority: *mut i32) -> CUresult {
    runtime::call(counter!("cuStreamGetPriority"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(priority, stream.priority) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetFlags(stream: CUstream, flags: *mut u32) -> CUresult {
    runtime::call(counter!("cuStreamGetFlags"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(flags, stream.flags) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetId(stream: CUstream, id: *mut u64) -> CUresult {
    runtime::call(counter!("cuStreamGetId"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(id, stream.id) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetDevice(stream: CUstream, device: *mut CUdevice) -> CUresult {
    runtime::call(counter!("cuStreamGetDevice"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(device, i32::try_from(stream.context.device).unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: CUstream, context: *mut CUcontext) -> CUresult {
    runtime::call(counter!("cuStreamGetCtx"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(context, handles::pointer(stream.context.handle)) }
    })
}

/// No stream belongs to a green context: there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx_v2(
    stream: CUstream,
    context: *mut CUcontext,
    green: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuStreamGetCtx_v2"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            super::arguments::offer(green, std::ptr::null_mut());
            give(context, handles::pointer(stream.context.handle))
        }
    })
}

// CUstreamAttrID of cuda.h.
const ATTRIBUTE_ACCESS_POLICY: u32 = 1;
const ATTRIBUTE_SYNC_POLICY: u32 = 3;
const ATTRIBUTE_PRIORITY: u32 = 8;
const ATTRIBUTE_MEM_SYNC_DOMAIN: u32 = 10;
const ATTRIBUTE_MEM_SYNC_DOMAIN_MAP: u32 = 9;

/// `value`: 64 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetAttribute(
    stream: CUstream,
    attribute: u32,
    value: *mut [u8; 64],
) -> CUresult {
    runtime::call(counter!("cuStreamGetAttribute"), |runtime| {
        let stream = current::stream(runtime, stream)?;
        let mut found = lock(&stream.attributes).get(&attribute).copied().unwrap_or([0; 64]);
        match attribute {
            ATTRIBUTE_PRIORITY => found[..4].copy_from_slice(&stream.priority.to_le_bytes()),
            ATTRIBUTE_SYNC_POLICY if found[..4] == [0; 4] => found[0] = 1,
            ATTRIBUTE_MEM_SYNC_DOMAIN_MAP if found[..2] == [0; 2] => found[1] = 1,
            ATTRIBUTE_ACCESS_POLICY
            | ATTRIBUTE_SYNC_POLICY
            | ATTRIBUTE_MEM_SYNC_DOMAIN
            | ATTRIBUTE_MEM_SYNC_DOMAIN_MAP => {}
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
        // SAFETY: the program's CUstreamAttrValue, of 64 bytes.
        unsafe { give(value, found) }
    })
}

/// `value`: 64 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSetAttribute(
    stream: CUstream,
    attribute: u32,
    value: *const [u8; 64],
) -> CUresult {
    runtime::call(counter!("cuStreamSetAttribute"), |runtime| {
        need(value)?;
        let stream = current::stream(runtime, stream)?;
        // SAFETY: the program's CUstreamAttrValue, of 64 bytes.
        let value = unsafe { value.read_unaligned() };
        match attribute {
            ATTRIBUTE_SYNC_POLICY
            | ATTRIBUTE_ACCESS_POLICY
            | ATTRIBUTE_MEM_SYNC_DOMAIN
            | ATTRIBUTE_MEM_SYNC_DOMAIN_MAP => {}
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
        lock(&stream.attributes).insert(attribute, value);
        if attribute == ATTRIBUTE_SYNC_POLICY {
            // How a waiting thread waits: ours to decide.
            return Ok(());
        }
        let record = StreamSetAttribute { stream: stream.handle, attribute, reserved: 0 };
        runtime.session.post_on(&stream, &record, &[&value]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCopyAttributes(to: CUstream, from: CUstream) -> CUresult {
    runtime::call(counter!("cuStreamCopyAttributes"), |runtime| {
        let to = current::stream(runtime, to)?;
        let from = current::stream(runtime, from)?;
        let attributes = lock(&from.attributes).clone();
        for (attribute, value) in &attributes {
            if *attribute != ATTRIBUTE_SYNC_POLICY {
                let record = StreamSetAttribute { stream: to.handle, attribute: *attribute, reserved: 0 };
                runtime.session.post_on(&to, &record, &[value])?;
            }
        }
        *lock(&to.attributes) = attributes;
        Ok(())
    })
}

crate::abi::variants!("stream.rs");
