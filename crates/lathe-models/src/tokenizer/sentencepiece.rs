//! Vocabularies of SentencePiece (Kudo and Richardson 2018), in which a space is part of the piece that follows: BPE by score, as
//! Llama 2 has it, and the most probable pieces of a unigram model, as T5 has it.
//!
//! Both look at a text as a whole. No piece has a letter before a space in most vocabularies, so that a text falls into parts
//! there, and a part that comes again need not be computed again.

use std::collections::{HashMap, HashSet};

use rustc_hash::FxBuildHasher;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

use super::merge::{Merge, Merger, NONE};
use super::vocab::Vocab;

/// U+2581, which stands for a space in vocabularies.
pub(super) const SPACE: char = '\u{2581}';

/// BPE of characters: of all neighbours, those that come first in an order become one.
#[derive(Debug)]
pub(super) struct Scored {
    pub order: Order,
    /// The tokens `<0x00>` to `<0xFF>`, for characters that are no piece.
    pub bytes: [Option<u32>; 256],
    pub unknown: Option<u32>,
    /// Whether a space is put before a text.
    pub prefix: bool,
}

/// Which neighbours become one first.
#[derive(Debug)]
pub(super) enum Order {
    /// By the token that they make, lower for a higher score.
    Made(Vec<u32>),
    /// By the two tokens.
    Pairs(HashMap<(u32, u32), Merge, FxBuildHasher>),
}

/// An order of scores in integers, the highest score first.
pub(super) fn rank(score: f32) -> u32 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

impl Scored {
    /// Appends the tokens of a part of a text.
    pub(super) fn encode(&self, vocab: &Vocab, part: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let bytes = part.as_bytes();
        for (at, c) in part.char_indices() {
            let end = at + c.len_utf8();
            match (vocab.find(&bytes[at..end]), &self.order) {
                // A byte is a token by itself, for which there may be a pair.
                (None, Order::Pairs(_)) => {
                    for (at, b) in (at..end).zip(&bytes[at..end]) {
                        merger.push(at, at + 1, self.bytes[usize::from(*b)].unwrap_or(NONE));
                    }
                }
                (id, _) => merger.push(at, end, id.unwrap_or(NONE)),
            }
        }
        merger.run(
            |left, right| match &self.order {
                Order::Made(ranks) => {
                    let into = vocab.find(&bytes[left.begin as usize..right.end as usize])?;
                    Some(Merge { rank: ranks[into as usize], into })
                }
                Order::Pairs(pairs) => pairs.get(&(left.id, right.id)).copied(),
            },
            |s| match s.id {
                NONE => ids.extend(
                    bytes[s.begin as usize..s.end as usize]
                        .iter()
                        .filter_map(|&b| self.bytes[usize::from(b)].or(self.unknown)),
                ),
                id => ids.push(id),
            },
        );
    }
}

/// A unigram model: the pieces whose scores, which are logarithms of probabilities, have the greatest sum.
#[derive(Debug)]
pub(super) struct Unigram {
    pub scores: Vec<f64>,
    pub unknown: u32,
    /// The score of a character that is no piece.
    pub unknown_score: f64,
    /// The length of the longest piece, bytes.
    pub longest: usize,
    pub form: Form,
}

/// What becomes of a text before its pieces are sought.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// Runs of spaces are one, with none at the end and one before a text (`merge_spaces`), else perhaps one before it (`prefix`).
    Spaces { merge_spaces: bool, prefix: bool },
    /// A text is brought into form KC of the version of Unicode that descriptions go by (`compatible`), runs of spaces are one (`runs`),
    /// a space is before it, and what begins with a space has pieces of its own.
    Marked { compatible: bool, runs: bool },
}

