//! Matrix products with the weights' rows as columns of the result: `y[m, n] = sum_k x[m, k] * w[n, k]`.
//!
//! When both sides are stored as integer codes, scales and minima that a group of columns shares leave the inner sum:
//! `sum_b dw[n, b] * dx[m, b] * (sum_k qw * qx) + mw[n, b] * sx[m, b]`, where `sx` is the sum of the group's activations, and the
//! inner sum is exact in 32-bit integers. Weights without minima have a code `zero` that means 0: their inner sum starts
//! at `-zero * sum_k qx`, which the activations bring along. Where groups are parts of blocks that share a scale of
//! activations, those scales leave the sum over a block's groups too, and so do the units of the weights' scales and minima: what
//! is left of a minimum is an integer, and their sum one of products of bytes, as `sx` comes in two digits.

use crate::encode::encode_a8;
use crate::norm::scalar;
use crate::require;
use crate::sample::{Rng, result};
use crate::typed::read;
use lathe_ir::encodings::{Activations, formats};
use lathe_ir::graph::{Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Operand, Type, ValueId};
use lathe_ir::tensor::{Expr, Iter, Stmt, Unary};
use lathe_ir::{Bounds, DType, IrError, Tensor};

/// Whether a tensor is of floats, or encoded ones.
fn float(t: &Type) -> bool {
    matches!(t.dtype, DType::F32 | DType::F16 | DType::BF16)
}

fn infer(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t.iter().all(|t| t.shape.len() == 2), "expects two matrices")?;
    require(t.iter().all(float), "expects floats")?;
    require(t[0].shape[1] == t[1].shape[1], "the rows differ in length")?;
    Ok(vec![Type::dense(DType::F32, &[t[0].shape[0].clone(), t[1].shape[0].clone()])])
}

fn reference(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, w, k) = (a[0].values(), a[1].values(), a[0].row());
    let mut y = vec![];
    for xr in x.chunks(k) {
        y.extend(w.chunks(k).map(|wr| xr.iter().zip(wr).map(|(a, b)| a * b).sum::<f64>()));
    }
    vec![result(&t[0], &y)]
}

/// Whether the product can run on integer codes: the activations are stored for these weights.
fn integer(x: &Operand, w: &Operand) -> bool {
    let stored = x.ty.encoding.as_ref().and_then(|name| Activations::named(name));
    let columns = w.ty.shape.last().and_then(lathe_ir::Int::as_const);
    stored.is_some() && stored == w.ty.storage().and_then(|w| Activations::of(&w, columns?))
}

/// An element as f32.
fn single(o: &Operand, index: &[Expr]) -> Expr {
    if o.ty.encoding.is_none() { read(o, index) } else { o.read(index) }
}

