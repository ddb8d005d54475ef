//! `lathe tune`: the fastest schedules on this machine, found by measurement.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use lathe_compile::Draft;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_tune::{Options, Outcome, Strategy, Task, Whole, plot, tasks, tune, tune_whole};
use serde_json::json;

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::options::{CacheOptions, ComputeOptions, ModelOption};
use crate::source::Source;
use crate::{output, progress};

const EXAMPLES: &str = "\
Rules schedule every kernel, and name what they chose; so do passes over the graph and its division into kernels. Here other choices
are tried on this machine; what is faster, and computes the same, is kept in the cache folder, and everything that is compiled later
uses it. Each step of what is tried is proved to keep
the meaning; what is not proved is not tried. Ctrl-C stops: what was tried is kept, and the next run goes on from there. Tune while
nothing else runs.

Examples:
  lathe tune --trials 48
  lathe tune net.onnx --input x.npy --time 600 --plot tuning.svg
  lathe tune product.txt --trials 200 --json";

/// Find the fastest schedules on this machine
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Tune {
    /// A program, F.onnx or a graph's text as `lathe show graph` prints it, or a model, which then stands for --model.
    #[arg(value_name = "F", conflicts_with = "model")]
    file: Option<String>,
    /// An array for a program of ONNX: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F", requires = "file")]
    input: Vec<String>,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
    /// Only kernels with this in the name of their first operator.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Leave the graph as passes and planning make it, and tune its kernels.
    #[arg(long)]
    kernels_only: bool,
    /// Trials of each kernel, those of earlier runs counted.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Seconds after which no more is tried.
    #[arg(long, value_name = "S")]
    time: Option<f64>,
    /// How trials are picked.
    #[arg(long, value_name = "S", default_value = "learned")]
    strategy: How,
    /// Another seed, another search.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Ask for no proofs: try what is not proved to keep the meaning, too.
    #[arg(long)]
    unproved: bool,
    /// Draw the best time after each trial to an SVG file.
    #[arg(long, value_name = "F.svg")]
    plot: Option<PathBuf>,
    /// Append what a cost model can learn to a file, a trial a line, for `cargo run -p lathe-tune --example lessons`.
    #[arg(long, value_name = "F")]
    lessons: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// By evolution, those first that a model of costs takes for the fastest; it knows other kernels, and learns from each trial.
    Learned,
    /// The same with a model that knows nothing at first.
    Fresh,
    /// By evolution, those first that take the fewest cycles by counts alone.
    Analytical,
    /// By evolution alone.
    Evolution,
    /// At random.
    Random,
}

impl Tune {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let (target, cache) = (lathe_runtime::detect_target()?, lathe_models::cache_dir()?);
        let threads = self.compute.threads();
        let options = Options {
            target: &target,
            cache: &cache,
            threads,
            trials: self.trials as usize,
            time: self.time.map(|s| Duration::from_secs_f64(s.clamp(0.0, 1e9))),
            strategy: match self.strategy {
                How::Learned => Strategy::Learned,
                How::Fresh => Strategy::Fresh,
                How::Analytical => Strategy::Analytical,
                How::Evolution => Strategy::Evolution,
                How::Random => Strategy::Random,
            },
            seed: self.seed,
            unproved: self.unproved,
        };
        let (interrupt, mut bar) = (Listening::begin(), progress::Trials::new());
        let mut show = |p: &lathe_tune::Progress<'_>| {
            bar.show(p);
            if interrupt.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (start, mut wholes) = (Instant::now(), vec![]);
        if self.op.is_none() && !self.kernels_only {
            for draft in self.source()?.drafts() {
                wholes.extend(tune_whole(draft, &options, &mut show)?);
            }
        }
        // What was found of the graphs decides which kernels there are.
        let left = options.time.map(|t| t.saturating_sub(start.elapsed()));
        let outcomes = match interrupt.pressed() {
            false => tune(&self.tasks()?, &Options { time: left, ..options }, &mut show)?,
            true => vec![],
        };
        drop(bar);
        if interrupt.pressed() {
            output::message("stopped; what was tried is kept, and the next run goes on from there");
            return Err(Failure::Interrupted);
        }
        if let Some(path) = &self.plot {
            std::fs::write(path, plot(&outcomes)).map_err(|e| unwritable(path, &e))?;
        }
        if let Some(path) = &self.lessons {
            append(path, &outcomes).map_err(|e| unwritable(path, &e))?;
        }
        if self.json { output::json(&as_json(&wholes, &outcomes, threads)) } else { told(&wholes, &outcomes) }
    }

    /// What was given, as it is compiled now.
    fn source(&self) -> Result<Source, Failure> {
        let name = self.file.as_deref().unwrap_or(self.model.name());
        Source::open(name, &self.input, &self.compute, &self.cache)?.whole(name)
    }

    /// The kernels of what was given.
    fn tasks(&self) -> Result<Vec<Task>, Failure> {
        let of = |d: &Draft| tasks(&d.kernels, &d.graph.dims);
        let mut all: Vec<Task> = self.source()?.drafts().iter().flat_map(of).collect();
        if let Some(op) = &self.op {
            all.retain(|t| t.name.contains(op.as_str()));
        }
        Ok(all)
    }
}

