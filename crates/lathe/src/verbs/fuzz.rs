//! `lathe fuzz`: looks for programs, schedules and passes that the compiler gets wrong.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_fuzz::{AnyCase, Clock, Finding, Mode, Outcome, Setup, find_sources, fuzz, replay, report};
use serde_json::json;

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::{output, progress};

const EXAMPLES: &str = "\
Programs, schedules and what wrong steps might leave are changed at random, and so are graphs and passes, led by which edges of the
compiler they reach, and judged: by the interpreter before and after each step and pass, by the proofs of steps, and by compiled code. What does not hold is made
small and written to a file. The instrumented program is built from Lathe's sources with cargo and a C++ compiler. Ctrl-C stops;
what was found is kept.

Examples:
  lathe fuzz --time 600 --report fuzz.html
  lathe fuzz --time 60 --mode programs --seed 7 --json
  lathe fuzz --replay fuzz/regressions/*.txt";

/// Look for programs and schedules that the compiler gets wrong
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Fuzz {
    /// Seconds to run.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    time: u64,
    /// Count seconds in which processors work for the run, which other work on the machine changes little.
    #[arg(long)]
    processor_time: bool,
    /// Another seed, another run.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// What changes.
    #[arg(long, value_name = "M", default_value = "joint")]
    mode: What,
    /// Write a page with coverage over time and findings.
    #[arg(long, value_name = "F.html")]
    report: Option<PathBuf>,
    /// The folder for cases and findings; one that was used before is gone on with [default: target/fuzz/run of the sources].
    #[arg(long, value_name = "D")]
    output: Option<PathBuf>,
    /// The checkout of Lathe to build from [default: the one around the current folder].
    #[arg(long, value_name = "D")]
    sources: Option<PathBuf>,
    /// Judge the cases of files in place of looking for some.
    #[arg(long, value_name = "F", num_args = 1.., conflicts_with_all = ["report", "output", "sources"])]
    replay: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Programs, and what is done to them.
    Joint,
    /// Programs alone.
    Programs,
    /// What is done to them alone.
    Passes,
    /// Bytes of the text, as libFuzzer does by itself.
    Bytes,
}

impl Fuzz {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        if !self.replay.is_empty() {
            return self.replayed();
        }
        let here = std::env::current_dir().map_err(|e| unreadable(Path::new("."), &e))?;
        let sources = find_sources(self.sources.as_deref().unwrap_or(&here))?;
        let folder = self.output.clone().unwrap_or_else(|| sources.join("target/fuzz/run"));
        let mode = match self.mode {
            What::Joint => Some(Mode::Joint),
            What::Programs => Some(Mode::Programs),
            What::Passes => Some(Mode::Passes),
            What::Bytes => None,
        };
        let clock = if self.processor_time { Clock::Processor } else { Clock::Wall };
        let time = Duration::from_secs(self.time);
        let setup = Setup { sources: &sources, folder: &folder, mode, seed: self.seed, time, clock };
        let (interrupt, mut bar) = (Listening::begin(), progress::Fuzzing::new(time));
        let outcome = fuzz(&setup, &mut |p| {
            bar.show(&p);
            if interrupt.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        drop(bar);
        let outcome = match outcome {
            // Cargo hears of it too, and gives up.
            Err(_) if interrupt.pressed() => return Err(Failure::Interrupted),
            outcome => outcome?,
        };
        if let Some(path) = &self.report {
            let title = format!("lathe fuzz --seed {}", self.seed);
            let page = report(&outcome, &title, &|f| std::fs::read_to_string(f).ok());
            lathe_runtime::write_whole(path, page.as_bytes()).map_err(|e| unwritable(path, &e))?;
        }
        if self.json {
            output::json(&as_json(&outcome))?;
        } else {
            told(&outcome)?;
        }
        if interrupt.pressed() {
            return Err(Failure::Interrupted);
        }
        failed(outcome.findings.len())
    }

    /// Judges the cases of files.
    fn replayed(&self) -> Result<(), Failure> {
        let folder = tempfile::tempdir().map_err(|e| unwritable(&std::env::temp_dir(), &e))?;
        let (mut rows, mut found) = (vec![], 0);
        for path in &self.replay {
            let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
            let case = AnyCase::parse(&text)?;
            let result = replay(&case, folder.path())?;
            found += usize::from(result.is_some());
            let shown = result.as_ref().map(Finding::to_string);
            if !self.json {
                output::line(&format!("{}: {}", path.display(), shown.as_deref().unwrap_or("nothing")))?;
            }
            rows.push(json!({ "file": path.display().to_string(), "found": shown }));
        }
        if self.json {
            output::json(&json!({ "cases": rows }))?;
        }
        failed(found)
    }
}

/// Findings are a failure.
fn failed(findings: usize) -> Result<(), Failure> {
    match findings {
        0 => Ok(()),
        n => {
            let what = format!("{n} cases show something that does not hold");
            let fix = "report them with their files as defects; `lathe fuzz --replay FILE` shows one again";
            Err(Diagnostic::new("finding", Fault::Bug, what).fix(fix).into())
        }
    }
}

fn unreadable(path: &Path, e: &std::io::Error) -> Failure {
    let what = format!("cannot read the file: {e}");
    Diagnostic::new("file", Fault::User, what).at(path.display().to_string()).into()
}

fn unwritable(path: &Path, e: &std::io::Error) -> Failure {
    let what = format!("cannot write the file: {e}");
    Diagnostic::new("output", Fault::Environment, what).at(path.display().to_string()).into()
}

fn as_json(o: &Outcome) -> serde_json::Value {
    let points: Vec<_> = o.coverage.iter().map(|p| json!([p.seconds, p.runs, p.edges])).collect();
    let findings: Vec<_> = o
        .findings
        .iter()
        .map(|f| json!({ "file": f.file.display().to_string(), "what": f.what, "seconds": f.seconds }))
        .collect();
    let step = |(name, s): (&String, &lathe_fuzz::StepCounts)| {
        json!({
            "primitive": name, "applied": s.applied, "refused": s.refused, "certified": s.certified,
            "false_alarms": s.alarms, "caught": s.caught,
        })
    };
    json!({
        "seconds": o.seconds,
        "cases": o.counts.cases,
        "judged": o.counts.defined,
        "compiled": o.counts.compiled,
        "coverage": points,
        "findings": findings,
        "steps": o.counts.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn told(o: &Outcome) -> Result<(), Failure> {
    for f in &o.findings {
        output::line(&format!("{:7.1} s  {}  {}", f.seconds, f.file.display(), f.what))?;
    }
    let steps = |of: fn(&lathe_fuzz::StepCounts) -> u64| o.counts.steps.values().map(of).sum::<u64>();
    output::line(&format!(
        "{:.0} s: {} cases, {} judged, {} programs compiled; {} edges; {} steps applied, {} certified, {} false alarms, {} \
         wrong ones caught; {} findings",
        o.seconds,
        o.counts.cases,
        o.counts.defined,
        o.counts.compiled,
        o.coverage.last().map_or(0, |p| p.edges),
        steps(|s| s.applied),
        steps(|s| s.certified),
        steps(|s| s.alarms),
        steps(|s| s.caught),
        o.findings.len()
    ))
}
