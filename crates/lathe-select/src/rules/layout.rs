//! Changes of shape and place: joined, left out, and moved in front of arithmetic that they do not change.

use crate::rule::{Kind, Place, Right, Rule, Tag};
use crate::sample::{Sample, list};
use lathe_ir::DType;
use lathe_ir::graph::{Attr, Attrs, float_attr, ints_attr, str_attr};

fn permute_permute(r: &mut Right<'_>) -> Option<Place> {
    let order: Vec<usize> = ints_attr(r.attrs(0), "axes")
        .iter()
        .map(|d| ints_attr(r.attrs(1), "axes")[*d as usize] as usize)
        .collect();
    r.permute(r.var(0), &order)
}

fn permute_reshape(r: &mut Right<'_>) -> Option<Place> {
    let (x, axes) = (r.var(0), ints_attr(r.attrs(0), "axes").to_vec());
    let (dims, axes) = (r.dims(x)?, axes.iter().map(|d| *d as usize).collect::<Vec<_>>());
    let moved: Vec<usize> = axes.iter().filter(|d| dims[**d] != 1).copied().collect();
    moved.is_sorted().then(|| r.permute(x, &axes))?
}

fn reshape_none(r: &mut Right<'_>) -> Option<Place> {
    let (x, spec) = (r.var(0), ints_attr(r.attrs(0), "shape").to_vec());
    (r.dims(x)? == spec).then_some(x)
}

/// The extents that a reshape gives.
fn reshaped(r: &Right<'_>, x: Place) -> Option<Vec<i64>> {
    let (dims, spec) = (r.dims(x)?, ints_attr(r.attrs(0), "shape"));
    spec.iter().all(|d| *d > 0).then_some(())?;
    (spec.iter().product::<i64>() == dims.iter().product::<i64>()).then(|| spec.to_vec())
}

fn reshape_reshape(r: &mut Right<'_>) -> Option<Place> {
    let x = r.var(0);
    let to = reshaped(r, x)?;
    r.reshape(x, &to)
}

/// What a pad puts around; `None` where the root is a pad by the elements' own or with a value of no meaning here.
fn around(r: &Right<'_>) -> Option<f64> {
    let a = r.attrs(0);
    (str_attr(a, "mode").is_none_or(|m| m == "constant")).then(|| float_attr(a, "value").unwrap_or(0.0))
}

/// The attributes of the root with another value to pad with, of a type.
fn with_value(r: &Right<'_>, v: f64, t: DType) -> Attrs {
    let mut a = r.attrs(0).clone();
    a.insert("value".into(), if t.is_int() { Attr::Int(v as i64) } else { Attr::Float(v) });
    a
}

/// The root over another argument; a pad puts `v` around.
fn moved(r: &mut Right<'_>, x: Place, v: f64) -> Option<Place> {
    let pads = r.name(0) == "pad";
    let attrs = if pads { with_value(r, v, r.dtype(x)) } else { r.attrs(0).clone() };
    let op = r.name(0).to_string();
    r.op(&op, &[x], attrs)
}

fn view_cast(r: &mut Right<'_>) -> Option<Place> {
    let x = r.var(0);
    (r.name(0) != "pad" || around(r)? == 0.0).then_some(())?;
    let y = moved(r, x, 0.0)?;
    r.same(1, &[y])
}

/// A single number without axes.
fn scalar(r: &mut Right<'_>, s: Place) -> Option<Place> {
    (r.dims(s)?.iter().product::<i64>() == 1).then_some(())?;
    r.reshape(s, &[])
}

fn view_scale(r: &mut Right<'_>) -> Option<Place> {
    let (x, s) = (r.var(0), r.var(1));
    (r.name(0) != "pad" || around(r)? == 0.0).then_some(())?;
    // A number with more axes than x would give the result more axes.
    (r.dims(s)?.len() <= r.dims(x)?.len()).then_some(())?;
    let (s, y) = (scalar(r, s)?, moved(r, x, 0.0)?);
    r.same(1, &[y, s])
}

fn view_offset(r: &mut Right<'_>) -> Option<Place> {
    let (x, s) = (r.var(0), r.var(1));
    let pads = r.name(0) == "pad";
    // What is put around is 0 behind the subtraction.
    let v = if pads { r.facts(s).number.filter(|_| around(r) == Some(0.0))? } else { 0.0 };
    (r.dims(s)?.len() <= r.dims(x)?.len()).then_some(())?;
    let (s, y) = (scalar(r, s)?, moved(r, x, v)?);
    r.same(1, &[y, s])
}

