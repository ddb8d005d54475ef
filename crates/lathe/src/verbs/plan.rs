//! `lathe plan`: where a model's bytes lie on a machine, when they move, and how fast that is.

mod experts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Budget, work};
use lathe_machine::Machine;
use lathe_models::cache_dir;
use lathe_plan::{
    Asked, Attention, Load, Outcome, Plan as Planned, Policy, Prediction, Shares, Work, picture, plan,
    predict, published_work,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::model::{Compute, Model};
use crate::options::{file_text, machine_of, size};
use crate::output;

const EXAMPLES: &str = "\
A plan says how many sequences are computed at once, which share of the weights, of keys and values and of activations lies in
which memory or on disk, and how fast that is predicted to be: as long as its longest lane, of arithmetic, each link, the disk
and each memory. A linear programme finds the shares. The host's memory holds what --memory says, or all that the machine has.
For this machine the model's own kernels are measured, the first time; with --peaks, and for other machines, arithmetic is as
fast as the machine's peaks. `lathe bench plan` runs plans and says how near predictions are.

Models of papers are known by name: opt-6.7b, opt-30b, opt-175b; and machines: flexgen-t4, accelerator-500.

With --experts, a device holds only some of a mixture's experts: the most popular ones. For each other that a step uses, its weights
move or its tokens do, part by part, whatever is sooner by a model of latencies; steps run on a virtual clock beside
policies that always do one of the two, and an oracle that knows what the router will choose.

Examples:
  lathe plan smollm2-135m --memory 64MiB
  lathe plan ./model.gguf --memory 2GiB --objective latency --prompt 128 --generate 64
  lathe plan opt-175b --machine flexgen-t4 --compare --picture plan.svg
  lathe plan opt-30b --machine flexgen-t4 --policy policy.toml
  lathe plan mixtral-8x7b --experts --machine accelerator-500 --picture token.svg
  lathe plan ./mixture.gguf --profile text.txt -o popularity.toml
  lathe plan ./mixture.gguf --experts --popularity popularity.toml --on-device 0.25";

/// Say where a model's bytes lie on a machine, and how fast that is
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Plan {
    /// A model as `--model` takes it, the name of a published one, or work in a .toml file [default: smollm2-135m].
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// A machine's file, as `lathe machine --toml` writes it, or a published one's name [default: this machine, measured].
    #[arg(long, value_name = "F")]
    machine: Option<String>,
    /// So many bytes of the host's memory may be used (`2GiB`, `500MB`), on this machine with what the process itself needs
    /// [default: all].
    #[arg(long, value_name = "BYTES", value_parser = size)]
    memory: Option<usize>,
    /// What is best.
    #[arg(long, value_name = "O", default_value = "throughput")]
    objective: Objective,
    /// No token of a sequence takes longer than so many seconds, but the first.
    #[arg(long, value_name = "S")]
    most_seconds_per_token: Option<f64>,
    /// Tokens of each prompt.
    #[arg(long, value_name = "P", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate of each.
    #[arg(long, value_name = "G", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,
    /// Sequences that there are: no more are computed at once [default: any number].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sequences: Option<u32>,
    /// Take this machine's peaks for how fast the model's kernels are, and measure none.
    #[arg(long)]
    peaks: bool,
    /// Measure the model's kernels again.
    #[arg(long, conflicts_with_all = ["peaks", "machine"])]
    refresh: bool,
    /// How keys and values are stored, or several ways to choose from (`f16,q4`) [default: f32, and f16 for published models].
    #[arg(long, value_name = "T", value_delimiter = ',')]
    kv_type: Vec<String>,
    /// Weights may be groups of 4-bit codes.
    #[arg(long)]
    four_bit: bool,
    /// The most batches that take turns in each layer [default: 1, any number where a device computes].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    most_batches: Option<u32>,
    /// Predict this policy, as --dump writes it, and search for none.
    #[arg(long, value_name = "F", conflicts_with_all = ["compare", "dump", "objective", "most_seconds_per_token"])]
    policy: Option<PathBuf>,
    /// List what was rejected.
    #[arg(long)]
    compare: bool,
    /// Draw it to an SVG file: each kind of tensor on its tier, and a token in time.
    #[arg(long, value_name = "F.svg")]
    picture: Option<PathBuf>,
    /// Write the policy to a file.
    #[arg(long, value_name = "F")]
    dump: Option<PathBuf>,
    /// Write the model's work to a file, which can be given in its place.
    #[arg(long, value_name = "F")]
    dump_work: Option<PathBuf>,
    #[command(flatten)]
    experts: experts::Experts,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Objective {
    /// The most tokens a second, of as many sequences at once as that takes.
    Throughput,
    /// The least time of one sequence.
    Latency,
}

impl Plan {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let files = experts::Files { picture: self.picture.as_deref(), work: self.dump_work.as_deref() };
        if self.experts.run(self.model.as_deref(), &|| self.machine(), &files, self.json)? {
            return Ok(());
        }
        // On this machine the process is in the memory too.
        let own = if self.machine.is_none() { Budget::reserved_by_process() } else { 0 };
        let machine = self.machine()?;
        let (work, kv_types) = self.work()?;
        if let Some(path) = &self.dump_work {
            output::file(path, work.to_toml().as_bytes())?;
        }
        let load = Load {
            prompt: self.prompt.into(),
            generate: self.generate.into(),
            sequences: self.sequences.map(Into::into),
        };
        if let Some(path) = &self.policy {
            return self.predicted(&work, &machine, &load, path);
        }
        let host = machine.main_memory().map(|memory| memory.name.clone());
        let budget = self.memory.map(|n| (n as u64).saturating_sub(own));
        let budgets: BTreeMap<String, u64> = host.zip(budget).into_iter().collect();
        let asked = Asked {
            objective: match self.objective {
                Objective::Throughput => lathe_plan::Objective::Throughput,
                Objective::Latency => lathe_plan::Objective::Latency,
            },
            most_seconds_per_token: self.most_seconds_per_token,
            budgets,
            four_bit: self.four_bit,
            kv_types,
            most_batches: self.most_batches.map(Into::into).or(machine.devices.is_empty().then_some(1)),
        };
        let outcome = plan(&work, &machine, &load, &asked)?;
        if let Some(path) = &self.dump {
            output::file(path, outcome.best.policy.to_toml().as_bytes())?;
        }
        if let Some(path) = &self.picture {
            output::file(path, picture(&work, &machine, &outcome.best).as_bytes())?;
        }
        match self.json {
            true => self.as_json(&work, &machine, &outcome),
            false => output::text(&self.told(&work, &machine, &outcome)),
        }
    }

    fn machine(&self) -> Result<Machine, Failure> {
        let Some(name) = &self.machine else {
            let mut tell = |what: &str| output::message(&format!("measuring {what}"));
            return Ok(lathe_runtime::this_machine(&cache_dir()?, false, usize::MAX, &mut tell)?);
        };
        machine_of(name)
    }

    /// What the model asks, and how its keys and values may be stored.
    fn work(&self) -> Result<(Work, Vec<String>), Failure> {
        let name = self.model.as_deref().unwrap_or("smollm2-135m");
        let or = |default: &str| match self.kv_type.is_empty() {
            true => vec![default.to_owned()],
            false => self.kv_type.clone(),
        };
        if let Some(work) = published_work(name) {
            return Ok((work, or("f16")));
        }
        if Path::new(name).extension().is_some_and(|e| e == "toml") {
            let work = Work::from_toml(&file_text("work-file", Path::new(name))?)?;
            let first = work.kv_types().next().unwrap_or_default().to_owned();
            let first = if work.kv_types().any(|t| t == "f32") { "f32".into() } else { first };
            return Ok((work, or(&first)));
        }
        let model = Model::open(name)?;
        let mut work = work(&model.file, &lathe_runtime::detect_target()?)?;
        let kv_types = or("f32");
        if self.machine.is_none() && !self.peaks {
            work.measured = Some(model.measure(&Compute::usual(), &kv_types, self.refresh)?);
        }
        Ok((work, kv_types))
    }

    fn predicted(&self, work: &Work, machine: &Machine, load: &Load, path: &Path) -> Result<(), Failure> {
        let policy = Policy::from_toml(&file_text("policy-file", path)?)?;
        let prediction = predict(work, machine, load, &policy)?;
        let planned = Planned { policy, prediction };
        if let Some(path) = &self.picture {
            output::file(path, picture(work, machine, &planned).as_bytes())?;
        }
        match self.json {
            true => output::json(&json_of(serde_json::to_value(&planned))?),
            false => output::text(&format!("{}{}", title(work, machine), one(&planned, &BTreeMap::new()))),
        }
    }

    fn as_json(&self, work: &Work, machine: &Machine, outcome: &Outcome) -> Result<(), Failure> {
        let mut all = json_of(serde_json::to_value(outcome))?;
        if !self.compare
            && let Some(all) = all.as_object_mut()
        {
            all.remove("rejected");
        }
        output::json(&json!({"model": work.name, "machine": machine.name, "plan": all}))
    }

    fn told(&self, work: &Work, machine: &Machine, outcome: &Outcome) -> String {
        let mut out = title(work, machine) + &one(&outcome.best, &outcome.capacities);
        let gains: Vec<String> = outcome
            .gains
            .iter()
            .filter(|g| g.gain > 5e-4)
            .map(|g| format!("{} {:+.1}%", g.of, 100.0 * g.gain))
            .collect();
        out += "\nWhat a tenth more would give: ";
        out += &if gains.is_empty() { "nothing".into() } else { gains.join(", ") };
        out.push('\n');
        if self.compare {
            out += "\nRejected:\n  tokens/s  s/token    s/prompt  batch       KV    weights            keys and values    attention\n";
            for other in &outcome.rejected {
                out += &row(other);
            }
        }
        out
    }
}

fn json_of(value: serde_json::Result<Value>) -> Result<Value, Failure> {
    value.map_err(|error| Diagnostic::new("plan-json", Fault::Bug, error.to_string()).into())
}

fn title(work: &Work, machine: &Machine) -> String {
    format!(
        "{}: {} layers, {} of weights, on {}\n\n",
        work.name,
        work.layer_count(),
        bytes(work.weight_bytes(false) as f64),
        machine.name
    )
}

fn bytes(n: f64) -> String {
    output::bytes(n.max(0.0) as usize)
}

/// The shares that are not 0, fastest tier first.
fn shares(shares: &Shares, order: &Prediction) -> String {
    let share = |tier: &str| shares.get(tier).copied().unwrap_or(0.0);
    let tiers = order.held.iter().map(|held| held.tier.as_str()).filter(|tier| share(tier) > 0.0);
    tiers.map(|tier| format!("{:.1}% {tier}", 100.0 * share(tier))).collect::<Vec<_>>().join(", ")
}

fn attention(planned: &Planned) -> &'static str {
    match planned.policy.attention {
        Attention::Where => "where the keys lie",
        Attention::Main => "with the products",
    }
}

