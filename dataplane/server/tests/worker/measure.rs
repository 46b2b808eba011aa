//! How long things take, printed: for a real GPU and an optimised build, by `worker --ignored how_long_things_take`.

use std::time::Instant;

use fusewire_server::control::Staging;
use fusewire_server::driver::Driver;
use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

/// Not run unless asked for.
pub const MEASUREMENTS: &[Test] =
    &[("how_long_things_take", how_long_things_take), ("how_deep_queues_are", how_deep_queues_are)];

fn how_long_things_take() {
    let staging = Staging { slot_bytes: 1 << 20, h2d_slots: 64, d2h_slots: 64, reserved: 0 };
    let begin = Instant::now();
    let mut client = Client::open(&Setup { staging, lanes: 4, ..Setup::default() });
    println!("session open, worker's start included: {:?}", begin.elapsed());
    let begin = Instant::now();
    let context = client.context();
    println!("first context: {:?}", begin.elapsed());
    let stream = client.stream(context);
    let bytes = 256 << 20;
    let block = client.block(context, bytes);
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    let mut times: Vec<_> = (0..2000)
        .map(|_| {
            let begin = Instant::now();
            client.launch(add, stream, 32, &[block, block]);
            client.synchronize(stream).unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("launch and synchronise: median {:?}, 99 % {:?}", times[1000], times[1980]);
    let begin = Instant::now();
    for _ in 0..10_000 {
        client.launch(add, stream, 32, &[block, block]);
    }
    client.synchronize(stream).unwrap();
    println!("10,000 launches in one batch: {:?} each", begin.elapsed() / 10_000);
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let begin = Instant::now();
            let address = client.block(context, 2 << 20);
            client.send(BlockUnmap { context, address, bytes: 2 << 20 });
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("map and unmap 2 MiB: median {:?}", times[100]);
    let data = vec![1; bytes as usize];
    for _ in 0..3 {
        let begin = Instant::now();
        client.copy_in(stream, block, &data);
        client.synchronize(stream).unwrap();
        println!("256 MiB to the device: {:.2} GB/s", bytes as f64 / begin.elapsed().as_secs_f64() / 1e9);
        let begin = Instant::now();
        client.copy_out(stream, block, bytes).unwrap();
        println!("256 MiB from the device: {:.2} GB/s", bytes as f64 / begin.elapsed().as_secs_f64() / 1e9);
    }
}

/// How much work a driver takes before its calls wait for the GPU: on one stream, on the sixteenth of sixteen, and
/// by kind of work. The worker keeps below that (`streams.rs`).
fn how_deep_queues_are() {
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

    let d: &'static Driver = Box::leak(Box::new(Driver::start(&crate::client::driver()).unwrap()));
    static ISSUED: AtomicUsize = AtomicUsize::new(0);
    let (mut context, mut module, mut function) = (null_mut(), null_mut(), null_mut());
    let image = std::ffi::CString::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry nothing() { ret; }",
    )
    .unwrap();
    let page = memmap2::MmapOptions::new().len(4 << 20).map_anon().map(memmap2::MmapRaw::from).unwrap();
    let host = page.as_mut_ptr();
    // SAFETY: plain calls in the driver's order, with live pointers.
    unsafe {
        assert_eq!(d.cuDevicePrimaryCtxRetain(&raw mut context, 0), 0);
        assert_eq!(d.cuCtxSetCurrent(context), 0);
        assert_eq!(
            d.cuModuleLoadDataEx(&raw mut module, image.as_ptr().cast(), 0, null_mut(), null_mut()),
            0
        );
        assert_eq!(d.cuModuleGetFunction(&raw mut function, module, c"nothing".as_ptr()), 0);
        assert_eq!(d.cuMemHostRegister_v2(host.cast(), 4 << 20, 3), 0);
    }
    let (context, function, host) = (context as usize, function as usize, host as usize);
    for (what, streams) in [
        ("kernels", 1),
        ("kernels", 16),
        ("kernels", 64),
        ("copies", 1),
        ("waits and copies", 1),
        ("writes", 1),
    ] {
        ISSUED.store(0, Ordering::SeqCst);
        // SAFETY: the word is registered pinned memory.
        let word = unsafe { AtomicU32::from_ptr(host as *mut u32) };
        word.store(0, Ordering::SeqCst);
        let issuing = std::thread::spawn(move || {
            let mut all = Vec::new();
            // SAFETY: as above; the first word holds every stream until the main thread stores to it.
            unsafe {
                assert_eq!(d.cuCtxSetCurrent(context as _), 0);
                for _ in 0..streams {
                    let mut stream = null_mut();
                    assert_eq!(d.cuStreamCreateWithPriority(&raw mut stream, 1, 0), 0);
                    assert_eq!(d.cuStreamWaitValue32_v2(stream, host as u64, 1, 0), 0);
                    all.push(stream);
                }
                for n in 0..20_000 {
                    let stream = all[n % all.len()];
                    let status = match what {
                        "kernels" => d.cuLaunchKernel(
                            function as _,
                            1,
                            1,
                            1,
                            1,
                            1,
                            1,
                            0,
                            stream,
                            null_mut(),
                            null_mut(),
                        ),
                        "writes" => d.cuStreamWriteValue32_v2(stream, host as u64 + 64, 1, 0),
                        "copies" => d.cuMemcpyAsync(host as u64 + 4096, host as u64 + 8192, 4096, stream),
                        _ => {
                            d.cuStreamWaitValue32_v2(stream, host as u64, 1, 0)
                                + d.cuMemcpyAsync(host as u64 + 4096, host as u64 + 8192, 4096, stream)
                        }
                    };
                    assert_eq!(status, 0);
                    ISSUED.store(n + 1, Ordering::SeqCst);
                }
                word.store(1, Ordering::SeqCst);
                for stream in all {
                    while d.cuStreamQuery(stream) == 600 {}
                    d.cuStreamDestroy_v2(stream);
                }
            }
        });
        let mut last = usize::MAX;
        loop {
            std::thread::sleep(std::time::Duration::from_millis(300));
            let now = ISSUED.load(Ordering::SeqCst);
            if now == last || now == 20_000 {
                println!("{what} on {streams} held streams: {now} before a call waits");
                word.store(1, Ordering::SeqCst);
                break;
            }
            last = now;
        }
        issuing.join().unwrap();
    }
}
