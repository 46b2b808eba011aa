//! How a copy travels, and when it may return.
//!
//! What the driver promises (CUDA driver API, "API synchronization behavior"): a copy from pageable memory
//! may return once its source has been read; one into pageable memory returns when the data are there; one
//! from or to pinned memory returns at once in the `Async` form. While there is only one stream, a synchronous
//! copy from host memory need not wait for the device either: the order of the lane is all that the program can
//! see. `concurrency` has what else follows from that, and what comes with a second stream.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fusewire_link::RawSlice;
use fusewire_wire::ops::table::{
    CopyIn, CopyInInline, CopyOut as CopyOutOp, CopyWithin, INLINE_BYTES, StreamSynchronize,
};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED};
use crate::abi::types::CUresult;

use super::copy_out::{CopyOut, Landing};
use super::objects::Stream;
use super::session::Room;
use super::waiter::Waiter;
use super::{Runtime, marks, memory_state, mirror, staging, stats};

/// Pageable sources up to this many bytes are captured; a longer one is sent from where it is, and the
/// caller waits until it has been read.
const CAPTURE_BYTES: usize = 256 << 10;

/// Whether the program asked for the synchronous or the asynchronous form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Sync,
    Async,
}

/// What a pointer is to a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Device,
    /// Pinned memory that is the server's as well: the GPU copies it like its own.
    Shared,
    Pinned,
    Pageable,
}

/// What lies at `address`.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for a device range that is not allocated throughout.
pub(crate) fn side(runtime: &Runtime, address: u64, bytes: usize) -> Result<Side, CUresult> {
    let map = runtime.memory.map();
    match map.find(address) {
        Some(region) if region.is_shared() => Ok(Side::Shared),
        Some(region) if region.is_host() => Ok(Side::Pinned),
        Some(_) if map.is_device(address, bytes as u64) => Ok(Side::Device),
        Some(_) => Err(CUDA_ERROR_INVALID_VALUE),
        None if runtime.memory.is_window(address) || address == 0 => Err(CUDA_ERROR_INVALID_VALUE),
        None => Ok(Side::Pageable),
    }
}