/// A plan on one screen.
fn one(planned: &Planned, capacities: &BTreeMap<String, f64>) -> String {
    let Planned { policy, prediction } = planned;
    let mut out = String::new();
    let mut line = |label: &str, text: String| out += &format!("  {label:<17}{text}\n");
    let passes = match policy.passes {
        1 => "prompts in one sweep over the weights".to_owned(),
        n => format!("prompts in {n} sweeps over the weights"),
    };
    let block = match policy.batches {
        1 => String::new(),
        n => format!(", {n} batches of them in a block"),
    };
    line("sequences", format!("{} at once{block}, {passes}", policy.batch));
    let codes = if policy.four_bit { " (4-bit groups)" } else { "" };
    let head = if policy.head_stays { "; the head's stay" } else { "" };
    line("weights", shares(&policy.weights, prediction) + codes + head);
    line("keys and values", format!("{} ({})", shares(&policy.kv, prediction), policy.kv_type));
    line("activations", shares(&policy.activations, prediction));
    line("attention", attention(planned).into());
    for held in &prediction.held {
        let parts = [
            (held.weights, "weights"),
            (held.weight_window, "weights passing"),
            (held.kv, "keys and values"),
            (held.kv_window, "keys and values passing"),
            (held.activations, "activations"),
            (held.workspace, "temporaries"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(n, _)| *n >= 1.0)
            .map(|(n, what)| format!("{what} {}", bytes(*n)))
            .collect();
        let of = capacities.get(&held.tier).filter(|c| c.is_finite()).map(|c| format!(" of {}", bytes(*c)));
        let sum = format!("{}{}", bytes(held.peak), of.unwrap_or_default());
        line(&held.tier, if parts.is_empty() { sum } else { format!("{sum}: {}", parts.join(", ")) });
    }
    for (name, phase) in [("prompts", &prediction.prefill), ("a token of each", &prediction.decode)] {
        line(name, format!("{:.4} s, bound by {}", phase.seconds, phase.binds));
        for lane in phase.lanes() {
            let parts: Vec<String> = phase
                .parts
                .iter()
                .filter(|p| p.lane == lane)
                .map(|p| format!("{} {:.4}", p.what, p.seconds))
                .collect();
            line("", format!("{:.4} s  {lane}: {}", phase.lane_seconds(lane), parts.join(", ")));
        }
    }
    line(
        "speed",
        format!("{:.3} tokens/s: a block takes {:.1} s", prediction.tokens_per_second, prediction.seconds),
    );
    out
}

/// A plan on one line.
fn row(planned: &Planned) -> String {
    let Planned { policy, prediction } = planned;
    let weights = shares(&policy.weights, prediction) + if policy.four_bit { " (4-bit)" } else { "" };
    format!(
        "  {:<9.3} {:<10.4} {:<9.3} {:<11} {:<5} {:<18} {:<18} {}\n",
        prediction.tokens_per_second,
        prediction.decode.seconds,
        prediction.prefill.seconds,
        format!("{} x {}", policy.batch, policy.batches),
        policy.kv_type,
        weights,
        shares(&policy.kv, prediction),
        attention(planned),
    )
}
