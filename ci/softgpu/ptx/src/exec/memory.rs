//! From device addresses to host pointers, and the accesses themselves.
//!
//! All device memory is accessed as host atomics: device threads race by
//! design, and a plain access that races would be undefined here. On x86 an
//! acquire load and a release store are plain moves.

use super::{Fault, Memory, Region};
use crate::decode::{LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use crate::inst::{Atom, AtomOp};
use crate::types::Ty;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Offsets into shared memory: the low bits; above them the rank of the block
/// in its cluster plus one, or zero for the own block.
pub(super) const RANK_SHIFT: u32 = 24;
const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

/// A range of host memory that lives as long as the unit or launch using it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    ptr: *mut u8,
    len: usize,
}

impl Span {
    /// Words, so that every aligned offset is aligned on the host too.
    pub(super) fn of(words: &mut [u64]) -> Span {
        Span { ptr: words.as_mut_ptr().cast(), len: words.len() * 8 }
    }

    /// The first `len` bytes only.
    pub(super) fn cut(self, len: usize) -> Span {
        Span { ptr: self.ptr, len: self.len.min(len) }
    }

    fn at(self, off: u64, len: usize, shown: u64) -> Result<*mut u8, Fault> {
        if off & (len as u64 - 1) != 0 {
            return Err(Fault::Misaligned { addr: shown });
        }
        if off.checked_add(len as u64).is_none_or(|e| e > self.len as u64) {
            return Err(Fault::IllegalAddress { addr: shown });
        }
        // SAFETY: `off + len` was just checked to lie within the span.
        Ok(unsafe { self.ptr.add(off as usize) })
    }
}

/// What a thread can address besides global memory.
pub(super) struct Spaces<'a> {
    /// Shared memory of each block of the cluster, by rank.
    pub(super) shared: &'a [Span],
    pub(super) rank: usize,
    pub(super) local: Span,
    pub(super) params: Span,
}

/// Global memory, with the regions last used.
pub(super) struct GlobalMemory<'a> {
    memory: &'a dyn Memory,
    recent: [Region; 4],
    next: usize,
}

impl<'a> GlobalMemory<'a> {
    pub(super) fn new(memory: &'a dyn Memory) -> Self {
        let none = Region { base: 0, len: 0, ptr: std::ptr::null_mut(), writable: false };
        GlobalMemory { memory, recent: [none; 4], next: 0 }
    }

    /// A pointer to `len` (a power of two) bytes at a global address.
    #[inline]
    fn at(&mut self, addr: u64, len: usize, write: bool) -> Result<*mut u8, Fault> {
        if addr & (len as u64 - 1) != 0 {
            return Err(Fault::Misaligned { addr });
        }
        for r in &self.recent {
            let off = addr.wrapping_sub(r.base);
            if off < r.len && r.len - off >= len as u64 && (r.writable || !write) {
                // SAFETY: the region is `r.len` bytes long and `off + len`
                // does not exceed it.
                return Ok(unsafe { r.ptr.add(off as usize) });
            }
        }
        self.ask(addr, len, write)
    }

    #[cold]
    fn ask(&mut self, addr: u64, len: usize, write: bool) -> Result<*mut u8, Fault> {
        let p = self.memory.resolve(addr, len, write)?;
        if (p as usize) & (len.min(16) - 1) != 0 {
            // The implementation broke its promise about alignment, and an
            // atomic access through this pointer would be undefined.
            return Err(Fault::Misaligned { addr });
        }
        if let Some(r) = self.memory.region(addr)
            && (r.ptr as u64 ^ r.base) & 15 == 0
        {
            self.recent[self.next % 4] = r;
            self.next = (self.next + 1) % 4;
        }
        Ok(p)
    }

    /// Calls `f` with each piece of a range that has no useful alignment.
    fn bytes(
        &mut self,
        s: &Spaces<'_>,
        addr: u64,
        len: usize,
        write: bool,
        mut f: impl FnMut(usize, *mut u8),
    ) -> Result<(), Fault> {
        for i in 0..len {
            let p = self.generic(s, addr.wrapping_add(i as u64), 1, write)?;
            f(i, p);
        }
        Ok(())
    }

    /// A pointer for a generic address.
    #[inline]
    pub(super) fn generic(
        &mut self,
        s: &Spaces<'_>,
        addr: u64,
        len: usize,
        write: bool,
    ) -> Result<*mut u8, Fault> {
        if addr < SHARED_BASE {
            return self.at(addr, len, write);
        }
        let off = addr & (WINDOW - 1);
        match addr - off {
            SHARED_BASE if off <= u64::from(u32::MAX) => shared(s, off as u32, len),
            LOCAL_BASE => s.local.at(off, len, addr),
            PARAM_BASE if !write => s.params.at(off, len, addr),
            _ => Err(Fault::IllegalAddress { addr }),
        }
    }

    /// Copies between generic addresses, filling up with zeros.
    pub(super) fn copy(
        &mut self,
        s: &Spaces<'_>,
        dst: u64,
        src: u64,
        bytes: usize,
        have: usize,
    ) -> Result<(), Fault> {
        let have = have.min(bytes);
        // The largest asynchronous copy is what shared memory can hold.
        if bytes > 1 << 20 {
            return Err(Fault::IllegalInstruction(format!("an asynchronous copy of {bytes} bytes")));
        }
        let mut data = vec![0u8; bytes];
        self.bytes(s, src, have, false, |i, p| {
            // SAFETY: `p` was resolved for one readable byte.
            data[i] = unsafe { AtomicU8::from_ptr(p) }.load(Ordering::Acquire);
        })?;
        self.bytes(s, dst, bytes, true, |i, p| {
            // SAFETY: `p` was resolved for one writable byte.
            unsafe { AtomicU8::from_ptr(p) }.store(data[i], Ordering::Release);
        })
    }

