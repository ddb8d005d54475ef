//! The engine over a model whose logits depend on every token it has in its paged cache: a page mixed up, lost or not
//! copied changes the answer.

use std::ops::ControlFlow;

use lathe_models::{ModelFile, Tokenizer};
use proptest::prelude::*;

use super::*;
use crate::beam::{Beams, EarlyStopping};
use crate::flows::Flow;
use crate::forward::{Batch, PAGE};
use crate::pages::PageCopy;
use crate::sampling::Sampling;
use crate::score::log_softmax;

const VOCABULARY: usize = 40;

/// Logits are a hash of the sequence so far, as it reads from the cache.
struct Hashing {
    cache: Vec<u32>,
    context: usize,
    max_tokens: usize,
    max_sequences: usize,
    /// Fails every so many steps.
    fails: Option<usize>,
    steps: usize,
    nan_after: Option<u32>,
    /// The tier below.
    below: Vec<u32>,
}

impl Hashing {
    fn new(pages: usize) -> Hashing {
        let cache = vec![u32::MAX; pages * PAGE];
        Hashing {
            cache,
            context: 200,
            max_tokens: 16,
            max_sequences: 4,
            fails: None,
            steps: 0,
            nan_after: None,
            below: vec![],
        }
    }

    fn logits(history: &[u32]) -> Vec<f32> {
        let hash = |h: u64, &t: &u32| (h ^ u64::from(t)).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        let seed = history.iter().fold(0xcbf2_9ce4_8422_2325, hash);
        let logit = |id: u64| ((seed.wrapping_mul(id * 2 + 1) >> 40) % 1000) as f32 / 100.0;
        (0..VOCABULARY as u64).map(logit).collect()
    }
}

impl Forward for Hashing {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn context(&self) -> usize {
        self.context
    }