/// The statements that compute one element into the scalar `acc`; `xi` and `wi` are all indices but the last.
pub(crate) fn dot(l: &Lowering, x: &Operand, w: &Operand, xi: &[Expr], wi: &[Expr], acc: &str) -> Vec<Stmt> {
    let k_extent = x.ty.shape.last().expect("a matrix");
    let at = |i: &[Expr], last: &Expr| [i, std::slice::from_ref(last)].concat();
    let mut body = vec![scalar(acc, DType::F32), Stmt::store(&l.name("z"), acc, &[], Expr::f32(0.0))];
    if !integer(x, w) {
        let k = l.var("k");
        let product = &single(x, &at(xi, &k)) * &single(w, &at(wi, &k));
        let sum = vec![Stmt::reduce(&l.name("s"), acc, &[], "sum", product)];
        body.push(Stmt::for_(&l.name("k"), k_extent.into(), Iter::Reduce, sum));
        return body;
    }
    let (b, k) = (l.var("b"), l.var("k"));
    let (ex, ew) = (x.ty.storage().expect("encoded"), w.ty.storage().expect("encoded"));
    let (cx, cw) = (ex.coded().expect("codes"), ew.coded().expect("codes"));
    let Activations { block, group, zero } =
        x.ty.encoding.as_ref().and_then(|name| Activations::named(name)).expect("activations");
    let whole = group == block;
    let first = if whole { b.clone() * group } else { b.clone() * block + l.var("g") * group };
    let column = first.clone() + k;
    let (first_x, first_w) = (at(xi, &first), at(wi, &first));
    let bias = match zero {
        Some(zero) if zero != 0 => x.read_field("bias", &first_x),
        _ => Expr::int(0, DType::I32),
    };
    let integers = |sum: &str, start: Expr, var: &str, extent: i64, product: Expr| {
        let add = Stmt::reduce(&l.name(&format!("{sum}s")), &l.name(sum), &[], "sum", product);
        vec![
            scalar(&l.name(sum), DType::I32),
            Stmt::store(&l.name(&format!("{sum}z")), &l.name(sum), &[], start),
            Stmt::for_(&l.name(var), extent.into(), Iter::Reduce, vec![add]),
        ]
    };
    let float = |sum: &str| Expr::load(&l.name(sum), &[]).cast(DType::F32);
    let product = &w.code(&ew, &cw, &at(wi, &column)) * &x.code(&ex, &cx, &at(xi, &column));
    let mut sum = integers("i", bias, "k", group, product);
    if whole {
        let value = &x.read_field("d", &first_x) * &float("i");
        let value = w.scale(&ew, &cw, &first_w).map_or(value.clone(), |scale| &scale * &value);
        sum.push(Stmt::reduce(&l.name("s"), acc, &[], "sum", value));
        // Apart, so that each is one multiply-add.
        sum.extend(w.minimum(&ew, &first_w).map(|(m, less)| {
            let m = &m * &x.read_field("sum", &first_x);
            Stmt::reduce(&l.name("sm"), acc, &[], "sum", if less { m.un(Unary::Neg) } else { m })
        }));
    } else {
        // In units of the block's scale, and the minima in units of theirs.
        let part = l.name("t");
        let value = w.factor(&ew, &cw, &first_w).map_or(float("i"), |s| &s.cast(DType::F32) * &float("i"));
        sum.push(Stmt::reduce(&l.name("s"), &part, &[], "sum", value));
        let (first, groups) = (b.clone() * block, block / group);
        let (first_x, first_w) = (at(xi, &first), at(wi, &first));
        sum = vec![
            scalar(&part, DType::F32),
            Stmt::store(&l.name("tz"), &part, &[], Expr::f32(0.0)),
            Stmt::for_(&l.name("g"), groups.into(), Iter::Reduce, sum),
        ];
        let mut value = Expr::load(&part, &[]);
        if let Some(d) = w.block_scale(&ew, &first_w) {
            value = &d * &value;
        }
        if let Some((unit, _)) = w.minimum_factor(&ew, &first_w) {
            let mut total: Option<Expr> = None;
            for digit in Activations::DIGITS {
                let column = first.clone() + l.var(digit) * group;
                let (_, n) = w.minimum_factor(&ew, &at(wi, &column)).expect("as of the first one");
                let product = &n * &x.read_field(digit, &at(xi, &column)).cast(DType::I32);
                // What comes before is so many of this digit.
                let start = match &total {
                    Some(total) => total * &Expr::int(Activations::DIGIT, DType::I32),
                    None => Expr::int(0, DType::I32),
                };
                sum.extend(integers(&digit[..1], start, digit, groups, product));
                total = Some(Expr::load(&l.name(&digit[..1]), &[]));
            }
            let total = total.expect("two digits").cast(DType::F32);
            value = &value - &(&unit * &total);
        }
        let value = &x.read_field("d", &first_x) * &value;
        sum.push(Stmt::reduce(&l.name("ts"), acc, &[], "sum", value));
    }
    let blocks = k_extent.div(block, &Bounds::new());
    body.push(Stmt::for_(&l.name("b"), (&blocks).into(), Iter::Reduce, sum));
    body
}

