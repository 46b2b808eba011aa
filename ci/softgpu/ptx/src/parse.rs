//! Module scope: declarations, function headers, and where bodies lie.
//!
//! Two passes: the first collects every symbol, the second (`decode`) turns
//! bodies into instructions with all symbols known, so that forward calls
//! need no patching. What is not understood here and cannot matter to
//! execution (debug sections, performance hints) is skipped; a text whose
//! structure is broken is refused.

use crate::decode::{self, Function};
use crate::lex::{Tok, Token, lex};
use crate::module::{Global, Kernel, Module, Param, ParseError, Space};
use crate::types::Ty;
use rustc_hash::{FxHashMap, FxHashSet};

/// The largest parameter buffer a kernel may have (CUDA 12.1 and later).
const MAX_KERNEL_PARAM: usize = 32764;
/// CUDA's limit of local memory per thread.
const MAX_LOCAL: usize = 512 << 10;
const MAX_SHARED: usize = 1 << 20;
const MAX_GLOBAL: usize = 1 << 40;
/// Nesting of braces in array initialisers.
const MAX_DIMS: usize = 8;

/// A cursor over tokens.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a, 't> {
    toks: &'t [Token<'a>],
    pub(crate) pos: usize,
}

impl<'a, 't> Cursor<'a, 't> {
    pub(crate) fn new(toks: &'t [Token<'a>]) -> Self {
        Cursor { toks, pos: 0 }
    }

    pub(crate) fn peek(&self) -> Option<Tok<'a>> {
        self.toks.get(self.pos).map(|t| t.tok)
    }

    pub(crate) fn peek_at(&self, n: usize) -> Option<Tok<'a>> {
        self.toks.get(self.pos + n).map(|t| t.tok)
    }

    pub(crate) fn next(&mut self) -> Option<Tok<'a>> {
        let t = self.peek();
        if t.is_some() {
            self.pos += 1;
        }
        t
    }

    pub(crate) fn line(&self) -> u32 {
        let i = self.pos.min(self.toks.len().saturating_sub(1));
        self.toks.get(i).map_or(0, |t| t.line)
    }

    pub(crate) fn eat(&mut self, p: u8) -> bool {
        let hit = self.peek() == Some(Tok::Punct(p));
        if hit {
            self.pos += 1;
        }
        hit
    }

    pub(crate) fn eat_word(&mut self, w: &str) -> bool {
        let hit = self.peek() == Some(Tok::Word(w));
        if hit {
            self.pos += 1;
        }
        hit
    }

    pub(crate) fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(Tok::Word(w)) => {
                self.pos += 1;
                Ok(w)
            }
            other => Err(self.error(format!("a name was expected, not {other:?}"))),
        }
    }

    pub(crate) fn expect(&mut self, p: u8) -> Result<(), ParseError> {
        if self.eat(p) {
            return Ok(());
        }
        Err(self.error(format!("'{}' was expected, not {:?}", char::from(p), self.peek())))
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.line(), message: message.into() }
    }

    /// The tokens from `start` to here, as text for a message.
    pub(crate) fn text(&self, start: usize) -> String {
        let mut s = String::new();
        for t in self.toks.get(start..self.pos).unwrap_or(&[]).iter().take(40) {
            match t.tok {
                Tok::Word(w) => {
                    if !s.is_empty() && !s.ends_with(['[', '{', '(', '@', '!']) {
                        s.push(' ');
                    }
                    s.push_str(w);
                }
                Tok::Int(v) => s.push_str(&format!(" {v}")),
                Tok::F32(v) => s.push_str(&format!(" 0f{v:08X}")),
                Tok::F64(v) => s.push_str(&format!(" 0d{v:016X}")),
                Tok::Str(v) => s.push_str(v),
                Tok::Punct(p) => s.push(char::from(p)),
                Tok::Other => s.push('?'),
            }
        }
        s
    }

    /// Skips the rest of the line the cursor stands on.
    pub(crate) fn skip_line(&mut self) {
        let line = self.line();
        while self.toks.get(self.pos).is_some_and(|t| t.line == line) {
            self.pos += 1;
        }
    }

    /// Skips to behind the next semicolon that is outside braces.
    pub(crate) fn skip_statement(&mut self) -> Result<(), ParseError> {
        let mut depth = 0usize;
        while let Some(t) = self.next() {
            match t {
                Tok::Punct(b';') if depth == 0 => return Ok(()),
                Tok::Punct(b'{') => depth += 1,
                Tok::Punct(b'}') => {
                    if depth == 0 {
                        self.pos -= 1;
                        return Ok(());
                    }
                    depth -= 1;
                }
                _ => {}
            }
        }
        Err(self.error("the text ends inside a statement"))
    }

    /// With the cursor behind an opening brace: the tokens up to its closing
    /// brace, which is consumed.
    fn braces(&mut self) -> Result<&'t [Token<'a>], ParseError> {
        let start = self.pos;
        let mut depth = 1usize;
        while let Some(t) = self.next() {
            match t {
                Tok::Punct(b'{') => depth += 1,
                Tok::Punct(b'}') => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(&self.toks[start..self.pos - 1]);
                    }
                }
                _ => {}
            }
        }
        Err(self.error("the text ends inside braces"))
    }

    fn unsigned(&mut self) -> Result<u64, ParseError> {
        match self.next() {
            Some(Tok::Int(v)) => Ok(v),
            other => Err(self.error(format!("a number was expected, not {other:?}"))),
        }
    }
}

