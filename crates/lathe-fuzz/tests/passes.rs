//! Passes keep what they say of the graphs that fuzzing starts from and of changed ones, and faults that are planted in them are
//! found and made small.

use lathe_fuzz::{
    Case, Choice, Finding, Judge, Kind, Mode, Move, PassFault, Random, mutate_graph, reduce, seeds,
};
use lathe_ir::graph::{Graph, Source, ValueId};
use lathe_machine::Target;
use std::collections::HashMap;
use std::path::Path;

fn all() -> Vec<Case<Graph>> {
    seeds::graphs_of_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
}

/// Walks of a few changes from cases; the first finding.
fn walk(judge: &mut Judge, cases: &[Case<Graph>], count: usize, seed: u64) -> Option<(Case<Graph>, Finding)> {
    let (mut random, mut last) = (Random::new(seed), None::<Case<Graph>>);
    for _ in 0..count {
        let from = last.take().filter(|_| !random.one_in(5)).or_else(|| random.pick(cases).cloned())?;
        let case = mutate_graph(&from, random.pick(cases), Mode::Joint, &mut Choice::default(), &mut random);
        if let Err(finding) = judge.judge_graph(&case) {
            return Some((case, finding));
        }
        last = Some(case);
    }
    None
}

#[test]
fn passes_keep_what_they_say() {
    let (cases, mut judge) = (all(), Judge::default());
    for case in &cases {
        judge.judge_graph(case).unwrap_or_else(|f| panic!("{f}\n{case}"));
    }
    // Few random numbers are page tables, which attention's graphs take.
    assert!(cases.len() > 100 && judge.counts.defined as usize * 20 > cases.len() * 17, "{:?}", judge.counts);
    if let Some((case, finding)) = walk(&mut judge, &cases, 120, 3) {
        panic!("{finding}\n{case}");
    }
    println!("{:?}", judge.counts);
    let applied = |pass: &str| judge.counts.steps[pass].applied;
    assert!(["pack", "quantize", "filters"].iter().all(|p| applied(p) > 100), "{:?}", judge.counts);
}

/// At their choices passes may be told to take another answer, by a number behind their name.
#[test]
fn passes_keep_it_whatever_they_choose() {
    let convolutions: Vec<_> =
        all().into_iter().filter(|c| c.program.nodes.iter().any(|n| &*n.op == "conv")).collect();
    assert!(convolutions.len() > 10);
    let mut judge = Judge::default();
    for case in &convolutions {
        for dice in 0..2 {
            let told = |m: &Move| match m {
                Move::Step(pass) => Move::Step(format!("{pass} {dice}")),
                change => change.clone(),
            };
            let case = Case { moves: case.moves.iter().map(told).collect(), ..case.clone() };
            judge.judge_graph(&case).unwrap_or_else(|f| panic!("{f}\n{case}"));
        }
    }
    assert!(judge.counts.steps["winograd"].applied > 50, "{:?}", judge.counts);
}

/// What the nodes of a name, which a pass added, make is taken for the first of them that has the same type: as if the pass remembered
/// what it did by the type alone.
fn first_of_its_type(op: &str, after: &Graph) -> Option<Graph> {
    let (mut first, mut others) = (HashMap::new(), HashMap::new());
    for v in after.nodes.iter().filter(|n| *n.op == *op).map(|n| n.outputs[0]) {
        let known: ValueId = *first.entry(after.ty(v).clone()).or_insert(v);
        if known != v {
            others.insert(v, known);
        }
    }
    let mut wrong = after.clone();
    for v in wrong.nodes.iter_mut().flat_map(|n| &mut n.inputs) {
        *v = others.get(v).copied().unwrap_or(*v);
    }
    (!others.is_empty()).then_some(wrong)
}

/// Codes are those of the first argument that has the same type.
fn codes_of_another(after: &Graph) -> Option<Graph> {
    let mut wrong = after.clone();
    for n in wrong.nodes.iter_mut().filter(|n| &*n.op == "encode") {
        let ty = after.ty(n.inputs[0]);
        let first = after.values.iter().position(|v| v.source == Source::Input && v.ty == *ty)?;
        n.inputs[0] = ValueId(first as u32);
    }
    (wrong != *after).then_some(wrong)
}

const FAULTS: &[(&str, PassFault)] = &[
    ("pack", |_, after| first_of_its_type("pack", after)),
    ("quantize", |_, after| codes_of_another(after)),
];

#[test]
fn faults_in_passes_are_found_and_made_small() {
    let table = lathe_ops::table();
    for (pass, fault) in FAULTS {
        let run = |g: &Graph| lathe_rewrite::pass(pass).expect("a pass").run(g, &table, &Target::portable());
        let cases: Vec<_> = all().into_iter().filter(|c| run(&c.program) != Ok(c.program.clone())).collect();
        let mut judge = Judge::planted_in_pass(pass, *fault);
        let seeds = cases.iter().find_map(|c| Some((c.clone(), judge.judge_graph(c).err()?)));
        let found = seeds.or_else(|| walk(&mut judge, &cases, 1000, 5));
        let Some((case, finding)) = found else { panic!("the fault in '{pass}' is not found") };
        assert_eq!(
            (finding.place.as_str(), finding.kind == Kind::Panic),
            (*pass, false),
            "{finding}\n{case}"
        );
        let shows = |c: &Case<Graph>| {
            let shown = Judge::planted_in_pass(pass, *fault).judge_graph(c).err();
            shown.is_some_and(|f| f.like(&finding))
        };
        let small = reduce(&case, 300, &mut |c| shows(c));
        assert!(shows(&small) && small.program.nodes.len() <= 2 && small.moves.len() == 1, "{small}");
        assert_eq!(Judge::default().judge_graph(&small), Ok(()), "{small}");
        println!("{pass}: {finding}\n{small}");
    }
}
