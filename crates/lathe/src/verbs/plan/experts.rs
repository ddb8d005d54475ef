//! `lathe plan --experts`: which experts of a mixture lie on a device, what becomes of the others, and how fast that is.
//! `lathe plan --profile`: how often its router chooses each.

use std::path::{Path, PathBuf};

use clap::Args;
use lathe_engine::{EngineError, measure_expert, mixture};
use lathe_machine::Machine;
use lathe_models::{ModelFile, cache_dir};
use lathe_plan::experts::{
    ExpertCosts, ExpertPolicy, Latency, Mixture, Popularity, Router, Simulation, StepLoad, expert_picture,
    published_mixture, simulate,
};
use lathe_plan::published_machine;
use serde_json::{Value, json};

use super::{bytes, file_text, json_of};
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::Model;
use crate::output;
use crate::progress::Status;

/// What is put beside a machine that has no device.
const ACCELERATOR: &str = "accelerator-500";
/// The most tokens of one piece of a text whose router is watched.
const CONTEXT: usize = 512;
/// Numbers of tokens that an expert is measured with.
const MEASURED: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Tokens of the made-up text that popularity is counted in.
const COUNTED: usize = 2048;

#[derive(Args)]
pub struct Experts {
    /// Plan a mixture's experts: MODEL is a mixture's file, mixtral-8x7b (of 16 bits), mixtral-8x7b-q8_0 or mixtral-8x7b-int8, or a .toml file of
    /// --dump-work.
    #[arg(long, conflicts_with_all = ["policy", "compare", "dump", "most_seconds_per_token", "four_bit", "kv_type", "most_batches"])]
    experts: bool,
    /// How often each expert is chosen, as --profile records it [default: made up].
    #[arg(long, value_name = "F", requires = "experts")]
    popularity: Option<PathBuf>,
    /// The exponent of the popularity that is made up.
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "experts")]
    zipf: f64,
    /// How likely a made-up choice follows from the one in the layer before.
    #[arg(long, value_name = "P", default_value_t = 0.0, requires = "experts")]
    after_layer: f64,
    /// How likely a made-up choice is that of the token before.
    #[arg(long, value_name = "P", default_value_t = 0.0, requires = "experts")]
    after_token: f64,
    /// What made-up choices follow from.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "experts")]
    seed: u64,
    /// The share of all experts that the device holds [default: as many as fit into its memory].
    #[arg(long, value_name = "X", requires = "experts")]
    on_device: Option<f64>,
    /// The most parts that an expert is cut into; 1 moves and computes experts whole.
    #[arg(long, value_name = "N", default_value_t = 32, requires = "experts",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    parts: u32,
    /// Fit the host's latency to an expert's kernels, measured here, in place of the machine's rates.
    #[arg(long, requires = "experts")]
    measure: bool,
    /// The host's memory serves host and link one after the other, as where the processor alone can take all that it gives.
    #[arg(long, requires = "experts")]
    shared_memory: bool,
    /// Run the model over a text and write how often its router chooses each expert to --output.
    #[arg(long, value_name = "TEXT", requires = "output", conflicts_with_all = ["experts", "policy", "compare", "dump", "dump_work", "picture", "machine"])]
    profile: Option<PathBuf>,
    /// The file that --profile writes.
    #[arg(long, short, value_name = "F", requires = "profile")]
    output: Option<PathBuf>,
}

/// What is simulated: sequences, new tokens of each, steps, and positions before.
const LOADS: &[(usize, usize, usize, u64)] = &[
    (1, 1, 64, 512),
    (2, 1, 48, 512),
    (4, 1, 32, 512),
    (8, 1, 32, 512),
    (16, 1, 32, 512),
    (32, 1, 16, 512),
    (64, 1, 16, 512),
    (1, 128, 4, 0),
    (1, 256, 4, 0),
    (1, 512, 4, 0),
    (1, 1024, 4, 0),
    (1, 2048, 4, 0),
    (1, 4096, 2, 0),
];

/// A load under each policy.
struct Row {
    load: StepLoad,
    /// Always move, always on host, chosen, the two oracles; then the first two with nothing placed.
    ran: Vec<(ExpertPolicy, Simulation)>,
}

impl Row {
    fn seconds(&self, at: usize) -> f64 {
        self.ran[at].1.step_seconds()
    }

    fn better(&self) -> f64 {
        self.seconds(0).min(self.seconds(1))
    }

