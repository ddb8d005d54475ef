//! Branches, loops, sequences and optionals: decided while reading, with regions run where a number must be known.

use super::{Row, one, row};
use crate::build::{axis, constant, number};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Val, empty};
use lathe_ir::Elements;

/// Iterations of a loop that is told no number.
const MOST: i64 = 1 << 24;

fn branch(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let yes = r.trace.int(n.tensor(0)?)? != 0;
    r.inner(n.graph(if yes { "then_branch" } else { "else_branch" })?, n.scope, vec![])
}

/// Tensors as values of this run, so that each iteration reads as the one before and is compiled once.
fn settled(r: &mut Reader<'_>, items: Vec<Item>) -> Read<Vec<Item>> {
    let each = |i: Item| match i {
        Item::Tensor(v) => Ok(Item::Tensor(r.trace.settled(&v)?)),
        other => Ok(other),
    };
    items.into_iter().map(each).collect()
}

fn loop_(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let body = n.graph("body")?;
    let most = n.optional(0)?.map(|v| r.trace.int(v)).transpose()?.unwrap_or(MOST);
    let mut goes_on = n.optional(1)?.map(|v| r.trace.int(v)).transpose()?.is_none_or(|c| c != 0);
    let carried = n.inputs.len().saturating_sub(2);
    let mut state: Vec<Item> = (2..n.inputs.len()).map(|i| n.item(i).cloned()).collect::<Read<_>>()?;
    let mut scanned: Vec<Vec<Val>> = vec![vec![]; body.output.len().saturating_sub(carried + 1)];
    let mut i = 0;
    while goes_on && i < most {
        let at = constant(Elem::I64, &[], &Elements::Ints(vec![i.into()]));
        let at = r.trace.settled(&at)?;
        let on = r.trace.settled(&number(1.0, Elem::Bool))?;
        let mut args = vec![at.into(), on.into()];
        args.extend(settled(r, state)?);
        let mut out = r.inner(body, n.scope, args)?.into_iter();
        let Some(condition) = out.next() else {
            return Err(Fault::invalid("a loop's body gives no condition"));
        };
        goes_on = r.trace.int(condition.tensor()?)? != 0;
        let mut rest: Vec<Item> = out.collect();
        if rest.len() < carried {
            return Err(Fault::invalid("a loop's body gives fewer values than it takes"));
        }
        let found = rest.split_off(carried);
        let found = settled(r, found)?;
        state = rest;
        for (all, v) in scanned.iter_mut().zip(found) {
            all.push(v.tensor()?.clone());
        }
        i += 1;
    }
    for (k, all) in scanned.iter().enumerate() {
        state.push(if all.is_empty() {
            none_of(body, carried + 1 + k)?
        } else {
            r.trace.stack(all, 0)?.into()
        });
    }
    Ok(state)
}

