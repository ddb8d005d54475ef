//! Images: resized, sampled at a grid, cut out of regions, put together from columns.

use super::{Row, one, row};
use crate::build::{axis, constant, number, vector};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};
use lathe_ir::Elements;

/// How one axis is resized.
struct Axis {
    from: usize,
    to: usize,
    scale: f64,
    roi: (f64, f64),
}

impl Axis {
    /// The position in the input that an output position stands for; `None` outside of a region.
    fn origin(&self, mode: &str, x: usize) -> Option<f64> {
        let (n, x) = (self.from as f64, x as f64);
        let (out, whole) = (self.scale * n, self.to as f64);
        let half = (x + 0.5) / self.scale - 0.5;
        Some(match mode {
            "align_corners" => {
                if out == 1.0 {
                    0.0
                } else {
                    x * (n - 1.0) / (out - 1.0)
                }
            }
            "asymmetric" => x / self.scale,
            "pytorch_half_pixel" => {
                if out == 1.0 {
                    -0.5
                } else {
                    half
                }
            }
            "half_pixel_symmetric" => n / 2.0 * (1.0 - whole / out) + half,
            "tf_crop_and_resize" => {
                let (a, b) = self.roi;
                let inner = if out == 1.0 {
                    (b - a) * (n - 1.0) / 2.0
                } else {
                    x * (b - a) * (n - 1.0) / (out - 1.0)
                };
                let at = inner + a * (n - 1.0);
                return (0.0..=n - 1.0).contains(&at).then_some(at);
            }
            _ => half,
        })
    }
}

/// Weights of the neighbours of a position, by its distance from the one before it.
fn weights(n: &Node<'_>, ratio: f64, scale: f64) -> Read<Vec<f64>> {
    let a = n.float("cubic_coeff_a", -0.75);
    let cubic = |x: f64| {
        let x = x.abs();
        if x <= 1.0 {
            (a + 2.0) * x.powi(3) - (a + 3.0) * x * x + 1.0
        } else if x < 2.0 {
            a * x.powi(3) - 5.0 * a * x * x + 8.0 * a * x - 4.0 * a
        } else {
            0.0
        }
    };
    let triangle = |x: f64| (1.0 - x.abs()).clamp(0.0, 1.0);
    let smooth = n.int("antialias", 0) == 1;
    let scale = if smooth { scale.min(1.0) } else { 1.0 };
    let kernel = |reach: f64, f: &dyn Fn(f64) -> f64| {
        let first = (-reach / scale).floor() as i64 + 1;
        let all: Vec<f64> = (first..2 - first).map(|i| f((i as f64 - ratio) * scale)).collect();
        let sum: f64 = if smooth { all.iter().sum() } else { 1.0 };
        all.into_iter().map(|w| w / sum).collect::<Vec<f64>>()
    };
    Ok(match n.word("mode", "nearest") {
        "linear" => kernel(1.0, &triangle),
        "cubic" => kernel(2.0, &cubic),
        "nearest" => {
            let second = match n.word(
                "nearest_mode",
                if n.message.op_type == "Upsample" { "floor" } else { "round_prefer_floor" },
            ) {
                "floor" => ratio == 1.0,
                "ceil" => true,
                "round_prefer_ceil" => ratio >= 0.5,
                _ => ratio > 0.5,
            };
            if second { vec![0.0, 1.0] } else { vec![1.0, 0.0] }
        }
        mode => return Err(Fault::unsupported(format!("the mode '{mode}'"))),
    })
}

/// Each position of an axis so many times.
fn repeated(t: &mut Trace<'_>, x: &Val, d: usize, times: usize) -> Read<Val> {
    let (rows, inner) = (x.shape()[..=d].iter().product(), x.shape()[d + 1..].iter().product());
    let mut to = x.shape().to_vec();
    to[d] *= times;
    let y = t.reshape(x, &[rows, 1, inner])?;
    let y = t.spread(&y, &[rows, times, inner])?;
    t.reshape(&y, &to)
}

