//! Mixture of experts (Jiang et al. 2024): routing, buckets of tokens by expert (a ragged axis), products inside each
//! bucket, and the weighted sum of the chosen experts' results.

use crate::encode::encode_a8;
use crate::matmul::dot;
use crate::norm::{array, scalar};
use crate::sample::{Rng, attrs, result};
use crate::{require, require_f32};
use lathe_ir::encodings::Activations;
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, int_attr};
use lathe_ir::tensor::{Axis, Buffer, Expr, Fact, Iter, REGISTER, Reducer, Stmt, Store, Unary, WORKSPACE};
use lathe_ir::{DType, Int, Tensor};
use std::slice::from_ref as one;
use std::sync::Arc;

fn k_of(a: &Attrs) -> i64 {
    int_attr(a, "k").unwrap_or(1)
}

/// Whether the weights of the chosen experts are their shares of all, and so sum up to less than 1.
fn of_all(a: &Attrs) -> bool {
    int_attr(a, "all") == Some(1)
}

fn ints(ty: &Type, data: Vec<i64>) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect();
    Tensor::i32(&shape, &data.into_iter().map(|v| v as i32).collect::<Vec<_>>())
}

fn infer_route(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && t[0].shape.len() == 2, "expects a matrix of logits")?;
    require_f32(t)?;
    require(t[0].shape[1].as_const().is_some_and(|e| (1..=e).contains(&k_of(a))), "k is not in 1..experts")?;
    let shape = [t[0].shape[0].clone(), k_of(a).into()];
    Ok(vec![Type::dense(DType::F32, &shape), Type::dense(DType::I32, &shape)])
}

fn route(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (mut weights, mut experts) = (vec![], vec![]);
    for row in a[0].values().chunks(a[0].row()) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|i, j| row[*j].total_cmp(&row[*i]).then(i.cmp(j)));
        let top = &order[..k_of(at) as usize];
        let exp = |i: &usize| (row[*i] - row[top[0]]).exp();
        let sum: f64 = if of_all(at) { order.iter().map(exp).sum() } else { top.iter().map(exp).sum() };
        weights.extend(top.iter().map(|i| exp(i) / sum));
        experts.extend(top.iter().map(|i| *i as i64));
    }
    vec![result(&t[0], &weights), ints(&t[1], experts)]
}

fn lower_route(l: &Lowering) -> Vec<Stmt> {
    let (x, w, ex) = (&l.ins[0], &l.outs[0], &l.outs[1]);
    let (experts, k) = (Expr::from(&x.ty.shape[1]), Expr::from(k_of(&l.attrs)));
    let [t, c, j, e, n, y] = ["0", "c", "j", "e", "n", "y"].map(|v| l.var(v));
    let [left, best, at, sum] = ["left", "best", "at", "sum"].map(|v| l.name(v));
    let low = Expr::float(f64::NEG_INFINITY, DType::F32);
    let load = |b: &str| Expr::load(b, &[]);
    let nonnegative = Fact::Range(0.into(), (i64::from(i32::MAX) + 1).into());
    // Where no logit is a number, no expert is the largest: the last one then.
    let chosen = load(&at).cast(DType::INDEX).min_with(&(experts.clone() - 1));
    let pick = Stmt::Store(Arc::new(Store {
        name: l.name("ra").into(),
        targets: vec![(best.as_str().into(), vec![]), (at.as_str().into(), vec![])],
        values: vec![Expr::load(&left, one(&e)), e.cast(DType::I32)],
        reducer: Reducer::named("argmax"),
    }));
    let above = |v: Expr| (&v - &w.read(&[t.clone(), 0.into()])).un(Unary::Exp);
    let shifted = |v: &Expr| above(w.read(&[t.clone(), v.clone()]));
    let (summed, term) = match of_all(&l.attrs) {
        true => (experts.clone(), above(x.read(&[t.clone(), n.clone()]))),
        false => (k.clone(), shifted(&n)),
    };
    let choose = vec![
        scalar(&best, DType::F32),
        Stmt::Alloc(Arc::new(Buffer::dense(&at, DType::I32, &[], REGISTER).with(nonnegative))),
        Stmt::store(&l.name("zb"), &best, &[], low.clone()),
        Stmt::store(&l.name("za"), &at, &[], Expr::int(i64::from(i32::MAX), DType::I32)),
        Stmt::for_(&l.name("e"), experts.clone(), Iter::Reduce, vec![pick]),
        w.write(&l.name("yw"), &[t.clone(), j.clone()], load(&best)),
        ex.write(&l.name("ye"), &[t.clone(), j.clone()], chosen.cast(DType::I32)),
        Stmt::store(&l.name("bl"), &left, &[chosen], low),
    ];
    // The first weight is the largest logit, so it is overwritten last.
    let back = k.clone() - 1 - y.clone();
    let body = vec![
        array(&left, &[x.ty.shape[1].clone()]),
        Stmt::for_(
            &l.name("c"),
            experts,
            Iter::Spatial,
            vec![Stmt::store(&l.name("bc"), &left, one(&c), x.read(&[t.clone(), c.clone()]))],
        ),
        Stmt::for_(&l.name("j"), k.clone(), Iter::Sequential, choose),
        scalar(&sum, DType::F32),
        Stmt::store(&l.name("zs"), &sum, &[], Expr::f32(0.0)),
        Stmt::for_(
            &l.name("n"),
            summed,
            Iter::Reduce,
            vec![Stmt::reduce(&l.name("rs"), &sum, &[], "sum", term)],
        ),
        Stmt::for_(
            &l.name("y"),
            k,
            Iter::Sequential,
            vec![w.write(&l.name("yn"), &[t.clone(), back.clone()], &shifted(&back) / &load(&sum))],
        ),
    ];
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, body)]
}

