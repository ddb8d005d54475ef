//! Elements by index, in order, or as many as there turn out to be.

use super::{Row, all, one, row};
use crate::build::{axis, constant, number, vector};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val, empty};
use lathe_ir::graph::Attr;
use lathe_ir::{Elements, Tensor};

/// The index of each element of `by` along `axis`, and its own along the others; as places in `shape`.
fn element_places(t: &mut Trace<'_>, by: &Val, axis: usize, shape: &[usize]) -> Read<Val> {
    let mut index = vec![];
    for d in 0..by.rank() {
        index.push(if d == axis { by.clone() } else { t.ramp(by.shape()[d], d, by.rank(), Elem::I64)? });
    }
    let p = t.places(&index, shape)?;
    t.spread(&p, by.shape())
}

fn gather_elements(t: &mut Trace<'_>, x: &Val, by: &Val, axis: usize) -> Read<Val> {
    let places = element_places(t, by, axis, x.shape())?;
    let flat = t.reshape(x, &[x.len()])?;
    t.gather(&flat, &places, 0)
}

/// Numbers of rows from tuples in the last axis of `by`, for the first axes of `shape`.
fn tuple_places(t: &mut Trace<'_>, by: &Val, shape: &[usize]) -> Read<(Val, usize)> {
    let last = by.rank().checked_sub(1).ok_or_else(|| Fault::invalid("tuples without an axis"))?;
    let k = by.shape()[last];
    if k > shape.len() {
        return Err(Fault::invalid("tuples longer than there are axes"));
    }
    let mut index = vec![];
    for i in 0..k {
        index.push(t.pick(by, last, i)?);
    }
    Ok((t.places(&index, &shape[..k])?, k))
}

fn gather_nd(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, by, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
    by.last()?;
    let b = n.int("batch_dims", 0).clamp(0, x.rank().min(by.rank()) as i64) as usize;
    let batch: usize = x.shape()[..b].iter().product();
    let inner = &x.shape()[b..];
    let flat_by = t.reshape(by, &[&[batch], &by.shape()[b..]].concat())?;
    let (places, k) = tuple_places(t, &flat_by, inner)?;
    let rows: usize = inner[..k].iter().product();
    let mut places = places;
    if b > 0 {
        let at = t.ramp(batch, 0, places.rank(), Elem::I64)?;
        let at = t.with("mul", &at, rows as f64)?;
        places = t.add(&places, &at)?;
    }
    let flat = t.reshape(x, &[&[batch * rows], &inner[k..]].concat())?;
    let y = t.gather(&flat, &places, 0)?;
    one(t.reshape(&y, &[&by.shape()[..by.rank() - 1], &inner[k..]].concat())?)
}

fn reducer(n: &Node<'_>) -> Read<&'static str> {
    Ok(match n.word("reduction", "none") {
        "none" => "last",
        "add" => "sum",
        "mul" => "product",
        "max" => "max",
        "min" => "min",
        other => return Err(Fault::unsupported(format!("the reduction '{other}'"))),
    })
}

fn scatter_nd(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, by, u, t) = (n.tensor(0)?, n.tensor(1)?, n.tensor(2)?, &mut r.trace);
    let (places, k) = tuple_places(t, by, x.shape())?;
    let (rows, m): (usize, usize) = (x.shape()[..k].iter().product(), x.shape()[k..].iter().product());
    let places = t.reshape(&places, &[places.len()])?;
    let (flat, u) = (t.reshape(x, &[rows, m])?, t.reshape(u, &[places.len(), m])?);
    let y = t.scatter(&flat, &places, &u, reducer(n)?)?;
    one(t.reshape(&y, x.shape())?)
}

fn scatter_elements(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, by, u, t) = (n.tensor(0)?, n.tensor(1)?, n.tensor(2)?, &mut r.trace);
    let d = axis(n.int("axis", 0), x.rank())?;
    let places = element_places(t, by, d, x.shape())?;
    let places = t.reshape(&places, &[by.len()])?;
    let (flat, u) = (t.reshape(x, &[x.len(), 1])?, t.reshape(u, &[by.len(), 1])?);
    let y = t.scatter(&flat, &places, &u, reducer(n)?)?;
    one(t.reshape(&y, x.shape())?)
}

/// The first `k` along an axis in order: values and places.
pub fn top(t: &mut Trace<'_>, x: &Val, axis: usize, k: usize, largest: bool) -> Read<(Val, Val)> {
    let last = x.last()?;
    let turned = t.swap(x, axis, last)?;
    let order = if turned.is_empty() {
        empty(Elem::I64, turned.shape())
    } else {
        t.op("order", &[&turned], &[("descending", Attr::Int(largest.into()))], Elem::I64)?
    };
    let order = t.cut(&order, last, 0, k.min(turned.shape()[last]), 1)?;
    let values = gather_elements(t, &turned, &order, last)?;
    Ok((t.swap(&values, axis, last)?, t.swap(&order, axis, last)?))
}

