//! Attention of a ragged batch over paged keys and values (Kwon et al. 2023; grouped heads: Ainslie et al. 2023): each token
//! sees the keys up to a last one, its own position in causal attention, or of these a window only (Beltagy et al. 2020).
//!
//! Queries of bf16 say that factors of products are: exponentials are rounded to it too, before they multiply values.
//!
//! The naive loops are three reductions over the keys, one after the other: maximum, sum of exponentials, weighted sum
//! of values. One pass over the keys is a schedule's work, not this row's.
//!
//! The keys of one token may also be shared out in parts, each with a softmax of its own, which are put together afterwards
//! (`attention_part` and `attention_join`, as in flash decoding: Dao et al. 2023): then there is work for all cores although there is
//! one token, and each core reads whole pages in the order of memory, all heads of a page together.

use crate::gather::{empty_cache, filled};
use crate::norm::{array, scalar};
use crate::sample::{Rng, attrs, result};
use crate::{require, require_f32, typed};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, float_attr, int_attr};
use lathe_ir::tensor::{Axis, Binary, Buffer, Expr, Iter, Node, Stmt, Unary, WORKSPACE};
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

fn checked(t: &[Type], a: &Attrs) -> Result<Shape, String> {
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
    Ok(s)
}

fn infer(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    checked(t, a)?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

/// How many parts a token's keys are shared out in.
fn parts(a: &Attrs) -> Option<i64> {
    int_attr(a, "parts").filter(|n| *n > 0)
}

fn infer_part(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let s = checked(t, a)?;
    require(int_attr(a, "window").is_none(), "parts of a window are not known")?;
    let parts = parts(a).ok_or("the number of parts is not positive")?;
    let each = |n: i64| Type::dense(DType::F32, &[t[0].shape[0].clone(), (parts * s.heads * n).into()]);
    Ok(vec![each(s.dim), each(1), each(1)])
}

fn infer_join(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 3, "expects sums of values, maxima and sums of exponentials")?;
    require_f32(t)?;
    require(t.iter().all(|t| t.encoding.is_none() && t.shape.len() == 2), "parts are no dense matrices")?;
    require(t.iter().all(|x| x.shape[0] == t[0].shape[0]), "parts are not of the same tokens")?;
    let heads = int_attr(a, "heads").filter(|n| *n > 0).ok_or("the number of heads is not positive")?;
    let each = parts(a).ok_or("the number of parts is not positive")? * heads;
    require(
        t[1..].iter().all(|t| t.shape[1].as_const() == Some(each)),
        "there is not a number for each part and head",
    )?;
    let width = t[0].shape[1].as_const().filter(|n| n % each == 0);
    let width = width.ok_or("sums of values are no components for each part and head")?;
    Ok(vec![Type::dense(DType::F32, &[t[0].shape[0].clone(), (width / each * heads).into()])])
}

fn scale(a: &Attrs, dim: i64) -> f32 {
    float_attr(a, "scale").map_or(1.0 / (dim as f32).sqrt(), |v| v as f32)
}

/// A number as a float keeps it.
pub(crate) fn rounded(t: DType, e: f64) -> f64 {
    if t == DType::BF16 { decode_bits(t, encode_bits(t, e)) } else { e }
}

/// The softmax-weighted sum of values of one head over some keys, not divided yet.
struct Sums {
    /// Of each component.
    values: Vec<f64>,
    /// The largest score.
    most: f64,
    /// The sum of exponentials.
    exponentials: f64,
}

