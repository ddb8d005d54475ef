//! The tokenizer that a model carries, from text to token ids and back.
//!
//! A text is cut at special tokens ([`special`]). What is between becomes tokens by the kind of the vocabulary ([`words`]):
//! byte-level BPE merges the words of the model's pre-tokenizer ([`split`], [`bpe`]); SentencePiece's BPE and unigram models
//! look at parts that begin with a space ([`sentencepiece`]); [`wordpiece`] is BERT's. These are ours, because they are on the
//! way to the first token of every run: building one from a vocabulary of 49,000 takes some milliseconds. What only a
//! `tokenizer.json` can say is left to the `tokenizers` crate ([`described`]), but for kinds that are ours as well ([`native`]).

mod alphabet;
mod bpe;
mod described;
mod error;
mod load;
mod merge;
mod native;
mod sentencepiece;
mod special;
mod split;
mod stream;
mod vocab;
mod wordpiece;
mod words;

pub use error::{TokenizerError, TokenizerErrorKind};
use special::Specials;
pub(crate) use split::name_of as split_name;
pub use stream::StreamDecoder;
use vocab::Vocab;
use words::Words;

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
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Tokenizer {
    /// The token ids of `text`, without what [`with_specials`](Self::with_specials) adds. With `parse_special`, control
    /// tokens written in the text are read as such; without, they are ordinary text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        if let Words::Described(described) = &self.words {
            return described.encode(text, parse_special);
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut rest = text;
        while let Some((range, id)) = self.specials.find(rest, &self.vocab, parse_special) {
            self.words.encode(&self.vocab, &rest[..range.start], &mut ids);
            ids.push(id);
            rest = &rest[range.end..];
        }
        self.words.encode(&self.vocab, rest, &mut ids);
        ids
    }

    /// The tokens of a whole text: `ids` between those that the model puts before and after one.
    pub fn with_specials(&self, ids: Vec<u32>) -> Vec<u32> {
        [&self.before[..], &ids, &self.after].concat()
    }

    /// The text of `ids` as the continuation of another, special tokens included; bytes that are not UTF-8 become U+FFFD.
    /// A model that puts a space before a text has it here at the beginning.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether encoding puts a space before a text, so that [`decode`](Self::decode) has one more.
    pub fn adds_space(&self) -> bool {
        self.words.adds_space()
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
        self.bos.is_some() && self.before.first() == self.bos.as_ref()
    }
}
