//! `tensorize L I`: the loops from `L` inwards are what one machine instruction `I` does. They are compared with the
//! row's meaning (same loops, same arithmetic; sub-byte codes count as the unsigned byte they widen to) and wrapped; the
//! body stays as it is, so the interpreter and the portable dialect need no knowledge of the instruction.

use crate::intrinsics::INTRINSICS;
use crate::lanes::{Lane, lane};
use crate::util::{arg, in_family};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Binary, Expr, For, Kernel, Node, Stmt, loop_bounds, map_stmts, parse};
use lathe_ir::{Bounds, DType};
use std::sync::Arc;

pub(crate) static TENSORIZE: Primitive = Primitive {
    name: "tensorize",
    doc: "tensorize L I: the loops of the family L are the instruction I",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// Loop extents, outer to inner, and the one block inside.
fn nest(s: &Stmt) -> Option<(Vec<Arc<For>>, Arc<lathe_ir::tensor::Store>)> {
    let mut loops = vec![];
    let mut s = s;
    loop {
        match s {
            Stmt::For(l) => {
                loops.push(l.clone());
                match l.body.as_slice() {
                    [inner] => s = inner,
                    _ => return None,
                }
            }
            Stmt::Store(b) => return Some((loops, b.clone())),
            _ => return None,
        }
    }
}

/// The strides, in elements of the operand, that a load has along the nest's loops.
fn strides(k: &Kernel, e: &Expr, loops: &[Arc<For>], b: &Bounds) -> Option<(DType, Vec<i64>)> {
    let Node::Load(n, i) = &**e else { return None };
    let buffer = k.buffer(n)?;
    let unit = buffer.dtype.bits().max(8);
    let of = |l: &Arc<For>| match lane(&buffer, i, &l.var, b)? {
        Lane { stride, .. } if stride % unit == 0 => Some(stride / unit),
        _ => None,
    };
    Some((buffer.dtype, loops.iter().map(of).collect::<Option<_>>()?))
}

/// The two widened factors of a product.
fn factors(e: &Expr) -> Option<(Expr, Expr)> {
    let Node::Binary(Binary::Mul, x, y) = &**e else { return None };
    match (&**x, &**y) {
        (Node::Cast(DType::I32, x), Node::Cast(DType::I32, y)) => Some((x.clone(), y.clone())),
        _ => None,
    }
}

fn matches(k: &Kernel, s: &Stmt, row: &Kernel, b: &Bounds) -> Option<bool> {
    let (loops, block) = nest(s)?;
    let (want_loops, want) = nest(row.body.first()?)?;
    let same_loops = loops.len() == want_loops.len()
        && loops.iter().zip(&want_loops).all(|(a, w)| a.extent == w.extent && a.iter == w.iter);
    if !same_loops || block.reducer != want.reducer || block.targets.len() != 1 {
        return Some(false);
    }
    let target = |s: &lathe_ir::tensor::Store| Expr::load(&s.targets[0].0, &s.targets[0].1);
    let ((x, y), (wx, wy)) = (factors(&block.values[0])?, factors(&want.values[0])?);
    let none = Bounds::new();
    for (got, want) in [(target(&block), target(&want)), (x, wx), (y, wy)] {
        let (t, s) = strides(k, &got, &loops, b)?;
        let (wt, ws) = strides(row, &want, &want_loops, &none)?;
        let fits =
            t == wt || (wt == DType::U8 && matches!(t, DType::Int { signed: false, bits } if bits < 8));
        if !fits || s != ws {
            return Some(false);
        }
    }
    Some(true)
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (family, name) = (arg(args, 0)?, arg(args, 1)?);
    let row = INTRINSICS.iter().find(|r| r.name == name).ok_or("there is no such instruction")?;
    let meaning = parse(row.meaning).map_err(|e| e.to_string())?;
    let bounds = loop_bounds(k);
    let mut hits = 0;
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if in_family(&l.var, family) && matches(k, &s, &meaning, &bounds) == Some(true) => {
            hits += 1;
            vec![Stmt::Intrinsic(name.into(), Arc::new(vec![s]))]
        }
        _ => vec![s],
    });
    if hits == 0 {
        return Err(format!("no loop of '{family}' does what '{name}' does"));
    }
    Ok(Kernel { body, ..k.clone() })
}
