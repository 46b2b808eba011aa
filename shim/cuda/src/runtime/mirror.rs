//! Host memory that kernels use: mirrored on the server at the same address, over links that share none.
//!
//! Before a launch that is given an address in such memory, what the program has changed there is sent;
//! after it, what the kernel has changed is brought back. "Changed" is found by comparing with a shadow of
//! what both ends last agreed on, so that neither end overwrites what the other has written since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fusewire_wire::ops::table::{CopyInInline, CopyOut as CopyOutOp, HostMirror, INLINE_BYTES};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;

use super::Runtime;
use super::memory::Place;
use super::objects::{Context, Stream};
use super::session::{CopyOut, Landing, Pending, lock};

const PAGE: u64 = 4096;

/// One mirrored range: whole pages, of which the program uses a part.
pub(crate) struct Mirror {
    pub(crate) base: u64,
    pub(crate) bytes: usize,
    /// Where the part begins that is compared and carried.
    start: u64,
    /// What both ends last agreed on, of that part. Never held while something is published, which may wait for
    /// the I/O thread: that one takes it.
    shadow: Mutex<Box<[u8]>>,
    /// Held by who sends changes, until they are published. Taken before `shadow`.
    sending: Mutex<()>,
}

impl Mirror {
    /// Memory that the server has itself: there is nothing to compare or carry.
    fn of_shared(region: &super::memory::Region) -> Self {
        let bytes = usize::try_from(region.bytes).unwrap_or(usize::MAX);
        let shadow = Mutex::new(Box::default());
        Self { base: region.base, bytes, start: region.base, shadow, sending: Mutex::default() }
    }
}

#[derive(Default)]
pub(crate) struct Mirrors(Mutex<BTreeMap<u64, Arc<Mirror>>>);

impl Mirrors {
    fn find(&self, address: u64) -> Option<Arc<Mirror>> {
        let mirrors = lock(&self.0);
        let (_, mirror) = mirrors.range(..=address).next_back()?;
        (address - mirror.base < mirror.bytes as u64).then(|| mirror.clone())
    }

    /// Forgets the mirror of a range, and returns it if there was one.
    pub(crate) fn forget(&self, base: u64, bytes: u64) -> Option<(u64, u64)> {
        let mut mirrors = lock(&self.0);
        let (&at, mirror) = mirrors.range(..base.saturating_add(bytes)).next_back()?;
        if at + mirror.bytes as u64 <= base {
            return None;
        }
        mirrors.remove(&at).map(|mirror| (mirror.base, mirror.bytes as u64))
    }
}

/// The mirror that holds a range of host memory, made if there is none.
///
/// # Errors
/// When the server cannot map the range, or it straddles the end of a mirror.
pub(crate) fn ensure(
    runtime: &Runtime,
    context: &Context,
    address: u64,
    bytes: u64,
) -> Result<Arc<Mirror>, CUresult> {
    if let Some(region) = runtime.memory.find(address).filter(super::memory::Region::is_shared) {
        let fits = address + bytes <= region.base + region.bytes;
        return if fits { Ok(Arc::new(Mirror::of_shared(&region))) } else { Err(CUDA_ERROR_INVALID_VALUE) };
    }
    if let Some(mirror) = runtime.mirrors.find(address) {
        let fits = address + bytes <= mirror.base + mirror.bytes as u64;
        return if fits { Ok(mirror) } else { Err(CUDA_ERROR_INVALID_VALUE) };
    }
    let (start, end, own_pages) = match runtime.memory.find(address) {
        Some(region) if region.is_host() => {
            (region.base, region.base + region.bytes, matches!(region.place, Place::Pinned { .. }))
        }
        _ => (address, address + bytes, false),
    };
    let base = start & !(PAGE - 1);
    let bytes = end.next_multiple_of(PAGE) - base;
    if super::log::traces() {
        eprintln!("fusewire: {bytes} bytes of host memory at {base:#x} are mirrored for {address:#x}");
    }
    runtime.session.call(&HostMirror { context: context.handle, address: base, bytes }, &[])?;
    // Pinned memory has its pages to itself; other memory may share one with more that is asked for later.
    let (start, end) = if own_pages { (start, end) } else { (base, base + bytes) };
    let used = usize::try_from(end - start).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let bytes = usize::try_from(bytes).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let shadow = Mutex::new(vec![0; used].into_boxed_slice());
    let mirror = Arc::new(Mirror { base, bytes, start, shadow, sending: Mutex::default() });
    lock(&runtime.mirrors.0).insert(base, mirror.clone());
    Ok(mirror)
}

