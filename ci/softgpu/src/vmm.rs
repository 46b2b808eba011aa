//! Virtual memory management: addresses and memory taken separately, and joined at will.
//!
//! A reservation is address space of this process, at the chosen address. Physical memory is an
//! anonymous file, so that it can be mapped at several places. Mappings are regions of the address
//! map; this file keeps what belongs to none of them.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::abi::{CUmemAccessDesc, CUmemAllocationProp, CUmemLocation, In, Out};
use crate::device::{self, Charge};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::handles::{self, Registry};
use crate::space::{self, Backing, Kind, Region};
use crate::sync::lock;

const GRANULARITY: u64 = 2 << 20;
const PINNED: u32 = 1;
const DEVICE_LOCATION: u32 = 1;

static ALLOCATIONS: Registry<Allocation> = Registry::new();
static RESERVATIONS: Mutex<BTreeMap<u64, Reservation>> = Mutex::new(BTreeMap::new());

struct Allocation {
    handle: u64,
    props: CUmemAllocationProp,
    device: u32,
    len: u64,
    file: OwnedFd,
    /// How often the program holds the handle; mappings keep the memory without it.
    holds: AtomicU32,
    _charge: Charge,
}

struct Reservation {
    len: u64,
    /// Mappings that were made here, by base, with the memory that they keep: some may be out of the
    /// address map and still held by work that runs.
    mappings: Vec<Mapping>,
}

struct Mapping {
    base: u64,
    len: u64,
    region: Weak<Region>,
    /// Gone when unmapped.
    allocation: Option<Arc<Allocation>>,
}

impl Reservation {
    /// Ranges that are about to be used for something else must not be cleared by an old mapping.
    fn retire(&mut self, base: u64, len: u64) {
        self.mappings.retain(|mapping| {
            let overlaps = mapping.base < base + len && base < mapping.base + mapping.len;
            if overlaps && let Some(region) = mapping.region.upgrade() {
                region.supersede();
            }
            !overlaps
        });
    }
}

/// The reservation that holds an address.
pub(crate) fn reservation(address: u64) -> Option<(u64, u64)> {
    let all = lock(&RESERVATIONS);
    let (base, reservation) = all.range(..=address).next_back()?;
    (address < base + reservation.len).then_some((*base, reservation.len))
}

/// Runs something on the reservation that holds all of a range.
fn within<T>(base: u64, len: u64, action: impl FnOnce(&mut Reservation) -> Res<T>) -> Res<T> {
    let end = base.checked_add(len).ok_or(Code::INVALID_VALUE)?;
    let mut all = lock(&RESERVATIONS);
    let (start, reservation) = all.range_mut(..=base).next_back().ok_or(Code::INVALID_VALUE)?;
    if end > start + reservation.len {
        return Err(Code::INVALID_VALUE);
    }
    action(reservation)
}

fn is_granular(value: u64) -> bool {
    value.is_multiple_of(GRANULARITY)
}

fn located(location: CUmemLocation) -> Res<&'static device::Device> {
    if location.kind != DEVICE_LOCATION {
        return Err(Code::INVALID_VALUE);
    }
    device::get(location.id)
}

fn checked(props: &CUmemAllocationProp) -> Res<&'static device::Device> {
    if props.kind != PINNED {
        return Err(Code::INVALID_VALUE);
    }
    if props.requestedHandleTypes != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    located(props.location)
}

