//! How long the kernels of a model take, measured on this machine: what `lathe-plan` predicts its steps with.
//!
//! The model runs with weights of no meaning in its own layout, so that nothing is read or packed, and a model larger than the
//! memory can be measured. A mixture's router sees random numbers, so its experts are all used in large steps.

use crate::error::below;
use crate::memory::{fixed_bytes, packed_bytes, row_bytes, state_bytes};
use crate::report::Stage;
use crate::runner::Made;
use crate::weights::model;
use crate::{Batch, Budget, EngineError, Forward, PAGE, Runner, RunnerOptions};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_models::{KvType, ModelFile};
use lathe_plan::{Measured, Pairs, StepBytes};
use std::time::Instant;

/// Tokens of prompts that are timed.
const PROMPT: &[usize] = &[1, 8, 32, 64, 128, 256, 512];
/// Sequences whose next tokens are timed.
const SEQUENCES: &[usize] = &[1, 2, 4, 8, 16, 32, 64];
/// Bytes that hold all weights while they are measured: more than caches do, and what many a model has.
const ROOM: usize = 128 << 20;
/// Raised when something else is measured, so that what is in caches is measured anew.
const FORM: u32 = 3;
/// Bytes that are enough to measure any model.
const ENOUGH: usize = 1 << 30;
/// The fewest tokens of the largest step that is timed, however little memory there is.
const FEWEST: usize = 32;
/// Steps that take longer are as fast, token by token, as shorter ones.
const LONGEST_S: f64 = 3.0;
/// How deep attention is timed at most, and over how many sequences at once.
const DEPTH: usize = 384;
const DEEP: usize = 4;
/// Tokens of a short prompt: a page.
const SHORT: usize = PAGE;

