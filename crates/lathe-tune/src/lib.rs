//! Which of a kernel's possible schedules is fastest on this machine, found by measurement.
//!
//! Rules schedule every kernel, and name the choices that they make ([`lathe_schedule::Choice`]). Here other decisions are
//! tried: candidates come from evolution over decisions, a cost model that learns from each measurement (boosted trees over
//! counts of the scheduled program) picks those worth a trial, many are built as one library, and each is timed beside the
//! rules' own schedule, whose results it must reproduce; a step that is not proved to keep the meaning keeps a candidate from that
//! ([`lathe_verify`]). What is found is kept beside the compiled kernels
//! ([`lathe_compile::Findings`]), and every later compilation uses it. What passes and planning choose of a graph is searched
//! above that ([`tune_whole`]).

mod cost;
mod features;
mod measure;
mod plot;
mod random;
mod search;
mod space;
mod task;
mod trees;
mod whole;

pub use cost::{CostModel, Lesson};
pub use plot::plot;
pub use task::{Task, tasks};
pub use whole::{Whole, tune_whole};

use cost::Lessons;
use lathe_compile::{CompileError, Finding, Findings};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_machine::Target;
use lathe_runtime::Pool;
use lathe_verify::Prover;
use random::Random;
use search::Search;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How candidates are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// By evolution, those first that the cost model takes for the fastest. It begins with what was learned on other kernels, where
    /// that is there for the kind of processor, and learns from each trial.
    Learned,
    /// The same, but the cost model knows nothing at first.
    Fresh,
    /// By evolution, those first that take the fewest cycles by counts alone.
    Analytical,
    /// By evolution alone.
    Evolution,
    /// At random.
    Random,
}

/// How to tune.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The machine.
    pub target: &'a Target,
    /// The folder of compiled kernels, where findings are kept.
    pub cache: &'a Path,
    /// Threads that compute.
    pub threads: usize,
    /// Most trials of a kernel, those of earlier runs counted.
    pub trials: usize,
    /// Time after which no new round begins.
    pub time: Option<Duration>,
    /// How candidates are picked.
    pub strategy: Strategy,
    /// Another seed, another search.
    pub seed: u64,
    /// Whether candidates are measured without asking for proofs that their steps keep the meaning.
    pub unproved: bool,
}

/// How far it is.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// The kernel that was measured last.
    pub name: &'a str,
    /// Trials of all kernels, and the most there can be.
    pub trials: (usize, usize),
    /// Seconds of a run in all kernels that were measured: by rule, and now.
    pub seconds: (f64, f64),
}

/// What came of a kernel.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it is, for people.
    pub name: String,
    /// How often a run calls it.
    pub calls: usize,
    /// Seconds of a call, by rule.
    pub rule_s: f64,
    /// Seconds of a call, with what was found.
    pub best_s: f64,
    /// What was found.
    pub finding: Finding,
    /// Trials, those of earlier runs counted.
    pub trials: usize,
    /// Candidates that computed something else than the rules' schedule and were refused.
    pub wrong: usize,
    /// Candidates that were not measured for want of a proof that they keep the meaning.
    pub unproved: usize,
    /// The last step that had none, and why.
    pub unproved_step: Option<String>,
    /// The best time after each trial, over the rules' time.
    pub history: Vec<f64>,
    /// What a cost model can learn of it.
    pub lessons: Vec<Lesson>,
}

/// Why tuning stopped.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// A kernel could not be built or run.
    #[error(transparent)]
    Run(#[from] CompileError),
    /// Findings could not be kept.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl Diagnose for TuneError {
    fn diagnostic(&self) -> Diagnostic {
        match self {
            TuneError::Run(e) => e.diagnostic(),
            TuneError::Write { path, .. } => {
                let d = Diagnostic::new("tune-write", Fault::Environment, self.to_string());
                d.fix(format!(
                    "make {} a folder that can be written",
                    path.parent().unwrap_or(path).display()
                ))
            }
        }
    }
}