/// One axis of x resized: each result a sum of weighed neighbours.
fn along(t: &mut Trace<'_>, n: &Node<'_>, x: &Val, d: usize, a: &Axis) -> Read<Val> {
    let mode = n.word(
        "coordinate_transformation_mode",
        if n.message.op_type == "Upsample" { "asymmetric" } else { "half_pixel" },
    );
    let (mut taps, mut inside): (Vec<(Vec<i128>, Vec<f64>)>, Vec<bool>) = (vec![], vec![]);
    for i in 0..a.to {
        let origin = a.origin(mode, i);
        inside.push(origin.is_some());
        let at = origin.unwrap_or(0.0);
        // A whole position is the neighbour behind the one before it.
        let base = at.ceil() - 1.0;
        let mut w = weights(n, at - base, a.scale)?;
        let first = base as i64 - (w.len() as i64 / 2 - 1);
        if n.int("exclude_outside", 0) == 1 {
            let outside = |k: usize| !(0..a.from as i64).contains(&(first + k as i64));
            (0..w.len()).filter(|k| outside(*k)).for_each(|k| w[k] = 0.0);
            let sum: f64 = w.iter().sum();
            w.iter_mut().for_each(|v| *v /= sum);
        }
        for (k, v) in w.into_iter().enumerate() {
            if taps.len() <= k {
                taps.push((vec![], vec![]));
            }
            taps[k].0.push((first + k as i64).clamp(0, a.from as i64 - 1).into());
            taps[k].1.push(v);
        }
    }
    let mut along = vec![1; x.rank()];
    along[d] = a.to;
    let mut sum: Option<Val> = None;
    if n.word("mode", "nearest") == "nearest" {
        // One neighbour as it is, of any type.
        let at: Vec<i128> =
            (0..a.to).map(|i| if taps[1].1[i] > 0.0 { taps[1].0[i] } else { taps[0].0[i] }).collect();
        let times = a.to / a.from.max(1);
        if times * a.from == a.to && at.iter().enumerate().all(|(i, v)| *v == (i / times) as i128) {
            return repeated(t, x, d, times);
        }
        sum = Some(t.gather(x, &constant(Elem::I64, &[a.to], &Elements::Ints(at)), d)?);
    } else {
        for (at, w) in taps {
            if w.iter().all(|w| *w == 0.0) {
                continue;
            }
            let part = t.gather(x, &constant(Elem::I64, &[a.to], &Elements::Ints(at)), d)?;
            let part = t.mul(&part, &constant(x.elem(), &along, &Elements::Floats(w)))?;
            sum = Some(match sum {
                Some(s) => t.add(&s, &part)?,
                None => part,
            });
        }
    }
    let y = sum.ok_or_else(|| Fault::invalid("an axis resized to nothing"))?;
    if inside.iter().all(|c| *c) {
        return Ok(y);
    }
    let mask = constant(Elem::Bool, &along, &Elements::Ints(inside.into_iter().map(i128::from).collect()));
    t.select(&mask, &y, &number(n.float("extrapolation_value", 0.0), x.elem()))
}

fn resize(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let axes: Vec<usize> = match n.ints("axes") {
        Some(v) => v.iter().map(|d| axis(*d, x.rank())).collect::<Read<_>>()?,
        None => (0..x.rank()).collect(),
    };
    let upsample = n.message.op_type == "Upsample";
    let (roi_at, scales_at) = if upsample || n.opset < 11 { (9, 1) } else { (1, 2) };
    let mut list = |i: usize| -> Read<Vec<f64>> {
        match n.optional(i)? {
            Some(v) if !v.is_empty() => t.floats(v),
            _ => Ok(vec![]),
        }
    };
    let (roi, mut scales) = (list(roi_at)?, list(scales_at)?);
    let mut sizes = if upsample || n.opset < 11 { vec![] } else { list(3)? };
    if let Some(v) = n.floats("scales").filter(|_| upsample) {
        scales = v;
    }
    if x.is_empty() {
        return Err(Fault::invalid("nothing cannot be resized"));
    }
    let m = axes.len();
    let from = |i: usize| x.shape()[axes[i]] as f64;
    if sizes.len() == m && !sizes.is_empty() {
        let each: Vec<f64> = (0..m).map(|i| sizes[i] / from(i)).collect();
        let one = match n.word("keep_aspect_ratio_policy", "stretch") {
            "not_larger" => each.iter().copied().reduce(f64::min),
            "not_smaller" => each.iter().copied().reduce(f64::max),
            _ => None,
        };
        scales = one.map_or(each, |s| vec![s; m]);
        if let Some(s) = one {
            sizes = (0..m).map(|i| (s * from(i) + 0.5).floor()).collect();
        }
    } else if scales.len() == m {
        sizes = (0..m).map(|i| (scales[i] * from(i)).floor()).collect();
    } else {
        return Err(Fault::invalid("neither scales nor sizes for the axes"));
    }
    let mut y = x.clone();
    // The last axis first: the others move whole rows.
    for i in (0..m).rev() {
        let a = Axis {
            from: x.shape()[axes[i]],
            to: sizes[i].clamp(0.0, 1e6) as usize,
            scale: scales[i],
            roi: (roi.get(i).copied().unwrap_or(0.0), roi.get(i + m).copied().unwrap_or(1.0)),
        };
        let crop = n.word("coordinate_transformation_mode", "") == "tf_crop_and_resize";
        if a.to != a.from || a.scale != 1.0 || (crop && a.roi != (0.0, 1.0)) {
            y = along(t, n, &y, axes[i], &a)?;
        }
    }
    one(y)
}

