//! WordPiece (Wu et al. 2016) as BERT has it: text in lower case without accents, cut at spaces and punctuation; each word is
//! the longest pieces of the vocabulary from left to right, or unknown as a whole.
//!
//! In the vocabulary a piece that begins a word has a space in front.

use unicode_general_category::{GeneralCategory as G, get_general_category};
use unicode_normalization::UnicodeNormalization;

use super::vocab::Vocab;

/// Longer words are unknown.
const LONGEST: usize = 100;

#[derive(Debug)]
pub(super) struct WordPiece {
    pub unknown: u32,
}

impl WordPiece {
    /// The tokens of a text.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let mut word = String::from(" ");
        for c in text.chars().filter(|c| !is_dropped(*c)) {
            if is_ideograph(c) || c.is_whitespace() {
                self.pieces(vocab, &mut word, ids);
            }
            if c.is_whitespace() {
                continue;
            }
            let plain = std::iter::once(c).nfd().filter(|c| get_general_category(*c) != G::NonspacingMark);
            for lower in plain.flat_map(char::to_lowercase) {
                // A sign may be punctuation only without its accent.
                if is_punctuation(lower) {
                    self.pieces(vocab, &mut word, ids);
                    word.push(lower);
                    self.pieces(vocab, &mut word, ids);
                } else {
                    word.push(lower);
                }
            }
            if is_ideograph(c) {
                self.pieces(vocab, &mut word, ids);
            }
        }
        self.pieces(vocab, &mut word, ids);
    }

    /// The pieces of a word, which is a space afterwards.
    fn pieces(&self, vocab: &Vocab, word: &mut String, ids: &mut Vec<u32>) {
        let (begin, mut rest) = (ids.len(), word.as_str());
        if word.chars().count() > LONGEST + 1 {
            ids.push(self.unknown);
            rest = "";
        }
        while !rest.trim_start().is_empty() {
            let ends = rest.char_indices().map(|(i, c)| i + c.len_utf8()).rev();
            let found = ends.filter_map(|end| Some((end, vocab.find(&rest.as_bytes()[..end])?))).next();
            let Some((end, id)) = found else {
                ids.truncate(begin);
                ids.push(self.unknown);
                break;
            };
            ids.push(id);
            rest = &rest[end..];
        }
        word.truncate(1);
    }
}

fn is_dropped(c: char) -> bool {
    let other = matches!(get_general_category(c), G::Control | G::Format | G::PrivateUse);
    c == '\u{fffd}' || other && !matches!(c, '\t' | '\n' | '\r')
}

fn is_punctuation(c: char) -> bool {
    use G::{
        ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation, InitialPunctuation,
        OpenPunctuation, OtherPunctuation,
    };
    c.is_ascii_punctuation()
        || matches!(
            get_general_category(c),
            ClosePunctuation
                | ConnectorPunctuation
                | DashPunctuation
                | FinalPunctuation
                | InitialPunctuation
                | OpenPunctuation
                | OtherPunctuation
        )
}

/// The blocks of CJK ideographs, each of which is a word.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b820..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}