    fn better_unplaced(&self) -> f64 {
        self.seconds(5).min(self.seconds(6))
    }

    fn name(&self) -> String {
        match (self.load.sequences, self.load.tokens) {
            (1, 1) => "one sequence".into(),
            (n, 1) => format!("{n} sequences"),
            (_, n) => format!("prompt of {n}"),
        }
    }
}

/// What is written beside.
pub struct Files<'a> {
    /// The picture.
    pub picture: Option<&'a Path>,
    /// The mixture's shape.
    pub work: Option<&'a Path>,
}

impl Experts {
    /// Does what is asked of experts; whether anything is.
    pub fn run(
        &self,
        model: Option<&str>,
        machine: &dyn Fn() -> Result<Machine, Failure>,
        files: &Files<'_>,
        as_json: bool,
    ) -> Result<bool, Failure> {
        if let (Some(text), Some(out)) = (&self.profile, &self.output) {
            profile(model.unwrap_or("smollm2-135m"), text, out, as_json)?;
            return Ok(true);
        }
        if self.experts {
            self.plan(model.unwrap_or("mixtral-8x7b"), with_device(machine()?)?, files, as_json)?;
        }
        Ok(self.experts)
    }

    fn plan(&self, model: &str, machine: Machine, files: &Files<'_>, as_json: bool) -> Result<(), Failure> {
        let mixture = mixture_of(model)?;
        if let Some(path) = files.work {
            output::file(path, mixture.to_toml().as_bytes())?;
        }
        let costs = ExpertCosts::of_machine(&mixture, &machine, mixture.parts(self.parts))?;
        let (costs, measured) = if self.measure {
            output::message("measuring an expert");
            let threads = lathe_runtime::detect_cpu().cores;
            let measured = measure_expert(&mixture, MEASURED, threads, &cache_dir()?)?;
            (ExpertCosts { host: Latency::fitted(0.0, &measured)?, ..costs }, measured)
        } else {
            (costs, vec![])
        };
        let costs = match self.shared_memory {
            true => costs.with_shared_memory(&mixture, &machine)?,
            false => costs,
        };
        let (layers, experts) = (mixture.layers as usize, mixture.experts as usize);
        let all = layers * experts;
        let capacity = match self.on_device {
            Some(share) if (0.0..=1.0).contains(&share) => (share * all as f64).round() as u64,
            Some(_) => return Err(Failure::usage("--on-device is a share between 0 and 1")),
            None => ExpertCosts::capacity(&mixture, &machine, 4096)?,
        };
        let (router, popularity) = self.router(&mixture)?;
        let mut policies = vec![ExpertPolicy::moved(true), ExpertPolicy::on_host(true), ExpertPolicy::best()];
        policies.extend([ExpertPolicy::oracle(false), ExpertPolicy::oracle(true)]);
        policies.extend([ExpertPolicy::moved(false), ExpertPolicy::on_host(false)]);
        let mut rows = vec![];
        for &(sequences, tokens, steps, context) in LOADS {
            let load = StepLoad { sequences, tokens, context };
            let routing = router.routing(steps, sequences, tokens, self.seed.wrapping_add(1000));
            let run = |policy: &ExpertPolicy| {
                let ran = simulate(&costs, &popularity, capacity, &routing, load, policy)?;
                Ok::<_, Failure>((policy.clone(), ran))
            };
            rows.push(Row { load, ran: policies.iter().map(run).collect::<Result<_, _>>()? });
        }
        if let Some(path) = files.picture {
            let title = format!("One token of {} on {}", mixture.name, machine.name);
            output::file(path, expert_picture(&title, &rows[0].ran[2].1.spans).as_bytes())?;
        }
        let placed: Vec<(usize, usize)> = popularity.ranked().into_iter().take(capacity as usize).collect();
        match as_json {
            true => output::json(&as_object(&mixture, &machine, &costs, &measured, &placed, &rows)?),
            false => output::text(&told(&mixture, &machine, &costs, &measured, &popularity, &placed, &rows)),
        }
    }

