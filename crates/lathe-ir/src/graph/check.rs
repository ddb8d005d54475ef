//! The checker of graphs: order, types, and the linear use of state.

use super::{Graph, OpTable, Source, Type};
use crate::IrError;
use std::collections::{HashMap, HashSet};

/// Checks that every value is made before it is used, that types are those the rows infer, and that no linear value
/// is read after it was consumed.
pub fn check(g: &Graph, table: &OpTable) -> Result<(), IrError> {
    let mut ready: HashSet<u32> = HashSet::new();
    let mut names = HashSet::new();
    let mut donated: HashSet<u32> = HashSet::new();
    let mut stored = HashMap::new();
    for (i, v) in g.values.iter().enumerate() {
        let place = format!("{}/{}", g.name, v.name);
        if !names.insert(v.name.clone()) {
            return Err(IrError::check(place, "two values of this name"));
        }
        if v.ty.encoding.is_some() && v.ty.storage().is_none() {
            return Err(IrError::check(place, "its encoding does not suit its shape"));
        }
        if v.source != Source::Node {
            ready.insert(i as u32);
        }
        if let Source::Const(name) = &v.source
            && *stored.entry(name).or_insert(&v.ty.encoding) != &v.ty.encoding
        {
            return Err(IrError::check(place, format!("the constant '{name}' is stored in two ways")));
        }
    }
    for n in &g.nodes {
        let place = || format!("{}/{}", g.name, n.op);
        let row = table.get(&n.op).ok_or_else(|| IrError::check(place(), "there is no such operator"))?;
        for v in &n.inputs {
            if v.0 as usize >= g.values.len() || !ready.contains(&v.0) {
                return Err(IrError::check(place(), "an argument is used before it is made"));
            }
            if donated.contains(&v.0) {
                let m = format!("'{}' was updated in place before this use", g.value(*v).name);
                return Err(IrError::check(place(), m));
            }
        }
        let types: Vec<Type> = n.inputs.iter().map(|v| g.ty(*v).clone()).collect();
        let out = (row.infer)(&types, &n.attrs).map_err(|m| IrError::check(place(), m))?;
        if out.len() != n.outputs.len() || out.iter().zip(&n.outputs).any(|(t, v)| t != g.ty(*v)) {
            return Err(IrError::check(place(), "the results have other types than its row infers"));
        }
        for (arg, _) in row.donates {
            donated.insert(n.inputs[*arg].0);
        }
        ready.extend(n.outputs.iter().map(|v| v.0));
    }
    for v in &g.outputs {
        if !ready.contains(&v.0) {
            return Err(IrError::check(&g.name, "a result is never made"));
        }
        if donated.contains(&v.0) {
            return Err(IrError::check(&g.name, "a result was updated in place: return its successor"));
        }
    }
    Ok(())
}
