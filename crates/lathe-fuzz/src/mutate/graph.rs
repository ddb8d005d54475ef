//! Changes of graphs and of the passes that are run on them.

use super::choice::{Choice, Row, row};
use super::{MOVES, Mode, Part, number};
use crate::case::{Case, Move};
use crate::graphs::{numbers, rebuilt, renumber};
use crate::random::Random;
use crate::seeds::TARGETS;
use lathe_ir::encodings::formats;
use lathe_ir::graph::{Graph, Node, OpTable, Source, Type, ValueId};
use lathe_ir::{DType, Name};
use lathe_rewrite::PASSES;

/// Most nodes of a graph.
const NODES: usize = 12;

/// How a case of a graph is changed.
#[derive(Clone, Copy)]
enum How {
    /// What is left is a graph, or it was none that this could be done to.
    Graph(fn(&mut Graph, &OpTable, &mut Random) -> Option<()>),
    Case(fn(&mut Case<Graph>, &mut Random)),
    /// By what another one has.
    Other(fn(&mut Case<Graph>, &Case<Graph>)),
}

/// All kinds of changes.
const CHANGES: [Row<How>; 12] = [
    row("axis", Part::Program, 20, How::Graph(axis)),
    row("encoding", Part::Program, 10, How::Graph(encoding)),
    row("constant", Part::Program, 10, How::Graph(constant)),
    row("append", Part::Program, 10, How::Graph(append)),
    row("operand", Part::Program, 10, How::Graph(operand)),
    row("without", Part::Program, 10, How::Graph(without)),
    row("graph", Part::Program, 5, How::Other(|c, other| c.program = other.program.clone())),
    row("target", Part::Moves, 20, How::Case(target)),
    row("no pass", Part::Moves, 20, How::Case(no_pass)),
    row("pass", Part::Moves, 35, How::Case(one_pass)),
    row("passes", Part::Moves, 5, How::Other(|c, other| c.moves = other.moves.clone())),
    row("values", Part::Arguments, 20, How::Case(|c, random| c.seed = random.bits() % 1000)),
];

/// Changes a case a little; another one may lend its graph or its passes.
pub fn mutate_graph(
    case: &Case<Graph>,
    other: Option<&Case<Graph>>,
    mode: Mode,
    choice: &mut Choice,
    random: &mut Random,
) -> Case<Graph> {
    let (table, mut out) = (lathe_ops::table(), case.clone());
    out.notes.clear();
    for _ in 0..1 + random.below(3) {
        let fits =
            |r: &&Row<How>| mode.may(r.part) && (other.is_some() || !matches!(r.change, How::Other(_)));
        let rows: Vec<&Row<How>> = CHANGES.iter().filter(fits).collect();
        match (choice.pick(&rows, random).change, other) {
            (How::Graph(change), _) => {
                let mut g = out.program.clone();
                let changed = change(&mut g, &table, random).and_then(|()| rebuilt(&g, &table));
                out.program = changed.unwrap_or(out.program);
            }
            (How::Case(change), _) => change(&mut out, random),
            (How::Other(change), Some(other)) => change(&mut out, other),
            (How::Other(_), None) => {}
        }
    }
    for (d, most) in &out.program.dims {
        if !out.sizes.iter().any(|(n, _)| n == d) {
            out.sizes.push((d.clone(), random.range(1, (*most).clamp(1, 9))));
        }
    }
    out.sizes.retain(|(n, _)| out.program.dims.iter().any(|(d, _)| d == n));
    out.moves.truncate(MOVES);
    out
}

/// Numbers that decide at choices, of which few need to be different.
const DICE: usize = 64;

/// Another machine.
fn target(case: &mut Case<Graph>, random: &mut Random) {
    case.targets = random.pick(&TARGETS).map(|t| (*t).to_string()).into_iter().collect();
}

/// One pass less.
fn no_pass(case: &mut Case<Graph>, random: &mut Random) {
    if !case.moves.is_empty() {
        case.moves.remove(random.below(case.moves.len()));
    }
}

/// One more pass, as its rules choose or otherwise.
fn one_pass(case: &mut Case<Graph>, random: &mut Random) {
    let at = random.below(case.moves.len() + 1);
    let dice = if random.below(2) == 0 { String::new() } else { format!(" {}", random.below(DICE)) };
    case.moves.splice(at..at, random.pick(PASSES).map(|p| Move::Step(format!("{}{dice}", p.name))));
}

/// Values that no node makes.
fn given(g: &Graph) -> Vec<usize> {
    (0..g.values.len()).filter(|i| g.values[*i].source != Source::Node).collect()
}

/// Another extent of an axis, wherever it is.
fn axis(g: &mut Graph, _: &OpTable, random: &mut Random) -> Option<()> {
    let (from, to) = (*random.pick(&numbers(g))?, extent(random));
    renumber(g, from, to);
    Some(())
}

