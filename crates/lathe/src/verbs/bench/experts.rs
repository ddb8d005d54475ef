//! `lathe bench experts`: a mixture's experts in real time, as they were planned.

use clap::Args;
use lathe_engine::try_experts;
use lathe_models::cache_dir;
use lathe_plan::experts::{Mixture, Router, published_mixture};
use serde_json::json;

use crate::failure::Failure;
use crate::options::machine_of;
use crate::output;

const EXAMPLES: &str = "\
Steps of one sequence through layers of a mixture of random weights in f32, with kernels of the compiler on one thread, a throttled
link, and an emulated device: the same kernels, which then wait until the device of the description would be done. Everything is
made so many times slower than the description that kernels here are faster than that. The router is made up as by `lathe plan
--experts`; experts lie on the device by popularity, and none is exchanged or fetched ahead.

Examples:
  lathe bench experts
  lathe bench experts --layers 32 --hidden 256 --inner 896 --parts 8 --json";

/// The most steps of a program.
const MOST_STEPS: u64 = 1 << 16;
/// The most bytes of all experts' weights.
const MOST_BYTES: u64 = 8 << 30;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchExperts {
    /// A machine with a device: a file, or a published one's name.
    #[arg(long, value_name = "F", default_value = "accelerator-500")]
    machine: String,
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    layers: u64,
    /// Experts of a layer, of which a token uses two.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=64))]
    experts: u64,
    /// The width between layers.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(8..=8192))]
    hidden: u64,
    /// The width inside an expert.
    #[arg(long, value_name = "N", default_value_t = 1792, value_parser = clap::value_parser!(u64).range(8..=32768))]
    inner: u64,
    /// The most parts that an expert is cut into.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    parts: u32,
    /// Steps of each policy.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    steps: u16,
    /// The share of all experts that the device holds.
    #[arg(long, value_name = "X", default_value_t = 0.25)]
    on_device: f64,
    /// What the router's choices follow from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl BenchExperts {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        if !(0.0..=1.0).contains(&self.on_device) {
            return Err(Failure::usage("--on-device is a share between 0 and 1"));
        }
        let weights = 12 * self.hidden * self.inner * self.layers * self.experts;
        if weights > MOST_BYTES {
            let what =
                format!("all experts take {}: make them smaller, or fewer", output::bytes(weights as usize));
            return Err(Failure::usage(&what));
        }
        // A program of steps has an end: a part of each of two experts is a dozen steps of its queues at most.
        let parts = u64::from(self.parts);
        if self.layers * u64::from(self.steps) * (2 * parts * 12 + 16) > MOST_STEPS {
            return Err(Failure::usage(
                "so many layers, steps and parts are more than one program holds: ask for fewer",
            ));
        }
        let machine = machine_of(&self.machine)?;
        let (hidden, inner) = (self.hidden, self.inner);
        let dense = 5 * hidden * hidden / 2;
        let mixture = Mixture {
            name: "random".into(),
            layers: self.layers,
            experts: self.experts,
            inner,
            hidden_bytes: 4 * hidden,
            expert_bytes: 12 * hidden * inner,
            expert_operations: 6 * hidden * inner,
            dense_bytes: 4 * dense,
            dense_operations: 2 * dense,
            attention_operations: 4 * hidden,
            kv_bytes: 4 * hidden,
            head_bytes: 32 * hidden * hidden,
            head_operations: 16 * hidden * hidden,
            ..published_mixture("mixtral-8x7b").ok_or_else(|| Failure::usage("no mixture to begin with"))?
        };
        let all = (self.layers * self.experts) as usize;
        let router = Router::zipf(self.layers as usize, self.experts as usize, 2, 1.0, self.seed)?;
        let popularity = router.routing(1, 1, 2048, self.seed).popularity(&mixture.name);
        let routing = router.routing(self.steps.into(), 1, 1, self.seed.wrapping_add(1000));
        let capacity = (self.on_device * all as f64).round() as u64;
        let parts = mixture.parts(self.parts);
        let found = try_experts(&mixture, &machine, parts, &popularity, capacity, &routing, &cache_dir()?)?;
        let gain = |of: &dyn Fn(usize) -> f64| of(0).min(of(1)) / of(2);
        let planned = gain(&|i| found.trials[i].planned);
        let measured = gain(&|i| found.trials[i].measured);
        if self.json {
            let trials: Vec<_> = found
                .trials
                .iter()
                .map(|t| {
                    json!({"policy": t.policy, "planned_seconds": t.planned, "virtual_seconds": t.expected,
                        "measured_seconds": t.measured, "error": t.error})
                })
                .collect();
            return output::json(&json!({
                "machine": machine.name, "slower": found.slower, "parts": parts, "kernel_seconds": found.kernel,
                "host_seconds": found.host, "trials": trials, "planned_gain": planned, "measured_gain": measured,
            }));
        }
        output::line(&format!(
            "{}, {:.0} times slower: a part of {parts} takes {:.3} ms on its host; its kernels take {:.3} ms here\n",
            machine.name,
            found.slower,
            1e3 * found.host,
            1e3 * found.kernel
        ))?;
        output::line(
            "                  planned ms/step   virtual clock   measured   difference   error of results",
        )?;
        for t in &found.trials {
            output::line(&format!(
                "  {:<16}{:>15.2}  {:>14.2}  {:>9.2}  {:>+10.1}%  {:>17.1e}",
                t.policy,
                1e3 * t.planned,
                1e3 * t.expected,
                1e3 * t.measured,
                100.0 * (t.measured / t.planned - 1.0),
                t.error
            ))?;
        }
        output::line(&format!(
            "\n  chosen is {planned:.2} times as fast as the better as planned, {measured:.2} as measured"
        ))
    }
}
