//! Products of scaled bytes as products of bytes, and of numbers as products of their halves.

use crate::rule::{Axes, Kind, Place, Right, Rule, Tag, at};
use crate::sample::{Sample, dot};
use lathe_ir::DType;
use lathe_ir::graph::Attrs;

/// The axes of the product at the root.
fn axes(r: &Right<'_>, x: Place, y: Place) -> Option<Axes> {
    Axes::of(r.attrs(0), [r.dims(x)?.len(), r.dims(y)?.len()])
}

/// A factor that is one number along the axes that are summed over, in the shape of the result.
fn beside(r: &mut Right<'_>, s: Place, side: usize, a: &Axes, ranks: [usize; 2]) -> Option<Place> {
    let ds = r.dims(s)?;
    let full = [&vec![1; ranks[side].checked_sub(ds.len())?][..], &ds].concat();
    at(&full, &a.sum[side]).iter().all(|n| *n == 1).then_some(())?;
    let other = vec![1; a.free[1 - side].len()];
    let own = at(&full, &a.free[side]);
    let order = [&a.batch[side][..], &a.free[side], &a.sum[side]].concat();
    let (front, back) = if side == 0 { (own, other) } else { (other, own) };
    let s = r.reshape(s, &full)?;
    let s = r.permute(s, &order)?;
    r.reshape(s, &[at(&full, &a.batch[side]), front, back].concat())
}

fn scale_left(r: &mut Right<'_>) -> Option<Place> {
    let (x, s, y) = (r.var(0), r.var(1), r.var(2));
    let (a, ranks) = (axes(r, x, y)?, [r.dims(x)?.len(), r.dims(y)?.len()]);
    let s = beside(r, s, 0, &a, ranks)?;
    let z = r.same(0, &[x, y])?;
    r.op("mul", &[z, s], Attrs::new())
}

fn scale_right(r: &mut Right<'_>) -> Option<Place> {
    let (x, y, s) = (r.var(0), r.var(1), r.var(2));
    let (a, ranks) = (axes(r, x, y)?, [r.dims(x)?.len(), r.dims(y)?.len()]);
    let s = beside(r, s, 1, &a, ranks)?;
    let z = r.same(0, &[x, y])?;
    r.op("mul", &[z, s], Attrs::new())
}

fn is_byte(t: DType) -> bool {
    t.is_int() && t.bits() <= 8
}

/// Products of two numbers of up to 255 are below 2^16: sums of fewer than 2^15 of them have 31 bits.
const MOST_STEPS: i64 = 1 << 15;

fn bytes(r: &mut Right<'_>) -> Option<Place> {
    // dot, then for each factor: a cast to f32, perhaps an offset, and a cast to i32.
    let (mut vars, mut head, mut factors, mut wide) = (0, 1, vec![], vec![]);
    for _ in 0..2 {
        let offset = r.name(head + 1) == "sub";
        let inner = head + if offset { 2 } else { 1 };
        let x = r.var(vars);
        let to = |i: usize, t: &str| lathe_ir::graph::str_attr(r.attrs(i), "to") == Some(t);
        (is_byte(r.dtype(x)) && to(head, "f32") && to(inner, "i32")).then_some(())?;
        wide.push(x);
        let mut v = r.same(inner, &[x])?;
        if offset {
            let z = r.var(vars + 1);
            r.facts(z).number.filter(|z| (-128.0..=255.0).contains(z))?;
            v = r.same(head + 1, &[v, z])?;
            let moved = r.facts(z).number?;
            let reach = if r.dtype(x) == DType::U8 { 0.0..=255.0 } else { -128.0..=127.0 };
            reach.contains(&moved).then_some(())?;
        }
        factors.push(v);
        vars += if offset { 2 } else { 1 };
        head = inner + 1;
    }
    let a = axes(r, factors[0], factors[1])?;
    let steps: i64 = at(&r.dims(wide[0])?, &a.sum[0]).iter().product();
    (steps < MOST_STEPS).then_some(())?;
    let z = r.same(0, &factors)?;
    r.cast(z, DType::F32)
}

