//! Device memory at addresses that the client chooses, and host memory mirrored at the client's address.
//!
//! Blocks are the program's ordinary allocations: created, mapped and made accessible in one go, inside the
//! window that was reserved when the session opened. They are taken back by a fence (`fences`). What the program
//! maps itself (`Vmm…`) lies in the same window and follows the program's own calls.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ops::Range as Span;
use std::os::fd::{AsRawFd, OwnedFd};

use fusewire_wire::ops::table::{
    BlockMap, BlockUnmap, HostMirror, HostShare, HostUnmirror, HostUnshare, HostWrite, INLINE_BYTES,
    VmmCreate, VmmMap, VmmSetAccess, VmmUnmap,
};
use fusewire_wire::ops::window;
use fusewire_wire::ops::{Call, Nothing, Status};
use rustix::fs::{FallocateFlags, fallocate};

use super::fences::{Purpose, Unshare};
use super::gpu::{Allocation, Gpu};
use super::pinned::{self, Home};
use super::ranges::{Kind, Range};
use crate::driver::layouts::{AccessDesc, AllocationProp, Location};
use crate::driver::{
    Driver, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NOT_FOUND, OUT_OF_MEMORY, check, snapshot,
};

/// cuMemHostRegister: portable, device-mapped.
const MIRROR_FLAGS: u32 = 1 | 2;
const PAGE: u64 = 4096;
/// Where the addresses of processes end.
const USER_ADDRESSES: u64 = 1 << 47;
const READ_WRITE: u32 = 3;

/// What the session knows of a device.
#[derive(Clone, Copy, Debug)]
struct Device {
    granularity: u64,
    /// Bit d: device d can be given access to this one's memory.
    peers: u64,
}

/// The session's window and what waits for room in it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    window: Span<u64>,
    devices: Vec<Device>,
    /// Blocks that did not fit while memory was on its way back.
    waiting: VecDeque<(u64, BlockMap)>,
    mirrored: u64,
    /// What is shared with the client: the whole host window, by offset.
    shared: Option<OwnedFd>,
    /// Bit d: the session has or had a context on device d, which reaches its memory.
    active: u64,
}

impl Memory {
    /// Reserves the session's window.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn reserve(d: &Driver) -> Result<Self, Status> {
        let mut count = 0;
        // SAFETY: a live integer.
        check(unsafe { d.cuDeviceGetCount(&raw mut count) })?;
        let count = count.clamp(0, 64);
        let devices = (0..count)
            .map(|device| Device {
                granularity: snapshot::granularity(d, device),
                peers: (0..count)
                    .filter(|&peer| peer != device && can_access(d, peer, device))
                    .fold(0, |m, p| m | 1 << p),
            })
            .collect();
        let (mut base, mut bytes) = (0, window::DEVICE_BYTES);
        let mut reserve = |bytes| {
            // SAFETY: the result is a live integer. The reservation stays until the process ends.
            check(unsafe { d.cuMemAddressReserve(&raw mut base, bytes as usize, 0, window::DEVICE_BASE, 0) })
        };
        while let Err(status) = reserve(bytes) {
            bytes /= 4;
            if bytes < window::DEVICE_BYTES_LEAST {
                return Err(status);
            }
        }
        Ok(Self { window: base..base + bytes, devices, ..Self::default() })
    }

    pub(super) fn window(&self) -> Span<u64> {
        self.window.clone()
    }

    /// The client has this memory, too, as its host window.
    pub(super) fn share(&mut self, memory: OwnedFd) {
        self.shared = Some(memory);
    }

    fn device(&self, device: i32) -> Result<Device, Status> {
        let index = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
        self.devices.get(index).copied().ok_or(INVALID_DEVICE)
    }

    fn in_window(&self, start: u64, bytes: u64) -> bool {
        bytes != 0
            && start >= self.window.start
            && start.checked_add(bytes).is_some_and(|end| end <= self.window.end)
    }
}

/// Bytes of memory that this machine has.
fn physical_memory() -> u64 {
    // SAFETY: two plain questions to the C library.
    let (pages, bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(bytes).unwrap_or(0))
}

/// Where whole pages lie in the host window, if they do.
fn offset_in_host_window(start: u64, bytes: u64) -> Option<u64> {
    let offset = start.checked_sub(window::HOST_BASE)?;
    let end = offset.checked_add(bytes)?;
    let whole = bytes != 0 && start.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE);
    (whole && end <= window::HOST_BYTES).then_some(offset)
}

