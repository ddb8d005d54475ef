//! Drafts: tokens that are guessed to follow, to be computed together and checked.
//!
//! What followed the same words before ([`lookup`]) is a point: the token that the model's own distribution gives at each place is
//! drawn as it would be without a draft, and the draft is followed as long as it has that token. So the answer is the same, token
//! by token, and only its steps are fewer.
//!
//! What a smaller model guesses ([`Drafter`]) is drawn from its distribution q, and kept with probability min(1, p / q); in place
//! of one that is not kept another is drawn from what p has above q (Leviathan et al. 2023). So each token has the model's own
//! distribution p, and where the best token is certain the answer is the same, token by token.

use crate::EngineError;
use crate::forward::{Batch, Forward, PAGE};
use crate::random::uniform;
use crate::sampling::{Sampler, Sampling};
use crate::scheduler::{Drafted, Plan};

/// The longest ending that is looked up.
const LONGEST: usize = 8;
/// The shortest: one token alone says little of what follows.
const SHORTEST: usize = 2;

/// What followed the ending of `tokens` where it was there before, at most `count` tokens: the longest ending counts, and of
/// its places the last one.
pub(crate) fn lookup(tokens: &[u32], count: usize) -> &[u32] {
    let (mut best, mut found) = (SHORTEST - 1, &[][..]);
    for start in (1..tokens.len()).rev() {
        let same = tokens[..start].iter().rev().zip(tokens.iter().rev()).take(LONGEST);
        let length = same.take_while(|(a, b)| a == b).count();
        if length > best {
            (best, found) = (length, &tokens[start..]);
            if length == LONGEST {
                break;
            }
        }
    }
    &found[..count.min(found.len())]
}

/// A token that a smaller model guessed, and the probability of each token that it gave.
#[derive(Clone, Debug)]
pub(crate) struct Guess {
    pub(crate) token: u32,
    q: Vec<f32>,
}

/// What the draws of a token are for; each has random numbers of its own.
const GUESS: u64 = 0x6775_6573;
const KEEP: u64 = 0x6b65_6570;
const OTHER: u64 = 0x6f74_6865;

impl Guess {
    /// The token for this place of a sample, of distribution `p`: the guess, or another one.
    pub(crate) fn settle(&self, p: &[f32], sampling: &Sampling, sample: u64, place: usize) -> u32 {
        let draw = |what: u64| uniform(sampling.seed ^ what, sample, place as u64);
        let own = self.token as usize;
        if draw(KEEP) * f64::from(self.q[own]) < f64::from(p[own]) {
            return self.token;
        }
        let above = p.iter().zip(&self.q).map(|(p, q)| (p - q).max(0.0));
        let all: f64 = above.clone().map(f64::from).sum();
        // Where rounding leaves nothing, p and q are the same.
        if all > 0.0 { pick(above, draw(OTHER) * all) } else { pick(p.iter().copied(), draw(OTHER)) }
    }
}

/// The token where the weights, added up, pass `left`.
fn pick(weights: impl Iterator<Item = f32>, mut left: f64) -> u32 {
    let mut chosen = 0;
    for (id, weight) in (0..).zip(weights).filter(|(_, weight)| *weight > 0.0) {
        chosen = id;
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    chosen
}

/// What is known of a sequence that gets guesses.
pub(crate) struct Known<'a> {
    pub(crate) tokens: Vec<u32>,
    /// Its first tokens, which were given.
    pub(crate) prompt: usize,
    pub(crate) sampling: &'a Sampling,
    /// Its number among the samples.
    pub(crate) sample: u64,
}

/// A smaller model. Its cache has a page for each page of the model's, and after a step the same tokens in it: so it shares
/// what the model's sequences share, and finds what they find.
pub(crate) struct Drafter {
    pub(crate) model: Box<dyn Forward + Send>,
    sampler: Sampler,
    logits: Vec<f32>,
}

