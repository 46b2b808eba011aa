//! A cursor over tokens: looking, taking, skipping.

use crate::lex::{Tok, Token};
use crate::module::ParseError;

/// A cursor over tokens.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a, 't> {
    pub(super) toks: &'t [Token<'a>],
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
    pub(super) fn braces(&mut self) -> Result<&'t [Token<'a>], ParseError> {
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

    pub(super) fn unsigned(&mut self) -> Result<u64, ParseError> {
        match self.next() {
            Some(Tok::Int(v)) => Ok(v),
            other => Err(self.error(format!("a number was expected, not {other:?}"))),
        }
    }
}

impl Cursor<'_, '_> {
    /// Skips from an opening to its closing parenthesis.
    pub(super) fn skip_to_close(&mut self) -> Result<(), ParseError> {
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
