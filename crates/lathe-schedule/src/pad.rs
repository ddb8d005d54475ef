//! `pad L`: a block loop (made by `split`) that is shorter in the last block runs its full length there too. Buffers
//! indexed by it must go on to a whole block: the step declares that of the parameters, and whoever allocates them keeps
//! the promise. What is written there is never looked at, so the loop is spatial, and only the outermost dimension has
//! room behind it; a temporary must hold a whole block as it is.

use crate::join::is_local;
use crate::util::{accesses, arg, in_family, need_loop, runs_at_least, touched};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Access, Binary, Expr, Fact, For, Iter, Kernel, Node, Opaque, Stmt, apart, expr_type, find_loop, for_each,
    loop_bounds, map_stmts,
};
use lathe_ir::{Bounds, Int, Name};
use std::sync::Arc;

pub(crate) static PAD: Primitive = Primitive {
    name: "pad",
    doc: "pad L: full blocks always, over buffers padded to whole blocks",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// The block's size in an extent `min(n - f * o, f)`.
pub(crate) fn block(e: &Expr) -> Option<i64> {
    match &**e {
        Node::Int(v, _) => Some(*v),
        Node::Binary(Binary::Min, _, f) => f.as_int(),
        _ => None,
    }
}

/// Whether computing an expression may trap on elements that nobody wrote: on a divisor, or on a place of a table that `picked`
/// says they decide.
pub(crate) fn may_trap(k: &Kernel, e: &Expr, picked: &dyn Fn(&Expr) -> bool) -> bool {
    match &**e {
        Node::Binary(Binary::Div | Binary::Rem, _, by) => {
            let t = expr_type(e, &|n| k.buffer(n).map(|b| b.dtype));
            !t.is_some_and(|t| t.is_float()) && by.as_int().is_none_or(|n| n <= 0)
        }
        Node::Table(_, _, i) => picked(i),
        _ => false,
    }
}

/// A place where a loop's variable picks elements: buffer, dimension, index.
pub(crate) type Use = (Name, usize, Expr);

/// Where the variables of a family appear in indices, simplified, and whether any appears in an index of an index.
pub(crate) fn uses(k: &Kernel, family: &str) -> (Vec<Use>, bool) {
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
                i.visit(&mut |e| nested |= matches!(&**e, Node::Load(_, j) if j.iter().any(mention)));
                uses.push((n.clone(), d, i));
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

/// The kernel with the promise that these dimensions of its parameters are stored padded to a multiple, unless padding would lie in
/// another view of what is written.
pub(crate) fn promise(k: &Kernel, uses: &[Use], multiple: i64) -> Result<Kernel, String> {
    let mut out = k.clone();
    for v in out.params.iter_mut().flat_map(|p| &mut p.views) {
        for (n, d, _) in uses {
            let fact = Fact::Padded(*d, multiple);
            if *n != v.name || v.facts.contains(&fact) {
                continue;
            }
            if v.pads_otherwise(*d, multiple) {
                return Err(format!("'{n}' has room for other blocks already"));
            }
            v.facts.push(fact);
        }
    }
    let bounds = loop_bounds(k);
    for p in out.params.iter().filter(|p| p.access != Access::In) {
        for (i, v) in p.views.iter().enumerate() {
            if let Some(other) = p.views[..i].iter().find(|other| !apart(other, v, &bounds)) {
                return Err(format!("'{}' and '{}' have no room for padding", other.name, v.name));
            }
        }
    }
    Ok(out)
}

/// Whether the first iteration of a shorter last block that is left out, and so each behind it, is behind the end of a parameter's
/// outermost dimension. `family` is that of the block's loop.
fn ends_with(k: &Kernel, buffer: &str, index: &Expr, family: &str) -> bool {
    let bounds = loop_bounds(k);
    let mut loops = vec![];
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s
            && in_family(&l.var, family)
            && index.mentions(&l.var)
        {
            loops.push(l.clone());
        }
    });
    let [l] = loops.as_slice() else { return false };
    // Where blocks are always whole, nothing is left out.
    let Node::Binary(Binary::Min, left, _) = &*l.extent else { return true };
    let end = |o: &mut Opaque, by: &Expr| o.int(&index.substitute(&l.var, by), &bounds);
    let mut o = Opaque::default();
    let ends = (end(&mut o, left), end(&mut o, &(left.clone() + 1)), k.buffer(buffer));
    let (Some(at), Some(next), Some(b)) = ends else { return false };
    let over = at.clone() - b.shape[0].clone();
    (next - at).as_const() == Some(1) && bounds.range(&over).lo.is_some_and(|lo| lo >= 0)
}

