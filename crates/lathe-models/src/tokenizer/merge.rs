//! Merging neighbours in a word: of all pairs the one of the lowest rank becomes one token, the leftmost of equals first,
//! again and again. Byte-pair encoding ranks pairs of tokens, SentencePiece the text that a pair makes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A part of a word: its bytes, and the token that it is or [`NONE`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub begin: u32,
    pub end: u32,
    pub id: u32,
    previous: u32,
    next: u32,
}

/// What a pair becomes, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merge {
    pub rank: u32,
    pub into: u32,
}

/// No token; also the end of the list in [`Symbol`] links.
pub(super) const NONE: u32 = u32::MAX;

/// A word being merged; its memory serves for one word after the other.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// Rank, place, where the right side begins and ends, and the token: stale once either side was merged away.
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32, u32)>>,
}

impl Merger {
    /// Puts another symbol at the word's end.
    pub(super) fn push(&mut self, begin: usize, end: usize, id: u32) {
        let at = self.symbols.len() as u32;
        self.symbols.push(Symbol {
            begin: begin as u32,
            end: end as u32,
            id,
            previous: at.wrapping_sub(1),
            next: at + 1,
        });
    }

    /// Merges by `pair` until nothing is left to merge, and calls `each` with what remains, in order.
    pub(super) fn run(
        &mut self,
        pair: impl Fn(&Symbol, &Symbol) -> Option<Merge>,
        mut each: impl FnMut(&Symbol),
    ) {
        let Merger { symbols, queue } = self;
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;
        let push = |queue: &mut BinaryHeap<_>, symbols: &[Symbol], at: u32| {
            let left = &symbols[at as usize];
            if left.next == NONE {
                return;
            }
            let right = &symbols[left.next as usize];
            if let Some(merge) = pair(left, right) {
                queue.push(Reverse((merge.rank, at, right.begin, right.end, merge.into)));
            }
        };
        for at in 0..symbols.len() as u32 {
            push(queue, symbols, at);
        }
        while let Some(Reverse((_, at, begin, end, into))) = queue.pop() {
            let left = symbols[at as usize];
            // A symbol that was merged into its left neighbour has no bytes.
            if left.end != begin || left.begin == left.end || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            if right.end != end {
                continue;
            }
            symbols[left.next as usize].end = right.begin;
            symbols[at as usize] = Symbol { end, id: into, next: right.next, ..left };
            if right.next != NONE {
                symbols[right.next as usize].previous = at;
            }
            if left.previous != NONE {
                push(queue, symbols, left.previous);
            }
            push(queue, symbols, at);
        }
        // Only what comes later is ever merged away, so the first symbol is still the head of the list.
        let mut at = 0;
        while at != NONE {
            each(&symbols[at as usize]);
            at = symbols[at as usize].next;
        }
        symbols.clear();
    }
}
