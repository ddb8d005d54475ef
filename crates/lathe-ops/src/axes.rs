//! Axes exchanged, split, merged, summed away and spread again. Each is linear, and the gradient of each is another of
//! them.

use crate::norm::scalar;
use crate::require;
use crate::sample::{Rng, attrs, extents, result};
use lathe_ir::graph::{Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Type, ValueId, int_attr};
use lathe_ir::tensor::{Expr, Iter, Stmt};
use lathe_ir::{Bounds, DType, Int, IrError, Tensor};

/// Loops over a shape around statements at an index.
pub(crate) fn nest(l: &Lowering, shape: &[Int], body: impl Fn(&[Expr]) -> Vec<Stmt>) -> Vec<Stmt> {
    let index: Vec<Expr> = (0..shape.len()).map(|d| l.var(&d.to_string())).collect();
    let mut body = body(&index);
    for d in (0..shape.len()).rev() {
        body = vec![Stmt::for_(&l.name(&d.to_string()), (&shape[d]).into(), Iter::Spatial, body)];
    }
    body
}

type Gradients = Result<Vec<Option<ValueId>>, IrError>;

/// Whether it is a dense tensor of f32 with at least so many axes.
pub(crate) fn dense(t: &Type, rank: usize) -> bool {
    t.dtype == DType::F32 && t.encoding.is_none() && t.shape.len() >= rank
}

/// The two axes that are exchanged: by default the last two.
fn exchanged(a: &Attrs, rank: usize) -> Option<(usize, usize)> {
    let axis = |name: &str, from_end: usize| {
        let d = int_attr(a, name).map_or(rank.checked_sub(from_end), |v| usize::try_from(v).ok());
        d.filter(|d| *d < rank)
    };
    Some((axis("a", 2)?, axis("b", 1)?))
}

fn infer_transpose(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && t[0].dtype == DType::F32, "expects one tensor of f32")?;
    let (i, j) = exchanged(a, t[0].shape.len()).ok_or("the tensor lacks the axes to exchange")?;
    let mut shape = t[0].shape.clone();
    shape.swap(i, j);
    Ok(vec![Type::dense(DType::F32, &shape)])
}

fn transpose(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, from, to) = (a[0].values(), &a[0].shape, extents(&t[0]));
    let (i, j) = exchanged(at, to.len()).unwrap_or((0, 0));
    let y: Vec<f64> = (0..x.len())
        .map(|mut n| {
            let mut index = vec![0; to.len()];
            for d in (0..to.len()).rev() {
                (index[d], n) = (n % to[d], n / to[d]);
            }
            index.swap(i, j);
            x[index.iter().zip(from).fold(0, |n, (i, d)| n * d + i)]
        })
        .collect();
    vec![result(&t[0], &y)]
}

fn lower_transpose(l: &Lowering) -> Vec<Stmt> {
    let y = &l.outs[0];
    let (i, j) = exchanged(&l.attrs, y.ty.shape.len()).unwrap_or((0, 0));
    nest(l, &y.ty.shape, |index| {
        let mut from = index.to_vec();
        from.swap(i, j);
        vec![y.write(&l.name("y"), index, l.ins[0].read(&from))]
    })
}

/// The axis that is split, and the extents of the outer and the inner part.
fn parts(t: &Type, a: &Attrs) -> Option<(usize, Int, Int)> {
    let axis = usize::try_from(int_attr(a, "axis")?).ok()?;
    let n = t.shape.get(axis)?;
    let by = int_attr(a, "outer").or(int_attr(a, "inner")).filter(|v| *v > 0)?;
    let b = Bounds::new();
    (n.rem(by, &b).simplify(&b).as_const() == Some(0)).then_some(())?;
    let rest = n.div(by, &b);
    let (outer, inner) = if int_attr(a, "outer").is_some() { (by.into(), rest) } else { (rest, by.into()) };
    Some((axis, outer, inner))
}

