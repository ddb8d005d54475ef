//! `lathe bench serve`: a server under load.

use clap::Args;
use lathe_serve::{BenchOptions, BenchRow, bench};
use serde_json::json;

use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Requests are streamed completions of random tokens, greedy, with the end of text ignored, so that all are of one length. The
time per token is a request's mean after its first token. The server may be any that has /v1/completions.

Examples:
  lathe bench serve --url http://127.0.0.1:8000 --concurrency 1,4,16,32
  lathe bench serve --url http://127.0.0.1:8000 --concurrency 32 --requests 32 --prefix 512 --input 32 --json";

/// Measure a server
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchServe {
    /// The server.
    #[arg(long, value_name = "U", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The model, as the server names it [default: the first that it lists].
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Requests at once.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,4,16,32",
        value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: Vec<u16>,
    /// Requests of each row [default: 8 times the concurrency, at least 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// Tokens of each prompt that no other has.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    input: u32,
    /// Tokens that all prompts begin with.
    #[arg(long, value_name = "N", default_value_t = 0)]
    prefix: u32,
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    output: u32,
    /// Requests a second, at random moments, at most --concurrency at once [default: one begins as another ends].
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Another seed, other prompts.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl BenchServe {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        if self.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
            return Err(Failure::usage("--rate must be above 0"));
        }
        let options = BenchOptions {
            url: self.url.clone(),
            // Not an option: other users see a command's arguments.
            key: std::env::var("LATHE_API_KEY").ok(),
            model: self.model,
            concurrency: self.concurrency.iter().map(|&n| n.into()).collect(),
            requests: self.requests.map(|n| n as usize),
            input: self.input as usize,
            prefix: self.prefix as usize,
            output: self.output as usize,
            rate: self.rate,
            seed: self.seed,
        };
        let (mut rows, mut written) = (Vec::new(), Ok(()));
        bench(&options, &mut |row| {
            if !self.json && written.is_ok() {
                written = print(row, rows.is_empty());
            }
            rows.push(row.to_json());
        })?;
        written?;
        match self.json {
            true => output::json(&json!({
                "url": self.url, "input": self.input, "prefix": self.prefix, "output": self.output, "rows": rows,
            })),
            false => Ok(()),
        }
    }
}

fn print(row: &BenchRow, head: bool) -> Result<(), Failure> {
    if head {
        output::line(
            "at once  requests  failed   output tok/s   first token p50, p99 ms   per token p50, p99 ms",
        )?;
    }
    let ms = |times: &[f64], part| 1e3 * BenchRow::percentile(times, part);
    output::line(&format!(
        "{:>7}  {:>8}  {:>6}  {:>13.1}  {:>13.1}  {:>10.1}  {:>11.1}  {:>9.1}",
        row.concurrency,
        row.completed,
        row.failed,
        row.output_tokens_per_s(),
        ms(&row.first_token, 0.5),
        ms(&row.first_token, 0.99),
        ms(&row.per_token, 0.5),
        ms(&row.per_token, 0.99),
    ))?;
    match &row.error {
        Some(error) => output::line(&format!("         the first that failed: {error}")),
        None => Ok(()),
    }
}
