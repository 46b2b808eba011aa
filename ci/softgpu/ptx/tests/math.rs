//! Kernels of `fixtures/math.cu`, against the host's arithmetic.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device, Numbers};
use half::{bf16, f16};

const PTX: &str = include_str!("../fixtures/math.ptx");

/// Ordinary values, large and small ones, and the special ones.
fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut r = Numbers(seed);
    let mut v = vec![0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, 100.0, -250.25, 3.0e4];
    while v.len() < n {
        v.push(r.float() * 10f64.powi((r.next() % 4) as i32));
    }
    v
}

fn close(got: f64, want: f64, relative: f64, what: &str) {
    let ok = (got.is_nan() && want.is_nan())
        || got == want
        || (got - want).abs() <= relative * want.abs().max(1e-6);
    assert!(ok, "{what}: {got:e}, not {want:e}");
}

#[test]
fn single_precision_library() {
    let d = Device::new(PTX);
    let x: Vec<f32> = values(500, 1).iter().map(|v| *v as f32).collect();
    let n = x.len();
    let (px, po) = (d.put(&x), d.put(&vec![0f32; n * 12]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(n as i32)];
    d.launch("math32", 4, 128, 0, &args).unwrap();
    let out: Vec<f32> = d.get(po, n * 12);
    for (i, x) in x.iter().enumerate() {
        let v = f64::from(*x);
        let o = &out[i * 12..][..12];
        let want = [
            v.sin(),
            v.cos(),
            v.exp(),
            (f64::from(x.abs() + 1e-3)).ln(),
            f64::from(x.abs().sqrt()),
            f64::from(1.0 / (x + 0.5)),
            v.tanh(),
            v.abs().powf(f64::from(1.7f32)),
            f64::from(x.ceil().mul_add(100.0, x.floor())),
            f64::from(x.round_ties_even()),
            f64::from(x % 1.3f32),
            libm_erf(v),
        ];
        for (k, w) in want.iter().enumerate() {
            // Beyond the range of f32 the library gives infinity.
            let w = f64::from(*w as f32);
            close(o[k].into(), w, 2e-6, &format!("function {k} of {v}"));
        }
    }
}

/// The error function by its series, good enough to compare with.
fn libm_erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn double_precision_library() {
    let d = Device::new(PTX);
    let x = values(300, 2);
    let n = x.len();
    let (px, po) = (d.put(&x), d.put(&vec![0f64; n * 10]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(n as i32)];
    d.launch("math64", 3, 128, 0, &args).unwrap();
    let out: Vec<f64> = d.get(po, n * 10);
    for (i, v) in x.iter().copied().enumerate() {
        let want = [
            v.sin(),
            v.cos(),
            v.exp(),
            (v.abs() + 1e-3).ln(),
            v.abs().sqrt(),
            1.0 / (v + 0.5),
            v.tanh(),
            v.abs().powf(1.7),
            v.atan2(2.0),
            v % 1.3,
        ];
        for (k, w) in want.iter().enumerate() {
            close(out[i * 10 + k], *w, 4e-15, &format!("function {k} of {v}"));
        }
    }
}

#[test]
fn approximate_functions() {
    let d = Device::new(PTX);
    let x: Vec<f32> = values(100, 3).iter().map(|v| (*v % 20.0) as f32).collect();
    let (px, po) = (d.put(&x), d.put(&[0f32; 600]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(100)];
    d.launch("fast32", 1, 128, 0, &args).unwrap();
    let out: Vec<f32> = d.get(po, 600);
    for (i, x) in x.iter().enumerate() {
        let v = f64::from(*x);
        let want = [
            v.sin(),
            v.exp(),
            f64::from(x.abs() + 1e-3).ln(),
            v / 3.0,
            1.0 / (v.abs() + 1.0).sqrt(),
            (v.abs() + 1.0).powf(f64::from(0.3f32)),
        ];
        for (k, w) in want.iter().enumerate() {
            close(out[i * 6 + k].into(), *w, 1e-5, &format!("function {k} of {v}"));
        }
    }
}

#[test]
fn half_types_round_once() {
    let d = Device::new(PTX);
    let mut r = Numbers(4);
    let mut x: Vec<f32> = (0..250).map(|_| (r.float() * 8.0) as f32).collect();
    x.extend([0.0, 65504.0, 65520.0, 6e-8, -1e-5, 1e-40]);
    let n = x.len();
    let (px, po) = (d.put(&x), d.put(&vec![0f32; n * 12]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(n as i32)];
    d.launch("halves", 1, 256, 0, &args).unwrap();
    let out: Vec<f32> = d.get(po, n * 12);
    for i in 0..n {
        let (a, b) = (x[i], x[(i + 1) % n]);
        let (h, g) = (f16::from_f32(a).to_f32(), f16::from_f32(b).to_f32());
        let half = |v: f32| f16::from_f32(v).to_f32();
        let (u, v) = (bf16::from_f32(a).to_f32(), bf16::from_f32(b).to_f32());
        let brain = |v: f32| bf16::from_f32(v).to_f32();
        let o = &out[i * 12..][..12];
        assert_eq!(o[0], h, "{a}");
        assert_eq!(o[1], half(h + g));
        assert_eq!(o[2], half(h * g));
        // Exact in f64 for these, so one rounding.
        let exact = f64::from(h).mul_add(f64::from(g), f64::from(h));
        assert_eq!(o[3], f16::from_f64(exact).to_f32(), "fma of {h} and {g}");
        if g != 0.0 {
            close(o[4].into(), half(h / g).into(), 1e-3, &format!("{h} / {g}"));
        }
        assert_eq!(o[5], f32::from(u8::from(h < g)));
        assert_eq!(o[6], half(h + g));
        assert_eq!(o[7], half(g + g).max(g));
        assert_eq!(o[8], u);
        assert_eq!(o[9], brain(u + v));
        assert_eq!(o[10], brain(u.mul_add(v, u)), "fma of {u} and {v}");
        assert_eq!(o[11], brain(v * v));
    }
}

#[test]
fn eight_bit_floats() {
    let d = Device::new(PTX);
    let x = [
        0.0f32,
        1.0,
        -1.0625,
        1.1875,
        3.3,
        447.0,
        448.0,
        500.0,
        -1e9,
        0.001,
        0.0021,
        57344.0,
        6e4,
        1e-7,
        f32::NAN,
        0.013,
    ];
    let (px, po) = (d.put(&x), d.put(&[0f32; 32]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(16)];
    d.launch("fp8", 1, 32, 0, &args).unwrap();
    let out: Vec<f32> = d.get(po, 32);
    // By hand from the formats: 3 bits down to 2^-9, and 2 bits to 2^-16.
    let want4 = [
        0.0,
        1.0,
        -1.0,
        1.25,
        3.25,
        448.0,
        448.0,
        448.0,
        -448.0,
        0.001953125,
        0.001953125,
        448.0,
        448.0,
        0.0,
        f32::NAN,
        0.013671875,
    ];
    let want5 = [
        0.0,
        1.0,
        -1.0,
        1.25,
        3.5,
        448.0,
        448.0,
        512.0,
        -57344.0,
        0.0009765625,
        0.001953125,
        57344.0,
        57344.0,
        0.0,
        f32::NAN,
        0.013671875,
    ];
    for i in 0..16 {
        close(out[i * 2].into(), want4[i].into(), 0.0, &format!("e4m3 of {}", x[i]));
        close(out[i * 2 + 1].into(), want5[i].into(), 0.0, &format!("e5m2 of {}", x[i]));
    }
}

#[test]
fn conversions() {
    let d = Device::new(PTX);
    let mut x = values(120, 5);
    x.extend([1e10, -1e10, 1e19, -3e19, 1e300, 2.5, 3.5, -2.5, 16777217.0, 4.0e18 + 1024.0]);
    let n = x.len();
    let (px, po) = (d.put(&x), d.put(&vec![0i64; n * 16]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(n as i32)];
    d.launch("convert", 1, 256, 0, &args).unwrap();
    let out: Vec<i64> = d.get(po, n * 16);
    for (i, v) in x.iter().copied().enumerate() {
        let f = v as f32;
        let word = |f: f32| i64::from(f.to_bits() as i32);
        let towards_zero = |v: f64| {
            let f = v as f32;
            if f64::from(f).abs() > v.abs() { f32::from_bits(f.to_bits() - 1) } else { f }
        };
        let up = { if f64::from(f) < v { f.next_up() } else { f } };
        let l = v as i64;
        let zero_int = {
            let f = l as f32;
            if (f as i128).abs() > i128::from(l).abs() { f32::from_bits(f.to_bits() - 1) } else { f }
        };
        let want = [
            i64::from(v as i32),
            i64::from(v as u32),
            l,
            v as u64 as i64,
            i64::from(f.round_ties_even() as i32),
            i64::from(f.ceil() as i32),
            i64::from(f.floor() as i32),
            word(towards_zero(v)),
            word(up),
            i64::from(v as i32 as i16),
            i64::from(v as i32 as u8),
            i64::from(v as i32 as i8),
            word(l as f32),
            (v as u64 as f64).to_bits() as i64,
            word(zero_int),
            i64::from(f16::from_f64(v).to_bits()),
        ];
        for (k, w) in want.iter().enumerate() {
            assert_eq!(out[i * 16 + k], *w, "conversion {k} of {v}");
        }
    }
}

#[test]
fn rounding_modes_bracket_the_exact_result() {
    let d = Device::new(PTX);
    let mut r = Numbers(6);
    let x: Vec<f32> = (0..300).map(|_| (r.float() * 2f64.powi((r.next() % 60) as i32 - 30)) as f32).collect();
    let n = x.len();
    let (px, po) = (d.put(&x), d.put(&vec![0f32; n * 16]));
    let args = [Arg::Ptr(px), Arg::Ptr(po), Arg::I32(n as i32)];
    d.launch("rounded", 1, 512, 0, &args).unwrap();
    let out: Vec<f32> = d.get(po, n * 16);
    for i in 0..n {
        let (a, b) = (x[i], x[(i + 1) % n]);
        let nearest = [a + b, a * b, a / b, a.mul_add(b, a)];
        for (k, near) in nearest.iter().enumerate() {
            let [rn, rz, ru, rd] = out[i * 16 + k * 4..][..4] else { unreachable!() };
            assert_eq!(rn, *near, "operation {k} of {a} and {b}");
            assert!(rd <= rn && rn <= ru);
            assert!(rd == ru || rd.next_up() == ru, "{rd:e} {ru:e}");
            assert_eq!(rz, if rn > 0.0 { rd } else { ru });
        }
    }
}

#[test]
fn carry_chains() {
    let d = Device::new(PTX);
    let mut r = Numbers(7);
    let mut word = || match r.next() % 4 {
        0 => u32::MAX,
        1 => 0,
        _ => r.next(),
    };
    let a: Vec<u32> = (0..400).map(|_| word()).collect();
    let b: Vec<u32> = (0..400).map(|_| word()).collect();
    let (pa, pb, po) = (d.put(&a), d.put(&b), d.put(&[0u32; 800]));
    d.launch("carries", 1, 100, 0, &[pa, pb, po].map(Arg::Ptr)).unwrap();
    let out: Vec<u32> = d.get(po, 800);
    let wide = |w: &[u32]| w.iter().rev().fold(0u128, |v, x| v << 32 | u128::from(*x));
    for i in 0..100 {
        let (p, q) = (wide(&a[i * 4..][..4]), wide(&b[i * 4..][..4]));
        assert_eq!(wide(&out[i * 8..][..4]), p.wrapping_add(q));
        assert_eq!(wide(&out[i * 8 + 4..][..4]), p.wrapping_sub(q));
    }
}
