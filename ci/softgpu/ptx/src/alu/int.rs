//! Integer and bit arithmetic, one function a type and operation.

use crate::inst::{Carry, CarryOp, F1, F2, F3, F4};
use crate::types::Ty;

/// Instances of one expression for every integer type. `$x`, `$y` are typed
/// values; the result is cut to the type's width.
macro_rules! ints {
    ($ty:expr, |$x:ident| $e:expr) => {
        match $ty {
            Ty::U8 | Ty::B8 => {
                (|a| {
                    let $x = a as u8;
                    ($e) as u8 as u64
                }) as F1
            }
            Ty::U16 | Ty::B16 => {
                (|a| {
                    let $x = a as u16;
                    ($e) as u16 as u64
                }) as F1
            }
            Ty::U32 | Ty::B32 => {
                (|a| {
                    let $x = a as u32;
                    ($e) as u32 as u64
                }) as F1
            }
            Ty::U64 | Ty::B64 => {
                (|a| {
                    let $x = a;
                    ($e) as u64
                }) as F1
            }
            Ty::S8 => {
                (|a| {
                    let $x = a as i8;
                    ($e) as u8 as u64
                }) as F1
            }
            Ty::S16 => {
                (|a| {
                    let $x = a as i16;
                    ($e) as u16 as u64
                }) as F1
            }
            Ty::S32 => {
                (|a| {
                    let $x = a as i32;
                    ($e) as u32 as u64
                }) as F1
            }
            Ty::S64 => {
                (|a| {
                    let $x = a as i64;
                    ($e) as u64
                }) as F1
            }
            _ => return None,
        }
    };
    ($ty:expr, |$x:ident, $y:ident| $e:expr) => {
        match $ty {
            Ty::U8 | Ty::B8 => {
                (|a, b| {
                    let ($x, $y) = (a as u8, b as u8);
                    ($e) as u8 as u64
                }) as F2
            }
            Ty::U16 | Ty::B16 => {
                (|a, b| {
                    let ($x, $y) = (a as u16, b as u16);
                    ($e) as u16 as u64
                }) as F2
            }
            Ty::U32 | Ty::B32 => {
                (|a, b| {
                    let ($x, $y) = (a as u32, b as u32);
                    ($e) as u32 as u64
                }) as F2
            }
            Ty::U64 | Ty::B64 => {
                (|a, b| {
                    let ($x, $y) = (a, b);
                    ($e) as u64
                }) as F2
            }
            Ty::S8 => {
                (|a, b| {
                    let ($x, $y) = (a as i8, b as i8);
                    ($e) as u8 as u64
                }) as F2
            }
            Ty::S16 => {
                (|a, b| {
                    let ($x, $y) = (a as i16, b as i16);
                    ($e) as u16 as u64
                }) as F2
            }
            Ty::S32 => {
                (|a, b| {
                    let ($x, $y) = (a as i32, b as i32);
                    ($e) as u32 as u64
                }) as F2
            }
            Ty::S64 => {
                (|a, b| {
                    let ($x, $y) = (a as i64, b as i64);
                    ($e) as u64
                }) as F2
            }
            _ => return None,
        }
    };
    ($ty:expr, |$x:ident, $y:ident, $z:ident| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => {
                (|a, b, c| {
                    let ($x, $y, $z) = (a as u16, b as u16, c as u16);
                    ($e) as u16 as u64
                }) as F3
            }
            Ty::U32 | Ty::B32 => {
                (|a, b, c| {
                    let ($x, $y, $z) = (a as u32, b as u32, c as u32);
                    ($e) as u32 as u64
                }) as F3
            }
            Ty::U64 | Ty::B64 => {
                (|a, b, c| {
                    let ($x, $y, $z) = (a, b, c);
                    ($e) as u64
                }) as F3
            }
            Ty::S16 => {
                (|a, b, c| {
                    let ($x, $y, $z) = (a as i16, b as i16, c as i16);
                    ($e) as u16 as u64
                }) as F3
            }
            Ty::S32 => {
                (|a, b, c| {
                    let ($x, $y, $z) = (a as i32, b as i32, c as i32);
                    ($e) as u32 as u64
                }) as F3
            }
            Ty::S64 => {
                (|a, b, c| {
                    let ($x, $y, $z) = (a as i64, b as i64, c as i64);
                    ($e) as u64
                }) as F3
            }
            _ => return None,
        }
    };
}