fn top_k(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let k = if n.opset < 10 { n.int("k", 1) } else { t.int(n.tensor(1)?)? };
    let d = axis(n.int("axis", -1), x.rank())?;
    let (values, places) = top(t, x, d, k.max(0) as usize, n.int("largest", 1) == 1)?;
    all([values, places])
}

fn non_zero(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let values = r.trace.floats(x)?;
    let found: Vec<usize> = (0..values.len()).filter(|i| values[*i] != 0.0).collect();
    let mut out = vec![];
    for d in 0..x.rank() {
        let step: usize = x.shape()[d + 1..].iter().product();
        out.extend(found.iter().map(|i| (i / step % x.shape()[d]) as i128));
    }
    given(Elem::I64, &[x.rank(), found.len()], Elements::Ints(out))
}

/// A tensor that is known in this run.
fn given(elem: Elem, shape: &[usize], elements: Elements) -> Read<Vec<Item>> {
    let t = Tensor::of(elem.dtype(), shape, &elements);
    one(Val::given(crate::elem::Array::new(elem, t)))
}

fn compress(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let kept = r.trace.ints(n.tensor(1)?)?;
    let at: Vec<i64> = (0..kept.len() as i64).filter(|i| kept[*i as usize] != 0).collect();
    let t = &mut r.trace;
    match n.attr("axis") {
        Some(a) => {
            let d = axis(a.i, x.rank())?;
            one(t.gather(x, &vector(&at), d)?)
        }
        None => {
            let flat = t.reshape(x, &[x.len()])?;
            one(t.gather(&flat, &vector(&at), 0)?)
        }
    }
}

