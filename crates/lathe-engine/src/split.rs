//! Where experts are computed that lie in the memory of a device's host: there, or on the device, which they then move to. For each
//! layer of a step the way is chosen that is over soonest (`lathe_plan::experts::choose`), by what the link takes and by how long
//! experts take here: the very kernels of the model are timed, once, and what they took is kept in the cache folder.
//!
//! A device that is not here computes on this processor, with the threads that the model is loaded for; the host's are the others.

use crate::EngineError;
use crate::error::below;
use crate::offload::{BELOW, Holding, HostMemory};
use crate::report::Stage;
use crate::runner::RunnerOptions;
use lathe_compile::Compiled;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_exec::{Chooser, Executable, Places, Segment};
use lathe_ir::Name;
use lathe_plan::experts::{Dense, ExpertCosts, Job, Latency, LayerWork, Runs, choose, timing};
use lathe_rewrite::{EXPERTS, EXPERTS_AWAY, Sliced, Split};
use lathe_runtime::{Arena, Pool, View};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Experts that are computed on both.
pub(crate) struct Splitting {
    /// How.
    pub split: Split,
    /// The host's threads.
    pub pool: Arc<Pool>,
    /// Who says where each is computed.
    pub chooser: Arc<dyn Chooser>,
}

impl Splitting {
    /// Threads that a host computes with; none where experts only move.
    pub fn threads(host: &HostMemory, options: &RunnerOptions) -> usize {
        match host.experts {
            Runs::Moved => 0,
            Runs::OnHost | Runs::Best => host.processors.saturating_sub(options.threads),
        }
    }

    /// Gets ready to compute experts in `store` and, what belongs to them, in `away`.
    pub fn new(
        compiled: &Compiled,
        options: &RunnerOptions,
        host: &HostMemory,
        split: Split,
        [store, away]: [&View; 2],
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Splitting, EngineError> {
        let threads = Splitting::threads(host, options);
        let pool = Arc::new(Pool::new(threads).map_err(below)?);
        let layer: Vec<&Sliced> = split.hold.layers().swap_remove(0);
        let slots = layer.iter().map(|w| w.argument.slots).max().unwrap_or(1) as u64;
        let mut timed = |pool: &Pool| {
            let clock = Clock { compiled, options, split: &split, slots, store, away };
            let (copy, computed) = clock.kept(pool, progress)?;
            Ok::<_, EngineError>((copy, Latency::fitted(0.0, &computed).map_err(below)?))
        };
        let (copy, on_host) = timed(&pool)?;
        let device = match options.threads == threads {
            true => on_host.clone(),
            false => timed(&Pool::new(options.threads).map_err(below)?)?.1,
        };
        let [up, down] = &host.links;
        let bytes: i64 = layer.iter().map(|w| w.page).sum();
        let row = |bytes: Option<i64>| bytes.unwrap_or(0) as f64;
        let sent = layer.first().map_or(0.0, |w| row(w.argument.bytes));
        let back = layer.last().map_or(0.0, |w| row(w.result.bytes));
        let none = Latency::roofline(0.0, 0.0, 0.0);
        let costs = ExpertCosts {
            parts: 1,
            host: on_host,
            device,
            part: up.seconds(bytes as u64).max(copy),
            piece: 0.0,
            together: true,
            copy,
            memory: None,
            down: (down.latency_seconds, sent / down.bandwidth),
            up: (up.latency_seconds, back / up.bandwidth),
            dense: Dense { products: none.clone(), pair: 0.0, position: 0.0, head: none },
        };
        let chooser = Arc::new(Soonest { costs, slots, runs: host.experts });
        Ok(Splitting { split, pool, chooser })
    }
}

/// That experts only move, where they were to be computed on a device's host too, and why.
pub(crate) fn only_move(holding: &Holding, options: &RunnerOptions) -> Option<Diagnostic> {
    let host = options.budget.as_ref()?.host.as_ref()?;
    if holding.split.is_some() || host.experts == Runs::Moved {
        return None;
    }
    let (why, fix) = match Splitting::threads(host, options) {
        0 => ("the model's threads leave the host no processor", "take fewer --threads"),
        _ => (
            "they are not all in the host's memory, or what computing them there takes has no room",
            "give the device or its host (--memory) more memory",
        ),
    };
    let what =
        format!("experts that the device does not hold move to it, none is computed on the host: {why}");
    let d = Diagnostic::new("experts-move", Fault::Environment, what);
    Some(d.fix(format!("{fix}, or say --experts-on device")))
}

/// Chooses what is over soonest, or always the host.
#[derive(Debug)]
struct Soonest {
    costs: ExpertCosts,
    /// Experts that a token uses.
    slots: u64,
    runs: Runs,
}

impl Chooser for Soonest {
    fn away(&self, segments: &[Segment]) -> Vec<bool> {
        match self.runs {
            Runs::Moved => vec![false; segments.len()],
            Runs::OnHost => segments.iter().map(|s| !s.here).collect(),
            Runs::Best => {
                let job = |s: &Segment| Job { tokens: u64::from(s.slots), here: u32::from(s.here) };
                let jobs: Vec<Job> = segments.iter().map(job).collect();
                let tokens = jobs.iter().map(|j| j.tokens).sum::<u64>().div_ceil(self.slots.max(1));
                let work = LayerWork { tokens, jobs, link_free: 0.0 };
                let (mut on_host, soonest) = choose(&self.costs, &work);
                let lie: Vec<u32> = work.jobs.iter().map(|j| 1 - j.here).collect();
                if soonest.seconds() > SOONER * timing(&self.costs, &work, &lie).seconds() {
                    on_host = lie;
                }
                on_host.iter().map(|parts| *parts > 0).collect()
            }
        }
    }
}

/// What is sooner than computing each expert where it lies is so by more than a tenth: latencies are those of one who is alone with
/// the memory, and of a link that disturbs nobody.
const SOONER: f64 = 0.9;

/// How many of an expert's tokens are timed.
const TOKENS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256];
/// How often each.
const TIMES: usize = 5;
/// Bytes of memory that an arena maps by itself, as it does the room for all experts.
const MAPPED: usize = 4 << 20;
/// Raised when something else is timed.
const FORM: u32 = 2;

