//! Attention of a ragged batch over paged keys and values (Kwon et al. 2023; grouped heads: Ainslie et al. 2023): each token
//! sees the keys up to a last one, its own position in causal attention, or of these a window only (Beltagy et al. 2020).
//!
//! Queries of bf16 say that factors of products are: exponentials are rounded to it too, before they multiply values.
//!
//! The naive loops are three reductions over the keys, one after the other: maximum, sum of exponentials, weighted sum
//! of values. One pass over the keys is a schedule's work, not this row's.

use crate::gather::{empty_cache, filled};
use crate::norm::{array, scalar};
use crate::sample::{Rng, attrs, result};
use crate::{require, require_f32, typed};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, float_attr, int_attr};
use lathe_ir::tensor::{Axis, Binary, Buffer, Expr, Iter, Stmt, Unary, WORKSPACE};
use lathe_ir::{Bounds, DType, Elements, Int, Tensor, decode_bits, encode_bits};
use std::sync::Arc;

/// Positions in a page.
const PAGE: i64 = 16;

struct Shape {
    heads: i64,
    groups: i64,
    dim: i64,
}

fn shape(t: &[Type], a: &Attrs) -> Option<Shape> {
    let (groups, dim) = (t[1].shape[1].as_const()?, t[1].shape[2].as_const()?);
    Some(Shape { heads: int_attr(a, "heads")?, groups, dim })
}

fn infer(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 6, "expects queries, keys, values, pages, sequences and last positions")?;
    require_f32(&t[1..3])?;
    require(matches!(t[0].dtype, DType::F32 | DType::BF16), "queries are neither f32 nor bf16")?;
    require(t[0].shape.len() == 2, "queries are no matrix")?;
    require(int_attr(a, "window").is_none_or(|w| w > 0), "the window is not positive")?;
    require(float_attr(a, "softcap").is_none_or(|c| c > 0.0), "the soft cap is not positive")?;
    require(t[1].shape.len() == 3 && t[1].shape == t[2].shape, "keys and values differ in shape")?;
    let s = shape(t, a).ok_or("the number of heads or a cache's extent is not constant")?;
    require(s.heads % s.groups == 0, "heads are not a multiple of the key heads")?;
    require(
        t[0].shape[1].as_const() == Some(s.heads * s.dim),
        "queries are not heads times components wide",
    )?;
    require(t[3..].iter().all(|t| t.dtype == DType::I32), "pages, sequences and last positions are not i32")?;
    let rows = t[0].shape[0].clone();
    let one_each = |t: &Type| t.shape.len() == 1 && t.shape[0] == rows;
    require(t[3].shape.len() == 2, "pages are no row for each sequence")?;
    require(t[4..].iter().all(one_each), "sequences and last positions are not one for each query")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

fn scale(a: &Attrs, dim: i64) -> f32 {
    float_attr(a, "scale").map_or(1.0 / (dim as f32).sqrt(), |v| v as f32)
}

/// A number as a float keeps it.
pub(crate) fn rounded(t: DType, e: f64) -> f64 {
    if t == DType::BF16 { decode_bits(t, encode_bits(t, e)) } else { e }
}

