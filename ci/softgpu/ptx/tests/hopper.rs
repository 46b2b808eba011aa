//! Kernels of `fixtures/hopper.cu`: clusters, barriers in memory, copies.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device};

const PTX: &str = include_str!("../fixtures/hopper.ptx");

#[test]
fn clusters_share_their_memory() {
    let d = Device::new(PTX);
    let po = d.put(&[0i32; 8 * 32]);
    d.launch_cluster("neighbours", 8, 32, 4, 0, &[Arg::Ptr(po)]).unwrap();
    let out: Vec<i32> = d.get(po, 8 * 32);
    for b in 0..8 {
        let other = b / 4 * 4 + (b + 1) % 4;
        for t in 0..32 {
            assert_eq!(out[b * 32 + t], (other * 100 + t) as i32);
        }
    }
}

#[test]
fn barriers_in_shared_memory() {
    let d = Device::new(PTX);
    let po = d.put(&[0i32; 96]);
    d.launch("memory_barrier", 2, 64, 0, &[Arg::Ptr(po)]).unwrap();
    let want: Vec<i32> = (0..3).flat_map(|r| (0..32).map(move |t| r * 1000 + 31 - t)).collect();
    assert_eq!(d.get::<i32>(po, 96), want);
}

#[test]
fn asynchronous_copies_fill_up_with_zeros() {
    let d = Device::new(PTX);
    let x: Vec<i32> = (1..=256).collect();
    let (px, po) = (d.put(&x), d.put(&[-1i32; 256]));
    d.launch("async_copy", 1, 64, 0, &[Arg::Ptr(px), Arg::Ptr(po)]).unwrap();
    let out: Vec<i32> = d.get(po, 256);
    for t in 0..64usize {
        let from = 63 - t;
        for k in 0..4 {
            // The last eight bytes of every fourth piece are left out.
            let want = if from % 4 == 3 && k >= 2 { 0 } else { x[from * 4 + k] };
            assert_eq!(out[t * 4 + k], want);
        }
    }
}

#[test]
fn a_barrier_over_the_whole_grid() {
    let d = Device::new(PTX);
    let (pc, po) = (d.put(&[0u32; 2]), d.put(&[0u32; 200]));
    d.launch("whole_grid", 200, 128, 0, &[Arg::Ptr(pc), Arg::Ptr(po)]).unwrap();
    assert_eq!(d.get::<u32>(po, 200), [199 * 200 / 2; 200]);
}

#[test]
fn cooperative_groups() {
    let d = Device::new(PTX);
    let po = d.put(&[0i32; 65]);
    d.launch("grouped", 1, 64, 0, &[Arg::Ptr(po)]).unwrap();
    let out: Vec<i32> = d.get(po, 65);
    for t in 0..64 {
        let first = t / 8 * 8;
        assert_eq!(out[t as usize], (first..first + 8).sum::<i32>());
    }
    // Two warps, with 11 threads divisible by three in each.
    assert_eq!(out[64], 22);
}
