//! PTX text to tokens.
//!
//! Dotted words (`ld.global.v4.f32`, `%tid.x`) are one token, as PTX writes no
//! space inside them; directives (`.reg.b16`) are one token a dot. Every token knows its line, since `.loc`, `.file`,
//! `.version` and `.target` end with the line and not with a semicolon.
//!
//! Bytes that mean nothing in PTX become [`Tok::Other`]; the parser decides
//! whether they matter. Next: `parse.rs`.

/// One token, borrowing from the source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tok<'a> {
    /// A word, possibly dotted: an opcode, a name, or (with a leading dot) a
    /// directive or type.
    Word(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    Str(&'a str),
    Punct(u8),
    Other,
}

/// A token and the line it stands on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) tok: Tok<'a>,
    pub(crate) line: u32,
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%')
}

fn word_part(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%')
}

/// Splits the whole text. Comments vanish; a NUL ends the text, as drivers
/// are handed C strings.
pub(crate) fn lex(src: &str) -> Vec<Token<'_>> {
    let src = src.split('\0').next().unwrap_or("");
    let b = src.as_bytes();
    let mut out = Vec::new();
    let mut line = 1u32;
    let mut i = 0;
    while i < b.len() {
        let c = b[i];
        match c {
            b'\n' => {
                line = line.saturating_add(1);
                i += 1;
                continue;
            }
            _ if c.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            b'/' if b.get(i + 1) == Some(&b'/') => {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            b'/' if b.get(i + 1) == Some(&b'*') => {
                i += 2;
                while i < b.len() && !(b[i] == b'*' && b.get(i + 1) == Some(&b'/')) {
                    if b[i] == b'\n' {
                        line = line.saturating_add(1);
                    }
                    i += 1;
                }
                i = (i + 2).min(b.len());
                continue;
            }
            _ => {}
        }
        let start = i;
        let tok = if c == b'"' {
            i += 1;
            while i < b.len() && b[i] != b'"' && b[i] != b'\n' {
                i += 1;
            }
            let s = &src[start + 1..i];
            i = (i + 1).min(b.len());
            Tok::Str(s)
        } else if word_start(c) || (c == b'.' && b.get(i + 1).is_some_and(|n| word_start(*n))) {
            i = word_end(b, i);
            Tok::Word(&src[start..i])
        } else if c.is_ascii_digit() {
            let (t, end) = number(src, i);
            i = end;
            t
        } else if c.is_ascii() {
            i += 1;
            Tok::Punct(c)
        } else {
            while i < b.len() && !b[i].is_ascii() {
                i += 1;
            }
            Tok::Other
        };
        out.push(Token { tok, line });
    }
    out
}

/// The end of the word that starts at `i`. Directives are split at dots, as
/// `.reg.b16` is two of them; opcodes and names are not.
fn word_end(b: &[u8], mut i: usize) -> usize {
    let directive = b[i] == b'.';
    i += 1;
    loop {
        let c = b.get(i).copied().unwrap_or(0);
        let n = b.get(i + 1).copied().unwrap_or(0);
        if word_part(c) {
            i += 1;
        } else if c == b'.' && word_part(n) && !directive {
            i += 2;
        } else if c == b':' && n == b':' && b.get(i + 2).is_some_and(|d| word_part(*d)) {
            // `shared::cta`, `L2::128B`
            i += 3;
        } else {
            return i;
        }
    }
}

/// A number starting at `i`: `12`, `012`, `0x1F`, `0b101`, `0f3F800000`,
/// `0d…`, `1.5`, `2e-3`, with an optional `U`.
fn number(src: &str, i: usize) -> (Tok<'_>, usize) {
    let b = src.as_bytes();
    let hex_run = |from: usize, max: usize| {
        let n = b[from..].iter().take(max).take_while(|c| c.is_ascii_hexdigit()).count();
        from + n
    };
    if b[i] == b'0' {
        match b.get(i + 1) {
            Some(b'f' | b'F') => {
                let e = hex_run(i + 2, 8);
                return match u32::from_str_radix(&src[i + 2..e], 16) {
                    Ok(v) => (Tok::F32(v), e),
                    Err(_) => (Tok::Other, e),
                };
            }
            Some(b'd' | b'D') => {
                let e = hex_run(i + 2, 16);
                return match u64::from_str_radix(&src[i + 2..e], 16) {
                    Ok(v) => (Tok::F64(v), e),
                    Err(_) => (Tok::Other, e),
                };
            }
            Some(b'x' | b'X') => {
                let e = hex_run(i + 2, 4096);
                return finish_int(src, u64::from_str_radix(&src[i + 2..e], 16), e);
            }
            Some(b'b' | b'B') => {
                let n = b[i + 2..].iter().take_while(|c| matches!(c, b'0' | b'1')).count();
                let e = i + 2 + n;
                return finish_int(src, u64::from_str_radix(&src[i + 2..e], 2), e);
            }
            _ => {}
        }
    }
    let mut e = i;
    let mut float = false;
    while e < b.len() {
        let c = b[e];
        if c.is_ascii_digit() {
            e += 1;
        } else if c == b'.' && !float && b.get(e + 1).is_some_and(u8::is_ascii_digit) {
            float = true;
            e += 1;
        } else if matches!(c, b'e' | b'E')
            && b.get(e + 1).is_some_and(|n| n.is_ascii_digit() || matches!(n, b'+' | b'-'))
        {
            float = true;
            e += 2;
        } else {
            break;
        }
    }
    let text = &src[i..e];
    if float {
        return match text.parse::<f64>() {
            Ok(v) => (Tok::F64(v.to_bits()), e),
            Err(_) => (Tok::Other, e),
        };
    }
    let parsed =
        if text.len() > 1 && text.starts_with('0') { u64::from_str_radix(text, 8) } else { text.parse() };
    finish_int(src, parsed, e)
}

fn finish_int(src: &str, v: Result<u64, std::num::ParseIntError>, mut e: usize) -> (Tok<'_>, usize) {
    if matches!(src.as_bytes().get(e), Some(b'U' | b'u')) {
        e += 1;
    }
    (v.map_or(Tok::Other, Tok::Int), e)
}
