//! Where fuzzing starts: the schedules of the file tests, the operators' samples with schedules by rule, and pieces of whole models'
//! graphs, which lie small in `fuzz/seeds` (`examples/cut.rs` makes them).

use crate::case::{AnyCase, Case, Move};
use crate::graphs::{numbers, rebuilt, renumber, tidy};
use crate::random::Random;
use lathe_ir::graph::{self, Graph, OpRow, OpTable, Source, ValueId};
use lathe_ir::tensor::{check, parse};
use lathe_machine::Target;
use lathe_ops::GroupKernel;
use lathe_schedule::{Decisions, Schedule, schedule};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Samples of each operator to start from, as graphs.
const SAMPLES: u64 = 2;

/// Samples of each operator that are scheduled to start from: types that machines have instructions for are not among the first.
const SCHEDULED: u64 = 16;

/// Largest text of a program by rule.
const TEXT: usize = 3_000;

/// The cases of the text of a file test.
pub fn of_file(text: &str) -> Vec<Case> {
    let mut out = vec![];
    for case in format!("\n{text}").split("\n# test: ").skip(1) {
        let (header, body) = case.split_once('\n').unwrap_or((case, ""));
        let parts: Vec<&str> = body.split("\n----\n").collect();
        let Ok(program) = parse(parts[0]) else { continue };
        if check(&program).is_err() {
            continue;
        }
        let mut c = Case::new(program);
        if header.trim() == "schedule" {
            let steps = parts.get(1).map_or("", |p| p);
            let steps = steps.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
            c.moves = steps.map(|l| Move::Step(l.trim().into())).collect();
        }
        out.push(c);
    }
    out
}

/// The graphs of the text of a file test, with all passes run on them.
pub fn of_graph_file(text: &str) -> Vec<Case<Graph>> {
    let table = lathe_ops::table();
    let bodies = format!("\n{text}");
    let bodies = bodies.split("\n# test: ").skip(1).filter_map(|c| c.split_once('\n'));
    let graphs = bodies.filter_map(|(_, body)| graph::parse(body.split("\n----\n").next()?).ok());
    graphs.filter(|g| graph::check(g, &table).is_ok()).map(passed).collect()
}

/// A graph with all passes run on it.
fn passed(g: Graph) -> Case<Graph> {
    let moves = lathe_rewrite::PASSES.iter().map(|p| Move::Step(p.name.into())).collect();
    Case { moves, ..Case::new(g) }
}

/// Graphs of the operators' samples, once with arguments and once with constants, where passes have something to change.
fn of_operators_graphs() -> Vec<Case<Graph>> {
    let table = lathe_ops::table();
    let mut out = vec![];
    for row in table.rows() {
        for seed in 0..SAMPLES {
            let Ok((mut g, _)) = row.sample_graph(&table, seed) else { continue };
            out.push(passed(g.clone()));
            for v in g.values.iter_mut().skip(1).filter(|v| v.source == Source::Input) {
                v.source = Source::Const(v.name.clone());
            }
            out.push(passed(g));
        }
    }
    out
}

/// Extents in place of larger ones, in the order of trying.
const SMALL: [i64; 8] = [4, 6, 8, 2, 3, 16, 32, 1];

/// Largest text of a piece of a graph.
const PIECE: usize = 2_500;

/// Pieces of so many nodes that follow each other in a graph, each overlapping half of the next, with extents as small as they
/// may be. Matrices are as they were before they were packed. Pieces with the same operators as one that is `known` are left out.
pub fn cut(whole: &Graph, nodes: usize, known: &mut HashSet<Vec<String>>) -> Vec<Graph> {
    let table = lathe_ops::table();
    let mut g = whole.clone();
    let packed: HashMap<ValueId, ValueId> =
        g.nodes.iter().filter(|n| &*n.op == "pack").map(|n| (n.outputs[0], n.inputs[0])).collect();
    g.nodes.retain(|n| &*n.op != "pack");
    for v in g.nodes.iter_mut().flat_map(|n| &mut n.inputs) {
        *v = packed.get(v).copied().unwrap_or(*v);
    }
    g.dims.iter_mut().for_each(|(_, most)| *most = (*most).min(4));
    let mut out = vec![];
    for at in (0..g.nodes.len()).step_by(nodes.div_ceil(2)) {
        let mut piece = Graph { nodes: g.nodes[at..].iter().take(nodes).cloned().collect(), ..g.clone() };
        let made: HashSet<ValueId> = piece.nodes.iter().flat_map(|n| &n.outputs).copied().collect();
        let used: HashSet<ValueId> = piece.nodes.iter().flat_map(|n| &n.inputs).copied().collect();
        piece.outputs =
            piece.nodes.iter().flat_map(|n| &n.outputs).filter(|v| !used.contains(v)).copied().collect();
        let mut indices = false;
        for (i, v) in piece.values.iter_mut().enumerate() {
            if v.source == Source::Node && !made.contains(&ValueId(i as u32)) {
                v.source = Source::Input;
                indices |= used.contains(&ValueId(i as u32)) && !v.ty.dtype.is_float();
            }
        }
        // Indices that were computed keep promises that those of an argument need not.
        if indices {
            continue;
        }
        let Some(mut piece) = rebuilt(&tidy(&piece), &table) else { continue };
        for n in numbers(&piece).into_iter().rev() {
            let smaller = SMALL.iter().filter(|m| **m < n).find_map(|m| {
                let mut g = piece.clone();
                renumber(&mut g, n, *m);
                rebuilt(&g, &table)
            });
            piece = smaller.unwrap_or(piece);
        }
        let ops: Vec<String> = piece.nodes.iter().map(|n| n.op.to_string()).collect();
        if piece.to_string().len() <= PIECE && known.insert(ops) {
            out.push(piece);
        }
    }
    out
}