/// What a division by zero leaves behind on the hardware.
macro_rules! div {
    ($x:ident, $y:ident) => {
        if $y == 0 { !($y & $y) } else { $x.wrapping_div($y) }
    };
}

pub(crate) fn unary(name: &str, ty: Ty) -> Option<F1> {
    Some(match name {
        "neg" => ints!(ty, |x| x.wrapping_neg()),
        "abs" => ints!(ty, |x| (x as i64).wrapping_abs()),
        "not" if ty == Ty::Pred => |a| (a & 1) ^ 1,
        "not" => ints!(ty, |x| !x),
        "cnot" => ints!(ty, |x| u8::from(x == 0)),
        "clz" => ints!(ty, |x| x.leading_zeros()),
        "popc" => ints!(ty, |x| x.count_ones()),
        "brev" => ints!(ty, |x| x.reverse_bits()),
        "bfind" => match ty {
            Ty::U32 | Ty::B32 => |a| lead(u64::from(a as u32)),
            Ty::S32 => |a| {
                let v = a as i32;
                lead(u64::from(if v < 0 { !v } else { v } as u32))
            },
            Ty::U64 | Ty::B64 => lead,
            Ty::S64 => |a| lead(if (a as i64) < 0 { !a } else { a }),
            _ => return None,
        },
        "bfind.shiftamt" => match ty {
            Ty::U32 | Ty::B32 => |a| shift_amount(lead(u64::from(a as u32)), 31),
            Ty::S32 => |a| {
                let v = a as i32;
                shift_amount(lead(u64::from(if v < 0 { !v } else { v } as u32)), 31)
            },
            Ty::U64 | Ty::B64 => |a| shift_amount(lead(a), 63),
            Ty::S64 => |a| shift_amount(lead(if (a as i64) < 0 { !a } else { a }), 63),
            _ => return None,
        },
        _ => return None,
    })
}

/// The place of the leading one, or all ones.
fn lead(v: u64) -> u64 {
    if v == 0 { 0xffff_ffff } else { 63 - u64::from(v.leading_zeros()) }
}

fn shift_amount(place: u64, top: u64) -> u64 {
    if place == 0xffff_ffff { place } else { top - place }
}

fn lanes2(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    let lo = f(a as u16, b as u16);
    let hi = f((a >> 16) as u16, (b >> 16) as u16);
    u64::from(lo) | u64::from(hi) << 16
}

