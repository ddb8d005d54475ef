//! A run of the fuzzer inside the instrumented program: cases are judged, some are compiled, findings are made small and written
//! to a folder, and who waits is told.

use crate::case::{AnyCase, Case, Program};
use crate::compiled::compile;
use crate::mutate::{Choice, Mode, mutate_any};
use crate::oracle::{Code, Finding, Judge};
use crate::random::Random;
use crate::reduce::reduce;
use lathe_runtime::{RuntimeError, thread_processor_time, write_whole};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Programs of one call of the C compiler.
const BATCH: usize = 64;

/// Of so many programs that could be compiled one is: the compiler takes a hundred times as long as all else.
const SAMPLED: u64 = 12;

/// Findings of one kind and place that are made small and written; more are counted.
const KEPT: usize = 3;

/// Cases that are judged to make a finding small, and those that the C compiler must take part in.
const BUDGET: usize = 3000;
const BUDGET_COMPILED: usize = 120;

/// Cases that may lend their moves and programs: the last that reached something new.
const REMEMBERED: usize = 1000;

/// Cases between two lines that tell how far it is.
const TOLD: u64 = 50;

/// What a line begins with that tells whoever started the program.
pub const MARK: &str = "lathe-fuzz ";

/// The folders of a run, in its own: cases to start from, findings, and cases whose code is being run, which are left there when
/// it ends the process.
pub const FOLDERS: [&str; 4] = ["corpus", "findings", "running", "kernels"];

/// A run.
pub struct Session {
    folder: PathBuf,
    mode: Mode,
    judge: Judge,
    waiting: Vec<Code>,
    seen: u64,
    found: BTreeMap<String, usize>,
    kept: VecDeque<AnyCase>,
    /// The case that was run last.
    last: Option<AnyCase>,
    /// What was found of it.
    finding: Option<Finding>,
    choice: Choice,
    /// Edges that some run reached.
    reached: Vec<bool>,
    /// What the case that was changed last took of the processor, until it was judged; nothing where none was.
    took: Option<Duration>,
}

impl Session {
    /// A run whose files are in a folder.
    pub fn new(folder: &Path, mode: Mode) -> Session {
        Session {
            folder: folder.into(),
            mode,
            judge: Judge::default(),
            waiting: vec![],
            seen: 0,
            found: BTreeMap::new(),
            kept: VecDeque::new(),
            last: None,
            finding: None,
            choice: Choice::default(),
            reached: vec![],
            took: None,
        }
    }

    /// Judges a case, given as text; what is no case is nothing. What reaches new edges of the program here is the case.
    pub fn run(&mut self, text: &[u8]) {
        let start = thread_processor_time();
        let Some(case) = read(text) else { return };
        match judged(&mut self.judge, &case) {
            Ok(codes) => {
                for code in codes {
                    self.seen += 1;
                    if self.seen.is_multiple_of(SAMPLED) {
                        self.waiting.push(code);
                    }
                }
            }
            Err(finding) => self.finding = Some(finding),
        }
        self.took = self.took.map(|t| t + (thread_processor_time() - start));
        self.last = Some(case);
    }

    /// What has little to do with the case that was run last: makes a finding small, compiles what waits, tells how far it is. An
    /// error is one of the machine.
    pub fn finish(&mut self) -> Result<(), RuntimeError> {
        let Some(case) = self.last.take() else { return Ok(()) };
        if let Some(finding) = self.finding.take() {
            self.keep(&case, &finding)?;
        }
        if self.waiting.len() >= BATCH {
            self.compile()?;
        }
        if self.judge.counts.cases.is_multiple_of(TOLD) {
            self.tell();
        }
        Ok(())
    }

    /// Learns what came of the case that was run last, where it had been changed: which changes reach what is new. The counters
    /// are those of all edges of this program, as that run left them.
    pub fn learn(&mut self, counters: &[u8]) {
        self.reached.resize(counters.len(), false);
        let mut new = 0;
        for (known, n) in self.reached.iter_mut().zip(counters) {
            if *n > 0 && !*known {
                *known = true;
                new += 1;
            }
        }
        if let Some(took) = self.took.take() {
            self.choice.learn(new, took.as_secs_f64());
        }
        if let Some(case) = self.last.as_ref().filter(|_| new > 0) {
            self.kept.push_back(case.clone());
            if self.kept.len() > REMEMBERED {
                self.kept.pop_front();
            }
        }
    }

    /// Judges and compiles one case at once.
    pub fn replay(&mut self, text: &[u8]) -> Result<(), RuntimeError> {
        let Some(case) = read(text) else { return Ok(()) };
        replay(&case, &self.folder.join("kernels")).map(|_| ())
    }

