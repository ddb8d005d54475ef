//! A run of the fuzzer from outside: builds the instrumented program, starts it, reads what it tells, and finds out which case it
//! was where compiled code ended the process.

use crate::case::AnyCase;
use crate::mutate::Mode;
use crate::oracle::{Counts, Finding, Kind, StepCounts};
use crate::seeds;
use crate::session::{FOLDERS, MARK, written};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_runtime::{RuntimeError, processor_times};
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The compiler's flags that put counters on every edge, for libFuzzer.
const COUNTERS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table";

/// Longest text of a case, bytes.
const LONGEST: usize = 16_000;

/// Seconds after which a case counts as endless; a finding is made small in less.
const ENDLESS: u64 = 300;

/// How long it waits for a line before it looks again.
const LOOK: Duration = Duration::from_millis(200);

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// The sources are not here.
    #[error("the sources are not in {0} or above it")]
    NoSources(PathBuf),
    /// The instrumented program cannot be built.
    #[error("the instrumented program cannot be built: {0}")]
    Build(String),
    /// It does not run.
    #[error("the instrumented program ended: {0}")]
    Ended(String),
    /// The machine fails.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Diagnose for FuzzError {
    fn diagnostic(&self) -> Diagnostic {
        let of = |fix: &str| Diagnostic::new("fuzz", Fault::Environment, self.to_string()).fix(fix);
        match self {
            FuzzError::NoSources(_) => of("run in a checkout of Lathe, or name one by --sources"),
            FuzzError::Build(_) => of("it takes cargo and a C++ compiler, and the crate libfuzzer-sys"),
            FuzzError::Ended(_) => of("see what it said, or try another seed"),
            FuzzError::Runtime(e) => e.diagnostic(),
        }
    }
}

/// The checkout that a folder is in.
pub fn find_sources(from: &Path) -> Result<PathBuf, FuzzError> {
    let is = |p: &&Path| p.join("fuzz/Cargo.toml").is_file() && p.join("crates/lathe-fuzz").is_dir();
    let found = from.ancestors().find(is).map(Path::to_path_buf);
    found.ok_or_else(|| FuzzError::NoSources(from.into()))
}

/// What a run is to do.
pub struct Setup<'a> {
    /// The checkout.
    pub sources: &'a Path,
    /// Where cases and findings go.
    pub folder: &'a Path,
    /// What changes; nothing for changes of bytes, which know nothing of programs.
    pub mode: Option<Mode>,
    /// Another seed, another run.
    pub seed: u64,
    /// How long it takes.
    pub time: Duration,
    /// What its time is counted by.
    pub clock: Clock,
}

/// What time is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The one on the wall.
    Wall,
    /// Processors that work for the run, the C compiler's for it too: other work on the machine changes little.
    Processor,
}

/// The time of a run.
struct Elapsed {
    clock: Clock,
    start: Instant,
    /// What processors had worked for this process's children before.
    before: Duration,
}

impl Elapsed {
    fn begin(clock: Clock) -> Result<Elapsed, FuzzError> {
        let times = processor_times(std::process::id());
        if times.is_none() && clock == Clock::Processor {
            return Err(FuzzError::Ended(
                "this system does not say what a process takes of the processor".into(),
            ));
        }
        let before = times.map_or(Duration::ZERO, |(_, ended)| ended);
        Ok(Elapsed { clock, start: Instant::now(), before })
    }

    /// What processors worked for children: those that ended, and one that runs or was not waited for.
    fn worked(&self, child: Option<u32>) -> Duration {
        let ended = processor_times(std::process::id()).map_or(self.before, |(_, ended)| ended);
        let runs = child.and_then(processor_times).unwrap_or_default();
        ended.saturating_sub(self.before) + runs.0 + runs.1
    }

    fn now(&self, child: Option<u32>) -> Duration {
        match self.clock {
            Clock::Wall => self.start.elapsed(),
            Clock::Processor => self.worked(child),
        }
    }
}

/// Coverage at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Since the start.
    pub seconds: f64,
    /// Runs of cases so far.
    pub runs: u64,
    /// Edges of the program that were reached.
    pub edges: u64,
}