/// Measures the model of a file as `options` load it (their precision, threads, cache folder, context and budget count: a budget bounds
/// the memory that measuring takes, by smaller steps over fewer weights), with keys and values stored in each of these ways; or finds in the cache folder what was measured before, where `again` does not ask for it anew.
pub fn measure(
    file: &ModelFile,
    options: &RunnerOptions,
    kv_types: &[KvType],
    again: bool,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<Measured, EngineError> {
    let graph =
        model(Some(false), file, &RunnerOptions { kv_type: kv_types.first().copied(), ..options.clone() })?
            .graph;
    let mut hash = blake3::Hasher::new();
    let RunnerOptions { precision, threads, .. } = options;
    let cpu = lathe_runtime::detect_cpu();
    // By powers of two, so that what was measured serves other budgets that are near.
    let left = options.budget.as_ref().map_or(ENOUGH, Budget::left).clamp(1, ENOUGH);
    let within = 1 << left.ilog2();
    for part in [
        graph.to_string(),
        format!("{precision:?} {threads} {kv_types:?} {cpu:?} {within} {FORM} {}", env!("CARGO_PKG_VERSION")),
    ] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let path = options.cache.join("measured").join(format!("{}.toml", &hash.finalize().to_hex()[..32]));
    // What cannot be read is measured again.
    let before = || Measured::from_toml(&std::fs::read_to_string(&path).ok()?).ok();
    if let Some(measured) = (!again).then(before).flatten() {
        return Ok(measured);
    }
    let measured = measure_now(file, options, kv_types, within, progress)?;
    lathe_runtime::write_whole(&path, measured.to_toml().as_bytes()).map_err(|error| {
        let what = format!("cannot keep what was measured: {error}");
        below(Diagnostic::new("measured-file", Fault::Environment, what).at(path.display().to_string()))
    })?;
    Ok(measured)
}

fn measure_now(
    file: &ModelFile,
    options: &RunnerOptions,
    kv_types: &[KvType],
    within: usize,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<Measured, EngineError> {
    let most = |list: &[usize]| list.iter().copied().max().unwrap_or(1);
    let (mut tokens, mut sequences) = (most(PROMPT), most(SEQUENCES));
    let mut context = options.context.min(DEPTH + PAGE);
    let of = |context: usize, kv_type: KvType, tokens: usize, sequences: usize| RunnerOptions {
        context,
        pages: (context.div_ceil(PAGE) * DEEP).max(sequences),
        max_tokens: tokens,
        max_sequences: sequences,
        max_rows: sequences,
        kv_type: Some(kv_type),
        adapters: None,
        budget: None,
        ..options.clone()
    };
    let room = ROOM.min(within / 2);
    for kv_type in kv_types {
        while tokens > FEWEST {
            let compiled =
                Made::of(false, file, &of(context, *kv_type, tokens, sequences), progress)?.compiled;
            if fixed_bytes(&compiled, options.threads) + room <= within {
                break;
            }
            (tokens, sequences) = (tokens / 2, (sequences / 2).max(DEEP));
            context = (context / 2).max(2 * PAGE).min(context);
        }
    }
    let depth = context.saturating_sub(PAGE).max(1);
    let sized = |kv_type: KvType, tokens: usize, sequences: usize| of(context, kv_type, tokens, sequences);
    let upto =
        |list: &[usize], most: usize| -> Vec<usize> { list.iter().copied().filter(|n| *n <= most).collect() };
    let mut out = Measured::default();
    for (i, kv_type) in kv_types.iter().enumerate() {
        let mut runner = Runner::stand_in(file, &sized(*kv_type, tokens, sequences), room, progress)?;
        runner.memory.fill_states()?;
        let mut clock = Clock { runner: &mut runner, logits: vec![] };
        if i == 0 {
            out.prompt = clock.all(&upto(PROMPT, tokens), &short_prompts, progress)?;
            out.token = clock.all(&upto(SEQUENCES, sequences), &|n| tokens_of(n, 0), progress)?;
        }
        // The same number of tokens, with more before them.
        let mut between = |near: Batch, far: Batch, pairs: usize| {
            let (near, far) = (clock.seconds(&near)?, clock.seconds(&far)?);
            Ok::<f64, EngineError>((far - near).max(0.0) / pairs as f64)
        };
        let more = depth * (depth - SHORT.min(depth)) / 2;
        let pairs = Pairs {
            prompt: between(short_prompts(depth), long_prompt(depth), more.max(1))?,
            token: between(tokens_of(DEEP, 0), tokens_of(DEEP, depth), DEEP * depth)?,
        };
        out.attention.insert(kv_type.as_str().into(), pairs);
    }
    // What of short prompts' time is attention is counted with its pairs.
    let pairs = kv_types.first().and_then(|t| out.attention.get(t.as_str())).copied().unwrap_or_default();
    for (n, seconds) in &mut out.prompt {
        *seconds = (*seconds - pairs.prompt * (*n * SHORT as u64) as f64 / 2.0).max(*seconds / 2.0);
    }
    // Kernels of other sizes are the same, their memory is not.
    let kv_type = kv_types.first().copied().unwrap_or_default();
    out.page = PAGE as u64;
    let mut row = 0;
    let mut held = |tokens: usize, sequences: usize| {
        let options = sized(kv_type, tokens, sequences);
        let compiled = Made::of(false, file, &options, progress)?.compiled;
        out.stored_bytes = packed_bytes(&compiled, lathe_runtime::BLOCK) as u64;
        row = row_bytes(&compiled);
        Ok::<u64, EngineError>(
            (fixed_bytes(&compiled, options.threads) - state_bytes(&compiled, options.pages)) as u64,
        )
    };
    let fewest = sequences.min(2);
    let (all, fewer_tokens, fewer_sequences) =
        (held(tokens, sequences)?, held(tokens / 2, sequences)?, held(tokens, fewest)?);
    let token = all.saturating_sub(fewer_tokens) / (tokens / 2) as u64;
    // Logits come in groups of rows: a line of one row for each sequence that lies above all of them.
    let sequence = row.max(all.saturating_sub(fewer_sequences) / (sequences - fewest).max(1) as u64);
    let constant = fewer_sequences.saturating_sub(token * tokens as u64 + sequence);
    // Who reads them has a copy.
    let sequence = sequence + row;
    out.held = StepBytes { constant, token, sequence };
    Ok(out)
}

/// What times steps.
struct Clock<'a> {
    runner: &'a mut Runner,
    logits: Vec<f32>,
}

impl Clock<'_> {
    /// Seconds of a step: the least of some, for others on the machine only make it slower; of one where it is long.
    fn seconds(&mut self, batch: &Batch) -> Result<f64, EngineError> {
        let vocabulary = self.runner.vocabulary() as u32;
        let mut batch = batch.clone();
        batch.tokens.iter_mut().for_each(|id| *id %= vocabulary);
        let batch = &batch;
        let mut times = vec![];
        let mut all = 0.0;
        // The first one wakes caches and clocks.
        for sample in 0..20 {
            let start = Instant::now();
            self.runner.forward(batch, &mut self.logits)?;
            let seconds = start.elapsed().as_secs_f64();
            all += seconds;
            if sample > 0 || seconds > 0.5 {
                times.push(seconds);
            }
            if all > 0.7 && times.len() > 2 || all > LONGEST_S {
                break;
            }
        }
        Ok(times.into_iter().fold(f64::INFINITY, f64::min))
    }

    /// Seconds of steps of these sizes, which rise.
    fn all(
        &mut self,
        sizes: &[usize],
        batch: &dyn Fn(usize) -> Batch,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Vec<(u64, f64)>, EngineError> {
        let mut rows: Vec<(u64, f64)> = vec![];
        for (done, n) in sizes.iter().enumerate() {
            progress(Stage::Measure, done, sizes.len());
            let seconds = self.seconds(&batch(*n))?;
            rows.push((*n as u64, seconds));
            if seconds > LONGEST_S {
                break;
            }
        }
        progress(Stage::Measure, sizes.len(), sizes.len());
        Ok(rows)
    }
}

/// So many tokens in prompts that are too short for attention to take long; only the last one's logits are wanted.
fn short_prompts(tokens: usize) -> Batch {
    let mut b = Batch::default();
    for (s, first) in (0..tokens).step_by(SHORT).enumerate() {
        let ids: Vec<u32> = (first..tokens.min(first + SHORT)).map(|id| id as u32).collect();
        b.push(&ids, 0, &[s as u32], 0);
    }
    b.rows = vec![tokens as u32 - 1];
    b
}

/// A prompt of so many tokens.
fn long_prompt(tokens: usize) -> Batch {
    let mut b = Batch::default();
    let ids: Vec<u32> = (0..tokens as u32).collect();
    let pages: Vec<u32> = (0..tokens.div_ceil(PAGE) as u32).collect();
    b.push(&ids, 0, &pages, 0);
    b.rows = vec![tokens as u32 - 1];
    b
}

/// A token of each of so many sequences, with others before it.
fn tokens_of(sequences: usize, before: usize) -> Batch {
    let mut b = Batch::default();
    let each = (before + 1).div_ceil(PAGE) as u32;
    for s in 0..sequences as u32 {
        let pages: Vec<u32> = (s * each..(s + 1) * each).collect();
        let row = b.push(&[s], before, &pages, 0);
        b.rows.push(row);
    }
    b
}