/// A coordinate brought inside [low, high] by reflection at its ends.
fn reflected(t: &mut Trace<'_>, x: &Val, low: f64, high: f64) -> Read<Val> {
    let span = high - low;
    if span <= 0.0 {
        return t.spread(&number(low, x.elem()), x.shape());
    }
    let d = t.with("sub", x, low)?;
    let d = t.un("abs", &d)?;
    let turns = t.with("div", &d, 2.0 * span)?;
    let turns = t.un("floor", &turns)?;
    let turns = t.with("mul", &turns, 2.0 * span)?;
    let m = t.sub(&d, &turns)?;
    let back = t.of("sub", 2.0 * span, &m)?;
    let m = t.bin("min", &m, &back)?;
    t.with("add", &m, low)
}

/// Whole positions beside a coordinate, with their weights.
fn neighbours(t: &mut Trace<'_>, x: &Val, mode: &str) -> Read<Vec<(Val, Option<Val>)>> {
    if mode == "nearest" {
        return Ok(vec![(t.un("round", x)?, None)]);
    }
    let base = t.un("floor", x)?;
    let part = t.sub(x, &base)?;
    let rest = t.of("sub", 1.0, &part)?;
    if mode != "cubic" {
        let next = t.with("add", &base, 1.0)?;
        return Ok(vec![(base, Some(rest)), (next, Some(part))]);
    }
    let a = -0.75;
    let mut out = vec![];
    for (k, size) in [(-1.0, None), (0.0, Some(&part)), (1.0, Some(&rest)), (2.0, None)] {
        let w = match size {
            Some(v) => {
                // ((a + 2) v - (a + 3)) v^2 + 1
                let w = t.with("mul", v, a + 2.0)?;
                let w = t.with("sub", &w, a + 3.0)?;
                let w = t.mul(&w, v)?;
                let w = t.mul(&w, v)?;
                t.with("add", &w, 1.0)?
            }
            None => {
                // ((a v - 5 a) v + 8 a) v - 4 a, v between 1 and 2.
                let v = t.with("add", if k < 0.0 { &part } else { &rest }, 1.0)?;
                let w = t.with("mul", &v, a)?;
                let w = t.with("sub", &w, 5.0 * a)?;
                let w = t.mul(&w, &v)?;
                let w = t.with("add", &w, 8.0 * a)?;
                let w = t.mul(&w, &v)?;
                t.with("sub", &w, 4.0 * a)?
            }
        };
        out.push((t.with("add", &base, k)?, Some(w)));
    }
    Ok(out)
}

