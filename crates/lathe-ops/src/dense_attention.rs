//! Attention over dense keys and values (Vaswani et al. 2017), each query over all keys; what lies in pages is `attention`'s.
//!
//! Programs say it as two products with a softmax between; a pass makes one operator of them, so that scores need not leave the
//! caches. Queries are scaled as an operator of their own would: rounded to their type. Exponentials are kept in that type too, sums
//! and the softmax in f32.

use crate::attention::{Head, rounded};
use crate::require;
use crate::sample::{Rng, attrs, result};
use crate::typed::{plain, ravel, read, spread, unravel, write};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Operand, Type, int_attr};
use lathe_ir::tensor::{Buffer, Expr, Iter, Stmt, WORKSPACE};
use lathe_ir::{DType, Int, Tensor};
use std::sync::Arc;

/// Which arguments stand behind queries, keys and values.
struct Further {
    scale: Option<usize>,
    mask: Option<usize>,
}

fn further(count: usize, a: &Attrs) -> Option<Further> {
    let has = |name: &str| int_attr(a, name) == Some(1);
    let scale = has("scaled").then_some(3);
    let mask = has("masked").then_some(3 + usize::from(scale.is_some()));
    let f = Further { scale, mask };
    (count == 3 + usize::from(f.scale.is_some()) + usize::from(f.mask.is_some())).then_some(f)
}

fn infer(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let f = further(t.len(), a)
        .ok_or("expects queries, keys, values, and a scale and a mask as attributes say")?;
    require(t.iter().all(plain), "arguments are not dense")?;
    require(matches!(t[0].dtype, DType::F32 | DType::BF16), "queries are neither f32 nor bf16")?;
    require(t.iter().all(|x| x.dtype == t[0].dtype), "arguments differ in type")?;
    let n = t[0].shape.len();
    require(
        n >= 2 && t[..3].iter().all(|x| x.shape.len() == n),
        "queries, keys and values differ in their number of axes",
    )?;
    let all = t[..3].iter().flat_map(|x| &x.shape);
    require(all.clone().all(|d| d.as_const().is_some_and(|d| d > 0)), "an extent is not constant, or 0")?;
    let (q, k, v) = (&t[0].shape, &t[1].shape, &t[2].shape);
    require(q[..n - 2] == k[..n - 2] && k[..n - 1] == v[..n - 1], "keys or values do not fit")?;
    require(q[n - 1] == k[n - 1], "queries and keys differ in their components")?;
    require(
        f.scale.is_none_or(|s| t[s].shape.iter().all(|d| d.as_const() == Some(1))),
        "the scale is no single number",
    )?;
    if let Some(m) = f.mask {
        let (own, scores) = (&t[m].shape, [&q[..n - 1], &k[n - 2..n - 1]].concat());
        let fits = own.len() <= n
            && own.iter().rev().zip(scores.iter().rev()).all(|(d, s)| d.as_const() == Some(1) || d == s);
        require(fits, "the mask does not fit the scores")?;
    }
    Ok(vec![Type::dense(t[0].dtype, &[&q[..n - 1], &v[n - 1..]].concat())])
}

fn reference(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let f = further(a.len(), at).expect("inferred before");
    let (q, k, v) = (a[0].values(), a[1].values(), a[2].values());
    let of = a[0].dtype;
    let [.., rows, d] = a[0].shape[..] else { return vec![] };
    let (keys, c) = (a[1].shape[a[1].shape.len() - 2], a[2].row());
    let scale = f.scale.map_or(1.0, |s| a[s].values()[0]);
    let scores = [&a[0].shape[..a[0].shape.len() - 1], &[keys]].concat();
    let mask = f.mask.map(|m| (a[m].values(), &a[m].shape));
    let barred = |place: usize| {
        let Some((values, shape)) = &mask else { return 0.0 };
        let index = unravel(place, &scores);
        let own = &index[index.len() - shape.len()..];
        let own: Vec<usize> = own.iter().zip(*shape).map(|(i, d)| if *d == 1 { 0 } else { *i }).collect();
        values[ravel(&own, shape)]
    };
    let mut y = vec![];
    for (i, query) in q.chunks(d).enumerate() {
        let first = i / rows * keys;
        let query: Vec<f64> =
            query.iter().map(|x| if f.scale.is_some() { rounded(of, x * scale) } else { *x }).collect();
        let dot = |j: usize| query.iter().zip(&k[(first + j) * d..]).map(|(a, b)| a * b).sum::<f64>();
        let s: Vec<f64> = (0..keys).map(|j| dot(j) + barred(i * keys + j)).collect();
        let m = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = s.iter().map(|v| rounded(of, (v - m).exp())).collect();
        let l: f64 = e.iter().sum();
        y.extend(
            (0..c).map(|c_| e.iter().enumerate().map(|(j, e)| e * v[(first + j) * c + c_]).sum::<f64>() / l),
        );
    }
    vec![result(&t[0], &y)]
}

