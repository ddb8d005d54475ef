//! Elementwise operators: each element of the result from the same element of the arguments, of every type that has the
//! operation. Arguments are broadcast: axes are matched from the last one on, and one that is missing or 1 is repeated.

use crate::axes::shape_attr;
use crate::require;
use crate::sample::{Rng, attrs, result};
use crate::typed::{
    FLOATS, INTEGERS, NUMBERS, broadcast, computed, map2, nest, number as constant_of, read, spread, truth,
    write,
};
use lathe_ir::graph::{
    Adjoint, Attr, Attrs, Edge, Form, Gradient, Lowering, OpRow, Type, ValueId, float_attr,
};
use lathe_ir::tensor::{Binary, Expr, Stmt, Unary};
use lathe_ir::{DType, Elements, IrError, Tensor};

fn floats(t: &Type) -> bool {
    t.dtype.is_float() && t.dtype.bits() >= 16
}

fn infer_unary(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && floats(&t[0]), "expects one tensor of floats")?;
    Ok(vec![Type::dense(t[0].dtype, &t[0].shape)])
}

fn infer_number(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1, "expects one tensor")?;
    Ok(vec![Type::dense(t[0].dtype, &t[0].shape)])
}

fn infer_binary(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t[0].dtype == t[1].dtype, "expects two tensors of one type")?;
    Ok(vec![Type::dense(t[0].dtype, &broadcast(&[&t[0].shape, &t[1].shape])?)])
}

fn infer_floats(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.iter().all(floats), "expects tensors of floats")?;
    infer_binary(t, a)
}

fn infer_integers(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.iter().all(|t| t.dtype.is_int()), "expects tensors of integers")?;
    infer_binary(t, a)
}

fn infer_comparison(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    Ok(infer_binary(t, a)?.into_iter().map(|t| Type::dense(DType::U8, &t.shape)).collect())
}

/// Loops over the result's axes around one store of `value(arguments at the element, the type they are computed in)`.
pub(crate) fn loops(l: &Lowering, value: &dyn Fn(&[Expr], DType) -> Expr) -> Vec<Stmt> {
    let (y, t) = (&l.outs[0], computed(l.ins.first().unwrap_or(&l.outs[0]).ty.dtype));
    nest(l, &y.ty.shape, |index| {
        let args: Vec<Expr> =
            l.ins.iter().map(|o| read(o, &spread(&o.ty.shape, &y.ty.shape, index))).collect();
        vec![write(y, &l.name("y"), index, value(&args, t))]
    })
}

fn sample_unary(seed: u64) -> (Vec<Tensor>, Attrs) {
    (vec![Rng(seed).typed(Rng::turn(seed, &FLOATS), &[3, 48])], Attrs::new())
}

fn sample_number(seed: u64) -> (Vec<Tensor>, Attrs) {
    (vec![Rng(seed).typed(Rng::turn(seed, &NUMBERS), &[3, 48])], Attrs::new())
}

fn sample_positive(seed: u64) -> (Vec<Tensor>, Attrs) {
    let x = Rng(seed).dense(&[3, 48]).values();
    let t = Rng::turn(seed, &FLOATS);
    (vec![Tensor::of(t, &[3, 48], &Elements::Floats(x.iter().map(|x| 1.5 + x).collect()))], Attrs::new())
}

/// Two tensors that fit each other in one of several ways.
fn sample_pair(seed: u64, types: &[DType]) -> (Vec<Tensor>, Attrs) {
    let (mut r, t) = (Rng(seed), Rng::turn(seed, types));
    let shapes: [[&[usize]; 2]; 5] = [
        [&[3, 48], &[48]],
        [&[3, 48], &[3, 48]],
        [&[2, 1, 16], &[3, 1]],
        [&[48], &[3, 48]],
        [&[5, 1], &[1, 16]],
    ];
    let [x, y] = Rng::turn(seed, &shapes);
    (vec![r.typed(t, x), r.typed(t, y)], Attrs::new())
}

fn sample_binary(seed: u64) -> (Vec<Tensor>, Attrs) {
    sample_pair(seed, &NUMBERS)
}

fn sample_floats(seed: u64) -> (Vec<Tensor>, Attrs) {
    sample_pair(seed, &FLOATS)
}

fn sample_integers(seed: u64) -> (Vec<Tensor>, Attrs) {
    sample_pair(seed, &INTEGERS)
}

