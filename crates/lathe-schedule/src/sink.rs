//! `sink L [stop...]`: moves a loop inwards until it stands right around each block (or around the loops of the families
//! named `stop`). A spatial loop may be distributed over statements and exchanged with any loop, as its iterations are
//! independent; temporaries it passes get a dimension. A reduce loop only passes spatial loops
//! that are the whole body.

use crate::util::{arg, copy_name, in_family, need_known, need_loop, need_still};
use crate::{Primitive, Tag, Witness};
use lathe_ir::Name;
use lathe_ir::tensor::{
    Buffer, Expr, Fact, For, Iter, Kernel, Node, Opaque, Stmt, loop_bounds, map_exprs, map_stmts,
    rename_vars, replace_loop,
};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static SINK: Primitive = Primitive {
    name: "sink",
    doc: "sink L [stop...]: the loop L around each block inside it (or around loops of the families named)",
    tag: Tag::Bitwise,
    witness: Some(witness),
    apply,
};

/// A spatial loop is distributed; a reduce loop goes inside the loops that it passes.
fn witness(k: &Kernel, args: &[&str]) -> Option<Witness> {
    let l = need_loop(k, arg(args, 0).ok()?).ok()?;
    let var = Expr::var(&l.var);
    if l.iter == Iter::Spatial {
        return Some(Witness::new(&[(&l.var, var)], &[]));
    }
    let mut passed = vec![];
    let mut body = l.body.as_slice();
    while let Some(f) = passes(&l, body, &args[1..]) {
        passed.push((&*f.var, Expr::var(&f.var)));
        body = &f.body;
    }
    let own = (&*l.var, var);
    let before = [std::slice::from_ref(&own), &passed].concat();
    passed.push(own);
    Some(Witness::new(&before, &passed))
}

/// The loop that a reduce loop around this body passes, if it is one.
fn passes<'a>(l: &For, body: &'a [Stmt], stop: &[&str]) -> Option<&'a Arc<For>> {
    match body {
        [Stmt::For(f)]
            if f.iter == Iter::Spatial
                && !stop.iter().any(|w| in_family(&f.var, w))
                && !f.extent.mentions(&l.var) =>
        {
            Some(f)
        }
        _ => None,
    }
}

struct Sink<'a> {
    kernel: &'a Kernel,
    l: &'a For,
    stop: &'a [&'a str],
    /// Largest extent, for the dimension that temporaries get.
    extent: i64,
    widened: Vec<Name>,
    taken: Vec<Name>,
    first: bool,
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let var = arg(args, 0)?;
    let l = need_loop(k, var)?;
    let bounds = loop_bounds(k);
    let extent = Opaque::default().int(&l.extent, &bounds).and_then(|e| bounds.range(&e).hi);
    let mut s = Sink {
        kernel: k,
        l: &l,
        stop: &args[1..],
        extent: extent.unwrap_or(0),
        widened: vec![],
        taken: vec![],
        first: true,
    };
    need_still(&l)?;
    let moved = match l.iter {
        Iter::Spatial => s.spatial(&l.body)?,
        Iter::Reduce => s.chain(&l.body)?,
        _ => return Err("only spatial and reduce loops move".into()),
    };
    let body = replace_loop(&k.body, var, &mut |_| moved.clone());
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}

impl Sink<'_> {
    fn wrap(&mut self, s: Stmt) -> Stmt {
        let var = if self.first {
            self.l.var.clone()
        } else {
            copy_name(self.kernel, &self.l.var, &mut self.taken)
        };
        self.first = false;
        let body = rename_vars(&[s], &HashMap::from([(&*self.l.var, Expr::var(&var))]));
        let body = self.widen(body, &var);
        Stmt::For(Arc::new(For { var, body, ..self.l.clone() }))
    }

    /// A new first item for a loop that stops around others, a new last one for a loop that goes all the way in, so that
    /// the innermost loop walks along the storage.
    fn with<T: Clone>(&self, list: &[T], item: &T) -> Vec<T> {
        let item = std::slice::from_ref(item);
        if self.stop.is_empty() { [list, item].concat() } else { [item, list].concat() }
    }

    /// Adds the loop's variable to the indices of every widened temporary.
    fn widen(&self, body: Vec<Stmt>, var: &str) -> Vec<Stmt> {
        let v = Expr::var(var);
        let add = |i: &[Expr]| self.with(i, &v);
        let body = map_exprs(&body, &|e| {
            e.rewrite(&|n| match &**n {
                Node::Load(b, i) if self.widened.contains(b) => Some(Node::Load(b.clone(), add(i)).into()),
                _ => None,
            })
        });
        map_stmts(&body, &mut |s| match &s {
            Stmt::Store(b) if b.targets.iter().any(|(n, _)| self.widened.contains(n)) => {
                let mut b = (**b).clone();
                for (n, i) in &mut b.targets {
                    if self.widened.contains(n) {
                        *i = add(i);
                    }
                }
                vec![Stmt::Store(Arc::new(b))]
            }
            _ => vec![s],
        })
    }

    fn spatial(&mut self, body: &[Stmt]) -> Result<Vec<Stmt>, String> {
        let mut out = vec![];
        for s in body {
            match s {
                Stmt::Alloc(b) => {
                    if self.extent == 0 {
                        return Err(format!("'{}' would need an unbounded dimension", b.name));
                    }
                    let shape = self.with(&b.shape, &self.extent.into());
                    self.widened.push(b.name.clone());
                    let facts = b.facts.iter().filter(|f| matches!(f, Fact::Range(..))).cloned().collect();
                    let wider = Buffer { facts, ..Buffer::dense(&b.name, b.dtype, &shape, &b.memory) };
                    out.push(Stmt::Alloc(Arc::new(wider)));
                }
                Stmt::For(f) if !self.stop.iter().any(|w| in_family(&f.var, w)) => {
                    if f.extent.mentions(&self.l.var) {
                        return Err(format!("the extent of '{}' depends on '{}'", f.var, self.l.var));
                    }
                    need_known(self.kernel, f, self.l)?;
                    let body = self.spatial(&f.body)?;
                    out.push(Stmt::For(Arc::new(For { body, ..(**f).clone() })));
                }
                _ => {
                    let w = self.wrap(s.clone());
                    out.push(w);
                }
            }
        }
        Ok(out)
    }

    fn chain(&mut self, body: &[Stmt]) -> Result<Vec<Stmt>, String> {
        if let Some(f) = passes(self.l, body, self.stop) {
            need_known(self.kernel, f, self.l)?;
            let body = self.chain(&f.body)?;
            return Ok(vec![Stmt::For(Arc::new(For { body, ..(**f).clone() }))]);
        }
        match body {
            [s] => Ok(vec![self.wrap(s.clone())]),
            _ => Err("a reduce loop only passes loops that are the whole body".into()),
        }
    }
}
