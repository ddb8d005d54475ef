//! `lathe score`: how well a model foresees a text.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{EngineError, SCORE_TOKENS, Score as Likelihood, log_softmax};
use serde_json::json;

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::Model;
use crate::options::{CacheOptions, ComputeOptions, ModelOption};
use crate::output;

/// Tokens of one context of a text, unless asked for otherwise.
const CONTEXT: usize = 2048;

const EXAMPLES: &str = "\
A text is read in contexts of 2048 tokens, each on its own; the first token of each is given, not scored. Token ids are one context,
unless --context cuts them.

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
    #[command(flatten)]
    cache: CacheOptions,
    /// Tokens of one context [default: 2048 for a text].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Write the log-probabilities of every scored token's distribution to a NumPy file (float16, a row a token).
    #[arg(long, value_name = "F.npy")]
    save_log_softmax: Option<PathBuf>,
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
        let model = Model::open(self.model.name())?;
        let longest = match self.context {
            Some(context) => context as usize,
            None if ids.is_some() => usize::MAX,
            None => CONTEXT.min(model.context),
        };
        let ids =
            ids.unwrap_or_else(|| lathe_models::prompt_tokens(&model.tokenizer, &text.unwrap_or_default()));
        if ids.len() < 2 {
            return Err(EngineError::TooShortToScore { tokens: ids.len() }.into());
        }
        let context = ids.len().min(longest);
        if context > model.context {
            return Err(EngineError::PromptTooLong { tokens: context, context: model.context }.into());
        }
        let mut engine = model.load(self.cache.with(&self.compute)?, context, 1, SCORE_TOKENS)?;
        let interrupt = Listening::begin();
        let mut all = Likelihood::default();
        let rows = ids.chunks(longest).map(|part| part.len() - 1).sum();
        let shape = [rows, model.tokenizer.vocab_size()];
        let mut saved =
            self.save_log_softmax.as_ref().map(|path| Distributions::create(path, shape)).transpose()?;
        // The end of a text may leave one token over, which has nothing to be scored by.
        for part in ids.chunks(longest).filter(|part| part.len() > 1) {
            all += engine.score_rows(part, &|| !interrupt.pressed(), &mut |row| {
                if let Some(file) = &mut saved {
                    file.push(row);
                }
            })?;
        }
        if let Some(file) = saved {
            file.finish()?;
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

/// A NumPy file of log-probabilities, written to a temporary name and renamed when it is whole.
struct Distributions {
    path: PathBuf,
    file: BufWriter<File>,
    error: Option<std::io::Error>,
}

impl Distributions {
    fn create(path: &std::path::Path, [rows, columns]: [usize; 2]) -> Result<Distributions, Failure> {
        let file = File::create(Self::part(path)).map_err(|e| Self::failed(path, &e))?;
        let mut file = BufWriter::new(file);
        let text = format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        let width = (10 + text.len() + 1).next_multiple_of(64) - 10;
        let header = format!("{text:<pad$}\n", pad = width - 1);
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((width as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        let error = file.write_all(&bytes).err();
        Ok(Distributions { path: path.into(), file, error })
    }

    fn push(&mut self, logits: &[f32]) {
        let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
        let bytes: Vec<u8> = log_softmax(logits).into_iter().flat_map(half).collect();
        if self.error.is_none() {
            self.error = self.file.write_all(&bytes).err();
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        let result = match self.error.take() {
            Some(error) => Err(error),
            None => self.file.flush(),
        };
        result
            .and_then(|()| std::fs::rename(Self::part(&self.path), &self.path))
            .map_err(|e| Self::failed(&self.path, &e))
    }

    fn part(path: &std::path::Path) -> PathBuf {
        path.with_extension("npy.part")
    }

    fn failed(path: &std::path::Path, error: &std::io::Error) -> Failure {
        let what = format!("cannot write it: {error}");
        let d = Diagnostic::new("output", Fault::Environment, what).at(path.display().to_string());
        d.fix("free some space or give another path").into()
    }
}

impl Drop for Distributions {
    /// What was not finished goes.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Self::part(&self.path));
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