/// The sums of a factor along the steps, in the shape of the result.
fn sums(r: &mut Right<'_>, y: Place, side: usize, a: &Axes) -> Option<Place> {
    let dims = r.dims(y)?;
    let mut over = a.sum[side].clone();
    over.sort_unstable();
    let left: Vec<usize> = (0..dims.len()).filter(|d| !over.contains(d)).collect();
    (left == [&a.batch[side][..], &a.free[side]].concat()).then_some(())?;
    let y = r.op("sum", &[y], [("axes".into(), crate::rule::ints(&over))].into())?;
    let (own, other) = (at(&dims, &a.free[side]), vec![1; a.free[1 - side].len()]);
    let (front, back) = if side == 0 { (own, other) } else { (other, own) };
    r.reshape(y, &[at(&dims, &a.batch[side]), front, back].concat())
}

fn offset(r: &mut Right<'_>, side: usize) -> Option<Place> {
    let (x, z, y) = if side == 0 { (r.var(0), r.var(1), r.var(2)) } else { (r.var(1), r.var(2), r.var(0)) };
    let single = r.dims(z)?.iter().product::<i64>() == 1 && r.dims(z)?.len() <= r.dims(x)?.len();
    (single && r.dtype(x).is_int()).then_some(())?;
    let factors = if side == 0 { [x, y] } else { [y, x] };
    let a = axes(r, factors[0], factors[1])?;
    let s = sums(r, y, 1 - side, &a)?;
    let z = r.reshape(z, &[])?;
    let s = r.op("mul", &[s, z], Attrs::new())?;
    let p = r.same(0, &factors)?;
    r.op("sub", &[p, s], Attrs::new())
}

fn sub_zero(r: &mut Right<'_>) -> Option<Place> {
    let (x, z) = (r.var(0), r.var(1));
    let (dx, dz) = (r.dims(x)?, r.dims(z)?);
    let same = dz.len() <= dx.len() && dz.iter().rev().zip(dx.iter().rev()).all(|(z, x)| *z == 1 || z == x);
    (same && r.dtype(x).is_int() && r.facts(z).number == Some(0.0)).then_some(x)
}

fn rounded(r: &mut Right<'_>) -> Option<Place> {
    let (x, y) = (r.var(0), r.var(1));
    ([r.dtype(x), r.dtype(y)] == [DType::F32; 2] && !r.attrs(0).contains_key(crate::term::ON))
        .then_some(())?;
    let mut half = |v: Place| {
        let h = r.cast(v, DType::BF16)?;
        r.cast(h, DType::F32)
    };
    let (x, y) = (half(x)?, half(y)?);
    r.same(0, &[x, y])
}

fn cast_back(r: &mut Right<'_>) -> Option<Place> {
    let x = r.var(0);
    let to = |i: usize| lathe_ir::graph::str_attr(r.attrs(i), "to");
    (r.dtype(x) == DType::BF16 && to(1) == Some("f32") && to(0) == Some("bf16")).then_some(x)
}

fn factors(s: &mut Sample, t: [DType; 2]) -> [lathe_ir::graph::ValueId; 2] {
    let (m, k, n) = (s.pick(1, 4), s.pick(1, 6), s.pick(1, 4));
    [s.input(t[0], &[m, k]), s.input(t[1], &[k, n])]
}

