//! `lathe compile`: a model or a program as one file that runs without a compiler.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lathe_engine::Made;
use lathe_machine::Target;
use lathe_runtime::{RuntimeError, detect_target};

use crate::failure::Failure;
use crate::model::Model;
use crate::options::{CacheOptions, ModelOption, Precision};
use crate::proofs::Proofs;
use crate::{onnx, output};

const EXAMPLES: &str = "\
The file holds kernels for one kind of processor, the packed weights, the tokenizer and the template. It is given to every
verb as --model, on any machine of that kind, and needs no compiler there. It is a program: run only files that you trust.
A program of ONNX is compiled for inputs of the types and shapes of those given; it must not decide by what it computes.
Each step of each kernel's schedule is proved to keep the meaning of its loops, and one that is not is refused.

Targets: avx512bf16, avx512vnni, avx512, avxvnni, avx2 (x86-64), neon (AArch64), portable (any processor of this architecture).
For another architecture a cross compiler is needed (for neon: apt install gcc-aarch64-linux-gnu).

Examples:
  lathe compile --model ./model.gguf -o model.lathe
  lathe compile --model ./model.gguf --target avx2 --precision both --context 8192 -o model.lathe
  lathe run --model ./model.lathe \"Why is the sky blue?\"
  lathe compile net.onnx --input x.npy -o net.lathe
  lathe run net.lathe --input x.npy --output y.npz";

/// The context that a file is made for where none is asked for.
const CONTEXT: usize = 2048;

/// Compile a model or a program to one file that runs without a compiler
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Compile {
    /// A program of ONNX, or a model, which then stands for --model.
    #[arg(value_name = "F", conflicts_with = "model")]
    file: Option<String>,
    /// An array for a program of ONNX: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F", requires = "file")]
    input: Vec<String>,
    #[command(flatten)]
    model: ModelOption,
    /// The kind of processor that will run it [default: this machine's].
    #[arg(long, value_name = "T")]
    target: Option<String>,
    /// The file to write.
    #[arg(short, long, value_name = "F")]
    output: PathBuf,
    /// Which precisions the file will offer.
    #[arg(long, value_name = "P", default_value = "fast")]
    precision: Precisions,
    #[command(flatten)]
    cache: CacheOptions,
    /// The most tokens of a sequence [default: 2048, or the model's if that is less].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// The most sequences at once, as for --batch of `lathe bench`.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    sequences: u16,
    /// Take steps that are not proved to keep the meaning, too; it says how many there are.
    #[arg(long)]
    unproved: bool,
}

/// One precision, or both.
#[derive(Clone, Copy, ValueEnum)]
enum Precisions {
    /// 8-bit activations where weights are quantized; in programs of ONNX, Winograd's algorithm where it is faster, and attention
    /// in one kernel.
    Fast,
    /// f32 activations, and sums of products.
    Exact,
    /// Either, in a model's file, as `--precision` says when it runs.
    Both,
}

impl Compile {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let target = match self.target {
            Some(name) => Target::named(&name).ok_or(RuntimeError::UnknownTarget { name })?,
            None => detect_target()?,
        };
        let name = self.file.as_deref().unwrap_or(self.model.name());
        let kind = target.dialect.clone();
        let mut proofs = Proofs::default();
        let accept = &mut |kernels: &[Made]| {
            kernels.iter().try_for_each(|k| proofs.ask(&k.symbol, &k.schedule, self.unproved))
        };
        if onnx::is_program(name) {
            let precision = match self.precision {
                Precisions::Fast => Precision::Fast,
                Precisions::Exact => Precision::Exact,
                Precisions::Both => {
                    return Err(Failure::usage(
                        "a program of ONNX is compiled in one precision: give --precision fast or exact",
                    ));
                }
            };
            onnx::compile(Path::new(name), &self.input, (&target, precision), &self.output, accept)?;
            return told(&self.output, &kind, "a program for inputs of these types and shapes", &proofs);
        }
        if !self.input.is_empty() {
            return Err(Failure::usage("--input is for a program of ONNX, a file that ends in .onnx"));
        }
        let model = Model::open(name)?;
        let context = model.context_for(CONTEXT, self.context)?;
        let (fast, exact) = (lathe_engine::Precision::Fast, lathe_engine::Precision::Exact);
        let precisions = match self.precision {
            Precisions::Fast => vec![fast],
            Precisions::Exact => vec![exact],
            Precisions::Both => vec![fast, exact],
        };
        let sequences = self.sequences.into();
        let encoder = model.compile(
            &self.output,
            target,
            precisions,
            self.cache.kv_type(),
            context,
            sequences,
            accept,
        )?;
        let what = match encoder {
            true => format!("texts of up to {context} tokens"),
            false => format!("context {context}, sequences at once {sequences}"),
        };
        told(&self.output, &kind, &what, &proofs)
    }
}

/// Says what was written, for which kind of processor.
fn told(path: &Path, kind: &str, what: &str, proofs: &Proofs) -> Result<(), Failure> {
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    let unproved = match proofs.unproved {
        0 => String::new(),
        n => format!(", {n} not"),
    };
    let (megabytes, proved) = (bytes as f64 / 1e6, proofs.proved);
    output::line(&format!(
        "{}: {megabytes:.1} MB for '{kind}'; {what}; {proved} steps proved{unproved}",
        path.display()
    ))
}
