//! A function's body to a flat list of instructions.
//!
//! Names become slots, labels become indices, immediates become preset slots.
//! What cannot be decoded becomes [`Op::Illegal`], which faults when reached:
//! a module with one unknown instruction in a path never taken runs.
//!
//! Here is the builder: scopes, slots, statements. `operand` reads operands,
//! `table` maps opcodes, `memory` and `control` the families that are more
//! than a function of registers.

mod control;
mod memory;
mod operand;
mod table;

use crate::inst::{Inst, NO_SLOT, Op, Slot};
use crate::lex::{Tok, Token};
use crate::module::{FUNCTION_BASE, ParseError};
use crate::parse::{self, Cursor, Env, Symbol};
use crate::types::Ty;
use rustc_hash::{FxHashMap, FxHashSet};

/// Kernel parameters have a window of the generic address space.
pub(crate) const PARAM_BASE: u64 = 0x0300_0000_0000_0000;
/// The local memory of the running thread, in the generic address space.
pub(crate) const LOCAL_BASE: u64 = 0x0200_0000_0000_0000;
/// The shared memory of the running cluster, in the generic address space.
pub(crate) const SHARED_BASE: u64 = 0x0100_0000_0000_0000;
/// The size of each of these windows.
pub(crate) const WINDOW: u64 = 0x0100_0000_0000_0000;

/// Limits that no compiler's output reaches, so that a malformed text cannot
/// make a launch take unbounded memory.
const MAX_FRAME: usize = 1 << 24;
const MAX_SLOTS: usize = 1 << 16;
const MAX_SCOPES: usize = 1 << 16;

/// Where a formal parameter or result lives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Frame { off: usize, size: usize },
    Slot(Slot),
}

/// A preset slot that depends on where things were loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patch {
    Global(usize),
    Shared(usize),
}

/// A decoded function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) insts: Vec<Inst>,
    /// What the register frame of a call starts as.
    pub(crate) template: Vec<u64>,
    pub(crate) patches: Vec<(Slot, Patch, i64)>,
    /// Bytes of local memory a call takes: parameters and `.local` arrays.
    pub(crate) frame_bytes: usize,
    pub(crate) rets: Vec<Place>,
    pub(crate) params: Vec<Place>,
    pub(crate) defined: bool,
    /// Functions called or pointed to.
    pub(crate) refers_to: Vec<usize>,
    pub(crate) shared_used: Vec<usize>,
    pub(crate) calls_indirectly: bool,
    pub(crate) prints: bool,
    pub(crate) register_count: u32,
}

/// What a name means inside a function.
#[derive(Clone, Copy, Debug)]
enum Name {
    Reg(Slot),
    /// A `.local` or `.param` variable of the call frame.
    Frame {
        off: usize,
        size: usize,
    },
    KernelParam {
        off: usize,
    },
    Symbol(Symbol),
}

#[derive(Default)]
struct Scope<'a> {
    parent: Option<usize>,
    names: FxHashMap<&'a str, Name>,
    /// `%r<5>`: prefix and count.
    ranges: Vec<(&'a str, u64)>,
    labels: FxHashMap<&'a str, usize>,
    /// Tables of branch targets.
    tables: FxHashMap<&'a str, Vec<&'a str>>,
}

/// A branch whose targets are found when all labels are known.
struct Fixup<'a> {
    inst: usize,
    scope: usize,
    labels: Vec<&'a str>,
}

struct Builder<'e, 'a, 't> {
    env: &'e mut Env<'a, 't>,
    c: Cursor<'a, 't>,
    scopes: Vec<Scope<'a>>,
    scope: usize,
    template: Vec<u64>,
    consts: FxHashMap<u64, Slot>,
    symbol_slots: FxHashMap<(u8, usize, i64), Slot>,
    patches: Vec<(Slot, Patch, i64)>,
    insts: Vec<Inst>,
    fixups: Vec<Fixup<'a>>,
    frame: usize,
    guard: (Slot, bool),
    entry: bool,
    refers_to: FxHashSet<usize>,
    shared_used: FxHashSet<usize>,
    calls_indirectly: bool,
    prints: bool,
    registers: u32,
    sink: Option<Slot>,
}

