//! Spectra and windows.

use super::{Row, one, row};
use crate::build::{axis, constant};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};
use lathe_ir::Elements;
use std::f64::consts::PI;

/// Longest transform, whose matrix is written out.
const LONGEST: usize = 1 << 12;

/// The spectrum of x [.., n, real or complex] over the axis before the last one.
fn spectrum(t: &mut Trace<'_>, x: &Val, n: usize, inverse: bool, onesided: bool) -> Read<Val> {
    if n == 0 || n > LONGEST {
        return Err(Fault::unsupported(format!("a transform of {n} positions")));
    }
    let rank = x.rank();
    let (d, parts) = (rank - 2, x.shape()[rank - 1]);
    let x = if x.shape()[d] < n {
        let (low, mut high) = (vec![0; rank], vec![0; rank]);
        high[d] = (n - x.shape()[d]) as i64;
        t.pad(x, &low, &high, 0.0)?
    } else {
        t.cut(x, d, 0, n, 1)?
    };
    // From one side of a real signal's spectrum all of it, to be turned back.
    let bins = if onesided && !inverse { n / 2 + 1 } else { n };
    let matrix = |f: fn(f64) -> f64, sign: f64| {
        let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
        let turn = if inverse { 1.0 } else { -1.0 };
        let at =
            |i: usize| f(turn * 2.0 * PI * ((i / bins * (i % bins)) % n) as f64 / n as f64) * scale * sign;
        constant(x.elem(), &[n, bins], &Elements::Floats((0..n * bins).map(at).collect()))
    };
    let (cos, sin, less) = (matrix(f64::cos, 1.0), matrix(f64::sin, 1.0), matrix(f64::sin, -1.0));
    let mut times = |part: usize, m: &Val| -> Read<Val> {
        let p = t.pick(&x, rank - 1, part)?;
        t.dot(&p, m, &[], &[(rank - 2, 0)])
    };
    let (mut real, mut imaginary) = (times(0, &cos)?, times(0, &sin)?);
    if parts == 2 {
        let (a, b) = (times(1, &less)?, times(1, &cos)?);
        (real, imaginary) = (t.add(&real, &a)?, t.add(&imaginary, &b)?);
    }
    t.stack(&[real, imaginary], rank - 1)
}

fn dft(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let length = n.optional(1)?.map(|v| t.int(v)).transpose()?;
    let at = match n.optional(2)? {
        Some(v) => t.int(v)?,
        None if n.opset < 20 => n.int("axis", 1),
        None => -2,
    };
    let d = axis(at, x.rank())?;
    if x.rank() < 2 || d + 1 == x.rank() {
        return Err(Fault::invalid("the axis is that of real and imaginary parts"));
    }
    let (inverse, onesided) = (n.int("inverse", 0) == 1, n.int("onesided", 0) == 1);
    let mut turned = t.swap(x, d, x.rank() - 2)?;
    let have = turned.shape()[x.rank() - 2];
    if have == 0 || length == Some(0) {
        return Err(Fault::invalid("a transform of nothing"));
    }
    let m = length.map_or(have, |v| v.max(0) as usize);
    if inverse && onesided {
        // The other side is the conjugate in reverse.
        let whole = length.map_or((have - 1) * 2, |v| v.max(0) as usize);
        if whole == 0 {
            return Err(Fault::invalid("a transform of nothing"));
        }
        let side = t.cut(&turned, x.rank() - 2, 0, (whole / 2 + 1).min(have), 1)?;
        let inner = t.cut(&side, x.rank() - 2, 1, (whole - 1) / 2, 1)?;
        let inner = t.flip(&inner, x.rank() - 2)?;
        let sign = constant(x.elem(), &[2], &Elements::Floats(vec![1.0, -1.0]));
        let inner = t.mul(&inner, &sign)?;
        turned = t.concat(&[side, inner], x.rank() - 2)?;
        let y = spectrum(t, &turned, whole, true, false)?;
        let y = t.cut(&y, x.rank() - 1, 0, 1, 1)?;
        return one(t.swap(&y, d, x.rank() - 2)?);
    }
    let y = spectrum(t, &turned, m, inverse, onesided)?;
    one(t.swap(&y, d, x.rank() - 2)?)
}

