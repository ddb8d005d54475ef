//! Reverse-mode differentiation: from a graph to one that also computes gradients of its loss. Nodes are visited backwards
//! once; each row's `gradient` adds operators of the same table, so what follows (passes, grouping, planning, schedules)
//! sees nothing new.

use lathe_ir::graph::{Adjoint, Attr, Graph, OpTable, Value, ValueId, check};
use lathe_ir::{DType, IrError};
use std::collections::{HashMap, HashSet};

/// The graph with the gradients of its loss, its first result, by the named values behind its results. A gradient has its
/// value's type, and is zero where the loss does not depend on the value.
///
/// ```
/// let table = lathe_ops::table();
/// let g = lathe_ir::graph::parse("graph f() {
///   x: f32[8] = input
///   y: f32[8] = mul(x, x)
///   loss: f32[] = sum(y) {axes = [0]}
///   return loss
/// }").unwrap();
/// let d = lathe_rewrite::differentiate(&g, &table, &["x"]).unwrap();
/// assert_eq!(d.outputs.len(), 2);
/// ```
pub fn differentiate(g: &Graph, table: &OpTable, by: &[&str]) -> Result<Graph, IrError> {
    let fail = |name: &str, what: &str| Err(IrError::check(format!("{}/{name}", g.name), what));
    let Some(&loss) = g.outputs.first() else { return fail("loss", "there is no result to differentiate") };
    if !smooth(g.value(loss)) || g.ty(loss).shape.iter().any(|d| d.as_const() != Some(1)) {
        return fail(&g.value(loss).name, "the loss is not a single f32");
    }
    let mut wanted = vec![];
    for name in by {
        let Some(i) = g.values.iter().position(|v| *v.name == **name) else {
            return fail(name, "there is no such value to differentiate by");
        };
        if !smooth(&g.values[i]) {
            return fail(name, "has no gradient: it is not a dense tensor of f32");
        }
        wanted.push(ValueId(i as u32));
    }
    for n in &g.nodes {
        for (a, _) in table.get(&n.op).map_or(&[][..], |r| r.donates) {
            if wanted.contains(&n.inputs[*a]) {
                return fail(
                    &g.value(n.inputs[*a]).name,
                    "is updated in place: differentiate before the update",
                );
            }
        }
    }
    // What the values asked for reach through numbers that can change a little.
    let mut active: HashSet<ValueId> = wanted.iter().copied().collect();
    for n in &g.nodes {
        if n.inputs.iter().any(|v| active.contains(v)) {
            active.extend(n.outputs.iter().filter(|v| !g.ty(**v).dtype.is_int()));
        }
    }

    let mut out = g.clone();
    let fill = |out: &mut Graph, like: ValueId, value: f64| -> Result<ValueId, IrError> {
        Ok(out.apply(table, "fill", &[like], &[("value", Attr::Float(value))])?[0])
    };
    let mut gradients: HashMap<ValueId, ValueId> = HashMap::new();
    if active.contains(&loss) {
        gradients.insert(loss, fill(&mut out, loss, 1.0)?);
    }
    for n in g.nodes.iter().rev() {
        if !n.outputs.iter().any(|v| gradients.contains_key(v)) {
            continue;
        }
        let place = || format!("{}/{}", g.name, n.op);
        let row = table.get(&n.op).ok_or_else(|| IrError::check(place(), "there is no such operator"))?;
        let Some(gradient) = row.gradient else {
            return Err(IrError::check(place(), format!("'{}' has no gradient", n.op)));
        };
        let mut results = vec![];
        for v in &n.outputs {
            results.push(match gradients.get(v) {
                Some(d) => *d,
                None => fill(&mut out, *v, 0.0)?,
            });
        }
        let found = gradient(&mut Adjoint::new(&mut out, table, n.clone(), results))?;
        for (i, (v, d)) in n.inputs.iter().zip(found).enumerate() {
            if !active.contains(v) {
                continue;
            }
            let Some(d) = d else {
                let what = format!("'{}' has no gradient by its argument {i}, '{}'", n.op, g.value(*v).name);
                return Err(IrError::check(place(), what));
            };
            let sum = match gradients.get(v) {
                Some(before) => out.apply(table, "add", &[*before, d], &[])?[0],
                None => d,
            };
            gradients.insert(*v, sum);
        }
    }
    for v in wanted {
        let d = match gradients.get(&v) {
            Some(d) => *d,
            None => fill(&mut out, v, 0.0)?,
        };
        out.outputs.push(d);
    }
    // Gradients that were not asked for.
    let out = out.without_dead(g.nodes.len());
    check(&out, table)?;
    Ok(out)
}

fn smooth(v: &Value) -> bool {
    v.ty.dtype == DType::F32 && v.ty.encoding.is_none()
}
