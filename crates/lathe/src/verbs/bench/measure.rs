//! Samples of prefill and decode, each beside a sample of what the machine can do at that moment.

use std::path::Path;
use std::time::Instant;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Engine, EngineError, Event, Forward, PAGE, Request, Runner, SequenceId};
use lathe_runtime::{Pool, direct_read_bandwidth, peak_f32, peak_int8, read_bandwidth};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::foreign::Clocks;
use crate::interrupt::Listening;
use crate::model::STEP_TOKENS;

/// Bytes that the bandwidth probe reads: well over the caches.
const PROBE_BYTES: usize = 256 << 20;
/// The same beside a model that is held to a budget, of which it is a part.
pub const SMALL_PROBE_BYTES: usize = 64 << 20;
/// Bytes that the disk's probe reads.
const DISK_BYTES: u64 = 512 << 20;
/// The most of the machine that others may take in a good sample.
pub const FOREIGN: f64 = 0.05;
/// How often a bad sample is taken again.
const RETRIES: usize = 3;

/// A loaded model and what is to be done with it.
pub struct Bench {
    pub engine: Engine<Runner>,
    pub pool: Pool,
    pub threads: usize,
    pub prompt: usize,
    pub generate: usize,
    pub interrupt: Listening,
    /// Prompts made so far: each is another one, so that none is found in the cache.
    pub prompts: usize,
}

/// What was measured for one number of sequences: medians.
#[derive(Clone, Debug)]
pub struct Row {
    pub threads: usize,
    pub batch: usize,
    pub prefill_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
    pub prefill_floor_fraction: f64,
    pub decode_floor_fraction: f64,
    pub bandwidth: f64,
    pub int8_peak: f64,
    pub f32_peak: f64,
    /// Bytes a second from the disk, where weights are read from it.
    pub disk: Option<f64>,
    /// Bytes of weights that a decoding step read from there.
    pub disk_bytes_per_step: f64,
    pub foreign: Option<f64>,
    pub samples: usize,
    pub rejected: usize,
}

/// One sample; speeds are units per second.
#[derive(Clone, Copy, Debug)]
struct Sample {
    prefill: f64,
    decode: f64,
    prefill_floor: f64,
    decode_floor: f64,
    bandwidth: f64,
    int8_peak: f64,
    f32_peak: f64,
    disk: Option<f64>,
    disk_bytes: f64,
    foreign: Option<f64>,
}

/// What decoding took.
struct Decoded {
    /// Seconds of a step.
    step_s: f64,
    /// Positions that each sequence then had on average.
    depth: f64,
    /// Bytes of experts that a step brought.
    expert_bytes: f64,
}

/// Steps until every one of `batch` sequences has its first token behind a prompt that was computed before, at most.
pub fn steps_to_start(batch: usize, prompt: usize) -> usize {
    // What is behind the last whole page is computed anew. Each step computes a token for every sequence that has started, and this
    // with the rest of its budget.
    let budget = STEP_TOKENS.saturating_sub(batch).max(1);
    (batch * prompt.min(PAGE)).div_ceil(budget)
}

impl Bench {
    /// Measures every case, taking turns, so that all see the same weather.
    pub fn rows(&mut self, batches: &[usize], samples: usize) -> Result<Vec<Row>, Failure> {
        let mut taken: Vec<(Vec<Sample>, usize)> = vec![Default::default(); batches.len()];
        // The first one wakes caches and clocks; a disk has none that matter, and takes long.
        if self.engine.model().store().is_none() {
            self.sample(batches.iter().copied().min().unwrap_or(1))?;
        }
        for _ in 0..samples {
            for (&batch, (kept, rejected)) in batches.iter().zip(&mut taken) {
                let mut sample = self.sample(batch)?;
                for _ in 0..RETRIES {
                    if sample.foreign.is_none_or(|load| load <= FOREIGN) {
                        break;
                    }
                    *rejected += 1;
                    sample = self.sample(batch)?;
                }
                kept.push(sample);
            }
        }
        let row = |(&batch, (samples, rejected)): (&usize, &(Vec<Sample>, usize))| {
            let median = |of: fn(&Sample) -> f64| median(samples.iter().map(of).collect());
            Row {
                threads: self.threads,
                batch,
                prefill_tokens_per_s: median(|s| s.prefill),
                decode_tokens_per_s: median(|s| s.decode),
                prefill_floor_fraction: median(|s| s.prefill_floor),
                decode_floor_fraction: median(|s| s.decode_floor),
                bandwidth: median(|s| s.bandwidth),
                int8_peak: median(|s| s.int8_peak),
                f32_peak: median(|s| s.f32_peak),
                disk_bytes_per_step: median(|s| s.disk_bytes),
                disk: samples.iter().any(|s| s.disk.is_some()).then(|| median(|s| s.disk.unwrap_or(0.0))),
                foreign: samples
                    .iter()
                    .all(|s| s.foreign.is_some())
                    .then(|| median(|s| s.foreign.unwrap_or(0.0))),
                samples: samples.len(),
                rejected: *rejected,
            }
        };
        Ok(batches.iter().zip(&taken).map(row).collect())
    }