/// Tunes kernels, and tells `progress` after each round, which may say to stop: what was tried until then is kept, and the next
/// run goes on from there. What is best is measured once more in the end.
pub fn tune(
    tasks: &[Task],
    options: &Options<'_>,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<Outcome>, TuneError> {
    let start = Instant::now();
    let known = Findings::read(options.cache, options.target);
    let mut book = Book::open(options)?;
    let folder = tempfile::tempdir().map_err(|e| book.failed(e))?;
    let pool = Arc::new(Pool::new(options.threads).map_err(CompileError::from)?);
    let mut random = Random(options.seed);
    let (mut lessons, mut prover) = (Lessons::new(options), Prover::default());
    let mut searches: Vec<Search<'_>> =
        tasks.iter().filter_map(|t| Search::new(t, options, &known, &mut lessons)).collect();
    let in_time = || options.time.is_none_or(|t| start.elapsed() < t);
    let most = searches.len() * options.trials;
    let mut last = None;
    while in_time() {
        // What was never measured first, then where most time may be left to win.
        let open = searches.iter().enumerate().filter(|(_, s)| !s.exhausted && s.count() < options.trials);
        let promise = |s: &Search<'_>| s.weight().map_or(f64::INFINITY, |w| w / (1 + s.stale) as f64);
        let Some((at, _)) = open.max_by(|(_, a), (_, b)| promise(a).total_cmp(&promise(b))) else { break };
        if last.is_some_and(|l| l != at) {
            searches[last.unwrap_or(at)].rest();
        }
        last = Some(at);
        for f in searches[at].round(options, &mut prover, &mut lessons, &mut random, folder.path(), &pool)? {
            book.write(&f)?;
        }
        if progress(&so_far(&searches, at, most)).is_break() {
            return Ok(vec![]);
        }
    }
    let mut out = vec![];
    for at in 0..searches.len() {
        let finding = searches[at].finish(options, &mut prover, folder.path(), &pool)?;
        if progress(&so_far(&searches, at, most)).is_break() {
            return Ok(vec![]);
        }
        let (Some(finding), s) = (finding, &searches[at]) else { continue };
        book.write(&finding)?;
        out.push(Outcome {
            name: s.task.name.clone(),
            calls: s.task.calls,
            rule_s: finding.rule.unwrap_or(finding.seconds),
            best_s: finding.seconds,
            trials: s.count(),
            wrong: s.wrong,
            unproved: s.unproved,
            unproved_step: s.unproved_step.clone(),
            history: s.history.clone(),
            lessons: s.lessons.clone(),
            finding,
        });
    }
    out.sort_by(|a, b| (b.calls as f64 * b.rule_s).total_cmp(&(a.calls as f64 * a.rule_s)));
    Ok(out)
}

/// How far all are, when one was measured.
fn so_far<'s>(searches: &'s [Search<'_>], at: usize, most: usize) -> Progress<'s> {
    let weights = searches.iter().filter_map(|s| Some((s.weight()?, s.best())));
    let seconds = weights.fold((0.0, 0.0), |(rule, now), (w, best)| (rule + w / best, now + w));
    Progress {
        name: &searches[at].task.name,
        trials: (searches.iter().map(Search::count).sum(), most),
        seconds,
    }
}

/// Where findings are written, a line at a time.
struct Book {
    path: PathBuf,
    file: std::fs::File,
}

impl Book {
    fn open(options: &Options<'_>) -> Result<Book, TuneError> {
        let path = Findings::path(options.cache, options.target);
        let open = || {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
            // A line that was cut short ends here.
            file.write_all(b"\n")?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Book { file, path }),
            Err(error) => Err(TuneError::Write { path, error }),
        }
    }

    fn failed(&self, error: std::io::Error) -> TuneError {
        TuneError::Write { path: self.path.clone(), error }
    }

    fn write(&mut self, f: &Finding) -> Result<(), TuneError> {
        let line = f.line() + "\n";
        self.file.write_all(line.as_bytes()).map_err(|e| self.failed(e))
    }
}
