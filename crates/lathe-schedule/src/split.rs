//! `split L f`: the loop `L` as two, `L.o` over blocks and `L.i` of `f` iterations inside a block (fewer in the last one
//! when `f` does not divide the extent). Order is kept.

use crate::util::{arg, need_free, need_loop, need_serial, need_still, number};
use crate::{Primitive, Tag, Witness};
use lathe_ir::tensor::{
    Binary, Expr, For, Kernel, Node, Opaque, Stmt, check, loop_bounds, map_exprs, rename_vars, replace_loop,
};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static SPLIT: Primitive = Primitive {
    name: "split",
    doc: "split L f: two loops, L.o over blocks of f iterations and L.i inside one",
    tag: Tag::Bitwise,
    witness: Some(witness),
    apply,
};

fn witness(_: &Kernel, args: &[&str]) -> Option<Witness> {
    let (var, f) = (arg(args, 0).ok()?, number(arg(args, 1).ok()?).ok()?);
    let (o, i) = (format!("{var}.o"), format!("{var}.i"));
    let whole = Expr::var(&o) * f + Expr::var(&i);
    let after = [(&*o, Expr::var(var) / f), (&*i, Expr::var(var) % f)];
    Some(Witness::new(&[(var, whole)], &after))
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (var, f) = (arg(args, 0)?, number(arg(args, 1)?)?);
    let l = need_loop(k, var)?;
    need_serial(&l)?;
    need_still(&l)?;
    let bounds = loop_bounds(k);
    let mut opaque = Opaque::default();
    let n = opaque.int(&l.extent, &bounds).ok_or("the extent is not integer arithmetic")?;
    let (o, i) = (format!("{var}.o"), format!("{var}.i"));
    need_free(k, &[&o, &i])?;
    let outer = opaque.restore(&n.ceil_div(f, &bounds));
    let inner = match n.rem(f, &bounds).as_const() {
        Some(0) => Expr::from(f),
        _ => (l.extent.clone() - Expr::var(&o) * f).min_with(&f.into()),
    };
    let index = Expr::var(&o) * f + Expr::var(&i);
    let mut told = false;
    let body = replace_loop(&k.body, var, &mut |l| {
        let renamed = rename_vars(&l.body, &HashMap::from([(var, index.clone())]));
        // Where blocks were told apart already, their number is the outer variable.
        let body = map_exprs(&renamed, &|e| {
            e.rewrite(&|n| match &**n {
                Node::Binary(Binary::Div, x, by) if *x == index && by.as_int() == Some(f) => {
                    Some(Expr::var(&o))
                }
                Node::Binary(Binary::Rem, x, by) if *x == index && by.as_int() == Some(f) => {
                    Some(Expr::var(&i))
                }
                _ => None,
            })
        });
        told |= body != renamed;
        let inner = For { var: i.as_str().into(), extent: inner.clone(), body, ..l.clone() };
        let body = vec![Stmt::For(Arc::new(inner))];
        vec![Stmt::For(Arc::new(For { var: o.as_str().into(), extent: outer.clone(), body, ..l.clone() }))]
    });
    let after = Kernel { body: body.expect("found above"), ..k.clone() };
    // Where iterations of a block all pick one element, none of them may be run: that no loop says then.
    if told {
        check(&after).map_err(|e| e.to_string())?;
    }
    Ok(after)
}
