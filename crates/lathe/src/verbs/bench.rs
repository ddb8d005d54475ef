//! `lathe bench`: how fast something is, and how near to the floor that this machine sets in the same minutes.

mod experts;
mod measure;
mod plans;
mod program;
mod serve;
mod tensor;

use clap::{Args, Subcommand};
use lathe_engine::{Budget, PAGE};
use lathe_runtime::Pool;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::{Compute, Model};
use crate::options::{CacheOptions, ModelOption, Precision};
use crate::output;
use measure::{Bench as Case, Row};

const EXAMPLES: &str = "\
Each sample measures this machine's read bandwidth and peak rates, then prefill, then decode; medians are printed.
The decode floor is the time to read weights, keys and values once, weights from the disk where they lie there (--memory); the
prefill floor is the time of the operations, each at its own type's peak, with logits for the last token only, and no less than
the disk takes. 100% of a floor cannot be beaten.
Samples in which other processes take over 5% of the machine are taken again.

Examples:
  lathe bench model
  lathe bench model --prompt 512 --generate 128 --batch 1,4,16 --threads 1,2 --json
  lathe bench net.onnx --input x.npy
  lathe bench program.txt --schedule steps.txt --input x.npy --output y.npy";

/// Measure how fast something is
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    program: Option<program::BenchProgram>,
}

#[derive(Subcommand)]
enum What {
    /// Prefill and decode of a model
    Model(BenchModel),
    /// How near plans of a model in little memory are to what they predict, and to the best
    Plan(plans::BenchPlan),
    /// A mixture's experts between a host and an emulated device, in real time
    Experts(experts::BenchExperts),
    /// A server, ours or another
    Serve(serve::BenchServe),
}

#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct BenchModel {
    #[command(flatten)]
    model: ModelOption,
    /// Tokens of each prompt.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Decode steps of a sample.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,
    /// Sequences at once.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Threads that compute [default: 1 and the processor's cores].
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// Samples of each case.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    samples: u16,
    /// fast: 8-bit activations where weights are quantized; exact: f32 activations.
    #[arg(long, value_name = "P", default_value = "fast")]
    precision: Precision,
    #[command(flatten)]
    cache: CacheOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            Some(What::Model(model)) => model.run(),
            Some(What::Plan(plan)) => plan.run(),
            Some(What::Experts(experts)) => experts.run(),
            Some(What::Serve(serve)) => serve.run(),
            None => match self.program {
                Some(program) => program.run(),
                None => Err(Failure::usage(
                    "say what: model, plan, experts, serve, a program of ONNX, or tensor programs",
                )),
            },
        }
    }
}

impl BenchModel {
    fn run(self) -> Result<(), Failure> {
        let model = Model::open(self.model.name())?;
        let (prompt, generate) = (self.prompt as usize, self.generate as usize);
        let most = self.batch.iter().copied().max().map_or(1, usize::from);
        // Each sequence waits for the others to begin, and decodes meanwhile.
        let context = prompt + generate + measure::steps_to_start(most, prompt) + PAGE;
        let context = model.context_for(usize::MAX, u32::try_from(context).ok())?;
        let threads: Vec<usize> = match self.threads.is_empty() {
            true => cores(),
            false => self.threads.iter().map(|&n| n.into()).collect(),
        };
        let mut rows = Vec::new();
        for threads in threads {
            let compute = Compute {
                precision: self.precision.into(),
                threads,
                kv_type: self.cache.kv_type(),
                // What measures the machine is a part of it.
                budget: self
                    .cache
                    .budget()?
                    .map(|b| Budget { reserved: b.reserved + measure::SMALL_PROBE_BYTES as u64, ..b }),
                ..Compute::usual()
            };
            let engine = model.load(compute, context, most, most)?;
            let interrupt = Listening::begin();
            let pool = Pool::new(threads)?;
            let mut bench = Case { engine, pool, threads, prompt, generate, interrupt, prompts: 0 };
            let batches: Vec<usize> = self.batch.iter().map(|&n| n.into()).collect();
            let new = bench.rows(&batches, self.samples.into())?;
            if !self.json {
                print(&new, rows.is_empty())?;
            }
            rows.extend(new);
        }
        if self.json {
            let precision = self.precision.as_str();
            let rows: Vec<Value> = rows.iter().map(|row| row.to_json(prompt, generate)).collect();
            output::json(&json!({ "model": self.model.name(), "precision": precision, "rows": rows }))?;
        }
        Ok(())
    }
}

/// One thread and all of them.
fn cores() -> Vec<usize> {
    let mut counts = vec![1, lathe_runtime::detect_cpu().cores];
    counts.dedup();
    counts
}

fn print(rows: &[Row], head: bool) -> Result<(), Failure> {
    if head {
        output::line(
            "threads  batch   prefill tok/s  of floor   decode tok/s  of floor   read GB/s  disk GB/s   other load",
        )?;
    }
    for r in rows {
        let (prefill, decode) = (100.0 * r.prefill_floor_fraction, 100.0 * r.decode_floor_fraction);
        output::line(&format!(
            "{:>7}  {:>5}  {:>14.1}  {prefill:>7.0}%  {:>13.2}  {decode:>7.0}%  {:>10.1}  {:>9}  {:>11}",
            r.threads,
            r.batch,
            r.prefill_tokens_per_s,
            r.decode_tokens_per_s,
            r.bandwidth / 1e9,
            r.disk.map_or("-".into(), |rate| format!("{:.2}", rate / 1e9)),
            r.foreign.map_or("unknown".into(), |load| format!("{:.0}%", 100.0 * load)),
        ))?;
    }
    Ok(())
}
