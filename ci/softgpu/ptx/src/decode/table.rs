//! Opcodes that are functions of registers: what each is called, and which
//! arithmetic it means.

use super::operand::{Operand, sreg, window};
use super::{Builder, Mods, SHARED_BASE};
use crate::alu::{self, CmpDesc, CmpOp, CvtDesc, CvtRound, FloatDesc, FloatOp, Fmt, Round};
use crate::inst::{Carry, CarryOp, Combine, F1, NO_SLOT, Op, Slot};
use crate::types::Ty;

/// The operand at `i`, or what is wrong.
pub(super) fn at<'o, 'a>(o: &'o [Operand<'a>], i: usize) -> Result<&'o Operand<'a>, String> {
    o.get(i).ok_or_else(|| format!("operand {} is missing", i + 1))
}

fn unknown() -> String {
    "not supported".to_owned()
}

impl<'a> Builder<'_, 'a, '_> {
    pub(super) fn decode(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        match m.name {
            "mov" => self.mov(m, o),
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr"
            | "mul24" | "copysign" | "bmsk" | "szext" => self.two(m, o),
            "mad" | "fma" | "mad24" | "sad" | "shf" | "dp4a" | "dp2a" | "fns" | "bfe" | "vabsdiff4" => {
                self.three(m, o)
            }
            "addc" | "subc" | "madc" => self.carry(m, o),
            "neg" | "abs" | "not" | "cnot" | "clz" | "popc" | "brev" | "bfind" | "rcp" | "sqrt" | "rsqrt"
            | "sin" | "cos" | "ex2" | "lg2" | "tanh" => self.one(m, o),
            "bfi" | "lop3" => self.four(m, o),
            "prmt" => self.prmt(m, o),
            "testp" => self.testp(m, o),
            "setp" => self.setp(m, o),
            "set" => self.set(m, o),
            "selp" => self.selp(m, o),
            "slct" => self.slct(m, o),
            "cvt" => self.cvt(m, o),
            "cvta" => self.cvta(m, o),
            "isspacep" => self.isspacep(m, o),
            "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "mbarrier" | "mapa" | "getctarank" => {
                self.memory(m, o)
            }
            _ => self.control(m, o),
        }
    }

    fn mov(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        let bits = |n: usize| (ty.bits() as usize / n.max(1)) as u32;
        match (at(o, 0)?, at(o, 1)?) {
            (Operand::Vector(v), Operand::Vector(w)) if v.len() == w.len() => {
                for (d, a) in v.iter().zip(w) {
                    let (d, a) = (self.dst(d)?, self.src(a, ty)?);
                    self.emit(Op::Mov { d, a });
                }
            }
            _ if ty == Ty::B128 => return Err(unknown()),
            (d @ Operand::Vector(v), a) => {
                let bits = bits(v.len());
                let parts = self.vector(d, ty, true)?;
                let a = self.src(a, ty)?;
                self.emit(Op::Unpack { a, bits, parts });
            }
            (d, a @ Operand::Vector(v)) => {
                let bits = bits(v.len());
                let part = match bits {
                    8 => Ty::B8,
                    16 => Ty::B16,
                    _ => Ty::B32,
                };
                let parts = self.vector(a, part, false)?;
                let d = self.dst(d)?;
                self.emit(Op::Pack { d, bits, parts });
            }
            (d, Operand::Name(n)) if sreg(n).is_some() => {
                let d = self.dst(d)?;
                if let Some(what) = sreg(n) {
                    self.emit(Op::Sreg { d, what });
                }
            }
            (d, a) => {
                let (d, a) = (self.dst(d)?, self.src(a, ty)?);
                self.emit(Op::Mov { d, a });
            }
        }
        Ok(())
    }

    fn float_desc(&self, m: &Mods<'a>, op: FloatOp, ty: Ty) -> Option<FloatDesc> {
        let (fmt, x2) = Fmt::of(ty)?;
        let round = if m.has("rz") {
            Round::Rz
        } else if m.has("rm") {
            Round::Rm
        } else if m.has("rp") {
            Round::Rp
        } else {
            Round::Rn
        };
        Some(FloatDesc {
            op,
            fmt,
            x2,
            round,
            ftz: m.has("ftz"),
            sat: m.has("sat"),
            relu: m.has("relu"),
            nan: m.has("NaN"),
            abs: m.has("abs"),
            xorsign: m.has("xorsign"),
        })
    }

    fn one(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        // `popc` and its like name the type of their source.
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        let op = match m.name {
            "neg" => FloatOp::Neg,
            "abs" => FloatOp::Abs,
            "rcp" => FloatOp::Rcp,
            "sqrt" => FloatOp::Sqrt,
            "rsqrt" => FloatOp::Rsqrt,
            "sin" => FloatOp::Sin,
            "cos" => FloatOp::Cos,
            "ex2" => FloatOp::Ex2,
            "lg2" => FloatOp::Lg2,
            _ => FloatOp::Tanh,
        };
        let f: F1 = if let Some(what) = self.float_desc(m, op, ty) {
            match alu::fast_unary(what) {
                Some(f) => f,
                None => {
                    let (b, c) = (a, a);
                    self.emit(Op::Float { what, d, a, b, c });
                    return Ok(());
                }
            }
        } else {
            let name = if m.has("shiftamt") { "bfind.shiftamt" } else { m.name };
            alu::unary(name, ty).ok_or_else(unknown)?
        };
        self.emit(Op::Un { f, d, a });
        Ok(())
    }

    fn two(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        if m.has("cc") {
            return self.carry(m, o);
        }
        let ty = match m.name {
            "bmsk" => Ty::B32,
            _ => m.ty()?,
        };
        if o.len() > 3 {
            return Err(unknown());
        }
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        let count = matches!(m.name, "shl" | "shr" | "bmsk" | "szext");
        let b = self.src(at(o, 2)?, if count { Ty::U32 } else { ty })?;
        let op = match m.name {
            "add" => Some(FloatOp::Add),
            "sub" => Some(FloatOp::Sub),
            "mul" => Some(FloatOp::Mul),
            "div" => Some(FloatOp::Div),
            "min" => Some(FloatOp::Min),
            "max" => Some(FloatOp::Max),
            _ => None,
        };
        if let Some(op) = op
            && let Some(what) = self.float_desc(m, op, ty)
        {
            match alu::fast_binary(what) {
                Some(f) => self.emit(Op::Bin { f, d, a, b }),
                None => self.emit(Op::Float { what, d, a, b, c: a }),
            }
            return Ok(());
        }
        let mut name = m.name.to_owned();
        for p in &m.parts {
            if matches!(*p, "lo" | "hi" | "wide" | "sat" | "clamp" | "wrap") {
                name.push('.');
                name.push_str(p);
            }
        }
        let f = alu::binary(&name, ty).ok_or_else(unknown)?;
        self.emit(Op::Bin { f, d, a, b });
        Ok(())
    }

    fn three(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        if m.has("cc") {
            return self.carry(m, o);
        }
        let ty = if m.name == "shf" { Ty::B32 } else { m.ty()? };
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        let b = self.src(at(o, 2)?, ty)?;
        let c = self.src(at(o, 3)?, ty)?;
        if matches!(m.name, "mad" | "fma")
            && let Some(what) = self.float_desc(m, FloatOp::Fma, ty)
        {
            match alu::fast_ternary(what) {
                Some(f) => self.emit(Op::Tri { f, d, a, b, c }),
                None => self.emit(Op::Float { what, d, a, b, c }),
            }
            return Ok(());
        }
        let mut name = m.name.to_owned();
        for p in &m.parts {
            if matches!(*p, "lo" | "hi" | "wide" | "sat" | "clamp" | "wrap" | "l" | "r" | "add") {
                name.push('.');
                name.push_str(p);
            }
        }
        if matches!(m.name, "dp4a" | "dp2a") {
            name.push('.');
            for t in m.types.iter().take(2) {
                name.push(if t.is_signed() { 's' } else { 'u' });
            }
            // One type named means both.
            if m.types.len() == 1 {
                name.push(if ty.is_signed() { 's' } else { 'u' });
            }
        }
        let f = alu::ternary(&name, ty).ok_or_else(unknown)?;
        self.emit(Op::Tri { f, d, a, b, c });
        Ok(())
    }

    fn four(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        if o.len() != 5 {
            return Err(unknown());
        }
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        let b = self.src(at(o, 2)?, ty)?;
        let c = self.src(at(o, 3)?, if m.name == "bfi" { Ty::U32 } else { ty })?;
        let e = self.src(at(o, 4)?, Ty::U32)?;
        let f = alu::quad(m.name, ty).ok_or_else(unknown)?;
        self.emit(Op::Quad { f, d, a, b, c, e });
        Ok(())
    }

    fn prmt(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, Ty::B32)?;
        let b = self.src(at(o, 2)?, Ty::B32)?;
        let c = self.src(at(o, 3)?, Ty::B32)?;
        let f = match m.parts.first().copied() {
            None => |a, b, c| alu::prmt(a, b, c, ""),
            Some("f4e") => |a, b, c| alu::prmt(a, b, c, "f4e"),
            Some("b4e") => |a, b, c| alu::prmt(a, b, c, "b4e"),
            Some("rc8") => |a, b, c| alu::prmt(a, b, c, "rc8"),
            Some("ecl") => |a, b, c| alu::prmt(a, b, c, "ecl"),
            Some("ecr") => |a, b, c| alu::prmt(a, b, c, "ecr"),
            Some("rc16") => |a, b, c| alu::prmt(a, b, c, "rc16"),
            Some(_) => return Err(unknown()),
        };
        self.emit(Op::Tri { f, d, a, b, c });
        Ok(())
    }

    /// Arithmetic that reads or writes the carry flag.
    fn carry(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        let op = match m.name {
            "add" | "addc" => CarryOp::Add,
            "sub" | "subc" => CarryOp::Sub,
            "mad" | "madc" if m.has("hi") => CarryOp::MadHi,
            "mad" | "madc" if m.has("lo") => CarryOp::MadLo,
            _ => return Err(unknown()),
        };
        let wide = match ty.bits() {
            32 => false,
            64 => true,
            _ => return Err(unknown()),
        };
        let what = Carry {
            op,
            wide,
            signed: ty.is_signed(),
            carry_in: matches!(m.name, "addc" | "subc" | "madc"),
            carry_out: m.has("cc"),
        };
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        let b = self.src(at(o, 2)?, ty)?;
        let c = match op {
            CarryOp::MadLo | CarryOp::MadHi => self.src(at(o, 3)?, ty)?,
            _ => a,
        };
        self.emit(Op::Carry { what, d, a, b, c });
        Ok(())
    }

    fn testp(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        macro_rules! test {
            ($get:expr) => {
                match m.parts.first().copied() {
                    Some("finite") => |a| u64::from($get(a).is_finite()),
                    Some("infinite") => |a| u64::from($get(a).is_infinite()),
                    Some("number") => |a| u64::from(!$get(a).is_nan()),
                    Some("notanumber") => |a| u64::from($get(a).is_nan()),
                    Some("normal") => |a| u64::from($get(a).is_normal()),
                    Some("subnormal") => |a| u64::from($get(a).is_subnormal()),
                    _ => return Err(unknown()),
                }
            };
        }
        let f: F1 = match ty {
            Ty::F32 => test!(|v: u64| f32::from_bits(v as u32)),
            Ty::F64 => test!(f64::from_bits),
            _ => return Err(unknown()),
        };
        self.emit(Op::Un { f, d, a });
        Ok(())
    }

    fn setp(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let (d, q) = self.dst_pair(at(o, 0)?)?;
        self.compare(m, o, d, q)
    }

    /// The comparison of `setp` and `set`, into predicates `d` and `q`.
    fn compare(&mut self, m: &Mods<'a>, o: &[Operand<'a>], d: Slot, q: Slot) -> Result<(), String> {
        let ty = m.types.last().copied().ok_or_else(unknown)?;
        let op = m.parts.iter().find_map(|p| CmpOp::from_name(p)).ok_or_else(unknown)?;
        let combine = if m.has("and") {
            Combine::And
        } else if m.has("or") {
            Combine::Or
        } else if m.has("xor") {
            Combine::Xor
        } else {
            Combine::None
        };
        let a = self.src(at(o, 1)?, ty)?;
        let b = self.src(at(o, 2)?, ty)?;
        let c = if combine == Combine::None { NO_SLOT } else { self.src(at(o, 3)?, Ty::Pred)? };
        if let Some((fmt, true)) = Fmt::of(ty) {
            if fmt == Fmt::F32 {
                return Err(unknown());
            }
            let what = CmpDesc { op, fmt };
            self.emit(Op::SetpX2 { what, d, q, a, b, combine, c });
            return Ok(());
        }
        let f = alu::comparison(op, ty, m.has("ftz")).ok_or_else(unknown)?;
        self.emit(Op::Setp { f, d, q, a, b, combine, c });
        Ok(())
    }

    fn set(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let [to, from] = m.types[..] else {
            return Err(unknown());
        };
        let d = self.dst(at(o, 0)?)?;
        let (p, q) = (self.new_slot(0), self.new_slot(0));
        self.compare(m, o, p, q)?;
        let zero = self.constant(0);
        let packed = matches!(from, Ty::F16x2 | Ty::Bf16x2);
        let one = match to {
            Ty::F32 => 0x3f80_0000,
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
            Ty::U16 | Ty::S16 => 0xffff,
            _ if packed => 0xffff,
            Ty::U32 | Ty::S32 => 0xffff_ffff,
            _ => return Err(unknown()),
        };
        let one = self.constant(one);
        let selp = |d, p| Op::Selp { d, a: one, b: zero, p };
        if packed {
            let (lo, hi) = (self.new_slot(0), self.new_slot(0));
            self.emit(selp(lo, p));
            self.emit(selp(hi, q));
            let parts = [lo, hi].into();
            self.emit(Op::Pack { d, bits: 16, parts });
        } else {
            self.emit(selp(d, p));
        }
        Ok(())
    }

    fn selp(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        let d = self.dst(at(o, 0)?)?;
        let mut a = self.src(at(o, 1)?, ty)?;
        let mut b = self.src(at(o, 2)?, ty)?;
        let (p, negated) = self.predicate(at(o, 3)?)?;
        if negated {
            std::mem::swap(&mut a, &mut b);
        }
        self.emit(Op::Selp { d, a, b, p });
        Ok(())
    }

    fn slct(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let [ty, by] = m.types[..] else {
            return Err(unknown());
        };
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        let b = self.src(at(o, 2)?, ty)?;
        let c = self.src(at(o, 3)?, by)?;
        let name = if by == Ty::F32 { "slct.f32" } else { "slct.s32" };
        let f = alu::ternary(name, ty).ok_or_else(unknown)?;
        self.emit(Op::Tri { f, d, a, b, c });
        Ok(())
    }

    fn cvt(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let [to, from] = m.types[..] else {
            return Err(unknown());
        };
        let mut what = CvtDesc {
            to,
            from,
            round: CvtRound::None,
            ftz: false,
            sat: false,
            satfinite: false,
            relu: false,
        };
        for p in &m.parts {
            what.round = match *p {
                "rn" => CvtRound::Float(Round::Rn),
                "rz" => CvtRound::Float(Round::Rz),
                "rm" => CvtRound::Float(Round::Rm),
                "rp" => CvtRound::Float(Round::Rp),
                "rna" => CvtRound::Float(Round::Rna),
                "rni" => CvtRound::Int(Round::Rn),
                "rzi" => CvtRound::Int(Round::Rz),
                "rmi" => CvtRound::Int(Round::Rm),
                "rpi" => CvtRound::Int(Round::Rp),
                other => {
                    match other {
                        "ftz" => what.ftz = true,
                        "sat" => what.sat = true,
                        "satfinite" => what.satfinite = true,
                        "relu" => what.relu = true,
                        _ => return Err(unknown()),
                    }
                    what.round
                }
            };
        }
        if [to, from].iter().any(|t| matches!(t, Ty::F32x2 | Ty::B128 | Ty::Pred)) || (from == Ty::Tf32) {
            return Err(unknown());
        }
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, from)?;
        if let Some(b) = o.get(2) {
            let b = self.src(b, from)?;
            self.emit(Op::Cvt { what, d, a, b });
            return Ok(());
        }
        match alu::fast_convert(what) {
            Some(f) => self.emit(Op::Un { f, d, a }),
            None => self.emit(Op::Cvt { what, d, a, b: a }),
        }
        Ok(())
    }

    fn cvta(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let ty = m.ty()?;
        let to_space = m.has("to");
        let space = m.parts.last().copied().unwrap_or("");
        let base = match space {
            // A parameter's address always carries its window.
            "param" | "param::entry" => 0,
            _ => window(space).ok_or_else(unknown)?,
        };
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, ty)?;
        if base == 0 {
            self.emit(Op::Mov { d, a });
            return Ok(());
        }
        let b = self.constant(base);
        let f = match (to_space, base == SHARED_BASE) {
            (true, _) => |a: u64, b: u64| a.wrapping_sub(b),
            // Offsets into shared memory may sit in 32-bit registers.
            (false, _) => |a: u64, b: u64| (a & 0xffff_ffff) + b,
        };
        self.emit(Op::Bin { f, d, a, b });
        Ok(())
    }

    fn isspacep(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let space = m.parts.first().copied().unwrap_or("");
        let d = self.dst(at(o, 0)?)?;
        let a = self.src(at(o, 1)?, Ty::U64)?;
        if space == "const" {
            // Constant memory is global memory here.
            let a = self.constant(0);
            self.emit(Op::Mov { d, a });
            return Ok(());
        }
        let base = window(space).ok_or_else(unknown)?;
        self.emit(Op::Isspacep { d, a, base });
        Ok(())
    }
}
