//! A compiled model that runs: its weights, the cache of keys and values, and a bound program for each class of step sizes.

use crate::artifact;
use crate::error::below;
use crate::memory::{Memory, fixed_bytes, packed_bytes, row_bytes};
use crate::offload::{Budget, Spilling};
use crate::pages::PageCopy;
use crate::report::{Costs, Footprint, LoadTiming, Stage};
use crate::sizes::{class_of, classes, cores};
use crate::split::only_move;
use crate::store::Store;
use crate::swap::{self, SwapFile};
use crate::weights::{Packing, Weights, model};
use crate::{Batch, EngineError, Forward, PAGE};
use lathe_compile::{CompileError, Compiled, Draft, Options, compile, draft, multiplies_bytes};
use lathe_diagnostic::Diagnostic;
use lathe_exec::HeldCounts;
use lathe_ir::graph::{Type, ValueId};
use lathe_ir::{Decode, Name};
use lathe_machine::Target;
use lathe_models::{Adapter, AdapterRoom, Format, KvType, Model, ModelFile};
use lathe_runtime::{KernelCache, Pool, detect_target};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How exact the arithmetic is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Activations are quantized where weights are, and the processor has an instruction that makes it pay.
    #[default]
    Fast,
    /// Activations stay f32.
    Exact,
}

impl Precision {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Fast => "fast",
            Precision::Exact => "exact",
        }
    }

    /// The passes it asks for on a target, in order.
    pub(crate) fn passes(self, target: &Target) -> &'static [&'static str] {
        match self {
            Precision::Fast if multiplies_bytes(target) => &["rows", "pack", "quantize", "halves"],
            Precision::Fast => &["rows", "pack", "halves"],
            Precision::Exact => &["rows", "pack"],
        }
    }
}

/// How a model is loaded.
#[derive(Clone, Debug, PartialEq)]
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
    /// The most rows of logits in one step; at least `max_sequences`.
    pub max_rows: usize,
    /// How keys and values are stored; none is f32, or what a compiled file was made for.
    pub kv_type: Option<KvType>,
    /// Room for adapters; without it the graph has none.
    pub adapters: Option<AdapterRoom>,
    /// The folder of compiled kernels.
    pub cache: PathBuf,
    /// The memory to stay in; without it all weights are in memory.
    pub budget: Option<Budget>,
}

impl RunnerOptions {
    /// How keys and values are stored.
    pub fn kv_type(&self) -> KvType {
        self.kv_type.unwrap_or_default()
    }
}

/// A model with what the compiler made of it.
pub(crate) struct Made {
    pub model: Model,
    pub compiled: Compiled,
    /// That the compiler is too old for the processor.
    pub warning: Option<Diagnostic>,
}

