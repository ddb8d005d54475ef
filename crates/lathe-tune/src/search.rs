//! The search: rounds of a few candidates of the kernel that promises most, proposed by evolution and, where a cost model
//! guides it, picked by what it foresees.

use crate::cost::{Guide, Lesson, Lessons};
use crate::features::features;
use crate::measure::{Place, Timed};
use crate::random::Random;
use crate::space::{Candidate, Space};
use crate::{Options, Strategy, Task, TuneError};
use lathe_compile::{Finding, Findings, Function};
use lathe_ir::tensor::Kernel;
use lathe_runtime::Pool;
use lathe_schedule::Decisions;
use lathe_verify::{Prover, refusal};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Candidates of a round.
pub(crate) const BATCH: usize = 12;
/// Candidates that are thought of for each one that is measured.
const THOUGHT: usize = 6;
/// Of a round, those that the model does not pick.
const CHANCE: usize = 2;
/// Parents of the next candidates.
const PARENTS: usize = 6;
/// Of those measured, how many are measured again in the end.
const FINALS: usize = 3;
/// Of those measured, how many are asked for a proof at most.
const JUDGED: usize = 8;
/// Rounds of turns in the end.
const FINAL_ROUNDS: usize = 9;
/// What is not faster by this is not worth a finding.
const WORTH: f64 = 0.985;

/// One trial.
struct Trial {
    candidate: Candidate,
    /// Seconds of a call, over those of the rules' schedule in the same round.
    ratio: f64,
}

/// A task while it is tuned.
pub(crate) struct Search<'t> {
    pub task: &'t Task,
    space: Space<'t>,
    place: Option<Place<'t>>,
    rule: Candidate,
    /// Seconds of the rules' schedule, when it was measured first.
    pub rule_s: Option<f64>,
    seen: HashSet<Decisions>,
    trials: Vec<Trial>,
    /// The best ratio after each trial.
    pub history: Vec<f64>,
    /// What was learned from each trial.
    pub lessons: Vec<Lesson>,
    /// Candidates that computed something else.
    pub wrong: usize,
    /// Candidates of which a step is not proved, and the last such step.
    pub unproved: usize,
    pub unproved_step: Option<String>,
    /// Rounds since the last better one.
    pub stale: usize,
    /// Whether nothing new can be thought of.
    pub exhausted: bool,
}

