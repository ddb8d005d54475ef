//! A small part of the study of trust (`examples/trust.rs` is the whole): every wrong step of the table is seen to be wrong, and
//! none has a certificate, found, damaged or of another step; nearly all legal steps have one.

use lathe_check::Proof;
use lathe_fuzz::study::{Mutant, Seen, Wrong, alarms, corrupt, judge, mutants};
use lathe_fuzz::{Random, seeds};
use lathe_verify::{Certificate, PROVED, Prover, check};
use std::path::Path;

/// Runs until a difference is seen; nearly all show it in the first few.
const RUNS: u64 = 200;

/// Runs of changes that are none of the meaning.
const SAME: u64 = 10;

/// Damaged certificates for each wrong step, and certificates of other steps.
const TRIES: usize = 12;

#[test]
fn wrong_steps_are_refused() {
    let (mut prover, mut random, mut holes) = (Prover::default(), Random::new(5), String::new());
    let make = |m, prover: &mut Prover| Wrong::make(m, prover).unwrap_or_else(|e| panic!("{e}"));
    let all: Vec<(&Mutant, Wrong)> = mutants().map(|m| (m, make(m, &mut prover))).collect();
    let right: Vec<Certificate> = all.iter().filter_map(|(_, w)| Some(w.right.clone()?.1)).collect();
    let (mut by_search, mut by_proof, mut tried) = (0, 0, 0);
    for (m, wrong) in &all {
        // Where what an instruction wraps is changed, the right step is one of another program.
        let own = m.seen != Seen::Instruction;
        if let Some((k, good)) = wrong.right.as_ref().filter(|_| own) {
            assert!(check(&wrong.before, k, good).is_ok(), "{}: the right step", m.what);
        }
        let never = matches!(m.seen, Seen::Never(_));
        let runs = if never { SAME } else { RUNS };
        let verdict = judge(m, wrong, runs, &mut prover).unwrap_or_else(|e| panic!("{e}"));
        if verdict.differs.is_some() == never {
            holes += &format!("{}: differs in run {:?}\n{}", m.what, verdict.differs, wrong.after);
        }
        if never {
            continue;
        }
        if let Some(c) = verdict.accepted {
            holes += &format!("{}: certified\n{c}", m.what);
        }
        by_search += usize::from(verdict.unproved);
        let others: Vec<Certificate> = (0..TRIES).filter_map(|_| random.pick(&right).cloned()).collect();
        let corrupted = corrupt(wrong, &others, TRIES, &mut prover, &mut random);
        for c in corrupted.accepted {
            holes += &format!("{}: a forged certificate is accepted\n{c}", m.what);
        }
        (tried, by_proof) = (tried + corrupted.tried, by_proof + corrupted.by_proof);
    }
    println!(
        "{} wrong steps, {by_search} for want of a proof; {tried} certificates, {by_proof} by a proof",
        all.len()
    );
    assert!(holes.is_empty(), "{holes}");
    let wrong = || all.iter().filter(|(m, _)| !matches!(m.seen, Seen::Never(_)));
    assert!(wrong().count() >= 150, "{}", wrong().count());
    for name in PROVED {
        assert!(wrong().any(|(m, _)| m.primitive() == name), "no wrong step of '{name}'");
    }
    // The others differ in a way that no rule covers, or have a certificate with another number of proofs.
    assert!(by_search >= 50 && by_proof > tried / 10, "{by_search}; {by_proof} of {tried}");
}

/// The other way round: a certificate of a right step is worth nothing when any of its proofs is gone.
#[test]
fn damaged_certificates_are_refused() {
    let split = mutants().find(|m| m.step == "split i 4").expect("there is one");
    let wrong = Wrong::make(split, &mut Prover::default()).expect("a step");
    let (after, good) = wrong.right.expect("a certificate");
    let accepted = |c: &Certificate| check(&wrong.before, &after, c).is_ok();
    assert!(accepted(&good));
    for i in 0..good.proofs.len() {
        let mut bad = good.clone();
        bad.proofs[i] = Proof::Sum(vec![]);
        assert!(!accepted(&bad));
        bad.proofs.remove(i);
        assert!(!accepted(&bad));
    }
    assert!(!accepted(&Certificate { witness: None, ..good }));
}

#[test]
fn legal_steps_have_a_proof() {
    let cases = seeds::of_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let found = alarms(&cases, 100, &mut Random::new(1), &mut |_| {});
    if let Some((case, finding)) = found.findings.first() {
        panic!("{finding}\n{case}");
    }
    let (steps, false_ones) = found.total();
    println!(
        "{steps} steps of {} schedules, {false_ones} false alarms: {:#?}",
        found.schedules, found.reasons
    );
    assert!(found.schedules >= 100 && steps > 150, "{found:?}");
    assert!(false_ones * 20 < steps, "{:#?}", found.reasons);
}
