//! Products in the order, the sizes and the blocks that an instruction computes, and the instruction in their place.

use crate::rule::{Axes, Kind, Place, Right, Rule, Tag, at, ints};
use crate::sample::{Sample, dot, list};
use crate::target::Steps;
use crate::term::{ON, TILES};
use lathe_ir::DType;
use lathe_ir::graph::{Attr, Attrs};

/// The axes of the product at the root, whose factors are these.
fn axes(r: &Right<'_>, x: Place, y: Place) -> Option<Axes> {
    Axes::of(r.attrs(0), [r.dims(x)?.len(), r.dims(y)?.len()])
}

/// Whether the product at the root is in tiles already: only an instruction is put in its place then.
fn tiled(r: &Right<'_>) -> bool {
    r.attrs(0).contains_key(TILES) || r.attrs(0).contains_key(ON)
}

fn columns(r: &mut Right<'_>) -> Option<Place> {
    let (x, w) = (r.var(0), r.var(1));
    (r.dims(w)?.len() == 2 && r.dtype(w) == DType::F32 && r.dtype(x) == DType::F32).then_some(())?;
    (r.attrs(1).get("axes") == Some(&list(&[1, 0]))).then_some(())?;
    r.dot(x, w, &Axes::ordered(0, 1, 1, 1))
}

fn rows(r: &mut Right<'_>) -> Option<Place> {
    let (x, w) = (r.var(0), r.var(1));
    (r.dims(w)?.len() == 2 && r.dtype(w) == DType::F32 && r.dtype(x) == DType::F32).then_some(())?;
    r.op("dot", &[x, w], [("sum_x".into(), ints(&[1])), ("sum_y".into(), ints(&[1]))].into())
}

fn order(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let a = axes(r, x, y).filter(|a| !a.is_ordered() && !tiled(r))?;
    let x = r.permute(x, &[&a.batch[0][..], &a.free[0], &a.sum[0]].concat())?;
    let y = r.permute(y, &[&a.batch[1][..], &a.sum[1], &a.free[1]].concat())?;
    r.dot(x, y, &Axes::ordered(a.batch[0].len(), a.free[0].len(), a.sum[0].len(), a.free[1].len()))
}

fn merge(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let a = axes(r, x, y).filter(|a| a.is_ordered() && !tiled(r))?;
    let (dx, dy) = (r.dims(x)?, r.dims(y)?);
    let size = |d: &[i64], axes: &[usize]| at(d, axes).iter().product::<i64>();
    let (b, m, k, n) =
        (size(&dx, &a.batch[0]), size(&dx, &a.free[0]), size(&dx, &a.sum[0]), size(&dy, &a.free[1]));
    let batch: Vec<i64> = (b > 1).then_some(b).into_iter().collect();
    let (to_x, to_y) = ([&batch[..], &[m, k]].concat(), [&batch[..], &[k, n]].concat());
    (to_x != dx || to_y != dy).then_some(())?;
    let result = [at(&dx, &a.batch[0]), at(&dx, &a.free[0]), at(&dy, &a.free[1])].concat();
    let (x, y) = (r.reshape(x, &to_x)?, r.reshape(y, &to_y)?);
    let z = r.dot(x, y, &Axes::ordered(batch.len(), 1, 1, 1))?;
    r.reshape(z, &result)
}

fn swap(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let a = axes(r, x, y).filter(|_| !tiled(r))?;
    let turned = |p: &[Vec<usize>; 2]| [p[1].clone(), p[0].clone()];
    let other = Axes { batch: turned(&a.batch), sum: turned(&a.sum), free: turned(&a.free) };
    let z = r.dot(y, x, &other)?;
    let (b, m, n) = (a.batch[0].len(), a.free[0].len(), a.free[1].len());
    let back: Vec<usize> = (0..b).chain(b + n..b + n + m).chain(b..b + n).collect();
    r.permute(z, &back)
}

/// Zeros behind the elements of each axis.
fn zeros(r: &mut Right<'_>, x: Place, to: &[i64], on: &Attrs) -> Option<Place> {
    let dims = r.dims(x)?;
    let high: Vec<i64> = dims.iter().zip(to).map(|(n, to)| to - n).collect();
    if high.iter().all(|n| *n == 0) {
        return Some(x);
    }
    let zero = if r.dtype(x).is_int() { Attr::Int(0) } else { Attr::Float(0.0) };
    let attrs = [
        ("low".into(), list(&vec![0; dims.len()])),
        ("high".into(), list(&high)),
        ("mode".into(), Attr::Str("constant".into())),
        ("value".into(), zero),
    ];
    r.op("pad", &[x], on.iter().map(|(n, a)| (n.clone(), a.clone())).chain(attrs).collect())
}

