//! From the text between special tokens to ids, by the kind of the vocabulary.

use std::borrow::Cow;
use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::bpe::Merges;
use super::described::Described;
use super::merge::Merger;
use super::sentencepiece::{Joins, SPACE, Scored, Unigram};
use super::split::Split;
use super::vocab::Vocab;
use super::wordpiece::WordPiece;

/// How a text becomes tokens.
#[derive(Debug)]
pub(super) enum Words {
    /// With `nfc`, a text is brought into Unicode's form C first.
    Bpe {
        merges: Box<Merges>,
        split: Split,
        nfc: bool,
    },
    Scored {
        model: Box<Scored>,
        joins: Joins,
    },
    Unigram {
        model: Unigram,
        joins: Joins,
    },
    Pieces(WordPiece),
    Described(Box<Described>),
}

impl Words {
    /// Whether a space is put before a text.
    pub(super) fn adds_space(&self) -> bool {
        match self {
            Words::Scored { model, .. } => model.prefix,
            Words::Unigram { model, .. } => model.adds_space(),
            Words::Pieces(_) => true,
            Words::Bpe { .. } | Words::Described(_) => false,
        }
    }

    /// Appends the tokens of a text without special tokens: the whole text, or what is between two of them.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut merger = Merger::default();
        match self {
            Words::Bpe { merges, split, nfc } => {
                let text = match *nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
                    true => Cow::Owned(text.nfc().collect::<String>()),
                    false => Cow::Borrowed(text),
                };
                let mut seen = Seen::new(&text);
                split.words(&text, &mut |word| {
                    seen.append(word, ids, |ids| match vocab.find(word.as_bytes()) {
                        Some(id) if split.whole_words_first() => ids.push(id),
                        _ => merges.merge(word.as_bytes(), &mut merger, ids),
                    });
                });
            }
            Words::Scored { model, joins } => {
                let prefix = if model.prefix { " " } else { "" };
                let text = format!("{prefix}{}", text.replace(SPACE, " "));
                let mut seen = Seen::new(&text);
                joins.parts(&text, &mut |part| {
                    seen.append(part, ids, |ids| model.encode(vocab, part, &mut merger, ids));
                });
            }
            Words::Unigram { model, joins } => {
                let text = model.normalize(text);
                let mut seen = Seen::new(&text);
                let begin = ids.len();
                joins.parts(&text, &mut |part| {
                    let at = ids.len();
                    seen.append(part, ids, |ids| model.encode(vocab, part, ids));
                    // Neighbours that are unknown are one, over the border of parts too.
                    let both =
                        |at: usize| ids[at - 1] == model.unknown && ids.get(at) == Some(&model.unknown);
                    if at > begin && model.joins_unknown() && both(at) {
                        ids.remove(at);
                    }
                });
            }
            Words::Pieces(pieces) => pieces.encode(vocab, text, ids),
            Words::Described(described) => ids.extend(described.encode(text, false)),
        }
    }
}

/// The words of a text that were met, with their tokens.
struct Seen<'a> {
    words: HashMap<&'a str, (u32, u32), FxBuildHasher>,
    ids: Vec<u32>,
}

/// Longer words are seldom met again.
const LONGEST_SEEN: usize = 64;

impl<'a> Seen<'a> {
    fn new(text: &str) -> Seen<'a> {
        let room = (text.len() / 32).min(1 << 14);
        Seen { words: HashMap::with_capacity_and_hasher(room, FxBuildHasher), ids: vec![] }
    }

    /// Appends the tokens of `word`, which `make` makes the first time.
    fn append(&mut self, word: &'a str, ids: &mut Vec<u32>, make: impl FnOnce(&mut Vec<u32>)) {
        if let Some(&(begin, end)) = self.words.get(word) {
            return ids.extend_from_slice(&self.ids[begin as usize..end as usize]);
        }
        let at = ids.len();
        make(ids);
        if word.len() <= LONGEST_SEEN {
            let begin = self.ids.len() as u32;
            self.ids.extend_from_slice(&ids[at..]);
            self.words.insert(word, (begin, self.ids.len() as u32));
        }
    }
}
