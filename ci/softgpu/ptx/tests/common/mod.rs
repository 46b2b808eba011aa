//! A small device for the tests: one range of memory, bounds checked.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use softgpu_ptx::{Fault, Kernel, Launch, Memory, Module, Region, run};
use std::cell::{Cell, UnsafeCell};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// Where the device's memory starts, as kernels see it.
pub(crate) const BASE: u64 = 0x10_0000_0000;

pub(crate) struct Device {
    words: UnsafeCell<Vec<u128>>,
    len: usize,
    top: Cell<usize>,
    pub(crate) module: Module,
    addrs: Vec<u64>,
    pub(crate) said: Mutex<String>,
    pub(crate) cancel: AtomicBool,
    /// Whether to offer whole regions to the interpreter.
    pub(crate) regions: bool,
}

struct View(*mut u8, usize, bool);

// SAFETY: the interpreter accesses the memory with atomics only, and the test
// waits for it.
unsafe impl Sync for View {}

impl Memory for View {
    fn resolve(&self, addr: u64, len: usize, _write: bool) -> Result<*mut u8, Fault> {
        let off = addr.wrapping_sub(BASE);
        if off.checked_add(len as u64).is_none_or(|e| e > self.1 as u64) {
            return Err(Fault::IllegalAddress { addr });
        }
        // SAFETY: within the allocation, as just checked.
        Ok(unsafe { self.0.add(off as usize) })
    }

    fn region(&self, _addr: u64) -> Option<Region> {
        self.2.then_some(Region { base: BASE, len: self.1 as u64, ptr: self.0, writable: true })
    }
}

/// Plain values that can lie in device memory.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for i64 {}
impl Plain for f32 {}
impl Plain for f64 {}

/// One kernel argument.
pub(crate) enum Arg<'a> {
    Ptr(u64),
    I32(i32),
    F32(f32),
    Bytes(&'a [u8], usize),
}

impl Device {
    pub(crate) fn new(ptx: &str) -> Device {
        let module = Module::parse(ptx).unwrap();
        let len = 16 << 20;
        let mut d = Device {
            words: UnsafeCell::new(vec![0; len / 16]),
            len,
            top: Cell::new(0),
            module,
            addrs: Vec::new(),
            said: Mutex::new(String::new()),
            cancel: AtomicBool::new(false),
            regions: true,
        };
        d.addrs = d.module.globals().iter().map(|g| d.alloc_bytes(g.size.max(1))).collect();
        for (g, at) in d.module.globals().iter().zip(&d.addrs) {
            d.write_bytes(*at, &g.init);
            for (off, symbol, addend) in &g.relocs {
                let target = d
                    .module
                    .globals()
                    .iter()
                    .position(|o| o.name == *symbol)
                    .map(|i| d.addrs[i])
                    .or_else(|| d.module.function_address(symbol))
                    .unwrap();
                let v = target.wrapping_add_signed(*addend);
                d.write_bytes(at + *off as u64, &v.to_le_bytes());
            }
        }
        d
    }

    pub(crate) fn alloc_bytes(&self, n: usize) -> u64 {
        let at = self.top.get();
        self.top.set((at + n).next_multiple_of(256));
        assert!(self.top.get() <= self.len);
        BASE + at as u64
    }

    fn ptr(&self) -> *mut u8 {
        // SAFETY: no other reference to the vector exists while it is asked
        // for its buffer; the tests run one launch at a time.
        unsafe { (*self.words.get()).as_mut_ptr().cast() }
    }

    pub(crate) fn write_bytes(&self, at: u64, v: &[u8]) {
        let off = (at - BASE) as usize;
        assert!(off + v.len() <= self.len);
        // SAFETY: within the buffer, and nothing runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), self.ptr().add(off), v.len()) };
    }

    pub(crate) fn put<T: Plain>(&self, v: &[T]) -> u64 {
        let n = std::mem::size_of_val(v);
        let at = self.alloc_bytes(n);
        // SAFETY: a slice of plain values is its bytes.
        self.write_bytes(at, unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), n) });
        at
    }

    pub(crate) fn get<T: Plain>(&self, at: u64, n: usize) -> Vec<T> {
        let off = (at - BASE) as usize;
        assert!(off + n * size_of::<T>() <= self.len);
        // SAFETY: within the buffer, aligned (allocations are to 256 bytes),
        // and every bit pattern of a plain value is valid.
        unsafe { std::slice::from_raw_parts(self.ptr().add(off).cast::<T>(), n) }.to_vec()
    }

    pub(crate) fn kernel(&self, name: &str) -> &Kernel {
        self.module.kernel(name).unwrap()
    }

    pub(crate) fn launch(
        &self,
        name: &str,
        grid: u32,
        block: u32,
        shared: u32,
        args: &[Arg<'_>],
    ) -> Result<(), Fault> {
        self.launch_cluster(name, grid, block, 1, shared, args)
    }

    pub(crate) fn launch_cluster(
        &self,
        name: &str,
        grid: u32,
        block: u32,
        cluster: u32,
        shared: u32,
        args: &[Arg<'_>],
    ) -> Result<(), Fault> {
        let line = |n| [n, 1, 1];
        self.launch_dims(name, [grid, block, cluster].map(line), shared, args)
    }

    /// `dims` are those of the grid, the block and the cluster.
    pub(crate) fn launch_dims(
        &self,
        name: &str,
        dims: [[u32; 3]; 3],
        shared: u32,
        args: &[Arg<'_>],
    ) -> Result<(), Fault> {
        let mut params = Vec::new();
        for a in args {
            let (bytes, align): (Vec<u8>, usize) = match a {
                Arg::Ptr(p) => (p.to_le_bytes().to_vec(), 8),
                Arg::I32(v) => (v.to_le_bytes().to_vec(), 4),
                Arg::F32(v) => (v.to_le_bytes().to_vec(), 4),
                Arg::Bytes(b, align) => (b.to_vec(), *align),
            };
            params.resize(params.len().next_multiple_of(align), 0);
            params.extend_from_slice(&bytes);
        }
        let said = &self.said;
        run(
            &Launch {
                module: &self.module,
                kernel: self.kernel(name),
                global_addrs: &self.addrs,
                grid: dims[0],
                block: dims[1],
                cluster: dims[2],
                params: &params,
                dynamic_shared: shared,
                cancel: &self.cancel,
                stdout: &|s| said.lock().unwrap().push_str(s),
            },
            &View(self.ptr(), self.len, self.regions),
        )
    }
}

/// A repeatable stream of numbers (an LCG; the tests need nothing better).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32 ^ (self.0 >> 17) as u32
    }

    pub(crate) fn wide(&mut self) -> u64 {
        u64::from(self.next()) << 32 | u64::from(self.next())
    }

    /// Uniform in -1..1.
    pub(crate) fn float(&mut self) -> f64 {
        f64::from(self.next()) / f64::from(u32::MAX) * 2.0 - 1.0
    }
}