fn infer_bucket(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(
        t.len() == 1 && t[0].dtype == DType::I32 && t[0].shape.len() == 2,
        "expects a matrix of experts",
    )?;
    let n = int_attr(a, "experts").ok_or("the attribute 'experts' is missing")?;
    let slots = t[0].shape[0].clone() * t[0].shape[1].clone();
    Ok(vec![Type::dense(DType::I32, &[(n + 1).into()]), Type::dense(DType::I32, &[slots])])
}

fn bucket(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (e, n) = (a[0].to_i64(), int_attr(at, "experts").unwrap_or(0));
    let offsets = (0..=n).map(|b| e.iter().filter(|v| **v < b).count() as i64).collect();
    let mut index: Vec<i64> = (0..e.len() as i64).collect();
    index.sort_by_key(|i| (e[*i as usize], *i));
    vec![ints(&t[0], offsets), ints(&t[1], index)]
}

fn lower_bucket(l: &Lowering) -> Vec<Stmt> {
    let (ex, offsets, index) = (&l.ins[0], &l.outs[0], &l.outs[1]);
    let n = int_attr(&l.attrs, "experts").unwrap_or(0);
    let k = ex.ty.shape[1].clone();
    let slots = Expr::from(&(ex.ty.shape[0].clone() * k.clone()));
    let [z, i, e, b, f] = ["z", "i", "e", "b", "f"].map(|v| l.var(v));
    let (cursor, i32_) = (l.name("cursor"), |v| Expr::int(v, DType::I32));
    let expert = |s: &Expr| ex.read(&[s / &Expr::from(&k), s % &Expr::from(&k)]).cast(DType::INDEX);
    let at = |v: &Expr| offsets.read(one(v));
    let body = vec![
        Stmt::for_(
            &l.name("z"),
            (n + 1).into(),
            Iter::Spatial,
            vec![offsets.write(&l.name("bz"), one(&z), i32_(0))],
        ),
        Stmt::for_(
            &l.name("i"),
            slots.clone(),
            Iter::Sequential,
            vec![Stmt::reduce(&l.name("bi"), &offsets.name, &[expert(&i) + 1], "sum", i32_(1))],
        ),
        Stmt::for_(
            &l.name("e"),
            n.into(),
            Iter::Scan,
            vec![offsets.write(&l.name("be"), &[e.clone() + 1], &at(&(e.clone() + 1)) + &at(&e))],
        ),
        // Read at a slot's turn only, and no bucket has more turns than slots.
        Stmt::Alloc(Arc::new(
            Buffer::dense(&cursor, DType::I32, &[n.into()], WORKSPACE)
                .with(Fact::Range(0.into(), index.ty.shape[0].clone())),
        )),
        Stmt::for_(
            &l.name("b"),
            n.into(),
            Iter::Spatial,
            vec![Stmt::store(&l.name("bb"), &cursor, one(&b), at(&b))],
        ),
        Stmt::for_(
            &l.name("f"),
            slots,
            Iter::Sequential,
            vec![
                index.write(
                    &l.name("yf"),
                    &[Expr::load(&cursor, &[expert(&f)]).cast(DType::INDEX)],
                    f.cast(DType::I32),
                ),
                Stmt::reduce(&l.name("bf"), &cursor, &[expert(&f)], "sum", i32_(1)),
            ],
        ),
    ];
    body
}

