//! Normalisations.

use super::{Row, all, one, row};
use crate::build::axis;
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::ops::linear::along;
use crate::trace::{Read, Trace, Val};
use lathe_ir::graph::Attr;

/// The mean and the variance over axes, which stay as 1.
fn moments(t: &mut Trace<'_>, x: &Val, axes: &[usize]) -> Read<(Val, Val, Val)> {
    let mean = t.mean(x, axes, true)?;
    let apart = t.sub(x, &mean)?;
    let square = t.mul(&apart, &apart)?;
    let variance = t.mean(&square, axes, true)?;
    Ok((mean, apart, variance))
}

/// 1 / sqrt(variance + epsilon).
fn inverse(t: &mut Trace<'_>, variance: &Val, epsilon: f64) -> Read<Val> {
    let root = t.with("add", variance, epsilon)?;
    let root = t.un("sqrt", &root)?;
    t.of("div", 1.0, &root)
}

/// y * scale + bias, as far as they are there.
fn scaled(t: &mut Trace<'_>, y: &Val, scale: Option<&Val>, bias: Option<&Val>) -> Read<Val> {
    let mut y = y.clone();
    if let Some(s) = scale {
        y = t.mul(&y, s)?;
    }
    if let Some(b) = bias {
        y = t.add(&y, b)?;
    }
    Ok(y)
}

/// The type that a node asks for its statistics to be computed in.
fn stash(n: &Node<'_>, x: &Val) -> Read<Elem> {
    let wanted = Elem::of_code(n.int("stash_type", 1))?;
    Ok(if x.elem() == Elem::F64 { Elem::F64 } else { wanted })
}

fn batch(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let channel = |t: &mut Trace<'_>, v: &Val| along(t, v, 1, x.rank());
    let (scale, bias) = (channel(t, n.tensor(1)?)?, channel(t, n.tensor(2)?)?);
    let training = n.int("training_mode", 0) == 1;
    let epsilon = n.float("epsilon", 1e-5);
    if !training {
        let (mean, variance) = (channel(t, n.tensor(3)?)?, channel(t, n.tensor(4)?)?);
        // One factor and one summand for each channel, which are constants where the parameters are.
        let i = inverse(t, &variance, epsilon)?;
        let factor = t.mul(&i, &scale)?;
        let less = t.mul(&mean, &factor)?;
        let summand = t.sub(&bias, &less)?;
        return one(scaled(t, x, Some(&factor), Some(&summand))?);
    }
    let axes: Vec<usize> = (0..x.rank()).filter(|d| *d != 1).collect();
    let (mean, apart, variance) = moments(t, x, &axes)?;
    let i = inverse(t, &variance, epsilon)?;
    let y = t.mul(&apart, &i)?;
    let y = scaled(t, &y, Some(&scale), Some(&bias))?;
    let momentum = n.float("momentum", 0.9);
    let mut out = vec![y];
    for (i, new) in [(3, mean), (4, variance)] {
        let old = n.tensor(i)?;
        let new = t.reshape(&new, old.shape())?;
        let (a, b) = (t.with("mul", old, momentum)?, t.with("mul", &new, 1.0 - momentum)?);
        out.push(t.add(&a, &b)?);
    }
    all(out)
}

fn layer(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let first = axis(n.int("axis", -1), x.rank())?;
    let axes: Vec<usize> = (first..x.rank()).collect();
    let wide = stash(n, x)?;
    let w = t.cast(x, wide)?;
    let (mean, apart, variance) = moments(t, &w, &axes)?;
    let i = inverse(t, &variance, n.float("epsilon", 1e-5))?;
    let (scale, bias) = (n.tensor(1)?, n.optional(2)?);
    let whole = |v: &Val| v.shape() == &x.shape()[first..] && v.elem() == Elem::F32;
    let single = wide == Elem::F32 && x.elem() == Elem::F32;
    if let (Some(rows), Some(bias), true) = (t.rows(x, &axes)?, bias, single)
        && whole(scale)
        && whole(bias)
    {
        let length = scale.len();
        let (scale, bias) = (t.reshape(scale, &[length])?, t.reshape(bias, &[length])?);
        let eps = Attr::Float(n.float("epsilon", 1e-5));
        let y = t.op("layer_norm", &[&rows, &scale, &bias], &[("eps", eps)], Elem::F32)?;
        return all([t.reshape(&y, x.shape())?, mean, i]);
    }
    let y = t.mul(&apart, &i)?;
    let y = t.cast(&y, x.elem())?;
    let y = scaled(t, &y, Some(scale), bias)?;
    all([y, mean, i])
}

