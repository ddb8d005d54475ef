//! From a model's name to an engine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lathe_compile::Draft;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{
    ArtifactOptions, Budget, Encoder, Engine, EngineError, Forward, Made, Met, PAGE, Precision, Runner,
    RunnerOptions, SCORE_TOKENS, compile_model, compiled_context, compiled_sequences,
};
use lathe_machine::Target;
use lathe_models::{
    Adapter, AdapterRoom, CacheShape, ChatTemplate, KvType, ModelFile, Tokenizer, build, cache_dir,
};
use lathe_plan::experts::Routing;
use lathe_plan::{Load, Measured, Policy};

use crate::failure::Failure;
use crate::foreign::Clocks;
use crate::options::ComputeOptions;
use crate::output;
use crate::planner::{Sizes, step_tokens};
use crate::progress::Status;

/// The most tokens of one step: enough for a prompt's matrices to be worth their packing.
pub const STEP_TOKENS: usize = 512;

/// The least context to compile for, tokens, where none is asked for.
const LEAST_CONTEXT: usize = 1024;

/// What takes less time was not measured but found in the cache.
const FOUND: Duration = Duration::from_secs(1);

/// The most texts of one step where each is read at once.
const STEP_SEQUENCES: usize = 32;

/// How a model computes.
#[derive(Clone)]
pub struct Compute {
    /// How exact the arithmetic is.
    pub precision: Precision,
    /// Threads that compute.
    pub threads: usize,
    /// How keys and values are stored, where it is said.
    pub kv_type: Option<KvType>,
    /// Room for adapters.
    pub adapters: Option<AdapterRoom>,
    /// The memory to stay in.
    pub budget: Option<Budget>,
    /// A smaller model, of the same tokens, that guesses for it: see [`Model::draft`].
    pub draft: Option<Arc<Model>>,
}

impl Compute {
    /// As it is done where nothing is asked for.
    pub fn usual() -> Compute {
        let threads = lathe_runtime::detect_cpu().cores;
        Compute {
            precision: Precision::Fast,
            threads,
            kv_type: None,
            adapters: None,
            budget: None,
            draft: None,
        }
    }
}

/// A model's file with what is read from it before anything is compiled.
pub struct Model {
    /// The file.
    pub file: ModelFile,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The longest sequence it was made for, or that its file was compiled for.
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
        if lathe_engine::is_program(&file) {
            let what = "it is a compiled program, and no language model";
            let d = Diagnostic::new("model-program", Fault::User, what).at(path.display().to_string());
            return Err(d.fix("give it to lathe run with --input").into());
        }
        let family = lathe_models::family(&file)?;
        let tokenizer = Arc::new(Tokenizer::from_file(&file)?);
        let context = file.get_u32(&format!("{family}.context_length"))? as usize;
        let context = compiled_context(&file).map_or(context, |compiled| compiled.min(context));
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

    /// The context to load with for `needed` tokens: as the user asked, or a power of two from `LEAST_CONTEXT` on, so that
    /// kernels compiled for one prompt serve the next; never more than the model knows. Memory that is not used costs nothing.
    pub fn context_for(&self, needed: usize, asked: Option<u32>) -> Result<usize, Failure> {
        match asked.map(|n| n as usize) {
            Some(asked) if asked > self.context => {
                let what = format!("a context of {asked} is asked for, the model's is {}", self.context);
                Err(Diagnostic::new("context-too-long", Fault::User, what).fix("ask for less").into())
            }
            Some(asked) => Ok(asked),
            None => Ok(needed.min(self.context).next_power_of_two().max(LEAST_CONTEXT).min(self.context)),
        }
    }

    /// Compiles and loads it.
    pub fn load(
        &self,
        compute: Compute,
        context: usize,
        max_sequences: usize,
        max_rows: usize,
    ) -> Result<Engine<Runner>, Failure> {
        let draft = compute.draft.clone();
        let (runner, draft) = self.runners(&generation(compute, context, max_sequences, max_rows)?, draft)?;
        engine(runner, draft)
    }

    /// Compiles it up to its kernels' C, with a context of `context` where it generates.
    pub fn drafted(&self, compute: Compute, context: usize) -> Result<Draft, Failure> {
        let options = match self.is_encoder()? {
            true => embedding(compute.precision, compute.threads, self.context)?,
            false => generation(compute, context, 1, 1)?,
        };
        Ok(lathe_engine::draft_model(&self.file, &options)?)
    }

