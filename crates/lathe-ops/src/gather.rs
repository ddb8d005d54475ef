//! Rows picked by an index, and rows written to the place an index names.

use crate::require;
use crate::sample::{Rng, result};
use lathe_ir::encodings::encoding;
use lathe_ir::graph::{Attrs, Edge, Form, Lowering, OpRow, Type};
use lathe_ir::tensor::{Expr, Fact, Iter, Stmt};
use lathe_ir::{Bounds, DType, Int, Tensor, write_bits};
use std::sync::Arc;

fn infer_take(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t[0].shape.len() == 2, "expects a matrix and row numbers")?;
    require(t[1].dtype == DType::I32 && t[1].shape.len() == 1, "row numbers are not a vector of i32")?;
    Ok(vec![Type::dense(DType::F32, &[t[1].shape[0].clone(), t[0].shape[1].clone()])])
}

fn lower_take(l: &Lowering) -> Vec<Stmt> {
    let (x, rows, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let (t, j) = (l.var("0"), l.var("1"));
    let row = rows.read(std::slice::from_ref(&t)).cast(DType::INDEX);
    let copy = y.write(&l.name("y"), &[t, j.clone()], x.read(&[row, j]));
    let inner = Stmt::for_(&l.name("1"), (&x.ty.shape[1]).into(), Iter::Spatial, vec![copy]);
    vec![Stmt::for_(&l.name("0"), (&rows.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

fn infer_put(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(
        t.len() == 3 && t[0].shape.len() == 3 && t[1].shape.len() == 2,
        "expects a cache, rows and places",
    )?;
    let row = t[0].shape[1].clone() * t[0].shape[2].clone();
    require(t[1].shape[1] == row, "rows are not as long as the cache's")?;
    require(t[2].dtype == DType::I32 && t[2].shape[..] == t[1].shape[..1], "expects one place a row")?;
    Ok(vec![t[0].clone()])
}

fn put(a: &[Tensor], _: &Attrs, _: &[Type]) -> Vec<Tensor> {
    let mut cache = a[0].clone();
    let (d, n) = (cache.shape[2], a[1].row());
    let layout = cache.encoding.as_ref().map(|e| e.fields[0].layout.clone()).unwrap_or_else(|| {
        let dims: Vec<Int> = cache.shape.iter().map(|d| Int::from(*d as i64)).collect();
        lathe_ir::Layout::dense(DType::F32, &dims)
    });
    let at = layout.resolve(&|_| None).expect("constant layout");
    for (row, slot) in a[1].to_f32().chunks(n).zip(a[2].to_i64()) {
        for (i, v) in row.iter().enumerate() {
            let address = at.address(&[slot, (i / d) as i64, (i % d) as i64]);
            write_bits(&mut cache.bytes, address, 32, v.to_bits().into()).expect("a place of the cache");
        }
    }
    vec![cache]
}

fn lower_put(l: &Lowering) -> Vec<Stmt> {
    let (x, places, cache) = (&l.ins[1], &l.ins[2], &l.outs[0]);
    let d = cache.ty.shape[2].clone();
    let (t, g, i) = (l.var("0"), l.var("g"), l.var("i"));
    let slot = places.read(std::slice::from_ref(&t)).cast(DType::INDEX);
    let from = g.clone() * Expr::from(&d) + i.clone();
    let copy = cache.write(&l.name("y"), &[slot, g, i], x.read(&[t, from]));
    let inner = Stmt::for_(&l.name("i"), (&d).into(), Iter::Spatial, vec![copy]);
    let heads = Stmt::for_(&l.name("g"), (&cache.ty.shape[1]).into(), Iter::Spatial, vec![inner]);
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, vec![heads])]
}

/// A zeroed cache in an encoding of pages.
pub(crate) fn empty_cache(name: &str, shape: &[usize]) -> Tensor {
    let dims: Vec<Int> = shape.iter().map(|d| Int::from(*d as i64)).collect();
    let e = encoding(name, &dims).expect("a cache's encoding");
    let n = e.bits.simplify(&Bounds::new()).as_const().expect("constant size") as usize / 8;
    Tensor { shape: shape.to_vec(), dtype: DType::F32, encoding: Some(Arc::new(e)), bytes: vec![0; n] }
}

/// The cache after `put`.
pub(crate) fn filled(cache: &Tensor, rows: &Tensor, places: &Tensor) -> Tensor {
    put(&[cache.clone(), rows.clone(), places.clone()], &Attrs::new(), &[]).remove(0)
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "take",
        doc: "y[t, :] = x[row[t], :], decoded",
        form: Form::ROW,
        gradient: Some(|d| {
            let (x, rows, dy) = (d.arg(0), d.arg(1), d.dy());
            Ok(vec![Some(d.op("scatter_add", &[dy, rows, x])?), None])
        }),
        donates: &[],
        infer: infer_take,
        reference: |a, _, t| {
            let (x, n) = (a[0].values(), a[0].row());
            let y = a[1].to_i64().into_iter().flat_map(|r| x[r as usize * n..][..n].to_vec());
            vec![result(&t[0], &y.collect::<Vec<_>>())]
        },
        lower: lower_take,
        edge: |l| Edge::below(1, l.ins[0].ty.shape[0].clone()),
        sample: |seed| {
            let mut r = Rng(seed);
            let name = ["f32", "q8_0.tile16", "q4_1.tile16", "q4_0"][seed as usize % 4];
            (vec![r.encoded(name, &[32, 64]), r.ints(&[5], 32)], Attrs::new())
        },
    },
    OpRow {
        name: "put",
        doc: "cache[place[t], g, i] = x[t, g * d + i], in place",
        form: Form::ROW,
        gradient: None,
        donates: &[(0, 0)],
        infer: infer_put,
        reference: put,
        lower: lower_put,
        edge: |l| Edge::below(2, l.ins[0].ty.shape[0].clone()).and(2, Fact::Injective),
        sample: |seed| {
            let mut r = Rng(seed);
            let cache = empty_cache(if seed.is_multiple_of(2) { "keys16" } else { "values16" }, &[48, 2, 16]);
            let places = Tensor::i32(&[3], &[17, 3, 40]);
            (vec![cache, r.dense(&[3, 32]), places], Attrs::new())
        },
    },
];