impl Drafter {
    pub(crate) fn new(model: Box<dyn Forward + Send>) -> Drafter {
        Drafter { model, sampler: Sampler::default(), logits: Vec::new() }
    }

    /// Computes the known tokens of a plan's batch, and writes guesses over the drafts of those that are in `wanted`: for each
    /// its draft and what is known. Says what was guessed.
    pub(crate) fn fill(
        &mut self,
        plan: &mut Plan,
        wanted: &mut [(Drafted, Known<'_>)],
    ) -> Result<Vec<Vec<Guess>>, EngineError> {
        let mut guesses: Vec<Vec<Guess>> = vec![vec![]; wanted.len()];
        let (mut batch, mut rows) = (known(&plan.batch, wanted), vec![]);
        for (n, (draft, _)) in wanted.iter().enumerate() {
            let sequence = plan.batch.sequence[draft.first];
            let last = batch.sequence.iter().rposition(|s| *s == sequence).expect("a draft follows a token");
            rows.push((last as u32, n));
        }
        rows.sort_unstable();
        loop {
            batch.rows = rows.iter().map(|(row, _)| *row).collect();
            self.model.forward(&batch, &mut self.logits)?;
            let vocabulary = self.model.vocabulary();
            for ((_, n), logits) in rows.iter().zip(self.logits.chunks_exact(vocabulary)) {
                let Known { tokens, prompt, sampling, sample } = &mut wanted[*n].1;
                let q = self.sampler.distribution(logits, tokens, *prompt, sampling, None)?;
                let token =
                    pick(q.iter().copied(), uniform(sampling.seed ^ GUESS, *sample, tokens.len() as u64));
                tokens.push(token);
                plan.batch.tokens[wanted[*n].0.first + guesses[*n].len()] = token;
                guesses[*n].push(Guess { token, q });
            }
            // The last guess is computed, too: the model will have it in its cache.
            let last: Vec<usize> = rows.iter().map(|(_, n)| *n).collect();
            (batch, rows) = (Batch::default(), vec![]);
            for n in last {
                let draft = &wanted[n].0;
                let at = draft.first + guesses[n].len() - 1;
                let position = plan.batch.position[at] as usize;
                let pages = &plan.batch.pages[plan.batch.sequence[at] as usize];
                let row = batch.push(&[plan.batch.tokens[at]], position, &pages[..position / PAGE + 1], 0);
                if guesses[n].len() < draft.count {
                    rows.push((row, n));
                }
            }
            if batch.tokens.is_empty() {
                return Ok(guesses);
            }
        }
    }
}

/// A batch without the drafts that are still to be made.
fn known(batch: &Batch, wanted: &[(Drafted, Known<'_>)]) -> Batch {
    let unknown = |at: usize| wanted.iter().any(|(d, _)| (d.first..d.first + d.count).contains(&at));
    let keep: Vec<usize> = (0..batch.tokens.len()).filter(|at| !unknown(*at)).collect();
    let of = |all: &[u32]| keep.iter().map(|at| all[*at]).collect();
    Batch {
        tokens: of(&batch.tokens),
        sequence: of(&batch.sequence),
        position: of(&batch.position),
        slot: of(&batch.slot),
        pages: batch.pages.clone(),
        adapters: vec![0; batch.pages.len()],
        rows: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn the_longest_and_then_the_last_ending_counts() {
        let cases: [(&[u32], usize, &[u32]); 6] = [
            (&[], 4, &[]),
            (&[1, 2, 3], 4, &[]),
            (&[5, 1, 5], 4, &[]),
            (&[1, 2, 7, 1, 2, 8, 1, 2], 2, &[8, 1]),
            (&[3, 1, 2, 7, 4, 1, 2, 8, 3, 1, 2], 1, &[7]),
            (&[4, 4, 4, 4], 9, &[4]),
        ];
        for (tokens, count, expected) in cases {
            assert_eq!(lookup(tokens, count), expected, "{tokens:?}");
        }
    }
}
