//! `partials L`: a pass made by `online`, split into parts by the loop `L` around it, as a pass of its own for each part and one
//! over the parts' results (flash decoding: Dao et al. 2023). It is `rfactor` for a maximum and the sums that hang on it.
//!
//! A part has the state `(m, s...)` with `s = sum of g * exp(x - m)`. Two states meet in `m = max(m1, m2)` and
//! `s = s1 * exp(m1 - m) + s2 * exp(m2 - m)`, which is how the results join. That the sums are linear in `exp(x - m)`, start at
//! zero and are rescaled when `m` grows is checked here again.

use crate::join::{is_local, picked};
use crate::online::{Linear, linear_in, starts_at};
use crate::util::{accesses, arg, edit_list, inside_copies, is_loop, need_free, need_loop, touched};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Binary, Buffer, Expr, For, Iter, Kernel, Node, Opaque, REGISTER, Reducer, Stmt, Store, Unary, WORKSPACE,
    for_each, loop_bounds, map_exprs, map_stmts,
};
use lathe_ir::{Bounds, Int, Name};
use std::sync::Arc;

pub(crate) static PARTIALS: Primitive = Primitive {
    name: "partials",
    doc: "partials L: the parts L of a pass made by online, each with a maximum and sums of its own, joined at the end",
    tag: Tag::Approximates,
    apply,
    witness: None,
};

/// The one block inside nested loops.
fn innermost(s: &Stmt) -> Option<Arc<Store>> {
    match s {
        Stmt::Store(b) => Some(b.clone()),
        Stmt::For(l) => match l.body.as_slice() {
            [inner] => innermost(inner),
            _ => None,
        },
        _ => None,
    }
}

/// The buffer that a block multiplies by `exp(before - m)`.
fn rescaled(b: &Store, before: &Name, m: &Name) -> Option<Name> {
    let scalar = |n: &Name| Expr::load(n, &[]);
    let factor = (&scalar(before) - &scalar(m)).un(Unary::Exp);
    match (b.targets.as_slice(), &*b.values[0], b.reducer) {
        ([(n, i)], Node::Binary(Binary::Mul, x, f), None) => {
            (*x == Expr::load(n, i) && *f == factor).then(|| n.clone())
        }
        _ => None,
    }
}

/// Whether a statement is or holds a block that takes the maximum of `m`.
fn takes_maximum(s: &Stmt) -> Option<Name> {
    let mut found = None;
    for_each(std::slice::from_ref(s), &mut |s| {
        if let Stmt::Store(b) = s
            && b.reducer.is_some_and(|r| r.name == "max")
            && b.targets[0].1.is_empty()
        {
            found = Some(b.targets[0].0.clone());
        }
    });
    found
}

