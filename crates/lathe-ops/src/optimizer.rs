//! Adam (Kingma and Ba 2015), with decoupled weight decay (Loshchilov and Hutter 2019). Parameter and moments are linear:
//! each step puts their successors in the same place.
//!
//! The bias corrections are state too: `1 - beta^t` follows the recurrence of a moment whose gradient is always 1, and so
//! keeps the precision that `1 - pow(beta, t)` loses in f32 while t is small.

use crate::axes::dense;
use crate::require;
use crate::sample::{Rng, attrs, result};
use crate::typed::nest;
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, float_attr};
use lathe_ir::tensor::{Expr, Stmt, Unary};
use lathe_ir::{DType, Tensor};

struct Rates {
    lr: f64,
    beta: [f64; 2],
    eps: f64,
    decay: f64,
}

fn rates(a: &Attrs) -> Rates {
    let get = |name: &str, default| float_attr(a, name).unwrap_or(default);
    Rates {
        lr: get("lr", 1e-3),
        beta: [get("beta1", 0.9), get("beta2", 0.999)],
        eps: get("eps", 1e-8),
        decay: get("decay", 0.0),
    }
}

fn f(v: f64) -> Expr {
    Expr::f32(v as f32)
}

/// `old * beta + new * (1 - beta)`.
fn moved(old: &Expr, new: &Expr, beta: f64) -> Expr {
    &(old * &f(beta)) + &(new * &f(1.0 - beta))
}

fn pair(t: &Type) -> bool {
    *t == Type::dense(DType::F32, &[2.into()])
}

fn infer_weights(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && pair(&t[0]), "expects two numbers of f32")?;
    Ok(t.to_vec())
}

fn lower_weights(l: &Lowering) -> Vec<Stmt> {
    let (c, r) = (&l.outs[0], rates(&l.attrs));
    let step = |i: usize| {
        let at = [(i as i64).into()];
        c.write(&l.name(&format!("c{i}")), &at, moved(&c.read(&at), &f(1.0), r.beta[i]))
    };
    vec![step(0), step(1)]
}

fn infer_adam(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(
        t.len() == 5 && dense(&t[0], 0),
        "expects a dense parameter, two moments, a gradient, bias corrections",
    )?;
    require(t[1..4].iter().all(|o| *o == t[0]), "moments and gradient are not like the parameter")?;
    require(pair(&t[4]), "the bias corrections are not two numbers of f32")?;
    Ok(t[..3].to_vec())
}

fn adam(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let [mut w, mut m, mut v, g, c] = [0, 1, 2, 3, 4].map(|i| a[i].values());
    let r = rates(at);
    for i in 0..w.len() {
        m[i] = m[i] * r.beta[0] + g[i] * (1.0 - r.beta[0]);
        v[i] = v[i] * r.beta[1] + g[i] * g[i] * (1.0 - r.beta[1]);
        w[i] = w[i] * (1.0 - r.lr * r.decay) - r.lr * (m[i] / c[0]) / ((v[i] / c[1]).sqrt() + r.eps);
    }
    [w, m, v].iter().zip(t).map(|(x, t)| result(t, x)).collect()
}

fn lower_adam(l: &Lowering) -> Vec<Stmt> {
    let ([w, m, v], r) = ([&l.outs[0], &l.outs[1], &l.outs[2]], rates(&l.attrs));
    nest(l, &w.ty.shape, |i| {
        let g = l.ins[3].read(i);
        let correction = |k: i64| l.ins[4].read(&[k.into()]);
        let mean = &m.read(i) / &correction(0);
        let spread = &(&v.read(i) / &correction(1)).un(Unary::Sqrt) + &f(r.eps);
        let kept = &w.read(i) * &f(1.0 - r.lr * r.decay);
        vec![
            m.write(&l.name("m"), i, moved(&m.read(i), &g, r.beta[0])),
            v.write(&l.name("v"), i, moved(&v.read(i), &(&g * &g), r.beta[1])),
            w.write(&l.name("w"), i, &kept - &(&(&mean * &f(r.lr)) / &spread)),
        ]
    })
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "adam_weights",
        doc: "c * beta + (1 - beta) for beta1 and beta2, in place: after t steps from 0, 1 - beta^t",
        form: Form::NEST,
        gradient: None,
        donates: &[(0, 0)],
        infer: infer_weights,
        reference: |a, at, t| {
            let moved = |(c, b): (f64, f64)| c * b + (1.0 - b);
            vec![result(&t[0], &a[0].values().into_iter().zip(rates(at).beta).map(moved).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: lower_weights,
        sample: |seed| (vec![Rng(seed).dense(&[2])], Attrs::new()),
    },
    OpRow {
        name: "adam",
        doc: "parameter, mean and mean square of the gradient after a step, in place; the corrections are adam_weights",
        form: Form::ELEMENTWISE,
        gradient: None,
        donates: &[(0, 0), (1, 1), (2, 2)],
        infer: infer_adam,
        reference: adam,
        edge: Edge::none,
        lower: lower_adam,
        sample: |seed| {
            let mut r = Rng(seed);
            let shapes: [&[usize]; 3] = [&[3, 48], &[5], &[32]];
            let shape = shapes[seed as usize % 3];
            let [w, m, g] = [0, 1, 2].map(|_| r.dense(shape));
            let v = Tensor::f32(shape, &r.dense(shape).to_f32().iter().map(|v| v * v).collect::<Vec<_>>());
            let at = attrs(&[("lr", Attr::Float(0.01)), ("decay", Attr::Float(0.1))]);
            (vec![w, m, v, g, Tensor::f32(&[2], &[0.19, 0.002])], at)
        },
    },
];
