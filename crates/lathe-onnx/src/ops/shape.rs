//! Shapes and places: what moves elements and computes nothing.

use super::{Row, all, one, row};
use crate::build::{axis, constant, number, vector};
use crate::elem::{Array, Elem};
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Val, broadcast};
use lathe_ir::{Elements, Tensor};

/// Axes of an attribute, or of an argument as later sets have it.
pub fn axes_of(r: &mut Reader<'_>, n: &Node<'_>, at: usize, rank: usize) -> Read<Option<Vec<usize>>> {
    let list = match n.ints("axes") {
        Some(v) => Some(v.to_vec()),
        None => n.optional(at)?.cloned().map(|v| r.trace.ints(&v)).transpose()?,
    };
    list.map(|v| v.into_iter().map(|d| axis(d, rank)).collect()).transpose()
}

fn reshape(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let spec = match n.ints("shape") {
        Some(v) if n.opset < 5 => v.to_vec(),
        _ => r.trace.ints(n.tensor(1)?)?,
    };
    let zero_is_zero = n.int("allowzero", 0) == 1;
    let mut shape = vec![];
    let mut rest = None;
    for (i, s) in spec.iter().enumerate() {
        shape.push(match s {
            0 if !zero_is_zero => {
                *x.shape().get(i).ok_or_else(|| Fault::invalid("an extent to keep is not there"))?
            }
            -1 => {
                rest = Some(i);
                1
            }
            s => usize::try_from(*s).map_err(|_| Fault::invalid(format!("{spec:?} is no shape")))?,
        });
    }
    if let Some(i) = rest {
        let others: usize = shape.iter().product();
        shape[i] = x.len().checked_div(others).unwrap_or(0);
    }
    one(r.trace.reshape(x, &shape)?)
}

fn squeeze(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let axes = axes_of(r, n, 1, x.rank())?;
    let gone = |d: usize| axes.as_ref().map_or(x.shape()[d] == 1, |a| a.contains(&d));
    let shape: Vec<usize> = (0..x.rank()).filter(|d| !gone(*d)).map(|d| x.shape()[d]).collect();
    one(r.trace.reshape(x, &shape)?)
}

fn unsqueeze(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let list = match n.ints("axes") {
        Some(v) => v.to_vec(),
        None => r.trace.ints(n.tensor(1)?)?,
    };
    let rank = x.rank() + list.len();
    let new: Vec<usize> = list.into_iter().map(|d| axis(d, rank)).collect::<Read<_>>()?;
    let mut kept = x.shape().iter();
    let shape: Option<Vec<usize>> =
        (0..rank).map(|d| if new.contains(&d) { Some(1) } else { kept.next().copied() }).collect();
    let shape = shape.ok_or_else(|| Fault::invalid("two new axes at one place"))?;
    one(r.trace.reshape(x, &shape)?)
}

fn slice(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let mut part = |name: &str, at: usize| -> Read<Option<Vec<i64>>> {
        match n.ints(name) {
            Some(v) => Ok(Some(v.to_vec())),
            None => n.optional(at)?.cloned().map(|v| r.trace.ints(&v)).transpose(),
        }
    };
    let missing = || Fault::invalid("a slice without its ends");
    let (starts, ends) = (part("starts", 1)?.ok_or_else(missing)?, part("ends", 2)?.ok_or_else(missing)?);
    let axes = part("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = part("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|m| *m != starts.len()) {
        return Err(missing());
    }
    let mut cuts = vec![];
    for i in 0..starts.len() {
        let d = axis(axes[i], x.rank())?;
        let (m, step) = (x.shape()[d] as i64, steps[i]);
        let from_end = |v: i64| if v < 0 { v.saturating_add(m) } else { v };
        let (size, start) = if step > 0 {
            let (a, b) = (from_end(starts[i]).clamp(0, m), from_end(ends[i]).clamp(0, m));
            ((b - a).max(0).div_euclid(step) + i64::from((b - a).max(0) % step != 0), a)
        } else if step < 0 {
            let (a, b) = (from_end(starts[i]).clamp(-1, m - 1), from_end(ends[i]).clamp(-1, m - 1));
            let (span, step) = ((a - b).max(0), step.checked_neg().unwrap_or(i64::MAX));
            (span / step + i64::from(span % step != 0), a)
        } else {
            return Err(Fault::invalid("a step of 0"));
        };
        // One element has no distance to the next.
        cuts.push((d, start, size as usize, if size > 1 { step } else { 1 }));
    }
    one(r.trace.cuts(x, &cuts)?)
}

