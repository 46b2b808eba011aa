//! Modules, libraries, launches, and what is refused before anything runs.

#![allow(clippy::macro_metavars_in_unsafe, reason = "the tests call the driver through one macro")]

mod common;

use common::*;
use softgpu::abi::{CUlaunchConfig, In, Out};
use softgpu::{function as functions, launch as launches, library, module, stream};
use std::ffi::c_void;

#[test]
fn a_kernel_runs_over_all_its_threads() {
    let _ctx = Ctx::on(0);
    let add_one = function(load(PTX), "add_one");
    let device = alloc(4 * 1000);
    send(device, &(0..1000u32).collect::<Vec<_>>());
    assert_eq!(launch(add_one, 8, 128, new_stream(0), &[device, 1000]), 0);
    assert_eq!(fetch::<u32>(device, 1000), (1..=1000).collect::<Vec<_>>());
}

#[test]
fn arguments_may_come_in_one_buffer() {
    let _ctx = Ctx::on(0);
    let add_one = function(load(PTX), "add_one");
    let device = alloc(4);
    send(device, &[41u32]);
    let buffer = [device, 1];
    let mut size = 16usize;
    let extra: [*const c_void; 5] = [
        std::ptr::without_provenance(1),
        buffer.as_ptr().cast(),
        std::ptr::without_provenance(2),
        (&raw const size).cast(),
        std::ptr::null(),
    ];
    cu!(launches::cuLaunchKernel(add_one, 1, 1, 1, 1, 1, 1, 0, 0, In::null(), In::many(&extra)));
    assert_eq!(fetch::<u32>(device, 1), [42]);
    size = 8;
    let code = code!(launches::cuLaunchKernel(add_one, 1, 1, 1, 1, 1, 1, 0, 0, In::null(), In::many(&extra)));
    assert_eq!(code, INVALID_VALUE, "{size} bytes are too few");
}

#[test]
fn a_module_has_variables() {
    let _ctx = Ctx::on(0);
    let handle = load(PTX);
    let (mut factor, mut len) = (0, 0);
    let factor_name = text("factor");
    cu!(module::cuModuleGetGlobal_v2(Out::new(&mut factor), Out::new(&mut len), handle, name(&factor_name)));
    assert_eq!((fetch::<u32>(factor, 1), len), (vec![2], 4));
    send(factor, &[5u32]);
    let device = alloc(4);
    send(device, &[6u32]);
    assert_eq!(launch(function(handle, "twice"), 1, 1, 0, &[device]), 0);
    assert_eq!(fetch::<u32>(device, 1), [30]);
    cu!(module::cuModuleUnload(handle));
    let mut gone = 0;
    assert_eq!(
        code!(module::cuModuleGetFunction(Out::new(&mut gone), handle, name(&factor_name))),
        INVALID_HANDLE
    );
}

#[test]
fn a_library_kernel_is_as_good_as_a_function() {
    let _ctx = Ctx::on(0);
    let (ptx, kernel_name) = (text(PTX), text("add_one"));
    let (mut lib, mut kernel, mut count) = (0, 0, 0);
    cu!(library::cuLibraryLoadData(
        Out::new(&mut lib),
        ptx.as_ptr() as u64,
        In::null(),
        std::ptr::null_mut(),
        0,
        In::null(),
        std::ptr::null_mut(),
        0
    ));
    cu!(library::cuLibraryGetKernel(Out::new(&mut kernel), lib, name(&kernel_name)));
    cu!(library::cuLibraryGetKernelCount(Out::new(&mut count), lib));
    assert_eq!(count, 4);
    let layout: Vec<(usize, usize)> = (0..)
        .map_while(|index| {
            let (mut offset, mut size) = (0, 0);
            let code = code!(library::cuKernelGetParamInfo(
                kernel,
                index,
                Out::new(&mut offset),
                Out::new(&mut size)
            ));
            (code == 0).then_some((offset, size))
        })
        .collect();
    assert_eq!(layout, [(0, 8), (8, 8)]);
    let device = alloc(4);
    send(device, &[1u32]);
    assert_eq!(launch(kernel, 1, 1, 0, &[device, 1]), 0);
    let args = [device, 1u64];
    let pointers = args.each_ref().map(|arg| std::ptr::from_ref(arg).cast::<c_void>());
    let config = CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        ..Default::default()
    };
    cu!(launches::cuLaunchKernelEx(In::new(&config), kernel, In::many(&pointers), In::null()));
    assert_eq!(fetch::<u32>(device, 1), [3]);
    cu!(library::cuLibraryUnload(lib));
    assert_eq!(launch(kernel, 1, 1, 0, &[device, 1]), INVALID_HANDLE);
}