fn reference(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (q, k, v) = (a[0].values(), a[1].values(), a[2].values());
    let rounded = |e: f64| rounded(a[0].dtype, e);
    let (pages, seq, pos) = (a[3].to_i64(), a[4].to_i64(), a[5].to_i64());
    let (g, d) = (a[1].shape[1], a[1].shape[2]);
    let heads = int_attr(at, "heads").unwrap_or(1) as usize;
    let scale = f64::from(scale(at, d as i64));
    let cap = |s: f64| float_attr(at, "softcap").map_or(s, |c| c * (s / c).tanh());
    let window = int_attr(at, "window").unwrap_or(i64::MAX);
    let mut y = vec![];
    for (i, p) in pos.iter().enumerate() {
        for h in 0..heads {
            let query = &q[(i * heads + h) * d..][..d];
            let place = |j: i64| {
                let page = pages[seq[i] as usize * a[3].row() + (j / PAGE) as usize];
                ((page * PAGE + j % PAGE) as usize * g + h / (heads / g)) * d
            };
            let seen: Vec<i64> = (0..=*p).filter(|j| p - j < window).collect();
            let dot = |j: &i64| query.iter().zip(&k[place(*j)..]).map(|(a, b)| a * b).sum::<f64>();
            let s: Vec<f64> = seen.iter().map(|j| cap(scale * dot(j))).collect();
            let m = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let e: Vec<f64> = s.iter().map(|v| rounded((v - m).exp())).collect();
            let l: f64 = e.iter().sum();
            let weighted = |c| seen.iter().zip(&e).map(|(j, e)| e / l * v[place(*j) + c]).sum::<f64>();
            y.extend((0..d).map(weighted));
        }
    }
    vec![result(&t[0], &y)]
}

/// The keys that a token sees: the positions of its sequence up to its last one, stored where the page table says.
struct Keys {
    axis: Axis,
    /// The positions on the axis before this are of its first page, but not of the window.
    hidden: Option<Expr>,
}

/// A window's axis begins with the page of its first key, so that the loop over it reads whole pages and no others.
fn keys(l: &Lowering) -> Keys {
    let (pages, seq, last) = (&l.ins[3], &l.ins[4], &l.ins[5]);
    let (t, j) = (l.var("t"), l.var("key"));
    let one = std::slice::from_ref;
    let all = last.read(one(&t)).cast(DType::INDEX) + 1;
    let window = int_attr(&l.attrs, "window").map(|w| (all.clone() - w).max_with(&0.into()));
    let skipped = window.clone().map(|first| first / PAGE);
    let after = |pages: Expr| skipped.clone().map_or(pages.clone(), |s| s + pages);
    let sequence = seq.read(one(&t)).cast(DType::INDEX);
    let page = pages.read(&[sequence, after(j.clone() / PAGE)]).cast(DType::INDEX);
    let axis = Axis {
        name: l.name("key").into(),
        parents: vec![l.name("t").into()],
        extent: pages.ty.shape[1].clone() * PAGE,
        length: skipped.map_or(all.clone(), |s| all - s * PAGE),
        at: page * PAGE + j % PAGE,
    };
    Keys { axis, hidden: window.map(|first| first % PAGE) }
}

fn edge(l: &Lowering) -> Edge {
    let (cache, pages) = (&l.ins[1].ty.shape, &l.ins[3].ty.shape);
    let facts = Edge::below(3, cache[0].div(PAGE, &Bounds::new()))
        .and_below(4, pages[0].clone())
        .and_below(5, pages[1].clone() * PAGE);
    Edge { axes: vec![keys(l).axis], ..facts }
}

/// One query's softmax-weighted sum of values: what differs between kinds of attention.
pub(crate) struct Head<'a> {
    /// Room for scores, one a key.
    pub keys: Int,
    /// Components of a key, and of a value.
    pub widths: [Int; 2],
    /// The type of exponentials, which multiply values.
    pub kept: DType,
    /// What the maximum starts at.
    pub least: f32,
    /// A loop over the keys.
    pub over_keys: &'a dyn Fn(&str, Iter, Vec<Stmt>) -> Stmt,
    /// A component's product of the query with a key.
    pub product: &'a dyn Fn(&Expr, &Expr) -> Expr,
    /// A key's score, of the sum of these products.
    pub score: &'a dyn Fn(&Expr, Expr) -> Expr,
    /// A key's value in a component.
    pub value: &'a dyn Fn(&Expr, &Expr) -> Expr,
    /// Stores a component of the result.
    pub store: &'a dyn Fn(&Expr, Expr) -> Stmt,
}

