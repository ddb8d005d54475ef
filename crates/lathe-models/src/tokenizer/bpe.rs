//! Byte-level byte-pair encoding (Sennrich et al. 2016, over bytes as GPT-2 has it): of all neighbours in a word, the pair that
//! was learned first becomes one token.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::alphabet::append_bytes;
use super::error::TokenizerErrorKind;
use super::merge::{Merge, Merger};
use super::vocab::Vocab;

/// The merge rules over token ids.
#[derive(Debug)]
pub(super) struct Merges {
    /// The token of each single byte; some vocabularies lack those that no UTF-8 text has.
    bytes: [Option<u32>; 256],
    pairs: HashMap<(u32, u32), Merge, FxBuildHasher>,
}

impl Merges {
    /// Reads rules as the file has them: two tokens in the byte alphabet with a space between.
    pub(super) fn new<'a>(
        vocab: &Vocab,
        rules: impl Iterator<Item = &'a [u8]>,
        count: usize,
    ) -> Result<Merges, TokenizerErrorKind> {
        let mut pairs = HashMap::with_capacity_and_hasher(count, FxBuildHasher);
        let mut both = Vec::new();
        for (rank, rule) in (0u32..).zip(rules) {
            both.clear();
            let ids = std::str::from_utf8(rule).ok().and_then(|rule| rule.split_once(' ')).and_then(
                |(left, right)| {
                    append_bytes(left, &mut both).then_some(())?;
                    let middle = both.len();
                    append_bytes(right, &mut both).then_some(())?;
                    Some((vocab.find(&both[..middle])?, vocab.find(&both[middle..])?, vocab.find(&both)?))
                },
            );
            let Some((left, right, into)) = ids else {
                let rule = String::from_utf8_lossy(rule);
                let what =
                    format!("merge rule {rank} ('{rule}') names a token that is not in the vocabulary");
                return Err(TokenizerErrorKind::Malformed(what));
            };
            pairs.entry((left, right)).or_insert(Merge { rank, into });
        }
        let bytes = std::array::from_fn(|b| vocab.find(&[b as u8]));
        Ok(Merges { bytes, pairs })
    }

    /// Appends the tokens of one word.
    pub(super) fn merge(&self, word: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) {
        let known = word.iter().filter_map(|&b| self.bytes[usize::from(b)]);
        for (at, id) in known.enumerate() {
            merger.push(at, at + 1, id);
        }
        merger.run(|left, right| self.pairs.get(&(left.id, right.id)).copied(), |s| ids.push(s.id));
    }
}
