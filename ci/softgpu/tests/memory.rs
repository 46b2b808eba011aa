//! Device memory, host memory, copies and fills.

#![allow(clippy::macro_metavars_in_unsafe, reason = "the tests call the driver through one macro")]

mod common;

use common::*;
use softgpu::abi::{CUDA_ARRAY_DESCRIPTOR, CUDA_MEMCPY2D, In, Out};
use softgpu::{array, copy, memory, pool, stream};
use std::ffi::c_void;

#[test]
fn what_is_taken_is_counted_and_given_back() {
    // The other device, so that no other test counts with us.
    let _ctx = Ctx::on(1);
    let free = || {
        let (mut free, mut total) = (0, 0);
        cu!(memory::cuMemGetInfo_v2(Out::new(&mut free), Out::new(&mut total)));
        assert_eq!(total, 2 << 30);
        free
    };
    let before = free();
    let address = alloc(1 << 20);
    assert_eq!(free(), before - (1 << 20));
    let mut refused = 0;
    assert_eq!(code!(memory::cuMemAlloc_v2(Out::new(&mut refused), 2 << 30)), OUT_OF_MEMORY);
    assert_eq!(code!(memory::cuMemAlloc_v2(Out::new(&mut refused), usize::MAX)), OUT_OF_MEMORY);
    cu!(memory::cuMemFree_v2(address));
    assert_eq!(free(), before);
    assert_eq!(code!(memory::cuMemFree_v2(address)), INVALID_VALUE);
}

#[test]
fn copies_stay_inside_allocations() {
    let _ctx = Ctx::on(0);
    let address = alloc(64);
    send(address, &[7u8; 64]);
    assert_eq!(fetch::<u8>(address, 64), [7; 64]);
    let mut buffer = [0u8; 65];
    let to = buffer.as_mut_ptr() as u64;
    assert_eq!(code!(copy::cuMemcpyDtoH_v2(to, address, 65)), INVALID_VALUE);
    assert_eq!(code!(copy::cuMemcpyDtoH_v2(to, address + 1, 64)), INVALID_VALUE);
    assert_eq!(code!(copy::cuMemcpyHtoD_v2(to, address, 1)), INVALID_VALUE);
    assert_eq!(code!(copy::cuMemcpyDtoD_v2(address, address + 64, 1)), INVALID_VALUE);
    assert_eq!(code!(copy::cuMemcpyDtoH_v2(to, address, usize::MAX)), INVALID_VALUE);
    assert_eq!(code!(copy::cuMemsetD8_v2(address, 1, 65)), INVALID_VALUE);
    // A refusal leaves no mark.
    cu!(copy::cuMemsetD8_v2(address, 1, 64));
    assert_eq!(fetch::<u8>(address, 64), [1; 64]);
}

#[test]
fn fills_repeat_their_pattern_row_by_row() {
    let _ctx = Ctx::on(0);
    let (mut address, mut pitch) = (0, 0);
    cu!(memory::cuMemAllocPitch_v2(Out::new(&mut address), Out::new(&mut pitch), 12, 3, 4));
    cu!(copy::cuMemsetD8_v2(address, 0, pitch * 3));
    cu!(copy::cuMemsetD2D32_v2(address, pitch, 0x0102_0304, 3, 2));
    let words = fetch::<u32>(address, pitch * 3 / 4);
    for row in 0..3 {
        let row_words = &words[row * pitch / 4..][..4];
        assert_eq!(row_words, if row < 2 { [0x0102_0304, 0x0102_0304, 0x0102_0304, 0] } else { [0; 4] });
    }
    assert_eq!(code!(copy::cuMemsetD16_v2(address + 1, 0, 1)), INVALID_VALUE);
}

