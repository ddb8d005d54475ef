//! The checker of certificates beside what Coq extracts from the one that is proved sound (`proofs/Checker.v`): both say the same of
//! every obligation and proof, and read the same texts. `proofs/build` makes the other one; `.ci/run proofs` runs both.

use lathe_check::{Obligation, Proof, Term};
use lathe_fuzz::study::{Wrong, damage, mutants};
use lathe_fuzz::{Random, seeds};
use lathe_schedule::Schedule;
use lathe_verify::{Order, Prover, claim};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Random obligations with numbers that overflow.
const LARGE: usize = 1500;

/// An obligation as `proofs/judge.ml` reads it.
fn text(o: &Obligation) -> String {
    let terms = |ts: &[Term]| ts.iter().map(|t| format!(" [{t}]")).collect::<String>();
    let mut out = format!("obligation{}", terms(&o.facts));
    for choice in &o.choices {
        let alternatives: String = choice.iter().map(|a| format!(" ({})", terms(a))).collect();
        write!(out, " ({alternatives})").expect("a string takes all");
    }
    out
}

/// The obligations of the seeds' schedules, with the proofs that are found.
fn real() -> Vec<(Obligation, Proof)> {
    let cases = seeds::of_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let (mut prover, mut known, mut out) = (Prover::default(), HashSet::new(), vec![]);
    for case in &cases {
        let mut s = Schedule::new(case.program.clone());
        for step in case.steps() {
            if s.step(step).is_err() {
                break;
            }
        }
        for a in s.steps() {
            let Ok(c) = prover.certify(&a.before, &a.after, &a.step) else { continue };
            let claimed =
                claim(&a.before, &a.after, c.witness.as_ref(), c.order).expect("as it was certified");
            let pairs = claimed.obligations.into_iter().map(|o| o.obligation).zip(c.proofs);
            out.extend(pairs.filter(|(o, _)| known.insert(o.clone())));
        }
    }
    out
}

/// The obligations of the study's wrong steps, with the proofs that are found: some have none.
fn wrong() -> Vec<(Obligation, Option<Proof>)> {
    let (mut prover, mut known, mut out) = (Prover::default(), HashSet::new(), vec![]);
    for m in mutants() {
        let w = Wrong::make(m, &mut prover).unwrap_or_else(|e| panic!("{e}"));
        let orders = [Order::Kept, Order::Apart, Order::Accumulated];
        for (witness, order) in w.hints.iter().flat_map(|h| orders.map(|o| (h, o))) {
            let Ok(claimed) = claim(&w.before, &w.after, witness.as_ref(), order) else { continue };
            for o in claimed.obligations {
                if known.insert(o.obligation.clone()) {
                    out.push((o.obligation.clone(), prover.prove(&o)));
                }
            }
        }
    }
    out
}

/// A number of any size, most near a bound of 128 bits or its root.
fn number(r: &mut Random) -> i128 {
    let small = i128::from(r.range(-3, 3));
    match r.below(6) {
        0 => i128::MAX - small.abs(),
        1 => i128::MIN + small.abs(),
        2 => (1 << 63) + small,
        3 => -(1 << 64) + small,
        _ => small,
    }
}

fn term(r: &mut Random) -> Term {
    (0..1 + r.below(3)).fold(Term::default(), |sum, _| {
        let vars = (0..r.below(3)).map(|_| r.below(3) as u32).collect();
        sum.add(&Term::product(vars, number(r))).unwrap_or(sum)
    })
}

fn proof(r: &mut Random, deep: usize) -> Proof {
    match if deep == 0 { 0 } else { r.below(5) } {
        1 => Proof::Cut(term(r), proof(r, deep - 1).into(), proof(r, deep - 1).into()),
        2 => Proof::Cases(r.below(2), (0..1 + r.below(3)).map(|_| proof(r, deep - 1)).collect()),
        3 => Proof::Product(r.below(5), r.below(5), proof(r, deep - 1).into()),
        _ => {
            let by = |r: &mut Random| if r.one_in(5) { r.bits() } else { r.below(4) as u64 };
            Proof::Sum((0..r.below(4)).map(|_| (r.below(6), by(r))).collect())
        }
    }
}

/// A proof's text with one byte changed, lost or doubled.
fn damaged(text: &str, r: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let at = r.below(bytes.len());
    match r.below(3) {
        0 => bytes[at] = *r.pick(b"0123456789 ()[]*+-vsumcteprod").expect("there are some"),
        1 => drop(bytes.remove(at)),
        _ => bytes.insert(at, bytes[at]),
    }
    String::from_utf8(bytes).expect("still ASCII")
}

