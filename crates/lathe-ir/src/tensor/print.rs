//! The text form of tensor programs, as the parser reads it back.

use super::{Access, Buffer, Expr, Fact, Iter, Kernel, Node, Stmt};
use crate::{DType, Int, Layout};
use std::fmt::{self, Write};

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        expr(f, self, 0)
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn expr(f: &mut fmt::Formatter<'_>, e: &Expr, strength: u8) -> fmt::Result {
    match &**e {
        Node::Int(v, t) => {
            let suffix = if *t == DType::INDEX { String::new() } else { t.to_string() };
            if *v < 0 { write!(f, "({v}{suffix})") } else { write!(f, "{v}{suffix}") }
        }
        Node::Float(bits, t) => {
            let v = f64::from_bits(*bits);
            match v {
                v if v.is_nan() => write!(f, "nan({t})"),
                v if v.is_infinite() => write!(f, "{}({t})", if v > 0.0 { "inf" } else { "-inf" }),
                v if v.is_sign_negative() => write!(f, "({v:?}{t})"),
                v => write!(f, "{}{t}", format!("{v:?}").trim_end_matches(".0")),
            }
        }
        Node::Var(n) => write!(f, "{n}"),
        Node::Unary(op, a) => write!(f, "{}({a})", op.name()),
        Node::Binary(op, a, b) => match op.spelling() {
            (name, 0) => write!(f, "{name}({a}, {b})"),
            (sign, p) => {
                if p < strength {
                    write!(f, "(")?;
                }
                expr(f, a, p)?;
                write!(f, " {sign} ")?;
                expr(f, b, p + 1)?;
                if p < strength { write!(f, ")") } else { Ok(()) }
            }
        },
        Node::Select(c, a, b) => write!(f, "select({c}, {a}, {b})"),
        Node::Cast(t, a) => write!(f, "{t}({a})"),
        Node::Bitcast(t, a) => write!(f, "bitcast({t}, {a})"),
        Node::Load(n, i) => write!(f, "{n}[{}]", list(i)),
        Node::Table(t, v, a) => write!(f, "table({t}, {a}, {})", list(v)),
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@ {}", self.offset)?;
        for t in &self.terms {
            let m = t.modulo.unwrap_or(0);
            write!(f, " : ({}, {}, {m}, {})", t.dim, t.div, t.stride)?;
        }
        Ok(())
    }
}

/// `f32[n, 4]`, with layout, memory and facts where they are not the usual ones.
pub(super) fn buffer(f: &mut dyn Write, b: &Buffer, memory: &str) -> fmt::Result {
    write!(f, "{}: {}[{}]", b.name, b.dtype, list(&b.shape))?;
    if b.layout != Layout::dense(b.dtype, &b.shape) {
        write!(f, " {}", b.layout)?;
    }
    if &*b.memory != memory {
        write!(f, " on {}", b.memory)?;
    }
    for fact in &b.facts {
        match fact {
            Fact::Range(lo, hi) => write!(f, " range({lo}, {hi})")?,
            Fact::Monotone => write!(f, " monotone")?,
            Fact::Injective => write!(f, " injective")?,
            Fact::Ascending(offsets) => write!(f, " ascending({offsets})")?,
            Fact::Padded(d, m) => write!(f, " padded({d}, {m})")?,
        }
    }
    Ok(())
}

fn stmts(f: &mut fmt::Formatter<'_>, body: &[Stmt], indent: usize) -> fmt::Result {
    let pad = " ".repeat(indent);
    for s in body {
        match s {
            Stmt::For(l) => {
                let iter = Iter::ALL.iter().find(|(i, _)| *i == l.iter).map_or("?", |(_, n)| n);
                writeln!(f, "{pad}for {} in {} {iter} {} {{", l.var, l.extent, l.level)?;
                stmts(f, &l.body, indent + 2)?;
                writeln!(f, "{pad}}}")?;
            }
            Stmt::Store(b) => {
                let targets: Vec<_> = b.targets.iter().map(|(n, i)| format!("{n}[{}]", list(i))).collect();
                let op = b.reducer.map_or("", |r| r.name);
                let space = if op.is_empty() { "" } else { " " };
                writeln!(f, "{pad}{}: {}{space}{op} = {}", b.name, targets.join(", "), list(&b.values))?;
            }
            Stmt::Alloc(b) => {
                write!(f, "{pad}alloc ")?;
                buffer(f, b, "")?;
                writeln!(f)?;
            }
            Stmt::If(c, b) => {
                writeln!(f, "{pad}if {c} {{")?;
                stmts(f, b, indent + 2)?;
                writeln!(f, "{pad}}}")?;
            }
            Stmt::Intrinsic(n, b) => {
                writeln!(f, "{pad}intrinsic {n} {{")?;
                stmts(f, b, indent + 2)?;
                writeln!(f, "{pad}}}")?;
            }
        }
    }
    Ok(())
}

/// The size of a parameter that is one array and no more.
pub(super) fn plain_bits(v: &Buffer) -> Int {
    v.shape.iter().fold(Int::from(v.dtype.bits()), |p, d| p * d.clone())
}

impl fmt::Display for Stmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        stmts(f, std::slice::from_ref(self), 0)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {}({}) {{", self.name, list(&self.dims))?;
        for a in &self.axes {
            let (name, parents) = (&a.name, list(&a.parents));
            writeln!(f, "  axis {name}({parents}) extent {} length {} at {}", a.extent, a.length, a.at)?;
        }
        for p in &self.params {
            let access = match p.access {
                Access::In => "in",
                Access::Out => "out",
                Access::InOut => "inout",
            };
            write!(f, "  {access} ")?;
            match p.views.as_slice() {
                [v] if v.name == p.name && p.bits == plain_bits(v) => buffer(f, v, super::HOST)?,
                views => {
                    write!(f, "{} bits {} {{ ", p.name, p.bits)?;
                    for (i, v) in views.iter().enumerate() {
                        if i > 0 {
                            write!(f, "; ")?;
                        }
                        buffer(f, v, super::HOST)?;
                    }
                    write!(f, " }}")?;
                }
            }
            writeln!(f)?;
        }
        stmts(f, &self.body, 2)?;
        writeln!(f, "}}")
    }
}
