//! `overrun L`: loops of the family `L` that are shorter in the last block and touch nothing but temporaries run their full
//! length there too. What they write must be picked by the loop, and be touched by the family's loops only, so that
//! nothing that counts ever meets it; what they read must be there. After it, a tile in registers has constant extents.

use crate::pad::{block, may_trap};
use crate::util::{arg, in_family};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Expr, For, Iter, Kernel, Node, Stmt, for_each, map_stmts};
use std::sync::Arc;

pub(crate) static OVERRUN: Primitive = Primitive {
    name: "overrun",
    doc: "overrun L: full blocks always, in the loops of the family L that touch temporaries only",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// Whether an access with the loop's variable stays inside a temporary that holds a whole block.
fn held(k: &Kernel, n: &str, index: &[Expr], var: &str, f: i64) -> bool {
    let picks: Vec<usize> = (0..index.len()).filter(|d| index[*d].mentions(var)).collect();
    let Some(b) = k.buffer(n) else { return false };
    let own = k.views().all(|v| &*v.name != n);
    let room = |d: &usize| {
        let plain = matches!(&*index[*d], Node::Var(v) if &**v == var);
        plain && b.shape[*d].as_const().is_some_and(|s| s >= f)
    };
    own && !picks.is_empty() && picks.iter().all(room)
}

/// Whether elements of a temporary are picked by loops of the family wherever it is touched, along one dimension.
fn family_only(k: &Kernel, n: &str, family: &str, d: usize) -> bool {
    let all = crate::util::accesses(&k.body, n);
    all.iter().all(|(i, _)| matches!(&*i[d], Node::Var(v) if in_family(v, family)))
}

fn qualifies(k: &Kernel, l: &For, family: &str, f: i64) -> bool {
    let var = &*l.var;
    let mut ok = l.iter == Iter::Spatial;
    for_each(&l.body, &mut |s| match s {
        Stmt::For(inner) => ok &= !inner.extent.mentions(var),
        Stmt::Store(b) => {
            for (n, i) in &b.targets {
                let d = i.iter().position(|e| e.mentions(var));
                ok &= held(k, n, i, var, f) && d.is_some_and(|d| family_only(k, n, family, d));
                ok &= !i.iter().any(|e| e.children().iter().any(|c| c.mentions(var)));
            }
            for v in &b.values {
                v.visit(&mut |e| match &**e {
                    Node::Load(n, i) if e.mentions(var) => ok &= held(k, n, i, var, f),
                    _ => ok &= !may_trap(k, e, &|i| i.mentions(var)),
                });
            }
        }
        _ => ok = false,
    });
    ok
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let family = arg(args, 0)?;
    let mut hit = false;
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if in_family(&l.var, family) && l.extent.as_int().is_none() => {
            match block(&l.extent).filter(|f| qualifies(k, l, family, *f)) {
                Some(f) => {
                    hit = true;
                    vec![Stmt::For(Arc::new(For { extent: f.into(), ..(**l).clone() }))]
                }
                None => vec![s],
            }
        }
        _ => vec![s],
    });
    if !hit {
        return Err(format!("no shorter block of '{family}' touches temporaries only"));
    }
    Ok(Kernel { body, ..k.clone() })
}
