//! Beam search: of the continuations of all that is kept, the most likely are kept.
//!
//! It is the search of `transformers` (`generate` with `num_beams`): in each step the likeliest pairs of a beam and a token are
//! looked at, as many as `width` times one more than there are tokens that end an answer (two at least). Those of the first
//! `width` that end are answers, whose score is their log-likelihood over their length to the power of `length_penalty`; of
//! those that do not end, the best `width` go on. Under a grammar each beam has its own place in it: tokens that may not follow
//! are no candidates, and a text that nothing may follow is an answer.
//!
//! Pure: it is given rows of logits and says which beams follow which. Equal scores are ordered by beam and then by token.

use crate::EngineError;
use crate::grammar::Constraint;
use crate::request::FinishReason;
use crate::sampling::{Sampling, forbid};
use crate::score::{TokenScore, log_softmax};

/// How beams are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// So many continuations are kept.
    pub width: usize,
    /// An answer's score is its log-likelihood over its number of tokens to this power: above 0 long answers gain.
    pub length_penalty: f64,
    /// When it ends.
    pub early_stopping: EarlyStopping,
}

/// When beams are not followed any more though they could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When there are `width` answers.
    AtWidth,
    /// When there are, and the best beam, were it an answer now, would be no better than the worst of them.
    #[default]
    WhenUnlikely,
    /// When there are, and no beam can become better than the worst of them, however long it gets.
    Never,
}

/// A continuation: one that is followed, or an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beam {
    pub(crate) tokens: Vec<u32>,
    /// How likely each token was, where that is asked for.
    pub(crate) scores: Vec<TokenScore>,
    /// Its log-likelihood; of an answer its score.
    pub(crate) score: f64,
    /// Why its last token ends it, if it does.
    pub(crate) finish: Option<FinishReason>,
    /// What may follow, where there is a grammar.
    constraint: Option<Constraint>,
}

/// What becomes of the beams.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// These go on: each is the beam of this number with one more token.
    Beams(Vec<(usize, u32)>),
    /// It is over.
    Over,
}

/// A token that may follow a beam.
#[derive(Clone, Debug)]
struct Candidate {
    logprob: f64,
    token: u32,
    score: Option<TokenScore>,
}

/// The search for one request's answers.
#[derive(Debug)]
pub(crate) struct BeamSearch {
    options: Beams,
    /// Candidates that are looked at in a step.
    looked_at: usize,
    ends: Vec<u32>,
    /// The most tokens of an answer.
    longest: usize,
    /// Say how likely tokens are, and so many of the likeliest.
    logprobs: Option<usize>,
    /// Those that are followed, the best first.
    beams: Vec<Beam>,
    /// What may follow each, where it is known.
    rows: Vec<Option<Vec<Candidate>>>,
    /// The best so far, the best first.
    answers: Vec<Beam>,
}

impl Beams {
    /// So many beams, with the penalty and the stopping that `transformers` has where nobody says.
    pub fn new(width: usize) -> Beams {
        Beams { width, length_penalty: 1.0, early_stopping: EarlyStopping::default() }
    }

    /// Refuses what cannot be, for `samples` answers.
    pub(crate) fn check(&self, samples: usize) -> Result<(), EngineError> {
        let refused = |name, value: String, range| Err(EngineError::Sampling { name, value, range });
        if self.width < samples.max(1) {
            return refused("beams", self.width.to_string(), "at least 1 and the number of answers");
        }
        if !self.length_penalty.is_finite() {
            return refused("length-penalty", self.length_penalty.to_string(), "a finite number");
        }
        Ok(())
    }
}

impl BeamSearch {
    /// A search of answers that end with one of `ends` or have `longest` tokens, within `constraint`.
    pub(crate) fn new(
        options: Beams,
        ends: &[u32],
        longest: usize,
        logprobs: Option<usize>,
        constraint: Option<Constraint>,
    ) -> BeamSearch {
        BeamSearch {
            options,
            looked_at: options.width * (ends.len() + 1).max(2),
            ends: ends.to_vec(),
            longest,
            logprobs,
            beams: vec![Beam { constraint, ..Beam::default() }],
            rows: vec![None],
            answers: vec![],
        }
    }

