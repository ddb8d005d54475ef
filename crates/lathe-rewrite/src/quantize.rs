//! `quantize`: products with integer-coded weights take their activations as 8-bit codes too. Approximates: an
//! activation changes by at most 1/254 of the largest of its 32 neighbours.

use crate::Pass;
use lathe_ir::encodings::GROUP;
use lathe_ir::graph::{Graph, Node, OpTable, Source, Type};
use lathe_ir::{Decode, IrError};
use std::collections::HashMap;

pub(crate) const QUANTIZE: Pass = Pass {
    name: "quantize",
    doc: "activations of products with integer-coded weights become 8-bit codes; approximates",
    run,
};

fn run(g: &Graph, table: &OpTable) -> Result<Graph, IrError> {
    let mut out = Graph { nodes: vec![], ..g.clone() };
    let mut coded = HashMap::new();
    for n in &g.nodes {
        let mut n = n.clone();
        let wants = &*n.op == "matmul"
            && g.ty(n.inputs[0]).encoding.is_none()
            && g.ty(n.inputs[0]).shape[1].as_const().is_some_and(|k| k % GROUP == 0)
            && g.ty(n.inputs[1]).storage().is_some_and(|e| e.decode != Decode::Plain);
        if wants {
            let x = n.inputs[0];
            let code = *coded.entry(x).or_insert_with(|| {
                let v = out.add_value("", Type::encoded("a8", &g.ty(x).shape), Source::Node);
                out.nodes.push(Node {
                    op: "encode".into(),
                    inputs: vec![x],
                    attrs: Default::default(),
                    outputs: vec![v],
                });
                v
            });
            n.inputs[0] = code;
        }
        out.nodes.push(n);
    }
    debug_assert!(table.get("encode").is_some());
    Ok(out)
}