/// For each token the [`Sums`] of each head, over the keys that `part` names of those that the token sees.
fn sums(a: &[Tensor], at: &Attrs, part: &dyn Fn(&[i64]) -> Vec<Vec<i64>>) -> Vec<Vec<Vec<Sums>>> {
    let (q, k, v) = (a[0].values(), a[1].values(), a[2].values());
    let rounded = |e: f64| rounded(a[0].dtype, e);
    let (pages, seq, pos) = (a[3].to_i64(), a[4].to_i64(), a[5].to_i64());
    let (g, d) = (a[1].shape[1], a[1].shape[2]);
    let heads = int_attr(at, "heads").unwrap_or(1) as usize;
    let scale = f64::from(scale(at, d as i64));
    let cap = |s: f64| float_attr(at, "softcap").map_or(s, |c| c * (s / c).tanh());
    let window = int_attr(at, "window").unwrap_or(i64::MAX);
    let one = |i: usize, h: usize, keys: &[i64]| {
        let query = &q[(i * heads + h) * d..][..d];
        let place = |j: i64| {
            let page = pages[seq[i] as usize * a[3].row() + (j / PAGE) as usize];
            ((page * PAGE + j % PAGE) as usize * g + h / (heads / g)) * d
        };
        let dot = |j: &i64| query.iter().zip(&k[place(*j)..]).map(|(a, b)| a * b).sum::<f64>();
        let s: Vec<f64> = keys.iter().map(|j| cap(scale * dot(j))).collect();
        let most = s.iter().copied().fold(f64::from(f32::MIN), f64::max);
        let e: Vec<f64> = s.iter().map(|v| rounded((v - most).exp())).collect();
        let weighted = |c| keys.iter().zip(&e).map(|(j, e)| e * v[place(*j) + c]).sum::<f64>();
        Sums { values: (0..d).map(weighted).collect(), most, exponentials: e.iter().sum() }
    };
    let token = |(i, p): (usize, &i64)| {
        let seen: Vec<i64> = (0..=*p).filter(|j| p - j < window).collect();
        part(&seen).iter().map(|keys| (0..heads).map(|h| one(i, h, keys)).collect()).collect()
    };
    pos.iter().enumerate().map(token).collect()
}

fn reference(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let all = sums(a, at, &|seen| vec![seen.to_vec()]);
    let heads = all.iter().flatten().flatten();
    let y: Vec<f64> = heads.flat_map(|s| s.values.iter().map(|v| v / s.exponentials)).collect();
    vec![result(&t[0], &y)]
}

fn reference_part(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let parts = parts(at).unwrap_or(1) as usize;
    let all = sums(a, at, &|seen| {
        let begin = |p| part_begin(seen.len(), p, parts).min(seen.len());
        (0..parts).map(|p| seen[begin(p)..begin(p + 1)].to_vec()).collect()
    });
    let heads = || all.iter().flatten().flatten();
    let o: Vec<f64> = heads().flat_map(|s| s.values.iter().copied()).collect();
    let m: Vec<f64> = heads().map(|s| s.most).collect();
    let l: Vec<f64> = heads().map(|s| s.exponentials).collect();
    t.iter().zip([o, m, l]).map(|(t, v)| result(t, &v)).collect()
}

fn reference_join(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (o, m, l) = (a[0].values(), a[1].values(), a[2].values());
    let heads = int_attr(at, "heads").unwrap_or(1) as usize;
    let parts = parts(at).unwrap_or(1) as usize;
    let dim = a[0].row() / (parts * heads);
    let mut y = vec![];
    for i in 0..m.len() / (parts * heads) {
        for h in 0..heads {
            let place = |p: usize| (i * parts + p) * heads + h;
            let most = (0..parts).map(|p| m[place(p)]).fold(f64::from(f32::MIN), f64::max);
            let w: Vec<f64> = (0..parts).map(|p| (m[place(p)] - most).exp()).collect();
            let sum = |of: &dyn Fn(usize) -> f64| w.iter().enumerate().map(|(p, w)| w * of(p)).sum::<f64>();
            let all = sum(&|p| l[place(p)]);
            y.extend((0..dim).map(|c| sum(&|p| o[place(p) * dim + c]) / all));
        }
    }
    vec![result(&t[0], &y)]
}

/// Parts are whole blocks of so many keys, but for the last one.
const BLOCK: usize = 16;

