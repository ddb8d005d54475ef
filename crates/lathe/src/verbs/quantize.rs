//! `lathe quantize`: a model's file with its weights in other types.

mod budget;
mod calibrate;
mod outliers;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_models::{
    Chosen, FileError, Format, FourBits, GgmlType, Loss, ModelFile, Progress, Rounded, Rounding, TensorInfo,
    Written, WrittenTensor, quantize_file, quantize_folder, suitable_type,
};
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

Schemes that are no types: int8 makes the matrices of layers signed bytes, each row by its largest absolute value, and computes with
activations as bytes too, a scale for each row; int8-tensor has one scale for each matrix. int8-outliers does as int8, but for the
columns that meet an activation over a threshold somewhere in a text, which stay 16-bit floats (LLM.int8()). Everything else
stays as it is. nf4, int4-g64 and int4z-g64 make a folder of safetensors from such a folder, its layers' matrices in 4 bits with a
scale for every 64: levels of NF4 in the layout of bitsandbytes, or even ones in GPTQ's, without and with zero points.

With --calibrate the matrices of layers are rounded for what they meet on a text: layer by layer, column by column, what an
error changes in the products the columns after it take back (GPTQ). The text goes twice through each layer, of which one
at a time is in memory. Matrices of experts, and rows of no whole blocks, go to what is nearest; how many did not is said.

The error is the mean squared one, relative to the variance of the weights; what calibration gains does not show in it.

With --size or --bits each tensor gets a type of its own: those are chosen that lose the least together and fit, by the relative
errors of the weights, or with --calibrate by how far each moves the distribution over the next token (that runs the
model once for each tensor).

Examples:
  lathe quantize ./model-f16.gguf ./model-q4_k.gguf --scheme q4_k
  lathe quantize ./folder-of-safetensors ./model.gguf --scheme q4_k --keep 'output.weight=q6_k' --keep '*ffn_down*=q5_k'
  lathe quantize ./model-f16.gguf ./model-small.gguf --bits 4.5 --calibrate text.txt
  lathe quantize ./encoder-folder ./encoder-int4 --scheme int4z-g64 --calibrate one-text-a-line.txt
  lathe quantize smollm2-135m ./wide.gguf --scheme f32 --json
  lathe quantize smollm2-135m ./int8.gguf --scheme int8-outliers --calibrate text.txt";

/// Write a model with its weights in other types
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Quantize {
    /// A GGUF file, a folder of safetensors, or a name as `--model` takes it.
    #[arg(value_name = "IN")]
    model: String,
    /// The GGUF file to write; a folder for nf4, int4-g64 and int4z-g64.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    goal: Goal,
    /// Measure on this text: on its first 8192 tokens, what matrices meet, to round them for that [default: for the errors of the
    /// weights alone]. With a budget also, on its first 256, how far the model's answers move when each tensor is quantized, to
    /// choose by that. For int8-outliers: on its first 1024, how large activations become. An encoder reads each line as a text.
    #[arg(long, value_name = "F")]
    calibrate: Option<PathBuf>,
    /// For int8-outliers: columns that meet a larger activation stay floats [default: the largest of a few that leaves the
    /// perplexity of the text within 0.4%].
    #[arg(long, value_name = "T", value_parser = outliers::threshold)]
    threshold: Option<f32>,
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
    /// The type of the weights; or int8, int8-tensor, int8-outliers, nf4, int4-g64 or int4z-g64.
    #[arg(long, value_name = "S", value_parser = scheme)]
    scheme: Option<Scheme>,
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

/// What weights become, when all become the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// A type.
    Type(GgmlType),
    /// Bytes by rows, or by matrices.
    Int8 { whole: bool },
    /// Bytes by rows, with outliers.
    Outliers,
    /// Of a folder.
    FourBits(FourBits),
}

/// The schemes that are no types.
const SCHEMES: &[(&str, Scheme)] = &[
    ("int8", Scheme::Int8 { whole: false }),
    ("int8-tensor", Scheme::Int8 { whole: true }),
    ("int8-outliers", Scheme::Outliers),
    ("nf4", Scheme::FourBits(FourBits::Nf4)),
    ("int4-g64", Scheme::FourBits(FourBits::Groups { zeros: false })),
    ("int4z-g64", Scheme::FourBits(FourBits::Groups { zeros: true })),
];

