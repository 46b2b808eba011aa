//! Floating arithmetic: a fast path for `f32` and `f64` rounded to nearest,
//! and one general routine for everything else.
//!
//! The approximate functions (`sin.approx`, `ex2.approx`, …) are computed in
//! `f64` and rounded once, so they are more exact than a GPU's; code that
//! needs a GPU's exact low bits there is wrong on a GPU of another model too.

use super::round::{self, Format, Round, narrow};
use crate::inst::{F1, F2, F3};
use crate::types::Ty;
use half::{bf16, f16};

/// A format arithmetic is done in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fmt {
    F16,
    Bf16,
    F32,
    F64,
}

impl Fmt {
    /// The format of a type, and whether the type packs two.
    pub(crate) fn of(ty: Ty) -> Option<(Fmt, bool)> {
        Some(match ty {
            Ty::F16 => (Fmt::F16, false),
            Ty::F16x2 => (Fmt::F16, true),
            Ty::Bf16 => (Fmt::Bf16, false),
            Ty::Bf16x2 => (Fmt::Bf16, true),
            Ty::F32 => (Fmt::F32, false),
            Ty::F32x2 => (Fmt::F32, true),
            Ty::F64 => (Fmt::F64, false),
            _ => return None,
        })
    }

    fn bits(self) -> u32 {
        match self {
            Fmt::F16 | Fmt::Bf16 => 16,
            Fmt::F32 => 32,
            Fmt::F64 => 64,
        }
    }

    fn format(self) -> Format {
        match self {
            Fmt::F16 => round::F16,
            Fmt::Bf16 => round::BF16,
            Fmt::F32 | Fmt::F64 => round::F32,
        }
    }

    pub(crate) fn widen(self, v: u64) -> f64 {
        match self {
            Fmt::F16 => f16::from_bits(v as u16).to_f64(),
            Fmt::Bf16 => bf16::from_bits(v as u16).to_f64(),
            Fmt::F32 => f64::from(f32::from_bits(v as u32)),
            Fmt::F64 => f64::from_bits(v),
        }
    }