    /// A router, and how popular its experts are.
    fn router(&self, mixture: &Mixture) -> Result<(Router, Popularity), Failure> {
        let (layers, experts, used) =
            (mixture.layers as usize, mixture.experts as usize, mixture.used as usize);
        let recorded = match &self.popularity {
            Some(path) => Some(Popularity::from_toml(&file_text("popularity-file", path)?)?),
            None => None,
        };
        if let Some(p) = &recorded
            && (p.counts.len() != layers || p.counts[0].len() != experts || p.used != mixture.used)
        {
            let what = format!(
                "the popularity is of {} layers with {} experts, of which a token uses {}; the model has {layers} with {experts}, {used}",
                p.counts.len(),
                p.counts[0].len(),
                p.used
            );
            return Err(Failure::usage(&what));
        }
        let router = match &recorded {
            Some(p) => Router::of(p)?,
            None => Router::zipf(layers, experts, used, self.zipf, self.seed)?,
        };
        let router = router.following(self.after_layer, self.after_token)?;
        let counted = || router.routing(1, 1, COUNTED, self.seed).popularity(&mixture.name);
        let popularity = recorded.unwrap_or_else(counted);
        Ok((router, popularity))
    }
}

/// The machine, with the example's accelerator where it has no device.
fn with_device(mut machine: Machine) -> Result<Machine, Failure> {
    let (None, Some(host)) = (machine.devices.first(), machine.main_memory().map(|m| m.name.clone())) else {
        return Ok(machine);
    };
    let example = Machine::from_toml(published_machine(ACCELERATOR).unwrap_or_default())?;
    let own = example.main_memory().map(|m| m.name.clone());
    let renamed = |name: &str| if Some(name) == own.as_deref() { host.clone() } else { name.to_owned() };
    machine.name = format!("{} with an emulated accelerator", machine.name);
    machine.memory.extend(example.memory.into_iter().filter(|m| Some(&m.name) != own.as_ref()));
    machine.links.extend(example.links.into_iter().map(|mut link| {
        (link.from, link.to) = (renamed(&link.from), renamed(&link.to));
        link
    }));
    machine.devices = example.devices;
    machine.check()?;
    Ok(machine)
}

fn mixture_of(name: &str) -> Result<Mixture, Failure> {
    if let Some(mixture) = published_mixture(name) {
        return Ok(mixture);
    }
    if Path::new(name).extension().is_some_and(|e| e == "toml") {
        return Ok(Mixture::from_toml(&file_text("work-file", Path::new(name))?)?);
    }
    let path = lathe_models::resolve(name, &mut Status::new())?;
    Ok(mixture(&ModelFile::open(path)?, &lathe_runtime::detect_target()?)?)
}

fn profile(model: &str, text: &Path, out: &Path, as_json: bool) -> Result<(), Failure> {
    let text = file_text("profile-text", text)?;
    let opened = Model::open(model)?;
    let ids = lathe_models::prompt_tokens(&opened.tokenizer, &text);
    if ids.is_empty() {
        return Err(EngineError::TooShortToScore { tokens: 0 }.into());
    }
    let longest = CONTEXT.min(opened.context);
    let texts: Vec<&[u32]> = ids.chunks(longest).collect();
    let interrupt = Listening::begin();
    let threads = lathe_runtime::detect_cpu().cores;
    let routing = opened.router_choices(&texts, longest, threads, &|| !interrupt.pressed())?;
    let popularity = routing.popularity(model);
    output::file(out, popularity.to_toml().as_bytes())?;
    if as_json {
        return output::json(&json_of(serde_json::to_value(&popularity))?);
    }
    // What a quarter of the experts would give, if it were the most popular one.
    let ranked = popularity.ranked();
    let quarter = &ranked[..ranked.len() / 4];
    let hits: u64 = quarter.iter().map(|(l, e)| popularity.counts[*l][*e]).sum();
    let all: u64 = popularity.counts.iter().flatten().sum();
    output::line(&format!(
        "{} tokens: the most popular quarter of the experts has {:.1}% of the choices",
        popularity.tokens,
        100.0 * hits as f64 / all.max(1) as f64
    ))
}

/// A number with four digits or more.
fn digits(n: f64) -> String {
    let before = if n > 0.0 { n.log10().floor() as i32 + 1 } else { 1 };
    format!("{n:.*}", (4 - before).clamp(0, 12) as usize)
}

/// The experts that lie on the device, layer by layer.
fn by_layer(layers: u64, placed: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut rows = vec![vec![]; layers as usize];
    placed.iter().for_each(|(l, e)| rows[*l].push(*e));
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows
}

