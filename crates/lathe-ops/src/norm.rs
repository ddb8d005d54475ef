//! Normalisations over rows, or with shorter weights over each part of a row as long as they; their gradients are sums and products of rows.

use crate::sample::{Rng, attrs, result};
use crate::{require, require_f32};
use lathe_ir::graph::{Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Type, ValueId, float_attr};
use lathe_ir::tensor::{Buffer, Expr, Iter, REGISTER, Stmt, Unary, WORKSPACE};
use lathe_ir::{DType, Int, IrError, Tensor};
use std::sync::Arc;

/// A scalar accumulator.
pub(crate) fn scalar(name: &str, dtype: DType) -> Stmt {
    Stmt::Alloc(Arc::new(Buffer::dense(name, dtype, &[], REGISTER)))
}

/// A temporary array.
pub(crate) fn array(name: &str, shape: &[Int]) -> Stmt {
    Stmt::Alloc(Arc::new(Buffer::dense(name, DType::F32, shape, WORKSPACE)))
}

fn eps(a: &Attrs) -> f32 {
    float_attr(a, "eps").unwrap_or(1e-5) as f32
}

fn infer_rms(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t[0].shape.len() == 2, "expects a matrix and a row of weights")?;
    require_f32(t)?;
    require(
        t[1].shape == t[0].shape[1..] || parts(t) > 1,
        "a row is not a whole number of times the weights",
    )?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

/// How many parts of a row are normalised, each on its own; 0 where they are not whole.
fn parts(t: &[Type]) -> i64 {
    match (t[0].shape[1].as_const(), &t[1].shape[..]) {
        (Some(n), [w]) => w.as_const().filter(|w| *w > 0 && n % w == 0).map_or(0, |w| n / w),
        _ => 0,
    }
}

fn rms(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, w) = (a[0].values(), a[1].values());
    let mut y = vec![];
    for part in x.chunks(w.len()) {
        let r = 1.0 / (part.iter().map(|v| v * v).sum::<f64>() / w.len() as f64 + f64::from(eps(at))).sqrt();
        y.extend(part.iter().zip(&w).map(|(v, w)| v * r * w));
    }
    vec![result(&t[0], &y)]
}

fn lower_rms(l: &Lowering) -> Vec<Stmt> {
    let (x, w, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let (n, parts): (Expr, i64) = ((&w.ty.shape[0]).into(), parts(&[x.ty.clone(), w.ty.clone()]));
    let (t, k, j, acc) = (l.var("0"), l.var("k"), l.var("1"), l.name("ss"));
    let place = |i: &Expr| if parts > 1 { l.var("h") * n.clone() + i.clone() } else { i.clone() };
    let at = |i: &Expr| x.read(&[t.clone(), place(i)]);
    let mean = &Expr::load(&acc, &[]) / &n.cast(DType::F32);
    let scale = &Expr::f32(1.0) / &(&mean + &Expr::f32(eps(&l.attrs))).un(Unary::Sqrt);
    let value = &(&at(&j) * &scale) * &w.read(std::slice::from_ref(&j));
    let square = vec![Stmt::reduce(&l.name("s"), &acc, &[], "sum", &at(&k) * &at(&k))];
    let scaled = vec![y.write(&l.name("y"), &[t, place(&j)], value)];
    let mut body = vec![
        scalar(&acc, DType::F32),
        Stmt::store(&l.name("z"), &acc, &[], Expr::f32(0.0)),
        Stmt::for_(&l.name("k"), n.clone(), Iter::Reduce, square),
        Stmt::for_(&l.name("1"), n.clone(), Iter::Spatial, scaled),
    ];
    if parts > 1 {
        body = vec![Stmt::for_(&l.name("h"), parts.into(), Iter::Spatial, body)];
    }
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, body)]
}

/// The sum over the last axis.
fn sum_last(d: &mut Adjoint<'_>, v: ValueId) -> Result<ValueId, IrError> {
    let last = d.ty(v).shape.len() as i64 - 1;
    d.op_with("sum", &[v], &[("axes", Attr::Ints(vec![last]))])
}

/// The sum over the first axis.
fn sum_first(d: &mut Adjoint<'_>, v: ValueId) -> Result<ValueId, IrError> {
    d.op_with("sum", &[v], &[("axes", Attr::Ints(vec![0]))])
}

