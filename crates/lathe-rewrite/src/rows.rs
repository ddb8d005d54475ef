//! `rows`: where rows are taken of what is computed row by row, they are taken of its arguments, so that only they are computed. In a
//! language model's last layer nothing behind the attention is wanted of tokens whose logits are not.
//!
//! Results are the same, bit by bit: each row of such a result comes from the same row of the arguments.

use crate::Pass;
use lathe_ir::graph::{Form, Graph, Node, OpTable, Source, Type, ValueId};
use lathe_ir::{DType, Int, IrError, Name};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag};
use std::collections::HashMap;

pub(crate) const ROWS: Pass = Pass {
    name: "rows",
    doc: "rows that are taken of a result are taken of what it is computed from, row by row",
    tag: Tag::Bitwise,
    run,
};

/// Operators whose rows depend on where they are, too.
const PLACED: [&str; 3] = ["causal", "dropout", "uniform"];

fn run(g: &Graph, table: &OpTable, _: &Target, _: &mut Choices) -> Result<Graph, IrError> {
    let mut out = g.clone();
    // What takes rows of rows that were taken goes on where these did.
    loop {
        let from_outside = |v: ValueId| !matches!(out.value(v).source, Source::Node);
        let takes = |n: &Node| &*n.op == "take" && from_outside(n.inputs[1]);
        let all: Vec<usize> = (0..out.nodes.len()).filter(|i| takes(&out.nodes[*i])).collect();
        let Some(next) = all.into_iter().find_map(|at| taken_early(&out, table, at)) else { return Ok(out) };
        out = next;
    }
}

/// The number of rows, where it is one that is known only when the graph runs.
fn count(t: &Type) -> Option<&Int> {
    t.shape.first().filter(|n| n.as_const().is_none())
}

/// Whether an argument has the rows of a result, the first of its two dimensions.
fn has_rows(t: &Type, rows: &Int) -> bool {
    t.shape.len() == 2 && t.shape[0] == *rows
}

/// Whether each row of a node's one result comes from the same row of those arguments that have as many, and all else is the same for
/// all rows.
fn by_rows(g: &Graph, table: &OpTable, n: &Node) -> bool {
    let types: Vec<Type> = n.inputs.iter().map(|v| g.ty(*v).clone()).collect();
    let (Some(row), [y]) = (table.get(&n.op), n.outputs.as_slice()) else { return false };
    let Some(rows) = count(g.ty(*y)) else { return false };
    let form = (row.form)(&types, &n.attrs);
    let kind = matches!(form, Form::Row | Form::Elementwise) && !PLACED.contains(&row.name);
    let kind = kind || row.name == "matmul";
    let plain = |t: &Type| t.dtype == DType::F32 && t.encoding.is_none();
    let mut names: Vec<Name> = vec![];
    rows.visit_vars(&mut |v| names.push(v.into()));
    let free = |d: &Int| {
        let mut ok = true;
        d.visit_vars(&mut |v| ok &= !names.iter().any(|n| **n == *v));
        ok
    };
    let fits = |t: &Type| match has_rows(t, rows) {
        true => plain(t) && free(&t.shape[1]),
        false => t.shape.iter().all(free),
    };
    kind && row.donates.is_empty() && has_rows(g.ty(*y), rows) && plain(g.ty(*y)) && types.iter().all(fits)
}

/// The graph with the rows of one `take` taken as early as may be, where that is earlier.
fn taken_early(g: &Graph, table: &OpTable, at: usize) -> Option<Graph> {
    let [x, rows] = g.nodes[at].inputs[..] else { return None };
    let (result, wanted) = (g.nodes[at].outputs[0], g.ty(rows).shape[0].clone());
    // The nodes of which no other rows are wanted: those who read them are such nodes too.
    let mut only: Vec<bool> = vec![false; g.nodes.len()];
    for i in (0..at).rev() {
        let [y] = g.nodes[i].outputs[..] else { continue };
        let mut readers = (0..g.nodes.len()).filter(|j| g.nodes[*j].inputs.contains(&y)).peekable();
        let read = readers.peek().is_some() && !g.outputs.contains(&y);
        only[i] = read && readers.all(|j| only[j] || (j == at && y == x)) && by_rows(g, table, &g.nodes[i]);
    }
    if !only.contains(&true) {
        return None;
    }
    let mut out = Graph { nodes: vec![], ..g.clone() };
    // What is computed of few rows, and arguments with few rows. What was taken is what is computed last.
    let (mut few, mut early) = (HashMap::from([(x, result)]), HashMap::new());
    for (i, n) in g.nodes.iter().enumerate().filter(|(i, _)| *i != at) {
        let mut n = n.clone();
        if only[i] {
            let all = count(g.ty(n.outputs[0])).expect("rows").clone();
            let fewer = |v: ValueId| {
                let mut ty = g.ty(v).clone();
                ty.shape[0] = wanted.clone();
                ty
            };
            for v in &mut n.inputs {
                *v = match few.get(v) {
                    Some(made) => *made,
                    None if !has_rows(g.ty(*v), &all) => *v,
                    None => *early.entry(*v).or_insert_with(|| {
                        let (y, attrs) = (out.add_value("", fewer(*v), Source::Node), Default::default());
                        out.nodes.push(Node {
                            op: "take".into(),
                            inputs: vec![*v, rows],
                            attrs,
                            outputs: vec![y],
                        });
                        y
                    }),
                };
            }
            let y = n.outputs[0];
            n.outputs[0] = *few.entry(y).or_insert_with(|| out.add_value("", fewer(y), Source::Node));
        }
        out.nodes.push(n);
    }
    Some(out.without_dead(0))
}
