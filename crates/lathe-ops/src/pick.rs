//! Elements chosen by where they stand: a row's target, the past of a position, rows added up where an index sends them.

use crate::axes::dense;
use crate::require;
use crate::sample::{Rng, attrs, result};
use crate::typed::nest;
use lathe_ir::DType;
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, float_attr};
use lathe_ir::tensor::{Binary, Expr, Iter, Stmt};
use std::slice::from_ref as one;

/// Whether it is a vector of i32 as long as the first axis of another.
fn places(t: &Type, of: &Type) -> bool {
    t.dtype == DType::I32 && t.shape.len() == 1 && t.shape[..] == of.shape[..1]
}

fn infer_pick(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && dense(&t[0], 2) && t[0].shape.len() == 2, "expects a dense matrix and columns")?;
    require(places(&t[1], &t[0]), "expects one column of i32 a row")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape[..1])])
}

fn infer_put_in(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 3 && dense(&t[2], 2) && t[2].shape.len() == 2, "expects values, columns, a matrix")?;
    require(dense(&t[0], 1) && t[0].shape[..] == t[2].shape[..1], "expects one value a row")?;
    require(places(&t[1], &t[2]), "expects one column of i32 a row")?;
    Ok(vec![t[2].clone()])
}

fn infer_causal(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && dense(&t[0], 2), "expects one dense tensor of f32 with two axes or more")?;
    Ok(vec![t[0].clone()])
}

fn future(a: &Attrs) -> f64 {
    float_attr(a, "future").unwrap_or(0.0)
}

fn infer_scatter(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    let matrix = |t: &Type| t.dtype == DType::F32 && t.shape.len() == 2;
    require(t.len() == 3 && matrix(&t[0]) && matrix(&t[2]), "expects rows, places and a matrix")?;
    require(places(&t[1], &t[0]), "expects one place of i32 a row")?;
    require(t[0].shape[1] == t[2].shape[1], "the rows differ in length")?;
    Ok(vec![Type::dense(DType::F32, &t[2].shape)])
}

