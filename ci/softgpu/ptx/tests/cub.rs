//! Kernels of `fixtures/cub.cu`: primitives of NVIDIA's CUB.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device, Numbers};

const PTX: &str = include_str!("../fixtures/cub.ptx");

#[test]
fn block_reduce() {
    let d = Device::new(PTX);
    // Small integers, so that the order of additions does not matter.
    let x: Vec<f32> = (0..1024).map(|i| (i * 13 % 101) as f32).collect();
    let (px, po) = (d.put(&x), d.put(&[0f32; 4]));
    d.launch("reduce", 4, 256, 0, &[Arg::Ptr(px), Arg::Ptr(po)]).unwrap();
    let want: Vec<f32> = x.chunks(256).map(|c| c.iter().sum()).collect();
    assert_eq!(d.get::<f32>(po, 4), want);
}

#[test]
fn block_scan() {
    let d = Device::new(PTX);
    let x: Vec<f64> = (0..128).map(|i| f64::from(i * 7 % 31)).collect();
    let px = d.put(&x);
    d.launch("scan", 1, 128, 0, &[Arg::Ptr(px)]).unwrap();
    let mut sum = 0.0;
    let want: Vec<f64> = x
        .iter()
        .map(|v| {
            sum += v;
            sum - v
        })
        .collect();
    assert_eq!(d.get::<f64>(px, 128), want);
}

#[test]
fn block_radix_sort() {
    let d = Device::new(PTX);
    let mut r = Numbers(9);
    let mut x: Vec<i32> = (0..128).map(|_| r.next() as i32).collect();
    let px = d.put(&x);
    d.launch("sort", 1, 64, 0, &[Arg::Ptr(px)]).unwrap();
    x.sort_unstable();
    assert_eq!(d.get::<i32>(px, 128), x);
}

#[test]
fn warp_reduce_of_some_lanes() {
    let d = Device::new(PTX);
    let x: Vec<i16> = (0..64i16).map(|i| 1000 - i * 10).collect();
    let px = d.put(&x);
    d.launch("minimum", 1, 64, 0, &[Arg::Ptr(px), Arg::I32(20)]).unwrap();
    let out: Vec<i16> = d.get(px, 64);
    assert_eq!(out[0], x[19]);
    assert_eq!(out[32], x[51]);
}
