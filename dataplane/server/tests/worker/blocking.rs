//! Which driver calls wait for the GPU, found out by making them while a stream is held. The worker makes those
//! only when nothing on the GPU waits for the worker (`backlog.rs`).

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fusewire_server::driver::Driver;
use fusewire_server::driver::layouts::{AccessDesc, AllocationProp, Array3d, Location};

use crate::Test;

/// Not run unless asked for.
pub const MEASUREMENTS: &[Test] = &[("which_calls_wait_for_the_gpu", which_calls_wait_for_the_gpu)];

/// A call that has not returned after this long waits.
const WAITS: Duration = Duration::from_millis(200);

const IMAGE: &CStr = c".version 8.0
.target sm_80
.address_size 64
.visible .entry nothing() { ret; }
.visible .entry other() { ret; }
.visible .entry hungry(.param .u64 a)
{
    .local .align 8 .b8 frame[65536];
    .reg .b64 %rd<5>;
    .reg .b32 %r<3>;
    ld.param.u64 %rd1, [a];
    mov.u64 %rd2, frame;
    cvta.local.u64 %rd3, %rd2;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd4, %r1, 512;
    add.s64 %rd3, %rd3, %rd4;
    st.u32 [%rd3], %r1;
    ld.u32 %r2, [%rd3];
    ret;
}
";

struct Watch {
    word: &'static AtomicU32,
    since: &'static AtomicU64,
    begin: Instant,
}

