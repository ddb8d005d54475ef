//! `pad L`: a block loop (made by `split`) that is shorter in the last block runs its full length there too. Buffers
//! indexed by it must go on to a whole block: the step declares that of the parameters, and whoever allocates them keeps
//! the promise. What is written there is never looked at.

use crate::util::{arg, in_family, need_loop};
use crate::{Primitive, Tag};
use lathe_ir::Name;
use lathe_ir::tensor::{Binary, Expr, Fact, For, Kernel, Node, Stmt, for_each, loop_bounds, map_stmts};
use std::sync::Arc;

pub(crate) static PAD: Primitive = Primitive {
    name: "pad",
    doc: "pad L: full blocks always, over buffers padded to whole blocks",
    tag: Tag::Bitwise,
    apply,
};

/// The block's size in an extent `min(n - f * o, f)`.
fn block(e: &Expr) -> Option<i64> {
    match &**e {
        Node::Int(v, _) => Some(*v),
        Node::Binary(Binary::Min, _, f) => f.as_int(),
        _ => None,
    }
}

/// Where the variables of a family appear in indices, simplified: (buffer, dimension), and whether any appears in an
/// index of an index.
pub(crate) fn uses(k: &Kernel, family: &str) -> (Vec<(Name, usize)>, bool) {
    let bounds = loop_bounds(k);
    let mention = |e: &Expr| {
        let mut hit = false;
        e.visit(&mut |e| hit |= matches!(&**e, Node::Var(v) if in_family(v, family)));
        hit
    };
    let (mut uses, mut nested) = (vec![], false);
    let mut note = |n: &Name, index: &[Expr]| {
        for (d, i) in index.iter().enumerate().map(|(d, i)| (d, i.simplify_index(&bounds))) {
            if mention(&i) {
                uses.push((n.clone(), d));
                i.visit(&mut |e| nested |= matches!(&**e, Node::Load(_, j) if j.iter().any(mention)));
            }
        }
    };
    for_each(&k.body, &mut |s| {
        if let Stmt::Store(b) = s {
            for (n, i) in &b.targets {
                note(n, i);
            }
            for v in &b.values {
                v.visit(&mut |e| {
                    if let Node::Load(n, i) = &**e {
                        note(n, i);
                    }
                });
            }
        }
    });
    (uses, nested)
}

/// The kernel with the promise that these dimensions of its parameters are stored padded to a multiple.
pub(crate) fn promise(k: &Kernel, uses: &[(Name, usize)], multiple: i64) -> Kernel {
    let mut out = k.clone();
    for v in out.params.iter_mut().flat_map(|p| &mut p.views) {
        for (n, d) in uses {
            let fact = Fact::Padded(*d, multiple);
            if *n == v.name && !v.facts.contains(&fact) {
                v.facts.push(fact);
            }
        }
    }
    out
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let var = arg(args, 0)?;
    let l = need_loop(k, var)?;
    let f = block(&l.extent).ok_or("the extent is not that of a block")?;
    let (uses, nested) = uses(k, var);
    if nested {
        return Err(format!("'{var}' picks an index out of a buffer, whose padding means nothing"));
    }
    let mut out = promise(k, &uses, f);
    out.body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if in_family(&l.var, var) => {
            vec![Stmt::For(Arc::new(For { extent: f.into(), ..(**l).clone() }))]
        }
        _ => vec![s],
    });
    Ok(out)
}
