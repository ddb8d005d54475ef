//! `lathe verify`: what proves that schedules keep the meaning, as a report and as a file that is checked on its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_ir::tensor::Kernel;
use lathe_schedule::{Schedule, Tag};
use lathe_verify::{Accepted, Checker, Derivation, Derived, Prover, Refusal, derivations};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::options::{CacheOptions, ComputeOptions};
use crate::output;
use crate::source::{Source, program, replayed, text};

const EXAMPLES: &str = "\
Each step of a schedule is proved from the programs before and after it, and each proof is checked. A file of the proofs holds the
programs too, so to check it takes neither the scheduler nor the search for proofs. What a proof assumes of the arguments, besides
what the program before says of them, stands below its step: whoever calls the kernel promises it.
Times are those of the clock: on a busy machine some checks wait for other processes.

Examples:
  lathe verify
  lathe verify smollm2-135m --output proofs.txt
  lathe verify smollm2-135m --check proofs.txt
  lathe verify net.onnx --input x.npy
  lathe verify program.txt --schedule steps.txt --output proofs.txt
  lathe verify program.txt --check proofs.txt --json";

/// Prove that schedules keep the meaning of their programs
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// A model as other verbs take it, F.onnx, or a graph's text, whose schedules are verified as the compiler makes them; or a
    /// file with the text of a tensor program, as `lathe show tensor` prints it.
    #[arg(value_name = "MODEL|PROGRAM", default_value = "smollm2-135m")]
    what: String,
    /// An array for a program of ONNX: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F")]
    input: Vec<String>,
    /// The steps of the program's schedule, one a line.
    #[arg(long, value_name = "F", conflicts_with = "check")]
    schedule: Option<PathBuf>,
    /// Write the proofs to a file.
    #[arg(long, value_name = "F", conflicts_with = "check")]
    output: Option<PathBuf>,
    /// Check the proofs of a file in place of looking for some.
    #[arg(long, value_name = "F")]
    check: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is known of a step.
struct Row {
    step: String,
    result: Result<Accepted, Refusal>,
    proofs: usize,
    /// How long the search took, where there was one.
    search: Option<Duration>,
    check: Duration,
}

/// What is known of a program's steps.
struct Report {
    name: String,
    rows: Vec<Row>,
}

