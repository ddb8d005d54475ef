//! Sums of products: matrices, contractions by indices, convolutions.

use super::{Row, one, row};
use crate::build::{list, number};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::ops::window::{Spatial, space};
use crate::trace::{Read, Trace, Val};
use lathe_ir::graph::Attr;
use std::collections::BTreeMap;

fn gemm(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let t = &mut r.trace;
    let turned = |t: &mut Trace<'_>, x: &Val, flag: &str| {
        if x.rank() != 2 {
            return Err(Fault::invalid("expects matrices"));
        }
        if n.int(flag, 0) == 1 { t.permute(x, &[1, 0]) } else { Ok(x.clone()) }
    };
    let (a, b) = (turned(t, n.tensor(0)?, "transA")?, turned(t, n.tensor(1)?, "transB")?);
    let mut y = t.matmul(&a, &b)?;
    let (alpha, beta) = (n.float("alpha", 1.0), n.float("beta", 1.0));
    if alpha != 1.0 {
        y = t.with("mul", &y, alpha)?;
    }
    if let Some(c) = n.optional(2)?.filter(|_| beta != 0.0) {
        let c = if beta == 1.0 { c.clone() } else { t.with("mul", c, beta)? };
        y = t.add(&y, &c)?;
    }
    one(y)
}

/// Factors as i32, less their zero points, one number or one for each row (of the first) or column (of the second).
pub fn centred(t: &mut Trace<'_>, x: &Val, zero: Option<&Val>, axis: usize) -> Read<Val> {
    let x = t.cast(x, Elem::I32)?;
    let Some(zero) = zero else { return Ok(x) };
    let zero = t.cast(zero, Elem::I32)?;
    let zero = along(t, &zero, axis, x.rank())?;
    t.sub(&x, &zero)
}

/// Bytes with the sign that instructions take, and their zero point, moved by 128 like them: nothing of their difference changes.
fn moved(t: &mut Trace<'_>, x: &Val, zero: Option<&Val>, to: Elem) -> Read<(Val, Option<Val>)> {
    if x.elem() == to {
        return Ok((x.clone(), zero.cloned()));
    }
    // 128 more and 128 less are the same byte.
    let x = t.cast(x, Elem::U8)?;
    let x = t.with("add", &x, 128.0)?;
    let by = if to == Elem::U8 { 128.0 } else { -128.0 };
    let zero = match zero {
        Some(z) => {
            let z = t.cast(z, Elem::I32)?;
            t.with("add", &z, by)?
        }
        None => number(by, Elem::I32),
    };
    Ok((t.cast(&x, to)?, Some(zero)))
}

/// The product of bytes, as instructions have it, less what zero points add to it: `sum (a - p) (b - q)` is
/// `sum a b - p sum b - q sum a + k p q`.
fn of_bytes(t: &mut Trace<'_>, [a, b]: [&Val; 2], zeros: [Option<&Val>; 2]) -> Read<Val> {
    let mut y = t.matmul(a, b)?;
    let some = |t: &mut Trace<'_>, z: Option<&Val>, axis: usize, rank: usize| -> Read<Option<Val>> {
        let Some(z) = z else { return Ok(None) };
        let z = t.cast(z, Elem::I32)?;
        along(t, &z, axis, rank).map(Some)
    };
    let rank = y.rank();
    if a.rank() < 2 || b.rank() < 2 {
        // Vectors: a sum is over all there is.
        let [p, q] = [
            centred(t, a, zeros[0], a.rank().saturating_sub(2))?,
            centred(t, b, zeros[1], b.rank().saturating_sub(1))?,
        ];
        return if zeros.iter().any(Option::is_some) { t.matmul(&p, &q) } else { Ok(y) };
    }
    let p = some(t, zeros[0], rank - 2, rank)?;
    let q = some(t, zeros[1], rank - 1, rank)?;
    let k = a.shape()[a.rank() - 1];
    if let Some(p) = &p {
        let wide = t.cast(b, Elem::I32)?;
        let sum = t.reduce("sum", &wide, &[b.rank() - 2], true)?;
        let less = t.mul(p, &sum)?;
        y = t.sub(&y, &less)?;
    }
    if let Some(q) = &q {
        let wide = t.cast(a, Elem::I32)?;
        let sum = t.reduce("sum", &wide, &[a.rank() - 1], true)?;
        let less = t.mul(&sum, q)?;
        y = t.sub(&y, &less)?;
    }
    if let (Some(p), Some(q)) = (&p, &q) {
        let both = t.mul(p, q)?;
        let both = t.with("mul", &both, k as f64)?;
        y = t.add(&y, &both)?;
    }
    Ok(y)
}