#[test]
#[ignore = "takes Coq and OCaml: `.ci/run proofs` runs it"]
fn the_extracted_checker_says_the_same() {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/proofs/judge");
    assert!(judge.exists(), "there is no extracted checker: run proofs/build, which takes Coq and OCaml");
    let mut r = Random::new(11);
    let real = real();
    let mut cases: Vec<(Obligation, Vec<String>)> = vec![];
    for (o, p) in &real {
        let mut texts = vec![p.to_string()];
        for _ in 0..4 {
            let mut other = p.clone();
            damage(&mut other, &mut r);
            texts.push(other.to_string());
        }
        texts.push(damaged(&p.to_string(), &mut r));
        texts.extend(r.pick(&real).map(|(_, p)| p.to_string()));
        cases.push((o.clone(), texts));
        // The same proofs without a hypothesis, or with another one.
        let mut less = o.clone();
        let at = r.below(less.facts.len());
        if let Some(fact) = less.facts.get_mut(at) {
            *fact = if r.one_in(2) { Term::default() } else { term(&mut r) };
        }
        cases.push((less, vec![p.to_string()]));
    }
    // What no proof was found of: proofs of other obligations, damaged or not, prove nothing of it in either.
    let wrong = wrong();
    let open = wrong.iter().filter(|(_, p)| p.is_none()).count();
    for (o, found) in wrong {
        let mut texts: Vec<String> = found.iter().map(|p| p.to_string()).collect();
        for _ in 0..4 {
            let Some(mut other) = found.clone().or_else(|| r.pick(&real).map(|(_, p)| p.clone())) else {
                break;
            };
            damage(&mut other, &mut r);
            texts.push(other.to_string());
        }
        cases.push((o, texts));
    }
    for _ in 0..LARGE {
        let facts = (0..1 + r.below(4)).map(|_| term(&mut r)).collect();
        let choice = |r: &mut Random| (0..r.below(3)).map(|_| vec![term(r), term(r)]).collect();
        let choices = (0..r.below(3)).map(|_| choice(&mut r)).collect();
        let texts = (0..4).map(|_| proof(&mut r, 3).to_string()).collect();
        cases.push((Obligation { facts, choices }, texts));
    }
    // At the bounds of 128 bits, and just beyond.
    let facts =
        [i128::MAX, 1, i128::MIN, -1, 1 << 64, -(1 << 63), 1 - (1 << 63)].map(Term::constant).to_vec();
    let texts =
        ["1*0", "1*0 1*1", "1*2 1*0 2*1", "1*2 1*3", "2*0", "18446744073709551615*4", "1*7"].map(|sum| {
            let ways = ["(sum S)", "(product 4 5 (sum S))", "(product 4 6 (sum S))", "(product 2 3 (sum S))"];
            ways.map(|w| w.replace('S', sum))
        });
    cases.push((Obligation { facts, choices: vec![] }, texts.concat()));
    // As deep as proofs may be, and deeper.
    for depth in [99, 100, 101] {
        let deep = format!("{}(sum 1*0){}", "(product 0 0 ".repeat(depth), ")".repeat(depth));
        cases.push((Obligation { facts: vec![Term::constant(1)], choices: vec![] }, vec![deep]));
    }

    let (mut input, mut expected, mut overflows) = (String::new(), vec![], 0);
    for (o, proofs) in &cases {
        writeln!(input, "{}", text(o)).expect("a string takes all");
        for p in proofs {
            writeln!(input, "proof {p}").expect("a string takes all");
            expected.push(match p.parse::<Proof>() {
                Err(_) => "unreadable",
                Ok(p) => match o.check(&p) {
                    Ok(()) => "accepted",
                    Err(e) => {
                        overflows += usize::from(e.to_string().contains("too large"));
                        "refused"
                    }
                },
            });
        }
    }
    let mut child =
        Command::new(judge).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("all is read");
    assert!(output.status.success(), "{}", output.status);
    let said = String::from_utf8(output.stdout).expect("words");
    let said: Vec<&str> = said.lines().collect();
    let proofs = cases.iter().flat_map(|(o, ps)| ps.iter().map(move |p| (o, p)));
    assert_eq!(said.len(), expected.len());
    for (((o, p), here), there) in proofs.zip(&expected).zip(&said) {
        assert_eq!(here, there, "{p}\n{}", text(o));
    }
    let count = |word: &str| expected.iter().filter(|e| **e == word).count();
    let (accepted, refused, unreadable) = (count("accepted"), count("refused"), count("unreadable"));
    println!(
        "{} obligations ({open} of wrong steps have no proof), {} proofs: {accepted} accepted, {refused} refused ({overflows} for an overflow), {unreadable} \
         unreadable; Rust and the extraction agree on all",
        cases.len(),
        expected.len()
    );
    assert!(
        real.len() > 800 && accepted >= real.len() && refused > 3000 && unreadable > 300 && overflows > 300
    );
}