const PLAIN: [[&[i64]; 2]; 2] = [[&[], &[]], [&[1], &[0]]];

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "dot-scale-left",
        left: &["dot(mul(x, s), y)"],
        doc: "a factor that is the same for all steps is one of their sum",
        tag: Tag::Reassociates,
        kind: Kind::Algebra,
        of_instruction: false,
        right: scale_left,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let (b, m, k) = (s.pick(1, 3), s.pick(1, 4), s.pick(1, 6));
            let (x, y) = (s.input(DType::F32, &[k, m, b]), s.input(DType::F32, &[b, k, 3]));
            let f = s.input(DType::F32, if seed % 2 == 0 { &[] } else { &[1] });
            let f = if seed % 4 == 3 { s.input(DType::F32, &[1, m, b]) } else { f };
            let x = s.op("mul", &[x, f], &[]);
            s.op("dot", &[x, y], &dot([&[2], &[0]], [&[0], &[1]]));
            s
        },
    },
    Rule {
        name: "dot-scale-right",
        left: &["dot(x, mul(y, s))"],
        doc: "the same of the other factor",
        tag: Tag::Reassociates,
        kind: Kind::Algebra,
        of_instruction: false,
        right: scale_right,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let [x, y] = factors(&mut s, [DType::F32; 2]);
            let n = s.graph.ty(y).shape[1].as_const().unwrap_or(1);
            let f = s.input(DType::F32, if seed % 2 == 0 { &[] } else { std::slice::from_ref(&n) });
            let y = s.op("mul", &[y, f], &[]);
            s.op("dot", &[x, y], &dot(PLAIN[0], PLAIN[1]));
            s
        },
    },
    Rule {
        name: "dot-bytes",
        left: &[
            "dot(cast(cast(x)), cast(cast(y)))",
            "dot(cast(sub(cast(x), z)), cast(cast(y)))",
            "dot(cast(cast(x)), cast(sub(cast(y), z)))",
            "dot(cast(sub(cast(x), z)), cast(sub(cast(y), w)))",
        ],
        doc: "products of bytes are summed as integers of 32 bits, which no sum of so few leaves, and converted then",
        tag: Tag::Reassociates,
        kind: Kind::Algebra,
        of_instruction: false,
        right: bytes,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let [x, y] = factors(&mut s, [DType::U8, DType::I8]);
            let (mut x, mut y) = (s.cast(x, DType::I32), s.cast(y, DType::I32));
            if seed % 2 == 1 {
                let z = s.number(DType::I32, &[], 7.0);
                x = s.op("sub", &[x, z], &[]);
            }
            if seed / 2 % 2 == 1 {
                let z = s.number(DType::I32, &[], -5.0);
                y = s.op("sub", &[y, z], &[]);
            }
            let (x, y) = (s.cast(x, DType::F32), s.cast(y, DType::F32));
            s.op("dot", &[x, y], &dot(PLAIN[0], PLAIN[1]));
            s
        },
    },
    Rule {
        name: "dot-offset-left",
        left: &["dot(sub(x, z), y)"],
        doc: "a number taken off all of x is so many sums of y taken off the product",
        tag: Tag::Reassociates,
        kind: Kind::Algebra,
        of_instruction: false,
        right: |r| offset(r, 0),
        sample: |seed| {
            let mut s = Sample::new(seed);
            let [x, y] = factors(&mut s, [DType::I32; 2]);
            let z = s.input(DType::I32, &[]);
            let x = s.op("sub", &[x, z], &[]);
            s.op("dot", &[x, y], &dot(PLAIN[0], PLAIN[1]));
            s
        },
    },
    Rule {
        name: "dot-offset-right",
        left: &["dot(x, sub(y, z))"],
        doc: "the same of the other factor",
        tag: Tag::Reassociates,
        kind: Kind::Algebra,
        of_instruction: false,
        right: |r| offset(r, 1),
        sample: |seed| {
            let mut s = Sample::new(seed);
            let [x, y] = factors(&mut s, [DType::I32; 2]);
            let z = s.input(DType::I32, &[1]);
            let y = s.op("sub", &[y, z], &[]);
            s.op("dot", &[x, y], &dot(PLAIN[0], PLAIN[1]));
            s
        },
    },
    Rule {
        name: "sub-zero",
        left: &["sub(x, z)"],
        doc: "x, where z is 0",
        tag: Tag::Bitwise,
        kind: Kind::Algebra,
        of_instruction: false,
        right: sub_zero,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let n = s.pick(1, 9);
            let x = s.input(DType::I32, &[2, n]);
            let dims = if seed % 2 == 0 { vec![] } else { vec![n] };
            let z = s.number(DType::I32, &dims, 0.0);
            s.op("sub", &[x, z], &[]);
            s
        },
    },
    Rule {
        name: "dot-rounded",
        left: &["dot(x, y)"],
        doc: "factors rounded to the upper half of f32: each changes by at most 2^-8 of itself, from 2^-126 on",
        tag: Tag::Approximates,
        kind: Kind::Rounding,
        of_instruction: false,
        right: rounded,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let [x, y] = factors(&mut s, [DType::F32; 2]);
            s.op("dot", &[x, y], &dot(PLAIN[0], PLAIN[1]));
            s
        },
    },
    Rule {
        name: "cast-back",
        left: &["cast(cast(x))"],
        doc: "halves as f32 and halves again are what they were",
        tag: Tag::Bitwise,
        kind: Kind::Rounding,
        of_instruction: false,
        right: cast_back,
        sample: |seed| {
            let mut s = Sample::new(seed);
            let n = s.pick(1, 9);
            let x = s.input(DType::BF16, &[n]);
            let x = s.cast(x, DType::F32);
            s.cast(x, DType::BF16);
            s
        },
    },
];