/// Another encoding of what is given.
fn encoding(g: &mut Graph, _: &OpTable, random: &mut Random) -> Option<()> {
    let given = given(g);
    let v = &mut g.values[*random.pick(&given)?];
    let names: Vec<&str> = formats().map(|(n, ..)| n).chain(["f16", "bf16"]).collect();
    let floats = v.ty.dtype == DType::F32 && v.ty.shape.len() >= 2;
    let encoded = floats && !random.one_in(3);
    v.ty.encoding = random.pick(&names).filter(|_| encoded).map(|n| Name::from(*n));
    (!encoded || v.ty.storage().is_some()).then_some(())
}

/// A constant in place of an argument, or an argument in place of a constant.
fn constant(g: &mut Graph, _: &OpTable, random: &mut Random) -> Option<()> {
    let given = given(g);
    let v = &mut g.values[*random.pick(&given)?];
    v.source = match &v.source {
        Source::Input => Source::Const(v.name.clone()),
        Source::Const(_) => Source::Input,
        other => other.clone(),
    };
    Some(())
}

/// Another value of the same type, made before or new.
fn operand(g: &mut Graph, _: &OpTable, random: &mut Random) -> Option<()> {
    let at = random.below(g.nodes.len());
    let made: Vec<ValueId> = g.nodes.get(at..)?.iter().flat_map(|n| n.outputs.clone()).collect();
    let p = random.below(g.nodes.get(at)?.inputs.len());
    let old = *g.nodes[at].inputs.get(p)?;
    let like = |i: &u32| g.values[*i as usize].ty == *g.ty(old) && !made.contains(&ValueId(*i));
    let others: Vec<u32> = (0..g.values.len() as u32).filter(like).collect();
    g.nodes[at].inputs[p] = match random.pick(&others) {
        Some(i) if !random.one_in(3) => ValueId(*i),
        _ => g.add_value("", g.ty(old).clone(), Source::Input),
    };
    Some(())
}

/// Leaves out a node.
fn without(g: &mut Graph, _: &OpTable, random: &mut Random) -> Option<()> {
    let at = random.below(g.nodes.len());
    let made = g.nodes.get(at)?.outputs.clone();
    if g.nodes.iter().any(|n| n.inputs.iter().any(|v| made.contains(v))) {
        return None;
    }
    g.outputs.retain(|v| !made.contains(v));
    *g = (!g.outputs.is_empty()).then(|| g.without_dead(0))?;
    Some(())
}

/// Sizes of axes: those that encodings and layouts have as a block, and others.
fn extent(random: &mut Random) -> i64 {
    match random.one_in(2) {
        true => *random.pick(&[16, 32, 48, 64, 256]).expect("there are some"),
        false => number(random),
    }
}

/// One more operator, on values that are there where they have the types of its sample.
fn append(g: &mut Graph, table: &OpTable, random: &mut Random) -> Option<()> {
    if g.nodes.len() >= NODES {
        return None;
    }
    let row = random.pick(table.rows())?;
    let (args, attrs) = (row.sample)(random.bits() % 1000);
    let mut inputs = vec![];
    for t in &args {
        let ty = Type::of(t);
        let like: Vec<u32> = (0..g.values.len() as u32).filter(|i| g.values[*i as usize].ty == ty).collect();
        inputs.push(match random.pick(&like) {
            Some(i) if !random.one_in(4) => ValueId(*i),
            _ => g.add_value("", ty, Source::Input),
        });
    }
    let types: Vec<Type> = inputs.iter().map(|v| g.ty(*v).clone()).collect();
    let made = (row.infer)(&types, &attrs).ok()?;
    let outputs: Vec<ValueId> = made.into_iter().map(|t| g.add_value("", t, Source::Node)).collect();
    g.outputs.extend(&outputs);
    g.nodes.push(Node { op: row.name.into(), inputs, attrs, outputs });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::graph::{check, parse};

    #[test]
    fn changes_leave_graphs() {
        let all =
            crate::seeds::of_graph_file(include_str!("../../../lathe-rewrite/tests/files/pass/pack.txt"));
        let (table, mut graphs, mut moves) = (lathe_ops::table(), 0, 0);
        assert!(all.len() > 5);
        for (i, case) in all.iter().cycle().take(60).enumerate() {
            for (mode, _) in Mode::ALL {
                let make = || {
                    mutate_graph(
                        case,
                        all.get(i % all.len()),
                        mode,
                        &mut Choice::default(),
                        &mut Random::new(i as u64),
                    )
                };
                let new = make();
                assert_eq!(new, make());
                assert!(check(&new.program, &table).is_ok(), "{new}");
                let text = new.program.to_string();
                assert_eq!(parse(&text).map(|g| g.to_string()).ok(), Some(text), "{new}");
                assert!(
                    mode != Mode::Programs
                        || new.moves == case.moves
                        || all.iter().any(|c| c.moves == new.moves)
                );
                assert!(mode != Mode::Passes || new.program == case.program, "{new}");
                graphs += usize::from(new.program != case.program);
                moves += usize::from(new.moves != case.moves);
            }
        }
        assert!(graphs > 30 && moves > 30, "{graphs} {moves}");
    }
}
