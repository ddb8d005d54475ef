//! The naive kernel of a group of operators: parameters for what comes from outside, temporaries for what stays
//! inside, and the operators' loops one after the other.

use lathe_ir::graph::{Form, Graph, Lowering, OpTable, Operand, ValueId};
use lathe_ir::tensor::{Access, Buffer, Kernel, Param, Stmt, WORKSPACE};
use lathe_ir::{Bounds, Int, Name};
use std::collections::HashMap;
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

/// Lowers nodes (indices into the graph, in order) to one naive kernel. `outside` are the values that must be stored
/// to parameters; other results stay inside. Dimensions in `fixed` are replaced by their values.
pub fn lower_group(
    g: &Graph,
    table: &OpTable,
    nodes: &[usize],
    outside: &dyn Fn(ValueId) -> bool,
    fixed: &HashMap<Name, i64>,
) -> GroupKernel {
    let mut names: HashMap<ValueId, Operand> = HashMap::new();
    let mut params: Vec<(Param, ValueId)> = vec![];
    let (mut temps, mut body, mut parts) = (vec![], vec![], vec![]);
    let fix = |d: &Int| d.substitute(&|n| fixed.get(n).map(|v| Int::from(*v)), &Bounds::new());
    let ty_of = |v: ValueId| {
        let mut t = g.ty(v).clone();
        t.shape = t.shape.iter().map(fix).collect();
        t
    };
    let param = |o: &Operand, access| Param { name: o.name.clone(), access, views: o.views(), bits: o.ty.bits() };
    for (i, node) in nodes.iter().enumerate() {
        let node = &g.nodes[*node];
        let row = table.get(&node.op).expect("checked graph");
        for v in &node.inputs {
            if !names.contains_key(v) {
                let o = Operand { name: format!("p{}", params.len()).into(), ty: ty_of(*v) };
                let donated = row.donates.iter().any(|(a, _)| node.inputs[*a] == *v);
                let access = if donated { Access::InOut } else { Access::In };
                params.push((param(&o, access), *v));
                names.insert(*v, o);
            }
        }
        for (j, v) in node.outputs.iter().enumerate() {
            if let Some((a, _)) = row.donates.iter().find(|(_, r)| *r == j) {
                let o = names[&node.inputs[*a]].clone();
                if let Some((p, _)) = params.iter_mut().find(|(p, _)| p.name == o.name) {
                    p.access = Access::InOut;
                }
                names.insert(*v, o);
                continue;
            }
            if outside(*v) {
                let o = Operand { name: format!("p{}", params.len()).into(), ty: ty_of(*v) };
                params.push((param(&o, Access::Out), *v));
                names.insert(*v, o);
            } else {
                let o = Operand { name: format!("t{i}_{j}").into(), ty: ty_of(*v) };
                temps.extend(o.views().into_iter().map(|b| {
                    Stmt::Alloc(Arc::new(Buffer::dense(&b.name, b.dtype, &b.shape, WORKSPACE)))
                }));
                names.insert(*v, o);
            }
        }
        let l = Lowering {
            ins: node.inputs.iter().map(|v| names[v].clone()).collect(),
            outs: node.outputs.iter().map(|v| names[v].clone()).collect(),
            attrs: node.attrs.clone(),
            prefix: format!("n{i}"),
        };
        parts.push((row.form, l.prefix.clone()));
        body.extend((row.lower)(&l));
    }
    // A lowering may look at an operand through a view of its own: an allocation "in" the operand.
    let mut own_views: HashMap<Name, Vec<Buffer>> = HashMap::new();
    body.retain(|s| match s {
        Stmt::Alloc(b) if params.iter().any(|(p, _)| p.name == b.memory) => {
            let view = Buffer { memory: lathe_ir::tensor::HOST.into(), ..(**b).clone() };
            own_views.entry(b.memory.clone()).or_default().push(view);
            false
        }
        _ => true,
    });
    for (p, _) in &mut params {
        if let Some(v) = own_views.remove(&p.name) {
            p.views = v;
        }
    }
    temps.extend(body);
    let dims = g.dims.iter().map(|(n, _)| n.clone()).filter(|n| !fixed.contains_key(n)).collect();
    let (params, args) = params.into_iter().unzip();
    let kernel = Kernel { name: "k".into(), dims, axes: vec![], params, body: temps };
    GroupKernel { kernel, args, parts }
}
