//! Rows picked by an index, and rows written to the place an index names.

use crate::norm::scalar;
use crate::sample::{Rng, result};
use crate::{require, require_f32};
use lathe_ir::encodings::encoding;
use lathe_ir::graph::{Attrs, Edge, Form, Lowering, OpRow, Type};
use lathe_ir::tensor::{Binary, Buffer, Expr, Fact, HOST, Iter, Stmt, Unary};
use lathe_ir::{Bounds, DType, Encoding, Int, Layout, Tensor, Term, encode_bits, write_bits};
use std::sync::Arc;

fn infer_take(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t[0].shape.len() == 2, "expects a matrix and row numbers")?;
    require_f32(&t[..1])?;
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
    require_f32(&t[..2])?;
    let row = t[0].shape[1].clone() * t[0].shape[2].clone();
    require(t[1].shape[1] == row, "rows are not as long as the cache's")?;
    require(t[2].dtype == DType::I32 && t[2].shape[..] == t[1].shape[..1], "expects one place a row")?;
    Ok(vec![t[0].clone()])
}

fn put(a: &[Tensor], _: &Attrs, _: &[Type]) -> Vec<Tensor> {
    let mut cache = a[0].clone();
    let (d, n) = (cache.shape[2], a[1].row());
    let dims: Vec<Int> = cache.shape.iter().map(|d| Int::from(*d as i64)).collect();
    let e = match &cache.encoding {
        Some(e) => (**e).clone(),
        None => encoding("f32", &dims).expect("a dense encoding"),
    };
    let layouts: Vec<_> = e.fields.iter().map(|f| f.layout.resolve(&|_| None).expect("constant")).collect();
    let mut write = |field: usize, index: &[i64], value: f64| {
        let t = e.fields[field].dtype;
        let bits = if t.is_float() { encode_bits(t, value) } else { value as i64 as u64 };
        write_bits(&mut cache.bytes, layouts[field].address(index), t.bits(), bits).expect("a place of it");
    };
    for (row, slot) in a[1].to_f32().chunks(n).zip(a[2].to_i64()) {
        for (g, head) in row.chunks(d).enumerate() {
            let Some(coded) = e.coded() else {
                (0..).zip(head).for_each(|(i, v)| write(0, &[slot, g as i64, i], (*v).into()));
                continue;
            };
            let (group, rounding) = (e.group() as usize, Rounding::of(&e));
            for (b, part) in head.chunks(group).enumerate() {
                let most = rounding.most(part.iter().copied());
                let (scale, inverse) = rounding.scales(most);
                write(1, &[slot, g as i64, b as i64], scale.into());
                for (i, v) in part.iter().enumerate() {
                    let code = (v * inverse).round_ties_even() as i64 + coded.zero;
                    let code = rounding.last.map_or(code, |last| code.min(last));
                    write(0, &[slot, g as i64, (b * group + i) as i64], code as f64);
                }
            }
        }
    }
    vec![cache]
}

/// How a group of values becomes codes with a scale. Signed codes are as far from 0 on both sides as the largest value needs. Of
/// codes without sign, whose 0 is in the middle, one end is farther away, and has the largest value, whatever its sign.
struct Rounding {
    /// The code of the largest value, less the one of 0.
    end: f32,
    /// The last code there is, where rounding may pass it.
    last: Option<i64>,
}

impl Rounding {
    fn of(e: &Encoding) -> Rounding {
        let (zero, half) = (e.coded().map_or(0, |c| c.zero), 1 << (e.fields[0].dtype.bits() - 1));
        match zero {
            0 => Rounding { end: (half - 1) as f32, last: None },
            zero => Rounding { end: -zero as f32, last: Some(2 * half - 1) },
        }
    }

    /// The largest value: of either sign, or its distance from 0.
    fn most(&self, values: impl Iterator<Item = f32>) -> f32 {
        let (least, most) = values.fold((0f32, 0f32), |(l, m), v| (l.min(v), m.max(v)));
        match self.last {
            Some(_) if most <= -least => least,
            Some(_) => most,
            None => most.max(-least),
        }
    }

    /// What a code is times, and a value to become one.
    fn scales(&self, most: f32) -> (f32, f32) {
        (most * (1.0 / self.end), if most == 0.0 { 0.0 } else { self.end / most })
    }
}

fn lower_put(l: &Lowering) -> Vec<Stmt> {
    let (x, places, cache) = (&l.ins[1], &l.ins[2], &l.outs[0]);
    let d = cache.ty.shape[2].clone();
    let (t, g, i) = (l.var("0"), l.var("g"), l.var("i"));
    let slot = places.read(std::slice::from_ref(&t)).cast(DType::INDEX);
    let value = |i: &Expr| x.read(&[t.clone(), g.clone() * Expr::from(&d) + i.clone()]);
    let place = |i: Expr| [slot.clone(), g.clone(), i];
    let (mut out, inner) = match cache.ty.storage().filter(|e| e.coded().is_some()) {
        Some(e) => put_codes(l, &e, &value, &place),
        None => {
            let copy = cache.write(&l.name("y"), &place(i.clone()), value(&i));
            (vec![], Stmt::for_(&l.name("i"), (&d).into(), Iter::Spatial, vec![copy]))
        }
    };
    let heads = Stmt::for_(&l.name("g"), (&cache.ty.shape[1]).into(), Iter::Spatial, vec![inner]);
    out.push(Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, vec![heads]));
    out
}

