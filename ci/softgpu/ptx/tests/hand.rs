//! Kernels of `fixtures/hand.ptx`, against values worked out by hand from the
//! PTX manual.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device};
use softgpu_ptx::{Fault, Module};

const PTX: &str = include_str!("../fixtures/hand.ptx");

fn results(kernel: &str, extra: &[i32], n: usize) -> Vec<u32> {
    let d = Device::new(PTX);
    let po = d.put(&vec![0xdead_beefu32; n]);
    let mut args = vec![Arg::Ptr(po)];
    args.extend(extra.iter().map(|v| Arg::I32(*v)));
    d.launch(kernel, 1, 1, 0, &args).unwrap();
    d.get(po, n)
}

#[test]
fn bits_and_integers() {
    let want = [
        0x456,
        // The sign comes from the top bit when the field reaches past it.
        0xffff_fff9,
        0x1234_5ff8,
        28,
        31,
        u32::MAX,
        5,
        31,
        0x9ade_1256,
        // b4e from byte 1: bytes 1, 0, 7, 6 of {b, a}, low first.
        0xbc9a_7856,
        // Selectors 9, a, 8, b replicate the signs of bytes 1, 2, 0, 3.
        0xffff_ffff,
        (0x1234_5678 & 0x9abc_def0) | (0x1234_5678 & 0x0f0f_0f0f) | (0x9abc_def0 & 0x0f0f_0f0f),
        u32::MAX,
        0xff0,
        // 3*5 + -2*4 + 7
        14,
        112,
        -5i32 as u32,
        1,
        0,
        u32::MAX,
        2,
        0x7fff_ffff,
        0x7fff_ffff,
        63,
        u32::MAX,
        0x1234_5678,
        0x9abc_def0,
        0xfffe_ffff,
    ];
    let got = results("bits", &[], want.len());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert_eq!(g, w, "result {i}: {g:#x}, not {w:#x}");
    }
}

#[test]
fn predicates_and_floats() {
    let want = [
        1 | 2 | 8 | 16 | 32 | 128 | 256 | 512 | 1024 | 4096,
        10,
        u32::MAX,
        0x3f80_0000,
        // Low halves: 2 > 1; high halves: 1 > 2.
        0x0000_3c00,
        0xc000_0000,
        0x7fff_ffff,
        0x3f80_0000,
        0x8000_0000,
        2,
        255,
        -128i32 as u32,
        0x3f80_2000,
        0x0000_3f80,
        // High: 1*2+1; low: -1*2+1, below zero.
        0x4200_0000,
        0x4049_0fdb,
        0x3f80_0000,
        0,
    ];
    let got = results("predicates", &[], want.len());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert_eq!(g, w, "result {i}: {g:#x}, not {w:#x}");
    }
}

#[test]
fn control_flow_and_calls() {
    for which in 0..3 {
        let r = 100 + which as u32;
        let want = [r, r + 1000, r - 1, 7, 3, 55, 55, which as u32, 1 | 4];
        assert_eq!(results("control", &[which], want.len()), want);
    }
}

#[test]
fn bad_calls_are_faults() {
    let d = Device::new(PTX);
    let p = d.put(&[0u32]);
    let r = d.launch("control", 1, 1, 0, &[Arg::Ptr(p), Arg::I32(3)]);
    assert!(matches!(r, Err(Fault::IllegalInstruction(_))), "{r:?}");
    let r = d.launch("undefined", 1, 1, 0, &[Arg::Ptr(p)]);
    let Err(Fault::IllegalInstruction(m)) = r else { unreachable!("{r:?}") };
    assert!(m.contains("nowhere"), "{m}");
    let r = d.launch("endless_recursion", 1, 1, 0, &[Arg::Ptr(p)]);
    let Err(Fault::IllegalInstruction(m)) = r else { unreachable!("{r:?}") };
    assert!(m.contains("stack overflow"), "{m}");
}

#[test]
fn declarations() {
    let m = Module::parse(PTX).unwrap();
    let k = m.kernel("sized").unwrap();
    assert_eq!(k.max_threads, 128);
    assert_eq!(k.required_block, Some([64, 2, 1]));
    assert_eq!(k.static_shared, 104 + 16);
    let ints = m.globals().iter().find(|g| g.name == "ints").unwrap();
    assert_eq!(ints.size, 24);
    let words: Vec<u32> = ints.init.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(words, [1, 0, 2, 3]);
    assert!(!m.uses_printf());
    assert!(m.kernel("plus").is_none());
    assert!(m.function_address("plus").is_some());
}

#[test]
fn what_is_no_module_is_refused() {
    for bad in [
        "",
        "\0",
        "hello",
        "\x7fELF",
        ".target sm_90",
        ".version 8.5 .target sm_90\n.entry k(",
        ".version 8.5\n.entry k() { add.s32 ",
        ".version 8.5\n.entry k() { }}",
        ".version 8.5\n.global .b8 x[99999999999999999999];",
        ".version 8.5\n.global .b8 x[2] = {1,2,3};",
        ".version 8.5\n.entry k() { .local .b8 x[4000000]; ret; }",
        ".version 8.5\n.global .align 3 .b8 x;",
        ".version 8.5\n.global .b8 x[][18446744073709551615][18446744073709551615] = {1};",
    ] {
        assert!(Module::parse(bad).is_err(), "{bad:?}");
    }
    let ok = ".version 8.5\n.target sm_80, debug\n.entry k() { ret; }\0rubbish";
    let m = Module::parse(ok).unwrap();
    assert_eq!(m.target_sm(), 80);
    assert_eq!(m.kernels().count(), 1);
}

#[test]
fn directives_may_be_glued_together() {
    // Signed: 2 + |-1 - 1| + |-128 - 127| + 1, and 10.
    assert_eq!(results("glued", &[], 3), [0x0001_0002, 0x02fe_0101, 270]);
}