impl Unigram {
    /// The text with spaces as the vocabulary has them.
    pub(super) fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 1);
        let (merge_spaces, prefix) = match self.form {
            Form::Spaces { merge_spaces, prefix } => (merge_spaces, prefix),
            Form::Marked { compatible, runs } => {
                let mut push = |c| {
                    if out.is_empty() && !matches!(c, ' ' | SPACE) {
                        out.push(' ');
                    }
                    if !(runs && c == ' ' && out.ends_with(' ')) {
                        out.push(c);
                    }
                };
                match compatible && is_nfkc_quick(text.chars()) != IsNormalized::Yes {
                    true => text.nfkc().for_each(|(c, _)| push(c)),
                    false => text.chars().for_each(&mut push),
                }
                return out.replace(SPACE, " ");
            }
        };
        if merge_spaces {
            for word in text.split(' ').filter(|w| !w.is_empty()) {
                out.push(' ');
                out.push_str(word);
            }
            return out.replace(SPACE, " ");
        }
        let word = text.trim_start_matches(' ');
        out.push_str(&text[..text.len() - word.len()]);
        if prefix && !word.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        out.replace(SPACE, " ")
    }

    /// Whether a space is put before a text.
    pub(super) fn adds_space(&self) -> bool {
        match self.form {
            Form::Spaces { merge_spaces, prefix } => merge_spaces || prefix,
            Form::Marked { .. } => true,
        }
    }

    /// Whether neighbours that are unknown are one over the border of parts, too.
    pub(super) fn joins_unknown(&self) -> bool {
        matches!(self.form, Form::Spaces { .. })
    }

    /// Appends the tokens of a part of a text (Viterbi 1967).
    pub(super) fn encode(&self, vocab: &Vocab, part: &str, ids: &mut Vec<u32>) {
        let bytes = part.as_bytes();
        // By the end of a prefix: its score, where its last piece begins, and that piece.
        let mut best: Vec<(f64, u32, u32)> = vec![(f64::NEG_INFINITY, 0, NONE); bytes.len() + 1];
        best[0].0 = 0.0;
        for (at, c) in part.char_indices() {
            let before = best[at].0;
            let first = at + c.len_utf8();
            let mut end = first;
            let mut single = false;
            loop {
                if let Some(id) = vocab.find(&bytes[at..end]) {
                    let score = before + self.scores[id as usize];
                    single |= end == first;
                    if score > best[end].0 {
                        best[end] = (score, at as u32, id);
                    }
                }
                let Some(next) = part[end..].chars().next() else { break };
                end += next.len_utf8();
                if end - at > self.longest {
                    break;
                }
            }
            if !single && before + self.unknown_score > best[first].0 {
                best[first] = (before + self.unknown_score, at as u32, self.unknown);
            }
        }
        let (begin, mut end) = (ids.len(), bytes.len());
        while end > 0 {
            let (_, at, id) = best[end];
            // Neighbours that are unknown are one.
            if !(id == self.unknown && ids.len() > begin && ids.last() == Some(&id)) {
                ids.push(id);
            }
            end = at as usize;
        }
        ids[begin..].reverse();
    }
}

/// The characters after which a space does not begin a new part, because some piece has both.
#[derive(Debug)]
pub(super) struct Joins(HashSet<char, FxBuildHasher>);

impl Joins {
    /// Each space begins a part.
    pub(super) fn none() -> Joins {
        Joins(HashSet::default())
    }

    pub(super) fn new(vocab: &Vocab) -> Joins {
        let mut joins = HashSet::default();
        for id in 0..vocab.len() as u32 {
            let bytes = vocab.bytes(id);
            for at in (1..bytes.len()).filter(|&at| bytes[at] == b' ') {
                let before = std::str::from_utf8(&bytes[..at]).ok().and_then(|t| t.chars().next_back());
                joins.extend(before);
            }
        }
        Joins(joins)
    }

    /// Calls `part` with the parts of a text in order; together they are the text.
    pub(super) fn parts<'a>(&self, text: &'a str, part: &mut dyn FnMut(&'a str)) {
        let mut begin = 0;
        for (at, _) in text.match_indices(' ') {
            let before = text[begin..at].chars().next_back();
            if before.is_some_and(|c| !self.0.contains(&c)) {
                part(&text[begin..at]);
                begin = at;
            }
        }
        if begin < text.len() {
            part(&text[begin..]);
        }
    }
}
