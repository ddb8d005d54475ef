//! Each element of the result from the same element of the arguments.

use super::{Row, one, row};
use crate::build::{limits, number};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};

/// A primitive of one argument.
macro_rules! primitive {
    ($name:literal, $op:literal) => {
        row($name, 1, |r, n| {
            let x = n.tensor(0)?;
            one(r.trace.un($op, x)?)
        })
    };
}

/// A function of one argument.
macro_rules! function {
    ($name:literal, $f:expr) => {
        row($name, 1, |r, n| {
            let f: fn(&mut Trace<'_>, &Val, &Node<'_>) -> Read<Val> = $f;
            // Halves are rounded once, at the end.
            let (x, t) = (n.tensor(0)?, &mut r.trace);
            let half = matches!(x.elem(), Elem::F16 | Elem::BF16);
            let wide = if half { t.cast(x, Elem::F32)? } else { x.clone() };
            let y = f(t, &wide, n)?;
            one(if half && y.elem() == Elem::F32 { t.cast(&y, x.elem())? } else { y })
        })
    };
}

/// A primitive of two arguments of one type, perhaps turned around.
macro_rules! pair {
    ($name:literal, $op:literal, $first:literal, $second:literal) => {
        row($name, 1, |r, n| {
            let y = old_broadcast(&mut r.trace, n)?;
            let args = [n.tensor(0)?, &y];
            one(r.trace.bin($op, args[$first], args[$second])?)
        })
    };
    ($name:literal, $op:literal) => {
        pair!($name, $op, 0, 1)
    };
}

/// The second argument, with the axes of the first where the node says, as sets before 7 do.
fn old_broadcast(t: &mut Trace<'_>, n: &Node<'_>) -> Read<Val> {
    let (x, y) = (n.tensor(0)?, n.tensor(1)?);
    if n.int("broadcast", 0) == 0 || n.attr("axis").is_none() {
        return Ok(y.clone());
    }
    let at = crate::build::axis(n.int("axis", 0), x.rank())?;
    let behind = x.rank().saturating_sub(at + y.rank());
    t.reshape(y, &[y.shape(), &vec![1; behind]].concat())
}

/// x where it is not negative, else `f` of it.
fn below(t: &mut Trace<'_>, x: &Val, f: impl Fn(&mut Trace<'_>, &Val) -> Read<Val>) -> Read<Val> {
    let negative = t.with("lt", x, 0.0)?;
    let y = f(t, x)?;
    t.select(&negative, &y, x)
}

/// exp(x) - 1.
fn expm1(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let e = t.un("exp", x)?;
    t.with("sub", &e, 1.0)
}

/// log(1 + exp(x)), without an exponential that is too large.
pub fn softplus(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let size = t.un("abs", x)?;
    let small = t.un("neg", &size)?;
    let small = t.un("exp", &small)?;
    let small = t.with("add", &small, 1.0)?;
    let small = t.un("log", &small)?;
    let large = t.with("max", x, 0.0)?;
    t.add(&large, &small)
}

fn sign(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let (above, below) = (t.of("lt", 0.0, x)?, t.with("lt", x, 0.0)?);
    let (one, zero) = (number(1.0, x.elem()), number(0.0, x.elem()));
    let up = t.select(&above, &one, &zero)?;
    if limits(x.elem()).0 == 0.0 {
        return Ok(up);
    }
    let least = number(-1.0, x.elem());
    t.select(&below, &least, &up)
}

/// The arc sine: the arc tangent of x / sqrt(1 - x^2).
fn asin(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let (more, less) = (t.with("add", x, 1.0)?, t.of("sub", 1.0, x)?);
    let root = t.mul(&more, &less)?;
    let root = t.un("sqrt", &root)?;
    let q = t.div(x, &root)?;
    t.un("atan", &q)
}