    /// A NUL-terminated string, cut at `max` bytes.
    pub(super) fn string(&mut self, s: &Spaces<'_>, addr: u64, max: usize) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        while out.len() < max {
            let p = self.generic(s, addr.wrapping_add(out.len() as u64), 1, false)?;
            // SAFETY: `p` was resolved for one readable byte.
            let b = unsafe { load(p, Ty::U8) } as u8;
            if b == 0 {
                break;
            }
            out.push(b);
        }
        Ok(out)
    }
}

/// A pointer into the shared memory of the cluster.
#[inline]
pub(super) fn shared(s: &Spaces<'_>, off: u32, len: usize) -> Result<*mut u8, Fault> {
    let rank = match (off >> RANK_SHIFT) as usize {
        0 => s.rank,
        n => n - 1,
    };
    let shown = SHARED_BASE + u64::from(off);
    match s.shared.get(rank) {
        Some(m) => m.at(u64::from(off & OFFSET_MASK), len, shown),
        None => Err(Fault::IllegalAddress { addr: shown }),
    }
}

pub(super) fn local(s: &Spaces<'_>, off: u32, len: usize) -> Result<*mut u8, Fault> {
    let off = u64::from(off);
    s.local.at(off, len, LOCAL_BASE + off)
}

pub(super) fn param(s: &Spaces<'_>, off: u64, len: usize) -> Result<*mut u8, Fault> {
    s.params.at(off, len, PARAM_BASE.wrapping_add(off))
}

/// Loads a value, extended by the signedness of its type.
///
/// # Safety
/// `p` is valid for reads of `ty.bytes()` bytes and aligned to them.
#[inline]
pub(super) unsafe fn load(p: *mut u8, ty: Ty) -> u64 {
    // SAFETY: the caller's promise; `from_ptr` needs nothing more, as every
    // access to device memory is atomic.
    unsafe {
        match ty.bytes() {
            1 => {
                let v = AtomicU8::from_ptr(p).load(Ordering::Acquire);
                if ty == Ty::S8 { v as i8 as u64 } else { v.into() }
            }
            2 => {
                let v = AtomicU16::from_ptr(p.cast()).load(Ordering::Acquire);
                if ty == Ty::S16 { v as i16 as u64 } else { v.into() }
            }
            4 => {
                let v = AtomicU32::from_ptr(p.cast()).load(Ordering::Acquire);
                if ty == Ty::S32 { v as i32 as u64 } else { v.into() }
            }
            _ => AtomicU64::from_ptr(p.cast()).load(Ordering::Acquire),
        }
    }
}

/// Stores the low bytes of a value.
///
/// # Safety
/// `p` is valid for writes of `ty.bytes()` bytes and aligned to them.
#[inline]
pub(super) unsafe fn store(p: *mut u8, ty: Ty, v: u64) {
    // SAFETY: as for `load`.
    unsafe {
        match ty.bytes() {
            1 => AtomicU8::from_ptr(p).store(v as u8, Ordering::Release),
            2 => AtomicU16::from_ptr(p.cast()).store(v as u16, Ordering::Release),
            4 => AtomicU32::from_ptr(p.cast()).store(v as u32, Ordering::Release),
            _ => AtomicU64::from_ptr(p.cast()).store(v, Ordering::Release),
        }
    }
}

/// A read-modify-write; gives the old value.
///
/// # Safety
/// `p` is valid for reads and writes of `a.ty.bytes()` bytes and aligned to
/// them.
pub(super) unsafe fn atomic(p: *mut u8, a: &Atom, operand: u64, swap: u64) -> u64 {
    macro_rules! update {
        ($cell:ty, $int:ty) => {{
            // SAFETY: the caller's promise.
            let cell = unsafe { <$cell>::from_ptr(p.cast()) };
            let mut old = cell.load(Ordering::Acquire);
            loop {
                let new = apply(a.op, a.ty, u64::from(old), operand, swap) as $int;
                match cell.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(v) => return u64::from(v),
                    Err(v) => old = v,
                }
            }
        }};
    }
    match a.ty.bytes() {
        2 => update!(AtomicU16, u16),
        4 => update!(AtomicU32, u32),
        _ => update!(AtomicU64, u64),
    }
}

fn apply(op: AtomOp, ty: Ty, old: u64, b: u64, swap: u64) -> u64 {
    let signed = |v: u64| match ty {
        Ty::S32 => v as i32 as i64,
        _ => v as i64,
    };
    let unsigned = |v: u64| match ty.bytes() {
        2 => v & 0xffff,
        4 => v & 0xffff_ffff,
        _ => v,
    };
    match op {
        AtomOp::Add => crate::alu::atomic_float(crate::alu::FloatOp::Add, ty, old, b)
            .unwrap_or_else(|| old.wrapping_add(b)),
        AtomOp::Min | AtomOp::Max => {
            let max = op == AtomOp::Max;
            let float = if max { crate::alu::FloatOp::Max } else { crate::alu::FloatOp::Min };
            if let Some(v) = crate::alu::atomic_float(float, ty, old, b) {
                return v;
            }
            let less = if ty.is_signed() { signed(b) < signed(old) } else { unsigned(b) < unsigned(old) };
            if less != max { b } else { old }
        }
        AtomOp::Inc => {
            if unsigned(old) >= unsigned(b) {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || unsigned(old) > unsigned(b) {
                b
            } else {
                old - 1
            }
        }
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if unsigned(old) == unsigned(b) {
                swap
            } else {
                old
            }
        }
    }
}