fn scheme(name: &str) -> Result<Scheme, String> {
    if let Some((_, scheme)) = SCHEMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
        return Ok(*scheme);
    }
    let others = SCHEMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    ty(name).map(Scheme::Type).map_err(|types| format!("{types}; other schemes are {others}"))
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
        if let Some(Scheme::FourBits(bits)) = self.goal.scheme {
            return self.folder(&file, bits, threads, &interrupt, start);
        }
        let kept = self.kept(&file)?;
        let weights = file.tensors().iter().map(|t| t.elements()).sum::<usize>();
        let room = self.goal.size.or(self.goal.bits.map(|bits| (bits * weights as f64 / 8.0) as usize));
        let outliers = self.goal.scheme == Some(Scheme::Outliers);
        if self.threshold.is_some() && !outliers {
            return Err(Failure::usage("--threshold is for --scheme int8-outliers"));
        }
        if outliers && self.calibrate.is_none() {
            return Err(Failure::usage(
                "--scheme int8-outliers needs --calibrate F, a text on which activations are seen",
            ));
        }
        if matches!(self.goal.scheme, Some(Scheme::Int8 { .. })) && self.calibrate.is_some() {
            return Err(Failure::usage(
                "--calibrate is not for int8: its rows are rounded by their largest value alone",
            ));
        }
        let mut report = Report { file: &file, chosen: vec![], losses: vec![], outliers: None };
        let chosen: Vec<Chosen> = match (self.goal.scheme, room) {
            (Some(Scheme::Type(scheme)), _) => {
                let of = |(t, kept): (_, Option<GgmlType>)| suitable_type(t, kept.unwrap_or(scheme));
                file.tensors().iter().zip(kept).map(of).collect()
            }
            (Some(scheme), _) => {
                let search = outliers::Search { file: &file, model: &self.model, kept: &kept, threads };
                let found = match (&self.calibrate, scheme) {
                    (Some(text), _) => {
                        let (columns, found) = search.run(text, self.threshold, &self.output, &interrupt)?;
                        report.outliers = Some(found);
                        search.written(false, &columns)
                    }
                    (None, scheme) => {
                        search.written(scheme == Scheme::Int8 { whole: true }, &Default::default())
                    }
                };
                return self.write(report.with(found), threads, &interrupt, start);
            }
            (None, Some(room)) => {
                let search = budget::Search { file: &file, kept: &kept, threads, interrupt: &interrupt };
                search.run(room, self.calibrate.as_deref().map(|text| (self.model.as_str(), text)))?
            }
            (None, None) => return Err(Failure::usage("one of --scheme, --size and --bits is needed")),
        };
        let changed = |i: usize| chosen[i].ty != file.tensors()[i].ty();
        let rounded = self.calibrated(&file, threads, &interrupt, &|i| {
            changed(i).then_some(Rounding::Type(chosen[i].ty))
        })?;
        let of = |(info, c): (&TensorInfo, &Chosen)| match rounded.get(info.name()) {
            Some(rounded) => (Written::Rounded(rounded.clone()), c.why),
            None => (Written::As(c.ty), c.why),
        };
        let all = file.tensors().iter().zip(&chosen).map(of).collect();
        self.write(report.with(all), threads, &interrupt, start)
    }

    /// The matrices that are rounded for what they meet on the text, where there is one.
    fn calibrated(
        &self,
        file: &ModelFile,
        threads: usize,
        interrupt: &Listening,
        to: &dyn Fn(usize) -> Option<Rounding>,
    ) -> Result<HashMap<String, Arc<Rounded>>, Failure> {
        let search = calibrate::Search { file, model: &self.model, threads, interrupt };
        self.calibrate.as_ref().map_or(Ok(HashMap::new()), |text| search.run(text, to))
    }

    /// Writes a folder and says what it lost.
    fn folder(
        &self,
        file: &ModelFile,
        bits: FourBits,
        threads: usize,
        interrupt: &Listening,
        start: Instant,
    ) -> Result<(), Failure> {
        let from = file.path().filter(|_| file.format() == Format::Safetensors).ok_or_else(|| {
            let what = "this scheme is of folders of safetensors, and so must be the model";
            let d = Diagnostic::new("quantize-folder", Fault::User, what).at(self.model.clone());
            Failure::from(d.fix("give such a folder, or a type of GGUF as the scheme"))
        })?;
        if self.output.exists() {
            let d = Diagnostic::new("quantize-exists", Fault::User, "it is there already");
            return Err(d
                .at(self.output.display().to_string())
                .fix("give another path for the folder")
                .into());
        }
        if !self.keep.is_empty() || self.threshold.is_some() {
            return Err(Failure::usage("--keep and --threshold are not for schemes of folders"));
        }
        let rounded = self.calibrated(file, threads, interrupt, &|_| Some(bits.rounding()))?;
        let from = if from.is_dir() { from } else { from.parent().unwrap_or(from) };
        let mut status = Status::new();
        let written = quantize_folder(from, &self.output, bits, &rounded, &mut |done, all| {
            status.count("quantizing", done, all);
            !interrupt.pressed()
        })
        .map_err(FileError::from)?;
        drop(status);
        let Some(written) = written else { return Err(Failure::Interrupted) };
        let quantized: Vec<&WrittenTensor> = written.iter().filter(|t| t.quantized).collect();
        let mut loss = Loss::default();
        quantized.iter().for_each(|t| loss += t.loss);
        let inside: usize = quantized.iter().map(|t| t.bytes).sum();
        let after: usize = written.iter().map(|t| t.bytes).sum();
        let before: usize = file.tensors().iter().map(|t| t.byte_len()).sum();
        let per = 8.0 * inside as f64 / loss.values.max(1) as f64;
        if self.json {
            let tensor = |t: &WrittenTensor| json!({ "name": t.name, "quantized": t.quantized, "bytes": t.bytes, "relative_error": t.loss.relative() });
            return output::json(&json!({
                "path": self.output.to_string_lossy(),
                "bytes_before": before,
                "bytes_after": after,
                "bits_per_quantized_weight": per,
                "relative_error": loss.relative(),
                "calibrated_tensors": rounded.len(),
                "tensors": written.iter().map(tensor).collect::<Vec<_>>(),
                "seconds": start.elapsed().as_secs_f64(),
            }));
        }
        let calibrated = match rounded.len() {
            0 => String::new(),
            n => format!(", {n} rounded for the text"),
        };
        output::text(&format!(
            "{} matrices in {}, {per:.2} bits a weight, error {:.2e}{calibrated}\n{} other tensors as they were, {}\n{} before, {} now\n",
            quantized.len(),
            bytes(inside),
            loss.relative(),
            written.len() - quantized.len(),
            bytes(after - inside),
            bytes(before),
            bytes(after),
        ))
    }

    /// Writes the file and says what it lost.
    fn write(
        &self,
        mut report: Report<'_>,
        threads: usize,
        interrupt: &Listening,
        start: Instant,
    ) -> Result<(), Failure> {
        let file = report.file;
        let written: Vec<Written> = report.chosen.iter().map(|(written, _)| written.clone()).collect();
        let mut status = Status::new();
        let of = |i: usize| file.tensors()[i].byte_len();
        status.begin("quantizing", Some((0..written.len()).map(of).sum::<usize>() as u64));
        let (mut current, mut done) = (0, 0);
        report.losses = quantize_file(file, &written, threads, &self.output, &mut |index, values| {
            while current < index {
                done += of(current);
                current += 1;
            }
            let part = of(index) as f64 * values as f64 / file.tensors()[index].elements() as f64;
            status.advance((done as f64 + part) as u64);
            !interrupt.pressed()
        })?;
        drop(status);
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
    /// What each tensor became, and why that is another than what was asked for.
    chosen: Vec<(Written, Option<&'static str>)>,
    losses: Vec<Loss>,
    outliers: Option<outliers::Found>,
}

fn name_of(written: &Written) -> &'static str {
    match written {
        Written::Int8(_) => "int8",
        written => written.ty().name(),
    }
}

