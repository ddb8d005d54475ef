//! Plans for a model on this machine, in the memory that it may use.

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Budget, PAGE, work};
use lathe_machine::{Machine, Rate};
use lathe_models::cache_dir;
use lathe_plan::{Asked, Attention, Load, Objective, Plan, Policy, Work, plans};

use crate::failure::Failure;
use crate::model::{Compute, Model};
use crate::output;

/// This machine and what a model asks of it, both measured: what plans are made from.
pub struct Planner {
    machine: Machine,
    work: Work,
    kv_types: Vec<String>,
}

impl Planner {
    /// For the machine that is described, or for this one, which is measured where it was not before, with a disk of at most `disk_rate` bytes a second.
    /// So are the steps of the model as it computes, with keys and values stored in each of these ways (as `compute` has it, where none
    /// is named); of what a device computes only how many bytes they hold counts.
    pub fn new(
        model: &Model,
        compute: &Compute,
        kv_types: &[String],
        machine: Option<Machine>,
        disk_rate: Option<u64>,
    ) -> Result<Planner, Failure> {
        let mut tell = |what: &str| output::message(&format!("measuring {what}"));
        let machine = match machine {
            Some(machine) => machine,
            None => {
                let within = compute.budget.as_ref().map_or(usize::MAX, Budget::left);
                throttled(lathe_runtime::this_machine(&cache_dir()?, false, within, &mut tell)?, disk_rate)
            }
        };
        let target = lathe_runtime::detect_target()?;
        let mut work = work(&model.file, &target)?;
        let own = || vec![compute.kv_type(&target).as_str().to_owned()];
        let kv_types = if kv_types.is_empty() { own() } else { kv_types.to_vec() };
        work.measured = Some(model.measure(compute, &kv_types, false)?);
        Ok(Planner { machine, work, kv_types })
    }

    /// The plans of a load in a budget, with `beside` bytes of it for something else; the best first.
    pub fn plans(
        &self,
        budget: &Budget,
        beside: u64,
        load: &Load,
        objective: Objective,
    ) -> Result<Vec<Plan>, Failure> {
        let left = budget.bytes.saturating_sub(budget.reserved + beside);
        let host = self.machine.main_memory().map(|m| m.name.clone()).unwrap_or_default();
        let budgets = match &budget.host {
            Some(memory) => {
                let mut budgets = vec![(self.computes_in(), left), (host, memory.bytes)];
                budgets.extend((!memory.disk).then(|| ("disk".into(), 0)));
                budgets
            }
            None => vec![(host, left)],
        };
        let asked = Asked {
            objective,
            budgets: budgets.into_iter().filter(|(name, _)| self.knows(name)).collect(),
            kv_types: self.kv_types.clone(),
            most_batches: Some(1),
            ..Asked::default()
        };
        let mut found = plans(&self.work, &self.machine, load, &asked)?;
        // The engine computes attention where it computes products.
        found.retain(|plan| plan.policy.attention == Attention::Main || self.machine.devices.is_empty());
        Ok(found)
    }

    fn knows(&self, tier: &str) -> bool {
        self.machine.memory(tier).is_some() || tier == "disk" && self.machine.disk.is_some()
    }

    /// The name of the memory that products are computed in.
    fn computes_in(&self) -> String {
        let device = self.machine.devices.first().map(|device| device.memory.clone());
        device.or(self.machine.main_memory().map(|memory| memory.name.clone())).unwrap_or_default()
    }

    /// A budget with as many layers' keys and values below as a plan has there.
    pub fn budget(&self, policy: &Policy, budget: Budget) -> Budget {
        let below = 1.0 - policy.kv.get(&self.computes_in()).copied().unwrap_or(0.0);
        Budget { spilled_layers: (below * self.work.layer_count() as f64).round() as usize, ..budget }
    }

    /// Bytes of so many rows of logits.
    fn logits_bytes(&self, rows: usize) -> u64 {
        self.work.head.logits_bytes * rows as u64
    }
}

/// A machine with as slow a disk as is asked for.
fn throttled(mut machine: Machine, disk_rate: Option<u64>) -> Machine {
    if let (Some(rate), Some(disk)) = (disk_rate, &mut machine.disk) {
        for r in std::iter::once(&mut disk.read_bandwidth).chain(&mut disk.write_bandwidth) {
            *r = Rate { best: r.best.min(rate as f64), median: r.median.min(rate as f64) };
        }
    }
    machine
}

/// The most tokens of a step of a plan.
pub fn step_tokens(policy: &Policy, load: &Load) -> usize {
    // Sequences whose prompts are done have a token in each step beside those of other prompts.
    let others = (policy.passes - 1).min(2 * (load.generate - 1)) * policy.batch / 2;
    (policy.batch * load.prompt + others).div_ceil(policy.passes).max(policy.batch) as usize
}

/// How large an engine is that takes requests as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The most tokens of a sequence.
    pub context: usize,
    /// The most sequences in one step.
    pub sequences: usize,
    /// Tokens whose keys and values are kept.
    pub cache_tokens: usize,
    /// The most tokens in one step.
    pub step_tokens: usize,
    /// The most rows of logits in one step.
    pub rows: usize,
}

impl Sizes {
    /// One line that says them.
    pub fn describe(&self) -> String {
        let Sizes { context, sequences, cache_tokens, step_tokens, .. } = self;
        format!(
            "planned: {sequences} sequences at once, {cache_tokens} tokens kept, {step_tokens} in a step, a context of {context}"
        )
    }
}