    fn pages(&self) -> usize {
        self.cache.len() / PAGE
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn max_sequences(&self) -> usize {
        self.max_sequences
    }

    fn max_rows(&self) -> usize {
        self.max_sequences + 4
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), EngineError> {
        let from = from as usize * PAGE;
        self.cache.copy_within(from..from + PAGE, to as usize * PAGE);
        Ok(())
    }

    fn swap_pages(&self) -> usize {
        self.below.len() / PAGE
    }

    fn swap_out(&mut self, pages: &[PageCopy]) -> Result<(), EngineError> {
        for PageCopy { from, to } in pages {
            let (from, to) = (*from as usize * PAGE, *to as usize * PAGE);
            self.below[to..to + PAGE].copy_from_slice(&self.cache[from..from + PAGE]);
        }
        Ok(())
    }

    fn swap_in(&mut self, pages: &[PageCopy]) -> Result<(), EngineError> {
        for PageCopy { from, to } in pages {
            let (from, to) = (*from as usize * PAGE, *to as usize * PAGE);
            self.cache[to..to + PAGE].copy_from_slice(&self.below[from..from + PAGE]);
        }
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        self.steps += 1;
        if self.fails.is_some_and(|n| self.steps.is_multiple_of(n)) {
            self.cache.fill(u32::MAX);
            self.below.fill(u32::MAX);
            return Err(EngineError::Interrupted);
        }
        for (&slot, &token) in batch.slot.iter().zip(&batch.tokens) {
            self.cache[slot as usize] = token;
        }
        logits.clear();
        for &row in &batch.rows {
            let pages = &batch.pages[batch.sequence[row as usize] as usize];
            let slot = |p: usize| pages[p / PAGE] as usize * PAGE + p % PAGE;
            let history: Vec<u32> =
                (0..=batch.position[row as usize] as usize).map(|p| self.cache[slot(p)]).collect();
            let mut values = Hashing::logits(&history);
            if self.nan_after.is_some() && self.nan_after == history.last().copied() {
                values[3] = f32::NAN;
            }
            logits.extend(values);
        }
        Ok(())
    }
}

/// What a request's sample must give, computed without cache, batch or scheduler.
fn alone(request: &Request, sample: usize, longest: usize) -> Vec<u32> {
    let mut known = request.prompt.clone();
    let prompt = known.len();
    let end = longest.min(prompt + request.max_tokens);
    while known.len() < end {
        let logits = Hashing::logits(&known);
        let token = Sampler::default()
            .sample(&logits, &known, prompt, &request.sampling, sample as u64, None)
            .unwrap();
        known.push(token);
        if request.ends.contains(&token) {
            break;
        }
    }
    known[prompt..].to_vec()
}

fn request() -> impl Strategy<Value = Request> {
    let sampling =
        (0.0f32..2.0, any::<u64>(), 1.0f32..1.5).prop_map(|(t, seed, repetition_penalty)| Sampling {
            temperature: if t < 0.7 { 0.0 } else { t },
            seed,
            repetition_penalty,
            top_p: 0.9,
            ..Sampling::default()
        });
    // Many prompts begin alike.
    let own = prop::collection::vec(0..VOCABULARY as u32, 1..40);
    let prompt = (0u32..40, own).prop_map(|(common, own)| [(0..common).collect(), own].concat());
    let prompt = prompt.prop_map(|mut tokens: Vec<u32>| {
        tokens.truncate(48);
        tokens
    });
    let ends = prop::collection::vec(0..VOCABULARY as u32, 0..2);
    let flow = (0u64..3, -1i8..2).prop_map(|(client, priority)| Flow { client, priority });
    (prompt, 0usize..40, 1usize..4, sampling, ends, (any::<bool>(), 0usize..6), flow).prop_map(
        |(prompt, max_tokens, samples, sampling, ends, (score_prompt, speculate), flow)| Request {
            speculate,
            constraint: None,
            prompt,
            max_tokens,
            samples,
            beams: None,
            sampling,
            ends,
            logprobs: score_prompt.then_some(2),
            score_prompt,
            adapter: AdapterId::NONE,
            flow,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever runs beside it, however few pages there are, though prompts begin alike and though steps fail: each answer is
    /// what it is alone, and so is the score of each prompt's token.
    #[test]
    fn answers_do_not_depend_on_the_batch(
        requests in prop::collection::vec((request(), 0usize..6), 1..9),
        pages in 4usize..14,
        (max_tokens, max_sequences) in (1usize..30, 1usize..6),
        fails in prop::option::of(20usize..40),
        below in 0usize..10,
    ) {
        let below = vec![u32::MAX; below * PAGE];
        let mut engine = Engine::new(Hashing { max_tokens, max_sequences, fails, below, ..Hashing::new(pages) });
        let mut answers = BTreeMap::new();
        let mut scores: BTreeMap<SequenceId, Vec<TokenScore>> = BTreeMap::new();
        let mut requests = requests.into_iter();
        let mut expected = BTreeMap::new();
        let mut prompts = BTreeMap::new();
        let mut scored = BTreeMap::new();
        let mut wait = 0;
        loop {
            while wait == 0 && let Some((request, pause)) = requests.next() {
                let id = engine.add(request.clone()).unwrap();
                for sample in 0..request.samples {
                    expected.insert(id.sample(sample), alone(&request, sample, pages * PAGE));
                    answers.insert(id.sample(sample), vec![]);
                }
                prompts.insert(id, request.prompt.len());
                if request.score_prompt {
                    let row = |i: usize| TokenScore::of(&Hashing::logits(&request.prompt[..i]), request.prompt[i], 2);
                    scored.insert(id, (1..request.prompt.len()).map(row).collect::<Vec<_>>());
                    scores.insert(id, vec![]);
                }
                wait = pause;
            }
            wait = wait.saturating_sub(1);
            // Either way to come back, now and then.
            engine.costs = SwapCosts { token_s: (engine.model().steps % 3) as f64, write_s: 8.0, read_s: 8.0 };
            for event in engine.step().unwrap_or_default() {
                match event {
                    Event::Token { sequence, token, .. } => answers.get_mut(&sequence).unwrap().push(token),
                    Event::Prompt { sequence, score } => scores.get_mut(&sequence).unwrap().push(score),
                    Event::Started { sequence, cached } => prop_assert!(cached < prompts[&sequence] && cached.is_multiple_of(PAGE)),
                    Event::Full { .. } => {}
                    Event::Failed { .. } | Event::Found { .. } => panic!("{event:?}"),
                }
            }
            // After a failure all are computed again from their start; with failing steps a long one may never get there.
            prop_assume!(engine.model().steps < 5000);
            if engine.is_idle() && requests.len() == 0 {
                break;
            }
        }
        prop_assert_eq!(answers, expected);
        prop_assert_eq!(scores, scored);
        prop_assert!(engine.requests.is_empty());
        prop_assert_eq!((engine.load().pages.held, engine.load().swap.held), (0, 0));
    }
}

/// What a search finds, from its definition: all beams as lists of tokens, no cache, no batch, no scheduler.
fn search_alone(request: &Request, beams: Beams, longest: usize) -> Vec<(Vec<u32>, f64)> {
    let prompt = &request.prompt;
    let most = longest.min(prompt.len() + request.max_tokens) - prompt.len();
    let (mut running, mut answers) = (vec![(vec![], 0.0f64)], Vec::<(Vec<u32>, f64)>::new());
    for made in 1..=most {
        let mut all = vec![];
        for (tokens, sum) in &running {
            let known = [prompt.as_slice(), tokens].concat();
            let mut logprobs = log_softmax(&Hashing::logits(&known));
            request.sampling.adjust(&mut logprobs, &known, prompt.len());
            for (token, logprob) in (0..).zip(logprobs) {
                all.push(([tokens.as_slice(), &[token]].concat(), sum + f64::from(logprob)));
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(beams.width * (request.ends.len() + 1).max(2));
        let over = |tokens: &[u32]| made == most || request.ends.contains(&tokens[made - 1]);
        let norm = |sum: f64, length: usize| sum / (length as f64).powf(beams.length_penalty);
        let ended = all.iter().take(beams.width).filter(|(tokens, _)| over(tokens));
        answers.extend(ended.map(|(tokens, sum)| (tokens.clone(), norm(*sum, made))));
        answers.sort_by(|a, b| b.1.total_cmp(&a.1));
        answers.truncate(beams.width);
        all.retain(|(tokens, _)| !over(tokens));
        all.truncate(beams.width);
        running = all;
        let Some((_, best)) = running.first() else { break };
        let Some((_, worst)) = answers.get(beams.width - 1) else { continue };
        let possible = match beams.early_stopping {
            EarlyStopping::AtWidth => break,
            EarlyStopping::Never if beams.length_penalty > 0.0 => norm(*best, most),
            _ => norm(*best, made),
        };
        if possible <= *worst {
            break;
        }
    }
    answers.truncate(request.samples);
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Searches among other requests, with few pages, fewer places than beams, and steps that fail, find what they find alone; the
    /// others' answers are theirs, and all pages come back, of what is cancelled too.
    #[test]
    fn searches_do_not_depend_on_the_batch(
        requests in prop::collection::vec((request(), prop::option::of((1usize..6, -1.0f64..2.0, 0usize..3)), any::<prop::sample::Index>()), 1..6),
        pages in 4usize..20,
        (max_tokens, max_sequences) in (1usize..30, 1usize..6),
        fails in prop::option::of(20usize..40),
        below in 0usize..10,
    ) {
        let below = vec![u32::MAX; below * PAGE];
        let mut engine = Engine::new(Hashing { max_tokens, max_sequences, fails, below, ..Hashing::new(pages) });
        let (mut found, mut expected, mut cancelled) = (BTreeMap::new(), BTreeMap::new(), vec![]);
        for (mut request, beams, cancel) in requests {
            request.max_tokens = request.max_tokens.clamp(1, 12);
            request.score_prompt = false;
            let stopping = [EarlyStopping::AtWidth, EarlyStopping::WhenUnlikely, EarlyStopping::Never];
            request.beams = beams.map(|(more, length_penalty, stop)| Beams {
                width: request.samples + more - 1, length_penalty, early_stopping: stopping[stop],
            });
            let id = engine.add(request.clone()).unwrap();
            if cancel.index(4) == 0 {
                cancelled.push((id, request.sequences()));
                continue;
            }
            let longest = pages * PAGE;
            match request.beams {
                Some(beams) => expected.extend((0..).zip(search_alone(&request, beams, longest)).map(|(i, a)| (id.sample(i), a))),
                None => expected.extend((0..request.samples).map(|i| (id.sample(i), (alone(&request, i, longest), 0.0)))),
            }
        }
        let (mut steps, mut left) = (0, cancelled.into_iter());
        while !engine.is_idle() {
            if steps % 3 == 2 && let Some((id, sequences)) = left.next() {
                (0..sequences).for_each(|i| { engine.cancel(id.sample(i)); });
            }
            engine.costs = SwapCosts { token_s: f64::from(steps % 3), write_s: 8.0, read_s: 8.0 };
            for event in engine.step().unwrap_or_default() {
                match event {
                    Event::Found { sequence, score } => { found.insert(sequence, (vec![], score)); }
                    Event::Token { sequence, token, .. } => found.entry(sequence).or_insert((vec![], 0.0)).0.push(token),
                    Event::Failed { .. } => panic!("{event:?}"),
                    _ => {}
                }
            }
            steps += 1;
            prop_assume!(steps < 5000);
        }
        for (id, (tokens, score)) in expected {
            let (got, at) = &found[&id];
            prop_assert_eq!((&tokens, (score - at).abs() < 1e-9), (got, true));
        }
        prop_assert!(engine.requests.is_empty() && engine.searches.is_empty());
        prop_assert_eq!((engine.load().pages.held, engine.load().swap.held), (0, 0));
    }
}

#[test]
fn requests_that_cannot_be_served_are_refused() {
    let mut engine = Engine::new(Hashing::new(4));
    let mut refused = |request: Request| engine.add(request).unwrap_err();
    let prompt = |tokens| Request { prompt: vec![1; tokens], max_tokens: 1, ..Request::default() };
    assert_eq!(refused(prompt(0)), EngineError::EmptyPrompt);
    assert_eq!(refused(prompt(200)), EngineError::PromptTooLong { tokens: 200, context: 200 });
    assert_eq!(refused(prompt(64)), EngineError::OutOfPages { needed: 5, pages: 4 });
    let unknown = Request { prompt: vec![40], ..Request::default() };
    assert_eq!(refused(unknown), EngineError::UnknownToken { token: 40, vocabulary: 40 });
    let sampling = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(matches!(refused(Request { sampling, ..prompt(1) }), EngineError::Sampling { .. }));
    let too_few = Request { samples: 3, beams: Some(Beams::new(2)), ..prompt(1) };
    assert!(matches!(refused(too_few), EngineError::Sampling { name: "beams", .. }));
    let beams = Some(Beams { length_penalty: f64::NAN, ..Beams::new(2) });
    assert!(matches!(
        refused(Request { beams, ..prompt(1) }),
        EngineError::Sampling { name: "length-penalty", .. }
    ));
}

#[test]
fn a_row_that_is_no_number_ends_its_sequence_only() {
    let mut engine = Engine::new(Hashing { nan_after: Some(39), ..Hashing::new(8) });
    let bad = engine.add(Request { prompt: vec![1, 39], max_tokens: 2, ..Request::default() }).unwrap();
    let good = engine.add(Request { prompt: vec![1, 2], max_tokens: 1, ..Request::default() }).unwrap();
    let error = EngineError::NanLogits { position: 1 };
    let mut events = engine.step().unwrap();
    events.retain(|event| !matches!(event, Event::Started { .. }));
    assert_eq!(events[0], Event::Failed { sequence: bad, error });
    assert!(
        matches!(events[1], Event::Token { sequence, finish: Some(FinishReason::Length), .. } if sequence == good)
    );
    assert!(engine.is_idle());
}

#[test]
fn a_score_is_the_log_softmax_of_each_next_token() {
    let ids: Vec<u32> = (0..150).map(|i| i * 7 % 40).collect();
    let mut engine = Engine::new(Hashing { max_tokens: 500, ..Hashing::new(12) });
    let score = engine.score(&ids, &|| true).unwrap();
    let naive: f64 = (1..ids.len())
        .map(|i| {
            let logits = Hashing::logits(&ids[..i]);
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            f64::from(logits[ids[i] as usize]) - sum.ln()
        })
        .sum();
    assert_eq!(score.tokens, 149);
    assert!((score.log_likelihood - naive).abs() < 1e-9, "{score:?} {naive}");
    assert!((score.perplexity() - (-naive / 149.0).exp()).abs() < 1e-9);
    assert_eq!(engine.score(&ids[..1], &|| true), Err(EngineError::TooShortToScore { tokens: 1 }));
    assert_eq!(engine.score(&ids, &|| false), Err(EngineError::Interrupted));
    assert!(matches!(engine.score(&[1, 40], &|| true), Err(EngineError::UnknownToken { .. })));
    assert!(matches!(engine.score(&[1; 201], &|| true), Err(EngineError::PromptTooLong { .. })));
    assert_eq!(engine.load().pages.held, 0, "pages come back after errors too");
}

#[test]
fn generate_streams_the_text_and_can_be_stopped() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../lathe-models/tests/data/tiny/llama-q4_1.gguf");
    let tokenizer = Tokenizer::from_file(&ModelFile::open(path).unwrap()).unwrap();
    let mut engine = Engine::new(Hashing::new(8));
    let request = Request { prompt: vec![5, 6, 7], max_tokens: 20, ..Request::default() };
    let mut pieces = String::new();
    let all = engine
        .generate(&tokenizer, request.clone(), &[], &mut |piece| {
            pieces += piece;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((&all.text, all.tokens.len(), all.finish), (&pieces, 20, FinishReason::Length));
    let shown: Vec<u32> = all.tokens.iter().copied().filter(|&id| !tokenizer.is_control(id)).collect();
    assert_eq!((all.text.clone(), all.prompt_tokens), (tokenizer.decode(&shown), 3));

    let stop: String = all.text.chars().skip(4).take(2).collect();
    let until = all.text.find(&stop).unwrap();
    let answer =
        engine.generate(&tokenizer, request.clone(), &[stop], &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((answer.text.as_str(), answer.finish), (&all.text[..until], FinishReason::Stop));

    let mut steps = 0;
    let mut three = |_: &str| {
        steps += 1;
        if steps < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let answer = engine.generate(&tokenizer, request, &[], &mut three).unwrap();
    assert_eq!((answer.tokens.as_slice(), answer.finish), (&all.tokens[..3], FinishReason::Cancelled));
    assert!(engine.is_idle());
}

/// Guesses as `Hashing` does, but for what it gets wrong; and its cache has what the model's has.
struct Guessing(Hashing);

impl Forward for Guessing {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn context(&self) -> usize {
        self.0.context
    }

    fn pages(&self) -> usize {
        self.0.pages()
    }

    fn max_tokens(&self) -> usize {
        self.0.max_tokens
    }

    fn max_sequences(&self) -> usize {
        self.0.max_sequences
    }

    fn max_rows(&self) -> usize {
        self.0.max_rows()
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), EngineError> {
        self.0.copy_page(from, to)
    }

    fn swap_pages(&self) -> usize {
        self.0.swap_pages()
    }

    fn swap_out(&mut self, pages: &[PageCopy]) -> Result<(), EngineError> {
        self.0.swap_out(pages)
    }

    fn swap_in(&mut self, pages: &[PageCopy]) -> Result<(), EngineError> {
        self.0.swap_in(pages)
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        self.0.forward(batch, logits)?;
        for (row, logits) in batch.rows.iter().zip(logits.chunks_mut(VOCABULARY)) {
            let pages = &batch.pages[batch.sequence[*row as usize] as usize];
            let position = batch.position[*row as usize] as usize;
            let slot = |p: usize| pages[p / PAGE] as usize * PAGE + p % PAGE;
            assert!((0..=position).all(|p| self.0.cache[slot(p)] != u32::MAX), "a token is not in its cache");
            if position.is_multiple_of(3) {
                logits.rotate_left(1);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A draft model changes no answer of the best tokens, whatever runs beside it and however few pages there are.
    #[test]
    fn best_tokens_do_not_depend_on_a_draft_model(
        requests in prop::collection::vec(request(), 1..7),
        pages in 4usize..14,
        (max_tokens, max_sequences) in (1usize..30, 1usize..6),
        fails in prop::option::of(20usize..40),
        below in 0usize..10,
    ) {
        let model = || Hashing { max_tokens, max_sequences, below: vec![u32::MAX; below * PAGE], ..Hashing::new(pages) };
        let engine = Engine::new(Hashing { fails, ..model() });
        let mut engine = engine.with_draft(Box::new(Guessing(model()))).unwrap();
        let (mut answers, mut expected) = (BTreeMap::new(), BTreeMap::new());
        for mut request in requests {
            request.sampling.temperature = 0.0;
            let id = engine.add(request.clone()).unwrap();
            for sample in 0..request.samples {
                expected.insert(id.sample(sample), alone(&request, sample, pages * PAGE));
                answers.insert(id.sample(sample), vec![]);
            }
        }
        while !engine.is_idle() {
            // Either way to come back, now and then.
            engine.costs = SwapCosts { token_s: (engine.model().steps % 3) as f64, write_s: 8.0, read_s: 8.0 };
            for event in engine.step().unwrap_or_default() {
                let Event::Token { sequence, token, .. } = event else { continue };
                answers.get_mut(&sequence).unwrap().push(token);
            }
            prop_assume!(engine.model().steps < 5000);
        }
        prop_assert_eq!(answers, expected);
        prop_assert_eq!((engine.load().pages.held, engine.load().swap.held), (0, 0));
    }
}

/// Answers of a draft model's guesses, kept or not, have the distribution of the model: pairs of tokens, counted over many
/// seeds, against the product of their probabilities.
#[test]
fn guesses_keep_the_distribution() {
    let prompt = vec![3, 1, 4];
    let sampling = |seed| Sampling { temperature: 2.0, top_k: 4, seed, ..Sampling::default() };
    let engine = Engine::new(Hashing::new(64));
    let mut engine = engine.with_draft(Box::new(Guessing(Hashing::new(64)))).unwrap();
    let (all, mut counts) = (20_000u64, BTreeMap::<[u32; 2], f64>::new());
    for seed in 0..all {
        let request = Request {
            prompt: prompt.clone(),
            max_tokens: 4,
            sampling: sampling(seed),
            speculate: 2,
            ..Request::default()
        };
        engine.add(request).unwrap();
        let mut tokens = vec![];
        while !engine.is_idle() {
            let events = engine.step().unwrap();
            tokens.extend(events.iter().filter_map(|e| match e {
                Event::Token { token, .. } => Some(*token),
                _ => None,
            }));
        }
        // The first is chosen before anything is guessed; the next two are guessed.
        *counts.entry([tokens[1], tokens[2]]).or_default() += 1.0;
    }
    let load = engine.load();
    assert!(
        load.accepted_tokens > all / 2 && load.accepted_tokens < load.drafted_tokens * 9 / 10,
        "{load:?}"
    );
    // What each pair should be, over all first tokens, from the definition of softmax.
    let probabilities = |history: &[u32]| {
        let logits = Hashing::logits(history);
        let mut order: Vec<usize> = (0..VOCABULARY).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let weights: Vec<(u32, f64)> =
            order[..4].iter().map(|i| (*i as u32, f64::from(logits[*i] / 2.0).exp())).collect();
        let sum: f64 = weights.iter().map(|(_, w)| w).sum();
        weights.into_iter().map(move |(id, w)| (id, w / sum))
    };
    let mut expected = BTreeMap::<[u32; 2], f64>::new();
    for (a, p) in probabilities(&prompt) {
        for (b, q) in probabilities(&[&prompt[..], &[a]].concat()) {
            for (c, r) in probabilities(&[&prompt[..], &[a, b]].concat()) {
                *expected.entry([b, c]).or_default() += p * q * r * all as f64;
            }
        }
    }
    assert!(counts.keys().all(|pair| expected.contains_key(pair)), "a pair that cannot be");
    // Rare pairs together, so that each count is about normal.
    let (rare, often): (Vec<_>, Vec<_>) = expected.iter().partition(|(_, n)| **n < 20.0);
    let count = |pair: &[u32; 2]| counts.get(pair).copied().unwrap_or(0.0);
    let mut cells: Vec<(f64, f64)> = often.iter().map(|(pair, n)| (count(pair), **n)).collect();
    cells.push(rare.iter().fold((0.0, 1e-9), |(a, b), (pair, n)| (a + count(pair), b + **n)));
    let chi: f64 = cells.iter().map(|(got, want)| (got - want).powi(2) / want).sum();
    let free = cells.len() as f64 - 1.0;
    assert!(chi < free + 5.0 * (2.0 * free).sqrt(), "chi square {chi} of {free} degrees of freedom");
}

#[test]
fn a_draft_model_of_another_kind_is_refused() {
    let refused = |draft| Engine::new(Hashing::new(8)).with_draft(Box::new(Guessing(draft))).err();
    assert!(matches!(refused(Hashing::new(7)), Some(EngineError::Draft { .. })));
    assert!(matches!(refused(Hashing { context: 100, ..Hashing::new(8) }), Some(EngineError::Draft { .. })));
    assert!(refused(Hashing::new(8)).is_none());
    let swapping = |pages| Hashing { below: vec![0; pages * PAGE], ..Hashing::new(8) };
    let refused = |draft| Engine::new(swapping(2)).with_draft(Box::new(Guessing(draft))).err();
    assert!(matches!(refused(swapping(1)), Some(EngineError::Draft { .. })));
    assert!(refused(swapping(2)).is_none());
}

/// The second time, of a prompt only what does not fill a page is computed; the answer is the same.
#[test]
fn a_conversation_that_goes_on_is_not_computed_again() {
    let mut engine = Engine::new(Hashing::new(12));
    let mut prompt: Vec<u32> = (0..40).collect();
    let mut turn = |prompt: &[u32]| {
        let request = Request { prompt: prompt.to_vec(), max_tokens: 9, ..Request::default() };
        engine.add(request.clone()).unwrap();
        let before = engine.load().computed_tokens;
        let mut answer = vec![];
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                let Event::Token { token, .. } = event else { continue };
                answer.push(token);
            }
        }
        assert_eq!(answer, alone(&request, 0, 192));
        (answer, engine.load().computed_tokens - before)
    };
    let (answer, computed) = turn(&prompt);
    assert_eq!(computed, 40 + 8);
    prompt.extend(answer);
    prompt.extend([1, 2, 3]);
    assert_eq!(turn(&prompt).1, 52 - 48 + 8);
}