/// Whether the places that a loop picks are a block of `f` that starts at a multiple of `f`, so that they are in what is padded to
/// one where its first place is there.
fn in_one_block(k: &Kernel, index: &Expr, family: &str, f: i64) -> bool {
    let bounds = loop_bounds(k);
    let mut variable = None;
    index.visit(&mut |e| {
        if let Node::Var(v) = &**e
            && in_family(v, family)
        {
            variable = Some(v.clone());
        }
    });
    let Some(v) = variable else { return true };
    let mut o = Opaque::default();
    let mut at = |i: i64| o.int(&index.substitute(&v, &i.into()), &bounds);
    let (Some(first), Some(second)) = (at(0), at(1)) else { return false };
    (second - first.clone()).as_const() == Some(1) && first.rem(f, &bounds).as_const() == Some(0)
}

/// Whether elements are chosen, by a condition on what is picked, that may not be there where the condition is another: a place that is not
/// picked itself, and not known to be inside.
fn may_be_outside(k: &Kernel, e: &Expr, picked: &dyn Fn(&Expr) -> bool, bounds: &Bounds) -> bool {
    let Node::Select(c, x, y) = &**e else { return false };
    let inside = |i: &Expr, n: &Int| {
        let at = Opaque::default().int(i, bounds);
        at.is_some_and(|at| {
            let left = n.clone() - 1 - at.clone();
            [at, left].iter().all(|d| bounds.range(d).lo.is_some_and(|lo| lo >= 0))
        })
    };
    let mut outside = false;
    for branch in [x, y].into_iter().filter(|_| picked(c)) {
        branch.visit(&mut |e| {
            if let Node::Load(n, index) = &**e {
                let shape = k.buffer(n).map_or(vec![], |b| b.shape);
                outside |= index.iter().zip(&shape).any(|(i, d)| !picked(i) && !inside(i, d));
            }
        });
    }
    outside
}

/// Whether a temporary is made outside of a loop that an extent names: a later block finds there what an earlier one left.
fn outlives(body: &[Stmt], temporary: &str, extent: &Expr) -> bool {
    if body.iter().any(|s| matches!(s, Stmt::Alloc(b) if &*b.name == temporary)) {
        let mut inside = false;
        for_each(body, &mut |s| inside |= matches!(s, Stmt::For(l) if extent.mentions(&l.var)));
        return inside;
    }
    body.iter().any(|s| match s {
        Stmt::For(l) => outlives(&l.body, temporary, extent),
        Stmt::If(_, body) | Stmt::Intrinsic(_, body) => outlives(body, temporary, extent),
        _ => false,
    })
}

/// Whether all who touch a temporary pick its elements along a dimension by loops that are as long: then nobody meets what lies behind.
fn ends_with_block(k: &Kernel, temporary: &str, dim: usize, extent: &Expr) -> bool {
    accesses(&k.body, temporary).iter().all(|(index, _)| match index.get(dim).map(|e| &**e) {
        Some(Node::Var(v)) => find_loop(&k.body, v).is_some_and(|l| l.extent == *extent),
        _ => false,
    })
}