/// Rows of logits, beside one for each sequence, of an engine in little memory: prompts that are scored take more steps.
const FEW_ROWS: usize = 16;

/// What requests are like.
#[derive(Args)]
pub struct ExpectOptions {
    /// What --memory (or --machine) is planned for: requests with a prompt of P tokens and an answer of G. Others are served too.
    #[arg(long, value_name = "P,G", value_parser = pair)]
    expect: Option<(u32, u32)>,
}

/// Two numbers from 1 on.
fn pair(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| (1..=1 << 20).contains(n));
    let both = text.split_once(',').and_then(|(p, g)| number(p).zip(number(g)));
    both.ok_or_else(|| "two numbers from 1 to 1048576 are needed: 512,128".into())
}

impl ExpectOptions {
    /// What was said, or what seems likely.
    pub fn load(&self, likely: (u32, u32), sequences: usize) -> Load {
        let (prompt, generate) = self.expect.unwrap_or(likely);
        Load { prompt: prompt.into(), generate: generate.into(), sequences: Some(sequences as u64) }
    }
}

/// The sizes of an engine for requests of this kind in a budget: those of the plan with the most tokens a second, among plans that have room for
/// a sequence of `context` tokens where one is asked for; and how it computes, with the layers below that the plan has there.
pub fn planned(
    model: &Model,
    compute: Compute,
    load: &Load,
    machine: Option<Machine>,
    context: Option<usize>,
    most_context: usize,
) -> Result<(Sizes, Compute), Failure> {
    let Some(budget) = compute.budget.clone() else {
        return Err(Failure::usage("a plan needs --memory"));
    };
    let before = Budget::reserved_by_process();
    let planner = Planner::new(model, &compute, &[], machine, budget.bandwidth)?;
    // Measuring leaves something behind.
    let left_behind =
        if budget.host.is_some() { 0 } else { Budget::reserved_by_process().saturating_sub(before) };
    let budget = Budget { reserved: budget.reserved + left_behind, ..budget };
    let logits = planner.logits_bytes(2 * FEW_ROWS);
    let held = |plan: &Plan, load: &Load| {
        plan.policy.batch as usize * ((load.prompt + load.generate) as usize).next_multiple_of(PAGE)
    };
    // A draft model has its weights in memory, and keys and values of as many tokens.
    let (draft_bytes, draft_token_bytes) = match &compute.draft {
        None => (0, 0),
        Some(draft) => {
            let target = lathe_runtime::detect_target()?;
            let draft = work(&draft.file, &target)?;
            let kv_type = compute.kv_type(&target).as_str();
            (draft.weight_bytes(false), draft.kv_bytes(kv_type).unwrap_or(0))
        }
    };
    let best = |load: Load| {
        let most = load.sequences.unwrap_or(1) * (load.prompt + load.generate).next_multiple_of(PAGE as u64);
        let beside = logits + draft_bytes + draft_token_bytes * most;
        let objective = if load.sequences == Some(1) { Objective::Latency } else { Objective::Throughput };
        let mut found = planner.plans(&budget, beside, &load, objective)?;
        found.retain(|plan| held(plan, &load) >= context.unwrap_or(1));
        Ok::<_, Failure>(found.into_iter().next().map(|plan| (plan, load)))
    };
    // With a draft model fewer sequences may leave more room than they cost.
    let fewer = |n: &u64| (draft_token_bytes > 0 && *n > 1).then_some(n * 2 / 3);
    let mut failed = None;
    let found = std::iter::successors(load.sequences, fewer).filter_map(|n| {
        let found = best(Load { sequences: Some(n), ..load.clone() });
        found.map_err(|error| failed = Some(error)).ok().flatten()
    });
    let speed = |(plan, _): &(Plan, Load)| plan.prediction.tokens_per_second;
    let fastest = found.max_by(|a, b| speed(a).total_cmp(&speed(b)));
    let (plan, load) = match (fastest, failed) {
        (Some(fastest), _) => fastest,
        (None, Some(error)) => return Err(error),
        // One long sequence, and nothing beside it.
        (None, None) => {
            let one = Load { prompt: context.unwrap_or(1) as u64, generate: 1, sequences: Some(1) };
            best(one)?.ok_or_else(|| {
                let what = "no plan has attention where the products are, as the engine computes it";
                let d = Diagnostic::new("memory-budget", Fault::User, what);
                d.fix("raise --memory, or describe a device with more memory")
            })?
        }
    };
    let (policy, cache_tokens) = (&plan.policy, held(&plan, &load));
    let sequences = policy.batch as usize;
    let sizes = Sizes {
        context: context.unwrap_or(cache_tokens.min(most_context)),
        sequences,
        cache_tokens,
        step_tokens: step_tokens(policy, &load),
        rows: sequences + FEW_ROWS,
    };
    let budget = planner.budget(policy, budget);
    Ok((sizes, Compute { budget: Some(budget), ..compute }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_are_two_numbers() {
        assert_eq!((pair("512,128"), pair("1, 1")), (Ok((512, 128)), Ok((1, 1))));
        for bad in ["", "5", "0,1", "5,", "1,2,3", "4000000000,1"] {
            assert!(pair(bad).is_err(), "{bad}");
        }
    }
}
