//! Walking and rebuilding statements.

use super::{Expr, For, Kernel, Node, Stmt, Store};
use crate::Bounds;
use std::collections::HashMap;
use std::sync::Arc;

/// Calls `f` on every statement, outermost first.
pub fn for_each<'k>(body: &'k [Stmt], f: &mut dyn FnMut(&'k Stmt)) {
    for s in body {
        f(s);
        match s {
            Stmt::For(l) => for_each(&l.body, f),
            Stmt::If(_, b) | Stmt::Intrinsic(_, b) => for_each(b, f),
            Stmt::Store(_) | Stmt::Alloc(_) => {}
        }
    }
}

/// Rebuilds statements bottom-up: `f` maps each (already rebuilt) statement to its replacement.
pub fn map_stmts(body: &[Stmt], f: &mut dyn FnMut(Stmt) -> Vec<Stmt>) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len());
    for s in body {
        let s = match s {
            Stmt::For(l) => {
                let body = map_stmts(&l.body, f);
                Stmt::For(Arc::new(For { body, ..(**l).clone() }))
            }
            Stmt::If(c, b) => Stmt::If(c.clone(), Arc::new(map_stmts(b, f))),
            Stmt::Intrinsic(n, b) => Stmt::Intrinsic(n.clone(), Arc::new(map_stmts(b, f))),
            Stmt::Store(_) | Stmt::Alloc(_) => s.clone(),
        };
        out.extend(f(s));
    }
    out
}

/// Rebuilds every expression of every statement.
pub fn map_exprs(body: &[Stmt], f: &dyn Fn(&Expr) -> Expr) -> Vec<Stmt> {
    map_stmts(body, &mut |s| {
        vec![match s {
            Stmt::For(l) => Stmt::For(Arc::new(For { extent: f(&l.extent), ..(*l).clone() })),
            Stmt::Store(b) => Stmt::Store(Arc::new(Store {
                targets: b.targets.iter().map(|(n, i)| (n.clone(), i.iter().map(f).collect())).collect(),
                values: b.values.iter().map(f).collect(),
                ..(*b).clone()
            })),
            Stmt::If(c, b) => Stmt::If(f(&c), b),
            s => s,
        }]
    })
}

/// Replaces variables by expressions everywhere, loop headers' own names excepted.
pub fn rename_vars(body: &[Stmt], map: &HashMap<&str, Expr>) -> Vec<Stmt> {
    map_exprs(body, &|e| {
        e.rewrite(&|n| match &**n {
            Node::Var(v) => map.get(&**v).cloned(),
            _ => None,
        })
    })
}

/// The loop of a variable.
pub fn find_loop(body: &[Stmt], var: &str) -> Option<Arc<For>> {
    let mut found = None;
    for_each(body, &mut |s| {
        if let Stmt::For(l) = s
            && &*l.var == var
        {
            found = Some(l.clone());
        }
    });
    found
}

/// The block of a name.
pub fn find_block(body: &[Stmt], name: &str) -> Option<Arc<Store>> {
    let mut found = None;
    for_each(body, &mut |s| {
        if let Stmt::Store(b) = s
            && &*b.name == name
        {
            found = Some(b.clone());
        }
    });
    found
}

/// Replaces the loop of a variable by what `f` makes of it; `None` when there is no such loop.
pub fn replace_loop(body: &[Stmt], var: &str, f: &mut dyn FnMut(&For) -> Vec<Stmt>) -> Option<Vec<Stmt>> {
    let mut hit = false;
    let out = map_stmts(body, &mut |s| match &s {
        Stmt::For(l) if &*l.var == var => {
            hit = true;
            f(l)
        }
        _ => vec![s],
    });
    hit.then_some(out)
}

/// The range of every loop variable of a kernel (extents that are not constant leave the upper end open).
pub fn loop_bounds(k: &Kernel) -> Bounds {
    let mut b = Bounds::new();
    for d in &k.dims {
        b.set(d, 1, None);
    }
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s {
            let hi = super::Opaque::default().int(&l.extent, &b).and_then(|e| b.range(&e).hi);
            b.set(&l.var, 0, hi.and_then(|h| h.checked_sub(1)));
        }
    });
    b
}
