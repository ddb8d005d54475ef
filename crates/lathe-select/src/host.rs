//! A product that was placed on one of the host's own instructions, as a tensor program: loops around the instruction's meaning,
//! where the schedule step `tensorize` puts the instruction.

use crate::SelectError;
use crate::rule::Axes;
use crate::target::Target;
use crate::term::ON;
use lathe_ir::graph::{Graph, Node, str_attr};
use lathe_ir::tensor::{check, parse};
use lathe_schedule::Schedule;
use std::fmt::Write;

/// The program of a placed product with its instruction in place; `None` where a node is no product on such an instruction.
///
/// Its buffers are `x`, `y` and `z`, the factors before they are converted and the result.
pub fn schedule(g: &Graph, n: &Node, target: &Target) -> Result<Option<Schedule>, SelectError> {
    let instruction = str_attr(&n.attrs, ON).and_then(|name| target.instruction(name));
    let Some(i) = instruction.filter(|i| &*n.op == "dot" && !i.loads) else { return Ok(None) };
    let p = i.product;
    let dims = |v| g.ty(v).shape.iter().map(lathe_ir::Int::as_const).collect::<Option<Vec<i64>>>();
    let all = dims(n.inputs[0]).zip(dims(n.inputs[1])).zip(dims(n.outputs[0]));
    let Some(((x, y), z)) = all else { return Ok(None) };
    let Some(a) = Axes::of(&n.attrs, [x.len(), y.len()]) else { return Ok(None) };
    // Names of the axes: those of the tile are l, b and j, as the table of intrinsics has them.
    let (mut nx, mut ny) = (vec![String::new(); x.len()], vec![String::new(); y.len()]);
    let mut outer: Vec<(String, i64, &str)> = vec![];
    let (mut sums, mut nz) = (vec![], vec![]);
    for (d, (i, j)) in a.batch[0].iter().zip(&a.batch[1]).enumerate() {
        (nx[*i], ny[*j]) = (format!("p{d}"), format!("p{d}"));
        outer.push((nx[*i].clone(), x[*i], "spatial"));
        nz.push(nx[*i].clone());
    }
    for (d, i) in a.free[0].iter().enumerate() {
        let tile = d + 1 == a.free[0].len();
        nx[*i] = if tile { "l".into() } else { format!("m{d}") };
        nz.push(nx[*i].clone());
        outer.extend((!tile).then(|| (nx[*i].clone(), x[*i], "spatial")));
    }
    for (d, i) in a.free[1].iter().enumerate() {
        let tile = d + 1 == a.free[1].len() && p.columns.is_some();
        ny[*i] = if tile { "j".into() } else { format!("n{d}") };
        nz.push(ny[*i].clone());
        outer.extend((!tile).then(|| (ny[*i].clone(), y[*i], "spatial")));
    }
    for (d, (i, j)) in a.sum[0].iter().zip(&a.sum[1]).enumerate() {
        let tile = d + 1 == a.sum[0].len();
        nx[*i] = if tile { "b".into() } else { format!("k{d}") };
        ny[*j].clone_from(&nx[*i]);
        if !tile {
            sums.push((nx[*i].clone(), x[*i], "reduce"));
        }
    }
    let steps = a.sum[0].last().map_or(1, |d| x[*d]);
    let list = |v: &[i64]| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let tile = [vec![p.rows], p.columns.into_iter().collect()].concat();
    let lanes = if p.columns.is_some() { "l, j" } else { "l" };
    let cast = |t: lathe_ir::DType, e: String| if t == p.sums { e } else { format!("{}({e})", p.sums) };
    let zero = format!("0{}", p.sums);
    let mut text = format!(
        "kernel {}() {{\n in x: {}[{}]\n in y: {}[{}]\n out z: {}[{}]\n",
        i.name,
        p.factors[0],
        list(&x),
        p.factors[1],
        list(&y),
        p.sums,
        list(&z),
    );
    let mut depth = 0;
    let mut open = |text: &mut String, name: &str, n: i64, kind: &str| {
        let _ = writeln!(text, "for {name} in {n} {kind} serial {{");
        depth += 1;
    };
    for (name, n, kind) in &outer {
        open(&mut text, name, *n, kind);
    }
    let lane = |text: &mut String, suffix: &str| {
        let mut braces = format!("for l{suffix} in {} spatial serial {{\n", p.rows);
        if let Some(c) = p.columns {
            let _ = writeln!(braces, "for j{suffix} in {c} spatial serial {{");
        }
        text.push_str(&braces);
    };
    let close = if p.columns.is_some() { "}\n}\n" } else { "}\n" };
    let at = |suffix: &str| lanes.split(", ").map(|v| format!("{v}{suffix}")).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "alloc acc: {}[{}] on register", p.sums, list(&tile));
    lane(&mut text, "z");
    let _ = write!(text, "Z: acc[{}] = {zero}\n{close}", at("z"));
    let mut inner = String::new();
    for (name, n, kind) in &sums {
        let _ = writeln!(inner, "for {name} in {n} {kind} serial {{");
    }
    lane(&mut inner, "");
    let product = format!(
        "{} * {}",
        cast(p.factors[0], format!("x[{}]", nx.join(", "))),
        cast(p.factors[1], format!("y[{}]", ny.join(", "))),
    );
    let _ = write!(inner, "for b in {steps} reduce serial {{\nS: acc[{lanes}] sum = {product}\n}}\n{close}");
    inner.push_str(&"}\n".repeat(sums.len()));
    text.push_str(&inner);
    lane(&mut text, "w");
    let to: Vec<String> =
        nz.iter().map(|v| if v == "l" || v == "j" { format!("{v}w") } else { v.clone() }).collect();
    let _ = write!(text, "W: z[{}] = acc[{}]\n{close}", to.join(", "), at("w"));
    text.push_str(&"}\n".repeat(depth + 1));
    let kernel = parse(&text)?;
    check(&kernel)?;
    let mut s = Schedule::new(kernel);
    let refused = |e: lathe_schedule::ScheduleError| {
        SelectError::Unsupported(format!("'{}' has no place in schedules: {e}", i.name))
    };
    s.step(&format!("tensorize l {}", i.name)).map_err(refused)?;
    Ok(Some(s))
}
