//! Operators that work row by row: one loop over rows for all of them, temporaries of one row, vectors inside a row.

use super::product::extent;
use super::{FEW, LANES, contract_where_picked, sweep, temporaries, windows};
use crate::lanes::{Lane, lane, of_pairs, pairs};
use crate::{Schedule, ScheduleError};
use lathe_ir::graph::Form;
use lathe_ir::tensor::{
    Access, Binary, Buffer, Expr, For, Iter, Kernel, LANE, Node, Param, SERIAL, Stmt, Store, expr_type,
    find_loop, for_each, loop_bounds,
};
use lathe_ir::{DType, Name};
use std::sync::Arc;

/// Bytes of a result that no cache has room for: those of the machines measured end at 32 MiB.
const PAST_CACHES: i64 = 32 << 20;

/// Bytes of a result that the second caches of two cores hold, or nearly.
const OWN_CACHES: i64 = 4 << 20;

/// From so many elements on, a sum over a row has several chains side by side: each still has many terms.
const LONG: i64 = 1024;

pub(super) fn apply(s: &mut Schedule, parts: &[(Form, String)]) -> Result<(), ScheduleError> {
    in_vectors(s, parts)?;
    past_caches(s)
}

/// Results that are larger than the caches are written past them, and where a row is read more than once, the next one is asked for
/// in the last of these passes that does not write, when memory is idle: it is in the caches when the first one begins.
fn past_caches(s: &mut Schedule) -> Result<(), ScheduleError> {
    let (k, large) = (s.kernel().clone(), |b: &Buffer| bytes(b).is_some_and(|n| n > PAST_CACHES));
    let written = |n: &str| {
        let own = |p: &Param| p.access == Access::Out && p.views.iter().any(|v| &*v.name == n && large(v));
        k.params.iter().any(own)
    };
    let (mut stores, mut passes) = (vec![], vec![]);
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s
            && &*l.level == LANE
            && let [Stmt::Store(b)] = l.body.as_slice()
        {
            if b.reducer.is_none() && b.targets.iter().all(|(n, _)| written(n)) {
                stores.push(b.name.clone());
            }
            let of = |v: &&Buffer| b.values.iter().any(|e| e.loads(&v.name));
            passes
                .extend(k.views().filter(|v| large(v)).filter(of).map(|v| (v.name.clone(), b.name.clone())));
        }
    });
    if stores.is_empty() {
        return Ok(());
    }
    if let [Stmt::For(rows)] = k.body.as_slice() {
        for v in k.views() {
            let of: Vec<_> = passes.iter().filter(|(n, _)| *n == v.name).collect();
            let last = of.iter().rfind(|(_, pass)| !stores.contains(pass));
            if let (Some((_, pass)), true) = (last, of.len() > 1) {
                // A row that is not known beforehand is not asked for.
                let mut asked = s.clone();
                if asked.step(&format!("prefetch {} {} {pass}", rows.var, v.name)).is_ok() {
                    *s = asked;
                }
            }
        }
    }
    stores.sort();
    stores.dedup();
    stores.iter().try_for_each(|b| s.step(&format!("nontemporal {b}")))
}

/// Bytes of a buffer of constant extents.
fn bytes(b: &Buffer) -> Option<i64> {
    b.shape.iter().try_fold(b.dtype.bits() / 8, |n, d| n.checked_mul(d.as_const()?))
}

fn in_vectors(s: &mut Schedule, parts: &[(Form, String)]) -> Result<(), ScheduleError> {
    if parts.iter().all(|(f, _)| *f == Form::Elementwise) && axes(s, &parts[0].1) > 2 && alike(s, parts) {
        return elementwise(s, parts);
    }
    let row = |p: &str| format!("{p}_0");
    let first = row(&parts[0].1);
    for (_, p) in &parts[1..] {
        s.step(&format!("join {first} {}", row(p)))?;
    }
    more_rows(s, parts)?;
    for t in temporaries(s.kernel()) {
        s.step(&format!("contract {t}"))?;
    }
    if let [(_, p)] = parts {
        blocks_as_rows(s, p);
    }
    vectorize_inner(s)
}