/// Seconds of copying an expert, and of computing one for so many tokens.
type Timed = (f64, Vec<(u64, f64)>);

/// What was kept of it: a line for each number of tokens, the first for none.
fn read(text: &str) -> Option<Timed> {
    let line = |line: &str| {
        let (tokens, seconds) = line.split_once(' ')?;
        Some((tokens.parse().ok()?, seconds.parse().ok().filter(|s| *s > 0.0)?))
    };
    let mut rows = text.lines().map(line).collect::<Option<Vec<(u64, f64)>>>()?.into_iter();
    let copy = rows.next().filter(|(tokens, _)| *tokens == 0)?.1;
    Some((copy, rows.collect())).filter(|(_, rows): &Timed| !rows.is_empty())
}

/// What times a model's experts, where they lie.
struct Clock<'a> {
    compiled: &'a Compiled,
    options: &'a RunnerOptions,
    split: &'a Split,
    /// Experts that a token uses.
    slots: u64,
    store: &'a View,
    away: &'a View,
}

impl Clock<'_> {
    fn most(&self) -> HashMap<Name, i64> {
        self.compiled.graph.dims.iter().cloned().collect()
    }

    /// Where what was timed is kept.
    fn path(&self, threads: usize) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        let cpu = lathe_runtime::detect_cpu();
        let about = format!("experts {threads} {cpu:?} {FORM} {}", env!("CARGO_PKG_VERSION"));
        for part in [self.compiled.graph.to_string(), about] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        self.options.cache.join("measured").join(format!("{}.experts", &hash.finalize().to_hex()[..32]))
    }

    /// What was timed before, or now.
    fn kept(&self, pool: &Pool, progress: &mut dyn FnMut(Stage, usize, usize)) -> Result<Timed, EngineError> {
        let path = self.path(pool.threads());
        // What cannot be read is timed again.
        if let Some(timed) = std::fs::read_to_string(&path).ok().as_deref().and_then(read) {
            return Ok(timed);
        }
        let (copy, computed) = (self.copy()?, self.measure(pool, progress)?);
        let line = |(tokens, seconds): &(u64, f64)| format!("{tokens} {seconds:e}\n");
        let text: String = std::iter::once(&(0, copy)).chain(&computed).map(line).collect();
        lathe_runtime::write_whole(&path, text.as_bytes()).map_err(|error| {
            let what = format!("cannot keep what was measured: {error}");
            below(Diagnostic::new("measured-file", Fault::Environment, what).at(path.display().to_string()))
        })?;
        Ok((copy, computed))
    }

    /// Seconds of this processor to copy an expert to where another one was: the least of some.
    fn copy(&self) -> Result<f64, EngineError> {
        let layer = self.split.hold.layers().swap_remove(0);
        let all: usize = layer.iter().map(|w| w.page as usize).sum();
        let window = Arena::new("window", usize::MAX).alloc_sparse((2 * all).max(MAPPED));
        let window = window.map_err(below)?.into_view();
        let mut least = f64::INFINITY;
        for time in 0..=TIMES {
            let (mut from, mut to) = (time % 2 * all, (time + 1) % 2 * all);
            let start = Instant::now();
            for w in &layer {
                let page = w.page as usize;
                let part = |at| window.part(at, page).map_err(below);
                let (old, new) = (part(from)?, part(to)?);
                if !old.give(&new) {
                    old.forget();
                }
                let at = w.from as usize + time % w.pages as usize * page;
                new.copy(0, &self.store.part(at, page).map_err(below)?).map_err(below)?;
                (from, to) = (from + page, to + page);
            }
            // Nothing was where the first one came from.
            if time > 0 {
                least = least.min(start.elapsed().as_secs_f64());
            }
        }
        Ok(least)
    }

    /// Seconds of an expert for so many tokens: the least of some, for others on the machine only make it slower. Each is of another
    /// expert, so that weights come from memory.
    fn measure(
        &self,
        pool: &Pool,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Vec<(u64, f64)>, EngineError> {
        let most = self.most();
        let longest = most.get("T").map_or(1, |t| *t as u64) * self.slots;
        let tokens: Vec<u64> = TOKENS.iter().copied().filter(|n| *n <= longest).collect();
        let mut out = vec![];
        for (done, n) in tokens.iter().enumerate() {
            progress(Stage::Measure, done, tokens.len());
            // A step of one token has kernels of its own.
            let steps = n.div_ceil(self.slots);
            let class = &self.compiled.classes[usize::from(steps > 1)];
            let Some((program, starts)) = self.split.alone(&class.plan.run) else { continue };
            let given = [(EXPERTS, self.store), (EXPERTS_AWAY, self.away)];
            let given = given.map(|(name, view)| (name.into(), view.clone())).into();
            let places = Places { given, ..Places::default() };
            let scratch = Arena::new(BELOW, usize::MAX);
            let mut run = Executable::bind(&program, &class.images, &places, &most, pool.threads(), &scratch)
                .map_err(below)?;
            let dims: Vec<i64> =
                program.dims.iter().map(|d| if &**d == "T" { steps as i64 } else { 1 }).collect();
            let index: Vec<u32> = (0..(steps * self.slots) as u32).collect();
            let layers = self.split.hold.layers();
            let experts = layers[0][0].pages as usize;
            let mut least = f64::INFINITY;
            for time in 0..=TIMES {
                let ends: Vec<u32> =
                    (0..=experts).map(|e| if e > time % experts { *n as u32 } else { 0 }).collect();
                self.away.write(starts[0] as usize, &ends).map_err(below)?;
                self.away.write(starts[1] as usize, &index).map_err(below)?;
                let start = Instant::now();
                run.run(pool, &dims).map_err(below)?;
                // The first one touches the memory.
                if time > 0 {
                    least = least.min(start.elapsed().as_secs_f64() / layers.len() as f64);
                }
            }
            out.push((*n, least.max(1e-9)));
        }
        progress(Stage::Measure, tokens.len(), tokens.len());
        Ok(out)
    }
}