fn lower(l: &Lowering) -> Vec<Stmt> {
    let (x, w, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let (m, n, acc) = (l.var("m"), l.var("n"), l.name("acc"));
    let mut body = dot(l, x, w, std::slice::from_ref(&m), std::slice::from_ref(&n), &acc);
    body.push(y.write(&l.name("y"), &[m, n], Expr::load(&acc, &[])));
    let inner = Stmt::for_(&l.name("n"), (&w.ty.shape[0]).into(), Iter::Spatial, body);
    vec![Stmt::for_(&l.name("m"), (&x.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

/// `dx = dy w` and `dw = dy' x`: products again, of what is transposed.
fn gradient(d: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError> {
    let (x, w, dy, op) = (d.arg(0), d.arg(1), d.dy(), d.operator());
    let mut turned = vec![];
    for v in [w, dy, x] {
        let mut axes: Vec<i64> = (0..d.ty(v).shape.len() as i64).collect();
        let last = axes.len() - 1;
        axes.swap(last, last - 1);
        turned.push(d.op_with("permute", &[v], &[("axes", Attr::Ints(axes))])?);
    }
    let dx = d.op(&op, &[dy, turned[0]])?;
    Ok(vec![Some(dx), Some(d.op(&op, &[turned[1], turned[2]])?)])
}

fn infer_batch(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t.iter().all(|t| t.shape.len() == 3), "expects two tensors of three axes")?;
    require(t.iter().all(|t| t.dtype == DType::F32 && t.encoding.is_none()), "expects dense f32")?;
    require(t[0].shape[0] == t[1].shape[0] && t[0].shape[2] == t[1].shape[2], "the shapes do not fit")?;
    let (x, w) = (&t[0].shape, &t[1].shape);
    Ok(vec![Type::dense(DType::F32, &[x[0].clone(), x[1].clone(), w[1].clone()])])
}

fn batch_reference(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, w, k) = (a[0].values(), a[1].values(), a[0].row());
    let mut y = vec![];
    for (x, w) in x.chunks(a[0].shape[1] * k).zip(w.chunks(a[1].shape[1] * k)) {
        for xr in x.chunks(k) {
            y.extend(w.chunks(k).map(|wr| xr.iter().zip(wr).map(|(a, b)| a * b).sum::<f64>()));
        }
    }
    vec![result(&t[0], &y)]
}

fn lower_batch(l: &Lowering) -> Vec<Stmt> {
    let (x, w, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let (b, m, n, acc) = (l.var("0"), l.var("1"), l.var("2"), l.name("acc"));
    let mut body = dot(l, x, w, &[b.clone(), m.clone()], &[b.clone(), n.clone()], &acc);
    body.push(y.write(&l.name("y"), &[b, m, n], Expr::load(&acc, &[])));
    for d in (0..3).rev() {
        body = vec![Stmt::for_(&l.name(&d.to_string()), (&y.ty.shape[d]).into(), Iter::Spatial, body)];
    }
    body
}

const BATCH: OpRow = OpRow {
    name: "batch_matmul",
    doc: "y[b, m, n] = sum over k of x[b, m, k] * w[b, n, k]",
    form: Form::NEST,
    gradient: Some(gradient),
    donates: &[],
    infer: infer_batch,
    reference: batch_reference,
    lower: lower_batch,
    edge: Edge::none,
    sample: |seed| {
        let mut r = Rng(seed);
        let k = if seed.is_multiple_of(2) { 5 } else { 16 };
        (vec![r.dense(&[2, 3, k]), r.dense(&[2, 4, k])], Attrs::new())
    },
};

pub(crate) const ROWS: &[OpRow] = &[
    BATCH,
    OpRow {
        name: "matmul",
        doc: "y[m, n] = sum over k of x[m, k] * w[n, k]",
        form: Form::CONTRACTION,
        gradient: Some(gradient),
        donates: &[],
        infer,
        reference,
        lower,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            let dense = ["f32", "f32.tile16", "f16", "bf16"].map(|t| (t.to_string(), 64));
            let mut weights: Vec<(String, i64)> = dense.into();
            for (name, columns) in formats().map(|(name, columns, _)| (name, columns)).chain([("i8", 96)]) {
                weights.extend(["", ".tile16", ".tile16s"].map(|t| (format!("{name}{t}"), columns.max(64))));
            }
            weights.push(("bf16.tile16p".into(), 64));
            let (weight, k) = &weights[seed as usize % weights.len()];
            // Coded and dense activations, one row and several.
            let round = seed as usize / weights.len() % 4;
            let rows = [1, 7, 1, 11][(round + seed as usize / 9) % 4];
            let (m, n, k) = (rows, 32, *k as usize);
            let w = r.encoded(weight, &[n, k]);
            // Pairs of halves are for many rows of halves.
            if weight.ends_with('p') {
                return (vec![r.typed(DType::BF16, &[m + 16, k]), r.encoded(weight, &[n, k])], Attrs::new());
            }
            let dense = r.dense(&[m, k]);
            let coded = round < 2 && w.encoding.as_ref().is_some_and(|e| e.coded().is_some());
            let x = match &w.encoding {
                Some(e) if coded => encode_a8(&dense, &Activations::of(e, k as i64).expect("codes").name()),
                _ => dense,
            };
            (vec![x, w], Attrs::new())
        },
    },
];
