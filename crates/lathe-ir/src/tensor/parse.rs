//! The parser of the text form.

use super::print::plain_bits;
use super::{
    Access, Axis, Binary, Buffer, Expr, Fact, For, Iter, Kernel, Node, Param, Reducer, Stmt, Store, Unary,
};
use crate::lexer::{Cursor, Token};
use crate::{DType, IrError, Layout, Term};
use std::sync::Arc;

/// Reads one kernel.
pub fn parse(text: &str) -> Result<Kernel, IrError> {
    let mut c = Cursor::new(text)?;
    let k = kernel(&mut c)?;
    if *c.peek() == Token::End { Ok(k) } else { c.error("the end") }
}

impl std::str::FromStr for Expr {
    type Err = IrError;

    /// Reads one expression.
    fn from_str(text: &str) -> Result<Expr, IrError> {
        let mut c = Cursor::new(text)?;
        let e = parse_expr(&mut c)?;
        if *c.peek() == Token::End { Ok(e) } else { c.error("the end") }
    }
}

fn kernel(c: &mut Cursor) -> Result<Kernel, IrError> {
    c.expect_word("kernel")?;
    let name = c.ident()?.into();
    let dims = c.list("(", ")", &mut |c| Ok(c.ident()?.into()))?;
    c.expect("{")?;
    let (mut axes, mut params) = (vec![], vec![]);
    while c.eat_word("axis") {
        let name = c.ident()?.into();
        let parents = c.list("(", ")", &mut |c| Ok(c.ident()?.into()))?;
        c.expect_word("extent")?;
        let extent = c.symbolic()?;
        c.expect_word("length")?;
        let length = parse_expr(c)?;
        c.expect_word("at")?;
        axes.push(Axis { name, parents, extent, length, at: parse_expr(c)? });
    }
    loop {
        let access = match c.peek() {
            Token::Ident(w) if w == "in" => Access::In,
            Token::Ident(w) if w == "out" => Access::Out,
            Token::Ident(w) if w == "inout" => Access::InOut,
            _ => break,
        };
        c.next();
        if matches!(c.peek_at(1), Token::Punct(":")) {
            let v = buffer(c, super::HOST)?;
            let bits = plain_bits(&v);
            params.push(Param { name: v.name.clone(), access, views: vec![v], bits });
            continue;
        }
        let name = c.ident()?.into();
        c.expect_word("bits")?;
        let bits = c.symbolic()?;
        c.expect("{")?;
        let mut views = vec![buffer(c, super::HOST)?];
        while c.eat(";") {
            views.push(buffer(c, super::HOST)?);
        }
        c.expect("}")?;
        params.push(Param { name, access, views, bits });
    }
    let body = stmts(c)?;
    Ok(Kernel { name, dims, axes, params, body })
}

fn buffer(c: &mut Cursor, memory: &str) -> Result<Buffer, IrError> {
    let name = c.ident()?;
    c.expect(":")?;
    let dtype = c.dtype()?;
    let shape = c.list("[", "]", &mut |c| c.symbolic())?;
    let mut b = Buffer::dense(&name, dtype, &shape, memory);
    if c.eat("@") {
        b.layout = Layout { offset: c.symbolic()?, terms: vec![] };
        while c.eat(":") {
            c.expect("(")?;
            let dim = usize::try_from(c.integer()?).unwrap_or(usize::MAX);
            if dim >= shape.len() {
                return c.error("a dimension of the shape before this");
            }
            c.expect(",")?;
            let div = c.integer()?;
            c.expect(",")?;
            let m = c.integer()?;
            c.expect(",")?;
            let stride = c.symbolic()?;
            c.expect(")")?;
            if div < 1 || m < 0 {
                return c.error("a positive divisor before this");
            }
            b.layout.terms.push(Term { dim, div, modulo: (m != 0).then_some(m), stride });
        }
    }
    if c.eat_word("on") {
        b.memory = c.ident()?.into();
    }
    loop {
        if c.eat_word("range") {
            c.expect("(")?;
            let lo = c.symbolic()?;
            c.expect(",")?;
            let hi = c.symbolic()?;
            c.expect(")")?;
            b.facts.push(Fact::Range(lo, hi));
        } else if c.eat_word("monotone") {
            b.facts.push(Fact::Monotone);
        } else if c.eat_word("injective") {
            b.facts.push(Fact::Injective);
        } else if c.eat_word("ascending") {
            c.expect("(")?;
            b.facts.push(Fact::Ascending(c.ident()?.into()));
            c.expect(")")?;
        } else if c.eat_word("padded") {
            c.expect("(")?;
            let d = c.integer()?;
            c.expect(",")?;
            let m = c.integer()?;
            c.expect(")")?;
            b.facts.push(Fact::Padded(usize::try_from(d).unwrap_or(usize::MAX), m));
        } else {
            return Ok(b);
        }
    }
}

