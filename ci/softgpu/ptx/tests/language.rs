//! Kernels of `fixtures/language.cu`: what a compiler makes of C++.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device, Numbers};
use softgpu_ptx::Fault;
use std::sync::atomic::Ordering;
use std::time::Duration;

const PTX: &str = include_str!("../fixtures/language.ptx");

fn device() -> Device {
    Device::new(PTX)
}

#[test]
fn what_the_module_says_of_itself() {
    let d = device();
    assert_eq!(d.module.target_sm(), 90);
    assert!(d.module.uses_printf());
    assert_eq!(d.kernel("tensor").max_threads, 128);
    assert_eq!(d.kernel("say").max_threads, 1024);
    let k = d.kernel("structs");
    let p: Vec<_> = k.params.iter().map(|p| (p.offset, p.size, p.align)).collect();
    assert_eq!(p, [(0, 24, 8), (24, 8, 8), (32, 4, 4)]);
    assert_eq!(k.param_bytes, 36);
    assert!(d.kernel("local_array").local_bytes >= 128);
    let g = |n: &str| d.module.globals().iter().find(|g| g.name == n).unwrap();
    assert_eq!(g("weights").space, softgpu_ptx::Space::Const);
    assert_eq!(g("weights").size, 16);
    assert_eq!(g("into").relocs, [(0, "numbers".to_owned(), 8)]);
    assert_eq!(g("ops").relocs.len(), 3);
}

#[test]
fn structures_by_value() {
    let d = device();
    let mut s = Vec::new();
    s.extend_from_slice(&7i32.to_le_bytes());
    s.extend_from_slice(&[0; 4]);
    s.extend_from_slice(&1.25f64.to_le_bytes());
    for c in [3i16, -4, 5] {
        s.extend_from_slice(&c.to_le_bytes());
    }
    s.extend_from_slice(&[9, 0]);
    let po = d.put(&[0f64; 40]);
    let args = [Arg::Bytes(&s, 8), Arg::Ptr(po), Arg::I32(40)];
    d.launch("structs", 1, 64, 0, &args).unwrap();
    let out: Vec<f64> = d.get(po, 40);
    for (i, v) in out.iter().enumerate() {
        let mut c = [3f64, -4.0, 5.0];
        c[i % 3] = 50.0 + i as f64;
        let a = 7.0 + i as f64;
        let want = a * 1000.0 + 2.5 + c[0] * 10.0 + c[1] + c[2] * 0.5 + f64::from(i as i8) * 0.125;
        assert_eq!(*v, want, "thread {i}");
    }
}

#[test]
fn recursion() {
    let d = device();
    let po = d.put(&[0i32; 20]);
    d.launch("calls", 1, 20, 0, &[Arg::Ptr(po)]).unwrap();
    let mut f = vec![0, 1];
    (2..20).for_each(|i| f.push(f[i - 1] + f[i - 2]));
    assert_eq!(d.get::<i32>(po, 20), f);
}

