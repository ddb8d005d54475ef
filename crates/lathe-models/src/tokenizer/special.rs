//! Special tokens in a text: found leftmost, and the longest of those that start at one place.

use std::ops::Range;

use super::vocab::Vocab;

/// Token types of the file that matter here; the others are normal tokens.
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const BYTE: i32 = 6;

/// The tokens that are looked for in a text before it is cut into words.
#[derive(Debug)]
pub(super) struct Specials {
    /// (id, whether it is a control token), longest text first. The unknown token is looked for like a control token.
    tokens: Vec<(u32, bool)>,
    unknown: Vec<u32>,
    first_bytes: [bool; 256],
    /// Tokens that take white space before them, or behind.
    strips: Vec<(u32, Strip)>,
}

/// Which white space around it a token takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    pub left: bool,
    pub right: bool,
}

impl Specials {
    pub(super) fn new(vocab: &Vocab, types: &[i32]) -> Specials {
        let mut tokens: Vec<(u32, bool)> = (0u32..)
            .zip(types)
            .filter(|&(id, t)| matches!(*t, UNKNOWN | CONTROL | USER_DEFINED) && !vocab.bytes(id).is_empty())
            .map(|(id, t)| (id, *t != USER_DEFINED))
            .collect();
        let unknown = (0u32..).zip(types).filter(|(_, t)| **t == UNKNOWN).map(|(id, _)| id).collect();
        tokens.sort_by_key(|&(id, _)| std::cmp::Reverse(vocab.bytes(id).len()));
        let mut first_bytes = [false; 256];
        for &(id, _) in &tokens {
            first_bytes[usize::from(vocab.bytes(id)[0])] = true;
        }
        Specials { tokens, unknown, first_bytes, strips: vec![] }
    }

    /// The same, where these tokens take white space.
    pub(super) fn with_strips(self, strips: Vec<(u32, Strip)>) -> Specials {
        Specials { strips, ..self }
    }

    pub(super) fn is_control(&self, id: u32) -> bool {
        self.tokens.contains(&(id, true)) && !self.unknown.contains(&id)
    }

    /// The first special token in `text`, with the white space that it takes; control tokens only where `control` says so.
    pub(super) fn find(&self, text: &str, vocab: &Vocab, control: bool) -> Option<(Range<usize>, u32)> {
        text.char_indices().filter(|&(at, _)| self.first_bytes[usize::from(text.as_bytes()[at])]).find_map(
            |(at, _)| {
                let rest = &text.as_bytes()[at..];
                let matches = |&&(id, is_control): &&(u32, bool)| {
                    (control || !is_control) && rest.starts_with(vocab.bytes(id))
                };
                let &(id, _) = self.tokens.iter().find(matches)?;
                let end = at + vocab.bytes(id).len();
                // A token that ends inside a character is no text.
                if !text.is_char_boundary(end) {
                    return None;
                }
                let takes = self.strips.iter().find(|s| s.0 == id).map(|s| s.1);
                let left = takes.filter(|s| s.left).map_or(at, |_| text[..at].trim_end().len());
                let right = takes.filter(|s| s.right).map_or("", |_| &text[end..]);
                Some((left..end + (right.len() - right.trim_start().len()), id))
            },
        )
    }
}
