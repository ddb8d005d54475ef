//! Texts as vectors: an encoder's embeddings, several texts a step.

use lathe_models::{ModelFile, Pooling};

use crate::error::below;
use crate::forward::{Batch, Forward, PAGE};
use crate::report::Stage;
use crate::runner::{Runner, RunnerOptions};
use crate::{EngineError, Footprint, LoadTiming};

/// A compiled encoder.
pub struct Encoder {
    runner: Runner,
    pooling: Pooling,
    vectors: Vec<f32>,
}

impl Encoder {
    /// Compiles and loads the encoder of a file, like [`Runner::load`]. A text is one step's, so `max_tokens` and `pages` bound
    /// its length as `context` does.
    pub fn load(
        file: &ModelFile,
        options: &RunnerOptions,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Encoder, EngineError> {
        let runner = Runner::load_as(true, file, options, progress)?;
        let pooling = lathe_models::pooling(file).map_err(below)?;
        Ok(Encoder { runner, pooling, vectors: vec![] })
    }

    /// How long loading took.
    pub fn timing(&self) -> LoadTiming {
        self.runner.timing()
    }

    /// What it holds in memory.
    pub fn footprint(&self) -> Footprint {
        self.runner.footprint()
    }

    /// The most tokens of a text.
    pub fn longest(&self) -> usize {
        self.runner.context().min(self.runner.max_tokens()).min(self.runner.pages() * PAGE)
    }

    /// The embedding of each text, given as its tokens, in order; each is a vector of length 1.
    pub fn embed(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let longest = self.longest();
        for tokens in texts.iter().map(Vec::len) {
            match tokens {
                0 => return Err(EngineError::EmptyPrompt),
                _ if tokens > longest => return Err(EngineError::PromptTooLong { tokens, context: longest }),
                _ => {}
            }
        }
        let (mut vectors, mut rest) = (Vec::with_capacity(texts.len()), texts);
        while !rest.is_empty() {
            let (batch, done) = self.batch(rest);
            self.runner.forward(&batch, &mut self.vectors)?;
            vectors.extend(self.vectors.chunks(self.runner.vocabulary()).map(unit));
            rest = &rest[done..];
        }
        Ok(vectors)
    }

    /// As many of the first texts as fit in one step, at least one, and their number.
    fn batch(&self, texts: &[Vec<u32>]) -> (Batch, usize) {
        let (mut batch, mut page) = (Batch::default(), 0);
        for tokens in texts.iter().take(self.runner.max_sequences()) {
            let pages = tokens.len().div_ceil(PAGE);
            let fits = batch.tokens.len() + tokens.len() <= self.runner.max_tokens();
            if !fits || page + pages > self.runner.pages() {
                break;
            }
            let table: Vec<u32> = (page..page + pages).map(|p| p as u32).collect();
            let first = batch.push(tokens, 0, &table, 0);
            let last = first + (tokens.len() - 1) as u32;
            batch.rows.push(if self.pooling == Pooling::Last { last } else { first });
            page += pages;
        }
        let done = batch.pages.len();
        (batch, done)
    }
}

/// The same direction, of length 1; zero stays zero.
fn unit(v: &[f32]) -> Vec<f32> {
    let length = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    v.iter().map(|x| (f64::from(*x) / length.max(1e-12)) as f32).collect()
}
