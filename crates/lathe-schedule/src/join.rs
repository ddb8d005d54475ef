//! `join A B`: the bodies of two loops with equal extents one after the other in one loop `A`. What stands between them
//! moves in front of `A`, so it must not touch what `A` writes. What one loop writes and the other touches must be picked
//! by the loop variable, so that an iteration only meets its own. `A` is spatial; `B` may be a reduction.

use crate::lanes::pick;
use crate::util::{accesses, arg, edit_list, is_loop, need_loop, touched};
use crate::{Primitive, Tag};
use lathe_ir::Bounds;
use lathe_ir::tensor::{Expr, For, Iter, Kernel, Stmt, loop_bounds, rename_vars};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static JOIN: Primitive = Primitive {
    name: "join",
    doc: "join A B: the bodies of the later loop B and of A in one loop A",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// Whether the variable picks the element in one common dimension of all accesses.
pub(crate) fn picked(accesses: &[(Vec<Expr>, bool)], var: &str, b: &Bounds) -> bool {
    let rank = accesses.first().map_or(0, |(i, _)| i.len());
    (0..rank).any(|d| {
        let mut each = accesses.iter().map(|(i, _)| pick(&i[d], var, b).map(|(c, _)| c));
        let first = each.next().flatten();
        first.is_some() && each.all(|c| c == first)
    })
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (a, b) = (arg(args, 0)?, arg(args, 1)?);
    let (la, lb) = (need_loop(k, a)?, need_loop(k, b)?);
    let bounds = loop_bounds(k);
    if la.extent.simplify_index(&bounds) != lb.extent.simplify_index(&bounds) {
        return Err(format!("extents differ: {} and {}", la.extent, lb.extent));
    }
    if la.iter != Iter::Spatial || !matches!(lb.iter, Iter::Spatial | Iter::Reduce) {
        return Err("the first loop must be spatial, the second spatial or a reduction".into());
    }
    let second = rename_vars(&lb.body, &HashMap::from([(b, Expr::var(a))]));
    let written: Vec<_> = touched(&la.body, true).into_iter().chain(touched(&second, true)).collect();
    for n in written {
        let (x, y) = (accesses(&la.body, &n), accesses(&second, &n));
        if x.is_empty() || y.is_empty() || is_local(&la.body, &n) || is_local(&second, &n) {
            continue;
        }
        let all: Vec<_> = x.into_iter().chain(y).collect();
        if !picked(&all, a, &bounds) {
            return Err(format!("an iteration of one loop touches elements of '{n}' of another's"));
        }
    }
    let body = edit_list(&k.body, &|s| is_loop(s, a), &mut |list, i| {
        let j = list.iter().position(|s| is_loop(s, b)).filter(|j| *j > i);
        let Some(j) = j else { return Err(format!("'{b}' does not follow '{a}' in one list")) };
        let between = &list[i + 1..j];
        let (writes, all) = (touched(&la.body, true), touched(&la.body, false));
        if touched(between, false).iter().any(|n| writes.contains(n))
            || touched(between, true).iter().any(|n| all.contains(n))
        {
            return Err(format!("a statement between '{a}' and '{b}' touches what '{a}' does"));
        }
        let mut out = [&list[..i], between].concat();
        let body = [la.body.as_slice(), &second].concat();
        out.push(Stmt::For(Arc::new(For { body, iter: lb.iter, ..(*la).clone() })));
        out.extend_from_slice(&list[j + 1..]);
        Ok(out)
    })?;
    Ok(Kernel { body: body.ok_or("the loop is not in a plain list")?, ..k.clone() })
}

/// Whether the buffer is allocated inside these statements.
pub(crate) fn is_local(body: &[Stmt], name: &str) -> bool {
    let mut local = false;
    lathe_ir::tensor::for_each(body, &mut |s| local |= matches!(s, Stmt::Alloc(b) if &*b.name == name));
    local
}