impl<'t> Search<'t> {
    /// A task with what was tried of it before; nothing where there is nothing to choose.
    pub fn new(
        task: &'t Task,
        options: &'t Options<'_>,
        known: &Findings,
        lessons: &mut Lessons,
    ) -> Option<Search<'t>> {
        let space = Space { task, target: options.target };
        let rule = space.at(&Decisions::new())?;
        if rule.schedule.choices().is_empty() {
            return None;
        }
        let mut search = Search {
            task,
            space,
            place: None,
            seen: [rule.decisions.clone()].into(),
            rule,
            rule_s: None,
            trials: vec![],
            history: vec![],
            lessons: vec![],
            wrong: 0,
            unproved: 0,
            unproved_step: None,
            stale: 0,
            exhausted: false,
        };
        let before = known.tried(&task.key).filter(|f| f.threads == options.threads);
        for f in before.collect::<Vec<_>>() {
            let Some(candidate) = search.space.at(&f.decisions) else { continue };
            if candidate.decisions == search.rule.decisions {
                search.rule_s = Some(f.seconds);
            } else if let Some(rule_s) = search.rule_s
                && search.seen.insert(candidate.decisions.clone())
            {
                search.learn(candidate, f.seconds / rule_s, options.threads, lessons);
            }
        }
        Some(search)
    }

    fn row(&self, c: &Candidate, threads: usize) -> Vec<f64> {
        let (own, rule) = (features(self.task, c, threads), features(self.task, &self.rule, threads));
        own.iter().zip(&rule).map(|(a, b)| a - b).chain(rule.iter().copied()).collect()
    }

    fn learn(&mut self, candidate: Candidate, ratio: f64, threads: usize, lessons: &mut Lessons) {
        let lesson = Lesson { row: self.row(&candidate, threads), value: ratio.ln() };
        lessons.push(lesson.clone());
        self.lessons.push(lesson);
        self.trials.push(Trial { candidate, ratio });
        self.history.push(self.best());
    }

    /// The best ratio so far.
    pub fn best(&self) -> f64 {
        self.trials.iter().map(|t| t.ratio).fold(1.0, f64::min)
    }

    /// Seconds that runs of the whole spend in it now.
    pub fn weight(&self) -> Option<f64> {
        Some(self.task.calls as f64 * self.rule_s? * self.best())
    }

    /// New candidates, the most promising first as far as it can be foreseen.
    fn propose(
        &mut self,
        options: &Options<'_>,
        guide: Option<&Guide<'_>>,
        random: &mut Random,
    ) -> Vec<Candidate> {
        let count = BATCH.min(options.trials.saturating_sub(self.trials.len()));
        let mut parents: Vec<&Trial> = self.trials.iter().collect();
        parents.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
        parents.truncate(PARENTS);
        let (mut found, mut fresh): (Vec<Candidate>, HashSet<Decisions>) = (vec![], HashSet::new());
        let thought = if guide.is_some() { THOUGHT * count } else { count };
        for _ in 0..4 * THOUGHT * BATCH {
            if found.len() >= thought {
                break;
            }
            let of = match parents.is_empty() || random.below(3) == 0 || options.strategy == Strategy::Random
            {
                true => None,
                false => Some(random.pick(&parents).candidate.clone()),
            };
            let near =
                if parents.is_empty() && random.below(2) == 0 { Some(&self.rule) } else { of.as_ref() };
            let candidate = match near {
                Some(c) if options.strategy != Strategy::Random => self.space.neighbour(c, random),
                _ => self.space.sample(random),
            };
            if let Some(c) = candidate
                && !self.seen.contains(&c.decisions)
                && fresh.insert(c.decisions.clone())
            {
                found.push(c);
            }
        }
        if let Some(guide) = guide {
            let score = |c: &Candidate| guide.foresee(&self.row(c, options.threads));
            let mut scored: Vec<(f64, Candidate)> = found.into_iter().map(|c| (score(&c), c)).collect();
            scored.sort_by(|a, b| a.0.total_cmp(&b.0));
            let chance = CHANCE.min(scored.len().saturating_sub(count));
            let mut rest = scored.split_off((count - chance).min(scored.len()));
            while scored.len() < count && !rest.is_empty() {
                scored.push(rest.swap_remove(random.below(rest.len())));
            }
            found = scored.into_iter().map(|(_, c)| c).collect();
        }
        found.truncate(count);
        self.exhausted = found.is_empty();
        self.seen.extend(found.iter().map(|c| c.decisions.clone()));
        found
    }

    /// Measures some candidates beside the rules' schedule, those whose every step is proved; the findings. Proofs are looked for
    /// while compilers run.
    pub fn round(
        &mut self,
        options: &Options<'_>,
        prover: &mut Prover,
        lessons: &mut Lessons,
        random: &mut Random,
        folder: &Path,
        pool: &Arc<Pool>,
    ) -> Result<Vec<Finding>, TuneError> {
        let guide = lessons.guide();
        let found = self.propose(options, guide.as_ref(), random);
        drop(guide);
        if found.is_empty() {
            return Ok(vec![]);
        }
        let kernels: Vec<&Kernel> =
            [&self.rule].into_iter().chain(&found).map(|c| c.schedule.kernel()).collect();
        let (built, refusals) = std::thread::scope(|s| {
            let judge = || found.iter().map(|c| refused(c, options, prover)).collect::<Vec<_>>();
            let judging = s.spawn(judge);
            let built = Function::all(&kernels, options.target, folder, pool);
            (built, judging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (mut functions, mut proved) = (built?.into_iter(), vec![]);
        let mut measured: Vec<Function> = functions.next().into_iter().collect();
        for ((candidate, function), refusal) in found.into_iter().zip(functions).zip(refusals) {
            if !self.refuse(refusal) {
                proved.push(candidate);
                measured.push(function);
            }
        }
        let times = self.place()?.time(&measured, 0)?;
        let Some((Timed::Seconds(now), times)) = times.split_first().map(|(t, rest)| (*t, rest)) else {
            self.exhausted = true;
            return Ok(vec![]);
        };
        let mut findings = vec![];
        if self.rule_s.is_none() {
            findings.push(self.finding(&self.rule.decisions, now, options.threads));
        }
        let rule_s = *self.rule_s.get_or_insert(now);
        let before = self.best();
        for (candidate, t) in proved.into_iter().zip(times) {
            let Timed::Seconds(s) = t else {
                self.wrong += 1;
                continue;
            };
            findings.push(self.finding(&candidate.decisions, s / now * rule_s, options.threads));
            self.learn(candidate, s / now, options.threads, lessons);
        }
        self.stale = if self.best() < before { 0 } else { self.stale + 1 };
        Ok(findings)
    }

    /// The memory that candidates run in.
    fn place(&mut self) -> Result<&Place<'t>, TuneError> {
        let place = match self.place.take() {
            Some(place) => place,
            None => Place::new(self.task)?,
        };
        Ok(self.place.insert(place))
    }

    /// Counts a candidate that is refused; whether it is.
    fn refuse(&mut self, refusal: Option<String>) -> bool {
        self.unproved += usize::from(refusal.is_some());
        let refused = refusal.is_some();
        self.unproved_step = refusal.or(self.unproved_step.take());
        refused
    }

    fn finding(&self, decisions: &Decisions, seconds: f64, threads: usize) -> Finding {
        Finding { key: self.task.key.clone(), threads, seconds, rule: None, decisions: decisions.clone() }
    }

    /// Measures the best ones once more, beside the rules' schedule, and says which is best. Earlier runs may have tried what has
    /// no proof.
    pub fn finish(
        &mut self,
        options: &Options<'_>,
        prover: &mut Prover,
        folder: &Path,
        pool: &Arc<Pool>,
    ) -> Result<Option<Finding>, TuneError> {
        if self.count() == 0 {
            return Ok(None);
        }
        self.trials.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
        let mut finals = vec![];
        for _ in 0..JUDGED {
            let at = finals.len();
            if at == FINALS || at == self.trials.len() {
                break;
            }
            match refused(&self.trials[at].candidate, options, prover) {
                None => finals.push(self.trials[at].candidate.clone()),
                refusal => {
                    self.trials.remove(at);
                    self.refuse(refusal);
                }
            }
        }
        let all: Vec<&Candidate> = [&self.rule].into_iter().chain(&finals).collect();
        let kernels: Vec<&Kernel> = all.iter().map(|c| c.schedule.kernel()).collect();
        let functions = Function::all(&kernels, options.target, folder, pool)?;
        let times = self.place()?.time(&functions, FINAL_ROUNDS)?;
        let all: Vec<&Candidate> = [&self.rule].into_iter().chain(&finals).collect();
        let seconds = |t: &Timed| match t {
            Timed::Seconds(s) => *s,
            Timed::Differs => f64::INFINITY,
        };
        let rule = times.first().map_or(f64::INFINITY, seconds);
        let best =
            (0..times.len()).min_by(|a, b| seconds(&times[*a]).total_cmp(&seconds(&times[*b]))).unwrap_or(0);
        let (decisions, s) = match seconds(&times[best]) {
            s if s < WORTH * rule => (all[best].decisions.clone(), s),
            _ => (Decisions::new(), rule),
        };
        self.place = None;
        if !s.is_finite() {
            return Ok(None);
        }
        let key = self.task.key.clone();
        Ok(Some(Finding { key, threads: options.threads, seconds: s, rule: Some(rule), decisions }))
    }

    /// Trials so far.
    pub fn count(&self) -> usize {
        self.trials.len() + self.wrong + self.unproved
    }

    /// Forgets the memory that candidates ran in.
    pub fn rest(&mut self) {
        self.place = None;
    }
}

/// The first step of a candidate that is not proved to keep the meaning, and why, where that is asked for.
fn refused(c: &Candidate, options: &Options<'_>, prover: &mut Prover) -> Option<String> {
    let refusal = (!options.unproved).then(|| refusal(&c.schedule, prover)).flatten();
    refusal.map(|(step, why)| format!("{step}: {why}"))
}