/// What a name of module scope means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Symbol {
    Global(usize),
    Shared(usize),
    Function(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct SharedVar {
    pub(crate) size: usize,
    pub(crate) align: usize,
    /// `.extern`: the dynamic shared memory.
    pub(crate) dynamic: bool,
}

/// A formal parameter or result, at its place in the function's frame (or
/// the kernel's parameter buffer).
#[derive(Clone, Debug)]
pub(crate) struct Formal<'a> {
    pub(crate) name: &'a str,
    pub(crate) offset: usize,
    pub(crate) size: usize,
    pub(crate) align: usize,
    /// A `.reg` parameter.
    pub(crate) register: bool,
}

/// A function's header and where its body lies.
pub(crate) struct Header<'a, 't> {
    pub(crate) name: &'a str,
    pub(crate) entry: bool,
    pub(crate) rets: Vec<Formal<'a>>,
    pub(crate) params: Vec<Formal<'a>>,
    /// Bytes of the frame that formals take (device functions only).
    pub(crate) formal_bytes: usize,
    pub(crate) body: Option<&'t [Token<'a>]>,
    max_threads: Option<u32>,
    required_block: Option<[u32; 3]>,
    required_cluster: Option<[u32; 3]>,
}

/// Everything of module scope, while it is being built.
#[derive(Default)]
pub(crate) struct Env<'a, 't> {
    pub(crate) symbols: FxHashMap<&'a str, Symbol>,
    pub(crate) globals: Vec<Global>,
    pub(crate) shared: Vec<SharedVar>,
    pub(crate) headers: Vec<Header<'a, 't>>,
    aliases: Vec<(&'a str, &'a str)>,
}

/// A variable's declaration, before it is known where it goes.
pub(crate) struct Decl<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: usize,
    pub(crate) align: usize,
    init: Vec<u8>,
    relocs: Vec<(usize, String, i64)>,
    managed: bool,
}

