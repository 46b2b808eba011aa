//! Comparisons: `setp`, `set`, and their packed forms.

use super::float::Fmt;
use crate::inst::F2;
use crate::types::Ty;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CmpOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

impl CmpOp {
    pub(crate) fn from_name(s: &str) -> Option<CmpOp> {
        Some(match s {
            "eq" => CmpOp::Eq,
            "ne" => CmpOp::Ne,
            "lt" | "lo" => CmpOp::Lt,
            "le" | "ls" => CmpOp::Le,
            "gt" | "hi" => CmpOp::Gt,
            "ge" | "hs" => CmpOp::Ge,
            "equ" => CmpOp::Equ,
            "neu" => CmpOp::Neu,
            "ltu" => CmpOp::Ltu,
            "leu" => CmpOp::Leu,
            "gtu" => CmpOp::Gtu,
            "geu" => CmpOp::Geu,
            "num" => CmpOp::Num,
            "nan" => CmpOp::Nan,
            _ => return None,
        })
    }

    fn floats(self, a: f64, b: f64) -> bool {
        let unordered = a.is_nan() || b.is_nan();
        match self {
            CmpOp::Eq => a == b,
            CmpOp::Ne => a != b && !unordered,
            CmpOp::Lt => a < b,
            CmpOp::Le => a <= b,
            CmpOp::Gt => a > b,
            CmpOp::Ge => a >= b,
            CmpOp::Equ => a == b || unordered,
            CmpOp::Neu => a != b,
            CmpOp::Ltu => a < b || unordered,
            CmpOp::Leu => a <= b || unordered,
            CmpOp::Gtu => a > b || unordered,
            CmpOp::Geu => a >= b || unordered,
            CmpOp::Num => !unordered,
            CmpOp::Nan => unordered,
        }
    }
}

/// A comparison of halves, which has no fast form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CmpDesc {
    pub(crate) op: CmpOp,
    pub(crate) fmt: Fmt,
}

/// The comparison of the low and the high half.
pub(crate) fn compare_x2(d: CmpDesc, a: u64, b: u64) -> (bool, bool) {
    let one = |a: u64, b: u64| d.op.floats(d.fmt.widen(a), d.fmt.widen(b));
    (one(a, b), one(a >> 16, b >> 16))
}

macro_rules! int_cmp {
    ($op:expr, $t:ty) => {
        match $op {
            CmpOp::Eq => |a, b| u64::from(a as $t == b as $t),
            CmpOp::Ne => |a, b| u64::from(a as $t != b as $t),
            CmpOp::Lt => |a, b| u64::from((a as $t) < (b as $t)),
            CmpOp::Le => |a, b| u64::from(a as $t <= b as $t),
            CmpOp::Gt => |a, b| u64::from(a as $t > b as $t),
            CmpOp::Ge => |a, b| u64::from(a as $t >= b as $t),
            _ => return None,
        }
    };
}

macro_rules! float_cmp {
    ($op:expr, $get:expr) => {
        match $op {
            CmpOp::Eq => |a, b| u64::from($get(a) == $get(b)),
            CmpOp::Ne => |a, b| u64::from($get(a) < $get(b) || $get(a) > $get(b)),
            CmpOp::Lt => |a, b| u64::from($get(a) < $get(b)),
            CmpOp::Le => |a, b| u64::from($get(a) <= $get(b)),
            CmpOp::Gt => |a, b| u64::from($get(a) > $get(b)),
            CmpOp::Ge => |a, b| u64::from($get(a) >= $get(b)),
            CmpOp::Equ => |a, b| u64::from(CmpOp::Equ.floats($get(a).into(), $get(b).into())),
            CmpOp::Neu => |a, b| u64::from($get(a) != $get(b)),
            CmpOp::Ltu => |a, b| u64::from(CmpOp::Ltu.floats($get(a).into(), $get(b).into())),
            CmpOp::Leu => |a, b| u64::from(CmpOp::Leu.floats($get(a).into(), $get(b).into())),
            CmpOp::Gtu => |a, b| u64::from(CmpOp::Gtu.floats($get(a).into(), $get(b).into())),
            CmpOp::Geu => |a, b| u64::from(CmpOp::Geu.floats($get(a).into(), $get(b).into())),
            CmpOp::Num => |a, b| u64::from(!$get(a).is_nan() && !$get(b).is_nan()),
            CmpOp::Nan => |a, b| u64::from($get(a).is_nan() || $get(b).is_nan()),
        }
    };
}

fn f32_ftz(v: u64) -> f32 {
    let b = v as u32;
    if b & 0x7f80_0000 == 0 { f32::from_bits(b & 0x8000_0000) } else { f32::from_bits(b) }
}

fn f32_of(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn f16_of(v: u64) -> f32 {
    half::f16::from_bits(v as u16).to_f32()
}

fn bf16_of(v: u64) -> f32 {
    half::bf16::from_bits(v as u16).to_f32()
}

/// A comparison giving 0 or 1. Ordering names of unsigned types (`lo`, …) are
/// the same as the plain ones.
pub(crate) fn comparison(op: CmpOp, ty: Ty, ftz: bool) -> Option<F2> {
    Some(match ty {
        Ty::U8 | Ty::B8 => int_cmp!(op, u8),
        Ty::U16 | Ty::B16 => int_cmp!(op, u16),
        Ty::U32 | Ty::B32 => int_cmp!(op, u32),
        Ty::U64 | Ty::B64 => int_cmp!(op, u64),
        Ty::S8 => int_cmp!(op, i8),
        Ty::S16 => int_cmp!(op, i16),
        Ty::S32 => int_cmp!(op, i32),
        Ty::S64 => int_cmp!(op, i64),
        Ty::F32 if ftz => float_cmp!(op, f32_ftz),
        Ty::F32 => float_cmp!(op, f32_of),
        Ty::F64 => float_cmp!(op, f64::from_bits),
        Ty::F16 => float_cmp!(op, f16_of),
        Ty::Bf16 => float_cmp!(op, bf16_of),
        _ => return None,
    })
}