/// Where a part of a token's keys begins: each has as many blocks as another one, or one more.
fn part_begin(keys: usize, part: usize, parts: usize) -> usize {
    keys.div_ceil(BLOCK) * part / parts * BLOCK
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

/// The keys of one part of those that a token sees.
fn part_keys(l: &Lowering) -> Axis {
    let all = keys(l).axis;
    let (part, parts) = (l.var("part"), parts(&l.attrs).expect("inferred before"));
    let block = BLOCK as i64;
    let blocks = (all.length.clone() + (block - 1)) / block;
    let [first, end] = [part.clone(), part + 1].map(|part| blocks.clone() * part / parts * block);
    let at = all.at.rewrite(&|e| match &**e {
        Node::Var(n) if *n == all.name => Some(first.clone() + Expr::var(n)),
        _ => None,
    });
    Axis {
        parents: vec![all.parents[0].clone(), l.name("part").into()],
        // Where the part ends less where it begins, so that what is inside of it is seen to be inside of all.
        length: all.length.min_with(&end) - first,
        at,
        ..all
    }
}

fn facts(l: &Lowering) -> Edge {
    let (cache, pages) = (&l.ins[1].ty.shape, &l.ins[3].ty.shape);
    Edge::below(3, cache[0].div(PAGE, &Bounds::new()))
        .and_below(4, pages[0].clone())
        .and_below(5, pages[1].clone() * PAGE)
}

fn edge(l: &Lowering) -> Edge {
    Edge { axes: vec![keys(l).axis], ..facts(l) }
}

fn edge_part(l: &Lowering) -> Edge {
    Edge { axes: vec![part_keys(l)], ..facts(l) }
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
    /// Stores a component of the result, of the weighted sum of values and the sum of exponentials.
    pub store: &'a dyn Fn(&Expr, Expr, Expr) -> Stmt,
    /// What is stored of the maximum and of the sum of exponentials.
    pub ends: &'a dyn Fn(Expr, Expr) -> Vec<Stmt>,
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
        let mut all = vec![
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
            loop_("y", width, Iter::Spatial, vec![(self.store)(&y, at(&o, one(&y)), at(&sum, &[]))]),
        ];
        all.extend((self.ends)(at(&m, &[]), at(&sum, &[])));
        all
    }
}

/// What a token's loops over heads store, by head.
struct Results<'a> {
    /// A component, of the weighted sum of values and the sum of exponentials.
    component: &'a dyn Fn(&Expr, &Expr, Expr, Expr) -> Stmt,
    /// What there is of the maximum and of the sum of exponentials.
    ends: &'a dyn Fn(&Expr, Expr, Expr) -> Vec<Stmt>,
}

/// The loops over the heads of a token, over a segment of its keys; `segment` are the positions that select it, the token first.
fn heads(l: &Lowering, keys: &Axis, segment: &[Expr], hidden: Option<&Expr>, results: &Results<'_>) -> Stmt {
    let [q, k, v, ..] = &l.ins[..] else { unreachable!("inferred before") };
    let types: Vec<Type> = l.ins.iter().map(|o| o.ty.clone()).collect();
    let s = shape(&types, &l.attrs).expect("inferred before");
    let per = s.heads / s.groups;
    let (t, g, r) = (&segment[0], l.var("g"), l.var("r"));
    let place = |j: &Expr| keys.coordinate(segment, j);
    let head = g.clone() * per + r;
    let score = |j: &Expr, dot: Expr| {
        let scaled = &dot * &Expr::f32(scale(&l.attrs, s.dim));
        let capped = match float_attr(&l.attrs, "softcap") {
            Some(c) => &(&scaled / &Expr::f32(c as f32)).un(Unary::Tanh) * &Expr::f32(c as f32),
            None => scaled,
        };
        let Some(n) = hidden else { return capped };
        let n = n.substitute(&l.name("t"), t);
        Expr::select(&j.bin(Binary::Lt, &n), &Expr::f32(f32::MIN), &capped)
    };
    let body = Head {
        keys: keys.extent.clone(),
        widths: [s.dim.into(), s.dim.into()],
        kept: q.ty.dtype,
        least: f32::MIN,
        over_keys: &|v, it, body| keys.over(&l.name(v), segment, it, body),
        product: &|j, d| {
            &typed::read(q, &[t.clone(), head.clone() * s.dim + d.clone()])
                * &k.read(&[place(j), g.clone(), d.clone()])
        },
        score: &score,
        value: &|j, c| v.read(&[place(j), g.clone(), c.clone()]),
        store: &|y, value, sum| (results.component)(&head, y, value, sum),
        ends: &|most, sum| (results.ends)(&head, most, sum),
    };
    let heads = Stmt::for_(&l.name("r"), per.into(), Iter::Spatial, body.lower(l));
    Stmt::for_(&l.name("g"), s.groups.into(), Iter::Spatial, vec![heads])
}

/// Components of a key.
fn dim(l: &Lowering) -> i64 {
    l.ins[1].ty.shape[2].as_const().expect("inferred before")
}

