//! False alarms: legal steps for which no proof is found.

use crate::case::{Case, Move};
use crate::mutate::{Choice, Mode, mutate};
use crate::oracle::{Finding, Judge, StepCounts};
use crate::random::Random;
use crate::seeds;
use lathe_verify::{Prover, Refusal, report};
use std::collections::BTreeMap;

/// What was counted over random legal schedules.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    /// Schedules of at least one step of the proved primitives.
    pub schedules: usize,
    /// Of these, such as have a false alarm.
    pub alarmed: usize,
    /// Legal steps by primitive: those certified, and the false alarms.
    pub steps: BTreeMap<String, (u64, u64)>,
    /// Why no proof was found: how often, and a case or a schedule that shows it, smallest first.
    pub reasons: BTreeMap<String, (u64, String)>,
    /// What does not hold at all of a case.
    pub findings: Vec<(Case, Finding)>,
}

impl Alarms {
    fn step(&mut self, name: &str, certified: u64, alarms: u64) {
        let counts = self.steps.entry(name.into()).or_default();
        (counts.0, counts.1) = (counts.0 + certified, counts.1 + alarms);
    }

    fn schedule(&mut self, alarms: &[(String, Refusal)], shown: &dyn std::fmt::Display) {
        self.schedules += 1;
        self.alarmed += usize::from(!alarms.is_empty());
        for (name, why) in alarms {
            let text = shown.to_string();
            let (n, shortest) =
                self.reasons.entry(format!("{name}: {why}")).or_insert_with(|| (0, text.clone()));
            *n += 1;
            if text.len() < shortest.len() {
                *shortest = text;
            }
        }
    }

    /// Steps that are legal, and the false alarms among them.
    pub fn total(&self) -> (u64, u64) {
        let sum = |of: fn(&(u64, u64)) -> u64| self.steps.values().map(of).sum();
        (sum(|c| c.0 + c.1), sum(|c| c.1))
    }
}

/// Asks for the proofs of so many random legal schedules: half of them are random steps on the cases' programs, which the
/// watched interpreter found to be legal, the others what the rules may make of the operators' samples.
pub fn alarms(
    cases: &[Case],
    schedules: usize,
    random: &mut Random,
    told: &mut dyn FnMut(&Alarms),
) -> Alarms {
    let (mut out, table, mut prover) = (Alarms::default(), lathe_ops::table(), Prover::default());
    while out.schedules < schedules / 2 {
        let Some(s) = seeds::of_rules(&table, random) else { continue };
        let (mut alarms, before) = (vec![], out.steps.clone());
        for (step, result) in report(&s, &mut prover) {
            let name = step.split_whitespace().next().unwrap_or_default();
            match result {
                Ok(_) => out.step(name, 1, 0),
                Err(Refusal::Unproved(_)) => {}
                Err(e) => {
                    out.step(name, 0, 1);
                    alarms.push((name.to_string(), e));
                }
            }
        }
        if out.steps != before {
            out.schedule(&alarms, &format_args!("{}----\n{}", s.original(), s.trace()));
            told(&out);
        }
    }
    let (mut judge, mut last) = (Judge::default(), None::<Case>);
    while out.schedules < schedules && !cases.is_empty() {
        // A walk of a few changes from each case.
        let from = last.take().filter(|_| !random.one_in(6)).or_else(|| random.pick(cases).cloned());
        let Some(from) = from else { break };
        let mut case = mutate(&from, random.pick(cases), Mode::Passes, &mut Choice::default(), random);
        case.moves.retain(|m| matches!(m, Move::Step(_)));
        judge.counts = Default::default();
        judge.alarms.clear();
        if let Err(finding) = judge.judge(&case) {
            out.findings.push((case, finding));
            continue;
        }
        let legal = |c: &StepCounts| c.certified + c.alarms;
        if judge.counts.steps.values().map(legal).sum::<u64>() > 0 {
            for (name, c) in &judge.counts.steps {
                out.step(name, c.certified, c.alarms);
            }
            out.schedule(&judge.alarms, &case);
            told(&out);
        }
        last = Some(case);
    }
    out.steps.retain(|_, (certified, alarms)| *certified + *alarms > 0);
    out
}
