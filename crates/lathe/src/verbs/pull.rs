//! `lathe pull`: fetch a model into the cache, or check that it is whole.

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output;
use crate::progress::Status;

const EXAMPLES: &str = "\
A model that is there already is checked again, and fetched again where it is damaged.

Examples:
  lathe pull smollm2-135m
  lathe pull org/name:file.gguf";

/// Fetch a model into the cache
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Pull {
    /// A built-in name (`lathe models`), or a Hugging Face repository as org/name[:file.gguf].
    #[arg(value_name = "M")]
    model: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Pull {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let path = lathe_models::pull(&self.model, &mut Status::new())?;
        match self.json {
            true => output::json(&json!({ "model": self.model, "path": path.to_string_lossy() })),
            false => output::line(&path.display().to_string()),
        }
    }
}
