//! WordPiece (Wu et al. 2016) as BERT has it: text in lower case without accents, cut at spaces and punctuation; each word is
//! the longest pieces of the vocabulary from left to right, or unknown as a whole.
//!
//! In the vocabulary a piece that begins a word has a space in front.

use unicode_categories::UnicodeCategories;
use unicode_general_category::{GeneralCategory as G, get_general_category};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization_alignments::UnicodeNormalization as DescribedNormalization;

use super::vocab::Vocab;

/// Longer words are unknown.
pub(super) const LONGEST: usize = 100;

#[derive(Debug)]
pub(super) struct WordPiece {
    pub unknown: u32,
    pub tables: &'static Tables,
}

/// What characters are, as one version of Unicode has it or another: new ones are nothing in the older.
#[derive(Debug)]
pub(super) struct Tables {
    /// Calls the function with what a character is made of (form D).
    parts: fn(char, &mut dyn FnMut(char)),
    is_accent: fn(char) -> bool,
    is_control: fn(char) -> bool,
    is_punctuation: fn(char) -> bool,
}

/// A new version.
pub(super) static NEW: Tables = Tables {
    parts: |c, each| UnicodeNormalization::nfd(std::iter::once(c)).for_each(each),
    is_accent: |c| get_general_category(c) == G::NonspacingMark,
    is_control: |c| matches!(get_general_category(c), G::Control | G::Format | G::PrivateUse),
    is_punctuation: |c| {
        use G::{
            ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation, InitialPunctuation,
            OpenPunctuation, OtherPunctuation,
        };
        matches!(
            get_general_category(c),
            ClosePunctuation
                | ConnectorPunctuation
                | DashPunctuation
                | FinalPunctuation
                | InitialPunctuation
                | OpenPunctuation
                | OtherPunctuation
        )
    },
};

/// The versions that the crate `tokenizers` has.
pub(super) static OF_DESCRIPTIONS: Tables = Tables {
    parts: |c, each| DescribedNormalization::nfd(std::iter::once(c)).for_each(|(c, _)| each(c)),
    is_accent: UnicodeCategories::is_mark_nonspacing,
    is_control: UnicodeCategories::is_other,
    is_punctuation: UnicodeCategories::is_punctuation,
};

impl WordPiece {
    /// The tokens of a text.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let (mut word, tables) = (String::from(" "), self.tables);
        let is_dropped = |c| c == '\u{fffd}' || (tables.is_control)(c) && !matches!(c, '\t' | '\n' | '\r');
        for c in text.chars().filter(|c| !is_dropped(*c)) {
            if is_ideograph(c) || c.is_whitespace() {
                self.pieces(vocab, &mut word, ids);
            }
            if c.is_whitespace() {
                continue;
            }
            (tables.parts)(c, &mut |part| {
                for lower in
                    Some(part).filter(|c| !(tables.is_accent)(*c)).into_iter().flat_map(char::to_lowercase)
                {
                    // A sign may be punctuation only without its accent.
                    if lower.is_ascii_punctuation() || (tables.is_punctuation)(lower) {
                        self.pieces(vocab, &mut word, ids);
                        word.push(lower);
                        self.pieces(vocab, &mut word, ids);
                    } else {
                        word.push(lower);
                    }
                }
            });
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

/// The blocks of CJK ideographs, each of which is a word; one begins 256 characters late (U+2B920) wherever this is done.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}