/// A vector along one of `rank` axes; a single number and what has as many axes stay.
pub fn along(t: &mut Trace<'_>, v: &Val, axis: usize, rank: usize) -> Read<Val> {
    if v.len() == 1 {
        return t.reshape(v, &[]);
    }
    if v.rank() != 1 || axis >= rank {
        return Ok(v.clone());
    }
    let mut shape = vec![1; rank];
    shape[axis] = v.len();
    t.reshape(v, &shape)
}

/// A product by index letters: each argument's axes, and those of the result.
fn einsum(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let equation: String = n.word("equation", "").chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l.to_string(), Some(r.to_string())),
        None => (equation.clone(), None),
    };
    let args = n.tensors()?;
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != args.len() {
        return Err(Fault::invalid(format!("'{equation}' is not of {} arguments", args.len())));
    }
    let letters = |term: &str, rank: usize| -> Read<Vec<char>> {
        let bad = || Fault::invalid(format!("'{term}' does not name {rank} axes"));
        let Some((a, b)) = term.split_once("...") else {
            let all: Vec<char> = term.chars().collect();
            return if all.len() == rank && all.iter().all(char::is_ascii_alphabetic) {
                Ok(all)
            } else {
                Err(bad())
            };
        };
        let free = rank.checked_sub(a.len() + b.len()).ok_or_else(bad)?;
        // Axes behind the dots are numbered from the last one.
        let dots = (0..free).rev().filter_map(|i| char::from_digit(i as u32, 10));
        Ok(a.chars().chain(dots).chain(b.chars()).collect())
    };
    let t = &mut r.trace;
    let mut sizes: BTreeMap<char, usize> = BTreeMap::new();
    let mut parts = vec![];
    for (term, x) in terms.iter().zip(&args) {
        let (mut own, mut x) = (letters(term, x.rank())?, x.clone());
        // An index that occurs twice takes the diagonal.
        while let Some((i, j)) =
            (0..own.len()).find_map(|j| own[..j].iter().position(|c| *c == own[j]).map(|i| (i, j)))
        {
            let m = x.shape()[i];
            let (a, b) = (t.ramp(m, i, own.len(), Elem::I64)?, t.ramp(m, j, own.len(), Elem::I64)?);
            let on = t.bin("eq", &a, &b)?;
            let kept = t.select(&on, &x, &number(0.0, x.elem()))?;
            x = t.reduce("sum", &kept, &[j], false)?;
            own.remove(j);
        }
        for (c, m) in own.iter().zip(x.shape()) {
            let size = sizes.entry(*c).or_insert(*m);
            *size = (*size).max(*m);
        }
        parts.push((own, x));
    }
    let out: Vec<char> = match right {
        Some(term) => {
            let dots = sizes.keys().filter(|c| c.is_ascii_digit()).count();
            let rank = if term.contains("...") { term.len() - 3 + dots } else { term.len() };
            letters(&term, rank)?
        }
        None => {
            let once = |c: &&char| parts.iter().flat_map(|(own, _)| own).filter(|d| d == c).count() == 1;
            let dots = sizes.keys().rev().filter(|c| c.is_ascii_digit());
            dots.chain(sizes.keys().filter(|c| c.is_ascii_alphabetic()).filter(once)).copied().collect()
        }
    };
    let mut parts = parts.into_iter();
    let Some((mut own, mut y)) = parts.next() else { return Err(Fault::invalid("no arguments")) };
    let mut rest: Vec<(Vec<char>, Val)> = parts.collect();
    while !rest.is_empty() {
        let (theirs, x) = rest.remove(0);
        let later = |c: &char| out.contains(c) || rest.iter().any(|(o, _)| o.contains(c));
        let both: Vec<char> = own.iter().filter(|c| theirs.contains(c)).copied().collect();
        // Extents of 1 beside longer ones are repeated.
        let fit = |t: &mut Trace<'_>, own: &[char], v: &Val| {
            let shape: Vec<usize> = own
                .iter()
                .zip(v.shape())
                .map(|(c, m)| if both.contains(c) { sizes[c] } else { *m })
                .collect();
            t.spread(v, &shape)
        };
        let (a, b) = (fit(t, &own, &y)?, fit(t, &theirs, &x)?);
        let pair = |c: &char| {
            let at = |l: &[char]| l.iter().position(|d| d == c).unwrap_or(0);
            (at(&own), at(&theirs))
        };
        let (batch, sum): (Vec<char>, Vec<char>) = both.iter().partition(|c| later(c));
        let pairs = |l: &[char]| l.iter().map(pair).collect::<Vec<_>>();
        y = t.dot(&a, &b, &pairs(&batch), &pairs(&sum))?;
        let free = |l: &[char]| l.iter().filter(|c| !both.contains(c)).copied().collect::<Vec<_>>();
        own = [batch, free(&own), free(&theirs)].concat();
    }
    let gone: Vec<usize> = (0..own.len()).filter(|d| !out.contains(&own[*d])).collect();
    let y = t.reduce("sum", &y, &gone, false)?;
    own.retain(|c| out.contains(c));
    let order: Option<Vec<usize>> = out.iter().map(|c| own.iter().position(|d| d == c)).collect();
    let order =
        order.ok_or_else(|| Fault::invalid(format!("'{equation}' has a result of an unknown index")))?;
    one(t.permute(&y, &order)?)
}