fn split(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let d = axis(n.int("axis", 0), x.rank())?;
    let given = match n.ints("split") {
        Some(v) => Some(v.to_vec()),
        None => n.optional(1)?.cloned().map(|v| r.trace.ints(&v)).transpose()?,
    };
    let (m, parts) = (x.shape()[d], n.attr("num_outputs").map_or(n.results(), |a| a.i as usize));
    let sizes: Vec<usize> = match given {
        Some(v) => v.into_iter().map(|s| s.max(0) as usize).collect(),
        None if parts > 0 => {
            let each = m.div_ceil(parts);
            (0..parts).map(|i| each.min(m.saturating_sub(i * each))).collect()
        }
        None => vec![],
    };
    if sizes.iter().sum::<usize>() != m {
        return Err(Fault::invalid(format!("the parts {sizes:?} are not {m} together")));
    }
    let (mut out, mut first) = (vec![], 0);
    for s in sizes {
        out.push(r.trace.cut(x, d, first, s, 1)?);
        first += s as i64;
    }
    all(out)
}

fn pad(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let pads = match n.ints("pads").or_else(|| n.ints("paddings")) {
        Some(v) => v.to_vec(),
        None => r.trace.ints(n.tensor(1)?)?,
    };
    let axes: Vec<usize> = match n.optional(3)? {
        Some(v) => r.trace.ints(v)?.into_iter().map(|d| axis(d, x.rank())).collect::<Read<_>>()?,
        None => (0..x.rank()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Fault::invalid("the padding does not fit the axes"));
    }
    let (mut low, mut high) = (vec![0; x.rank()], vec![0; x.rank()]);
    for (i, d) in axes.iter().enumerate() {
        (low[*d], high[*d]) = (pads[i], pads[i + axes.len()]);
    }
    let value = match n.optional(2)? {
        Some(v) if n.opset >= 11 => r.trace.float(v)?,
        _ => n.float("value", 0.0),
    };
    one(r.trace.pad_by(x, &low, &high, &[], n.word("mode", "constant"), value)?)
}

/// Merges axes before `at` and those from it on.
fn flatten(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let at = n.int("axis", 1);
    let at = if at < 0 { at + x.rank() as i64 } else { at };
    let at = usize::try_from(at).ok().filter(|d| *d <= x.rank());
    let at = at.ok_or_else(|| Fault::invalid("there is no such axis"))?;
    let (a, b) = x.shape().split_at(at);
    one(r.trace.reshape(x, &[a.iter().product(), b.iter().product()])?)
}

/// Moves blocks of `b * b` positions to channels, or back.
fn depth_to_space(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, b) = (n.tensor(0)?, n.int("blocksize", 1).max(1) as usize);
    let [m, c, h, w] = x.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    if c % (b * b) != 0 {
        return Err(Fault::invalid("the channels are no whole number of blocks"));
    }
    let (split, axes) = match n.word("mode", "DCR") {
        "CRD" => ([m, c / (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3]),
        _ => ([m, b, b, c / (b * b), h, w], [0, 3, 4, 1, 5, 2]),
    };
    let y = r.trace.reshape(x, &split)?;
    let y = r.trace.permute(&y, &axes)?;
    one(r.trace.reshape(&y, &[m, c / (b * b), h * b, w * b])?)
}

