//! Rotary position embedding (Su et al. 2021). Pairs are neighbours (the interleaved order of GGUF's Llama family), or with the
//! attribute `halves`, an element of the first half of what rotates and one of the second (the order of GPT-NeoX).

use crate::sample::{Rng, attrs, result};
use crate::{require, require_f32};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, float_attr, int_attr};
use lathe_ir::tensor::{Expr, Iter, Stmt, Unary};
use lathe_ir::{Bounds, DType, Tensor};

fn infer_table(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t[0].dtype == DType::I32, "expects positions and frequencies")?;
    require(t[0].shape.len() == 1 && t[1].shape.len() == 1, "expects two vectors")?;
    require_f32(&t[1..])?;
    Ok(vec![Type::dense(DType::F32, &[t[0].shape[0].clone(), t[1].shape[0].clone() * 2])])
}

/// What cosines and sines are multiplied by (the attention factor of scaled rotations).
fn factor(a: &Attrs) -> f32 {
    float_attr(a, "factor").unwrap_or(1.0) as f32
}

fn table(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (pos, freq, by) = (a[0].to_i64(), a[1].to_f32(), f64::from(factor(at)));
    let mut y = vec![];
    for p in pos {
        let angles: Vec<f64> = freq.iter().map(|f| f64::from(p as f32 * f)).collect();
        y.extend(angles.iter().map(|v| v.cos() * by));
        y.extend(angles.iter().map(|v| v.sin() * by));
    }
    vec![result(&t[0], &y)]
}

fn lower_table(l: &Lowering) -> Vec<Stmt> {
    let (pos, freq, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let half: Expr = (&freq.ty.shape[0]).into();
    let (t, i) = (l.var("0"), l.var("i"));
    let p = pos.read(std::slice::from_ref(&t)).cast(DType::F32);
    let angle = &p * &freq.read(std::slice::from_ref(&i));
    let by = factor(&l.attrs);
    let value = |f: Unary| if by == 1.0 { angle.un(f) } else { &angle.un(f) * &Expr::f32(by) };
    let body = vec![
        y.write(&l.name("yc"), &[t.clone(), i.clone()], value(Unary::Cos)),
        y.write(&l.name("ys"), &[t, i + half.clone()], value(Unary::Sin)),
    ];
    let inner = Stmt::for_(&l.name("i"), half, Iter::Spatial, body);
    vec![Stmt::for_(&l.name("0"), (&pos.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

fn infer_rope(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t.iter().all(|t| t.shape.len() == 2), "expects two matrices")?;
    require_f32(t)?;
    require(t[0].shape[0] == t[1].shape[0], "the table has not a row for each row")?;
    let d = int_attr(a, "head_dim").unwrap_or(0);
    require(d >= 2 && d % 2 == 0, "head_dim is not an even number")?;
    let table = t[1].shape[1].as_const().unwrap_or(0);
    require(table <= d && table % 2 == 0, "the table is wider than a head")?;
    require(t[0].shape[1].as_const().is_some_and(|n| n % d == 0), "rows are not made of whole heads")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

/// Where the two elements of pair `i` are in a head of which `width` elements rotate: `(factor of i, second - first)`.
fn pairs(a: &Attrs, width: i64) -> (i64, i64) {
    if int_attr(a, "halves") == Some(1) { (1, width / 2) } else { (2, 1) }
}

fn back(a: &Attrs) -> bool {
    int_attr(a, "back") == Some(1)
}

fn rope(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (mut x, tab) = (a[0].values(), a[1].values());
    let (n, w) = (a[0].row(), a[1].row());
    let d = int_attr(at, "head_dim").unwrap_or(2) as usize;
    let (step, apart) = pairs(at, w as i64);
    let sign = if back(at) { -1.0 } else { 1.0 };
    for (row, tab) in x.chunks_mut(n).zip(tab.chunks(w)) {
        for head in row.chunks_mut(d) {
            for i in 0..w / 2 {
                let (first, second) = (step as usize * i, step as usize * i + apart as usize);
                let (u, v, c, s) = (head[first], head[second], tab[i], tab[w / 2 + i] * sign);
                (head[first], head[second]) = (u * c - v * s, u * s + v * c);
            }
        }
    }
    vec![result(&t[0], &x)]
}

fn lower_rope(l: &Lowering) -> Vec<Stmt> {
    let (x, tab, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let d = int_attr(&l.attrs, "head_dim").unwrap_or(2);
    let width = tab.ty.shape[1].as_const().unwrap_or(2);
    let heads = x.ty.shape[1].div(d, &Bounds::new());
    let (t, h, i) = (l.var("0"), l.var("h"), l.var("i"));
    let (step, apart) = pairs(&l.attrs, width);
    let at = |k: i64| [t.clone(), h.clone() * d + i.clone() * step + k];
    let (u, v) = (x.read(&at(0)), x.read(&at(apart)));
    let (c, s) = (tab.read(&[t.clone(), i.clone()]), tab.read(&[t.clone(), i.clone() + width / 2]));
    let s = if back(&l.attrs) { s.un(Unary::Neg) } else { s };
    let pair = vec![
        y.write(&l.name("ye"), &at(0), &(&u * &c) - &(&v * &s)),
        y.write(&l.name("yo"), &at(apart), &(&u * &s) + &(&v * &c)),
    ];
    let mut body = vec![Stmt::for_(&l.name("i"), (width / 2).into(), Iter::Spatial, pair)];
    if width < d {
        let j = h.clone() * d + l.var("j") + width;
        let copy = y.write(&l.name("yj"), &[t.clone(), j.clone()], x.read(&[t.clone(), j]));
        body.push(Stmt::for_(&l.name("j"), (d - width).into(), Iter::Spatial, vec![copy]));
    }
    let inner = Stmt::for_(&l.name("h"), (&heads).into(), Iter::Spatial, body);
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "rope_table",
        doc: "cosines, then sines, of position[t] * frequency[i], times `factor`",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_table,
        reference: table,
        lower: lower_table,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            let factor = Attr::Float([1.0, 1.25][seed as usize % 2]);
            (vec![r.ints(&[3], 50), r.dense(&[8])], attrs(&[("factor", factor)]))
        },
    },
    OpRow {
        name: "rope",
        doc: "rotates the pairs of each head of x[t, :] by the angles of table[t, :]; with back = 1, back",
        form: Form::ROW,
        gradient: Some(|d| {
            // A rotation's transpose is the rotation back.
            let (tab, dy) = (d.arg(1), d.dy());
            let attr = |name, default| int_attr(d.attrs(), name).unwrap_or(default);
            let (head, halves, back) = (attr("head_dim", 2), attr("halves", 0), 1 - attr("back", 0));
            let attrs =
                [("head_dim", Attr::Int(head)), ("halves", Attr::Int(halves)), ("back", Attr::Int(back))];
            Ok(vec![Some(d.op_with("rope", &[dy, tab], &attrs)?), None])
        }),
        donates: &[],
        infer: infer_rope,
        reference: rope,
        lower: lower_rope,
        edge: Edge::none,
        sample: |seed| {
            let mut r = Rng(seed);
            let flag = |n: u64| Attr::Int((seed / n % 2) as i64);
            let d = attrs(&[("head_dim", Attr::Int(16)), ("halves", flag(2)), ("back", flag(4))]);
            (vec![r.dense(&[3, 32]), r.dense(&[3, if seed.is_multiple_of(2) { 16 } else { 8 }])], d)
        },
    },
];