/// A convolution with its padding.
pub fn convolve(t: &mut Trace<'_>, x: &Val, w: &Val, s: &Spatial, groups: i64, pad_with: f64) -> Read<Val> {
    let x = s.padded(t, x, pad_with)?;
    if x.is_empty() || w.is_empty() {
        return Err(Fault::unsupported("a convolution of nothing"));
    }
    let attrs =
        [("strides", list(&s.strides)), ("dilations", list(&s.dilations)), ("groups", Attr::Int(groups))];
    t.op("conv", &[&x, w], &attrs, x.elem())
}

fn conv(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, w) = (n.tensor(0)?, n.tensor(1)?);
    let s = space(n, x, &kernel(w)?)?;
    let y = convolve(&mut r.trace, x, w, &s, n.int("group", 1), 0.0)?;
    one(biased(&mut r.trace, &y, n.optional(2)?)?)
}

/// The extents of weights behind their channels.
pub fn kernel(w: &Val) -> Read<Vec<i64>> {
    if w.rank() < 3 {
        return Err(Fault::invalid("weights have an axis of space at least"));
    }
    Ok(w.dims()[2..].to_vec())
}

fn biased(t: &mut Trace<'_>, y: &Val, bias: Option<&Val>) -> Read<Val> {
    let Some(b) = bias else { return Ok(y.clone()) };
    let b = t.reshape(b, &[&[b.len()], &vec![1; y.rank() - 2][..]].concat())?;
    t.add(y, &b)
}

/// The transpose of a convolution: x with gaps between its elements, convolved with the weights turned around.
fn conv_transpose(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, w, bias, t) = (n.tensor(0)?, n.tensor(1)?, n.optional(2)?, &mut r.trace);
    let sizes = kernel(w)?;
    let (d, groups) = (sizes.len(), n.int("group", 1).max(1) as usize);
    let or = |name: &str, v: i64| n.ints(name).map_or_else(|| vec![v; d], <[i64]>::to_vec);
    let (strides, dilations, extra) = (or("strides", 1), or("dilations", 1), or("output_padding", 0));
    if x.rank() != d + 2
        || [&strides, &dilations, &extra].iter().any(|v| v.len() != d)
        || w.shape()[0] % groups != 0
    {
        return Err(Fault::invalid("the attributes do not fit the axes"));
    }
    let reach: Vec<i64> = (0..d).map(|i| (sizes[i] - 1) * dilations[i] + 1).collect();
    let full = |i: usize| strides[i] * (x.dims()[i + 2] - 1) + extra[i] + reach[i];
    let mut pads = or("pads", 0);
    pads.resize(2 * d, 0);
    let auto = n.word("auto_pad", "NOTSET");
    let wanted = match n.ints("output_shape") {
        Some(v) => Some(v[v.len().saturating_sub(d)..].to_vec()),
        None if auto.starts_with("SAME") => Some((0..d).map(|i| x.dims()[i + 2] * strides[i]).collect()),
        None => None,
    };
    if let Some(out) = wanted.filter(|o| o.len() == d) {
        for i in 0..d {
            let total = full(i) - out[i];
            let (small, large) = (total.div_euclid(2), total - total.div_euclid(2));
            (pads[i], pads[i + d]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
        }
    }
    let (c, m) = (w.shape()[0], w.shape()[1]);
    // Windows side by side: each position of the input makes a block of the output.
    let blocks = (0..d).all(|i| sizes[i] == strides[i] && dilations[i] == 1 && extra[i] == 0);
    if blocks && pads.iter().all(|p| *p == 0) {
        let k: usize = w.shape()[2..].iter().product();
        let flat = t.reshape(w, &[groups, c / groups, m * k])?;
        let flat = t.swap(&flat, 1, 2)?;
        let flat = t.reshape(&flat, &[&[groups * m * k, c / groups], &vec![1; d][..]].concat())?;
        let s = Spatial::plain(vec![1; d], vec![1; d], vec![1; d]);
        let y = convolve(t, x, &flat, &s, groups as i64, 0.0)?;
        let (batch, space, block) = (x.shape()[0], &x.shape()[2..], &w.shape()[2..]);
        let y = t.reshape(&y, &[&[batch, groups * m], block, space].concat())?;
        let axes: Vec<usize> = (0..2).chain((0..d).flat_map(|i| [2 + d + i, 2 + i])).collect();
        let y = t.permute(&y, &axes)?;
        let whole: Vec<usize> = space.iter().zip(block).map(|(s, k)| s * k).collect();
        let y = t.reshape(&y, &[&[batch, groups * m], &whole[..]].concat())?;
        return one(biased(t, &y, bias)?);
    }
    let mut low = vec![0; 2];
    let (mut high, mut gaps) = (low.clone(), low.clone());
    for i in 0..d {
        low.push(reach[i] - 1 - pads[i]);
        high.push(reach[i] - 1 - pads[i + d] + extra[i]);
        gaps.push(strides[i] - 1);
    }
    let x = t.pad_by(x, &low, &high, &gaps, "constant", 0.0)?;
    // Weights [C, M / g, k..] to [M, C / g, k..], turned around along k.
    let tail = &w.shape()[2..];
    let w = t.reshape(w, &[&[groups, c / groups, m], tail].concat())?;
    let w = t.swap(&w, 1, 2)?;
    let mut w = t.reshape(&w, &[&[groups * m, c / groups], tail].concat())?;
    for i in 0..d {
        w = t.flip(&w, i + 2)?;
    }
    let s = Spatial::plain(sizes, vec![1; d], dilations);
    let y = convolve(t, &x, &w, &s, groups as i64, 0.0)?;
    one(biased(t, &y, bias)?)
}