pub(crate) fn binary(name: &str, ty: Ty) -> Option<F2> {
    if matches!(ty, Ty::U16x2 | Ty::S16x2) {
        let signed = ty == Ty::S16x2;
        return Some(match (name, signed) {
            ("add", _) => |a, b| lanes2(a, b, u16::wrapping_add),
            ("sub", _) => |a, b| lanes2(a, b, u16::wrapping_sub),
            ("min", false) => |a, b| lanes2(a, b, Ord::min),
            ("max", false) => |a, b| lanes2(a, b, Ord::max),
            ("min", true) => |a, b| lanes2(a, b, |x, y| (x as i16).min(y as i16) as u16),
            ("max", true) => |a, b| lanes2(a, b, |x, y| (x as i16).max(y as i16) as u16),
            _ => return None,
        });
    }
    Some(match name {
        "add" => ints!(ty, |x, y| x.wrapping_add(y)),
        "sub" => ints!(ty, |x, y| x.wrapping_sub(y)),
        "add.sat" => ints!(ty, |x, y| x.saturating_add(y)),
        "sub.sat" => ints!(ty, |x, y| x.saturating_sub(y)),
        "mul.lo" => ints!(ty, |x, y| x.wrapping_mul(y)),
        "mul.hi" => match ty {
            Ty::U16 => |a, b| (u64::from(a as u16) * u64::from(b as u16)) >> 16,
            Ty::S16 => |a, b| ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16 as u64,
            Ty::U32 => |a, b| (u64::from(a as u32) * u64::from(b as u32)) >> 32,
            Ty::S32 => |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32 as u64,
            Ty::U64 => |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64,
            Ty::S64 => |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
            _ => return None,
        },
        "mul.wide" => match ty {
            Ty::U16 => |a, b| u64::from(a as u16) * u64::from(b as u16),
            Ty::S16 => |a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32 as u64,
            Ty::U32 => |a, b| u64::from(a as u32) * u64::from(b as u32),
            Ty::S32 => |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64,
            _ => return None,
        },
        "mul24.lo" => match ty {
            Ty::U32 => |a, b| ((a & 0xff_ffff) * (b & 0xff_ffff)) as u32 as u64,
            Ty::S32 => |a, b| (sext24(a).wrapping_mul(sext24(b))) as u32 as u64,
            _ => return None,
        },
        "mul24.hi" => match ty {
            Ty::U32 => |a, b| (((a & 0xff_ffff) * (b & 0xff_ffff)) >> 16) as u32 as u64,
            Ty::S32 => |a, b| ((sext24(a).wrapping_mul(sext24(b))) >> 16) as u32 as u64,
            _ => return None,
        },
        "div" => ints!(ty, |x, y| div!(x, y)),
        "rem" => ints!(ty, |x, y| if y == 0 { x } else { x.wrapping_rem(y) }),
        "min" => ints!(ty, |x, y| x.min(y)),
        "max" => ints!(ty, |x, y| x.max(y)),
        "and" if ty == Ty::Pred => |a, b| a & b & 1,
        "or" if ty == Ty::Pred => |a, b| (a | b) & 1,
        "xor" if ty == Ty::Pred => |a, b| (a ^ b) & 1,
        "and" => ints!(ty, |x, y| x & y),
        "or" => ints!(ty, |x, y| x | y),
        "xor" => ints!(ty, |x, y| x ^ y),
        // Shift counts are 32 bits wide whatever the type, and clamp.
        "shl" => match ty.bits() {
            16 => |a, b| shl(a, b, 16) & 0xffff,
            32 => |a, b| shl(a, b, 32) & 0xffff_ffff,
            64 => |a, b| shl(a, b, 64),
            _ => return None,
        },
        "shr" => match ty {
            Ty::U16 | Ty::B16 => |a, b| shr(a & 0xffff, b),
            Ty::U32 | Ty::B32 => |a, b| shr(a & 0xffff_ffff, b),
            Ty::U64 | Ty::B64 => shr,
            Ty::S16 => |a, b| (i64::from(a as i16) >> (b as u32).min(63)) as u16 as u64,
            Ty::S32 => |a, b| (i64::from(a as i32) >> (b as u32).min(63)) as u32 as u64,
            Ty::S64 => |a, b| ((a as i64) >> (b as u32).min(63)) as u64,
            _ => return None,
        },
        "copysign" => match ty {
            Ty::F32 => |a, b| (a & 0x8000_0000) | (b & 0x7fff_ffff),
            Ty::F64 => |a, b| (a & (1 << 63)) | (b & !(1 << 63)),
            _ => return None,
        },
        "bmsk.clamp" => |a, b| {
            let (start, len) = (a as u32, b as u32);
            mask32(start, len)
        },
        "bmsk.wrap" => |a, b| mask32(a as u32 & 31, b as u32 & 31),
        "szext.clamp" => match ty {
            Ty::U32 => |a, b| a & mask32(0, b as u32),
            Ty::S32 => |a, b| szext(a, b as u32),
            _ => return None,
        },
        "szext.wrap" => match ty {
            Ty::U32 => |a, b| a & mask32(0, b as u32 & 31),
            Ty::S32 => |a, b| szext(a, b as u32 & 31),
            _ => return None,
        },
        _ => return None,
    })
}

