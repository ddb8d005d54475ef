//! `parts`: attention of one token over paged keys and values becomes attention of several parts of its keys, and what puts these
//! together (`attention_part`, `attention_join`; flash decoding: Dao et al. 2023). One token has no more to share out than its few
//! groups of heads, and a group's keys lie in pieces of each page; parts are as many as cores like, and each is read in the order of
//! memory.
//!
//! All classes of sizes are planned from one graph, and whether there is one token is a class's own: so this is no pass of the graph but
//! the first thing that [`crate::plan()`] does with the dimensions that it knows.

use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, int_attr};
use lathe_ir::{Bounds, Int, Name};
use std::collections::HashMap;

/// Most parts of a token's keys: more cores have nothing to do. Each part writes results that are put together, also where it has no keys, so
/// fewer cores get fewer.
const PARTS: usize = 8;

/// Keys that are not worth sharing out.
const FEW: i64 = 128;

/// The graph with the attention of one token in parts, where dimensions are fixed so: one for each core, if their number is known. Values keep
/// their numbers.
pub fn in_parts(g: &Graph, table: &OpTable, fixed: &HashMap<Name, i64>, cores: Option<usize>) -> Graph {
    let each = cores.map_or(PARTS, |n| n.clamp(2, PARTS));
    let known = |d: &Int| d.substitute(&|n| fixed.get(n).map(|v| Int::from(*v)), &Bounds::new()).as_const();
    let mut out = Graph { nodes: vec![], ..g.clone() };
    for n in &g.nodes {
        let extent = |v: usize, d: usize| n.inputs.get(v).and_then(|v| known(g.ty(*v).shape.get(d)?));
        let one = &*n.op == "attention" && extent(0, 0) == Some(1) && int_attr(&n.attrs, "window").is_none();
        let few = extent(3, 1).is_some_and(|pages| pages * 16 <= FEW);
        let row = table.get("attention_part").filter(|_| one && !few);
        let mut attrs = n.attrs.clone();
        attrs.insert("parts".into(), Attr::Int(each as i64));
        let types: Vec<_> = n.inputs.iter().map(|v| g.ty(*v).clone()).collect();
        let Some(made) = row.and_then(|r| (r.infer)(&types, &attrs).ok()) else {
            out.nodes.push(n.clone());
            continue;
        };
        let parts: Vec<_> = made.into_iter().map(|t| out.add_value("", t, Source::Node)).collect();
        let heads = attrs.iter().filter(|(n, _)| matches!(&***n, "heads" | "parts"));
        let join = Node {
            op: "attention_join".into(),
            inputs: parts.clone(),
            attrs: heads.map(|(n, a)| (n.clone(), a.clone())).collect(),
            outputs: n.outputs.clone(),
        };
        out.nodes.push(Node { op: "attention_part".into(), attrs, outputs: parts, ..n.clone() });
        out.nodes.push(join);
    }
    out
}