impl Verify {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let program = program(Path::new(&self.what))?;
        if self.schedule.is_some() && program.is_none() {
            return Err(Failure::usage("--schedule is of a program; a model has its own schedules"));
        }
        let reports = match (&self.check, program) {
            (Some(file), Some(program)) => {
                let mut all = derivations(&text(file)?)?;
                all.retain(|d| d.original == program);
                if all.is_empty() {
                    return Err(lacks(file, &program.name));
                }
                all.iter().map(|d| rechecked(program.name.to_string(), d)).collect()
            }
            (Some(file), None) => {
                let all = derivations(&text(file)?)?;
                let one = |(name, s): (String, Schedule)| {
                    let same = |d: &&Derivation| d.original == *s.original() && d.result() == s.kernel();
                    all.iter()
                        .find(same)
                        .map(|d| rechecked(name.clone(), d))
                        .ok_or_else(|| lacks(file, &name))
                };
                self.schedules()?.into_iter().map(one).collect::<Result<Vec<_>, _>>()?
            }
            (None, Some(program)) => {
                let Some(schedule) = &self.schedule else {
                    return Err(Failure::usage(
                        "a program needs --schedule F, the steps to prove, or --check F",
                    ));
                };
                let name = program.name.to_string();
                self.proved(vec![(name, replayed(program, schedule)?)])?
            }
            (None, None) => self.proved(self.schedules()?)?,
        };
        if self.json {
            output::json(&as_json(&reports))?
        } else {
            told(&reports)?
        }
        let steps: Vec<&Row> = reports.iter().flat_map(|r| &r.rows).collect();
        match unproved(&reports) {
            lacking if lacking.is_empty() => Ok(()),
            lacking => {
                let each: Vec<String> = lacking.iter().map(|(name, n)| format!("{n} of '{name}'")).collect();
                let count = lacking.values().sum::<usize>();
                let what = format!("{count} of {} steps are not proved: {}", steps.len(), each.join(", "));
                let fix =
                    "leave those steps out, or report them as a defect where they are of the compiler's own";
                Err(Diagnostic::new("unproved", Fault::User, what).fix(fix).into())
            }
        }
    }

    /// The schedules of the kernels of a program or a model.
    fn schedules(&self) -> Result<Vec<(String, Schedule)>, Failure> {
        let source = Source::open(&self.what, &self.input, &self.compute, &self.cache)?.whole(&self.what)?;
        let overviews = source.overviews();
        let kernels = overviews.iter().flat_map(|o| o.kernels);
        Ok(kernels.map(|k| (format!("{} ({})", k.symbol, k.class), k.schedule.clone())).collect())
    }

    /// Finds and checks the proofs of schedules, and writes them where all are proved and it was asked for.
    fn proved(&self, schedules: Vec<(String, Schedule)>) -> Result<Vec<Report>, Failure> {
        let (mut prover, mut checker, mut reports, mut all) =
            (Prover::default(), Checker::default(), vec![], vec![]);
        for (name, s) in schedules {
            let mut derivation = Derivation { original: s.original().clone(), steps: vec![] };
            let mut rows = vec![];
            for a in s.steps() {
                let start = Instant::now();
                let certificate = prover.certify(&a.before, &a.after, &a.step);
                let (search, start) = (start.elapsed(), Instant::now());
                let proofs = certificate.as_ref().map_or(0, |c| c.proofs.len());
                let result = certificate.and_then(|certificate| {
                    let accepted = checker.accept(&a.before, &a.after, &certificate)?;
                    derivation.steps.push(Derived {
                        step: a.step.clone(),
                        after: a.after.clone(),
                        certificate,
                    });
                    Ok(accepted)
                });
                rows.push(Row {
                    step: a.step.clone(),
                    result,
                    proofs,
                    search: Some(search),
                    check: start.elapsed(),
                });
            }
            all.extend((rows.len() == derivation.steps.len()).then_some(derivation));
            reports.push(Report { name, rows });
        }
        if let Some(path) = self.output.as_deref().filter(|_| all.len() == reports.len()) {
            std::fs::write(path, Derivation::file(&all)).map_err(|e| {
                let what = format!("cannot write the proofs: {e}");
                Diagnostic::new("output", Fault::Environment, what).at(path.display().to_string())
            })?;
        }
        Ok(reports)
    }
}

/// Checks the proofs of a derivation.
fn rechecked(name: String, d: &Derivation) -> Report {
    let mut checker = Checker::default();
    let one = |(before, s): (&Kernel, &Derived)| {
        let start = Instant::now();
        let result = checker.accept(before, &s.after, &s.certificate);
        Row {
            step: s.step.clone(),
            result,
            proofs: s.certificate.proofs.len(),
            search: None,
            check: start.elapsed(),
        }
    };
    Report { name, rows: d.pairs().map(one).collect() }
}

fn lacks(path: &Path, name: &str) -> Failure {
    let what = format!("the file has no proofs of '{name}', or of another schedule of it");
    let fix = "prove it anew with --output";
    Diagnostic::new("certificate", Fault::User, what).at(path.display().to_string()).fix(fix).into()
}

/// The loosest tag of steps that are all proved.
fn worst(rows: &[Row]) -> Option<Tag> {
    rows.iter().try_fold(Tag::Bitwise, |worst, r| Some(worst.max(r.result.as_ref().ok()?.tag)))
}

/// What proofs of steps assume, each once.
fn assumed(rows: &[Row]) -> Vec<&str> {
    let mut out: Vec<&str> = vec![];
    for what in rows.iter().filter_map(|r| r.result.as_ref().ok()).flat_map(|a| &a.assumes) {
        if !out.contains(&what.as_str()) {
            out.push(what);
        }
    }
    out
}

/// How many steps of each primitive are not proved.
fn unproved(reports: &[Report]) -> BTreeMap<&str, usize> {
    let mut out = BTreeMap::new();
    for row in reports.iter().flat_map(|r| &r.rows).filter(|r| r.result.is_err()) {
        *out.entry(row.step.split_whitespace().next().unwrap_or_default()).or_insert(0) += 1;
    }
    out
}