/// Codes of one head's row, a scale for each group. Where a byte is two codes it is written through views of the cache.
fn put_codes(
    l: &Lowering,
    e: &Encoding,
    value: &dyn Fn(&Expr) -> Expr,
    place: &dyn Fn(Expr) -> [Expr; 3],
) -> (Vec<Stmt>, Stmt) {
    let cache = &l.outs[0];
    let (codes, group) = (&e.fields[0], e.group());
    let (rounding, zero) = (Rounding::of(e), e.coded().map_or(0, |c| c.zero));
    let (b, k, j, amax, least) = (l.var("b"), l.var("k"), l.var("j"), l.name("amax"), l.name("least"));
    let none = Expr::f32(0.0);
    let max = match rounding.last {
        None => Expr::load(&amax, &[]),
        Some(_) => {
            let (most, least) = (Expr::load(&amax, &[]), Expr::load(&least, &[]));
            Expr::select(&most.bin(Binary::Le, &least.un(Unary::Neg)), &least, &most)
        }
    };
    let inverse = Expr::select(&max.bin(Binary::Eq, &none), &none, &(&Expr::f32(rounding.end) / &max));
    let column = |i: &Expr| b.clone() * group + i.clone();
    let code = |i: &Expr| {
        let code = (&value(&column(i)) * &inverse).un(Unary::Round).cast(DType::I32);
        let code = if zero == 0 { code } else { code + Expr::int(zero, DType::I32) };
        rounding.last.map_or(code.clone(), |last| code.min_with(&Expr::int(last, DType::I32)))
    };
    let (mut views, store) = (vec![], l.name("yq"));
    let (store, columns) = match codes.dtype.bits() {
        4 => {
            // The byte of the codes of columns j and j + group / 2 lies where the first of them does.
            let half = group / 2;
            let bytes = l.name("bytes");
            let Layout { offset, terms } = &codes.layout;
            let first = terms.iter().filter(|t| !(t.dim == 2 && t.div == half));
            let packed = |t: &Term| match t.dim {
                2 if t.div == group => Term { div: half, ..t.clone() },
                _ => t.clone(),
            };
            let mut shape = cache.ty.shape.clone();
            shape[2] = shape[2].div(2, &Bounds::new());
            let own = |b: Buffer| Stmt::Alloc(Arc::new(Buffer { memory: cache.name.clone(), ..b }));
            views.extend(cache.views().into_iter().filter(|v| *v.name == *cache.field("d")).map(own));
            views.push(own(Buffer {
                name: bytes.as_str().into(),
                dtype: DType::U8,
                shape,
                layout: Layout { offset: offset.clone(), terms: first.map(packed).collect() },
                memory: HOST.into(),
                facts: vec![],
            }));
            let high = code(&(j.clone() + half)).bin(Binary::Shl, &Expr::int(4, DType::I32));
            let byte = code(&j).bin(Binary::Or, &high).cast(DType::U8);
            (Stmt::store(&store, &bytes, &place(b.clone() * half + j.clone()), byte), half)
        }
        _ => {
            let code = code(&j).cast(codes.dtype);
            (Stmt::store(&store, &cache.field("q"), &place(column(&j)), code), group)
        }
    };
    let reduced = |block: &str, to: &str, by: &str, v: &str, value: Expr| {
        let body = Stmt::reduce(&l.name(block), to, &[], by, value);
        Stmt::for_(&l.name(v), group.into(), Iter::Reduce, vec![body])
    };
    let zeroed =
        |block: &str, to: &str| [scalar(to, DType::F32), Stmt::store(&l.name(block), to, &[], none.clone())];
    let mut body = zeroed("za", &amax).to_vec();
    let own = value(&column(&k));
    if rounding.last.is_some() {
        body.push(reduced("ra", &amax, "max", "k", own));
        body.extend(zeroed("zl", &least));
        body.push(reduced("rl", &least, "min", "n", value(&column(&l.var("n")))));
    } else {
        body.push(reduced("ra", &amax, "max", "k", own.un(Unary::Abs)));
    }
    let scale = (&max * &Expr::f32(1.0 / rounding.end)).cast(DType::F16);
    body.push(Stmt::store(&l.name("yd"), &cache.field("d"), &place(b.clone()), scale));
    body.push(Stmt::for_(&l.name("j"), columns.into(), Iter::Spatial, vec![store]));
    let groups = cache.ty.shape[2].div(group, &Bounds::new());
    (views, Stmt::for_(&l.name("b"), (&groups).into(), Iter::Spatial, body))
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
        doc: "cache[place[t], g, i] = x[t, g * d + i], in place, rounded to what the cache holds",
        form: Form::ROW,
        gradient: None,
        donates: &[(0, 0)],
        infer: infer_put,
        reference: put,
        lower: lower_put,
        edge: |l| Edge::below(2, l.ins[0].ty.shape[0].clone()).and(2, Fact::Injective),
        sample: |seed| {
            let mut r = Rng(seed);
            let pages = if seed.is_multiple_of(2) { "keys16" } else { "values16" };
            let elements = ["", ".f16", ".bf16", ".q8", ".q4"][seed as usize / 2 % 5];
            let cache = empty_cache(&format!("{pages}{elements}"), &[48, 2, 64]);
            let places = Tensor::i32(&[3], &[17, 3, 40]);
            (vec![cache, r.dense(&[3, 128]), places], Attrs::new())
        },
    },
];
