//! Blocks of a row times a matrix: a rotation that spreads what a few elements hold over all of a block, so that few bits
//! are enough for each (Ashkboos et al. 2024).

use crate::norm::array;
use crate::require;
use crate::sample::{Rng, result};
use lathe_ir::graph::{Attrs, Edge, Form, Lowering, OpRow, Type};
use lathe_ir::tensor::{Expr, Iter, Stmt};
use lathe_ir::{Bounds, DType, Tensor};

fn infer(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2 && t.iter().all(|t| t.shape.len() == 2), "expects two matrices")?;
    require(t.iter().all(|t| t.dtype == DType::F32 && t.encoding.is_none()), "expects dense f32")?;
    let block = t[1].shape[0].as_const().filter(|n| t[1].shape[1].as_const() == Some(*n));
    let whole = block.is_some_and(|n| t[0].shape[1].as_const().is_some_and(|width| width % n == 0));
    require(whole, "rows are not made of whole blocks, each as wide as a square matrix")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

fn rotate(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, r, n) = (a[0].values(), a[1].values(), a[1].row());
    let column =
        |block: &[f64], i: usize| block.iter().zip(r[i..].iter().step_by(n)).map(|(x, r)| x * r).sum();
    let y: Vec<f64> = x.chunks(n).flat_map(|block| (0..n).map(move |i| column(block, i))).collect();
    vec![result(&t[0], &y)]
}

fn lower(l: &Lowering) -> Vec<Stmt> {
    let (x, r, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let n = r.ty.shape[0].as_const().expect("inferred before");
    let (t, j, i, acc) = (l.var("0"), l.var("j"), l.var("i"), l.name("acc"));
    let at = |within: &Expr| [t.clone(), l.var("b") * n + within.clone()];
    let over = |v: &str, it, body| Stmt::for_(&l.name(v), n.into(), it, vec![body]);
    let sum = |v: &str| Expr::load(&acc, &[l.var(v)]);
    let product = &x.read(&at(&j)) * &r.read(&[j.clone(), i.clone()]);
    let body = vec![
        array(&acc, &[n.into()]),
        over("z", Iter::Spatial, Stmt::store(&l.name("zs"), &acc, &[l.var("z")], Expr::f32(0.0))),
        over(
            "j",
            Iter::Reduce,
            over("i", Iter::Spatial, Stmt::reduce(&l.name("s"), &acc, &[i], "sum", product)),
        ),
        over("1", Iter::Spatial, y.write(&l.name("y"), &at(&l.var("1")), sum("1"))),
    ];
    let blocks = x.ty.shape[1].div(n, &Bounds::new());
    let inner = Stmt::for_(&l.name("b"), (&blocks).into(), Iter::Spatial, body);
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

pub(crate) const ROWS: &[OpRow] = &[OpRow {
    name: "rotate",
    doc: "y[t, b * n + i] = sum over j of x[t, b * n + j] * r[j, i], r being n by n: the same matrix for every block of n columns",
    form: Form::ROW,
    gradient: None,
    donates: &[],
    infer,
    reference: rotate,
    lower,
    edge: Edge::none,
    sample: |seed| {
        let mut r = Rng(seed);
        let n = [32, 16, 5][seed as usize % 3];
        (vec![r.dense(&[3, 3 * n]), r.dense(&[n, n])], Attrs::new())
    },
}];
