//! Options that several verbs share.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Beams, Budget, EarlyStopping, EngineError, Grammar, HostMemory, Sampling};
use lathe_machine::Machine;
use lathe_plan::experts::Runs;
use lathe_plan::published_machine;

use crate::failure::Failure;
use crate::model::Compute;

/// A number of bytes: a unit may follow.
pub fn size(text: &str) -> Result<usize, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..end].parse::<f64>(), text[end..].trim());
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024f64,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        _ => return Err("the units are kB, MB, GB, KiB, MiB and GiB".into()),
    };
    number.map(|n| (n * factor) as usize).map_err(|_| "it is a number, and perhaps a unit".into())
}

/// Which model.
#[derive(Args)]
pub struct ModelOption {
    /// A GGUF file, a folder of safetensors, a file of `lathe compile`, or a name as `lathe pull` takes it [default: smollm2-135m].
    #[arg(long, value_name = "M")]
    model: Option<String>,
}

impl ModelOption {
    /// What was asked for, or the default.
    pub fn name(&self) -> &str {
        self.model.as_deref().unwrap_or("smollm2-135m")
    }

    /// Whether one was asked for.
    pub fn given(&self) -> bool {
        self.model.is_some()
    }
}

/// How it is computed.
#[derive(Args)]
pub struct ComputeOptions {
    /// Threads that compute [default: the processor's cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// fast: 8-bit activations where weights are quantized, and in programs of ONNX convolutions of 3x3 by Winograd's algorithm where
    /// that is faster, and attention in one kernel; exact: f32 activations, and sums of products.
    #[arg(long, value_name = "P", default_value = "fast")]
    pub precision: Precision,
}

impl ComputeOptions {
    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(|| lathe_runtime::detect_cpu().cores, usize::from)
    }
}

/// How memory is used.
#[derive(Args)]
pub struct CacheOptions {
    /// How keys and values are stored: less memory and more speed, and a little less exact, from left to right
    /// [default: f32].
    #[arg(long, value_name = "T")]
    kv_type: Option<KvType>,
    #[command(flatten)]
    memory: MemoryOptions,
}

/// The memory to stay in.
#[derive(Args)]
pub struct MemoryOptions {
    /// The most memory that may be used (`1GiB`, `800MB`): weights that do not fit are packed onto the disk once, and read from
    /// there in every step [default: as much as the model needs].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// The folder for what does not fit into --memory, and for weights packed for a device [default: `weights` in the cache folder].
    #[arg(long, value_name = "DIR")]
    disk_cache: Option<PathBuf>,
    /// Read the disk at no more than so many bytes a second (`900MB`), to stand for a slower one.
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "memory")]
    disk_rate: Option<usize>,
    /// Run as on a machine that is described (a file of `lathe machine --toml`): with no more memory than it has, and a disk as slow. One
    /// with a device holds in the device's memory what it computes with; what does not fit there lies in the host's (--memory) and comes
    /// over the link at its rate. The arithmetic is as fast as this processor is.
    #[arg(long, value_name = "F")]
    machine: Option<String>,
    /// Where a mixture's experts are computed that such a device does not hold: on it, which they move to; on the host, where they lie,
    /// by the processors that --threads leaves; or each where the layer is done soonest.
    #[arg(long, value_name = "WHERE", requires = "machine", default_value = "best")]
    experts_on: ExpertsOn,
}

/// Where experts are computed that a device does not hold.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExpertsOn {
    /// They move to the device.
    Device,
    /// They are computed where they lie.
    Host,
    /// Whichever is over sooner, expert by expert.
    Best,
}

impl CacheOptions {
    /// What was asked for.
    pub fn kv_type(&self) -> Option<lathe_models::KvType> {
        self.kv_type.map(|t| match t {
            KvType::F32 => lathe_models::KvType::F32,
            KvType::F16 => lathe_models::KvType::F16,
            KvType::Bf16 => lathe_models::KvType::Bf16,
            KvType::Q8 => lathe_models::KvType::Q8,
            KvType::Q4 => lathe_models::KvType::Q4,
        })
    }

    /// With the rest of how a model computes.
    pub fn with(&self, compute: &ComputeOptions) -> Result<Compute, Failure> {
        Ok(Compute {
            precision: compute.precision.into(),
            threads: compute.threads(),
            kv_type: self.kv_type(),
            budget: self.budget()?,
            ..Compute::usual()
        })
    }