fn space_to_depth(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, b) = (n.tensor(0)?, n.int("blocksize", 1).max(1) as usize);
    let [m, c, h, w] = x.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    if h % b != 0 || w % b != 0 {
        return Err(Fault::invalid("the extents are no whole number of blocks"));
    }
    let y = r.trace.reshape(x, &[m, c, h / b, b, w / b, b])?;
    let crd = n.word("mode", "DCR") == "CRD";
    let y = r.trace.permute(&y, if crd { &[0, 1, 3, 5, 2, 4] } else { &[0, 3, 5, 1, 2, 4] })?;
    one(r.trace.reshape(&y, &[m, c * b * b, h / b, w / b])?)
}

fn constant_node(_: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    if let Some(a) = n.array("value")? {
        return Ok(vec![Item::of_array(a)]);
    }
    if let Some(s) = n.attr("sparse_value").and_then(|a| a.sparse_tensor.as_ref()) {
        return Ok(vec![Item::of_array(Array::of_sparse(s)?)]);
    }
    let text = |v: Vec<String>, shape: Vec<usize>| {
        let tensor = Tensor { shape, dtype: Elem::Str.dtype(), encoding: None, bytes: vec![] };
        Ok(vec![Item::of_array(Array { elem: Elem::Str, tensor: tensor.into(), text: v })])
    };
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(a) = n.attr("value_string") {
        return text(vec![of(&a.s)], vec![]);
    }
    if let Some(a) = n.attr("value_strings") {
        return text(a.strings.iter().map(|s| of(s)).collect(), vec![a.strings.len()]);
    }
    if n.attr("value_int").is_some() {
        return one(constant(Elem::I64, &[], &Elements::Ints(vec![n.int("value_int", 0).into()])));
    }
    if n.attr("value_float").is_some() {
        return one(number(n.float("value_float", 0.0), Elem::F32));
    }
    if let Some(v) = n.ints("value_ints") {
        return one(vector(v));
    }
    match n.floats("value_floats") {
        Some(v) => one(constant(Elem::F32, &[v.len()], &Elements::Floats(v))),
        None => Err(Fault::invalid("a constant without a value")),
    }
}

fn to_shape(v: &[i64]) -> Read<Vec<usize>> {
    let all: Option<Vec<usize>> = v.iter().map(|d| usize::try_from(*d).ok()).collect();
    let small =
        |s: &Vec<usize>| s.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_some_and(|n| n < 1 << 36);
    all.filter(small).ok_or_else(|| Fault::invalid(format!("{v:?} is no shape")))
}

fn trilu(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let k = if let Some(v) = n.optional(1)? { t.int(v)? } else { 0 };
    if x.is_empty() {
        return one(x.clone());
    }
    if x.rank() < 2 {
        return Err(Fault::invalid("expects a matrix"));
    }
    let (rows, columns) = (x.shape()[x.rank() - 2], x.shape()[x.rank() - 1]);
    let (i, j) = (t.ramp(rows, 0, 2, Elem::I64)?, t.ramp(columns, 1, 2, Elem::I64)?);
    let distance = t.sub(&j, &i)?;
    let k = constant(Elem::I64, &[], &Elements::Ints(vec![k.into()]));
    let kept = if n.int("upper", 1) == 1 { t.bin("le", &k, &distance)? } else { t.bin("le", &distance, &k)? };
    one(t.select(&kept, x, &number(0.0, x.elem()))?)
}