/// What no iteration gave: a tensor without elements, of the declared type.
fn none_of(body: &crate::proto::Graph, at: usize) -> Read<Item> {
    let ty = body.output.get(at).and_then(|o| o.r#type.as_ref()).and_then(|t| t.tensor_type.as_ref());
    let ty = ty.ok_or_else(|| Fault::invalid("a loop's result has no type"))?;
    let dims =
        ty.shape.as_ref().map(|s| s.dim.iter().map(|d| d.dim_value.unwrap_or(0).max(0) as usize).collect());
    let shape = [vec![0], dims.unwrap_or_default()].concat();
    Ok(empty(Elem::of_code(ty.elem_type.into())?, &shape).into())
}

fn scan(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    if n.opset < 9 {
        return scan_8(r, n);
    }
    let args: Vec<Item> = (0..n.inputs.len()).map(|i| n.item(i).cloned()).collect::<Read<_>>()?;
    scanned(r, n, args, true)
}

/// A scan of the first kind: over the second axis, for each position of the first.
fn scan_8(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let args: Vec<Item> = (1..n.inputs.len()).map(|i| n.item(i).cloned()).collect::<Read<_>>()?;
    let batch = args.first().map(|a| a.tensor()?.extent(0)).transpose()?.unwrap_or(0);
    let mut parts: Vec<Vec<Val>> = vec![];
    for b in 0..batch {
        let mut own = vec![];
        for a in &args {
            own.push(r.trace.pick(a.tensor()?, 0, b)?.into());
        }
        for (i, v) in scanned(r, n, own, false)?.into_iter().enumerate() {
            if parts.len() <= i {
                parts.push(vec![]);
            }
            parts[i].push(v.tensor()?.clone());
        }
    }
    parts.iter().map(|p| r.trace.stack(p, 0).map(Item::from)).collect()
}

fn scanned(r: &mut Reader<'_>, n: &Node<'_>, args: Vec<Item>, axes: bool) -> Read<Vec<Item>> {
    let body = n.graph("body")?;
    let over = n.int("num_scan_inputs", 1).max(0) as usize;
    let carried =
        args.len().checked_sub(over).ok_or_else(|| Fault::invalid("a scan over more than it is given"))?;
    let (mut state, inputs) = (args[..carried].to_vec(), &args[carried..]);
    let listed =
        |name: &str, i: usize| if axes { n.ints(name).and_then(|v| v.get(i)).copied() } else { None };
    let directions = |name: &str, i: usize| n.ints(name).and_then(|v| v.get(i)).copied().unwrap_or(0) == 1;
    let mut along = vec![];
    for (i, x) in inputs.iter().enumerate() {
        along.push(axis(listed("scan_input_axes", i).unwrap_or(0), x.tensor()?.rank())?);
    }
    let backward = if axes { "scan_input_directions" } else { "directions" };
    let steps = inputs.first().map(|x| x.tensor()?.extent(along[0])).transpose()?.unwrap_or(0);
    let results = body.output.len().saturating_sub(carried);
    let mut all: Vec<Vec<Val>> = vec![vec![]; results];
    for k in 0..steps {
        let mut own = settled(r, state)?;
        for (i, x) in inputs.iter().enumerate() {
            let at = if directions(backward, i) { steps - 1 - k } else { k };
            let part = r.trace.pick(x.tensor()?, along[i], at)?;
            own.push(r.trace.settled(&part)?.into());
        }
        let mut out = r.inner(body, n.scope, own)?;
        if out.len() < carried {
            return Err(Fault::invalid("a scan's body gives fewer values than it takes"));
        }
        let found = out.split_off(carried);
        let found = settled(r, found)?;
        state = out;
        for (all, v) in all.iter_mut().zip(found) {
            all.push(v.tensor()?.clone());
        }
    }
    for (i, mut parts) in all.into_iter().enumerate() {
        if directions("scan_output_directions", i) {
            parts.reverse();
        }
        let Some(first) = parts.first() else {
            state.push(none_of(body, carried + i)?);
            continue;
        };
        let d = axis(listed("scan_output_axes", i).unwrap_or(0), first.rank() + 1)?;
        state.push(r.trace.stack(&parts, d)?.into());
    }
    Ok(state)
}

/// The items of a sequence.
fn sequence<'n>(n: &'n Node<'_>, i: usize) -> Read<&'n [Item]> {
    match n.item(i)? {
        Item::Sequence(v) => Ok(v),
        Item::Optional(Some(b)) => match &**b {
            Item::Sequence(v) => Ok(v),
            _ => Err(Fault::invalid("a sequence was expected")),
        },
        _ => Err(Fault::invalid("a sequence was expected")),
    }
}

/// A place in a sequence, counted from the end where it is negative.
fn place(r: &mut Reader<'_>, n: &Node<'_>, i: usize, len: usize, default: usize) -> Read<usize> {
    let Some(v) = n.optional(i)? else { return Ok(default) };
    let at = r.trace.int(v)?;
    let found = usize::try_from(if at < 0 { at + len as i64 } else { at }).ok();
    found.filter(|p| *p <= len).ok_or_else(|| Fault::invalid(format!("there is no place {at} of {len}")))
}

fn split(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let d = axis(n.int("axis", 0), x.rank())?;
    let m = x.shape()[d];
    let mut keep = true;
    let sizes = match n.optional(1)? {
        Some(v) if v.rank() == 0 => {
            let each = r.trace.int(v)?.max(1) as usize;
            (0..m.div_ceil(each)).map(|i| each.min(m - i * each)).collect()
        }
        Some(v) => r.trace.ints(v)?.into_iter().map(|s| s.max(0) as usize).collect(),
        None => {
            keep = n.int("keepdims", 1) == 1;
            vec![1; m]
        }
    };
    if sizes.iter().sum::<usize>() != m {
        return Err(Fault::invalid("the parts are not the whole"));
    }
    let (mut out, mut first) = (vec![], 0);
    for s in sizes {
        let part = if keep { r.trace.cut(x, d, first, s, 1)? } else { r.trace.pick(x, d, first as usize)? };
        out.push(part.into());
        first += s as i64;
    }
    Ok(vec![Item::Sequence(out)])
}

fn map(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let body = n.graph("body")?;
    let len = sequence(n, 0)?.len();
    let mut out: Vec<Vec<Item>> = vec![vec![]; body.output.len()];
    for k in 0..len {
        let mut args = vec![];
        for i in 0..n.inputs.len() {
            args.push(match n.item(i)? {
                Item::Sequence(v) => {
                    v.get(k).cloned().ok_or_else(|| Fault::invalid("the sequences differ in length"))?
                }
                other => other.clone(),
            });
        }
        let args = settled(r, args)?;
        for (all, v) in out.iter_mut().zip(r.inner(body, n.scope, args)?) {
            all.push(v);
        }
    }
    Ok(out.into_iter().map(Item::Sequence).collect())
}

fn truth(c: bool) -> Read<Vec<Item>> {
    one(number(f64::from(u8::from(c)), Elem::Bool))
}

pub(super) const ROWS: &[Row] = &[
    row("If", 1, branch),
    row("Loop", 1, loop_),
    row("Scan", 8, scan),
    row("SequenceConstruct", 11, |_, n| {
        let all = (0..n.inputs.len()).map(|i| n.item(i).cloned()).collect::<Read<_>>()?;
        Ok(vec![Item::Sequence(all)])
    }),
    row("SequenceEmpty", 11, |_, _| Ok(vec![Item::Sequence(vec![])])),
    row("SequenceLength", 11, |_, n| {
        one(constant(Elem::I64, &[], &Elements::Ints(vec![sequence(n, 0)?.len() as i128])))
    }),
    row("SequenceAt", 11, |r, n| {
        let items = sequence(n, 0)?;
        let at = place(r, n, 1, items.len(), 0)?;
        let item = items.get(at).cloned();
        Ok(vec![item.ok_or_else(|| Fault::invalid("a place behind the sequence's end"))?])
    }),
    row("SequenceInsert", 11, |r, n| {
        let mut items = sequence(n, 0)?.to_vec();
        let at = place(r, n, 2, items.len(), items.len())?;
        items.insert(at, n.item(1)?.clone());
        Ok(vec![Item::Sequence(items)])
    }),
    row("SequenceErase", 11, |r, n| {
        let mut items = sequence(n, 0)?.to_vec();
        let at = place(r, n, 1, items.len(), items.len().saturating_sub(1))?;
        if at >= items.len() {
            return Err(Fault::invalid("a place behind the sequence's end"));
        }
        items.remove(at);
        Ok(vec![Item::Sequence(items)])
    }),
    row("SequenceMap", 17, map),
    row("SplitToSequence", 11, split),
    row("ConcatFromSequence", 11, |r, n| {
        let parts: Vec<Val> = sequence(n, 0)?.iter().map(|i| i.tensor().cloned()).collect::<Read<_>>()?;
        let rank = parts.first().map_or(0, Val::rank);
        let new = n.int("new_axis", 0) == 1;
        let d = axis(n.int("axis", 0), rank + usize::from(new))?;
        one(if new { r.trace.stack(&parts, d)? } else { r.trace.concat(&parts, d)? })
    }),
    row("Optional", 15, |_, n| {
        Ok(vec![Item::Optional(if n.has(0) { Some(Box::new(n.item(0)?.clone())) } else { None })])
    }),
    row("OptionalHasElement", 15, |_, n| truth(n.has(0) && !matches!(n.item(0)?, Item::Optional(None)))),
    row("OptionalGetElement", 15, |_, n| match n.item(0)? {
        Item::Optional(Some(v)) => Ok(vec![(**v).clone()]),
        Item::Optional(None) => Err(Fault::invalid("an optional without element")),
        other => Ok(vec![other.clone()]),
    }),
];
