//! Kernels of `fixtures/basic.cu`: arrays, shared memory, warps, atomics.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device, Numbers};

const PTX: &str = include_str!("../fixtures/basic.ptx");

#[test]
fn saxpy_matches_and_stays_in_bounds() {
    let d = Device::new(PTX);
    let n = 10_000;
    let mut r = Numbers(1);
    let x: Vec<f32> = (0..n).map(|_| r.float() as f32).collect();
    let y: Vec<f32> = (0..n).map(|_| r.float() as f32).collect();
    let (px, py) = (d.put(&x), d.put(&y));
    let args = [Arg::F32(2.5), Arg::Ptr(px), Arg::Ptr(py), Arg::I32(n)];
    d.launch("saxpy", 40, 256, 0, &args).unwrap();
    let out: Vec<f32> = d.get(py, n as usize + 16);
    for i in 0..n as usize {
        assert_eq!(out[i], 2.5f32.mul_add(x[i], y[i]), "element {i}");
    }
    assert!(out[n as usize..].iter().all(|v| *v == 0.0));
}

#[test]
fn results_do_not_depend_on_regions_being_offered() {
    let mut d = Device::new(PTX);
    d.regions = false;
    let (px, py) = (d.put(&[1f32; 100]), d.put(&[2f32; 100]));
    let args = [Arg::F32(3.0), Arg::Ptr(px), Arg::Ptr(py), Arg::I32(100)];
    d.launch("saxpy", 1, 128, 0, &args).unwrap();
    assert_eq!(d.get::<f32>(py, 100), [5.0; 100]);
}

#[test]
fn block_sums_through_shared_memory() {
    let d = Device::new(PTX);
    assert_eq!(d.kernel("block_sum").static_shared, 1024);
    let x: Vec<i32> = (0..3000).map(|i| i * 7 - 5000).collect();
    let (px, po) = (d.put(&x), d.put(&[0i32; 12]));
    d.launch("block_sum", 12, 256, 0, &[Arg::Ptr(px), Arg::Ptr(po), Arg::I32(3000)]).unwrap();
    let want: Vec<i32> = x.chunks(256).map(|c| c.iter().sum()).collect();
    assert_eq!(d.get::<i32>(po, 12), want);
}

#[test]
fn histogram_with_dynamic_shared_memory() {
    let d = Device::new(PTX);
    let mut r = Numbers(2);
    let x: Vec<u8> = (0..100_000).map(|_| (r.next() >> 5) as u8).collect();
    let (px, pb) = (d.put(&x), d.put(&[0u32; 256]));
    let args = [Arg::Ptr(px), Arg::Ptr(pb), Arg::I32(x.len() as i32)];
    d.launch("histogram", 16, 256, 1024, &args).unwrap();
    let mut want = [0u32; 256];
    x.iter().for_each(|b| want[usize::from(*b)] += 1);
    assert_eq!(d.get::<u32>(pb, 256), want);
}

#[test]
fn too_little_dynamic_shared_memory_is_a_fault() {
    let d = Device::new(PTX);
    let (px, pb) = (d.put(&[0u8; 16]), d.put(&[0u32; 256]));
    let args = [Arg::Ptr(px), Arg::Ptr(pb), Arg::I32(16)];
    let f = d.launch("histogram", 1, 256, 512, &args).unwrap_err();
    assert!(matches!(f, softgpu_ptx::Fault::IllegalAddress { .. }), "{f}");
}

#[test]
fn scan_by_shuffles() {
    let d = Device::new(PTX);
    let x: Vec<i32> = (0..256).map(|i| (i * 37) % 101 - 50).collect();
    let (px, po) = (d.put(&x), d.put(&[0i32; 256]));
    d.launch("warp_scan", 1, 256, 0, &[Arg::Ptr(px), Arg::Ptr(po)]).unwrap();
    let mut sum = 0;
    let want: Vec<i32> = x
        .iter()
        .map(|v| {
            sum += v;
            sum
        })
        .collect();
    assert_eq!(d.get::<i32>(po, 256), want);
}