    /// The same model from another file of it.
    pub fn with_file(&self, file: ModelFile) -> Model {
        Model { file, tokenizer: self.tokenizer.clone(), context: self.context }
    }

    /// Compiles and loads it to score one text of so many tokens, without telling how far that is.
    pub fn load_quietly(&self, compute: Compute, tokens: usize) -> Result<Engine<Runner>, Failure> {
        let options = generation(compute, tokens, 1, SCORE_TOKENS)?;
        Ok(Engine::new(Runner::load(&self.file, &options, &mut |_, _, _| {})?))
    }

    /// How large the inputs of its products become on texts of at most `longest` tokens, by the matrices' names and columns.
    pub fn feature_maxima(
        &self,
        texts: &[&[u32]],
        longest: usize,
        threads: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<HashMap<String, Vec<f32>>, Failure> {
        Ok(lathe_engine::feature_maxima(&self.file, &watched(longest, threads, 1)?, texts, goes_on)?)
    }

    /// What the `wanted` matrices of each layer meet on texts of at most `longest` tokens; `each` may change them.
    pub fn layer_by_layer(
        &self,
        texts: &[&[u32]],
        longest: usize,
        threads: usize,
        wanted: &dyn Fn(&str) -> bool,
        goes_on: &dyn Fn() -> bool,
        each: &mut dyn FnMut(Met) -> Result<ModelFile, Failure>,
    ) -> Result<(), Failure> {
        let options = watched(longest, threads, STEP_SEQUENCES)?;
        lathe_engine::layer_by_layer(&self.file, &options, texts, wanted, goes_on, each)
    }

    /// Which experts the tokens of texts of at most `longest` tokens are sent to.
    pub fn router_choices(
        &self,
        texts: &[&[u32]],
        longest: usize,
        threads: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Routing, Failure> {
        Ok(lathe_engine::router_choices(&self.file, &watched(longest, threads, 1)?, texts, goes_on)?)
    }

    fn runner(&self, options: &RunnerOptions) -> Result<Runner, Failure> {
        let mut status = Status::new();
        let runner =
            Runner::load(&self.file, options, &mut |stage, done, total| status.stage(stage, done, total))?;
        drop(status);
        for warning in runner.warnings() {
            output::message(&warning.to_string().replacen("error[", "warning[", 1));
        }
        Ok(runner)
    }

    /// Compiles and loads it to serve requests as they come, in these sizes (no more sequences than its file is compiled for), and with so
    /// many bytes in a folder for pages that the cache has no room for.
    pub fn load_server(
        &self,
        compute: Compute,
        sizes: Sizes,
        swap: (&Path, u64),
    ) -> Result<Engine<Runner>, Failure> {
        let compiled = compiled_sequences(&self.file).unwrap_or(usize::MAX);
        let sequences = sizes.sequences.min(compiled);
        let draft = compute.draft.clone();
        let options = RunnerOptions {
            pages: sizes.cache_tokens.max(sizes.context).div_ceil(PAGE),
            max_tokens: sizes.step_tokens.max(sequences),
            ..generation(compute, sizes.context, sequences, sizes.rows.min(compiled))?
        };
        let (mut runner, mut draft) = self.runners(&options, draft)?;
        if let (folder, bytes @ 1..) = swap {
            runner.set_swap(folder, bytes, draft.as_mut())?;
        }
        engine(runner, draft)
    }

    /// Compiles and loads it, and the model that guesses for it: that one first, for what it holds is not there for the other.
    fn runners(
        &self,
        options: &RunnerOptions,
        draft: Option<Arc<Model>>,
    ) -> Result<(Runner, Option<Runner>), Failure> {
        let Some(draft) = draft else { return Ok((self.runner(options)?, None)) };
        if draft.context < options.context {
            let what = format!("has a context of {}, {} is needed", draft.context, options.context);
            return Err(no_draft(&draft, &what));
        }
        let mut status = Status::new();
        let mut load = |options: &RunnerOptions| {
            let options = RunnerOptions {
                max_rows: options.max_sequences,
                adapters: None,
                budget: None,
                ..options.clone()
            };
            Runner::load(&draft.file, &options, &mut |stage, done, total| status.stage(stage, done, total))
        };
        if self.is_compiled() {
            // It has sizes of its own.
            let runner = self.runner(options)?;
            let (pages, max_tokens, max_sequences) =
                (runner.pages(), runner.max_tokens(), runner.max_sequences());
            let draft = load(&RunnerOptions { pages, max_tokens, max_sequences, ..options.clone() })?;
            return Ok((runner, Some(draft)));
        }
        let draft = load(options)?;
        let budget = options.budget.clone().map(|budget| budget.beside(&draft.footprint()));
        Ok((self.runner(&RunnerOptions { budget, ..options.clone() })?, Some(draft)))
    }

    /// Opens a smaller model that is to guess for this one, and refuses one of other tokens.
    pub fn draft(&self, name: &str) -> Result<Arc<Model>, Failure> {
        let draft = Model::open(name)?;
        let sizes = [&draft, self].map(|model| model.tokenizer.vocab_size() as u32);
        let differs = |id: &u32| draft.tokenizer.token_bytes(*id) != self.tokenizer.token_bytes(*id);
        if sizes[0] != sizes[1] || (0..sizes[0]).any(|id| differs(&id)) {
            return Err(no_draft(&draft, "has other tokens"));
        }
        Ok(Arc::new(draft))
    }

    /// Measures how long its steps take as it computes, within the budget where there is one, with keys and values stored in each
    /// of these ways.
    pub fn measure(
        &self,
        compute: &Compute,
        kv_types: &[String],
        refresh: bool,
    ) -> Result<Measured, Failure> {
        let kv_types = kv_types.iter().map(|t| kv_type_named(t)).collect::<Result<Vec<_>, _>>()?;
        let compute = Compute { kv_type: None, adapters: None, draft: None, ..compute.clone() };
        let options = generation(compute, self.context, 1, 1)?;
        let mut status = Status::new();
        let report = &mut |stage, done, total| status.stage(stage, done, total);
        let mut refresh = refresh;
        // Kernels are built the first time, and other processes may be busy: then it is measured again, some times.
        let mut measured = Measured::default();
        for _ in 0..4 {
            let (begin, start) = (Instant::now(), Clocks::now());
            measured = lathe_engine::measure(&self.file, &options, &kv_types, refresh, report)?;
            let foreign = Clocks::now().zip(start).and_then(|(now, start)| now.foreign_since(&start));
            let found = begin.elapsed() < FOUND;
            if found || foreign.is_none_or(|load| load < 0.1) {
                break;
            }
            refresh = true;
        }
        Ok(measured)
    }

    /// Compiles and loads it for the sequences of a plan at once.
    pub fn load_planned(
        &self,
        compute: Compute,
        policy: &Policy,
        load: &Load,
    ) -> Result<Engine<Runner>, Failure> {
        let batch = policy.batch as usize;
        let compute = Compute { kv_type: Some(kv_type_named(&policy.kv_type)?), ..compute };
        let context = ((load.prompt + load.generate) as usize).next_multiple_of(PAGE);
        let options = RunnerOptions {
            max_tokens: step_tokens(policy, load),
            ..generation(compute, context, batch, batch)?
        };
        Ok(Engine::new(self.runner(&options)?))
    }

    /// Reads an adapter of it.
    pub fn adapter(&self, path: &Path) -> Result<Adapter, Failure> {
        // A compiled model has no products that one could be checked against.
        if compiled_context(&self.file).is_some() {
            let what = "a compiled model has no room for adapters";
            let d = Diagnostic::new("artifact-adapters", Fault::User, what);
            return Err(d.fix("use the model it was made from").into());
        }
        Ok(Adapter::open(path, &self.file)?)
    }

    /// Whether it is a file of `lathe compile`, whose sizes are chosen.
    pub fn is_compiled(&self) -> bool {
        compiled_context(&self.file).is_some()
    }

    /// Whether it embeds texts and generates none.
    pub fn is_encoder(&self) -> Result<bool, Failure> {
        let elements = KvType::F32;
        let shape =
            CacheShape { elements, pages: 1, context: 1, max_tokens: 1, max_sequences: 1, adapters: None };
        match compiled_context(&self.file) {
            Some(_) => Ok(self.file.get::<bool>("lathe.encoder")?),
            None => Ok(build(&self.file, &shape)?.encoder),
        }
    }

    /// Compiles and loads it as an encoder: the same for all texts, so that its kernels are found in the cache.
    pub fn load_encoder(&self, compute: &ComputeOptions, budget: Option<Budget>) -> Result<Encoder, Failure> {
        let options = embedding(compute.precision.into(), compute.threads(), self.context)?;
        let options = RunnerOptions { budget, ..options };
        let mut status = Status::new();
        let load = &mut |stage, done, total| status.stage(stage, done, total);
        Ok(Encoder::load(&self.file, &options, load)?)
    }

    /// Compiles it to a file, for `max_sequences` at once (an encoder for its usual number of texts), and says whether it is an
    /// encoder.
    pub fn compile(
        &self,
        path: &Path,
        target: Target,
        precisions: Vec<Precision>,
        kv_type: Option<KvType>,
        context: usize,
        max_sequences: usize,
        accept: &mut dyn FnMut(&[Made]) -> Result<(), Diagnostic>,
    ) -> Result<bool, Failure> {
        let encoder = compiled_context(&self.file).is_none() && self.is_encoder()?;
        let threads = lathe_runtime::detect_cpu().cores;
        let runner = match encoder {
            true => embedding(Precision::Fast, threads, context)?,
            false => {
                generation(Compute { kv_type, ..Compute::usual() }, context, max_sequences, SCORE_TOKENS)?
            }
        };
        let mut status = Status::new();
        let report = &mut |stage, done, total| status.stage(stage, done, total);
        compile_model(&self.file, &ArtifactOptions { target, precisions, runner }, path, accept, report)?;
        Ok(encoder)
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

/// That a model cannot guess for another one.
fn no_draft(draft: &Model, what: &str) -> Failure {
    let d = Diagnostic::new("draft-model", Fault::User, format!("the draft model {what}"));
    let at = draft.file.path().map_or(String::new(), |path| path.display().to_string());
    d.at(at).fix("use a smaller model of the same family, with the same tokens").into()
}

/// An engine of a model, for which another guesses.
fn engine(runner: Runner, draft: Option<Runner>) -> Result<Engine<Runner>, Failure> {
    let engine = Engine::new(runner);
    match draft {
        Some(draft) => Ok(engine.with_draft(Box::new(draft))?),
        None => Ok(engine),
    }
}

/// A way to store keys and values by its name.
pub fn kv_type_named(name: &str) -> Result<KvType, Failure> {
    KvType::ALL.into_iter().find(|t| t.as_str() == name).ok_or_else(|| {
        let names = KvType::ALL.map(KvType::as_str).join(", ");
        let what = format!("keys and values cannot be stored as '{name}', only as {names}");
        Diagnostic::new("kv-type", Fault::User, what).into()
    })
}

/// As steps are run to see what is inside, of so many texts.
fn watched(longest: usize, threads: usize, texts: usize) -> Result<RunnerOptions, Failure> {
    let precision = Precision::Exact;
    let kv_type = Some(KvType::F32);
    generation(Compute { precision, threads, kv_type, ..Compute::usual() }, longest, texts, texts)
}

/// How a model that generates is loaded.
fn generation(
    compute: Compute,
    context: usize,
    max_sequences: usize,
    max_rows: usize,
) -> Result<RunnerOptions, Failure> {
    let Compute { precision, threads, kv_type, adapters, budget, draft: _ } = compute;
    Ok(RunnerOptions {
        precision,
        threads,
        context,
        pages: context.div_ceil(PAGE) * max_sequences,
        max_tokens: STEP_TOKENS.min(context * max_sequences).max(max_sequences),
        max_sequences,
        max_rows,
        kv_type,
        adapters,
        cache: cache_dir()?,
        budget,
    })
}

/// How an encoder is loaded.
fn embedding(precision: Precision, threads: usize, context: usize) -> Result<RunnerOptions, Failure> {
    let max_tokens = STEP_TOKENS.max(context);
    Ok(RunnerOptions {
        precision,
        threads,
        context,
        pages: max_tokens.div_ceil(PAGE) + STEP_SEQUENCES,
        max_tokens,
        max_sequences: STEP_SEQUENCES,
        max_rows: STEP_SEQUENCES,
        // Keys and values are scratch that all layers share.
        kv_type: Some(KvType::F32),
        adapters: None,
        cache: cache_dir()?,
        budget: None,
    })
}