#[test]
fn function_pointers_and_initialised_tables() {
    let d = device();
    let x: Vec<f32> = (0..30).map(|i| i as f32 * 0.5).collect();
    let px = d.put(&x);
    d.launch("pointers", 1, 30, 0, &[Arg::Ptr(px)]).unwrap();
    let out: Vec<f32> = d.get(px, 30);
    let grid = [[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
    for i in 0..30 {
        let v = x[i];
        let y = [v * 2.0, v + 1.0, v * v][i % 3];
        let want = y + [1.0, 2.0, 4.0, 8.0][i & 3] + 7.0 + grid[i & 1][i % 3];
        assert_eq!(out[i], want, "thread {i}");
    }
}

#[test]
fn switches() {
    let d = device();
    let x: Vec<i32> = (0..64).map(|i| i % 10 - 1).collect();
    let (px, po) = (d.put(&x), d.put(&(1000..1064).collect::<Vec<i32>>()));
    d.launch("table", 1, 64, 0, &[Arg::Ptr(px), Arg::Ptr(po)]).unwrap();
    let want: Vec<i32> = (0..64i32)
        .map(|i| match x[i as usize] {
            0 => i,
            1 => (1000 + i) ^ 77,
            2 => i / 3,
            3 => i % 5 + 100,
            4 => -i,
            5 => i << 4,
            6 => i.count_ones() as i32 + 7,
            7 => (i + 1).leading_zeros() as i32,
            _ => -1,
        })
        .collect();
    assert_eq!(d.get::<i32>(po, 64), want);
}

#[test]
fn local_arrays() {
    let d = device();
    let mut r = Numbers(3);
    let keys: Vec<i32> = (0..64).map(|_| r.next() as i32).collect();
    let (pk, po) = (d.put(&keys), d.put(&[0i32; 64]));
    d.launch("local_array", 1, 64, 0, &[Arg::Ptr(pk), Arg::Ptr(po)]).unwrap();
    let want: Vec<i32> = (0..64)
        .map(|i| {
            let mut a: Vec<i32> = (0..32).map(|j| (j * 7 + i) % 32).collect();
            a[..16].sort_unstable();
            a[(keys[i as usize] & 31) as usize]
        })
        .collect();
    assert_eq!(d.get::<i32>(po, 64), want);
}

#[test]
fn sixty_four_bits() {
    let d = device();
    let mut r = Numbers(4);
    let n = 200;
    let mut x: Vec<i64> = (0..n).map(|_| r.wide() as i64 >> (r.next() % 60)).collect();
    let mut y: Vec<i64> = (0..n)
        .map(|_| (r.wide() as i64 >> (r.next() % 60)).max(1) * if r.next() & 1 == 0 { 1 } else { -1 })
        .collect();
    (x[0], y[0]) = (i64::MAX, -1);
    (x[1], y[1]) = (-7, 2);
    let (px, py, po) = (d.put(&x), d.put(&y), d.put(&vec![0i64; n * 8]));
    let args = [Arg::Ptr(px), Arg::Ptr(py), Arg::Ptr(po), Arg::I32(n as i32)];
    d.launch("wide", 1, 256, 0, &args).unwrap();
    let out: Vec<i64> = d.get(po, n * 8);
    for i in 0..n {
        let (a, b) = (x[i], y[i]);
        let (ua, ub) = (a as u64, b as u64);
        let ffs = if b == 0 { 0 } else { i64::from(b.trailing_zeros()) + 1 };
        // The intrinsics but the first return int; the sum is taken in 64 bits.
        let bits = (ua.reverse_bits() as i64)
            .wrapping_add(b.count_ones().into())
            .wrapping_add(a.leading_zeros().into())
            .wrapping_add(ffs);
        let want = [
            a.wrapping_div(b),
            a.wrapping_rem(b),
            (ua / ub) as i64,
            (ua % ub) as i64,
            ((i128::from(a) * i128::from(b)) >> 64) as i64,
            a.wrapping_mul(b),
            a >> (b & 63),
            bits,
        ];
        assert_eq!(out[i * 8..][..8], want, "{a} and {b}");
    }
}

#[test]
fn bit_fiddling() {
    let d = device();
    let mut r = Numbers(5);
    let x: Vec<u32> = (0..130).map(|_| r.next()).collect();
    let (px, po) = (d.put(&x), d.put(&[0u32; 128 * 8]));
    d.launch("bits", 1, 128, 0, &[Arg::Ptr(px), Arg::Ptr(po)]).unwrap();
    let out: Vec<u32> = d.get(po, 128 * 8);
    for i in 0..128 {
        let (a, b, c) = (x[i], x[i + 1], x[i + 2]);
        let both = u64::from(b) << 32 | u64::from(a);
        // __byte_perm ignores the top bit of each selector.
        let perm = (0..4).fold(0, |v, k| v | ((both >> (8 * (c >> (4 * k) & 7)) & 0xff) as u32) << (8 * k));
        let left = ((both << (c & 31)) >> 32) as u32;
        let right = (both >> (c & 63).min(32)) as u32;
        let dot = (0..4).fold(c as i32, |v, k| {
            v.wrapping_add(i32::from((a >> (8 * k)) as i8) * i32::from((b >> (8 * k)) as i8))
        });
        let want = [
            perm,
            left ^ right,
            (a & b) | (!a & c),
            (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(a.abs_diff(b)).wrapping_add(c),
            dot as u32,
            (a >> 5) & 0x3ff,
            a.reverse_bits().wrapping_add(b.count_ones() * 3).wrapping_add(c.leading_zeros()),
            ((((a as i32) << 7) >> 20) as u32).wrapping_add((a % 7).wrapping_mul(b / 13)),
        ];
        assert_eq!(out[i * 8..][..8], want, "thread {i}");
    }
}

#[test]
fn printf_prints_as_c_does() {
    let d = device();
    d.launch("say", 1, 2, 0, &[Arg::I32(2)]).unwrap();
    d.launch("say", 1, 1, 0, &[Arg::I32(3)]).unwrap();
    let want = "block 0 thread 0:  3.00 few|2   |C 123456789a %\n\
                block 0 thread 1:  3.00 few|2   |C 123456789a %\n\
                block 0 thread 0:  4.50 many|3   |D 123456789a %\n";
    assert_eq!(*d.said.lock().unwrap(), want);
}

#[test]
fn a_failed_assert_names_the_thread() {
    let d = device();
    d.launch("must", 1, 32, 0, &[Arg::I32(32)]).unwrap();
    let Err(Fault::Assert(m)) = d.launch("must", 1, 32, 0, &[Arg::I32(5)]) else {
        unreachable!("no assertion");
    };
    assert!(m.ends_with("block: [0,0,0], thread: [5,0,0] Assertion `threadIdx.x < n` failed."), "{m}");
    assert!(m.starts_with("language.cu:"), "{m}");
}

#[test]
fn traps_and_bad_pointers_are_faults() {
    let d = device();
    assert_eq!(d.launch("stop", 1, 1, 0, &[]), Err(Fault::Trap));
    let store = |p| d.launch("store_at", 1, 1, 0, &[Arg::Ptr(p)]);
    assert_eq!(store(0), Err(Fault::IllegalAddress { addr: 0 }));
    let at = common::BASE - 4;
    assert_eq!(store(at), Err(Fault::IllegalAddress { addr: at }));
    let at = common::BASE + 2;
    assert_eq!(store(at), Err(Fault::Misaligned { addr: at }));
    for at in [u64::MAX - 3, 1 << 56, 2 << 56 | 0xfff0, 3 << 56, 4 << 56 | 16, 1 << 63] {
        assert_eq!(store(at), Err(Fault::IllegalAddress { addr: at }));
    }
    // The device goes on after a fault, and does not remember it.
    let p = d.put(&[0i32]);
    d.launch("store_at", 1, 1, 0, &[Arg::Ptr(p)]).unwrap();
    assert_eq!(d.get::<i32>(p, 1), [1]);
}

#[test]
fn kernels_that_never_end_can_be_cancelled() {
    // One spins, one waits at a barrier nobody else comes to.
    for (name, grid) in [("forever", 1), ("forever", 300), ("stuck", 1)] {
        let d = device();
        let p = d.put(&[0i32]);
        let cancel = &d.cancel;
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                cancel.store(true, Ordering::Relaxed);
            });
            let r = d.launch(name, grid, 64, 0, &[Arg::Ptr(p)]);
            assert_eq!(r, Err(Fault::Cancelled), "{name}");
        });
    }
}

