//! What a term costs on a target, in nanoseconds: arithmetic and bytes moved, on the host or by an instruction.

use crate::rule::{Axes, at};
use crate::target::Target;
use crate::term::{Facts, Head, ON};
use lathe_ir::graph::str_attr;

/// Multiply-adds of an operator; `None` where it is not made of them.
pub fn products(head: &Head, args: &[&Facts], result: &Facts) -> Option<f64> {
    let out = || Some(result.dims()?.iter().product::<i64>() as f64);
    let sum = match &*head.op {
        "conv" => {
            let w: Vec<i64> = args[1].ty.shape.iter().map(lathe_ir::Int::as_const).collect::<Option<_>>()?;
            w[1..].iter().product::<i64>()
        }
        "dot" => {
            let (x, y) = (args[0].dims()?, args[1].dims()?);
            let a = Axes::of(&head.attrs, [x.len(), y.len()])?;
            at(&x, &a.sum[0]).iter().product()
        }
        "matmul" | "batch_matmul" => *args[0].dims()?.last()?,
        _ => return None,
    };
    Some(out()? * sum as f64)
}

/// How often the instruction of a placed product is issued, with the length of each one's sum.
pub fn issues(head: &Head, args: &[&Facts]) -> Option<(f64, i64)> {
    let (x, y) = (args[0].dims()?, args[1].dims()?);
    let a = Axes::of(&head.attrs, [x.len(), y.len()])?;
    let size = |d: &[i64], axes: &[usize]| at(d, axes).iter().product::<i64>() as f64;
    let steps = x[*a.sum[0].last()?];
    let rows = size(&x, &a.free[0]) / x[*a.free[0].last()?] as f64;
    let parts = size(&x, &a.sum[0]) / steps as f64;
    Some((size(&x, &a.batch[0]) * rows * parts * size(&y, &a.free[1]), steps))
}

/// What is too small to matter, so that of two equal ways the shorter one is taken.
const LEAST: f64 = 1e-6;

/// The cost of an operator, its arguments there already.
pub fn cost(target: &Target, head: &Head, args: &[&Facts], result: &Facts) -> f64 {
    // What is made of constants is made once, when the program is loaded.
    if head.named().is_some() || &*head.op == "reshape" || result.constant {
        return LEAST;
    }
    if let Some(i) = str_attr(&head.attrs, ON).and_then(|n| target.instruction(n)) {
        if &*head.op != "dot" {
            // A part of the instruction or its loads and stores.
            return LEAST;
        }
        let p = i.product;
        let Some((tiles, steps)) = issues(head, args) else { return f64::INFINITY };
        let tiles = tiles / p.width() as f64;
        let time = tiles * (i.ns + steps as f64 * i.ns_per_step);
        let bytes = |i: usize| args[i].elements() * p.factors[i].bits() as f64 / 8.0;
        let Some(a) = target.accelerator else {
            return time + (bytes(0) + bytes(1) + result.bytes()) / target.host.bytes_per_ns;
        };
        // A tile of columns is loaded for each product, one of rows for as many as there are accumulators.
        let tile = |rows: i64, i: usize| (steps * rows * p.factors[i].bits() / 8) as f64;
        let loads = tiles * (tile(p.width(), 1) + tile(p.rows, 0) / a.accumulators as f64);
        return time + (loads + result.bytes()) / a.bytes_per_ns;
    }
    let moved: f64 = args.iter().map(|f| f.bytes()).sum::<f64>() + result.bytes();
    let arithmetic = products(head, args, result).map_or(0.0, |n| n / target.host.products_per_ns);
    arithmetic + moved / target.host.bytes_per_ns
}
