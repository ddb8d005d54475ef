//! Reductions of windows that share no factor but with their neighbours (pooling, depthwise convolutions): one window a lane,
//! along the last axis, and a few rows of windows at a time, whose sums hide each other's latency.

use super::filters::spatial;
use super::product::{extent, fuse_to, move_to};
use super::rows::vectorize_inner;
use super::{LANES, shared_evenly, sweep, temporaries};
use crate::lanes::lane;
use crate::{Schedule, ScheduleError};
use lathe_ir::graph::Form;
use lathe_ir::tensor::{For, Iter, Kernel, Node, SERIAL, Stmt, Store, find_loop, for_each, loop_bounds};
use lathe_ir::{DType, Int};
use std::sync::Arc;

/// Most rows of windows at a time.
const ROWS: i64 = 4;
/// Elements of a window, in all, that are written out.
const WRITTEN_OUT: i64 = 64;

/// The last loop of a body, where it is spatial.
fn last_spatial(body: &[Stmt]) -> Option<&Arc<For>> {
    let mut loops = body.iter().filter_map(|s| if let Stmt::For(l) = s { Some(l) } else { None });
    loops.next_back().filter(|l| l.iter == Iter::Spatial)
}

/// The spatial loops around a reduction, and its loops. Inside the outer loops, copies may stand in front.
fn nest(k: &Kernel) -> Option<(Vec<Arc<For>>, Vec<Arc<For>>)> {
    let (mut loops, mut body) = (vec![], k.body.as_slice());
    while let Some(l) = last_spatial(body).filter(|_| !loops.is_empty() || body.len() == 1) {
        (l.iter == Iter::Spatial && &*l.level == SERIAL).then_some(())?;
        extent(l)?;
        loops.push(l.clone());
        body = &l.body;
    }
    let mut sums = vec![];
    let mut found = body.iter().filter_map(|s| if let Stmt::For(l) = s { Some(l.clone()) } else { None });
    let (mut next, None) = (Some(found.next()?), found.next()) else { return None };
    while let Some(l) = next {
        (l.iter == Iter::Reduce && &*l.level == SERIAL && extent(&l).is_some()).then_some(())?;
        next = match l.body.as_slice() {
            [Stmt::For(inner)] => Some(inner.clone()),
            [Stmt::Store(_)] => None,
            _ => return None,
        };
        sums.push(l);
    }
    Some((loops, sums))
}

/// Whether every block computes in f32, with stores along the loop.
fn suits(k: &Kernel, n: &For) -> bool {
    let bounds = loop_bounds(k);
    let mut ok = true;
    let block = |b: &Store| {
        let along = |(name, i): &(lathe_ir::Name, Vec<_>)| {
            let Some(b) = k.buffer(name) else { return false };
            let stride = lane(&b, i, &n.var, &bounds).map(|l| l.stride);
            b.dtype == DType::F32 && (b.shape.is_empty() || stride == Some(32))
        };
        let single = |v: &lathe_ir::tensor::Expr| {
            let mut ok = true;
            v.visit(&mut |e| {
                if let Node::Load(name, i) = &**e {
                    // Neighbours are near each other.
                    let b = k.buffer(name);
                    let l = b.as_ref().and_then(|b| lane(b, i, &n.var, &bounds));
                    ok &= b.is_some_and(|b| b.dtype == DType::F32) && l.is_some_and(|l| l.stride <= 4 * 32);
                }
            });
            ok
        };
        b.targets.iter().all(along) && b.values.iter().all(single)
    };
    for_each(&n.body, &mut |s| match s {
        Stmt::Store(b) => ok &= block(b),
        Stmt::For(_) | Stmt::Alloc(_) => {}
        _ => ok = false,
    });
    ok
}

/// Windows over what is padded here: a channel at a time is filled, copied and reduced, in a temporary that is near.
pub(super) fn padded(s: &mut Schedule, parts: &[(Form, String)]) -> Result<(), ScheduleError> {
    let (pad, first) = (&parts[0].1, &parts[1].1);
    for d in 0..2 {
        for (_, p) in parts {
            s.step(&format!("join {pad}_f{d} {p}_{d}"))?;
        }
    }
    let inner = (2..).take_while(|d| find_loop(&s.kernel().body, &format!("{first}_{d}")).is_some());
    for d in inner.collect::<Vec<_>>() {
        for (_, p) in &parts[2..] {
            s.step(&format!("join {first}_{d} {p}_{d}"))?;
        }
    }
    for t in temporaries(s.kernel()) {
        s.step(&format!("contract {t}"))?;
    }
    apply(s)?;
    vectorize_inner(s)
}

/// Gives rows of temporaries room for whole vectors.
pub(super) fn align(s: &mut Schedule) -> Result<(), ScheduleError> {
    let mut short = vec![];
    for_each(&s.kernel().body, &mut |s| {
        if let Stmt::Alloc(b) = s
            && b.shape.last().and_then(Int::as_const).is_some_and(|n| n % LANES != 0)
        {
            short.push(b.name.clone());
        }
    });
    short.iter().try_for_each(|t| s.step(&format!("align {t} {LANES}")))
}

/// Schedules windows; `false` where the nest is of another kind.
pub(super) fn apply(s: &mut Schedule) -> Result<bool, ScheduleError> {
    let Some((loops, sums)) = nest(s.kernel()) else { return Ok(false) };
    let ([.., n], Some(columns)) = (loops.as_slice(), loops.last().and_then(|n| extent(n))) else {
        return Ok(false);
    };
    // A long sum of few is better summed in lanes.
    let long = sums.last().and_then(|l| extent(l)).is_some_and(|k| k >= LANES && columns < LANES);
    if columns < 4 || long || !suits(s.kernel(), n) {
        return Ok(false);
    }
    let var = n.var.to_string();
    let rows = match loops.as_slice() {
        [.., m, _] => {
            let e = extent(m).unwrap_or(1);
            let whole: Vec<i64> = (1..=2 * ROWS).filter(|r| e % r == 0).collect();
            let rule = whole.iter().rev().find(|r| **r <= ROWS).copied().unwrap_or(1);
            let r = s.choose("rows", whole, rule);
            (r > 1).then(|| (m.var.to_string(), r))
        }
        _ => None,
    };
    s.step(&format!("split {var} {LANES}"))?;
    let lane = format!("{var}.i");
    let row = match rows {
        Some((m, r)) => {
            s.step(&format!("split {m} {r}"))?;
            move_to(s, &format!("{m}.i"), &lane)?;
            Some(format!("{m}.i"))
        }
        None => None,
    };
    s.step(&format!("sink {lane}"))?;
    if let Some(row) = &row {
        s.step(&format!("sink {row} {lane}"))?;
    }
    align(s)?;
    s.step(&format!("vectorize {lane} masked"))?;
    if let Some(row) = &row {
        s.step(&format!("unroll {row}"))?;
    }
    let mut out = 1;
    for l in sums.iter().rev() {
        out *= extent(l).unwrap_or(WRITTEN_OUT);
        if out >= WRITTEN_OUT {
            break;
        }
        s.step(&format!("unroll {}", l.var))?;
    }
    let nest = spatial(&s.kernel().body);
    match (nest.as_slice(), loops.as_slice()) {
        ([_, channels, rows, _], [image, _, _, _])
            if extent(image) == Some(1)
                && find_loop(&s.kernel().body, rows).and_then(|l| extent(&l)).is_some_and(shared_evenly) =>
        {
            sweep(s, channels, rows)?;
        }
        _ => fuse_to(s, &format!("{var}.o"))?,
    }
    Ok(true)
}