fn lower(l: &Lowering) -> Vec<Stmt> {
    let f = further(l.ins.len(), &l.attrs).expect("inferred before");
    let [q, k, v, ..] = &l.ins[..] else { return vec![] };
    let n = q.ty.shape.len();
    let batch: Vec<Expr> = (0..n - 2).map(|d| l.var(&d.to_string())).collect();
    let (i, w, query) = (l.var("i"), l.var("w"), l.name("q"));
    let place = |i: &Expr, j: &Expr| [&batch[..], &[i.clone(), j.clone()]].concat();
    let element = |o: &Operand, i: &Expr, j: &Expr| read(o, &place(i, j));
    let keys = k.ty.shape[n - 2].clone();
    let scores: Vec<Int> = [&q.ty.shape[..n - 1], std::slice::from_ref(&keys)].concat();
    let of = q.ty.dtype;
    let single = |o: &Operand| read(o, &vec![Expr::from(0); o.ty.shape.len()]);
    let scaled = match f.scale {
        Some(s) => &element(q, &i, &w) * &single(&l.ins[s]),
        None => element(q, &i, &w),
    };
    let scaled = if of == DType::F32 { scaled } else { scaled.cast(of) };
    let component = |d: &Expr| {
        let x = Expr::load(&query, std::slice::from_ref(d));
        if of == DType::F32 { x } else { x.cast(DType::F32) }
    };
    let body = Head {
        keys: keys.clone(),
        widths: [q.ty.shape[n - 1].clone(), v.ty.shape[n - 1].clone()],
        kept: of,
        least: f32::NEG_INFINITY,
        over_keys: &|v, it, body| Stmt::for_(&l.name(v), (&keys).into(), it, body),
        product: &|j, d| &component(d) * &element(k, j, d),
        score: &|j, dot| match f.mask {
            Some(m) => &dot + &read(&l.ins[m], &spread(&l.ins[m].ty.shape, &scores, &place(&i, j))),
            None => dot,
        },
        value: &|j, c| element(v, j, c),
        store: &|c, value, sum| write(&l.outs[0], &l.name("by"), &place(&i, c), &value / &sum),
        ends: &|_, _| vec![],
    };
    let mut row = vec![
        Stmt::Alloc(Arc::new(Buffer::dense(&query, of, &q.ty.shape[n - 1..], WORKSPACE))),
        Stmt::for_(
            &l.name("w"),
            (&q.ty.shape[n - 1]).into(),
            Iter::Spatial,
            vec![Stmt::store(&l.name("bq"), &query, std::slice::from_ref(&w), scaled)],
        ),
    ];
    row.extend(body.lower(l));
    let mut out = vec![Stmt::for_(&l.name("i"), (&q.ty.shape[n - 2]).into(), Iter::Spatial, row)];
    for d in (0..n - 2).rev() {
        out = vec![Stmt::for_(&l.name(&d.to_string()), (&q.ty.shape[d]).into(), Iter::Spatial, out)];
    }
    out
}

pub(crate) const ROWS: &[OpRow] = &[OpRow {
    name: "dense_attention",
    doc: "softmax(scale * q[.., i, :] . k[.., j, :] + mask[.., i, j] over j) v[.., j, :]; behind q, k and v stand a number where \
          `scaled` is 1, and where `masked` is 1 a mask, broadcast to the scores",
    form: Form::ATTENTION,
    gradient: None,
    donates: &[],
    infer,
    reference,
    lower,
    edge: Edge::none,
    sample: |seed| {
        let (mut r, of) = (Rng(seed), if seed % 3 == 2 { DType::BF16 } else { DType::F32 });
        let turn = seed as usize / 3;
        // Whole tiles and others; sums of whole words and of odd numbers of them.
        let (rows, keys) = [(16, 64), (29, 70), (9, 33), (40, 32)][turn % 4];
        let (d, c) = [(16, 32), (8, 32), (6, 40), (5, 7)][turn / 2 % 4];
        let batch: &[usize] = [&[2][..], &[1, 3], &[]][turn % 3];
        let with = |last: [usize; 2]| [batch, &last].concat();
        let mut args =
            vec![r.typed(of, &with([rows, d])), r.typed(of, &with([keys, d])), r.typed(of, &with([keys, c]))];
        let mut at = Attrs::new();
        if turn.is_multiple_of(2) {
            args.push(r.typed(of, &[]));
            at.extend(attrs(&[("scaled", Attr::Int(1))]));
        }
        if !turn.is_multiple_of(3) {
            let shape = [with([rows, keys]), vec![rows, keys], vec![1, keys]][turn / 3 % 3].clone();
            args.push(r.typed(of, &shape));
            at.extend(attrs(&[("masked", Attr::Int(1))]));
        }
        (args, at)
    },
}];