/// Tensors of one type.
#[derive(Default)]
struct OfType {
    tensors: usize,
    bytes: usize,
    loss: Loss,
}

impl Report<'_> {
    fn with(self, chosen: Vec<(Written, Option<&'static str>)>) -> Self {
        Report { chosen, ..self }
    }

    fn bytes_of(&self, i: usize) -> usize {
        let info = &self.file.tensors()[i];
        match &self.chosen[i].0 {
            Written::Int8(int8) => int8.bytes(info.shape()[0], info.shape()[1]),
            written => written.ty().bytes_for(info.elements()).unwrap_or(0),
        }
    }

    /// How many matrices were rounded for a text.
    fn calibrated(&self) -> usize {
        self.chosen.iter().filter(|(written, _)| matches!(written, Written::Rounded(_))).count()
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
        for (i, ((written, _), loss)) in self.chosen.iter().zip(&self.losses).enumerate() {
            let of = types.entry(name_of(written)).or_default();
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
        for (written, why) in &self.chosen {
            if let Some(why) = why {
                *others.entry((name_of(written), why)).or_default() += 1;
            }
        }
        for ((name, why), count) in others {
            out.push_str(&format!("{name} for {count} tensor{}: {why}\n", if count == 1 { "" } else { "s" }));
        }
        if let Some(found) = &self.outliers {
            out.push_str(&found.text());
        }
        if self.calibrated() > 0 {
            out.push_str(&format!("{} matrices rounded for the text\n", self.calibrated()));
        }
        let peak = lathe_runtime::peak_rss_bytes()
            .map_or(String::new(), |p| format!("; peak memory {}", bytes(p as usize)));
        out.push_str(&format!("{before} before, {:.2} bits a weight now{peak}\n", self.bits()));
        out
    }

    fn json(&self, path: &std::path::Path, seconds: f64) -> Value {
        let of_type = |(name, of): (&'static str, OfType)| json!({ "type": name, "tensors": of.tensors, "bytes": of.bytes, "relative_error": of.loss.relative() });
        let tensor = |i: usize| {
            let (info, (written, why)) = (&self.file.tensors()[i], &self.chosen[i]);
            json!({
                "name": info.name(),
                "type": name_of(written),
                "bytes": self.bytes_of(i),
                "relative_error": self.losses[i].relative(),
                "mean_squared_error": self.losses[i].error / self.losses[i].values.max(1) as f64,
                "why": why,
            })
        };
        json!({
            "path": path.to_string_lossy(),
            "bytes_before": self.before(),
            "bytes_after": self.after(),
            "bits_per_weight": self.bits(),
            "types": self.types().into_iter().map(of_type).collect::<Vec<_>>(),
            "tensors": (0..self.chosen.len()).map(tensor).collect::<Vec<_>>(),
            "calibrated_tensors": self.calibrated(),
            "outliers": self.outliers.as_ref().map(outliers::Found::json),
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
