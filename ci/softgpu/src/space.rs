//! The address space: which addresses a device may touch, and whose they are.
//!
//! Device memory is memory of this process, and a device pointer is its address. The map of regions
//! is copied when it changes; whoever executes work holds the copy that was current when the work
//! began, so no address disappears under running work, even if it is freed meanwhile — it only stops
//! being found by work that begins later.
//!
//! Nothing here decides when memory is freed; see `memory.rs`, `vmm.rs` and `pool.rs`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::device::Charge;
use crate::errors::{Code, Res};
use crate::sync::{lock, read, write};

/// What a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// From cuMemAlloc.
    Plain,
    /// From cuMemAllocAsync.
    Pooled { pool: u64 },
    /// A mapping of the VMM functions.
    Virtual { allocation: u64 },
    /// A module's variables.
    Module,
    /// From cuMemHostAlloc.
    HostAllocated,
    /// From cuMemHostRegister.
    HostRegistered,
}

/// A range of addresses that devices can reach.
pub(crate) struct Region {
    pub(crate) base: u64,
    pub(crate) len: u64,
    pub(crate) kind: Kind,
    /// Owning device, also for host memory (the device that was current).
    pub(crate) device: u32,
    /// Handle of the context it belongs to; 0 for none.
    pub(crate) ctx: u64,
    /// Flags of the host functions.
    pub(crate) flags: u32,
    /// Unique for the life of the process.
    pub(crate) id: u64,
    /// Virtual mappings: two bits for each device, read and write.
    pub(crate) access: AtomicU32,
    pub(crate) sync_memops: AtomicBool,
    charge: Mutex<Option<Charge>>,
    backing: Backing,
}

/// What keeps the pages there. Dropped when the region is out of the map and no work holds it.
pub(crate) enum Backing {
    /// Pages of our own.
    Pages,
    /// Part of a reservation: on drop the range becomes inaccessible again, unless something else has
    /// been mapped there.
    Reserved { superseded: AtomicBool },
    /// Pages of the program's, or of another region.
    Borrowed,
}

impl Region {
    pub(crate) fn new(base: u64, len: u64, kind: Kind, device: u32, ctx: u64, backing: Backing) -> Region {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Region {
            base,
            len,
            kind,
            device,
            ctx,
            flags: 0,
            id: IDS.fetch_add(1, Ordering::Relaxed),
            access: AtomicU32::new(0),
            sync_memops: AtomicBool::new(false),
            charge: Mutex::new(None),
            backing,
        }
    }

    pub(crate) fn charged(self, charge: Charge) -> Region {
        *lock(&self.charge) = Some(charge);
        self
    }

    pub(crate) fn is_host(&self) -> bool {
        matches!(self.kind, Kind::HostAllocated | Kind::HostRegistered)
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.len
    }

    /// Something else is about to be mapped over this range of a reservation.
    pub(crate) fn supersede(&self) {
        if let Backing::Reserved { superseded } = &self.backing {
            superseded.store(true, Ordering::Release);
        }
    }

