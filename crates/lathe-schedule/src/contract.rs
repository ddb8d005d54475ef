//! `contract T`: a temporary loses the dimensions that are always indexed by the variables of loops around all its
//! uses, and moves inside the innermost of those loops. Each iteration must write what it reads, which holds when the
//! first access in the loop's body is a write of the whole element.

use crate::util::{accesses, arg};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Buffer, Expr, For, Kernel, Node, REGISTER, Stmt, map_exprs, map_stmts};
use std::sync::Arc;

pub(crate) static CONTRACT: Primitive = Primitive {
    name: "contract",
    doc: "contract T: the temporary T inside the loops that index it, without their dimensions",
    tag: Tag::Bitwise,
    apply,
};

/// Loops around every access, outermost first: descends while one statement holds them all.
fn around(body: &[Stmt], name: &str, out: &mut Vec<Arc<For>>) {
    let total = accesses(body, name).len();
    for s in body {
        if let Stmt::For(l) = s
            && accesses(std::slice::from_ref(s), name).len() == total
        {
            out.push(l.clone());
            return around(&l.body, name, out);
        }
    }
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let name = arg(args, 0)?;
    let all = accesses(&k.body, name);
    let buffer = k.buffer(name).ok_or_else(|| format!("there is no buffer '{name}'"))?;
    if k.views().any(|b| &*b.name == name) {
        return Err(format!("'{name}' is a parameter"));
    }
    let mut loops = vec![];
    around(&k.body, name, &mut loops);
    let mut dropped = vec![];
    let mut home = None;
    for l in &loops {
        let v = Expr::var(&l.var);
        let d = (0..buffer.shape.len()).find(|d| !dropped.contains(d) && all.iter().all(|(i, _)| i[*d] == v));
        if let Some(d) = d {
            dropped.push(d);
            home = Some(l.clone());
        }
    }
    let Some(home) = home else { return Err(format!("no loop around all uses of '{name}' indexes it")) };
    match accesses(&home.body, name).first() {
        Some((_, true)) => {}
        _ => return Err(format!("'{name}' is read before it is written in '{}'", home.var)),
    }
    let keep = |i: &[Expr]| -> Vec<Expr> {
        i.iter().enumerate().filter(|(d, _)| !dropped.contains(d)).map(|(_, e)| e.clone()).collect()
    };
    let shape: Vec<_> =
        buffer.shape.iter().enumerate().filter(|(d, _)| !dropped.contains(d)).map(|(_, s)| s.clone()).collect();
    let memory = if shape.is_empty() { REGISTER } else { &*buffer.memory };
    let small = Stmt::Alloc(Arc::new(Buffer::dense(name, buffer.dtype, &shape, memory)));
    let body = map_exprs(&k.body, &|e| {
        e.rewrite(&|n| match &**n {
            Node::Load(b, i) if &**b == name => Some(Node::Load(b.clone(), keep(i)).into()),
            _ => None,
        })
    });
    let body = map_stmts(&body, &mut |s| match &s {
        Stmt::Alloc(b) if &*b.name == name => vec![],
        Stmt::Store(b) if b.targets.iter().any(|(n, _)| &**n == name) => {
            let mut b = (**b).clone();
            for (n, i) in &mut b.targets {
                if &**n == name {
                    *i = keep(i);
                }
            }
            vec![Stmt::Store(Arc::new(b))]
        }
        Stmt::For(l) if l.var == home.var => {
            let body = [std::slice::from_ref(&small), &l.body].concat();
            vec![Stmt::For(Arc::new(For { body, ..(**l).clone() }))]
        }
        _ => vec![s],
    });
    Ok(Kernel { body, ..k.clone() })
}