/// The texts of the file tests, the pieces of models, and the regressions of a checkout of Lathe.
fn texts(sources: &Path) -> Vec<String> {
    let mut out = vec![];
    let mut folders: Vec<PathBuf> = ["fuzz/seeds", "crates/lathe-rewrite/tests/files", "fuzz/regressions"]
        .map(|f| sources.join(f))
        .into();
    while let Some(folder) = folders.pop() {
        let mut all: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        all.sort();
        for path in all {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                out.push(text);
            }
        }
    }
    out
}

/// The cases of tensor programs of the file tests, the regressions and the operators, from a checkout of Lathe.
pub fn of_sources(sources: &Path) -> Vec<Case> {
    let mut out = vec![];
    for text in texts(sources) {
        out.extend(of_file(&text));
        out.extend(Case::parse(&text).ok());
    }
    out.extend(of_operators(SCHEDULED));
    out
}

/// The cases of graphs of the same.
pub fn graphs_of_sources(sources: &Path) -> Vec<Case<Graph>> {
    let mut out = of_operators_graphs();
    for text in texts(sources) {
        out.extend(of_graph_file(&text));
        if let Ok(AnyCase::Graph(case)) = AnyCase::parse(&text) {
            out.push(case);
        }
    }
    out
}

/// The targets whose rules schedule samples, and for which code is written; the portable one first.
pub(crate) const TARGETS: [&str; 4] = ["portable", "avx2", "avx512vnni", "avx512bf16"];

/// Most rows of a product that is scheduled.
const ROWS: [Option<i64>; 3] = [None, Some(4), Some(16)];

/// The naive program of an operator's sample; nothing where it is long.
fn naive(table: &OpTable, row: &OpRow, seed: u64) -> Option<GroupKernel> {
    let (g, _) = row.sample_graph(table, seed).ok()?;
    let k = lathe_ops::lower_group(&g, table, &[0], &|_| true, &HashMap::new());
    (k.kernel.to_string().len() <= TEXT).then_some(k)
}

/// Samples of each operator, as rules schedule them for each target, where they take steps of other kinds than for samples before: code
/// is written for the targets that have this schedule.
pub fn of_operators(samples: u64) -> Vec<Case> {
    let table = lathe_ops::table();
    let (mut out, mut known, mut kinds) = (Vec::<Case>::new(), HashMap::new(), HashSet::new());
    for row in table.rows() {
        for seed in 0..samples {
            let Some(k) = naive(&table, row, seed) else { continue };
            for (i, dialect) in TARGETS.iter().enumerate() {
                let Some(target) = Target::named(dialect) else { continue };
                let rows = ROWS[(seed as usize + i) % 3];
                let s = schedule(k.kernel.clone(), &k.parts, &target, rows, &Decisions::new());
                let Ok(s) = s else { continue };
                let steps: Vec<&str> = s.steps().iter().map(|s| s.step.as_str()).collect();
                let own: BTreeSet<String> = steps.iter().map(|s| kind(s).into()).collect();
                if s.kernel().to_string().len() >= 2 * TEXT || !kinds.insert((row.name, *dialect, own)) {
                    continue;
                }
                let mut c = Case { targets: vec![], ..Case::new(k.kernel.clone()) };
                c.moves = steps.iter().map(|s| Move::Step((*s).into())).collect();
                let at = *known.entry(c.to_string()).or_insert(out.len());
                if at == out.len() {
                    out.push(c);
                }
                out[at].targets.push((*dialect).into());
            }
        }
    }
    out
}

/// What kind of step it is: a primitive, or an instruction.
fn kind(step: &str) -> &str {
    let mut words = step.split_whitespace();
    let first = words.next().unwrap_or_default();
    words.last().filter(|_| first == "tensorize").unwrap_or(first)
}

/// A schedule that the rules may make of a sample of some operator, whatever is chosen where they leave something open.
pub(crate) fn of_rules(table: &OpTable, random: &mut Random) -> Option<Schedule> {
    let row = random.pick(table.rows())?;
    let k = naive(table, row, random.bits() % 1000)?;
    let target = Target::named(random.pick(&TARGETS)?)?;
    let (few, mut decisions) = (*random.pick(&ROWS)?, Decisions::new());
    loop {
        let s = schedule(k.kernel.clone(), &k.parts, &target, few, &decisions).ok()?;
        let Some(open) = s.choices().iter().find(|c| !decisions.contains_key(&c.name)) else {
            return Some(s);
        };
        decisions.insert(open.name.clone(), *random.pick(&open.options)?);
    }
}