fn infer_split(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && dense(&t[0], 1), "expects one dense tensor of f32")?;
    let (axis, outer, inner) = parts(&t[0], a).ok_or("the axis is not a whole number of parts")?;
    let mut shape = t[0].shape.clone();
    shape.splice(axis..=axis, [outer, inner]);
    Ok(vec![Type::dense(DType::F32, &shape)])
}

fn merged(t: &Type, a: &Attrs) -> Option<usize> {
    usize::try_from(int_attr(a, "axis")?).ok().filter(|d| d + 1 < t.shape.len())
}

fn infer_merge(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && dense(&t[0], 2), "expects one dense tensor of f32 with two axes or more")?;
    let axis = merged(&t[0], a).ok_or("there is no such axis and one behind it")?;
    let mut shape = t[0].shape.clone();
    let whole = shape[axis].clone() * shape[axis + 1].clone();
    shape.splice(axis..axis + 2, [whole.simplify(&Bounds::new())]);
    Ok(vec![Type::dense(DType::F32, &shape)])
}

/// The index with the parts `axis` and `axis + 1` as one; `inner` is the extent of the second.
fn joined(index: &[Expr], axis: usize, inner: &Int) -> Vec<Expr> {
    let one = index[axis].clone() * Expr::from(inner) + index[axis + 1].clone();
    [&index[..axis], &[one], &index[axis + 2..]].concat()
}

fn merge_gradient(d: &mut Adjoint<'_>) -> Gradients {
    let (x, dy) = (d.arg(0), d.dy());
    let axis = int_attr(d.attrs(), "axis").unwrap_or(0);
    let extent = |i: i64| d.ty(x).shape[i as usize].as_const();
    let part = match (extent(axis), extent(axis + 1)) {
        (Some(n), _) => ("outer", n),
        (_, Some(n)) => ("inner", n),
        _ => return d.refuse("no gradient where both merged axes are dimensions"),
    };
    let attrs = [("axis", Attr::Int(axis)), (part.0, Attr::Int(part.1))];
    Ok(vec![Some(d.op_with("split_axis", &[dy], &attrs)?)])
}

fn infer_sum_last(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && dense(&t[0], 1), "expects one dense tensor of f32 with an axis")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape[..t[0].shape.len() - 1])])
}

fn infer_sum_first(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && dense(&t[0], 1), "expects one dense tensor of f32 with an axis")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape[1..])])
}

/// Sums along `k` of the element that `at` finds from the result's index and `k`.
fn lower_sum(l: &Lowering, extent: &Int, at: impl Fn(&[Expr], Expr) -> Vec<Expr>) -> Vec<Stmt> {
    let (y, acc) = (&l.outs[0], l.name("acc"));
    nest(l, &y.ty.shape, |index| {
        let element = l.ins[0].read(&at(index, l.var("k")));
        let add = vec![Stmt::reduce(&l.name("s"), &acc, &[], "sum", element)];
        vec![
            scalar(&acc, DType::F32),
            Stmt::store(&l.name("z"), &acc, &[], Expr::f32(0.0)),
            Stmt::for_(&l.name("k"), extent.into(), Iter::Reduce, add),
            y.write(&l.name("y"), index, Expr::load(&acc, &[])),
        ]
    })
}

/// The first column of a slice, and how many there are.
fn columns(t: &Type, a: &Attrs) -> Option<(i64, i64)> {
    let (from, count) = (int_attr(a, "from")?, int_attr(a, "count")?);
    let all = t.shape.last()?.as_const()?;
    (from >= 0 && count > 0 && count <= all && from <= all - count).then_some((from, count))
}

fn infer_slice(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && dense(&t[0], 1), "expects one dense tensor of f32 with an axis")?;
    let (_, count) = columns(&t[0], a).ok_or("the last axis does not have these columns")?;
    let mut shape = t[0].shape.clone();
    shape.pop();
    shape.push(count.into());
    Ok(vec![Type::dense(DType::F32, &shape)])
}

