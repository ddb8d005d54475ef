//! `lathe run`: one prompt, one answer, streamed.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{AdapterId, EngineError, FinishReason, Generation, Grammars, Request, Runner};
use lathe_models::{AdapterRoom, ChatError, Message};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::{Compute, Model};
use crate::options::{
    AnswerOptions, BeamOptions, CacheOptions, ComputeOptions, GrammarOptions, ModelOption, SamplingOptions,
    SpeculateOptions,
};
use crate::{onnx, output};

const EXAMPLES: &str = "\
Examples:
  lathe run \"Why is the sky blue?\"
  lathe run --temperature 0.7 --top-p 0.9 --seed 7 \"A poem about rain\"
  lathe run --raw --max-tokens 20 --stop . \"The capital of France is\"
  lathe run --model ./model.gguf --json \"Hello\" | jq .timing
  lathe run ./model.lathe \"Why is the sky blue?\"
  lathe run --json-schema person.json \"Invent a person\"
  lathe run --beams 4 \"The capital of France is\"
  lathe run --choice yes --choice no \"Is the sky blue?\"
  git diff | lathe run --context 8192 -
  lathe run ./program.onnx --input x.npy --output y.npz";

/// Continue or answer one prompt
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// What to answer (`-` reads standard input), perhaps behind a model, which then stands for --model; or a program of ONNX, as it is or compiled
    #[arg(required = true, num_args = 1..=2, value_names = ["MODEL", "PROMPT"])]
    words: Vec<String>,
    /// An array for a program of ONNX: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F")]
    input: Vec<String>,
    /// Where a program of ONNX puts its results: a .npz file, or .npy for one.
    #[arg(short, long, value_name = "F")]
    output: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    answer: AnswerOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    beam: BeamOptions,
    #[command(flatten)]
    grammar: GrammarOptions,
    #[command(flatten)]
    guess: SpeculateOptions,
    /// A low-rank adapter of the model, which answers with it: a folder of PEFT, or a GGUF file.
    #[arg(long, value_name = "PATH")]
    lora: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
    /// Put the prompt into the model's chat template; the default where it has one.
    #[arg(long, conflicts_with = "raw")]
    chat: bool,
    /// Give the prompt to the model as it is, special tokens included.
    #[arg(long)]
    raw: bool,
    /// What the model is told before the prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Go on where the model would end its answer.
    #[arg(long)]
    ignore_eos: bool,
    /// Print one JSON object instead of streaming text.
    #[arg(long)]
    json: bool,
}

impl Run {
    /// Does it; `start` is when the process began.
    pub fn run(self, start: Instant) -> Result<ExitCode, Failure> {
        if let [program] = self.words.as_slice()
            && onnx::is_program(program)
        {
            onnx::run(Path::new(program), &self.input, self.output.as_deref(), &self.compute)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let [program] = self.words.as_slice()
            && let Some(file) = onnx::compiled(Path::new(program))?
        {
            onnx::run_compiled(&file, &self.input, self.output.as_deref(), self.compute.threads())?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.input.is_empty() || self.output.is_some() {
            return Err(Failure::usage(
                "--input and --output are for a program of ONNX: a file that ends in .onnx, or that lathe compile made of one",
            ));
        }
        let sampling = self.sampling.sampling()?;
        let (model, prompt) = match self.words.as_slice() {
            [_, _] if self.model.given() => {
                return Err(Failure::usage(
                    "a model before the prompt, and --model too; put a prompt of several words in quotes",
                ));
            }
            [model, prompt] => (model.as_str(), prompt),
            words => (self.model.name(), &words[0]),
        };
        let text = read_prompt(prompt)?;
        if text.is_empty() {
            return Err(EngineError::EmptyPrompt.into());
        }
        let model = Model::open(model)?;
        let prompt = self.tokens(&model, text)?;
        let max_tokens = self.answer.max_tokens as usize;
        let context = model.context_for(prompt.len() + max_tokens, self.answer.context)?;
        model.check_prompt(prompt.len(), context)?;
        let constraint = match self.grammar.grammar()? {
            Some(grammar) => Some(Grammars::new(&model.tokenizer, &model.ends())?.compile(&grammar)?),
            None => None,
        };
        let speculate = usize::from(self.guess.speculate);
        let rows = 1 + speculate;
        let adapter = self.lora.as_deref().map(|path| model.adapter(path)).transpose()?;
        let room = adapter.as_ref().map(|a| AdapterRoom::new(1, a.rank(), a.products()));
        let draft = self.guess.draft_model.as_deref().map(|name| model.draft(name)).transpose()?;
        let compute = Compute { adapters: room, draft, ..self.cache.with(&self.compute)? };
        let beams = self.beam.beams();
        let sequences = beams.map_or(1, |beams| beams.width);
        let mut engine = model.load(compute, context, sequences, rows)?;
        let adapter = adapter.map(|a| engine.load_adapter(&a)).transpose()?.unwrap_or(AdapterId::NONE);

        let ends = if self.ignore_eos { Vec::new() } else { model.ends() };
        let request = Request {
            prompt,
            max_tokens,
            beams,
            sampling,
            ends,
            constraint,
            speculate,
            adapter,
            ..Request::default()
        };
        let loaded_s = start.elapsed().as_secs_f64();
        let interrupt = Listening::begin();
        let mut written = Ok(());
        let mut on_text = |piece: &str| {
            if !self.json && !piece.is_empty() && written.is_ok() {
                written = output::text(piece);
            }
            match written.is_err() || interrupt.pressed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let answer = engine.generate(&model.tokenizer, request, &self.answer.stop, &mut on_text)?;
        written?;
        match self.json {
            true => output::json(&report(&answer, engine.model(), loaded_s))?,
            false => output::text("\n")?,
        }
        let interrupted = answer.finish == FinishReason::Cancelled;
        Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
    }

    fn tokens(&self, model: &Model, text: String) -> Result<Vec<u32>, Failure> {
        let template = if self.raw { None } else { model.template()? };
        let Some(template) = template else {
            if self.chat || self.system.is_some() {
                return Err(ChatError::Missing { path: model.file.path().map(Into::into) }.into());
            }
            return Ok(lathe_models::prompt_tokens(&model.tokenizer, &text));
        };
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
        Ok(lathe_models::chat_tokens(&model.tokenizer, &template, &messages, &[])?)
    }
}

/// The prompt, from standard input where it is `-`.
fn read_prompt(prompt: &str) -> Result<String, Failure> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    match std::io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(error) => {
            let what = format!("cannot read the prompt: {error}");
            Err(Diagnostic::new("input", Fault::User, what).at("standard input").into())
        }
    }
}

fn report(answer: &Generation, runner: &Runner, loaded_s: f64) -> Value {
    let timing = runner.timing();
    json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish.as_str(),
        "score": answer.score,
        "timing": {
            "load_s": timing.load_s,
            "compile_s": timing.compile_s,
            "first_token_s": loaded_s + answer.prefill_s,
            "prefill_tokens_per_s": answer.prefill_tokens_per_s(),
            "decode_tokens_per_s": answer.decode_tokens_per_s(),
        },
        "memory": output::memory(runner.footprint()),
        "experts": runner.experts().map(|e| json!({ "needed": e.needed, "brought": e.brought, "on_host": e.away, "bytes": e.bytes })),
        "peak_rss_bytes": lathe_runtime::peak_rss_bytes(),
    })
}
