//! The naive kernel of a group of operators: parameters for what comes from outside, temporaries for what stays
//! inside, and the operators' loops one after the other.

use lathe_ir::graph::{Form, Graph, Lowering, OpTable, Operand, ValueId};
use lathe_ir::tensor::{Access, Buffer, Kernel, Param, Stmt, WORKSPACE};
use lathe_ir::{Bounds, Int, Name};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// A kernel and the graph values of its parameters.
#[derive(Clone, Debug)]
pub struct GroupKernel {
    /// The naive program.
    pub kernel: Kernel,
    /// The value each parameter stands for; a donated result shares its argument's parameter.
    pub args: Vec<ValueId>,
    /// Form and name prefix of each operator, in order.
    pub parts: Vec<(Form, String)>,
}

/// The shape of a group: which values become parameters, and a text that is equal for groups with equal kernels.
#[derive(Clone, Debug)]
pub struct GroupShape {
    /// Operators, attributes, types and wiring; groups with the same key have the same naive kernel.
    pub key: String,
    /// The value each parameter stands for.
    pub args: Vec<ValueId>,
    /// How each parameter is used.
    pub access: Vec<Access>,
    /// Names of each node's arguments and results.
    names: Vec<(Vec<Name>, Vec<Name>)>,
}

/// Finds the shape of a group of nodes (indices into the graph, in order). `outside` are the values that must be stored
/// to parameters; other results stay inside.
pub fn group_shape(
    g: &Graph,
    table: &OpTable,
    nodes: &[usize],
    outside: &dyn Fn(ValueId) -> bool,
) -> GroupShape {
    let mut s = GroupShape { key: String::new(), args: vec![], access: vec![], names: vec![] };
    let mut known: HashMap<ValueId, Name> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        let node = &g.nodes[*node];
        let row = table.get(&node.op).expect("checked graph");
        let _ = write!(s.key, "{}{:?}(", node.op, node.attrs);
        let param = |s: &mut GroupShape, v: ValueId, access: Access| -> Name {
            let _ = write!(s.key, "{access:?} {} ", g.ty(v));
            s.args.push(v);
            s.access.push(access);
            format!("p{}", s.args.len() - 1).into()
        };
        let mut ins = vec![];
        for v in &node.inputs {
            let name = match known.get(v) {
                Some(n) => n.clone(),
                None => {
                    let donated = row.donates.iter().any(|(a, _)| node.inputs[*a] == *v);
                    let n = param(&mut s, *v, if donated { Access::InOut } else { Access::In });
                    known.insert(*v, n.clone());
                    n
                }
            };
            let _ = write!(s.key, "{name},");
            ins.push(name);
        }
        let mut outs = vec![];
        for (j, v) in node.outputs.iter().enumerate() {
            let name: Name = if let Some((a, _)) = row.donates.iter().find(|(_, r)| *r == j) {
                let n = ins[*a].clone();
                let at = s.args.iter().enumerate().position(|(k, _)| *n == *format!("p{k}"));
                if let Some(at) = at {
                    s.access[at] = Access::InOut;
                }
                n
            } else if outside(*v) {
                param(&mut s, *v, Access::Out)
            } else {
                let _ = write!(s.key, "{} ", g.ty(*v));
                format!("t{i}_{j}").into()
            };
            let _ = write!(s.key, "->{name};");
            known.insert(*v, name.clone());
            outs.push(name);
        }
        s.names.push((ins, outs));
    }
    s
}

/// Lowers a group to one naive kernel. Dimensions in `fixed` are replaced by their values.
pub fn lower_group(
    g: &Graph,
    table: &OpTable,
    nodes: &[usize],
    outside: &dyn Fn(ValueId) -> bool,
    fixed: &HashMap<Name, i64>,
) -> GroupKernel {
    let shape = group_shape(g, table, nodes, outside);
    let fix = |d: &Int| d.substitute(&|n| fixed.get(n).map(|v| Int::from(*v)), &Bounds::new());
    let operand = |name: &Name, v: ValueId| {
        let mut ty = g.ty(v).clone();
        ty.shape = ty.shape.iter().map(fix).collect();
        Operand { name: name.clone(), ty }
    };
    let mut params: Vec<Param> = shape
        .args
        .iter()
        .zip(&shape.access)
        .enumerate()
        .map(|(i, (v, access))| {
            let o = operand(&format!("p{i}").into(), *v);
            Param { name: o.name.clone(), access: *access, views: o.views(), bits: o.ty.bits() }
        })
        .collect();
    let (mut temps, mut body, mut parts, mut axes) = (vec![], vec![], vec![], vec![]);
    for (i, (node, (ins, outs))) in nodes.iter().zip(&shape.names).enumerate() {
        let node = &g.nodes[*node];
        let row = table.get(&node.op).expect("checked graph");
        let l = Lowering {
            ins: ins.iter().zip(&node.inputs).map(|(n, v)| operand(n, *v)).collect(),
            outs: outs.iter().zip(&node.outputs).map(|(n, v)| operand(n, *v)).collect(),
            attrs: node.attrs.clone(),
            prefix: format!("n{i}"),
        };
        let edge = (row.edge)(&l);
        axes.extend(edge.axes);
        let facts_of = |name: &Name| {
            let at = l.ins.iter().chain(&l.outs).position(|o| o.name == *name);
            edge.facts.iter().filter(move |(i, _)| Some(*i) == at).map(|(_, f)| f.clone())
        };
        for p in &mut params {
            for f in facts_of(&p.name) {
                p.views.iter_mut().filter(|v| !v.facts.contains(&f)).for_each(|v| v.facts.push(f.clone()));
            }
        }
        for o in l.outs.iter().filter(|o| o.name.starts_with('t')) {
            temps.extend(o.views().into_iter().map(|b| {
                let facts = facts_of(&o.name).collect();
                Stmt::Alloc(Arc::new(Buffer {
                    facts,
                    ..Buffer::dense(&b.name, b.dtype, &b.shape, WORKSPACE)
                }))
            }));
        }
        let types: Vec<_> = node.inputs.iter().map(|v| g.ty(*v).clone()).collect();
        parts.push(((row.form)(&types, &node.attrs), l.prefix.clone()));
        body.extend((row.lower)(&l));
    }
    // A lowering may look at an operand through a view of its own: an allocation "in" the operand.
    let mut own_views: HashMap<Name, Vec<Buffer>> = HashMap::new();
    body.retain(|s| match s {
        Stmt::Alloc(b) if params.iter().any(|p| p.name == b.memory) => {
            let view = Buffer { memory: lathe_ir::tensor::HOST.into(), ..(**b).clone() };
            own_views.entry(b.memory.clone()).or_default().push(view);
            false
        }
        _ => true,
    });
    for p in &mut params {
        if let Some(v) = own_views.remove(&p.name) {
            p.views = v;
        }
    }
    temps.extend(body);
    let dims = g.dims.iter().map(|(n, _)| n.clone()).filter(|n| !fixed.contains_key(n)).collect();
    let kernel = Kernel { name: "k".into(), dims, axes, params, body: temps };
    GroupKernel { kernel, args: shape.args, parts }
}
