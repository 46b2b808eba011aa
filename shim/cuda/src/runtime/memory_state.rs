//! Allocation: the window, the heaps of the contexts, pinned memory, and what is where. Pinned memory that is the
//! server's as well is made in [`super::shared`].

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fusewire_wire::ops::table::{BlockMap, BlockUnmap, HostUnmirror};
use fusewire_wire::ops::window::{DEVICE_BYTES_LEAST, HOST_BASE, HOST_BYTES};

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY};
use crate::abi::types::CUresult;

use super::Runtime;
use super::kept::{self, Kept};
use super::memory::{ALIGNMENT, Heap, Map, Place, Ranges, Region, SMALL, Share};
use super::objects::{Context, Stream};
use super::pending::{Pending, Reclaim};
use super::session::{Session, lock};
use super::shared::{self, Shared};
use super::waiter::Waiter;

pub(super) const PAGE: u64 = 4096;
/// Memory of at least this size is had in pages of this size where the kernel has such: it looks up each page that
/// it sends from.
const LARGE_PAGE: u64 = 2 << 20;

/// Freed pieces are handed to the server's judgement when they come to this many bytes or pieces.
const QUARANTINE_BYTES: u64 = 4 << 20;
const QUARANTINE_PIECES: usize = 256;

pub(crate) struct Memory {
    map: RwLock<Map>,
    /// Regions of host memory that the server does not have, for a look without the lock.
    host_regions: AtomicUsize,
    device_addresses: Range<u64>,
    device_window: Mutex<Ranges>,
    pub(super) host_window: Mutex<Ranges>,
    /// Memory for the host window that is the server's as well, if the link has it.
    pub(super) shared: Option<Shared>,
    /// Blocks that were freed and not given back.
    pub(crate) kept: Kept,
    /// What `cuMemAddressReserve` has given out: address and bytes.
    reserved: Mutex<std::collections::BTreeMap<u64, u64>>,
}