fn mask32(start: u32, len: u32) -> u64 {
    let ones = shl(1, u64::from(len.min(63)), 64).wrapping_sub(1);
    shl(ones, u64::from(start), 64) & 0xffff_ffff
}

fn szext(a: u64, n: u32) -> u64 {
    if n == 0 {
        return 0;
    }
    if n >= 32 {
        return a & 0xffff_ffff;
    }
    (((a as i32) << (32 - n)) >> (32 - n)) as u32 as u64
}

fn sext24(a: u64) -> i64 {
    i64::from(((a as i32) << 8) >> 8)
}

fn shl(a: u64, b: u64, bits: u32) -> u64 {
    let n = b as u32;
    if n >= bits { 0 } else { a << n }
}

fn shr(a: u64, b: u64) -> u64 {
    let n = b as u32;
    if n >= 64 { 0 } else { a >> n }
}

pub(crate) fn ternary(name: &str, ty: Ty) -> Option<F3> {
    Some(match name {
        "mad.lo" => ints!(ty, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        "mad.hi" => match ty {
            Ty::U32 => |a, b, c| {
                (((u64::from(a as u32) * u64::from(b as u32)) >> 32) as u32).wrapping_add(c as u32).into()
            },
            Ty::S32 => |a, b, c| {
                (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c as u32).into()
            },
            Ty::U64 => |a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c),
            Ty::S64 => {
                |a, b, c| (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c)
            }
            _ => return None,
        },
        "mad.hi.sat" => match ty {
            Ty::S32 => |a, b, c| {
                let p = (i64::from(a as i32) * i64::from(b as i32)) >> 32;
                (p as i32).saturating_add(c as i32) as u32 as u64
            },
            _ => return None,
        },
        "mad.wide" => match ty {
            Ty::U16 => |a, b, c| (u32::from(a as u16) * u32::from(b as u16)).wrapping_add(c as u32).into(),
            Ty::S16 => {
                |a, b, c| ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c as u32).into()
            }
            Ty::U32 => |a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c),
            Ty::S32 => |a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c),
            _ => return None,
        },
        "mad24.lo" => match ty {
            Ty::U32 => |a, b, c| (((a & 0xff_ffff) * (b & 0xff_ffff)) as u32).wrapping_add(c as u32).into(),
            Ty::S32 => |a, b, c| (sext24(a).wrapping_mul(sext24(b)) as u32).wrapping_add(c as u32).into(),
            _ => return None,
        },
        "sad" => {
            ints!(ty, |x, y, z| z.wrapping_add(if x > y { x.wrapping_sub(y) } else { y.wrapping_sub(x) }))
        }
        "shf.l.wrap" => |a, b, c| shf(a, b, c as u32 & 31, true),
        "shf.l.clamp" => |a, b, c| shf(a, b, (c as u32).min(32), true),
        "shf.r.wrap" => |a, b, c| shf(a, b, c as u32 & 31, false),
        "shf.r.clamp" => |a, b, c| shf(a, b, (c as u32).min(32), false),
        "slct.s32" => |a, b, c| if (c as i32) >= 0 { a } else { b },
        "slct.f32" => |a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b },
        "dp4a.uu" => |a, b, c| dot(a, b, c, 4, false, false),
        "dp4a.us" => |a, b, c| dot(a, b, c, 4, false, true),
        "dp4a.su" => |a, b, c| dot(a, b, c, 4, true, false),
        "dp4a.ss" => |a, b, c| dot(a, b, c, 4, true, true),
        "dp2a.lo.uu" => |a, b, c| dot2(a, b, c, 0, false, false),
        "dp2a.lo.us" => |a, b, c| dot2(a, b, c, 0, false, true),
        "dp2a.lo.su" => |a, b, c| dot2(a, b, c, 0, true, false),
        "dp2a.lo.ss" => |a, b, c| dot2(a, b, c, 0, true, true),
        "dp2a.hi.uu" => |a, b, c| dot2(a, b, c, 2, false, false),
        "dp2a.hi.us" => |a, b, c| dot2(a, b, c, 2, false, true),
        "dp2a.hi.su" => |a, b, c| dot2(a, b, c, 2, true, false),
        "dp2a.hi.ss" => |a, b, c| dot2(a, b, c, 2, true, true),
        "vabsdiff4" => match ty {
            Ty::U32 => |a, b, _| absdiff4(a, b, false, |i, d| d << (8 * i)),
            Ty::S32 => |a, b, _| absdiff4(a, b, true, |i, d| d << (8 * i)),
            _ => return None,
        },
        "vabsdiff4.add" => match ty {
            Ty::U32 => |a, b, c| (absdiff4(a, b, false, |_, d| d) + (c & 0xffff_ffff)) & 0xffff_ffff,
            Ty::S32 => |a, b, c| (absdiff4(a, b, true, |_, d| d) + (c & 0xffff_ffff)) & 0xffff_ffff,
            _ => return None,
        },
        "fns" => |mask, base, offset| fns(mask as u32, base as u32, offset as i32),
        "prmt" => |a, b, c| prmt(a, b, c, ""),
        _ => return bitfield(name, ty),
    })
}

