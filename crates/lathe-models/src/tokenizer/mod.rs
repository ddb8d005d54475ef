//! The tokenizer that a GGUF file carries, from text to token ids and back: byte-level BPE, or WordPiece.
//!
//! A text is cut at special tokens. In BPE the rest is cut into words by the model's pre-tokenizer ([`split`]), and each
//! word's bytes are merged pair by pair ([`bpe`]). Building one from a vocabulary of 49,000 takes a few milliseconds, because
//! it is on the way to the first token of every run.

mod alphabet;
mod bpe;
mod error;
mod load;
mod special;
mod split;
mod stream;
mod vocab;
mod wordpiece;

use bpe::Merges;
pub use error::{TokenizerError, TokenizerErrorKind};
use special::Specials;
use split::Split;
pub use stream::StreamDecoder;
use vocab::Vocab;
use wordpiece::WordPiece;

/// How a text becomes tokens.
#[derive(Debug)]
enum Words {
    Bpe { merges: Box<Merges>, split: Split },
    Pieces(WordPiece),
}

/// A tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    words: Words,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    ends: Vec<u32>,
    add_bos: bool,
}

impl Tokenizer {
    /// The token ids of `text`, without a beginning-of-text token. With `parse_special`, control tokens written in the
    /// text are read as such; without, they are ordinary text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut rest = text;
        while let Some((range, id)) = self.specials.find(rest, &self.vocab, parse_special) {
            self.encode_plain(&rest[..range.start], &mut ids);
            ids.push(id);
            rest = &rest[range.end..];
        }
        self.encode_plain(rest, &mut ids);
        ids
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let (merges, split) = match &self.words {
            Words::Pieces(pieces) => return pieces.encode(&self.vocab, text, ids),
            Words::Bpe { merges, split } => (merges, split),
        };
        split.words(text, &mut |word| {
            if split.whole_words_first()
                && let Some(id) = self.vocab.find(word.as_bytes())
            {
                ids.push(id);
            } else {
                merges.merge(word.as_bytes(), ids);
            }
        });
    }

    /// The text of `ids`, special tokens included; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes a token stands for: perhaps a part of a character; none where the id is not of this vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// The token that stands for exactly this text.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.find(text.as_bytes())
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// Whether this is a control token, which is not part of a text.
    pub fn is_control(&self, id: u32) -> bool {
        self.specials.is_control(id)
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The end-of-turn token, where it differs from the end of text.
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// Whether this token ends an answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Whether a prompt of this model begins with [`bos`](Self::bos).
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }
}
