//! Operands: registers, immediates, symbols, vectors, addresses.

use super::{Builder, LOCAL_BASE, Name, PARAM_BASE};
use crate::inst::{Addr, Base, NO_SLOT, Op, Slot, Sreg};
use crate::lex::Tok;
use crate::parse::{Symbol, addend};
use crate::types::Ty;

/// The largest vector operand: `.v8`.
const MAX_VECTOR: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(super) enum Imm {
    Int(u64),
    F32(u32),
    F64(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Operand<'a> {
    Name(&'a str),
    /// `symbol+4`
    Offset(&'a str, i64),
    /// `!%p`
    Not(&'a str),
    /// `%r|%p`
    Pair(&'a str, &'a str),
    Imm(Imm),
    Vector(Vec<Operand<'a>>),
    /// `[base+off]`
    Addr(AddrBase<'a>, i64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum AddrBase<'a> {
    Name(&'a str),
    Absolute,
}

impl<'a> Builder<'_, 'a, '_> {
    /// A comma-separated list up to and with its semicolon.
    pub(super) fn operands(&mut self) -> Result<Vec<Operand<'a>>, String> {
        let mut out = Vec::new();
        if self.c.eat(b';') {
            return Ok(out);
        }
        loop {
            out.push(self.operand(0)?);
            if self.c.eat(b';') {
                return Ok(out);
            }
            if !self.c.eat(b',') {
                return Err(format!("{:?} follows an operand", self.c.peek()));
            }
            if out.len() > MAX_VECTOR {
                return Err("too many operands".to_owned());
            }
        }
    }

    pub(super) fn operand(&mut self, depth: usize) -> Result<Operand<'a>, String> {
        match self.c.peek() {
            Some(Tok::Punct(b'{')) if depth < 2 => {
                self.c.pos += 1;
                let mut parts = Vec::new();
                loop {
                    parts.push(self.operand(depth + 1)?);
                    if self.c.eat(b'}') {
                        return Ok(Operand::Vector(parts));
                    }
                    if !self.c.eat(b',') || parts.len() > MAX_VECTOR {
                        return Err("a vector operand does not end".to_owned());
                    }
                }
            }
            Some(Tok::Punct(b'[')) => {
                self.c.pos += 1;
                let out = match self.c.next() {
                    Some(Tok::Word(w)) => {
                        let off = addend(&mut self.c).map_err(|e| e.message)?;
                        Operand::Addr(AddrBase::Name(w), off)
                    }
                    Some(Tok::Int(v)) => Operand::Addr(AddrBase::Absolute, v as i64),
                    other => return Err(format!("{other:?} is no address")),
                };
                if !self.c.eat(b']') {
                    return Err("an address of several parts".to_owned());
                }
                Ok(out)
            }
            Some(Tok::Punct(b'!')) => {
                self.c.pos += 1;
                Ok(Operand::Not(self.c.word().map_err(|e| e.message)?))
            }
            Some(Tok::Punct(b'-')) => {
                self.c.pos += 1;
                Ok(Operand::Imm(match self.c.next() {
                    Some(Tok::Int(v)) => Imm::Int(v.wrapping_neg()),
                    Some(Tok::F32(v)) => Imm::F32(v ^ (1 << 31)),
                    Some(Tok::F64(v)) => Imm::F64(v ^ (1 << 63)),
                    other => return Err(format!("'-' before {other:?}")),
                }))
            }
            Some(Tok::Int(v)) => {
                self.c.pos += 1;
                Ok(Operand::Imm(Imm::Int(v)))
            }
            Some(Tok::F32(v)) => {
                self.c.pos += 1;
                Ok(Operand::Imm(Imm::F32(v)))
            }
            Some(Tok::F64(v)) => {
                self.c.pos += 1;
                Ok(Operand::Imm(Imm::F64(v)))
            }
            Some(Tok::Word(w)) => {
                self.c.pos += 1;
                if self.c.eat(b'|') {
                    return Ok(Operand::Pair(w, self.c.word().map_err(|e| e.message)?));
                }
                let off = addend(&mut self.c).map_err(|e| e.message)?;
                Ok(if off == 0 { Operand::Name(w) } else { Operand::Offset(w, off) })
            }
            other => Err(format!("{other:?} is no operand")),
        }
    }

    /// A register by name, to read or write.
    pub(super) fn register(&mut self, name: &'a str) -> Result<Slot, String> {
        if name == "_" {
            return Ok(self.scratch());
        }
        match self.lookup(name) {
            Some(Name::Reg(s)) => Ok(s),
            _ => Err(format!("{name} is no register")),
        }
    }

    /// A register whose value nobody reads.
    pub(super) fn scratch(&mut self) -> Slot {
        if let Some(s) = self.sink {
            return s;
        }
        let s = self.new_slot(0);
        self.sink = Some(s);
        s
    }

    pub(super) fn dst(&mut self, o: &Operand<'a>) -> Result<Slot, String> {
        match o {
            Operand::Name(n) => self.register(n),
            _ => Err("the destination is no register".to_owned()),
        }
    }

    /// The two halves of `d|p`, the second perhaps absent.
    pub(super) fn dst_pair(&mut self, o: &Operand<'a>) -> Result<(Slot, Slot), String> {
        match o {
            Operand::Pair(a, b) => {
                Ok((self.register(a)?, if *b == "_" { NO_SLOT } else { self.register(b)? }))
            }
            _ => Ok((self.dst(o)?, NO_SLOT)),
        }
    }

    /// A source operand of the given type.
    pub(super) fn src(&mut self, o: &Operand<'a>, ty: Ty) -> Result<Slot, String> {
        match o {
            Operand::Imm(i) => Ok(self.constant(immediate(*i, ty))),
            Operand::Name(n) => self.value(n, 0),
            Operand::Offset(n, off) => self.value(n, *off),
            Operand::Not(n) => {
                let a = self.register(n)?;
                let d = self.new_slot(0);
                self.emit(Op::Un { f: |a| (a & 1) ^ 1, d, a });
                Ok(d)
            }
            _ => Err("an operand of another form".to_owned()),
        }
    }

    fn value(&mut self, name: &'a str, off: i64) -> Result<Slot, String> {
        if let Some(what) = sreg(name) {
            let d = self.new_slot(0);
            self.emit(Op::Sreg { d, what });
            return Ok(d);
        }
        if name == "WARP_SZ" {
            return Ok(self.constant(32));
        }
        match self.lookup(name) {
            Some(Name::Reg(s)) if off == 0 => Ok(s),
            Some(Name::Reg(_)) => Err(format!("{name} is a register, with an offset")),
            Some(Name::Frame { off: at, .. }) => {
                let d = self.new_slot(0);
                let off = (at as i64).wrapping_add(off) as u32;
                self.emit(Op::FrameAddr { d, off });
                Ok(d)
            }
            Some(Name::KernelParam { off: at }) => {
                Ok(self.constant((PARAM_BASE + at as u64).wrapping_add_signed(off)))
            }
            Some(Name::Symbol(s)) => Ok(self.symbol(s, off)),
            None => Err(format!("{name} is not declared")),
        }
    }

    /// A predicate source and whether it is negated.
    pub(super) fn predicate(&mut self, o: &Operand<'a>) -> Result<(Slot, bool), String> {
        match o {
            Operand::Not(n) => Ok((self.register(n)?, true)),
            Operand::Name(n) => Ok((self.register(n)?, false)),
            Operand::Imm(Imm::Int(v)) => Ok((self.constant(u64::from(*v != 0)), false)),
            _ => Err("a predicate was expected".to_owned()),
        }
    }

    /// An address in the given state space ("" for generic).
    pub(super) fn address(&mut self, o: &Operand<'a>, space: &str) -> Result<Addr, String> {
        let Operand::Addr(base, off) = o else {
            return Err("an address was expected".to_owned());
        };
        let kind = match space {
            "" | "global" | "const" => Base::Generic,
            "shared" | "shared::cta" | "shared::cluster" => Base::Shared,
            "local" => Base::Local,
            "param" | "param::entry" | "param::func" => Base::Param,
            _ => return Err(format!("state space {space}")),
        };
        let name = match base {
            AddrBase::Name(n) => *n,
            AddrBase::Absolute => {
                return Ok(Addr { base: kind, reg: self.constant(*off as u64), off: 0 });
            }
        };
        Ok(match self.lookup(name) {
            Some(Name::Reg(reg)) => Addr { base: kind, reg, off: *off },
            Some(Name::Frame { off: at, .. }) => {
                Addr { base: Base::Frame, reg: NO_SLOT, off: off.wrapping_add(at as i64) }
            }
            Some(Name::KernelParam { off: at }) => {
                Addr { base: Base::KernelParam, reg: NO_SLOT, off: off.wrapping_add(at as i64) }
            }
            Some(Name::Symbol(s)) => Addr {
                base: if matches!(s, Symbol::Shared(_)) { Base::Shared } else { Base::Generic },
                reg: self.symbol(s, 0),
                off: *off,
            },
            None => return Err(format!("{name} is not declared")),
        })
    }

    /// The registers of a vector operand, or the one of a scalar.
    pub(super) fn vector(&mut self, o: &Operand<'a>, ty: Ty, write: bool) -> Result<Box<[Slot]>, String> {
        let one = std::slice::from_ref(o);
        let parts = match o {
            Operand::Vector(v) => v.as_slice(),
            _ => one,
        };
        parts.iter().map(|p| if write { self.dst(p) } else { self.src(p, ty) }).collect()
    }
}

/// The bits of an immediate in an instruction of the given type.
fn immediate(i: Imm, ty: Ty) -> u64 {
    match (i, ty) {
        (Imm::Int(v), _) => v,
        (Imm::F32(v), Ty::F64) => f64::from(f32::from_bits(v)).to_bits(),
        (Imm::F32(v), _) => u64::from(v),
        (Imm::F64(v), Ty::F32) => u64::from((f64::from_bits(v) as f32).to_bits()),
        (Imm::F64(v), Ty::F16) => u64::from(half::f16::from_f64(f64::from_bits(v)).to_bits()),
        (Imm::F64(v), Ty::Bf16) => u64::from(half::bf16::from_f64(f64::from_bits(v)).to_bits()),
        (Imm::F64(v), _) => v,
    }
}

pub(super) fn sreg(name: &str) -> Option<Sreg> {
    let (stem, axis) = match name.rsplit_once('.') {
        Some((s, "x")) => (s, 0),
        Some((s, "y")) => (s, 1),
        Some((s, "z")) => (s, 2),
        Some((_, _)) => return None,
        None => (name, 0),
    };
    Some(match stem {
        "%tid" => Sreg::Tid(axis),
        "%ntid" => Sreg::Ntid(axis),
        "%ctaid" => Sreg::Ctaid(axis),
        "%nctaid" => Sreg::Nctaid(axis),
        "%clusterid" => Sreg::ClusterId(axis),
        "%nclusterid" => Sreg::NclusterId(axis),
        "%cluster_ctaid" => Sreg::ClusterCtaid(axis),
        "%cluster_nctaid" => Sreg::ClusterNctaid(axis),
        "%cluster_ctarank" => Sreg::ClusterCtarank,
        "%cluster_nctarank" => Sreg::ClusterNctarank,
        "%is_explicit_cluster" => Sreg::IsExplicitCluster,
        "%laneid" => Sreg::LaneId,
        "%warpid" => Sreg::WarpId,
        "%nwarpid" => Sreg::NwarpId,
        "%smid" => Sreg::SmId,
        "%nsmid" => Sreg::NsmId,
        "%gridid" => Sreg::GridId,
        "%lanemask_eq" => Sreg::LanemaskEq,
        "%lanemask_le" => Sreg::LanemaskLe,
        "%lanemask_lt" => Sreg::LanemaskLt,
        "%lanemask_ge" => Sreg::LanemaskGe,
        "%lanemask_gt" => Sreg::LanemaskGt,
        "%clock" => Sreg::Clock,
        "%clock_hi" => Sreg::ClockHi,
        "%clock64" => Sreg::Clock64,
        "%globaltimer" => Sreg::GlobalTimer,
        "%globaltimer_lo" => Sreg::GlobalTimerLo,
        "%globaltimer_hi" => Sreg::GlobalTimerHi,
        "%dynamic_smem_size" => Sreg::DynamicSmemSize,
        "%total_smem_size" | "%aggr_smem_size" => Sreg::TotalSmemSize,
        _ if stem.starts_with("%envreg") || stem.starts_with("%pm") || stem.starts_with("%reserved_smem") => {
            Sreg::Zero
        }
        _ => return None,
    })
}

/// The window a state space has in the generic address space.
pub(super) fn window(space: &str) -> Option<u64> {
    Some(match space {
        "global" | "const" => 0,
        "shared" | "shared::cta" | "shared::cluster" => super::SHARED_BASE,
        "local" => LOCAL_BASE,
        "param" | "param::entry" => PARAM_BASE,
        _ => return None,
    })
}
