//! Steps of a mixture on a virtual clock: the device, the host and the link between them, each with its own time.

use super::{ExpertCosts, History, Job, LayerWork, Popularity, Routing, Timing, choose, timing};
use crate::PlanError;
use serde::Serialize;

/// Where experts that do not lie on the device are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// On the device, always: their weights move.
    Moved,
    /// Where they lie, always.
    OnHost,
    /// Where the layer is done soonest, part by part: [`choose()`].
    Best,
}

/// What somebody knows of the router's choices before it makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knows {
    /// Nothing, and does nothing.
    Nothing,
    /// Popularity, and what it chose so far.
    History,
    /// All of them: what nobody can, to compare with.
    Routing,
}

/// How a mixture is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertPolicy {
    /// What people call it.
    pub name: String,
    /// Whether the most popular experts lie on the device from the start, as many as it holds; otherwise none.
    pub placed: bool,
    /// Where the other ones are computed.
    pub runs: Runs,
    /// What parts are fetched by while the link has nothing to do.
    pub fetches: Knows,
    /// What decides whether parts that came to the device stay, in place of others.
    pub keeps: Knows,
}

impl ExpertPolicy {
    /// Weights always move.
    pub fn moved(placed: bool) -> ExpertPolicy {
        ExpertPolicy::named("always move", placed, Runs::Moved, Knows::Nothing, Knows::Nothing)
    }

    /// Experts always run where they lie.
    pub fn on_host(placed: bool) -> ExpertPolicy {
        ExpertPolicy::named("always on host", placed, Runs::OnHost, Knows::Nothing, Knows::Nothing)
    }

    /// The best of both for each part, with a cache and fetching by history.
    pub fn best() -> ExpertPolicy {
        ExpertPolicy::named("chosen", true, Runs::Best, Knows::History, Knows::History)
    }

    /// The same with the routing known; `keeps` says whether parts change places by it too.
    pub fn oracle(keeps: bool) -> ExpertPolicy {
        let (name, keeps) = match keeps {
            false => ("oracle", Knows::Nothing),
            true => ("oracle with cache", Knows::Routing),
        };
        ExpertPolicy::named(name, true, Runs::Best, Knows::Routing, keeps)
    }

    fn named(name: &str, placed: bool, runs: Runs, fetches: Knows, keeps: Knows) -> ExpertPolicy {
        let without = if placed { "" } else { ", none placed" };
        ExpertPolicy { name: format!("{name}{without}"), placed, runs, fetches, keeps }
    }
}

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLoad {
    /// Sequences that share a step.
    pub sequences: usize,
    /// New tokens of each.
    pub tokens: usize,
    /// Positions of each before.
    pub context: u64,
}

/// What a lane does for a while.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertSpan {
    /// `host`, `link` or `device`.
    pub lane: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The layer.
    pub layer: usize,
    /// When it starts, seconds after the step did.
    pub start: f64,
    /// Seconds that it takes.
    pub seconds: f64,
}

/// What some steps take.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Simulation {
    /// Seconds of each step.
    pub steps: Vec<f64>,
    /// Seconds that the host computes, in all steps.
    pub host: f64,
    /// Seconds that the link carries weights.
    pub link: f64,
    /// Seconds that the device computes.
    pub device: f64,
    /// Parts of experts that were used.
    pub used: u64,
    /// Of these: computed on the device, where they were when the router chose.
    pub here: u64,
    /// Of these: computed on the host.
    pub on_host: u64,
    /// Of these: moved to be computed on the device.
    pub moved: u64,
    /// Parts that were fetched before the router chose.
    pub fetched: u64,
    /// Of these: used.
    pub fetched_used: u64,
    /// Parts that stayed on the device in place of others.
    pub exchanged: u64,
    /// The last step.
    pub spans: Vec<ExpertSpan>,
    /// By step and layer, where the experts that it used were computed.
    #[serde(skip)]
    pub computed: Vec<Vec<Vec<Computed>>>,
}

/// Where an expert was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// The expert.
    pub expert: usize,
    /// Parts on the device, where they were.
    pub here: u32,
    /// Parts that were moved there.
    pub moved: u32,
    /// Parts on the host.
    pub on_host: u32,
}

impl Simulation {
    /// Mean seconds of a step.
    pub fn step_seconds(&self) -> f64 {
        self.steps.iter().sum::<f64>() / self.steps.len().max(1) as f64
    }
}