/// A view of a value of a sample, one of those that rules move.
fn view(s: &mut Sample, x: lathe_ir::graph::ValueId, dims: &[i64]) {
    let integer = s.graph.ty(x).dtype.is_int();
    match s.pick(0, 4) {
        0 => s.op("reshape", &[x], &[("shape", list(&[dims.iter().product()]))]),
        1 => s.op("permute", &[x], &[("axes", list(&[2, 0, 1]))]),
        2 => s.op("windows", &[x], &[("window", list(&[2, 2])), ("strides", list(&[1, 2]))]),
        3 => s.op("slice", &[x], &[("axes", list(&[1])), ("starts", list(&[1])), ("sizes", list(&[1]))]),
        _ => {
            let zero = if integer { Attr::Int(0) } else { Attr::Float(0.0) };
            s.op("pad", &[x], &[("low", list(&[0, 1, 2])), ("high", list(&[1, 0, 0])), ("value", zero)])
        }
    };
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "permute-permute",
        left: &["permute(permute(x))"],
        doc: "one order of axes for two",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: permute_permute,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims: Vec<i64> = (0..3).map(|_| s.pick(1, 4)).collect();
            let x = s.input(DType::F32, &dims);
            let y = s.op("permute", &[x], &[("axes", list(&[1, 2, 0]))]);
            let axes: [i64; 3] = if seed % 2 == 0 { [2, 0, 1] } else { [0, 2, 1] };
            s.op("permute", &[y], &[("axes", list(&axes))]);
            s
        },
    },
    Rule {
        name: "permute-reshape",
        left: &["permute(x)"],
        doc: "an order of axes in which none but those of one position move is another shape",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: permute_reshape,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims = [1, s.pick(1, 4), s.pick(1, 4)];
            let x = s.input(DType::F32, &dims);
            s.op("permute", &[x], &[("axes", list(&[1, 0, 2]))]);
            s
        },
    },
    Rule {
        name: "reshape-reshape",
        left: &["reshape(reshape(x))"],
        doc: "the last of two shapes",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: reshape_reshape,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (a, b) = (s.pick(1, 4), s.pick(1, 4));
            let x = s.input(DType::F32, &[a, b, 2]);
            let y = s.op("reshape", &[x], &[("shape", list(&[a * b * 2]))]);
            s.op("reshape", &[y], &[("shape", list(&[a, b * 2]))]);
            s
        },
    },
    Rule {
        name: "reshape-none",
        left: &["reshape(x)"],
        doc: "x, where the shape is its own",
        tag: Tag::Bitwise,
        kind: Kind::Layout,
        of_instruction: false,
        right: reshape_none,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims = [s.pick(1, 4), s.pick(1, 4)];
            let x = s.input(DType::F32, &dims);
            s.op("reshape", &[x], &[("shape", list(&dims))]);
            s
        },
    },
    Rule {
        name: "view-cast",
        left: &["reshape(cast(x))", "permute(cast(x))", "windows(cast(x))", "slice(cast(x))", "pad(cast(x))"],
        doc: "elements are moved before they are converted; zeros are put around",
        tag: Tag::Bitwise,
        kind: Kind::Algebra,
        of_instruction: false,
        right: view_cast,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims = [s.pick(1, 3), s.pick(2, 4), s.pick(2, 4)];
            let x = s.input(if seed % 2 == 0 { DType::I8 } else { DType::BF16 }, &dims);
            let y = s.cast(x, if seed % 2 == 0 { DType::I32 } else { DType::F32 });
            view(&mut s, y, &dims);
            s
        },
    },
    Rule {
        name: "view-scale",
        left: &[
            "reshape(mul(x, s))",
            "permute(mul(x, s))",
            "windows(mul(x, s))",
            "slice(mul(x, s))",
            "pad(mul(x, s))",
        ],
        doc: "elements are moved before all are multiplied by one number; zeros are put around",
        tag: Tag::Bitwise,
        kind: Kind::Algebra,
        of_instruction: false,
        right: view_scale,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims = [s.pick(1, 3), s.pick(2, 4), s.pick(2, 4)];
            let x = s.input(DType::F32, &dims);
            let k = s.input(DType::F32, if seed % 2 == 0 { &[] } else { &[1, 1] });
            let y = s.op("mul", &[x, k], &[]);
            view(&mut s, y, &dims);
            s
        },
    },
    Rule {
        name: "view-offset",
        left: &[
            "reshape(sub(x, z))",
            "permute(sub(x, z))",
            "windows(sub(x, z))",
            "slice(sub(x, z))",
            "pad(sub(x, z))",
        ],
        doc: "elements are moved before one number is taken off all; where zeros were put around, it is put there",
        tag: Tag::Bitwise,
        kind: Kind::Algebra,
        of_instruction: false,
        right: view_offset,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let dims = [s.pick(1, 3), s.pick(2, 4), s.pick(2, 4)];
            let t = if seed % 2 == 0 { DType::I32 } else { DType::F32 };
            let x = s.input(t, &dims);
            let z = s.number(t, &[], 3.0);
            let y = s.op("sub", &[x, z], &[]);
            view(&mut s, y, &dims);
            s
        },
    },
];
