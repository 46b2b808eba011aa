//! Declarations: variables with their initialisers, and formal parameters.

use super::MAX_GLOBAL;
use super::cursor::Cursor;
use crate::lex::Tok;
use crate::module::ParseError;
use crate::types::Ty;

/// Nesting of braces in array initialisers.
const MAX_DIMS: usize = 8;

/// A variable's declaration, before it is known where it goes.
pub(crate) struct Decl<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(super) init: Vec<u8>,
    pub(super) relocs: Vec<(usize, String, i64)>,
    pub(super) managed: bool,
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
                let row = dims[1..].iter().fold(element, |n, d| n.saturating_mul(*d));
                init.len().div_ceil(row.max(1))
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

/// A parenthesised list of formals, laid out from `frame` on.
pub(super) fn formals<'a>(c: &mut Cursor<'a, '_>, frame: &mut usize) -> Result<Vec<Formal<'a>>, ParseError> {
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
