//! Tuning a small product from nothing, on the portable target that every machine has.

use lathe_compile::{Findings, Options as Build, Sizes, draft};
use lathe_ir::graph::{Form, parse};
use lathe_ir::tensor;
use lathe_machine::Target;
use lathe_tune::{Options, Strategy, Task, tasks, tune, tune_whole};
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
            unproved: false,
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
        unproved: false,
    };
    let out = tune(&all, &options, &mut |_| ControlFlow::Break(())).unwrap_or_else(|e| panic!("{e}"));
    assert!(out.is_empty());
    let findings = Findings::read(folder.path(), &target);
    assert!(findings.tried(&all[0].key).count() > 1 && findings.best(&all[0].key).is_none());
}

/// Rows of a product, each where a number from memory says: cores may meet there, unless no number comes twice.
const SCATTERED: &str = "kernel f() {
  in a: f32[48, 64]
  in b: f32[64, 96]
  in at: i32[48] range(0, 48)INJECTIVE
  out y: f32[48, 96]
  for i in 48 spatial serial {
    for j in 96 spatial serial {
      alloc s: f32[] on register
      Z: s[] = 0f32
      for k in 64 reduce serial {
        S: s[] sum = a[i, k] * b[k, j]
      }
      W: y[index(at[i]), j] = s[]
    }
  }
}";

#[test]
fn what_has_no_proof_is_not_measured() {
    let target = Target::portable();
    let tuned = |promise: &str, unproved| {
        let kernel =
            tensor::parse(&SCATTERED.replace("INJECTIVE", promise)).unwrap_or_else(|e| panic!("{e}"));
        let task = Task {
            key: Findings::key(&kernel, None),
            name: "f".into(),
            kernel,
            parts: vec![(Form::Nest, String::new())],
            few: None,
            calls: 1,
            dims: vec![],
            cold: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            target: &target,
            cache: folder.path(),
            threads: 1,
            trials: 3,
            time: None,
            strategy: Strategy::Random,
            seed: 3,
            unproved,
        };
        let mut out =
            tune(&[task], &options, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|e| panic!("{e}"));
        out.pop().expect("there is something to choose")
    };
    let refused = tuned("", false);
    assert_eq!((refused.trials, refused.unproved, refused.history.len()), (3, 3, 0));
    let step = refused.unproved_step.expect("one was refused");
    assert!(step.contains("two iterations do not meet in 'y'"), "{step}");
    assert!(refused.finding.decisions.is_empty(), "nothing was found");
    let proved = tuned(" injective", false);
    assert_eq!((proved.trials, proved.unproved, proved.history.len()), (3, 0, 3));
    let let_pass = tuned("", true);
    assert_eq!((let_pass.unproved, let_pass.history.len()), (0, 3));
}

const WINDOWS: &str = "graph windows() {
  x: f32[1, 16, 8, 8] = input
  w: f32[16, 16, 3, 3] = const \"w\"
  y: f32[1, 16, 6, 6] = conv(x, w)
  z: f32[1, 16, 6, 6] = relu(y)
  return z
}";

#[test]
fn a_graph_is_tuned_as_a_whole() {
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::portable());
    let graph = parse(WINDOWS).unwrap_or_else(|e| panic!("{e}"));
    let classes = [Sizes { name: "all", ..Sizes::default() }];
    let build =
        Build { target: &target, cache: folder.path(), passes: &["winograd", "filters"], classes: &classes };
    let made = || draft(&graph, &build).unwrap_or_else(|e| panic!("{e}"));
    let options = Options {
        target: &target,
        cache: folder.path(),
        threads: 1,
        trials: 2,
        time: None,
        strategy: Strategy::Fresh,
        seed: 5,
        unproved: false,
    };
    let stopped = tune_whole(&made(), &options, &mut |_| ControlFlow::Break(()));
    assert!(stopped.unwrap_or_else(|e| panic!("{e}")).is_none());
    let first = made();
    let found = tune_whole(&first, &options, &mut |_| ControlFlow::Continue(()));
    let found = found.unwrap_or_else(|e| panic!("{e}")).expect("there is something to choose");
    assert!(found.choices == first.choices.len() && found.tried > 0 && found.best_s <= found.rule_s);
    let findings = Findings::read(folder.path(), &target);
    assert_eq!(findings.best(&first.key).map(|f| &f.decisions), Some(&found.decisions));
    let decided = |d: &lathe_compile::Draft| -> lathe_schedule::Decisions {
        d.choices.iter().filter(|c| c.taken != c.rule).map(|c| (c.name.clone(), c.taken)).collect()
    };
    let next = made();
    assert_eq!(decided(&next), found.decisions, "the next compilation uses it");
    // The product of a graph without a choice is left as it is.
    let product = parse(PRODUCT).unwrap_or_else(|e| panic!("{e}"));
    let product = draft(&product, &build).unwrap_or_else(|e| panic!("{e}"));
    let nothing = tune_whole(&product, &options, &mut |_| ControlFlow::Continue(()));
    assert!(nothing.unwrap_or_else(|e| panic!("{e}")).is_none());
}