impl Head<'_> {
    /// The naive loops, three reductions over the keys one after the other.
    pub fn lower(&self, l: &Lowering) -> Vec<Stmt> {
        let one = std::slice::from_ref;
        let [dot, sc, m, p, sum, o] = ["dot", "s", "m", "p", "l", "o"].map(|n| l.name(n));
        let at = |b: &str, i: &[Expr]| Expr::load(b, i);
        let loop_ = |v: &str, n: &Int, it, body| Stmt::for_(&l.name(v), n.into(), it, body);
        let (over_keys, room) = (self.over_keys, std::slice::from_ref(&self.keys));
        let (js, jm, jp, jl, jo) = (l.var("js"), l.var("jm"), l.var("jp"), l.var("jl"), l.var("jo"));
        let (d, c, z, y) = (l.var("d"), l.var("c"), l.var("z"), l.var("y"));
        let [components, width] = &self.widths;
        let score = vec![
            scalar(&dot, DType::F32),
            Stmt::store(&l.name("zd"), &dot, &[], Expr::f32(0.0)),
            loop_(
                "d",
                components,
                Iter::Reduce,
                vec![Stmt::reduce(&l.name("bd"), &dot, &[], "sum", (self.product)(&js, &d))],
            ),
            Stmt::store(&l.name("bs"), &sc, one(&js), (self.score)(&js, at(&dot, &[]))),
        ];
        let kept = self.kept;
        let weight = (&at(&sc, one(&jp)) - &at(&m, &[])).un(Unary::Exp);
        let weight = if kept == DType::F32 { weight } else { weight.cast(kept) };
        let exponential = |j: &Expr| {
            let e = at(&p, one(j));
            if kept == DType::F32 { e } else { e.cast(DType::F32) }
        };
        let weighted = &exponential(&jo) * &(self.value)(&jo, &c);
        vec![
            array(&sc, room),
            over_keys("js", Iter::Spatial, score),
            scalar(&m, DType::F32),
            Stmt::store(&l.name("zm"), &m, &[], Expr::float(self.least.into(), DType::F32)),
            over_keys(
                "jm",
                Iter::Reduce,
                vec![Stmt::reduce(&l.name("bm"), &m, &[], "max", at(&sc, one(&jm)))],
            ),
            Stmt::Alloc(Arc::new(Buffer::dense(&p, kept, room, WORKSPACE))),
            over_keys("jp", Iter::Spatial, vec![Stmt::store(&l.name("bp"), &p, one(&jp), weight)]),
            scalar(&sum, DType::F32),
            Stmt::store(&l.name("zl"), &sum, &[], Expr::f32(0.0)),
            over_keys(
                "jl",
                Iter::Reduce,
                vec![Stmt::reduce(&l.name("bl"), &sum, &[], "sum", exponential(&jl))],
            ),
            array(&o, std::slice::from_ref(width)),
            loop_("z", width, Iter::Spatial, vec![Stmt::store(&l.name("zo"), &o, one(&z), Expr::f32(0.0))]),
            over_keys(
                "jo",
                Iter::Reduce,
                vec![loop_(
                    "c",
                    width,
                    Iter::Spatial,
                    vec![Stmt::reduce(&l.name("bo"), &o, one(&c), "sum", weighted)],
                )],
            ),
            loop_("y", width, Iter::Spatial, vec![(self.store)(&y, &at(&o, one(&y)) / &at(&sum, &[]))]),
        ]
    }
}

