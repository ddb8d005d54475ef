//! `lathe quantize`: a model's file with its weights in other types.

mod budget;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_models::{Chosen, GgmlType, Loss, ModelFile, Progress, quantize_file, suitable_type};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::options;
use crate::output::{self, bytes};
use crate::progress::Status;

const EXAMPLES: &str = "\
Types: f32, f16, bf16, q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, iq4_xs, iq4_nl, q3_k, q2_k. Vectors, routers of experts and tables
of positions stay as they are, and rows that are no whole blocks of a type go to the next that fits. A tensor that is in
its type already is copied. Quantize from the widest weights there are: what a type lost does not come back.

The error is the mean squared one, relative to the variance of the weights.

With --size or --bits each tensor gets a type of its own: those are chosen that lose the least together and fit, by the relative
errors of the weights, or with --calibrate by how far each moves the distribution over the next token (that runs the
model once for each tensor, with its weights in memory as f32).

Examples:
  lathe quantize ./model-f16.gguf ./model-q4_k.gguf --scheme q4_k
  lathe quantize ./folder-of-safetensors ./model.gguf --scheme q4_k --keep 'output.weight=q6_k' --keep '*ffn_down*=q5_k'
  lathe quantize ./model-f16.gguf ./model-small.gguf --bits 4.5 --calibrate text.txt
  lathe quantize smollm2-135m ./wide.gguf --scheme f32 --json";

/// Write a model with its weights in other types
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Quantize {
    /// A GGUF file, a folder of safetensors, or a name as `--model` takes it.
    #[arg(value_name = "IN")]
    model: String,
    /// The GGUF file to write.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    goal: Goal,
    /// Measure on this text (its first 256 tokens), with the weights in f32, how far the model's answers move when each tensor is
    /// quantized, and choose by that [default: by the errors of the weights alone].
    #[arg(long, value_name = "F", conflicts_with = "scheme")]
    calibrate: Option<PathBuf>,
    /// Another type for the tensors of these names (`*` stands for anything); of several that fit the last counts.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = keep)]
    keep: Vec<Keep>,
    /// Threads that compute [default: the processor's cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Replace OUT where it is there.
    #[arg(long)]
    force: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One type, or the best of several under a budget.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Goal {
    /// The type of the weights.
    #[arg(long, value_name = "S", value_parser = ty)]
    scheme: Option<GgmlType>,
    /// The type that suits each tensor, so that all together take at most so many bytes (`60MB`, `1.5GiB`).
    #[arg(long, value_name = "BYTES", value_parser = options::size)]
    size: Option<usize>,
    /// The same, at most so many bits a weight.
    #[arg(long, value_name = "B")]
    bits: Option<f64>,
}

/// A type for tensors whose names fit a pattern.
#[derive(Clone, Debug)]
struct Keep {
    pattern: String,
    ty: GgmlType,
}

fn ty(name: &str) -> Result<GgmlType, String> {
    let found = GgmlType::ALL.iter().find(|t| t.name().eq_ignore_ascii_case(name)).copied();
    found.ok_or_else(|| {
        let names: Vec<String> = GgmlType::ALL.iter().map(|t| t.encoding()).collect();
        format!("the types are {}", names.join(", "))
    })
}

fn keep(text: &str) -> Result<Keep, String> {
    let (pattern, name) = text.rsplit_once('=').ok_or("it has the form PATTERN=TYPE")?;
    Ok(Keep { pattern: pattern.to_owned(), ty: ty(name)? })
}

/// Whether a name fits a pattern, in which `*` stands for anything.
fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|name| {
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| fits(&name[at..], rest))
        }),
    }
}

impl Quantize {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let start = Instant::now();
        if self.output.exists() && !self.force {
            let d = Diagnostic::new("quantize-exists", Fault::User, "it is there already");
            let d = d.at(self.output.display().to_string());
            return Err(d.fix("give another path, or --force to replace it").into());
        }
        let path = lathe_models::resolve(&self.model, &mut Status::new())?;
        let file = ModelFile::open(&path)?;
        let threads = self.threads.map_or_else(|| lathe_runtime::detect_cpu().cores, usize::from);
        let interrupt = Listening::begin();
        let kept = self.kept(&file)?;
        let weights = file.tensors().iter().map(|t| t.elements()).sum::<usize>();
        let room = self.goal.size.or(self.goal.bits.map(|bits| (bits * weights as f64 / 8.0) as usize));
        let chosen: Vec<Chosen> = match (self.goal.scheme, room) {
            (Some(scheme), _) => {
                let of = |(t, kept): (_, Option<GgmlType>)| suitable_type(t, kept.unwrap_or(scheme));
                file.tensors().iter().zip(kept).map(of).collect()
            }
            (None, Some(room)) => {
                let search = budget::Search { file: &file, kept: &kept, threads, interrupt: &interrupt };
                search.run(room, self.calibrate.as_deref().map(|text| (self.model.as_str(), text)))?
            }
            (None, None) => return Err(Failure::usage("one of --scheme, --size and --bits is needed")),
        };
        let types: Vec<GgmlType> = chosen.iter().map(|c| c.ty).collect();
        let mut status = Status::new();
        let of = |i: usize| file.tensors()[i].byte_len();
        status.begin("quantizing", Some((0..types.len()).map(of).sum::<usize>() as u64));
        let (mut current, mut done) = (0, 0);
        let losses = quantize_file(&file, &types, threads, &self.output, &mut |index, values| {
            while current < index {
                done += of(current);
                current += 1;
            }
            let part = of(index) as f64 * values as f64 / file.tensors()[index].elements() as f64;
            status.advance((done as f64 + part) as u64);
            !interrupt.pressed()
        })?;
        drop(status);
        let report = Report { file: &file, chosen: &chosen, losses: &losses };
        match self.json {
            true => output::json(&report.json(&self.output, start.elapsed().as_secs_f64())),
            false => output::text(&report.text()),
        }
    }

    /// The types that are asked for by name.
    fn kept(&self, file: &ModelFile) -> Result<Vec<Option<GgmlType>>, Failure> {
        for keep in &self.keep {
            if !file.tensors().iter().any(|t| fits(t.name(), &keep.pattern)) {
                let what = format!("--keep: no tensor is named '{}'", keep.pattern);
                let d = Diagnostic::new("quantize-keep", Fault::User, what);
                return Err(d.fix("lathe inspect --tensors lists the names").into());
            }
        }
        let asked = |name: &str| self.keep.iter().rfind(|k| fits(name, &k.pattern)).map(|k| k.ty);
        Ok(file.tensors().iter().map(|t| asked(t.name())).collect())
    }
}