/// Where one operator does few rows in several passes over their blocks, as `encode` does, it does all of a block at once: then blocks
/// are what cores share.
pub(super) fn blocks_as_rows(s: &mut Schedule, p: &str) {
    let row = find_loop(&s.kernel().body, &format!("{p}_0"));
    let Some(row) = row.filter(|l| extent(l).is_some_and(|n| n < FEW)) else { return };
    let passes: Vec<Arc<For>> =
        row.body.iter().filter_map(|s| if let Stmt::For(l) = s { Some(l.clone()) } else { None }).collect();
    let arrays: Vec<Name> = row
        .body
        .iter()
        .filter_map(|s| if let Stmt::Alloc(b) = s { Some(b.name.clone()) } else { None })
        .collect();
    let [first, rest @ ..] = passes.as_slice() else { return };
    let of_blocks = passes.iter().any(|l| l.body.iter().any(|s| matches!(s, Stmt::For(_))));
    if !of_blocks || rest.is_empty() || extent(first).is_none_or(|n| n < 1) {
        return;
    }
    let mut t = s.clone();
    let mut together = || {
        for l in rest {
            let parts = extent(l)? / extent(first)?;
            let mut pass = l.var.to_string();
            if parts > 1 {
                t.step(&format!("split {pass} {parts}")).ok()?;
                pass += ".o";
            }
            t.step(&format!("join {} {pass}", first.var)).ok()?;
        }
        arrays.iter().try_for_each(|b| t.step(&format!("contract {b}")).ok())
    };
    if together().is_some() {
        *s = t;
    }
}

/// Where there are few rows, the next axes are rows too, as far as all operators have them around what they do: all cores have something
/// to do, and temporaries are short.
fn more_rows(s: &mut Schedule, parts: &[(Form, String)]) -> Result<(), ScheduleError> {
    let mut rows = 1;
    for d in 0.. {
        // Of one operator, how many iterations there are around further loops.
        let around = |p: &str| {
            let l = find_loop(&s.kernel().body, &format!("{p}_{d}"))?;
            let inside = l.body.iter().any(|s| matches!(s, Stmt::For(_)));
            extent(&l).filter(|_| inside && l.iter == Iter::Spatial)
        };
        let first = &parts[0].1;
        let Some(n) = around(first).filter(|n| d == 0 || parts.iter().all(|(_, p)| around(p) == Some(*n)))
        else {
            return Ok(());
        };
        if d > 0 {
            let mut t = s.clone();
            for (_, p) in &parts[1..] {
                if t.step(&format!("join {first}_{d} {p}_{d}")).is_err() {
                    return Ok(());
                }
            }
            *s = t;
        }
        rows *= n;
        if rows >= FEW {
            return Ok(());
        }
    }
    Ok(())
}

/// Number of loops of an operator that are named by its axes.
fn axes(s: &Schedule, p: &str) -> usize {
    (0..).take_while(|d| find_loop(&s.kernel().body, &format!("{p}_{d}")).is_some()).count()
}

/// Whether operators run over the same axes of constant extents.
fn alike(s: &Schedule, parts: &[(Form, String)]) -> bool {
    let extents = |p: &str| -> Vec<Option<i64>> {
        let one = |d| find_loop(&s.kernel().body, &format!("{p}_{d}"))?.extent.as_int();
        (0..axes(s, p)).map(one).collect()
    };
    let first = extents(&parts[0].1);
    first.iter().all(Option::is_some) && parts.iter().all(|(_, p)| extents(p) == first)
}

/// The loops of operators over the same axes become one nest, down to the axis `most`; temporaries keep what is left.
pub(super) fn join_axes(
    s: &mut Schedule,
    parts: &[(Form, String)],
    most: usize,
) -> Result<(), ScheduleError> {
    let [(_, first), rest @ ..] = parts else { return Ok(()) };
    if rest.is_empty() {
        return Ok(());
    }
    for d in 0..axes(s, first).min(most) {
        for (_, p) in rest {
            s.step(&format!("join {first}_{d} {p}_{d}"))?;
        }
    }
    let made = temporaries(s.kernel());
    contract_where_picked(s, &made);
    Ok(())
}