fn can_access(d: &Driver, device: i32, peer: i32) -> bool {
    let mut can = 0;
    // SAFETY: a live integer.
    let status = unsafe { d.cuDeviceCanAccessPeer(&raw mut can, device, peer) };
    status == 0 && can != 0
}

impl Gpu {
    pub(super) fn block_map(&mut self, call: Call, record: &BlockMap) -> Result<Option<Nothing>, Status> {
        self.enter(record.context)?;
        match self.map_block(record) {
            Err(status) if self.may_still_fit(status) => {
                self.memory.waiting.push_back((call.number, *record));
                Ok(None)
            }
            other => other.map(|()| Some(Nothing {})),
        }
    }

    /// Whether a block that was refused may fit once what is on its way back is there. A context that goes leaves
    /// its addresses to the client at once, and its memory when its work is finished.
    fn may_still_fit(&self, status: Status) -> bool {
        match status {
            OUT_OF_MEMORY => self.fences.frees_memory(),
            INVALID_VALUE => self.fences.purges(),
            _ => false,
        }
    }

    fn map_block(&mut self, record: &BlockMap) -> Result<(), Status> {
        let device_number = self.contexts.get(record.context)?.device;
        let device = self.memory.device(device_number)?;
        let (address, bytes) = (record.address, record.bytes);
        if !address.is_multiple_of(device.granularity)
            || !bytes.is_multiple_of(device.granularity)
            || !self.memory.in_window(address, bytes)
            || !self.ranges.is_free(address, bytes)
        {
            return Err(INVALID_VALUE);
        }
        let mut handle = 0;
        let size = bytes as usize;
        let prop = AllocationProp::on_device(device_number);
        let access: Vec<AccessDesc> = std::iter::once(device_number)
            .chain((0..64).filter(|peer| device.peers & self.memory.active & 1 << peer != 0))
            .map(|id| AccessDesc { location: Location { kind: 1, id }, flags: READ_WRITE })
            .collect();
        // SAFETY: every pointer is live; the address was checked to be free and inside our reservation.
        let status = unsafe {
            check(self.d.cuMemCreate(&raw mut handle, size, &raw const prop, 0)).and_then(|()| {
                let mapped = check(self.d.cuMemMap(address, size, 0, handle, 0)).and_then(|()| {
                    check(self.d.cuMemSetAccess(address, size, access.as_ptr(), access.len())).inspect_err(
                        |_| {
                            self.d.cuMemUnmap(address, size);
                        },
                    )
                });
                // The mapping keeps the memory; without one it goes now.
                self.d.cuMemRelease(handle);
                mapped
            })
        };
        self.ok(status.err().unwrap_or(0))?;
        self.ranges.add(Range { start: address, bytes, kind: Kind::Block { context: record.context } });
        Ok(())
    }

    /// The session uses a device: it is given access to what the session has on its peers.
    pub(super) fn admit_device(&mut self, device: i32) {
        if self.memory.active & 1 << device != 0 {
            return;
        }
        self.memory.active |= 1 << device;
        let access = AccessDesc { location: Location { kind: 1, id: device }, flags: READ_WRITE };
        for range in self.ranges.blocks() {
            let Kind::Block { context } = range.kind else { continue };
            let owner = self.contexts.get(context).and_then(|context| self.memory.device(context.device));
            if owner.is_ok_and(|owner| owner.peers & 1 << device != 0) {
                // SAFETY: a whole mapping of ours, a live description. Without the access, a copy between the
                // two goes through the host.
                unsafe { self.d.cuMemSetAccess(range.start, range.bytes as usize, &raw const access, 1) };
            }
        }
    }

    /// Memory has come back: blocks that waited for it are tried again.
    pub(super) fn retry_maps(&mut self) {
        while let Some((number, record)) = self.memory.waiting.pop_front() {
            let result = self.enter(record.context).and_then(|_| self.map_block(&record));
            if result.is_err_and(|status| self.may_still_fit(status)) {
                self.memory.waiting.push_front((number, record));
                return;
            }
            self.out.reply(number, result.err().unwrap_or(0), &[], &[]);
        }
    }

    pub(super) fn block_unmap(&mut self, call: Call, record: &BlockUnmap) -> Result<(), Status> {
        self.contexts.get(record.context)?;
        self.concerned = record.context;
        let wanted = |kind| matches!(kind, Kind::Block { .. });
        let ranges = self.ranges.take(record.address, record.bytes, wanted).ok_or(INVALID_VALUE)?;
        self.fence(record.context, Purpose::Unmap { number: call.number, ranges });
        Ok(())
    }

