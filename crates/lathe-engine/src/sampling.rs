//! Choosing the next token from a row of logits.
//!
//! The steps are those of `transformers`, in its order: repetition penalty, temperature, top-k, top-p, min-p; and before the
//! temperature those of OpenAI's interface: presence and frequency penalty, biases. Candidates are ordered by logit, equal ones
//! by id, so the choice is defined to the last bit.

use std::sync::Arc;

use crate::EngineError;
use crate::random::uniform;

/// How a token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the best token.
    pub temperature: f32,
    /// Only so many of the best tokens; 0 is all.
    pub top_k: usize,
    /// Only the best tokens that together have this probability; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the best; 0 is all.
    pub min_p: f32,
    /// Makes every token of the prompt and the answer less likely; 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken from the logit of every token that the answer has; 0 does nothing.
    pub presence_penalty: f32,
    /// Taken from a token's logit as often as the answer has it; 0 does nothing.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub bias: Arc<[(u32, f32)]>,
    /// Another seed, another answer.
    pub seed: u64,
}

impl Default for Sampling {
    /// Always the best token.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Arc::default(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Refuses values outside of their ranges.
    pub fn check(&self) -> Result<(), EngineError> {
        let check = |holds: bool, name, value: f32, range| match holds {
            true => Ok(()),
            false => Err(EngineError::Sampling { name, value: value.to_string(), range }),
        };
        let from_zero = |x: f32| x.is_finite() && x >= 0.0;
        let Sampling { temperature, top_p, min_p, repetition_penalty: penalty, .. } = *self;
        let Sampling { presence_penalty: presence, frequency_penalty: frequency, .. } = *self;
        check(from_zero(temperature), "temperature", temperature, "at least 0")?;
        check(top_p > 0.0 && top_p <= 1.0, "top-p", top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min-p", min_p, "from 0 to 1")?;
        check(from_zero(penalty) && penalty > 0.0, "repetition-penalty", penalty, "above 0")?;
        check((-2.0..=2.0).contains(&presence), "presence-penalty", presence, "from -2 to 2")?;
        check((-2.0..=2.0).contains(&frequency), "frequency-penalty", frequency, "from -2 to 2")?;
        match self.bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
            Some(&(_, bias)) => check(false, "logit-bias", bias, "from -100 to 100"),
            None => Ok(()),
        }
    }

    /// Whether the logits are changed before the best is looked for.
    fn adjusts(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.bias.is_empty()
    }

    /// Changes the logits after `history`, whose first `prompt` tokens are not of the answer.
    pub(crate) fn adjust(&self, logits: &mut [f32], history: &[u32], prompt: usize) {
        if self.repetition_penalty != 1.0 {
            for (id, _) in counts(history) {
                if let Some(logit) = logits.get_mut(id as usize) {
                    let penalty = self.repetition_penalty;
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
        }
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            for (id, count) in counts(&history[prompt.min(history.len())..]) {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit -= self.presence_penalty + self.frequency_penalty * count as f32;
                }
            }
        }
        for &(id, bias) in self.bias.iter() {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }
}

/// Chooses tokens; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// The token after `history`, of which the first `prompt` tokens were given, from the `logits` of its last one, for the
    /// sample of number `sample`. Of `allowed`, a bit for each token, only those are chosen whose bit is set.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[u32],
        prompt: usize,
        sampling: &Sampling,
        sample: u64,
        allowed: Option<&[u32]>,
    ) -> Result<u32, EngineError> {
        if let Some(best) = self.weigh(logits, history, prompt, sampling, allowed)? {
            return Ok(best);
        }
        let draw = uniform(sampling.seed, sample, history.len() as u64);
        Ok(self.candidates.choose(sampling.top_p, sampling.min_p, draw))
    }

    /// The probability of each token to be chosen in this place.
    pub(crate) fn distribution(
        &mut self,
        logits: &[f32],
        history: &[u32],
        prompt: usize,
        sampling: &Sampling,
        allowed: Option<&[u32]>,
    ) -> Result<Vec<f32>, EngineError> {
        let mut probabilities = vec![0.0; logits.len()];
        if let Some(best) = self.weigh(logits, history, prompt, sampling, allowed)? {
            probabilities[best as usize] = 1.0;
            return Ok(probabilities);
        }
        let (mass, count) = self.candidates.cut(sampling.top_p, sampling.min_p);
        for &(weight, id) in &self.candidates.items[..count] {
            probabilities[id as usize] = (f64::from(weight) / mass) as f32;
        }
        Ok(probabilities)
    }

    /// Weighs the candidates, unless the best one is certain: that one then.
    fn weigh(
        &mut self,
        logits: &[f32],
        history: &[u32],
        prompt: usize,
        sampling: &Sampling,
        allowed: Option<&[u32]>,
    ) -> Result<Option<u32>, EngineError> {
        let nan = EngineError::NanLogits { position: history.len().saturating_sub(1) };
        let logits = match sampling.adjusts() || allowed.is_some() {
            false => logits,
            true => {
                self.logits.clear();
                self.logits.extend_from_slice(logits);
                sampling.adjust(&mut self.logits, history, prompt);
                allowed.iter().for_each(|allowed| forbid(&mut self.logits, allowed));
                &self.logits
            }
        };
        let (best, from) = maximum(logits).ok_or(nan)?;
        // A quotient by so small a temperature would overflow; the best token is then certain.
        if sampling.temperature < 1e-6 {
            let id = from + logits[from..].iter().position(|&logit| logit == best).unwrap_or_default();
            return Ok(Some(id as u32));
        }
        let weights = logits.iter().map(|&logit| ((logit - best) / sampling.temperature).exp());
        self.candidates.fill(weights, sampling.top_k);
        Ok(None)
    }
}

