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

/// The log-softmax of `token` in a row of logits, in f64.
pub(crate) fn log_likelihood(logits: &[f32], token: u32) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(best)).exp()).sum();
    f64::from(logits[token as usize]) - f64::from(best) - sum.ln()
}

/// The natural logarithms of the probabilities that a row of logits stands for.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(best)).exp()).sum();
    logits.iter().map(|&logit| (f64::from(logit) - f64::from(best) - sum.ln()) as f32).collect()
}
