//! The request scheduler: which tokens of which sequences the next step computes. Pure: no clock, no thread, no model.
//!
//! One idea carries it: a sequence has tokens that are known and a first part of them that is computed, and every step lets
//! the second catch up with the first. A prompt computed in chunks, a decode step of one token, a prefix found in the cache and
//! the recomputation of a sequence that lost its pages are the same thing.
//!
//! - A step first serves the sequences that lack one token, then prompts, with what is left of its budget of tokens.
//! - Who starts next is decided between flows ([`Flows`](crate::flows)), within a flow by arrival. One starts when there are
//!   pages for all its tokens, beside those that others will soon need; until then nobody passes it.
//! - When a running sequence needs a page and none is free, the one that arrived last gives its pages back and waits again,
//!   first in its flow. So the oldest sequence always goes on, and everything ends.
//! - Its pages may go to a tier below the cache ([`Limits::swap_pages`]), from which they come back when it starts again, where that
//!   costs less than to compute their tokens again ([`SwapCosts`]). The tier is another set of [`Pages`]: equal ones are there once.
//! - Beams of one search wait for one another: one that has its logits has nothing to compute until the next step of the search
//!   ([`branch`](Scheduler::branch)). Such a one gives its pages back before any other, and does not come back before the search
//!   goes on; so beams need no pages at once, and no search can hold up another.
//! - A sequence may have a *draft*: tokens that are guessed to follow. Where a step has room left they are computed behind the
//!   known ones; those that are then chosen are computed already, the others are as if they had never been.

use crate::EngineError;
use crate::adapters::AdapterId;
use crate::flows::{Flow, Flows};
use crate::forward::{Batch, Forward, PAGE};
use crate::pages::{PageCopy, PageTable, PageUse, Pages};
use crate::swap::SwapCosts;

/// The number of a sequence, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

impl SequenceId {
    /// The sequence of a request that has `index` before it.
    pub fn sample(self, index: usize) -> SequenceId {
        SequenceId(self.0 + index as u64)
    }
}

/// What bounds a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most tokens in one step.
    pub max_tokens: usize,
    /// The most sequences in one step.
    pub max_sequences: usize,
    /// The most rows of logits in one step.
    pub max_rows: usize,
    /// The longest sequence.
    pub context: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Pages of the tier below it.
    pub swap_pages: usize,
}

impl Limits {
    /// The limits of a model.
    pub fn of(model: &impl Forward) -> Limits {
        Limits {
            max_tokens: model.max_tokens().max(1),
            max_sequences: model.max_sequences().max(1),
            max_rows: model.max_rows(),
            context: model.context(),
            pages: model.pages(),
            swap_pages: model.swap_pages(),
        }
    }
}

/// What is asked of the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The tokens to begin with.
    pub prompt: Vec<u32>,
    /// The most tokens of each sequence, with the prompt's.
    pub longest: usize,
    /// How many sequences go on from the prompt, at least one; they share its pages.
    pub samples: usize,
    /// Whether the logits of all tokens are wanted, not of the last one only.
    pub scored: bool,
    /// What it adds to the model.
    pub adapter: AdapterId,
    /// Whose it is.
    pub flow: Flow,
}

/// A sequence that is waiting or running; its samples are one until its prompt is computed.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) flow: Flow,
    adapter: AdapterId,
    samples: usize,
    pub(crate) known: Vec<u32>,
    longest: usize,
    computed: usize,
    /// The tokens that the flow was charged for, or found in the cache.
    charged: usize,
    /// Logits are wanted from this token on.
    rows_from: usize,
    /// What may follow the known tokens.
    draft: Vec<u32>,
    table: PageTable,
    /// Where its first `stored_tokens` tokens are in the tier below.
    stored: PageTable,
    stored_tokens: usize,
}

impl Sequence {
    fn missing(&self) -> usize {
        self.known.len() - self.computed
    }