pub(crate) fn parse(src: &str) -> Result<Module, ParseError> {
    let toks = lex(src);
    let mut c = Cursor::new(&toks);
    let mut env = Env::default();
    let mut target_sm = 0;
    let mut versioned = false;
    while let Some(tok) = c.peek() {
        let Tok::Word(w) = tok else {
            // A stray semicolon or brace is skipped; anything else here
            // means that this is not PTX at all.
            if !matches!(tok, Tok::Punct(b';')) {
                return Err(c.error(format!("a directive was expected, not {tok:?}")));
            }
            c.pos += 1;
            continue;
        };
        if !versioned && w != ".version" {
            return Err(c.error("a PTX module starts with .version"));
        }
        match w {
            ".version" => {
                versioned = true;
                c.skip_line();
            }
            ".target" => {
                if let Some(Tok::Word(t)) = c.peek_at(1) {
                    let digits: String = t
                        .trim_start_matches("sm_")
                        .trim_start_matches("compute_")
                        .chars()
                        .take_while(char::is_ascii_digit)
                        .collect();
                    target_sm = digits.parse().unwrap_or(0);
                }
                c.skip_line();
            }
            ".address_size" | ".file" | ".loc" => c.skip_line(),
            ".section" => {
                while !matches!(c.next(), Some(Tok::Punct(b'{')) | None) {}
                c.braces()?;
            }
            ".alias" => {
                c.pos += 1;
                let alias = c.word()?;
                c.expect(b',')?;
                let of = c.word()?;
                env.aliases.push((alias, of));
                c.skip_statement()?;
            }
            ".pragma" => c.skip_statement()?,
            ".visible" | ".extern" | ".weak" | ".common" | ".entry" | ".func" | ".global" | ".const"
            | ".shared" => linkage(&mut c, &mut env)?,
            _ if w.starts_with('.') => c.skip_statement()?,
            _ => return Err(c.error(format!("a directive was expected, not {w}"))),
        }
    }
    if !versioned {
        return Err(c.error("a PTX module starts with .version"));
    }
    for (alias, of) in std::mem::take(&mut env.aliases) {
        if let Some(s) = env.symbols.get(of).copied() {
            env.symbols.insert(alias, s);
        }
    }
    finish(env, target_sm)
}

/// A declaration with its linkage words.
fn linkage<'a, 't>(c: &mut Cursor<'a, 't>, env: &mut Env<'a, 't>) -> Result<(), ParseError> {
    let (mut visible, mut external) = (false, false);
    loop {
        match c.word()? {
            ".visible" | ".weak" | ".common" => visible = true,
            ".extern" => external = true,
            ".entry" => return function(c, env, true),
            ".func" => return function(c, env, false),
            w @ (".global" | ".const" | ".shared") => {
                for d in declarations(c)? {
                    module_variable(env, w, d, visible, external);
                }
                return Ok(());
            }
            _ => return c.skip_statement(),
        }
    }
}

/// Enters a variable of module scope (or one that a function declares, which
/// lives as long).
fn module_variable<'a>(env: &mut Env<'a, '_>, space: &str, d: Decl<'a>, visible: bool, external: bool) {
    let symbol = add_variable(env, space, &d, visible, external);
    // A definition wins over an earlier `.extern` declaration.
    let name = d.name;
    env.symbols.insert(name, symbol);
}

/// Adds the storage of a variable and says what it is.
pub(crate) fn add_variable(
    env: &mut Env<'_, '_>,
    space: &str,
    d: &Decl<'_>,
    visible: bool,
    external: bool,
) -> Symbol {
    if space == ".shared" {
        env.shared.push(SharedVar { size: d.size, align: d.align, dynamic: external || d.size == 0 });
        return Symbol::Shared(env.shared.len() - 1);
    }
    if let Some(Symbol::Global(i)) = env.symbols.get(d.name).copied()
        && let Some(g) = env.globals.get_mut(i)
    {
        if g.external && !external {
            *g = global_of(space, d, visible, external);
        }
        return Symbol::Global(i);
    }
    env.globals.push(global_of(space, d, visible, external));
    Symbol::Global(env.globals.len() - 1)
}

fn global_of(space: &str, d: &Decl<'_>, visible: bool, external: bool) -> Global {
    Global {
        name: d.name.to_owned(),
        size: d.size,
        align: d.align,
        space: if space == ".const" { Space::Const } else { Space::Global },
        init: d.init.clone(),
        relocs: d.relocs.clone(),
        visible,
        external,
        managed: d.managed,
    }
}

