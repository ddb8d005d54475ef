//! A compiled model that runs. Its place is kept here until the compiler arrives.

use std::path::PathBuf;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_models::GgufFile;

use crate::report::{Costs, Footprint, LoadTiming, Show, Stage};
use crate::{Batch, EngineError, Forward};

/// How exact the arithmetic is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Activations are quantized where weights are.
    #[default]
    Fast,
    /// Activations stay f32.
    Exact,
}

/// How a model is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// How exact the arithmetic is.
    pub precision: Precision,
    /// Threads that compute.
    pub threads: usize,
    /// The longest sequence.
    pub context: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// The most tokens in one step.
    pub max_tokens: usize,
    /// The most sequences in one step.
    pub max_sequences: usize,
    /// The folder of compiled kernels and packed weights.
    pub cache: PathBuf,
}

/// A compiled model.
pub struct Runner(());

fn not_merged() -> EngineError {
    let what = "this build has no compiler yet";
    EngineError::Below(Box::new(Diagnostic::new("not-merged", Fault::Bug, what)))
}

impl Runner {
    /// Compiles and loads the model of a file; `progress` is told the stage, what is done of it, and all of it.
    pub fn load(
        _file: &GgufFile,
        _options: &RunnerOptions,
        _progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Runner, EngineError> {
        Err(not_merged())
    }

    /// How long loading took.
    pub fn timing(&self) -> LoadTiming {
        LoadTiming::default()
    }

    /// The memory that is held.
    pub fn footprint(&self) -> Footprint {
        Footprint::default()
    }

    /// What a step must do at least.
    pub fn costs(&self) -> Costs {
        Costs::default()
    }

    /// What the compiler made, of all operators or of one.
    pub fn show(&self, _what: Show, _op: Option<&str>) -> String {
        String::new()
    }
}

impl Forward for Runner {
    fn vocabulary(&self) -> usize {
        0
    }

    fn context(&self) -> usize {
        0
    }

    fn pages(&self) -> usize {
        0
    }

    fn max_tokens(&self) -> usize {
        0
    }

    fn max_sequences(&self) -> usize {
        0
    }

    fn copy_page(&mut self, _from: u32, _to: u32) -> Result<(), EngineError> {
        Err(not_merged())
    }

    fn forward(&mut self, _batch: &Batch, _logits: &mut Vec<f32>) -> Result<(), EngineError> {
        Err(not_merged())
    }
}