/// (e^x + sign * e^-x) / 2.
fn hyperbolic(t: &mut Trace<'_>, x: &Val, op: &str) -> Read<Val> {
    let less = t.un("neg", x)?;
    let (a, b) = (t.un("exp", x)?, t.un("exp", &less)?);
    let y = t.bin(op, &a, &b)?;
    t.with("mul", &y, 0.5)
}

/// sign(x) * log(|x| + sqrt(x^2 + 1)).
fn asinh(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let size = t.un("abs", x)?;
    let root = t.mul(x, x)?;
    let root = t.with("add", &root, 1.0)?;
    let root = t.un("sqrt", &root)?;
    let sum = t.add(&size, &root)?;
    let y = t.un("log", &sum)?;
    let s = sign(t, x)?;
    t.mul(&s, &y)
}

fn quotient(t: &mut Trace<'_>, x: &Val, y: &Val) -> Read<Val> {
    if !x.elem().is_int() || limits(x.elem()).0 == 0.0 {
        return t.div(x, y);
    }
    // Towards 0: the primitive's remainder is never negative.
    let (q, r) = (t.div(x, y)?, t.bin("rem", x, y)?);
    let (negative, exact) = (t.with("lt", x, 0.0)?, t.with("eq", &r, 0.0)?);
    let s = sign(t, y)?;
    let up = t.add(&q, &s)?;
    let cut = t.select(&negative, &up, &q)?;
    t.select(&exact, &q, &cut)
}

/// The remainder with the divisor's sign, or that of x where `of_x`.
fn remainder(t: &mut Trace<'_>, x: &Val, y: &Val, of_x: bool) -> Read<Val> {
    if x.elem().is_int() {
        let r = t.bin("rem", x, y)?;
        if limits(x.elem()).0 == 0.0 {
            return Ok(r);
        }
        let exact = t.with("eq", &r, 0.0)?;
        let size = t.un("abs", y)?;
        let less = t.sub(&r, &size)?;
        let negative = t.with("lt", if of_x { x } else { y }, 0.0)?;
        let turned = t.select(&negative, &less, &r)?;
        return t.select(&exact, &r, &turned);
    }
    let q = t.div(x, y)?;
    let q = t.trunc(&q)?;
    // Nothing times infinity is nothing here.
    let none = t.with("eq", &q, 0.0)?;
    let whole = t.mul(&q, y)?;
    let whole = t.select(&none, &number(0.0, x.elem()), &whole)?;
    let r = t.sub(x, &whole)?;
    if of_x {
        return Ok(r);
    }
    let (a, b, exact) = (t.with("lt", &r, 0.0)?, t.with("lt", y, 0.0)?, t.with("eq", &r, 0.0)?);
    let same = t.bin("eq", &a, &b)?;
    let kept = t.bin("or", &same, &exact)?;
    let more = t.add(&r, y)?;
    t.select(&kept, &r, &more)
}

fn power(t: &mut Trace<'_>, x: &Val, y: &Val) -> Read<Val> {
    // Squares, which norms take, are products.
    let number = y.is_constant() && y.len() == 1 && y.rank() <= x.rank();
    if number && x.elem().is_float() && t.floats(y)? == [2.0] {
        return t.mul(x, x);
    }
    if x.elem() == y.elem() && x.elem().is_float() {
        return t.bin("pow", x, y);
    }
    let wide = if x.elem() == Elem::F32 && y.elem().dtype().bits() <= 32 { Elem::F32 } else { Elem::F64 };
    let (a, b) = (t.cast(x, wide)?, t.cast(y, wide)?);
    let p = t.bin("pow", &a, &b)?;
    t.cast(&p, x.elem())
}

/// All arguments combined by a primitive.
fn fold(r: &mut Reader<'_>, n: &Node<'_>, op: &str) -> Read<Val> {
    let all = n.tensors()?;
    let Some((first, rest)) = all.split_first() else { return Err(Fault::invalid("no arguments")) };
    let mut y = first.clone();
    for x in rest {
        y = r.trace.bin(op, &y, x)?;
    }
    Ok(y)
}