/// Integers, and by how many bits to move them.
fn sample_shift(seed: u64) -> (Vec<Tensor>, Attrs) {
    let (mut args, attrs) = sample_integers(seed);
    let Elements::Ints(by) = args[1].elements() else { return (args, attrs) };
    let by = by.into_iter().map(|v| v.rem_euclid(80) - 5).collect();
    args[1] = Tensor::of(args[1].dtype, &args[1].shape, &Elements::Ints(by));
    (args, attrs)
}

fn sample_power(seed: u64) -> (Vec<Tensor>, Attrs) {
    let (mut args, attrs) = sample_floats(seed);
    let away = args[0].values().into_iter().map(|x| 1.5 + x).collect();
    args[0] = Tensor::of(args[0].dtype, &args[0].shape, &Elements::Floats(away));
    (args, attrs)
}

/// Divisors away from 0, where a quotient says little.
fn sample_quotient(seed: u64) -> (Vec<Tensor>, Attrs) {
    let (mut args, attrs) = sample_binary(seed);
    if let Elements::Floats(y) = args[1].elements() {
        let away = y.into_iter().map(|y| y + 0.5f64.copysign(y)).collect();
        args[1] = Tensor::of(args[1].dtype, &args[1].shape, &Elements::Floats(away));
    }
    (args, attrs)
}

macro_rules! unary {
    ($name:literal, $doc:literal, $reference:expr, $value:expr, $gradient:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: Form::ELEMENTWISE,
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
                let value: fn(&Expr, DType) -> Expr = $value;
                loops(l, &|a, t| value(&a[0], t))
            },
            sample: sample_unary,
        }
    };
}

/// Of integers too, which have a meaning of their own.
macro_rules! number {
    ($name:literal, $doc:literal, $ints:expr, $floats:expr, $value:expr, $gradient:expr) => {
        OpRow {
            infer: infer_number,
            reference: |a, _, t| {
                let (ints, floats): (fn(i128) -> i128, fn(f64) -> f64) = ($ints, $floats);
                let y = match a[0].elements() {
                    Elements::Ints(x) => Elements::Ints(x.into_iter().map(ints).collect()),
                    Elements::Floats(x) => Elements::Floats(x.into_iter().map(floats).collect()),
                };
                vec![Tensor::of(t[0].dtype, &a[0].shape, &y)]
            },
            sample: sample_number,
            ..unary!($name, $doc, |x| x, $value, $gradient)
        }
    };
}

macro_rules! binary {
    ($name:literal, $doc:literal, $ints:expr, $floats:expr, $value:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: Form::ELEMENTWISE,
            gradient: None,
            donates: &[],
            infer: infer_binary,
            reference: |a, _, t| vec![map2(a, &t[0], $ints, $floats)],
            edge: Edge::none,
            lower: |l| {
                let value: fn(&Expr, &Expr, DType) -> Expr = $value;
                loops(l, &|a, t| value(&a[0], &a[1], t))
            },
            sample: sample_binary,
        }
    };
    ($name:literal, $doc:literal, $ints:expr, $floats:expr, $value:expr, $gradient:expr) => {
        OpRow {
            gradient: Some(|d| {
                let f: fn(&mut Adjoint<'_>, ValueId) -> Result<(ValueId, ValueId), IrError> = $gradient;
                let dy = d.dy();
                let (x, y) = f(d, dy)?;
                Ok(vec![Some(gathered(d, x, 0)?), Some(gathered(d, y, 1)?)])
            }),
            ..binary!($name, $doc, $ints, $floats, $value)
        }
    };
}

macro_rules! comparison {
    ($name:literal, $doc:literal, $op:tt, $value:expr) => {
        OpRow {
            infer: infer_comparison,
            reference: |a, _, t| {
                let y = match (a[0].elements(), a[1].elements()) {
                    (Elements::Ints(_), Elements::Ints(_)) => {
                        map2(a, &t[0], |x, y| i128::from(x $op y), |_, _| 0.0)
                    }
                    _ => map2(a, &t[0], |_, _| 0, |x, y| f64::from(x $op y)),
                };
                vec![y]
            },
            ..binary!($name, $doc, |x, _| x, |x, _| x, $value)
        }
    };
}

macro_rules! integer {
    ($name:literal, $doc:literal, $ints:expr, $value:expr) => {
        OpRow {
            infer: infer_integers,
            sample: sample_integers,
            ..binary!($name, $doc, $ints, |x, _| x, $value)
        }
    };
}

fn c(v: f64, t: DType) -> Expr {
    constant_of(v, t)
}

fn is_signed(t: DType) -> bool {
    matches!(t, DType::Int { signed: true, .. })
}

