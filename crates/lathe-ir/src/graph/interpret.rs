//! The interpreter of graphs: each operator's reference, in order.

use super::{Graph, Item, Module, OpTable, Source, Type, run_module};
use crate::{DType, Int, IrError, Name, Tensor};
use std::collections::HashMap;

/// Runs a graph on named values (inputs, state and constants) with its dimensions bound; returns the results.
pub fn interpret(
    g: &Graph,
    table: &OpTable,
    dims: &HashMap<Name, i64>,
    named: &HashMap<Name, Tensor>,
) -> Result<Vec<Tensor>, IrError> {
    run(g, table, &|t| concrete(t, dims), named)
}

/// The same with f64 in the place of every dense f32, passed values included: differences then tell gradients.
pub fn interpret_wide(
    g: &Graph,
    table: &OpTable,
    dims: &HashMap<Name, i64>,
    named: &HashMap<Name, Tensor>,
) -> Result<Vec<Tensor>, IrError> {
    let wide = |t: &Type| match concrete(t, dims)? {
        Type { dtype: DType::F32, encoding: None, shape } => Some(Type::dense(DType::F64, &shape)),
        t => Some(t),
    };
    run(g, table, &wide, named)
}

fn run(
    g: &Graph,
    table: &OpTable,
    concrete: &dyn Fn(&Type) -> Option<Type>,
    named: &HashMap<Name, Tensor>,
) -> Result<Vec<Tensor>, IrError> {
    let mut env: HashMap<u32, Tensor> = HashMap::new();
    for (i, v) in g.values.iter().enumerate() {
        let key = match &v.source {
            Source::Node => continue,
            Source::Const(n) => n,
            Source::Input | Source::State => &v.name,
        };
        let place = format!("{}/{}", g.name, v.name);
        let t = named.get(key).ok_or_else(|| IrError::run(&place, "no value was passed"))?;
        let want = concrete(&v.ty).ok_or_else(|| IrError::run(&place, "an unbound dimension"))?;
        let got: Vec<Int> = t.shape.iter().map(|d| Int::from(*d as i64)).collect();
        if want.shape != got || want.dtype != t.dtype {
            return Err(IrError::run(place, format!("has shape {:?}, not {:?}", t.shape, want.shape)));
        }
        env.insert(i as u32, t.clone());
    }
    for n in &g.nodes {
        let row = table.get(&n.op).ok_or_else(|| IrError::run(&*n.op, "there is no such operator"))?;
        let missing = || IrError::run(&*n.op, "an argument or dimension is missing");
        let args: Vec<Tensor> =
            n.inputs.iter().map(|v| env.get(&v.0).cloned()).collect::<Option<_>>().ok_or_else(missing)?;
        let types: Vec<Type> =
            n.outputs.iter().map(|v| concrete(g.ty(*v))).collect::<Option<_>>().ok_or_else(missing)?;
        for (v, t) in n.outputs.iter().zip((row.reference)(&args, &n.attrs, &types)) {
            env.insert(v.0, t);
        }
    }
    g.outputs
        .iter()
        .map(|v| env.get(&v.0).cloned().ok_or_else(|| IrError::run(&*g.name, "a result is never made")))
        .collect()
}

/// Runs a function of a module, its regions by [`interpret`]. Regions' dimensions must be fixed; `constants` are by name.
pub fn interpret_module(
    m: &Module,
    table: &OpTable,
    constants: &HashMap<Name, Tensor>,
    function: &str,
    args: &[Item],
) -> Result<Vec<Item>, IrError> {
    run_module(m, function, args, &mut |g, inputs| {
        let mut named = constants.clone();
        named.extend(inputs.iter().map(|(n, t)| ((*n).into(), (*t).clone())));
        interpret(g, table, &HashMap::new(), &named)
    })
}

fn concrete(t: &Type, dims: &HashMap<Name, i64>) -> Option<Type> {
    let get = |n: &str| dims.get(n).copied();
    let shape = t.shape.iter().map(|d| d.eval(&get).map(Int::from)).collect::<Option<_>>()?;
    Some(Type { shape, dtype: if t.encoding.is_some() { DType::F32 } else { t.dtype }, ..t.clone() })
}