    /// The folder for what has no room in memory.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        self.memory.folder()
    }

    /// The machine that is described, where one is.
    pub fn machine(&self) -> Result<Option<Machine>, Failure> {
        self.memory.machine()
    }

    /// The memory to stay in.
    pub fn budget(&self) -> Result<Option<Budget>, Failure> {
        self.memory.budget()
    }
}

impl MemoryOptions {
    /// The folder for what has no room in memory.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        match &self.disk_cache {
            Some(folder) => Ok(folder.clone()),
            None => Ok(lathe_models::cache_dir()?.join("weights")),
        }
    }

    /// The machine that is described, where one is.
    pub fn machine(&self) -> Result<Option<Machine>, Failure> {
        self.machine.as_deref().map(machine_of).transpose()
    }

    /// The memory to stay in.
    pub fn budget(&self) -> Result<Option<Budget>, Failure> {
        let memory = self.memory.map(|bytes| bytes as u64);
        let rate = self.disk_rate.map(|rate| rate as u64);
        let machine = self.machine()?;
        let Some(machine) = machine else {
            let Some(bytes) = memory else { return Ok(None) };
            return Ok(Some(Budget::of_process(bytes, self.folder()?, rate)));
        };
        let has = machine.main_memory().map_or(u64::MAX, |memory| memory.capacity_bytes);
        let on_host = Budget::of_process(memory.unwrap_or(has).min(has), self.folder()?, None);
        let Some(device) = machine.devices.first() else {
            let disk = machine.disk.map(|disk| disk.read_bandwidth.median as u64);
            return Ok(Some(Budget { bandwidth: rate.or(disk), ..on_host }));
        };
        let lacks = |what: String| {
            let d = Diagnostic::new("machine-device", Fault::User, what);
            Failure::from(d.at(machine.name.clone()).fix("describe it in the machine's file"))
        };
        let own =
            machine.memory(&device.memory).ok_or_else(|| lacks(format!("no memory '{}'", device.memory)))?;
        let host = machine.main_memory().ok_or_else(|| lacks("no memory of the host".into()))?;
        let link = |from: &str, to: &str| {
            machine.link(from, to).cloned().ok_or_else(|| lacks(format!("no link from '{from}' to '{to}'")))
        };
        let links = [link(&host.name, &own.name)?, link(&own.name, &host.name)?];
        // The process is in the host's memory, not in the device's.
        let bytes = on_host.bytes.saturating_sub(on_host.reserved);
        let disk = machine.disk.map(|disk| disk.read_bandwidth.median as u64);
        let experts = match self.experts_on {
            ExpertsOn::Device => Runs::Moved,
            ExpertsOn::Host => Runs::OnHost,
            ExpertsOn::Best => Runs::Best,
        };
        let processors = lathe_runtime::detect_cpu().cores;
        let host = Some(HostMemory { bytes, links, disk: disk.is_some(), processors, experts });
        let bandwidth = rate.or(disk);
        Ok(Some(Budget { bytes: own.capacity_bytes, reserved: 0, host, bandwidth, ..on_host }))
    }
}

/// The machine of a file, or a published one by its name.
pub fn machine_of(name: &str) -> Result<Machine, Failure> {
    let text = match published_machine(name) {
        Some(text) => text.to_owned(),
        None => file_text("machine-file", Path::new(name))?,
    };
    Ok(Machine::from_toml(&text)?)
}

/// The text of a file that the user named.
pub fn file_text(code: &'static str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read the file: {error}");
        Diagnostic::new(code, Fault::User, what).at(path.display().to_string()).into()
    })
}

/// How an element of keys and values is stored.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KvType {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// The upper 16 bits of 32, which some processors multiply as they are.
    Bf16,
    /// 8-bit codes with a scale for every 32.
    Q8,
    /// 4-bit codes with a scale for every 32.
    Q4,
}

/// How exact the arithmetic is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Activations are quantized where weights are; in programs of ONNX, Winograd's algorithm where it is faster, and attention in
    /// one kernel.
    Fast,
    /// Activations stay f32, and convolutions sums of products.
    Exact,
}

impl Precision {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        lathe_engine::Precision::from(self).as_str()
    }

    /// The passes that a program of ONNX is compiled with.
    pub fn passes(self) -> &'static [&'static str] {
        match self {
            Precision::Fast => lathe_onnx::FAST,
            Precision::Exact => lathe_onnx::EXACT,
        }
    }
}

impl From<Precision> for lathe_engine::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Fast => lathe_engine::Precision::Fast,
            Precision::Exact => lathe_engine::Precision::Exact,
        }
    }
}

