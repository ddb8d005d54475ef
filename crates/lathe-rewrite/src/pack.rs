//! `pack`: constant weights of products get the layout that vectors read best: a `pack` node behind each. Nodes whose
//! arguments are all constants run once, when the model is loaded.

use crate::Pass;
use lathe_ir::encodings::packed;
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type, ValueId};
use lathe_ir::{DType, IrError, Name};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag, multiplies_signed, word_product};
use std::collections::{HashMap, HashSet};

pub(crate) const PACK: Pass = Pass {
    name: "pack",
    doc: "constant weights of products lie 16 rows side by side",
    tag: Tag::Bitwise,
    run,
};

/// Operators that read a packed operand as well as a plain one, and which operand.
const READERS: &[(&str, usize)] = &[("matmul", 1), ("expert_matmul", 1), ("take", 0)];

fn run(g: &Graph, _: &OpTable, target: &Target, _: &mut Choices) -> Result<Graph, IrError> {
    // A constant is packed when all its uses can read it so, and one is a product.
    let signed = multiplies_signed(target);
    let constant = constants(g);
    let mut plan: HashMap<u32, Name> = HashMap::new();
    for (i, v) in g.values.iter().enumerate() {
        if !constant.contains(&(i as u32)) {
            continue;
        }
        let stored = v.ty.encoding.clone().unwrap_or_else(|| v.ty.dtype.to_string().into());
        let rows = v.ty.shape.len().checked_sub(2).and_then(|r| v.ty.shape[r].as_const());
        let uses: Vec<(&Node, usize)> = g
            .nodes
            .iter()
            .flat_map(|n| {
                n.inputs.iter().enumerate().filter(|(_, x)| x.0 as usize == i).map(move |(p, _)| (n, p))
            })
            .collect();
        let readable = uses.iter().all(|(n, p)| READERS.contains(&(&*n.op, *p)));
        let product = uses.iter().any(|(n, _)| &*n.op != "take");
        let of_halves =
            |n: &Node| g.ty(n.inputs[0]).dtype == DType::BF16 && g.ty(n.inputs[0]).encoding.is_none();
        let name = match uses.iter().any(|(n, _)| of_halves(n)) {
            false => packed(&stored, signed),
            true => pairs(g, &stored, &uses, target),
        };
        if let Some(name) = name
            && readable
            && product
            && rows.is_some_and(|r| r % 16 == 0)
            && Type::encoded(&name, &v.ty.shape).storage().is_some()
        {
            plan.insert(i as u32, name);
        }
    }
    let mut out = Graph { nodes: vec![], ..g.clone() };
    let mut done = HashMap::new();
    let pack = |out: &mut Graph, done: &mut HashMap<ValueId, ValueId>, from: ValueId| {
        let Some(to) = plan.get(&from.0) else { return };
        let name = format!("{}.packed", g.value(from).name);
        let v = out.add_value(&name, Type::encoded(to, &g.ty(from).shape), Source::Node);
        let attrs = [("to".into(), Attr::Str(to.clone()))].into();
        out.nodes.push(Node { op: "pack".into(), inputs: vec![from], attrs, outputs: vec![v] });
        done.insert(from, v);
    };
    for (i, v) in g.values.iter().enumerate() {
        if v.source != Source::Node {
            pack(&mut out, &mut done, ValueId(i as u32));
        }
    }
    for n in &g.nodes {
        let inputs = n.inputs.iter().map(|v| done.get(v).copied().unwrap_or(*v)).collect();
        out.nodes.push(Node { inputs, ..n.clone() });
        for v in &n.outputs {
            pack(&mut out, &mut done, *v);
        }
    }
    Ok(out)
}

/// The layout for products of halves with an instruction, whose rows are many.
fn pairs(g: &Graph, stored: &str, uses: &[(&Node, usize)], target: &Target) -> Option<Name> {
    let many = |n: &Node| {
        let x = g.ty(n.inputs[0]);
        let rows = x.shape.first().and_then(lathe_ir::Int::as_const);
        &*n.op == "matmul" && x.dtype == DType::BF16 && rows.is_some_and(|n| n >= MANY)
    };
    let all = stored == "bf16" && uses.iter().all(|(n, _)| many(n));
    (all && word_product(target, [DType::BF16; 2]).is_some()).then(|| "bf16.tile16p".into())
}

/// Rows of activations for which instructions that take pairs have tiles.
const MANY: i64 = 16;

/// The constants of a graph, and what is an exchange of their axes.
fn constants(g: &Graph) -> HashSet<u32> {
    let is_const = |(_, v): &(usize, &lathe_ir::graph::Value)| matches!(v.source, Source::Const(_));
    let mut all: HashSet<u32> = g.values.iter().enumerate().filter(is_const).map(|(i, _)| i as u32).collect();
    for n in &g.nodes {
        if &*n.op == "permute" && n.inputs.iter().all(|v| all.contains(&v.0)) {
            all.extend(n.outputs.iter().map(|v| v.0));
        }
    }
    all
}
