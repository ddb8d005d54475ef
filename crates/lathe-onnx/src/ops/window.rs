//! Windows over axes of space: padding, pooling, and what pooling took back to its place.

use super::{Row, all, one, row};
use crate::build::{filled, list, number};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};
use lathe_ir::graph::Attr;

/// Windows over the axes behind the first two, with padding.
pub struct Spatial {
    /// Extents of a window.
    pub sizes: Vec<i64>,
    /// From one window to the next.
    pub strides: Vec<i64>,
    /// From one element of a window to the next.
    pub dilations: Vec<i64>,
    /// Padding in front.
    pub low: Vec<i64>,
    /// Padding behind.
    pub high: Vec<i64>,
    /// More behind, so that the last window is whole (`ceil_mode`).
    pub more: Vec<i64>,
}

impl Spatial {
    /// Windows without padding.
    pub fn plain(sizes: Vec<i64>, strides: Vec<i64>, dilations: Vec<i64>) -> Spatial {
        let none = vec![0; sizes.len()];
        Spatial { sizes, strides, dilations, low: none.clone(), high: none.clone(), more: none }
    }

    /// x with the padding around its axes of space.
    pub fn padded(&self, t: &mut Trace<'_>, x: &Val, value: f64) -> Read<Val> {
        let high: Vec<i64> = self.high.iter().zip(&self.more).map(|(a, b)| a + b).collect();
        t.pad(x, &[&[0, 0], &self.low[..]].concat(), &[&[0, 0], &high[..]].concat(), value)
    }

