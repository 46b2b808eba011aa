//! What all tests need: a context of their own, results that are checked, and some PTX.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::ffi::{CString, c_char, c_void};
use std::time::{Duration, Instant};

use softgpu::abi::{In, Out};
use softgpu::{context, device, launch, memory, module, stream};

pub const INVALID_VALUE: u32 = 1;
pub const OUT_OF_MEMORY: u32 = 2;
pub const INVALID_HANDLE: u32 = 400;
pub const NOT_READY: u32 = 600;
pub const ILLEGAL_ADDRESS: u32 = 700;

/// Calls a driver function and demands success.
#[macro_export]
macro_rules! cu {
    ($call:expr) => {{
        // SAFETY: the test passes pointers to its own variables.
        let code = unsafe { $call };
        assert_eq!(code, 0, "{}", stringify!($call));
    }};
}

/// Calls a driver function and gives its code.
#[macro_export]
macro_rules! code {
    ($call:expr) => {{
        // SAFETY: the test passes pointers to its own variables.
        unsafe { $call }
    }};
}

/// A context that is current on this thread as long as this lives.
pub struct Ctx(pub u64);

impl Ctx {
    pub fn on(ordinal: i32) -> Ctx {
        let mut handle = 0;
        cu!(device::cuInit(0));
        cu!(context::cuCtxCreate_v2(Out::new(&mut handle), 0, ordinal));
        Ctx(handle)
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { context::cuCtxDestroy_v2(self.0) };
    }
}

pub fn alloc(len: usize) -> u64 {
    let mut address = 0;
    cu!(memory::cuMemAlloc_v2(Out::new(&mut address), len));
    address
}

pub fn pinned(len: usize) -> u64 {
    let mut pointer: *mut c_void = std::ptr::null_mut();
    cu!(memory::cuMemHostAlloc(Out::new(&mut pointer), len, 0));
    pointer as u64
}

pub fn new_stream(flags: u32) -> u64 {
    let mut handle = 0;
    cu!(stream::cuStreamCreate(Out::new(&mut handle), flags));
    handle
}

/// Reads device memory with a synchronous copy.
pub fn fetch<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let len = count * size_of::<T>();
    cu!(softgpu::copy::cuMemcpyDtoH_v2(values.as_mut_ptr() as u64, address, len));
    values
}

pub fn send<T: Copy>(address: u64, values: &[T]) {
    cu!(softgpu::copy::cuMemcpyHtoD_v2(address, values.as_ptr() as u64, size_of_val(values)));
}

/// A word in host memory that streams can reach.
pub fn word(address: u64) -> &'static std::sync::atomic::AtomicU32 {
    // SAFETY: the tests pass the address of a pinned word that they never free.
    unsafe { &*(address as *const std::sync::atomic::AtomicU32) }
}

pub fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub fn name(text: &CString) -> In<c_char> {
    // SAFETY: the pointer is used while the string lives.
    In::new(unsafe { &*text.as_ptr() })
}

pub fn load(ptx: &str) -> u64 {
    let (mut handle, ptx) = (0, text(ptx));
    cu!(module::cuModuleLoadData(Out::new(&mut handle), ptx.as_ptr() as u64));
    handle
}

pub fn function(module: u64, kernel: &str) -> u64 {
    let (mut handle, kernel) = (0, text(kernel));
    cu!(module::cuModuleGetFunction(Out::new(&mut handle), module, name(&kernel)));
    handle
}

/// Launches with a one-dimensional shape and arguments of 8 bytes each.
pub fn launch(function: u64, blocks: u32, threads: u32, stream: u64, args: &[u64]) -> u32 {
    let pointers: Vec<*const c_void> = args.iter().map(|arg| std::ptr::from_ref(arg).cast()).collect();
    // SAFETY: the kernels of the tests take arguments of 8 bytes.
    unsafe {
        launch::cuLaunchKernel(
            function,
            blocks,
            1,
            1,
            threads,
            1,
            1,
            0,
            stream,
            In::many(&pointers),
            In::null(),
        )
    }
}

/// Waits until something holds, for as long as a slow machine may need.
pub fn eventually(mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < patience, "waited too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kernels by hand: `add_one(pointer, count)`, `poke(pointer)`, `spin()`, `twice(pointer)` through a
/// variable `factor`.
pub const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64

.visible .global .align 4 .u32 factor = 2;

.visible .entry add_one(.param .u64 pointer, .param .u64 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<7>;
    ld.param.u64 %rd1, [pointer];
    ld.param.u64 %rd2, [count];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    cvt.u64.u32 %rd3, %r4;
    setp.ge.u64 %p1, %rd3, %rd2;
    @%p1 bra DONE;
    shl.b64 %rd4, %rd3, 2;
    add.s64 %rd5, %rd1, %rd4;
    ld.global.u32 %r5, [%rd5];
    add.s32 %r5, %r5, 1;
    st.global.u32 [%rd5], %r5;
DONE:
    ret;
}

.visible .entry poke(.param .u64 pointer)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [pointer];
    mov.u32 %r1, 7;
    st.global.u32 [%rd1], %r1;
    ret;
}

.visible .entry spin()
{
LOOP:
    bra LOOP;
}

.visible .entry twice(.param .u64 pointer)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [pointer];
    ld.global.u32 %r1, [%rd1];
    mov.u64 %rd2, factor;
    ld.global.u32 %r2, [%rd2];
    mul.lo.u32 %r1, %r1, %r2;
    st.global.u32 [%rd1], %r1;
    ret;
}
"#;