/// Experts that the device has room for beside those that it holds: what passes.
const PASSING: u32 = 2;
/// Layers that are looked ahead.
const AHEAD: usize = 4;
/// How much less a use counts for each layer that it is further away.
const NEARER: f64 = 0.9;
/// Parts change places where that is likelier to pay by so much.
const MARGIN: f64 = 1.1;

/// Runs steps on a device that holds so many experts. Placement and history begin with `popularity`.
pub fn simulate(
    costs: &ExpertCosts,
    popularity: &Popularity,
    capacity: u64,
    routing: &Routing,
    load: StepLoad,
    policy: &ExpertPolicy,
) -> Result<Simulation, PlanError> {
    popularity.check()?;
    let (layers, experts) = (popularity.counts.len(), popularity.counts[0].len());
    let tokens = load.sequences.saturating_mul(load.tokens);
    let fits = routing.experts == experts
        && tokens > 0
        && (1..=experts).contains(&routing.used)
        && routing.steps.iter().all(|step| {
            let row = |chosen: &Vec<u16>| {
                chosen.len() == tokens * routing.used && chosen.iter().all(|e| usize::from(*e) < experts)
            };
            step.len() == layers && step.iter().all(row)
        });
    if !fits {
        let what = "the routing has a row for each layer of the popularity, with the experts of each token of a step";
        return Err(PlanError::Asked { what: what.into() });
    }
    let mut run = Run {
        costs,
        routing,
        load,
        policy,
        tokens,
        history: History::new(popularity),
        resident: vec![vec![0; experts]; layers],
        staged: vec![vec![0; experts]; layers],
        next_use: if policy.keeps == Knows::Routing { next_uses(routing, layers) } else { vec![] },
        partial: None,
        under_way: false,
        now: 0.0,
        link_free: 0.0,
        targets: vec![],
        out: Simulation::default(),
        began: 0.0,
    };
    if policy.placed {
        for (l, e) in popularity.ranked().into_iter().take(usize::try_from(capacity).unwrap_or(usize::MAX)) {
            run.resident[l][e] = costs.parts;
        }
    }
    for step in 0..routing.steps.len() {
        run.step(step);
    }
    Ok(run.out)
}

/// For each step, layer and expert the next step that uses it, after this one; none is the end.
fn next_uses(routing: &Routing, layers: usize) -> Vec<Vec<Vec<usize>>> {
    let mut next = vec![vec![usize::MAX; routing.experts]; layers];
    let mut out = vec![];
    for (step, chosen) in routing.steps.iter().enumerate().rev() {
        out.push(next.clone());
        for (next, chosen) in next.iter_mut().zip(chosen) {
            chosen.iter().for_each(|e| next[usize::from(*e)] = step);
        }
    }
    out.reverse();
    out
}

struct Run<'a> {
    costs: &'a ExpertCosts,
    routing: &'a Routing,
    load: StepLoad,
    policy: &'a ExpertPolicy,
    tokens: usize,
    history: History,
    /// Parts on the device that stay, and that pass, by layer and expert.
    resident: Vec<Vec<u32>>,
    staged: Vec<Vec<u32>>,
    next_use: Vec<Vec<Vec<usize>>>,
    /// A part that was begun to be fetched, and the seconds of it that are done.
    partial: Option<((usize, usize), f64)>,
    /// Whether it is on the link.
    under_way: bool,
    now: f64,
    link_free: f64,
    /// What may be fetched, the best first.
    targets: Vec<(usize, usize)>,
    out: Simulation,
    /// When the step began.
    began: f64,
}

