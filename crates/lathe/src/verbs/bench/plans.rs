//! `lathe bench plan`: what plans predict beside what they take, and the plan that is chosen beside all others.

use std::time::Instant;

use clap::Args;
use lathe_engine::{Budget, Engine, Event, Forward, Request, Runner};
use lathe_models::cache_dir;
use lathe_plan::{Load, Objective, Plan};
use serde_json::{Value, json};

use super::measure::median;
use crate::failure::Failure;
use crate::foreign::Clocks;
use crate::interrupt::Listening;
use crate::model::{Compute, Model};
use crate::options::{ModelOption, size};
use crate::output;
use crate::planner::Planner;
use crate::progress::Status;

const EXAMPLES: &str = "\
For each memory the best plan is run: its sequences with their prompts, until each has its tokens. With --every N the best plan
and N - 1 others, spread from the second best to the worst, are run in a random order, so that a slow minute of the machine meets
plans of all kinds; then the regret is how much slower the chosen one was than the fastest.
A plan that needs more memory than it says is as slow as can be. A sample in which other processes take over 5% of the machine is taken again, a few times.

Examples:
  lathe bench plan --memory 90MiB,110MiB,140MiB --disk-rate 300MB --prompt 64 --generate 8
  lathe bench plan --memory 100MiB --disk-rate 200MB --kv-types f16,q8 --every 100 --json";

