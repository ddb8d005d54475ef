//! Reductions over axes, and along one.

use super::{Row, one, row};
use crate::build::axis;
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::ops::shape::axes_of;
use crate::trace::{Read, Trace, Val};
use lathe_ir::graph::Attr;

/// The axes that a node reduces over; `None` where it reduces over none.
fn axes(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Option<Vec<usize>>> {
    let rank = n.tensor(0)?.rank();
    let found = axes_of(r, n, 1, rank)?.filter(|a| !a.is_empty());
    Ok(match found {
        Some(a) => Some(a),
        None if n.int("noop_with_empty_axes", 0) == 1 => None,
        None => Some((0..rank).collect()),
    })
}

/// `after(sum of before(x))`.
fn reduced(
    r: &mut Reader<'_>,
    n: &Node<'_>,
    op: &str,
    before: fn(&mut Trace<'_>, &Val) -> Read<Val>,
    after: fn(&mut Trace<'_>, &Val) -> Read<Val>,
) -> Read<Vec<Item>> {
    let over = axes(r, n)?;
    let t = &mut r.trace;
    let x = before(t, n.tensor(0)?)?;
    let y = match over {
        Some(over) => t.reduce(op, &x, &over, n.int("keepdims", 1) == 1)?,
        None => x,
    };
    one(after(t, &y)?)
}

fn same(_: &mut Trace<'_>, x: &Val) -> Read<Val> {
    Ok(x.clone())
}

fn square(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    t.mul(x, x)
}

fn log(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    t.un("log", x)
}

fn root(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    if x.elem().is_float() {
        return t.un("sqrt", x);
    }
    let y = t.cast(x, Elem::F64)?;
    let y = t.un("sqrt", &y)?;
    t.cast(&y, x.elem())
}

/// The place of the largest element along an axis, or of the smallest; the first among equals, or the last.
pub fn arg(t: &mut Trace<'_>, x: &Val, axis: usize, least: bool, last: bool) -> Read<Val> {
    let n = x.extent(axis)?;
    if n == 0 {
        return Err(Fault::invalid("the place of the largest of nothing"));
    }
    let mut x = x.clone();
    if least {
        x = if x.elem().is_float() { t.un("neg", &x)? } else { t.un("not", &x)? };
    }
    if last {
        x = t.flip(&x, axis)?;
    }
    let at = t.op("argmax", &[&x], &[("axis", Attr::Int(axis as i64))], Elem::I32)?;
    let at = t.cast(&at, Elem::I64)?;
    if last { t.of("sub", n as f64 - 1.0, &at) } else { Ok(at) }
}

fn arg_node(r: &mut Reader<'_>, n: &Node<'_>, least: bool) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let d = axis(n.int("axis", 0), x.rank())?;
    let y = arg(&mut r.trace, x, d, least, n.int("select_last_index", 0) == 1)?;
    one(if n.int("keepdims", 1) == 1 { r.trace.unsqueeze(&y, d)? } else { y })
}

/// Each element with all before it; those behind it where `reverse`, itself not where `exclusive`.
fn cumulative(r: &mut Reader<'_>, n: &Node<'_>, by: &str, identity: f64) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let d = axis(t.int(n.tensor(1)?)?, x.rank())?;
    let reverse = n.int("reverse", 0) == 1;
    let mut y = if reverse { t.flip(x, d)? } else { x.clone() };
    if n.int("exclusive", 0) == 1 {
        let (mut low, mut high) = (vec![0; x.rank()], vec![0; x.rank()]);
        (low[d], high[d]) = (1, -1);
        y = t.pad(&y, &low, &high, identity)?;
    }
    if !y.is_empty() {
        let attrs = [("axis", Attr::Int(d as i64)), ("by", Attr::Str(by.into()))];
        y = t.op("cumulate", &[&y], &attrs, x.elem())?;
    }
    one(if reverse { t.flip(&y, d)? } else { y })
}

fn softmax(r: &mut Reader<'_>, n: &Node<'_>, log: bool) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    if x.rank() == 0 {
        return one(t.softmax(x, &[], log)?);
    }
    if n.opset < 13 {
        let d = axis(n.int("axis", 1), x.rank())?;
        return one(t.softmax(x, &(d..x.rank()).collect::<Vec<_>>(), log)?);
    }
    let d = axis(n.int("axis", -1), x.rank())?;
    one(t.softmax(x, &[d], log)?)
}