/// Elementwise operators over several axes, one nest. The last axes are one where all arguments lie along them and the axes before
/// give all cores something to do: then all operators do a vector at a time, and nothing on the way leaves the registers.
fn elementwise(s: &mut Schedule, parts: &[(Form, String)]) -> Result<(), ScheduleError> {
    let (first, rank) = (&parts[0].1, axes(s, &parts[0].1));
    let extents: Vec<i64> = (0..rank)
        .map(|d| find_loop(&s.kernel().body, &format!("{first}_{d}")).and_then(|l| extent(&l)).unwrap_or(1))
        .collect();
    let (mut together, mut depth, mut last) = (s.clone(), rank - 1, format!("{}", rank - 1));
    while extents[..depth - 1].iter().product::<i64>() >= FEW && extents[depth - 1..].iter().all(|n| *n > 1) {
        let mut t = together.clone();
        for (_, p) in parts {
            t.step(&format!("fuse {p}_{} {p}_{last}", depth - 1))?;
        }
        if !innermost(t.kernel()).iter().all(|l| suits(t.kernel(), l, false)) {
            break;
        }
        (together, depth, last) = (t, depth - 1, format!("{}.f", depth - 1));
    }
    let along = innermost(together.kernel()).iter().all(|l| suits(together.kernel(), l, false));
    if !along || !stays_in_vectors(s.kernel()) {
        join_axes(s, parts, rank - 1)?;
        return vectorize_inner(s);
    }
    join_axes(s, parts, rank)?;
    let mut inner = format!("{first}_{}", rank - 1);
    for d in (depth..rank - 1).rev() {
        s.step(&format!("fuse {first}_{d} {inner}"))?;
        inner = format!("{first}_{d}.f");
    }
    let rest = extents[depth..].iter().product::<i64>() % LANES > 0;
    if rest {
        s.step(&format!("peel {inner} {LANES}"))?;
    }
    s.step(&format!("split {inner} {LANES}"))?;
    let loops = [Some((format!("{inner}.i"), "")), rest.then(|| (format!("{inner}.p"), " masked"))];
    for (l, masked) in loops.into_iter().flatten() {
        if parts.len() > 1 {
            s.step(&format!("sink {l}"))?;
            windows::align(s)?;
        }
        s.step(&format!("vectorize {l}{masked}"))?;
    }
    // Of the planes of one image that the cores' own caches hold, each core does a part, as sums of products over the channels do, between
    // which several operators without weights stand.
    let (all, places) = (extents.iter().product::<i64>(), extents[depth..].iter().product::<i64>() / LANES);
    let planes = rank == 4 && depth == 2 && extents[0] == 1 && places >= FEW && 4 * all <= OWN_CACHES;
    if planes && !rest && parts.len() > 1 {
        sweep(s, &format!("{first}_1"), &format!("{inner}.o"))?;
    }
    Ok(())
}

/// Whether all that a kernel computes is arithmetic of vectors of f32: nothing of it is done lane by lane, in memory.
fn stays_in_vectors(k: &Kernel) -> bool {
    use Binary::{Add, Div, Max, Min, Mul, Sub};
    use lathe_ir::tensor::Unary::{Abs, Exp, Neg, Round, Tanh};
    let mut ok = true;
    for_each(&k.body, &mut |s| {
        if let Stmt::Store(b) = s {
            b.values.iter().for_each(|v| ok &= of_vectors(k, v));
        }
    });
    return ok;

    fn of_vectors(k: &Kernel, e: &Expr) -> bool {
        match &**e {
            Node::Load(n, _) => k.buffer(n).is_some_and(|b| b.dtype == DType::F32),
            Node::Float(_, t) => *t == DType::F32,
            Node::Unary(Neg | Abs | Exp | Tanh | Round, x) => of_vectors(k, x),
            Node::Binary(Add | Sub | Mul | Div | Min | Max, x, y) => of_vectors(k, x) && of_vectors(k, y),
            _ => false,
        }
    }
}

/// Vectorizes every innermost loop that suits.
pub(super) fn vectorize_inner(s: &mut Schedule) -> Result<(), ScheduleError> {
    vectorize_those(s, &|_| true)
}

/// The same of those whose variables are named so.
pub(super) fn vectorize_those(s: &mut Schedule, named: &dyn Fn(&str) -> bool) -> Result<(), ScheduleError> {
    for l in innermost(s.kernel()).into_iter().filter(|l| named(&l.var)) {
        if !suits(s.kernel(), &l, true) {
            continue;
        }
        let (v, n) = (&l.var, extent(&l).unwrap_or(0));
        // Vectors side by side: several chains of a reduction.
        let vectors = [1, 2, 4].into_iter().filter(|v| n % (v * LANES) == 0);
        let chains = if l.iter == Iter::Reduce && n >= LONG && n % (4 * LANES) == 0 { 4 } else { 1 };
        let lanes = LANES * s.choose(&format!("vectors.{v}"), vectors, chains);
        let rest = n % lanes;
        if rest > 0 {
            s.step(&format!("peel {v} {lanes}"))?;
        }
        s.step(&format!("split {v} {lanes}"))?;
        if l.iter == Iter::Reduce {
            s.step(&format!("rfactor {v}.i"))?;
        }
        s.step(&format!("vectorize {v}.i"))?;
        if rest > 0 {
            s.step(&format!("vectorize {v}.p masked"))?;
        }
    }
    Ok(())
}