/// x [n, c, space..] at coordinates [n, out..] for each axis of space: [n, c, out..].
pub fn sampled_by(
    t: &mut Trace<'_>,
    x: &Val,
    at: &[Val],
    padding: &str,
    corners: bool,
    mode: &str,
) -> Read<Val> {
    let (batch, channels, space) = (x.shape()[0], x.shape()[1], &x.shape()[2..]);
    let volume: usize = space.iter().product();
    let elem = x.elem();
    let rank = at.first().map_or(0, Val::rank);
    let rows = t.reshape(x, &[batch, channels, volume])?;
    let rows = t.permute(&rows, &[0, 2, 1])?;
    let rows = t.reshape(&rows, &[batch * volume, channels])?;
    let ends = |d: usize| {
        let n = space[d] as f64;
        if corners { (0.0, n - 1.0) } else { (-0.5, n - 0.5) }
    };
    let mut taps = vec![];
    for (d, p) in at.iter().enumerate() {
        let (low, high) = ends(d);
        let p = if mode == "nearest" { t.un("round", p)? } else { p.clone() };
        let p = match padding {
            "border" => t.clamp(&p, 0.0, space[d] as f64 - 1.0)?,
            "reflection" => reflected(t, &p, low, high)?,
            _ => p,
        };
        taps.push(neighbours(t, &p, mode)?);
    }
    let first = t.ramp(batch, 0, rank, Elem::I64)?;
    let first = t.with("mul", &first, volume as f64)?;
    let mut sum: Option<Val> = None;
    let combinations: usize = taps.iter().map(Vec::len).product();
    for k in 0..combinations {
        let (mut k, mut index, mut weight) = (k, vec![], None::<Val>);
        for d in (0..at.len()).rev() {
            let (i, w) = taps[d][k % taps[d].len()].clone();
            k /= taps[d].len();
            let n = space[d] as f64;
            let mut w = w;
            let i = if padding == "reflection" { reflected(t, &i, ends(d).0, ends(d).1)? } else { i };
            if padding == "zeros" {
                let (a, b) = (t.of("le", 0.0, &i)?, t.with("lt", &i, n)?);
                let inside = t.bin("and", &a, &b)?;
                let inside = t.cast(&inside, elem)?;
                w = Some(match w {
                    Some(w) => t.mul(&w, &inside)?,
                    None => inside,
                });
            }
            let i = t.clamp(&i, 0.0, n - 1.0)?;
            index.insert(0, t.cast(&i, Elem::I64)?);
            weight = match (weight, w) {
                (Some(a), Some(b)) => Some(t.mul(&a, &b)?),
                (a, b) => a.or(b),
            };
        }
        let place = t.places(&index, space)?;
        let place = t.add(&place, &first)?;
        let mut part = t.gather(&rows, &place, 0)?;
        if let Some(w) = weight {
            let w = t.unsqueeze(&w, rank)?;
            part = t.mul(&part, &w)?;
        }
        sum = Some(match sum {
            Some(s) => t.add(&s, &part)?,
            None => part,
        });
    }
    let y = sum.ok_or_else(|| Fault::invalid("no axes of space"))?;
    let axes: Vec<usize> = [0, rank].into_iter().chain(1..rank).collect();
    t.permute(&y, &axes)
}

/// The same between neighbours along a line.
pub fn sampled(t: &mut Trace<'_>, x: &Val, at: &[Val], padding: &str, corners: bool) -> Read<Val> {
    sampled_by(t, x, at, padding, corners, "linear")
}

fn grid_sample(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, grid, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
    let d = x.rank().saturating_sub(2);
    if d == 0 || grid.rank() != x.rank() || grid.shape()[d + 1] != d {
        return Err(Fault::invalid("the grid does not fit the tensor"));
    }
    let corners = n.int("align_corners", 0) == 1;
    let mut at = vec![];
    for i in 0..d {
        // The last coordinate is that of the first axis.
        let g = t.pick(grid, d + 1, d - 1 - i)?;
        let m = x.shape()[i + 2] as f64;
        let g = t.with("add", &g, 1.0)?;
        at.push(if corners {
            t.with("mul", &g, (m - 1.0) / 2.0)?
        } else {
            let g = t.with("mul", &g, m / 2.0)?;
            t.with("sub", &g, 0.5)?
        });
    }
    let mode = match n.word("mode", "linear") {
        "bilinear" | "linear" => "linear",
        "bicubic" | "cubic" => "cubic",
        "nearest" => "nearest",
        other => return Err(Fault::unsupported(format!("the mode '{other}'"))),
    };
    one(sampled_by(t, x, &at, n.word("padding_mode", "zeros"), corners, mode)?)
}

fn affine_grid(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (theta, t) = (n.tensor(0)?, &mut r.trace);
    let size: Vec<usize> = t.ints(n.tensor(1)?)?.into_iter().map(|v| v.max(0) as usize).collect();
    let d = size.len().saturating_sub(2);
    if d == 0 || theta.shape() != [size[0], d, d + 1] {
        return Err(Fault::invalid("the transformation does not fit the size"));
    }
    let space = &size[2..];
    let mut parts = vec![];
    for i in (0..d).rev() {
        let m = space[i] as f64;
        let line = if n.int("align_corners", 0) == 1 {
            (0..space[i]).map(|k| if m > 1.0 { -1.0 + 2.0 * k as f64 / (m - 1.0) } else { -1.0 }).collect()
        } else {
            (0..space[i]).map(|k| (2.0 * k as f64 + 1.0) / m - 1.0).collect()
        };
        let mut shape = vec![1; d];
        shape[i] = space[i];
        let v = constant(theta.elem(), &shape, &Elements::Floats(line));
        parts.push(t.spread(&v, space)?);
    }
    parts.push(t.spread(&number(1.0, theta.elem()), space)?);
    let base = t.stack(&parts, d)?;
    // [space.., d + 1] with [n, d, d + 1]: [space.., n, d].
    let y = t.dot(&base, theta, &[], &[(d, 2)])?;
    let axes: Vec<usize> = std::iter::once(d).chain(0..d).chain([d + 1]).collect();
    one(t.permute(&y, &axes)?)
}

