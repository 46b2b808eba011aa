//! Conversions between types: `cvt` in all its forms.

use super::float::Fmt;
use super::round::{self, Format, Round, narrow};
use crate::inst::F1;
use crate::types::Ty;

/// How a conversion rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CvtRound {
    /// None was named: the conversion is exact or truncates.
    None,
    /// To a floating format.
    Float(Round),
    /// To an integral value.
    Int(Round),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CvtDesc {
    pub(crate) to: Ty,
    pub(crate) from: Ty,
    pub(crate) round: CvtRound,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) satfinite: bool,
    pub(crate) relu: bool,
}

/// Conversions that need no description at run time.
pub(crate) fn fast_convert(d: CvtDesc) -> Option<F1> {
    if d.sat || d.relu || d.satfinite {
        return None;
    }
    if d.to.is_int() && d.from.is_int() {
        // Extension by the narrower of the two; consumers cut the rest.
        let by = if d.from.bits() <= d.to.bits() { d.from } else { d.to };
        return Some(match by {
            Ty::U8 | Ty::B8 => |a| u64::from(a as u8),
            Ty::U16 | Ty::B16 => |a| u64::from(a as u16),
            Ty::U32 | Ty::B32 => |a| u64::from(a as u32),
            Ty::S8 => |a| a as i8 as u64,
            Ty::S16 => |a| a as i16 as u64,
            Ty::S32 => |a| a as i32 as u64,
            _ => |a| a,
        });
    }
    let nearest = matches!(d.round, CvtRound::None | CvtRound::Float(Round::Rn));
    if d.ftz || !nearest {
        return None;
    }
    Some(match (d.to, d.from) {
        (Ty::F32, Ty::S32) => |a| u64::from((a as i32 as f32).to_bits()),
        (Ty::F32, Ty::U32) => |a| u64::from((a as u32 as f32).to_bits()),
        (Ty::F32, Ty::S64) => |a| u64::from((a as i64 as f32).to_bits()),
        (Ty::F32, Ty::U64) => |a| u64::from((a as f32).to_bits()),
        (Ty::F64, Ty::S32) => |a| f64::from(a as i32).to_bits(),
        (Ty::F64, Ty::U32) => |a| f64::from(a as u32).to_bits(),
        (Ty::F64, Ty::S64) => |a| (a as i64 as f64).to_bits(),
        (Ty::F64, Ty::U64) => |a| (a as f64).to_bits(),
        (Ty::F64, Ty::F32) => |a| f64::from(f32::from_bits(a as u32)).to_bits(),
        (Ty::F32, Ty::F64) => |a| {
            let r = f64::from_bits(a) as f32;
            if r.is_nan() { 0x7fff_ffff } else { u64::from(r.to_bits()) }
        },
        (Ty::F32, Ty::F16) => |a| u64::from(half::f16::from_bits(a as u16).to_f32().to_bits()),
        (Ty::F32, Ty::Bf16) => |a| u64::from(half::bf16::from_bits(a as u16).to_f32().to_bits()),
        _ => return None,
    })
}

/// The general conversion. `b` is the second source of packed forms, which
/// becomes the low half.
pub(crate) fn convert(d: CvtDesc, a: u64, b: u64) -> u64 {
    match (d.to, d.from) {
        (Ty::F16x2 | Ty::Bf16x2, Ty::F32) => {
            let to = if d.to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            let d = CvtDesc { to, ..d };
            (scalar(d, a) & 0xffff) << 16 | (scalar(d, b) & 0xffff)
        }
        (Ty::E4m3x2 | Ty::E5m2x2, Ty::F32) => {
            let fp8 = |v| to_fp8(f64::from(f32::from_bits(v as u32)), d);
            fp8(a) << 8 | fp8(b)
        }
        (Ty::E4m3x2 | Ty::E5m2x2, Ty::F16x2) => {
            let fp8 = |v| to_fp8(Fmt::F16.widen(v), d);
            fp8(a >> 16) << 8 | fp8(a)
        }
        (Ty::F16x2, Ty::E4m3x2 | Ty::E5m2x2) => {
            let f = |v: u64| {
                let x = from_fp8(v as u8, d.from == Ty::E4m3x2);
                let x = if d.relu && x <= 0.0 { 0.0 } else { x };
                narrow(x, round::F16, Round::Rn)
            };
            f(a >> 8) << 16 | f(a)
        }
        _ => scalar(d, a),
    }
}

fn to_fp8(x: f64, d: CvtDesc) -> u64 {
    let x = if d.relu && x <= 0.0 { 0.0 } else { x };
    if d.to == Ty::E5m2x2 {
        let v = narrow(x, round::E5M2, Round::Rn);
        let infinite = v & 0x7f == 0x7c;
        return if infinite { v - 1 } else { v };
    }
    // e4m3 has no infinity: its top exponent holds numbers up to 448, and
    // conversions saturate there.
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    if x.is_nan() {
        return 0x7f;
    }
    if x.abs() >= 256.0 {
        let steps = (x.abs() / 32.0).round_ties_even().min(14.0) as u64;
        return sign | (0x78 + steps - 8);
    }
    narrow(x, round::E4M3, Round::Rn)
}