fn clip(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let mut y = n.tensor(0)?.clone();
    if n.opset < 11 {
        for (name, op) in [("min", "max"), ("max", "min")] {
            if n.attr(name).is_some() {
                y = r.trace.with(op, &y, n.float(name, 0.0))?;
            }
        }
        return one(y);
    }
    for (i, op) in [(1, "max"), (2, "min")] {
        if let Some(v) = n.optional(i)? {
            let v = r.trace.reshape(v, &[])?;
            y = r.trace.bin(op, &y, &v)?;
        }
    }
    one(y)
}

fn gelu(t: &mut Trace<'_>, x: &Val, n: &Node<'_>) -> Read<Val> {
    if n.word("approximate", "none") == "tanh" {
        return t.un("gelu", x);
    }
    let e = t.with("mul", x, std::f64::consts::FRAC_1_SQRT_2)?;
    let e = t.un("erf", &e)?;
    let e = t.with("add", &e, 1.0)?;
    let e = t.mul(x, &e)?;
    t.with("mul", &e, 0.5)
}

/// An activation function by its name, with its two parameters.
pub fn activation(
    t: &mut Trace<'_>,
    name: &str,
    x: &Val,
    alpha: Option<f64>,
    beta: Option<f64>,
) -> Read<Val> {
    match name.to_ascii_lowercase().as_str() {
        "sigmoid" => t.un("sigmoid", x),
        "tanh" => t.un("tanh", x),
        "relu" => t.with("max", x, 0.0),
        "affine" => {
            let y = t.with("mul", x, alpha.unwrap_or(1.0))?;
            t.with("add", &y, beta.unwrap_or(0.0))
        }
        "leakyrelu" => below(t, x, |t, x| t.with("mul", x, alpha.unwrap_or(0.01))),
        "elu" => below(t, x, |t, x| {
            let e = expm1(t, x)?;
            t.with("mul", &e, alpha.unwrap_or(1.0))
        }),
        "thresholdedrelu" => {
            let above = t.of("lt", alpha.unwrap_or(1.0), x)?;
            t.select(&above, x, &number(0.0, x.elem()))
        }
        "scaledtanh" => {
            let y = t.with("mul", x, beta.unwrap_or(1.0))?;
            let y = t.un("tanh", &y)?;
            t.with("mul", &y, alpha.unwrap_or(1.0))
        }
        "hardsigmoid" => {
            let y = t.with("mul", x, alpha.unwrap_or(0.2))?;
            let y = t.with("add", &y, beta.unwrap_or(0.5))?;
            t.clamp(&y, 0.0, 1.0)
        }
        "softsign" => {
            let y = t.un("abs", x)?;
            let y = t.with("add", &y, 1.0)?;
            t.div(x, &y)
        }
        "softplus" => softplus(t, x),
        name => Err(Fault::unsupported(format!("the activation '{name}'"))),
    }
}

fn logical(r: &mut Reader<'_>, n: &Node<'_>, op: &str) -> Read<Vec<Item>> {
    let y = old_broadcast(&mut r.trace, n)?;
    one(r.trace.bin(op, n.tensor(0)?, &y)?)
}

