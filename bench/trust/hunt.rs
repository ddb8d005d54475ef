//! Hunts mutants of schedule primitives: `hunt SECONDS NUMBER:PRIMITIVE,…`. `mutants.py` builds it in a copy of the sources where
//! `set_mutant` says which mutant is on.
//!
//! Random programs and steps, from the cases that have a step of the primitives, are done with the mutant and without. Where it does
//! another thing, that is counted; where it takes a step that it should not, or leaves another program, the case is judged: the checker is
//! asked for a certificate, and the interpreter compares results. Of each kind of finding the smallest case is printed.

use lathe_fuzz::{Case, Choice, Judge, Kind, Mode, Move, Random, mutate, reduce, seeds};
use lathe_ir::tensor::Kernel;
use lathe_schedule::{Schedule, set_mutant};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

const PANIC: &str = "panicked";
/// Cases of one mutant that are judged.
const JUDGED: usize = 400;

fn apply(k: &Kernel, step: &str, mutant: u32) -> Result<Kernel, String> {
    set_mutant(mutant);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut s = Schedule::new(k.clone());
        s.step(step).map(|()| s.kernel().clone()).map_err(|e| e.to_string())
    }));
    set_mutant(0);
    done.unwrap_or_else(|_| Err(PANIC.into()))
}

/// What is found of a case while the mutant is on.
fn judge(case: &Case, mutant: u32) -> Option<(String, String)> {
    set_mutant(mutant);
    let judged = catch_unwind(AssertUnwindSafe(|| Judge::default().judge(case)));
    set_mutant(0);
    match judged {
        Ok(Ok(_)) => None,
        Ok(Err(f)) => {
            let name = Kind::ALL.iter().find(|(k, _)| *k == f.kind).map_or("?", |k| k.1);
            Some((name.into(), f.to_string()))
        }
        Err(_) => Some(("panic".into(), String::new())),
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().collect();
    let (seconds, (mutant, primitives)) =
        (args[1].parse::<f64>().expect("seconds"), args[2].split_once(':').expect("NUMBER:PRIMITIVES"));
    let mutant: u32 = mutant.parse().expect("a number");
    set_mutant(0);
    let all = seeds::of_sources(Path::new("."));
    let names: Vec<&str> = primitives.split(',').collect();
    let of = |step: &str| primitives == "all" || names.contains(&step.split_whitespace().next().unwrap_or(""));
    let has = |c: &&Case| c.steps().any(of);
    let cases: Vec<Case> = all.iter().filter(has).cloned().collect();
    assert!(!cases.is_empty(), "no case has a step of {primitives}");
    let (mut random, start) = (Random::new(1), Instant::now());
    let (mut counts, mut found) = (BTreeMap::<&str, u64>::new(), BTreeMap::<String, (String, Case)>::new());
    let (mut last, mut n, mut tried, mut judged) = (None::<Case>, 0, 0u64, 0);
    while start.elapsed().as_secs_f64() < seconds {
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
            let wrong = if of(step) { apply(&k, step, mutant) } else { right.clone() };
            tried += u64::from(of(step));
            let so_far = || {
                let moves: Vec<Move> = done.iter().cloned().chain([Move::Step(step.into())]).collect();
                Case { moves, ..case.clone() }
            };
            let what = match (&right, &wrong) {
                _ if right == wrong => None,
                (_, Err(e)) if e == PANIC => Some(PANIC),
                (Ok(_), Ok(_)) => Some("another program"),
                (Err(_), Ok(_)) => Some("takes more"),
                (Ok(_), Err(_)) => Some("refuses more"),
                (Err(_), Err(_)) => Some("other words"),
            };
            if let Some(what) = what {
                *counts.entry(what).or_default() += 1;
            }
            let finding = match what {
                Some(PANIC) => Some(("panic".to_string(), String::new())),
                Some("another program" | "takes more") if judged < JUDGED => {
                    judged += 1;
                    judge(&so_far(), mutant)
                }
                _ => None,
            };
            if let Some((kind, why)) = finding {
                let (case, size) = (so_far(), |c: &Case| c.to_string().len());
                if found.get(&kind).is_none_or(|(_, c)| size(&case) < size(c)) {
                    found.insert(kind, (why, case));
                }
            }
            if let Ok(next) = right {
                k = next;
                done.push(Move::Step(step.into()));
            }
        }
        last = (done.len() < 12).then(|| Case { moves: done, ..case });
    }
    println!("{n} cases, {tried} steps, {judged} judged: {counts:?}");
    for (kind, (why, case)) in found {
        let mut why = why;
        let small = reduce(&case, 200, &mut |c| match judge(c, mutant) {
            Some((k, w)) if k == kind => {
                why = w;
                true
            }
            _ => false,
        });
        println!("%% {kind}\n{why}\n----\n{small}");
    }
}
