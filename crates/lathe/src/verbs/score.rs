//! `lathe score`: how well a model foresees a text.

use std::io::Read;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{EngineError, Score as Likelihood};
use serde_json::json;

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::Model;
use crate::options::{ComputeOptions, ModelOption};
use crate::{output, prompt};

/// Tokens of one context of a text.
const CONTEXT: usize = 2048;

const EXAMPLES: &str = "\
A text is read in contexts of 2048 tokens, each on its own; the first token of each is given, not scored.

Examples:
  lathe score --file book.txt
  lathe score --file book.txt --precision exact --json
  echo '[504, 3575, 282, 4649]' | lathe score --ids -";

/// Measure how well a model foresees a text
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Score {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    compute: ComputeOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A text in UTF-8; `-` reads standard input.
    #[arg(long, value_name = "F")]
    file: Option<String>,
    /// A JSON list of token ids, taken as one context; `-` reads standard input.
    #[arg(long, value_name = "F")]
    ids: Option<String>,
}

impl Score {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let text = self.source.file.as_deref().map(read).transpose()?;
        let ids = self.source.ids.as_deref().map(read_ids).transpose()?;
        let model = Model::open(&self.model.model)?;
        let longest = if ids.is_some() { usize::MAX } else { CONTEXT.min(model.context) };
        let ids = ids.unwrap_or_else(|| prompt::raw(&model.tokenizer, &text.unwrap_or_default()));
        if ids.len() < 2 {
            return Err(EngineError::TooShortToScore { tokens: ids.len() }.into());
        }
        let context = ids.len().min(longest);
        if context > model.context {
            return Err(EngineError::PromptTooLong { tokens: context, context: model.context }.into());
        }
        let mut engine = model.load(self.compute.precision, self.compute.threads(), context, 1)?;
        let interrupt = Listening::begin();
        let mut all = Likelihood::default();
        // The end of a text may leave one token over, which has nothing to be scored by.
        for part in ids.chunks(longest).filter(|part| part.len() > 1) {
            all += engine.score(part, &|| !interrupt.pressed())?;
        }
        let (perplexity, mean, tokens) = (all.perplexity(), all.mean_log_likelihood(), all.tokens);
        match self.json {
            true => output::json(
                &json!({ "perplexity": perplexity, "mean_log_likelihood": mean, "tokens": tokens }),
            ),
            false => output::line(&format!(
                "perplexity {perplexity:.4}, mean log-likelihood {mean:.5}, {tokens} tokens"
            )),
        }
    }
}

fn read(path: &str) -> Result<String, Failure> {
    let place = if path == "-" { "standard input" } else { path };
    let mut bytes = Vec::new();
    let result = match path {
        "-" => std::io::stdin().read_to_end(&mut bytes).map(|_| bytes),
        path => std::fs::read(path),
    };
    let bytes = result.map_err(|error| {
        let what = format!("cannot read it: {error}");
        Diagnostic::new("input", Fault::User, what).at(place).fix("give the path of a file that you may read")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let what = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to());
        Diagnostic::new("input-encoding", Fault::File, what).at(place).fix("convert the text to UTF-8").into()
    })
}

fn read_ids(path: &str) -> Result<Vec<u32>, Failure> {
    serde_json::from_str(&read(path)?).map_err(|error| {
        let what = format!("this is not a JSON list of token ids: {error}");
        Diagnostic::new("input-ids", Fault::File, what).at(path).into()
    })
}