fn infer_expert(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 4 && t[1].shape.len() == 3, "expects rows, experts' weights, offsets and index")?;
    require_f32(&t[..2])?;
    require(t[0].shape.len() == 2, "rows are no matrix")?;
    require(t[2..].iter().all(|t| t.dtype == DType::I32 && t.shape.len() == 1), "expects vectors of i32")?;
    require(t[2].shape[0] == t[1].shape[0].clone() + 1, "expects an offset for each expert, and the end")?;
    require(t[3].shape[0] == t[0].shape[0].clone() * k_of(a), "expects k slots for each row")?;
    require(t[0].shape[1] == t[1].shape[2], "the rows differ in length")?;
    require(k_of(a) >= 1, "k is not positive")?;
    Ok(vec![Type::dense(DType::F32, &[t[3].shape[0].clone(), t[1].shape[1].clone()])])
}

fn expert(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, w, k) = (a[0].values(), a[1].values(), a[0].row());
    let (offsets, index, n) = (a[2].to_i64(), a[3].to_i64(), a[1].shape[1]);
    let mut y = vec![0.0; index.len() * n];
    for (e, w) in w.chunks(n * k).enumerate() {
        for i in &index[offsets[e] as usize..offsets[e + 1] as usize] {
            let row = &x[(i / k_of(at)) as usize * k..][..k];
            for (j, wr) in w.chunks(k).enumerate() {
                y[*i as usize * n + j] = row.iter().zip(wr).map(|(a, b)| a * b).sum();
            }
        }
    }
    vec![result(&t[0], &y)]
}

/// Facts of offsets (the operand `first`) and slots sorted by bucket (the one behind it).
fn bucketed(edge: Edge, first: usize, slots: &Int) -> Edge {
    edge.and_below(first, slots.clone() + Int::from(1))
        .and(first, Fact::Monotone)
        .and_below(first + 1, slots.clone())
        .and(first + 1, Fact::Injective)
}

/// The slots of an expert's bucket.
fn slots_of_expert(l: &Lowering) -> Axis {
    let (offsets, index) = (&l.ins[2], &l.ins[3]);
    let (e, slot) = (l.var("expert"), l.var("slot"));
    let at = |v: Expr| offsets.read(&[v]).cast(DType::INDEX);
    Axis {
        name: l.name("slot").into(),
        parents: vec![l.name("expert").into()],
        extent: index.ty.shape[0].clone(),
        length: &at(e.clone() + 1) - &at(e.clone()),
        at: index.read(&[&at(e) + &slot]).cast(DType::INDEX),
    }
}

fn lower_expert(l: &Lowering) -> Vec<Stmt> {
    let [x, w, ..] = &l.ins[..] else { return vec![] };
    let y = &l.outs[0];
    let (e, r, n, acc) = (l.var("e"), l.var("r"), l.var("n"), l.name("acc"));
    let slots = slots_of_expert(l);
    let row = slots.coordinate(one(&e), &r);
    let mut body = dot(l, x, w, &[row.clone() / k_of(&l.attrs)], &[e.clone(), n.clone()], &acc);
    body.push(y.write(&l.name("y"), &[row, n], Expr::load(&acc, &[])));
    let inner = Stmt::for_(&l.name("n"), (&w.ty.shape[1]).into(), Iter::Spatial, body);
    let rows = slots.over(&l.name("r"), one(&e), Iter::Spatial, vec![inner]);
    vec![Stmt::for_(&l.name("e"), (&w.ty.shape[0]).into(), Iter::Spatial, vec![rows])]
}

fn infer_combine(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t.iter().all(|t| t.shape.len() == 2), "expects rows and weights")?;
    require_f32(t)?;
    require(
        t[0].shape[0] == t[1].shape[0].clone() * t[1].shape[1].clone(),
        "expects k rows for each of the weights'",
    )?;
    Ok(vec![Type::dense(DType::F32, &[t[1].shape[0].clone(), t[0].shape[1].clone()])])
}

