//! `quantize`: products with integer-coded weights take their activations as 8-bit codes too. Approximates: an
//! activation changes by at most 1/254 of the largest of those that meet the same block of weights (32, 256, or a row).

use crate::Pass;
use lathe_ir::IrError;
use lathe_ir::encodings::Activations;
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type};
use lathe_machine::Target;
use lathe_schedule::Tag;
use std::collections::HashMap;

pub(crate) const QUANTIZE: Pass = Pass {
    name: "quantize",
    doc: "activations of products with integer-coded weights become 8-bit codes",
    tag: Tag::Approximates,
    run,
};

fn run(g: &Graph, table: &OpTable, _: &Target) -> Result<Graph, IrError> {
    let mut out = Graph { nodes: vec![], ..g.clone() };
    let mut coded = HashMap::new();
    for n in &g.nodes {
        let mut n = n.clone();
        let wants = matches!(&*n.op, "matmul" | "expert_matmul")
            && g.ty(n.inputs[0]).encoding.is_none()
            && g.ty(n.inputs[0]).shape[1].as_const().is_some();
        let weights = wants.then(|| g.ty(n.inputs[1]).storage()).flatten();
        let x = n.inputs[0];
        let columns = g.ty(n.inputs[0]).shape.last().and_then(lathe_ir::Int::as_const).unwrap_or(0);
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
