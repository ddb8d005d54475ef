//! The engine: sequences over one compiled model, a step at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use lathe_models::Adapter;

use crate::EngineError;
use crate::adapters::{AdapterId, Places};
use crate::beam::{Beam, BeamSearch, Next};
use crate::draft::{Drafter, Guess, Known, lookup};
use crate::forward::Forward;
use crate::grammar::Constraint;
use crate::request::{Event, FinishReason, Request};
use crate::sampling::Sampler;
use crate::scheduler::{Job, Limits, Load, Plan, Row, Scheduler, SequenceId};
use crate::score::{Score, TokenScore};
use crate::swap::SwapCosts;

/// Rows of logits of one step when a text is scored: bounds their memory.
pub const SCORE_TOKENS: usize = 128;

/// Sequences over one model: requests join and leave between any two steps.
///
/// The tokens of a sequence depend on its request and its number in that only, never on what runs beside it (as far as the
/// model's own arithmetic is the same in every batch). With a draft model this holds for their distribution: which tokens are
/// guessed depends on the room that a step has.
pub struct Engine<F> {
    model: F,
    scheduler: Scheduler,
    requests: BTreeMap<SequenceId, Active>,
    /// By the first sequence of each.
    searches: BTreeMap<SequenceId, BeamSearch>,
    sampler: Sampler,
    logits: Vec<f32>,
    adapters: Places,
    drafter: Option<Drafter>,
    /// What was measured so far.
    costs: SwapCosts,
}

/// The most tokens of a draft that a grammar makes.
const FORCED: usize = 16;

/// What the engine remembers of a sequence; its tokens are the scheduler's.
struct Active {
    request: Arc<Request>,
    /// Its number among the samples.
    index: usize,
    /// The most tokens, with the prompt's.
    longest: usize,
    /// What may follow.
    constraint: Option<Constraint>,
    /// So many tokens are guessed next: more while the guesses are right.
    guesses: usize,
    /// The next step's draft is the smaller model's to make.
    asks: bool,
    /// What it guessed for this step's places.
    guessed: VecDeque<Guess>,
}

impl<F: Forward> Engine<F> {
    /// An engine with nothing to do.
    pub fn new(model: F) -> Engine<F> {
        let scheduler = Scheduler::new(Limits::of(&model));
        let adapters = Places::new(model.adapters());
        Engine {
            model,
            scheduler,
            requests: BTreeMap::new(),
            searches: BTreeMap::new(),
            sampler: Sampler::default(),
            logits: Vec::new(),
            adapters,
            drafter: None,
            costs: SwapCosts::default(),
        }
    }

    /// Lets a smaller model of the same vocabulary, pages and limits guess what follows, for requests that
    /// [speculate](Request::speculate). Refused where it has others.
    pub fn with_draft(self, draft: Box<dyn Forward + Send>) -> Result<Engine<F>, EngineError> {
        let (got, wanted) = (draft.vocabulary(), self.model.vocabulary());
        if got != wanted {
            return Err(EngineError::Draft { what: format!("has {got} tokens, the model {wanted}") });
        }
        let sizes = |m: &dyn Forward| [m.context(), m.pages(), m.max_tokens(), m.max_sequences()];
        if sizes(&*draft).iter().zip(sizes(&self.model)).any(|(draft, model)| *draft < model) {
            return Err(EngineError::Draft { what: "is loaded for less than the model".into() });
        }
        // Its cache has what the model's has, and is swapped with it.
        if draft.swap_pages() < self.model.swap_pages() {
            return Err(EngineError::Draft { what: "has no room for pages that are swapped".into() });
        }
        Ok(Engine { drafter: Some(Drafter::new(draft)), ..self })
    }

    /// The model.
    pub fn model(&self) -> &F {
        &self.model
    }

    /// The most tokens of one sequence.
    pub fn longest(&self) -> usize {
        self.scheduler.longest()
    }

