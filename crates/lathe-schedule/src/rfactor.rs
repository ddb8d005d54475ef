//! `rfactor L`: a reduction over the loops `K` and, inside it, `L` into one accumulator becomes a reduction over `K` into
//! an accumulator for each iteration of `L`, and a second reduction over those. Where `L` is shorter in some iterations of `K`, as the
//! last block of a loop that was split is, there are as many accumulators as it may have. Each loop runs once at least: the second
//! reduction touches the accumulator in any case.

use crate::util::{arg, edit_list, need_free, need_loop, runs_at_least};
use crate::{Primitive, Tag};
use lathe_ir::Name;
use lathe_ir::tensor::{
    Buffer, Expr, For, Iter, Kernel, Law, Opaque, Stmt, Store, expr_type, for_each, loop_bounds, map_stmts,
};
use std::sync::Arc;

pub(crate) static RFACTOR: Primitive = Primitive {
    name: "rfactor",
    doc: "rfactor L: one accumulator for each iteration of the inner reduce loop L, combined at the end",
    tag: Tag::Reassociates,
    witness: None,
    apply,
};

fn holds(s: &Stmt, var: &str) -> Option<Arc<For>> {
    match s {
        Stmt::For(k) if k.iter == Iter::Reduce => match k.body.as_slice() {
            [Stmt::For(l)] if &*l.var == var => Some(k.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// The one block of a body, inside nothing but reduce loops.
pub(crate) fn one_block(body: &[Stmt]) -> Option<Arc<Store>> {
    match body {
        [Stmt::Store(b)] => Some(b.clone()),
        [Stmt::For(l)] if l.iter == Iter::Reduce => one_block(&l.body),
        _ => None,
    }
}

/// The most iterations that a loop has.
fn most(k: &Kernel, l: &For) -> Option<i64> {
    let bounds = loop_bounds(k);
    let n = Opaque::default().int(&l.extent, &bounds)?;
    bounds.range(&n).hi
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let var = arg(args, 0)?;
    let l = need_loop(k, var)?;
    let Some(b) = one_block(&l.body) else {
        return Err(format!("the body of '{var}' is not one block, perhaps inside further reduce loops"));
    };
    let Some(r) = b.reducer.filter(|r| l.iter == Iter::Reduce && r.law == Law::Commutative) else {
        return Err(format!("'{var}' is not a reduction in any order"));
    };
    let n = most(k, &l).ok_or("the extent has no constant bound")?;
    let (mut inner_vars, mut idle): (Vec<Name>, _) =
        (vec![], (!runs_at_least(k, &l, 1)).then(|| l.var.clone()));
    for_each(&l.body, &mut |s| {
        if let Stmt::For(f) = s {
            inner_vars.push(f.var.clone());
            idle = idle.take().or_else(|| (!runs_at_least(k, f, 1)).then(|| f.var.clone()));
        }
    });
    if let Some(l) = idle {
        return Err(format!("'{l}' may have no iteration, and nothing is summed"));
    }
    let picks = |e: &Expr| e.mentions(var) || inner_vars.iter().any(|v| e.mentions(v));
    if b.targets.iter().any(|(_, i)| i.iter().any(picks)) {
        return Err("the accumulator is picked by the loop".into());
    }
    let types: Vec<_> = b
        .values
        .iter()
        .map(|v| expr_type(v, &|n| k.buffer(n).map(|b| b.dtype)))
        .collect::<Option<_>>()
        .ok_or("an ill-typed value")?;
    let wide: Vec<Name> = b.targets.iter().map(|(t, _)| format!("{t}.v").into()).collect();
    for n in wide.iter().map(|n| n.to_string()).chain(["c1", "c2"].map(|c| format!("{var}.{c}"))) {
        need_free(k, &[&n])?;
    }
    let body = edit_list(&k.body, &|s| holds(s, var).is_some(), &mut |list, i| {
        let outer = holds(&list[i], var).expect("found");
        if b.targets.iter().any(|(_, i)| i.iter().any(|e| e.mentions(&outer.var))) {
            return Err(format!("the accumulator is picked by '{}'", outer.var));
        }
        if !runs_at_least(k, &outer, 1) {
            return Err(format!("'{}' may have no iteration, and nothing is summed", outer.var));
        }
        let mut out = list[..i].to_vec();
        for (w, t) in wide.iter().zip(&types) {
            out.push(Stmt::Alloc(Arc::new(Buffer::dense(w, *t, &[n.into()], lathe_ir::tensor::REGISTER))));
        }
        let targets = |v: &str| wide.iter().map(|w| (w.clone(), vec![Expr::var(v)])).collect::<Vec<_>>();
        let copy = |suffix: &str, iter: Iter, s: Store| {
            let v = format!("{var}.{suffix}");
            Stmt::For(Arc::new(For {
                var: v.as_str().into(),
                iter,
                extent: n.into(),
                body: vec![Stmt::Store(Arc::new(s))],
                ..(*l).clone()
            }))
        };
        let (cz, cr) = (format!("{var}.c1"), format!("{var}.c2"));
        out.push(copy(
            "c1",
            Iter::Spatial,
            Store {
                name: format!("{}.z", b.name).into(),
                targets: targets(&cz),
                values: r.identity(&types),
                reducer: None,
            },
        ));
        let part = Stmt::Store(Arc::new(Store { targets: targets(var), ..(*b).clone() }));
        let body = map_stmts(&l.body, &mut |s| {
            if matches!(s, Stmt::Store(_)) { vec![part.clone()] } else { vec![s] }
        });
        let inner = For { iter: Iter::Spatial, body, ..(*l).clone() };
        out.push(Stmt::For(Arc::new(For { body: vec![Stmt::For(Arc::new(inner))], ..(*outer).clone() })));
        let values = wide.iter().map(|w| Expr::load(w, &[Expr::var(&cr)])).collect();
        out.push(copy(
            "c2",
            Iter::Reduce,
            Store {
                name: format!("{}.r", b.name).into(),
                targets: b.targets.clone(),
                values,
                reducer: Some(r),
            },
        ));
        out.extend_from_slice(&list[i + 1..]);
        Ok(out)
    })?;
    Ok(Kernel {
        body: body.ok_or_else(|| format!("'{var}' is not the whole body of a reduce loop"))?,
        ..k.clone()
    })
}