/// Whether a statement runs a block, whatever the data.
fn always(s: &Stmt, bounds: &Bounds) -> bool {
    let runs = |e: &Expr| Opaque::default().int(e, bounds).is_some_and(|n| bounds.range(&n).lo >= Some(1));
    match s {
        Stmt::Store(_) => true,
        Stmt::For(l) => runs(&l.extent) && matches!(l.body.as_slice(), [inner] if always(inner, bounds)),
        _ => false,
    }
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let var = arg(args, 0)?;
    let l = need_loop(k, var)?;
    let n = l.extent.as_int().ok_or("the number of parts is not constant")?;
    let pass = match l.body.as_slice() {
        [Stmt::For(p)] if l.iter == Iter::Scan && p.iter == Iter::Scan => p.clone(),
        _ => return Err(format!("'{var}' is no loop around one pass")),
    };

    // The maximum, the copy of it from before, the rescaled sums, and what adds to them, in this order.
    let body = &pass.body;
    let at = body.iter().position(|s| takes_maximum(s).is_some()).ok_or("the pass takes no maximum")?;
    let m = takes_maximum(&body[at]).expect("found");
    // Or a part is left without a maximum, and what hangs on it is no number.
    if !always(&body[at], &loop_bounds(k)) {
        return Err(format!("a part may be left without a '{m}'"));
    }
    let mut before: Option<Name> = None;
    for s in &body[..at] {
        if let Stmt::Store(b) = s
            && b.reducer.is_none()
            && *b.values[0] == *Expr::load(&m, &[])
            && b.targets[0].1.is_empty()
        {
            before = Some(b.targets[0].0.clone());
        }
    }
    let before = before.ok_or_else(|| format!("nothing keeps '{m}' from before"))?;
    let is_rescale = |s: &&Stmt| innermost(s).is_some_and(|b| rescaled(&b, &before, &m).is_some());
    let rescales: Vec<Stmt> = body[at + 1..].iter().take_while(is_rescale).cloned().collect();
    let tail = body[at + 1 + rescales.len()..].to_vec();
    let (first, later) = (&body[..=at], std::slice::from_ref(&tail));
    let Linear { sums, weights } = linear_in(&m, &pass.var, first, later, &loop_bounds(k))?;
    let known: Vec<Name> = rescales.iter().filter_map(|s| rescaled(&*innermost(s)?, &before, &m)).collect();
    if known.len() != sums.len() || !sums.iter().all(|(s, ..)| known.contains(s)) {
        return Err("the sums are not those that are rescaled".into());
    }
    let states: Vec<Name> = std::iter::once(m.clone()).chain(known).collect();
    let head = &body[..at];
    if accesses(head, &m).len() > 1
        || states[1..].iter().chain(&weights).any(|n| !accesses(&body[..=at], n).is_empty())
    {
        return Err("the sums are used before they are rescaled".into());
    }
    let bounds = loop_bounds(k);
    for b in touched(&l.body, true) {
        let own = states.contains(&b) || is_local(&l.body, &b);
        if !own && !picked(&accesses(&l.body, &b), var, &bounds) {
            return Err(format!("a part touches elements of '{b}' of another's"));
        }
    }

    // The same pass over accumulators of the part's own.
    let own = |n: &Name| -> Name { format!("{n}.v").into() };
    let names: Vec<String> = states.iter().map(|n| own(n).to_string()).chain([format!("{var}.c2")]).collect();
    need_free(k, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let indexed = |part: &Expr, i: &[Expr]| [std::slice::from_ref(part), i].concat();
    let part = Expr::var(var);
    let privately = |e: &Expr| {
        e.rewrite(&|e| match &**e {
            Node::Load(n, i) if states.contains(n) => Some(Expr::load(&own(n), &indexed(&part, i))),
            _ => None,
        })
    };
    let inner = map_stmts(&map_exprs(&l.body, &privately), &mut |s| match &s {
        Stmt::Store(b) => {
            let target = |(n, i): &(Name, Vec<Expr>)| match states.contains(n) {
                true => (own(n), indexed(&part, i)),
                false => (n.clone(), i.clone()),
            };
            vec![Stmt::Store(Arc::new(Store {
                targets: b.targets.iter().map(target).collect(),
                ..(**b).clone()
            }))]
        }
        _ => vec![s],
    });

    let (mut allocs, mut starts, mut joins, mut taken) = (vec![], vec![], vec![], vec![]);
    let other = Expr::var(&format!("{var}.c2"));
    let theirs = Expr::load(&own(&m), std::slice::from_ref(&other));
    let load_m = Expr::load(&m, &[]);
    for name in &states {
        let b = k.buffer(name).ok_or_else(|| format!("there is no buffer '{name}'"))?;
        let shape: Vec<Int> = std::iter::once(Int::from(n)).chain(b.shape.iter().cloned()).collect();
        allocs.push(Stmt::Alloc(Arc::new(Buffer::dense(&own(name), b.dtype, &shape, WORKSPACE))));
    }
    let mut copy = |axes: &[Arc<For>], s: Stmt| inside_copies(k, axes, s, &mut taken);
    let named = |s: &Stmt, suffix: &str| {
        map_stmts(std::slice::from_ref(s), &mut |s| match &s {
            Stmt::Store(b) => {
                let name = format!("{}.{suffix}", b.name).into();
                vec![Stmt::Store(Arc::new(Store { name, ..(**b).clone() }))]
            }
            _ => vec![s],
        })
    };
    // Joining: the copy from before, the larger maximum, the rescaling, and the part's sums on the new scale.
    let kept: Vec<Stmt> = head
        .iter()
        .filter(|s| matches!(s, Stmt::Alloc(b) if b.name == before))
        .map(|_| {
            Stmt::Alloc(Arc::new(Buffer::dense(&format!("{before}.c"), lathe_ir::DType::F32, &[], REGISTER)))
        })
        .collect();
    if kept.len() != 1 {
        return Err(format!("'{before}' is not the pass's own"));
    }
    let kept_name: Name = format!("{before}.c").into();
    joins.extend(kept);
    joins.push(Stmt::store(&format!("{before}.c.s"), &kept_name, &[], load_m.clone()));
    joins.push(Stmt::Store(Arc::new(Store {
        name: format!("{m}.join").into(),
        targets: vec![(m.clone(), vec![])],
        values: vec![theirs.clone()],
        reducer: Reducer::named("max"),
    })));
    for s in &rescales {
        let mut axes = vec![];
        let mut inner = s.clone();
        while let Stmt::For(f) = &inner {
            axes.push(f.clone());
            let next = f.body[0].clone();
            inner = next;
        }
        let inner = named(&inner, "join").remove(0);
        let inner = map_exprs(&[inner], &|e| {
            e.rewrite(&|e| (*e == Expr::load(&before, &[])).then(|| Expr::load(&kept_name, &[])))
        });
        joins.push(copy(&axes, inner[0].clone()));
    }
    for (name, index, axes) in &sums {
        let value = &Expr::load(&own(name), &indexed(&other, index)) * &(&theirs - &load_m).un(Unary::Exp);
        joins.push(copy(axes, Stmt::reduce(&format!("{name}.join"), name, index, "sum", value)));
        let zero = Stmt::store(&format!("{name}.v.z"), &own(name), &indexed(&part, index), Expr::f32(0.0));
        starts.push(copy(axes, zero));
    }
    let body = edit_list(&k.body, &|s| is_loop(s, var), &mut |list, i| {
        let given = &list[..i];
        let mut first = None;
        for_each(given, &mut |s| {
            if let Stmt::Store(b) = s
                && b.targets[0].0 == m
            {
                first = Some(b.values[0].clone());
            }
        });
        let finite = starts_at(k, &m, &l.body, given, &f64::is_finite);
        let Some(first) = first.filter(|_| finite) else {
            return Err(format!("'{m}' does not start at a finite number"));
        };
        if let Some((n, ..)) = sums.iter().find(|(n, ..)| !starts_at(k, n, &l.body, given, &|v| v == 0.0)) {
            return Err(format!("'{n}' does not start at zero"));
        }
        let start = Stmt::store(&format!("{m}.v.z"), &own(&m), std::slice::from_ref(&part), first);
        let each = [&[start], starts.as_slice(), inner.as_slice()].concat();
        let parts = Stmt::For(Arc::new(For { iter: Iter::Spatial, body: each, ..(*l).clone() }));
        let var = format!("{var}.c2").into();
        let all = Stmt::For(Arc::new(For { var, iter: Iter::Scan, body: joins.clone(), ..(*l).clone() }));
        Ok([given, allocs.as_slice(), &[parts, all], &list[i + 1..]].concat())
    })?;
    Ok(Kernel { body: body.ok_or("the loop is not in a plain list")?, ..k.clone() })
}
