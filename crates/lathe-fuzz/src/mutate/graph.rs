//! Changes of graphs and of the passes that are run on them.

use super::{MOVES, Mode, number};
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

/// Changes a case a little; another one may lend its graph or its passes.
pub fn mutate_graph(
    case: &Case<Graph>,
    other: Option<&Case<Graph>>,
    mode: Mode,
    random: &mut Random,
) -> Case<Graph> {
    let (table, mut out) = (lathe_ops::table(), case.clone());
    out.notes.clear();
    for _ in 0..1 + random.below(3) {
        let program = match mode {
            Mode::Joint => random.one_in(2),
            Mode::Programs => true,
            Mode::Passes => false,
        };
        if program {
            let changed = change(&out.program, &table, random);
            out.program = changed.unwrap_or(out.program);
        } else {
            passes(&mut out, random);
        }
    }
    if let Some(other) = other.filter(|_| random.one_in(8)) {
        match mode {
            Mode::Programs => out.program = other.program.clone(),
            _ => out.moves = other.moves.clone(),
        }
    }
    if random.one_in(4) {
        out.seed = random.bits() % 1000;
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

/// Another pass, one less, or another machine.
fn passes(case: &mut Case<Graph>, random: &mut Random) {
    let at = random.below(case.moves.len() + 1);
    match random.below(4) {
        0 => case.targets = random.pick(&TARGETS).map(|t| (*t).to_string()).into_iter().collect(),
        1 if at < case.moves.len() => drop(case.moves.remove(at)),
        _ => {
            let pass = random.pick(PASSES).map(|p| Move::Step(p.name.into()));
            case.moves.splice(at..at, pass);
        }
    }
}

/// A graph with a little changed, if it still is one.
fn change(g: &Graph, table: &OpTable, random: &mut Random) -> Option<Graph> {
    let mut out = g.clone();
    let given: Vec<usize> = (0..g.values.len()).filter(|i| g.values[*i].source != Source::Node).collect();
    match random.below(7) {
        0 | 1 => {
            let (from, to) = (*random.pick(&numbers(g))?, extent(random));
            renumber(&mut out, from, to);
        }
        2 => {
            let v = &mut out.values[*random.pick(&given)?];
            let names: Vec<&str> = formats().map(|(n, ..)| n).chain(["f16", "bf16"]).collect();
            let floats = v.ty.dtype == DType::F32 && v.ty.shape.len() >= 2;
            let encoded = floats && !random.one_in(3);
            v.ty.encoding = random.pick(&names).filter(|_| encoded).map(|n| Name::from(*n));
            if encoded && v.ty.storage().is_none() {
                return None;
            }
        }
        3 => {
            let v = &mut out.values[*random.pick(&given)?];
            v.source = match &v.source {
                Source::Input => Source::Const(v.name.clone()),
                Source::Const(_) => Source::Input,
                other => other.clone(),
            };
        }
        4 if g.nodes.len() < NODES => append(&mut out, table, random)?,
        5 => {
            // Another value of the same type, made before or new.
            let at = random.below(out.nodes.len());
            let made: Vec<ValueId> = g.nodes[at..].iter().flat_map(|n| n.outputs.clone()).collect();
            let p = random.below(out.nodes.get(at)?.inputs.len());
            let old = *out.nodes[at].inputs.get(p)?;
            let like = |i: &u32| g.values[*i as usize].ty == *g.ty(old) && !made.contains(&ValueId(*i));
            let others: Vec<u32> = (0..g.values.len() as u32).filter(like).collect();
            out.nodes[at].inputs[p] = match random.pick(&others) {
                Some(i) if !random.one_in(3) => ValueId(*i),
                _ => out.add_value("", g.ty(old).clone(), Source::Input),
            };
        }
        _ => {
            // Without what one node makes.
            let at = random.below(out.nodes.len());
            let made = out.nodes.get(at)?.outputs.clone();
            if out.nodes.iter().any(|n| n.inputs.iter().any(|v| made.contains(v))) {
                return None;
            }
            out.outputs.retain(|v| !made.contains(v));
            out = (!out.outputs.is_empty()).then(|| out.without_dead(0))?;
        }
    }
    rebuilt(&out, table)
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
                let make = || mutate_graph(case, all.get(i % all.len()), mode, &mut Random::new(i as u64));
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