fn roi_align(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let (rois, batch) = (t.floats(n.tensor(1)?)?, t.ints(n.tensor(2)?)?);
    let (oh, ow) = (n.int("output_height", 1).max(1) as usize, n.int("output_width", 1).max(1) as usize);
    let (ratio, scale) = (n.int("sampling_ratio", 0), n.float("spatial_scale", 1.0));
    let half = if n
        .word("coordinate_transformation_mode", if n.opset < 16 { "output_half_pixel" } else { "half_pixel" })
        == "half_pixel"
    {
        0.5
    } else {
        0.0
    };
    let [_, c, h, w] = x.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    let most = n.word("mode", "avg") == "max";
    let mut out = vec![];
    for (i, b) in batch.iter().enumerate() {
        let Some(v) = rois.get(i * 4..i * 4 + 4) else {
            return Err(Fault::invalid("a region has four numbers"));
        };
        let (x0, y0, x1, y1) =
            (v[0] * scale - half, v[1] * scale - half, v[2] * scale - half, v[3] * scale - half);
        let (mut rw, mut rh) = (x1 - x0, y1 - y0);
        if half == 0.0 {
            (rw, rh) = (rw.max(1.0), rh.max(1.0));
        }
        let count = |size: f64, o: usize| {
            if ratio > 0 { ratio as usize } else { (size / o as f64).ceil().clamp(1.0, 1e4) as usize }
        };
        let (ny, nx) = (count(rh, oh), count(rw, ow));
        if oh.saturating_mul(ny) > 1 << 14 || ow.saturating_mul(nx) > 1 << 14 {
            return Err(Fault::unsupported("regions of so many samples"));
        }
        let line = |start: f64, size: f64, o: usize, k: usize, m: usize| -> Vec<f64> {
            let bin = size / o as f64;
            (0..o * k)
                .map(|j| {
                    let at = start + (j / k) as f64 * bin + ((j % k) as f64 + 0.5) * bin / k as f64;
                    // Beyond one position outside there is nothing.
                    if at < -1.0 || at > m as f64 { f64::NAN } else { at.clamp(0.0, m as f64 - 1.0) }
                })
                .collect()
        };
        let (ys, xs) = (line(y0, rh, oh, ny, h), line(x0, rw, ow, nx, w));
        let inside: Vec<i128> =
            ys.iter().flat_map(|y| xs.iter().map(|x| i128::from(!y.is_nan() && !x.is_nan()))).collect();
        let clean = |v: Vec<f64>| v.into_iter().map(|v| if v.is_nan() { 0.0 } else { v }).collect::<Vec<_>>();
        let (gy, gx) = (oh * ny, ow * nx);
        let y = constant(x.elem(), &[1, gy, 1], &Elements::Floats(clean(ys)));
        let xx = constant(x.elem(), &[1, 1, gx], &Elements::Floats(clean(xs)));
        let (y, xx) = (t.spread(&y, &[1, gy, gx])?, t.spread(&xx, &[1, gy, gx])?);
        let image = t.cut(x, 0, *b, 1, 1)?;
        let v =
            if most { weighed(t, &image, &[y, xx])? } else { sampled(t, &image, &[y, xx], "border", true)? };
        let mask = constant(Elem::Bool, &[gy, gx], &Elements::Ints(inside));
        let v = t.select(&mask, &v, &number(0.0, x.elem()))?;
        let v = t.reshape(&v, &[c, oh, ny, ow, nx])?;
        out.push(if most { t.reduce("maximum", &v, &[2, 4], false)? } else { t.mean(&v, &[2, 4], false)? });
    }
    if out.is_empty() {
        return one(crate::trace::empty(x.elem(), &[0, c, oh, ow]));
    }
    one(t.stack(&out, 0)?)
}

