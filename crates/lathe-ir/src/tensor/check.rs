//! The checker: refuses malformed tensor programs and names the place.

use super::{Access, Buffer, Expr, Iter, Kernel, Node, Stmt, Store};
use crate::{DType, IrError, Name};
use std::collections::{HashMap, HashSet};

/// The type of an expression, given the buffers in scope; `None` when it is ill-typed.
pub fn expr_type(e: &Expr, buffers: &dyn Fn(&str) -> Option<DType>) -> Option<DType> {
    match &**e {
        Node::Int(_, t) | Node::Float(_, t) => Some(*t),
        Node::Var(_) => Some(DType::INDEX),
        Node::Unary(_, a) => expr_type(a, buffers),
        Node::Cast(t, a) => expr_type(a, buffers).map(|_| *t),
        Node::Bitcast(t, a) => (expr_type(a, buffers)?.bits() == t.bits()).then_some(*t),
        Node::Binary(op, a, b) => {
            let (a, b) = (expr_type(a, buffers)?, expr_type(b, buffers)?);
            (a == b).then_some(if op.is_comparison() { DType::BOOL } else { a })
        }
        Node::Select(c, a, b) => {
            let (a, b) = (expr_type(a, buffers)?, expr_type(b, buffers)?);
            (expr_type(c, buffers)? == DType::BOOL && a == b).then_some(a)
        }
        Node::Load(n, _) => buffers(n),
    }
}

struct Checker<'k> {
    kernel: &'k Kernel,
    buffers: HashMap<Name, (Buffer, usize)>,
    writable: HashSet<Name>,
    loops: Vec<(Name, Iter)>,
    names: HashSet<Name>,
}

/// Checks names, scopes, types, ranks, access, and that iterations of spatial loops write apart.
pub fn check(kernel: &Kernel) -> Result<(), IrError> {
    let mut c = Checker {
        kernel,
        buffers: HashMap::new(),
        writable: HashSet::new(),
        loops: vec![],
        names: HashSet::new(),
    };
    for p in &kernel.params {
        for v in &p.views {
            if c.buffers.insert(v.name.clone(), (v.clone(), 0)).is_some() {
                return c.fail(&v.name, "two buffers of this name");
            }
            if p.access != Access::In {
                c.writable.insert(v.name.clone());
            }
        }
    }
    for a in &kernel.axes {
        c.loops = a.parents.iter().map(|p| (p.clone(), Iter::Spatial)).collect();
        let length = c.expr(&a.name, &a.length)?;
        c.loops.push((a.name.clone(), Iter::Spatial));
        if length != DType::INDEX || c.expr(&a.name, &a.at)? != DType::INDEX {
            return c.fail(&a.name, "the axis's length or coordinate is not an index");
        }
        c.loops.clear();
    }
    c.body(&kernel.body)
}

impl Checker<'_> {
    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::check(format!("{}/{place}", self.kernel.name), message))
    }

    fn expr(&self, place: &str, e: &Expr) -> Result<DType, IrError> {
        let mut bad = None;
        e.visit(&mut |e| match &**e {
            Node::Var(n) if !self.loops.iter().any(|(l, _)| l == n) && !self.kernel.dims.contains(n) => {
                bad = Some(format!("'{n}' is not in scope"));
            }
            Node::Load(n, i) => match self.buffers.get(n) {
                None => bad = Some(format!("buffer '{n}' is not in scope")),
                Some((b, _)) if b.shape.len() != i.len() => {
                    bad = Some(format!("'{n}' has rank {}, indexed by {}", b.shape.len(), i.len()));
                }
                _ => {}
            },
            _ => {}
        });
        if let Some(b) = bad {
            return self.fail(place, b);
        }
        match expr_type(e, &|n| self.buffers.get(n).map(|(b, _)| b.dtype)) {
            Some(t) => Ok(t),
            None => self.fail(place, format!("types do not agree in {e}")),
        }
    }

    fn body(&mut self, body: &[Stmt]) -> Result<(), IrError> {
        let mut opened = vec![];
        for s in body {
            match s {
                Stmt::Alloc(b) => {
                    if self.buffers.insert(b.name.clone(), ((**b).clone(), self.loops.len())).is_some() {
                        return self.fail(&b.name, "two buffers of this name");
                    }
                    self.writable.insert(b.name.clone());
                    opened.push(b.name.clone());
                }
                Stmt::For(l) => {
                    if !self.names.insert(l.var.clone()) {
                        return self.fail(&l.var, "two loops or blocks of this name");
                    }
                    if self.expr(&l.var, &l.extent)? != DType::INDEX {
                        return self.fail(&l.var, "the extent is not an index");
                    }
                    self.loops.push((l.var.clone(), l.iter));
                    self.body(&l.body)?;
                    self.loops.pop();
                }
                Stmt::If(c, b) => {
                    if self.expr("if", c)? != DType::BOOL {
                        return self.fail("if", "the condition is no truth value");
                    }
                    self.body(b)?;
                }
                Stmt::Intrinsic(_, b) => self.body(b)?,
                Stmt::Store(b) => self.store(b)?,
            }
        }
        for n in opened {
            self.buffers.remove(&n);
        }
        Ok(())
    }

    fn store(&mut self, s: &Store) -> Result<(), IrError> {
        if !self.names.insert(s.name.clone()) {
            return self.fail(&s.name, "two loops or blocks of this name");
        }
        if s.values.len() != s.targets.len() || s.reducer.is_some_and(|r| r.arity != s.targets.len()) {
            return self.fail(&s.name, "targets, values and accumulators differ in number");
        }
        for ((n, index), v) in s.targets.iter().zip(&s.values) {
            let t = self.expr(&s.name, &Expr::load(n, index))?;
            let got = self.expr(&s.name, v)?;
            if t != got {
                return self.fail(&s.name, format!("a {got} is stored to the {t} buffer '{n}'"));
            }
            if !self.writable.contains(n) {
                return self.fail(&s.name, format!("'{n}' is read only"));
            }
            for i in index {
                if self.expr(&s.name, i)? != DType::INDEX {
                    return self.fail(&s.name, format!("{i} is not an index"));
                }
            }
            // A spatial loop around the buffer's scope must pick the element, or its iterations would collide.
            let depth = self.buffers.get(n).map_or(0, |(_, d)| *d);
            for (var, iter) in &self.loops[depth..] {
                let picks = index.iter().any(|i| i.mentions(var));
                if *iter == Iter::Spatial && !picks {
                    return self.fail(
                        &s.name,
                        format!("iterations of spatial loop '{var}' write the same element of '{n}'"),
                    );
                }
            }
        }
        Ok(())
    }
}