fn unwritable(path: &Path, e: &std::io::Error) -> Failure {
    let what = format!("cannot write it: {e}");
    Diagnostic::new("output", Fault::Environment, what).at(path.display().to_string()).into()
}

/// Writes what was learned behind what is there: the kernel's key and first operator, and the trial.
fn append(path: &Path, outcomes: &[Outcome]) -> std::io::Result<()> {
    let mut text = String::new();
    for o in outcomes {
        let operator = o.name.split_whitespace().nth(1).unwrap_or("none");
        let lines = o.lessons.iter().map(|l| format!("{} {operator} {l}\n", o.finding.key));
        text.extend(lines);
    }
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

/// Seconds of a run in all kernels: by rule, and now.
fn totals(outcomes: &[Outcome]) -> (f64, f64) {
    let sum = |of: fn(&Outcome) -> f64| outcomes.iter().map(|o| o.calls as f64 * of(o)).sum();
    (sum(|o| o.rule_s), sum(|o| o.best_s))
}

fn as_json(wholes: &[Whole], outcomes: &[Outcome], threads: usize) -> serde_json::Value {
    let row = |o: &Outcome| {
        json!({
            "kernel": o.name, "calls": o.calls, "rule_s": o.rule_s, "best_s": o.best_s, "trials": o.trials,
            "wrong": o.wrong, "unproved": o.unproved, "unproved_step": o.unproved_step, "decisions": o.finding.decisions, "history": o.history,
        })
    };
    let whole = |w: &Whole| {
        json!({
            "choices": w.choices, "tried": w.tried, "rule_s": w.rule_s, "best_s": w.best_s, "decisions": w.decisions,
        })
    };
    let (rule, best) = totals(outcomes);
    json!({
        "graphs": wholes.iter().map(whole).collect::<Vec<_>>(), "threads": threads, "rule_s": rule, "best_s": best, "kernels": outcomes.iter().map(row).collect::<Vec<_>>(),
    })
}

fn told(wholes: &[Whole], outcomes: &[Outcome]) -> Result<(), Failure> {
    for w in wholes {
        let decisions: Vec<String> =
            w.decisions.iter().map(|(name, value)| format!("{name}={value}")).collect();
        output::line(&format!(
            "{:9.4} ms -> {:9.4} ms  {:4.2}x  the graph, {} choices, {} answers tried  {}",
            1e3 * w.rule_s,
            1e3 * w.best_s,
            w.rule_s / w.best_s,
            w.choices,
            w.tried,
            decisions.join(" "),
        ))?;
    }
    for o in outcomes {
        let decisions: Vec<String> =
            o.finding.decisions.iter().map(|(name, value)| format!("{name}={value}")).collect();
        output::line(&format!(
            "{:9.4} ms -> {:9.4} ms  {:4.2}x  {:3} x  {:3} trials  {}  {}",
            1e3 * o.rule_s,
            1e3 * o.best_s,
            o.rule_s / o.best_s,
            o.calls,
            o.trials,
            o.name,
            decisions.join(" "),
        ))?;
        if o.wrong > 0 {
            output::message(&format!(
                "{} candidates of {} computed something else and were refused",
                o.wrong, o.name
            ));
        }
        if let Some(step) = &o.unproved_step {
            output::message(&format!(
                "{} candidates of {} were not measured, as not every step is proved: {step}",
                o.unproved, o.name
            ));
        }
    }
    let (rule, best) = totals(outcomes);
    match outcomes {
        [] => output::line("nothing to choose in these kernels"),
        _ => output::line(&format!(
            "in all {:.3} ms -> {:.3} ms a run ({:.2}x)",
            1e3 * rule,
            1e3 * best,
            rule / best
        )),
    }
}
