//! The request scheduler: which tokens of which sequences the next step computes. Pure: no clock, no thread, no model.
//!
//! One idea carries it: a sequence has tokens that are known and a first part of them that is computed, and every step lets
//! the second catch up with the first. A prompt computed in chunks, a decode step of one token, and the recomputation
//! of a sequence that lost its pages are the same thing.
//!
//! Sequences are served in the order of arrival. A waiting one starts when there are pages for all its tokens; when a
//! running one needs a page and none is free, the latest running one gives its pages back and waits again, at the front.

use std::collections::VecDeque;

use crate::EngineError;
use crate::forward::{Batch, Forward, PAGE};
use crate::pages::{PageCopy, PageTable, Pages};

/// The number of a sequence, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// What bounds a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most tokens in one step.
    pub max_tokens: usize,
    /// The most sequences in one step.
    pub max_sequences: usize,
    /// The longest sequence.
    pub context: usize,
    /// Pages of the cache.
    pub pages: usize,
}

impl Limits {
    /// The limits of a model.
    pub fn of(model: &impl Forward) -> Limits {
        Limits {
            max_tokens: model.max_tokens().max(1),
            max_sequences: model.max_sequences().max(1),
            context: model.context(),
            pages: model.pages(),
        }
    }
}

/// A sequence that is waiting or running.
#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    known: Vec<u32>,
    computed: usize,
    table: PageTable,
}

/// What the next step does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pages to copy first.
    pub copies: Vec<PageCopy>,
    /// What to compute.
    pub batch: Batch,
    /// Whose next token each of the batch's rows of logits chooses.
    pub sampled: Vec<SequenceId>,
    /// For each sequence of the batch, how many of its tokens are computed after the step.
    computed: Vec<(SequenceId, usize)>,
}

/// Sequences that wait and run, and the pages they hold. Only a running one holds pages.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    waiting: VecDeque<Sequence>,
    /// In the order they started.
    running: Vec<Sequence>,
    next: u64,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: Limits) -> Scheduler {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Scheduler { limits, pages: Pages::new(limits.pages), waiting, running, next: 0 }
    }

    /// The most tokens of one sequence: the context, or as many as all pages hold.
    pub fn longest(&self) -> usize {
        self.limits.context.min(self.limits.pages * PAGE)
    }

    /// A new sequence that begins with these tokens.
    pub fn add(&mut self, prompt: Vec<u32>) -> Result<SequenceId, EngineError> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() >= self.limits.context {
            return Err(EngineError::PromptTooLong { tokens: prompt.len(), context: self.limits.context });
        }
        if prompt.len() >= self.longest() {
            let needed = (prompt.len() + 1).div_ceil(PAGE);
            return Err(EngineError::OutOfPages { needed, pages: self.limits.pages });
        }
        let id = self.number();
        self.waiting.push_back(Sequence { id, known: prompt, computed: 0, table: PageTable::default() });
        Ok(id)
    }

    /// A new sequence that goes on from where `id` is, and shares the pages of what is computed. `None` where there is no
    /// such sequence.
    pub fn fork(&mut self, id: SequenceId) -> Option<SequenceId> {
        let known = self.tokens(id)?.to_vec();
        let room = self.running.len() < self.most_running();
        let twin = self.number();
        match self.running.iter().find(|s| s.id == id).filter(|_| room) {
            Some(sequence) => {
                let table = self.pages.fork(&sequence.table);
                let computed = sequence.computed;
                self.running.push(Sequence { id: twin, known, computed, table });
            }
            None => {
                self.waiting.push_back(Sequence { id: twin, known, computed: 0, table: PageTable::default() })
            }
        }
        Some(twin)
    }

    /// The tokens of a sequence so far.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        let all = self.running.iter().chain(&self.waiting);
        all.into_iter().find(|s| s.id == id).map(|s| s.known.as_slice())
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences that hold pages, and those that wait for them.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// The pages, for work beside the sequences.
    pub(crate) fn pages(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// Chooses what the next step computes; empty when there is nothing to do.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut budget = self.limits.max_tokens;
        let mut preempted = false;
        let mut next = 0;
        while next < self.running.len() && budget > 0 {
            let sequence = &mut self.running[next];
            let end = sequence.known.len().min(sequence.computed + budget);
            match self.pages.reserve(&mut sequence.table, sequence.computed, end) {
                Ok(copies) => {
                    plan.copies.extend(copies);
                    budget -= end - sequence.computed;
                    plan.push(sequence, end);
                    next += 1;
                }
                Err(_) => {
                    preempted = true;
                    self.preempt_last();
                }
            }
        }
        // One that just lost its pages would take them back at once.
        while !preempted && budget > 0 && self.running.len() < self.most_running() {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            let room = (sequence.known.len() + 1).min(self.longest());
            if self.pages.free() < room.div_ceil(PAGE)
                || self.pages.reserve(&mut sequence.table, 0, sequence.known.len()).is_err()
            {
                self.waiting.push_front(sequence);
                break;
            }
            let end = sequence.known.len().min(budget);
            budget -= end;
            plan.push(&sequence, end);
            self.running.push(sequence);
        }
        plan
    }

    /// Records that a plan's step has been computed.
    pub fn done(&mut self, plan: &Plan) {
        for &(id, computed) in &plan.computed {
            if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) {
                sequence.computed = computed;
            }
        }
    }

    /// Adds the token that was chosen for a sequence.
    pub fn push(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) {
            sequence.known.push(token);
        }
    }

    /// Ends a sequence. Says whether it was there.
    pub fn remove(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|s| s.id == id) {
            self.pages.release(&mut self.running.remove(index).table);
            return true;
        }
        let waiting = self.waiting.len();
        self.waiting.retain(|s| s.id != id);
        self.waiting.len() < waiting
    }

    /// Takes the pages of every sequence back, for a step that failed: what the cache holds is then unknown.
    pub fn preempt_all(&mut self) {
        while !self.running.is_empty() {
            self.preempt_last();
        }
    }

    fn preempt_last(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.pages.release(&mut sequence.table);
            sequence.computed = 0;
            self.waiting.push_front(sequence);
        }
    }

    /// A step has room for a token of each running sequence.
    fn most_running(&self) -> usize {
        self.limits.max_sequences.min(self.limits.max_tokens)
    }

    fn number(&mut self) -> SequenceId {
        self.next += 1;
        SequenceId(self.next - 1)
    }
}

impl Plan {
    /// Adds the tokens of `sequence` up to `end`.
    fn push(&mut self, sequence: &Sequence, end: usize) {
        let tokens = &sequence.known[sequence.computed..end];
        let first = self.batch.push(tokens, sequence.computed, sequence.table.pages());
        if end == sequence.known.len() {
            self.batch.rows.push(first + (tokens.len() - 1) as u32);
            self.sampled.push(sequence.id);
        }
        self.computed.push((sequence.id, end));
    }
}

#[cfg(test)]
mod tests;