fn lower(l: &Lowering) -> Vec<Stmt> {
    let (t, dim) = (l.var("0"), dim(l));
    let Keys { axis, hidden } = keys(l);
    let results = Results {
        component: &|head, y, value, sum| {
            l.outs[0].write(&l.name("by"), &[t.clone(), head.clone() * dim + y.clone()], &value / &sum)
        },
        ends: &|_, _, _| vec![],
    };
    let body = heads(l, &axis, std::slice::from_ref(&t), hidden.as_ref(), &results);
    vec![Stmt::for_(&l.name("0"), (&l.outs[0].ty.shape[0]).into(), Iter::Spatial, vec![body])]
}

fn lower_part(l: &Lowering) -> Vec<Stmt> {
    let (t, part, dim) = (l.var("0"), l.var("1"), dim(l));
    let parts = parts(&l.attrs).expect("inferred before");
    let each = int_attr(&l.attrs, "heads").expect("inferred before");
    let [o, m, sums] = &l.outs[..] else { return vec![] };
    let number = |head: &Expr| part.clone() * each + head.clone();
    let results = Results {
        component: &|head, y, value, _| {
            o.write(&l.name("by"), &[t.clone(), number(head) * dim + y.clone()], value)
        },
        ends: &|head, most, sum| {
            let at = [t.clone(), number(head)];
            vec![m.write(&l.name("ym"), &at, most), sums.write(&l.name("yl"), &at, sum)]
        },
    };
    let body = heads(l, &part_keys(l), &[t.clone(), part.clone()], None, &results);
    let over = Stmt::for_(&l.name("1"), parts.into(), Iter::Spatial, vec![body]);
    vec![Stmt::for_(&l.name("0"), (&o.ty.shape[0]).into(), Iter::Spatial, vec![over])]
}

fn lower_join(l: &Lowering) -> Vec<Stmt> {
    let [o, m, sums, ..] = &l.ins[..] else { return vec![] };
    let each = int_attr(&l.attrs, "heads").expect("inferred before");
    let parts = parts(&l.attrs).expect("inferred before");
    let width = o.ty.shape[1].as_const().expect("inferred before") / (parts * each);
    let (t, h, one) = (l.var("0"), l.var("h"), std::slice::from_ref);
    let over = |v: &str, it, body| Stmt::for_(&l.name(v), parts.into(), it, body);
    let place = |i: &Expr| [t.clone(), i.clone() * each + h.clone()];
    let component = |i: &Expr, c: &Expr| [t.clone(), (i.clone() * each + h.clone()) * width + c.clone()];
    let [most, w, all, sum] = ["m", "w", "l", "o"].map(|n| l.name(n));
    let at = |b: &str, i: &[Expr]| Expr::load(b, i);
    let (jm, jp, jl, jo) = (l.var("jm"), l.var("jp"), l.var("jl"), l.var("jo"));
    let (c, z, y) = (l.var("c"), l.var("z"), l.var("y"));
    let over_width = |v: &str, body| Stmt::for_(&l.name(v), width.into(), Iter::Spatial, vec![body]);
    let grown = (&m.read(&place(&jp)) - &at(&most, &[])).un(Unary::Exp);
    let head = vec![
        scalar(&most, DType::F32),
        Stmt::store(&l.name("zm"), &most, &[], Expr::f32(f32::MIN)),
        over("jm", Iter::Reduce, vec![Stmt::reduce(&l.name("bm"), &most, &[], "max", m.read(&place(&jm)))]),
        array(&w, &[parts.into()]),
        over("jp", Iter::Spatial, vec![Stmt::store(&l.name("bp"), &w, one(&jp), grown)]),
        scalar(&all, DType::F32),
        Stmt::store(&l.name("zl"), &all, &[], Expr::f32(0.0)),
        over(
            "jl",
            Iter::Reduce,
            vec![Stmt::reduce(&l.name("bl"), &all, &[], "sum", &at(&w, one(&jl)) * &sums.read(&place(&jl)))],
        ),
        array(&sum, &[width.into()]),
        over_width("z", Stmt::store(&l.name("zo"), &sum, one(&z), Expr::f32(0.0))),
        over(
            "jo",
            Iter::Reduce,
            vec![over_width(
                "c",
                Stmt::reduce(
                    &l.name("bo"),
                    &sum,
                    one(&c),
                    "sum",
                    &at(&w, one(&jo)) * &o.read(&component(&jo, &c)),
                ),
            )],
        ),
        over_width(
            "y",
            l.outs[0].write(
                &l.name("by"),
                &[t.clone(), h.clone() * width + y.clone()],
                &at(&sum, one(&y)) / &at(&all, &[]),
            ),
        ),
    ];
    let heads = Stmt::for_(&l.name("h"), each.into(), Iter::Spatial, head);
    vec![Stmt::for_(&l.name("0"), (&o.ty.shape[0]).into(), Iter::Spatial, vec![heads])]
}

