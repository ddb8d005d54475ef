//! `halves`: attention over keys and values of bf16 takes its other factors as bf16 too, where the processor has an instruction that
//! multiplies words of two. Approximates: queries and exponentials, each rounded to the nearest, change by at most 2^-8 of
//! themselves; sums stay f32.

use crate::Pass;
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type};
use lathe_ir::{DType, IrError};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag, word_product};

pub(crate) const HALVES: Pass = Pass {
    name: "halves",
    doc: "queries of attention over keys and values of bf16 become bf16; approximates",
    tag: Tag::Approximates,
    run,
};

fn run(g: &Graph, _: &OpTable, target: &Target, _: &mut Choices) -> Result<Graph, IrError> {
    if word_product(target, [DType::BF16; 2]).is_none() {
        return Ok(g.clone());
    }
    let mut out = Graph { nodes: vec![], ..g.clone() };
    for n in &g.nodes {
        let mut n = n.clone();
        let words = |v: usize| {
            n.inputs
                .get(v)
                .and_then(|v| g.ty(*v).storage())
                .is_some_and(|e| e.fields.iter().all(|f| f.dtype == DType::BF16))
        };
        if &*n.op == "attention" && g.ty(n.inputs[0]).dtype == DType::F32 && words(1) && words(2) {
            let v = out.add_value("", Type::dense(DType::BF16, &g.ty(n.inputs[0]).shape), Source::Node);
            let attrs = [("to".into(), Attr::Str("bf16".into()))].into();
            out.nodes.push(Node { op: "cast".into(), inputs: vec![n.inputs[0]], attrs, outputs: vec![v] });
            n.inputs[0] = v;
        }
        out.nodes.push(n);
    }
    Ok(out)
}
