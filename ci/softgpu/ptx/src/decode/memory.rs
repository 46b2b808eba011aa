//! Loads, stores, atomics, asynchronous copies, barriers in memory.

use super::operand::Operand;
use super::table::at;
use super::{Builder, Mods};
use crate::inst::{Addr, Atom, AtomOp, Mbarrier, MbarrierOp, NO_SLOT, Op};
use crate::types::Ty;

const SPACES: [&str; 9] = [
    "global",
    "const",
    "shared",
    "shared::cta",
    "shared::cluster",
    "local",
    "param",
    "param::entry",
    "param::func",
];

impl<'a> Mods<'a> {
    /// The state space an opcode names, or "" for generic.
    fn space(&self) -> &'a str {
        self.parts.iter().find(|p| SPACES.contains(p)).copied().unwrap_or("")
    }
}

impl<'a> Builder<'_, 'a, '_> {
    pub(super) fn memory(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        match m.name {
            "ld" | "ldu" => {
                let ty = m.ty()?;
                if ty == Ty::B128 {
                    return Err("128-bit registers are not supported".to_owned());
                }
                let addr = self.address(at(o, 1)?, m.space())?;
                match at(o, 0)? {
                    v @ Operand::Vector(_) => {
                        let d = self.vector(v, ty, true)?;
                        self.emit(Op::LdVec { d, ty, addr });
                    }
                    v => {
                        let d = self.dst(v)?;
                        self.emit(Op::Ld { d, ty, addr });
                    }
                }
                Ok(())
            }
            "st" => {
                if m.has("async") {
                    return Err("not supported".to_owned());
                }
                let ty = m.ty()?;
                if ty == Ty::B128 {
                    return Err("128-bit registers are not supported".to_owned());
                }
                let addr = self.address(at(o, 0)?, m.space())?;
                match at(o, 1)? {
                    v @ Operand::Vector(_) => {
                        let a = self.vector(v, ty, false)?;
                        self.emit(Op::StVec { a, ty, addr });
                    }
                    v => {
                        let a = self.src(v, ty)?;
                        self.emit(Op::St { a, ty, addr });
                    }
                }
                Ok(())
            }
            "atom" | "red" => self.atom(m, o),
            "cp" => self.copy(m, o),
            "mbarrier" => self.mbarrier(m, o),
            "mapa" => {
                let ty = m.ty()?;
                let d = self.dst(at(o, 0)?)?;
                let a = self.src(at(o, 1)?, ty)?;
                let rank = self.src(at(o, 2)?, Ty::U32)?;
                let generic = m.space().is_empty();
                self.emit(Op::Mapa { d, a, rank, generic });
                Ok(())
            }
            _ => {
                let ty = m.ty()?;
                let d = self.dst(at(o, 0)?)?;
                let a = self.src(at(o, 1)?, ty)?;
                self.emit(Op::GetCtaRank { d, a });
                Ok(())
            }
        }
    }

    fn atom(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        if m.has("async") {
            return Err("not supported".to_owned());
        }
        let ty = m.ty()?;
        if matches!(ty, Ty::B128 | Ty::Pred | Ty::F32x2) || ty.bytes() < 2 {
            return Err("not supported".to_owned());
        }
        let op = m
            .parts
            .iter()
            .find_map(|p| {
                Some(match *p {
                    "add" => AtomOp::Add,
                    "min" => AtomOp::Min,
                    "max" => AtomOp::Max,
                    "inc" => AtomOp::Inc,
                    "dec" => AtomOp::Dec,
                    "and" => AtomOp::And,
                    "or" => AtomOp::Or,
                    "xor" => AtomOp::Xor,
                    "exch" => AtomOp::Exch,
                    "cas" => AtomOp::Cas,
                    _ => return None,
                })
            })
            .ok_or_else(|| "not supported".to_owned())?;
        let first = usize::from(m.name == "atom");
        let dst = if first == 1 { self.vector(at(o, 0)?, ty, true)?.into_vec() } else { Vec::new() };
        let addr = self.address(at(o, first)?, m.space())?;
        let src = self.vector(at(o, first + 1)?, ty, false)?.into_vec();
        if !dst.is_empty() && dst.len() != src.len() {
            return Err("vectors of different lengths".to_owned());
        }
        let swap = if op == AtomOp::Cas { self.src(at(o, first + 2)?, ty)? } else { NO_SLOT };
        self.emit(Op::Atom(Box::new(Atom { op, ty, addr, dst, src, swap })));
        Ok(())
    }

