//! `lathe bench F.onnx`: how long a run of a program of ONNX takes.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use lathe_onnx::Runner;
use serde_json::json;

use super::measure::median;
use crate::failure::Failure;
use crate::foreign::Clocks;
use crate::options::Precision;
use crate::{onnx, output};

#[derive(Args)]
pub struct BenchProgram {
    /// A program of ONNX, timed from its arguments to its results; reading and compiling it are told apart.
    #[arg(value_name = "F.onnx", required = true)]
    file: PathBuf,
    /// An array for it: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F")]
    input: Vec<String>,
    /// Threads that compute [default: the processor's cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// fast: convolutions of 3x3 by Winograd's algorithm where that is faster; exact: sums of products.
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
        let path = self.file.display().to_string();
        if !onnx::is_program(&path) {
            return Err(Failure::usage("only programs of ONNX, files that end in .onnx, are timed so"));
        }
        let threads = self.threads.map_or_else(|| lathe_runtime::detect_cpu().cores, usize::from);
        let start = Instant::now();
        let model = onnx::open(&self.file)?;
        let inputs = onnx::arguments(&model, &self.input)?;
        let mut runner = onnx::compiler(self.precision, threads)?;
        let prepared = model.prepare(&inputs, &mut runner)?;
        let once = |runner: &mut dyn Runner| match &prepared {
            Some(p) => p.run(&inputs, runner),
            None => model.run(&inputs, runner),
        };
        once(&mut runner)?;
        let ready = start.elapsed().as_secs_f64();
        let clocks = Clocks::now();
        let mut samples = vec![];
        for _ in 0..self.repetitions {
            let (mut times, start) = (vec![], Instant::now());
            while times.len() < 5 || start.elapsed().as_secs_f64() < self.seconds {
                let t = Instant::now();
                once(&mut runner)?;
                times.push(t.elapsed().as_secs_f64());
            }
            samples.push(median(times));
        }
        let foreign = Clocks::now().zip(clocks).and_then(|(now, start)| now.foreign_since(&start));
        let (least, middle) =
            (samples.iter().copied().fold(f64::INFINITY, f64::min), median(samples.clone()));
        let kernels = match self.kernels {
            0 => vec![],
            n => runner.profile().map_err(|e| e.at(""))?.into_iter().take(n).collect(),
        };
        if self.json {
            return output::json(&json!({
                "program": path, "threads": threads, "precision": self.precision.as_str(), "median_s": middle, "samples_s": samples,
                "kernels": kernels, "ready_s": ready, "one_region": prepared.is_some(), "other_load": foreign,
            }));
        }
        let load = foreign.map_or("unknown".into(), |l| format!("{:.0}%", 100.0 * l));
        output::line(&format!(
            "{:.3} ms a run (least of the samples {:.3}), {threads} threads, other load {load}; ready after {ready:.2} s",
            1e3 * middle,
            1e3 * least,
        ))?;
        for (name, calls, s) in kernels {
            output::line(&format!("{:9.3} ms {calls:4} x  {name}", 1e3 * s))?;
        }
        if prepared.is_none() {
            output::line("each run reads the program anew, as it decides by what it computes")?;
        }
        Ok(())
    }
}