/// A value repeated along the last axis of another.
fn spread_last(d: &mut Adjoint<'_>, v: ValueId, like: ValueId) -> Result<ValueId, IrError> {
    let last = d.ty(like).shape.len() as i64 - 1;
    d.op_with("spread", &[v, like], &[("axes", Attr::Ints(vec![last]))])
}

/// The mean of each row of `v`, and a constant.
fn mean(d: &mut Adjoint<'_>, v: ValueId, plus: f64) -> Result<ValueId, IrError> {
    let Some(n) = d.ty(v).shape.last().and_then(lathe_ir::Int::as_const) else {
        return d.refuse("no gradient where rows have no constant length");
    };
    let sum = sum_last(d, v)?;
    d.affine(sum, 1.0 / n as f64, plus)
}

/// With `r = 1 / sqrt(mean(x^2) + eps)` and `g = dy * w`: `dx = r * (g - x * r * mean(g * x * r))`, `dw = sum of dy * x * r`.
fn rms_gradient(d: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError> {
    let (mut x, w, mut dy, e) = (d.arg(0), d.arg(1), d.dy(), f64::from(eps(d.attrs())));
    let parts = parts(&[d.ty(x).clone(), d.ty(w).clone()]);
    if parts > 1 {
        let attrs = [("shape", Attr::Ints(vec![0, parts, -1]))];
        (x, dy) = (d.op_with("reshape", &[x], &attrs)?, d.op_with("reshape", &[dy], &attrs)?);
    }
    let square = d.op("mul", &[x, x])?;
    let power = mean(d, square, e)?;
    let root = d.op("sqrt", &[power])?;
    let root = spread_last(d, root, x)?;
    let unit = d.op("div", &[x, root])?;
    let (g, weighed) = (d.op("mul", &[dy, w])?, d.op("mul", &[dy, unit])?);
    let along = d.op("mul", &[g, unit])?;
    let along = mean(d, along, 0.0)?;
    let along = spread_last(d, along, x)?;
    let along = d.op("mul", &[unit, along])?;
    let rest = d.op("sub", &[g, along])?;
    let (mut dx, mut dw) = (d.op("div", &[rest, root])?, sum_first(d, weighed)?);
    if parts > 1 {
        dx = d.op_with("reshape", &[dx], &[("shape", Attr::Ints(vec![0, -1]))])?;
        dw = sum_first(d, dw)?;
    }
    Ok(vec![Some(dx), Some(dw)])
}

fn infer_layer(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 3 && t[0].shape.len() == 2, "expects a matrix, a row of weights and a row of biases")?;
    require_f32(t)?;
    require(t[1..].iter().all(|w| w.shape == t[0].shape[1..]), "weights or biases are not as long as a row")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

fn layer(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, w, b, n) = (a[0].values(), a[1].values(), a[2].values(), a[0].row());
    let mut y = vec![];
    for row in x.chunks(n) {
        let mean = row.iter().sum::<f64>() / n as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let r = 1.0 / (variance + f64::from(eps(at))).sqrt();
        y.extend(row.iter().zip(w.iter().zip(&b)).map(|(v, (w, b))| (v - mean) * r * w + b));
    }
    vec![result(&t[0], &y)]
}

fn lower_layer(l: &Lowering) -> Vec<Stmt> {
    let (x, w, b, y) = (&l.ins[0], &l.ins[1], &l.ins[2], &l.outs[0]);
    let n: Expr = (&x.ty.shape[1]).into();
    let (t, k, q, j) = (l.var("0"), l.var("k"), l.var("q"), l.var("1"));
    let (sum, squares) = (l.name("sum"), l.name("ss"));
    let at = |i: &Expr| x.read(&[t.clone(), i.clone()]);
    let over_n = |s: &str| &Expr::load(s, &[]) / &n.cast(DType::F32);
    let apart = |i: &Expr| &at(i) - &over_n(&sum);
    let scale = &Expr::f32(1.0) / &(&over_n(&squares) + &Expr::f32(eps(&l.attrs))).un(Unary::Sqrt);
    let one = std::slice::from_ref;
    let value = &(&(&apart(&j) * &scale) * &w.read(one(&j))) + &b.read(one(&j));
    let reduce = |v: &str, block: &str, acc: &str, value: Expr| {
        let body = vec![Stmt::reduce(&l.name(block), acc, &[], "sum", value)];
        Stmt::for_(&l.name(v), n.clone(), Iter::Reduce, body)
    };
    let body = vec![
        scalar(&sum, DType::F32),
        Stmt::store(&l.name("z"), &sum, &[], Expr::f32(0.0)),
        reduce("k", "s", &sum, at(&k)),
        scalar(&squares, DType::F32),
        Stmt::store(&l.name("zq"), &squares, &[], Expr::f32(0.0)),
        reduce("q", "sq", &squares, &apart(&q) * &apart(&q)),
        Stmt::for_(
            &l.name("1"),
            n.clone(),
            Iter::Spatial,
            vec![y.write(&l.name("y"), &[t.clone(), j.clone()], value)],
        ),
    ];
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, body)]
}