    fn sample(&mut self, batch: usize) -> Result<Sample, Failure> {
        let start = Clocks::now();
        let unknown =
            || Diagnostic::new("bench-probe", Fault::Environment, "this machine's speed cannot be measured");
        let store = self.engine.model().store().map(Path::to_owned);
        let probe = if store.is_some() { SMALL_PROBE_BYTES } else { PROBE_BYTES };
        let bandwidth = read_bandwidth(self.threads, probe, &self.pool)?.ok_or_else(unknown)?.best;
        let int8_peak = peak_int8(&self.pool).ok_or_else(unknown)?.best;
        let f32_peak = peak_f32(&self.pool).ok_or_else(unknown)?.best;

        let disk = store.as_deref().and_then(|store| direct_read_bandwidth(store, DISK_BYTES));
        self.prompts += batch;
        let prefill_s = self.prefill(batch)?;
        let Decoded { step_s, depth, expert_bytes } = self.decode(batch)?;
        let costs = self.engine.model().costs();
        // Each step reads what is streamed once.
        let streamed = self.engine.model().footprint().disk_bytes as f64;
        let reads = |bytes: f64| disk.map_or(0.0, |rate| bytes / rate);
        let steps = (batch * self.prompt).div_ceil(self.engine.model().max_tokens()) as f64;
        let prefill_floor_s = batch as f64 * costs.prefill_floor_s(self.prompt, int8_peak, f32_peak);
        let prefill_floor_s = prefill_floor_s.max(steps * reads(streamed));
        let decode_floor_s =
            costs.decode_floor_s(batch, depth, bandwidth).max(reads(streamed + expert_bytes));
        Ok(Sample {
            prefill: (batch * self.prompt) as f64 / prefill_s,
            decode: batch as f64 / step_s,
            prefill_floor: prefill_floor_s / prefill_s,
            decode_floor: decode_floor_s / step_s,
            bandwidth,
            int8_peak,
            f32_peak,
            disk,
            disk_bytes: streamed + expert_bytes,
            foreign: Clocks::now().zip(start).and_then(|(now, start)| now.foreign_since(&start)),
        })
    }

    /// Seconds until each prompt has its first token; none goes on to a second.
    fn prefill(&mut self, batch: usize) -> Result<f64, Failure> {
        self.start(batch, 1)?;
        let start = Instant::now();
        while !self.engine.is_idle() {
            self.step()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Decodes behind the same prompts, whose pages are still there: sequences that waited for others' prompts would else be longer.
    fn decode(&mut self, batch: usize) -> Result<Decoded, Failure> {
        let ids = self.start(batch, usize::MAX)?;
        while self.step()? < batch {
            if self.engine.is_idle() {
                let what = format!(
                    "no step decoded {batch} sequences at once: the first ended before the last began"
                );
                return Err(Diagnostic::new("bench-batch", Fault::User, what)
                    .fix("give a smaller --batch")
                    .into());
            }
        }
        let depths = ids.iter().filter_map(|&id| Some(self.engine.tokens(id)?.len()));
        let depth = depths.sum::<usize>() as f64 / batch as f64 + self.generate as f64 / 2.0;
        let brought = |engine: &Engine<Runner>| engine.model().experts().map_or(0, |experts| experts.bytes);
        let (before, start) = (brought(&self.engine), Instant::now());
        for _ in 0..self.generate {
            self.step()?;
        }
        let step_s = start.elapsed().as_secs_f64() / self.generate as f64;
        let expert_bytes = (brought(&self.engine) - before) as f64 / self.generate as f64;
        for id in ids {
            self.engine.cancel(id);
        }
        Ok(Decoded { step_s, depth, expert_bytes })
    }

    /// Adds the last `batch` prompts.
    fn start(&mut self, batch: usize, max_tokens: usize) -> Result<Vec<SequenceId>, Failure> {
        let (made, vocabulary) = (self.prompts - batch, self.engine.model().vocabulary());
        let request = |sequence: usize| {
            let prompt = prompt(vocabulary, made + sequence, self.prompt);
            Request { prompt, max_tokens, ..Request::default() }
        };
        let ids: Result<Vec<_>, _> = (0..batch).map(|i| self.engine.add(request(i))).collect();
        Ok(ids?)
    }

    /// One step; says how many sequences have a new token.
    fn step(&mut self) -> Result<usize, Failure> {
        if self.interrupt.pressed() {
            return Err(Failure::Interrupted);
        }
        let events = self.engine.step()?;
        let tokens = events.iter().filter(|event| matches!(event, Event::Token { .. })).count();
        let failed = events.into_iter().find_map(|event| match event {
            Event::Failed { error, .. } => Some(error),
            _ => None,
        });
        match failed {
            Some(error) => Err(EngineError::into(error)),
            None => Ok(tokens),
        }
    }
}

/// So many tokens that nobody chose: another prompt for each number.
pub fn prompt(vocabulary: usize, number: usize, tokens: usize) -> Vec<u32> {
    let vocabulary = vocabulary.max(1) as u64;
    let token = |i: u64| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % vocabulary) as u32;
    let first = (number * tokens) as u64;
    (first..first + tokens as u64).map(token).collect()
}

impl Row {
    /// The row as programs read it.
    pub fn to_json(&self, prompt: usize, generate: usize) -> Value {
        json!({
            "threads": self.threads,
            "batch": self.batch,
            "prompt": prompt,
            "generate": generate,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
            "prefill_floor_fraction": self.prefill_floor_fraction,
            "decode_floor_fraction": self.decode_floor_fraction,
            "read_bytes_per_s": self.bandwidth,
            "int8_ops_per_s": self.int8_peak,
            "f32_ops_per_s": self.f32_peak,
            "disk_bytes_per_s": self.disk,
            "disk_bytes_per_step": self.disk_bytes_per_step,
            "foreign_load": self.foreign,
            "samples": self.samples,
            "rejected_samples": self.rejected,
        })
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