/// Columns on the outside, so that no two iterations add to one element; rows in order, so that sums are reproducible.
fn lower_scatter(l: &Lowering) -> Vec<Stmt> {
    let (x, to, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let (j, r, t) = (l.var("0"), l.var("r"), l.var("t"));
    let at = [to.read(one(&t)).cast(DType::INDEX), j.clone()];
    let zero = y.write(&l.name("z"), &[r, j.clone()], Expr::f32(0.0));
    let add = Stmt::reduce(&l.name("s"), &y.name, &at, "sum", x.read(&[t, j]));
    let body = vec![
        Stmt::for_(&l.name("r"), (&y.ty.shape[0]).into(), Iter::Spatial, vec![zero]),
        Stmt::for_(&l.name("t"), (&x.ty.shape[0]).into(), Iter::Reduce, vec![add]),
    ];
    vec![Stmt::for_(&l.name("0"), (&y.ty.shape[1]).into(), Iter::Spatial, body)]
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "pick",
        doc: "y[t] = x[t, column[t]]",
        form: Form::ROW,
        gradient: Some(|d| Ok(vec![Some(d.op("place_in", &[d.dy(), d.arg(1), d.arg(0)])?), None])),
        donates: &[],
        infer: infer_pick,
        reference: |a, _, t| {
            let (x, n) = (a[0].values(), a[0].row());
            let at = a[1].to_i64().into_iter().enumerate();
            vec![result(&t[0], &at.map(|(t, j)| x[t * n + j as usize]).collect::<Vec<_>>())]
        },
        edge: |l| Edge::below(1, l.ins[0].ty.shape[1].clone()),
        lower: |l| {
            let (x, at, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
            nest(l, &y.ty.shape, |i| {
                let column = at.read(i).cast(DType::INDEX);
                vec![y.write(&l.name("y"), i, x.read(&[i[0].clone(), column]))]
            })
        },
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.dense(&[5, 32]), r.ints(&[5], 32)], Attrs::new())
        },
    },
    OpRow {
        name: "place_in",
        doc: "y[t, n] = x[t] where n = column[t], else 0, in the shape of `like`",
        form: Form::ROW,
        gradient: Some(|d| {
            let dx = d.op("pick", &[d.dy(), d.arg(1)])?;
            Ok(vec![Some(dx), None, Some(d.zero(d.arg(2))?)])
        }),
        donates: &[],
        infer: infer_put_in,
        reference: |a, _, t| {
            let (x, n) = (a[0].values(), a[2].row());
            let mut y = vec![0.0; a[2].len()];
            a[1].to_i64().into_iter().enumerate().for_each(|(t, j)| y[t * n + j as usize] = x[t]);
            vec![result(&t[0], &y)]
        },
        edge: |l| Edge::below(1, l.ins[2].ty.shape[1].clone()),
        lower: |l| {
            let (x, at, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
            nest(l, &y.ty.shape, |i| {
                let here = at.read(&i[..1]).cast(DType::INDEX).bin(Binary::Eq, &i[1]);
                vec![y.write(&l.name("y"), i, Expr::select(&here, &x.read(&i[..1]), &Expr::f32(0.0)))]
            })
        },
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.dense(&[5]), r.ints(&[5], 32), r.dense(&[5, 32])], Attrs::new())
        },
    },
    OpRow {
        name: "causal",
        doc: "y[.., t, s] = x[.., t, s] where s <= t, else `future`",
        form: Form::ROW,
        gradient: Some(|d| Ok(vec![Some(d.op("causal", &[d.dy()])?)])),
        donates: &[],
        infer: infer_causal,
        reference: |a, at, t| {
            let (n, rows) = (a[0].row(), a[0].shape[a[0].shape.len() - 2]);
            let keep = |(i, v)| if i % n <= i / n % rows { v } else { future(at) };
            vec![result(&t[0], &a[0].values().into_iter().enumerate().map(keep).collect::<Vec<_>>())]
        },
        edge: Edge::none,
        lower: |l| {
            let y = &l.outs[0];
            let future = Expr::f32(future(&l.attrs) as f32);
            nest(l, &y.ty.shape, |i| {
                let past = i[i.len() - 1].bin(Binary::Le, &i[i.len() - 2]);
                vec![y.write(&l.name("y"), i, Expr::select(&past, &l.ins[0].read(i), &future))]
            })
        },
        sample: |seed| {
            let at = attrs(&[("future", Attr::Float(-1e3))]);
            match seed % 2 {
                0 => (vec![Rng(seed).dense(&[2, 5, 5])], at),
                _ => (vec![Rng(seed).dense(&[3, 16])], at),
            }
        },
    },
    OpRow {
        name: "scatter_add",
        doc: "y[place[t], :] = the sum of x[t, :] over all t with this place, in the shape of `like`",
        form: Form::NEST,
        gradient: Some(|d| {
            let dx = d.op("take", &[d.dy(), d.arg(1)])?;
            Ok(vec![Some(dx), None, Some(d.zero(d.arg(2))?)])
        }),
        donates: &[],
        infer: infer_scatter,
        reference: |a, _, t| {
            let (x, n) = (a[0].values(), a[0].row());
            let mut y = vec![0.0; a[2].len()];
            for (row, to) in x.chunks(n).zip(a[1].to_i64()) {
                y[to as usize * n..][..n].iter_mut().zip(row).for_each(|(y, x)| *y += x);
            }
            vec![result(&t[0], &y)]
        },
        edge: |l| Edge::below(1, l.ins[2].ty.shape[0].clone()),
        lower: lower_scatter,
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.dense(&[9, 16]), r.ints(&[9], 4), r.dense(&[4, 16])], Attrs::new())
        },
    },
];
