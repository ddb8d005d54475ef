//! How well a model foresees a text: the log-likelihood of each token after those before it.

use std::ops::AddAssign;

/// The likelihood of a text; the scores of several contexts add up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Natural logarithm of the likelihood of all scored tokens together.
    pub log_likelihood: f64,
    /// How many tokens were scored: all of each context but its first.
    pub tokens: usize,
}

impl Score {
    /// The mean log-likelihood of a token.
    pub fn mean_log_likelihood(&self) -> f64 {
        self.log_likelihood / self.tokens as f64
    }

    /// The perplexity: between how many equally likely tokens the model was in doubt, on average.
    pub fn perplexity(&self) -> f64 {
        (-self.mean_log_likelihood()).exp()
    }
}

impl AddAssign for Score {
    fn add_assign(&mut self, other: Score) {
        self.log_likelihood += other.log_likelihood;
        self.tokens += other.tokens;
    }
}

/// How likely a token is in its place, and which are the likeliest there.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability, before temperature and filters.
    pub logprob: f64,
    /// How many tokens are likelier.
    pub rank: usize,
    /// The likeliest tokens with theirs, the best first, equal ones by id.
    pub tops: Vec<(u32, f64)>,
}

impl TokenScore {
    /// The score of `token` in a row of logits, with so many of the likeliest; not a number where the row is none.
    pub fn of(logits: &[f32], token: u32, tops: usize) -> TokenScore {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(best)).exp()).sum();
        let logprob = |logit: f32| f64::from(logit) - f64::from(best) - sum.ln();
        let own = logits[token as usize];
        let rank = logits.iter().filter(|&&logit| logit > own).count();
        let tops = match tops.min(logits.len()) {
            0 => Vec::new(),
            count => {
                let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
                let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
                if count < all.len() {
                    all.select_nth_unstable_by(count, order);
                    all.truncate(count);
                }
                all.sort_unstable_by(order);
                all.into_iter().map(|(id, logit)| (id, logprob(logit))).collect()
            }
        };
        TokenScore { token, logprob: logprob(own), rank, tops }
    }
}

/// Distributions over the next token that others are compared with, by relative entropy (Kullback and Leibler 1951), in nats.
#[derive(Debug, Default)]
pub struct Divergence {
    base: Vec<f32>,
    rows: usize,
}

impl Divergence {
    /// Adds a row to those that others are compared with.
    pub fn push(&mut self, logits: &[f32]) {
        self.base.extend(log_softmax(logits));
        self.rows += 1;
    }

    /// The relative entropy of a row to that of the number `row`; 0 where there is none.
    pub fn of(&self, row: usize, logits: &[f32]) -> f64 {
        let width = self.base.len() / self.rows.max(1);
        let Some(base) = self.base.get(row * width..(row + 1) * width) else { return 0.0 };
        let terms = base.iter().zip(log_softmax(logits)).map(|(p, q)| f64::from(p.exp()) * f64::from(p - q));
        terms.sum()
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// The natural logarithms of the probabilities that a row of logits stands for.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(best)).exp()).sum();
    logits.iter().map(|&logit| (f64::from(logit) - f64::from(best) - sum.ln()) as f32).collect()
}