fn lower_combine(l: &Lowering) -> Vec<Stmt> {
    let (x, w, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let k = w.ty.shape[1].clone();
    let (t, n, j, acc) = (l.var("0"), l.var("1"), l.var("j"), l.name("acc"));
    let row = t.clone() * Expr::from(&k) + j.clone();
    let product = &w.read(&[t.clone(), j]) * &x.read(&[row, n.clone()]);
    let body = vec![
        scalar(&acc, DType::F32),
        Stmt::store(&l.name("z"), &acc, &[], Expr::f32(0.0)),
        Stmt::for_(
            &l.name("j"),
            (&k).into(),
            Iter::Reduce,
            vec![Stmt::reduce(&l.name("s"), &acc, &[], "sum", product)],
        ),
        y.write(&l.name("y"), &[t, n], Expr::load(&acc, &[])),
    ];
    let inner = Stmt::for_(&l.name("1"), (&x.ty.shape[1]).into(), Iter::Spatial, body);
    vec![Stmt::for_(&l.name("0"), (&w.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

/// How the weights of samples are stored.
const WEIGHTS: &[&str] =
    &["f32", "q4_1", "f32.tile16", "q8_0.tile16", "q4_1.tile16", "q4_0.tile16", "q4_k.tile16", "q6_k.tile16"];

fn sample_buckets(r: &mut Rng) -> (Tensor, Tensor) {
    let chosen = r.ints(&[5, 2], 4);
    let types = [Type::dense(DType::I32, &[Int::from(5)]), Type::dense(DType::I32, &[Int::from(10)])];
    let mut b = bucket(&[chosen], &attrs(&[("experts", Attr::Int(4))]), &types);
    let index = b.remove(1);
    (b.remove(0), index)
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "route",
        doc: "(softmax of the k largest logits of each row, or with all = 1 their part of the softmax of all; their experts), \
              largest first",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_route,
        reference: route,
        lower: lower_route,
        edge: |l| Edge::below(2, l.ins[0].ty.shape[1].clone()),
        sample: |seed| {
            let all = Attr::Int((seed % 2) as i64);
            (vec![Rng(seed).dense(&[5, 4])], attrs(&[("k", Attr::Int(2)), ("all", all)]))
        },
    },
    OpRow {
        name: "bucket",
        doc: "slots t * k + j sorted by their expert: (offsets of each expert's segment, slots in order)",
        form: Form::COPY,
        gradient: None,
        donates: &[],
        infer: infer_bucket,
        reference: bucket,
        lower: lower_bucket,
        edge: |l| {
            let experts = int_attr(&l.attrs, "experts").unwrap_or(0);
            bucketed(Edge::below(0, experts.into()), 1, &l.outs[1].ty.shape[0])
        },
        sample: |seed| (vec![Rng(seed).ints(&[5, 2], 4)], attrs(&[("experts", Attr::Int(4))])),
    },
    OpRow {
        name: "expert_matmul",
        doc: "y[s, n] = sum over k of x[s / k, :] . w[e, n, :] for each slot s of expert e's segment",
        form: Form::CONTRACTION,
        gradient: None,
        donates: &[],
        infer: infer_expert,
        reference: expert,
        lower: lower_expert,
        edge: |l| {
            let facts = bucketed(Edge::default(), 2, &l.ins[3].ty.shape[0]);
            Edge { axes: vec![slots_of_expert(l)], ..facts }
        },
        sample: |seed| {
            let mut r = Rng(seed);
            let (offsets, index) = sample_buckets(&mut r);
            let name = WEIGHTS[seed as usize % WEIGHTS.len()];
            let round = seed as usize / WEIGHTS.len();
            let columns = if name.contains("_k") { 256 } else { 64 };
            let w = r.encoded(name, &[4, 32, columns]);
            let k = 1 + round % 2;
            let x = r.dense(&[10 / k, columns]);
            // Coded and dense activations.
            let coded = w.encoding.as_ref().filter(|e| round % 4 < 2 && e.coded().is_some());
            let coded = coded.and_then(|e| Activations::of(e, columns as i64));
            let x = coded.map_or(x.clone(), |to| encode_a8(&x, &to.name()));
            (vec![x, w, offsets, index], attrs(&[("k", Attr::Int(k as i64))]))
        },
    },
    OpRow {
        name: "combine",
        doc: "y[t, n] = sum over j of w[t, j] * x[t * k + j, n]",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_combine,
        reference: |a, _, t| {
            let (x, w, n, k) = (a[0].values(), a[1].values(), a[0].row(), a[1].row());
            let mut y = vec![0.0; w.len() / k * n];
            for (s, row) in x.chunks(n).enumerate() {
                for (j, v) in row.iter().enumerate() {
                    y[s / k * n + j] += w[s] * v;
                }
            }
            vec![result(&t[0], &y)]
        },
        lower: lower_combine,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.dense(&[10, 48]), r.dense(&[5, 2])], Attrs::new())
        },
    },
];