fn rms(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let first = axis(n.int("axis", -1), x.rank())?;
    let axes: Vec<usize> = (first..x.rank()).collect();
    let wide = stash(n, x)?;
    let w = t.cast(x, wide)?;
    let square = t.mul(&w, &w)?;
    let power = t.mean(&square, &axes, true)?;
    let i = inverse(t, &power, n.float("epsilon", 1e-5))?;
    let y = t.mul(&w, &i)?;
    let y = t.cast(&y, x.elem())?;
    one(scaled(t, &y, Some(n.tensor(1)?), None)?)
}

/// Each group of channels normalised, then scaled.
fn grouped(t: &mut Trace<'_>, x: &Val, groups: usize, epsilon: f64) -> Read<Val> {
    if x.rank() < 2 || groups == 0 || !x.shape()[1].is_multiple_of(groups) {
        return Err(Fault::invalid("the channels are no whole number of groups"));
    }
    let rest: usize = x.len() / (x.shape()[0] * groups).max(1);
    let flat = t.reshape(x, &[x.shape()[0], groups, rest])?;
    let (_, apart, variance) = moments(t, &flat, &[2])?;
    let i = inverse(t, &variance, epsilon)?;
    let y = t.mul(&apart, &i)?;
    t.reshape(&y, x.shape())
}

pub(super) const ROWS: &[Row] = &[
    row("BatchNormalization", 1, batch),
    row("LayerNormalization", 17, layer),
    row("RMSNormalization", 23, rms),
    row("InstanceNormalization", 1, |r, n| {
        let (x, t) = (n.tensor(0)?, &mut r.trace);
        let y = grouped(t, x, x.shape().get(1).copied().unwrap_or(1), n.float("epsilon", 1e-5))?;
        let (scale, bias) = (along(t, n.tensor(1)?, 1, x.rank())?, along(t, n.tensor(2)?, 1, x.rank())?);
        one(scaled(t, &y, Some(&scale), Some(&bias))?)
    }),
    row("GroupNormalization", 18, |r, n| {
        let (x, t) = (n.tensor(0)?, &mut r.trace);
        let groups = n.int("num_groups", 1).max(1) as usize;
        let wide = if n.opset >= 21 { stash(n, x)? } else { x.elem() };
        let w = t.cast(x, wide)?;
        let y = grouped(t, &w, groups, n.float("epsilon", 1e-5))?;
        let y = t.cast(&y, x.elem())?;
        let mut parts = vec![];
        for i in [1, 2] {
            let v = n.tensor(i)?;
            // Up to 20 there is one number for each group.
            let v = if v.len() == groups && n.opset < 21 {
                let v = t.reshape(v, &[groups, 1])?;
                let v = t.spread(&v, &[groups, x.shape()[1] / groups])?;
                t.reshape(&v, &[x.shape()[1]])?
            } else {
                v.clone()
            };
            parts.push(along(t, &v, 1, x.rank())?);
        }
        one(scaled(t, &y, Some(&parts[0]), Some(&parts[1]))?)
    }),
    row("MeanVarianceNormalization", 9, |r, n| {
        let (x, t) = (n.tensor(0)?, &mut r.trace);
        let axes: Vec<usize> =
            n.ints("axes").unwrap_or(&[0, 2, 3]).iter().map(|d| axis(*d, x.rank())).collect::<Read<_>>()?;
        let (_, apart, variance) = moments(t, x, &axes)?;
        let root = t.un("sqrt", &variance)?;
        let root = t.with("add", &root, 1e-9)?;
        one(t.div(&apart, &root)?)
    }),
    row("LRN", 1, |r, n| {
        let (x, t, size) = (n.tensor(0)?, &mut r.trace, n.int("size", 1).clamp(1, 1 << 20));
        x.extent(1)?;
        let square = t.mul(x, x)?;
        let square = t.swap(&square, 1, x.rank() - 1)?;
        let (mut low, mut high) = (vec![0; x.rank()], vec![0; x.rank()]);
        (low[x.rank() - 1], high[x.rank() - 1]) = ((size - 1) / 2, size / 2);
        let padded = t.pad(&square, &low, &high, 0.0)?;
        let attrs = [("window", crate::build::list(&[size])), ("by", Attr::Str("sum".into()))];
        let sum = t.op("pool", &[&padded], &attrs, x.elem())?;
        let sum = t.swap(&sum, 1, x.rank() - 1)?;
        let y = t.with("mul", &sum, n.float("alpha", 1e-4) / size as f64)?;
        let y = t.with("add", &y, n.float("bias", 1.0))?;
        let y = t.with("pow", &y, n.float("beta", 0.75))?;
        one(t.div(x, &y)?)
    }),
];