/// A divisor that traps nowhere: those by 0 and by -1 are answered apart.
fn safe(y: &Expr, t: DType) -> Expr {
    let one = Expr::int(1, t);
    let y = Expr::select(&y.bin(Binary::Eq, &Expr::int(0, t)), &one, y);
    if is_signed(t) { Expr::select(&y.bin(Binary::Eq, &Expr::int(-1, t)), &one, &y) } else { y }
}

fn quotient(x: &Expr, y: &Expr, t: DType) -> Expr {
    if !t.is_int() {
        return x / y;
    }
    let mut q = x / &safe(y, t);
    if is_signed(t) {
        q = Expr::select(&y.bin(Binary::Eq, &Expr::int(-1, t)), &x.un(Unary::Neg), &q);
    }
    Expr::select(&y.bin(Binary::Eq, &Expr::int(0, t)), &Expr::int(0, t), &q)
}

/// x moved by y bits; by fewer than none, or by all, what only the sign leaves behind.
fn shifted(op: Binary, x: &Expr, y: &Expr, t: DType) -> Expr {
    let (zero, all) = (Expr::int(0, t), Expr::int(t.bits() - 1, t));
    let mut inside = y.bin(Binary::Le, &all);
    if is_signed(t) {
        inside = inside.bin(Binary::And, &zero.bin(Binary::Le, y));
    }
    let rest = if op == Binary::Shr && is_signed(t) { x.bin(op, &all) } else { zero };
    Expr::select(&inside, &x.bin(op, &y.bin(Binary::And, &all)), &rest)
}

/// The gradient of an argument from that of the result: summed over the axes along which it was repeated.
fn gathered(d: &mut Adjoint<'_>, dy: ValueId, argument: usize) -> Result<ValueId, IrError> {
    let (of, to) = (d.ty(d.arg(argument)).shape.clone(), d.ty(dy).shape.clone());
    let lacking = to.len() - of.len();
    let repeated = |i: &usize| *i < lacking || (of[i - lacking] != to[*i]);
    let axes: Vec<i64> = (0..to.len()).filter(repeated).map(|i| i as i64).collect();
    if axes.is_empty() {
        return Ok(dy);
    }
    let sum = d.op_with("sum", &[dy], &[("axes", Attr::Ints(axes))])?;
    if d.ty(sum).shape.len() == of.len() { Ok(sum) } else { d.op_with("reshape", &[sum], &[shape_attr(&of)]) }
}

fn one_and_exp_neg(x: &Expr, t: DType) -> Expr {
    &c(1.0, t) + &x.un(Unary::Neg).un(Unary::Exp)
}

fn sigmoid(x: &Expr, t: DType) -> Expr {
    &c(1.0, t) / &one_and_exp_neg(x, t)
}