/// The largest weighed neighbour, which is what the largest of a region means in ONNX.
fn weighed(t: &mut Trace<'_>, x: &Val, at: &[Val]) -> Read<Val> {
    let (h, w) = (x.shape()[2], x.shape()[3]);
    let flat = t.reshape(x, &[x.shape()[1], h * w])?;
    let (ys, xs) = (neighbours(t, &at[0], "linear")?, neighbours(t, &at[1], "linear")?);
    let mut best: Option<Val> = None;
    for (y, wy) in &ys {
        for (xx, wx) in &xs {
            let mut index = vec![];
            for (i, m) in [(y, h), (xx, w)] {
                let i = t.clamp(i, 0.0, m as f64 - 1.0)?;
                index.push(t.cast(&i, Elem::I64)?);
            }
            let place = t.places(&index, &[h, w])?;
            let shape = place.shape()[1..].to_vec();
            let place = t.reshape(&place, &shape)?;
            let v = t.gather(&flat, &place, 1)?;
            let (Some(wy), Some(wx)) = (wy, wx) else { continue };
            let weight = t.mul(wy, wx)?;
            let v = t.mul(&v, &weight)?;
            best = Some(match best {
                Some(b) => t.bin("max", &b, &v)?,
                None => v,
            });
        }
    }
    best.ok_or_else(|| Fault::invalid("no neighbours"))
}

fn col2im(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let size = |v: Vec<i64>| v.into_iter().map(|v| v.max(0) as usize).collect::<Vec<_>>();
    let (image, block) = (size(t.ints(n.tensor(1)?)?), size(t.ints(n.tensor(2)?)?));
    let d = image.len();
    let or = |name: &str, v: i64, m: usize| n.ints(name).map_or_else(|| vec![v; m], <[i64]>::to_vec);
    let (strides, dilations, pads) = (or("strides", 1, d), or("dilations", 1, d), or("pads", 0, 2 * d));
    let [batch, rows, blocks] = x.shape()[..] else { return Err(Fault::invalid("expects three axes")) };
    let k: usize = block.iter().product();
    if block.len() != d
        || strides.len() != d
        || dilations.len() != d
        || pads.len() != 2 * d
        || k == 0
        || rows % k != 0
    {
        return Err(Fault::invalid("the attributes do not fit the image"));
    }
    let padded: Vec<usize> =
        (0..d).map(|i| (image[i] as i64 + pads[i] + pads[i + d]).max(0) as usize).collect();
    let reach = |i: usize| (block[i] as i64 - 1) * dilations[i] + 1;
    let counts: Vec<usize> =
        (0..d).map(|i| ((padded[i] as i64 - reach(i)) / strides[i].max(1) + 1).max(0) as usize).collect();
    if counts.iter().product::<usize>() != blocks {
        return Err(Fault::invalid("the columns are not those of the image"));
    }
    let digits = |mut v: usize, shape: &[usize]| -> Vec<usize> {
        let mut out = vec![0; shape.len()];
        for i in (0..shape.len()).rev() {
            (out[i], v) = (v % shape[i], v / shape[i]);
        }
        out
    };
    let mut places = vec![];
    for e in 0..k {
        for b in 0..blocks {
            let (e, b) = (digits(e, &block), digits(b, &counts));
            let at = |i: usize| b[i] as i64 * strides[i] + e[i] as i64 * dilations[i];
            places.push((0..d).fold(0, |n, i| n * padded[i] as i64 + at(i)));
        }
    }
    let c = rows / k;
    let y = t.reshape(x, &[batch * c, k * blocks])?;
    let y = t.permute(&y, &[1, 0])?;
    let zeros = t.spread(&number(0.0, x.elem()), &[padded.iter().product(), batch * c])?;
    let y = t.scatter(&zeros, &vector(&places), &y, "sum")?;
    let y = t.permute(&y, &[1, 0])?;
    let y = t.reshape(&y, &[&[batch, c], &padded[..]].concat())?;
    let cuts: Vec<_> = (0..d).map(|i| (i + 2, pads[i], image[i], 1)).collect();
    one(t.cuts(&y, &cuts)?)
}

pub(super) const ROWS: &[Row] = &[
    row("Resize", 10, resize),
    row("Upsample", 7, resize),
    row("GridSample", 16, grid_sample),
    row("AffineGrid", 20, affine_grid),
    row("RoiAlign", 10, roi_align),
    row("Col2Im", 18, col2im),
];