fn lower(l: &Lowering) -> Vec<Stmt> {
    let [q, k, v, ..] = &l.ins[..] else { return vec![] };
    let types: Vec<Type> = l.ins.iter().map(|o| o.ty.clone()).collect();
    let s = shape(&types, &l.attrs).expect("inferred before");
    let per = s.heads / s.groups;
    let (t, g, r) = (l.var("0"), l.var("g"), l.var("r"));
    let one = std::slice::from_ref;
    let Keys { axis: keys, hidden } = keys(l);
    let place = |j: &Expr| keys.coordinate(one(&t), j);
    let head = |c: &Expr| [t.clone(), (g.clone() * per + r.clone()) * s.dim + c.clone()];
    let score = |j: &Expr, dot: Expr| {
        let scaled = &dot * &Expr::f32(scale(&l.attrs, s.dim));
        let capped = match float_attr(&l.attrs, "softcap") {
            Some(c) => &(&scaled / &Expr::f32(c as f32)).un(Unary::Tanh) * &Expr::f32(c as f32),
            None => scaled,
        };
        let Some(n) = &hidden else { return capped };
        let n = n.substitute(&l.name("t"), &t);
        Expr::select(&j.bin(Binary::Lt, &n), &Expr::f32(f32::MIN), &capped)
    };
    let body = Head {
        keys: keys.extent.clone(),
        widths: [s.dim.into(), s.dim.into()],
        kept: q.ty.dtype,
        least: f32::MIN,
        over_keys: &|v, it, body| keys.over(&l.name(v), one(&t), it, body),
        product: &|j, d| &typed::read(q, &head(d)) * &k.read(&[place(j), g.clone(), d.clone()]),
        score: &score,
        value: &|j, c| v.read(&[place(j), g.clone(), c.clone()]),
        store: &|y, value| l.outs[0].write(&l.name("by"), &head(y), value),
    };
    let heads = Stmt::for_(&l.name("r"), per.into(), Iter::Spatial, body.lower(l));
    let groups = Stmt::for_(&l.name("g"), s.groups.into(), Iter::Spatial, vec![heads]);
    vec![Stmt::for_(&l.name("0"), (&q.ty.shape[0]).into(), Iter::Spatial, vec![groups])]
}

pub(crate) const ROWS: &[OpRow] = &[OpRow {
    name: "attention",
    doc: "softmax(scale * q[t, h, :] . k[j, h/r, :]) v[j, h/r, :] over keys j <= last[t] of sequence[t]'s pages; scores \
          softcap * tanh(score / softcap) with `softcap`, only last[t] - j < window with `window`",
    form: Form::ATTENTION,
    gradient: None,
    donates: &[],
    infer,
    reference,
    lower,
    edge,
    sample: |seed| {
        let mut r = Rng(seed);
        let elements = ["", ".f16", ".q8", ".q4", ".bf16"][seed as usize % 5];
        let (g, d, per) = (2, if seed.is_multiple_of(2) { 32 } else { 64 }, 1 + r.below(3) as usize);
        let all: Vec<i32> = (0..192).collect();
        let rows = |r: &mut Rng| r.dense(&[192, g * d]);
        let places = Tensor::i32(&[192], &all);
        let empty = |pages: &str| empty_cache(&format!("{pages}{elements}"), &[192, g, d]);
        let k = filled(&empty("keys16"), &rows(&mut r), &places);
        let v = filled(&empty("values16"), &rows(&mut r), &places);
        let pages = Tensor::i32(&[2, 6], &[4, 0, 2, 11, 7, 6, 1, 5, 3, 8, 10, 9]);
        let (seq, pos) = (Tensor::i32(&[4], &[0, 1, 1, 0]), Tensor::i32(&[4], &[0, 21, 95, 70]));
        let mut at = attrs(&[("heads", Attr::Int((g * per) as i64))]);
        if seed % 3 > 0 {
            at.insert("window".into(), Attr::Int([5, 20][seed as usize % 2]));
        }
        if seed % 4 > 1 {
            at.extend(attrs(&[("softcap", Attr::Float(0.5)), ("scale", Attr::Float(0.4))]));
        }
        let mut q = r.dense(&[4, g * per * d]);
        if elements == ".bf16" && seed.is_multiple_of(2) {
            q = Tensor::of(DType::BF16, &q.shape, &Elements::Floats(q.values()));
        }
        (vec![q, k, v, pages, seq, pos], at)
    },
}];
