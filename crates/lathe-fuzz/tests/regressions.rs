//! What was found once does not come back: the cases of `fuzz/regressions` show nothing, judged and compiled.

use lathe_fuzz::study::SHARED_TILE;
use lathe_fuzz::{AnyCase, Case, Judge, compile};
use lathe_ir::tensor::parse;
use lathe_schedule::Schedule;
use lathe_verify::{Refusal, report};
use std::path::Path;

#[test]
fn what_was_found_does_not_come_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions");
    let (mut judge, mut codes, mut shown) = (Judge::default(), vec![], String::new());
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        let case = AnyCase::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let again = AnyCase::parse(&case.to_string()).map(|c| c.to_string());
        assert_eq!(again.as_deref(), Ok(&*case.to_string()), "{}", path.display());
        files += 1;
        let judged = match &case {
            AnyCase::Tensor(case) => judge.judge(case),
            AnyCase::Graph(case) => judge.judge_graph(case).map(|()| vec![]),
        };
        match judged {
            Ok(found) => codes.extend(found),
            Err(finding) => shown += &format!("{}: {finding}\n", path.display()),
        }
    }
    let scratch = tempfile::tempdir().expect("a folder");
    for (case, finding) in compile(&codes, scratch.path()).expect("there is a compiler") {
        shown += &format!("{finding}\n{case}\n");
    }
    assert!(shown.is_empty(), "{shown}");
    assert!(files >= 10 && judge.counts.defined >= files / 2, "{files} files, {:?}", judge.counts);
}

/// `split; reverse_compute_at; vectorize`, which a public compiler gets wrong: here the second is `join` and `contract`, and
/// each step is proved. Where the tile stays shared, as it does there, the last one has no proof.
#[test]
fn a_shared_tile_goes_to_no_lanes() {
    let text = include_str!("../../../fuzz/regressions/split-compute-at-vectorize.txt");
    let case = Case::parse(text).expect("a case");
    let steps: Vec<&str> = case.steps().collect();
    let s = Schedule::replay(case.program.clone(), &steps.join("\n")).expect("it applies");
    for (step, result) in report(&s, &mut lathe_verify::Prover::default()) {
        assert!(result.is_ok(), "{step}: {result:?}");
    }
    let shared = parse(SHARED_TILE).expect("a kernel");
    let s = Schedule::replay(shared, "vectorize o").expect("it believes the mark");
    let all = report(&s, &mut lathe_verify::Prover::default());
    let [(_, Err(Refusal::NotFound(about, Some(at))))] = all.as_slice() else { panic!("{all:?}") };
    // Two iterations that meet, by their numbers.
    assert!(about.contains("do not meet in 't'") && at.contains("o = 0, o' = 1"), "{about}: {at}");
}