/// What was made.
struct Report<'a> {
    file: &'a ModelFile,
    chosen: &'a [Chosen],
    losses: &'a [Loss],
}

/// Tensors of one type.
#[derive(Default)]
struct OfType {
    tensors: usize,
    bytes: usize,
    loss: Loss,
}

impl Report<'_> {
    fn bytes_of(&self, i: usize) -> usize {
        self.chosen[i].ty.bytes_for(self.file.tensors()[i].elements()).unwrap_or(0)
    }

    fn before(&self) -> usize {
        self.file.tensors().iter().map(|t| t.byte_len()).sum()
    }

    fn after(&self) -> usize {
        (0..self.chosen.len()).map(|i| self.bytes_of(i)).sum()
    }

    /// Bits of a weight, on average.
    fn bits(&self) -> f64 {
        let weights: usize = self.file.tensors().iter().map(|t| t.elements()).sum();
        8.0 * self.after() as f64 / weights as f64
    }

    fn types(&self) -> BTreeMap<&'static str, OfType> {
        let mut types: BTreeMap<&str, OfType> = BTreeMap::new();
        for (i, (chosen, loss)) in self.chosen.iter().zip(self.losses).enumerate() {
            let of = types.entry(chosen.ty.name()).or_default();
            of.tensors += 1;
            of.bytes += self.bytes_of(i);
            of.loss += *loss;
        }
        types
    }

    fn text(&self) -> String {
        let mut out = format!("{:<8} {:>7} {:>10} {:>10}\n", "type", "tensors", "size", "error");
        let mut total = Loss::default();
        for (name, of) in self.types() {
            total += of.loss;
            let (size, error) = (bytes(of.bytes), of.loss.relative());
            out.push_str(&format!("{name:<8} {:>7} {size:>10} {error:>10.2e}\n", of.tensors));
        }
        let (before, after) = (bytes(self.before()), bytes(self.after()));
        out.push_str(&format!(
            "{:<8} {:>7} {after:>10} {:>10.2e}\n",
            "total",
            self.chosen.len(),
            total.relative()
        ));
        let mut others: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for chosen in self.chosen {
            if let Some(why) = chosen.why {
                *others.entry((chosen.ty.name(), why)).or_default() += 1;
            }
        }
        for ((name, why), count) in others {
            out.push_str(&format!("{name} for {count} tensor{}: {why}\n", if count == 1 { "" } else { "s" }));
        }
        let peak = lathe_runtime::peak_rss_bytes()
            .map_or(String::new(), |p| format!("; peak memory {}", bytes(p as usize)));
        out.push_str(&format!("{before} before, {:.2} bits a weight now{peak}\n", self.bits()));
        out
    }

    fn json(&self, path: &std::path::Path, seconds: f64) -> Value {
        let of_type = |(name, of): (&'static str, OfType)| json!({ "type": name, "tensors": of.tensors, "bytes": of.bytes, "relative_error": of.loss.relative() });
        let tensor = |i: usize| {
            let (info, chosen) = (&self.file.tensors()[i], self.chosen[i]);
            json!({
                "name": info.name(),
                "type": chosen.ty.name(),
                "bytes": self.bytes_of(i),
                "relative_error": self.losses[i].relative(),
                "mean_squared_error": self.losses[i].error / self.losses[i].values.max(1) as f64,
                "why": chosen.why,
            })
        };
        json!({
            "path": path.to_string_lossy(),
            "bytes_before": self.before(),
            "bytes_after": self.after(),
            "bits_per_weight": self.bits(),
            "types": self.types().into_iter().map(of_type).collect::<Vec<_>>(),
            "tensors": (0..self.chosen.len()).map(tensor).collect::<Vec<_>>(),
            "seconds": seconds,
            "peak_rss_bytes": lathe_runtime::peak_rss_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let name = "blk.10.ffn_down.weight";
        for pattern in ["*", "blk.10.*", "*ffn_down*", "*.weight", name, "blk.*.ffn_*.weight", "**"] {
            assert!(fits(name, pattern), "{pattern}");
        }
        for pattern in ["", "blk.1.*", "ffn_down*", "*.bias", "*ffn_up*"] {
            assert!(!fits(name, pattern), "{pattern}");
        }
    }
}
