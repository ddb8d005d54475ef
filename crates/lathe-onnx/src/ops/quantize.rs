//! Numbers as small integers with a scale and a zero point.

use super::{Row, all, one, row};
use crate::build::{axis, limits, number};
use crate::elem::Elem;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::ops::convert::convert;
use crate::ops::linear::{along, centred, convolve, kernel};
use crate::ops::window::space;
use crate::trace::{Read, Trace, Val};

/// A scale or zero point in the shape of `x`: one number, one for each position of an axis, or one for each block along it.
fn fitted(t: &mut Trace<'_>, v: &Val, x: &Val, n: &Node<'_>) -> Read<Val> {
    let block = n.int("block_size", 0);
    if v.len() == 1 && v.rank() <= 1 {
        return t.reshape(v, &[]);
    }
    let d = axis(n.int("axis", 1), x.rank())?;
    if block == 0 || v.rank() != x.rank() {
        return along(t, v, d, x.rank());
    }
    let block = block as usize;
    let y = t.unsqueeze(v, d + 1)?;
    let mut shape = y.shape().to_vec();
    shape[d + 1] = block;
    let y = t.spread(&y, &shape)?;
    let mut shape = v.shape().to_vec();
    shape[d] *= block;
    let y = t.reshape(&y, &shape)?;
    t.cut(&y, d, 0, x.shape()[d], 1)
}

/// Rounded and clamped to a type.
fn saturated(t: &mut Trace<'_>, x: &Val, zero: Option<&Val>, to: Elem) -> Read<Val> {
    let mut y = t.un("round", x)?;
    if let Some(z) = zero {
        let z = convert(t, z, y.elem(), true, "up")?;
        y = t.add(&y, &z)?;
    }
    let (low, high) = limits(to);
    let y = t.clamp(&y, low, high)?;
    convert(t, &y, to, true, "up")
}

fn quantize(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let scale = n.tensor(1)?;
    let zero = n.optional(2)?;
    let to = match (zero, n.int("output_dtype", 0)) {
        (Some(z), _) => z.elem(),
        (None, 0) => Elem::U8,
        (None, code) => Elem::of_code(code)?,
    };
    let precision = n.int("precision", 0);
    let wide = if precision != 0 {
        Elem::of_code(precision)?
    } else if x.elem() == Elem::F64 {
        Elem::F64
    } else {
        Elem::F32
    };
    let (w, s) = (convert(t, x, wide, true, "up")?, convert(t, scale, wide, true, "up")?);
    let s = fitted(t, &s, x, n)?;
    let y = t.div(&w, &s)?;
    if to.is_code() {
        let y = match zero {
            Some(z) => {
                let z = convert(t, z, wide, true, "up")?;
                let z = fitted(t, &z, x, n)?;
                t.add(&y, &z)?
            }
            None => y,
        };
        return one(convert(t, &y, to, n.int("saturate", 1) != 0, "up")?);
    }
    let zero = zero.map(|z| fitted(t, z, x, n)).transpose()?;
    one(saturated(t, &y, zero.as_ref(), to)?)
}

fn dequantize(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, scale, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
    let to = match n.int("output_dtype", 0) {
        0 => scale.elem(),
        code => Elem::of_code(code)?,
    };
    let s = convert(t, scale, Elem::F32, true, "up")?;
    let s = fitted(t, &s, x, n)?;
    let y = if x.elem().is_code() {
        convert(t, x, Elem::F32, true, "up")?
    } else {
        let mut y = convert(t, x, Elem::I32, true, "up")?;
        if let Some(z) = n.optional(2)? {
            let z = convert(t, z, Elem::I32, true, "up")?;
            let z = fitted(t, &z, x, n)?;
            y = t.sub(&y, &z)?;
        }
        t.cast(&y, Elem::F32)?
    };
    let y = t.mul(&y, &s)?;
    one(convert(t, &y, to, true, "up")?)
}

fn dynamic(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let axes: Vec<usize> = (0..x.rank()).collect();
    let (most, least) = (t.reduce("maximum", x, &axes, false)?, t.reduce("minimum", x, &axes, false)?);
    let (most, least) = (t.with("max", &most, 0.0)?, t.with("min", &least, 0.0)?);
    let range = t.sub(&most, &least)?;
    let scale = t.with("div", &range, 255.0)?;
    let none = t.with("eq", &scale, 0.0)?;
    let scale = t.select(&none, &number(1.0, x.elem()), &scale)?;
    let zero = t.div(&least, &scale)?;
    let zero = t.un("neg", &zero)?;
    let zero = saturated(t, &zero, None, Elem::U8)?;
    let y = t.div(x, &scale)?;
    let y = saturated(t, &y, Some(&zero), Elem::U8)?;
    all([y, scale, zero])
}

/// A product's sums, scaled to another type: (sums, scales of the factors, scale and zero of the result).
fn requantized(t: &mut Trace<'_>, sums: &Val, scales: [&Val; 3], zero: &Val) -> Read<Val> {
    let wide: Vec<Val> = scales.iter().map(|s| t.cast(s, Elem::F32)).collect::<Read<_>>()?;
    let y = t.cast(sums, Elem::F32)?;
    let factor = t.mul(&wide[0], &wide[1])?;
    let factor = t.div(&factor, &wide[2])?;
    let y = t.mul(&y, &factor)?;
    let zero_ = t.reshape(zero, &[])?;
    saturated(t, &y, Some(&zero_), zero.elem())
}

pub(super) const ROWS: &[Row] = &[
    row("QuantizeLinear", 10, quantize),
    row("DequantizeLinear", 10, dequantize),
    row("DynamicQuantizeLinear", 11, dynamic),
    row("QLinearMatMul", 10, |r, n| {
        let (a, b, t) = (n.tensor(0)?, n.tensor(3)?, &mut r.trace);
        let (row_axis, column) = (a.rank().saturating_sub(2), b.rank().saturating_sub(1));
        let x = centred(t, a, n.optional(2)?, row_axis)?;
        let y = centred(t, b, n.optional(5)?, column)?;
        let sums = t.matmul(&x, &y)?;
        let sa = along(t, n.tensor(1)?, row_axis, sums.rank())?;
        let sb = along(t, n.tensor(4)?, column, sums.rank())?;
        let sy = t.reshape(n.tensor(6)?, &[])?;
        one(requantized(t, &sums, [&sa, &sb, &sy], n.tensor(7)?)?)
    }),
    row("QLinearConv", 10, |r, n| {
        let (x, w, t) = (n.tensor(0)?, n.tensor(3)?, &mut r.trace);
        let s = space(n, x, &kernel(w)?)?;
        let xs = centred(t, x, n.optional(2)?, 1)?;
        let ws = centred(t, w, n.optional(5)?, 0)?;
        let mut sums = convolve(t, &xs, &ws, &s, n.int("group", 1), 0.0)?;
        if let Some(b) = n.optional(8)? {
            let b = along(t, b, 1, sums.rank())?;
            sums = t.add(&sums, &b)?;
        }
        let sx = t.reshape(n.tensor(1)?, &[])?;
        let sw = along(t, n.tensor(4)?, 1, sums.rank())?;
        let sy = t.reshape(n.tensor(6)?, &[])?;
        one(requantized(t, &sums, [&sx, &sw, &sy], n.tensor(7)?)?)
    }),
];