    fn attrs(&self) -> [(&'static str, Attr); 3] {
        [
            ("window", list(&self.sizes)),
            ("strides", list(&self.strides)),
            ("dilations", list(&self.dilations)),
        ]
    }
}

/// The windows of a node over `x`.
pub fn space(n: &Node<'_>, x: &Val, sizes: &[i64]) -> Read<Spatial> {
    let d = sizes.len();
    let or = |name: &str, v: i64, m: usize| n.ints(name).map_or_else(|| vec![v; m], <[i64]>::to_vec);
    let (strides, dilations, pads) = (or("strides", 1, d), or("dilations", 1, d), or("pads", 0, 2 * d));
    let sound = strides.iter().chain(&dilations).chain(sizes).all(|v| (1..1 << 30).contains(v));
    let fits = x.rank() == d + 2 && strides.len() == d && dilations.len() == d && pads.len() == 2 * d;
    if !sound || !fits || pads.iter().any(|p| p.abs() > 1 << 16) {
        return Err(Fault::invalid("the attributes of the windows do not fit the axes"));
    }
    let mut s = Spatial {
        sizes: sizes.to_vec(),
        strides,
        dilations,
        low: pads[..d].to_vec(),
        high: pads[d..].to_vec(),
        more: vec![0; d],
    };
    for i in 0..d {
        let (m, reach) = (x.dims()[i + 2], (s.sizes[i] - 1) * s.dilations[i] + 1);
        let auto = n.word("auto_pad", "NOTSET");
        if auto.starts_with("SAME") {
            let count = m.div_euclid(s.strides[i]) + i64::from(m % s.strides[i] != 0);
            let total = ((count - 1) * s.strides[i] + reach - m).max(0);
            let (small, large) = (total / 2, total - total / 2);
            (s.low[i], s.high[i]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
        } else if auto == "VALID" {
            (s.low[i], s.high[i]) = (0, 0);
        }
        let room = m + s.low[i] + s.high[i] - reach;
        if n.int("ceil_mode", 0) == 1 && room >= 0 && room % s.strides[i] != 0 {
            let more = s.strides[i] - room % s.strides[i];
            // A window that begins behind the tensor and its padding is none.
            let first = room + more;
            if first < m + s.low[i] {
                s.more[i] = more;
            }
        }
    }
    Ok(s)
}

/// Each window reduced.
pub fn pooled(t: &mut Trace<'_>, x: &Val, s: &Spatial, by: &str) -> Read<Val> {
    let mut attrs = s.attrs().to_vec();
    attrs.push(("by", Attr::Str(by.into())));
    t.op("pool", &[x], &attrs, x.elem())
}

fn sizes(n: &Node<'_>) -> Read<Vec<i64>> {
    n.ints("kernel_shape").map(<[i64]>::to_vec).ok_or_else(|| Fault::invalid("the windows have no size"))
}

fn average(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let s = space(n, x, &sizes(n)?)?;
    let padded = s.padded(t, x, 0.0)?;
    let sum = pooled(t, &padded, &s, "sum")?;
    let padding = s.low.iter().chain(&s.high).chain(&s.more).any(|p| *p != 0);
    if !padding {
        return one(t.with("div", &sum, s.sizes.iter().product::<i64>() as f64)?);
    }
    // How many elements of each window count: those of x, or of its padding as well, which never are those of `more`.
    let with_padding = n.int("count_include_pad", 0) == 1;
    let inner: Vec<usize> = (0..s.sizes.len())
        .map(|i| x.shape()[i + 2] + if with_padding { (s.low[i] + s.high[i]) as usize } else { 0 })
        .collect();
    let ones = filled(x.elem(), &[&[1, 1], &inner[..]].concat(), 1.0);
    let none = vec![0; s.sizes.len()];
    let around = Spatial {
        low: if with_padding { none.clone() } else { s.low.clone() },
        high: if with_padding { none } else { s.high.clone() },
        ..Spatial {
            sizes: s.sizes.clone(),
            strides: s.strides.clone(),
            dilations: s.dilations.clone(),
            more: s.more.clone(),
            low: vec![],
            high: vec![],
        }
    };
    let ones = around.padded(t, &ones, 0.0)?;
    let count = pooled(t, &ones, &s, "sum")?;
    one(t.div(&sum, &count)?)
}

fn max(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let s = space(n, x, &sizes(n)?)?;
    let least = if x.elem().is_float() { f64::NEG_INFINITY } else { crate::build::limits(x.elem()).0 };
    let padded = s.padded(t, x, least)?;
    let y = pooled(t, &padded, &s, "max")?;
    if !n.wants(1) {
        return one(y);
    }
    // The place of each element in the whole tensor, picked by where in its window the largest is.
    let d = s.sizes.len();
    let (counts, window) = (&y.shape()[2..], s.sizes.iter().product::<i64>() as usize);
    let all_windows = t.op("windows", &[&padded], &s.attrs(), x.elem())?;
    let flat = t.reshape(&all_windows, &[y.shape(), &[window]].concat())?;
    let best = super::reduce::arg(t, &flat, d + 2, false, false)?;
    let order = n.int("storage_order", 0);
    let mut place = None;
    let mut rest = best;
    for i in (0..d).rev() {
        let size = s.sizes[i] as f64;
        let k = t.with("rem", &rest, size)?;
        rest = t.with("div", &rest, size)?;
        let o = t.ramp(counts[i], 2 + i, d + 2, Elem::I64)?;
        let o = t.with("mul", &o, s.strides[i] as f64)?;
        let k = t.with("mul", &k, s.dilations[i] as f64)?;
        let at = t.add(&o, &k)?;
        let at = t.with("sub", &at, s.low[i] as f64)?;
        let extents = &x.shape()[2..];
        let step: usize =
            if order == 1 { extents[..i].iter().product() } else { extents[i + 1..].iter().product() };
        let at = t.with("mul", &at, step as f64)?;
        place = Some(match place {
            Some(sum) => t.add(&sum, &at)?,
            None => at,
        });
    }
    let volume: usize = x.shape()[2..].iter().product();
    let (batch, channel) =
        (t.ramp(x.shape()[0], 0, d + 2, Elem::I64)?, t.ramp(x.shape()[1], 1, d + 2, Elem::I64)?);
    let batch = t.with("mul", &batch, (x.shape()[1] * volume) as f64)?;
    let channel = t.with("mul", &channel, volume as f64)?;
    let base = t.add(&batch, &channel)?;
    let place = place.ok_or_else(|| Fault::invalid("windows without axes"))?;
    let place = t.add(&place, &base)?;
    all([y, place])
}

fn lp(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let s = space(n, x, &sizes(n)?)?;
    let p = n.int("p", 2) as f64;
    let size = t.un("abs", x)?;
    let power = t.with("pow", &size, p)?;
    let padded = s.padded(t, &power, 0.0)?;
    let sum = pooled(t, &padded, &s, "sum")?;
    one(t.with("pow", &sum, 1.0 / p)?)
}

fn over_space(x: &Val) -> Vec<usize> {
    (2..x.rank()).collect()
}

pub(super) const ROWS: &[Row] = &[
    row("AveragePool", 1, average),
    row("MaxPool", 1, max),
    row("LpPool", 1, lp),
    row("GlobalAveragePool", 1, |r, n| {
        let x = n.tensor(0)?;
        one(r.trace.mean(x, &over_space(x), true)?)
    }),
    row("GlobalMaxPool", 1, |r, n| {
        let x = n.tensor(0)?;
        one(r.trace.reduce("maximum", x, &over_space(x), true)?)
    }),
    row("GlobalLpPool", 2, |r, n| {
        let (x, t, p) = (n.tensor(0)?, &mut r.trace, n.int("p", 2) as f64);
        let size = t.un("abs", x)?;
        let power = t.with("pow", &size, p)?;
        let sum = t.reduce("sum", &power, &over_space(x), true)?;
        one(t.with("pow", &sum, 1.0 / p)?)
    }),
    row("MaxUnpool", 9, |r, n| {
        let (x, places, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
        let k = sizes(n)?;
        let d = k.len();
        let strides = n.ints("strides").map_or_else(|| vec![1; d], <[i64]>::to_vec);
        let pads = n.ints("pads").map_or_else(|| vec![0; 2 * d], <[i64]>::to_vec);
        if x.rank() != d + 2 || strides.len() != d || pads.len() != 2 * d {
            return Err(Fault::invalid("the attributes of the windows do not fit the axes"));
        }
        let own: Vec<i64> =
            (0..d).map(|i| (x.dims()[i + 2] - 1) * strides[i] + k[i] - pads[i] - pads[i + d]).collect();
        let own: Vec<usize> = own.into_iter().map(|v| v.max(0) as usize).collect();
        let inner = [&x.shape()[..2], &own].concat();
        let shape = match n.optional(2)? {
            Some(v) => t.ints(v)?.into_iter().map(|v| v.max(0) as usize).collect(),
            None => inner.clone(),
        };
        if shape.len() != x.rank() {
            return Err(Fault::invalid("the result's shape has other axes"));
        }
        // The places are those in the tensor that was pooled, which the result may be larger than.
        let at = t.reshape(places, &[places.len()])?;
        let mut index = vec![];
        for i in 0..inner.len() {
            let step: usize = inner[i + 1..].iter().product();
            let v = t.with("div", &at, step as f64)?;
            index.push(t.with("rem", &v, inner[i] as f64)?);
        }
        let at = t.places(&index, &shape)?;
        let zeros = t.spread(&number(0.0, x.elem()), &[shape.iter().product(), 1])?;
        let u = t.reshape(x, &[x.len(), 1])?;
        let y = t.scatter(&zeros, &at, &u, "last")?;
        one(t.reshape(&y, &shape)?)
    }),
];
