//! Tuning a small product from nothing, on the portable target that every machine has.

use lathe_compile::{Findings, Options as Build, Sizes, draft};
use lathe_ir::graph::parse;
use lathe_machine::Target;
use lathe_tune::{Options, Strategy, Task, tasks, tune};
use std::ops::ControlFlow;
use std::path::Path;

const PRODUCT: &str = "graph product() {
  a: f32[48, 64] = input
  b: f32[64, 96] = input
  c: f32[48, 96] = dot(a, b) {sum_x = [1], sum_y = [0]}
  return c
}";

fn made(cache: &Path, target: &Target) -> (Vec<Task>, String) {
    let graph = parse(PRODUCT).unwrap_or_else(|e| panic!("{e}"));
    let classes = [Sizes { name: "all", ..Sizes::default() }];
    let build = Build { target, cache, passes: &[], classes: &classes };
    let draft = draft(&graph, &build).unwrap_or_else(|e| panic!("{e}"));
    (tasks(&draft.kernels, &draft.graph.dims), draft.kernels[0].schedule.trace())
}

#[test]
fn what_is_found_is_kept_and_used() {
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::portable());
    let (all, by_rule) = made(folder.path(), &target);
    assert_eq!(all.len(), 1);
    for (strategy, trials) in [(Strategy::Random, 6), (Strategy::Evolution, 12), (Strategy::Learned, 18)] {
        let options = Options {
            target: &target,
            cache: folder.path(),
            threads: 1,
            trials,
            time: None,
            strategy,
            seed: 7,
        };
        let mut told = 0;
        let out = tune(&all, &options, &mut |p| {
            told += 1;
            assert!(p.trials.0 <= trials && p.seconds.1 <= p.seconds.0);
            ControlFlow::Continue(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
        // Trials of the run before count: this one goes on where it ended, with one round of trials and one of the best.
        assert_eq!((out.len(), out[0].trials, out[0].history.len(), told), (1, trials, trials, 2));
        assert_eq!(out[0].wrong, 0, "every decision gives the same results");
        assert!(out[0].best_s <= out[0].rule_s);
        let findings = Findings::read(folder.path(), &target);
        assert_eq!(findings.tried(&all[0].key).count(), trials + 1, "one is the rules' own");
        assert_eq!(findings.best(&all[0].key), Some(&out[0].finding));
        let (_, trace) = made(folder.path(), &target);
        assert_eq!(trace == by_rule, out[0].finding.decisions.is_empty(), "the next compilation uses it");
    }
}

#[test]
fn stopping_keeps_what_was_tried() {
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::portable());
    let (all, _) = made(folder.path(), &target);
    let options = Options {
        target: &target,
        cache: folder.path(),
        threads: 1,
        trials: 100,
        time: None,
        strategy: Strategy::Random,
        seed: 1,
    };
    let out = tune(&all, &options, &mut |_| ControlFlow::Break(())).unwrap_or_else(|e| panic!("{e}"));
    assert!(out.is_empty());
    let findings = Findings::read(folder.path(), &target);
    assert!(findings.tried(&all[0].key).count() > 1 && findings.best(&all[0].key).is_none());
}