/// Arguments of attention for a test: queries at these positions of two sequences, which have so many pages each.
fn arguments(seed: u64, places: &[(i32, i32)], each: usize) -> (Vec<Tensor>, Attrs) {
    let mut r = Rng(seed);
    let elements = ["", ".f16", ".q8", ".q4", ".bf16"][seed as usize % 5];
    let (g, d, per) = (2, if seed.is_multiple_of(2) { 32 } else { 64 }, 1 + r.below(3) as usize);
    let positions = 2 * each * PAGE as usize;
    let all: Vec<i32> = (0..positions as i32).collect();
    let rows = |r: &mut Rng| r.dense(&[positions, g * d]);
    let stored = Tensor::i32(&[positions], &all);
    let empty = |pages: &str| empty_cache(&format!("{pages}{elements}"), &[positions, g, d]);
    let k = filled(&empty("keys16"), &rows(&mut r), &stored);
    let v = filled(&empty("values16"), &rows(&mut r), &stored);
    let scattered: Vec<i32> = (0..2 * each).map(|i| ((4 + 5 * i) % (2 * each)) as i32).collect();
    let pages = Tensor::i32(&[2, each], &scattered);
    let n = places.len();
    let (seq, pos): (Vec<i32>, Vec<i32>) = places.iter().copied().unzip();
    let mut at = attrs(&[("heads", Attr::Int((g * per) as i64))]);
    if seed % 4 > 1 {
        at.extend(attrs(&[("softcap", Attr::Float(0.5)), ("scale", Attr::Float(0.4))]));
    }
    let mut q = r.dense(&[n, g * per * d]);
    if elements == ".bf16" && seed.is_multiple_of(2) {
        q = Tensor::of(DType::BF16, &q.shape, &Elements::Floats(q.values()));
    }
    (vec![q, k, v, pages, Tensor::i32(&[n], &seq), Tensor::i32(&[n], &pos)], at)
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
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
            let (args, mut at) = arguments(seed, &[(0, 0), (1, 21), (1, 95), (0, 70)], 6);
            if seed % 3 > 0 {
                at.insert("window".into(), Attr::Int([5, 20][seed as usize % 2]));
            }
            (args, at)
        },
    },
    OpRow {
        name: "attention_part",
        doc: "attention over each of `parts` parts of a token's keys, with a softmax of its own that is not divided yet: sums of \
              values times exp(score - m) [T, parts * heads * components], maxima m and sums of exp(score - m) [T, parts * heads]. \
              Of n blocks of 16 keys part p has those from floor(n p / parts) to before floor(n (p + 1) / parts)",
        form: Form::ATTENTION,
        gradient: None,
        donates: &[],
        infer: infer_part,
        reference: reference_part,
        lower: lower_part,
        edge: edge_part,
        sample: |seed| {
            let (args, mut at) = arguments(seed, &[(0, 0), (1, 149), (0, 127)], 10);
            at.insert("parts".into(), Attr::Int(1 + seed as i64 % 3));
            (args, at)
        },
    },
    OpRow {
        name: "attention_join",
        doc: "attention of the sums o, maxima m and sums of exponentials l of `parts` parts of a token's keys: \
              sum o_i exp(m_i - max m) / sum l_i exp(m_i - max m)",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_join,
        reference: reference_join,
        lower: lower_join,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            let [tokens, heads, parts, dim] = [3, 2 + r.below(3) as usize, 4, [16, 20][seed as usize % 2]];
            let o = r.dense(&[tokens, parts * heads * dim]);
            let m = r.dense(&[tokens, parts * heads]);
            let l: Vec<f32> = (0..tokens * parts * heads).map(|_| 1.5 + r.unit()).collect();
            let l = Tensor::f32(&[tokens, parts * heads], &l);
            let at = attrs(&[("heads", Attr::Int(heads as i64)), ("parts", Attr::Int(parts as i64))]);
            (vec![o, m, l], at)
        },
    },
];
