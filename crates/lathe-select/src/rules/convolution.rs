//! Convolutions as products, over windows where a filter has more than one position (im2col), and factors folded into filters.

use crate::rule::{Axes, Kind, Place, Right, Rule, Tag, at, ints};
use crate::sample::{Sample, list};
use lathe_ir::DType;
use lathe_ir::graph::{Attr, Attrs, int_attr, ints_attr};

/// The strides of the convolution or the windows at the root, one an axis of space.
fn strides(r: &Right<'_>, n: usize) -> Vec<i64> {
    let all = ints_attr(r.attrs(0), "strides").to_vec();
    if all.is_empty() { vec![1; n] } else { all }
}

fn groups(r: &Right<'_>) -> i64 {
    int_attr(r.attrs(0), "groups").unwrap_or(1)
}

/// Windows of the last axes of a node, as the convolution at the root has them.
fn windows(r: &mut Right<'_>, x: Place, sizes: &[i64]) -> Option<Place> {
    let mut attrs: Attrs = [("window".into(), list(sizes))].into();
    for name in ["strides", "dilations"] {
        attrs.extend(r.attrs(0).get(name).map(|a| (name.into(), a.clone())));
    }
    r.op("windows", &[x], attrs)
}

fn run(from: usize, n: usize) -> Vec<usize> {
    (from..from + n).collect()
}

fn conv_windows(r: &mut Right<'_>) -> Option<Place> {
    let (x, w) = (r.var(0), r.var(1));
    let dw = r.dims(w)?;
    let n = dw.len() - 2;
    (groups(r) == 1).then_some(())?;
    // Windows are [batch, channel, place.., element..].
    let p = windows(r, x, &dw[2..])?;
    let over = [&[1][..], &run(2 + n, n)].concat();
    let axes = Axes { sum: [run(1, 1 + n), over], ..Axes::default() };
    let z = r.dot(w, p, &axes)?;
    r.permute(z, &[&[1, 0][..], &run(2, n)].concat())
}

fn windows_none(r: &mut Right<'_>) -> Option<Place> {
    let (x, window) = (r.var(0), ints_attr(r.attrs(0), "window").to_vec());
    let steps = strides(r, window.len());
    window.iter().chain(&steps).all(|n| *n == 1).then_some(())?;
    let shape = [r.dims(x)?, window].concat();
    r.reshape(x, &shape)
}

fn conv_pointwise(r: &mut Right<'_>) -> Option<Place> {
    let (mut x, w) = (r.var(0), r.var(1));
    let (dx, dw) = (r.dims(x)?, r.dims(w)?);
    let n = dw.len() - 2;
    (groups(r) == 1 && dw[2..].iter().all(|k| *k == 1)).then_some(())?;
    let steps = strides(r, n);
    if steps.iter().any(|s| *s > 1) {
        let sizes: Vec<i64> = dx[2..].iter().zip(&steps).map(|(d, s)| (d - 1) / s + 1).collect();
        let attrs = [
            ("axes".into(), ints(&run(2, n))),
            ("starts".into(), list(&vec![0; n])),
            ("sizes".into(), list(&sizes)),
            ("steps".into(), list(&steps)),
        ];
        x = r.op("slice", &[x], attrs.into())?;
    }
    let w = r.reshape(w, &dw[..2])?;
    let z = r.dot(w, x, &Axes { sum: [vec![1], vec![1]], ..Axes::default() })?;
    r.permute(z, &[&[1, 0][..], &run(2, n)].concat())
}

