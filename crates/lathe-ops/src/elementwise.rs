//! Elementwise operators: each element of the result from the same element of the arguments. The second argument may
//! lack leading axes (a bias).

use crate::require;
use crate::sample::{Rng, result};
use lathe_ir::graph::{Attrs, Edge, Form, Lowering, OpRow, Type};
use lathe_ir::tensor::{Expr, Iter, Stmt, Unary};
use lathe_ir::{DType, Tensor};

fn infer_unary(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && t[0].dtype == DType::F32, "expects one tensor of f32")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

fn infer_binary(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t.iter().all(|t| t.dtype == DType::F32), "expects two tensors of f32")?;
    require(t[0].shape.ends_with(&t[1].shape), "the second shape is not the end of the first")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

/// Loops over the result's axes around one store of `value(arguments at the element)`.
fn loops(l: &Lowering, value: &dyn Fn(&[Expr]) -> Expr) -> Vec<Stmt> {
    let shape = &l.outs[0].ty.shape;
    let index: Vec<Expr> = (0..shape.len()).map(|d| l.var(&d.to_string())).collect();
    let args: Vec<Expr> = l.ins.iter().map(|o| o.read(&index[index.len() - o.ty.shape.len()..])).collect();
    let mut body = vec![l.outs[0].write(&l.name("y"), &index, value(&args))];
    for d in (0..shape.len()).rev() {
        body = vec![Stmt::for_(&l.name(&d.to_string()), (&shape[d]).into(), Iter::Spatial, body)];
    }
    body
}

fn map2(args: &[Tensor], ty: &Type, f: impl Fn(f64, f64) -> f64) -> Vec<Tensor> {
    let (a, b) = (args[0].values(), args[1].values());
    vec![result(ty, &a.iter().enumerate().map(|(i, x)| f(*x, b[i % b.len()])).collect::<Vec<_>>())]
}

fn sample_unary(seed: u64) -> (Vec<Tensor>, Attrs) {
    let mut r = Rng(seed);
    (vec![r.dense(&[3, 48])], Attrs::new())
}

fn sample_binary(seed: u64) -> (Vec<Tensor>, Attrs) {
    let mut r = Rng(seed);
    let second = if seed.is_multiple_of(2) { vec![48] } else { vec![3, 48] };
    (vec![r.dense(&[3, 48]), r.dense(&second)], Attrs::new())
}

macro_rules! unary {
    ($name:literal, $doc:literal, $reference:expr, $value:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: Form::Elementwise,
            donates: &[],
            infer: infer_unary,
            reference: |a, _, t| {
                vec![result(&t[0], &a[0].values().into_iter().map($reference).collect::<Vec<_>>())]
            },
            edge: Edge::none,
            lower: |l| {
                let value: fn(&Expr) -> Expr = $value;
                loops(l, &|a| value(&a[0]))
            },
            sample: sample_unary,
        }
    };
}

macro_rules! binary {
    ($name:literal, $doc:literal, $reference:expr, $value:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: Form::Elementwise,
            donates: &[],
            infer: infer_binary,
            reference: |a, _, t| map2(a, &t[0], $reference),
            edge: Edge::none,
            lower: |l| {
                let value: fn(&Expr, &Expr) -> Expr = $value;
                loops(l, &|a| value(&a[0], &a[1]))
            },
            sample: sample_binary,
        }
    };
}

fn one_and_exp_neg(x: &Expr) -> Expr {
    &Expr::f32(1.0) + &x.un(Unary::Neg).un(Unary::Exp)
}

fn sigmoid(x: &Expr) -> Expr {
    &Expr::f32(1.0) / &one_and_exp_neg(x)
}

fn silu(x: &Expr) -> Expr {
    x / &one_and_exp_neg(x)
}

pub(crate) const ROWS: &[OpRow] = &[
    unary!("neg", "-x", |x| -x, |x| x.un(Unary::Neg)),
    unary!("exp", "e to the power x", f64::exp, |x| x.un(Unary::Exp)),
    unary!("tanh", "hyperbolic tangent", f64::tanh, |x| x.un(Unary::Tanh)),
    unary!("relu", "max(x, 0)", |x| x.max(0.0), |x| x.max_with(&Expr::f32(0.0))),
    unary!("sigmoid", "1 / (1 + exp(-x))", |x| 1.0 / (1.0 + (-x).exp()), sigmoid),
    unary!("silu", "x / (1 + exp(-x))", |x| x / (1.0 + (-x).exp()), silu),
    binary!("add", "x + y", |x, y| x + y, |x, y| x + y),
    binary!("sub", "x - y", |x, y| x - y, |x, y| x - y),
    binary!("mul", "x * y", |x, y| x * y, |x, y| x * y),
    binary!("div", "x / y", |x, y| x / y, |x, y| x / y),
    binary!("max", "the larger of x and y", f64::max, |x, y| x.max_with(y)),
    binary!(
        "swiglu",
        "silu(x) * y: the gate of a gated feed-forward layer (Shazeer 2020)",
        |x, y| x / (1.0 + (-x).exp()) * y,
        |x, y| &silu(x) * y
    ),
];
