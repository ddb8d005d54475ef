//! From a model's name to an engine.

use std::path::Path;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Encoder, Engine, EngineError, PAGE, Precision, Runner, RunnerOptions};
use lathe_models::{ChatTemplate, ModelFile, Tokenizer, cache_dir};

use crate::failure::Failure;
use crate::output;
use crate::progress::Status;

/// The most tokens of one step: enough for a prompt's matrices to be worth their packing.
pub const STEP_TOKENS: usize = 512;

/// The most texts of one step of an encoder.
const STEP_SEQUENCES: usize = 32;

/// A model's file with what is read from it before anything is compiled.
pub struct Model {
    /// The file.
    pub file: ModelFile,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The longest sequence it was made for.
    pub context: usize,
}

impl Model {
    /// Finds, fetches where that is needed, and opens a model.
    pub fn open(name: &str) -> Result<Model, Failure> {
        let path = lathe_models::resolve(name, &mut Status::new())?;
        Model::at(&path)
    }

    fn at(path: &Path) -> Result<Model, Failure> {
        let file = ModelFile::open(path)?;
        let family = lathe_models::family(&file)?;
        let tokenizer = Tokenizer::from_file(&file)?;
        let context = file.get_u32(&format!("{family}.context_length"))? as usize;
        Ok(Model { file, tokenizer, context })
    }

    /// The model's chat template, if it has one.
    pub fn template(&self) -> Result<Option<ChatTemplate>, Failure> {
        match self.file.find::<&str>("tokenizer.chat_template")? {
            Some(_) => Ok(Some(ChatTemplate::from_file(&self.file)?)),
            None => Ok(None),
        }
    }

    /// The tokens that end an answer.
    pub fn ends(&self) -> Vec<u32> {
        let all = 0..u32::try_from(self.tokenizer.vocab_size()).unwrap_or(u32::MAX);
        all.filter(|&id| self.tokenizer.is_end(id)).collect()
    }

    /// The context to load with for `needed` tokens: as many, or as the user asked; never more than the model knows.
    pub fn context_for(&self, needed: usize, asked: Option<u32>) -> Result<usize, Failure> {
        match asked.map(|n| n as usize) {
            Some(asked) if asked > self.context => {
                let what = format!("a context of {asked} is asked for, the model's is {}", self.context);
                Err(Diagnostic::new("context-too-long", Fault::User, what).fix("ask for less").into())
            }
            Some(asked) => Ok(asked),
            None => Ok(needed.min(self.context)),
        }
    }

    /// Compiles and loads it.
    pub fn load(
        &self,
        precision: impl Into<Precision>,
        threads: usize,
        context: usize,
        max_sequences: usize,
        max_rows: usize,
    ) -> Result<Engine<Runner>, Failure> {
        let options = RunnerOptions {
            precision: precision.into(),
            threads,
            context,
            pages: context.div_ceil(PAGE) * max_sequences,
            max_tokens: STEP_TOKENS.min(context * max_sequences).max(max_sequences),
            max_sequences,
            max_rows,
            cache: cache_dir()?,
        };
        let mut status = Status::new();
        let runner =
            Runner::load(&self.file, &options, &mut |stage, done, total| status.stage(stage, done, total))?;
        drop(status);
        for warning in runner.warnings() {
            output::message(&warning.to_string().replacen("error[", "warning[", 1));
        }
        Ok(Engine::new(runner))
    }

    /// Compiles and loads it as an encoder: the same for all texts, so that its kernels are found in the cache.
    pub fn load_encoder(&self, precision: impl Into<Precision>, threads: usize) -> Result<Encoder, Failure> {
        let max_tokens = STEP_TOKENS.max(self.context);
        let options = RunnerOptions {
            precision: precision.into(),
            threads,
            context: self.context,
            pages: max_tokens.div_ceil(PAGE) + STEP_SEQUENCES,
            max_tokens,
            max_sequences: STEP_SEQUENCES,
            max_rows: STEP_SEQUENCES,
            cache: cache_dir()?,
        };
        let mut status = Status::new();
        let load = &mut |stage, done, total| status.stage(stage, done, total);
        Ok(Encoder::load(&self.file, &options, load)?)
    }

    /// Refuses a prompt that leaves no room for an answer, before anything is compiled.
    pub fn check_prompt(&self, tokens: usize, context: usize) -> Result<(), EngineError> {
        match tokens {
            0 => Err(EngineError::EmptyPrompt),
            _ if tokens >= context => Err(EngineError::PromptTooLong { tokens, context }),
            _ => Ok(()),
        }
    }
}
