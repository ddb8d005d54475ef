//! The search: block sizes, types and the lowest tiers are enumerated, and a linear programme finds the shares for each.

use crate::cost::{ACTIVATIONS, Costs, Form, KV, PhaseCosts, VARIABLES, WEIGHTS, costs, passes_through};
use crate::policy::{Attention, Choice, Policy, Prediction, Shares, predict_on};
use crate::tiers::{DISK, HOST, Processor, Tiers};
use crate::{PlanError, Work};
use lathe_machine::Machine;
use microlp::{ComparisonOp, OptimizationDirection, Problem, SolveOutcome, Variable};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is to be generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Tokens of each prompt.
    pub prompt: u64,
    /// Tokens to make of each, at least 1.
    pub generate: u64,
    /// Sequences that there are; a block is no larger.
    pub sequences: Option<u64>,
}

impl Load {
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let within = |n: u64| (1..=1 << 30).contains(&n);
        match within(self.prompt) && within(self.generate) && self.sequences.is_none_or(within) {
            true => Ok(()),
            false => Err(PlanError::Asked {
                what: "prompts, tokens to generate and sequences are between 1 and 2^30".into(),
            }),
        }
    }
}

/// What a plan is to be best at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The least time of one sequence.
    Latency,
    /// The most tokens a second.
    Throughput,
}

/// What is asked of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What it is to be best at.
    pub objective: Objective,
    /// No token of a sequence takes longer, seconds (but the first).
    pub most_seconds_per_token: Option<f64>,
    /// Bytes of a memory, by its name, or of the `disk`, that may be used; else all.
    pub budgets: BTreeMap<String, u64>,
    /// Whether weights may be in groups of 4-bit codes.
    pub four_bit: bool,
    /// How keys and values may be stored; all ways of the work, where none is named.
    pub kv_types: Vec<String>,
    /// The most batches of a block; none is any number.
    pub most_batches: Option<u64>,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            objective: Objective::Throughput,
            most_seconds_per_token: None,
            budgets: BTreeMap::new(),
            four_bit: false,
            kv_types: vec![],
            most_batches: None,
        }
    }
}

/// A policy and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What is decided.
    pub policy: Policy,
    /// What that takes.
    pub prediction: Prediction,
}

/// What a tenth more of something gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// Of what there is a tenth more.
    pub of: String,
    /// How much faster the best plan is then: 0.1 is a tenth.
    pub gain: f64,
}

/// The best plan, and others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The best.
    pub best: Plan,
    /// What binds it: what a tenth more of each thing gives, most first.
    pub gains: Vec<Gain>,
    /// Bytes that each tier may hold, by its name.
    pub capacities: BTreeMap<String, f64>,
    /// Others that fit, best first: the best of every other choice of types and placement of attention, and of every other
    /// batch.
    pub rejected: Vec<Plan>,
}

/// Sizes of batches that are tried.
const BATCH: &[u64] =
    &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];
/// Numbers of batches in a block that are tried.
const BATCHES: &[u64] = &[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

/// The best plan to run a load on a machine.
pub fn plan(work: &Work, machine: &Machine, load: &Load, asked: &Asked) -> Result<Outcome, PlanError> {
    let tiers = Tiers::new(machine, &asked.budgets)?;
    let search = Search { work, tiers: &tiers, load, asked };
    let found = search.best_first()?;
    let best = found[0].clone();
    let mark = |p: &Plan| {
        let kind = Kind::of(&p.policy);
        let batch = (kind == Kind::of(&best.policy)).then_some(p.policy.batch);
        (kind, batch)
    };
    let mut seen = vec![mark(&best)];
    let mut rejected = vec![];
    for other in &found[1..] {
        if !seen.contains(&mark(other)) {
            seen.push(mark(other));
            rejected.push(other.clone());
        }
    }
    let gains = search.gains(&best)?;
    let capacity = |place: usize| (tiers.tier(place).name.clone(), tiers.tier(place).capacity);
    Ok(Outcome { gains, capacities: tiers.present().map(capacity).collect(), rejected, best })
}

/// All plans that were compared, the best first: of each block size, number of sweeps, way to store keys and values and place of
/// attention the best shares.
pub fn plans(work: &Work, machine: &Machine, load: &Load, asked: &Asked) -> Result<Vec<Plan>, PlanError> {
    let tiers = Tiers::new(machine, &asked.budgets)?;
    Search { work, tiers: &tiers, load, asked }.best_first()
}

/// What is chosen but block sizes and shares.
#[derive(Clone, Debug, PartialEq)]
struct Kind {
    four_bit: bool,
    kv_type: String,
    attention: Attention,
}

impl Kind {
    fn of(policy: &Policy) -> Kind {
        Kind { four_bit: policy.four_bit, kv_type: policy.kv_type.clone(), attention: policy.attention }
    }
}

struct Search<'a> {
    work: &'a Work,
    tiers: &'a Tiers,
    load: &'a Load,
    asked: &'a Asked,
}