    /// Takes the logits of what follows the beam of this number, whose tokens are `known`, the first `prompt` of them given.
    /// Says whether those of all beams are there.
    pub(crate) fn row(
        &mut self,
        beam: usize,
        logits: &[f32],
        known: &[u32],
        prompt: usize,
        sampling: &Sampling,
    ) -> Result<bool, EngineError> {
        let mut logprobs = log_softmax(logits);
        sampling.adjust(&mut logprobs, known, prompt);
        if let Some(constraint) = &mut self.beams[beam].constraint {
            forbid(&mut logprobs, constraint.allowed()?.bits());
        }
        if logprobs.iter().any(|logprob| logprob.is_nan()) {
            return Err(EngineError::NanLogits { position: known.len() - 1 });
        }
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let mut best: Vec<(f32, u32)> = logprobs.into_iter().zip(0..).collect();
        best.retain(|(logprob, _)| *logprob > f32::NEG_INFINITY);
        if self.looked_at < best.len() {
            best.select_nth_unstable_by(self.looked_at, order);
            best.truncate(self.looked_at);
        }
        let candidate = |(logprob, token)| {
            let score = self.logprobs.map(|tops| TokenScore::of(logits, token, tops));
            Candidate { logprob: f64::from(logprob), token, score }
        };
        self.rows[beam] = Some(best.into_iter().map(candidate).collect());
        Ok(self.rows.iter().all(Option::is_some))
    }

    /// One step, when all rows are there.
    pub(crate) fn advance(&mut self) -> Result<Next, EngineError> {
        let Beams { width, length_penalty, early_stopping } = self.options;
        let rows: Vec<Vec<Candidate>> =
            self.rows.iter_mut().map(|row| row.take().unwrap_or_default()).collect();
        let pairs = |(beam, row): (usize, Vec<Candidate>)| {
            let sum = self.beams[beam].score;
            row.into_iter().map(move |candidate| (sum + candidate.logprob, beam, candidate))
        };
        let mut pairs: Vec<(f64, usize, Candidate)> = rows.into_iter().enumerate().flat_map(pairs).collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2.token).cmp(&(b.1, b.2.token))));
        pairs.truncate(self.looked_at);
        let made = self.beams[0].tokens.len() + 1;
        let (mut beams, mut next) = (vec![], vec![]);
        for (place, (score, from, candidate)) in pairs.into_iter().enumerate() {
            if place >= width && beams.len() >= width {
                break;
            }
            let mut constraint = self.beams[from].constraint.clone();
            let finish = match (self.ends.contains(&candidate.token), &mut constraint) {
                (true, _) => Some(FinishReason::Stop),
                (false, Some(constraint)) => constraint.take(candidate.token)?,
                (false, None) => None,
            };
            let over = finish.is_some() || made >= self.longest;
            if if over { place >= width } else { beams.len() >= width } {
                continue;
            }
            let mut beam = Beam { score, finish, constraint, ..self.beams[from].clone() };
            beam.tokens.push(candidate.token);
            beam.scores.extend(candidate.score);
            if over {
                beam.score = score / (made as f64).powf(length_penalty);
                self.answers.push(beam);
            } else {
                next.push((from, candidate.token));
                beams.push(beam);
            }
        }
        // Those that were there first stay before equal ones.
        self.answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.answers.truncate(width);
        let full = self.answers.len() == width;
        let goes_on = match (beams.first(), self.answers.last()) {
            (None, _) => false,
            (Some(_), Some(_)) if full && early_stopping == EarlyStopping::AtWidth => false,
            (Some(best), Some(worst)) if full => {
                let never = early_stopping == EarlyStopping::Never && length_penalty > 0.0;
                let length = if never { self.longest } else { made };
                best.score / (length as f64).powf(length_penalty) > worst.score
            }
            _ => true,
        };
        if !goes_on {
            return Ok(Next::Over);
        }
        self.rows = vec![None; beams.len()];
        self.beams = beams;
        Ok(Next::Beams(next))
    }

    /// The best answers so far, the best first, at most as many as beams.
    pub(crate) fn into_answers(self) -> Vec<Beam> {
        self.answers
    }
}
