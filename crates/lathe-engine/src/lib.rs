//! The language-model engine: compile a model, page its cache, batch, sample and stream.
//!
//! - [`Runner`] compiles and loads a model; whatever runs one is a [`Forward`], which computes a [`Batch`] a step.
//! - [`Engine`] runs [`Request`]s over it: [`step`](Engine::step) by step for many at once, or one with
//!   [`generate`](Engine::generate); [`score`](Engine::score) says how well a model foresees a text.
//! - [`Grammars`] read a [`Grammar`] that an answer must keep to: a [`Constraint`] of a request.
//! - [`Engine::load_adapter`] puts a low-rank adapter beside the model while it runs; a request names it by its [`AdapterId`].
//! - [`Encoder`] embeds texts: one vector each, from a model that generates none.
//! - Below the engine, pure: the [`Scheduler`] chooses what a step computes, [`Pages`] says who holds which page of the
//!   cache and what is known of beginnings that were computed before, a [`Sampler`] chooses tokens as [`Sampling`] says, a [`TextStream`] makes text of them up to a stop string.
//! - [`work()`] and [`mixture`]: what a model's file asks of a machine, for `lathe-plan`; [`measure()`]: how long its steps take
//!   on this one; [`router_choices`]: which experts its router chooses; [`try_experts`]: what a plan of experts takes in real
//!   time; [`measure_expert`]: what one takes here.
//! - [`EngineError`].
//!
//! ```
//! use lathe_engine::*;
//!
//! /// Every token is followed by the next one.
//! struct Counting;
//!
//! impl Forward for Counting {
//!     fn vocabulary(&self) -> usize { 10 }
//!     fn context(&self) -> usize { 64 }
//!     fn pages(&self) -> usize { 8 }
//!     fn max_tokens(&self) -> usize { 4 }
//!     fn max_sequences(&self) -> usize { 2 }
//!     fn max_rows(&self) -> usize { 2 }
//!     fn copy_page(&mut self, _from: u32, _to: u32) -> Result<(), EngineError> { Ok(()) }
//!     fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError> {
//!         logits.clear();
//!         for &row in &batch.rows {
//!             let next = (batch.tokens[row as usize] + 1) % 10;
//!             logits.extend((0..10).map(|id| if id == next { 1.0 } else { 0.0 }));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let mut engine = Engine::new(Counting);
//! let first = engine.add(Request { prompt: vec![1, 2, 3], max_tokens: 3, ..Request::default() })?;
//! let second = engine.add(Request { prompt: vec![7], max_tokens: 9, ends: vec![9], ..Request::default() })?;
//! let mut answers = [vec![], vec![]];
//! while !engine.is_idle() {
//!     for event in engine.step()? {
//!         if let Event::Token { sequence, token, .. } = event {
//!             answers[usize::from(sequence == second)].push(token);
//!         }
//!     }
//! }
//! assert_eq!(answers, [vec![4, 5, 6], vec![8, 9]]);
//! # assert!(first < second);
//! # Ok::<(), EngineError>(())
//! ```

mod adapters;
mod artifact;
mod beam;
mod draft;
mod encoder;
mod engine;
mod error;
mod expert_latency;
mod experts;
mod features;
mod flows;
mod forward;
mod generate;
mod grammar;
mod huge_pages;
mod layers;
mod lower;
mod measure;
mod memory;
mod offload;
mod pages;
mod random;
mod report;
mod request;
mod runner;
mod sampling;
mod scheduler;
mod score;
mod sizes;
mod split;
mod stop;
mod store;
mod swap;
mod weights;
mod work;

pub use adapters::AdapterId;
pub use artifact::{
    Accept, ArtifactOptions, compile_model, compile_program, compiled_context, compiled_sequences,
    is_program, load_program,
};
pub use beam::{Beams, EarlyStopping};
pub use encoder::Encoder;
pub use engine::{Engine, SCORE_TOKENS};
pub use error::EngineError;
pub use expert_latency::measure_expert;
pub use experts::{ExpertTrial, ExpertTrials, try_experts};
pub use features::{feature_maxima, router_choices};
pub use flows::Flow;
pub use forward::{Batch, Forward, PAGE};
pub use generate::Generation;
pub use grammar::{Allowed, Constraint, Grammar, Grammars, json_spaces};
pub use lathe_compile::Made;
pub use lathe_exec::HeldCounts;
pub use layers::{Met, layer_by_layer};
pub use measure::measure;
pub use offload::{Budget, HostMemory};
pub use pages::{PageCopy, PageTable, PageUse, Pages};
pub use report::{Costs, Footprint, LoadTiming, Stage};
pub use request::{Event, FinishReason, Request};
pub use runner::{Precision, Runner, RunnerOptions, draft_model};
pub use sampling::{Sampler, Sampling};
pub use scheduler::{Job, Limits, Load, Plan, Row, Scheduler, SequenceId};
pub use score::{Divergence, Score, TokenScore, log_softmax};
pub use stop::TextStream;
pub use swap::SwapCosts;
pub use work::{mixture, work};