/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` when the range is not device memory throughout.
pub(crate) fn check_device(runtime: &Runtime, address: u64, bytes: usize) -> Result<(), CUresult> {
    if bytes == 0 || runtime.memory.map().is_device(address, bytes as u64) {
        return Ok(());
    }
    // Mirrored host memory is the device's as well.
    match side(runtime, address, bytes)? {
        Side::Pinned | Side::Shared => Ok(()),
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// A copy between any two places, as unified addressing has it.
///
/// # Errors
/// For what the driver would refuse at once; the stream's or session's otherwise.
///
/// # Safety
/// Host addresses must be good for `bytes` bytes, as the driver's rules demand of the program.
pub(crate) unsafe fn copy(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    to: u64,
    from: u64,
    bytes: usize,
    form: Form,
) -> Result<(), CUresult> {
    if bytes == 0 {
        return Ok(());
    }
    stream.context.check()?;
    match (side(runtime, to, bytes)?, side(runtime, from, bytes)?) {
        (Side::Device, Side::Device) => within(runtime, stream, to, from, bytes),
        (Side::Device | Side::Shared, source @ (Side::Device | Side::Shared)) => {
            if stream.is_capturing() {
                if form == Form::Sync {
                    runtime.captures.unsafe_call()?;
                }
                return within(runtime, stream, to, from, bytes);
            }
            if source == Side::Shared {
                after_writers(runtime, from, bytes)?;
            }
            within(runtime, stream, to, from, bytes)?;
            shared_copied(runtime, stream, form)
        }
        (Side::Device, source) => {
            // SAFETY: the caller's promise.
            unsafe { copy_in(runtime, stream, to, from, bytes, source, form) }
        }
        (target, Side::Device) => {
            // SAFETY: the caller's promise.
            unsafe { copy_out(runtime, stream, to, from, bytes, target, form) }
        }
        (_, _) => {
            if stream.is_capturing() {
                return within_mirrors(runtime, stream, to, from, bytes);
            }
            synchronize(runtime, stream)?;
            let source = std::ptr::with_exposed_provenance::<u8>(from as usize);
            let target = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
            // SAFETY: the caller's promise; the ranges may overlap.
            unsafe { std::ptr::copy(source, target, bytes) };
            Ok(())
        }
    }
}

fn within(runtime: &Runtime, stream: &Arc<Stream>, to: u64, from: u64, bytes: usize) -> Result<(), CUresult> {
    let record = CopyWithin { stream: stream.handle, destination: to, source: from, bytes: bytes as u64 };
    runtime.session.post_on(stream, &record, &[]).map(drop)
}

/// A copy in a capture, with host memory on one side or both: it happens at every replay, between the
/// mirrors.
fn within_mirrors(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    to: u64,
    from: u64,
    bytes: usize,
) -> Result<(), CUresult> {
    let id = stream.capture.load(Relaxed);
    for address in [to, from] {
        if !matches!(side(runtime, address, bytes)?, Side::Device | Side::Shared) {
            let mirror = mirror::ensure(runtime, &stream.context, address, bytes as u64)?;
            runtime.captures.uses(id, mirror.base, mirror.bytes as u64);
        }
    }
    within(runtime, stream, to, from, bytes)
}

/// Host to device.
///
/// # Errors
/// As [`copy`].
///
/// # Safety
/// As [`copy`].
pub(crate) unsafe fn copy_in(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    to: u64,
    from: u64,
    bytes: usize,
    source: Side,
    form: Form,
) -> Result<(), CUresult> {
    if stream.is_capturing() {
        if form == Form::Sync {
            runtime.captures.unsafe_call()?;
        }
        return within_mirrors(runtime, stream, to, from, bytes);
    }
    if source == Side::Pinned {
        before_reading(runtime, stream, from, bytes)?;
    }
    let start = std::ptr::with_exposed_provenance::<u8>(from as usize);
    if bytes <= INLINE_BYTES {
        // SAFETY: the caller's promise; the bytes are copied before this returns.
        let data = unsafe { std::slice::from_raw_parts(start, bytes) };
        let record = CopyInInline { stream: stream.handle, destination: to, bytes: bytes as u64 };
        let number = runtime.session.post_quiet_on(stream, &record, &[data], None)?;
        return copied_in(runtime, stream, number, form);
    }
    // What can be read now is staged in shared memory, where there is any. Of a copy that could be captured nobody
    // expects that it waits.
    let patient = bytes > CAPTURE_BYTES;
    let (staged, last) = if source == Side::Pageable || form == Form::Sync {
        // SAFETY: the caller's promise.
        unsafe { staging::copy_in(runtime, stream, to, from, bytes, patient) }?
    } else {
        (0, 0)
    };
    if staged == bytes {
        return copied_in(runtime, stream, last, form);
    }
    let (to, bytes) = (to + staged as u64, bytes - staged);
    let start = start.wrapping_add(staged);
    let record =
        |first_chunk| CopyIn { stream: stream.handle, destination: to, bytes: bytes as u64, first_chunk };
    if source == Side::Pageable && bytes <= CAPTURE_BYTES {
        // SAFETY: the caller's promise.
        let data: Box<[u8]> = unsafe { std::slice::from_raw_parts(start, bytes) }.into();
        // SAFETY: the transfer keeps the box, whose contents do not move, until it is sent.
        let captured = unsafe { RawSlice::new(data.as_ptr(), bytes) };
        let (number, _) = runtime.session.send_bulk(stream, captured, Some(data), true, record)?;
        return copied_in(runtime, stream, number, form);
    }
    // SAFETY: pinned memory the program must leave alone until the stream has read it, and it cannot free it
    // before (see `memory_state::settle`); otherwise we wait below.
    let slice = unsafe { RawSlice::new(start, bytes) };
    let read_before_return = form == Form::Sync || source == Side::Pageable;
    let (number, transfer) = runtime.session.send_bulk(stream, slice, None, read_before_return, record)?;
    if read_before_return {
        transfer.wait();
        runtime.session.check()?;
    }
    copied_in(runtime, stream, number, form)
}

/// The source of copy `number` to the device need not stay any more, or is the program's to keep. A synchronous copy
/// waits for its end where other streams could tell the difference.
///
/// # Errors
/// As [`synchronize`].
pub(crate) fn copied_in(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    number: u64,
    form: Form,
) -> Result<(), CUresult> {
    let waits = form == Form::Sync && runtime.session.tell(stream, number);
    if waits { synchronize(runtime, stream) } else { Ok(()) }
}

/// The source of an asynchronous copy is read when it is sent, not when the stream gets there: what is
/// still to be written into it by earlier work has to be waited for.
///
/// # Errors
/// The stream's, of whoever writes.
pub(crate) fn before_reading(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    from: u64,
    bytes: usize,
) -> Result<(), CUresult> {
    after_writers(runtime, from, bytes)?;
    // By host functions: of copies nothing is left. Its own stream comes behind no more than it has to.
    let range = from..from.saturating_add(bytes as u64);
    let session = &runtime.session;
    if session.counts.any_changes() && memory_state::is_to_change(session, stream, &range, 0) {
        synchronize(runtime, stream)?;
    }
    Ok(())
}

/// Data on their way into a range of host memory, which this process puts there itself, are waited for.
///
/// # Errors
/// The stream's, of whoever writes.
pub(crate) fn after_writers(runtime: &Runtime, from: u64, bytes: usize) -> Result<(), CUresult> {
    for writer in memory_state::writers(runtime, from, bytes as u64) {
        synchronize(runtime, &writer)?;
    }
    Ok(())
}

/// A copy from or to shared memory was published: the GPU reads the source and writes the destination when the
/// stream gets there, so a synchronous copy waits for that.
///
/// # Errors
/// As [`synchronize`].
pub(crate) fn shared_copied(runtime: &Runtime, stream: &Arc<Stream>, form: Form) -> Result<(), CUresult> {
    if form == Form::Sync { synchronize(runtime, stream) } else { Ok(()) }
}

/// Device to host.
///
/// # Errors
/// As [`copy`].
///
/// # Safety
/// As [`copy`].
pub(crate) unsafe fn copy_out(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    to: u64,
    from: u64,
    bytes: usize,
    target: Side,
    form: Form,
) -> Result<(), CUresult> {
    if stream.is_capturing() {
        if form == Form::Sync {
            runtime.captures.unsafe_call()?;
        }
        return within_mirrors(runtime, stream, to, from, bytes);
    }
    let waits = form == Form::Sync || target == Side::Pageable;
    let staged = if waits {
        // SAFETY: the caller's promise.
        unsafe { staging::copy_out(runtime, stream, to, from, bytes) }?
    } else {
        0
    };
    if staged == bytes {
        return Ok(());
    }
    let (to, from, bytes) = (to + staged as u64, from + staged as u64, bytes - staged);
    let record = CopyOutOp { stream: stream.handle, source: from, bytes: bytes as u64 };
    let writes = to..to.saturating_add(bytes as u64);
    receive(runtime, stream, bytes, Landing::Direct(to as usize), writes, waits, &record)
}

/// Publishes an operation whose data come back, and waits for them if told to.
///
/// # Errors
/// The stream's or session's.
fn receive<R: fusewire_wire::ops::AsyncRecord>(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    bytes: usize,
    landing: Landing,
    writes: Range<u64>,
    waits: bool,
    record: &R,
) -> Result<(), CUresult> {
    let waiter = waits.then(Waiter::new);
    let copy = Arc::new(CopyOut::new(stream.clone(), bytes, landing, writes, waiter.clone()));
    runtime.session.bring_back()?;
    runtime.session.post_copy_out(record, copy, Room::Await)?;
    match waiter {
        Some(waiter) => {
            let last = stream.last.load(Relaxed);
            runtime.session.wait_for(&waiter, bytes).inspect(|()| runtime.session.tells(stream, last))
        }
        None => {
            stats::awaits(bytes);
            Ok(())
        }
    }
}

/// Receives packed data, which `finish` puts somewhere within `writes`.
///
/// # Errors
/// As [`receive`].
pub(crate) fn receive_packed<R: fusewire_wire::ops::AsyncRecord>(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    bytes: usize,
    writes: Range<u64>,
    waits: bool,
    record: &R,
    finish: impl FnOnce(&[u8]) + Send + 'static,
) -> Result<(), CUresult> {
    receive(runtime, stream, bytes, Landing::packed(bytes, finish), writes, waits, record)
}

/// `cuStreamSynchronize`: nothing is asked when everything is known to be finished.
///
/// # Errors
/// The stream's, or one that an asynchronous call has left.
pub(crate) fn synchronize(runtime: &Runtime, stream: &Arc<Stream>) -> Result<(), CUresult> {
    if runtime.captures.any() {
        if stream.is_capturing() {
            runtime.captures.invalidate(stream.capture.load(Relaxed));
            return Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if stream.kind == super::objects::StreamKind::Legacy {
            runtime.captures.unsafe_call()?;
        }
    }
    // Also where nothing is left to wait for: a lost session is an error that stays.
    runtime.session.check()?;
    // Before it is looked what is finished: what is owed is work on its stream.
    runtime.session.bring_back()?;
    // What comes meanwhile is another caller's.
    let last = stream.last.load(Relaxed);
    if stream.is_known_finished() {
        runtime.session.tells(stream, last);
    } else {
        wait_for(runtime, stream)?;
    }
    stream.context.report()
}

#[cold]
fn wait_for(runtime: &Runtime, stream: &Arc<Stream>) -> Result<(), CUresult> {
    let number = match marks::wait(runtime, stream)? {
        Some(number) => number,
        None => runtime.session.call_numbered(&StreamSynchronize { stream: stream.handle }, &[])?.0,
    };
    runtime.session.tells(stream, number);
    runtime.session.finished(stream, number);
    Ok(())
}

/// Mirrors that a replay of this graph uses.
///
/// # Errors
/// When the server cannot map one.
pub(crate) fn replay_mirrors(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    host: &super::objects::HostUse,
) -> Result<Vec<Arc<mirror::Mirror>>, CUresult> {
    host.ranges.iter().map(|&(base, _)| mirror::ensure(runtime, &stream.context, base, 1)).collect()
}