fn up(n: i64, to: i64) -> i64 {
    (n + to - 1) / to * to
}

fn pad(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let p = r.instruction()?.product;
    let a = axes(r, x, y).filter(|a| a.is_ordered() && !tiled(r))?;
    let single = a.free[0].len() == 1 && a.sum[0].len() == 1 && a.free[1].len() == 1;
    (single && r.dtype(x) == p.sums).then_some(())?;
    let (dx, dy, b) = (r.dims(x)?, r.dims(y)?, a.batch[0].len());
    let (m, k, n) = (dx[b], dx[b + 1], dy[b + 1]);
    let to = [up(m, p.rows), up(k, p.step(k)), up(n, p.width())];
    (to != [m, k, n]).then_some(())?;
    // Loads of an accelerator put the zeros around, and its stores leave them out.
    let i = r.instruction()?;
    let on: Attrs = i.loads.then(|| (ON.into(), Attr::Str(i.name.as_str().into()))).into_iter().collect();
    let x = zeros(r, x, &[&dx[..b], &to[..2]].concat(), &on)?;
    let y = zeros(r, y, &[&dy[..b], &to[1..]].concat(), &on)?;
    let z = r.dot(x, y, &a)?;
    if to[0] == m && to[2] == n {
        return Some(z);
    }
    let attrs = [
        ("axes".into(), ints(&[b, b + 1])),
        ("starts".into(), list(&[0, 0])),
        ("sizes".into(), list(&[m, n])),
        ("steps".into(), list(&[1, 1])),
    ];
    r.op("slice", &[z], on.into_iter().chain(attrs).collect())
}

/// The last extents of rows, steps and columns; 1 for columns that are not there.
fn last(a: &Axes, dx: &[i64], dy: &[i64]) -> Option<(i64, i64, i64)> {
    let columns = a.free[1].last().map_or(1, |d| dy[*d]);
    Some((dx[*a.free[0].last()?], dx[*a.sum[0].last()?], columns))
}

/// The factors with the axes of their tiles behind all others, in the order that an instruction's factors have.
fn packed(r: &mut Right<'_>, x: Place, y: Place, a: &Axes, columns: bool) -> Option<(Place, Place, Axes)> {
    let (rows, rest_x) = a.free[0].split_last()?;
    let (step, steps) = a.sum[0].split_last()?;
    let (step_y, steps_y) = a.sum[1].split_last()?;
    let (width, rest_y) = match a.free[1].split_last() {
        Some((w, rest)) if columns => (vec![*w], rest.to_vec()),
        _ => (vec![], a.free[1].clone()),
    };
    let order_x = [&a.batch[0][..], rest_x, steps, &[*rows, *step]].concat();
    let order_y = [&a.batch[1][..], &rest_y, steps_y, &[*step_y], &width].concat();
    let now = |order: &[usize], axes: &[usize]| -> Vec<usize> {
        axes.iter().filter_map(|d| order.iter().position(|o| o == d)).collect()
    };
    let both = |axes: &[Vec<usize>; 2]| [now(&order_x, &axes[0]), now(&order_y, &axes[1])];
    let to = Axes { batch: both(&a.batch), sum: both(&a.sum), free: both(&a.free) };
    Some((r.permute(x, &order_x)?, r.permute(y, &order_y)?, to))
}

fn block(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let p = r.instruction()?.product;
    let a = axes(r, x, y).filter(|a| a.is_ordered() && !tiled(r))?;
    let (dx, dy) = (r.dims(x)?, r.dims(y)?);
    let (m, k, n) = last(&a, &dx, &dy)?;
    let (rows, steps, width) = (p.rows, p.step(k), p.width());
    let whole = m % rows == 0 && k % steps == 0 && n % width == 0;
    // An instruction without columns leaves theirs as they are.
    let done = m == rows && k == steps && (p.columns.is_none() || n == width);
    (whole && !done && r.dtype(x) == p.sums).then_some(())?;
    (p.columns.is_none() || !a.free[1].is_empty()).then_some(())?;
    let split = |dims: &[i64], axes: &[usize], by: i64| {
        let mut out = at(dims, axes);
        let last = out.pop().unwrap_or(1);
        out.extend([last / by, by]);
        out
    };
    let kept = at(&dy, &a.free[1]);
    let columns = if p.columns.is_some() { split(&dy, &a.free[1], width) } else { kept.clone() };
    let batch = at(&dx, &a.batch[0]);
    let (front, sum) = (split(&dx, &a.free[0], rows), split(&dx, &a.sum[0], steps));
    let mut to = Axes::ordered(batch.len(), front.len(), sum.len(), columns.len());
    let mut x = r.reshape(x, &[&batch[..], &front, &sum].concat())?;
    let mut y = r.reshape(y, &[&batch[..], &sum, &columns].concat())?;
    if !r.instruction()?.loads {
        (x, y, to) = packed(r, x, y, &to, p.columns.is_some())?;
    }
    let mut attrs = to.attrs();
    attrs.insert(TILES.into(), Attr::Str(r.instruction()?.name.as_str().into()));
    let z = r.op("dot", &[x, y], attrs)?;
    r.reshape(z, &[batch, at(&dx, &a.free[0]), kept].concat())
}