    /// Another sequence with the same tokens, which has no pages yet.
    fn twin(&self, id: SequenceId) -> Sequence {
        Sequence {
            id,
            samples: 1,
            known: self.known.clone(),
            computed: 0,
            draft: Vec::new(),
            table: PageTable::new(self.adapter.serial),
            stored: PageTable::new(self.adapter.serial),
            stored_tokens: 0,
            ..*self
        }
    }

    /// Positions that it needs to compute what is known and to choose another token.
    fn room(&self) -> usize {
        (self.known.len() + 1).min(self.longest)
    }

    /// Of its samples, those that will need another page beyond its table's.
    fn grows(&self) -> usize {
        if self.longest > self.table.pages().len() * PAGE { self.samples } else { 0 }
    }
}

/// Whom a row of a step's logits is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub sequence: SequenceId,
    /// So many sequences from this one on are at the same place.
    pub samples: usize,
    /// The place of the token that the row follows. It stands if that token is computed: one of a draft that was not chosen
    /// is not.
    pub position: usize,
}

/// A draft in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drafted {
    /// The sequence.
    pub(crate) sequence: SequenceId,
    /// Where in the batch its first token is.
    pub(crate) first: usize,
    /// Its tokens.
    pub(crate) count: usize,
}

/// What the next step does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pages to copy to the tier below, before anything else.
    pub out: Vec<PageCopy>,
    /// Pages to copy then.
    pub copies: Vec<PageCopy>,
    /// Pages to copy from the tier below.
    pub back: Vec<PageCopy>,
    /// What to compute.
    pub batch: Batch,
    /// Whom each of the batch's rows of logits is for.
    pub rows: Vec<Row>,
    /// The jobs that run for the first time, and how many tokens of theirs were found in the cache.
    pub started: Vec<(SequenceId, usize)>,
    /// The drafts in the batch.
    pub(crate) drafts: Vec<Drafted>,
    /// For each sequence of the batch, how many of its known tokens are computed after the step.
    computed: Vec<(SequenceId, usize)>,
}

/// What the scheduler has in hand, and what it has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that hold pages.
    pub running: usize,
    /// Sequences that wait for them.
    pub waiting: usize,
    /// The cache.
    pub pages: PageUse,
    /// Steps planned.
    pub steps: u64,
    /// Tokens computed.
    pub computed_tokens: u64,
    /// Tokens of prompts that were looked up in the cache.
    pub prefix_tokens: u64,
    /// Of these, those that were found.
    pub prefix_hits: u64,
    /// How often a sequence lost its pages.
    pub preemptions: u64,
    /// The tier below the cache.
    pub swap: PageUse,
    /// Pages that were copied there.
    pub swapped_out: u64,
    /// Pages that were copied back.
    pub swapped_in: u64,
    /// Bytes of a page there.
    pub swap_page_bytes: u64,
    /// Tokens of drafts that were computed.
    pub drafted_tokens: u64,
    /// Of these, those that were chosen.
    pub accepted_tokens: u64,
}

/// Sequences that wait and run, and the pages they hold. Only a running one holds pages.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    /// The tier below the cache.
    below: Pages,
    costs: SwapCosts,
    /// Pages to copy there, with the next step.
    out: Vec<PageCopy>,
    waiting: Flows,
    /// In the order of arrival.
    running: Vec<Sequence>,
    /// Beams that lost their pages when they had nothing to compute.
    resting: Vec<Sequence>,
    next: u64,
    done: Load,
}