#[test]
fn impossible_launches_are_refused_at_once() {
    let _ctx = Ctx::on(0);
    let spin = function(load(PTX), "spin");
    let shape = |grid: [u32; 3], block: [u32; 3], shared: u32| {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        code!(launches::cuLaunchKernel(spin, gx, gy, gz, bx, by, bz, shared, 0, In::null(), In::null()))
    };
    assert_eq!(shape([0, 1, 1], [1, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape([1, 65536, 1], [1, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape([1, 1, 1], [1025, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape([1, 1, 1], [64, 32, 1], 0), INVALID_VALUE);
    assert_eq!(shape([1, 1, 1], [1, 1, 65], 0), INVALID_VALUE);
    assert_eq!(shape([1, 1, 1], [1, 1, 1], 49153), INVALID_VALUE);
    assert_eq!(launch(12345, 1, 1, 0, &[]), INVALID_HANDLE);
    let add_one = function(load(PTX), "add_one");
    let code = code!(launches::cuLaunchKernel(add_one, 1, 1, 1, 1, 1, 1, 0, 0, In::null(), In::null()));
    assert_eq!(code, INVALID_VALUE, "no arguments");
    // More shared memory once it has been asked for.
    assert_eq!(code!(functions::cuFuncSetAttribute(add_one, 8, 232_449)), INVALID_VALUE);
    cu!(functions::cuFuncSetAttribute(add_one, 8, 100_000));
    let args = [alloc(4), 1];
    let pointers = args.each_ref().map(|arg| std::ptr::from_ref(arg).cast::<c_void>());
    cu!(launches::cuLaunchKernel(add_one, 1, 1, 1, 1, 1, 1, 100_000, 0, In::many(&pointers), In::null()));
    let code = code!(launches::cuLaunchKernel(
        add_one,
        1,
        1,
        1,
        1,
        1,
        1,
        100_001,
        0,
        In::many(&pointers),
        In::null()
    ));
    assert_eq!(code, INVALID_VALUE);
    cu!(stream::cuStreamSynchronize(0));
}

#[test]
fn what_is_no_program_for_this_device_is_refused() {
    let _ctx = Ctx::on(0);
    let load = |image: &[u8]| {
        let mut handle = 0;
        code!(module::cuModuleLoadData(Out::new(&mut handle), image.as_ptr() as u64))
    };
    assert_eq!(load(b"\x7fELF\x02\x01\x01\0"), 209);
    assert_eq!(load(b"hello\0"), 200);
    assert_eq!(load(b"\0"), 200);
    assert_eq!(load(b".version 8.0\n.target sm_80\n.address_size 64\n.entry ( {\0"), 218);
    let mut log = [0u8; 200];
    let image = b".version 8.0\n.target sm_80\n.address_size 64\n.entry ( {\0";
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(200)];
    let mut handle = 0;
    let code = code!(module::cuModuleLoadDataEx(
        Out::new(&mut handle),
        image.as_ptr() as u64,
        2,
        In::many(&[5, 6]),
        values.as_mut_ptr()
    ));
    assert_eq!(code, 218);
    assert!(log.starts_with(b"PTX line"), "the log says where");
}

#[test]
fn occupancy_is_bounded_by_threads_and_shared_memory() {
    let _ctx = Ctx::on(0);
    let add_one = function(load(PTX), "add_one");
    let blocks = |threads, shared| {
        let mut blocks = 0;
        cu!(functions::cuOccupancyMaxActiveBlocksPerMultiprocessor(
            Out::new(&mut blocks),
            add_one,
            threads,
            shared
        ));
        blocks
    };
    assert_eq!(blocks(1024, 0), 2);
    assert_eq!(blocks(32, 0), 32);
    assert_eq!(blocks(32, 100_000), 2);
}
