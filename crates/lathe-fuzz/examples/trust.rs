//! The study of trust, from the root of a checkout: what proofs of schedule steps are worth.
//! `cargo run --release -p lathe-fuzz --example trust -- [--runs 1000] [--tries 10000] [--schedules 2000] [--seed 1] [--json]`.
//!
//! It ends with 1 where a wrong step is accepted, where one of the table is not seen to be wrong, or where one in a hundred legal
//! schedules, or more, has a step without a proof.

use lathe_fuzz::study::{Mutant, Seen, Wrong, alarms, corrupt, judge, mutants};
use lathe_fuzz::{Random, seeds};
use lathe_verify::{Certificate, Prover};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// What is counted of a primitive's rows.
#[derive(Default)]
struct Row {
    wrong: usize,
    differ: usize,
    same: usize,
    refused: usize,
    tried: usize,
    by_proof: usize,
    accepted: usize,
}

struct Options {
    runs: u64,
    tries: usize,
    schedules: usize,
    seed: u64,
    json: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options { runs: 1000, tries: 10_000, schedules: 2000, seed: 1, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--json" {
            o.json = true;
            continue;
        }
        let value = args.next().and_then(|v| v.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--runs" => o.runs = value?,
            "--tries" => o.tries = value? as usize,
            "--schedules" => o.schedules = value? as usize,
            "--seed" => o.seed = value?,
            _ => {
                return Err(format!(
                    "there is no option '{arg}': --runs N, --tries N, --schedules N, --seed N, --json"
                ));
            }
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    match options().and_then(|o| study(&o)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("trust: {e}");
            ExitCode::from(2)
        }
    }
}

/// Does all of it; whether all holds.
fn study(o: &Options) -> Result<bool, String> {
    let cases = seeds::of_sources(Path::new("."));
    if cases.iter().all(|c| c.moves.is_empty()) {
        return Err("there are no file tests here; run it in the root of a checkout of Lathe".into());
    }
    let (mut prover, mut random) = (Prover::default(), Random::new(o.seed));
    let all = mutants().map(|m| Ok((m, Wrong::make(m, &mut prover)?)));
    let all: Vec<(&Mutant, Wrong)> = all.collect::<Result<_, String>>()?;
    let right: Vec<Certificate> = all.iter().filter_map(|(_, w)| Some(w.right.clone()?.1)).collect();
    let (mut rows, mut faults, mut same) = (BTreeMap::<&str, Row>::new(), vec![], vec![]);
    let each = o.tries.div_ceil(all.len());
    for (m, wrong) in &all {
        let row = rows.entry(m.primitive()).or_default();
        let verdict = judge(m, wrong, o.runs, &mut prover)?;
        if let Seen::Never(why) = m.seen {
            row.same += 1;
            same.push((m.what, why, verdict.accepted.is_some()));
            if let Some(run) = verdict.differs {
                faults.push(format!("{}: it was said to change nothing, but run {run} differs", m.what));
            }
            continue;
        }
        row.wrong += 1;
        row.differ += usize::from(verdict.differs.is_some());
        row.refused += usize::from(verdict.accepted.is_none());
        if verdict.differs.is_none() {
            faults.push(format!("{}: none of {} runs differs", m.what, o.runs));
        }
        faults.extend(verdict.accepted.map(|c| format!("{}: certified\n{c}", m.what)));
        let corrupted = corrupt(wrong, &right, each, &mut prover, &mut random);
        row.tried += corrupted.tried;
        row.by_proof += corrupted.by_proof;
        row.accepted += corrupted.accepted.len();
        faults.extend(corrupted.accepted.iter().map(|c| format!("{}: accepted\n{c}", m.what)));
    }
    let legal = alarms(&cases, o.schedules, &mut random, &mut |a| {
        if a.schedules.is_multiple_of(200) {
            eprintln!("{} schedules, {} steps", a.schedules, a.total().0);
        }
    });
    faults.extend(legal.findings.iter().map(|(case, finding)| format!("{finding}\n{case}")));
    let (steps, false_alarms) = legal.total();
    if o.json {
        let row = |(name, r): (&&str, &Row)| {
            json!({
                "primitive": name, "wrong": r.wrong, "differ": r.differ, "same": r.same, "refused": r.refused,
                "certificates": r.tried, "refused_by_proof": r.by_proof, "accepted": r.accepted,
            })
        };
        let step = |(name, (certified, alarms)): (&String, &(u64, u64))| json!({ "primitive": name, "certified": certified, "false_alarms": alarms });
        let reason = |(why, (times, shown)): (&String, &(u64, String))| json!({ "why": why, "times": times, "shown": shown });
        let unchanged = |(what, why, proved): &(&str, &str, bool)| json!({ "what": what, "why": why, "certified": proved });
        let whole = json!({
            "wrong_steps": rows.iter().map(row).collect::<Vec<Value>>(),
            "same": same.iter().map(unchanged).collect::<Vec<Value>>(),
            "legal_steps": legal.steps.iter().map(step).collect::<Vec<Value>>(),
            "schedules": legal.schedules, "schedules_with_false_alarms": legal.alarmed,
            "steps": steps, "false_alarms": false_alarms,
            "reasons": legal.reasons.iter().map(reason).collect::<Vec<Value>>(),
            "faults": faults,
        });
        println!("{whole:#}");
    } else {
        println!(
            "{:12} {:>6} {:>7} {:>8} {:>13} {:>9} {:>9}",
            "primitive", "wrong", "differ", "refused", "certificates", "by proof", "accepted"
        );
        let mut sum = Row::default();
        for (name, r) in &rows {
            line(name, r);
            sum.wrong += r.wrong;
            sum.differ += r.differ;
            sum.refused += r.refused;
            sum.tried += r.tried;
            sum.by_proof += r.by_proof;
            sum.accepted += r.accepted;
        }
        line("all", &sum);
        println!("\nchanges that are none of the meaning, in {} runs each:", o.runs);
        for (what, why, proved) in &same {
            println!("  {what}: {why} ({})", if *proved { "certified" } else { "refused" });
        }
        println!("\n{:12} {:>9} {:>12}", "legal steps", "certified", "false alarms");
        for (name, (certified, alarms)) in &legal.steps {
            println!("{name:12} {certified:>9} {alarms:>12} {:6.2}%", percent(*alarms, certified + alarms));
        }
        println!(
            "{:12} {:>9} {false_alarms:>12} {:6.2}%",
            "all",
            steps - false_alarms,
            percent(false_alarms, steps)
        );
        let (n, of) = (legal.alarmed as u64, legal.schedules as u64);
        println!("{n} of {of} schedules have one, {:.2}%", percent(n, of));
        let mut reasons: Vec<_> = legal.reasons.iter().collect();
        reasons.sort_by_key(|(_, (n, _))| std::cmp::Reverse(*n));
        for (why, (n, _)) in reasons.iter().take(12) {
            println!("{n:5} {why}");
        }
        for f in &faults {
            println!("\n{f}");
        }
    }
    Ok(faults.is_empty() && legal.alarmed * 100 < legal.schedules)
}

fn percent(n: u64, of: u64) -> f64 {
    100.0 * n as f64 / of.max(1) as f64
}

fn line(name: &str, r: &Row) {
    println!(
        "{name:12} {:>6} {:>7} {:>8} {:>13} {:>9} {:>9}",
        r.wrong, r.differ, r.refused, r.tried, r.by_proof, r.accepted
    );
}
