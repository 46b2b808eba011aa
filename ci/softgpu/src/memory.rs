//! Device memory by allocation, host memory that devices can reach, and questions about addresses.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use crate::abi::{In, Out};
use crate::capture;
use crate::context::Context;
use crate::device;
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::space::{self, Backing, Kind, Region};
use crate::vmm;

const HOST_TYPE: u32 = 1;
const DEVICE_TYPE: u32 = 2;
const PITCH_UNIT: usize = 512;

/// Takes device memory for a context and puts it into the address map.
pub(crate) fn allocate(ctx: &Context, len: u64, kind: Kind) -> Res<u64> {
    let charge = device::get(ctx.device.cast_signed())?.take(len)?;
    let base = space::new_pages(len)?;
    space::insert(Region::new(base, len, kind, ctx.device, ctx.handle, Backing::Pages).charged(charge))?;
    Ok(base)
}

fn allocate_host(ctx: &Context, out: Out<*mut c_void>, len: usize, flags: u32) -> Res {
    capture::forbid_unsafe()?;
    if len == 0 || out.is_null() || flags & !7 != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let base = space::new_pages(len as u64)?;
    let mut region =
        Region::new(base, len as u64, Kind::HostAllocated, ctx.device, ctx.handle, Backing::Pages);
    // With unified addressing every such allocation is portable and mapped, asked for or not.
    region.flags = flags;
    space::insert(region)?;
    out.set(base as *mut c_void)
}

/// Whether all pages of a range are mapped in this process.
fn is_backed(base: u64, len: u64) -> bool {
    const PAGE: u64 = 4096;
    let start = base & !(PAGE - 1);
    let Some(end) = base.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE)) else {
        return false;
    };
    let Ok(bytes) = usize::try_from(end - start) else { return false };
    let mut resident = vec![0u8; bytes / PAGE as usize];
    // SAFETY: mincore writes one byte for each page into a buffer of that size, and reads no memory.
    unsafe { libc::mincore(start as *mut c_void, bytes, resident.as_mut_ptr().cast()) == 0 }
}

/// The region a host function is about, or what NVIDIA's answers when there is none.
fn host_region(pointer: *mut c_void) -> Res<std::sync::Arc<Region>> {
    space::find(pointer as u64).filter(|region| region.is_host()).ok_or(Code::INVALID_VALUE)
}

/// One attribute of an address, as the words to write: 4 or 8 bytes.
enum Answer {
    Word(u32),
    Long(u64),
    Flag(bool),
    Absent,
}

fn attribute(address: u64, attribute: u32) -> Res<Answer> {
    let region = space::find(address);
    let Some(region) = region else {
        // Inside a reservation but unmapped, or not ours at all.
        return match attribute {
            11 | 12 => Ok(vmm::reservation(address).map_or(Answer::Absent, |(base, len)| {
                Answer::Long(if attribute == 11 { base } else { len })
            })),
            1..=21 => Ok(Answer::Absent),
            _ => Err(Code::INVALID_VALUE),
        };
    };
    Ok(match attribute {
        1 => Answer::Long(region.ctx),
        2 => Answer::Word(if region.is_host() { HOST_TYPE } else { DEVICE_TYPE }),
        3 => Answer::Long(address),
        4 if region.is_host() => Answer::Long(address),
        4 => Answer::Absent,
        6 => Answer::Word(u32::from(region.sync_memops.load(Ordering::Acquire))),
        7 => Answer::Long(region.id),
        8 => Answer::Flag(false),
        9 => Answer::Word(region.device),
        10 => Answer::Flag(false),
        11 | 19 => Answer::Long(region.base),
        12 | 18 => Answer::Long(region.len),
        13 => Answer::Flag(true),
        14 => Answer::Long(0),
        15 | 21 => Answer::Flag(false),
        16 => Answer::Word(3),
        17 => match region.kind {
            Kind::Pooled { pool } => Answer::Long(pool),
            _ => Answer::Absent,
        },
        20 => Answer::Long(region.id),
        _ => return Err(Code::INVALID_VALUE),
    })
}

/// Writes an attribute in its own size.
fn put_attribute(data: *mut c_void, which: u32, answer: &Answer) -> Res {
    if data.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let bytes = match which {
        2 | 6 | 9 | 16 => 4,
        8 | 10 | 13 | 15 | 21 => 1,
        _ => 8,
    };
    let value = match answer {
        Answer::Word(value) => u64::from(*value),
        Answer::Long(value) => *value,
        Answer::Flag(value) => u64::from(*value),
        // No device has the number -1, and everything else is zero.
        Answer::Absent if which == 9 => u64::MAX,
        Answer::Absent => 0,
    };
    // SAFETY: the program passes a pointer to the type that the attribute has, of that many bytes;
    // numbers are little-endian, so that the low ones come first.
    unsafe { std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), data.cast::<u8>(), bytes) };
    Ok(())
}

api! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) [ctx context] {
        let device = device::get(context.device.cast_signed())?;
        free.set(usize::try_from(device.free_memory()).unwrap_or(usize::MAX))?;
        total.set(usize::try_from(device.total).unwrap_or(usize::MAX))
    }

    fn cuMemAlloc_v2(out: Out<u64>, len: usize) [ctx context] {
        capture::forbid_unsafe()?;
        if len == 0 || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        out.set(allocate(context, len as u64, Kind::Plain)?)
    }

    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) [ctx context] {
        capture::forbid_unsafe()?;
        if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH_UNIT).ok_or(Code::INVALID_VALUE)?;
        let len = row.checked_mul(height).ok_or(Code::OUT_OF_MEMORY)?;
        pitch.set(row)?;
        out.set(allocate(context, len as u64, Kind::Plain)?)
    }

    fn cuMemAllocManaged(out: Out<u64>, len: usize, flags: u32) [ctx _] {
        let _ = (out, len, flags);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuMemFree_v2(address: u64) [ctx context] {
        capture::forbid_unsafe()?;
        if address == 0 {
            return Ok(());
        }
        let freeable = |region: &Region| matches!(region.kind, Kind::Plain | Kind::Pooled { .. });
        let region = space::find(address).filter(|region| region.base == address && freeable(region));
        let region = region.ok_or(Code::INVALID_VALUE)?;
        // Work that was given before the call may still use the memory.
        crate::context::get(region.ctx).unwrap_or_else(|_| context.clone()).synchronize()?;
        space::remove_at(address, freeable).map(drop).ok_or(Code::INVALID_VALUE)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, len: Out<usize>, address: u64) [ctx _] {
        let region = space::find(address).filter(|region| !region.is_host() || region.kind == Kind::HostAllocated);
        let region = region.ok_or(Code::NOT_FOUND)?;
        base.set_if_wanted(region.base);
        len.set_if_wanted(usize::try_from(region.len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn cuMemHostAlloc(out: Out<*mut c_void>, len: usize, flags: u32) [ctx context] {
        allocate_host(context, out, len, flags)
    }

    fn cuMemAllocHost_v2(out: Out<*mut c_void>, len: usize) [ctx context] {
        allocate_host(context, out, len, 0)
    }

    fn cuMemFreeHost(pointer: *mut c_void) [ctx context] {
        capture::forbid_unsafe()?;
        let region = host_region(pointer)?;
        if region.base != pointer as u64 || region.kind != Kind::HostAllocated {
            return Err(Code::INVALID_VALUE);
        }
        context.synchronize()?;
        space::remove_at(region.base, |region| region.kind == Kind::HostAllocated);
        Ok(())
    }

    fn cuMemHostRegister_v2(pointer: *mut c_void, len: usize, flags: u32) [ctx context] {
        capture::forbid_unsafe()?;
        // Memory of devices on the bus is not a thing here.
        if len == 0 || flags & !0xF != 0 || flags & 4 != 0 || !is_backed(pointer as u64, len as u64) {
            return Err(Code::INVALID_VALUE);
        }
        let base = pointer as u64;
        let mut region =
            Region::new(base, len as u64, Kind::HostRegistered, context.device, context.handle, Backing::Borrowed);
        region.flags = flags;
        space::insert(region).map(drop).map_err(|_| Code::HOST_MEMORY_ALREADY_REGISTERED)
    }

    fn cuMemHostUnregister(pointer: *mut c_void) [ctx context] {
        capture::forbid_unsafe()?;
        let registered = |region: &Region| region.kind == Kind::HostRegistered;
        let found = space::find(pointer as u64).filter(|region| region.base == pointer as u64 && registered(region));
        found.ok_or(Code::HOST_MEMORY_NOT_REGISTERED)?;
        context.synchronize()?;
        space::remove_at(pointer as u64, registered).map(drop).ok_or(Code::HOST_MEMORY_NOT_REGISTERED)
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, pointer: *mut c_void, flags: u32) [ctx _] {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        host_region(pointer)?;
        out.set(pointer as u64)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: *mut c_void) [ctx _] {
        // As with unified addressing: always mapped into the device.
        flags.set(host_region(pointer)?.flags | 2)
    }

    fn cuPointerGetAttribute(data: *mut c_void, which: u32, address: u64) [ctx _] {
        match attribute(address, which)? {
            Answer::Absent if which != 4 && which != 17 => Err(Code::INVALID_VALUE),
            Answer::Absent if space::find(address).is_none() || which == 4 => Err(Code::INVALID_VALUE),
            answer => put_attribute(data, which, &answer),
        }
    }

    fn cuPointerGetAttributes(count: u32, which: In<u32>, data: In<*mut c_void>, address: u64) [ctx _] {
        for index in 0..count as usize {
            let kind = which.at(index)?;
            put_attribute(data.at(index)?, kind, &attribute(address, kind)?)?;
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: In<u32>, which: u32, address: u64) [ctx _] {
        let region = space::find(address).ok_or(Code::INVALID_VALUE)?;
        if which != 6 {
            return Err(Code::INVALID_VALUE);
        }
        region.sync_memops.store(value.get()? != 0, Ordering::Release);
        Ok(())
    }
}