/// Reserves an address range without memory behind it.
fn reserve(base: u64, bytes: u64) -> Result<(), String> {
    let address = std::ptr::with_exposed_provenance_mut::<libc::c_void>(base as usize);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE fails rather than replace a mapping of the program's.
    let at = unsafe { libc::mmap(address, bytes as usize, libc::PROT_NONE, flags, -1, 0) };
    if at == address {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if at != libc::MAP_FAILED {
        // SAFETY: an old kernel took the address as a hint; this mapping is ours alone.
        unsafe { libc::munmap(at, bytes as usize) };
    }
    Err(format!(
        "reserving the {} GiB of addresses at {base:#x} that device pointers live in failed: {error}; the address space is limited (ulimit -v) or used by something else",
        bytes >> 30
    ))
}

impl Memory {
    pub(crate) fn new(
        base: u64,
        bytes: u64,
        devices: usize,
        shared: Option<OwnedFd>,
    ) -> Result<Self, String> {
        reserve(HOST_BASE, HOST_BYTES)?;
        let mut bytes = bytes;
        while let Err(why) = reserve(base, bytes) {
            // The rest may be used by something else, or be more than this process may have.
            bytes /= 4;
            if bytes < DEVICE_BYTES_LEAST {
                return Err(why);
            }
        }
        Ok(Self {
            device_addresses: base..base.saturating_add(bytes),
            map: RwLock::default(),
            host_regions: AtomicUsize::new(0),
            device_window: Mutex::new(Ranges::new(base, bytes)),
            host_window: Mutex::new(Ranges::new(HOST_BASE, HOST_BYTES)),
            shared: shared.map(Shared::new),
            kept: Kept::new(devices),
            reserved: Mutex::default(),
        })
    }

    #[inline]
    pub(crate) fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn has_host(&self) -> bool {
        self.host_regions.load(Relaxed) != 0
    }

    /// The region that holds an address.
    pub(crate) fn find(&self, address: u64) -> Option<Region> {
        self.map().find(address).copied()
    }

    /// Addresses in the device window, for `cuMemAddressReserve`.
    pub(crate) fn take_addresses(&self, at: u64, bytes: u64, alignment: u64) -> Option<u64> {
        let mut window = lock(&self.device_window);
        if at != 0 && window.take_at(at, bytes) {
            return Some(at);
        }
        window.take(bytes, alignment)
    }

    /// Addresses are free again.
    pub(crate) fn give_all(&self, addresses: Vec<(u64, u64)>) {
        for (base, bytes) in addresses {
            self.give_addresses(base, bytes);
        }
    }

    pub(crate) fn give_addresses(&self, at: u64, bytes: u64) {
        lock(&self.device_window).give(at, bytes);
    }

    pub(crate) fn note_reserved(&self, at: u64, bytes: u64) {
        lock(&self.reserved).insert(at, bytes);
    }

    /// Whether a range lies in a reservation of the program's.
    pub(crate) fn is_reserved(&self, at: u64, bytes: u64) -> bool {
        let reserved = lock(&self.reserved);
        let Some((&base, &size)) = reserved.range(..=at).next_back() else { return false };
        at.checked_add(bytes).is_some_and(|end| end <= base + size)
    }

    /// Ends a reservation, if it is exactly this one.
    pub(crate) fn forget_reserved(&self, at: u64, bytes: u64) -> bool {
        let mut reserved = lock(&self.reserved);
        let exact = reserved.get(&at) == Some(&bytes);
        if exact {
            reserved.remove(&at);
        }
        exact
    }

    pub(crate) fn is_window(&self, address: u64) -> bool {
        self.device_addresses.contains(&address)
    }
}

fn granularity(runtime: &Runtime, device: usize) -> u64 {
    runtime.devices.get(device).map_or(2 << 20, |d| d.snapshot.info.granularity.clamp(1 << 12, 1 << 30))
}

/// Maps `bytes` (whole blocks) of new memory.
fn map_blocks(runtime: &Runtime, context: &Context, bytes: u64) -> Result<u64, CUresult> {
    let granularity = granularity(runtime, context.device);
    let address = runtime.memory.take_addresses(0, bytes, granularity).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
    let map = || runtime.session.call(&BlockMap { context: context.handle, address, bytes }, &[]);
    let mapped = match map() {
        // The server waits for what is on its way back.
        Err(CUDA_ERROR_OUT_OF_MEMORY) if kept::give_back(runtime, context.device) => map(),
        other => other,
    };
    mapped.map(|_| address).inspect_err(|_| runtime.memory.give_addresses(address, bytes))
}

/// Allocates device memory, as `cuMemAlloc`.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for no bytes, `CUDA_ERROR_OUT_OF_MEMORY`, or the session's.
pub(crate) fn allocate(
    runtime: &Runtime,
    context: &Context,
    bytes: usize,
    pooled: bool,
) -> Result<u64, CUresult> {
    if bytes == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let granularity = granularity(runtime, context.device);
    let bytes = bytes as u64;
    let total = runtime.devices.get(context.device).map_or(u64::MAX, |d| d.snapshot.info.total_memory);
    if bytes > total {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    let memory = &runtime.memory;
    let place = |block| Place::Device { block, pooled };
    if bytes >= SMALL.min(granularity) {
        let whole = bytes.next_multiple_of(granularity);
        let address = match kept::take(runtime, context, whole, !pooled)? {
            Some(address) => address,
            None => match map_blocks(runtime, context, whole) {
                Err(CUDA_ERROR_OUT_OF_MEMORY) if trim(runtime, context) => {
                    map_blocks(runtime, context, whole)?
                }
                other => other?,
            },
        };
        memory.map_mut().insert(address, bytes, place(true), context.handle, context.device);
        return Ok(address);
    }
    let need = bytes.next_multiple_of(ALIGNMENT);
    let mut heap = context.small.heap();
    let address = match heap.pieces.take(need, ALIGNMENT) {
        Some(address) => address,
        None => match take_quarantined(runtime, context, &mut heap, need) {
            Some(address) => address,
            None => {
                drop_quarantine(runtime, context, &mut heap)?;
                let block = map_blocks(runtime, context, granularity)?;
                heap.blocks.push((block, granularity));
                heap.pieces.give(block, granularity);
                heap.pieces.take(need, ALIGNMENT).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?
            }
        },
    };
    drop(heap);
    memory.map_mut().insert(address, bytes, place(false), context.handle, context.device);
    Ok(address)
}

/// Gives shared blocks that hold nothing back to the device. `true` if there were any.
fn trim(runtime: &Runtime, context: &Context) -> bool {
    let mut heap = context.small.heap();
    // What is quarantined comes back too late for this allocation, but for the next one.
    let _ = drop_quarantine(runtime, context, &mut heap);
    let mut freed = Vec::new();
    let Heap { pieces, blocks, .. } = &mut *heap;
    blocks.retain(|&(base, bytes)| {
        let empty = pieces.take_at(base, bytes);
        if empty {
            freed.push((base, bytes));
        }
        !empty
    });
    drop(heap);
    for &(base, bytes) in &freed {
        let _ = unmap(runtime, context, base, bytes);
    }
    !freed.is_empty()
}

/// A piece from the quarantine, if the work that may use what is there is known to be finished.
fn take_quarantined(runtime: &Runtime, context: &Context, heap: &mut Heap, bytes: u64) -> Option<u64> {
    if heap.quarantine.is_empty() || !kept::is_idle(runtime, context) {
        return None;
    }
    heap.quarantined = 0;
    for (address, bytes) in heap.quarantine.drain(..) {
        heap.pieces.give(address, bytes);
    }
    heap.pieces.take(bytes, ALIGNMENT)
}

fn drop_quarantine(runtime: &Runtime, context: &Context, heap: &mut Heap) -> Result<(), CUresult> {
    if heap.quarantine.is_empty() {
        return Ok(());
    }
    let pieces = std::mem::take(&mut heap.quarantine);
    heap.quarantined = 0;
    let reclaim = Reclaim::Pieces { context: context.handle, heap: heap.number, pieces };
    kept::fence(runtime, context, Pending::Reclaim(reclaim))
}

fn unmap(runtime: &Runtime, context: &Context, address: u64, bytes: u64) -> Result<(), CUresult> {
    runtime.session.post_pending(
        None,
        &BlockUnmap { context: context.handle, address, bytes },
        &[],
        |_| Pending::Reclaim(Reclaim::Range(address, bytes)),
    )?;
    Ok(())
}

/// The region that a free of `address` may end.
fn take_device(runtime: &Runtime, address: u64) -> Result<Region, CUresult> {
    let mut map = runtime.memory.map_mut();
    match map.at(address) {
        Some(Region { place: Place::Device { .. }, .. }) => {
            map.remove(address).ok_or(CUDA_ERROR_INVALID_VALUE)
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// Frees device memory, as `cuMemFree`: it is used again when the work that may use it is finished. `in_order`: as
/// `cuMemFreeAsync`.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for what was not allocated.
pub(crate) fn free(runtime: &Runtime, address: u64, in_order: bool) -> Result<(), CUresult> {
    let region = take_device(runtime, address)?;
    let Some(handles) = runtime.devices.get(region.device) else { return Err(CUDA_ERROR_INVALID_VALUE) };
    let owner = match super::handles::object(region.context) {
        Some(super::handles::Object::Context(context)) => context,
        _ => handles.primary.clone(),
    };
    release(runtime, &owner, &region, in_order)
}

fn release(
    runtime: &Runtime,
    context: &Arc<Context>,
    region: &Region,
    in_order: bool,
) -> Result<(), CUresult> {
    if let Place::Device { block: true, .. } = region.place {
        let whole = region.bytes.next_multiple_of(granularity(runtime, region.device));
        return kept::keep(runtime, context, region.base, whole, in_order);
    }
    let mut heap = context.small.heap();
    let bytes = region.bytes.next_multiple_of(ALIGNMENT);
    if kept::is_idle(runtime, context) {
        heap.pieces.give(region.base, bytes);
        return Ok(());
    }
    heap.quarantine.push((region.base, bytes));
    heap.quarantined += bytes;
    if heap.quarantined > QUARANTINE_BYTES || heap.quarantine.len() > QUARANTINE_PIECES {
        drop_quarantine(runtime, context, &mut heap)?;
    }
    Ok(())
}

/// The work that may have used freed memory is finished. For the I/O thread: takes no lock that is held across a
/// call.
pub(crate) fn reclaim(reclaim: Reclaim) {
    let Ok(runtime) = super::get() else { return };
    match reclaim {
        Reclaim::Range(address, bytes) => runtime.memory.give_addresses(address, bytes),
        Reclaim::Kept { device, id } => runtime.memory.kept.ready(device, id),
        Reclaim::Pieces { context, heap, pieces } => {
            if let Some(super::handles::Object::Context(context)) = super::handles::object(context) {
                context.small.give(heap, pieces);
            }
        }
        Reclaim::HostWindow(address, bytes) => drop(lock(&runtime.memory.host_window).give(address, bytes)),
        Reclaim::Slot(slot) => shared::give_slot(runtime, slot),
        Reclaim::Host(address, bytes, share) => shared::reclaim(runtime, address, bytes, share),
    }
}

/// Allocates pinned host memory, as `cuMemHostAlloc`: the server's as well where the link can have it so. Over a
/// network it is the client's own until a kernel is given its address.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE`, `CUDA_ERROR_OUT_OF_MEMORY`.
pub(crate) fn allocate_host(
    runtime: &Runtime,
    context: &Context,
    bytes: usize,
    flags: u32,
) -> Result<u64, CUresult> {
    if bytes == 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if let Some((address, share)) = shared::allocate(runtime, bytes as u64)? {
        let place = Place::Pinned { flags, share };
        runtime.memory.map_mut().insert(address, bytes as u64, place, context.handle, context.device);
        return Ok(address);
    }
    let whole = (bytes as u64).checked_next_multiple_of(PAGE).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
    let alignment = if whole >= LARGE_PAGE { LARGE_PAGE } else { PAGE };
    let address = lock(&runtime.memory.host_window).take(whole, alignment).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
    let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address as usize);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: replaces a part of our own reservation that nobody else was given.
    let at = unsafe { libc::mmap(pointer, whole as usize, protection, how, -1, 0) };
    if at != pointer {
        lock(&runtime.memory.host_window).give(address, whole);
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    if alignment == LARGE_PAGE {
        // SAFETY: advice about the mapping that was just made.
        unsafe { libc::madvise(pointer, whole as usize, libc::MADV_HUGEPAGE) };
    }
    runtime.memory.map_mut().insert(
        address,
        bytes as u64,
        Place::Pinned { flags, share: Share::No },
        context.handle,
        context.device,
    );
    runtime.memory.host_regions.fetch_add(1, Relaxed);
    Ok(address)
}

/// Frees pinned host memory, once nothing is read from it or written to it any more.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for what was not allocated so.
pub(crate) fn free_host(runtime: &Runtime, address: u64) -> Result<(), CUresult> {
    let region = {
        let map = runtime.memory.map();
        match map.at(address) {
            Some(region @ Region { place: Place::Pinned { .. }, .. }) => *region,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
    };
    settle(runtime, region.base, region.bytes);
    runtime.memory.map_mut().remove(address);
    if let Place::Pinned { share: share @ (Share::Pages | Share::Piece), .. } = region.place {
        shared::free(runtime, address, region.bytes, share);
        return Ok(());
    }
    runtime.memory.host_regions.fetch_sub(1, Relaxed);
    let whole = region.bytes.next_multiple_of(PAGE);
    // First: a stream may be about to have it looked at.
    let mirrored = forget_mirror(runtime, &region);
    put_back(address, whole);
    let Some(record) = mirrored else {
        lock(&runtime.memory.host_window).give(address, whole);
        return Ok(());
    };
    // A session that is over has nothing to give back.
    let reclaim = Pending::Reclaim(Reclaim::HostWindow(address, whole));
    let _ = runtime.session.post_pending(None, &record, &[], |_| reclaim);
    Ok(())
}

/// Puts the reservation back over memory that the program has given up.
pub(super) fn put_back(address: u64, bytes: u64) {
    let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address as usize);
    let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: replaces a part of our own reservation that nobody uses any more.
    unsafe { libc::mmap(pointer, bytes as usize, libc::PROT_NONE, how, -1, 0) };
}

/// Enters the program's own memory as registered.
///
/// # Errors
/// `CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED` when a part of it is.
pub(crate) fn register(
    runtime: &Runtime,
    context: &Context,
    base: u64,
    bytes: u64,
    flags: u32,
) -> Result<(), CUresult> {
    let mut map = runtime.memory.map_mut();
    if map.overlaps(base, bytes) {
        return Err(crate::abi::result::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    }
    map.insert(base, bytes, Place::Registered { flags }, context.handle, context.device);
    runtime.memory.host_regions.fetch_add(1, Relaxed);
    Ok(())
}

/// Ends a registration.
///
/// # Errors
/// `CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED`.
pub(crate) fn unregister(runtime: &Runtime, base: u64) -> Result<(), CUresult> {
    let region = {
        let map = runtime.memory.map();
        match map.at(base) {
            Some(region @ Region { place: Place::Registered { .. }, .. }) => *region,
            _ => return Err(crate::abi::result::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED),
        }
    };
    settle(runtime, region.base, region.bytes);
    runtime.memory.map_mut().remove(base);
    runtime.memory.host_regions.fetch_sub(1, Relaxed);
    if let Some(record) = forget_mirror(runtime, &region) {
        // The program may register the same addresses next.
        let waiter = Waiter::new();
        let mine = waiter.clone();
        runtime.session.post_pending(None, &record, &[], |_| Pending::Call(mine))?;
        runtime.session.wait_for(&waiter, 0)?;
    }
    Ok(())
}

/// Forgets the mirror of a region, if it has one, and gives what is to be posted for that.
fn forget_mirror(runtime: &Runtime, region: &Region) -> Option<HostUnmirror> {
    let (base, bytes) = runtime.mirrors.forget(region.base, region.bytes)?;
    Some(HostUnmirror { context: region.context, address: base, bytes })
}

/// Waits until no copy reads from or writes to a range of host memory.
pub(crate) fn settle(runtime: &Runtime, base: u64, bytes: u64) {
    for transfer in runtime.session.transfers.reading(base, bytes) {
        transfer.wait();
    }
    for stream in writers(runtime, base, bytes) {
        // An error there is the stream's to report. One that is gone is not to be synchronised, and its copy comes
        // all the same. (While something is captured the context is not known to be finished.)
        let ended = super::copies::synchronize(runtime, &stream);
        if ended.is_err() && !runtime.captures.any() {
            runtime.session.wait_for_context(&stream.context, 0);
        }
    }
}

/// Streams that are copying into a range of host memory.
pub(crate) fn writers(runtime: &Runtime, base: u64, bytes: u64) -> Vec<Arc<Stream>> {
    // A session that is over writes nothing.
    let _ = runtime.session.bring_back();
    if !runtime.session.counts.any_copies_out() {
        return Vec::new();
    }
    let range = base..base.saturating_add(bytes);
    writing(lock(&runtime.session.pending).values(), &range)
}

fn writing<'a>(pending: impl Iterator<Item = &'a Pending>, range: &Range<u64>) -> Vec<Arc<Stream>> {
    pending
        .filter_map(|pending| match pending {
            Pending::CopyOut(copy) if copy.writes_to(range) => Some(copy.stream.clone()),
            _ => None,
        })
        .collect()
}

/// Whether a range of host memory may be changed, and the device not know of it, before `stream` gets to what it is about
/// to be given, by something that it did not come behind after its operation `since`.
pub(crate) fn is_to_change(session: &Session, stream: &Stream, range: &Range<u64>, since: u64) -> bool {
    let words = session.words.load(Relaxed);
    lock(&session.pending).iter().any(|(number, pending)| {
        let concerns = match pending {
            Pending::CopyOut(copy) => copy.writes_to(range),
            _ => true,
        };
        concerns && pending.changes().is_some_and(|on| stream.may_come_behind(*number, on, since, words))
    })
}

/// A context is going, and all its memory with it: nothing of it is found any more. Gives the addresses, which are to
/// be given out again ([`Memory::give_all`]) once the context's end is published: what is mapped there behind it waits
/// for it on the server, and what came before it would find the addresses taken.
#[must_use]
pub(crate) fn forget_context(runtime: &Runtime, context: &Context) -> Vec<(u64, u64)> {
    let mut map = runtime.memory.map_mut();
    let gone: Vec<Region> = map
        .regions()
        .filter(|r| r.context == context.handle && matches!(r.place, Place::Device { .. } | Place::Global))
        .copied()
        .collect();
    for region in &gone {
        map.remove(region.base);
    }
    drop(map);
    let blocks = gone.iter().filter(|region| matches!(region.place, Place::Device { block: true, .. }));
    let whole = |region: &Region| region.bytes.next_multiple_of(granularity(runtime, region.device));
    let mut addresses: Vec<(u64, u64)> = blocks.map(|region| (region.base, whole(region))).collect();
    addresses.extend(runtime.memory.kept.forget(context));
    addresses.extend(context.small.renew());
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::copy_out::{CopyOut, Landing};
    use crate::runtime::objects::StreamKind;
    use crate::runtime::waiter::Waiter;

    #[test]
    fn whoever_writes_a_range_is_found_wherever_the_data_land_first() {
        let context = Arc::new(Context::new(0x10, 0, true, 0, 0));
        let copy = |handle, landing, writes| {
            let stream = Arc::new(Stream::new(handle, context.clone(), StreamKind::Created, 0, 0));
            Pending::CopyOut(Arc::new(CopyOut::new(stream, 64, landing, writes, None)))
        };
        let packed = || Landing::Packed(Mutex::new(Box::new([0; 64])), Mutex::new(None));
        let pending = [
            copy(0x20, Landing::Direct(0x1000), 0x1000..0x1040),
            // Four rows of 16 bytes, 256 bytes apart.
            copy(0x30, packed(), 0x2000..0x2310),
            Pending::Call(Waiter::new()),
        ];
        let found = |from, to| -> Vec<u64> {
            writing(pending.iter(), &(from..to)).iter().map(|stream| stream.handle).collect()
        };
        assert_eq!(found(0x103f, 0x1040), [0x20]);
        assert_eq!(found(0x1040, 0x2000), []);
        assert_eq!(found(0x2300, 0x2301), [0x30], "the last row");
        assert_eq!(found(0x2310, 0x4000), []);
        assert_eq!(found(0x1000, 0x3000), [0x20, 0x30]);
    }
}
