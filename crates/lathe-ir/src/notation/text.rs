//! The text form, both ways.

use super::{Access, Level, Notation, Operand, Term};
use crate::IrError;
use crate::lexer::{Cursor, Token};
use std::fmt;

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.tensor, self.index.join(", "))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = |t: &Term| match t {
            Term::Add(..) => format!("({t})"),
            _ => t.to_string(),
        };
        let right = |t: &Term| match t {
            Term::Access(a) => a.to_string(),
            _ => format!("({t})"),
        };
        match self {
            Term::Access(a) => write!(f, "{a}"),
            Term::Add(a, b) if matches!(**b, Term::Add(..)) => write!(f, "{a} + ({b})"),
            Term::Add(a, b) => write!(f, "{a} + {b}"),
            Term::Mul(a, b) => write!(f, "{} * {}", factor(a), right(b)),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "{}: {}[{}]", self.name, self.dtype, shape.join(", "))?;
        match self.levels.as_slice() {
            l if !l.contains(&Level::Compressed) => Ok(()),
            [Level::Dense, Level::Compressed] => write!(f, " csr"),
            levels => {
                let word = |l: &Level| if *l == Level::Dense { "dense" } else { "compressed" };
                write!(f, " ({})", levels.iter().map(word).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl fmt::Display for Notation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "notation {}({}) {{", self.name, self.dims.join(", "))?;
        for o in &self.operands {
            writeln!(f, "  {o}")?;
        }
        writeln!(f, "  {} = {}", self.result, self.value)?;
        writeln!(f, "}}")
    }
}

fn operand(c: &mut Cursor) -> Result<Operand, IrError> {
    let name = c.ident()?.into();
    c.expect(":")?;
    let dtype = c.dtype()?;
    let shape = c.list("[", "]", &mut |c| c.symbolic())?;
    let mut levels = vec![Level::Dense; shape.len()];
    if c.eat_word("csr") {
        if shape.len() != 2 {
            return c.error("a matrix before 'csr'");
        }
        levels[1] = Level::Compressed;
    } else if matches!(c.peek(), Token::Punct("(")) {
        let words = c.list("(", ")", &mut |c| c.ident())?;
        if words.len() != shape.len() {
            return c.error("a format for each dimension");
        }
        for (l, w) in levels.iter_mut().zip(words) {
            *l = match w.as_str() {
                "dense" => Level::Dense,
                "compressed" => Level::Compressed,
                _ => return c.error("dense or compressed before this"),
            };
        }
    }
    Ok(Operand { name, dtype, shape, levels })
}

fn access(c: &mut Cursor) -> Result<Access, IrError> {
    let tensor = c.ident()?.into();
    Ok(Access { tensor, index: c.list("[", "]", &mut |c| Ok(c.ident()?.into()))? })
}

fn factor(c: &mut Cursor) -> Result<Term, IrError> {
    if !c.eat("(") {
        return Ok(Term::Access(access(c)?));
    }
    c.enter()?;
    let t = sum(c)?;
    c.leave();
    c.expect(")")?;
    Ok(t)
}

fn sum(c: &mut Cursor) -> Result<Term, IrError> {
    let product = |c: &mut Cursor| {
        let mut t = factor(c)?;
        while c.eat("*") {
            t = Term::Mul(Box::new(t), Box::new(factor(c)?));
        }
        Ok(t)
    };
    let mut t = product(c)?;
    while c.eat("+") {
        t = Term::Add(Box::new(t), Box::new(product(c)?));
    }
    Ok(t)
}

/// Reads one statement with its declarations.
pub fn parse(text: &str) -> Result<Notation, IrError> {
    let mut c = Cursor::new(text)?;
    let c = &mut c;
    c.expect_word("notation")?;
    let name = c.ident()?.into();
    let dims = c.list("(", ")", &mut |c| Ok(c.ident()?.into()))?;
    c.expect("{")?;
    let mut operands = vec![];
    while matches!(c.peek_at(1), Token::Punct(":")) {
        operands.push(operand(c)?);
    }
    let result = access(c)?;
    c.expect("=")?;
    let value = sum(c)?;
    c.expect("}")?;
    if *c.peek() != Token::End {
        return c.error("the end");
    }
    Ok(Notation { name, dims, operands, result, value })
}
