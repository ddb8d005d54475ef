//! `online M J...`: reductions over the same axis, one after the other, in one pass although the later ones use the
//! result of the first (Milakov and Gimelshein 2018).
//!
//! `M` computes a maximum `m`. The loops `J...` follow it in the same list; each either computes temporaries, picked by the
//! iteration, from factors `exp(x - m)`, or adds up sums that are linear in those temporaries. When `m` grows from `m0`,
//! every such sum so far is too large by `exp(m - m0)`, so each iteration first multiplies the sums by `exp(m0 - m)`. Sums
//! start at zero, and nothing but the sums is used after the pass. Each `x` is among those that the maximum is of, taken before it is
//! used: so no factor is more than 1 on the way.

use crate::join::{is_local, picked};
use crate::lanes::pick;
use crate::util::{
    accesses, arg, edit_list, inside_copies, is_loop, need_loop, need_serial, renamed, touched,
};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Binary, Buffer, Expr, For, Iter, Kernel, Node, REGISTER, Stmt, Store, Unary, for_each, loop_bounds,
    rename_vars,
};
use lathe_ir::{Bounds, DType, Name};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static ONLINE: Primitive = Primitive {
    name: "online",
    doc: "online M J...: the maximum of loop M and the sums of loops J, which use it, in one pass",
    tag: Tag::Approximates,
    witness: None,
    apply,
};

/// Whether an expression is a product with one factor for which `is` holds; the others mention none of `names`. It may be rounded to
/// another float.
fn linear(e: &Expr, is: &dyn Fn(&Expr) -> bool, names: &[Name]) -> bool {
    let free = |e: &Expr| !names.iter().any(|n| e.loads(n));
    is(e)
        || match &**e {
            Node::Binary(Binary::Mul, a, b) => {
                (linear(a, is, names) && free(b)) || (linear(b, is, names) && free(a))
            }
            Node::Cast(t, x) => t.is_float() && linear(x, is, names),
            _ => false,
        }
}

/// Whether all of a buffer's writes outside of some loops are one constant for which `is` holds, in the statements
/// given.
pub(crate) fn starts_at(
    k: &Kernel,
    name: &str,
    inside: &[Stmt],
    given: &[Stmt],
    is: &dyn Fn(f64) -> bool,
) -> bool {
    let writes = |body: &[Stmt]| accesses(body, name).iter().filter(|(_, w)| *w).count();
    let mut constant = false;
    for_each(given, &mut |s| {
        if let Stmt::Store(b) = s
            && b.targets.len() == 1
            && &*b.targets[0].0 == name
        {
            constant =
                b.reducer.is_none() && matches!(*b.values[0], Node::Float(v, _) if is(f64::from_bits(v)));
        }
    });
    let guarded = given.iter().any(|s| matches!(s, Stmt::If(..)) && writes(std::slice::from_ref(s)) > 0);
    constant && !guarded && writes(given) == 1 && writes(&k.body) == 1 + writes(inside)
}

/// Whether different iterations of some loops pick different elements: each variable in turn is a digit of a dimension.
fn injective(index: &[Expr], loops: &[Arc<For>], bounds: &Bounds) -> bool {
    let (mut index, mut left) = (index.to_vec(), loops.to_vec());
    while !left.is_empty() {
        let digit =
            |l: &Arc<For>| (0..index.len()).find_map(|d| Some((d, pick(&index[d], &l.var, bounds)?.1)));
        let Some((at, (d, rest))) = left.iter().enumerate().find_map(|(at, l)| Some((at, digit(l)?))) else {
            return false;
        };
        index[d] = rest;
        left.remove(at);
    }
    true
}

/// What follows a maximum `m` in one pass: temporaries with a factor `exp(x - m)`, and sums linear in them.
pub(crate) struct Linear {
    pub weights: Vec<Name>,
    /// Buffer, index, and the loops inside the pass whose variables pick the element.
    pub sums: Vec<(Name, Vec<Expr>, Vec<Arc<For>>)>,
}

/// What a maximum is of, whatever is computed: each value with the loops around it. Values that are written behind it are left out.
fn maxima(first: &[Stmt], m: &str) -> Vec<(Vec<Arc<For>>, Expr)> {
    fn blocks(body: &[Stmt], around: &[Arc<For>], found: &mut dyn FnMut(&[Arc<For>], &Store)) {
        for s in body {
            match s {
                Stmt::For(l) => blocks(&l.body, &[around, std::slice::from_ref(l)].concat(), found),
                Stmt::Store(b) => found(around, b),
                _ => {}
            }
        }
    }
    let mut out = vec![];
    for (at, s) in first.iter().enumerate() {
        let later = touched(&first[at + 1..], true);
        blocks(std::slice::from_ref(s), &[], &mut |around, b| {
            let grows = b.reducer.is_some_and(|r| r.name == "max") && b.targets.len() == 1;
            if grows && &*b.targets[0].0 == m && !later.iter().any(|n| b.values[0].loads(n)) {
                out.push((around.to_vec(), b.values[0].clone()));
            }
        });
    }
    out
}