fn anonymous_file(len: u64) -> Res<OwnedFd> {
    // SAFETY: the name is a C string; the call touches nothing else.
    let file = unsafe { libc::memfd_create(c"softgpu".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(Code::OPERATING_SYSTEM);
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let len = libc::off_t::try_from(len).map_err(|_| Code::OUT_OF_MEMORY)?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::ftruncate(file.as_raw_fd(), len) } != 0 {
        return Err(Code::OUT_OF_MEMORY);
    }
    Ok(file)
}

fn map(base: u64, len: u64, offset: u64, handle: u64) -> Res {
    let allocation = ALLOCATIONS.get(handle)?;
    let inside = offset.checked_add(len).is_some_and(|end| end <= allocation.len);
    if len == 0 || !inside || !is_granular(base) || !is_granular(len) || !is_granular(offset) {
        return Err(Code::INVALID_VALUE);
    }
    within(base, len, |reservation| {
        let taken = |mapping: &Mapping| {
            mapping.allocation.is_some() && mapping.base < base + len && base < mapping.base + mapping.len
        };
        if reservation.mappings.iter().any(taken) {
            return Err(Code::INVALID_VALUE);
        }
        reservation.retire(base, len);
        space::map_file(base, len, allocation.file.as_raw_fd(), offset)?;
        let backing = Backing::Reserved { superseded: AtomicBool::new(false) };
        let kind = Kind::Virtual { allocation: handle };
        let region = space::insert(Region::new(base, len, kind, allocation.device, 0, backing))?;
        let region = Arc::downgrade(&region);
        reservation.mappings.push(Mapping { base, len, region, allocation: Some(allocation.clone()) });
        Ok(())
    })
}

fn unmap(base: u64, len: u64) -> Res {
    let end = base.checked_add(len).ok_or(Code::INVALID_VALUE)?;
    within(base, len, |reservation| {
        // Only whole mappings can be undone, and there must be at least one.
        let mut found = 0;
        for mapping in reservation.mappings.iter_mut().filter(|mapping| mapping.allocation.is_some()) {
            let inside = mapping.base >= base && mapping.base + mapping.len <= end;
            let outside = mapping.base >= end || mapping.base + mapping.len <= base;
            match (inside, outside) {
                (true, _) => found += mapping.len,
                (_, true) => {}
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        if found != len {
            return Err(Code::INVALID_VALUE);
        }
        for mapping in &mut reservation.mappings {
            if mapping.base >= base && mapping.base + mapping.len <= end {
                mapping.allocation = None;
            }
        }
        space::remove(|region| {
            matches!(region.kind, Kind::Virtual { .. }) && region.base >= base && region.end() <= end
        });
        Ok(())
    })
}

fn set_access(base: u64, len: u64, rights: &[CUmemAccessDesc]) -> Res {
    let end = base.checked_add(len).filter(|_| len > 0).ok_or(Code::INVALID_VALUE)?;
    let map = space::map();
    let regions: Vec<_> = map.iter().filter(|region| region.base < end && base < region.end()).collect();
    let whole = |region: &Region| {
        matches!(region.kind, Kind::Virtual { .. }) && region.base >= base && region.end() <= end
    };
    let covered: u64 = regions.iter().map(|region| region.len).sum();
    if covered != len || !regions.iter().all(|region| whole(region)) {
        return Err(Code::INVALID_VALUE);
    }
    for right in rights {
        let device = located(right.location)?.ordinal;
        if !matches!(right.flags, 0 | 1 | 3) {
            return Err(Code::INVALID_VALUE);
        }
        for region in &regions {
            let set = |bits: u32| Some(bits & !(3 << (device * 2)) | right.flags << (device * 2));
            let _ = region.access.fetch_update(Ordering::AcqRel, Ordering::Acquire, set);
        }
    }
    Ok(())
}

api! {
    fn cuMemGetAllocationGranularity(out: Out<usize>, props: In<CUmemAllocationProp>, option: u32) [init] {
        located(props.get()?.location)?;
        if option > 1 {
            return Err(Code::INVALID_VALUE);
        }
        out.set(GRANULARITY as usize)
    }

    fn cuMemAddressReserve(out: Out<u64>, len: usize, alignment: usize, wanted: u64, flags: u64) [init] {
        let (len, alignment) = (len as u64, (alignment as u64).max(GRANULARITY));
        let sound = len > 0 && is_granular(len) && alignment.is_power_of_two() && wanted.is_multiple_of(alignment);
        if out.is_null() || flags != 0 || !sound {
            return Err(Code::INVALID_VALUE);
        }
        // A wish that cannot be had is not an error; more is taken than needed, to align, then.
        let granted = if wanted == 0 { Err(Code::OUT_OF_MEMORY) } else { space::reserve(wanted, len) };
        let base = match granted {
            Ok(base) if base == wanted => base,
            other => {
                if let Ok(elsewhere) = other {
                    space::release_pages(elsewhere, len);
                }
                let padded = len.checked_add(alignment).ok_or(Code::OUT_OF_MEMORY)?;
                let start = space::reserve(0, padded)?;
                let base = start.next_multiple_of(alignment);
                if base > start {
                    space::release_pages(start, base - start);
                }
                if base + len < start + padded {
                    space::release_pages(base + len, start + padded - base - len);
                }
                base
            }
        };
        lock(&RESERVATIONS).insert(base, Reservation { len, mappings: Vec::new() });
        out.set(base)
    }

    fn cuMemAddressFree(base: u64, len: usize) [init] {
        let mut all = lock(&RESERVATIONS);
        let reservation = all.get_mut(&base).filter(|reservation| reservation.len == len as u64);
        let reservation = reservation.ok_or(Code::INVALID_VALUE)?;
        if reservation.mappings.iter().any(|mapping| mapping.allocation.is_some()) {
            return Err(Code::INVALID_VALUE);
        }
        reservation.retire(base, len as u64);
        all.remove(&base);
        space::release_pages(base, len as u64);
        Ok(())
    }

    fn cuMemCreate(out: Out<u64>, len: usize, props: In<CUmemAllocationProp>, flags: u64) [init] {
        let props = props.get()?;
        let device = checked(&props)?;
        let len = len as u64;
        if out.is_null() || flags != 0 || len == 0 || !is_granular(len) {
            return Err(Code::INVALID_VALUE);
        }
        let charge = device.take(len)?;
        let allocation = Allocation {
            handle: handles::mint(),
            props,
            device: device.ordinal,
            len,
            file: anonymous_file(len)?,
            holds: AtomicU32::new(1),
            _charge: charge,
        };
        let handle = allocation.handle;
        ALLOCATIONS.insert(handle, Arc::new(allocation));
        out.set(handle)
    }

    fn cuMemRelease(handle: u64) [init] {
        let allocation = ALLOCATIONS.find(handle).ok_or(Code::INVALID_VALUE)?;
        if allocation.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            ALLOCATIONS.remove(handle)?;
        }
        Ok(())
    }

    fn cuMemMap(base: u64, len: usize, offset: usize, handle: u64, flags: u64) [init] {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        map(base, len as u64, offset as u64, handle)
    }

    fn cuMemUnmap(base: u64, len: usize) [init] {
        unmap(base, len as u64)
    }

    fn cuMemSetAccess(base: u64, len: usize, rights: In<CUmemAccessDesc>, count: usize) [init] {
        set_access(base, len as u64, &rights.list(count)?)
    }

    fn cuMemGetAccess(flags: Out<u64>, location: In<CUmemLocation>, address: u64) [init] {
        let device = located(location.get()?)?.ordinal;
        let region = space::find(address).filter(|region| matches!(region.kind, Kind::Virtual { .. }));
        let access = region.ok_or(Code::INVALID_VALUE)?.access.load(Ordering::Acquire);
        flags.set(u64::from(access >> (device * 2) & 3))
    }

    fn cuMemGetAllocationPropertiesFromHandle(props: Out<CUmemAllocationProp>, handle: u64) [init] {
        props.set(ALLOCATIONS.find(handle).ok_or(Code::INVALID_VALUE)?.props)
    }

    fn cuMemRetainAllocationHandle(out: Out<u64>, address: *mut std::ffi::c_void) [init] {
        let address = address as u64;
        let all = lock(&RESERVATIONS);
        let (_, reservation) = all.range(..=address).next_back().ok_or(Code::INVALID_VALUE)?;
        let inside = |mapping: &&Mapping| mapping.base <= address && address < mapping.base + mapping.len;
        let mapping = reservation.mappings.iter().filter(inside).find_map(|mapping| mapping.allocation.clone());
        let allocation = mapping.ok_or(Code::INVALID_VALUE)?;
        allocation.holds.fetch_add(1, Ordering::AcqRel);
        ALLOCATIONS.insert(allocation.handle, allocation.clone());
        out.set(allocation.handle)
    }

    fn cuMemExportToShareableHandle(out: *mut std::ffi::c_void, handle: u64, kind: u32, flags: u64) [init] {
        let _ = (out, handle, kind, flags);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuMemImportFromShareableHandle(out: Out<u64>, os_handle: *mut std::ffi::c_void, kind: u32) [init] {
        let _ = (out, os_handle, kind);
        Err(Code::NOT_SUPPORTED)
    }
}
