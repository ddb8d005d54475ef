//! `quantize`: products of f32 activations with integer-coded weights take the activations as 8-bit codes too. Approximates: activations that
//! meet the same block of weights (32, 64, 256, or a row) change by at most 1/254 of the largest of them, as the root of the mean
//! square: each code is the nearest, and the block's scale is the best for all of its codes.

use crate::Pass;
use lathe_ir::encodings::Activations;
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type};
use lathe_ir::{DType, IrError};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag};
use std::collections::HashMap;

pub(crate) const QUANTIZE: Pass = Pass {
    name: "quantize",
    doc: "activations of products with integer-coded weights become 8-bit codes; approximates",
    tag: Tag::Approximates,
    run,
};

fn run(g: &Graph, table: &OpTable, _: &Target, _: &mut Choices) -> Result<Graph, IrError> {
    let mut out = Graph { nodes: vec![], ..g.clone() };
    let mut coded = HashMap::new();
    for n in &g.nodes {
        let mut n = n.clone();
        let product = matches!(&*n.op, "matmul" | "expert_matmul");
        let Some(x) = n.inputs.first().copied().filter(|_| product) else {
            out.nodes.push(n);
            continue;
        };
        let shape = &g.ty(x).shape;
        let dense = g.ty(x).encoding.is_none() && g.ty(x).dtype == DType::F32;
        let wants = dense && shape[1].as_const().is_some();
        let weights = wants.then(|| g.ty(n.inputs[1]).storage()).flatten();
        let columns = shape.last().and_then(lathe_ir::Int::as_const).unwrap_or(0);
        let to = weights.and_then(|e| Activations::of(&e, columns)).map(|a| a.name());
        if let Some(to) = to.filter(|to| Type::encoded(to, &g.ty(x).shape).storage().is_some()) {
            let code = *coded.entry((x, to.clone())).or_insert_with(|| {
                let v = out.add_value("", Type::encoded(&to, &g.ty(x).shape), Source::Node);
                let attrs = [("to".into(), Attr::Str(to))].into();
                out.nodes.push(Node { op: "encode".into(), inputs: vec![x], attrs, outputs: vec![v] });
                v
            });
            n.inputs[0] = code;
        }
        out.nodes.push(n);
    }
    debug_assert!(table.get("encode").is_some());
    Ok(out)
}
