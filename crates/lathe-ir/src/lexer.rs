//! Tokens of the text forms, and the cursor that all three parsers share.

use crate::{DType, Int, IrError};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A name: letters, digits, `_`, `.`; may begin with `%`.
    Ident(String),
    /// A number with its suffix: `12`, `1.5e3f32`, `7u8`.
    Number(String),
    /// A quoted string.
    Str(String),
    /// Punctuation, one or two characters.
    Punct(&'static str),
    /// The end of the text.
    End,
}

const PUNCTUATION: &[&str] = &[
    "<<", ">>", "==", "!=", "<=", "->", "..", "{", "}", "(", ")", "[", "]", ",", ":", ";", "=", "+", "-",
    "*", "/", "%", "&", "|", "^", "<", ">", "@",
];

/// Reads a symbolic integer as it prints, such as `n * 4 + 1`.
pub fn parse_int(text: &str) -> Result<Int, IrError> {
    let mut c = Cursor::new(text)?;
    let value = c.symbolic()?;
    if *c.peek() == Token::End { Ok(value) } else { c.error("the end") }
}

/// Tokens of a text and a position in them.
pub struct Cursor {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$'
}

impl Cursor {
    /// Splits a text; `#` starts a comment.
    pub fn new(text: &str) -> Result<Cursor, IrError> {
        let mut tokens = vec![];
        for (n, line) in text.lines().enumerate() {
            let line_no = n + 1;
            let fail = |m: String| IrError::Parse { line: line_no, message: m };
            let mut rest = line.trim_start();
            while let Some(c) = rest.chars().next() {
                if c == '#' {
                    break;
                }
                let end =
                    |s: &str, skip: usize| s[skip..].find(|c| !is_word(c)).map_or(s.len(), |i| i + skip);
                let (token, len) = if c == '"' {
                    let close = rest[1..].find('"').ok_or_else(|| fail("unclosed string".into()))?;
                    (Token::Str(rest[1..=close].to_string()), close + 2)
                } else if c.is_ascii_digit() {
                    // `1e-5f32` and `1.5` are one number; `0..n` is not.
                    let mut len = 0;
                    let b = rest.as_bytes();
                    while len < b.len() {
                        let c = b[len] as char;
                        let range = c == '.' && b.get(len + 1) == Some(&b'.');
                        let sign = (c == '-' || c == '+') && b[len - 1] == b'e';
                        if range || !(is_word(c) || sign) {
                            break;
                        }
                        len += 1;
                    }
                    (Token::Number(rest[..len].to_string()), len)
                } else if c.is_ascii_alphabetic() || c == '_' {
                    let len = end(rest, 0);
                    (Token::Ident(rest[..len].to_string()), len)
                } else if let Some(p) = PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
                    (Token::Punct(p), p.len())
                } else {
                    return Err(fail(format!("unexpected character '{c}'")));
                };
                tokens.push((token, line_no));
                rest = rest[len..].trim_start();
            }
        }
        tokens.push((Token::End, text.lines().count().max(1)));
        Ok(Cursor { tokens, at: 0, depth: 0 })
    }

    /// The next token.
    pub fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    /// The token `n` after the next one.
    pub fn peek_at(&self, n: usize) -> &Token {
        &self.tokens[(self.at + n).min(self.tokens.len() - 1)].0
    }

    /// An error at the next token.
    pub fn error<T>(&self, expected: &str) -> Result<T, IrError> {
        let (t, line) = &self.tokens[self.at];
        let got = match t {
            Token::Ident(s) | Token::Number(s) => format!("'{s}'"),
            Token::Str(s) => format!("\"{s}\""),
            Token::Punct(p) => format!("'{p}'"),
            Token::End => "the end".into(),
        };
        Err(IrError::Parse { line: *line, message: format!("expected {expected}, got {got}") })
    }

    /// Takes the next token.
    pub fn next(&mut self) -> Token {
        let t = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        t
    }

    /// Enters one nesting level; refuses absurd depth, so that no text can exhaust the stack.
    pub fn enter(&mut self) -> Result<(), IrError> {
        self.depth += 1;
        if self.depth > 200 { self.error("less nesting") } else { Ok(()) }
    }

    /// Leaves a nesting level.
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Takes punctuation when it is next.
    pub fn eat(&mut self, p: &str) -> bool {
        let hit = matches!(self.peek(), Token::Punct(q) if *q == p);
        if hit {
            self.next();
        }
        hit
    }

    /// Takes a keyword when it is next.
    pub fn eat_word(&mut self, w: &str) -> bool {
        let hit = matches!(self.peek(), Token::Ident(s) if s == w);
        if hit {
            self.next();
        }
        hit
    }

    /// Demands punctuation.
    pub fn expect(&mut self, p: &str) -> Result<(), IrError> {
        if self.eat(p) { Ok(()) } else { self.error(&format!("'{p}'")) }
    }

    /// Demands a keyword.
    pub fn expect_word(&mut self, w: &str) -> Result<(), IrError> {
        if self.eat_word(w) { Ok(()) } else { self.error(&format!("'{w}'")) }
    }

    /// Demands a name.
    pub fn ident(&mut self) -> Result<String, IrError> {
        match self.peek().clone() {
            Token::Ident(s) => {
                self.next();
                Ok(s)
            }
            _ => self.error("a name"),
        }
    }

    /// Demands a string.
    pub fn string(&mut self) -> Result<String, IrError> {
        match self.peek().clone() {
            Token::Str(s) => {
                self.next();
                Ok(s)
            }
            _ => self.error("a string"),
        }
    }

    /// Demands a plain (perhaps negative) integer.
    pub fn integer(&mut self) -> Result<i64, IrError> {
        let negative = self.eat("-");
        if let Token::Number(s) = self.peek()
            && let Ok(v) = s.parse::<i64>()
        {
            self.next();
            return Ok(if negative { -v } else { v });
        }
        self.error("an integer")
    }

    /// Demands an element type.
    pub fn dtype(&mut self) -> Result<DType, IrError> {
        if let Token::Ident(s) = self.peek()
            && let Some(t) = DType::parse(s)
        {
            self.next();
            return Ok(t);
        }
        self.error("an element type")
    }

    /// A symbolic integer.
    pub fn symbolic(&mut self) -> Result<Int, IrError> {
        let e = crate::tensor::parse_expr(self)?;
        let mut opaque = crate::tensor::Opaque::default();
        match opaque.int(&e, &crate::Bounds::new()) {
            // A shape mentions dimensions, never elements of buffers.
            Some(i) if opaque.hides_nothing() => Ok(i),
            _ => self.error("integer arithmetic before this"),
        }
    }

    /// A list in brackets, separated by commas.
    pub fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        item: &mut dyn FnMut(&mut Cursor) -> Result<T, IrError>,
    ) -> Result<Vec<T>, IrError> {
        self.expect(open)?;
        let mut out = vec![];
        while !self.eat(close) {
            if !out.is_empty() {
                self.expect(",")?;
            }
            out.push(item(self)?);
        }
        Ok(out)
    }
}