fn told(
    mixture: &Mixture,
    machine: &Machine,
    costs: &ExpertCosts,
    measured: &[(u64, f64)],
    popularity: &Popularity,
    placed: &[(usize, usize)],
    rows: &[Row],
) -> String {
    let m = mixture;
    let mut out = format!(
        "{}: {} layers of {} experts, of which a token uses {}, on {}\n\n",
        m.name, m.layers, m.experts, m.used, machine.name
    );
    let mut line = |label: &str, text: String| out += &format!("  {label:<15}{text}\n");
    line(
        "an expert",
        format!(
            "{}: for one token {} ms on the host, {} ms on the device; {} ms on the link; cut into {} parts",
            bytes(m.expert_bytes as f64),
            digits(1e3 * costs.host.seconds(1, 1.0)),
            digits(1e3 * costs.device.seconds(1, 1.0)),
            digits(1e3 * costs.part * f64::from(costs.parts)),
            costs.parts
        ),
    );
    if !measured.is_empty() {
        let all: Vec<String> = measured.iter().map(|(n, s)| format!("{n}: {}", digits(1e3 * s))).collect();
        line("measured here", format!("ms by tokens: {}", all.join(", ")));
    }
    let hits: u64 = placed.iter().map(|(l, e)| popularity.counts[*l][*e]).sum();
    let all: u64 = popularity.counts.iter().flatten().sum();
    line(
        "on the device",
        format!(
            "{} of {} experts, with {:.1}% of the choices",
            placed.len(),
            m.layers * m.experts,
            100.0 * hits as f64 / all.max(1) as f64
        ),
    );
    let lie = |(layer, row): (usize, &Vec<usize>)| {
        format!("{layer}: {}", row.iter().map(usize::to_string).collect::<Vec<_>>().join(" "))
    };
    let lies: Vec<String> = by_layer(m.layers, placed).iter().enumerate().map(lie).collect();
    lies.chunks(8).for_each(|eight| line("", eight.join("   ")));
    out += "\nMilliseconds of a step:\n                     move      host    chosen    oracle    +cache   gain  unplaced  of oracle    here  host  moved\n";
    for row in rows {
        let chosen = &row.ran[2].1;
        let share = |n: u64| 100.0 * n as f64 / chosen.used.max(1) as f64;
        out += &format!(
            "  {:<15}{:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>5.2}  {:>8.2}  {:>9.3}  {:>5.0}% {:>4.0}%  {:>4.0}%\n",
            row.name(),
            digits(1e3 * row.seconds(0)),
            digits(1e3 * row.seconds(1)),
            digits(1e3 * row.seconds(2)),
            digits(1e3 * row.seconds(3)),
            digits(1e3 * row.seconds(4)),
            row.better() / row.seconds(2),
            row.better_unplaced() / row.seconds(2),
            row.seconds(2) / row.seconds(3),
            share(chosen.here),
            share(chosen.on_host),
            share(chosen.moved),
        );
    }
    out + "\ngain: how much faster than the better of always moving and always on the host, with the same placement and without any.\n\
           oracle: knows all choices; +cache exchanges what lies on the device by that, too.\n"
}

fn as_object(
    mixture: &Mixture,
    machine: &Machine,
    costs: &ExpertCosts,
    measured: &[(u64, f64)],
    placed: &[(usize, usize)],
    rows: &[Row],
) -> Result<Value, Failure> {
    let mut loads = vec![];
    for row in rows {
        let mut policies = serde_json::Map::new();
        for (policy, ran) in &row.ran {
            let mut object = json_of(serde_json::to_value(ran))?;
            if let Some(fields) = object.as_object_mut() {
                fields.remove("spans");
                fields.insert("seconds".into(), ran.step_seconds().into());
                let tokens = (row.load.sequences * row.load.tokens) as f64;
                fields.insert("tokens_per_second".into(), (tokens / ran.step_seconds()).into());
            }
            policies.insert(policy.name.clone(), object);
        }
        loads.push(json!({
            "sequences": row.load.sequences, "tokens": row.load.tokens, "context": row.load.context,
            "policies": policies, "gain": row.better() / row.seconds(2),
            "gain_unplaced": row.better_unplaced() / row.seconds(2), "of_oracle": row.seconds(2) / row.seconds(3),
        }));
    }
    Ok(json!({
        "model": mixture.name, "machine": machine.name, "placed": by_layer(mixture.layers, placed), "loads": loads,
        "expert": {
            "bytes": mixture.expert_bytes, "parts": costs.parts, "host_seconds": costs.host.seconds(1, 1.0),
            "measured": measured, "device_seconds": costs.device.seconds(1, 1.0), "link_seconds": costs.part * f64::from(costs.parts),
        },
    }))
}