/// Whether the last axes of a product are the instruction's tile; all others are loops around it.
fn is_tile(r: &Right<'_>, x: Place, y: Place) -> Option<bool> {
    let p = r.instruction()?.product;
    let a = Axes::of(r.attrs(0), [r.dims(x)?.len(), r.dims(y)?.len()])?;
    let (m, k, n) = last(&a, &r.dims(x)?, &r.dims(y)?)?;
    let steps = match p.steps {
        Steps::Exactly(s) => k == s,
        Steps::UpTo(s) => k <= s,
    };
    let columns = p.columns.is_none_or(|c| c == n && !a.free[1].is_empty());
    let here = lathe_ir::graph::str_attr(r.attrs(0), TILES)
        .is_none_or(|t| *t == *r.instruction().map_or("", |i| &i.name));
    let free = here && !r.attrs(0).contains_key(ON);
    // Where the tiles lie: behind loops in order, or as the meaning's factors.
    let behind = |rank: usize, axes: &[Option<&usize>]| {
        let axes: Vec<usize> = axes.iter().flatten().map(|d| **d).collect();
        axes.iter().rev().enumerate().all(|(i, d)| d + i + 1 == rank)
    };
    let width = p.columns.and(a.free[1].last());
    let lies = if r.instruction()?.loads {
        a.is_ordered()
    } else {
        behind(r.dims(x)?.len(), &[a.free[0].last(), a.sum[0].last()])
            && behind(r.dims(y)?.len(), &[a.sum[1].last(), width])
            && a.free[1]
                .windows(2)
                .chain(a.free[0].windows(2))
                .chain(a.sum[0].windows(2))
                .all(|w| w[0] < w[1])
    };
    Some(free && lies && m == p.rows && steps && columns && [r.dtype(x), r.dtype(y)] == p.factors)
}

fn on(r: &mut Right<'_>, x: Place, y: Place) -> Option<Place> {
    let mut attrs: Attrs = r.attrs(0).clone();
    attrs.remove(TILES);
    attrs.insert(ON.into(), Attr::Str(r.instruction()?.name.as_str().into()));
    r.op("dot", &[x, y], attrs)
}

fn place(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let p = r.instruction()?.product;
    (p.factors == [p.sums; 2] && is_tile(r, x, y)?).then_some(())?;
    on(r, x, y)
}

fn place_converted(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    let p = r.instruction()?.product;
    let to = Attr::Str(p.sums.to_string().into());
    let converted = (1..3).all(|i| r.attrs(i).get("to") == Some(&to));
    (converted && is_tile(r, x, y)?).then_some(())?;
    // The conversions are the instruction's.
    let name = Attr::Str(r.instruction()?.name.as_str().into());
    let attrs: Attrs = [("to".into(), to), (ON.into(), name)].into();
    let (x, y) = (r.op("cast", &[x], attrs.clone())?, r.op("cast", &[y], attrs)?);
    on(r, x, y)
}