/// A finding, made small.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its file.
    pub file: PathBuf,
    /// What it is, in a line.
    pub what: String,
    /// When it was found, seconds since the start.
    pub seconds: f64,
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Coverage over time.
    pub coverage: Vec<Point>,
    /// Findings, in order.
    pub findings: Vec<Found>,
    /// What was counted.
    pub counts: Counts,
    /// How long it took, seconds.
    pub seconds: f64,
}

/// How far a run is.
pub enum Progress<'a> {
    /// The program is being built.
    Builds,
    /// It runs.
    Runs(&'a Outcome),
}

/// Runs the fuzzer; `watch` is told often and may end it. What was found until then is kept.
pub fn fuzz(setup: &Setup, watch: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Outcome, FuzzError> {
    let program = build(setup.sources, watch)?;
    for name in FOLDERS {
        let path = setup.folder.join(name);
        std::fs::create_dir_all(&path).map_err(|e| RuntimeError::io("make", &path, &e))?;
    }
    let graphs = seeds::graphs_of_sources(setup.sources).into_iter().map(AnyCase::Graph);
    let programs = seeds::of_sources(setup.sources).into_iter().map(AnyCase::Tensor);
    for (i, case) in programs.chain(graphs).enumerate() {
        written(&setup.folder.join("corpus").join(format!("seed-{i}.txt")), &case)?;
    }
    let (mut out, start, mut turn) = (Outcome::default(), Elapsed::begin(setup.clock)?, 0);
    while let Some(left) = setup.time.checked_sub(start.now(None)).filter(|t| t.as_secs() > 0) {
        turn += 1;
        if once(setup, &program, left, &start, turn, &mut out, watch)?.is_break() {
            break;
        }
    }
    out.seconds = start.now(None).as_secs_f64();
    Ok(out)
}

/// Builds the instrumented program.
fn build(sources: &Path, watch: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<PathBuf, FuzzError> {
    let no_cargo = |e: std::io::Error| FuzzError::Build(format!("cargo does not start: {e}"));
    let version = Command::new("rustc").arg("-vV").output().map_err(no_cargo)?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    let host = host.ok_or_else(|| FuzzError::Build("rustc does not say what it compiles for".into()))?;
    let _ = watch(Progress::Builds);
    let target = sources.join("target/fuzz");
    let output = Command::new("cargo")
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(sources.join("fuzz/Cargo.toml"))
        // With a target named, the flags are for it alone and not for build scripts.
        .args(["--target", host, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", COUNTERS)
        .output()
        .map_err(no_cargo)?;
    match output.status.success() {
        true => Ok(target.join(host).join("release/lathe-fuzz-target")),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let line = said.lines().find(|l| l.contains("error")).or(said.lines().last());
            Err(FuzzError::Build(line.unwrap_or_default().trim().into()))
        }
    }
}

/// Runs the program once, until its time is over, somebody ends it, or compiled code does.
fn once(
    setup: &Setup,
    program: &Path,
    left: Duration,
    start: &Elapsed,
    turn: u64,
    out: &mut Outcome,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, FuzzError> {
    let seed = setup.seed.wrapping_mul(1000).wrapping_add(turn) % (1 << 31);
    let mode = setup.mode.and_then(|m| Mode::ALL.iter().find(|(n, _)| *n == m)).map_or("bytes", |(_, n)| n);
    let artifacts = format!("{}/running/", setup.folder.display());
    // libFuzzer knows the clock on the wall alone; 0 is no end.
    let time = if setup.clock == Clock::Wall { left.as_secs() } else { 0 };
    let mut child = Command::new(program)
        .arg(setup.folder.join("corpus"))
        .args([
            format!("-seed={seed}"),
            format!("-max_total_time={time}"),
            format!("-max_len={LONGEST}"),
            format!("-timeout={ENDLESS}"),
            format!("-artifact_prefix={artifacts}"),
        ])
        .args(["-len_control=0", "-reload=0", "-rss_limit_mb=8192", "-ignore_remaining_args=1"])
        .arg(setup.folder)
        .arg(mode)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| FuzzError::Ended(e.to_string()))?;
    let stderr = child.stderr.take().expect("it was asked for");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut line = vec![];
        while reader.by_ref().read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    let (mut last, mut stopped) = (String::new(), None);
    let (mut idle, mut worked) = (0, Duration::ZERO);
    let (base, id) = (out.counts.clone(), Some(child.id()));
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                idle = 0;
                read(&line, setup.folder, start.now(id), &base, out, &mut last);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => idle += 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        out.seconds = start.now(id).as_secs_f64();
        let works = start.worked(id);
        if works > worked {
            (idle, worked) = (0, works);
        }
        // It may wait for itself for ever where its alarm comes while it has a lock, as it does when it was halted for long. Looks are
        // counted, as whoever looks may have been halted too.
        let hangs = LOOK * idle > Duration::from_secs(ENDLESS);
        let over = setup.clock == Clock::Processor && start.now(id) >= setup.time;
        let ends = watch(Progress::Runs(out)).is_break() || over;
        if stopped.is_none() && (ends || hangs) {
            stopped = Some(if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
            // It may have heard of it already.
            let _ = child.kill();
        }
    }
    let status = child.wait().map_err(|e| FuzzError::Ended(e.to_string()))?;
    if let Some(next) = stopped {
        return Ok(next);
    }
    let running = running(setup.folder);
    match status.code() {
        Some(0) => Ok(ControlFlow::Break(())),
        _ if !running.is_empty() => {
            for path in running {
                if let Some(found) = ended_by(program, setup.folder, &path, out.findings.len())? {
                    let seconds = start.now(None).as_secs_f64();
                    out.findings.push(Found { seconds, ..found });
                }
                // It would be tried again.
                let _ = std::fs::remove_file(&path);
            }
            Ok(ControlFlow::Continue(()))
        }
        _ => Err(FuzzError::Ended(last)),
    }
}

/// Reads a line of the program: libFuzzer's own, or a session's.
fn read(line: &str, folder: &Path, now: Duration, base: &Counts, out: &mut Outcome, last: &mut String) {
    let seconds = now.as_secs_f64();
    if let Some(rest) = line.strip_prefix(MARK) {
        if let Some((name, what)) = rest.strip_prefix("found ").and_then(|r| r.split_once(' ')) {
            let file = folder.join("findings").join(format!("{name}.txt"));
            out.findings.push(Found { file, what: what.into(), seconds });
        } else if let Some(counts) = rest.strip_prefix("counts ").and_then(|r| read_counts(r, base)) {
            out.counts = counts;
        } else {
            *last = rest.into();
        }
        return;
    }
    let after =
        |what: &str| -> Option<u64> { line.split_once(what)?.1.split_whitespace().next()?.parse().ok() };
    let runs = line.strip_prefix('#').and_then(|r| r.split_whitespace().next()?.parse().ok());
    if let (Some(runs), Some(edges)) = (runs, after(" cov: ")) {
        out.coverage.push(Point { seconds, runs, edges });
    } else if line.contains("ERROR") {
        *last = line.into();
    }
}

/// The counts of a session's line, added to those before.
fn read_counts(text: &str, base: &Counts) -> Option<Counts> {
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<u64>().ok();
    let mut out = base.clone();
    out.cases += number()?;
    out.defined += number()?;
    out.compiled += number()?;
    for word in words {
        let (name, rest) = word.split_once(':')?;
        let n: Vec<u64> = rest.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [applied, refused, certified, alarms, caught] = n.as_slice() else { return None };
        let s: &mut StepCounts = out.steps.entry(name.into()).or_default();
        s.applied += applied;
        s.refused += refused;
        s.certified += certified;
        s.alarms += alarms;
        s.caught += caught;
    }
    Some(out)
}

/// Cases whose code was being run, and what libFuzzer wrote of the end of the process.
fn running(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("running"));
    let mut all: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// Runs one case in a process of its own; a finding where it ends that process.
fn ended_by(program: &Path, folder: &Path, path: &Path, number: usize) -> Result<Option<Found>, FuzzError> {
    let status = Command::new(program)
        .arg(path)
        .args([&format!("-timeout={ENDLESS}"), "-ignore_remaining_args=1"])
        .arg(folder)
        .arg("replay")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| FuzzError::Ended(e.to_string()))?;
    if status.success() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|e| RuntimeError::io("read", path, &e))?;
    let Ok(mut case) = AnyCase::parse(&text) else { return Ok(None) };
    let message = "the process ends: compiled code leaves its memory, or a case has no end".to_string();
    let what = Finding { kind: Kind::Code, place: "process".into(), message }.to_string();
    case.note(&what);
    let file = folder.join("findings").join(format!("process-{number}.txt"));
    written(&file, &case)?;
    Ok(Some(Found { file, what, seconds: 0.0 }))
}
