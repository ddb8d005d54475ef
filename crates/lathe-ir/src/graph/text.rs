//! The text form of graphs, both ways.

use super::{Attr, Attrs, Graph, Node, Source, Type, Value, ValueId};
use crate::lexer::{Cursor, Token};
use crate::{IrError, Name};
use std::collections::HashMap;
use std::fmt;

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))?;
        match &self.encoding {
            Some(e) => write!(f, "{{{e}}}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(v) => write!(f, "{v}"),
            Attr::Float(v) if v.is_nan() => write!(f, "nan(f64)"),
            Attr::Float(v) if v.is_infinite() => write!(f, "{v}(f64)"),
            Attr::Float(v) => write!(f, "{v:?}f64"),
            Attr::Str(s) => write!(f, "\"{s}\""),
            Attr::Ints(v) => {
                let v: Vec<_> = v.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", v.join(", "))
            }
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.dims.iter().map(|(n, m)| format!("{n} <= {m}")).collect();
        writeln!(f, "graph {}({}) {{", self.name, dims.join(", "))?;
        for v in &self.values {
            match &v.source {
                Source::Input => writeln!(f, "  {}: {} = input", v.name, v.ty)?,
                Source::State => writeln!(f, "  {}: {} = state", v.name, v.ty)?,
                Source::Const(n) => writeln!(f, "  {}: {} = const \"{n}\"", v.name, v.ty)?,
                Source::Node => {}
            }
        }
        for n in &self.nodes {
            let outs: Vec<_> =
                n.outputs.iter().map(|v| format!("{}: {}", self.value(*v).name, self.ty(*v))).collect();
            let ins: Vec<_> = n.inputs.iter().map(|v| self.value(*v).name.to_string()).collect();
            write!(f, "  {} = {}({})", outs.join(", "), n.op, ins.join(", "))?;
            if !n.attrs.is_empty() {
                let attrs: Vec<_> = n.attrs.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                write!(f, " {{{}}}", attrs.join(", "))?;
            }
            writeln!(f)?;
        }
        let outs: Vec<_> = self.outputs.iter().map(|v| self.value(*v).name.to_string()).collect();
        writeln!(f, "  return {}", outs.join(", "))?;
        writeln!(f, "}}")
    }
}

pub(crate) fn ty(c: &mut Cursor) -> Result<Type, IrError> {
    let dtype = c.dtype()?;
    let shape = c.list("[", "]", &mut |c| c.symbolic())?;
    let mut encoding = None;
    if c.eat("{") {
        encoding = Some(c.ident()?.into());
        c.expect("}")?;
    }
    Ok(Type { shape, dtype, encoding })
}

fn attr(c: &mut Cursor) -> Result<Attr, IrError> {
    if matches!(c.peek(), Token::Str(_)) {
        return Ok(Attr::Str(c.string()?.into()));
    }
    if matches!(c.peek(), Token::Punct("[")) {
        return Ok(Attr::Ints(c.list("[", "]", &mut |c| c.integer())?));
    }
    let negative = c.eat("-");
    for (word, value) in [("inf", f64::INFINITY), ("nan", f64::NAN)] {
        if c.eat_word(word) {
            c.expect("(")?;
            c.expect_word("f64")?;
            c.expect(")")?;
            return Ok(Attr::Float(if negative { -value } else { value }));
        }
    }
    if let Token::Number(s) = c.peek().clone() {
        let parsed = match s.strip_suffix("f64") {
            Some(d) => d.parse().ok().map(|v: f64| Attr::Float(if negative { -v } else { v })),
            None => s.parse().ok().map(|v: i64| Attr::Int(if negative { -v } else { v })),
        };
        if let Some(a) = parsed {
            c.next();
            return Ok(a);
        }
    }
    c.error("a number or a string")
}

/// Reads one graph.
pub fn parse(text: &str) -> Result<Graph, IrError> {
    let mut c = Cursor::new(text)?;
    let g = graph(&mut c)?;
    if *c.peek() == Token::End { Ok(g) } else { c.error("the end") }
}

/// A graph where the cursor stands.
pub(crate) fn graph(c: &mut Cursor) -> Result<Graph, IrError> {
    c.expect_word("graph")?;
    let mut g = Graph { name: c.ident()?, ..Graph::default() };
    g.dims = c.list("(", ")", &mut |c| {
        let n: Name = c.ident()?.into();
        c.expect("<=")?;
        Ok((n, c.integer()?))
    })?;
    c.expect("{")?;
    let mut names: HashMap<Name, ValueId> = HashMap::new();
    let lookup = |c: &mut Cursor, names: &HashMap<Name, ValueId>| {
        let word = c.ident()?;
        match names.get(&*word) {
            Some(v) => Ok(*v),
            None => c.error(&format!("a value before this; '{word}' is not one")),
        }
    };
    while !c.eat_word("return") {
        let mut outs = vec![];
        loop {
            let name: Name = c.ident()?.into();
            c.expect(":")?;
            outs.push((name, ty(c)?));
            if !c.eat(",") {
                break;
            }
        }
        c.expect("=")?;
        let word = c.ident()?;
        let source = match word.as_str() {
            "input" => Source::Input,
            "state" => Source::State,
            "const" => Source::Const(c.string()?.into()),
            _ => Source::Node,
        };
        let is_node = source == Source::Node;
        let inputs = if is_node { c.list("(", ")", &mut |c| lookup(c, &names))? } else { vec![] };
        let mut outputs = vec![];
        for (name, ty) in outs {
            let id = ValueId(g.values.len() as u32);
            g.values.push(Value { name: name.clone(), ty, source: source.clone() });
            names.insert(name, id);
            outputs.push(id);
        }
        if is_node {
            let mut attrs = Attrs::new();
            if matches!(c.peek(), Token::Punct("{")) {
                let rows = c.list("{", "}", &mut |c| {
                    let n: Name = c.ident()?.into();
                    c.expect("=")?;
                    Ok((n, attr(c)?))
                })?;
                attrs.extend(rows);
            }
            g.nodes.push(Node { op: word.into(), inputs, attrs, outputs });
        }
    }
    while !matches!(c.peek(), Token::Punct("}")) {
        let v = lookup(c, &names)?;
        g.outputs.push(v);
        c.eat(",");
    }
    c.expect("}")?;
    Ok(g)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_printed() {
        let floats = [f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300, 0.1].map(Attr::Float);
        for a in floats.into_iter().chain([Attr::Int(-3), Attr::Ints(vec![]), Attr::Ints(vec![1, -2])]) {
            let mut c = Cursor::new(&a.to_string()).expect("it is words");
            assert_eq!(attr(&mut c).expect("an attribute"), a);
        }
        let mut c = Cursor::new(&Attr::Float(f64::NAN).to_string()).expect("it is words");
        assert!(matches!(attr(&mut c), Ok(Attr::Float(v)) if v.is_nan()));
    }
}
