//! Branches, calls, barriers, warp operations, and instructions that are
//! nothing on this machine.

use super::operand::Operand;
use super::table::at;
use super::{Builder, Fixup, Mods, Name};
use crate::inst::{Actual, Bar, BarKind, Builtin, Call, Callee, NO_SLOT, Op, Slot, WarpKind, WarpOp};
use crate::lex::Tok;
use crate::parse::Symbol;
use crate::types::Ty;

impl<'a> Builder<'_, 'a, '_> {
    pub(super) fn control(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        match m.name {
            "bra" => {
                let Operand::Name(label) = at(o, 0)? else {
                    return Err("a label was expected".to_owned());
                };
                self.fixup(vec![label]);
                self.emit(Op::Bra { target: 0 });
            }
            "brx" => {
                let index = self.src(at(o, 0)?, Ty::U32)?;
                let Operand::Name(table) = at(o, 1)? else {
                    return Err("a table of targets was expected".to_owned());
                };
                let labels = self.table(table)?;
                self.fixup(labels);
                let targets = Box::default();
                self.emit(Op::BrxIdx { index, targets });
            }
            "ret" => self.emit(Op::Ret),
            "exit" => self.emit(Op::Exit),
            "trap" | "brkpt" => self.emit(Op::Trap),
            "bar" | "barrier" => return self.bar(m, o),
            "shfl" | "vote" | "match" | "redux" | "elect" => return self.warp(m, o),
            "activemask" => {
                let d = self.dst(at(o, 0)?)?;
                self.emit(Op::ActiveMask { d });
            }
            "membar" | "fence" => self.emit(Op::Fence),
            "nanosleep" => self.emit(Op::Yield),
            "prefetch" | "prefetchu" | "discard" | "applypriority" | "pmevent" | "setmaxnreg"
            | "griddepcontrol" => self.emit(Op::Nop),
            "createpolicy" => {
                let d = self.dst(at(o, 0)?)?;
                let a = self.constant(0);
                self.emit(Op::Mov { d, a });
            }
            _ => return Err("not supported".to_owned()),
        }
        Ok(())
    }

    fn fixup(&mut self, labels: Vec<&'a str>) {
        self.fixups.push(Fixup { inst: self.insts.len(), scope: self.scope, labels });
    }