impl Watch {
    /// Makes a call while a stream is held, and says whether it waited.
    fn call(&self, name: &str, held: &dyn Fn(), call: impl FnOnce() -> u32) {
        self.word.store(0, Ordering::SeqCst);
        held();
        let begin = Instant::now();
        self.since.store(self.begin.elapsed().as_nanos() as u64, Ordering::SeqCst);
        let status = call();
        self.since.store(0, Ordering::SeqCst);
        let took = begin.elapsed();
        self.word.store(1, Ordering::SeqCst);
        let waits = if took >= WAITS { "WAITS" } else { "" };
        println!("{name:32} {status:4} {took:>14?} {waits}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn which_calls_wait_for_the_gpu() {
    let d: &'static Driver = Box::leak(Box::new(Driver::start(&crate::client::driver()).unwrap()));
    let page = memmap2::MmapOptions::new().len(4 << 20).map_anon().map(memmap2::MmapRaw::from).unwrap();
    let more = memmap2::MmapOptions::new().len(4 << 20).map_anon().map(memmap2::MmapRaw::from).unwrap();
    let host = page.as_mut_ptr();
    let (mut context, mut module, mut second, mut function) =
        (null_mut(), null_mut(), null_mut(), null_mut());
    let (mut stream, mut extra, mut event, mut array) = (null_mut(), null_mut(), null_mut(), null_mut());
    let (mut library, mut kernel) = (null_mut(), null_mut());
    let (mut graph, mut exec) = (null_mut(), null_mut());
    let (mut base, mut handle) = (0, 0);
    let (mut free, mut total, mut value) = (0, 0, 0);
    let names: Vec<CString> =
        ["nothing", "other", "hungry"].iter().map(|name| CString::new(*name).unwrap()).collect();
    // SAFETY: all of it is plain calls in the driver's order, with live pointers.
    unsafe {
        assert_eq!(d.cuDevicePrimaryCtxRetain(&raw mut context, 0), 0);
        assert_eq!(d.cuCtxSetCurrent(context), 0);
        assert_eq!(d.cuMemHostRegister_v2(host.cast(), 4 << 20, 3), 0);
        assert_eq!(d.cuStreamCreateWithPriority(&raw mut stream, 1, 0), 0);
        assert_eq!(d.cuMemAddressReserve(&raw mut base, 1 << 30, 0, 0, 0), 0);
        let word: &'static AtomicU32 = AtomicU32::from_ptr(host.cast());
        let since: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
        let begin = Instant::now();
        // Lets go of the stream when a call does not return.
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(5));
                let at = since.load(Ordering::SeqCst);
                if at != 0 && begin.elapsed().saturating_sub(Duration::from_nanos(at)) > WAITS {
                    word.store(1, Ordering::SeqCst);
                }
            }
        });
        let watch = Watch { word, since, begin };
        let held = || {
            assert_eq!(d.cuStreamWaitValue32_v2(stream, host as u64, 1, 0), 0);
        };
        let held: &dyn Fn() = &held;
        let bytes = 32 << 20;
        let prop = AllocationProp::on_device(0);
        let access = AccessDesc { location: Location { kind: 1, id: 0 }, flags: 3 };
        let null: *mut *mut c_void = null_mut();
        watch.call("cuMemGetInfo", held, || d.cuMemGetInfo_v2(&raw mut free, &raw mut total));
        watch.call("cuMemCreate", held, || d.cuMemCreate(&raw mut handle, bytes, &raw const prop, 0));
        watch.call("cuMemMap", held, || d.cuMemMap(base, bytes, 0, handle, 0));
        watch.call("cuMemSetAccess", held, || d.cuMemSetAccess(base, bytes, &raw const access, 1));
        watch.call("cuMemRelease, mapped", held, || d.cuMemRelease(handle));
        watch.call("cuMemUnmap", held, || d.cuMemUnmap(base, bytes));
        watch
            .call("cuMemHostRegister", held, || d.cuMemHostRegister_v2(more.as_mut_ptr().cast(), 4 << 20, 3));
        watch.call("cuMemcpyDtoHAsync, host to host", held, || {
            d.cuMemcpyDtoHAsync_v2(host.add(4096).cast(), more.as_mut_ptr() as u64, 4096, stream)
        });
        watch.call("cuMemHostUnregister", held, || d.cuMemHostUnregister(more.as_mut_ptr().cast()));
        watch.call("cuModuleLoadDataEx", held, || {
            d.cuModuleLoadDataEx(&raw mut module, IMAGE.as_ptr().cast(), 0, null_mut(), null)
        });
        watch.call("cuModuleGetFunction", held, || {
            d.cuModuleGetFunction(&raw mut function, module, names[0].as_ptr())
        });
        watch.call("cuFuncGetAttribute", held, || d.cuFuncGetAttribute(&raw mut value, 0, function));
        for round in ["first", "second"] {
            watch.call(&format!("cuLaunchKernel, {round}"), held, || {
                d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, null, null)
            });
        }
        assert_eq!(d.cuModuleGetFunction(&raw mut function, module, names[2].as_ptr()), 0);
        let mut argument = 0u64;
        let mut arguments = [(&raw mut argument).cast::<c_void>()];
        for round in ["first", "second"] {
            watch.call(&format!("cuLaunchKernel, stack, {round}"), held, || {
                d.cuLaunchKernel(function, 64, 1, 1, 128, 1, 1, 0, stream, arguments.as_mut_ptr(), null)
            });
        }
        watch.call("cuLibraryLoadData", held, || {
            d.cuLibraryLoadData(
                &raw mut library,
                IMAGE.as_ptr().cast(),
                null_mut(),
                null,
                0,
                null_mut(),
                null,
                0,
            )
        });
        watch.call("cuLibraryGetKernel", held, || {
            d.cuLibraryGetKernel(&raw mut kernel, library, names[1].as_ptr())
        });
        watch.call("cuKernelGetAttribute", held, || d.cuKernelGetAttribute(&raw mut value, 0, kernel, 0));
        watch.call("cuLaunchKernel, library, first", held, || {
            d.cuLaunchKernel(kernel.cast(), 1, 1, 1, 1, 1, 1, 0, stream, null, null)
        });
        watch.call("cuModuleLoadDataEx, second", held, || {
            d.cuModuleLoadDataEx(&raw mut second, IMAGE.as_ptr().cast(), 0, null_mut(), null)
        });
        watch.call("cuModuleUnload", held, || d.cuModuleUnload(second));
        watch.call("cuLibraryUnload", held, || d.cuLibraryUnload(library));
        watch.call("cuCtxSetLimit, stack", held, || d.cuCtxSetLimit(0, 8192));
        watch.call("cuCtxSetLimit, printf", held, || d.cuCtxSetLimit(1, 8 << 20));
        watch.call("cuStreamCreate", held, || d.cuStreamCreateWithPriority(&raw mut extra, 1, -1));
        watch.call("cuStreamWriteValue32, new", held, || {
            d.cuStreamWriteValue32_v2(extra, host as u64 + 64, 1, 0)
        });
        watch.call("cuStreamQuery", held, || d.cuStreamQuery(extra));
        watch.call("cuStreamDestroy", held, || d.cuStreamDestroy_v2(extra));
        watch.call("cuStreamQuery, null", held, || d.cuStreamQuery(null_mut()));
        watch.call("cuEventCreate", held, || d.cuEventCreate(&raw mut event, 0));
        watch.call("cuEventRecord", held, || d.cuEventRecord(event, stream));
        watch.call("cuEventDestroy", held, || d.cuEventDestroy_v2(event));
        let extent = Array3d { width: 1024, height: 1024, depth: 0, format: 0x20, channels: 1, flags: 0 };
        watch.call("cuArray3DCreate", held, || d.cuArray3DCreate_v2(&raw mut array, &raw const extent));
        watch.call("cuArrayDestroy", held, || d.cuArrayDestroy(array));
        watch.call("cuStreamBeginCapture", &|| {}, || d.cuStreamBeginCapture_v2(stream, 2));
        assert_eq!(d.cuModuleGetFunction(&raw mut function, module, names[0].as_ptr()), 0);
        assert_eq!(d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, null, null), 0);
        assert_eq!(d.cuStreamEndCapture(stream, &raw mut graph), 0);
        watch.call("cuGraphInstantiate", held, || d.cuGraphInstantiateWithFlags(&raw mut exec, graph, 0));
        for round in ["first", "second"] {
            watch.call(&format!("cuGraphLaunch, {round}"), held, || d.cuGraphLaunch(exec, stream));
        }
        watch.call("cuGraphExecDestroy", held, || d.cuGraphExecDestroy(exec));
        watch.call("cuGraphDestroy", held, || d.cuGraphDestroy(graph));
        watch.call("cuCtxCreate", held, || d.cuCtxCreate_v2(&raw mut context, 0, 0));
        watch.call("cuCtxDestroy, another", held, || d.cuCtxDestroy_v2(context));
    }
}