#[test]
fn two_dimensional_copies_and_arrays_keep_rows_apart() {
    let _ctx = Ctx::on(0);
    let shape = CUDA_ARRAY_DESCRIPTOR { Width: 5, Height: 4, Format: 0x20, NumChannels: 1 };
    let mut handle = 0;
    cu!(array::cuArrayCreate_v2(Out::new(&mut handle), In::new(&shape)));
    let source: Vec<f32> = (0..32u8).map(f32::from).collect();
    let into = CUDA_MEMCPY2D {
        srcMemoryType: 1,
        srcHost: source.as_ptr() as u64,
        srcPitch: 32,
        dstMemoryType: 3,
        dstArray: handle,
        WidthInBytes: 20,
        Height: 4,
        ..Default::default()
    };
    cu!(copy::cuMemcpy2D_v2(In::new(&into)));
    let back = alloc(8);
    let out_of = CUDA_MEMCPY2D {
        srcMemoryType: 3,
        srcArray: handle,
        srcXInBytes: 8,
        srcY: 1,
        dstMemoryType: 2,
        dstDevice: back,
        dstPitch: 4,
        WidthInBytes: 4,
        Height: 2,
        ..Default::default()
    };
    cu!(copy::cuMemcpy2D_v2(In::new(&out_of)));
    assert_eq!(fetch::<f32>(back, 2), [10.0, 18.0]);
    let too_high = CUDA_MEMCPY2D { Height: 5, ..into };
    assert_eq!(code!(copy::cuMemcpy2D_v2(In::new(&too_high))), INVALID_VALUE);
    cu!(array::cuArrayDestroy(handle));
    assert_eq!(code!(array::cuArrayDestroy(handle)), INVALID_HANDLE);
}

#[test]
fn registered_memory_keeps_its_address() {
    let _ctx = Ctx::on(0);
    let mut page = vec![0u8; 8192];
    let pointer: *mut c_void = page.as_mut_ptr().cast();
    let mut device = 0;
    assert_eq!(code!(memory::cuMemHostGetDevicePointer_v2(Out::new(&mut device), pointer, 0)), INVALID_VALUE);
    cu!(memory::cuMemHostRegister_v2(pointer, 8192, 0));
    assert_eq!(code!(memory::cuMemHostRegister_v2(pointer, 8192, 0)), 712);
    cu!(memory::cuMemHostGetDevicePointer_v2(Out::new(&mut device), pointer, 0));
    assert_eq!(device, pointer as u64);
    cu!(copy::cuMemsetD8_v2(device, 9, 8192));
    cu!(stream::cuStreamSynchronize(0));
    assert!(page.iter().all(|byte| *byte == 9));
    cu!(memory::cuMemHostUnregister(pointer));
    assert_eq!(code!(memory::cuMemHostUnregister(pointer)), 713);
    assert_eq!(code!(copy::cuMemsetD8_v2(device, 9, 1)), INVALID_VALUE);
    // Nothing is there.
    let nowhere = 0x10_0000 as *mut c_void;
    assert_eq!(code!(memory::cuMemHostRegister_v2(nowhere, 4096, 0)), INVALID_VALUE);
}

#[test]
fn addresses_can_be_asked_about() {
    let ctx = Ctx::on(0);
    let address = alloc(4096);
    let (mut base, mut len) = (0, 0);
    cu!(memory::cuMemGetAddressRange_v2(Out::new(&mut base), Out::new(&mut len), address + 100));
    assert_eq!((base, len), (address, 4096));
    let (mut kind, mut owner, mut start) = (0u32, 0u64, 0u64);
    let data: [*mut c_void; 3] = [(&raw mut kind).cast(), (&raw mut owner).cast(), (&raw mut start).cast()];
    cu!(memory::cuPointerGetAttributes(3, In::many(&[2, 1, 11]), In::many(&data), address + 1));
    assert_eq!((kind, owner, start), (2, ctx.0, address));
    // Memory that the driver does not know: the single form refuses, the other answers with nothing.
    let unknown = (&raw const kind) as u64;
    assert_eq!(code!(memory::cuPointerGetAttribute((&raw mut owner).cast(), 2, unknown)), INVALID_VALUE);
    cu!(memory::cuPointerGetAttributes(1, In::many(&[2]), In::many(&data), unknown));
    assert_eq!(kind, 0);
}

#[test]
fn pool_memory_goes_when_the_stream_gets_there() {
    let _ctx = Ctx::on(0);
    let handle = new_stream(0);
    let gate = pinned(4);
    let mut address = 0;
    cu!(pool::cuMemAllocAsync(Out::new(&mut address), 256, handle));
    cu!(copy::cuMemsetD8Async(address, 5, 256, handle));
    cu!(softgpu::memops::cuStreamWaitValue32_v2(handle, gate, 1, 0));
    cu!(pool::cuMemFreeAsync(address, handle));
    let (mut base, mut len) = (0, 0);
    cu!(memory::cuMemGetAddressRange_v2(Out::new(&mut base), Out::new(&mut len), address));
    word(gate).store(1, std::sync::atomic::Ordering::Release);
    cu!(stream::cuStreamSynchronize(handle));
    assert_ne!(code!(memory::cuMemGetAddressRange_v2(Out::new(&mut base), Out::new(&mut len), address)), 0);
}