    /// `cp.async` and `cp.async.bulk`. Copies happen at once, so waiting for
    /// them is nothing.
    fn copy(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        if ["commit_group", "wait_group", "wait_all", "prefetch"].iter().any(|p| m.has(p)) {
            self.emit(Op::Nop);
            return Ok(());
        }
        if m.has("mbarrier") && m.has("arrive") {
            if m.has("noinc") {
                let addr = self.address(at(o, 0)?, m.space())?;
                self.emit_mbarrier(
                    MbarrierOp::Arrive { drop: false, expect_tx: false },
                    NO_SLOT,
                    addr,
                    NO_SLOT,
                );
            } else {
                self.emit(Op::Nop);
            }
            return Ok(());
        }
        if !m.has("async") || m.has("tensor") || m.has("reduce") {
            return Err("not supported".to_owned());
        }
        let spaces: Vec<&str> = m.parts.iter().filter(|p| SPACES.contains(p)).copied().collect();
        let [to, from] = spaces[..] else {
            return Err("not supported".to_owned());
        };
        let dst = self.address(at(o, 0)?, to)?;
        let src = self.address(at(o, 1)?, from)?;
        let bytes = self.src(at(o, 2)?, Ty::U32)?;
        if m.has("bulk") {
            if m.parts.iter().any(|p| p.starts_with("multicast")) {
                return Err("not supported".to_owned());
            }
            self.emit(Op::CopyAsync { dst, src, bytes, have: bytes, zero_if: NO_SLOT });
            if m.parts.iter().any(|p| p.starts_with("mbarrier")) {
                let addr = self.address(at(o, 3)?, "shared")?;
                self.emit_mbarrier(MbarrierOp::CompleteTx, NO_SLOT, addr, bytes);
            }
            return Ok(());
        }
        let (mut have, mut zero_if) = (bytes, NO_SLOT);
        let cached = m.has("L2::cache_hint");
        if let Some(x) = o.get(3)
            && !(cached && o.len() == 4)
        {
            let s = self.src(x, Ty::U32)?;
            if matches!(x, Operand::Name(n) if self.is_predicate(n)) || matches!(x, Operand::Not(_)) {
                zero_if = s;
            } else {
                have = s;
            }
        }
        self.emit(Op::CopyAsync { dst, src, bytes, have, zero_if });
        Ok(())
    }

    /// By convention of every compiler: `%p…` is a predicate.
    fn is_predicate(&self, name: &str) -> bool {
        name.starts_with("%p") || name.starts_with('p')
    }

    fn emit_mbarrier(&mut self, op: MbarrierOp, d: u32, addr: Addr, a: u32) {
        self.emit(Op::Mbarrier(Box::new(Mbarrier { op, d, addr, a })));
    }

    fn mbarrier(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let space = if m.space().is_empty() { "" } else { "shared" };
        let what = m.parts.first().copied().unwrap_or("");
        match what {
            "init" | "inval" | "expect_tx" | "complete_tx" => {
                let addr = self.address(at(o, 0)?, space)?;
                let a = match o.get(1) {
                    Some(x) => self.src(x, Ty::U32)?,
                    None => NO_SLOT,
                };
                let op = match what {
                    "init" => MbarrierOp::Init,
                    "inval" => MbarrierOp::Inval,
                    "expect_tx" => MbarrierOp::ExpectTx,
                    _ => MbarrierOp::CompleteTx,
                };
                self.emit_mbarrier(op, NO_SLOT, addr, a);
            }
            "arrive" | "arrive_drop" => {
                let op = MbarrierOp::Arrive { drop: what == "arrive_drop", expect_tx: m.has("expect_tx") };
                // The state is not returned for barriers of other blocks.
                let returns = !matches!(o.first(), Some(Operand::Addr(..)));
                let d = if returns { self.dst(at(o, 0)?)? } else { NO_SLOT };
                let i = usize::from(returns);
                let addr = self.address(at(o, i)?, space)?;
                let a = match o.get(i + 1) {
                    Some(x) => self.src(x, Ty::U32)?,
                    None => NO_SLOT,
                };
                self.emit_mbarrier(op, d, addr, a);
            }
            "test_wait" | "try_wait" => {
                let parity = m.has("parity");
                let d = self.dst(at(o, 0)?)?;
                let addr = self.address(at(o, 1)?, space)?;
                let a = self.src(at(o, 2)?, if parity { Ty::U32 } else { Ty::B64 })?;
                let op = MbarrierOp::TestWait { parity, blocking: what == "try_wait" };
                self.emit_mbarrier(op, d, addr, a);
            }
            "pending_count" => {
                let d = self.dst(at(o, 0)?)?;
                let a = self.src(at(o, 1)?, Ty::B64)?;
                self.emit(Op::Un { f: |s| s >> 20 & 0xf_ffff, d, a });
            }
            _ => return Err("not supported".to_owned()),
        }
        Ok(())
    }
}