    /// Compiles what waits.
    fn compile(&mut self) -> Result<(), RuntimeError> {
        let codes = std::mem::take(&mut self.waiting);
        let running = self.folder.join("running");
        let path = |i: usize| running.join(format!("{i}.txt"));
        for (i, code) in codes.iter().enumerate() {
            written(&path(i), &AnyCase::Tensor(code.case().clone()))?;
        }
        let found = compile(&codes, &self.folder.join("kernels"))?;
        for i in 0..codes.len() {
            // One that stays would only be tried once more.
            let _ = std::fs::remove_file(path(i));
        }
        let _ = std::fs::remove_dir_all(self.folder.join("kernels"));
        self.judge.counts.compiled += codes.len() as u64;
        found.into_iter().try_for_each(|(case, finding)| self.keep(&AnyCase::Tensor(case), &finding))
    }

    /// Makes a finding small and writes it, unless there are enough like it.
    fn keep(&mut self, case: &AnyCase, finding: &Finding) -> Result<(), RuntimeError> {
        let key = format!("{}-{}", finding.kind, finding.place);
        let n = self.found.entry(key.clone()).or_default();
        *n += 1;
        if *n > KEPT {
            return Ok(());
        }
        let number = *n;
        let folder = self.folder.join("kernels");
        let (small, finding) = smallest(case, finding, &folder);
        let path = self.folder.join("findings").join(format!("{key}-{number}.txt"));
        written(&path, &small)?;
        tell_error(&format!("{MARK}found {key}-{number} {finding}"));
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let c = &self.judge.counts;
        let mut line = format!("{MARK}counts {} {} {}", c.cases, c.defined, c.compiled);
        for (n, s) in &c.steps {
            line += &format!(" {n}:{}:{}:{}:{}:{}", s.applied, s.refused, s.certified, s.alarms, s.caught);
        }
        tell_error(&line);
    }

    /// Changes a case, given as text, by a seed; what is none becomes one of those that reached something new.
    pub fn mutate(&mut self, text: &[u8], seed: u64) -> String {
        let (start, mut random) = (thread_processor_time(), Random::new(seed));
        let changed =
            mutate_any(read(text), self.kept.make_contiguous(), self.mode, &mut self.choice, &mut random);
        self.took = Some(thread_processor_time() - start);
        changed.map_or_else(String::new, |c| c.to_string())
    }
}

/// The case of a text, if it is one.
fn read(text: &[u8]) -> Option<AnyCase> {
    std::str::from_utf8(text).ok().and_then(|t| AnyCase::parse(t).ok())
}

/// What of a case does not hold, or what is to be compiled of it.
fn judged(judge: &mut Judge, case: &AnyCase) -> Result<Vec<Code>, Finding> {
    match case {
        AnyCase::Tensor(case) => judge.judge(case),
        AnyCase::Graph(case) => judge.judge_graph(case).map(|()| vec![]),
    }
}

/// Writes a case whole, or says why it cannot be.
pub(crate) fn written(path: &Path, case: &AnyCase) -> Result<(), RuntimeError> {
    write_whole(path, case.to_string().as_bytes()).map_err(|e| RuntimeError::io("write", path, &e))
}

fn tell_error(line: &str) {
    use std::io::Write;
    // Where nobody listens, nobody is told.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a case shows, judged and compiled on its own.
pub fn replay(case: &AnyCase, folder: &Path) -> Result<Option<Finding>, RuntimeError> {
    match judged(&mut Judge::default(), case) {
        Err(finding) => Ok(Some(finding)),
        Ok(codes) => Ok(compile(&codes, folder)?.into_iter().next().map(|(_, finding)| finding)),
    }
}

/// The smallest case that shows a finding like one, and what it shows.
pub fn smallest(case: &AnyCase, finding: &Finding, folder: &Path) -> (AnyCase, Finding) {
    match case {
        AnyCase::Tensor(case) => {
            let found = Judge::default().judge(case).is_err();
            let budget = if found { BUDGET } else { BUDGET_COMPILED };
            let (small, last) = shrunk(case, finding, budget, &mut |c| match found {
                true => Judge::default().judge(c).err(),
                false => replay(&AnyCase::Tensor(c.clone()), folder).ok().flatten(),
            });
            (AnyCase::Tensor(small), last)
        }
        AnyCase::Graph(case) => {
            let shown = &mut |c: &Case<_>| Judge::default().judge_graph(c).err();
            let (small, last) = shrunk(case, finding, BUDGET, shown);
            (AnyCase::Graph(small), last)
        }
    }
}

/// The smallest case for which something like a finding is shown, with notes that say so.
fn shrunk<P: Program>(
    case: &Case<P>,
    finding: &Finding,
    budget: usize,
    shown: &mut dyn FnMut(&Case<P>) -> Option<Finding>,
) -> (Case<P>, Finding) {
    let mut last = finding.clone();
    let mut small = reduce(case, budget, &mut |c| match shown(c) {
        Some(f) if f.like(finding) => {
            last = f;
            true
        }
        _ => false,
    });
    small.notes = format!("{last}\n`lathe fuzz --replay` with this file shows it again.\n");
    (small, last)
}