/// `[.attribute(..)] [.align N] [.v2] .type name[dims] [= init] {, name ...} ;`
/// with the state space already consumed.
pub(crate) fn declarations<'a>(c: &mut Cursor<'a, '_>) -> Result<Vec<Decl<'a>>, ParseError> {
    let (mut align, mut vector, mut managed) = (None, 1usize, false);
    let ty = loop {
        match c.word()? {
            ".align" => align = Some(c.unsigned()?),
            ".attribute" => {
                c.expect(b'(')?;
                while let Some(t) = c.next() {
                    match t {
                        Tok::Punct(b')') => break,
                        Tok::Word(".managed") => managed = true,
                        _ => {}
                    }
                }
            }
            ".v2" => vector = 2,
            ".v4" => vector = 4,
            ".v8" => vector = 8,
            ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".unified" => {}
            w => {
                if let Some(t) = w.strip_prefix('.').and_then(Ty::from_name) {
                    break t;
                }
                if matches!(w, ".texref" | ".samplerref" | ".surfref") {
                    break Ty::B64;
                }
                return Err(c.error(format!("{w} is not a type")));
            }
        }
    };
    let element = ty.bytes() * vector;
    let align = align.unwrap_or(element as u64);
    if !align.is_power_of_two() || align > 4096 {
        return Err(c.error(format!("alignment {align} is not a small power of two")));
    }
    let align = align as usize;
    let mut out = Vec::new();
    loop {
        // `.param .u64 .ptr .global .align 4 name`
        while let Some(Tok::Word(w)) = c.peek() {
            if !w.starts_with('.') {
                break;
            }
            c.pos += 1;
            if w == ".align" {
                c.unsigned()?;
            }
        }
        let name = c.word()?;
        let mut dims: Vec<usize> = Vec::new();
        let mut open = false;
        while c.eat(b'[') {
            if dims.len() >= MAX_DIMS {
                return Err(c.error("too many array dimensions"));
            }
            if c.eat(b']') {
                open = true;
                dims.push(0);
                continue;
            }
            let n = c.unsigned()?;
            c.expect(b']')?;
            dims.push(usize::try_from(n).unwrap_or(usize::MAX));
        }
        let mut init = Vec::new();
        let mut relocs = Vec::new();
        if c.eat(b'=') {
            let strides = strides(&dims, element);
            initialiser(c, ty, &strides, &mut init, &mut relocs)?;
        }
        let mut count = 1usize;
        for (i, d) in dims.iter().enumerate() {
            let d = if i == 0 && open {
                let rest: usize = dims[1..].iter().product::<usize>().max(1);
                init.len().div_ceil((rest * element).max(1))
            } else {
                *d
            };
            count = count.saturating_mul(d);
        }
        let size = count.saturating_mul(element);
        if size > MAX_GLOBAL || init.len() > size {
            return Err(c.error(format!("{name}: {size} bytes do not hold its initialiser")));
        }
        out.push(Decl { name, size, align, init, relocs, managed });
        if c.eat(b',') {
            continue;
        }
        // Parameter lists end with a parenthesis, which is the caller's.
        if !c.eat(b';') && c.peek() != Some(Tok::Punct(b')')) {
            return Err(c.error(format!("';' was expected after {name}")));
        }
        return Ok(out);
    }
}

/// Bytes that one nested brace spans, per level; the last is the element.
fn strides(dims: &[usize], element: usize) -> Vec<usize> {
    let mut out = vec![element];
    for d in dims.iter().skip(1).rev() {
        let last = out.last().copied().unwrap_or(element);
        out.push(last.saturating_mul(*d));
    }
    out.reverse();
    out
}

fn initialiser(
    c: &mut Cursor<'_, '_>,
    ty: Ty,
    strides: &[usize],
    init: &mut Vec<u8>,
    relocs: &mut Vec<(usize, String, i64)>,
) -> Result<(), ParseError> {
    if !c.eat(b'{') {
        return scalar(c, ty, init, relocs);
    }
    if c.eat(b'}') {
        return Ok(());
    }
    let stride = strides.first().copied().unwrap_or(ty.bytes());
    loop {
        let start = init.len();
        if c.peek() == Some(Tok::Punct(b'{')) {
            let rest = strides.get(1..).unwrap_or(&[]);
            if rest.is_empty() && strides.is_empty() {
                return Err(c.error("an initialiser is nested too deeply"));
            }
            initialiser(c, ty, rest, init, relocs)?;
            // Rows may be given in part.
            let full = start.saturating_add(stride);
            if init.len() < full {
                if full > 64 << 20 {
                    return Err(c.error("an initialiser is too large"));
                }
                init.resize(full, 0);
            }
        } else {
            scalar(c, ty, init, relocs)?;
        }
        if !c.eat(b',') {
            return c.expect(b'}');
        }
    }
}