impl Search<'_> {
    fn kinds(&self) -> Vec<Kind> {
        let kv_types: Vec<String> = match self.asked.kv_types.is_empty() {
            true => self.work.kv_types().map(String::from).collect(),
            false => self.asked.kv_types.clone(),
        };
        let mut places = vec![Attention::Main];
        if self.tiers.device.is_some() && self.tiers.cpu.is_some() {
            places.insert(0, Attention::Where);
        }
        let mut kinds = vec![];
        for four_bit in if self.asked.four_bit { vec![false, true] } else { vec![false] } {
            for kv_type in &kv_types {
                let of = |attention: &Attention| Kind {
                    four_bit,
                    kv_type: kv_type.clone(),
                    attention: *attention,
                };
                kinds.extend(places.iter().map(of));
            }
        }
        kinds
    }

    /// All plans that fit, the best first; at least one.
    fn best_first(&self) -> Result<Vec<Plan>, PlanError> {
        self.work.check()?;
        self.load.check()?;
        if self.asked.most_seconds_per_token.is_some_and(|s| s.is_nan() || s <= 0.0) {
            return Err(PlanError::Asked { what: "seconds for a token are above 0".into() });
        }
        let mut found = self.all(&self.kinds(), BATCH)?;
        if found.is_empty() {
            return Err(self.why_none()?);
        }
        found.sort_by(|a, b| b.prediction.tokens_per_second.total_cmp(&a.prediction.tokens_per_second));
        Ok(found)
    }

    /// The plans of all blocks of these batches that fit.
    fn all(&self, kinds: &[Kind], batch: &[u64]) -> Result<Vec<Plan>, PlanError> {
        let most = match self.asked.objective {
            Objective::Latency => 1,
            Objective::Throughput => self.load.sequences.unwrap_or(u64::MAX),
        };
        let most_batches = self.asked.most_batches.unwrap_or(u64::MAX);
        // All sequences that there are may be one block, too.
        let sizes = |of: &[u64]| -> Vec<u64> {
            let mut all: Vec<u64> =
                of.iter().copied().chain([most]).filter(|b| *b <= most && *b <= 1 << 30).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let mut found = vec![];
        for Kind { four_bit, kv_type, attention } in kinds.iter().cloned() {
            for batch in sizes(batch) {
                let mut fits = false;
                for batches in sizes(BATCHES).into_iter().filter(|n| *n <= most_batches && *n * batch <= most)
                {
                    let choice = Choice {
                        batch,
                        batches,
                        passes: 1,
                        four_bit,
                        head_stays: false,
                        kv_type: kv_type.clone(),
                        attention,
                    };
                    let plans = self.sweeps(choice)?;
                    if plans.is_empty() {
                        // More batches hold more.
                        break;
                    }
                    fits = true;
                    found.extend(plans);
                }
                if !fits {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The plans of a block size: for one batch, of prompts in one sweep over the weights or in several.
    fn sweeps(&self, choice: Choice) -> Result<Vec<Plan>, PlanError> {
        if choice.batches > 1 {
            return Ok(self.solve(&choice, None)?.map(|found| found.0).into_iter().collect());
        }
        let passes = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n <= self.load.prompt);
        let solve = |passes| self.solve(&Choice { passes, ..choice.clone() }, None).transpose();
        passes.filter_map(solve).map(|found| Ok(found?.0)).collect()
    }

    /// The best shares for a choice, with the head's weights among them or where they are used; none where nothing fits. `least` instead finds how few bytes of that tier would do.
    fn solve(&self, choice: &Choice, least: Option<usize>) -> Result<Option<(Plan, f64)>, PlanError> {
        let mut best: Option<([f64; VARIABLES], f64, bool)> = None;
        let places: Vec<usize> = self.tiers.present().collect();
        for head_stays in [false, true] {
            let costs = costs(self.work, self.tiers, self.load, &Choice { head_stays, ..choice.clone() })?;
            for lowest in places.iter().flat_map(|w| places.iter().map(|kv| [*w, *kv])) {
                if least.is_none() && !self.may_fit(&costs, lowest) {
                    continue;
                }
                let found = Programme::of(self, &costs, lowest, least).solve()?;
                if let Some((values, objective)) = found
                    && best.is_none_or(|(_, least, _)| objective < least)
                {
                    best = Some((values, objective, head_stays));
                }
            }
        }
        let Some((values, objective, head_stays)) = best else { return Ok(None) };
        let policy = Policy {
            batch: choice.batch,
            batches: choice.batches,
            passes: choice.passes,
            four_bit: choice.four_bit,
            head_stays,
            kv_type: choice.kv_type.clone(),
            attention: choice.attention,
            weights: self.shares(&values, WEIGHTS),
            kv: self.shares(&values, KV),
            activations: self.shares(&values, ACTIVATIONS),
        };
        let prediction = predict_on(self.work, self.tiers, self.load, &policy)?;
        Ok(Some((Plan { policy, prediction }, objective)))
    }

    /// Whether each tier alone holds what must be there, with everything that may be elsewhere elsewhere: cheaper than the
    /// programme, which also knows that not all can be.
    fn may_fit(&self, costs: &Costs, lowest: [usize; 2]) -> bool {
        let phases = [&costs.prefill, &costs.decode];
        phases.iter().flat_map(|phase| &phase.holds).all(|(tier, holds)| {
            let mut least = holds.total().at(&passing(self.tiers, lowest));
            let alone = |lowest: usize| *tier == self.tiers.main() && *tier == lowest;
            for (class, lowest) in [(WEIGHTS, lowest[0]), (KV, lowest[1])] {
                least += if alone(lowest) { holds.total().by[class + tier] } else { 0.0 };
            }
            least <= self.tiers.tier(*tier).capacity
        })
    }

    /// Shares as a person would write them: without what is only rounding.
    fn shares(&self, values: &[f64; VARIABLES], class: usize) -> Shares {
        let share = |tier: usize| Some(values[class + tier]).filter(|x| *x > 1e-7).unwrap_or(0.0);
        let sum: f64 = self.tiers.present().map(share).sum();
        self.tiers.present().map(|tier| (self.tiers.tier(tier).name.clone(), share(tier) / sum)).collect()
    }

    /// Why nothing fits: which tier is too small whatever is done, or that no plan is fast enough.
    fn why_none(&self) -> Result<PlanError, PlanError> {
        if let Some(bound) = self.asked.most_seconds_per_token {
            let asked = Asked { most_seconds_per_token: None, ..self.asked.clone() };
            let found = Search { asked: &asked, ..*self }.all(&self.kinds(), BATCH)?;
            let seconds = found.iter().map(|p| p.prediction.decode.seconds);
            if let Some(best) = seconds.min_by(f64::total_cmp) {
                return Ok(PlanError::TooSlow { bound, best });
            }
        }
        let mut least: Option<(f64, usize, Plan)> = None;
        for Kind { four_bit, kv_type, attention } in self.kinds() {
            // In as many passes as a prompt has tokens, or the power of two below.
            let passes = 1 << self.load.prompt.ilog2();
            let choice =
                Choice { batch: 1, batches: 1, passes, four_bit, head_stays: false, kv_type, attention };
            for tier in self.tiers.present() {
                if let Some((plan, needed)) = self.solve(&choice, Some(tier))?
                    && least.as_ref().is_none_or(|(best, _, _)| needed < *best)
                {
                    least = Some((needed, tier, plan));
                }
            }
        }
        let Some((needed, tier, plan)) = least else {
            let tiers: Vec<&str> = self.tiers.present().map(|t| self.tiers.tier(t).name.as_str()).collect();
            return Ok(PlanError::Machine {
                machine: tiers.join(", "),
                what: "several memories too small for one sequence".into(),
            });
        };
        let name = &self.tiers.tier(tier).name;
        let held = plan.prediction.held(name).cloned().unwrap_or_default();
        let parts = [
            (held.weights, "weights"),
            (held.weight_window, "the largest weight twice"),
            (held.kv, "keys and values"),
            (held.kv_window, "a layer's keys and values twice"),
            (held.activations + held.workspace, "activations"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(bytes, _)| *bytes >= 0.5)
            .map(|(bytes, what)| format!("{what} ({bytes:.0})"))
            .collect();
        Ok(PlanError::TooSmall {
            memory: name.clone(),
            needed: needed.ceil() as u64,
            has: self.tiers.tier(tier).capacity as u64,
            what: parts.join(", "),
        })
    }

    /// What a tenth more of each thing gives, with the batch, the types and the placement of attention of the best plan.
    fn gains(&self, best: &Plan) -> Result<Vec<Gain>, PlanError> {
        let mut gains = vec![];
        for (of, tiers) in knobs(self.tiers) {
            let speed = |p: &Plan| p.prediction.tokens_per_second;
            let found =
                Search { tiers: &tiers, ..*self }.all(&[Kind::of(&best.policy)], &[best.policy.batch])?;
            let then = found.iter().map(speed).fold(speed(best), f64::max);
            gains.push(Gain { of, gain: then / speed(best) - 1.0 });
        }
        gains.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        Ok(gains)
    }
}

/// The tiers with a tenth more of one thing, for each thing.
fn knobs(tiers: &Tiers) -> Vec<(String, Tiers)> {
    let mut out = vec![];
    let mut more = |of: String, change: &dyn Fn(&mut Tiers)| {
        let mut tiers = tiers.clone();
        change(&mut tiers);
        out.push((of, tiers));
    };
    let faster = |p: &mut Option<Processor>| {
        p.iter_mut().flat_map(|p| p.rates.values_mut()).for_each(|rate| *rate *= 1.1);
    };
    for place in tiers.present() {
        let name = &tiers.tier(place).name;
        let bandwidth = |t: &mut Tiers| {
            let tier = t.tiers[place].as_mut().expect("it is present");
            (tier.read, tier.write) = (tier.read * 1.1, tier.write * 1.1);
        };
        if tiers.tier(place).capacity.is_finite() {
            more(format!("bytes of {name}"), &|t| {
                t.tiers[place].as_mut().expect("it is present").capacity *= 1.1
            });
        }
        more(format!("bandwidth of {name}"), &bandwidth);
    }
    if let Some(device) = &tiers.device {
        more(format!("arithmetic of {}", device.name), &|t| faster(&mut t.device));
        let ends = [&tiers.tier(1).name, &tiers.tier(0).name];
        more(format!("bandwidth from {} to {}", ends[0], ends[1]), &|t| t.links[0] *= 1.1);
        more(format!("bandwidth from {} to {}", ends[1], ends[0]), &|t| t.links[1] *= 1.1);
    }
    if let Some(cpu) = &tiers.cpu {
        more(format!("arithmetic of {}", cpu.name), &|t| faster(&mut t.cpu));
    }
    out
}

/// No shares, and what passes through which tier where weights, and keys and values, lie as low as on these two.
fn passing(tiers: &Tiers, lowest: [usize; 2]) -> [f64; VARIABLES] {
    let mut given = [0.0; VARIABLES];
    for (class, lowest) in lowest.into_iter().enumerate() {
        for tier in tiers.main()..DISK {
            given[passes_through(class, tier)] = f64::from(lowest > tier);
        }
    }
    given
}

/// One linear programme: seconds and bytes are scaled to about 1, as solvers want them.
struct Programme {
    problem: Problem,
    /// The variables of the costs that are variables here; the share of the first tier is what the others leave.
    shares: [Option<Variable>; VARIABLES],
    /// Sums that are known before: the forms at no share but on the first tier.
    given: [f64; VARIABLES],
    /// The place of the first tier's share of each class.
    first: [usize; 3],
    /// What the objective's value is multiplied by.
    unit: f64,
}

/// How much of a tier the programme uses: what its shares are rounded by fits beside it.
const FILLED: f64 = 1.0 - 1e-6;
/// What all lanes of a token count together beside the longest: of plans that are as fast, the one that moves least is taken.
const TIE: f64 = 1e-6;

impl Programme {
    /// Weights, and keys and values, lie no lower than on the two tiers of `lowest`; only what passes through a tier needs
    /// room there.
    fn of(search: &Search<'_>, costs: &Costs, lowest: [usize; 2], least: Option<usize>) -> Programme {
        let tiers = search.tiers;
        let classes = [(WEIGHTS, lowest[0]), (KV, lowest[1]), (ACTIVATIONS, HOST)];
        let lower = |lowest: usize| tiers.present().skip(1).filter(move |tier| *tier <= lowest);
        let phases = [(&costs.prefill, 1.0), (&costs.decode, (search.load.generate - 1) as f64)];
        let mut given = passing(tiers, lowest);
        let first = classes.map(|(class, _)| class + tiers.main());
        first.iter().for_each(|place| given[*place] = 1.0);

        let arithmetic = |phase: &PhaseCosts| phase.lanes[0].seconds().at(&given).max(1e-12);
        let slowest = |phase: &PhaseCosts| phase.lanes.iter().map(|l| l.seconds().most()).fold(0.0, f64::max);
        let all: f64 = phases.iter().map(|(phase, often)| often * arithmetic(phase)).sum();
        let (repeats, often) = if phases[1].1 > 0.0 { phases[1] } else { phases[0] };
        let work = repeats.lanes.iter().fold(Form::default(), |sum, lane| sum + lane.seconds());
        let ties = work * (TIE * often / all);

        let mut problem = Problem::new(OptimizationDirection::Minimize);
        let mut shares = [None; VARIABLES];
        for ((class, lowest), first) in classes.iter().zip(first) {
            for tier in lower(*lowest) {
                let cost = if least.is_some() { 0.0 } else { ties.by[class + tier] - ties.by[first] };
                shares[class + tier] = Some(problem.add_var(cost, (0.0, 1.0)));
            }
            let sum: Vec<(Variable, f64)> =
                lower(*lowest).filter_map(|tier| Some((shares[class + tier]?, 1.0))).collect();
            if sum.len() > 1 {
                problem.add_constraint(&sum[..], ComparisonOp::Le, 1.0);
            }
        }
        let mut out = Programme { problem, shares, given, first, unit: all };
        if let Some(tier) = least {
            out.unit = costs.decode.holds.iter().map(|(_, h)| h.total().most()).fold(1.0, f64::max);
            let used = out.problem.add_var(1.0, (0.0, f64::INFINITY));
            for (_, holds) in phases.iter().flat_map(|(p, _)| &p.holds).filter(|(t, _)| *t == tier) {
                out.bound(&holds.total(), out.unit, 0.0, Some(used));
            }
        }
        for (tier, holds) in phases.iter().flat_map(|(phase, _)| &phase.holds) {
            let capacity = tiers.tier(*tier).capacity;
            if capacity.is_finite() && least != Some(*tier) {
                out.bound(&holds.total(), capacity.max(1.0), FILLED, None);
            }
        }
        if least.is_some() {
            return out;
        }
        for (phase, often) in phases {
            let unit = arithmetic(phase).max(1e-3 * slowest(phase));
            let bound = search.asked.most_seconds_per_token.filter(|_| std::ptr::eq(phase, &costs.decode));
            let most = bound.map_or(f64::INFINITY, |bound| bound / unit);
            let time = out.problem.add_var(often * unit / all, (0.0, most));
            for lane in &phase.lanes {
                out.bound(&lane.seconds(), unit, 0.0, Some(time));
            }
        }
        out
    }

    /// That a form, in this unit, is at most a number, or a variable beside it.
    fn bound(&mut self, form: &Form, unit: f64, most: f64, beside: Option<Variable>) {
        let mut terms: Vec<(Variable, f64)> = vec![];
        for (place, share) in self.shares.iter().enumerate() {
            let Some(share) = share else { continue };
            let by = (form.by[place] - form.by[self.first[place / 3]]) / unit;
            if by != 0.0 {
                terms.push((*share, by));
            }
        }
        terms.extend(beside.map(|variable| (variable, -1.0)));
        let known = form.at(&self.given) / unit;
        self.problem.add_constraint(&terms[..], ComparisonOp::Le, most - known);
    }

    /// The values of the variables and of the objective, where there are any.
    fn solve(self) -> Result<Option<([f64; VARIABLES], f64)>, PlanError> {
        let solution = match self.problem.solve() {
            Ok(SolveOutcome::Solution(solution)) => solution,
            Ok(SolveOutcome::Interrupted(_)) => {
                return Err(PlanError::Solver { what: "it stopped early".into() });
            }
            Err(microlp::Error::Infeasible) => return Ok(None),
            Err(error) => return Err(PlanError::Solver { what: error.to_string() }),
        };
        let mut values = self.given;
        for (place, share) in self.shares.iter().enumerate() {
            let Some(share) = share else { continue };
            values[place] = solution.var_value(*share).clamp(0.0, 1.0);
            values[self.first[place / 3]] -= values[place];
        }
        Ok(Some((values, solution.objective() * self.unit)))
    }
}