/// Decodes function `index` of the environment.
pub(crate) fn function<'a, 't>(env: &mut Env<'a, 't>, index: usize) -> Result<Function, ParseError> {
    let empty: &[Token<'_>] = &[];
    let Some(h) = env.headers.get(index) else {
        return Err(ParseError { line: 0, message: "no such function".to_owned() });
    };
    let (name, entry, body, frame) = (h.name, h.entry, h.body, h.formal_bytes);
    let rets = h.rets.clone();
    let params = h.params.clone();
    let mut b = Builder {
        env,
        c: Cursor::new(body.unwrap_or(empty)),
        scopes: vec![Scope::default()],
        scope: 0,
        template: Vec::new(),
        consts: FxHashMap::default(),
        symbol_slots: FxHashMap::default(),
        patches: Vec::new(),
        insts: Vec::new(),
        fixups: Vec::new(),
        frame,
        guard: (NO_SLOT, false),
        entry,
        refers_to: FxHashSet::default(),
        shared_used: FxHashSet::default(),
        calls_indirectly: false,
        prints: false,
        registers: 0,
        sink: None,
    };
    let rets = rets.iter().map(|f| b.formal(f)).collect();
    let params = params.iter().map(|f| b.formal(f)).collect();
    b.body()?;
    b.guard = (NO_SLOT, false);
    b.emit(Op::Ret);
    b.resolve_labels();
    if b.template.len() > MAX_SLOTS {
        return Err(ParseError {
            line: 0,
            message: format!("{name}: more than {MAX_SLOTS} registers and constants"),
        });
    }
    Ok(Function {
        name: name.to_owned(),
        insts: b.insts,
        template: b.template,
        patches: b.patches,
        frame_bytes: b.frame.next_multiple_of(16),
        rets,
        params,
        defined: body.is_some(),
        refers_to: b.refers_to.into_iter().collect(),
        shared_used: b.shared_used.into_iter().collect(),
        calls_indirectly: b.calls_indirectly,
        prints: b.prints,
        register_count: b.registers,
    })
}

impl<'a> Builder<'_, 'a, '_> {
    fn formal(&mut self, f: &parse::Formal<'a>) -> Place {
        let (name, place) = if f.register {
            let s = self.new_slot(0);
            (Name::Reg(s), Place::Slot(s))
        } else if self.entry {
            (Name::KernelParam { off: f.offset }, Place::Frame { off: f.offset, size: f.size })
        } else {
            let (off, size) = (f.offset, f.size);
            (Name::Frame { off, size }, Place::Frame { off, size })
        };
        self.scopes[0].names.insert(f.name, name);
        place
    }

    fn new_slot(&mut self, value: u64) -> Slot {
        let s = self.template.len() as Slot;
        self.template.push(value);
        s
    }

    /// A preset slot holding `v`.
    fn constant(&mut self, v: u64) -> Slot {
        if let Some(s) = self.consts.get(&v) {
            return *s;
        }
        let s = self.new_slot(v);
        self.consts.insert(v, s);
        s
    }

    /// A preset slot holding the address of a symbol.
    fn symbol(&mut self, s: Symbol, addend: i64) -> Slot {
        let (kind, index) = match s {
            Symbol::Global(i) => (0u8, i),
            Symbol::Shared(i) => (1, i),
            Symbol::Function(i) => {
                self.refers_to.insert(i);
                return self.constant(FUNCTION_BASE + 16 * (i as u64 + 1));
            }
        };
        if let Some(s) = self.symbol_slots.get(&(kind, index, addend)) {
            return *s;
        }
        let slot = self.new_slot(0);
        let patch = if kind == 0 {
            Patch::Global(index)
        } else {
            self.shared_used.insert(index);
            Patch::Shared(index)
        };
        self.patches.push((slot, patch, addend));
        self.symbol_slots.insert((kind, index, addend), slot);
        slot
    }

    fn lookup(&mut self, name: &'a str) -> Option<Name> {
        let mut at = Some(self.scope);
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u64>().ok();
        while let Some(i) = at {
            let s = &self.scopes[i];
            if let Some(n) = s.names.get(name) {
                return Some(*n);
            }
            if let Some(k) = number
                && s.ranges.iter().any(|(p, n)| *p == prefix && k < *n)
            {
                // Registers get their slot when first used, so that a
                // declaration of a billion costs nothing.
                let slot = self.new_slot(0);
                self.registers = self.registers.saturating_add(1);
                self.scopes[i].names.insert(name, Name::Reg(slot));
                return Some(Name::Reg(slot));
            }
            at = s.parent;
        }
        self.env.symbols.get(name).map(|s| Name::Symbol(*s))
    }

    fn emit(&mut self, op: Op) {
        self.insts.push(Inst { guard: self.guard.0, negated: self.guard.1, op });
    }

    fn body(&mut self) -> Result<(), ParseError> {
        while let Some(tok) = self.c.peek() {
            match tok {
                Tok::Punct(b';') => self.c.pos += 1,
                Tok::Punct(b'{') => {
                    self.c.pos += 1;
                    if self.scopes.len() > MAX_SCOPES {
                        return Err(self.c.error("too many scopes in one function"));
                    }
                    self.scopes.push(Scope { parent: Some(self.scope), ..Scope::default() });
                    self.scope = self.scopes.len() - 1;
                }
                Tok::Punct(b'}') => {
                    self.c.pos += 1;
                    let parent = self.scopes[self.scope].parent;
                    self.scope = parent.ok_or_else(|| self.c.error("'}' without '{'"))?;
                }
                Tok::Punct(b'@') => self.statement()?,
                Tok::Word(w) if w.starts_with('.') => self.directive(w)?,
                Tok::Word(w) => {
                    if self.c.peek_at(1) == Some(Tok::Punct(b':')) {
                        self.c.pos += 2;
                        self.label(w)?;
                    } else {
                        self.statement()?;
                    }
                }
                other => return Err(self.c.error(format!("{other:?} starts no statement"))),
            }
        }
        Ok(())
    }

    fn directive(&mut self, w: &'a str) -> Result<(), ParseError> {
        match w {
            ".loc" | ".file" => {
                self.c.skip_line();
                Ok(())
            }
            ".reg" => {
                self.c.pos += 1;
                self.registers_declared()
            }
            ".local" | ".param" | ".shared" | ".global" | ".const" => {
                self.c.pos += 1;
                for d in parse::declarations(&mut self.c)? {
                    let name = if matches!(w, ".local" | ".param") {
                        let off = self.frame.next_multiple_of(d.align);
                        self.frame = off.saturating_add(d.size);
                        if self.frame > MAX_FRAME {
                            return Err(self.c.error("a call frame is too large"));
                        }
                        Name::Frame { off, size: d.size }
                    } else {
                        let s = parse::add_variable(self.env, w, &d, false, false);
                        if let Symbol::Shared(i) = s {
                            self.shared_used.insert(i);
                        }
                        Name::Symbol(s)
                    };
                    self.scopes[self.scope].names.insert(d.name, name);
                }
                Ok(())
            }
            _ => self.c.skip_statement(),
        }
    }

    /// `.reg .b32 %r<5>, x;` with `.reg` consumed.
    fn registers_declared(&mut self) -> Result<(), ParseError> {
        while let Some(Tok::Word(w)) = self.c.peek() {
            if !w.starts_with('.') {
                break;
            }
            self.c.pos += 1;
        }
        loop {
            let name = self.c.word()?;
            if self.c.eat(b'<') {
                let Some(Tok::Int(n)) = self.c.next() else {
                    return Err(self.c.error("a register count was expected"));
                };
                self.c.expect(b'>')?;
                self.scopes[self.scope].ranges.push((name, n));
            } else {
                let slot = self.new_slot(0);
                self.registers = self.registers.saturating_add(1);
                self.scopes[self.scope].names.insert(name, Name::Reg(slot));
            }
            if self.c.eat(b',') {
                continue;
            }
            return self.c.expect(b';');
        }
    }

    fn label(&mut self, name: &'a str) -> Result<(), ParseError> {
        match self.c.peek() {
            Some(Tok::Word(".branchtargets")) => {
                self.c.pos += 1;
                let mut targets = Vec::new();
                loop {
                    targets.push(self.c.word()?);
                    if !self.c.eat(b',') {
                        break;
                    }
                }
                self.c.expect(b';')?;
                self.scopes[self.scope].tables.insert(name, targets);
                Ok(())
            }
            Some(Tok::Word(".callprototype" | ".calltargets")) => self.c.skip_statement(),
            _ => {
                let here = self.insts.len();
                self.scopes[self.scope].labels.insert(name, here);
                Ok(())
            }
        }
    }

    /// An instruction with its guard. Only broken structure is an error.
    fn statement(&mut self) -> Result<(), ParseError> {
        let start = self.c.pos;
        self.guard = (NO_SLOT, false);
        let emitted = self.insts.len();
        if let Err(why) = self.instruction() {
            self.c.pos = start;
            self.c.skip_statement()?;
            let text = self.c.text(start);
            self.insts.truncate(emitted);
            self.emit(Op::Illegal(format!("{text} ({why})").into()));
        }
        Ok(())
    }

    fn instruction(&mut self) -> Result<(), String> {
        if self.c.eat(b'@') {
            let negated = self.c.eat(b'!');
            let p = self.c.word().map_err(|e| e.message)?;
            self.guard = (self.register(p)?, negated);
        }
        let opcode = self.c.word().map_err(|e| e.message)?;
        if opcode == "call" || opcode.starts_with("call.") {
            return self.call();
        }
        let operands = self.operands()?;
        let mods = Mods::new(opcode);
        self.decode(&mods, &operands)
    }

    fn resolve_labels(&mut self) {
        for f in std::mem::take(&mut self.fixups) {
            let mut targets = Vec::with_capacity(f.labels.len());
            for l in &f.labels {
                let mut at = Some(f.scope);
                let mut found = None;
                while let Some(i) = at {
                    found = self.scopes[i].labels.get(l).copied();
                    if found.is_some() {
                        break;
                    }
                    at = self.scopes[i].parent;
                }
                let Some(t) = found else { break };
                targets.push(t);
            }
            let Some(inst) = self.insts.get_mut(f.inst) else {
                continue;
            };
            if targets.len() != f.labels.len() {
                inst.op = Op::Illegal("a branch to a label that does not exist".into());
                continue;
            }
            match &mut inst.op {
                Op::Bra { target } => *target = targets[0],
                Op::BrxIdx { targets: t, .. } => *t = targets.into(),
                _ => {}
            }
        }
    }
}

/// An opcode taken apart: `ld.global.v4.f32`.
struct Mods<'a> {
    name: &'a str,
    parts: Vec<&'a str>,
    types: Vec<Ty>,
}

impl<'a> Mods<'a> {
    fn new(opcode: &'a str) -> Self {
        let mut it = opcode.split('.');
        let name = it.next().unwrap_or("");
        let mut parts = Vec::new();
        let mut types = Vec::new();
        for p in it {
            match Ty::from_name(p) {
                Some(t) => types.push(t),
                None => parts.push(p),
            }
        }
        Mods { name, parts, types }
    }

    fn has(&self, p: &str) -> bool {
        self.parts.contains(&p)
    }

    fn ty(&self) -> Result<Ty, String> {
        self.types.first().copied().ok_or_else(|| "it has no type".to_owned())
    }
}
