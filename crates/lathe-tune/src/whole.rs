//! What passes and planning choose of a graph as a whole (which convolutions are computed by Winograd's algorithm, in which layout
//! filters lie, what becomes one kernel), found together with the schedules of the kernels that come of it: other answers are tried
//! one after the other, and the kernels in which two programs differ are tuned before they are compared.
//!
//! As in "A Learned Performance Model and Autotuner for Production Compilers" (Phothilimthana et al. 2021), the graph is searched
//! above the kernels; here kernels are cheap to measure, and those of all candidates are kept by what they compute, so that most
//! of a candidate is known before it is tried.

use crate::measure::{Place, Timed};
use crate::{Book, Options, Progress, Task, TuneError, tasks, tune};
use lathe_compile::{CompileError, Draft, Finding, Findings, Function, Recipe};
use lathe_ir::tensor::Kernel;
use lathe_runtime::Pool;
use lathe_schedule::Decisions;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Trials of a kernel before two programs are compared.
const FEW: usize = 12;
/// What takes so many times as long by rule is not tuned.
const HOPELESS: f64 = 1.5;
/// An answer is taken where the kernels that differ take less than this share of the time, in each of two comparisons.
const WORTH: f64 = 0.97;
/// Turns of the kernels in a comparison; the best one of a kernel counts.
const TURNS: usize = 3;
/// Share of the time that is given, which the graph takes at most.
const SHARE: f64 = 0.5;

/// What came of a graph.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Choices of the graph.
    pub choices: usize,
    /// Answers that were tried.
    pub tried: usize,
    /// Seconds of a run in all its kernels, as passes and planning choose by themselves; kernels are as they were found to be best.
    pub rule_s: f64,
    /// Seconds with what was found.
    pub best_s: f64,
    /// What was found.
    pub decisions: Decisions,
}

/// A kernel of a program: what it is, how it is scheduled, and how often a run calls it more than the program beside does.
type Call<'d> = (Task, &'d Kernel, usize);

/// A program's time over that of another one, and the seconds of that.
type Share = (f64, f64);

/// Where programs are compared.
struct Scales<'o> {
    options: &'o Options<'o>,
    recipe: &'o Recipe,
    pool: Arc<Pool>,
    folder: &'o Path,
    end: Option<Instant>,
}

/// Tunes what is chosen of a graph as a whole; nothing where there is nothing to choose, or where `progress` says to stop. What was
/// found until then is kept.
pub fn tune_whole(
    draft: &Draft,
    options: &Options<'_>,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Option<Whole>, TuneError> {
    if draft.choices.is_empty() {
        return Ok(None);
    }
    let mut book = Book::open(options)?;
    let folder = tempfile::tempdir().map_err(|e| book.failed(e))?;
    let scales = Scales {
        options,
        recipe: &draft.recipe,
        pool: Arc::new(Pool::new(options.threads).map_err(CompileError::from)?),
        folder: folder.path(),
        end: options.time.map(|t| Instant::now() + t.mul_f64(SHARE)),
    };
    let names: Vec<String> = draft.choices.iter().map(|c| c.name.clone()).collect();
    let mut best: Decisions =
        draft.choices.iter().filter(|c| c.taken != c.rule).map(|c| (c.name.clone(), c.taken)).collect();
    let (mut tried, mut gain) = (0, 1.0);
    for (at, name) in names.iter().enumerate() {
        let current = scales.draft(&best)?;
        // What was decided before may have taken a choice away.
        let Some(choice) = current.choices.iter().find(|c| c.name == *name) else { continue };
        for option in choice.options.iter().filter(|o| **o != choice.taken) {
            if scales.end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            let mut other = best.clone();
            other.insert(name.clone(), *option);
            tried += 1;
            let told = Progress { name, trials: (at, names.len()), seconds: (1.0, gain) };
            if progress(&told).is_break() {
                return Ok(None);
            }
            let share = match scales.share(&best, &other, progress)? {
                ControlFlow::Continue(share) => share,
                ControlFlow::Break(()) => return Ok(None),
            };
            let Some((share, seconds)) = share.filter(|(share, _)| *share < WORTH) else { continue };
            best = other;
            gain *= share;
            book.write(&scales.finding(draft, &best, share * seconds, seconds))?;
            break;
        }
    }
    let (rule, found) = (scales.draft(&Decisions::new())?, scales.draft(&best)?);
    let (all, none) = (scales.calls(&rule, None), vec![]);
    let seconds = |calls: Vec<Call<'_>>| scales.weigh([&calls, &none]);
    let rule_s = seconds(all)?.map_or(0.0, |[s, _]| s);
    // What differs is compared once more, so that noise of the rest decides nothing.
    let differ = scales.weigh([&scales.calls(&rule, Some(&found)), &scales.calls(&found, Some(&rule))])?;
    let best_s = differ.map_or(rule_s, |[a, b]| (rule_s - a + b).max(0.0));
    let (decisions, best_s) = if best_s < rule_s { (best, best_s) } else { (Decisions::new(), rule_s) };
    if rule_s > 0.0 {
        book.write(&scales.finding(draft, &decisions, best_s, rule_s))?;
    }
    Ok(Some(Whole { choices: names.len(), tried, rule_s, best_s, decisions }))
}

