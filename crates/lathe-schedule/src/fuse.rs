//! `fuse A B`: the loop `A` and the loop `B` that is all its body, as one loop `A.f`. `B`'s extent must not depend on `A`, nor on
//! what `B` writes.

use crate::util::{arg, need_free, need_known, need_loop, need_still, runs_at_least};
use crate::{Primitive, Tag, Witness};
use lathe_ir::tensor::{Expr, For, Kernel, Stmt, rename_vars, replace_loop};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static FUSE: Primitive = Primitive {
    name: "fuse",
    doc: "fuse A B: one loop A.f over the iterations of A and of B, all its body; of one on cores as `parallel` asks",
    tag: Tag::Bitwise,
    witness: Some(witness),
    apply,
};

fn witness(k: &Kernel, args: &[&str]) -> Option<Witness> {
    let (a, b) = (arg(args, 0).ok()?, arg(args, 1).ok()?);
    let n = need_loop(k, b).ok()?.extent.clone();
    let var = format!("{a}.f");
    let v = Expr::var(&var);
    let before = [(a, v.clone() / n.clone()), (b, v % n.clone())];
    Some(Witness::new(&before, &[(&*var, Expr::var(a) * n + Expr::var(b))]))
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (a, b) = (arg(args, 0)?, arg(args, 1)?);
    let (la, lb) = (need_loop(k, a)?, need_loop(k, b)?);
    if !matches!(la.body.as_slice(), [Stmt::For(l)] if l.var == lb.var) {
        return Err(format!("'{b}' is not the whole body of '{a}'"));
    }
    if la.iter != lb.iter {
        return Err("the loops differ in kind".into());
    }
    if lb.extent.mentions(a) {
        return Err(format!("the extent of '{b}' depends on '{a}'"));
    }
    need_still(&lb)?;
    need_known(k, &lb, &la)?;
    // The product of two numbers below 0 is above it.
    if ![&la, &lb].iter().any(|l| runs_at_least(k, l, 0)) {
        return Err(format!("the extents of '{a}' and '{b}' may both be below 0"));
    }
    let var = format!("{a}.f");
    need_free(k, &[&var])?;
    let v = Expr::var(&var);
    let map = HashMap::from([(a, v.clone() / lb.extent.clone()), (b, v % lb.extent.clone())]);
    let body = rename_vars(&lb.body, &map);
    let extent = la.extent.clone() * lb.extent.clone();
    let fused = Arc::new(For { var: var.as_str().into(), extent, body, ..(*la).clone() });
    let body = replace_loop(&k.body, a, &mut |_| vec![Stmt::For(fused.clone())]);
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}