/// Statements up to and with the closing brace.
fn stmts(c: &mut Cursor) -> Result<Vec<Stmt>, IrError> {
    c.enter()?;
    let mut out = vec![];
    while !c.eat("}") {
        out.push(stmt(c)?);
    }
    c.leave();
    Ok(out)
}

fn stmt(c: &mut Cursor) -> Result<Stmt, IrError> {
    if c.eat_word("for") {
        let var = c.ident()?.into();
        c.expect_word("in")?;
        let extent = parse_expr(c)?;
        let word = c.ident()?;
        let Some((iter, _)) = Iter::ALL.iter().find(|(_, n)| *n == word) else {
            return c.error("spatial, reduce, scan or sequential before this");
        };
        let level = c.ident()?.into();
        c.expect("{")?;
        return Ok(Stmt::For(Arc::new(For { var, extent, iter: *iter, level, body: stmts(c)? })));
    }
    if c.eat_word("alloc") {
        return Ok(Stmt::Alloc(Arc::new(buffer(c, "")?)));
    }
    if c.eat_word("if") {
        let e = parse_expr(c)?;
        c.expect("{")?;
        return Ok(Stmt::If(e, Arc::new(stmts(c)?)));
    }
    if c.eat_word("intrinsic") {
        let name = c.ident()?.into();
        c.expect("{")?;
        return Ok(Stmt::Intrinsic(name, Arc::new(stmts(c)?)));
    }
    let name = c.ident()?.into();
    c.expect(":")?;
    let mut targets = vec![];
    loop {
        let buffer = c.ident()?.into();
        targets.push((buffer, c.list("[", "]", &mut parse_expr)?));
        if !c.eat(",") {
            break;
        }
    }
    let mut reducer = None;
    if !c.eat("=") {
        let word = c.ident()?;
        reducer = Reducer::named(&word);
        if reducer.is_none() {
            return c.error("a reduction's name before this");
        }
        c.expect("=")?;
    }
    let mut values = vec![parse_expr(c)?];
    while c.eat(",") {
        values.push(parse_expr(c)?);
    }
    Ok(Stmt::Store(Arc::new(Store { name, targets, values, reducer })))
}

/// Reads an expression.
pub(crate) fn parse_expr(c: &mut Cursor) -> Result<Expr, IrError> {
    c.enter()?;
    let e = binary(c, 1)?;
    c.leave();
    Ok(e)
}

fn binary(c: &mut Cursor, strength: u8) -> Result<Expr, IrError> {
    let minus = matches!(c.peek(), Token::Punct("-"));
    let mut left = primary(c)?;
    // Each operator of a chain is one level deeper in the tree, and `-x` is one, `0 - x`.
    let mut levels = 0;
    if minus && matches!(&*left, Node::Binary(..)) {
        c.enter()?;
        levels += 1;
    }
    while let Token::Punct(p) = *c.peek()
        && let Some((op, _, s)) = Binary::ALL.iter().find(|(_, sign, s)| *sign == p && *s >= strength)
    {
        c.next();
        c.enter()?;
        levels += 1;
        let right = binary(c, s + 1)?;
        left = left.bin(*op, &right);
    }
    (0..levels).for_each(|_| c.leave());
    Ok(left)
}