/// What a step still has room for.
struct Budget {
    tokens: usize,
    /// Rows beyond the one that each running sequence may always have.
    rows: usize,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: Limits) -> Scheduler {
        Scheduler {
            limits,
            pages: Pages::new(limits.pages),
            below: Pages::new(limits.swap_pages),
            costs: SwapCosts::default(),
            out: Vec::new(),
            waiting: Flows::default(),
            running: Vec::new(),
            resting: Vec::new(),
            next: 0,
            done: Load::default(),
        }
    }

    /// The most tokens of one sequence: the context, or as many as all pages hold.
    pub fn longest(&self) -> usize {
        self.limits.context.min(self.limits.pages * PAGE)
    }

    /// Says what swapping and computing cost now.
    pub fn set_costs(&mut self, costs: SwapCosts) {
        self.costs = costs;
    }

    /// A new job; its sequences are this one and those that follow it.
    pub fn add(&mut self, job: Job) -> Result<SequenceId, EngineError> {
        let (tokens, context) = (job.prompt.len(), self.limits.context);
        if tokens == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        let needed = tokens + usize::from(job.longest > tokens);
        if needed > context {
            return Err(EngineError::PromptTooLong { tokens, context });
        }
        if needed > self.longest() {
            return Err(EngineError::OutOfPages { needed: needed.div_ceil(PAGE), pages: self.limits.pages });
        }
        let id = SequenceId(self.next);
        let samples = job.samples.max(1);
        self.next += samples as u64;
        let running = self.running.iter().map(|s| s.flow);
        self.waiting.enter(job.flow, running);
        self.waiting.push(Sequence {
            id,
            flow: job.flow,
            adapter: job.adapter,
            samples,
            known: job.prompt,
            longest: job.longest.min(self.longest()).max(tokens),
            computed: 0,
            charged: 0,
            rows_from: if job.scored { 0 } else { usize::MAX },
            draft: Vec::new(),
            table: PageTable::new(job.adapter.serial),
            stored: PageTable::new(job.adapter.serial),
            stored_tokens: 0,
        });
        Ok(id)
    }

    /// The tokens of a sequence so far.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        let of = |s: &Sequence| id >= s.id && id < s.id.sample(s.samples);
        let all = self.running.iter().chain(self.waiting.iter()).chain(&self.resting);
        all.into_iter().find(|s| of(s)).map(|s| s.known.as_slice())
    }

    /// How many tokens of a sequence are computed.
    pub fn computed(&self, id: SequenceId) -> usize {
        self.running.iter().find(|s| s.id == id).map_or(0, |s| s.computed)
    }

    /// Says what a draft that was planned has become.
    pub(crate) fn redraft(&mut self, id: SequenceId, draft: impl Iterator<Item = u32>) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) {
            sequence.draft = draft.collect();
        }
    }

    /// Says what may follow a sequence's tokens, for the next step only.
    pub fn propose(&mut self, id: SequenceId, draft: Vec<u32>) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id && s.samples == 1) {
            sequence.draft = draft;
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.resting.is_empty()
    }

    /// What is in hand and what was done.
    pub fn load(&self) -> Load {
        let sequences = |all: &mut dyn Iterator<Item = &Sequence>| all.map(|s| s.samples).sum();
        Load {
            running: sequences(&mut self.running.iter()),
            waiting: sequences(&mut self.waiting.iter().chain(&self.resting)),
            pages: self.pages.usage(),
            swap: self.below.usage(),
            ..self.done
        }
    }

    /// Chooses what the next step computes; empty when there is nothing to do.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut budget = Budget {
            tokens: self.limits.max_tokens,
            rows: self.limits.max_rows.saturating_sub(self.most_running()),
        };
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].missing() != 1 || self.catch_up(index, &mut budget, &mut plan) {
                index += 1;
            } else {
                // What goes is behind those that are in the plan, which arrived earlier, or has nothing to compute. It may be
                // this one.
                preempted = true;
                index -= usize::from(self.preempt().is_some_and(|gone| gone < index));
            }
        }
        for index in 0..self.running.len() {
            if self.running[index].missing() > 1 && !self.catch_up(index, &mut budget, &mut plan) {
                break;
            }
        }
        // One that just lost its pages would take them back at once.
        while !preempted && budget.tokens > 0 {
            let Some((sequence, cached)) = self.start(&mut plan.back) else { break };
            plan.started.extend(cached.map(|cached| (sequence.id, cached)));
            let index = self.running.partition_point(|s| s.id < sequence.id);
            self.running.insert(index, sequence);
            self.catch_up(index, &mut budget, &mut plan);
        }
        // Beams that wait for others of theirs hold the pages, or the places, that these need.
        if plan.computed.is_empty() && !self.running.is_empty() && self.preempt().is_some() {
            return self.plan();
        }
        plan.out = std::mem::take(&mut self.out);
        self.done.steps += u64::from(!plan.computed.is_empty());
        plan
    }

    /// Plans as many of a running sequence's missing tokens as there is room for. Says whether there were pages for them.
    fn catch_up(&mut self, index: usize, budget: &mut Budget, plan: &mut Plan) -> bool {
        // Those behind it have a token each before it has a draft.
        let behind = self.running.len() - index - 1;
        let sequence = &mut self.running[index];
        let scored = sequence.rows_from < sequence.known.len();
        let most = if scored { budget.tokens.min(budget.rows + 1) } else { budget.tokens };
        let end = sequence.known.len().min(sequence.computed + most);
        if end == sequence.computed {
            return true;
        }
        // A step that chooses tokens has a place for each, too.
        let known = sequence.known.len();
        let after = budget.tokens - (end - sequence.computed);
        let guessed = match end == known && !scored {
            true => {
                after.saturating_sub(behind).min(budget.rows).min(sequence.longest.saturating_sub(known + 1))
            }
            false => 0,
        };
        sequence.draft.truncate(guessed);
        let room =
            if end == known { (sequence.room() + sequence.draft.len()).min(sequence.longest) } else { end };
        let mut reserved = self.pages.reserve(&mut sequence.table, sequence.computed, room);
        if reserved.is_err() && !sequence.draft.is_empty() {
            sequence.draft.clear();
            let room = sequence.room();
            reserved = self.pages.reserve(&mut sequence.table, sequence.computed, room);
        }
        let Ok(copies) = reserved else { return false };
        plan.copies.extend(copies);
        budget.tokens -= end + sequence.draft.len() - sequence.computed;
        self.done.drafted_tokens += sequence.draft.len() as u64;
        let rows = plan.rows.len();
        plan.push(sequence, end);
        budget.rows -= (plan.rows.len() - rows).saturating_sub(1);
        true
    }

    /// Takes the next waiting sequence, with pages for all its tokens, if there is room for it, and has those brought `back` that
    /// went to the tier below. Says, where it runs for the first time, how many of its tokens were found in the cache.
    fn start(&mut self, back: &mut Vec<PageCopy>) -> Option<(Sequence, Option<usize>)> {
        let started: usize = self.running.iter().map(|s| s.samples).sum();
        let samples = self.waiting.first()?.samples.min(self.most_running());
        if started + samples > self.most_running() {
            return None;
        }
        let mut sequence = self.waiting.pop()?;
        let tokens = sequence.known.len();
        // The last token is computed in any case: its logits are wanted.
        let known = tokens.saturating_sub(1).min(sequence.rows_from);
        let found = self.pages.adopt(&mut sequence.table, &sequence.known[..known]);
        let room = sequence.room();
        // A page for each sequence that will need one keeps the next steps from taking all back.
        let others: usize = self.running.iter().map(Sequence::grows).sum();
        let others = if started > 0 { others + samples - 1 } else { 0 };
        let missing = room.div_ceil(PAGE) - found / PAGE;
        let fits = missing + others <= self.pages.free();
        if !fits || self.pages.reserve(&mut sequence.table, found, room).is_err() {
            self.pages.release(&mut sequence.table);
            self.waiting.push(sequence);
            return None;
        }
        let first = sequence.charged == 0;
        if first {
            self.done.prefix_tokens += tokens as u64;
            self.done.prefix_hits += found as u64;
        }
        // What the cache still has need not come back.
        let stored = sequence.stored_tokens.min(known);
        if stored > found {
            let pages = sequence.stored.pages().iter().zip(sequence.table.pages());
            let copies = pages.take(stored.div_ceil(PAGE)).skip(found / PAGE);
            let before = back.len();
            back.extend(copies.map(|(&from, &to)| PageCopy { from, to }));
            self.done.swapped_in += (back.len() - before) as u64;
        }
        self.discard(&mut sequence);
        sequence.computed = stored.max(found);
        sequence.charged = sequence.charged.max(sequence.computed);
        Some((sequence, first.then_some(found)))
    }

    /// Records that a plan's step has been computed: what is full is published, and samples part ways.
    pub fn done(&mut self, plan: &Plan) {
        for &(id, end) in &plan.computed {
            let Some(index) = self.running.iter().position(|s| s.id == id) else { continue };
            let sequence = &mut self.running[index];
            self.done.computed_tokens += (end - sequence.computed) as u64;
            sequence.computed = end;
            if sequence.rows_from < end {
                sequence.rows_from = end;
            }
            self.waiting.charge(sequence.flow, end.saturating_sub(sequence.charged));
            sequence.charged = sequence.charged.max(end);
            self.pages.publish(&mut sequence.table, &sequence.known[..end]);
            if end == sequence.known.len() {
                self.part(index);
            }
        }
    }

    /// Makes the samples of a running sequence sequences of their own, which share what is computed. Those for which there is
    /// no room wait, and find what they share in the cache.
    fn part(&mut self, index: usize) {
        let samples = std::mem::replace(&mut self.running[index].samples, 1);
        for sample in 1..samples {
            let first = &self.running[index];
            let twin = first.twin(first.id.sample(sample));
            let (computed, shared) = (first.computed, self.pages.fork(&first.table, first.computed));
            self.join(twin, computed, shared);
        }
    }

    /// A sequence runs whose first `computed` tokens are on these pages, or waits without them if there is no room for it.
    fn join(&mut self, mut sequence: Sequence, computed: usize, mut pages: PageTable) {
        if self.running.len() < self.most_running() {
            (sequence.computed, sequence.table) = (computed, pages);
            let index = self.running.partition_point(|s| s.id < sequence.id);
            self.running.insert(index, sequence);
        } else {
            self.pages.release(&mut pages);
            self.waiting.push(sequence);
        }
    }

    /// Lets the beams of a search go on, which are the `beams` sequences from `first` on and have nothing left to compute: the
    /// sequence of number `n` becomes the one that `next[n]` names, with one token more, and shares its pages. Those beyond are
    /// over.
    pub fn branch(&mut self, first: SequenceId, beams: usize, next: &[(usize, u32)]) {
        let of = |s: &Sequence| (first..first.sample(beams)).contains(&s.id);
        let mut parents: Vec<Sequence> = self.running.extract_if(.., |s| of(s)).collect();
        parents.extend(self.resting.extract_if(.., |s| of(s)));
        parents.extend((0..beams).filter_map(|beam| self.waiting.remove(first.sample(beam))));
        for (beam, (parent, token)) in next.iter().enumerate() {
            let Some(parent) = parents.iter().find(|s| s.id == first.sample(*parent)) else { continue };
            let mut child = parent.twin(first.sample(beam));
            child.known.push(*token);
            if parent.computed > 0 {
                let (computed, shared) = (parent.computed, self.pages.fork(&parent.table, parent.computed));
                self.join(child, computed, shared);
            } else {
                child.stored = self.below.fork(&parent.stored, parent.stored_tokens);
                child.stored_tokens = parent.stored_tokens;
                self.waiting.push(child);
            }
        }
        for mut parent in parents {
            self.discard(&mut parent);
            self.pages.release(&mut parent.table);
        }
    }

    /// Adds the token that was chosen for a sequence. If the step's draft has it in this place it is computed.
    pub fn push(&mut self, id: SequenceId, token: u32) {
        let running = self.running.iter_mut().find(|s| s.id == id);
        if let Some(sequence) = running.or_else(|| self.waiting.iter_mut().find(|s| s.id == id)) {
            sequence.known.push(token);
            if sequence.draft.first() == Some(&token) {
                sequence.draft.remove(0);
                sequence.computed += 1;
                self.done.computed_tokens += 1;
                self.done.accepted_tokens += 1;
            } else {
                sequence.draft.clear();
            }
        }
    }

    /// Ends a sequence, or a job whose samples have not parted yet. Says whether it was there.
    pub fn remove(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|s| s.id == id) {
            self.pages.release(&mut self.running.remove(index).table);
            return true;
        }
        let resting = self.resting.iter().position(|s| s.id == id).map(|index| self.resting.remove(index));
        let gone = self.waiting.remove(id).or(resting);
        gone.map(|mut sequence| self.discard(&mut sequence)).is_some()
    }

    /// Takes the pages of every sequence back and forgets what they hold, for a step that failed: what the cache holds is then
    /// unknown.
    pub fn preempt_all(&mut self) {
        let costs = std::mem::take(&mut self.costs);
        while self.preempt().is_some() {}
        self.costs = costs;
        self.pages.forget();
        for sequence in self.waiting.iter_mut().chain(&mut self.resting) {
            self.below.release(&mut sequence.stored);
            sequence.stored_tokens = 0;
        }
        self.below.forget();
        self.out.clear();
    }

    /// Has the pages of a sequence copied to the tier below, if there is room and that pays.
    fn store(&mut self, sequence: &mut Sequence) {
        let (tokens, pages) = (sequence.computed, sequence.computed.div_ceil(PAGE));
        let known = &sequence.known[..tokens];
        let found = self.below.adopt(&mut sequence.stored, known);
        let pays = self.costs.pays(pages - found / PAGE, pages, tokens);
        if !pays || self.below.reserve(&mut sequence.stored, found, tokens).is_err() {
            return self.discard(sequence);
        }
        let copies = sequence.table.pages().iter().zip(sequence.stored.pages()).skip(found / PAGE);
        let before = self.out.len();
        self.out.extend(copies.map(|(&from, &to)| PageCopy { from, to }));
        self.done.swapped_out += (self.out.len() - before) as u64;
        self.below.publish(&mut sequence.stored, known);
        sequence.stored_tokens = tokens;
    }

    /// Gives back what a sequence has in the tier below.
    fn discard(&mut self, sequence: &mut Sequence) {
        self.below.release(&mut sequence.stored);
        sequence.stored_tokens = 0;
    }

    /// Takes the pages of a running sequence back: of one that has nothing to compute, or else of the last one. Says which it was.
    fn preempt(&mut self) -> Option<usize> {
        let settled = self.running.iter().rposition(|s| s.missing() == 0);
        let index = settled.or(self.running.len().checked_sub(1))?;
        let mut sequence = self.running.remove(index);
        self.done.preemptions += 1;
        self.store(&mut sequence);
        self.pages.release(&mut sequence.table);
        sequence.computed = 0;
        sequence.draft.clear();
        match settled {
            Some(_) => self.resting.push(sequence),
            None => self.waiting.push(sequence),
        }
        Some(index)
    }

    /// A step has room for a token of each running sequence.
    fn most_running(&self) -> usize {
        self.limits.max_sequences.min(self.limits.max_tokens).min(self.limits.max_rows.max(1))
    }
}

impl Plan {
    /// Adds the tokens of `sequence` up to `end`, and its draft.
    fn push(&mut self, sequence: &Sequence, end: usize) {
        let tokens = [&sequence.known[sequence.computed..end], &sequence.draft].concat();
        let first =
            self.batch.push(&tokens, sequence.computed, sequence.table.pages(), sequence.adapter.place);
        let count = sequence.draft.len();
        if count > 0 {
            let first = first as usize + end - sequence.computed;
            self.drafts.push(Drafted { sequence: sequence.id, first, count });
        }
        let last = end.min(sequence.known.len() - 1);
        for position in sequence.rows_from.max(sequence.computed).min(last)..end + sequence.draft.len() {
            self.batch.rows.push(first + (position - sequence.computed) as u32);
            let samples = if position == last { sequence.samples } else { 1 };
            self.rows.push(Row { sequence: sequence.id, samples, position });
        }
        self.computed.push((sequence.id, end));
    }
}

#[cfg(test)]
mod tests;
