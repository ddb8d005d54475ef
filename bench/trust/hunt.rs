//! Hunts mutants of schedule primitives: `hunt SECONDS NUMBER:PRIMITIVE,…`. `mutants.py` builds it in a copy of the sources where
//! `set_mutant` says which mutant is on.
//!
//! Steps of the primitives are done with the mutant and without: of all cases that have some, and then of random programs and steps
//! from them. Where the mutant does another thing, that is counted; where it takes a step that it should not, or leaves another program,
//! the step is judged, with the mutant off: the checker is asked for a certificate, and the interpreter compares results. Of each kind of
//! finding the smallest case is printed, and what the checker believed is made smaller.

use lathe_fuzz::{Case, Choice, Judge, Kind, Mode, Move, Random, mutate, reduce, seeds};
use lathe_ir::tensor::Kernel;
use lathe_schedule::{Applied, Schedule, set_mutant};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PANIC: &str = "panicked";
/// Steps of one mutant that are judged.
const JUDGED: u64 = 1000;

/// What was seen of a mutant.
#[derive(Default)]
struct Seen {
    cases: u64,
    steps: u64,
    judged: u64,
    certified: u64,
    counts: BTreeMap<&'static str, u64>,
    /// By kind: why, and the smallest case.
    found: BTreeMap<String, (String, Case)>,
}

fn apply(k: &Kernel, step: &str, mutant: u32) -> Result<Applied, String> {
    set_mutant(mutant);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut s = Schedule::new(k.clone());
        s.step(step).map(|()| s.steps()[0].clone()).map_err(|e| e.to_string())
    }));
    set_mutant(0);
    done.unwrap_or_else(|_| Err(PANIC.into()))
}

/// Whether a step that was done has a certificate, or what is found of it.
fn judge(case: &Case, step: &Applied) -> Result<bool, (String, String)> {
    let case = Case { program: step.before.clone(), moves: vec![], ..case.clone() };
    let mut judge = Judge::default();
    match catch_unwind(AssertUnwindSafe(|| judge.judge_step(&case, step))) {
        Ok(Ok(())) => Ok(judge.counts.steps.values().any(|s| s.certified > 0)),
        Ok(Err(f)) => {
            let name = Kind::ALL.iter().find(|(k, _)| *k == f.kind).map_or("?", |k| k.1);
            Err((name.into(), f.to_string()))
        }
        Err(_) => Err(("panic".into(), "of the judge".into())),
    }
}

/// What is found of a case's last step as the mutant does it.
fn judge_last(case: &Case, mutant: u32) -> Option<(String, String)> {
    let steps: Vec<&str> = case.steps().collect();
    let (last, before) = steps.split_last()?;
    let mut k = case.program.clone();
    for step in before {
        if let Ok(a) = apply(&k, step, 0) {
            k = a.after;
        }
    }
    judge(case, &apply(&k, last, mutant).ok()?).err()
}

fn hunt(seconds: f64, mutant: u32, primitives: &str, seen: &Mutex<Seen>) {
    let all = seeds::of_sources(Path::new("."));
    let names: Vec<&str> = primitives.split(',').collect();
    let of = |step: &str| primitives == "all" || names.contains(&step.split_whitespace().next().unwrap_or(""));
    let cases: Vec<Case> = all.iter().filter(|c| c.steps().any(of)).cloned().collect();
    assert!(!cases.is_empty(), "no case has a step of {primitives}");
    let (mut random, start) = (Random::new(1), Instant::now());
    let (mut last, mut n, mut judged) = (None::<Case>, 0, 0);
    while start.elapsed().as_secs_f64() < seconds && judged < JUDGED {
        // The cases as they are, and then walks of a few changes from them.
        let case = cases.get(n).cloned().unwrap_or_else(|| {
            let from = last.take().filter(|_| !random.one_in(5));
            let from = from.or_else(|| random.pick(&cases).cloned()).expect("there are cases");
            let mode = if random.one_in(2) { Mode::Joint } else { Mode::Passes };
            mutate(&from, random.pick(&all), mode, &mut Choice::default(), &mut random)
        });
        n += 1;
        let (mut k, mut done) = (case.program.clone(), vec![]);
        for step in case.steps() {
            let right = apply(&k, step, 0);
            if of(step) {
                let wrong = apply(&k, step, mutant);
                let what = match (&right, &wrong) {
                    (Ok(r), Ok(w)) if r.after == w.after && r.tag == w.tag => None,
                    (Err(r), Err(w)) if r == w => None,
                    (_, Err(e)) if e == PANIC => Some(PANIC),
                    (Ok(_), Ok(_)) => Some("another program"),
                    (Err(_), Ok(_)) => Some("takes more"),
                    (Ok(_), Err(_)) => Some("refuses more"),
                    (Err(_), Err(_)) => Some("other words"),
                };
                let verdict = match (what, &wrong) {
                    (Some(PANIC), _) => Some(Err(("panic".to_string(), step.to_string()))),
                    (Some(_), Ok(step)) => {
                        judged += 1;
                        Some(judge(&case, step))
                    }
                    _ => None,
                };
                let mut seen = seen.lock().expect("nobody panics with it");
                (seen.cases, seen.judged) = (n as u64, judged);
                seen.steps += 1;
                seen.certified += u64::from(verdict == Some(Ok(true)));
                if let Some(what) = what {
                    *seen.counts.entry(what).or_default() += 1;
                }
                if let Some(Err((kind, why))) = verdict {
                    let moves: Vec<Move> = done.iter().cloned().chain([Move::Step(step.into())]).collect();
                    let (case, size) = (Case { moves, ..case.clone() }, |c: &Case| c.to_string().len());
                    if seen.found.get(&kind).is_none_or(|(_, c)| size(&case) < size(c)) {
                        seen.found.insert(kind, (why, case));
                    }
                }
            }
            if let Ok(next) = right {
                k = next.after;
                done.push(Move::Step(step.into()));
            }
        }
        last = (done.len() < 12).then(|| Case { moves: done, ..case });
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().collect();
    let (seconds, (mutant, primitives)) =
        (args[1].parse::<f64>().expect("seconds"), args[2].split_once(':').expect("NUMBER:PRIMITIVES"));
    let mutant: u32 = mutant.parse().expect("a number");
    set_mutant(0);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (ended, ends) = std::sync::mpsc::channel();
    let (its, of) = (seen.clone(), primitives.to_string());
    std::thread::spawn(move || {
        hunt(seconds, mutant, &of, &its);
        ended.send(())
    });
    // Some mutants make steps that never end.
    let stopped = match ends.recv_timeout(Duration::from_secs_f64(3.0 * seconds + 20.0)) {
        Ok(()) => "",
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => ", never ends",
        Err(_) => ", failed",
    };
    let seen = seen.lock().expect("nobody panics with it");
    let Seen { cases, steps, judged, certified, counts, .. } = &*seen;
    println!("{cases} cases, {steps} steps, {judged} judged, {certified} certified: {counts:?}{stopped}");
    for (kind, (why, case)) in &seen.found {
        println!("%% {kind}\n{why}\n----\n{case}");
    }
    if let (Some((_, case)), "") = (seen.found.get("proof"), stopped) {
        let is = |c: &Case| judge_last(c, mutant).is_some_and(|(k, _)| k == "proof");
        println!("%% proof\nsmaller\n----\n{}", reduce(case, 200, &mut |c| is(c)));
    }
}