fn small(s: &mut Sample, t: DType) -> Sample {
    let mut out = Sample::new(s.pick(0, 1 << 30) as u64);
    let (m, k, n) = (16 * s.pick(1, 2), 4 * s.pick(1, 4), 16 * s.pick(1, 2));
    let (x, y) = (out.input(t, &[m, k]), out.input(t, &[k, n]));
    out.op("dot", &[x, y], &dot([&[], &[]], [&[1], &[0]]));
    out
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "matmul-columns",
        left: &["matmul(x, permute(w))"],
        doc: "a product with rows that are columns exchanged is the one with columns",
        tag: Tag::Bitwise,
        kind: Kind::Exact,
        of_instruction: false,
        right: columns,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (m, k, n) = (s.pick(1, 5), s.pick(1, 9), s.pick(1, 5));
            let (x, w) = (s.input(DType::F32, &[m, k]), s.input(DType::F32, &[k, n]));
            let w = s.op("permute", &[w], &[("axes", list(&[1, 0]))]);
            s.op("matmul", &[x, w], &[]);
            s
        },
    },
    Rule {
        name: "matmul-rows",
        left: &["matmul(x, w)"],
        doc: "a product with the rows of w sums over the last axes of both",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: rows,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (m, k, n) = (s.pick(1, 5), s.pick(1, 9), s.pick(1, 5));
            let (x, w) = (s.input(DType::F32, &[m, k]), s.input(DType::F32, &[n, k]));
            s.op("matmul", &[x, w], &[]);
            s
        },
    },
    Rule {
        name: "dot-order",
        left: &["dot(x, y)"],
        doc: "the factors' axes in the order batch, rows, steps and batch, steps, columns",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: order,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (b, m, k, j, n) = (s.pick(1, 3), s.pick(1, 4), s.pick(1, 5), s.pick(1, 3), s.pick(1, 4));
            let (x, y) = (s.input(DType::F32, &[k, m, b, j]), s.input(DType::F32, &[j, b, n, k]));
            s.op("dot", &[x, y], &dot([&[2], &[1]], [&[0, 3], &[3, 0]]));
            s
        },
    },
    Rule {
        name: "dot-merge",
        left: &["dot(x, y)"],
        doc: "several axes of rows, steps, columns and batch as one of each, none where the batch is 1",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: merge,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (b, m, k, j, n) = (s.pick(1, 3), s.pick(1, 4), s.pick(1, 5), s.pick(1, 3), s.pick(1, 4));
            let (x, y) = (s.input(DType::F32, &[b, m, 2, k, j]), s.input(DType::F32, &[b, k, j, n]));
            s.op("dot", &[x, y], &dot([&[0], &[0]], [&[3, 4], &[1, 2]]));
            s
        },
    },
    Rule {
        name: "dot-swap",
        left: &["dot(x, y)"],
        doc: "the factors exchanged, and the result's axes with them",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: swap,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (b, m, k, n) = (s.pick(1, 3), s.pick(1, 4), s.pick(1, 5), s.pick(1, 4));
            let (x, y) = (s.input(DType::F32, &[b, m, k]), s.input(DType::F32, &[k, n, b, 2]));
            s.op("dot", &[x, y], &dot([&[0], &[2]], [&[2], &[0]]));
            s
        },
    },
    Rule {
        name: "dot-pad",
        left: &["dot(x, y)"],
        doc: "zeros up to whole tiles around the factors, and the result without them",
        tag: Tag::Bitwise,
        kind: Kind::Padding,
        of_instruction: true,
        right: pad,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let t = if seed % 2 == 0 { DType::F32 } else { DType::I32 };
            let (b, m, k, n) = (s.pick(1, 2), s.pick(1, 20), s.pick(1, 9), s.pick(1, 20));
            let (x, y) = (s.input(t, &[b, m, k]), s.input(t, &[b, k, n]));
            s.op("dot", &[x, y], &dot([&[0], &[0]], [&[2], &[1]]));
            s
        },
    },
    Rule {
        name: "dot-block",
        left: &["dot(x, y)"],
        doc: "the last axis of rows, steps and columns as two: tiles, and the elements of a tile",
        tag: Tag::Bitwise,
        kind: Kind::Exact,
        of_instruction: true,
        right: block,
        sample: |seed| {
            let mut s = Sample::new(seed);
            small(&mut s, if seed % 2 == 0 { DType::F32 } else { DType::I32 })
        },
    },
    Rule {
        name: "place",
        left: &["dot(x, y)"],
        doc: "the instruction in loops over all axes but those of its tile",
        tag: Tag::Bitwise,
        kind: Kind::Exact,
        of_instruction: true,
        right: place,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (b, m, k, n) = (s.pick(1, 2), s.pick(1, 2), s.pick(1, 9), s.pick(1, 2));
            let (x, y) = (s.input(DType::F32, &[b, m, 16, k]), s.input(DType::F32, &[b, k, n, 16]));
            s.op("dot", &[x, y], &dot([&[0], &[0]], [&[3], &[1]]));
            s
        },
    },
    Rule {
        name: "place-converted",
        left: &["dot(cast(x), cast(y))"],
        doc: "the same, where the instruction converts its factors",
        tag: Tag::Reassociates,
        kind: Kind::Exact,
        of_instruction: true,
        right: place_converted,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let bytes = seed % 2 == 0;
            let types = if bytes { [DType::U8, DType::I8] } else { [DType::BF16; 2] };
            let (to, k) = if bytes { (DType::I32, 4) } else { (DType::F32, 2) };
            let (m, j, n) = (s.pick(1, 2), s.pick(1, 3), s.pick(1, 5));
            let (x, y) = (s.input(types[0], &[m, j, 16, k]), s.input(types[1], &[n, j, k]));
            let (x, y) = (s.cast(x, to), s.cast(y, to));
            s.op("dot", &[x, y], &dot([&[], &[]], [&[1, 3], &[1, 2]]));
            s
        },
    },
];