impl Scales<'_> {
    fn draft(&self, decisions: &Decisions) -> Result<Draft, TuneError> {
        let Options { target, cache, .. } = self.options;
        Ok(self.recipe.draft(target, cache, &Findings::read(cache, target), decisions)?)
    }

    fn finding(&self, draft: &Draft, decisions: &Decisions, seconds: f64, rule: f64) -> Finding {
        let (threads, decisions) = (self.options.threads, decisions.clone());
        Finding { key: draft.key.clone(), threads, seconds, rule: Some(rule), decisions }
    }

    /// The kernels of a program, where one is beside it those that it calls more often.
    fn calls<'d>(&self, of: &'d Draft, beside: Option<&Draft>) -> Vec<Call<'d>> {
        let other: HashMap<&str, usize> =
            beside.iter().flat_map(|d| &d.kernels).map(|m| (m.key.as_str(), m.calls)).collect();
        let all = tasks(&of.kernels, &of.graph.dims).into_iter().filter_map(|t| {
            let made = of.kernels.iter().find(|m| m.key == t.key)?;
            let more = t.calls.saturating_sub(*other.get(t.key.as_str()).unwrap_or(&0));
            (more > 0).then(|| (t, made.schedule.kernel(), more))
        });
        all.collect()
    }

    /// How long the kernels in which a program differs from another one take, as a share of that one's, and the seconds of these: the
    /// kernels of both are tuned a little before. Nothing where they do not differ, cannot be measured or cannot be better.
    fn share(
        &self,
        before: &Decisions,
        after: &Decisions,
        progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Option<Share>>, TuneError> {
        let compared = |scales: &Self| {
            let (a, b) = (scales.draft(before)?, scales.draft(after)?);
            let (a, b) = (scales.calls(&a, Some(&b)), scales.calls(&b, Some(&a)));
            let kernels: Vec<Task> = a.iter().chain(&b).map(|(t, ..)| t.clone()).collect();
            Ok::<_, TuneError>((scales.weigh([&a, &b])?, kernels))
        };
        let ratio = |[a, b]: [f64; 2]| (b / a, a);
        let (first, kernels) = compared(self)?;
        let Some(first) = first.map(ratio).filter(|(share, _)| *share < HOPELESS) else {
            return Ok(ControlFlow::Continue(None));
        };
        let known = Findings::read(self.options.cache, self.options.target);
        let open: Vec<Task> = kernels.into_iter().filter(|t| known.best(&t.key).is_none()).collect();
        let left =
            self.end.map(|end| end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        let few = Options { trials: FEW.min(self.options.trials), time: left, ..*self.options };
        let mut stopped = false;
        if !open.is_empty() {
            let told = &mut |p: &Progress<'_>| {
                let flow = progress(p);
                stopped |= flow.is_break();
                flow
            };
            tune(&open, &few, told)?;
        }
        if stopped {
            return Ok(ControlFlow::Break(()));
        }
        // The worse one of two comparisons, as the best of many answers would else be one of lucky moments.
        let again = [compared(self)?.0.map(ratio), compared(self)?.0.map(ratio)];
        let worse = again.into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or(first);
        Ok(ControlFlow::Continue(Some(worse)))
    }

    /// Seconds of a run in the kernels of two sides, which take turns; nothing where one of them has no time.
    fn weigh(&self, sides: [&[Call<'_>]; 2]) -> Result<Option<[f64; 2]>, TuneError> {
        let all: Vec<&Call<'_>> = sides.into_iter().flatten().collect();
        if all.is_empty() {
            return Ok(None);
        }
        let kernels: Vec<&Kernel> = all.iter().map(|(_, k, _)| *k).collect();
        let functions = Function::all(&kernels, self.options.target, self.folder, &self.pool)?;
        let mut best = vec![f64::INFINITY; all.len()];
        for _ in 0..TURNS {
            for ((call, f), best) in all.iter().zip(&functions).zip(&mut best) {
                let timed = Place::new(&call.0)?.time(std::slice::from_ref(f), 1)?;
                let Some(Timed::Seconds(s)) = timed.first() else { return Ok(None) };
                *best = best.min(*s);
            }
        }
        let seconds = |range: std::ops::Range<usize>| range.map(|i| all[i].2 as f64 * best[i]).sum();
        let first = sides[0].len();
        Ok(Some([seconds(0..first), seconds(first..all.len())]))
    }
}