fn from_fp8(v: u8, e4m3: bool) -> f64 {
    let (f, bias): (Format, i32) = if e4m3 { (round::E4M3, 7) } else { (round::E5M2, 15) };
    let sign = if v & 0x80 != 0 { -1.0 } else { 1.0 };
    let m = f64::from(v & ((1 << f.mant) - 1));
    let e = i32::from((v & 0x7f) >> f.mant);
    let one = f64::from(1 << f.mant);
    if e4m3 && v & 0x7f == 0x7f {
        return f64::NAN;
    }
    if !e4m3 && e == 31 {
        return if m == 0.0 { sign * f64::INFINITY } else { f64::NAN };
    }
    if e == 0 {
        return sign * m / one * 2f64.powi(1 - bias);
    }
    sign * (1.0 + m / one) * 2f64.powi(e - bias)
}

fn load_int(ty: Ty, a: u64) -> i128 {
    match ty {
        Ty::U8 | Ty::B8 => i128::from(a as u8),
        Ty::U16 | Ty::B16 => i128::from(a as u16),
        Ty::U32 | Ty::B32 => i128::from(a as u32),
        Ty::S8 => i128::from(a as i8),
        Ty::S16 => i128::from(a as i16),
        Ty::S32 => i128::from(a as i32),
        Ty::S64 => i128::from(a as i64),
        _ => i128::from(a),
    }
}

fn limits(ty: Ty) -> (i128, i128) {
    let bits = ty.bits().min(64);
    if ty.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

fn float_format(ty: Ty) -> Option<Fmt> {
    Fmt::of(ty).map(|f| f.0)
}

fn scalar(d: CvtDesc, a: u64) -> u64 {
    let Some(from) = float_format(d.from) else {
        let v = load_int(d.from, a);
        if d.to.is_int() {
            let (lo, hi) = limits(d.to);
            return if d.sat { v.clamp(lo, hi) as u64 } else { v as u64 };
        }
        let mode = match d.round {
            CvtRound::Float(m) => m,
            _ => Round::Rn,
        };
        let x = if d.to == Ty::F64 { round::int64(v, mode) } else { round::int_odd(v) };
        return put_float(d, x, mode);
    };
    let mut x = from.widen(a);
    let f32_source = d.from == Ty::F32;
    if d.ftz && f32_source && x.abs() < f64::from(f32::MIN_POSITIVE) {
        x = 0f64.copysign(x);
    }
    if d.to.is_int() {
        return to_int(d, x);
    }
    let mode = match d.round {
        CvtRound::Int(m) => {
            x = integral(x, m);
            Round::Rn
        }
        CvtRound::Float(m) => m,
        CvtRound::None => Round::Rn,
    };
    put_float(d, x, mode)
}

fn integral(x: f64, mode: Round) -> f64 {
    match mode {
        Round::Rn => x.round_ties_even(),
        Round::Rna => x.round(),
        Round::Rz => x.trunc(),
        Round::Rm => x.floor(),
        Round::Rp => x.ceil(),
    }
}

fn to_int(d: CvtDesc, x: f64) -> u64 {
    if x.is_nan() {
        // Zero for conversions within 32 bits, else the top bit alone.
        return if d.from == Ty::F64 || d.to.bits() == 64 { 1 << (d.to.bits().min(64) - 1) } else { 0 };
    }
    let mode = match d.round {
        CvtRound::Int(m) | CvtRound::Float(m) => m,
        CvtRound::None => Round::Rz,
    };
    let (lo, hi) = limits(d.to);
    // `as` saturates, and i128 holds every bound.
    (integral(x, mode) as i128).clamp(lo, hi) as u64
}

fn put_float(d: CvtDesc, x: f64, mode: Round) -> u64 {
    let mut x = x;
    if d.sat {
        x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
    }
    if d.relu && x <= 0.0 {
        x = 0.0;
    }
    if d.to == Ty::Tf32 {
        return narrow(x, round::TF32, mode) << 13;
    }
    let Some(fmt) = float_format(d.to) else {
        return 0;
    };
    let out = fmt.narrow(x, mode);
    if fmt == Fmt::F64 {
        return out;
    }
    let w = fmt.widen(out);
    if d.satfinite && w.is_infinite() {
        // The pattern before infinity is the largest finite number.
        return out - 1;
    }
    if d.ftz && d.to == Ty::F32 && w.abs() < f64::from(f32::MIN_POSITIVE) {
        return out & 0x8000_0000;
    }
    out
}