pub(super) const ROWS: &[Row] = &[
    primitive!("Abs", "abs"),
    primitive!("Neg", "neg"),
    primitive!("Exp", "exp"),
    primitive!("Log", "log"),
    primitive!("Sqrt", "sqrt"),
    primitive!("Sin", "sin"),
    primitive!("Cos", "cos"),
    primitive!("Atan", "atan"),
    primitive!("Tanh", "tanh"),
    primitive!("Floor", "floor"),
    primitive!("Round", "round"),
    primitive!("Erf", "erf"),
    primitive!("Sigmoid", "sigmoid"),
    primitive!("BitwiseNot", "not"),
    function!("Not", |t, x, _| t.not(x)),
    function!("Ceil", |t, x, _| t.ceil(x)),
    function!("Sign", |t, x, _| sign(t, x)),
    function!("Relu", |t, x, _| t.with("max", x, 0.0)),
    function!("Reciprocal", |t, x, _| t.of("div", 1.0, x)),
    function!("Tan", |t, x, _| {
        let (s, c) = (t.un("sin", x)?, t.un("cos", x)?);
        t.div(&s, &c)
    }),
    function!("Asin", |t, x, _| asin(t, x)),
    function!("Acos", |t, x, _| {
        let y = asin(t, x)?;
        t.of("sub", std::f64::consts::FRAC_PI_2, &y)
    }),
    function!("Sinh", |t, x, _| hyperbolic(t, x, "sub")),
    function!("Cosh", |t, x, _| hyperbolic(t, x, "add")),
    function!("Asinh", |t, x, _| asinh(t, x)),
    function!("Acosh", |t, x, _| {
        let root = t.mul(x, x)?;
        let root = t.with("sub", &root, 1.0)?;
        let root = t.un("sqrt", &root)?;
        let sum = t.add(x, &root)?;
        t.un("log", &sum)
    }),
    function!("Atanh", |t, x, _| {
        let (more, less) = (t.with("add", x, 1.0)?, t.of("sub", 1.0, x)?);
        let q = t.div(&more, &less)?;
        let q = t.un("log", &q)?;
        t.with("mul", &q, 0.5)
    }),
    function!("LeakyRelu", |t, x, n| activation(t, "leakyrelu", x, Some(n.float("alpha", 0.01)), None)),
    function!("Elu", |t, x, n| activation(t, "elu", x, Some(n.float("alpha", 1.0)), None)),
    function!("HardSigmoid", |t, x, n| {
        activation(t, "hardsigmoid", x, Some(n.float("alpha", 0.2)), Some(n.float("beta", 0.5)))
    }),
    function!("ThresholdedRelu", |t, x, n| {
        activation(t, "thresholdedrelu", x, Some(n.float("alpha", 1.0)), None)
    }),
    function!("Softsign", |t, x, _| activation(t, "softsign", x, None, None)),
    function!("Softplus", |t, x, _| softplus(t, x)),
    function!("HardSwish", |t, x, _| {
        let y = activation(t, "hardsigmoid", x, Some(1.0 / 6.0), Some(0.5))?;
        t.mul(x, &y)
    }),
    function!("Mish", |t, x, _| {
        let y = softplus(t, x)?;
        let y = t.un("tanh", &y)?;
        t.mul(x, &y)
    }),
    function!("Swish", |t, x, n| {
        let y = t.with("mul", x, n.float("alpha", 1.0))?;
        let y = t.un("sigmoid", &y)?;
        t.mul(x, &y)
    }),
    function!("Gelu", gelu),
    function!("Celu", |t, x, n| {
        let alpha = n.float("alpha", 1.0);
        let below = t.with("div", x, alpha)?;
        let below = expm1(t, &below)?;
        let below = t.with("mul", &below, alpha)?;
        let below = t.with("min", &below, 0.0)?;
        let above = t.with("max", x, 0.0)?;
        t.add(&above, &below)
    }),
    function!("Selu", |t, x, n| {
        let y = activation(t, "elu", x, Some(n.float("alpha", 1.673_263_2)), None)?;
        t.with("mul", &y, n.float("gamma", 1.050_701))
    }),
    function!("Shrink", |t, x, n| {
        let (bias, lambd) = (n.float("bias", 0.0), n.float("lambd", 0.5));
        let (low, high) = (t.with("lt", x, -lambd)?, t.of("lt", lambd, x)?);
        let (more, less) = (t.with("add", x, bias)?, t.with("sub", x, bias)?);
        let y = t.select(&high, &less, &number(0.0, x.elem()))?;
        t.select(&low, &more, &y)
    }),
    function!("IsNaN", |t, x, _| {
        let same = t.bin("eq", x, x)?;
        t.not(&same)
    }),
    function!("IsInf", |t, x, n| {
        let wanted = [("detect_negative", f64::NEG_INFINITY), ("detect_positive", f64::INFINITY)];
        let mut all = t.with("lt", x, f64::NEG_INFINITY)?;
        for (name, v) in wanted {
            if n.int(name, 1) != 0 {
                let is = t.with("eq", x, v)?;
                all = t.bin("or", &all, &is)?;
            }
        }
        Ok(all)
    }),
    row("PRelu", 1, |r, n| {
        let (x, mut slope) = (n.tensor(0)?, n.tensor(1)?.clone());
        if slope.rank() == 1 && x.rank() > 2 && slope.shape()[0] == x.shape()[1] && n.opset < 7 {
            slope = r.trace.reshape(&slope, &[&[slope.len()], &vec![1; x.rank() - 2][..]].concat())?;
        }
        one(below(&mut r.trace, x, |t, x| t.mul(x, &slope))?)
    }),
    pair!("Add", "add"),
    pair!("Sub", "sub"),
    pair!("Mul", "mul"),
    pair!("Equal", "eq"),
    pair!("Less", "lt"),
    pair!("LessOrEqual", "le"),
    pair!("Greater", "lt", 1, 0),
    pair!("GreaterOrEqual", "le", 1, 0),
    pair!("BitwiseAnd", "and"),
    pair!("BitwiseOr", "or"),
    pair!("BitwiseXor", "xor"),
    row("Div", 1, |r, n| {
        let y = old_broadcast(&mut r.trace, n)?;
        one(quotient(&mut r.trace, n.tensor(0)?, &y)?)
    }),
    row("Mod", 10, |r, n| {
        let of_x = n.int("fmod", 0) == 1;
        one(remainder(&mut r.trace, n.tensor(0)?, n.tensor(1)?, of_x)?)
    }),
    row("Pow", 1, |r, n| {
        let y = old_broadcast(&mut r.trace, n)?;
        one(power(&mut r.trace, n.tensor(0)?, &y)?)
    }),
    row("BitShift", 11, |r, n| {
        let op = if n.word("direction", "") == "LEFT" { "shl" } else { "shr" };
        one(r.trace.bin(op, n.tensor(0)?, n.tensor(1)?)?)
    }),
    row("And", 1, |r, n| logical(r, n, "and")),
    row("Or", 1, |r, n| logical(r, n, "or")),
    row("Xor", 1, |r, n| logical(r, n, "xor")),
    row("Max", 1, |r, n| one(fold(r, n, "max")?)),
    row("Min", 1, |r, n| one(fold(r, n, "min")?)),
    row("Sum", 1, |r, n| one(fold(r, n, "add")?)),
    row("Mean", 1, |r, n| {
        let sum = fold(r, n, "add")?;
        one(r.trace.with("div", &sum, n.inputs.len() as f64)?)
    }),
    row("Clip", 1, clip),
    row("Where", 9, |r, n| one(r.trace.select(n.tensor(0)?, n.tensor(1)?, n.tensor(2)?)?)),
    row("Identity", 1, |_, n| Ok(vec![n.item(0)?.clone()])),
    row("Dropout", 1, |r, n| {
        let x = n.tensor(0)?;
        let training = match n.optional(2)? {
            Some(v) => r.trace.int(v)? != 0,
            None => n.opset < 7 && n.int("is_test", 0) == 0,
        };
        let ratio = match n.optional(1)? {
            Some(v) => r.trace.float(v)?,
            None => n.float("ratio", 0.5),
        };
        if training && ratio != 0.0 {
            return Err(Fault::unsupported("dropout in training"));
        }
        let mut out = vec![x.clone()];
        if n.wants(1) {
            let mask = number(1.0, if n.opset < 10 { x.elem() } else { Elem::Bool });
            out.push(r.trace.spread(&mask, x.shape())?);
        }
        super::all(out)
    }),
];