/// The largest logit, and a place that is not far before the first one of that size; `None` where one is not a number or infinite,
/// or all are minus infinity.
fn maximum(logits: &[f32]) -> Option<(f32, usize)> {
    const FAR: usize = 1024;
    let (mut best, mut from, mut bad) = (f32::NEG_INFINITY, 0, [0u32; 16]);
    for (i, part) in logits.chunks(FAR).enumerate() {
        // Several maxima side by side, which the compiler turns into vector code.
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (chunks, rest) = part.as_chunks::<16>();
        for chunk in chunks {
            for ((lane, bad), &logit) in lanes.iter_mut().zip(&mut bad).zip(chunk) {
                *lane = if logit > *lane { logit } else { *lane };
                *bad |= u32::from(logit.is_nan());
            }
        }
        bad[0] |= u32::from(rest.iter().any(|logit| logit.is_nan()));
        let largest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        if largest > best {
            (best, from) = (largest, i * FAR);
        }
    }
    (best.is_finite() && bad.iter().all(|bad| *bad == 0)).then_some((best, from))
}

/// Takes the tokens whose bits are not set out of the choice.
pub(crate) fn forbid(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                let forbidden = (0..).zip(logits).filter(|&(bit, _)| word >> bit & 1 == 0);
                forbidden.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            }
        }
    }
}

/// Each token that is there, and how often.
fn counts(tokens: &[u32]) -> Vec<(u32, usize)> {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
}

/// Tokens by falling weight, sorted only as far as anyone looks: an answer's token is almost always among the first.
#[derive(Debug, Default)]
struct Candidates {
    items: Vec<(f32, u32)>,
    sorted: usize,
}

fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Candidates {
    /// The best `top_k` (0 is all) of the tokens with these weights, of which at least one is 1.
    fn fill(&mut self, weights: impl Iterator<Item = f32>, top_k: usize) {
        self.items.clear();
        // A weight of zero is never chosen.
        self.items.extend(weights.zip(0u32..).filter(|&(weight, _)| weight > 0.0));
        self.sorted = 0;
        if top_k > 0 && top_k < self.items.len() {
            self.sort(top_k);
            self.items.truncate(top_k);
        }
    }

    /// How many of the best top-p and min-p leave, behind their weight.
    fn cut(&mut self, top_p: f32, min_p: f32) -> (f64, usize) {
        let mut mass: f64 = self.items.iter().map(|&(weight, _)| f64::from(weight)).sum();
        let mut count = self.items.len();
        if top_p < 1.0 || min_p > 0.0 {
            let enough = f64::from(top_p) * mass;
            (mass, count) = (0.0, 0);
            while let Some((weight, _)) = self.get(count) {
                if count > 0 && ((top_p < 1.0 && mass >= enough) || weight < min_p) {
                    break;
                }
                mass += f64::from(weight);
                count += 1;
            }
        }
        (mass, count)
    }

    /// The token where the weights, added from the best on, pass the part `draw` of what top-p and min-p leave.
    fn choose(&mut self, top_p: f32, min_p: f32, draw: f64) -> u32 {
        let (mass, count) = self.cut(top_p, min_p);
        let mut left = draw * mass;
        let mut chosen = 0;
        for index in 0..count {
            let Some((weight, id)) = self.get(index) else { break };
            chosen = id;
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
        chosen
    }

    fn get(&mut self, index: usize) -> Option<(f32, u32)> {
        if index >= self.sorted {
            self.sort((4 * self.sorted).max(index + 64));
        }
        self.items.get(index).copied()
    }

    /// Sorts the first `count`, of which `self.sorted` are in place.
    fn sort(&mut self, count: usize) {
        let rest = &mut self.items[self.sorted..];
        let count = count.min(self.sorted + rest.len());
        let new = count - self.sorted;
        if new < rest.len() {
            rest.select_nth_unstable_by(new, order);
        }
        rest[..new].sort_unstable_by(order);
        self.sorted = count;
    }
}

#[cfg(test)]
mod tests;
