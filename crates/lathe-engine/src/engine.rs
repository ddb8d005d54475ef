//! The engine: sequences over one compiled model, a step at a time.

use std::collections::BTreeMap;

use crate::EngineError;
use crate::forward::{Batch, Forward};
use crate::pages::PageTable;
use crate::sampling::{Sampler, Sampling};
use crate::scheduler::{Limits, Scheduler, SequenceId};
use crate::score::{Score, log_likelihood};

/// A text to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// The most tokens of the answer; at least one is made.
    pub max_tokens: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// The most tokens, or the end of the context, were reached.
    Length,
    /// The user did not want more.
    Cancelled,
}

impl FinishReason {
    /// Its name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// What a step did for one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has one more token; with a reason, its last.
    Token {
        /// The sequence.
        sequence: SequenceId,
        /// The token.
        token: u32,
        /// Why the sequence is over, if it is.
        finish: Option<FinishReason>,
    },
    /// No token could be chosen, and the sequence is over.
    Failed {
        /// The sequence.
        sequence: SequenceId,
        /// Why.
        error: EngineError,
    },
}

/// Tokens of one step when a text is scored: bounds the memory of their logits.
pub const SCORE_TOKENS: usize = 128;

/// Sequences over one model: requests join and leave between any two steps.
///
/// The tokens of a sequence depend on its prompt, sampling, seed and number only, never on what runs beside it (as far as the
/// model's own arithmetic is the same in every batch).
pub struct Engine<F> {
    model: F,
    scheduler: Scheduler,
    requests: BTreeMap<SequenceId, Active>,
    sampler: Sampler,
    logits: Vec<f32>,
}

/// What the engine remembers of a request; its tokens are the scheduler's.
#[derive(Clone)]
struct Active {
    sampling: Sampling,
    ends: Vec<u32>,
    /// The most tokens, with the prompt's.
    longest: usize,
}

impl<F: Forward> Engine<F> {
    /// An engine with nothing to do.
    pub fn new(model: F) -> Engine<F> {
        let scheduler = Scheduler::new(Limits::of(&model));
        Engine {
            model,
            scheduler,
            requests: BTreeMap::new(),
            sampler: Sampler::default(),
            logits: Vec::new(),
        }
    }

    /// The model.
    pub fn model(&self) -> &F {
        &self.model
    }

    /// Whether every sequence is over.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// A new sequence.
    pub fn add(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        request.sampling.check()?;
        self.check_tokens(&request.prompt)?;
        let longest = request.prompt.len().saturating_add(request.max_tokens).min(self.scheduler.longest());
        let id = self.scheduler.add(request.prompt)?;
        self.requests.insert(id, Active { sampling: request.sampling, ends: request.ends, longest });
        Ok(id)
    }

    /// A second sequence that goes on from where `id` is; `None` where that is over. Sampling differs by its number.
    pub fn fork(&mut self, id: SequenceId) -> Option<SequenceId> {
        let active = self.requests.get(&id)?.clone();
        let twin = self.scheduler.fork(id)?;
        self.requests.insert(twin, active);
        Some(twin)
    }

    /// The tokens of a sequence so far, its prompt first; `None` when it is over.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        self.scheduler.tokens(id)
    }

    /// Ends a sequence. Says whether it was there.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        self.requests.remove(&id);
        self.scheduler.remove(id)
    }

    /// Computes one step and says what came of it. After an error of the model every sequence is still there, and the next
    /// step tries again.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        let plan = self.scheduler.plan();
        if plan.batch.tokens.is_empty() {
            return Ok(Vec::new());
        }
        let copies = plan.copies.iter().try_for_each(|copy| self.model.copy_page(copy.from, copy.to));
        let computed = copies.and_then(|()| self.forward(&plan.batch));
        if let Err(error) = computed {
            self.scheduler.preempt_all();
            return Err(error);
        }
        self.scheduler.done(&plan);
        let vocabulary = self.model.vocabulary();
        let rows = std::mem::take(&mut self.logits);
        let events =
            plan.sampled.iter().zip(rows.chunks_exact(vocabulary)).map(|(&id, row)| self.choose(id, row));
        let events = events.collect();
        self.logits = rows;
        Ok(events)
    }

    /// Chooses the next token of a sequence.
    fn choose(&mut self, sequence: SequenceId, logits: &[f32]) -> Event {
        let known = self.scheduler.tokens(sequence).unwrap_or_default();
        let active = &self.requests[&sequence];
        let token = match self.sampler.sample(logits, known, &active.sampling, sequence.0) {
            Ok(token) => token,
            Err(error) => {
                self.cancel(sequence);
                return Event::Failed { sequence, error };
            }
        };
        let finish = if active.ends.contains(&token) {
            Some(FinishReason::Stop)
        } else {
            (known.len() + 1 >= active.longest).then_some(FinishReason::Length)
        };
        if finish.is_some() {
            self.cancel(sequence);
        } else {
            self.scheduler.push(sequence, token);
        }
        Event::Token { sequence, token, finish }
    }

    /// The likelihood of `ids` as one context, in which the first token is given. `goes_on` is asked before each step.
    pub fn score(&mut self, ids: &[u32], goes_on: &dyn Fn() -> bool) -> Result<Score, EngineError> {
        self.score_rows(ids, goes_on, &mut |_| {})
    }

    /// Like [`score`](Engine::score), and shows `seen` the logits of each scored token's distribution, in order.
    pub fn score_rows(
        &mut self,
        ids: &[u32],
        goes_on: &dyn Fn() -> bool,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Score, EngineError> {
        if ids.len() < 2 {
            return Err(EngineError::TooShortToScore { tokens: ids.len() });
        }
        self.check_tokens(ids)?;
        let context = self.model.context();
        if ids.len() > context {
            return Err(EngineError::PromptTooLong { tokens: ids.len(), context });
        }
        let mut table = PageTable::default();
        self.scheduler.pages().reserve(&mut table, 0, ids.len() - 1)?;
        let score = self.score_in(&table, ids, goes_on, seen);
        self.scheduler.pages().release(&mut table);
        score
    }

    fn score_in(
        &mut self,
        table: &PageTable,
        ids: &[u32],
        goes_on: &dyn Fn() -> bool,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Score, EngineError> {
        let mut score = Score::default();
        let chunk = self.model.max_tokens().clamp(1, SCORE_TOKENS);
        for (index, tokens) in ids[..ids.len() - 1].chunks(chunk).enumerate() {
            if !goes_on() {
                return Err(EngineError::Interrupted);
            }
            let start = index * chunk;
            let mut batch = Batch::default();
            batch.push(tokens, start, table.pages());
            batch.rows = (0..tokens.len() as u32).collect();
            self.forward(&batch)?;
            let rows = self.logits.chunks_exact(self.model.vocabulary());
            for (position, (row, &next)) in (start..).zip(rows.zip(&ids[start + 1..])) {
                let log_likelihood = log_likelihood(row, next);
                if log_likelihood.is_nan() {
                    return Err(EngineError::NanLogits { position });
                }
                seen(row);
                score += Score { log_likelihood, tokens: 1 };
            }
        }
        Ok(score)
    }

    /// Runs the model and checks that it gave as many logits as were asked for.
    fn forward(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.model.forward(batch, &mut self.logits)?;
        let (got, wanted) = (self.logits.len(), batch.rows.len() * self.model.vocabulary());
        match got == wanted {
            true => Ok(()),
            false => Err(EngineError::WrongLogits { got, wanted }),
        }
    }

    fn check_tokens(&self, ids: &[u32]) -> Result<(), EngineError> {
        let vocabulary = self.model.vocabulary();
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocabulary }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