/// What is guessed to follow.
#[derive(Args)]
pub struct SpeculateOptions {
    /// Guess so many tokens at a step, from what followed the same words before, and check them in one: the answers are the
    /// same. What a server guesses where a request does not say.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub speculate: u8,
    /// A smaller model, of the same tokens, that guesses in their place (with --speculate): the best answers are the same, drawn
    /// ones have the same distribution.
    #[arg(long, value_name = "M", requires = "speculate")]
    pub draft_model: Option<String>,
}

/// How tokens are chosen.
#[derive(Args)]
pub struct SamplingOptions {
    /// 0 always takes the likeliest token, so the same prompt gives the same answer; 0.7 is livelier.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Choose among the K likeliest tokens only (0: all).
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Choose among tokens at least this fraction as likely as the likeliest.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Above 1, tokens that are there already become less likely.
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Another seed, another answer (with a temperature above 0).
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplingOptions {
    /// The sampling they describe, checked.
    pub fn sampling(&self) -> Result<Sampling, EngineError> {
        let SamplingOptions { temperature, top_k, top_p, min_p, repetition_penalty, seed } = *self;
        let sampling =
            Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed, ..Sampling::default() };
        sampling.check()?;
        Ok(sampling)
    }
}

/// What an answer must be.
#[derive(Args)]
#[group(multiple = false)]
pub struct GrammarOptions {
    /// The answer is JSON that the schema in this file accepts.
    #[arg(long, value_name = "F")]
    json_schema: Option<PathBuf>,
    /// The answer matches this regular expression as a whole.
    #[arg(long, value_name = "R")]
    regex: Option<String>,
    /// The answer is this text, or another that is given so.
    #[arg(long, value_name = "TEXT")]
    choice: Vec<String>,
    /// The answer is derived from the grammar in this file, in the notation of Lark.
    #[arg(long, value_name = "F")]
    grammar: Option<PathBuf>,
}

impl GrammarOptions {
    /// The grammar they describe.
    pub fn grammar(&self) -> Result<Option<Grammar>, Failure> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| {
                let what = format!("cannot read it: {error}");
                Failure::from(
                    Diagnostic::new("grammar-file", Fault::User, what).at(path.display().to_string()),
                )
            })
        };
        let json = self.json_schema.as_deref().map(|path| read(path).map(Grammar::Json)).transpose()?;
        let lark = self.grammar.as_deref().map(|path| read(path).map(Grammar::Lark)).transpose()?;
        let choice = (!self.choice.is_empty()).then(|| Grammar::Choice(self.choice.clone()));
        Ok(json.or(lark).or(choice).or(self.regex.clone().map(Grammar::Regex)))
    }
}

/// The search of the likeliest answer.
#[derive(Args)]
pub struct BeamOptions {
    /// Keep so many beginnings of an answer, the likeliest, and give the best of them when it is whole, instead of choosing token
    /// by token.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128),
        conflicts_with_all = ["temperature", "speculate"])]
    pub beams: Option<u16>,
    /// Compare answers by their log-likelihood over their length to this power: above 0 longer ones gain.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, requires = "beams")]
    length_penalty: f64,
    /// End the search with N answers (yes), when no better one is likely (no), or when none is possible (never), as
    /// `transformers` has it.
    #[arg(long, value_name = "WHEN", default_value = "no", requires = "beams")]
    early_stopping: Stopping,
}

/// When a search ends.
#[derive(Clone, Copy, ValueEnum)]
enum Stopping {
    /// With as many answers as beams.
    Yes,
    /// When the best beam is no better than the worst answer.
    No,
    /// When no beam can become better.
    Never,
}

impl BeamOptions {
    /// What was asked for.
    pub fn beams(&self) -> Option<Beams> {
        let early_stopping = match self.early_stopping {
            Stopping::Yes => EarlyStopping::AtWidth,
            Stopping::No => EarlyStopping::WhenUnlikely,
            Stopping::Never => EarlyStopping::Never,
        };
        let length_penalty = self.length_penalty;
        self.beams.map(|width| Beams { width: width.into(), length_penalty, early_stopping })
    }
}

/// When an answer ends.
#[derive(Args)]
pub struct AnswerOptions {
    /// The most tokens of an answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 512)]
    pub max_tokens: u32,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Tokens that the model can see at once, the prompt's and the answer's [default: what is needed, in powers of two
    /// from 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!((size("512"), size("1.5MB"), size("2 GiB")), (Ok(512), Ok(1_500_000), Ok(2 << 30)));
        assert!(size("MB").is_err() && size("5 miles").is_err() && size("-3").is_err());
    }
}