pub(super) const ROWS: &[Row] = &[
    row("ReduceSum", 1, |r, n| reduced(r, n, "sum", same, same)),
    row("ReduceProd", 1, |r, n| reduced(r, n, "product", same, same)),
    row("ReduceMax", 1, |r, n| reduced(r, n, "maximum", same, same)),
    row("ReduceMin", 1, |r, n| reduced(r, n, "minimum", same, same)),
    row("ReduceSumSquare", 1, |r, n| reduced(r, n, "sum", square, same)),
    row("ReduceL1", 1, |r, n| reduced(r, n, "sum", |t, x| t.un("abs", x), same)),
    row("ReduceL2", 1, |r, n| reduced(r, n, "sum", square, root)),
    row("ReduceLogSum", 1, |r, n| reduced(r, n, "sum", same, log)),
    row("ReduceLogSumExp", 1, |r, n| {
        let (over, t) = (axes(r, n)?, &mut r.trace);
        let x = n.tensor(0)?;
        let Some(over) = over else { return one(x.clone()) };
        let keep = n.int("keepdims", 1) == 1;
        if x.is_empty() {
            let y = t.reduce("sum", x, &over, keep)?;
            return one(t.un("log", &y)?);
        }
        // Below the largest, so that no exponential is too large.
        let most = t.reduce("maximum", x, &over, true)?;
        let e = t.sub(x, &most)?;
        let e = t.un("exp", &e)?;
        let sum = t.reduce("sum", &e, &over, true)?;
        let sum = t.un("log", &sum)?;
        let y = t.add(&sum, &most)?;
        let shape: Vec<usize> =
            (0..x.rank()).filter(|d| keep || !over.contains(d)).map(|d| y.shape()[d]).collect();
        one(t.reshape(&y, &shape)?)
    }),
    row("ReduceMean", 1, |r, n| {
        let over = axes(r, n)?;
        let x = n.tensor(0)?;
        let Some(over) = over else { return one(x.clone()) };
        one(r.trace.mean(x, &over, n.int("keepdims", 1) == 1)?)
    }),
    row("ArgMax", 1, |r, n| arg_node(r, n, false)),
    row("ArgMin", 1, |r, n| arg_node(r, n, true)),
    row("CumSum", 11, |r, n| cumulative(r, n, "sum", 0.0)),
    row("CumProd", 1, |r, n| cumulative(r, n, "product", 1.0)),
    row("Softmax", 1, |r, n| softmax(r, n, false)),
    row("LogSoftmax", 1, |r, n| softmax(r, n, true)),
    row("LpNormalization", 1, |r, n| {
        let (x, t) = (n.tensor(0)?, &mut r.trace);
        let d = axis(n.int("axis", -1), x.rank())?;
        let size = match n.int("p", 2) {
            1 => {
                let size = t.un("abs", x)?;
                t.reduce("sum", &size, &[d], true)?
            }
            2 => {
                let size = t.mul(x, x)?;
                let size = t.reduce("sum", &size, &[d], true)?;
                t.un("sqrt", &size)?
            }
            p => return Err(Fault::unsupported(format!("the norm of order {p}"))),
        };
        let none = t.with("eq", &size, 0.0)?;
        let one_ = crate::build::number(1.0, x.elem());
        let safe = t.select(&none, &one_, &size)?;
        one(t.div(x, &safe)?)
    }),
];