    /// Whether every sequence is over.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// What is in hand and what was done.
    pub fn load(&self) -> Load {
        let draft = self.drafter.as_ref().map_or(0, |drafter| drafter.model.swap_page_bytes());
        let swap_page_bytes = (self.model.swap_page_bytes() + draft) as u64;
        Load { swap_page_bytes, ..self.scheduler.load() }
    }

    /// A new request. Its answers are this sequence and, of several samples, those that follow it
    /// ([`SequenceId::sample`]); of a search, those are the best answers, in order.
    pub fn add(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        request.sampling.check()?;
        if let Some(beams) = &request.beams {
            beams.check(request.samples)?;
        }
        if !self.adapters.has(request.adapter) {
            return Err(EngineError::AdapterGone);
        }
        self.check_tokens(&request.prompt)?;
        let tokens = request.prompt.len();
        let longest = tokens.saturating_add(request.max_tokens);
        let samples = request.sequences();
        let job = Job {
            prompt: request.prompt.clone(),
            longest,
            samples,
            scored: request.score_prompt,
            adapter: request.adapter,
            flow: request.flow,
        };
        let id = self.scheduler.add(job)?;
        let longest = longest.min(self.scheduler.longest());
        if let Some(beams) = request.beams {
            let constraint = request.constraint.clone();
            let search =
                BeamSearch::new(beams, &request.ends, longest - tokens, request.logprobs, constraint);
            self.searches.insert(id, search);
        }
        let request = Arc::new(request);
        for index in 0..samples {
            let (request, constraint) = (request.clone(), request.constraint.clone());
            let guesses = if request.beams.is_some() { 0 } else { request.speculate };
            let (asks, guessed) = (false, VecDeque::new());
            let active = Active { request, index, longest, constraint, guesses, asks, guessed };
            self.requests.insert(id.sample(index), active);
        }
        Ok(id)
    }

    /// Puts an adapter beside the model, for requests that name it.
    pub fn load_adapter(&mut self, adapter: &Adapter) -> Result<AdapterId, EngineError> {
        let requests = &self.requests;
        let used = |place| requests.values().any(|active| active.request.adapter.place == place);
        let id = self.adapters.take(used)?;
        let set = self.model.set_adapter(id.place, adapter);
        if set.is_err() {
            self.adapters.free(id);
        }
        set.map(|()| id)
    }

    /// Takes an adapter out: new requests cannot name it, those that do go on. Says whether it was there.
    pub fn unload_adapter(&mut self, id: AdapterId) -> bool {
        self.adapters.free(id)
    }