/// One value: a number, a symbol, `generic(symbol)`, with an addend.
fn scalar(
    c: &mut Cursor<'_, '_>,
    ty: Ty,
    init: &mut Vec<u8>,
    relocs: &mut Vec<(usize, String, i64)>,
) -> Result<(), ParseError> {
    let negative = c.eat(b'-');
    let n = ty.bytes().min(8);
    let bits = match c.next() {
        Some(Tok::Int(v)) => {
            // `255(symbol)` takes a byte of an address; only debuggers ask.
            if c.peek() == Some(Tok::Punct(b'(')) {
                c.skip_to_close()?;
            }
            if negative { v.wrapping_neg() } else { v }
        }
        Some(Tok::F32(v)) => {
            let v = if negative { v ^ (1 << 31) } else { v };
            if ty == Ty::F64 { f64::from(f32::from_bits(v)).to_bits() } else { u64::from(v) }
        }
        Some(Tok::F64(v)) => {
            let v = if negative { v ^ (1 << 63) } else { v };
            if ty == Ty::F32 { u64::from((f64::from_bits(v) as f32).to_bits()) } else { v }
        }
        Some(Tok::Word(w)) => {
            let name = if w == "generic" && c.eat(b'(') {
                let name = c.word()?;
                c.expect(b')')?;
                name
            } else {
                w
            };
            let addend = addend(c)?;
            relocs.push((init.len(), name.to_owned(), addend));
            0
        }
        other => return Err(c.error(format!("a value was expected, not {other:?}"))),
    };
    init.extend_from_slice(&bits.to_le_bytes()[..n]);
    init.resize(init.len() + (ty.bytes() - n), 0);
    Ok(())
}

/// An optional `+4`, `-4` or `+-4`.
pub(crate) fn addend(c: &mut Cursor<'_, '_>) -> Result<i64, ParseError> {
    let negative = if c.eat(b'+') {
        c.eat(b'-')
    } else if c.eat(b'-') {
        true
    } else {
        return Ok(0);
    };
    let v = c.unsigned()? as i64;
    Ok(if negative { v.wrapping_neg() } else { v })
}

