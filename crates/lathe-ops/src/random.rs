//! Random numbers as functions of a key and a position: Philox 4x32-10 (Salmon et al. 2011). Nothing is remembered, so
//! what is computed again, in a backward pass or another run, draws the same numbers.
//!
//! Element `i` of a tensor is the first word of the block of the counter (low half of i, high half of i, stream, 0): it
//! depends neither on the shape nor on how the loops run. Operators under one key keep apart by the attribute `stream`.

use crate::norm::scalar;
use crate::require;
use crate::sample::{Rng, attrs, result};
use crate::typed::nest;
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, float_attr, int_attr};
use lathe_ir::tensor::{Binary, Expr, Iter, Stmt, Store};
use lathe_ir::{DType, Tensor};
use std::sync::Arc;

const ROUNDS: i64 = 10;
/// What the first and the third word of a counter are multiplied by.
const FACTORS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What the words of the key grow by each round.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// A block of four words.
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [a, b] = [u64::from(c[0]) * u64::from(FACTORS[0]), u64::from(c[2]) * u64::from(FACTORS[1])];
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// Element `i` as a number in [0, 1): the upper 24 bits of its word.
fn uniform(key: &Tensor, at: &Attrs, i: u64) -> f64 {
    let k = key.to_i64();
    let block = philox([i as u32, (i >> 32) as u32, stream(at) as u32, 0], [k[0] as u32, k[1] as u32]);
    f64::from(block[0] >> 8) / f64::from(1u32 << 24)
}

fn stream(a: &Attrs) -> i64 {
    int_attr(a, "stream").unwrap_or(0)
}

fn word(v: u32) -> Expr {
    Expr::int(v.into(), DType::U32)
}

/// Statements that leave the element's first word in the scalar `c0`, and its number in [0, 1). `key` is the operand.
fn draw(l: &Lowering, key: usize, element: Expr) -> (Vec<Stmt>, Expr) {
    let names: Vec<String> = ["c0", "c1", "c2", "c3", "k0", "k1"].iter().map(|n| l.name(n)).collect();
    let [c0, c1, c2, c3, k0, k1] = &names[..] else { unreachable!("six names") };
    let get = |n: &String| Expr::load(n, &[]);
    let half = 1i64 << 32;
    let first = [
        (element.clone() % half).cast(DType::U32),
        (element / half).cast(DType::U32),
        word(stream(&l.attrs) as u32),
        word(0),
        l.ins[key].read(&[0.into()]),
        l.ins[key].read(&[1.into()]),
    ];
    let mut body: Vec<Stmt> = names.iter().map(|n| scalar(n, DType::U32)).collect();
    body.extend(names.iter().zip(first).map(|(n, v)| Stmt::store(&format!("{n}_z"), n, &[], v)));
    let product = |c: &String, f: u32| get(c).cast(DType::U64) * Expr::int(f.into(), DType::U64);
    let high = |p: &Expr| p.bin(Binary::Shr, &Expr::int(32, DType::U64)).cast(DType::U32);
    let (a, b) = (product(c0, FACTORS[0]), product(c2, FACTORS[1]));
    let mix = |p: &Expr, c: &String, k: &String| high(p).bin(Binary::Xor, &get(c)).bin(Binary::Xor, &get(k));
    let round = Stmt::Store(Arc::new(Store {
        name: l.name("round").into(),
        targets: names.iter().map(|n| (n.as_str().into(), vec![])).collect(),
        values: vec![
            mix(&b, c1, k0),
            b.cast(DType::U32),
            mix(&a, c3, k1),
            a.cast(DType::U32),
            get(k0) + word(WEYL[0]),
            get(k1) + word(WEYL[1]),
        ],
        reducer: None,
    }));
    body.push(Stmt::for_(&l.name("rounds"), ROUNDS.into(), Iter::Scan, vec![round]));
    let bits = get(c0).bin(Binary::Shr, &word(8)).cast(DType::I32);
    (body, &bits.cast(DType::F32) * &Expr::f32(1.0 / (1u32 << 24) as f32))
}

