//! `online M J...`: reductions over the same axis, one after the other, in one pass although the later ones use the
//! result of the first (Milakov and Gimelshein 2018).
//!
//! `M` computes a maximum `m`. The loops `J...` follow it in the same list; each either computes temporaries, picked by the
//! iteration, from factors `exp(x - m)`, or adds up sums that are linear in those temporaries. When `m` grows from `m0`,
//! every such sum so far is too large by `exp(m - m0)`, so each iteration first multiplies the sums by `exp(m0 - m)`.

use crate::util::{accesses, arg, copy_name, edit_list, is_loop, need_loop};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Binary, Buffer, Expr, For, Iter, Kernel, Node, REGISTER, Stmt, Store, Unary, for_each, rename_vars,
};
use lathe_ir::{DType, Name};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static ONLINE: Primitive = Primitive {
    name: "online",
    doc: "online M J...: the maximum of loop M and the sums of loops J, which use it, in one pass",
    tag: Tag::Reassociates,
    apply,
};

/// Whether an expression is a product with a factor for which `is` holds, and mentions `what` nowhere else.
fn linear(e: &Expr, is: &dyn Fn(&Expr) -> bool) -> bool {
    is(e)
        || match &**e {
            Node::Binary(Binary::Mul, a, b) => linear(a, is) || linear(b, is),
            _ => false,
        }
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (mvar, rest) = (arg(args, 0)?, &args[1..]);
    let lm = need_loop(k, mvar)?;
    let mut maximum: Option<Arc<Store>> = None;
    for_each(&lm.body, &mut |s| {
        if let Stmt::Store(b) = s
            && b.reducer.is_some_and(|r| r.name == "max")
        {
            maximum = Some(b.clone());
        }
    });
    let b = maximum.ok_or("the first loop computes no maximum")?;
    let (m, mi) = b.targets[0].clone();
    if lm.iter != Iter::Reduce || !mi.is_empty() {
        return Err("the first loop is not a reduction into one scalar".into());
    }
    let load_m = Expr::load(&m, &[]);
    let is_factor = |e: &Expr| match &**e {
        Node::Unary(Unary::Exp, d) => {
            matches!(&**d, Node::Binary(Binary::Sub, x, y) if *y == load_m && !x.loads(&m))
        }
        _ => false,
    };
    let mut weights: Vec<Name> = vec![];
    let mut sums: Vec<(Name, Vec<Expr>, Vec<Arc<For>>)> = vec![];
    let mut merged = lm.body.clone();
    let save = format!("{m}.before");
    let mut tail = vec![];
    for j in rest {
        let l = need_loop(k, j)?;
        if l.extent != lm.extent {
            return Err(format!("'{j}' runs over another axis"));
        }
        let mut bad = None;
        let mut loops_inside: Vec<Arc<For>> = vec![];
        for_each(&l.body, &mut |s| match s {
            Stmt::For(f) => loops_inside.push(f.clone()),
            Stmt::Store(s) => {
                let is_weight = |e: &Expr| matches!(&**e, Node::Load(n, _) if weights.contains(n));
                let (target, index) = &s.targets[0];
                match s.reducer {
                    None if s.values[0] == load_m || linear(&s.values[0], &is_factor) => {
                        weights.push(target.clone());
                    }
                    Some(r)
                        if r.name == "sum"
                            && (linear(&s.values[0], &is_factor) || linear(&s.values[0], &is_weight)) =>
                    {
                        let axes = loops_inside
                            .iter()
                            .filter(|f| index.iter().any(|i| i.mentions(&f.var)))
                            .cloned()
                            .collect();
                        sums.push((target.clone(), index.clone(), axes));
                    }
                    None if !s.values[0].loads(&m) && !weights.iter().any(|w| s.values[0].loads(w)) => {}
                    _ => bad = Some(s.name.clone()),
                }
            }
            _ => {}
        });
        if let Some(b) = bad {
            return Err(format!("block '{b}' is not linear in exp(x - {m})"));
        }
        tail.extend(rename_vars(&l.body, &HashMap::from([(*j, Expr::var(mvar))])));
    }
    // Rescale what was summed so far, then go on as before.
    let mut taken = vec![];
    merged.insert(0, Stmt::store(&format!("{save}.s"), &save, &[], load_m.clone()));
    merged.insert(0, Stmt::Alloc(Arc::new(Buffer::dense(&save, DType::F32, &[], REGISTER))));
    let factor = (&Expr::load(&save, &[]) - &load_m).un(Unary::Exp);
    for (name, index, axes) in &sums {
        let copies: Vec<Name> = axes.iter().map(|f| copy_name(k, &f.var, &mut taken)).collect();
        let map: HashMap<&str, Expr> = axes.iter().zip(&copies).map(|(f, c)| (&*f.var, Expr::var(c))).collect();
        let value = &Expr::load(name, index) * &factor;
        let mut body = rename_vars(&[Stmt::store(&format!("{name}.rescale"), name, index, value)], &map);
        for (f, var) in axes.iter().zip(&copies).rev() {
            body = vec![Stmt::For(Arc::new(For { var: var.clone(), iter: Iter::Spatial, body, ..(**f).clone() }))];
        }
        merged.extend(body);
    }
    merged.extend(tail);
    let body = edit_list(&k.body, &|s| is_loop(s, mvar), &mut |list, i| {
        let mut out = list[..i].to_vec();
        let mut after = vec![];
        for s in &list[i + 1..] {
            match s {
                Stmt::For(l) if rest.contains(&&*l.var) => {}
                _ => after.push(s.clone()),
            }
        }
        // Temporaries and their initial values move in front of the pass; the rest stays behind it.
        let last = list.iter().rposition(|s| matches!(s, Stmt::For(l) if rest.contains(&&*l.var))).unwrap_or(i);
        let moved = last - i - rest.len();
        let (before, behind) = after.split_at(moved);
        if before.iter().any(|s| !accesses(std::slice::from_ref(s), &m).is_empty()) {
            return Err(format!("a statement between the loops uses '{m}'"));
        }
        out.extend_from_slice(before);
        out.push(Stmt::For(Arc::new(For { iter: Iter::Scan, body: merged.clone(), ..(*lm).clone() })));
        out.extend_from_slice(behind);
        Ok(out)
    })?;
    Ok(Kernel { body: body.ok_or("the loop is not in a plain list")?, ..k.clone() })
}