    /// Whether a device may use it; `peers` has a bit for each device whose memory it may also use.
    fn allows(&self, device: u32, peers: u32, write: bool) -> bool {
        match self.kind {
            Kind::Virtual { .. } => {
                let bits = self.access.load(Ordering::Acquire) >> (device * 2);
                bits & (if write { 2 } else { 1 }) != 0
            }
            Kind::HostRegistered => !write || self.flags & 8 == 0,
            Kind::HostAllocated => true,
            Kind::Plain | Kind::Pooled { .. } | Kind::Module => {
                self.device == device || peers & (1 << self.device) != 0
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match &self.backing {
            Backing::Pages => release_pages(self.base, self.len),
            Backing::Reserved { superseded } if !superseded.load(Ordering::Acquire) => {
                let _ = make_inaccessible(self.base, self.len);
            }
            Backing::Reserved { .. } | Backing::Borrowed => {}
        }
    }
}

/// Regions in ascending order, none overlapping.
pub(crate) type Map = Vec<Arc<Region>>;

static MAP: RwLock<Option<Arc<Map>>> = RwLock::new(None);

/// The map as it is now.
pub(crate) fn map() -> Arc<Map> {
    read(&MAP).clone().unwrap_or_default()
}

/// The region that holds an address.
pub(crate) fn find(address: u64) -> Option<Arc<Region>> {
    find_in(&map(), address).cloned()
}

fn find_in(map: &Map, address: u64) -> Option<&Arc<Region>> {
    let after = map.partition_point(|region| region.base <= address);
    let region = map.get(after.checked_sub(1)?)?;
    (address < region.end()).then_some(region)
}

/// Adds a region; fails if it overlaps another.
pub(crate) fn insert(region: Region) -> Res<Arc<Region>> {
    let mut slot = write(&MAP);
    let old = slot.clone().unwrap_or_default();
    let place = old.partition_point(|other| other.base < region.base);
    let clear_before = place == 0 || old[place - 1].end() <= region.base;
    let clear_after = old.get(place).is_none_or(|next| region.end() <= next.base);
    if !clear_before || !clear_after {
        return Err(Code::INVALID_VALUE);
    }
    let region = Arc::new(region);
    let mut new = Vec::with_capacity(old.len() + 1);
    new.extend_from_slice(&old[..place]);
    new.push(region.clone());
    new.extend_from_slice(&old[place..]);
    *slot = Some(Arc::new(new));
    Ok(region)
}

/// Takes out the regions that `which` names, and gives back what was charged for them.
pub(crate) fn remove(mut which: impl FnMut(&Region) -> bool) -> Vec<Arc<Region>> {
    let mut slot = write(&MAP);
    let old = slot.clone().unwrap_or_default();
    let (gone, kept): (Map, Map) = old.iter().cloned().partition(|region| which(region));
    if !gone.is_empty() {
        *slot = Some(Arc::new(kept));
    }
    drop(slot);
    for region in &gone {
        drop(lock(&region.charge).take());
    }
    gone
}

/// Takes out the region that begins at `base`, if `which` agrees.
pub(crate) fn remove_at(base: u64, which: impl Fn(&Region) -> bool) -> Option<Arc<Region>> {
    find(base).filter(|region| region.base == base && which(region))?;
    remove(|region| region.base == base && which(region)).pop()
}

/// The address space as one piece of work on one device sees it.
pub(crate) struct View {
    map: Arc<Map>,
    device: u32,
    peers: u32,
}

impl View {
    pub(crate) fn new(device: u32, peers: u32) -> View {
        View { map: map(), device, peers }
    }

    /// Whether all of the range may be used, across adjacent regions.
    pub(crate) fn covers(&self, address: u64, len: u64, write: bool) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let mut at = address;
        loop {
            match find_in(&self.map, at) {
                Some(region) if region.allows(self.device, self.peers, write) => {
                    if end <= region.end() {
                        return true;
                    }
                    at = region.end();
                }
                _ => return false,
            }
        }
    }
}

impl View {
    /// Base, length and writability of the region around an address that may be read.
    pub(crate) fn whole(&self, address: u64) -> Option<(u64, u64, bool)> {
        let region =
            find_in(&self.map, address).filter(|region| region.allows(self.device, self.peers, false))?;
        Some((region.base, region.len, region.allows(self.device, self.peers, true)))
    }
}

/// Whether all of the range is mapped for some device: what a copy asks for.
pub(crate) fn mapped(map: &Map, address: u64, len: u64) -> bool {
    let Some(end) = address.checked_add(len) else { return false };
    let mut at = address;
    while at < end || len == 0 {
        let Some(region) = find_in(map, at) else { return false };
        if matches!(region.kind, Kind::Virtual { .. }) && region.access.load(Ordering::Acquire) == 0 {
            return false;
        }
        if len == 0 {
            return true;
        }
        at = region.end();
    }
    true
}

/// Zeroed pages at an address of the system's choice.
pub(crate) fn new_pages(len: u64) -> Res<u64> {
    let len = usize::try_from(len).map_err(|_| Code::OUT_OF_MEMORY)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping disturbs nothing.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED { Err(Code::OUT_OF_MEMORY) } else { Ok(base as u64) }
}

/// Takes address space without memory; at `wanted` unless that is 0.
pub(crate) fn reserve(wanted: u64, len: u64) -> Res<u64> {
    let len = usize::try_from(len).map_err(|_| Code::OUT_OF_MEMORY)?;
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    if wanted != 0 {
        flags |= libc::MAP_FIXED_NOREPLACE;
    }
    // SAFETY: the mapping replaces nothing.
    let base = unsafe { libc::mmap(wanted as *mut libc::c_void, len, libc::PROT_NONE, flags, -1, 0) };
    if base == libc::MAP_FAILED { Err(Code::OUT_OF_MEMORY) } else { Ok(base as u64) }
}

/// Puts part of a file over a reserved range.
pub(crate) fn map_file(base: u64, len: u64, file: libc::c_int, offset: u64) -> Res {
    let (Ok(len), Ok(offset)) = (usize::try_from(len), libc::off_t::try_from(offset)) else {
        return Err(Code::INVALID_VALUE);
    };
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller has checked that the range is part of a reservation of ours.
    let at = unsafe { libc::mmap(base as *mut libc::c_void, len, protection, flags, file, offset) };
    if at == libc::MAP_FAILED { Err(Code::OUT_OF_MEMORY) } else { Ok(()) }
}

fn make_inaccessible(base: u64, len: u64) -> Res {
    let len = usize::try_from(len).map_err(|_| Code::INVALID_VALUE)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is part of a reservation of ours, and nothing uses it any more.
    let at = unsafe { libc::mmap(base as *mut libc::c_void, len, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(Code::OUT_OF_MEMORY) } else { Ok(()) }
}

pub(crate) fn release_pages(base: u64, len: u64) {
    if let Ok(len) = usize::try_from(len) {
        // SAFETY: the range was mapped by `new_pages` or `reserve` and nothing refers to it any more.
        unsafe { libc::munmap(base as *mut libc::c_void, len) };
    }
}