fn silu(x: &Expr, t: DType) -> Expr {
    x / &one_and_exp_neg(x, t)
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

fn gelu(x: &Expr, t: DType) -> Expr {
    let cubed = &(&(x * x) * x) * &c(GELU.1, t);
    let inner = (&(x + &cubed) * &c(GELU.0, t)).un(Unary::Tanh);
    &(x * &c(0.5, t)) * &(&inner + &c(1.0, t))
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
fn erf(x: &Expr, dtype: DType) -> Expr {
    const TERMS: [f64; 5] = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let (f, one) = (|v: f64| c(v, dtype), c(1.0, dtype));
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

fn attr(l: &Lowering, name: &str, default: f64, t: DType) -> Expr {
    c(number(&l.attrs, name, default), t)
}

pub(crate) const ROWS: &[OpRow] = &[
    number!("neg", "-x", |x| -x, |x| -x, |x, _| x.un(Unary::Neg), |d, _, _, dy| d.op("neg", &[dy])),
    number!("abs", "x without its sign", i128::abs, f64::abs, |x, _| x.un(Unary::Abs), |d, x, _, dy| {
        let t = d.op("step", &[x])?;
        let t = d.affine(t, 2.0, -1.0)?;
        d.op("mul", &[dy, t])
    }),
    OpRow {
        infer: |t, a| {
            require(t.len() == 1 && t[0].dtype.is_int(), "expects one tensor of integers")?;
            infer_number(t, a)
        },
        gradient: None,
        sample: |seed| (vec![Rng(seed).typed(Rng::turn(seed, &INTEGERS), &[3, 48])], Attrs::new()),
        ..number!("not", "all bits of x turned", |x| !x, |x| x, |x, _| x.un(Unary::Not), |d, x, _, _| d
            .zero(x))
    },
    unary!("sin", "the sine of x", f64::sin, |x, _| x.un(Unary::Sin), |d, x, _, dy| {
        let t = d.op("cos", &[x])?;
        d.op("mul", &[dy, t])
    }),
    unary!("cos", "the cosine of x", f64::cos, |x, _| x.un(Unary::Cos), |d, x, _, dy| {
        let t = d.op("sin", &[x])?;
        let t = d.op("neg", &[t])?;
        d.op("mul", &[dy, t])
    }),
    unary!("atan", "the arc tangent of x", f64::atan, |x, _| x.un(Unary::Atan), |d, x, _, dy| {
        let t = d.op("mul", &[x, x])?;
        let t = d.affine(t, 1.0, 1.0)?;
        d.op("div", &[dy, t])
    }),
    unary!(
        "floor",
        "the largest whole number that is not above x; of gradient 0",
        f64::floor,
        |x, _| x.un(Unary::Floor),
        |d, x, _, _| d.zero(x)
    ),
    unary!(
        "round",
        "the nearest whole number, the even one of two; of gradient 0",
        f64::round_ties_even,
        |x, _| x.un(Unary::Round),
        |d, x, _, _| d.zero(x)
    ),
    unary!("exp", "e to the power x", f64::exp, |x, _| x.un(Unary::Exp), |d, _, y, dy| d.op("mul", &[dy, y])),
    OpRow {
        sample: sample_positive,
        ..unary!("sqrt", "the square root of x", f64::sqrt, |x, _| x.un(Unary::Sqrt), |d, _, y, dy| {
            let t = d.op("div", &[dy, y])?;
            d.affine(t, 0.5, 0.0)
        })
    },
    OpRow {
        sample: sample_positive,
        ..unary!("log", "the natural logarithm of x", f64::ln, |x, _| x.un(Unary::Log), |d, x, _, dy| d
            .op("div", &[dy, x]))
    },
    unary!("tanh", "hyperbolic tangent", f64::tanh, |x, _| x.un(Unary::Tanh), |d, _, y, dy| {
        let t = d.op("mul", &[y, y])?;
        let t = d.affine(t, -1.0, 1.0)?;
        d.op("mul", &[dy, t])
    }),
    unary!(
        "step",
        "1 where x > 0, else 0; of gradient 0",
        |x| f64::from(x > 0.0),
        |x, t| Expr::select(&c(0.0, t).bin(Binary::Lt, x), &c(1.0, t), &c(0.0, t)),
        |d, x, _, _| d.zero(x)
    ),
    unary!("relu", "max(x, 0)", |x| x.max(0.0), |x, t| x.max_with(&c(0.0, t)), |d, x, _, dy| {
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
        form: Form::ELEMENTWISE,
        gradient: Some(AFFINE),
        donates: &[],
        infer: infer_unary,
        reference: |a, at, t| {
            let (by, plus) = (number(at, "by", 1.0), number(at, "plus", 0.0));
            vec![result(&t[0], &a[0].values().iter().map(|x| x * by + plus).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: |l| loops(l, &|a, t| &(&a[0] * &attr(l, "by", 1.0, t)) + &attr(l, "plus", 0.0, t)),
        sample: |seed| {
            let at = attrs(&[("by", Attr::Float(-1.5)), ("plus", Attr::Float(0.25))]);
            (vec![Rng(seed).dense(&[3, 48])], at)
        },
    },
    OpRow {
        name: "fill",
        doc: "a tensor like x, of one value",
        form: Form::ELEMENTWISE,
        gradient: Some(|d| Ok(vec![Some(d.zero(d.arg(0))?)])),
        donates: &[],
        infer: infer_unary,
        reference: |a, at, t| vec![result(&t[0], &vec![number(at, "value", 0.0); a[0].len()])],
        edge: Edge::none,
        lower: |l| loops(l, &|_, t| attr(l, "value", 0.0, t)),
        sample: |seed| (vec![Rng(seed).dense(&[3, 48])], attrs(&[("value", Attr::Float(0.5))])),
    },
    binary!("add", "x + y", |x, y| x + y, |x, y| x + y, |x, y, _| x + y, |_, dy| Ok((dy, dy))),
    binary!("sub", "x - y", |x, y| x - y, |x, y| x - y, |x, y, _| x - y, |d, dy| Ok((
        dy,
        d.op("neg", &[dy])?
    ))),
    binary!("mul", "x * y", i128::wrapping_mul, |x, y| x * y, |x, y, _| x * y, |d, dy| {
        let (x, y) = (d.arg(0), d.arg(1));
        Ok((d.op("mul", &[dy, y])?, d.op("mul", &[dy, x])?))
    }),
    OpRow {
        sample: sample_quotient,
        ..binary!(
            "div",
            "x / y; of integers so that the remainder is not negative, and 0 where y is",
            |x, y| x.checked_div_euclid(y).unwrap_or(0),
            |x, y| x / y,
            quotient,
            |d, dy| {
                let (y, q) = (d.arg(1), d.result());
                let dx = d.op("div", &[dy, y])?;
                let t = d.op("mul", &[dx, q])?;
                Ok((dx, d.op("neg", &[t])?))
            }
        )
    },
    integer!(
        "rem",
        "the remainder of x / y, never negative, and 0 where y is",
        |x, y| x.checked_rem_euclid(y).unwrap_or(0),
        |x, y, t| x.bin(Binary::Rem, &safe(y, t))
    ),
    binary!("max", "the larger of x and y", i128::max, f64::max, |x, y, _| x.max_with(y), |d, dy| {
        let (x, y) = (d.arg(0), d.arg(1));
        let t = d.op("sub", &[x, y])?;
        let first = d.op("step", &[t])?;
        let dx = d.op("mul", &[dy, first])?;
        Ok((dx, d.op("sub", &[dy, dx])?))
    }),
    binary!("min", "the smaller of x and y", i128::min, f64::min, |x, y, _| x.min_with(y), |d, dy| {
        let (x, y) = (d.arg(0), d.arg(1));
        let t = d.op("sub", &[y, x])?;
        let first = d.op("step", &[t])?;
        let dx = d.op("mul", &[dy, first])?;
        Ok((dx, d.op("sub", &[dy, dx])?))
    }),
    OpRow {
        infer: infer_floats,
        sample: sample_power,
        ..binary!("pow", "x to the power y", |x, _| x, f64::powf, |x, y, _| x.bin(Binary::Pow, y), |d, dy| {
            let (x, y, p) = (d.arg(0), d.arg(1), d.result());
            let (q, l) = (d.op("div", &[p, x])?, d.op("log", &[x])?);
            let (dx, dy_) = (d.op("mul", &[q, y])?, d.op("mul", &[p, l])?);
            Ok((d.op("mul", &[dy, dx])?, d.op("mul", &[dy, dy_])?))
        })
    },
    integer!("and", "bits that x and y have", |x, y| x & y, |x, y, _| x.bin(Binary::And, y)),
    integer!("or", "bits that x or y has", |x, y| x | y, |x, y, _| x.bin(Binary::Or, y)),
    integer!("xor", "bits that one of x and y has", |x, y| x ^ y, |x, y, _| x.bin(Binary::Xor, y)),
    OpRow {
        sample: sample_shift,
        ..integer!(
            "shl",
            "x moved up by y bits, 0 where those are all or fewer than none",
            |x, y| if (0..64).contains(&y) { x << y } else { 0 },
            |x, y, t| shifted(Binary::Shl, x, y, t)
        )
    },
    OpRow {
        sample: sample_shift,
        ..integer!(
            "shr",
            "x moved down by y bits, all of them the sign where those are all or fewer than none",
            |x, y| x >> if (0..64).contains(&y) { y } else { 127 },
            |x, y, t| shifted(Binary::Shr, x, y, t)
        )
    },
    comparison!("lt", "1 of u8 where x < y, else 0", <, |x, y, _| truth(&x.bin(Binary::Lt, y))),
    comparison!("le", "1 of u8 where x <= y, else 0", <=, |x, y, _| truth(&x.bin(Binary::Le, y))),
    comparison!("eq", "1 of u8 where x is y, else 0", ==, |x, y, _| truth(&x.bin(Binary::Eq, y))),
    OpRow {
        infer: infer_floats,
        sample: sample_floats,
        ..binary!(
            "swiglu",
            "silu(x) * y: the gate of a gated feed-forward layer (Shazeer 2020)",
            |x, _| x,
            |x, y| x / (1.0 + (-x).exp()) * y,
            |x, y, t| &silu(x, t) * y,
            |d, dy| {
                let (x, y) = (d.arg(0), d.arg(1));
                let slope = silu_slope(d, x)?;
                let t = d.op("mul", &[dy, slope])?;
                let (dx, s) = (d.op("mul", &[t, y])?, d.op("silu", &[x])?);
                Ok((dx, d.op("mul", &[dy, s])?))
            }
        )
    },
];