/// With `u` the normalised row, `r` its divisor and `g = dy * w`: `dx = (g - mean(g) - u * mean(g * u)) / r`.
fn layer_gradient(d: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError> {
    let (x, w, dy, e) = (d.arg(0), d.arg(1), d.dy(), f64::from(eps(d.attrs())));
    let middle = mean(d, x, 0.0)?;
    let middle = spread_last(d, middle, x)?;
    let apart = d.op("sub", &[x, middle])?;
    let square = d.op("mul", &[apart, apart])?;
    let power = mean(d, square, e)?;
    let root = d.op("sqrt", &[power])?;
    let root = spread_last(d, root, x)?;
    let unit = d.op("div", &[apart, root])?;
    let (g, weighed) = (d.op("mul", &[dy, w])?, d.op("mul", &[dy, unit])?);
    let level = mean(d, g, 0.0)?;
    let level = spread_last(d, level, x)?;
    let along = d.op("mul", &[g, unit])?;
    let along = mean(d, along, 0.0)?;
    let along = spread_last(d, along, x)?;
    let along = d.op("mul", &[unit, along])?;
    let rest = d.op("sub", &[g, level])?;
    let rest = d.op("sub", &[rest, along])?;
    let (dw, db) = (sum_first(d, weighed)?, sum_first(d, dy)?);
    Ok(vec![Some(d.op("div", &[rest, root])?), Some(dw), Some(db)])
}

fn infer_softmax(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && t[0].shape.len() == 2, "expects a matrix")?;
    require_f32(t)?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

fn softmax(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let mut y = vec![];
    for row in a[0].values().chunks(a[0].row()) {
        let m = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = row.iter().map(|v| (v - m).exp()).collect();
        let s: f64 = e.iter().sum();
        y.extend(e.iter().map(|v| v / s));
    }
    vec![result(&t[0], &y)]
}

fn log_softmax(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let mut y = vec![];
    for row in a[0].values().chunks(a[0].row()) {
        let m = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let s = row.iter().map(|v| (v - m).exp()).sum::<f64>().ln();
        y.extend(row.iter().map(|v| v - m - s));
    }
    vec![result(&t[0], &y)]
}

/// Exponentials are computed once, into a temporary row.
fn lower_softmax(l: &Lowering) -> Vec<Stmt> {
    let (row, part) = (l.name("p"), l.name("r"));
    let (i, j, n) = (l.var("i"), l.var("1"), &l.ins[0].ty.shape[1]);
    let at = |v: &Expr| Expr::load(&row, std::slice::from_ref(v));
    let exponentials = |below: &dyn Fn(&str) -> Expr| {
        let one = Stmt::store(&l.name("e"), &row, std::slice::from_ref(&i), below("i").un(Unary::Exp));
        vec![
            array(&row, std::slice::from_ref(n)),
            Stmt::for_(&l.name("i"), n.into(), Iter::Spatial, vec![one]),
        ]
    };
    let whole = |sum: &Expr| {
        let inverse = Stmt::store(&l.name("rr"), &part, &[], &Expr::f32(1.0) / sum);
        vec![scalar(&part, DType::F32), inverse]
    };
    over_rows(l, &exponentials, &|_| at(&l.var("j")), &whole, &|_| &at(&j) * &Expr::load(&part, &[]))
}

fn lower_log_softmax(l: &Lowering) -> Vec<Stmt> {
    let log = l.name("log");
    let whole = |sum: &Expr| {
        vec![scalar(&log, DType::F32), Stmt::store(&l.name("ll"), &log, &[], sum.un(Unary::Log))]
    };
    let value = |below: &dyn Fn(&str) -> Expr| &below("1") - &Expr::load(&log, &[]);
    over_rows(l, &|_| vec![], &|below| below("j").un(Unary::Exp), &whole, &value)
}

/// What is made of the elements of a row less its maximum: of the function that gives such an element by the name of a loop.
type OfRow<'f, T> = &'f dyn Fn(&dyn Fn(&str) -> Expr) -> T;

/// Loops over rows: the maximum, what stands `before` the sum of `terms` over the loop `j`, what is made of that sum, and `value` in the
/// loop `1`.
fn over_rows(
    l: &Lowering,
    before: OfRow<'_, Vec<Stmt>>,
    terms: OfRow<'_, Expr>,
    whole: &dyn Fn(&Expr) -> Vec<Stmt>,
    value: OfRow<'_, Expr>,
) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let n: Expr = (&x.ty.shape[1]).into();
    let (t, m, s) = (l.var("0"), l.name("m"), l.name("l"));
    let at = |v: &str| x.read(&[t.clone(), l.var(v)]);
    let below = |v: &str| &at(v) - &Expr::load(&m, &[]);
    let reduce = |v: &str, block: &str, acc: &str, reducer: &str, value: Expr| {
        let body = vec![Stmt::reduce(&l.name(block), acc, &[], reducer, value)];
        Stmt::for_(&l.name(v), n.clone(), Iter::Reduce, body)
    };
    let mut body = vec![
        scalar(&m, DType::F32),
        Stmt::store(&l.name("zm"), &m, &[], Expr::float(f64::NEG_INFINITY, DType::F32)),
        reduce("k", "rm", &m, "max", at("k")),
    ];
    body.extend(before(&below));
    body.extend([
        scalar(&s, DType::F32),
        Stmt::store(&l.name("zl"), &s, &[], Expr::f32(0.0)),
        reduce("j", "rl", &s, "sum", terms(&below)),
    ]);
    body.extend(whole(&Expr::load(&s, &[])));
    let write = y.write(&l.name("y"), &[t.clone(), l.var("1")], value(&below));
    body.push(Stmt::for_(&l.name("1"), n.clone(), Iter::Spatial, vec![write]));
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, body)]
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "rms_norm",
        doc: "x[t, n] / sqrt(mean(x[t, :]^2) + eps) * w[n] (Zhang and Sennrich 2019), over each part of a row as long as w",
        form: Form::ROW,
        gradient: Some(rms_gradient),
        donates: &[],
        infer: infer_rms,
        reference: rms,
        lower: lower_rms,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            let w = [64, 16, 64, 4][seed as usize % 4];
            (vec![r.dense(&[3, 64]), r.dense(&[w])], attrs(&[("eps", Attr::Float(1e-5))]))
        },
    },
    OpRow {
        name: "layer_norm",
        doc: "(x[t, n] - mean(x[t, :])) / sqrt(variance(x[t, :]) + eps) * w[n] + b[n] (Ba et al. 2016)",
        form: Form::ROW,
        gradient: Some(layer_gradient),
        donates: &[],
        infer: infer_layer,
        reference: layer,
        lower: lower_layer,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.dense(&[3, 64]), r.dense(&[64]), r.dense(&[64])], attrs(&[("eps", Attr::Float(1e-5))]))
        },
    },
    OpRow {
        name: "softmax",
        doc: "exp(x[t, n]) / sum(exp(x[t, :]))",
        form: Form::ROW,
        gradient: Some(|d| {
            let (y, dy) = (d.result(), d.dy());
            let t = d.op("mul", &[y, dy])?;
            let sum = sum_last(d, t)?;
            let sum = spread_last(d, sum, y)?;
            let rest = d.op("sub", &[dy, sum])?;
            Ok(vec![Some(d.op("mul", &[y, rest])?)])
        }),
        donates: &[],
        infer: infer_softmax,
        reference: softmax,
        lower: lower_softmax,
        edge: Edge::none,
        sample: |seed| (vec![Rng(seed).dense(&[3, 40])], Attrs::new()),
    },
    OpRow {
        name: "log_softmax",
        doc: "x[t, n] - log(sum(exp(x[t, :])))",
        form: Form::ROW,
        gradient: Some(|d| {
            let (x, dy) = (d.arg(0), d.dy());
            let (y, sum) = (d.op("softmax", &[x])?, sum_last(d, dy)?);
            let sum = spread_last(d, sum, y)?;
            let t = d.op("mul", &[y, sum])?;
            Ok(vec![Some(d.op("sub", &[dy, t])?)])
        }),
        donates: &[],
        infer: infer_softmax,
        reference: log_softmax,
        lower: lower_log_softmax,
        edge: Edge::none,
        sample: |seed| {
            (vec![Rng(seed).dense(&[3, if seed.is_multiple_of(2) { 40 } else { 48 }])], Attrs::new())
        },
    },
];
