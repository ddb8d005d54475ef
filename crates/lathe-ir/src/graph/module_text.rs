//! The text form of modules, both ways.

use super::module::{Arm, Block, Control, Data, Function, Kind, Module};
use super::text::{graph, ty};
use crate::lexer::{Cursor, Token};
use crate::{IrError, Name};
use std::fmt;

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Tensor(t) => write!(f, "{t}"),
            Kind::Data(n) => write!(f, "{n}"),
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn block(f: &mut fmt::Formatter<'_>, b: &Block, indent: usize) -> fmt::Result {
    let pad = " ".repeat(indent);
    let arrow =
        |results: &[Name]| if results.is_empty() { String::new() } else { format!(" -> {}", list(results)) };
    for c in &b.steps {
        match c {
            Control::Region { graph, results } => {
                let text = graph.to_string();
                let body: Vec<String> = text.trim_end().lines().map(|l| format!("{pad}{l}")).collect();
                writeln!(f, "{}{}", body.join("\n"), arrow(results))?;
            }
            Control::Call { function, args, results } => {
                writeln!(f, "{pad}call {function}({}){}", list(args), arrow(results))?;
            }
            Control::If { condition, then, otherwise, results } => {
                writeln!(f, "{pad}if {condition} {{")?;
                block(f, then, indent + 2)?;
                writeln!(f, "{pad}}} else {{")?;
                block(f, otherwise, indent + 2)?;
                writeln!(f, "{pad}}}{}", arrow(results))?;
            }
            Control::While { state, condition, body, results } => {
                let state: Vec<String> = state.iter().map(|(n, from)| format!("{n} = {from}")).collect();
                writeln!(f, "{pad}while {} {{", state.join(", "))?;
                block(f, condition, indent + 2)?;
                writeln!(f, "{pad}}} do {{")?;
                block(f, body, indent + 2)?;
                writeln!(f, "{pad}}}{}", arrow(results))?;
            }
            Control::Match { value, arms, results } => {
                writeln!(f, "{pad}match {value} {{")?;
                for a in arms {
                    writeln!(f, "{pad}  {}({}) {{", a.tag, list(&a.fields))?;
                    block(f, &a.body, indent + 4)?;
                    writeln!(f, "{pad}  }}")?;
                }
                writeln!(f, "{pad}}}{}", arrow(results))?;
            }
            Control::Make { tag, args, result } => {
                writeln!(f, "{pad}make {tag}({}) -> {result}", list(args))?
            }
        }
    }
    writeln!(f, "{pad}return {}", list(&b.results))
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module {}() {{", self.name)?;
        for d in &self.data {
            let variants: Vec<String> =
                d.variants.iter().map(|(tag, fields)| format!("{tag}({})", list(fields))).collect();
            writeln!(f, "  data {} {{ {} }}", d.name, variants.join("; "))?;
        }
        for x in &self.functions {
            let params: Vec<String> = x.params.iter().map(|(n, k)| format!("{n}: {k}")).collect();
            writeln!(f, "  function {}({}) -> ({}) {{", x.name, params.join(", "), list(&x.results))?;
            block(f, &x.body, 4)?;
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

fn name(c: &mut Cursor) -> Result<Name, IrError> {
    Ok(c.ident()?.into())
}

fn names(c: &mut Cursor) -> Result<Vec<Name>, IrError> {
    c.list("(", ")", &mut name)
}

/// A tensor's type, or the name of a tree's: the former has a shape.
fn kind(c: &mut Cursor) -> Result<Kind, IrError> {
    match c.peek_at(1) {
        Token::Punct("[" | "<") => Ok(Kind::Tensor(ty(c)?)),
        _ => Ok(Kind::Data(name(c)?)),
    }
}

/// `-> a, b`, or nothing.
fn results(c: &mut Cursor) -> Result<Vec<Name>, IrError> {
    let mut out = vec![];
    if c.eat("->") {
        out.push(name(c)?);
        while c.eat(",") {
            out.push(name(c)?);
        }
    }
    Ok(out)
}

/// Steps and `return` up to and with the closing brace; the opening one was read.
fn steps(c: &mut Cursor) -> Result<Block, IrError> {
    c.enter()?;
    let mut b = Block::default();
    while !c.eat_word("return") {
        b.steps.push(step(c)?);
    }
    while !c.eat("}") {
        b.results.push(name(c)?);
        if !c.eat(",") {
            c.expect("}")?;
            break;
        }
    }
    c.leave();
    Ok(b)
}

fn braced(c: &mut Cursor) -> Result<Block, IrError> {
    c.expect("{")?;
    steps(c)
}

fn step(c: &mut Cursor) -> Result<Control, IrError> {
    let word = match c.peek() {
        Token::Ident(w) => w.clone(),
        _ => return c.error("graph, call, if, while, match, make or return"),
    };
    if word == "graph" {
        return Ok(Control::Region { graph: graph(c)?, results: results(c)? });
    }
    c.next();
    match word.as_str() {
        "call" => Ok(Control::Call { function: name(c)?, args: names(c)?, results: results(c)? }),
        "make" => {
            let (tag, args) = (name(c)?, names(c)?);
            c.expect("->")?;
            Ok(Control::Make { tag, args, result: name(c)? })
        }
        "if" => {
            let condition = name(c)?;
            let then = braced(c)?;
            c.expect_word("else")?;
            Ok(Control::If { condition, then, otherwise: braced(c)?, results: results(c)? })
        }
        "while" => {
            let mut state = vec![];
            while !matches!(c.peek(), Token::Punct("{")) {
                let inner = name(c)?;
                c.expect("=")?;
                state.push((inner, name(c)?));
                c.eat(",");
            }
            let condition = braced(c)?;
            c.expect_word("do")?;
            Ok(Control::While { state, condition, body: braced(c)?, results: results(c)? })
        }
        "match" => {
            let value = name(c)?;
            c.expect("{")?;
            let mut arms = vec![];
            while !c.eat("}") {
                arms.push(Arm { tag: name(c)?, fields: names(c)?, body: braced(c)? });
            }
            Ok(Control::Match { value, arms, results: results(c)? })
        }
        _ => c.error("graph, call, if, while, match, make or return before this"),
    }
}

/// Reads one module.
pub fn parse_module(text: &str) -> Result<Module, IrError> {
    let mut c = Cursor::new(text)?;
    let c = &mut c;
    c.expect_word("module")?;
    let mut m = Module { name: name(c)?, ..Module::default() };
    c.expect("(")?;
    c.expect(")")?;
    c.expect("{")?;
    while !c.eat("}") {
        if c.eat_word("data") {
            let mut d = Data { name: name(c)?, variants: vec![] };
            c.expect("{")?;
            while !c.eat("}") {
                let tag = name(c)?;
                d.variants.push((tag, c.list("(", ")", &mut kind)?));
                c.eat(";");
            }
            m.data.push(d);
            continue;
        }
        c.expect_word("function")?;
        let name = name(c)?;
        let params = c.list("(", ")", &mut |c| {
            let n: Name = c.ident()?.into();
            c.expect(":")?;
            Ok((n, kind(c)?))
        })?;
        c.expect("->")?;
        let results = c.list("(", ")", &mut kind)?;
        m.functions.push(Function { name, params, results, body: braced(c)? });
    }
    if *c.peek() == Token::End { Ok(m) } else { c.error("the end") }
}