fn innermost(k: &Kernel) -> Vec<Arc<For>> {
    let mut out = vec![];
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s
            && &*l.level == SERIAL
            && l.body.iter().all(|s| matches!(s, Stmt::Store(_)))
        {
            out.push(l.clone());
        }
    });
    out
}

/// Whether a loop is done in lanes: all that it touches lies along it, or is the same in all iterations, but what is computed may go
/// `anywhere`.
fn suits(k: &Kernel, l: &For, anywhere: bool) -> bool {
    if extent(l).is_none_or(|n| n < LANES) || !matches!(l.iter, Iter::Spatial | Iter::Reduce) {
        return false;
    }
    let bounds = loop_bounds(k);
    let at = |n: &str, i: &[Expr]| {
        let b = k.buffer(n)?;
        Some((lane(&b, i, &l.var, &bounds)?, b))
    };
    // Both elements of a pair are written, the second right behind the first.
    let others = |n: &str, a: &Lane, b: &Buffer| {
        let lane_of = |s: &Stmt| match s {
            Stmt::Store(s) if &*s.targets[0].0 == n => at(n, &s.targets[0].1).map(|(lane, _)| lane),
            _ => None,
        };
        l.body.windows(2).any(|w| {
            let (Some(x), Some(y)) = (lane_of(&w[0]), lane_of(&w[1])) else { return false };
            let one_of_them = [&x, &y].iter().any(|c| c.symbolic == a.symbolic);
            one_of_them && pairs(b, [&x, &y], &bounds)
        })
    };
    let along = |n: &str, i: &[Expr], store: bool| match at(n, i) {
        Some((a, b)) if a.stride == b.dtype.bits() && a.stride >= 8 => true,
        Some((a, b)) if of_pairs(&b, &a, &bounds) => !store || others(n, &a, &b),
        Some((a, _)) => a.stride == 0 && (!store || l.iter == Iter::Reduce),
        None => false,
    };
    let apart = |b: &Store| {
        let computed = b.values.iter().all(|v| !matches!(&**v, Node::Load(..)));
        let whole = |n: &str| k.buffer(n).is_some_and(|b| b.dtype.bits() >= 8);
        anywhere
            && computed
            && l.iter == Iter::Spatial
            && b.reducer.is_none()
            && b.targets.iter().all(|(n, _)| whole(n))
    };
    let of = |e: &Expr| expr_type(e, &|n| k.buffer(n).map(|b| b.dtype));
    let bits = |n: &str| k.buffer(n).map_or(64, |b| b.dtype.bits());
    let (mut ok, mut slow) = (true, false);
    for s in &l.body {
        let Stmt::Store(b) = s else { continue };
        for (n, i) in &b.targets {
            ok &= (along(n, i, true) || apart(b)) && bits(n) <= 32;
        }
        for v in &b.values {
            v.visit(&mut |e| match &**e {
                Node::Load(n, i) => ok &= along(n, i, false) && bits(n) <= 32,
                // Library calls run lane by lane anyway.
                Node::Unary(u, _) => {
                    use lathe_ir::tensor::Unary::{Atan, Cos, Log, Sin};
                    slow |= matches!(u, Sin | Cos | Log | Atan);
                }
                Node::Binary(Binary::Pow, ..) => slow = true,
                // A choice is made in lanes of 32 bits.
                Node::Select(..) => slow |= of(e).is_none_or(|t| t.bits() != 32),
                _ => {}
            });
        }
        // Lanes are combined across by these.
        let across = |r: &lathe_ir::tensor::Reducer| matches!(r.name, "sum" | "max" | "min");
        let wide = b.targets.iter().all(|(n, _)| bits(n) == 32);
        if l.iter == Iter::Reduce && !(wide && b.reducer.is_some_and(across)) {
            ok = false;
        }
    }
    ok && !slow
}
