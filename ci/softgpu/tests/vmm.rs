//! Address ranges and memory taken apart and joined.

#![allow(clippy::macro_metavars_in_unsafe, reason = "the tests call the driver through one macro")]

mod common;

use common::*;
use softgpu::abi::{CUmemAccessDesc, CUmemAllocationProp, CUmemLocation, In, Out};
use softgpu::{copy, vmm};

const MIB: usize = 1 << 20;

fn on(device: i32) -> CUmemLocation {
    CUmemLocation { kind: 1, id: device }
}

fn create(len: usize) -> u64 {
    let props = CUmemAllocationProp { kind: 1, location: on(0), ..Default::default() };
    let mut handle = 0;
    cu!(vmm::cuMemCreate(Out::new(&mut handle), len, In::new(&props), 0));
    handle
}

fn reserve(len: usize, wanted: u64) -> u64 {
    let mut base = 0;
    cu!(vmm::cuMemAddressReserve(Out::new(&mut base), len, 0, wanted, 0));
    base
}

fn allow(base: u64, len: usize, flags: u32) -> u32 {
    let right = CUmemAccessDesc { location: on(0), flags };
    code!(vmm::cuMemSetAccess(base, len, In::new(&right), 1))
}

#[test]
fn a_chosen_terabyte_is_granted() {
    let _ctx = Ctx::on(0);
    let wanted = 0x3000_0000_0000;
    let base = reserve(1 << 40, wanted);
    assert_eq!(base, wanted);
    // The same wish again is met elsewhere.
    let other = reserve(2 * MIB, wanted);
    assert_ne!(other, wanted);
    cu!(vmm::cuMemAddressFree(other, 2 * MIB));
    cu!(vmm::cuMemAddressFree(base, 1 << 40));
    assert_eq!(code!(vmm::cuMemAddressFree(base, 1 << 40)), INVALID_VALUE);
}

#[test]
fn mapped_memory_works_across_mappings_and_at_two_places() {
    let _ctx = Ctx::on(0);
    let base = reserve(8 * MIB, 0);
    let (first, second) = (create(2 * MIB), create(2 * MIB));
    cu!(vmm::cuMemMap(base, 2 * MIB, 0, first, 0));
    cu!(vmm::cuMemMap(base + 2 * MIB as u64, 2 * MIB, 0, second, 0));
    cu!(vmm::cuMemMap(base + 4 * MIB as u64, 2 * MIB, 0, first, 0));
    assert_ne!(code!(vmm::cuMemMap(base, 2 * MIB, 0, second, 0)), 0, "the place is taken");
    assert_eq!(code!(copy::cuMemsetD8_v2(base, 1, 16)), INVALID_VALUE, "no access yet");
    assert_eq!(allow(base, 6 * MIB, 3), 0);
    assert_eq!(allow(base, 8 * MIB, 3), INVALID_VALUE, "the last part is not mapped");

    // A range over the seam, and the same memory seen at the other place.
    let seam = base + 2 * MIB as u64 - 8;
    send(seam, &[1u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(fetch::<u8>(base + 6 * MIB as u64 - 8, 8), [1, 2, 3, 4, 5, 6, 7, 8]);

    // The program may let go of the handle while it is mapped.
    cu!(vmm::cuMemRelease(second));
    assert_eq!(fetch::<u8>(seam + 8, 1), [9]);
    assert_eq!(code!(vmm::cuMemUnmap(base, MIB)), INVALID_VALUE, "not half a mapping");
    cu!(vmm::cuMemUnmap(base, 6 * MIB));
    assert_eq!(code!(copy::cuMemsetD8_v2(base, 1, 16)), INVALID_VALUE);
    cu!(vmm::cuMemMap(base, 2 * MIB, 0, first, 0));
    assert_eq!(allow(base, 2 * MIB, 3), 0);
    assert_eq!(fetch::<u8>(base + 2 * MIB as u64 - 8, 2), [1, 2], "the memory outlives the mapping");
    assert_eq!(code!(vmm::cuMemAddressFree(base, 8 * MIB)), INVALID_VALUE, "still mapped");
    cu!(vmm::cuMemUnmap(base, 2 * MIB));
    cu!(vmm::cuMemAddressFree(base, 8 * MIB));
    cu!(vmm::cuMemRelease(first));
    assert_eq!(code!(vmm::cuMemRelease(first)), INVALID_VALUE);
}

#[test]
fn a_kernel_may_only_do_what_was_allowed() {
    let _ctx = Ctx::on(0);
    let base = reserve(2 * MIB, 0);
    let handle = create(2 * MIB);
    cu!(vmm::cuMemMap(base, 2 * MIB, 0, handle, 0));
    assert_eq!(allow(base, 2 * MIB, 1), 0);
    let poke = function(load(PTX), "poke");
    assert_eq!(launch(poke, 1, 1, 0, &[base]), 0);
    assert_eq!(code!(softgpu::stream::cuStreamSynchronize(0)), ILLEGAL_ADDRESS);
}

#[test]
fn misuse_is_refused() {
    let _ctx = Ctx::on(0);
    let (mut out, mut granularity) = (0, 0);
    let props = CUmemAllocationProp { kind: 1, location: on(0), ..Default::default() };
    cu!(vmm::cuMemGetAllocationGranularity(Out::new(&mut granularity), In::new(&props), 0));
    assert_eq!(granularity, 2 * MIB);
    assert_eq!(code!(vmm::cuMemCreate(Out::new(&mut out), MIB, In::new(&props), 0)), INVALID_VALUE);
    assert_eq!(code!(vmm::cuMemCreate(Out::new(&mut out), 4 << 30, In::new(&props), 0)), OUT_OF_MEMORY);
    let elsewhere = CUmemAllocationProp { kind: 1, location: on(9), ..Default::default() };
    assert_eq!(code!(vmm::cuMemCreate(Out::new(&mut out), 2 * MIB, In::new(&elsewhere), 0)), 101);
    let handle = create(2 * MIB);
    assert_eq!(code!(vmm::cuMemMap(0x1000_0000, 2 * MIB, 0, handle, 0)), INVALID_VALUE, "not reserved");
    cu!(vmm::cuMemRelease(handle));
}
