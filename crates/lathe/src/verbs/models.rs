//! `lathe models`: the names that can be given to `--model`.

use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  lathe models
  lathe models --json";

/// List the models that have names, and those in the cache
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Models {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Models {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let entries = lathe_models::list()?;
        if self.json {
            let models: Vec<Value> = entries
                .iter()
                .map(|e| {
                    let path = e.path.as_ref().map(|p| p.to_string_lossy());
                    json!({ "name": e.name, "about": e.about, "bytes": e.bytes, "path": path })
                })
                .collect();
            return output::json(&json!({ "models": models }));
        }
        let width = entries.iter().map(|e| e.name.len()).max().unwrap_or(0);
        for e in entries {
            let here = if e.path.is_some() { "here" } else { "not fetched" };
            let megabytes = e.bytes as f64 / 1e6;
            output::line(&format!("{:width$}  {megabytes:>8.0} MB  {here:<11}  {}", e.name, e.about))?;
        }
        Ok(())
    }
}