/// Whether a maximum is of a value, in each iteration of the loops that pick it.
fn is_taken(maxima: &[(Vec<Arc<For>>, Expr)], x: &Expr, inside: &[Arc<For>]) -> bool {
    let own: Vec<Arc<For>> = inside.iter().filter(|l| x.mentions(&l.var)).cloned().collect();
    maxima.iter().any(|(around, v)| {
        let alike = around.len() == own.len() && around.iter().all(|l| v.mentions(&l.var));
        let named = |e: &Expr| renamed(e, around, &own);
        alike && around.iter().zip(&own).all(|(l, o)| named(&l.extent) == o.extent) && named(v) == *x
    })
}

/// Checks that all that statements compute from the maximum `m`, which `first` computes, are weights and sums linear in `exp(x - m)`;
/// `var` is the loop of the pass.
pub(crate) fn linear_in(
    m: &Name,
    var: &str,
    first: &[Stmt],
    bodies: &[Vec<Stmt>],
    bounds: &Bounds,
) -> Result<Linear, String> {
    let load_m = Expr::load(m, &[]);
    let changed = touched(&bodies.concat(), true);
    let mut maxima = maxima(first, m);
    maxima.retain(|(_, v)| !changed.iter().any(|n| v.loads(n)));
    // What changes while the pass goes on: the maximum, the weights and the sums.
    let mut running: Vec<Name> = vec![m.clone()];
    for_each(&bodies.concat(), &mut |s| {
        if let Stmt::Store(b) = s
            && b.reducer.is_some()
        {
            running.extend(b.targets.iter().map(|(n, _)| n.clone()));
        }
    });
    let (mut weights, mut sums): (Vec<Name>, Vec<_>) = (vec![], vec![]);
    let mut others: Vec<(Name, Name)> = vec![];
    for body in bodies {
        let mut bad = None;
        let mut untaken = None;
        let mut loops_inside: Vec<Arc<For>> = vec![];
        for_each(body, &mut |s| match s {
            Stmt::For(f) => {
                if running.iter().any(|n| f.extent.loads(n)) {
                    bad = Some(f.var.clone());
                }
                loops_inside.push(f.clone());
            }
            Stmt::If(..) => bad = Some("if".into()),
            Stmt::Store(s) => {
                let (target, index) = &s.targets[0];
                let value = &s.values[0];
                value.visit(&mut |e| {
                    if let Node::Unary(Unary::Exp, d) = &**e
                        && let Node::Binary(Binary::Sub, x, y) = &**d
                        && *y == load_m
                        && !is_taken(&maxima, x, &loops_inside)
                    {
                        untaken = Some((s.name.clone(), x.clone()));
                    }
                });
                let is_factor = |e: &Expr| match &**e {
                    Node::Unary(Unary::Exp, d) => match &**d {
                        Node::Binary(Binary::Sub, x, y) => {
                            *y == load_m && !running.iter().any(|n| x.loads(n))
                        }
                        _ => false,
                    },
                    _ => false,
                };
                let is_weight = |e: &Expr| matches!(&**e, Node::Load(n, _) if weights.contains(n));
                let is_linear = |is| linear(value, is, &running);
                if running.iter().any(|n| index.iter().any(|i| i.loads(n))) {
                    bad = Some(s.name.clone());
                }
                match s.reducer {
                    _ if s.targets.len() != 1 => bad = Some(s.name.clone()),
                    None if is_linear(&is_factor) => {
                        weights.push(target.clone());
                        running.push(target.clone());
                    }
                    Some(r)
                        if r.name == "sum"
                            && !index.iter().any(|i| i.mentions(var))
                            && (is_linear(&is_factor) || is_linear(&is_weight)) =>
                    {
                        let axes: Vec<Arc<For>> = loops_inside
                            .iter()
                            .filter(|f| index.iter().any(|i| i.mentions(&f.var)))
                            .cloned()
                            .collect();
                        // Each iteration rescales the same elements, each once, by loops that need no others around them.
                        let own = |g: &Arc<For>| axes.iter().any(|f| f.var == g.var);
                        let needs =
                            |f: &Arc<For>| loops_inside.iter().any(|g| !own(g) && f.extent.mentions(&g.var));
                        let same = !axes.iter().any(|f| f.extent.mentions(var) || needs(f))
                            && !sums.iter().any(|(n, ..): &(Name, Vec<Expr>, Vec<_>)| n == target);
                        if !same || !injective(index, &axes, bounds) {
                            bad = Some(s.name.clone());
                        }
                        sums.push((target.clone(), index.clone(), axes));
                    }
                    None if !running.iter().any(|n| value.loads(n)) => {
                        others.push((target.clone(), s.name.clone()));
                    }
                    _ => bad = Some(s.name.clone()),
                }
            }
            _ => {}
        });
        if let Some(b) = bad {
            return Err(format!("block '{b}' is not linear in exp(x - {m})"));
        }
        if let Some((b, x)) = untaken {
            return Err(format!("'{m}' is not the maximum of {x} in block '{b}'"));
        }
    }
    // What is more or less than a weight would not shrink with the weights, what is added not with the sum.
    let is_sum = |n: &Name| sums.iter().any(|(s, ..)| s == n);
    if let Some(n) = weights.iter().find(|n| *n == m || is_sum(n)) {
        return Err(format!("'{n}' is not only a factor of the sums"));
    }
    if let Some((n, block)) = others.iter().find(|(n, _)| n == m || weights.contains(n) || is_sum(n)) {
        return Err(format!("block '{block}' writes to '{n}' what is not linear in exp(x - {m})"));
    }
    Ok(Linear { weights, sums })
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
    let loops = rest.iter().map(|j| need_loop(k, j)).collect::<Result<Vec<_>, _>>()?;
    loops.iter().chain([&lm]).try_for_each(|l| need_serial(l))?;
    let mut bodies = vec![lm.body.clone()];
    for (j, l) in rest.iter().zip(&loops) {
        if l.extent != lm.extent {
            return Err(format!("'{j}' runs over another axis"));
        }
        if !matches!(l.iter, Iter::Spatial | Iter::Reduce) {
            return Err(format!("'{j}' is neither spatial nor a reduction"));
        }
        bodies.push(rename_vars(&l.body, &HashMap::from([(*j, Expr::var(mvar))])));
    }
    let load_m = Expr::load(&m, &[]);
    let Linear { weights, sums } = linear_in(&m, mvar, &bodies[0], &bodies[1..], &loop_bounds(k))?;
    let mut made = weights.iter().chain(sums.iter().map(|(n, ..)| n));
    if let Some(n) = made.find(|n| !accesses(&bodies[0], n).is_empty()) {
        return Err(format!("'{n}' is used before the maximum is known"));
    }
    // What one loop leaves for another must be the iteration's own, and the weights are nobody else's.
    let all = bodies.concat();
    let bounds = loop_bounds(k);
    for n in touched(&all, true) {
        let meet = bodies.iter().filter(|b| !accesses(b, &n).is_empty() && !is_local(b, &n)).count();
        let summed = n == m || sums.iter().any(|(s, ..)| *s == n);
        if !summed && (meet > 1 || weights.contains(&n)) && !picked(&accesses(&all, &n), mvar, &bounds) {
            return Err(format!("an iteration touches elements of '{n}' of another's"));
        }
        if weights.contains(&n) && accesses(&k.body, &n).len() != accesses(&all, &n).len() {
            return Err(format!("'{n}' is used outside of the loops, and only sums of it are whole"));
        }
    }
    let mut merged = lm.body.clone();
    let save = format!("{m}.before");
    let tail = bodies[1..].concat();
    // Rescale what was summed so far, then go on as before.
    let mut taken = vec![];
    merged.insert(0, Stmt::store(&format!("{save}.s"), &save, &[], load_m.clone()));
    merged.insert(0, Stmt::Alloc(Arc::new(Buffer::dense(&save, DType::F32, &[], REGISTER))));
    let factor = (&Expr::load(&save, &[]) - &load_m).un(Unary::Exp);
    for (name, index, axes) in &sums {
        let value = &Expr::load(name, index) * &factor;
        let rescale = Stmt::store(&format!("{name}.rescale"), name, index, value);
        merged.push(inside_copies(k, axes, rescale, &mut taken));
    }
    merged.extend(tail);
    let body = edit_list(&k.body, &|s| is_loop(s, mvar), &mut |list, i| {
        let places: Vec<usize> =
            rest.iter().filter_map(|j| list.iter().position(|s| is_loop(s, j)).filter(|p| *p > i)).collect();
        if places.len() != rest.len() || !places.is_sorted() {
            return Err(format!("the loops do not follow '{mvar}' in one list, in this order"));
        }
        let last = places.last().copied().unwrap_or(i);
        // Temporaries and their initial values move in front of the pass; the rest stays behind it.
        let mut before = list[..i].to_vec();
        for (p, s) in list.iter().enumerate().take(last).skip(i + 1).filter(|(p, _)| !places.contains(p)) {
            let earlier: Vec<Stmt> =
                (i..p).filter(|q| *q == i || places.contains(q)).map(|q| list[q].clone()).collect();
            let s = std::slice::from_ref(s);
            let (writes, uses) = (touched(&earlier, true), touched(&earlier, false));
            if touched(s, false).iter().any(|n| writes.contains(n))
                || touched(s, true).iter().any(|n| uses.contains(n))
            {
                return Err("a statement between the loops touches what a loop before it does".into());
            }
            before.extend_from_slice(s);
        }
        if !starts_at(k, &m, &all, &before, &f64::is_finite) {
            return Err(format!("'{m}' does not start at a finite number"));
        }
        if let Some((n, ..)) = sums.iter().find(|(n, ..)| !starts_at(k, n, &all, &before, &|v| v == 0.0)) {
            return Err(format!("'{n}' does not start at zero"));
        }
        let pass = Stmt::For(Arc::new(For { iter: Iter::Scan, body: merged.clone(), ..(*lm).clone() }));
        Ok([before.as_slice(), &[pass], &list[last + 1..]].concat())
    })?;
    Ok(Kernel { body: body.ok_or("the loop is not in a plain list")?, ..k.clone() })
}