/// Slices that occur, each once: which is known only when their elements are.
fn unique(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let x = n.tensor(0)?;
    let t = &mut r.trace;
    let (d, flat) = match n.attr("axis") {
        Some(a) => (axis(a.i, x.rank())?, x.clone()),
        None => (0, t.reshape(x, &[x.len()])?),
    };
    let values = t.floats(&flat)?;
    let (count, inner): (usize, usize) = (flat.shape()[d], flat.shape()[d + 1..].iter().product());
    let outer: usize = flat.shape()[..d].iter().product();
    let slice = |i: usize| -> Vec<f64> {
        (0..outer).flat_map(|o| values[(o * count + i) * inner..][..inner].iter().copied()).collect()
    };
    let mut first: Vec<usize> = vec![];
    let mut inverse = vec![0; count];
    let mut counts: Vec<i128> = vec![];
    for (i, at) in inverse.iter_mut().enumerate() {
        let own = slice(i);
        match first.iter().position(|f| slice(*f) == own) {
            Some(p) => *at = p,
            None => {
                *at = first.len();
                first.push(i);
                counts.push(0);
            }
        }
        counts[*at] += 1;
    }
    if n.int("sorted", 1) == 1 {
        let order = |a: &usize, b: &usize| {
            let pairs = slice(first[*a]).into_iter().zip(slice(first[*b]));
            pairs.map(|(x, y)| x.total_cmp(&y)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        };
        let mut by: Vec<usize> = (0..first.len()).collect();
        by.sort_by(order);
        let mut place = vec![0; by.len()];
        by.iter().enumerate().for_each(|(new, old)| place[*old] = new);
        inverse.iter_mut().for_each(|p| *p = place[*p]);
        (first, counts) = (by.iter().map(|o| first[*o]).collect(), by.iter().map(|o| counts[*o]).collect());
    }
    let at: Vec<i64> = first.iter().map(|i| *i as i64).collect();
    let y = t.gather(&flat, &vector(&at), d)?;
    let ints = |v: Vec<i128>| constant(Elem::I64, &[v.len()], &Elements::Ints(v));
    all([y, vector(&at), ints(inverse.into_iter().map(|p| p as i128).collect()), ints(counts)])
}

/// Boxes that are chosen: the best by score that do not cover a better one of their class too much.
fn suppress(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (boxes, scores, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
    let [batches, classes, count] = scores.shape()[..] else {
        return Err(Fault::invalid("scores have three axes"));
    };
    if boxes.shape() != [batches, count, 4] {
        return Err(Fault::invalid("the boxes do not fit the scores"));
    }
    let most = n.optional(2)?.map(|v| t.int(v)).transpose()?.unwrap_or(0).max(0) as usize;
    let cover = n.optional(3)?.map(|v| t.float(v)).transpose()?.unwrap_or(0.0);
    let least = n.optional(4)?.map(|v| t.float(v)).transpose()?;
    let (b, s) = (t.floats(boxes)?, t.floats(scores)?);
    let corners = |i: usize, k: usize| -> [f64; 4] {
        let v = &b[(i * count + k) * 4..][..4];
        if n.int("center_point_box", 0) == 1 {
            [v[0] - v[2] / 2.0, v[1] - v[3] / 2.0, v[0] + v[2] / 2.0, v[1] + v[3] / 2.0]
        } else {
            [v[0].min(v[2]), v[1].min(v[3]), v[0].max(v[2]), v[1].max(v[3])]
        }
    };
    let share = |p: [f64; 4], q: [f64; 4]| {
        let side = |i: usize| (p[i + 2].min(q[i + 2]) - p[i].max(q[i])).max(0.0);
        let area = |v: [f64; 4]| (v[2] - v[0]) * (v[3] - v[1]);
        let both = side(0) * side(1);
        let whole = area(p) + area(q) - both;
        if whole > 0.0 { both / whole } else { 0.0 }
    };
    let mut out = vec![];
    for i in 0..batches {
        for c in 0..classes {
            let own = &s[(i * classes + c) * count..][..count];
            let mut order: Vec<usize> = (0..count).filter(|k| least.is_none_or(|l| own[*k] > l)).collect();
            order.sort_by(|a, b| own[*b].total_cmp(&own[*a]));
            let mut chosen: Vec<usize> = vec![];
            for k in order {
                if chosen.len() < most && chosen.iter().all(|j| share(corners(i, k), corners(i, *j)) <= cover)
                {
                    chosen.push(k);
                }
            }
            out.extend(chosen.into_iter().flat_map(|k| [i as i128, c as i128, k as i128]));
        }
    }
    given(Elem::I64, &[out.len() / 3, 3], Elements::Ints(out))
}

/// Positions of a cache written from a place on, for each sequence its own.
fn tensor_scatter(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, u, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
    let d = axis(n.int("axis", -2), x.rank())?;
    let (batch, steps) = (x.extent(0)?, u.extent(d)?);
    let first = match n.optional(2)? {
        Some(v) => t.cast(v, Elem::I64)?,
        None => vector(&vec![0; batch]),
    };
    let first = t.reshape(&first, &[batch, 1])?;
    let i = t.ramp(steps, 1, 2, Elem::I64)?;
    let at = t.add(&first, &i)?;
    let at = match n.word("mode", "linear") {
        "circular" => t.with("rem", &at, x.shape()[d] as f64)?,
        _ => at,
    };
    // Rows are (sequence, position); all other axes go behind.
    let mut axes: Vec<usize> = (0..x.rank()).filter(|a| *a != 0 && *a != d).collect();
    axes.splice(0..0, [0, d]);
    let (xs, us) = (t.permute(x, &axes)?, t.permute(u, &axes)?);
    let inner: usize = xs.shape()[2..].iter().product();
    let b = t.ramp(batch, 0, 2, Elem::I64)?;
    let places = t.places(&[b, at], &[batch, x.shape()[d]])?;
    let places = t.reshape(&places, &[batch * steps])?;
    let flat = t.reshape(&xs, &[batch * x.shape()[d], inner])?;
    let rows = t.reshape(&us, &[batch * steps, inner])?;
    let y = t.scatter(&flat, &places, &rows, "last")?;
    let y = t.reshape(&y, xs.shape())?;
    let mut back = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(i, a)| back[*a] = i);
    one(t.permute(&y, &back)?)
}

/// How often n-grams of a pool occur in rows, skipping up to so many words between their words.
fn tf_idf(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    if n.attr("pool_strings").is_some() {
        return Err(Fault::unsupported("tensors of text"));
    }
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let words = t.ints(x)?;
    let ints = |name: &str| n.ints(name).ok_or_else(|| Fault::invalid(format!("'{name}' is missing")));
    let (pool, starts, columns) = (ints("pool_int64s")?, ints("ngram_counts")?, ints("ngram_indexes")?);
    let (least, most) =
        (n.int("min_gram_length", 1).max(1) as usize, n.int("max_gram_length", 1).max(1) as usize);
    let skips = n.int("max_skip_count", 0).max(0) as usize;
    let width = columns.iter().max().map_or(0, |m| m.clamp(&0, &(1 << 24)).unsigned_abs() as usize + 1);
    let row_len = x.shape().last().copied().unwrap_or(1);
    let mut grams = vec![];
    for (i, s) in starts.iter().enumerate() {
        let end = starts.get(i + 1).map_or(pool.len(), |e| *e as usize);
        grams.extend(pool.get(*s as usize..end).unwrap_or(&[]).chunks(i + 1));
    }
    let weights = n.floats("weights");
    let rows = words.len().checked_div(row_len).unwrap_or(1);
    let mut out = vec![0.0; rows * width];
    for (g, gram) in grams.iter().enumerate() {
        let Some(column) = columns.get(g) else { continue };
        if gram.len() < least || gram.len() > most {
            continue;
        }
        for row in 0..rows {
            let own = &words[row * row_len..][..row_len];
            let mut count = 0.0;
            // Single words are counted once, whatever is skipped.
            for skip in 0..=(if gram.len() == 1 { 0 } else { skips }) {
                let step = skip + 1;
                let reach = (gram.len() - 1) * step;
                let at = |i: usize| gram.iter().enumerate().all(|(k, w)| own[i + k * step] == *w);
                count += (0..row_len.saturating_sub(reach)).filter(|i| at(*i)).count() as f64;
            }
            let weight = weights.as_ref().and_then(|w| w.get(g)).copied().unwrap_or(1.0);
            let Some(cell) = out.get_mut(row * width + column.unsigned_abs() as usize) else { continue };
            *cell += match n.word("mode", "TF") {
                "TF" => count,
                "IDF" => f64::from(u8::from(count > 0.0)) * weight,
                _ => count * weight,
            };
        }
    }
    let shape = [&x.shape()[..x.rank().saturating_sub(1)], &[width]].concat();
    given(Elem::F32, &shape, Elements::Floats(out))
}

const ML: &str = "ai.onnx.ml";

fn label_encoder(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let text = ["keys_strings", "values_strings"].iter().any(|k| n.attr(k).is_some());
    let x = n.item(0)?;
    if text || matches!(x, Item::Text(_)) {
        return Err(Fault::unsupported("tensors of text"));
    }
    let list = |name: &str| -> Read<Option<(Elem, Vec<f64>)>> {
        if let Some(v) = n.ints(&format!("{name}_int64s")) {
            return Ok(Some((Elem::I64, v.iter().map(|v| *v as f64).collect())));
        }
        if let Some(v) = n.floats(&format!("{name}_floats")) {
            return Ok(Some((Elem::F32, v)));
        }
        let a = n.array(&format!("{name}_tensor"))?;
        Ok(a.filter(|a| a.elem != Elem::Str).map(|a| (a.elem, a.tensor.values())))
    };
    let missing = || Fault::unsupported("tensors of text");
    let ((_, keys), (elem, values)) =
        (list("keys")?.ok_or_else(missing)?, list("values")?.ok_or_else(missing)?);
    let default = match (n.array("default_tensor")?, elem) {
        (Some(a), _) => a.tensor.values().first().copied().unwrap_or(0.0),
        (None, Elem::I64) => n.int("default_int64", -1) as f64,
        _ => n.float("default_float", 0.0),
    };
    let (x, t) = (x.tensor()?, &mut r.trace);
    let mut y = t.spread(&number(default, elem), x.shape())?;
    for (k, v) in keys.iter().zip(values) {
        let is = if k.is_nan() {
            let same = t.bin("eq", x, x)?;
            t.not(&same)?
        } else {
            t.with("eq", x, *k)?
        };
        y = t.select(&is, &number(v, elem), &y)?;
    }
    one(y)
}

pub(super) const ROWS: &[Row] = &[
    row("Gather", 1, |r, n| {
        let (x, by) = (n.tensor(0)?, n.tensor(1)?);
        one(r.trace.gather(x, by, axis(n.int("axis", 0), x.rank())?)?)
    }),
    row("GatherElements", 11, |r, n| {
        let (x, by) = (n.tensor(0)?, n.tensor(1)?);
        one(gather_elements(&mut r.trace, x, by, axis(n.int("axis", 0), x.rank())?)?)
    }),
    row("GatherND", 11, gather_nd),
    row("ScatterND", 11, scatter_nd),
    row("ScatterElements", 11, scatter_elements),
    row("Scatter", 9, scatter_elements),
    row("TensorScatter", 24, tensor_scatter),
    row("TopK", 1, top_k),
    row("NonZero", 9, non_zero),
    row("Compress", 9, compress),
    row("Unique", 11, unique),
    row("NonMaxSuppression", 10, suppress),
    row("TfIdfVectorizer", 9, tf_idf),
    Row { domain: ML, ..row("LabelEncoder", 1, label_encoder) },
    Row {
        domain: ML,
        ..row("ArrayFeatureExtractor", 1, |r, n| {
            let (x, by) = (n.tensor(0)?, n.tensor(1)?);
            let by = r.trace.reshape(by, &[by.len()])?;
            let last = x.rank().checked_sub(1).ok_or_else(|| Fault::invalid("expects an axis"))?;
            one(r.trace.gather(x, &by, last)?)
        })
    },
    Row {
        domain: ML,
        ..row("Binarizer", 1, |r, n| {
            let x = n.tensor(0)?;
            let above = r.trace.of("lt", n.float("threshold", 0.0), x)?;
            one(r.trace.cast(&above, x.elem())?)
        })
    },
];