#[test]
fn what_is_not_supported_faults_only_where_it_is_reached() {
    let d = device();
    let p = d.put(&[1f32; 128]);
    d.launch("tensor", 1, 128, 0, &[Arg::Ptr(p)]).unwrap();
    assert_eq!(d.get::<f32>(p, 128), [2.0; 128]);
    let p = d.put(&[f32::INFINITY; 128]);
    let r = d.launch("tensor", 1, 128, 0, &[Arg::Ptr(p)]);
    let Err(Fault::IllegalInstruction(m)) = r else {
        unreachable!("{r:?}");
    };
    assert!(m.contains("mma.sync"), "{m}");
}

#[test]
fn impossible_launches_are_refused() {
    let d = device();
    let p = Arg::Ptr(d.put(&[0i32]));
    for (grid, block) in [(0, 1), (1, 0), (1, 1025)] {
        let r = d.launch("forever", grid, block, 0, std::slice::from_ref(&p));
        assert!(matches!(r, Err(Fault::IllegalInstruction(_))), "{r:?}");
    }
    let huge = [u32::MAX; 3];
    for dims in [[[1; 3], huge, [1; 3]], [huge, [1; 3], huge], [[2; 3], [1; 3], [3, 1, 1]]] {
        let r = d.launch_dims("forever", dims, 0, std::slice::from_ref(&p));
        assert!(matches!(r, Err(Fault::IllegalInstruction(_))), "{r:?}");
    }
    let r = d.launch("forever", 1, 1, 0, &[]);
    assert!(matches!(r, Err(Fault::IllegalInstruction(_))), "{r:?}");
}
