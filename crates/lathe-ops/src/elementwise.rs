//! Elementwise operators: each element of the result from the same element of the arguments. The second argument may
//! lack leading axes (a bias).

use crate::require;
use crate::sample::{Rng, attrs, result};
use lathe_ir::graph::{
    Adjoint, Attr, Attrs, Edge, Form, Gradient, Lowering, OpRow, Type, ValueId, float_attr,
};
use lathe_ir::tensor::{Binary, Expr, Iter, Stmt, Unary};
use lathe_ir::{DType, IrError, Tensor};

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
pub(crate) fn loops(l: &Lowering, value: &dyn Fn(&[Expr]) -> Expr) -> Vec<Stmt> {
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

fn sample_positive(seed: u64) -> (Vec<Tensor>, Attrs) {
    let x = Rng(seed).dense(&[3, 48]).to_f32();
    (vec![Tensor::f32(&[3, 48], &x.iter().map(|x| 1.5 + x).collect::<Vec<_>>())], Attrs::new())
}

fn sample_binary(seed: u64) -> (Vec<Tensor>, Attrs) {
    let mut r = Rng(seed);
    let second = if seed.is_multiple_of(2) { vec![48] } else { vec![3, 48] };
    (vec![r.dense(&[3, 48]), r.dense(&second)], Attrs::new())
}

/// Divisors away from 0, where a quotient says little.
fn sample_quotient(seed: u64) -> (Vec<Tensor>, Attrs) {
    let (mut args, attrs) = sample_binary(seed);
    let away = |y: f32| y + 0.5f32.copysign(y);
    args[1] = Tensor::f32(&args[1].shape, &args[1].to_f32().into_iter().map(away).collect::<Vec<_>>());
    (args, attrs)
}

macro_rules! unary {
    ($name:literal, $doc:literal, $reference:expr, $value:expr, $gradient:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: Form::Elementwise,
            gradient: Some(|d| {
                let f: fn(&mut Adjoint<'_>, ValueId, ValueId, ValueId) -> Result<ValueId, IrError> =
                    $gradient;
                let (x, y, dy) = (d.arg(0), d.result(), d.dy());
                Ok(vec![Some(f(d, x, y, dy)?)])
            }),
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
    ($name:literal, $doc:literal, $reference:expr, $value:expr, $gradient:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: Form::Elementwise,
            gradient: Some(|d| {
                let f: fn(&mut Adjoint<'_>, ValueId) -> Result<(ValueId, ValueId), IrError> = $gradient;
                let dy = d.dy();
                let (x, y) = f(d, dy)?;
                Ok(vec![Some(x), Some(over_leading(d, y, 1)?)])
            }),
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

/// A gradient of the result's shape summed over the leading axes that an argument lacks.
fn over_leading(d: &mut Adjoint<'_>, mut dy: ValueId, argument: usize) -> Result<ValueId, IrError> {
    while d.ty(dy).shape.len() > d.ty(d.arg(argument)).shape.len() {
        dy = d.op("sum_first", &[dy])?;
    }
    Ok(dy)
}

/// The derivative of silu: `s * (1 + x * (1 - s))` with `s = sigmoid(x)`.
fn silu_slope(d: &mut Adjoint<'_>, x: ValueId) -> Result<ValueId, IrError> {
    let s = d.op("sigmoid", &[x])?;
    let rest = d.affine(s, -1.0, 1.0)?;
    let t = d.op("mul", &[x, rest])?;
    let t = d.affine(t, 1.0, 1.0)?;
    d.op("mul", &[s, t])
}

/// The tangent inside the approximation of gelu: `tanh(sqrt(2 / pi) * (x + 0.044715 x^3))`.
const GELU: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

fn gelu(x: &Expr) -> Expr {
    let cubed = &(&(x * x) * x) * &Expr::f32(GELU.1 as f32);
    let t = (&(x + &cubed) * &Expr::f32(GELU.0 as f32)).un(Unary::Tanh);
    &(x * &Expr::f32(0.5)) * &(&t + &Expr::f32(1.0))
}

fn gelu_gradient(d: &mut Adjoint<'_>, x: ValueId, _: ValueId, dy: ValueId) -> Result<ValueId, IrError> {
    let square = d.op("mul", &[x, x])?;
    let inner = d.affine(square, GELU.0 * GELU.1, GELU.0)?;
    let inner = d.op("mul", &[inner, x])?;
    let t = d.op("tanh", &[inner])?;
    let slope = d.affine(square, 3.0 * GELU.0 * GELU.1, GELU.0)?;
    let t2 = d.op("mul", &[t, t])?;
    let rest = d.affine(t2, -0.5, 0.5)?;
    let rest = d.op("mul", &[rest, slope])?;
    let rest = d.op("mul", &[rest, x])?;
    let half = d.affine(t, 0.5, 0.5)?;
    let sum = d.op("add", &[half, rest])?;
    d.op("mul", &[dy, sum])
}

/// The error function by its Taylor series, which loses nothing to f32 where it is not 1 yet.
fn erf_series(x: f64) -> f64 {
    if x.abs() > 4.5 {
        return x.signum();
    }
    let (mut sum, mut term) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// The error function to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26): a polynomial in `1 / (1 + p |x|)` times `exp(-x^2)`.
fn erf(x: &Expr) -> Expr {
    const TERMS: [f64; 5] = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let (f, one) = (|v: f64| Expr::f32(v as f32), Expr::f32(1.0));
    let size = x.un(Unary::Abs);
    let t = &one / &(&one + &(&size * &f(0.327_591_1)));
    let terms = TERMS[1..].iter().fold(f(TERMS[0]), |p, c| &(&p * &t) + &f(*c));
    let y = &one - &(&(&terms * &t) * &(x * x).un(Unary::Neg).un(Unary::Exp));
    Expr::select(&x.bin(Binary::Lt, &f(0.0)), &y.un(Unary::Neg), &y)
}

const AFFINE: Gradient = |d| {
    let (by, dy) = (number(d.attrs(), "by", 1.0), d.dy());
    Ok(vec![Some(d.affine(dy, by, 0.0)?)])
};

fn number(a: &Attrs, name: &str, default: f64) -> f64 {
    float_attr(a, name).unwrap_or(default)
}

fn attr(l: &Lowering, name: &str, default: f64) -> Expr {
    Expr::f32(number(&l.attrs, name, default) as f32)
}

pub(crate) const ROWS: &[OpRow] = &[
    unary!("neg", "-x", |x| -x, |x| x.un(Unary::Neg), |d, _, _, dy| d.op("neg", &[dy])),
    unary!("exp", "e to the power x", f64::exp, |x| x.un(Unary::Exp), |d, _, y, dy| d.op("mul", &[dy, y])),
    OpRow {
        sample: sample_positive,
        ..unary!("sqrt", "the square root of x", f64::sqrt, |x| x.un(Unary::Sqrt), |d, _, y, dy| {
            let t = d.op("div", &[dy, y])?;
            d.affine(t, 0.5, 0.0)
        })
    },
    OpRow {
        sample: sample_positive,
        ..unary!("log", "the natural logarithm of x", f64::ln, |x| x.un(Unary::Log), |d, x, _, dy| d
            .op("div", &[dy, x]))
    },
    unary!("tanh", "hyperbolic tangent", f64::tanh, |x| x.un(Unary::Tanh), |d, _, y, dy| {
        let t = d.op("mul", &[y, y])?;
        let t = d.affine(t, -1.0, 1.0)?;
        d.op("mul", &[dy, t])
    }),
    unary!(
        "step",
        "1 where x > 0, else 0; of gradient 0",
        |x| f64::from(x > 0.0),
        |x| Expr::select(&Expr::f32(0.0).bin(Binary::Lt, x), &Expr::f32(1.0), &Expr::f32(0.0)),
        |d, x, _, _| d.zero(x)
    ),
    unary!("relu", "max(x, 0)", |x| x.max(0.0), |x| x.max_with(&Expr::f32(0.0)), |d, x, _, dy| {
        let t = d.op("step", &[x])?;
        d.op("mul", &[dy, t])
    }),
    unary!("sigmoid", "1 / (1 + exp(-x))", |x| 1.0 / (1.0 + (-x).exp()), sigmoid, |d, _, y, dy| {
        let t = d.affine(y, -1.0, 1.0)?;
        let t = d.op("mul", &[y, t])?;
        d.op("mul", &[dy, t])
    }),
    unary!("silu", "x / (1 + exp(-x))", |x| x / (1.0 + (-x).exp()), silu, |d, x, _, dy| {
        let t = silu_slope(d, x)?;
        d.op("mul", &[dy, t])
    }),
    unary!(
        "gelu",
        "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2 (Hendrycks and Gimpel 2016)",
        |x| 0.5 * x * (1.0 + (GELU.0 * (x + GELU.1 * x * x * x)).tanh()),
        gelu,
        gelu_gradient
    ),
    unary!("erf", "2 / sqrt(pi) * the integral of exp(-z^2) from 0 to x", erf_series, erf, |d, x, _, dy| {
        let square = d.op("mul", &[x, x])?;
        let square = d.op("neg", &[square])?;
        let slope = d.op("exp", &[square])?;
        let slope = d.affine(slope, std::f64::consts::FRAC_2_SQRT_PI, 0.0)?;
        d.op("mul", &[dy, slope])
    }),
    OpRow {
        name: "affine",
        doc: "x * by + plus",
        form: Form::Elementwise,
        gradient: Some(AFFINE),
        donates: &[],
        infer: infer_unary,
        reference: |a, at, t| {
            let (by, plus) = (number(at, "by", 1.0), number(at, "plus", 0.0));
            vec![result(&t[0], &a[0].values().iter().map(|x| x * by + plus).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: |l| loops(l, &|a| &(&a[0] * &attr(l, "by", 1.0)) + &attr(l, "plus", 0.0)),
        sample: |seed| {
            let at = attrs(&[("by", Attr::Float(-1.5)), ("plus", Attr::Float(0.25))]);
            (vec![Rng(seed).dense(&[3, 48])], at)
        },
    },
    OpRow {
        name: "fill",
        doc: "a tensor like x, of one value",
        form: Form::Elementwise,
        gradient: Some(|d| Ok(vec![Some(d.zero(d.arg(0))?)])),
        donates: &[],
        infer: infer_unary,
        reference: |a, at, t| vec![result(&t[0], &vec![number(at, "value", 0.0); a[0].len()])],
        edge: Edge::none,
        lower: |l| loops(l, &|_| attr(l, "value", 0.0)),
        sample: |seed| (vec![Rng(seed).dense(&[3, 48])], attrs(&[("value", Attr::Float(0.5))])),
    },
    binary!("add", "x + y", |x, y| x + y, |x, y| x + y, |_, dy| Ok((dy, dy))),
    binary!("sub", "x - y", |x, y| x - y, |x, y| x - y, |d, dy| Ok((dy, d.op("neg", &[dy])?))),
    binary!("mul", "x * y", |x, y| x * y, |x, y| x * y, |d, dy| {
        let (x, y) = (d.arg(0), d.arg(1));
        Ok((d.op("mul", &[dy, y])?, d.op("mul", &[dy, x])?))
    }),
    OpRow {
        sample: sample_quotient,
        ..binary!("div", "x / y", |x, y| x / y, |x, y| x / y, |d, dy| {
            let (y, q) = (d.arg(1), d.result());
            let dx = d.op("div", &[dy, y])?;
            let t = d.op("mul", &[dx, q])?;
            Ok((dx, d.op("neg", &[t])?))
        })
    },
    binary!("max", "the larger of x and y", f64::max, |x, y| x.max_with(y), |d, dy| {
        let (x, y) = (d.arg(0), d.arg(1));
        let t = d.op("sub", &[x, y])?;
        let first = d.op("step", &[t])?;
        let dx = d.op("mul", &[dy, first])?;
        Ok((dx, d.op("sub", &[dy, dx])?))
    }),
    binary!(
        "swiglu",
        "silu(x) * y: the gate of a gated feed-forward layer (Shazeer 2020)",
        |x, y| x / (1.0 + (-x).exp()) * y,
        |x, y| &silu(x) * y,
        |d, dy| {
            let (x, y) = (d.arg(0), d.arg(1));
            let slope = silu_slope(d, x)?;
            let t = d.op("mul", &[dy, slope])?;
            let (dx, s) = (d.op("mul", &[t, y])?, d.op("silu", &[x])?);
            Ok((dx, d.op("mul", &[dy, s])?))
        }
    ),
];
