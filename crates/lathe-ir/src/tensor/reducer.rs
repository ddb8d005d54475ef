//! Reductions as rows: accumulators, identity, combine and law.
//!
//! A reduction is a monoid over a tuple. `sum` has one accumulator; `argmax` carries (value, index); `welford` carries
//! (count, mean, sum of squared differences); `softmax` carries (maximum, sum of exponentials below it), so a
//! numerically safe softmax in one pass is an instance like any other.

use super::{Binary, Expr, Unary};
use crate::DType;

/// Which rewrites of the order a reduction allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// Any grouping and any order.
    Commutative,
    /// Any grouping, the order kept.
    Associative,
    /// Neither.
    None,
}

/// A row of the table of reductions.
pub struct Reducer {
    /// Name in the text form.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Number of accumulators.
    pub arity: usize,
    /// What may be reordered (for floats up to rounding).
    pub law: Law,
    identity: fn(&[DType]) -> Vec<Expr>,
    combine: fn(&[Expr], &[Expr]) -> Vec<Expr>,
}

impl Reducer {
    /// The neutral accumulators.
    pub fn identity(&self, types: &[DType]) -> Vec<Expr> {
        (self.identity)(types)
    }

    /// The combination of two accumulator tuples.
    pub fn combine(&self, a: &[Expr], b: &[Expr]) -> Vec<Expr> {
        (self.combine)(a, b)
    }

    /// The row of a name.
    pub fn named(name: &str) -> Option<&'static Reducer> {
        REDUCERS.iter().find(|r| r.name == name)
    }
}

impl PartialEq for Reducer {
    fn eq(&self, o: &Reducer) -> bool {
        self.name == o.name
    }
}

impl Eq for Reducer {}

impl std::hash::Hash for Reducer {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl std::fmt::Debug for Reducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

fn constant(t: DType, v: f64) -> Expr {
    if t.is_float() { Expr::float(v, t) } else { Expr::int(v as i64, t) }
}

fn lowest(t: DType) -> Expr {
    match t {
        DType::Int { signed: false, .. } => Expr::int(0, t),
        DType::Int { bits, .. } => Expr::int(i64::MIN >> (64 - bits), t),
        DType::Fixed { .. } => lowest(DType::int(t.bits() as u8)).bitcast(t),
        _ => Expr::float(f64::NEG_INFINITY, t),
    }
}

fn highest(t: DType) -> Expr {
    match t {
        DType::Int { signed: false, bits } => Expr::int((u64::MAX >> (64 - bits)) as i64, t),
        DType::Int { bits, .. } => Expr::int(i64::MAX >> (64 - bits), t),
        DType::Fixed { .. } => highest(DType::int(t.bits() as u8)).bitcast(t),
        _ => Expr::float(f64::INFINITY, t),
    }
}

/// The table.
pub static REDUCERS: &[Reducer] = &[
    Reducer {
        name: "sum",
        doc: "a + b",
        arity: 1,
        law: Law::Commutative,
        identity: |t| vec![constant(t[0], 0.0)],
        combine: |a, b| vec![&a[0] + &b[0]],
    },
    Reducer {
        name: "product",
        doc: "a * b",
        arity: 1,
        law: Law::Commutative,
        identity: |t| vec![constant(t[0], 1.0)],
        combine: |a, b| vec![&a[0] * &b[0]],
    },
    Reducer {
        name: "max",
        doc: "the larger",
        arity: 1,
        law: Law::Commutative,
        identity: |t| vec![lowest(t[0])],
        combine: |a, b| vec![a[0].max_with(&b[0])],
    },
    Reducer {
        name: "min",
        doc: "the smaller",
        arity: 1,
        law: Law::Commutative,
        identity: |t| vec![highest(t[0])],
        combine: |a, b| vec![a[0].min_with(&b[0])],
    },
    Reducer {
        name: "argmax",
        doc: "(value, index) of the largest value, the smallest index among equals",
        arity: 2,
        law: Law::Commutative,
        identity: |t| vec![lowest(t[0]), highest(t[1])],
        combine: |a, b| {
            let better = a[0].bin(Binary::Lt, &b[0]);
            let tie = a[0].bin(Binary::Eq, &b[0]);
            let index = Expr::select(&tie, &a[1].min_with(&b[1]), &Expr::select(&better, &b[1], &a[1]));
            vec![a[0].max_with(&b[0]), index]
        },
    },
    Reducer {
        name: "welford",
        doc: "(count, mean, sum of squared differences from the mean)",
        arity: 3,
        law: Law::Commutative,
        identity: |t| vec![constant(t[0], 0.0), constant(t[1], 0.0), constant(t[2], 0.0)],
        combine: |a, b| {
            let n = &a[0] + &b[0];
            let d = &b[1] - &a[1];
            let zero = n.bin(Binary::Eq, &Expr::f32(0.0));
            let share = Expr::select(&zero, &Expr::f32(0.0), &(&b[0] / &n));
            let mean = &a[1] + &(&d * &share);
            let m2 = &(&a[2] + &b[2]) + &(&(&d * &d) * &(&a[0] * &share));
            vec![n, mean, m2]
        },
    },
    Reducer {
        name: "softmax",
        doc: "(maximum m, sum of exp(x - m)), the running state of a safe softmax (Milakov and Gimelshein 2018)",
        arity: 2,
        law: Law::Commutative,
        identity: |t| vec![Expr::float(f64::from(f32::MIN), t[0]), constant(t[1], 0.0)],
        combine: |a, b| {
            let m = a[0].max_with(&b[0]);
            let part = |x: &[Expr]| &(&x[0] - &m).un(Unary::Exp) * &x[1];
            vec![m.clone(), &part(a) + &part(b)]
        },
    },
];
