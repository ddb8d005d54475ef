//! The seam between control and arithmetic: what the engine asks of a compiled model.
//!
//! The engine decides which tokens to compute and where their keys and values go; the model computes. Nothing here knows
//! of requests, sampling or text.

use lathe_models::Adapter;

use crate::EngineError;
use crate::pages::PageCopy;

/// Positions of one page of the cache.
pub const PAGE: usize = 16;

/// A compiled model over a paged cache: one step over a ragged batch of tokens.
pub trait Forward {
    /// How many logits a token has.
    fn vocabulary(&self) -> usize;

    /// The longest sequence, in tokens.
    fn context(&self) -> usize;

    /// Pages of [`PAGE`] positions in the cache.
    fn pages(&self) -> usize;

    /// The most tokens in one step.
    fn max_tokens(&self) -> usize;

    /// The most sequences in one step.
    fn max_sequences(&self) -> usize;

    /// The most rows of logits in one step.
    fn max_rows(&self) -> usize;

    /// Copies the keys and values of page `from` to page `to`, before the step that writes to `to`.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), EngineError>;

    /// Pages of a tier below the cache, to which pages of sequences that give way may go; 0 without one.
    fn swap_pages(&self) -> usize {
        0
    }

    /// Bytes of a page of that tier.
    fn swap_page_bytes(&self) -> usize {
        0
    }

    /// Copies pages of the cache (`from`) to pages of the tier below (`to`).
    fn swap_out(&mut self, _pages: &[PageCopy]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Copies pages of the tier below (`from`) to pages of the cache (`to`).
    fn swap_in(&mut self, _pages: &[PageCopy]) -> Result<(), EngineError> {
        Ok(())
    }

    /// The most adapters at once.
    fn adapters(&self) -> usize {
        0
    }

    /// Puts an adapter in the place of this number, from 1 to [`adapters`](Forward::adapters): what sequences that name the
    /// place add to the model's products.
    fn set_adapter(&mut self, _place: u32, _adapter: &Adapter) -> Result<(), EngineError> {
        Err(EngineError::NoAdapters)
    }

    /// Computes one step: writes keys and values of every token to its slot, then leaves in `logits` one row of
    /// [`vocabulary`](Forward::vocabulary) for each of `batch.rows`.
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError>;
}

/// The tokens of one step, of several sequences; those of a sequence lie together and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The tokens' ids.
    pub tokens: Vec<u32>,
    /// For each token, its sequence: a row of `pages`.
    pub sequence: Vec<u32>,
    /// For each token, its place in its sequence.
    pub position: Vec<u32>,
    /// For each token, where its keys and values go: `page * PAGE + position % PAGE`.
    pub slot: Vec<u32>,
    /// The page table: for each sequence, the pages of its positions so far and of this step.
    pub pages: Vec<Vec<u32>>,
    /// For each sequence, the place of its adapter; 0 is none.
    pub adapters: Vec<u32>,
    /// The tokens whose logits are wanted, rising.
    pub rows: Vec<u32>,
}

impl Batch {
    /// For each token, the position of the last token of its sequence in the batch.
    pub(crate) fn last(&self) -> Vec<u32> {
        let mut last = vec![0; self.pages.len()];
        for (s, p) in self.sequence.iter().zip(&self.position) {
            last[*s as usize] = *p;
        }
        self.sequence.iter().map(|s| last[*s as usize]).collect()
    }

    /// For each token, 1 / how many tokens its sequence has in the batch.
    pub(crate) fn shares(&self) -> Vec<f32> {
        let mut tokens = vec![0.0f32; self.pages.len()];
        self.sequence.iter().for_each(|s| tokens[*s as usize] += 1.0);
        self.sequence.iter().map(|s| 1.0 / tokens[*s as usize]).collect()
    }

    /// Adds the next tokens of a sequence, the first of them at `start`; `pages` holds all its positions to the end of
    /// these. Says where in the batch the first token is.
    pub(crate) fn push(&mut self, tokens: &[u32], start: usize, pages: &[u32], adapter: u32) -> u32 {
        let (first, row) = (index(self.tokens.len()), index(self.pages.len()));
        for (position, &token) in (start..).zip(tokens) {
            self.tokens.push(token);
            self.sequence.push(row);
            self.position.push(index(position));
            self.slot.push(pages[position / PAGE] * PAGE as u32 + index(position % PAGE));
        }
        self.pages.push(pages[..(start + tokens.len()).div_ceil(PAGE)].to_vec());
        self.adapters.push(adapter);
        first
    }
}

/// A count as the 32-bit index that a batch holds.
fn index(n: usize) -> u32 {
    u32::try_from(n).expect("a step and a context have fewer than 2^32 tokens")
}