impl Run<'_> {
    fn step(&mut self, step: usize) {
        self.began = self.now;
        self.out.spans.clear();
        self.out.computed.push(vec![]);
        let costs = self.costs;
        for layer in 0..self.resident.len() {
            let dense = self.costs.layer_seconds(self.load);
            self.span("device", "attention and router", layer, self.now, dense);
            self.out.device += dense;
            self.now += dense;
            self.fetch(layer);
            self.layer(step, layer);
        }
        let head = costs.dense.head.seconds(self.load.sequences as u64, 1.0);
        self.span("device", "head", self.resident.len(), self.now, head);
        self.out.device += head;
        self.now += head;
        self.out.steps.push(self.now - self.began);
    }

    fn span(&mut self, lane: &'static str, what: &'static str, layer: usize, start: f64, seconds: f64) {
        if seconds > 0.0 {
            let start = start - self.began;
            self.out.spans.push(ExpertSpan { lane, what, layer, start, seconds });
        }
    }

    /// Parts that the device can compute without their being moved.
    fn here(&self, layer: usize, expert: usize) -> u32 {
        (self.resident[layer][expert] + self.staged[layer][expert]).min(self.costs.parts)
    }

    /// Fetches what may be used soon until now: whatever is needed comes first, so only the link's idle time is taken.
    fn fetch(&mut self, layer: usize) {
        self.under_way = false;
        let mut at = self.link_free;
        let mut staged: u32 = self.staged.iter().flatten().sum();
        // Two parts of the room are for those that are computed as they come.
        let room = (PASSING * self.costs.parts).saturating_sub(2);
        for target in std::mem::take(&mut self.targets) {
            while staged < room && at < self.now && self.here(target.0, target.1) < self.costs.parts {
                let done = self.partial.filter(|(of, _)| *of == target).map_or(0.0, |(_, done)| done);
                let end = at + self.costs.part - done;
                let until = end.min(self.now);
                self.out.link += until - at;
                self.span("link", "fetched ahead", layer, at, until - at);
                if end > self.now {
                    self.partial = Some((target, done + self.now - at));
                    self.under_way = true;
                } else {
                    self.partial = None;
                    self.staged[target.0][target.1] += 1;
                    self.out.fetched += 1;
                    staged += 1;
                }
                at = until;
            }
        }
        self.link_free = at;
    }

    fn layer(&mut self, step: usize, layer: usize) {
        let (costs, router) = (self.costs, self.now);
        let routing = self.routing;
        let chosen = &routing.steps[step][layer];
        let mut counts = vec![0u64; routing.experts];
        chosen.iter().for_each(|e| counts[usize::from(*e)] += 1);
        let used: Vec<usize> = (0..counts.len()).filter(|e| counts[*e] > 0).collect();
        let jobs = used.iter().map(|e| Job { tokens: counts[*e], here: self.here(layer, *e) }).collect();
        // A part under way that is used goes on; any other is given up at its next piece.
        let ours = self
            .partial
            .filter(|((l, e), _)| *l == layer && counts[*e] > 0 && self.here(layer, *e) < costs.parts);
        let waits = (self.link_free - router).max(0.0) + if self.under_way { costs.piece } else { 0.0 };
        let mut work = LayerWork { tokens: self.tokens as u64, jobs, link_free: waits };
        if let Some((_, done)) = ours {
            work.link_free = (self.link_free - router).max(0.0) - done;
        }
        let mut on_host = self.decide(&work);
        if let Some(((_, expert), _)) = ours {
            let at = used.iter().position(|e| *e == expert).expect("it is used");
            if costs.parts - work.jobs[at].here <= on_host[at] {
                // Nothing of that expert moves, so what came of its part is for nothing.
                work.link_free = waits;
                on_host = self.decide(&work);
            }
            self.partial = None;
        }
        let t = timing(costs, &work, &on_host);
        self.record(&work, &used, &on_host, &t, layer, router);
        for (at, expert) in used.iter().enumerate() {
            self.out.fetched_used += u64::from(self.staged[layer][*expert].min(work.jobs[at].here));
        }
        self.now = router + t.seconds();
        if t.link_busy > 0.0 || t.link > work.link_free {
            self.link_free = router + t.link;
        } else {
            self.link_free = self.link_free.max(router);
        }
        // While the host reads a memory that is shared, nothing is fetched.
        self.link_free = self.link_free.max(router + t.memory);
        let before = layer.checked_sub(1).map(|l| &routing.steps[step][l][..]);
        self.history.observe(layer, before, chosen, routing.used);
        if self.policy.keeps != Knows::Nothing {
            for (at, expert) in used.iter().enumerate() {
                let here = self.here(layer, *expert).max(costs.parts - on_host[at]);
                self.keep(step, (layer, *expert), here - self.resident[layer][*expert]);
            }
        }
        self.staged[layer].fill(0);
        if self.partial.is_some_and(|((l, _), _)| l == layer) {
            self.partial = None;
        }
        self.aim(step, layer);
    }

    fn decide(&self, work: &LayerWork) -> Vec<u32> {
        match self.policy.runs {
            Runs::Moved => vec![0; work.jobs.len()],
            Runs::OnHost => work.jobs.iter().map(|job| self.costs.parts - job.here).collect(),
            Runs::Best => choose(self.costs, work).0,
        }
    }

    fn record(
        &mut self,
        work: &LayerWork,
        used: &[usize],
        on_host: &[u32],
        t: &Timing,
        layer: usize,
        router: f64,
    ) {
        let costs = self.costs;
        let used_here = |job: &Job, on_host: &u32| job.here.min(costs.parts - on_host);
        let here = |(job, on_host): (&Job, &u32)| {
            costs.device.seconds(job.tokens, costs.share(used_here(job, on_host)))
        };
        let here: f64 = work.jobs.iter().zip(on_host).map(here).sum();
        let moved = t.device_busy - here;
        self.span("device", "experts here", layer, router, here);
        self.span("device", "experts moved", layer, router + t.device - moved, moved);
        // What is done of a part that was under way is counted already.
        let carried = (t.link_busy + work.link_free.min(0.0)).max(0.0);
        self.span("link", "moved", layer, router + work.link_free.max(0.0), carried);
        self.span("host", "experts", layer, router + costs.down.0, t.host_busy);
        self.out.device += t.device_busy;
        self.out.host += t.host_busy;
        self.out.link += carried;
        let mut computed = vec![];
        for ((job, on_host), expert) in work.jobs.iter().zip(on_host).zip(used) {
            let (here, moved) = (used_here(job, on_host), (costs.parts - job.here).saturating_sub(*on_host));
            self.out.used += u64::from(costs.parts);
            self.out.here += u64::from(here);
            self.out.on_host += u64::from(*on_host);
            self.out.moved += u64::from(moved);
            computed.push(Computed { expert: *expert, here, moved, on_host: *on_host });
        }
        if let Some(step) = self.out.computed.last_mut() {
            step.push(computed);
        }
    }

    /// How soon or how likely an expert is used again: more is better kept.
    fn worth(&self, step: usize, layer: usize, now: usize, expert: usize) -> f64 {
        match self.policy.keeps {
            Knows::Routing => {
                // Layers after this one still come in this step.
                let chosen = &self.routing.steps[step][layer];
                let this = layer > now && chosen.iter().any(|e| usize::from(*e) == expert);
                let next = if this { step } else { self.next_use[step][layer][expert] };
                1.0 / ((next.saturating_sub(step)) as f64 * self.resident.len() as f64 + layer as f64 + 1.0)
            }
            _ => self.history.next_step(layer, expert, self.tokens),
        }
    }

    /// Lets parts that came stay in place of others that are worth less.
    fn keep(&mut self, step: usize, came: (usize, usize), mut parts: u32) {
        let worth = self.worth(step, came.0, came.0, came.1);
        while parts > 0 {
            let all = self.resident.iter().enumerate();
            let all = all.flat_map(|(l, row)| (0..row.len()).map(move |e| (l, e)));
            let all = all.filter(|(l, e)| self.resident[*l][*e] > 0 && (*l, *e) != came);
            let valued = all.map(|(l, e)| (self.worth(step, l, came.0, e), l, e));
            let Some((least, l, e)) = valued.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
            if worth <= MARGIN * least {
                return;
            }
            let n = parts.min(self.resident[l][e]);
            self.resident[l][e] -= n;
            self.resident[came.0][came.1] += n;
            self.out.exchanged += u64::from(n);
            parts -= n;
        }
    }

    /// Says what may be fetched behind a layer.
    fn aim(&mut self, step: usize, layer: usize) {
        self.targets.clear();
        if self.policy.fetches == Knows::Nothing {
            return;
        }
        let (layers, routing) = (self.resident.len(), self.routing);
        let mut found: Vec<(f64, usize, usize)> = vec![];
        for ahead in 1..=AHEAD.min(layers.saturating_sub(1)) {
            let (at, l) = (step + (layer + ahead) / layers, (layer + ahead) % layers);
            let nearer = NEARER.powi(ahead as i32);
            match self.policy.fetches {
                Knows::Routing => {
                    let Some(chosen) = routing.steps.get(at) else { break };
                    let used = |e: &usize| chosen[l].iter().any(|c| usize::from(*c) == *e);
                    found.extend((0..routing.experts).filter(used).map(|e| (nearer, l, e)));
                }
                _ if ahead == 1 && l > 0 => {
                    let likely = self.history.next(l, &routing.steps[step][layer], self.tokens);
                    found.extend(likely.into_iter().enumerate().map(|(e, p)| (p * nearer, l, e)));
                }
                _ => {
                    let likely = |e| (self.history.next_step(l, e, self.tokens) * nearer, l, e);
                    found.extend((0..routing.experts).map(likely));
                }
            }
        }
        found.retain(|(_, l, e)| self.here(*l, *e) < self.costs.parts);
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.targets = found.into_iter().map(|(_, l, e)| (l, e)).collect();
    }
}