fn infer_spread(t: &[Type], last: bool) -> Result<Vec<Type>, String> {
    require(
        t.len() == 2 && dense(&t[0], 0) && dense(&t[1], 1),
        "expects a dense tensor and one like the result",
    )?;
    let like = &t[1].shape;
    let kept = if last { &like[..like.len() - 1] } else { &like[1..] };
    require(t[0].shape[..] == *kept, "the shape is not that of the other without the axis")?;
    Ok(vec![Type::dense(DType::F32, like)])
}

fn sample(seed: u64) -> (Vec<Tensor>, Attrs) {
    let shapes: [&[usize]; 4] = [&[3, 48], &[5], &[2, 3, 16], &[4, 7]];
    (vec![Rng(seed).dense(shapes[seed as usize % 4])], Attrs::new())
}

fn sample_spread(seed: u64, last: bool) -> (Vec<Tensor>, Attrs) {
    let like = sample(seed).0.remove(0);
    let n = like.shape.len();
    let kept = if last { &like.shape[..n - 1] } else { &like.shape[1..] };
    (vec![Rng(seed + 1).dense(kept), like], Attrs::new())
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "transpose",
        doc: "x with the axes `a` and `b` exchanged (the last two, if not said), decoded",
        form: Form::Nest,
        gradient: Some(|d| Ok(vec![Some(d.same(&[d.dy()])?)])),
        donates: &[],
        infer: infer_transpose,
        reference: transpose,
        lower: lower_transpose,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            match seed % 3 {
                0 => (vec![r.dense(&[5, 32])], Attrs::new()),
                1 => (vec![r.dense(&[2, 3, 16])], attrs(&[("a", Attr::Int(0)), ("b", Attr::Int(1))])),
                _ => (vec![r.encoded("q8_0", &[3, 64])], Attrs::new()),
            }
        },
    },
    OpRow {
        name: "split_axis",
        doc: "x with the axis `axis` as two, `outer` or `inner` of them the given extent",
        form: Form::Nest,
        gradient: Some(|d| {
            let (dy, axis) = (d.dy(), int_attr(d.attrs(), "axis").unwrap_or(0));
            Ok(vec![Some(d.op_with("merge_axes", &[dy], &[("axis", Attr::Int(axis))])?)])
        }),
        donates: &[],
        infer: infer_split,
        reference: |a, _, t| vec![result(&t[0], &a[0].values())],
        edge: Edge::none,
        lower: |l| {
            let y = &l.outs[0];
            let (axis, _, inner) = parts(&l.ins[0].ty, &l.attrs).expect("inferred before");
            nest(l, &y.ty.shape, |i| vec![y.write(&l.name("y"), i, l.ins[0].read(&joined(i, axis, &inner)))])
        },
        sample: |seed| {
            let part = ["outer", "inner"][seed as usize % 2];
            (vec![Rng(seed).dense(&[3, 32])], attrs(&[("axis", Attr::Int(1)), (part, Attr::Int(2))]))
        },
    },
    OpRow {
        name: "merge_axes",
        doc: "x with the axis `axis` and the one behind it as one",
        form: Form::Nest,
        gradient: Some(merge_gradient),
        donates: &[],
        infer: infer_merge,
        reference: |a, _, t| vec![result(&t[0], &a[0].values())],
        edge: Edge::none,
        lower: |l| {
            let (x, y) = (&l.ins[0], &l.outs[0]);
            let axis = merged(&x.ty, &l.attrs).expect("inferred before");
            let inner = &x.ty.shape[axis + 1];
            nest(l, &x.ty.shape, |i| vec![y.write(&l.name("y"), &joined(i, axis, inner), x.read(i))])
        },
        sample: |seed| (vec![Rng(seed).dense(&[3, 2, 16])], attrs(&[("axis", Attr::Int((seed % 2) as i64))])),
    },
    OpRow {
        name: "slice_last",
        doc: "`count` columns of the last axis, the first of them `from`",
        form: Form::Row,
        gradient: None,
        donates: &[],
        infer: infer_slice,
        reference: |a, at, t| {
            let (from, count) =
                columns(&Type::dense(DType::F32, &[(a[0].row() as i64).into()]), at).unwrap_or((0, 0));
            let part = |row: &[f64]| row[from as usize..][..count as usize].to_vec();
            vec![result(&t[0], &a[0].values().chunks(a[0].row()).flat_map(part).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: |l| {
            let (x, y) = (&l.ins[0], &l.outs[0]);
            let (from, _) = columns(&x.ty, &l.attrs).expect("inferred before");
            nest(l, &y.ty.shape, |i| {
                let (outer, last) = i.split_at(i.len() - 1);
                vec![y.write(&l.name("y"), i, x.read(&[outer, &[last[0].clone() + from]].concat()))]
            })
        },
        sample: |seed| {
            let at = attrs(&[("from", Attr::Int([0, 5, 32][seed as usize % 3])), ("count", Attr::Int(16))]);
            (vec![Rng(seed).dense(&[3, 48])], at)
        },
    },
    OpRow {
        name: "sum_last",
        doc: "the sum over the last axis",
        form: Form::Row,
        gradient: Some(|d| Ok(vec![Some(d.op("spread_last", &[d.dy(), d.arg(0)])?)])),
        donates: &[],
        infer: infer_sum_last,
        reference: |a, _, t| {
            let y: Vec<f64> = a[0].values().chunks(a[0].row()).map(|r| r.iter().sum()).collect();
            vec![result(&t[0], &y)]
        },
        edge: Edge::none,
        lower: |l| {
            let n = l.ins[0].ty.shape.last().expect("inferred before");
            lower_sum(l, n, |index, k| [index, &[k]].concat())
        },
        sample,
    },
    OpRow {
        name: "sum_first",
        doc: "the sum over the first axis",
        form: Form::Nest,
        gradient: Some(|d| Ok(vec![Some(d.op("spread_first", &[d.dy(), d.arg(0)])?)])),
        donates: &[],
        infer: infer_sum_first,
        reference: |a, _, t| {
            let x = a[0].values();
            let n = x.len() / a[0].shape[0];
            let y: Vec<f64> = (0..n).map(|i| x.iter().skip(i).step_by(n).sum()).collect();
            vec![result(&t[0], &y)]
        },
        edge: Edge::none,
        lower: |l| lower_sum(l, &l.ins[0].ty.shape[0], |index, k| [&[k], index].concat()),
        sample,
    },
    OpRow {
        name: "spread_last",
        doc: "x repeated along a new last axis, as long as that of `like`",
        form: Form::Row,
        gradient: Some(|d| Ok(vec![Some(d.op("sum_last", &[d.dy()])?), Some(d.zero(d.arg(1))?)])),
        donates: &[],
        infer: |t, _| infer_spread(t, true),
        reference: |a, _, t| {
            let n = a[1].row();
            let y: Vec<f64> = a[0].values().into_iter().flat_map(|v| vec![v; n]).collect();
            vec![result(&t[0], &y)]
        },
        edge: Edge::none,
        lower: |l| {
            let y = &l.outs[0];
            nest(l, &y.ty.shape, |i| vec![y.write(&l.name("y"), i, l.ins[0].read(&i[..i.len() - 1]))])
        },
        sample: |seed| sample_spread(seed, true),
    },
    OpRow {
        name: "spread_first",
        doc: "x repeated along a new first axis, as long as that of `like`",
        form: Form::Nest,
        gradient: Some(|d| Ok(vec![Some(d.op("sum_first", &[d.dy()])?), Some(d.zero(d.arg(1))?)])),
        donates: &[],
        infer: |t, _| infer_spread(t, false),
        reference: |a, _, t| vec![result(&t[0], &a[0].values().repeat(a[1].shape[0]))],
        edge: Edge::none,
        lower: |l| {
            let y = &l.outs[0];
            nest(l, &y.ty.shape, |i| vec![y.write(&l.name("y"), i, l.ins[0].read(&i[1..]))])
        },
        sample: |seed| sample_spread(seed, false),
    },
];