/// For each element: its number in [0, 1), and the store of what `value` makes of it and its index.
fn lower(l: &Lowering, key: usize, value: impl Fn(&[Expr], &Expr) -> Expr) -> Vec<Stmt> {
    let y = &l.outs[0];
    nest(l, &y.ty.shape, |index| {
        let flat =
            index.iter().zip(&y.ty.shape).fold(Expr::from(0), |n, (i, d)| n * Expr::from(d) + i.clone());
        let (mut body, u) = draw(l, key, flat);
        body.push(y.write(&l.name("y"), index, value(index, &u)));
        body
    })
}

fn infer(t: &[Type], tensor: usize, key: usize) -> Result<Vec<Type>, String> {
    let f32 = |t: &Type| t.dtype == DType::F32 && t.encoding.is_none();
    require(t.len() == 2 && f32(&t[tensor]), "expects a dense tensor of f32 and a key")?;
    require(t[key] == Type::dense(DType::U32, &[2.into()]), "the key is not two words of u32")?;
    Ok(vec![t[tensor].clone()])
}

/// The probability of zero, and the factor of what stays.
fn rates(a: &Attrs) -> (f64, f64) {
    let p = float_attr(a, "p").unwrap_or(0.0);
    (p, 1.0 / (1.0 - p))
}

fn sample(seed: u64) -> (Tensor, Tensor) {
    let mut r = Rng(seed);
    let shapes: [&[usize]; 3] = [&[3, 48], &[5], &[2, 3, 7]];
    let key = Tensor::u32(&[2], &[r.next() as u32, r.next() as u32]);
    (r.dense(shapes[seed as usize % 3]), key)
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "uniform",
        doc: "numbers in [0, 1) of a key and a stream, in the shape of `like`",
        form: Form::ROW,
        gradient: Some(|d| Ok(vec![None, Some(d.zero(d.arg(1))?)])),
        donates: &[],
        infer: |t, _| infer(t, 1.min(t.len().saturating_sub(1)), 0),
        reference: |a, at, t| {
            let n = a[1].len() as u64;
            vec![result(&t[0], &(0..n).map(|i| uniform(&a[0], at, i)).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: |l| lower(l, 0, |_, u| u.clone()),
        sample: |seed| {
            let (x, key) = sample(seed);
            (vec![key, x], attrs(&[("stream", Attr::Int(3))]))
        },
    },
    OpRow {
        name: "dropout",
        doc: "x / (1 - p) where uniform(key) >= p, else 0 (Srivastava et al. 2014)",
        form: Form::ROW,
        gradient: Some(|d| Ok(vec![Some(d.same(&[d.dy(), d.arg(1)])?), None])),
        donates: &[],
        infer: |t, a| {
            require((0.0..1.0).contains(&rates(a).0), "p is not in [0, 1)")?;
            infer(t, 0, t.len().saturating_sub(1))
        },
        reference: |a, at, t| {
            let (p, scale) = rates(at);
            let keep = |(i, x): (usize, f64)| if uniform(&a[1], at, i as u64) < p { 0.0 } else { x * scale };
            vec![result(&t[0], &a[0].values().into_iter().enumerate().map(keep).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: |l| {
            let (p, scale) = rates(&l.attrs);
            lower(l, 1, |index, u| {
                let kept = &l.ins[0].read(index) * &Expr::f32(scale as f32);
                Expr::select(&u.bin(Binary::Lt, &Expr::f32(p as f32)), &Expr::f32(0.0), &kept)
            })
        },
        sample: |seed| {
            let (x, key) = sample(seed);
            (vec![x, key], attrs(&[("p", Attr::Float(0.25)), ("stream", Attr::Int(1))]))
        },
    },
];

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers published with Random123 (`kat_vectors`).
    #[test]
    fn known_answers() {
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), want);
        }
    }
}