impl Cursor<'_, '_> {
    /// Skips from an opening to its closing parenthesis.
    fn skip_to_close(&mut self) -> Result<(), ParseError> {
        let mut depth = 0usize;
        while let Some(t) = self.next() {
            match t {
                Tok::Punct(b'(') => depth += 1,
                Tok::Punct(b')') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Err(self.error("the text ends inside parentheses"))
    }
}

/// A header, with `.entry` or `.func` already consumed.
fn function<'a, 't>(c: &mut Cursor<'a, 't>, env: &mut Env<'a, 't>, entry: bool) -> Result<(), ParseError> {
    if c.eat_word(".attribute") {
        c.skip_to_close()?;
    }
    let mut frame = 0usize;
    let rets = if c.peek() == Some(Tok::Punct(b'(')) { formals(c, &mut frame)? } else { Vec::new() };
    let name = c.word()?;
    let params = if c.peek() == Some(Tok::Punct(b'(')) { formals(c, &mut frame)? } else { Vec::new() };
    if frame > if entry { MAX_KERNEL_PARAM } else { MAX_LOCAL } {
        return Err(c.error(format!("{name}: {frame} bytes of parameters")));
    }
    let mut header = Header {
        name,
        entry,
        rets,
        params,
        formal_bytes: if entry { 0 } else { frame },
        body: None,
        max_threads: None,
        required_block: None,
        required_cluster: None,
    };
    loop {
        match c.next() {
            Some(Tok::Punct(b';')) => break,
            Some(Tok::Punct(b'{')) => {
                header.body = Some(c.braces()?);
                break;
            }
            Some(Tok::Word(w @ (".maxntid" | ".reqntid" | ".reqnctapercluster"))) => {
                let mut dims = [1u32; 3];
                for (i, d) in dims.iter_mut().enumerate() {
                    if i > 0 && !c.eat(b',') {
                        break;
                    }
                    *d = u32::try_from(c.unsigned()?).unwrap_or(u32::MAX);
                }
                let product = dims.iter().fold(1u32, |a, d| a.saturating_mul(*d));
                match w {
                    ".maxntid" => header.max_threads = Some(product),
                    ".reqntid" => {
                        header.max_threads = Some(product);
                        header.required_block = Some(dims);
                    }
                    _ => header.required_cluster = Some(dims),
                }
            }
            Some(Tok::Word(w)) if w.starts_with('.') => {}
            Some(Tok::Int(_) | Tok::Str(_) | Tok::Punct(b',')) => {}
            other => {
                return Err(c.error(format!("{name}: {other:?} in a function header")));
            }
        }
    }
    match env.symbols.get(name).copied() {
        Some(Symbol::Function(i)) => {
            // A definition replaces the forward declaration.
            if header.body.is_some()
                && let Some(slot) = env.headers.get_mut(i)
            {
                if slot.body.is_some() {
                    return Err(c.error(format!("{name} is defined twice")));
                }
                *slot = header;
            }
        }
        _ => {
            env.symbols.insert(name, Symbol::Function(env.headers.len()));
            env.headers.push(header);
        }
    }
    Ok(())
}

/// A parenthesised list of formals, laid out from `frame` on.
pub(crate) fn formals<'a>(c: &mut Cursor<'a, '_>, frame: &mut usize) -> Result<Vec<Formal<'a>>, ParseError> {
    c.expect(b'(')?;
    let mut out = Vec::new();
    if c.eat(b')') {
        return Ok(out);
    }
    loop {
        let register = match c.word()? {
            ".param" => false,
            ".reg" => true,
            w => return Err(c.error(format!("{w} in a parameter list"))),
        };
        // `declarations` would take a comma for a second name of the same
        // declaration, so each formal is cut out first.
        let start = c.pos;
        while !matches!(c.peek(), None | Some(Tok::Punct(b',')) | Some(Tok::Punct(b')'))) {
            c.pos += 1;
            if c.toks.get(c.pos - 1).map(|t| t.tok) == Some(Tok::Punct(b'(')) {
                return Err(c.error("'(' in a parameter"));
            }
        }
        let closes = c.peek() == Some(Tok::Punct(b')'));
        if c.peek().is_none() {
            return Err(c.error("the text ends inside a parameter list"));
        }
        let end = c.pos;
        let mut one = Cursor::new(&c.toks[..end]);
        one.pos = start;
        let d = formal_declaration(&mut one)?;
        let offset = frame.next_multiple_of(d.align);
        *frame = offset.saturating_add(d.size);
        if *frame > MAX_GLOBAL {
            return Err(c.error("a parameter list is too large"));
        }
        out.push(Formal { name: d.name, offset, size: d.size, align: d.align, register });
        c.pos = end + 1;
        if closes {
            return Ok(out);
        }
    }
}

fn formal_declaration<'a>(c: &mut Cursor<'a, '_>) -> Result<Decl<'a>, ParseError> {
    let (mut align, mut ty, mut ptr, mut vector) = (None, None, false, 1usize);
    loop {
        let w = c.word()?;
        match w {
            ".align" => {
                let n = c.unsigned()?;
                // Behind `.ptr` it is the pointee's alignment.
                if !ptr {
                    align = Some(n);
                }
            }
            ".ptr" => ptr = true,
            ".v2" => vector = 2,
            ".v4" => vector = 4,
            _ if w.starts_with('.') => {
                if let Some(t) = Ty::from_name(&w[1..]) {
                    ty = Some(t);
                } else if matches!(w, ".texref" | ".samplerref" | ".surfref") {
                    ty = Some(Ty::B64);
                }
            }
            name => {
                let ty = ty.ok_or_else(|| c.error(format!("{name} has no type")))?;
                let element = ty.bytes() * vector;
                let align = align.unwrap_or(element as u64);
                if !align.is_power_of_two() || align > 4096 {
                    return Err(c.error(format!("alignment {align} is not a small power of two")));
                }
                let mut size = element;
                while c.eat(b'[') {
                    if c.eat(b']') {
                        size = 0;
                        continue;
                    }
                    let n = usize::try_from(c.unsigned()?).unwrap_or(usize::MAX);
                    size = size.saturating_mul(n);
                    c.expect(b']')?;
                }
                return Ok(Decl {
                    name,
                    size: size.min(MAX_GLOBAL),
                    align: align as usize,
                    init: Vec::new(),
                    relocs: Vec::new(),
                    managed: false,
                });
            }
        }
    }
}

/// Second pass and layout.
fn finish(mut env: Env<'_, '_>, target_sm: u32) -> Result<Module, ParseError> {
    let mut functions: Vec<Function> = Vec::with_capacity(env.headers.len());
    for i in 0..env.headers.len() {
        let f = decode::function(&mut env, i)?;
        if f.frame_bytes > MAX_LOCAL {
            return Err(ParseError {
                line: 0,
                message: format!("{}: {} bytes of local memory", f.name, f.frame_bytes),
            });
        }
        functions.push(f);
    }
    let in_tables: Vec<usize> = env
        .globals
        .iter()
        .flat_map(|g| g.relocs.iter())
        .filter_map(|r| match env.symbols.get(r.1.as_str()) {
            Some(Symbol::Function(i)) => Some(*i),
            _ => None,
        })
        .collect();
    let mut module = Module {
        kernels: Vec::new(),
        by_name: FxHashMap::default(),
        globals: Vec::new(),
        functions: Vec::new(),
        function_names: FxHashMap::default(),
        target_sm,
        uses_printf: functions.iter().any(|f| f.prints),
    };
    for (i, h) in env.headers.iter().enumerate() {
        module.function_names.insert(h.name.to_owned(), i);
        if h.entry && h.body.is_some() {
            let k = kernel(&env, h, i, &functions, &in_tables)?;
            module.by_name.insert(k.name.clone(), module.kernels.len());
            module.kernels.push(k);
        }
    }
    module.globals = env.globals;
    module.functions = functions;
    Ok(module)
}

fn kernel(
    env: &Env<'_, '_>,
    h: &Header<'_, '_>,
    index: usize,
    functions: &[Function],
    in_tables: &[usize],
) -> Result<Kernel, ParseError> {
    let mut reachable = Vec::new();
    let mut seen = FxHashSet::default();
    let mut todo = vec![index];
    let mut tables_done = false;
    while let Some(i) = todo.pop() {
        if !seen.insert(i) {
            continue;
        }
        reachable.push(i);
        if let Some(f) = functions.get(i) {
            todo.extend_from_slice(&f.refers_to);
            if f.calls_indirectly && !tables_done {
                tables_done = true;
                todo.extend_from_slice(in_tables);
            }
        }
    }
    let mut used: Vec<usize> = reachable
        .iter()
        .filter_map(|i| functions.get(*i))
        .flat_map(|f| f.shared_used.iter().copied())
        .collect();
    used.sort_unstable();
    used.dedup();
    let mut offset = 0usize;
    let mut dynamic_align = 16usize;
    let mut shared_offsets = FxHashMap::default();
    for s in &used {
        let Some(v) = env.shared.get(*s) else { continue };
        if v.dynamic {
            dynamic_align = dynamic_align.max(v.align);
            continue;
        }
        offset = offset.next_multiple_of(v.align);
        shared_offsets.insert(*s, offset);
        offset = offset.saturating_add(v.size);
        if offset > MAX_SHARED {
            return Err(ParseError {
                line: 0,
                message: format!("{}: more than {MAX_SHARED} bytes of shared memory", h.name),
            });
        }
    }
    let dynamic = offset.next_multiple_of(dynamic_align);
    for s in used {
        if env.shared.get(s).is_some_and(|v| v.dynamic) {
            shared_offsets.insert(s, dynamic);
        }
    }
    let regs = functions.get(index).map_or(0, |f| f.register_count);
    Ok(Kernel {
        name: h.name.to_owned(),
        params: h.params.iter().map(|p| Param { offset: p.offset, size: p.size, align: p.align }).collect(),
        param_bytes: h.params.last().map_or(0, |p| p.offset + p.size),
        static_shared: offset,
        local_bytes: functions.get(index).map_or(0, |f| f.frame_bytes),
        max_threads: h.max_threads.unwrap_or(1024).min(1024),
        required_block: h.required_block,
        required_cluster: h.required_cluster,
        num_regs: regs.clamp(16, 255),
        dynamic_shared_offset: dynamic,
        function: index,
        reachable,
        shared_offsets,
    })
}
