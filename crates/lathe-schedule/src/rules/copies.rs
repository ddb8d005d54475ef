//! Changes of layout: the fields' outermost loops run over the same blocks of rows, so one parallel loop serves all.

use super::LANES;
use super::product::move_to;
use crate::lanes::lane;
use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::{For, Iter, Node, Stmt, find_loop, loop_bounds};
use std::sync::Arc;

pub(super) fn apply(s: &mut Schedule) -> Result<(), ScheduleError> {
    let loops: Vec<Arc<For>> = s
        .kernel()
        .body
        .iter()
        .filter_map(|s| match s {
            Stmt::For(l) => Some(l.clone()),
            _ => None,
        })
        .collect();
    let same = |l: &Arc<For>| l.iter == Iter::Spatial && l.extent == loops[0].extent;
    if loops.len() == s.kernel().body.len() && loops.iter().all(same) {
        for l in &loops[1..] {
            s.step(&format!("join {} {}", loops[0].var, l.var))?;
        }
    }
    Ok(())
}

/// Whether an operator is a filling, and a copy into it.
pub(super) fn fills(s: &Schedule, p: &str) -> bool {
    find_loop(&s.kernel().body, &format!("{p}_f0")).is_some()
}

/// Nests one behind the other, as of a filling and a copy into it: one nest as far as their loops are equal.
pub(super) fn beside(s: &mut Schedule) -> Result<(), ScheduleError> {
    let mut body = s.kernel().body.clone();
    while let [Stmt::For(a), Stmt::For(b)] = body.as_slice()
        && a.iter == Iter::Spatial
        && b.iter == Iter::Spatial
        && a.extent == b.extent
    {
        let mut t = s.clone();
        if t.step(&format!("join {} {}", a.var, b.var)).is_err() {
            break;
        }
        *s = t;
        let Some(l) = find_loop(&s.kernel().body, &a.var) else { break };
        body = l.body.clone();
    }
    Ok(())
}

/// Exchanges of axes: where a copy writes along one axis and reads along another, it runs in squares of both, so that a line
/// of the cache is used up before it goes.
pub(super) fn squares(s: &mut Schedule) -> Result<(), ScheduleError> {
    let k = s.kernel();
    let (mut loops, mut body) = (vec![], k.body.as_slice());
    while let [Stmt::For(l)] = body {
        loops.push(l.clone());
        body = &l.body;
    }
    let ([.., last], [Stmt::Store(b)]) = (loops.as_slice(), body) else { return Ok(()) };
    let (Some(Node::Load(from, i)), [(to, j)]) = (b.values.first().map(|v| &**v), b.targets.as_slice())
    else {
        return Ok(());
    };
    let bounds = loop_bounds(k);
    let steps = |n: &str, i: &[_], l: &For| {
        k.buffer(n).is_some_and(|b| lane(&b, i, &l.var, &bounds).is_some_and(|s| s.stride == b.dtype.bits()))
    };
    let long = |l: &For| l.extent.as_int().is_some_and(|n| n >= LANES);
    let other = loops.iter().find(|l| steps(from, i, l) && l.var != last.var && long(l));
    let (Some(q), true) = (other, steps(to, j, last) && b.reducer.is_none() && long(last)) else {
        return Ok(());
    };
    let (q, last) = (q.var.clone(), last.var.clone());
    s.step(&format!("split {q} {LANES}"))?;
    s.step(&format!("split {last} {LANES}"))?;
    move_to(s, &format!("{q}.i"), &format!("{last}.i"))
}