fn shf(a: u64, b: u64, n: u32, left: bool) -> u64 {
    let both = (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
    if left { ((both << n) >> 32) & 0xffff_ffff } else { (both >> n) & 0xffff_ffff }
}

fn byte(v: u64, i: u32, signed: bool) -> i64 {
    let b = (v >> (8 * i)) as u8;
    if signed { i64::from(b as i8) } else { i64::from(b) }
}

fn dot(a: u64, b: u64, c: u64, n: u32, sa: bool, sb: bool) -> u64 {
    let sum: i64 = (0..n).map(|i| byte(a, i, sa) * byte(b, i, sb)).sum();
    (c as u32).wrapping_add(sum as u32).into()
}

fn dot2(a: u64, b: u64, c: u64, first: u32, sa: bool, sb: bool) -> u64 {
    let half = |i: u32| {
        let h = (a >> (16 * i)) as u16;
        if sa { i64::from(h as i16) } else { i64::from(h) }
    };
    let sum: i64 = (0..2).map(|i| half(i) * byte(b, first + i, sb)).sum();
    (c as u32).wrapping_add(sum as u32).into()
}

/// The sum of the four differences of bytes, each as `place` puts it.
fn absdiff4(a: u64, b: u64, signed: bool, place: fn(u32, u64) -> u64) -> u64 {
    (0..4).map(|i| place(i, byte(a, i, signed).abs_diff(byte(b, i, signed)))).sum()
}

/// Find the n-th set bit.
fn fns(mask: u32, base: u32, offset: i32) -> u64 {
    const NONE: u64 = 0xffff_ffff;
    if base > 31 {
        return NONE;
    }
    if offset == 0 {
        return if mask >> base & 1 == 1 { base.into() } else { NONE };
    }
    let mut left = offset.unsigned_abs();
    let mut place = i64::from(base);
    while (0..32).contains(&place) {
        if mask >> place & 1 == 1 {
            left -= 1;
            if left == 0 {
                return place as u64;
            }
        }
        place += i64::from(offset.signum());
    }
    NONE
}

/// Byte permutation, in its default and its fixed modes.
pub(crate) fn prmt(a: u64, b: u64, c: u64, mode: &str) -> u64 {
    let src = (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
    let s = c & 3;
    let pick: [u64; 4] = match mode {
        "f4e" => [s, s + 1, s + 2, s + 3],
        "b4e" => [s, (s + 7) & 7, (s + 6) & 7, (s + 5) & 7],
        "rc8" => [s; 4],
        "ecl" => [s, s.max(1), s.max(2), 3],
        "ecr" => [0, s.min(1), s.min(2), s],
        "rc16" => [2 * (s & 1), 2 * (s & 1) + 1, 2 * (s & 1), 2 * (s & 1) + 1],
        _ => [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15],
    };
    pick.iter().enumerate().fold(0, |r, (i, p)| {
        let v = (src >> (8 * (p & 7))) as u8;
        let v = if p & 8 != 0 { if v & 0x80 != 0 { 0xff } else { 0 } } else { v };
        r | u64::from(v) << (8 * i)
    })
}

/// `bfe`: a field of `c` bits at `b`.
fn bitfield(name: &str, ty: Ty) -> Option<F3> {
    if name != "bfe" {
        return None;
    }
    Some(match ty {
        Ty::U32 | Ty::B32 => |a, b, c| bfe(a & 0xffff_ffff, b, c, 32, false),
        Ty::S32 => |a, b, c| bfe(a & 0xffff_ffff, b, c, 32, true),
        Ty::U64 | Ty::B64 => |a, b, c| bfe(a, b, c, 64, false),
        Ty::S64 => |a, b, c| bfe(a, b, c, 64, true),
        _ => return None,
    })
}

fn bfe(a: u64, pos: u64, len: u64, bits: u64, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let field = if pos >= bits { 0 } else { a >> pos };
    let field = if len >= 64 { field } else { field & ((1 << len) - 1) };
    if !signed {
        return field;
    }
    // The sign is the field's top bit, or the value's where the field
    // reaches past it.
    let sign = a >> (pos + len - 1).min(bits - 1) & 1;
    let have = len.min(bits.saturating_sub(pos));
    let out = if sign == 1 && have < 64 { field | (u64::MAX << have) } else { field };
    if bits == 32 { out & 0xffff_ffff } else { out }
}

pub(crate) fn quad(name: &str, ty: Ty) -> Option<F4> {
    Some(match (name, ty.bits()) {
        ("bfi", 32) => |a, b, c, d| bfi(a, b, c, d, 32) & 0xffff_ffff,
        ("bfi", 64) => |a, b, c, d| bfi(a, b, c, d, 64),
        ("lop3", 32) => |a, b, c, lut| {
            (0..8u64).filter(|i| lut >> i & 1 == 1).fold(0, |r, i| {
                let pick = |v: u64, bit: u64| if i & bit != 0 { v } else { !v };
                r | (pick(a, 4) & pick(b, 2) & pick(c, 1))
            }) & 0xffff_ffff
        },
        _ => return None,
    })
}

fn bfi(a: u64, b: u64, pos: u64, len: u64, bits: u64) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 || pos >= bits {
        return b;
    }
    let mask = if len >= 64 { u64::MAX } else { (1 << len) - 1 } << pos;
    (b & !mask) | ((a << pos) & mask)
}

/// Arithmetic with the carry flag: the result, and the flag it leaves.
pub(crate) fn carry(w: Carry, a: u64, b: u64, c: u64, flag: bool) -> (u64, bool) {
    let bits = if w.wide { 64 } else { 32 };
    let mask = u128::from(u64::MAX >> (64 - bits));
    let cut = |v: u64| u128::from(v) & mask;
    let carry_in = u128::from(w.carry_in && flag);
    let product = || {
        if w.signed {
            let s = |v: u64| {
                if w.wide { i128::from(v as i64) } else { i128::from(v as i32) }
            };
            (s(a) * s(b)) as u128
        } else {
            cut(a) * cut(b)
        }
    };
    let sum = match w.op {
        CarryOp::Add => cut(a) + cut(b) + carry_in,
        // Borrow is kept as the flag itself: set when one was needed.
        CarryOp::Sub => {
            let d = cut(a).wrapping_sub(cut(b)).wrapping_sub(carry_in);
            return ((d & mask) as u64, d >> 127 == 1);
        }
        CarryOp::MadLo => (product() & mask) + cut(c) + carry_in,
        CarryOp::MadHi => ((product() >> bits) & mask) + cut(c) + carry_in,
    };
    ((sum & mask) as u64, sum > mask)
}
