//! Operators that work row by row: one loop over rows for all of them, temporaries of one row, vectors inside a row.

use super::{LANES, temporaries};
use crate::lanes::lane;
use crate::{Schedule, ScheduleError};
use lathe_ir::DType;
use lathe_ir::graph::Form;
use lathe_ir::tensor::{
    Binary, Expr, For, Iter, Kernel, Node, SERIAL, Stmt, expr_type, for_each, loop_bounds,
};
use std::sync::Arc;

pub(super) fn apply(s: &mut Schedule, parts: &[(Form, String)]) -> Result<(), ScheduleError> {
    let row = |p: &str| format!("{p}_0");
    let first = row(&parts[0].1);
    for (_, p) in &parts[1..] {
        s.step(&format!("join {first} {}", row(p)))?;
    }
    for t in temporaries(s.kernel()) {
        s.step(&format!("contract {t}"))?;
    }
    vectorize_inner(s)
}

/// Vectorizes every innermost loop whose accesses run along with it.
pub(super) fn vectorize_inner(s: &mut Schedule) -> Result<(), ScheduleError> {
    for l in innermost(s.kernel()) {
        if !suits(s.kernel(), &l) {
            continue;
        }
        let v = &l.var;
        let rest = l.extent.as_int().map_or(0, |n| n % LANES);
        if rest > 0 {
            s.step(&format!("peel {v} {LANES}"))?;
        }
        s.step(&format!("split {v} {LANES}"))?;
        if l.iter == Iter::Reduce {
            s.step(&format!("rfactor {v}.i"))?;
        }
        s.step(&format!("vectorize {v}.i"))?;
        if rest > 0 {
            s.step(&format!("vectorize {v}.p masked"))?;
        }
    }
    Ok(())
}

fn innermost(k: &Kernel) -> Vec<Arc<For>> {
    let mut out = vec![];
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s
            && &*l.level == SERIAL
            && l.body.iter().all(|s| matches!(s, Stmt::Store(_)))
        {
            out.push(l.clone());
        }
    });
    out
}

fn suits(k: &Kernel, l: &For) -> bool {
    if l.extent.as_int().is_none_or(|n| n < LANES) || !matches!(l.iter, Iter::Spatial | Iter::Reduce) {
        return false;
    }
    let bounds = loop_bounds(k);
    let along = |n: &str, i: &[Expr], store: bool| {
        let Some(b) = k.buffer(n) else { return false };
        match lane(&b, i, &l.var, &bounds) {
            Some(a) if a.stride == b.dtype.bits() && a.stride >= 8 => true,
            Some(a) => a.stride == 0 && (!store || l.iter == Iter::Reduce),
            None => false,
        }
    };
    let of = |e: &Expr| expr_type(e, &|n| k.buffer(n).map(|b| b.dtype));
    let bits = |n: &str| k.buffer(n).map_or(64, |b| b.dtype.bits());
    let (mut ok, mut slow) = (true, false);
    for s in &l.body {
        let Stmt::Store(b) = s else { continue };
        for (n, i) in &b.targets {
            ok &= along(n, i, true) && bits(n) <= 32;
        }
        for v in &b.values {
            v.visit(&mut |e| match &**e {
                Node::Load(n, i) => ok &= along(n, i, false) && bits(n) <= 32,
                // Library calls run lane by lane anyway.
                Node::Unary(u, _) => {
                    use lathe_ir::tensor::Unary::{Atan, Cos, Log, Sin};
                    slow |= matches!(u, Sin | Cos | Log | Atan);
                }
                Node::Binary(Binary::Pow, ..) | Node::Cast(DType::F16 | DType::BF16, _) => slow = true,
                // A choice is made in lanes of 32 bits.
                Node::Select(..) => slow |= of(e).is_none_or(|t| t.bits() != 32),
                _ => {}
            });
        }
        // Lanes are combined across by these.
        let across = |r: &lathe_ir::tensor::Reducer| matches!(r.name, "sum" | "max" | "min");
        let wide = b.targets.iter().all(|(n, _)| bits(n) == 32);
        if l.iter == Iter::Reduce && !(wide && b.reducer.is_some_and(across)) {
            ok = false;
        }
    }
    ok && !slow
}