/// A convolution where the kernel's elements are moved by offsets and weighed by a mask.
fn deform_conv(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, w, offset, t) = (n.tensor(0)?, n.tensor(1)?, n.tensor(2)?, &mut r.trace);
    let (sizes, [batch, c, h, wd]) = (
        kernel(w)?,
        x.shape()[..].try_into().map_err(|_| Fault::unsupported("other than two axes of space"))?,
    );
    let sizes: [i64; 2] =
        sizes[..].try_into().map_err(|_| Fault::unsupported("other than two axes of space"))?;
    let s = space(n, x, &sizes)?;
    let (parts, groups) = (n.int("offset_group", 1).max(1) as usize, n.int("group", 1).max(1) as usize);
    let (kh, kw) = (sizes[0] as usize, sizes[1] as usize);
    let (oh, ow) = (offset.extent(2)?, offset.extent(3)?);
    // Offsets: [n, part, kernel, (y, x), oh, ow].
    let offset = t.reshape(offset, &[batch, parts, kh * kw, 2, oh, ow])?;
    let mut at = vec![];
    for (i, (o, k)) in [(oh, kh), (ow, kw)].into_iter().enumerate() {
        let moved = t.pick(&offset, 3, i)?;
        let out = t.ramp(o, 3 + i, 5, Elem::F32)?;
        let out = t.with("mul", &out, s.strides[i] as f64)?;
        let axis = t.ramp(k, i, 2, Elem::F32)?;
        let axis = t.spread(&axis, &[kh, kw])?;
        let axis = t.reshape(&axis, &[1, 1, kh * kw, 1, 1])?;
        let axis = t.with("mul", &axis, s.dilations[i] as f64)?;
        let base = t.add(&out, &axis)?;
        let base = t.with("sub", &base, s.low[i] as f64)?;
        let base = t.cast(&base, x.elem())?;
        at.push(t.add(&base, &moved)?);
    }
    // Sampled: [n, part, c / part, kernel, oh, ow], then channels in groups and a product.
    let x = t.reshape(x, &[batch * parts, c / parts, h, wd])?;
    let flat = |t: &mut Trace<'_>, v: &Val| t.reshape(v, &[batch * parts, kh * kw * oh, ow]);
    let (y, xs) = (flat(t, &at[0])?, flat(t, &at[1])?);
    let v = super::image::sampled(t, &x, &[y, xs], "zeros", false)?;
    let mut v = t.reshape(&v, &[batch, parts, c / parts, kh * kw, oh, ow])?;
    if let Some(mask) = n.optional(4)? {
        let mask = t.reshape(mask, &[batch, parts, 1, kh * kw, oh, ow])?;
        v = t.mul(&v, &mask)?;
    }
    let m = w.shape()[0];
    let v = t.reshape(&v, &[batch, groups, c / groups * kh * kw, oh, ow])?;
    let w = t.reshape(w, &[groups, m / groups, c / groups * kh * kw])?;
    let y = t.dot(&w, &v, &[(0, 1)], &[(2, 2)])?;
    let y = t.permute(&y, &[2, 0, 1, 3, 4])?;
    let y = t.reshape(&y, &[batch, m, oh, ow])?;
    one(biased(t, &y, n.optional(3)?)?)
}