fn stft(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let step = t.int(n.tensor(1)?)?.max(1) as usize;
    let window = n.optional(2)?;
    let length = match (n.optional(3)?, window) {
        (Some(v), _) => t.int(v)?.max(1) as usize,
        (None, Some(w)) => w.len(),
        _ => return Err(Fault::invalid("neither a window nor a length")),
    };
    let signal = x.shape().get(1).copied().unwrap_or(0);
    if signal < length {
        return Err(Fault::invalid("the signal is shorter than a frame"));
    }
    let frames = (signal - length) / step + 1;
    let mut out = vec![];
    for i in 0..frames {
        let mut part = t.cut(x, 1, (i * step) as i64, length, 1)?;
        if part.rank() == 2 {
            part = t.unsqueeze(&part, 2)?;
        }
        if let Some(w) = window {
            let w = t.reshape(w, &[length, 1])?;
            part = t.mul(&part, &w)?;
        }
        out.push(spectrum(t, &part, length, false, n.int("onesided", 1) == 1)?);
    }
    one(t.stack(&out, 1)?)
}

fn window(r: &mut Reader<'_>, n: &Node<'_>, f: fn(f64) -> f64) -> Read<Vec<Item>> {
    let size = r.trace.int(n.tensor(0)?)?.clamp(0, 1 << 24) as usize;
    let elem = Elem::of_code(n.int("output_datatype", 1))?;
    let span = if n.int("periodic", 1) == 1 { size as f64 } else { size as f64 - 1.0 };
    let values = (0..size).map(|i| f(2.0 * PI * i as f64 / span)).collect();
    one(constant(elem, &[size], &Elements::Floats(values)))
}

fn mel(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let t = &mut r.trace;
    let mut v = vec![];
    for i in 0..5 {
        v.push(t.float(n.tensor(i)?)?);
    }
    let [bins, length, rate, low, high] = v[..] else {
        return Err(Fault::invalid("five numbers are needed"));
    };
    let (bins, half) = (bins.clamp(0.0, 1e5) as usize, (length / 2.0).floor().clamp(0.0, 1e6) as usize + 1);
    if bins.saturating_mul(half) > 1 << 26 {
        return Err(Fault::unsupported("a matrix of so many bins"));
    }
    let to_mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
    let (low, high) = (to_mel(low), to_mel(high));
    let step = (high - low) / (bins as f64 + 2.0);
    let edge = |i: usize| {
        let hz = 700.0 * (10f64.powf((i as f64 * step + low) / 2595.0) - 1.0);
        ((length + 1.0) * hz / rate).floor().max(0.0) as usize
    };
    let mut out = vec![0.0; half * bins];
    for i in 0..bins {
        let (a, b, c) = (edge(i), edge(i + 1), edge(i + 2));
        if b == a && b < half {
            out[b * bins + i] = 1.0;
        }
        for j in a..=b.min(half.saturating_sub(1)) {
            if b > a {
                out[j * bins + i] = (j - a) as f64 / (b - a) as f64;
            }
        }
        for j in b..c.min(half) {
            if c > b {
                out[j * bins + i] = (c - j) as f64 / (c - b) as f64;
            }
        }
    }
    let elem = Elem::of_code(n.int("output_datatype", 1))?;
    one(constant(elem, &[half, bins], &Elements::Floats(out)))
}

pub(super) const ROWS: &[Row] = &[
    row("DFT", 17, dft),
    row("STFT", 17, stft),
    row("HannWindow", 17, |r, n| window(r, n, |x| 0.5 - 0.5 * x.cos())),
    row("HammingWindow", 17, |r, n| window(r, n, |x| 25.0 / 46.0 - 21.0 / 46.0 * x.cos())),
    row("BlackmanWindow", 17, |r, n| window(r, n, |x| 0.42 - 0.5 * x.cos() + 0.08 * (2.0 * x).cos())),
    row("MelWeightMatrix", 17, mel),
];