    /// Rounds a value (exact, or rounded to odd) to this format.
    pub(crate) fn narrow(self, v: f64, mode: Round) -> u64 {
        match self {
            Fmt::F64 => v.to_bits(),
            _ => narrow(v, self.format(), mode),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
    Rsqrt,
    Min,
    Max,
    Abs,
    Neg,
    Sin,
    Cos,
    Ex2,
    Lg2,
    Tanh,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatDesc {
    pub(crate) op: FloatOp,
    pub(crate) fmt: Fmt,
    pub(crate) x2: bool,
    pub(crate) round: Round,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
    /// `.NaN`: min and max let NaN through.
    pub(crate) nan: bool,
    /// `.abs` of min and max.
    pub(crate) abs: bool,
    pub(crate) xorsign: bool,
}

/// The general routine: any operation, format and rounding.
pub(crate) fn float_op(d: FloatDesc, a: u64, b: u64, c: u64) -> u64 {
    if !d.x2 {
        return lane(d, a, b, c);
    }
    let n = d.fmt.bits();
    let mask = (1u64 << n) - 1;
    lane(d, a & mask, b & mask, c & mask) | (lane(d, a >> n, b >> n, c >> n) & mask) << n
}

fn flush(x: f64) -> f64 {
    if x.abs() < f64::from(f32::MIN_POSITIVE) { 0f64.copysign(x) } else { x }
}

fn lane(d: FloatDesc, a: u64, b: u64, c: u64) -> u64 {
    use FloatOp as O;
    let n = d.fmt.bits();
    // Sign operations keep NaN payloads.
    let sign = 1u64 << (n - 1);
    let flush_bits = d.ftz && d.fmt == Fmt::F32;
    if matches!(d.op, O::Abs | O::Neg) {
        let v = if flush_bits && flush(d.fmt.widen(a)) == 0.0 { a & sign } else { a };
        return if d.op == O::Abs { v & !sign } else { v ^ sign };
    }
    let load = |v: u64| {
        let x = d.fmt.widen(v);
        if flush_bits { flush(x) } else { x }
    };
    let (x, y, z) = (load(a), load(b), load(c));
    let mut r = if d.fmt == Fmt::F64 {
        match d.op {
            O::Add => round::add64(x, y, d.round),
            O::Sub => round::add64(x, -y, d.round),
            O::Mul => round::mul64(x, y, d.round),
            O::Fma => round::fma64(x, y, z, d.round),
            O::Div => round::div64(x, y, d.round),
            O::Rcp => round::div64(1.0, x, d.round),
            O::Sqrt => round::sqrt64(x, d.round),
            _ => transcendental(d, x, y),
        }
    } else {
        match d.op {
            O::Add => signed_zero_add(x, y, d.round),
            O::Sub => signed_zero_add(x, -y, d.round),
            O::Mul => x * y,
            O::Fma => signed_zero_add(x * y, z, d.round),
            O::Div => round::div_odd(x, y),
            O::Rcp => round::div_odd(1.0, x),
            O::Sqrt => round::sqrt_odd(x),
            _ => transcendental(d, x, y),
        }
    };
    if d.sat {
        r = if r.is_nan() { 0.0 } else { r.clamp(0.0, 1.0) };
    }
    if d.relu && r <= 0.0 {
        r = 0.0;
    }
    let out = d.fmt.narrow(r, d.round);
    if flush_bits && flush(d.fmt.widen(out)) == 0.0 {
        return out & sign;
    }
    out
}

/// An exact sum that cancels is minus zero when rounding downwards.
fn signed_zero_add(a: f64, b: f64, mode: Round) -> f64 {
    let s = round::add_odd(a, b);
    if s == 0.0 && a != 0.0 && mode == Round::Rm {
        return -0.0;
    }
    s
}

fn transcendental(d: FloatDesc, x: f64, y: f64) -> f64 {
    match d.op {
        FloatOp::Rsqrt => 1.0 / x.sqrt(),
        FloatOp::Sin => x.sin(),
        FloatOp::Cos => x.cos(),
        FloatOp::Ex2 => x.exp2(),
        FloatOp::Lg2 => x.log2(),
        FloatOp::Tanh => x.tanh(),
        FloatOp::Min | FloatOp::Max => {
            let sign = x.is_sign_negative() ^ y.is_sign_negative();
            let (p, q) = if d.abs { (x.abs(), y.abs()) } else { (x, y) };
            let r = min_max(p, q, d.op == FloatOp::Max, d.nan);
            if d.xorsign && !r.is_nan() { if sign { -r.abs() } else { r.abs() } } else { r }
        }
        _ => f64::NAN,
    }
}

fn min_max(a: f64, b: f64, max: bool, nan: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan || (a.is_nan() && b.is_nan()) {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    // -0 is less than +0 here.
    let less = a < b || (a == b && a.is_sign_negative());
    if less == max { b } else { a }
}

fn get<const FTZ: bool>(v: u64) -> f32 {
    let b = v as u32;
    if FTZ && b & 0x7f80_0000 == 0 { f32::from_bits(b & 0x8000_0000) } else { f32::from_bits(b) }
}

fn put<const FTZ: bool, const SAT: bool>(r: f32) -> u64 {
    if r.is_nan() {
        return if SAT { 0 } else { 0x7fff_ffff };
    }
    let r = if SAT { r.clamp(0.0, 1.0) } else { r };
    let b = r.to_bits();
    if FTZ && b & 0x7f80_0000 == 0 {
        return u64::from(b & 0x8000_0000);
    }
    u64::from(b)
}

/// Picks the instance of a generic function for two flags.
macro_rules! flags {
    ($f:ident, $ftz:expr, $sat:expr) => {
        match ($ftz, $sat) {
            (false, false) => $f::<false, false>,
            (true, false) => $f::<true, false>,
            (false, true) => $f::<false, true>,
            (true, true) => $f::<true, true>,
        }
    };
}

fn add32<const Z: bool, const S: bool>(a: u64, b: u64) -> u64 {
    put::<Z, S>(get::<Z>(a) + get::<Z>(b))
}
fn sub32<const Z: bool, const S: bool>(a: u64, b: u64) -> u64 {
    put::<Z, S>(get::<Z>(a) - get::<Z>(b))
}
fn mul32<const Z: bool, const S: bool>(a: u64, b: u64) -> u64 {
    put::<Z, S>(get::<Z>(a) * get::<Z>(b))
}
fn div32<const Z: bool, const S: bool>(a: u64, b: u64) -> u64 {
    put::<Z, S>(get::<Z>(a) / get::<Z>(b))
}
fn fma32<const Z: bool, const S: bool>(a: u64, b: u64, c: u64) -> u64 {
    put::<Z, S>(get::<Z>(a).mul_add(get::<Z>(b), get::<Z>(c)))
}
fn rcp32<const Z: bool, const S: bool>(a: u64) -> u64 {
    put::<Z, S>(1.0 / get::<Z>(a))
}
fn sqrt32<const Z: bool, const S: bool>(a: u64) -> u64 {
    put::<Z, S>(get::<Z>(a).sqrt())
}

/// Unary operations rounded to nearest, where there is a fast one.
pub(crate) fn fast_unary(d: FloatDesc) -> Option<F1> {
    if d.x2 || d.relu || d.round != Round::Rn {
        return None;
    }
    Some(match (d.fmt, d.op) {
        (Fmt::F32, FloatOp::Rcp) => flags!(rcp32, d.ftz, d.sat),
        (Fmt::F32, FloatOp::Sqrt) => flags!(sqrt32, d.ftz, d.sat),
        (Fmt::F32, FloatOp::Neg) if !d.ftz => |a| (a ^ 0x8000_0000) & 0xffff_ffff,
        (Fmt::F32, FloatOp::Abs) if !d.ftz => |a| a & 0x7fff_ffff,
        (Fmt::F64, FloatOp::Neg) => |a| a ^ (1 << 63),
        (Fmt::F64, FloatOp::Abs) => |a| a & !(1 << 63),
        (Fmt::F64, FloatOp::Rcp) => |a| (1.0 / f64::from_bits(a)).to_bits(),
        (Fmt::F64, FloatOp::Sqrt) => |a| f64::from_bits(a).sqrt().to_bits(),
        _ => return None,
    })
}

/// Binary operations rounded to nearest, where there is a fast one.
pub(crate) fn fast_binary(d: FloatDesc) -> Option<F2> {
    if d.x2 || d.relu || d.round != Round::Rn {
        return None;
    }
    Some(match (d.fmt, d.op) {
        (Fmt::F32, FloatOp::Add) => flags!(add32, d.ftz, d.sat),
        (Fmt::F32, FloatOp::Sub) => flags!(sub32, d.ftz, d.sat),
        (Fmt::F32, FloatOp::Mul) => flags!(mul32, d.ftz, d.sat),
        (Fmt::F32, FloatOp::Div) => flags!(div32, d.ftz, d.sat),
        (Fmt::F64, FloatOp::Add) => |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        (Fmt::F64, FloatOp::Sub) => |a, b| (f64::from_bits(a) - f64::from_bits(b)).to_bits(),
        (Fmt::F64, FloatOp::Mul) => |a, b| (f64::from_bits(a) * f64::from_bits(b)).to_bits(),
        (Fmt::F64, FloatOp::Div) => |a, b| (f64::from_bits(a) / f64::from_bits(b)).to_bits(),
        _ => return None,
    })
}

/// Fused multiply-add rounded to nearest.
pub(crate) fn fast_ternary(d: FloatDesc) -> Option<F3> {
    if d.x2 || d.relu || d.round != Round::Rn || d.op != FloatOp::Fma {
        return None;
    }
    Some(match d.fmt {
        Fmt::F32 => flags!(fma32, d.ftz, d.sat),
        Fmt::F64 => |a, b, c| f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits(),
        _ => return None,
    })
}

/// Arithmetic as the atomic units do it: to nearest, subnormals kept. `None`
/// for types that are not floating.
pub(crate) fn atomic_float(op: FloatOp, ty: Ty, a: u64, b: u64) -> Option<u64> {
    let (fmt, x2) = Fmt::of(ty)?;
    let d = FloatDesc {
        op,
        fmt,
        x2,
        round: Round::Rn,
        ftz: false,
        sat: false,
        relu: false,
        nan: false,
        abs: false,
        xorsign: false,
    };
    Some(float_op(d, a, b, 0))
}