pub(super) const ROWS: &[Row] = &[
    row("Reshape", 1, reshape),
    row("Flatten", 1, flatten),
    row("Squeeze", 1, squeeze),
    row("Unsqueeze", 1, unsqueeze),
    row("Transpose", 1, |r, n| {
        let x = n.tensor(0)?;
        let axes: Vec<usize> = match n.ints("perm") {
            Some(v) => v.iter().map(|d| axis(*d, x.rank())).collect::<Read<_>>()?,
            None => (0..x.rank()).rev().collect(),
        };
        one(r.trace.permute(x, &axes)?)
    }),
    row("Concat", 1, |r, n| {
        let parts = n.tensors()?;
        let rank = parts.first().map_or(0, Val::rank);
        one(r.trace.concat(&parts, axis(n.int("axis", 1), rank)?)?)
    }),
    row("Slice", 1, slice),
    row("Split", 1, split),
    row("Pad", 1, pad),
    row("Expand", 8, |r, n| {
        let (x, v) = (n.tensor(0)?, n.tensor(1)?);
        let shape = to_shape(&r.trace.ints(v)?)?;
        let shape = broadcast(&[x.shape(), &shape])?;
        one(r.trace.spread(x, &shape)?)
    }),
    row("Tile", 6, |r, n| {
        let x = n.tensor(0)?;
        let times = to_shape(&r.trace.ints(n.tensor(1)?)?)?;
        if times.len() != x.rank() {
            return Err(Fault::invalid("as many numbers of repeats as axes are needed"));
        }
        let pairs = |f: &dyn Fn(usize) -> [usize; 2]| (0..x.rank()).flat_map(f).collect::<Vec<_>>();
        let y = r.trace.reshape(x, &pairs(&|d| [1, x.shape()[d]]))?;
        let y = r.trace.spread(&y, &pairs(&|d| [times[d], x.shape()[d]]))?;
        let shape: Vec<usize> = x.shape().iter().zip(&times).map(|(a, b)| a * b).collect();
        one(r.trace.reshape(&y, &shape)?)
    }),
    row("DepthToSpace", 1, depth_to_space),
    row("SpaceToDepth", 1, space_to_depth),
    row("Shape", 1, |_, n| {
        let dims = match n.item(0)? {
            Item::Text(a) => a.tensor.shape.iter().map(|d| *d as i64).collect(),
            item => item.tensor()?.dims(),
        };
        let m = dims.len() as i64;
        let at = |v: i64| (if v < 0 { v + m } else { v }).clamp(0, m) as usize;
        let (a, b) = (at(n.int("start", 0)), at(n.int("end", m)));
        one(vector(dims.get(a..b).unwrap_or(&[])))
    }),
    row("Size", 1, |_, n| {
        let size = n.tensor(0)?.len() as i128;
        one(constant(Elem::I64, &[], &Elements::Ints(vec![size])))
    }),
    row("Constant", 1, constant_node),
    row("ConstantOfShape", 9, |r, n| {
        let shape = to_shape(&r.trace.ints(n.tensor(0)?)?)?;
        let value = match n.array("value")? {
            Some(a) => Val::constant(a),
            None => number(0.0, Elem::F32),
        };
        let value = r.trace.reshape(&value, &[])?;
        one(r.trace.spread(&value, &shape)?)
    }),
    row("EyeLike", 9, |r, n| {
        let x = n.tensor(0)?;
        let [rows, columns] = x.shape()[..] else { return Err(Fault::invalid("expects a matrix")) };
        let elem = n.attr("dtype").map_or(Ok(x.elem()), |a| Elem::of_code(a.i))?;
        let t = &mut r.trace;
        let (i, j) = (t.ramp(rows, 0, 2, Elem::I64)?, t.ramp(columns, 1, 2, Elem::I64)?);
        let i = t.with("add", &i, n.int("k", 0) as f64)?;
        let on = t.bin("eq", &i, &j)?;
        one(t.select(&on, &number(1.0, elem), &number(0.0, elem))?)
    }),
    row("Range", 11, |r, n| {
        let (elem, t) = (n.tensor(0)?.elem(), &mut r.trace);
        let v = [t.float(n.tensor(0)?)?, t.float(n.tensor(1)?)?, t.float(n.tensor(2)?)?];
        let count = ((v[1] - v[0]) / v[2]).ceil().max(0.0);
        if count.is_nan() || count >= 1e9 {
            return Err(Fault::invalid("a range without end"));
        }
        let (first, step) = (t.fixed(n.tensor(0)?)?, t.fixed(n.tensor(2)?)?);
        let i = t.iota(count as usize, elem)?;
        let y = t.mul(&i, &step)?;
        one(t.add(&y, &first)?)
    }),
    row("Trilu", 14, trilu),
    row("CenterCropPad", 18, |r, n| {
        let x = n.tensor(0)?;
        let to = r.trace.ints(n.tensor(1)?)?;
        let axes: Vec<usize> = match n.ints("axes") {
            Some(v) => v.iter().map(|d| axis(*d, x.rank())).collect::<Read<_>>()?,
            None => (0..x.rank()).collect(),
        };
        let (mut low, mut high) = (vec![0; x.rank()], vec![0; x.rank()]);
        for (d, to) in axes.iter().zip(to) {
            let more = to - x.shape()[*d] as i64;
            // The odd position is behind where there are more, and before where there are fewer.
            low[*d] = if more < 0 { -(-more / 2) } else { more / 2 };
            high[*d] = more - low[*d];
        }
        one(r.trace.pad(x, &low, &high, 0.0)?)
    }),
    row("ReverseSequence", 10, |r, n| {
        let (x, t) = (n.tensor(0)?, &mut r.trace);
        let (time, batch) = (n.int("time_axis", 0) as usize, n.int("batch_axis", 1) as usize);
        if time > 1 || batch > 1 || time == batch || x.rank() < 2 {
            return Err(Fault::invalid("time and batch are not the first two axes"));
        }
        let y = if time == 0 { x.clone() } else { t.swap(x, 0, 1)? };
        let (steps, sequences) = (y.shape()[0], y.shape()[1]);
        let lengths = t.cast(n.tensor(1)?, Elem::I64)?;
        let lengths = t.reshape(&lengths, &[1, sequences])?;
        let i = t.ramp(steps, 0, 2, Elem::I64)?;
        let inside = t.bin("lt", &i, &lengths)?;
        let back = t.sub(&lengths, &i)?;
        let back = t.with("sub", &back, 1.0)?;
        let from = t.select(&inside, &back, &i)?;
        let j = t.ramp(sequences, 1, 2, Elem::I64)?;
        let at = t.places(&[from, j], &[steps, sequences])?;
        let flat = t.reshape(&y, &[&[steps * sequences], &y.shape()[2..]].concat())?;
        let z = t.gather(&flat, &at, 0)?;
        one(if time == 0 { z } else { t.swap(&z, 0, 1)? })
    }),
    row("OneHot", 9, |r, n| {
        let (x, values, t) = (n.tensor(0)?, n.tensor(2)?, &mut r.trace);
        let depth = t.int(n.tensor(1)?)?.max(0) as usize;
        let d = axis(n.int("axis", -1), x.rank() + 1)?;
        let i = t.cast(x, Elem::I64)?;
        let i = t.unsqueeze(&i, d)?;
        let size = number(depth as f64, Elem::I64);
        let negative = t.with("lt", &i, 0.0)?;
        let up = t.add(&i, &size)?;
        let i = t.select(&negative, &up, &i)?;
        let k = t.ramp(depth, d, x.rank() + 1, Elem::I64)?;
        let on = t.bin("eq", &i, &k)?;
        let (off_value, on_value) = (t.pick(values, 0, 0)?, t.pick(values, 0, 1)?);
        one(t.select(&on, &on_value, &off_value)?)
    }),
    row("Hardmax", 1, |r, n| {
        let (x, t) = (n.tensor(0)?, &mut r.trace);
        let d = axis(n.int("axis", if n.opset < 13 { 1 } else { -1 }), x.rank())?;
        let (rows, axes): (Vec<usize>, usize) = if n.opset < 13 {
            let (a, b) = x.shape().split_at(d);
            (vec![a.iter().product(), b.iter().product()], 1)
        } else {
            (x.shape().to_vec(), d)
        };
        let flat = t.reshape(x, &rows)?;
        let best = super::reduce::arg(t, &flat, axes, false, false)?;
        let best = t.unsqueeze(&best, axes)?;
        let k = t.ramp(rows[axes], axes, rows.len(), Elem::I64)?;
        let on = t.bin("eq", &best, &k)?;
        let y = t.select(&on, &number(1.0, x.elem()), &number(0.0, x.elem()))?;
        one(t.reshape(&y, x.shape())?)
    }),
];