    fn table(&self, name: &str) -> Result<Vec<&'a str>, String> {
        let mut at = Some(self.scope);
        while let Some(i) = at {
            if let Some(t) = self.scopes[i].tables.get(name) {
                return Ok(t.clone());
            }
            at = self.scopes[i].parent;
        }
        Err(format!("{name} is no table of targets"))
    }

    fn bar(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        if m.has("cluster") {
            self.emit(if m.has("arrive") {
                Op::ClusterArrive
            } else if m.has("wait") {
                Op::ClusterWait
            } else {
                return Err("not supported".to_owned());
            });
            return Ok(());
        }
        if m.has("warp") {
            let mask = self.src(at(o, 0)?, Ty::B32)?;
            self.emit_warp(WarpKind::Sync, (NO_SLOT, NO_SLOT), [mask; 3], mask, false);
            return Ok(());
        }
        let mut b =
            Bar { kind: BarKind::Sync, id: NO_SLOT, count: NO_SLOT, d: NO_SLOT, p: NO_SLOT, not_p: false };
        if m.has("red") {
            b.kind = match (m.has("popc"), m.has("and"), m.has("or")) {
                (true, _, _) => BarKind::RedPopc,
                (_, true, _) => BarKind::RedAnd,
                (_, _, true) => BarKind::RedOr,
                _ => return Err("not supported".to_owned()),
            };
            b.d = self.dst(at(o, 0)?)?;
            b.id = self.src(at(o, 1)?, Ty::U32)?;
            if o.len() > 3 {
                b.count = self.src(at(o, 2)?, Ty::U32)?;
            }
            (b.p, b.not_p) = self.predicate(at(o, o.len().saturating_sub(1))?)?;
        } else {
            if m.has("arrive") {
                b.kind = BarKind::Arrive;
                at(o, 1)?;
            } else if !m.has("sync") {
                return Err("not supported".to_owned());
            }
            b.id = self.src(at(o, 0)?, Ty::U32)?;
            if let Some(n) = o.get(1) {
                b.count = self.src(n, Ty::U32)?;
            }
        }
        self.emit(Op::Bar(Box::new(b)));
        Ok(())
    }

    fn emit_warp(
        &mut self,
        kind: WarpKind,
        (d, p): (Slot, Slot),
        [a, b, c]: [Slot; 3],
        mask: Slot,
        not_a: bool,
    ) {
        self.emit(Op::Warp(Box::new(WarpOp { kind, d, p, a, b, c, mask, not_a })));
    }

    fn warp(&mut self, m: &Mods<'a>, o: &[Operand<'a>]) -> Result<(), String> {
        let all = |b: &mut Self| b.constant(0xffff_ffff);
        match m.name {
            "shfl" => {
                let kind = if m.has("idx") {
                    WarpKind::ShflIdx
                } else if m.has("up") {
                    WarpKind::ShflUp
                } else if m.has("down") {
                    WarpKind::ShflDown
                } else if m.has("bfly") {
                    WarpKind::ShflBfly
                } else {
                    return Err("not supported".to_owned());
                };
                let dp = self.dst_pair(at(o, 0)?)?;
                let a = self.src(at(o, 1)?, Ty::B32)?;
                let b = self.src(at(o, 2)?, Ty::B32)?;
                let c = self.src(at(o, 3)?, Ty::B32)?;
                let mask = match o.get(4) {
                    Some(x) => self.src(x, Ty::B32)?,
                    None => all(self),
                };
                self.emit_warp(kind, dp, [a, b, c], mask, false);
            }
            "vote" => {
                let kind = if m.has("all") {
                    WarpKind::VoteAll
                } else if m.has("any") {
                    WarpKind::VoteAny
                } else if m.has("uni") {
                    WarpKind::VoteUni
                } else if m.has("ballot") {
                    WarpKind::VoteBallot
                } else {
                    return Err("not supported".to_owned());
                };
                let d = self.dst(at(o, 0)?)?;
                let (a, not_a) = self.predicate(at(o, 1)?)?;
                let mask = match o.get(2) {
                    Some(x) => self.src(x, Ty::B32)?,
                    None => all(self),
                };
                self.emit_warp(kind, (d, NO_SLOT), [a; 3], mask, not_a);
            }
            "match" => {
                let bits = m.ty()?.bits();
                let kind = if m.has("any") { WarpKind::MatchAny(bits) } else { WarpKind::MatchAll(bits) };
                let dp = self.dst_pair(at(o, 0)?)?;
                let a = self.src(at(o, 1)?, m.ty()?)?;
                let mask = self.src(at(o, 2)?, Ty::B32)?;
                self.emit_warp(kind, dp, [a; 3], mask, false);
            }
            "redux" => {
                let signed = m.ty()?.is_signed();
                if !m.ty()?.is_int() {
                    return Err("not supported".to_owned());
                }
                let kind = match (m.parts.iter().find(|p| **p != "sync").copied(), signed) {
                    (Some("add"), _) => WarpKind::ReduxAdd,
                    (Some("min"), true) => WarpKind::ReduxMin,
                    (Some("max"), true) => WarpKind::ReduxMax,
                    (Some("min"), false) => WarpKind::ReduxUmin,
                    (Some("max"), false) => WarpKind::ReduxUmax,
                    (Some("and"), _) => WarpKind::ReduxAnd,
                    (Some("or"), _) => WarpKind::ReduxOr,
                    (Some("xor"), _) => WarpKind::ReduxXor,
                    _ => return Err("not supported".to_owned()),
                };
                let d = self.dst(at(o, 0)?)?;
                let a = self.src(at(o, 1)?, Ty::B32)?;
                let mask = self.src(at(o, 2)?, Ty::B32)?;
                self.emit_warp(kind, (d, NO_SLOT), [a; 3], mask, false);
            }
            _ => {
                let dp = self.dst_pair(at(o, 0)?)?;
                let mask = self.src(at(o, 1)?, Ty::B32)?;
                self.emit_warp(WarpKind::ElectSync, dp, [mask; 3], mask, false);
            }
        }
        Ok(())
    }

    /// `call (ret), name, (args), prototype;` with `call` consumed.
    pub(super) fn call(&mut self) -> Result<(), String> {
        let mut rets = Vec::new();
        if self.c.peek() == Some(Tok::Punct(b'(')) {
            rets = self.actuals(true)?;
            self.c.eat(b',');
        }
        let name = self.c.word().map_err(|e| e.message)?;
        let mut args = Vec::new();
        if self.c.eat(b',') && self.c.peek() == Some(Tok::Punct(b'(')) {
            args = self.actuals(false)?;
        }
        // The prototype of an indirect call, which its arguments imply.
        if self.c.eat(b',') {
            self.c.word().map_err(|e| e.message)?;
        }
        if !self.c.eat(b';') {
            return Err("a call does not end".to_owned());
        }
        let callee = match self.lookup(name) {
            Some(Name::Reg(s)) => {
                self.calls_indirectly = true;
                Callee::Indirect(s)
            }
            Some(Name::Symbol(Symbol::Function(i))) => {
                self.refers_to.insert(i);
                self.callee(i, name)
            }
            _ => return Err(format!("{name} is no function")),
        };
        if let Callee::Builtin(Builtin::Printf | Builtin::AssertFail) = callee {
            self.prints = true;
        }
        self.emit(Op::Call(Box::new(Call { callee, args, rets })));
        Ok(())
    }

    fn callee(&self, index: usize, name: &str) -> Callee {
        if self.env.headers.get(index).is_some_and(|h| h.body.is_some()) {
            return Callee::Function(index);
        }
        match name {
            "vprintf" => Callee::Builtin(Builtin::Printf),
            "__assertfail" => Callee::Builtin(Builtin::AssertFail),
            "malloc" => Callee::Builtin(Builtin::Malloc),
            "free" => Callee::Builtin(Builtin::Free),
            _ => Callee::Unknown(name.to_owned()),
        }
    }

    fn actuals(&mut self, write: bool) -> Result<Vec<Actual>, String> {
        let mut out = Vec::new();
        if !self.c.eat(b'(') {
            return Err("'(' was expected".to_owned());
        }
        if self.c.eat(b')') {
            return Ok(out);
        }
        loop {
            let x = self.operand(0)?;
            let frame = match &x {
                Operand::Name(n) => match self.lookup(n) {
                    Some(Name::Frame { off, size }) => Some(Actual::Frame { off, size }),
                    _ => None,
                },
                _ => None,
            };
            out.push(match frame {
                Some(f) => f,
                None if write => Actual::Slot(self.dst(&x)?),
                None => Actual::Slot(self.src(&x, Ty::B64)?),
            });
            if self.c.eat(b')') {
                return Ok(out);
            }
            if !self.c.eat(b',') || out.len() > 4096 {
                return Err("an argument list does not end".to_owned());
            }
        }
    }
}
