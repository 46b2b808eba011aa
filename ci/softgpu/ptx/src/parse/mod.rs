//! Module scope: declarations, function headers, and where bodies lie.
//!
//! Two passes: the first collects every symbol, the second (`decode`) turns
//! bodies into instructions with all symbols known, so that forward calls
//! need no patching. What is not understood here and cannot matter to
//! execution (debug sections, performance hints) is skipped; a text whose
//! structure is broken is refused.

mod cursor;
mod declare;
mod layout;

use crate::lex::{Tok, Token, lex};
use crate::module::{Global, Module, ParseError, Space};
use rustc_hash::FxHashMap;

pub(crate) use cursor::Cursor;
use declare::formals;
pub(crate) use declare::{Decl, Formal, addend, declarations};

/// The largest parameter buffer a kernel may have (CUDA 12.1 and later).
const MAX_KERNEL_PARAM: usize = 32764;
/// CUDA's limit of local memory per thread.
const MAX_LOCAL: usize = 512 << 10;
const MAX_SHARED: usize = 1 << 20;
const MAX_GLOBAL: usize = 1 << 40;

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
    layout::finish(env, target_sm)
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