    pub(super) fn unmap(&mut self, ranges: &[Range]) {
        for range in ranges {
            // SAFETY: a whole mapping of ours whose work is finished. In a lost context the driver may refuse;
            // the memory goes with the process then.
            unsafe { self.d.cuMemUnmap(range.start, range.bytes as usize) };
        }
    }

    pub(super) fn mem_info(&mut self, context: u64) -> Result<(u64, u64), Status> {
        self.enter(context)?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both are live.
        let status = unsafe { self.d.cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        self.ok(status)?;
        Ok((free as u64, total as u64))
    }

    pub(super) fn vmm_create(&mut self, record: &VmmCreate) -> Result<(), Status> {
        self.mint("allocation", record.allocation, self.allocations.has(record.allocation))?;
        let device = self.memory.device(record.device)?;
        if record.bytes == 0 || record.bytes > window::DEVICE_BYTES || record.compression > 1 {
            return Err(INVALID_VALUE);
        }
        // The minimum granularity may be finer than ours; the driver judges that.
        debug_assert!(device.granularity != 0);
        let prop = AllocationProp {
            compression: record.compression as u8,
            ..AllocationProp::on_device(record.device)
        };
        let mut raw = 0;
        // SAFETY: the pointers are live.
        check(unsafe { self.d.cuMemCreate(&raw mut raw, record.bytes as usize, &raw const prop, 0) })?;
        self.allocations.put(record.allocation, Allocation { raw, bytes: record.bytes });
        Ok(())
    }

    pub(super) fn vmm_release(&mut self, handle: u64) -> Result<(), Status> {
        let allocation = self.allocations.take(handle)?;
        // SAFETY: ours. Mappings keep the memory.
        check(unsafe { self.d.cuMemRelease(allocation.raw) })
    }

    pub(super) fn vmm_map(&mut self, record: &VmmMap) -> Result<(), Status> {
        let allocation = self.allocations.get(record.allocation)?;
        let inside = record.offset.checked_add(record.bytes).is_some_and(|end| end <= allocation.bytes);
        if !inside
            || !self.memory.in_window(record.address, record.bytes)
            || !self.ranges.is_free(record.address, record.bytes)
        {
            return Err(INVALID_VALUE);
        }
        let (bytes, offset) = (record.bytes as usize, record.offset as usize);
        // SAFETY: the address is free and inside our reservation, the part is inside the allocation.
        check(unsafe { self.d.cuMemMap(record.address, bytes, offset, allocation.raw, 0) })?;
        self.ranges.add(Range { start: record.address, bytes: record.bytes, kind: Kind::Mapped });
        Ok(())
    }

    pub(super) fn vmm_unmap(&mut self, record: &VmmUnmap) -> Result<(), Status> {
        let taken = self.ranges.take(record.address, record.bytes, |kind| kind == Kind::Mapped);
        let ranges = taken.ok_or(INVALID_VALUE)?;
        let mut result = Ok(());
        for range in ranges {
            // SAFETY: a whole mapping of ours.
            let status = unsafe { self.d.cuMemUnmap(range.start, range.bytes as usize) };
            if status != 0 {
                self.ranges.add(range);
                result = Err(status);
            }
        }
        result
    }

    pub(super) fn vmm_set_access(&mut self, record: &VmmSetAccess) -> Result<(), Status> {
        self.memory.device(record.device)?;
        if !matches!(record.flags, 0 | 1 | READ_WRITE) || !self.memory.in_window(record.address, record.bytes)
        {
            return Err(INVALID_VALUE);
        }
        self.covered(record.address, record.bytes)?;
        let access = AccessDesc { location: Location { kind: 1, id: record.device }, flags: record.flags };
        // SAFETY: the range is mapped and ours, the description is live.
        check(unsafe { self.d.cuMemSetAccess(record.address, record.bytes as usize, &raw const access, 1) })
    }

    pub(super) fn host_mirror(&mut self, record: &HostMirror) -> Result<(), Status> {
        self.enter(record.context)?;
        let (start, bytes) = (record.address, record.bytes);
        // Memory that the program registered lies wherever the program had it. What this process has at that
        // address is not touched: the mapping fails then.
        let sane = bytes != 0
            && start != 0
            && start.checked_add(bytes).is_some_and(|end| {
                end <= USER_ADDRESSES && (end <= self.memory.window.start || start >= self.memory.window.end)
            });
        if !sane || !start.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) {
            return Err(INVALID_VALUE);
        }
        // Pinned memory is the whole machine's: one session gets a quarter of it at most.
        if self.memory.mirrored.saturating_add(bytes) > physical_memory() / 4 {
            return Err(OUT_OF_MEMORY);
        }
        if !self.ranges.is_free(start, bytes) {
            return Err(INVALID_VALUE);
        }
        let size = bytes as usize;
        let hint =
            map_exactly(start, size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, None)?;
        // SAFETY: our own fresh mapping.
        let status = unsafe { self.d.cuMemHostRegister_v2(hint, size, MIRROR_FLAGS) };
        if let Err(status) = self.ok(status) {
            // SAFETY: as above; the driver does not know it.
            unsafe { libc::munmap(hint, size) };
            return Err(status);
        }
        self.ranges.add(Range { start, bytes, kind: Kind::Mirror { context: record.context } });
        self.memory.mirrored += bytes;
        Ok(())
    }