/// How long checks of steps take: of all steps half take at most the first, 99 of 100 the second, and one the last.
struct Spread<'r> {
    half: Duration,
    most: Duration,
    longest: (&'r str, &'r Row),
}

/// The spread of the checks of steps, where there are any.
fn spread(reports: &[Report]) -> Option<Spread<'_>> {
    let rows = reports.iter().flat_map(|r| r.rows.iter().map(move |row| (r.name.as_str(), row)));
    let mut all: Vec<(&str, &Row)> = rows.collect();
    all.sort_by_key(|(_, row)| row.check);
    // The first that is at least as long as so many hundredths of all.
    let at = |hundredths: usize| all.get((all.len() * hundredths).div_ceil(100).saturating_sub(1));
    Some(Spread { half: at(50)?.1.check, most: at(99)?.1.check, longest: *all.last()? })
}

fn milliseconds(d: Duration) -> f64 {
    1e3 * d.as_secs_f64()
}

fn as_json(reports: &[Report]) -> Value {
    let row = |r: &Row| {
        json!({
            "step": r.step,
            "tag": r.result.as_ref().ok().map(|a| a.tag.to_string()),
            "assumes": r.result.as_ref().map_or(&[][..], |a| &a.assumes),
            "refused": r.result.as_ref().err().map(Refusal::to_string),
            "proofs": r.proofs,
            "search_ms": r.search.map(milliseconds),
            "check_ms": milliseconds(r.check),
        })
    };
    let program = |r: &Report| {
        let steps: Vec<Value> = r.rows.iter().map(row).collect();
        let tag = worst(&r.rows).map(|t| t.to_string());
        json!({ "name": r.name, "tag": tag, "assumes": assumed(&r.rows), "steps": steps })
    };
    let programs: Vec<Value> = reports.iter().map(program).collect();
    let steps = reports.iter().map(|r| r.rows.len()).sum::<usize>();
    let spread = spread(reports).map(|s| {
        let (p50, p99, max) = (milliseconds(s.half), milliseconds(s.most), milliseconds(s.longest.1.check));
        json!({ "p50": p50, "p99": p99, "max": max, "program": s.longest.0, "step": s.longest.1.step })
    });
    json!({ "programs": programs, "steps": steps, "unproved": unproved(reports), "check_ms": spread })
}

fn told(reports: &[Report]) -> Result<(), Failure> {
    for r in reports {
        let worst = worst(&r.rows).map_or("not proved".into(), |t| t.to_string());
        output::line(&format!("{}: {worst}", r.name))?;
        for row in &r.rows {
            let searched =
                row.search.map_or(String::new(), |d| format!("{:8.3} ms found, ", milliseconds(d)));
            let checked = milliseconds(row.check);
            output::line(&match &row.result {
                Ok(accepted) => format!(
                    "  {:40} {:13} {:4} proofs, {searched}{checked:8.3} ms checked",
                    row.step,
                    accepted.tag.to_string(),
                    row.proofs
                ),
                Err(e) => format!("  {:40} {e}", row.step),
            })?;
            for what in row.result.iter().flat_map(|a| &a.assumes) {
                output::line(&format!("    assumes: {what}"))?;
            }
        }
    }
    let rows = || reports.iter().flat_map(|r| &r.rows);
    let sum = |of: fn(&Row) -> Option<Duration>| rows().filter_map(of).reduce(|a, b| a + b);
    let found =
        sum(|r| r.search).map_or(String::new(), |d| format!("{:.1} ms to find them, ", milliseconds(d)));
    output::line(&format!(
        "{} programs, {} steps, {} proofs; {found}{:.1} ms to check them",
        reports.len(),
        rows().count(),
        rows().map(|r| r.proofs).sum::<usize>(),
        milliseconds(sum(|r| Some(r.check)).unwrap_or_default()),
    ))?;
    let Some(s) = spread(reports) else { return Ok(()) };
    output::line(&format!(
        "the check of a step: {:.3} ms at the median, {:.3} ms at 99 of 100, at most {:.3} ms ('{}' of {})",
        milliseconds(s.half),
        milliseconds(s.most),
        milliseconds(s.longest.1.check),
        s.longest.1.step,
        s.longest.0,
    ))
}
