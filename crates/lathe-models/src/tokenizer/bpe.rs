//! Byte-pair merging: of all neighbours in a word, the pair that was learned first becomes one token, again and again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use rustc_hash::FxBuildHasher;

use super::alphabet::append_bytes;
use super::error::TokenizerErrorKind;
use super::vocab::Vocab;

/// The merge rules over token ids.
#[derive(Debug)]
pub(super) struct Merges {
    /// The token of each single byte; some vocabularies lack those that no UTF-8 text has.
    bytes: [Option<u32>; 256],
    pairs: HashMap<(u32, u32), Merge, FxBuildHasher>,
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    into: u32,
}

/// The end of the list in [`Symbol`] links.
const NONE: u32 = u32::MAX;

/// A token of a word being merged, in a linked list.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
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
    pub(super) fn merge(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = word
            .iter()
            .filter_map(|&b| self.bytes[usize::from(b)])
            .zip(0u32..)
            .map(|(id, at)| Symbol { id, previous: at.wrapping_sub(1), next: at + 1 })
            .collect();
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;

        let mut queue = BinaryHeap::new();
        let push = |queue: &mut BinaryHeap<_>, symbols: &[Symbol], at: u32| {
            let left = symbols[at as usize];
            if left.next != NONE
                && let Some(merge) = self.pairs.get(&(left.id, symbols[left.next as usize].id))
            {
                queue.push(Reverse((merge.rank, at, left.id, symbols[left.next as usize].id, merge.into)));
            }
        };
        for at in 0..symbols.len() as u32 {
            push(&mut queue, &symbols, at);
        }
        while let Some(Reverse((_, at, left, right, into))) = queue.pop() {
            let symbol = symbols[at as usize];
            let next = symbol.next;
            // An entry is stale once either side was merged away.
            if symbol.id != left || next == NONE || symbols[next as usize].id != right {
                continue;
            }
            let after = symbols[next as usize].next;
            symbols[next as usize] = Symbol { id: NONE, previous: NONE, next: NONE };
            symbols[at as usize] = Symbol { id: into, next: after, ..symbol };
            if after != NONE {
                symbols[after as usize].previous = at;
            }
            if symbol.previous != NONE {
                push(&mut queue, &symbols, symbol.previous);
            }
            push(&mut queue, &symbols, at);
        }
        // Only what comes later is ever merged away, so the first symbol is still the head of the list.
        let mut at = 0;
        while at != NONE {
            ids.push(symbols[at as usize].id);
            at = symbols[at as usize].next;
        }
    }
}