/// Sends what the program has changed in a mirror, before the next operation on the stream.
///
/// # Errors
/// When the session is over.
pub(crate) fn push(runtime: &Runtime, stream: &Stream, mirror: &Mirror) -> Result<(), CUresult> {
    let _sending = lock(&mirror.sending);
    let mut at = 0;
    let mut block = [0u8; PAGE as usize];
    let mut run: Vec<u8> = Vec::new();
    let mut run_at = 0;
    let used = lock(&mirror.shadow).len();
    while at < used {
        let length = block.len().min(used - at);
        let source = std::ptr::with_exposed_provenance::<u8>(mirror.start as usize + at);
        let mut shadow = lock(&mirror.shadow);
        // SAFETY: mirrored memory is the program's pinned memory, mapped as long as the mirror is known; a
        // race with the program's own stores is the race that a kernel would see.
        unsafe { std::ptr::copy_nonoverlapping(source, block.as_mut_ptr(), length) };
        let changed = shadow[at..at + length] != block[..length];
        if changed {
            shadow[at..at + length].copy_from_slice(&block[..length]);
        }
        drop(shadow);
        if changed {
            if run.is_empty() {
                run_at = at;
            }
            run.extend_from_slice(&block[..length]);
        }
        at += length;
        if !run.is_empty() && (!changed || run.len() + block.len() > INLINE_BYTES || at >= used) {
            let record = CopyInInline {
                stream: stream.handle,
                destination: mirror.start + run_at as u64,
                bytes: run.len() as u64,
            };
            runtime.session.post_on(stream, &record, &[&run])?;
            run.clear();
        }
    }
    Ok(())
}

/// Brings back what the device has changed in a mirror, after the last operation on the stream.
///
/// # Errors
/// When the session is over.
pub(crate) fn pull(runtime: &Runtime, stream: &Arc<Stream>, mirror: &Arc<Mirror>) -> Result<(), CUresult> {
    let before = lock(&mirror.shadow).clone();
    let used = before.len();
    if used == 0 {
        return Ok(());
    }
    let target = mirror.clone();
    let finish = move |now: &[u8]| merge(&target, &before, now);
    let copy = Arc::new(CopyOut {
        stream: stream.clone(),
        bytes: used,
        landing: Landing::Packed(
            Mutex::new(vec![0; used].into_boxed_slice()),
            Mutex::new(Some(Box::new(finish))),
        ),
        writes: mirror.start..mirror.start + used as u64,
        waiter: None,
    });
    let record = CopyOutOp { stream: stream.handle, source: mirror.start, bytes: used as u64 };
    runtime.session.copies_out.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    runtime.session.post_pending(Some(stream), &record, &[], |_| Pending::CopyOut(copy))?;
    Ok(())
}

/// Writes what the device changed, `before` to `now`, into the program's memory.
fn merge(mirror: &Mirror, before: &[u8], now: &[u8]) {
    let mut shadow = lock(&mirror.shadow);
    for (block, (old, new)) in before.chunks(64).zip(now.chunks(64)).enumerate() {
        if old == new {
            continue;
        }
        for (n, (old, new)) in old.iter().zip(new).enumerate() {
            if old != new {
                let at = block * 64 + n;
                if let Some(byte) = shadow.get_mut(at) {
                    *byte = *new;
                }
                let target = std::ptr::with_exposed_provenance_mut::<u8>(mirror.start as usize + at);
                // SAFETY: inside the mirror's range, which is mapped: freeing waits for pending copies.
                unsafe { target.write_volatile(*new) };
            }
        }
    }
}

/// A stream has written a word of mirrored memory.
pub(crate) fn word(address: u64, value: u64, bytes: u32) {
    let Ok(runtime) = super::get() else { return };
    let Some(mirror) = runtime.mirrors.find(address) else { return };
    let Some(offset) = address.checked_sub(mirror.start).and_then(|at| usize::try_from(at).ok()) else {
        return;
    };
    let value = value.to_le_bytes();
    let value = &value[..if bytes == 8 { 8 } else { 4 }];
    let mut shadow = lock(&mirror.shadow);
    let Some(room) = shadow.get_mut(offset..offset + value.len()) else { return };
    room.copy_from_slice(value);
    let target = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the range was checked against the mirror; the program polls this word.
    unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), target, value.len()) };
}

/// The mirrors of host memory that a parameter buffer points to.
///
/// # Errors
/// When the server cannot map one.
#[inline]
pub(crate) fn pointed_to(
    runtime: &Runtime,
    context: &Context,
    parameters: &[u8],
) -> Result<Vec<Arc<Mirror>>, CUresult> {
    if !runtime.memory.has_host() {
        return Ok(Vec::new());
    }
    let mut found: Vec<Arc<Mirror>> = Vec::new();
    for word in parameters.chunks_exact(8) {
        let Ok(word) = <[u8; 8]>::try_from(word) else { continue };
        let address = u64::from_le_bytes(word);
        if address < PAGE || address >> 47 != 0 {
            continue;
        }
        let needs_mirror = |region: &super::memory::Region| region.is_host() && !region.is_shared();
        if !runtime.memory.map().find(address).is_some_and(needs_mirror) {
            continue;
        }
        if super::log::traces() {
            eprintln!("fusewire: parameters of {} bytes name {address:#x} in host memory", parameters.len());
        }
        let mirror = ensure(runtime, context, address, 1)?;
        if !found.iter().any(|known| known.base == mirror.base) {
            found.push(mirror);
        }
    }
    Ok(found)
}