impl Made {
    /// Compiles the model of a file for this processor.
    pub fn of(
        encoder: bool,
        file: &ModelFile,
        options: &RunnerOptions,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Made, EngineError> {
        let model = model(Some(encoder), file, options)?;
        let mut report = |done, all| progress(Stage::Compile, done, all);
        let (compiled, warning) = here(options, |o| compile(&model.graph, o, &mut report))?;
        Ok(Made { model, compiled, warning })
    }
}

/// What is made with the options that this processor and these sizes ask for, and that the compiler is too old for it.
fn here<T>(
    options: &RunnerOptions,
    made: impl FnOnce(&Options<'_>) -> Result<T, CompileError>,
) -> Result<(T, Option<Diagnostic>), EngineError> {
    let kernels = KernelCache::new(&options.cache);
    let (target, warning) = kernels.compilable(detect_target().map_err(below)?, None).map_err(below)?;
    let classes = classes(options.max_rows.max(options.max_sequences), cores());
    let passes = options.precision.passes(&target);
    let made = made(&Options { target: &target, cache: &options.cache, passes, classes: &classes });
    Ok((made.map_err(below)?, warning))
}

/// The model of a file up to its kernels' C, which is not built; its weights are not read.
pub fn draft_model(file: &ModelFile, options: &RunnerOptions) -> Result<Draft, EngineError> {
    let model = model(None, file, options)?;
    Ok(here(options, |o| draft(&model.graph, o))?.0)
}

/// The buffers that runs of a compiled model are given.
fn used(compiled: &Compiled) -> Vec<&Name> {
    compiled.classes.iter().flat_map(|c| &c.plan.run.buffers).map(|b| &b.name).collect()
}

/// A compiled model.
pub struct Runner {
    options: RunnerOptions,
    /// The longest sequence, which may be shorter than the context that the kernels are made for.
    longest: usize,
    compiled: Compiled,
    pub(crate) memory: Memory,
    pool: Pool,
    vocabulary: usize,
    timing: LoadTiming,
    /// Where pages of sequences that give way go.
    swap: Option<SwapFile>,
    /// What is slower than it was asked for, and why.
    warnings: Vec<Diagnostic>,
}

impl Runner {
    /// Compiles and loads the model of a file; `progress` is told the stage, what is done of it, and all of it.
    pub fn load(
        file: &ModelFile,
        options: &RunnerOptions,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Runner, EngineError> {
        Runner::load_as(false, file, options, progress)
    }

    /// The same for an encoder, or for what is none.
    pub(crate) fn load_as(
        encoder: bool,
        file: &ModelFile,
        options: &RunnerOptions,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Runner, EngineError> {
        if file.format() == Format::Compiled {
            return artifact::load(encoder, file, options);
        }
        let start = Instant::now();
        let Made { model, compiled, warning } = Made::of(encoder, file, options, progress)?;
        let compile_s = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let pool = Pool::new(options.threads).map_err(below)?;
        let used = used(&compiled);
        let packing = Packing::new(file, &model, &compiled, &pool)?;
        let weights = packed_bytes(&compiled, 64) + packing.unpacked_bytes(&used);
        let rows = row_bytes(&compiled) as usize * options.max_rows;
        let needed = fixed_bytes(&compiled, options.threads) + weights + rows;
        let weights = match &options.budget {
            Some(budget) if needed > budget.left() => {
                let path = Store::path(&budget.folder, file, &compiled)?;
                packing.into_store(&used, &path, progress)?
            }
            _ => packing.into_memory(&used, progress)?,
        };
        let mut runner = Runner::bind(compiled, weights, options, options.context, pool, progress)?;
        if options.budget.is_some() {
            // The compiler's own data are gone.
            lathe_runtime::release_freed_memory();
        }
        runner.set_timing(LoadTiming { load_s: start.elapsed().as_secs_f64(), compile_s });
        runner.warnings.extend(warning);
        Ok(runner)
    }

    /// The model of a file with weights of no meaning, all in `room` bytes or in as many as the largest needs: what is as fast
    /// as the model and needs less memory.
    pub(crate) fn stand_in(
        file: &ModelFile,
        options: &RunnerOptions,
        room: usize,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Runner, EngineError> {
        let Made { model, compiled, .. } = Made::of(false, file, options, progress)?;
        let pool = Pool::new(options.threads).map_err(below)?;
        let weights = Packing::new(file, &model, &compiled, &pool)?.stand_ins(&used(&compiled), room)?;
        Runner::bind(compiled, weights, options, options.context, pool, progress)
    }

    /// Gives a compiled model its memory. `longest` bounds sequences, at most the context of `options`.
    pub(crate) fn bind(
        compiled: Compiled,
        weights: Weights,
        options: &RunnerOptions,
        longest: usize,
        pool: Pool,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Runner, EngineError> {
        let memory = Memory::new(&compiled, weights, options, progress)?;
        let warnings = memory.holding.as_ref().and_then(|h| only_move(h, options)).into_iter().collect();
        let result = compiled.graph.value(compiled.graph.outputs[0]);
        let vocabulary = result.ty.shape[1].as_const().unwrap_or(0) as usize;
        let options = options.clone();
        let timing = LoadTiming::default();
        Ok(Runner { options, longest, compiled, memory, pool, vocabulary, timing, swap: None, warnings })
    }

    /// Says how long loading took.
    pub(crate) fn set_timing(&mut self, timing: LoadTiming) {
        self.timing = timing;
    }

    /// Lets pages of sequences that give way go to a scratch file of so many bytes in a folder; with those of the model that guesses for
    /// this one, which has a file of its own in these bytes.
    pub fn set_swap(
        &mut self,
        folder: &Path,
        bytes: u64,
        draft: Option<&mut Runner>,
    ) -> Result<(), EngineError> {
        let page = |runner: &Runner| {
            let held: usize = runner.memory.states.iter().map(|(_, page)| *page).sum();
            let spilled = runner.memory.spilling.as_ref().map_or(0, Spilling::page_bytes);
            swap::page_bytes(held + spilled)
        };
        let (own, other) = (page(self), draft.as_deref().map_or(0, page));
        let pages = swap::pages_in(bytes, own + other)?;
        self.swap = Some(SwapFile::new(folder, pages, own)?);
        if let Some(draft) = draft {
            draft.swap = Some(SwapFile::new(folder, pages, other)?);
        }
        Ok(())
    }

    /// How long loading took.
    pub fn timing(&self) -> LoadTiming {
        self.timing
    }

    /// The memory that is held.
    pub fn footprint(&self) -> Footprint {
        self.memory.footprint
    }

    /// How often experts were needed and were not there, where not all are in memory.
    pub fn experts(&self) -> Option<HeldCounts> {
        self.memory.holding.as_ref().map(|h| h.room.counts())
    }

    /// The file that steps read weights from, where they do.
    pub fn store(&self) -> Option<&Path> {
        let of_experts = || self.memory.holding.as_ref().and_then(|h| h.lower.path());
        self.memory.stream.as_ref().and_then(|s| s.path()).or_else(of_experts)
    }

    /// What a person should know: that kernels were made by an old compiler or without a cache, that experts only move.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.warnings.iter().chain(self.compiled.library.warning())
    }

    /// What a step must do at least.
    pub fn costs(&self) -> Costs {
        let g = &self.compiled.graph;
        let mut c = Costs::default();
        let bytes = |t: &Type| t.bits().as_const().unwrap_or(0) as u64 / 8;
        let mut read = HashSet::new();
        for n in &g.nodes {
            let ty = |i: usize| g.ty(n.inputs[i]);
            match &*n.op {
                "matmul" | "expert_matmul" => {
                    let elements =
                        ty(1).shape.iter().map(|d| d.as_const().unwrap_or(0) as u64).product::<u64>();
                    let experts = (&*n.op == "expert_matmul").then(|| {
                        // One slot for each expert of a token.
                        let slots = ty(3).shape[0].eval(&|_| Some(1)).unwrap_or(1);
                        slots as f64 / ty(1).shape[0].as_const().unwrap_or(1) as f64
                    });
                    c.experts_used = experts.unwrap_or(c.experts_used);
                    let all =
                        if experts.is_some() { &mut c.expert_bytes } else { &mut c.weight_bytes_per_step };
                    *all += if read.insert(n.inputs[1]) { bytes(ty(1)) } else { 0 };
                    let ops = (2.0 * elements as f64 * experts.unwrap_or(1.0)) as u64;
                    // Of rows whose logits are wanted: these, and what nothing else needs.
                    let rows = |v: &ValueId| g.ty(*v).shape.first().cloned();
                    let logits = g.outputs.first().and_then(rows) == n.outputs.first().and_then(rows);
                    let coded = ty(0).storage().is_some_and(|e| e.decode != Decode::Plain);
                    match (logits, coded) {
                        (true, true) => c.int8_ops_per_logits += ops,
                        (true, false) => c.f32_ops_per_logits += ops,
                        (false, true) => c.int8_ops_per_token += ops,
                        (false, false) => c.f32_ops_per_token += ops,
                    }
                }
                "attention" => {
                    let width = ty(0).shape[1].as_const().unwrap_or(0) as u64;
                    c.attention_ops_per_pair += 4 * width;
                    let positions = ty(1).shape[0].as_const().unwrap_or(1) as u64;
                    c.kv_bytes_per_position += (bytes(ty(1)) + bytes(ty(2))) / positions;
                }
                _ => {}
            }
        }
        c
    }

    /// The graph that they are of, after all rewrites.
    pub fn graph(&self) -> &lathe_ir::graph::Graph {
        &self.compiled.graph
    }

    /// What is left of what the compiler made: graph and steps.
    pub fn overview(&self) -> lathe_compile::Overview<'_> {
        self.compiled.overview()
    }

    /// Runs one step like [`Forward::forward`] and says how long each kernel took: (operators, calls, seconds), longest
    /// first.
    pub fn profile(&mut self, batch: &Batch) -> Result<Vec<(String, usize, f64)>, EngineError> {
        let (class, dims) = self.prepare(batch)?;
        let m = &self.memory;
        if m.stream.is_some() || m.holding.is_some() || m.spilling.is_some() {
            let d = lathe_diagnostic::Diagnostic::new(
                "profile-streamed",
                lathe_diagnostic::Fault::User,
                "kernels whose weights or caches come from a disk are not timed one by one",
            );
            return Err(EngineError::Below(Box::new(d.fix("leave --memory out"))));
        }
        let rows = self.memory.programs[class].profile(&self.pool, &dims).map_err(below)?;
        let c = &self.compiled.classes[class];
        let name = |n: &Name| c.titles.get(n).map_or(n.to_string(), |title| format!("{} {title}", c.name));
        Ok(rows.into_iter().map(|(n, calls, s)| (name(&n), calls, s)).collect())
    }

    /// Checks a batch and writes it to the inputs; the class of sizes and the dimensions it runs with.
    fn prepare(&mut self, b: &Batch) -> Result<(usize, Vec<i64>), EngineError> {
        let width = self.options.context.div_ceil(PAGE);
        let limits = [
            (b.tokens.len(), self.options.max_tokens),
            (b.rows.len(), self.options.max_rows.max(self.options.max_sequences)),
            (b.pages.len(), self.options.max_sequences),
        ];
        // The ranges of all these numbers are facts of the kernels, checked when they are called.
        let sound = limits.iter().all(|(n, most)| n <= most)
            && [b.sequence.len(), b.position.len(), b.slot.len()].iter().all(|n| *n == b.tokens.len())
            && b.pages.iter().all(|p| p.len() <= width)
            && b.adapters.len() == b.pages.len()
            && b.position.iter().zip(&b.sequence).all(|(p, s)| {
                b.pages.get(*s as usize).is_some_and(|pages| (*p as usize) < pages.len() * PAGE)
            });
        if !sound {
            let d = lathe_diagnostic::Diagnostic::new(
                "batch",
                lathe_diagnostic::Fault::Bug,
                "a step's tokens, pages or rows are outside of what the model was loaded for",
            );
            return Err(EngineError::Below(Box::new(d)));
        }
        let put = |name: &str, v: &[u32]| match self.memory.inputs.get(name) {
            Some(view) => view.write(0, v).map_err(below),
            None => Ok(()),
        };
        put("tokens", &b.tokens)?;
        put("positions", &b.position)?;
        put("sequences", &b.sequence)?;
        put("slots", &b.slot)?;
        if self.memory.inputs.contains_key("adapters") {
            let of = |sequence: &u32| b.adapters[*sequence as usize];
            put("adapters", &b.sequence.iter().map(of).collect::<Vec<_>>())?;
        }
        if let Some(shares) = self.memory.inputs.get("shares") {
            shares.write(0, &b.shares()).map_err(below)?;
            put("last", &b.last())?;
            put("types", &vec![0; b.tokens.len()])?;
        }
        // A step that wants no logits computes one row all the same: one class of kernels less.
        put("rows", if b.rows.is_empty() { &[0] } else { &b.rows })?;
        let mut table = vec![0u32; width * b.pages.len()];
        for (row, p) in table.chunks_mut(width).zip(&b.pages) {
            row[..p.len()].copy_from_slice(p);
        }
        put("pages", &table)?;
        if let Some(huge_pages) = &mut self.memory.huge_pages {
            huge_pages.uses(b.pages.iter().flatten(), b.tokens.len());
        }
        if let Some(s) = &self.memory.spilling {
            s.list(b)?;
        }
        let class = class_of(b.tokens.len(), b.rows.len());
        let dims = self.compiled.graph.dims.iter().map(|(n, _)| match &**n {
            "T" => b.tokens.len() as i64,
            "R" => b.rows.len().max(1) as i64,
            _ => b.pages.len() as i64,
        });
        Ok((class, dims.collect()))
    }
}

/// How the inputs of adapters end: what their products multiply first, and second.
const DOWN: &str = ".lora_a";
const UP: &str = ".lora_b";

/// The product that an input holds adapters of, and whether it is what is multiplied first.
pub(crate) fn adapted(input: &str) -> Option<(&str, bool)> {
    let down = input.strip_suffix(DOWN).map(|product| (product, true));
    down.or_else(|| Some((input.strip_suffix(UP)?, false)))
}

/// The place of a matrix of an adapter, as `ty` stores each of its matrices: zero but for these rows of so many columns.
fn laid_out(ty: &Type, columns: usize, matrix: &[f32], elements: usize) -> Vec<f32> {
    let layout = ty.storage().and_then(|e| e.field("q")?.layout.resolve(&|_| None));
    let width = ty.shape[2].as_const().unwrap_or(0) as usize;
    let mut out = vec![0.0; elements];
    for (row, values) in matrix.chunks_exact(columns).enumerate() {
        for (column, value) in values.iter().enumerate() {
            let at = match &layout {
                Some(layout) => layout.address(&[0, row as i64, column as i64]) as usize / 32,
                None => row * width + column,
            };
            out[at] = *value;
        }
    }
    out
}

impl Forward for Runner {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn context(&self) -> usize {
        self.longest
    }

    fn pages(&self) -> usize {
        self.options.pages
    }

    fn max_tokens(&self) -> usize {
        self.options.max_tokens
    }

    fn max_sequences(&self) -> usize {
        self.options.max_sequences
    }

    fn max_rows(&self) -> usize {
        self.options.max_rows.max(self.options.max_sequences)
    }

    fn adapters(&self) -> usize {
        self.options.adapters.as_ref().map_or(0, |room| room.count)
    }

    fn set_adapter(&mut self, place: u32, adapter: &Adapter) -> Result<(), EngineError> {
        let no_room = |what: String| Err(EngineError::AdapterRoom { what });
        let rank = self.options.adapters.as_ref().map_or(0, |room| room.rank);
        for (name, part) in adapter.parts() {
            if !self.memory.inputs.contains_key(&*format!("{name}{DOWN}")) {
                return no_room(format!("changes '{name}', for which there is no room"));
            }
            if part.rank > rank {
                return no_room(format!("has rank {}, there is room for {rank}", part.rank));
            }
        }
        for v in &self.compiled.graph.values {
            let Some((product, down)) = adapted(&v.name) else { continue };
            let view = &self.memory.inputs[&v.name];
            let size = view.len() / (self.adapters() + 1);
            let view = view.part(place as usize * size, size).map_err(below)?;
            view.zero().map_err(below)?;
            if let Some(part) = adapter.parts().get(product) {
                let (columns, matrix) = if down { (part.width, &part.a) } else { (part.rank, &part.b) };
                view.write(0, &laid_out(&v.ty, columns, matrix, size / 4)).map_err(below)?;
            }
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), EngineError> {
        for (view, page) in &self.memory.states {
            let part = |i: u32| view.part(i as usize * page, *page).map_err(below);
            part(to)?.copy(0, &part(from)?).map_err(below)?;
        }
        self.memory.spilling.as_ref().map_or(Ok(()), |s| s.copy_page(from, to))
    }

    fn swap_pages(&self) -> usize {
        self.swap.as_ref().map_or(0, SwapFile::pages)
    }

    fn swap_page_bytes(&self) -> usize {
        self.swap.as_ref().map_or(0, SwapFile::page_bytes)
    }

    fn swap_out(&mut self, pages: &[PageCopy]) -> Result<(), EngineError> {
        let Some(swap) = &self.swap else { return Ok(()) };
        swap.write(pages, &|page, window, mut at| {
            for (view, bytes) in &self.memory.states {
                let part = view.part(page as usize * bytes, *bytes).map_err(below)?;
                window.copy(at, &part).map_err(below)?;
                at += bytes;
            }
            self.memory.spilling.as_ref().map_or(Ok(()), |s| s.read_page(page, window, at))
        })
    }

    fn swap_in(&mut self, pages: &[PageCopy]) -> Result<(), EngineError> {
        let Some(swap) = &self.swap else { return Ok(()) };
        swap.read(pages, &|page, window, mut at| {
            for (view, bytes) in &self.memory.states {
                let part = window.part(at, *bytes).map_err(below)?;
                view.copy(page as usize * bytes, &part).map_err(below)?;
                at += bytes;
            }
            self.memory.spilling.as_ref().map_or(Ok(()), |s| s.write_page(page, window, at))
        })
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let (class, dims) = self.prepare(batch)?;
        if let Some(s) = &mut self.memory.stream {
            s.make_ready()?;
            // Nobody knows what a run leaves behind that fails.
            s.ready = false;
        }
        self.memory.programs[class].run(&self.pool, &dims).map_err(below)?;
        if let Some(s) = &mut self.memory.stream {
            s.ready = true;
        }
        logits.resize(batch.rows.len() * self.vocabulary, 0.0);
        self.memory.logits.read(0, logits).map_err(below)
    }
}
