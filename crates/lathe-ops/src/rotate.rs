//! Blocks of a row times a Kronecker product of two matrices: a rotation that spreads what a few elements hold over all of a block,
//! so that few bits are enough for each (Ashkboos et al. 2024).

use crate::norm::array;
use crate::require;
use crate::sample::{Rng, result};
use lathe_ir::graph::{Attrs, Edge, Form, Lowering, OpRow, Type};
use lathe_ir::tensor::{Expr, Iter, Stmt};
use lathe_ir::{Bounds, DType, Tensor};

fn infer(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 3 && t.iter().all(|t| t.shape.len() == 2), "expects three matrices")?;
    require(t.iter().all(|t| t.dtype == DType::F32 && t.encoding.is_none()), "expects dense f32")?;
    let side = |t: &Type| t.shape[0].as_const().filter(|n| t.shape[1].as_const() == Some(*n));
    let block = side(&t[1]).and_then(|p| p.checked_mul(side(&t[2])?)).filter(|n| *n > 0);
    let whole = block.is_some_and(|n| t[0].shape[1].as_const().is_some_and(|width| width % n == 0));
    require(whole, "rows are not made of whole blocks, as wide as the product of two square matrices")?;
    Ok(vec![Type::dense(DType::F32, &t[0].shape)])
}

fn rotate(args: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, a, b, p, q) =
        (args[0].values(), args[1].values(), args[2].values(), args[1].row(), args[2].row());
    let of = |block: &[f64], n: usize| -> f64 {
        let r = |from: usize| a[from / q * p + n / q] * b[from % q * q + n % q];
        block.iter().enumerate().map(|(from, x)| x * r(from)).sum()
    };
    let y: Vec<f64> = x.chunks(p * q).flat_map(|block| (0..p * q).map(move |n| of(block, n))).collect();
    vec![result(&t[0], &y)]
}

/// A block is a matrix of as many rows as the first factor has; it is multiplied by that factor from the left, then by the second one
/// from the right: p + q products for an element instead of p times q.
fn lower(l: &Lowering) -> Vec<Stmt> {
    let (x, a, b, y) = (&l.ins[0], &l.ins[1], &l.ins[2], &l.outs[0]);
    let side = |n: usize| l.ins[n].ty.shape[0].as_const().expect("inferred before");
    let (p, q, half) = (side(1), side(2), l.name("half"));
    let at = |row: Expr, column: Expr| [l.var("0"), l.var("b") * (p * q) + row * q + column];
    let over = |v: &str, n: i64, it, body| Stmt::for_(&l.name(v), n.into(), it, vec![body]);
    // Of a row of a block, the sums over `n` products, and what becomes of each.
    let row = |s: &str,
               n: i64,
               product: &dyn Fn(Expr, Expr, Expr) -> Expr,
               kept: &dyn Fn(Expr, Expr, Expr) -> Stmt| {
        let v = |name: &str| format!("{s}{name}");
        let (acc, i, j, c) = (l.name(&v("acc")), l.var(&v("i")), l.var(&v("j")), l.var(&v("c")));
        let lane = std::slice::from_ref(&c);
        let sum = Stmt::reduce(&l.name(&v("s")), &acc, lane, "sum", product(i.clone(), j, c.clone()));
        let zero = Stmt::store(&l.name(&v("zs")), &acc, &[l.var(&v("z"))], Expr::f32(0.0));
        let body = vec![
            array(&acc, &[q.into()]),
            over(&v("z"), q, Iter::Spatial, zero),
            over(&v("j"), n, Iter::Reduce, over(&v("c"), q, Iter::Spatial, sum)),
            over(&v("o"), q, Iter::Spatial, kept(i, l.var(&v("o")), Expr::load(&acc, &[l.var(&v("o"))]))),
        ];
        Stmt::for_(&l.name(&v("i")), p.into(), Iter::Spatial, body)
    };
    let body = vec![
        array(&half, &[p.into(), q.into()]),
        row("l", p, &|i, j, c| &a.read(&[j.clone(), i]) * &x.read(&at(j, c)), &|i, c, sum| {
            Stmt::store(&l.name("h"), &half, &[i, c], sum)
        }),
        row("r", q, &|i, j, c| &Expr::load(&half, &[i, j.clone()]) * &b.read(&[j, c]), &|i, c, sum| {
            y.write(&l.name("y"), &at(i, c), sum)
        }),
    ];
    let blocks = x.ty.shape[1].div(p * q, &Bounds::new());
    let inner = Stmt::for_(&l.name("b"), (&blocks).into(), Iter::Spatial, body);
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, vec![inner])]
}

pub(crate) const ROWS: &[OpRow] = &[OpRow {
    name: "rotate",
    doc: "y[t, b * n + i] = sum over j of x[t, b * n + j] * r[j, i], the same for every block of n columns: r is the Kronecker product of a (p by p) and b (q by q), n = p * q, so r[j, i] = a[j / q, i / q] * b[j % q, i % q]",
    form: Form::ROW,
    gradient: None,
    donates: &[],
    infer,
    reference: rotate,
    lower,
    edge: Edge::none,
    sample: |seed| {
        let mut r = Rng(seed);
        let (p, q) = [(2, 16), (1, 16), (3, 5)][seed as usize % 3];
        (vec![r.dense(&[3, 3 * p * q]), r.dense(&[p, p]), r.dense(&[q, q])], Attrs::new())
    },
}];