/// What outlives an iteration of a loop, and is written in one and perhaps read in another.
fn met(k: &Kernel, l: &For) -> Option<Name> {
    touched(&l.body, true).into_iter().filter(|n| !is_local(&l.body, n)).find(|n| {
        let all = accesses(&l.body, n);
        let alike = |d: usize| {
            let own = &all[0].0[d];
            own.mentions(&l.var) && all.iter().all(|(i, _)| i[d] == *own)
        };
        let apart = all.iter().all(|(_, writes)| *writes) || (0..all[0].0.len()).any(alike);
        // The padding of one view may be another one.
        let views = |m: &Name| k.params.iter().position(|p| p.views.iter().any(|v| v.name == *m));
        let beside = |m: &Name| m != n && views(m).is_some() && views(m) == views(n);
        !apart || touched(&l.body, false).iter().any(beside)
    })
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let var = arg(args, 0)?;
    let l = need_loop(k, var)?;
    let f = block(&l.extent).filter(|f| *f > 0).ok_or("the extent is not that of a block")?;
    if !runs_at_least(k, &l, 1) {
        return Err(format!("'{var}' may have no iteration at all"));
    }
    let mut other = None;
    for_each(&k.body, &mut |s| {
        if let Stmt::For(c) = s
            && in_family(&c.var, var)
            && c.extent != l.extent
        {
            other = Some(c.var.clone());
        }
    });
    if let Some(c) = other {
        return Err(format!("'{c}' is not as long as '{var}'"));
    }
    // Blocks are whole afterwards, and indices are what they are then.
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if in_family(&l.var, var) => {
            vec![Stmt::For(Arc::new(For { extent: f.into(), ..(**l).clone() }))]
        }
        _ => vec![s],
    });
    let padded = Kernel { body, ..k.clone() };
    let (uses, nested) = uses(&padded, var);
    if nested {
        return Err(format!("'{var}' picks an index out of a buffer, whose padding means nothing"));
    }
    let written = touched(&k.body, true);
    for (n, d, i) in &uses {
        if k.views().any(|b| b.name == *n) {
            if *d > 0 {
                return Err(format!("dimension {d} of '{n}' has no room behind it"));
            }
            if !in_one_block(k, i, var, f) {
                return Err(format!("a block of '{n}' does not begin where a padded one does"));
            }
            if written.contains(n) && !ends_with(k, n, i, var) {
                return Err(format!("the iterations behind the end would write elements of '{n}'"));
            }
        } else {
            let size = k.buffer(n).and_then(|b| b.shape.get(*d)?.as_const());
            if !matches!(**i, Node::Var(_)) || size < Some(f) {
                return Err(format!("the temporary '{n}' does not hold a whole block"));
            }
            if written.contains(n) && outlives(&k.body, n, &l.extent) {
                return Err(format!("other blocks see what is behind the end in '{n}'"));
            }
            let whole = l.extent.as_int() == Some(f) || ends_with_block(k, n, *d, &l.extent);
            if written.contains(n) && !whole {
                return Err(format!("others see what is behind the end in '{n}'"));
            }
        }
    }
    let mention = |e: &Expr| {
        let mut hit = false;
        e.visit(&mut |e| hit |= matches!(&**e, Node::Var(v) if in_family(v, var)));
        hit
    };
    let bounds = loop_bounds(k);
    let (mut decides, mut traps, mut kind, mut fixed, mut shared) = (false, false, None, None, None);
    for_each(&k.body, &mut |s| match s {
        Stmt::For(l) => {
            decides |= mention(&l.extent);
            if in_family(&l.var, var) {
                kind = kind.take().or_else(|| (l.iter != Iter::Spatial).then(|| l.var.clone()));
                shared = shared.take().or_else(|| met(k, l));
                let mut own = vec![];
                for_each(&l.body, &mut |s| match s {
                    Stmt::Alloc(b) => own.push(b.name.clone()),
                    Stmt::Store(b) => {
                        let picks = |e: &Expr| mention(&e.simplify_index(&bounds));
                        let same = b.targets.iter().find(|(n, i)| !own.contains(n) && !i.iter().any(picks));
                        fixed = fixed.take().or(same.map(|t| t.0.clone()));
                    }
                    _ => {}
                });
                // What an iteration computes picks nothing: behind the end that may be any number.
                let written = touched(&l.body, true);
                let computed = |e: &Expr| written.iter().any(|n| e.loads(n));
                for_each(&l.body, &mut |s| match s {
                    Stmt::For(inner) => decides |= computed(&inner.extent),
                    Stmt::If(c, _) => decides |= computed(c),
                    Stmt::Store(b) => {
                        decides |= b.targets.iter().any(|(_, i)| i.iter().any(computed));
                        let mut look = |e: &Expr| {
                            traps |= may_trap(k, e, &mention);
                            decides |= may_be_outside(k, e, &mention, &bounds);
                            decides |= matches!(&**e, Node::Load(_, i) if i.iter().any(computed));
                        };
                        b.values.iter().for_each(|v| v.visit(&mut look));
                    }
                    _ => {}
                });
            }
        }
        Stmt::If(c, _) => decides |= mention(c),
        _ => {}
    });
    if let Some(l) = kind {
        return Err(format!("'{l}' is not spatial: what lies behind the end would count"));
    }
    if let Some(n) = fixed.filter(|_| l.extent.as_int() != Some(f)) {
        return Err(format!("the iterations behind the end would write elements of '{n}'"));
    }
    if let Some(n) = shared.filter(|_| l.extent.as_int() != Some(f)) {
        return Err(format!("the iterations behind the end would touch elements of '{n}' of others"));
    }
    if decides {
        return Err(format!("'{var}' decides what is run or touched"));
    }
    if traps {
        return Err(format!("an integer is divided inside '{var}', perhaps by what lies behind the end"));
    }
    // Blocks that are whole as they are need no room.
    if l.extent.as_int() == Some(f) { Ok(padded) } else { promise(&padded, &uses, f) }
}