/// The determinant of matrices, by elimination on the larger of two rows at a time.
fn det(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    let rank = x.rank();
    if rank < 2 || x.shape()[rank - 1] != x.shape()[rank - 2] {
        return Err(Fault::invalid("expects square matrices"));
    }
    let m = x.shape()[rank - 1];
    let batch: usize = x.shape()[..rank - 2].iter().product();
    let mut a = t.reshape(x, &[batch, m, m])?;
    let mut y = crate::build::filled(x.elem(), &[batch], 1.0);
    for k in 0..m {
        // The row with the largest element of the column comes first; an exchange turns the sign.
        let column = t.pick(&a, 2, 0)?;
        let size = t.un("abs", &column)?;
        let at = super::reduce::arg(t, &size, 1, false, false)?;
        let rest = m - k;
        let i = t.ramp(rest, 1, 2, Elem::I64)?;
        let at = t.reshape(&at, &[batch, 1])?;
        let chosen = t.bin("eq", &i, &at)?;
        let weight = t.cast(&chosen, x.elem())?;
        let pivot = t.dot(&weight, &a, &[(0, 0)], &[(1, 1)])?;
        let head = t.pick(&pivot, 1, 0)?;
        y = t.mul(&y, &head)?;
        let moved = t.with("eq", &at, 0.0)?;
        let moved = t.reshape(&moved, &[batch])?;
        let turned = t.un("neg", &y)?;
        y = t.select(&moved, &y, &turned)?;
        if rest == 1 {
            break;
        }
        // The first row goes where the pivot was.
        let first = t.cut(&a, 1, 0, 1, 1)?;
        let mask = t.reshape(&chosen, &[batch, rest, 1])?;
        let a2 = t.select(&mask, &first, &a)?;
        let below = t.cut(&a2, 1, 1, rest - 1, 1)?;
        let none = t.with("eq", &head, 0.0)?;
        let safe = t.select(&none, &number(1.0, x.elem()), &head)?;
        let safe = t.reshape(&safe, &[batch, 1])?;
        let factors = t.pick(&below, 2, 0)?;
        let factors = t.div(&factors, &safe)?;
        let factors = t.reshape(&factors, &[batch, rest - 1, 1])?;
        let row = t.reshape(&pivot, &[batch, 1, rest])?;
        let less = t.mul(&factors, &row)?;
        let a3 = t.sub(&below, &less)?;
        a = t.cut(&a3, 2, 1, rest - 1, 1)?;
    }
    one(t.reshape(&y, &x.shape()[..rank - 2])?)
}

pub(super) const ROWS: &[Row] = &[
    row("MatMul", 1, |r, n| one(r.trace.matmul(n.tensor(0)?, n.tensor(1)?)?)),
    row("Gemm", 1, gemm),
    row("Einsum", 12, einsum),
    row("MatMulInteger", 10, |r, n| {
        let (a, b, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
        let (za, zb) = (n.optional(2)?, n.optional(3)?);
        if !a.is_empty() && !b.is_empty() {
            let (a, za) = moved(t, a, za, Elem::U8)?;
            let (b, zb) = moved(t, b, zb, Elem::I8)?;
            return one(of_bytes(t, [&a, &b], [za.as_ref(), zb.as_ref()])?);
        }
        let a = centred(t, a, za, a.rank().saturating_sub(2))?;
        let b = centred(t, b, zb, b.rank().saturating_sub(1))?;
        one(t.matmul(&a, &b)?)
    }),
    row("Conv", 1, conv),
    row("ConvInteger", 10, |r, n| {
        let (x, w, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
        let s = space(n, x, &kernel(w)?)?;
        let x = centred(t, x, n.optional(2)?, 1)?;
        let w = centred(t, w, n.optional(3)?, 0)?;
        one(convolve(t, &x, &w, &s, n.int("group", 1), 0.0)?)
    }),
    row("ConvTranspose", 1, conv_transpose),
    row("DeformConv", 19, deform_conv),
    row("Det", 11, det),
];