fn number(c: &mut Cursor, negative: bool) -> Result<Expr, IrError> {
    let Token::Number(s) = c.peek().clone() else { return c.error("a number") };
    let sign = if negative { -1.0 } else { 1.0 };
    // The suffix is a type; an exponent's `e` is followed by a digit or sign, a type's first letter by a width.
    let cut = s.find(|ch: char| ch.is_ascii_alphabetic() && ch != 'e').unwrap_or(s.len());
    let cut = if s.as_bytes().get(cut.wrapping_sub(1)) == Some(&b'e') { cut - 1 } else { cut };
    let (digits, suffix) = s.split_at(cut);
    let t = if suffix.is_empty() { Some(DType::INDEX) } else { DType::parse(suffix) };
    let e = match t {
        Some(t) if t.is_float() => digits.parse::<f64>().ok().map(|v| Expr::float(sign * v, t)),
        Some(t @ DType::Fixed { .. }) if digits.contains('.') => {
            digits.parse::<f64>().ok().map(|v| Expr::float(sign * v, t))
        }
        Some(t) => {
            format!("{}{digits}", if negative { "-" } else { "" }).parse().ok().map(|v| Expr::int(v, t))
        }
        None => None,
    };
    match e {
        Some(e) => {
            c.next();
            Ok(e)
        }
        None => c.error("a number with a type"),
    }
}

fn primary(c: &mut Cursor) -> Result<Expr, IrError> {
    if c.eat("(") {
        // A negative number is printed in parentheses, and no deeper for that.
        let negative = [c.peek(), c.peek_at(1), c.peek_at(2)];
        if matches!(negative, [Token::Punct("-"), Token::Number(_), Token::Punct(")")]) {
            let e = primary(c)?;
            c.expect(")")?;
            return Ok(e);
        }
        let e = parse_expr(c)?;
        c.expect(")")?;
        return Ok(e);
    }
    if c.eat("-") {
        if c.eat_word("inf") {
            c.expect("(")?;
            let t = c.dtype()?;
            c.expect(")")?;
            return Ok(Expr::float(f64::NEG_INFINITY, t));
        }
        c.enter()?;
        if matches!(c.peek(), Token::Number(_)) {
            let e = number(c, true);
            c.leave();
            return e;
        }
        // As deep as `0 - x`, which some are printed as.
        c.enter()?;
        let e = primary(c)?;
        c.leave();
        c.leave();
        return Ok(match &*e {
            Node::Int(..) | Node::Float(..) | Node::Var(_) | Node::Binary(..) => Expr::from(0) - e,
            _ => e.un(Unary::Neg),
        });
    }
    if matches!(c.peek(), Token::Number(_)) {
        return number(c, false);
    }
    let word = c.ident()?;
    if matches!(c.peek(), Token::Punct("[")) {
        return Ok(Node::Load(word.into(), c.list("[", "]", &mut parse_expr)?).into());
    }
    if !matches!(c.peek(), Token::Punct("(")) {
        return Ok(Expr::var(&word));
    }
    if word == "inf" || word == "nan" {
        c.expect("(")?;
        let t = c.dtype()?;
        c.expect(")")?;
        return Ok(Expr::float(if word == "inf" { f64::INFINITY } else { f64::NAN }, t));
    }
    if word == "bitcast" {
        c.expect("(")?;
        let t = c.dtype()?;
        c.expect(",")?;
        let e = parse_expr(c)?;
        c.expect(")")?;
        return Ok(e.bitcast(t));
    }
    if word == "table" {
        c.expect("(")?;
        let t = c.dtype()?;
        c.expect(",")?;
        let e = parse_expr(c)?;
        let values = c.list(",", ")", &mut |c| {
            let minus = matches!(c.peek(), Token::Punct("-"));
            if minus {
                c.expect("-")?;
            }
            c.integer().map(|v| if minus { -v } else { v })
        })?;
        return Ok(e.table(t, &values));
    }
    let mut args = c.list("(", ")", &mut parse_expr)?;
    let unary = Unary::ALL.iter().find(|(_, n)| *n == word).map(|(u, _)| *u);
    match (args.len(), DType::parse(&word), unary) {
        (1, Some(t), _) => Ok(args.remove(0).cast(t)),
        (1, _, Some(u)) => Ok(args.remove(0).un(u)),
        (2, ..) if word == "min" => Ok(args[0].min_with(&args[1])),
        (2, ..) if word == "max" => Ok(args[0].max_with(&args[1])),
        (2, ..) if word == "pow" => Ok(args[0].bin(Binary::Pow, &args[1])),
        (3, ..) if word == "select" => Ok(Expr::select(&args[0], &args[1], &args[2])),
        _ => c.error(&format!("a known function before this, not '{word}' of {}", args.len())),
    }
}