    /// The tokens of a sequence so far, its prompt first; `None` when it is over.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        self.requests.get(&id).and_then(|_| self.scheduler.tokens(id))
    }

    /// Ends a sequence. Says whether it was there. Before its first token, ending the first sequence of a request ends all; a
    /// search ends with any of its sequences.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let Some(active) = self.requests.remove(&id) else { return false };
        self.scheduler.remove(id);
        if active.request.beams.is_some() {
            let first = SequenceId(id.0 - active.index as u64);
            self.searches.remove(&first);
            for id in (0..active.request.sequences()).map(|index| first.sample(index)) {
                self.requests.remove(&id);
                self.scheduler.remove(id);
            }
        }
        true
    }

    /// Computes one step and says what came of it. After an error of the model every sequence is still there, and the next
    /// step tries again.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        self.step_seen(&mut |_| {})
    }

    /// Like [`step`](Self::step), and shows `seen` the rows of logits of the prompts' tokens.
    fn step_seen(&mut self, seen: &mut dyn FnMut(&[f32])) -> Result<Vec<Event>, EngineError> {
        self.scheduler.set_costs(self.costs);
        let mut plan = self.scheduler.plan();
        if plan.batch.tokens.is_empty() {
            return Ok(Vec::new());
        }
        let computed = self.copy(&plan).and_then(|()| self.fill(&mut plan)).and_then(|()| {
            let start = Instant::now();
            self.model.forward(&plan.batch, &mut self.logits)?;
            let (tokens, sequences) = (plan.batch.tokens.len(), plan.batch.pages.len());
            // A step of single tokens says little of how long a prompt takes.
            if tokens >= 8 * sequences {
                SwapCosts::see(&mut self.costs.token_s, start.elapsed(), tokens);
            }
            let (got, wanted) = (self.logits.len(), plan.rows.len() * self.model.vocabulary());
            if got == wanted { Ok(()) } else { Err(EngineError::WrongLogits { got, wanted }) }
        });
        if let Err(error) = computed {
            self.scheduler.preempt_all();
            return Err(error);
        }
        self.scheduler.done(&plan);
        let vocabulary = self.model.vocabulary();
        let logits = std::mem::take(&mut self.logits);
        let mut events = Vec::with_capacity(plan.started.len() + plan.rows.len());
        events.extend(plan.started.iter().map(|&(sequence, cached)| Event::Started { sequence, cached }));
        for (row, logits) in plan.rows.iter().zip(logits.chunks_exact(vocabulary)) {
            match self.prompt_token(row) {
                Some(next) => {
                    seen(logits);
                    events.push(self.score_row(row, next, logits));
                }
                None if row.position < self.scheduler.computed(row.sequence) => {
                    if let Some(first) = self.search_of(row.sequence) {
                        events.extend(self.search(first, row.sequence, logits));
                        continue;
                    }
                    let samples = (0..row.samples).map(|index| row.sequence.sample(index));
                    events.extend(samples.filter_map(|id| self.choose(id, logits)));
                }
                // It follows a guess that was wrong.
                None => {}
            }
        }
        self.logits = logits;
        self.guess(&plan.rows);
        Ok(events)
    }

    /// Moves pages of all models as a plan has it, and sees how long that takes.
    fn copy(&mut self, plan: &Plan) -> Result<(), EngineError> {
        let mut models: Vec<&mut dyn Forward> = vec![&mut self.model];
        models.extend(self.drafter.as_mut().map(|drafter| &mut *drafter.model as &mut dyn Forward));
        let start = Instant::now();
        if !plan.out.is_empty() {
            models.iter_mut().try_for_each(|model| model.swap_out(&plan.out))?;
            SwapCosts::see(&mut self.costs.write_s, start.elapsed(), plan.out.len());
        }
        for model in &mut models {
            plan.copies.iter().try_for_each(|copy| model.copy_page(copy.from, copy.to))?;
        }
        let start = Instant::now();
        if !plan.back.is_empty() {
            models.iter_mut().try_for_each(|model| model.swap_in(&plan.back))?;
            SwapCosts::see(&mut self.costs.read_s, start.elapsed(), plan.back.len());
        }
        Ok(())
    }

    /// The first sequence of a search that this one is of.
    fn search_of(&self, id: SequenceId) -> Option<SequenceId> {
        let active = self.requests.get(&id)?;
        active.request.beams.map(|_| SequenceId(id.0 - active.index as u64))
    }

    /// Takes the logits of a beam; if those of all beams are there the search goes on, and says what it found if it is over.
    fn search(&mut self, first: SequenceId, beam: SequenceId, logits: &[f32]) -> Vec<Event> {
        let Some((search, known)) = self.searches.get_mut(&first).zip(self.scheduler.tokens(beam)) else {
            return vec![];
        };
        let request = self.requests[&first].request.clone();
        let (prompt, index) = (request.prompt.len(), (beam.0 - first.0) as usize);
        let samples = (0..request.samples.max(1)).map(|index| first.sample(index));
        if known.len() == prompt && self.requests[&first].longest <= prompt {
            self.cancel(first);
            return samples.map(|sequence| Event::Full { sequence }).collect();
        }
        let whole = search.row(index, logits, known, prompt, &request.sampling);
        let next = match whole.and_then(|whole| whole.then(|| search.advance()).transpose()) {
            Ok(Some(next)) => next,
            Ok(None) => return vec![],
            Err(error) => {
                self.cancel(first);
                return vec![Event::Failed { sequence: first, error }];
            }
        };
        if let Next::Beams(next) = &next {
            self.scheduler.branch(first, request.sequences(), next);
            return vec![];
        }
        let search = self.searches.remove(&first);
        self.cancel(first);
        let mut answers = search.map_or_else(Vec::new, BeamSearch::into_answers).into_iter();
        let told = |sequence| match answers.next() {
            Some(answer) => found(sequence, answer),
            None => vec![Event::Full { sequence }],
        };
        samples.flat_map(told).collect()
    }

    /// Lets the smaller model compute what a plan does, and make the drafts that are its to make.
    fn fill(&mut self, plan: &mut Plan) -> Result<(), EngineError> {
        let Some(drafter) = &mut self.drafter else { return Ok(()) };
        self.requests.values_mut().for_each(|active| active.guessed.clear());
        let mut wanted = vec![];
        for draft in &plan.drafts {
            let active = self.requests.get(&draft.sequence).filter(|active| active.asks);
            let Some((active, tokens)) = active.zip(self.scheduler.tokens(draft.sequence)) else { continue };
            let (tokens, prompt) = (tokens.to_vec(), active.request.prompt.len());
            let (sampling, sample) = (&active.request.sampling, active.index as u64);
            wanted.push((*draft, Known { tokens, prompt, sampling, sample }));
        }
        let guesses = drafter.fill(plan, &mut wanted)?;
        let sequences: Vec<SequenceId> = wanted.iter().map(|(draft, _)| draft.sequence).collect();
        for (id, guesses) in sequences.into_iter().zip(guesses) {
            self.scheduler.redraft(id, guesses.iter().map(|guess| guess.token));
            if let Some(active) = self.requests.get_mut(&id) {
                active.guessed = guesses.into();
            }
        }
        Ok(())
    }

    /// Drafts what may follow the sequences that these rows were for.
    fn guess(&mut self, rows: &[Row]) {
        for rows in rows.chunk_by(|a, b| a.sequence == b.sequence) {
            for id in (0..rows[0].samples).map(|index| rows[0].sequence.sample(index)) {
                let Some(active) = self.requests.get_mut(&id) else { continue };
                let free = active.constraint.is_none() && active.request.speculate == 0;
                if free || active.request.beams.is_some() {
                    continue;
                }
                let (Some(tokens), computed) = (self.scheduler.tokens(id), self.scheduler.computed(id))
                else {
                    continue;
                };
                if rows.len() > 1 {
                    // All but the first of these rows follow a guess; those up to what is computed were right.
                    let right = rows.iter().skip(1).filter(|row| row.position < computed).count();
                    active.guesses = (2 * right + 1).min(active.request.speculate);
                }
                let mut draft = active.constraint.as_mut().map(Constraint::forced).unwrap_or_default();
                draft.truncate(FORCED);
                active.asks = draft.is_empty() && self.drafter.is_some();
                if active.asks {
                    // Places, for the smaller model to fill in.
                    draft = vec![0; active.guesses];
                } else if draft.is_empty() {
                    draft = lookup(tokens, active.guesses).to_vec();
                }
                self.scheduler.propose(id, draft);
            }
        }
    }

    /// The known token that a row foretells, if there is one.
    fn prompt_token(&self, row: &Row) -> Option<u32> {
        self.scheduler.tokens(row.sequence)?.get(row.position + 1).copied()
    }

    /// Says how likely a token of a prompt is. One that is no number fails its request.
    fn score_row(&mut self, row: &Row, next: u32, logits: &[f32]) -> Event {
        let sequence = row.sequence;
        let tops = self.requests.get(&sequence).and_then(|active| active.request.logprobs).unwrap_or(0);
        let score = TokenScore::of(logits, next, tops);
        if score.logprob.is_nan() {
            self.cancel(sequence);
            return Event::Failed { sequence, error: EngineError::NanLogits { position: row.position } };
        }
        Event::Prompt { sequence, score }
    }

    /// Chooses the next token of a sequence; none where nobody wants it any more.
    fn choose(&mut self, sequence: SequenceId, logits: &[f32]) -> Option<Event> {
        let (Some(active), Some(known)) = (self.requests.get_mut(&sequence), self.scheduler.tokens(sequence))
        else {
            self.cancel(sequence);
            return None;
        };
        let request = &active.request;
        if known.len() >= active.longest {
            self.cancel(sequence);
            return Some(Event::Full { sequence });
        }
        let prompt = request.prompt.len();
        let constraint = active.constraint.as_mut();
        let guess = active.guessed.pop_front();
        let mut draw = |allowed: Option<&[u32]>| {
            let (sampling, index) = (&request.sampling, active.index as u64);
            let Some(guess) = &guess else {
                return self.sampler.sample(logits, known, prompt, sampling, index, allowed);
            };
            let p = self.sampler.distribution(logits, known, prompt, sampling, allowed)?;
            Ok(guess.settle(&p, sampling, index, known.len()))
        };
        let mut choose = |constraint: Option<&mut Constraint>| {
            let Some(constraint) = constraint else { return Ok((draw(None)?, None)) };
            let token = draw(Some(constraint.allowed()?.bits()))?;
            Ok((token, constraint.take(token)?))
        };
        let (token, over) = match choose(constraint) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.cancel(sequence);
                return Some(Event::Failed { sequence, error });
            }
        };
        let score = request.logprobs.map(|tops| TokenScore::of(logits, token, tops));
        let finish = if request.ends.contains(&token) {
            Some(FinishReason::Stop)
        } else {
            over.or((known.len() + 1 >= active.longest).then_some(FinishReason::Length))
        };
        if finish.is_some() {
            self.cancel(sequence);
        } else {
            self.scheduler.push(sequence, token);
        }
        Some(Event::Token { sequence, token, score, finish })
    }

    /// The likelihood of `ids` as one context, in which the first token is given. `goes_on` is asked before each step.
    ///
    /// For an engine without other sequences, as [`score_rows`](Engine::score_rows): their events would be lost.
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
        let id = self.add(Request { prompt: ids.to_vec(), score_prompt: true, ..Request::default() })?;
        let mut score = Score::default();
        loop {
            if !goes_on() {
                self.cancel(id);
                return Err(EngineError::Interrupted);
            }
            let events = match self.step_seen(seen) {
                Ok(events) => events,
                Err(error) => {
                    self.cancel(id);
                    return Err(error);
                }
            };
            for event in events {
                match event {
                    Event::Prompt { sequence, score: token } if sequence == id => {
                        score += Score { log_likelihood: token.logprob, tokens: 1 };
                    }
                    Event::Full { sequence } if sequence == id => return Ok(score),
                    Event::Failed { sequence, error } if sequence == id => return Err(error),
                    _ => {}
                }
            }
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

/// An answer that a search found.
fn found(sequence: SequenceId, answer: Beam) -> Vec<Event> {
    let Beam { tokens, scores, score, finish, .. } = answer;
    let (last, mut scores) = (tokens.len().saturating_sub(1), scores.into_iter());
    let finish = finish.unwrap_or(FinishReason::Length);
    let token = |(index, token)| {
        let finish = (index == last).then_some(finish);
        Event::Token { sequence, token, score: scores.next(), finish }
    };
    std::iter::once(Event::Found { sequence, score })
        .chain(tokens.into_iter().enumerate().map(token))
        .collect()
}

#[cfg(test)]
mod tests;