/// Run plans of a model in little memory, and compare them with what they predict
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchPlan {
    #[command(flatten)]
    model: ModelOption,
    /// Bytes that the whole process may use, one or more.
    #[arg(long, value_name = "BYTES,..", required = true, value_delimiter = ',', value_parser = size)]
    memory: Vec<usize>,
    /// The folder for what does not fit [default: `weights` in the cache folder].
    #[arg(long, value_name = "DIR")]
    disk_cache: Option<std::path::PathBuf>,
    /// Read the disk at no more than so many bytes a second, to stand for a slower one.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    disk_rate: Option<usize>,
    /// Tokens of each prompt.
    #[arg(long, value_name = "P", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate of each.
    #[arg(long, value_name = "G", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,
    /// Sequences that there are: no more are computed at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    sequences: u32,
    /// How keys and values may be stored.
    #[arg(long, value_name = "T,..", value_delimiter = ',', default_value = "f16")]
    kv_types: Vec<String>,
    /// Run so many plans for each memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    every: u16,
    /// Samples of each plan, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    samples: u16,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A plan that was run.
struct Ran {
    plan: Plan,
    /// 0 where the engine needs more memory than the plan says.
    tokens_per_second: f64,
    /// Bytes of weights that each step reads from the disk, and of keys and values that lie there.
    on_disk: [u64; 2],
}

impl Ran {
    /// Whether it ran.
    fn fits(&self) -> bool {
        self.tokens_per_second > 0.0
    }

    /// How far the prediction was off, as a share of what was measured.
    fn error(&self) -> f64 {
        self.plan.prediction.tokens_per_second / self.tokens_per_second - 1.0
    }

    /// Bytes of weights that each step was to read.
    fn predicted_read(&self) -> f64 {
        let reads = self.plan.prediction.decode.parts.iter().filter(|p| p.what == "weights read");
        reads.map(|p| p.bytes).sum()
    }
}

impl BenchPlan {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let model = Model::open(self.model.name())?;
        // What measuring, or one plan, leaves behind is not taken from the next one.
        let reserved = Budget::reserved_by_process();
        let rate = self.disk_rate.map(|rate| rate as u64);
        let planner = Planner::new(&model, &Compute::usual(), &self.kv_types, None, rate)?;
        let interrupt = Listening::begin();
        let (mut errors, mut rows) = (vec![], vec![]);
        for memory in &self.memory {
            let ran = self.all(&model, &planner, *memory, reserved, &interrupt)?;
            errors.extend(ran.iter().filter(|r| r.fits()).map(|r| r.error().abs()));
            let best = ran.iter().map(|r| r.tokens_per_second).fold(0.0, f64::max);
            let regret = 1.0 - ran[0].tokens_per_second / best;
            if !self.json {
                self.print(*memory, &ran, regret)?;
            }
            rows.push(json!({
                "memory_bytes": memory,
                "regret": regret,
                "plans": ran.iter().map(row).collect::<Vec<_>>(),
            }));
        }
        let error = median(errors.clone());
        if self.json {
            return output::json(&json!({
                "model": self.model.name(),
                "disk_rate": self.disk_rate,
                "prompt": self.prompt,
                "generate": self.generate,
                "memories": rows,
                "median_error": error,
            }));
        }
        output::line(&format!("median error of {} predictions: {:.1}%", errors.len(), 100.0 * error))
    }

    fn load(&self) -> Load {
        Load {
            prompt: self.prompt.into(),
            generate: self.generate.into(),
            sequences: Some(self.sequences.into()),
        }
    }

    /// The best plan, and as many others as are asked for, run.
    fn all(
        &self,
        model: &Model,
        planner: &Planner,
        memory: usize,
        reserved: u64,
        interrupt: &Listening,
    ) -> Result<Vec<Ran>, Failure> {
        let folder = match &self.disk_cache {
            Some(folder) => folder.clone(),
            None => cache_dir()?.join("weights"),
        };
        let bandwidth = self.disk_rate.map(|rate| rate as u64);
        let budget =
            Budget { bytes: memory as u64, reserved, folder, bandwidth, spilled_layers: 0, host: None };
        let found = planner.plans(&budget, 0, &self.load(), Objective::Throughput)?;
        let chosen = spread(found, self.every.into());
        // A fixed shuffle: neighbours in time are not neighbours in speed.
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
        let mut speeds: Vec<(Vec<f64>, [u64; 2])> = vec![(vec![], [0; 2]); chosen.len()];
        let mut status = Status::new();
        let all = order.len() * usize::from(self.samples);
        for sample in 0..usize::from(self.samples) {
            for (done, i) in order.iter().enumerate() {
                status.count("running plans", sample * order.len() + done, all);
                let budget = planner.budget(&chosen[*i].policy, budget.clone());
                match self.speed(model, &chosen[*i], budget, interrupt) {
                    Ok((speed, on_disk)) => {
                        speeds[*i].0.push(speed);
                        speeds[*i].1 = on_disk;
                    }
                    Err(Failure::Error(why)) if why.code == "memory-budget" => speeds[*i].0.push(0.0),
                    Err(other) => return Err(other),
                }
            }
        }
        let ran = chosen.into_iter().zip(speeds).map(|(plan, (speeds, on_disk))| Ran {
            plan,
            tokens_per_second: median(speeds),
            on_disk,
        });
        Ok(ran.collect())
    }

    /// Tokens a second of a plan, with bytes of weights that each step reads and of keys and values on the disk.
    fn speed(
        &self,
        model: &Model,
        plan: &Plan,
        budget: Budget,
        interrupt: &Listening,
    ) -> Result<(f64, [u64; 2]), Failure> {
        let compute = Compute { budget: Some(budget), ..Compute::usual() };
        let mut engine = model.load_planned(compute, &plan.policy, &self.load())?;
        let mut best = 0.0f64;
        for attempt in 0..4 {
            let start = Clocks::now();
            let seconds = self.block(&mut engine, plan.policy.batch as usize, attempt, interrupt)?;
            // Without a disk the first block is the one that wakes caches and clocks; with experts on one, that fills their room.
            if attempt == 0 && (engine.model().store().is_none() || engine.model().experts().is_some()) {
                continue;
            }
            best = best.max((plan.policy.batch * u64::from(self.generate)) as f64 / seconds);
            let foreign = Clocks::now().zip(start).and_then(|(now, start)| now.foreign_since(&start));
            if foreign.is_none_or(|load| load <= super::measure::FOREIGN) {
                break;
            }
        }
        let held = engine.model().footprint();
        Ok((best, [held.disk_bytes, held.spilled_bytes]))
    }

    /// Seconds until each of so many sequences has its tokens.
    fn block(
        &self,
        engine: &mut Engine<Runner>,
        batch: usize,
        attempt: usize,
        interrupt: &Listening,
    ) -> Result<f64, Failure> {
        let vocabulary = engine.model().vocabulary();
        for sequence in 0..batch {
            // Others in each attempt, so that none is found in the cache.
            let number = attempt * batch + sequence;
            let prompt = super::measure::prompt(vocabulary, number, self.prompt as usize);
            engine.add(Request { prompt, max_tokens: self.generate as usize, ..Request::default() })?;
        }
        let start = Instant::now();
        while !engine.is_idle() {
            if interrupt.pressed() {
                return Err(Failure::Interrupted);
            }
            for event in engine.step()? {
                if let Event::Failed { error, .. } = event {
                    return Err(error.into());
                }
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn print(&self, memory: usize, ran: &[Ran], regret: f64) -> Result<(), Failure> {
        output::line(&format!("{} of memory:", output::bytes(memory)))?;
        output::line(
            "  predicted tok/s  measured tok/s   error   batch  sweeps     KV  weights read  predicted  KV on disk",
        )?;
        for r in ran {
            let p = &r.plan.policy;
            let measured = match r.fits() {
                true => format!("{:>14.3}  {:>+5.0}%", r.tokens_per_second, 100.0 * r.error()),
                false => format!("{:>14}  {:>6}", "too large", ""),
            };
            output::line(&format!(
                "  {:>15.3}  {measured}  {:>6}  {:>6}  {:>5}  {:>12}  {:>9}  {:>10}",
                r.plan.prediction.tokens_per_second,
                p.batch,
                p.passes,
                p.kv_type,
                output::bytes(r.on_disk[0] as usize),
                output::bytes(r.predicted_read() as usize),
                output::bytes(r.on_disk[1] as usize),
            ))?;
        }
        match ran.len() {
            1 => Ok(()),
            n => output::line(&format!("  regret of the first among {n}: {:.1}%", 100.0 * regret)),
        }
    }
}

/// The first of a list and `n - 1` others at equal distances.
fn spread(mut list: Vec<Plan>, n: usize) -> Vec<Plan> {
    let last = list.len() - 1;
    let keep: Vec<usize> = match n {
        1 => vec![0],
        n if n > last => (0..=last).collect(),
        n => (0..n).map(|i| i * last / (n - 1)).collect(),
    };
    let mut at = 0;
    list.retain(|_| {
        at += 1;
        keep.binary_search(&(at - 1)).is_ok()
    });
    list
}

fn row(r: &Ran) -> Value {
    json!({
        "policy": r.plan.policy,
        "predicted_tokens_per_s": r.plan.prediction.tokens_per_second,
        "measured_tokens_per_s": r.fits().then_some(r.tokens_per_second),
        "error": r.fits().then(|| r.error()),
        "read_bytes_per_step": r.on_disk[0],
        "kv_bytes_on_disk": r.on_disk[1],
        "predicted_read_bytes_per_step": r.predicted_read(),
    })
}
