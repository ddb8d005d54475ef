//! `lathe embed`: texts as vectors.

use std::io::Read;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::EngineError;
use serde_json::json;

use crate::failure::Failure;
use crate::model::Model;
use crate::options::{ComputeOptions, MemoryOptions};
use crate::output;

const EXAMPLES: &str = "\
A vector has length 1, so that the product of two says how near their texts are.

Examples:
  lathe embed --model all-minilm.gguf \"The band plays.\" \"Music is made.\"
  lathe embed --model all-minilm.gguf --json - < one-text-a-line.txt";

/// Turn texts into vectors
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Embed {
    /// An encoder: a GGUF file, or a Hugging Face repository as org/name[:file.gguf].
    #[arg(long, value_name = "M")]
    model: String,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    memory: MemoryOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The texts; `-` reads them from standard input, one a line.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
}

impl Embed {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let texts = if self.texts == ["-"] { lines()? } else { self.texts };
        let model = Model::open(&self.model)?;
        let t = &model.tokenizer;
        let tokens = |text: &String| t.with_specials(t.encode(text, false));
        let texts: Vec<Vec<u32>> = texts.iter().map(tokens).collect();
        let longest = texts.iter().map(Vec::len).max().ok_or(EngineError::EmptyPrompt)?;
        if longest > model.context {
            let what = format!("a text has {longest} tokens, the model reads {}", model.context);
            return Err(Diagnostic::new("text-too-long", Fault::User, what).fix("divide the text").into());
        }
        let mut encoder = model.load_encoder(&self.compute, self.memory.budget()?)?;
        let vectors = encoder.embed(&texts)?;
        if self.json {
            let counts: Vec<usize> = texts.iter().map(Vec::len).collect();
            return output::json(&json!({ "embeddings": vectors, "tokens": counts }));
        }
        for vector in vectors {
            let numbers: Vec<String> = vector.iter().map(|x| format!("{x:.6}")).collect();
            output::line(&numbers.join(" "))?;
        }
        Ok(())
    }
}

/// The lines of standard input that are not empty.
fn lines() -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| {
        let what = format!("cannot read it: {error}");
        Diagnostic::new("input", Fault::User, what)
            .at("standard input")
            .fix("give texts in UTF-8, one a line")
    })?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}