    pub(super) fn host_write(&mut self, record: &HostWrite, tail: &[u8]) -> Result<(), Status> {
        let bytes = usize::try_from(record.bytes).ok().filter(|&bytes| bytes <= INLINE_BYTES);
        let data = bytes.and_then(|bytes| tail.get(..bytes)).ok_or(INVALID_VALUE)?;
        let range = self.ranges.find(record.address).ok_or(INVALID_VALUE)?;
        let Kind::Mirror { context } = range.kind else { return Err(INVALID_VALUE) };
        self.concerned = context;
        if record.bytes > range.bytes - (record.address - range.start) {
            return Err(INVALID_VALUE);
        }
        // SAFETY: inside a mapping of ours, which nobody in this process has a reference into. What of it the GPU
        // uses meanwhile is the program's affair, as it is with memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), record.address as *mut u8, data.len()) };
        Ok(())
    }

    pub(super) fn host_unmirror(&mut self, call: Call, record: &HostUnmirror) -> Result<(), Status> {
        self.contexts.get(record.context)?;
        self.concerned = record.context;
        let wanted = |kind| matches!(kind, Kind::Mirror { .. });
        let ranges = self.ranges.take(record.address, record.bytes, wanted).ok_or(INVALID_VALUE)?;
        self.fence(record.context, Purpose::Unmirror { number: call.number, ranges });
        Ok(())
    }

    pub(super) fn unmirror(&mut self, ranges: &[Range]) {
        for range in ranges {
            if let Kind::Mirror { context } = range.kind {
                // The registration is portable, so any context would do; a lost one does not keep it from going.
                let _ = self.enter(context);
            }
            let forgotten = self.streams.forget_mirrored(&(range.start..range.start + range.bytes));
            self.awaited = self.awaited.saturating_sub(forgotten);
            let start = range.start as *mut c_void;
            // SAFETY: a whole mapping of ours whose work is finished, and which nobody will read.
            unsafe {
                self.d.cuMemHostUnregister(start);
                libc::munmap(start, range.bytes as usize);
            }
            self.memory.mirrored = self.memory.mirrored.saturating_sub(range.bytes);
        }
    }

    pub(super) fn host_share(&mut self, record: &HostShare) -> Result<(), Status> {
        let (start, bytes) = (record.address, record.bytes);
        let memory = self.memory.shared.as_ref().ok_or(INVALID_VALUE)?;
        let home = self.home.ok_or(INVALID_CONTEXT)?;
        let offset = offset_in_host_window(start, bytes).ok_or(INVALID_VALUE)?;
        if !self.ranges.is_free(start, bytes) {
            return Err(INVALID_VALUE);
        }
        // As for mirrors: pinned memory is the whole machine's.
        if self.memory.mirrored.saturating_add(bytes) > physical_memory() / 4 {
            return Err(OUT_OF_MEMORY);
        }
        let size = bytes as usize;
        let offset = libc::off_t::try_from(offset).map_err(|_| INVALID_VALUE)?;
        // The memory is sealed: no peer can take it away under the mapping.
        let mapped = map_exactly(start, size, libc::MAP_SHARED, Some((memory.as_raw_fd(), offset)))?;
        if let Err(status) = pinned::register(self.d, home, mapped, size) {
            // SAFETY: what was just mapped; the driver does not know it.
            unsafe { libc::munmap(mapped, size) };
            return Err(status);
        }
        self.ranges.add(Range { start, bytes, kind: Kind::Shared });
        self.memory.mirrored += bytes;
        Ok(())
    }