#[test]
fn every_warp_operation() {
    let d = Device::new(PTX);
    let po = d.put(&[0u32; 96 * 16]);
    d.launch("warp_ops", 1, 96, 0, &[Arg::Ptr(po)]).unwrap();
    let out: Vec<u32> = d.get(po, 96 * 16);
    let thirds = (0..32).filter(|l| l % 3 == 0).fold(0u32, |m, l| m | 1 << l);
    for t in 0..96u32 {
        let l = t % 32;
        let o = &out[t as usize * 16..][..16];
        let fives = (0..32).filter(|k| k / 5 == l / 5).fold(0u32, |m, k| m | 1 << k);
        let down = if l % 8 + 4 < 8 { l + 4 } else { l };
        let odd = l % 2 == 1;
        let want = [
            thirds,
            1,
            0,
            (l ^ 5) * 10,
            down,
            (l & 16) | 3,
            fives,
            u32::MAX,
            1,
            496,
            -9i32 as u32,
            if odd { 0xaaaa_aaaa } else { 0x5555_5555 },
            if odd { 5 } else { 30 },
            12,
            1,
            1,
        ];
        assert_eq!(o, want, "thread {t}");
    }
}

#[test]
fn atomics_count_every_thread() {
    let d = Device::new(PTX);
    let n = 64 * 96u32;
    let u = d.put(&[0, 0, u32::MAX, 0, 0, u32::MAX, 0, 0, 0, 0]);
    let s = d.put(&[i32::MIN, i32::MAX]);
    let w = d.put(&[0u64; 2]);
    let f = d.put(&[0f32]);
    let g = d.put(&[0f64]);
    let args = [u, s, w, f, g].map(Arg::Ptr);
    d.launch("atomics", 64, 96, 0, &args).unwrap();
    let hash = |i: u32| i.wrapping_mul(2654435761);
    let got: Vec<u32> = d.get(u, 10);
    assert_eq!(got[0], (0..n).sum::<u32>());
    assert_eq!(got[1], (0..n).map(hash).max().unwrap());
    assert_eq!(got[2], (0..n).map(hash).min().unwrap());
    assert_eq!(got[3], n % 7);
    // 0 wraps to 6, then counts down in a cycle of seven.
    assert_eq!(got[4], (7 - n % 7) % 7);
    assert_eq!(got[5], 0xffff_0000);
    assert_eq!(got[6], u32::MAX);
    assert_eq!(got[7], (0..n).fold(0, |a, b| a ^ b));
    assert_eq!(got[8], 0);
    assert_eq!(got[9], n, "the lock let two threads in");
    let s: Vec<i32> = d.get(s, 2);
    assert_eq!(s[0], (0..n).map(|i| hash(i) as i32).max().unwrap());
    assert_eq!(s[1], (0..n).map(|i| hash(i) as i32).min().unwrap());
    let w: Vec<u64> = d.get(w, 2);
    assert_eq!(w[0], (0..u64::from(n)).map(|i| i << 20).sum::<u64>());
    assert_eq!(w[1], u64::from(n - 1) << 33);
    assert_eq!(d.get::<f32>(f, 1), [n as f32 * 0.5]);
    assert_eq!(d.get::<f64>(g, 1), [f64::from(n) * 0.25]);
}

#[test]
fn blocks_may_wait_for_each_other_in_either_order() {
    for reverse in [0, 1] {
        let d = Device::new(PTX);
        let mut flags = [0u32; 51];
        flags[0] = 1;
        let (pf, po) = (d.put(&flags), d.put(&[0u32; 50]));
        let args = [Arg::Ptr(pf), Arg::Ptr(po), Arg::I32(reverse)];
        d.launch("chain", 50, 64, 0, &args).unwrap();
        let want: Vec<u32> = (1..=50).map(|i| i * 3).collect();
        assert_eq!(d.get::<u32>(po, 50), want);
    }
}

#[test]
fn three_dimensions_with_and_without_clusters() {
    for cluster in [[1, 1, 1], [3, 1, 2]] {
        let d = Device::new(PTX);
        let (grid, block) = ([3u32, 2, 4], [5u32, 3, 2]);
        let total: u32 = grid.iter().chain(&block).product();
        let po = d.put(&vec![u32::MAX; total as usize * 6]);
        d.launch_dims("coordinates", [grid, block, cluster], 0, &[Arg::Ptr(po)]).unwrap();
        let all = |d: [u32; 3]| {
            (0..d[2]).flat_map(move |z| (0..d[1]).flat_map(move |y| (0..d[0]).map(move |x| [x, y, z])))
        };
        let want: Vec<u32> = all(grid).flat_map(|b| all(block).flat_map(move |t| [b, t].concat())).collect();
        assert_eq!(d.get::<u32>(po, want.len()), want);
    }
}
