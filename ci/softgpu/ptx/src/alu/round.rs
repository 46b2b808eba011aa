//! Rounding a value to a narrower format in any IEEE mode.
//!
//! Results of narrow formats are first computed in `f64` and rounded *to odd*
//! (inexact results get an odd last bit). Rounding such a value once more, in
//! any mode, gives the correctly rounded result, because `f64` has more than
//! two bits to spare over every format here.

/// An IEEE rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Rn,
    /// Towards zero.
    Rz,
    /// Towards minus infinity.
    Rm,
    /// Towards plus infinity.
    Rp,
    /// To nearest, ties away from zero.
    Rna,
}

/// A binary format narrower than `f64`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Explicit bits of the significand.
    pub(crate) mant: u32,
    pub(crate) exp: u32,
}

pub(crate) const F32: Format = Format { mant: 23, exp: 8 };
pub(crate) const F16: Format = Format { mant: 10, exp: 5 };
pub(crate) const BF16: Format = Format { mant: 7, exp: 8 };
pub(crate) const TF32: Format = Format { mant: 10, exp: 8 };
pub(crate) const E4M3: Format = Format { mant: 3, exp: 4 };
pub(crate) const E5M2: Format = Format { mant: 2, exp: 5 };

impl Format {
    pub(crate) fn infinity(self) -> u64 {
        ((1 << self.exp) - 1) << self.mant
    }

    pub(crate) fn sign(self) -> u64 {
        1 << (self.mant + self.exp)
    }

    /// CUDA's NaN: every bit but the sign.
    pub(crate) fn nan(self) -> u64 {
        self.sign() - 1
    }
}

/// `x` in the given format: sign, exponent and significand bits.
pub(crate) fn narrow(x: f64, f: Format, mode: Round) -> u64 {
    let sign = if x.is_sign_negative() { f.sign() } else { 0 };
    if x.is_nan() {
        return f.nan();
    }
    if x.is_infinite() {
        return sign | f.infinity();
    }
    if x == 0.0 {
        return sign;
    }
    let bits = x.to_bits();
    let raw = ((bits >> 52) & 0x7ff) as i32;
    let mut m = bits & ((1 << 52) - 1);
    let mut e = -1074;
    if raw == 0 {
        let lead = m.leading_zeros() as i32 - 11;
        m <<= lead;
        e -= lead;
    } else {
        m |= 1 << 52;
        e = raw - 1075;
    }
    let top = e + 52;
    let min_exp = 2 - (1 << (f.exp - 1));
    let ulp = top.max(min_exp) - f.mant as i32;
    let shift = (ulp - e) as u32;
    let (mut q, rest, half) =
        if shift > 60 { (0, m, u64::MAX) } else { (m >> shift, m & ((1 << shift) - 1), 1 << (shift - 1)) };
    let up = match mode {
        Round::Rn => rest > half || (rest == half && q & 1 == 1),
        Round::Rna => rest >= half,
        Round::Rz => false,
        Round::Rm => rest != 0 && sign != 0,
        Round::Rp => rest != 0 && sign == 0,
    };
    q += u64::from(up);
    let magnitude = if top < min_exp {
        q
    } else {
        // A carry out of the significand lands in the exponent.
        (((top - min_exp) as u64) << f.mant) + q
    };
    if magnitude < f.infinity() {
        return sign | magnitude;
    }
    let to_infinity = match mode {
        Round::Rn | Round::Rna => true,
        Round::Rz => false,
        Round::Rm => sign != 0,
        Round::Rp => sign == 0,
    };
    sign | (f.infinity() - u64::from(!to_infinity))
}

/// The error of `a + b` as a double: exact unless something overflows.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// Forces `s` to odd, given the sign of the error it was rounded with.
fn to_odd(s: f64, err: f64) -> f64 {
    if err == 0.0 || !s.is_finite() || err.is_nan() || s.to_bits() & 1 == 1 {
        return s;
    }
    if (err > 0.0) == (s > 0.0) { f64::from_bits(s.to_bits() | 1) } else { f64::from_bits(s.to_bits() - 1) }
}

pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let (s, err) = two_sum(a, b);
    to_odd(s, err)
}

pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b < 0.0 { -rest } else { rest })
}

pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let q = a.sqrt();
    to_odd(q, (-q).mul_add(q, a))
}

/// An integer as a double, rounded to odd.
pub(crate) fn int_odd(v: i128) -> f64 {
    let r = v as f64;
    let err = v - r as i128;
    to_odd(r, err as f64)
}

/// Moves a result that was rounded to nearest to what `mode` asks, given the
/// sign of its error.
fn direct(s: f64, err: f64, mode: Round) -> f64 {
    if err == 0.0 || err.is_nan() || s.is_nan() {
        return s;
    }
    match mode {
        Round::Rz if s > 0.0 && err < 0.0 => s.next_down(),
        Round::Rz if s < 0.0 && err > 0.0 => s.next_up(),
        Round::Rm if err < 0.0 => s.next_down(),
        Round::Rp if err > 0.0 => s.next_up(),
        _ => s,
    }
}

/// Infinity that came from finite operands, in a mode that stops short.
fn unoverflow(r: f64, finite: bool, mode: Round) -> f64 {
    if !r.is_infinite() || !finite {
        return r;
    }
    match mode {
        Round::Rz => f64::MAX.copysign(r),
        Round::Rm if r > 0.0 => f64::MAX,
        Round::Rp if r < 0.0 => f64::MIN,
        _ => r,
    }
}

pub(crate) fn add64(a: f64, b: f64, mode: Round) -> f64 {
    let (s, err) = two_sum(a, b);
    if s == 0.0 && mode == Round::Rm && a != 0.0 {
        return -0.0;
    }
    unoverflow(direct(s, err, mode), a.is_finite() && b.is_finite(), mode)
}

pub(crate) fn mul64(a: f64, b: f64, mode: Round) -> f64 {
    let p = a * b;
    let r = direct(p, a.mul_add(b, -p), mode);
    unoverflow(r, a.is_finite() && b.is_finite(), mode)
}

pub(crate) fn div64(a: f64, b: f64, mode: Round) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    let r = direct(q, if b < 0.0 { -rest } else { rest }, mode);
    unoverflow(r, a.is_finite() && b != 0.0, mode)
}

pub(crate) fn sqrt64(a: f64, mode: Round) -> f64 {
    let q = a.sqrt();
    direct(q, (-q).mul_add(q, a), mode)
}

pub(crate) fn fma64(a: f64, b: f64, c: f64, mode: Round) -> f64 {
    let r = a.mul_add(b, c);
    let p = a * b;
    let low = a.mul_add(b, -p);
    let (s, t) = two_sum(p, c);
    let (u, v) = two_sum(s, -r);
    let err = u + (v + (t + low));
    let finite = a.is_finite() && b.is_finite() && c.is_finite();
    unoverflow(direct(r, err, mode), finite, mode)
}

pub(crate) fn int64(v: i128, mode: Round) -> f64 {
    let r = v as f64;
    direct(r, (v - r as i128) as f64, mode)
}