    pub(super) fn host_unshare(&mut self, call: Call, record: &HostUnshare) -> Result<(), Status> {
        let ranges = match record.bytes {
            0 => Vec::new(),
            bytes => {
                self.ranges.take(record.address, bytes, |kind| kind == Kind::Shared).ok_or(INVALID_VALUE)?
            }
        };
        self.fence_all(Unshare { number: call.number, ranges });
        Ok(())
    }

    pub(super) fn unshare(&mut self, ranges: &[Range]) {
        for range in ranges {
            let start = range.start as *mut c_void;
            if let Some(Home(home)) = self.home {
                let mut before = std::ptr::null_mut();
                // SAFETY: a live context; a whole registration of ours whose work is finished.
                unsafe {
                    self.d.cuCtxPushCurrent_v2(home);
                    self.d.cuMemHostUnregister(start);
                    self.d.cuCtxPopCurrent_v2(&raw mut before);
                }
            }
            // SAFETY: a whole mapping of ours.
            unsafe { libc::munmap(start, range.bytes as usize) };
            self.memory.mirrored = self.memory.mirrored.saturating_sub(range.bytes);
            if let Some(memory) = &self.memory.shared {
                // Gives the pages back. If the system cannot, they go with the session.
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(memory, hole, range.start - window::HOST_BASE, range.bytes);
            }
        }
    }

    /// Takes back all memory that belongs to a context.
    pub(super) fn drop_memory(&mut self, context: u64) {
        let blocks = self.ranges.take_all(|kind| kind == Kind::Block { context });
        self.unmap(&blocks);
        let mirrors = self.ranges.take_all(|kind| kind == Kind::Mirror { context });
        self.unmirror(&mirrors);
    }

    /// Remembers where a global lies, so that it can be copied to and from. A global that the driver gave
    /// twice is there already.
    pub(super) fn note_global(&mut self, start: u64, bytes: u64, owner: u64) -> Result<(), Status> {
        if start == 0 {
            return Err(NOT_FOUND);
        }
        self.ranges.add(Range { start, bytes, kind: Kind::Global { owner } });
        Ok(())
    }
}

/// Maps memory at this address and no other, and replaces nothing.
///
/// # Errors
/// `OUT_OF_MEMORY` when this process has something there.
fn map_exactly(
    start: u64,
    size: usize,
    flags: i32,
    file: Option<(libc::c_int, libc::off_t)>,
) -> Result<*mut c_void, Status> {
    let hint = start as *mut c_void;
    let (fd, offset) = file.unwrap_or((-1, 0));
    // SAFETY: MAP_FIXED_NOREPLACE takes an address that nobody uses or none at all.
    let mapped = unsafe {
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        libc::mmap(hint, size, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
    };
    if mapped == libc::MAP_FAILED {
        return Err(OUT_OF_MEMORY);
    }
    if mapped != hint {
        // A kernel older than the flag took the address as a hint.
        // SAFETY: what was just mapped.
        unsafe { libc::munmap(mapped, size) };
        return Err(OUT_OF_MEMORY);
    }
    Ok(mapped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_wire::ops::window::{HOST_BASE, HOST_BYTES};

    #[test]
    fn only_whole_pages_of_the_host_window_can_be_shared() {
        assert_eq!(offset_in_host_window(HOST_BASE + 8192, PAGE), Some(8192));
        assert_eq!(offset_in_host_window(HOST_BASE, HOST_BYTES), Some(0));
        for (start, bytes) in [
            (0, PAGE),
            (HOST_BASE - PAGE, PAGE),
            (HOST_BASE - PAGE, 2 * PAGE),
            (HOST_BASE, 0),
            (HOST_BASE, PAGE - 1),
            (HOST_BASE + 1, PAGE),
            (HOST_BASE, HOST_BYTES + PAGE),
            (HOST_BASE + HOST_BYTES, PAGE),
            (HOST_BASE + PAGE, u64::MAX - PAGE + 1),
            (u64::MAX - PAGE + 1, PAGE),
        ] {
            assert_eq!(offset_in_host_window(start, bytes), None, "{start:#x} {bytes:#x}");
        }
    }
}
