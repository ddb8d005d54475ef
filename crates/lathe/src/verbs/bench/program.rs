//! `lathe bench F.onnx`: how long a run of a program takes.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use lathe_onnx::Runner;
use serde_json::{Value, json};

use super::measure::median;
use super::tensor;
use crate::failure::Failure;
use crate::foreign::Clocks;
use crate::options::Precision;
use crate::{onnx, output};

#[derive(Args)]
pub struct BenchProgram {
    /// A program of ONNX, timed from its arguments to its results; reading and compiling it are told apart. Or the texts of tensor
    /// programs, which run one after the other; parameters of one name are one array.
    #[arg(value_name = "F.onnx|PROGRAM", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// An array for it: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F")]
    pub(super) input: Vec<String>,
    /// The steps of a tensor program's schedule, one a line; one file for each program, in their order. Each step is proved.
    #[arg(long, value_name = "F")]
    pub(super) schedule: Vec<PathBuf>,
    /// A size of tensor programs.
    #[arg(long, value_name = "N=V")]
    pub(super) size: Vec<String>,
    /// Where tensor programs put what they write: a .npz file, or .npy for one array.
    #[arg(short, long, value_name = "F")]
    pub(super) output: Option<PathBuf>,
    /// Take steps that are not proved to keep the meaning, too; it says how many there are.
    #[arg(long)]
    pub(super) unproved: bool,
    /// Threads that compute [default: the processor's cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// fast: convolutions of 3x3 by Winograd's algorithm where that is faster, and attention in one kernel; exact: sums of products.
    #[arg(long, value_name = "P", default_value = "fast")]
    precision: Precision,
    /// Samples, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,
    /// Seconds of a sample, each of which is the median of its runs.
    #[arg(long, value_name = "S", default_value_t = 0.3)]
    seconds: f64,
    /// Tell the seconds of the N longest kernels too.
    #[arg(long, value_name = "N", default_value_t = 0)]
    kernels: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl BenchProgram {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let threads = self.threads.map_or_else(|| lathe_runtime::detect_cpu().cores, usize::from);
        if tensor::are_programs(&self.files) {
            return self.run_tensor(threads);
        }
        let [file] = self.files.as_slice() else {
            return Err(Failure::usage(
                "several files are timed only where each is the text of a tensor program",
            ));
        };
        let path = file.display().to_string();
        if !onnx::is_program(&path) {
            return Err(Failure::usage(
                "what is timed so is a program of ONNX, a file that ends in .onnx, or the text of a tensor program",
            ));
        }
        if !self.schedule.is_empty() || !self.size.is_empty() || self.output.is_some() || self.unproved {
            return Err(Failure::usage("--schedule, --size, --output and --unproved are of tensor programs"));
        }
        let start = Instant::now();
        let model = onnx::open(file)?;
        let inputs = onnx::arguments(&model, &self.input)?;
        let mut runner = onnx::compiler(self.precision, threads)?;
        let prepared = model.prepare(&inputs, &mut runner)?;
        // Each run writes its results where those of the run before were.
        let mut results = vec![];
        let mut once = |runner: &mut dyn Runner| -> Result<(), Failure> {
            results = match &prepared {
                Some(p) => p.run(&inputs, std::mem::take(&mut results), runner)?,
                None => model.run(&inputs, runner)?,
            };
            Ok(())
        };
        once(&mut runner)?;
        let ready = start.elapsed().as_secs_f64();
        let clocks = Clocks::now();
        let samples = self.samples(&mut || once(&mut runner))?;
        let foreign = Clocks::now().zip(clocks).and_then(|(now, start)| now.foreign_since(&start));
        let kernels = match self.kernels {
            0 => vec![],
            n => runner.profile().map_err(|e| e.at(""))?.into_iter().take(n).collect(),
        };
        let told = json!({
            "program": path, "precision": self.precision.as_str(), "kernels": kernels, "one_region": prepared.is_some(),
        });
        self.tell(&samples, threads, ready, foreign, told, "")?;
        if self.json {
            return Ok(());
        }
        for (name, calls, s) in kernels {
            output::line(&format!("{:9.3} ms {calls:4} x  {name}", 1e3 * s))?;
        }
        if prepared.is_none() {
            output::line("each run reads the program anew, as it decides by what it computes")?;
        }
        Ok(())
    }

    /// Seconds of a run, sample by sample.
    pub(super) fn samples(&self, once: &mut dyn FnMut() -> Result<(), Failure>) -> Result<Vec<f64>, Failure> {
        let mut samples = vec![];
        for _ in 0..self.repetitions {
            let (mut times, start) = (vec![], Instant::now());
            while times.len() < 5 || start.elapsed().as_secs_f64() < self.seconds {
                let t = Instant::now();
                once()?;
                times.push(t.elapsed().as_secs_f64());
            }
            samples.push(median(times));
        }
        Ok(samples)
    }

    /// Says how long runs took, and what else there is to say: `more` in JSON, `note` in a line.
    pub(super) fn tell(
        &self,
        samples: &[f64],
        threads: usize,
        ready: f64,
        foreign: Option<f64>,
        more: Value,
        note: &str,
    ) -> Result<(), Failure> {
        let (least, middle) =
            (samples.iter().copied().fold(f64::INFINITY, f64::min), median(samples.to_vec()));
        if self.json {
            let mut all = more;
            all["threads"] = json!(threads);
            all["median_s"] = json!(middle);
            all["samples_s"] = json!(samples);
            all["ready_s"] = json!(ready);
            all["other_load"] = json!(foreign);
            return output::json(&all);
        }
        let load = foreign.map_or("unknown".into(), |l| format!("{:.0}%", 100.0 * l));
        let note = if note.is_empty() { String::new() } else { format!("; {note}") };
        output::line(&format!(
            "{:.3} ms a run (least of the samples {:.3}), {threads} threads, other load {load}; ready after {ready:.2} s{note}",
            1e3 * middle,
            1e3 * least,
        ))
    }
}