fn conv_groups(r: &mut Right<'_>) -> Option<Place> {
    let (x, w, g) = (r.var(0), r.var(1), groups(r));
    let (dx, dw) = (r.dims(x)?, r.dims(w)?);
    let n = dw.len() - 2;
    (g > 1).then_some(())?;
    let x = r.reshape(x, &[&[dx[0], g, dx[1] / g][..], &dx[2..]].concat())?;
    let p = windows(r, x, &dw[2..])?;
    let w = r.reshape(w, &[&[g, dw[0] / g][..], &dw[1..]].concat())?;
    let over = [&[2][..], &run(3 + n, n)].concat();
    let axes = Axes { batch: [vec![0], vec![1]], sum: [run(2, 1 + n), over], ..Axes::default() };
    // [group, filter, batch, place..]
    let z = r.dot(w, p, &axes)?;
    let z = r.permute(z, &[&[2, 0, 1][..], &run(3, n)].concat())?;
    let d = r.dims(z)?;
    r.reshape(z, &[&[d[0], d[1] * d[2]][..], &d[3..]].concat())
}

fn conv_scale(r: &mut Right<'_>) -> Option<Place> {
    let (x, w, s) = (r.var(0), r.var(1), r.var(2));
    let (dw, ds) = (r.dims(w)?, r.dims(s)?);
    let rank = dw.len();
    let full = [&vec![1; rank.checked_sub(ds.len())?][..], &ds].concat();
    let others = (0..rank).filter(|d| *d != 1);
    (at(&full, &others.collect::<Vec<_>>()).iter().all(|n| *n == 1)).then_some(())?;
    let mut shape = vec![1; rank];
    shape[0] = full[1];
    let s = r.reshape(s, &shape)?;
    let w = r.op("mul", &[w, s], Attrs::new())?;
    r.same(1, &[x, w])
}

fn sample(seed: u64, groups: i64, size: i64) -> Sample {
    let mut s = Sample::new(seed);
    let (c, m) = (groups * s.pick(1, 3), groups * s.pick(1, 3));
    let (h, v) = (size + s.pick(0, 3), size + s.pick(0, 3));
    let batch = s.pick(1, 2);
    let (x, w) = (s.input(DType::F32, &[batch, c, h, v]), s.input(DType::F32, &[m, c / groups, size, size]));
    let steps = [s.pick(1, 2), s.pick(1, 2)];
    s.op("conv", &[x, w], &[("strides", list(&steps)), ("groups", Attr::Int(groups))]);
    s
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "conv-windows",
        left: &["conv(x, w)"],
        doc: "a convolution without groups is the product of its filters and the windows",
        tag: Tag::Bitwise,
        kind: Kind::Windows,
        of_instruction: false,
        right: conv_windows,
        sample: |seed| sample(seed, 1, 1 + (seed % 2) as i64),
    },
    Rule {
        name: "windows-none",
        left: &["windows(x)"],
        doc: "windows of one position, one apart, are the elements in another shape",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: windows_none,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims = [s.pick(1, 3), s.pick(1, 4), s.pick(1, 4)];
            let x = s.input(DType::F32, &dims);
            s.op("windows", &[x], &[("window", list(&[1, 1]))]);
            s
        },
    },
    Rule {
        name: "conv-pointwise",
        left: &["conv(x, w)"],
        doc: "a convolution with filters of one position is a product along the channels",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: conv_pointwise,
        sample: |seed| sample(seed, 1, 1),
    },
    Rule {
        name: "conv-groups",
        left: &["conv(x, w)"],
        doc: "a convolution in groups is a batch of products over windows",
        tag: Tag::Bitwise,
        kind: Kind::Windows,
        of_instruction: false,
        right: conv_groups,
        sample: |seed| sample(seed, 2, 1 + (seed % 2) as i64),
    },
    Rule {
        name: "conv-scale",
        left: &["mul(conv(x, w), s)"],
        doc: "a factor of each channel of a convolution is one of its filters",
        tag: Tag::Reassociates,
        kind: Kind::Algebra,
        of_instruction: false,
        right: conv_scale,
        sample: |seed| {
            let mut s = sample(seed, 1, 2);
            let y = s.graph.outputs[0];
            let m = s.graph.ty(y).shape[1].as_const().unwrap_or(1);
            let k = s.input(DType::F32, &[m, 1, 1]);
            s.op("mul", &[y, k], &[]);
            s
        },
    },
];
