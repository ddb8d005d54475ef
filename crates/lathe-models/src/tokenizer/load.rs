//! Making a tokenizer from a file's metadata.

use crate::file::ModelFile;
use crate::gguf::StrArray;

use super::alphabet::append_bytes;
use super::bpe::Merges;
use super::error::{TokenizerError, TokenizerErrorKind as Kind};
use super::sentencepiece::{Form, Joins, Order, SPACE, Scored, Unigram, rank};
use super::special::{BYTE, CONTROL, Specials, UNKNOWN, USER_DEFINED};
use super::split::Split;
use super::vocab::Vocab;
use super::wordpiece::{NEW, WordPiece};
use super::{Tokenizer, Words, described};

/// Control tokens that end an answer in one family or another, whatever the metadata says of them.
const END_NAMES: [&str; 10] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endofturn|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "</s>",
];

/// What a character that is no piece costs beyond the rarest piece of a unigram model.
pub(super) const UNKNOWN_PENALTY: f64 = 10.0;

impl Tokenizer {
    /// The tokenizer that the file carries.
    pub fn from_file(file: &ModelFile) -> Result<Tokenizer, TokenizerError> {
        load(file).map_err(|kind| kind.in_file(file))
    }
}

/// What the metadata says of all kinds of tokenizers.
pub(super) struct Settings<'a> {
    file: &'a ModelFile,
}

impl Settings<'_> {
    /// The id that `tokenizer.ggml.NAME_token_id` gives.
    pub(super) fn id(&self, name: &str, vocab: &Vocab) -> Result<Option<u32>, Kind> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.file.find::<u32>(&key)? {
            Some(id) if id as usize >= vocab.len() => {
                Err(Kind::Malformed(format!("{key} is {id}, but the vocabulary has {} tokens", vocab.len())))
            }
            id => Ok(id),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Kind> {
        Ok(self.file.find(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
    }

    /// The tokenizer of these parts; what begins and ends a text is added where the file says so, or as `adds` says.
    pub(super) fn finish(
        &self,
        vocab: Vocab,
        specials: Specials,
        words: Words,
        (bos, eos): (Option<u32>, Option<u32>),
        adds: (bool, bool),
    ) -> Result<Tokenizer, Kind> {
        let named = |name: &str| vocab.find(name.as_bytes()).filter(|&id| specials.is_control(id));
        let turns = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];
        let eot = self.id("eot", &vocab)?.or_else(|| turns.into_iter().find_map(named));
        let mut ends: Vec<u32> = [eos, eot, self.id("eom", &vocab)?].into_iter().flatten().collect();
        ends.extend(END_NAMES.into_iter().filter_map(named));
        ends.sort_unstable();
        ends.dedup();
        let before = bos.filter(|_| adds.0).into_iter().collect();
        let after = eos.filter(|_| adds.1).into_iter().collect();
        let eot = eot.filter(|_| eot != eos);
        Ok(Tokenizer { vocab, words, specials, bos, eos, eot, ends, before, after })
    }
}

fn load(file: &ModelFile) -> Result<Tokenizer, Kind> {
    let settings = Settings { file };
    if let Some(json) = file.find::<&str>("tokenizer.huggingface.json")?
        && file.find::<&str>("tokenizer.ggml.model")?.is_none()
    {
        return described::load(file, &settings, json);
    }
    let model: &str = file.get("tokenizer.ggml.model")?;
    let read = match model {
        "gpt2" => byte_level,
        "llama" => scored,
        "t5" => unigram,
        "bert" => wordpiece,
        _ => return Err(Kind::UnsupportedModel(model.to_owned())),
    };
    let tokens: StrArray<'_> = file.get("tokenizer.ggml.tokens")?;
    if tokens.is_empty() {
        return Err(Kind::Malformed("the vocabulary is empty".to_owned()));
    }
    let types: Vec<i32> = file.find("tokenizer.ggml.token_type")?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        let what = format!("the vocabulary has {} tokens but {} token types", tokens.len(), types.len());
        return Err(Kind::Malformed(what));
    }
    let vocab = read_vocab(tokens, &types, model)?;
    let specials = Specials::new(&vocab, &types);
    read(&settings, vocab, specials, &types)
}

fn byte_level(s: &Settings<'_>, vocab: Vocab, specials: Specials, _: &[i32]) -> Result<Tokenizer, Kind> {
    let pre: &str = s.file.find("tokenizer.ggml.pre")?.unwrap_or("default");
    let split = Split::by_name(pre).ok_or_else(|| Kind::UnsupportedSplit(pre.to_owned()))?;
    let rules: StrArray<'_> = s.file.get("tokenizer.ggml.merges")?;
    let merges = Box::new(Merges::new(&vocab, rules.iter(), rules.len())?);
    let ends = (s.id("bos", &vocab)?, s.id("eos", &vocab)?);
    let adds = (s.flag("add_bos_token", split.begins_with_bos())?, s.flag("add_eos_token", false)?);
    let nfc = s.flag("normalize_nfc", false)?;
    s.finish(vocab, specials, Words::Bpe { merges, split, nfc }, ends, adds)
}

fn scores(s: &Settings<'_>, vocab: &Vocab) -> Result<Vec<f32>, Kind> {
    let scores: Vec<f32> = s.file.get("tokenizer.ggml.scores")?;
    match scores.len() == vocab.len() {
        true => Ok(scores),
        false => Err(Kind::Malformed(format!(
            "the vocabulary has {} tokens but {} scores",
            vocab.len(),
            scores.len()
        ))),
    }
}

fn scored(s: &Settings<'_>, vocab: Vocab, specials: Specials, types: &[i32]) -> Result<Tokenizer, Kind> {
    let ranks = scores(s, &vocab)?.into_iter().map(rank).collect();
    let mut bytes = [None; 256];
    for (id, _) in (0u32..).zip(types).filter(|(_, t)| **t == BYTE) {
        if let [b] = *vocab.bytes(id) {
            bytes[usize::from(b)] = Some(id);
        }
    }
    let unknown = s.id("unknown", &vocab)?.or_else(|| vocab.find(b"<unk>"));
    let named = |name: &str| vocab.find(name.as_bytes()).filter(|&id| specials.is_control(id));
    let ends =
        (s.id("bos", &vocab)?.or_else(|| named("<s>")), s.id("eos", &vocab)?.or_else(|| named("</s>")));
    let adds = (s.flag("add_bos_token", true)?, s.flag("add_eos_token", false)?);
    let model =
        Scored { order: Order::Made(ranks), bytes, unknown, prefix: s.flag("add_space_prefix", true)? };
    let words = Words::Scored { joins: Joins::new(&vocab), model: Box::new(model) };
    s.finish(vocab, specials, words, ends, adds)
}

fn unigram(s: &Settings<'_>, vocab: Vocab, specials: Specials, types: &[i32]) -> Result<Tokenizer, Kind> {
    if s.file.keys().contains(&"tokenizer.ggml.precompiled_charsmap") {
        return Err(Kind::UnsupportedModel("t5 with a precompiled map of characters".to_owned()));
    }
    let scores = scores(s, &vocab)?;
    let is = |id: usize, t: i32| types.get(id) == Some(&t);
    let normal = scores.iter().enumerate().filter(|&(id, _)| types.is_empty() || is(id, 1)).map(|(_, s)| *s);
    let lowest = normal.fold(f32::INFINITY, f32::min);
    let unknown = s.id("unknown", &vocab)?.unwrap_or(2);
    if unknown as usize >= vocab.len() {
        return Err(Kind::Malformed("the vocabulary has no unknown token".to_owned()));
    }
    let model = Unigram {
        // A user-defined token is taken wherever it stands.
        scores: (0..)
            .zip(&scores)
            .map(|(i, &s)| if is(i, USER_DEFINED) { 0.0 } else { f64::from(s) })
            .collect(),
        unknown,
        unknown_score: f64::from(lowest) - UNKNOWN_PENALTY,
        longest: (0..vocab.len() as u32).map(|id| vocab.bytes(id).len()).max().unwrap_or(0),
        form: Form::Spaces {
            merge_spaces: s.flag("remove_extra_whitespaces", false)?,
            prefix: s.flag("add_space_prefix", false)?,
        },
    };
    let ends = (s.id("bos", &vocab)?, s.id("eos", &vocab)?);
    let adds = (s.flag("add_bos_token", false)?, s.flag("add_eos_token", true)?);
    let words = Words::Unigram { joins: Joins::new(&vocab), model };
    s.finish(vocab, specials, words, ends, adds)
}

fn wordpiece(s: &Settings<'_>, vocab: Vocab, specials: Specials, _: &[i32]) -> Result<Tokenizer, Kind> {
    // What begins and ends a text of BERT has names of its own in files, one of them misspelt in the format.
    let marker =
        |name: &str, token: &str| Ok::<_, Kind>(s.id(name, &vocab)?.or_else(|| vocab.find(token.as_bytes())));
    let unknown = marker("unknown", "[UNK]")?;
    let unknown = unknown.ok_or_else(|| Kind::Malformed("the vocabulary has no unknown token".to_owned()))?;
    let ends = (marker("bos", "[CLS]")?, marker("seperator", "[SEP]")?);
    let adds = (s.flag("add_bos_token", true)?, s.flag("add_sep_token", true)?);
    s.finish(vocab, specials, Words::Pieces(WordPiece { unknown, tables: &NEW }), ends, adds)
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn read_vocab(tokens: StrArray<'_>, types: &[i32], model: &str) -> Result<Vocab, Kind> {
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let kind = types.get(i).copied().unwrap_or(1);
        let Ok(text) = std::str::from_utf8(token) else {
            return Err(Kind::Malformed(format!("token {i} is not UTF-8")));
        };
        let append = |out: &mut Vec<u8>| match model {
            _ if matches!(kind, CONTROL | USER_DEFINED | UNKNOWN) => out.extend_from_slice(token),
            // Some files keep added tokens as plain text without marking them.
            "gpt2" if append_bytes(text, out) => {}
            "gpt2" => out.extend_from_slice(token),
            "bert" => match text.strip_prefix(SPACE) {
                Some(word) => out.extend_from_slice(&[b" ", word.as_bytes()].concat()),
                None => out.extend_from_slice(token),
            },
            _ => match byte_of(text).filter(|_| kind == BYTE) {
                Some(b) => out.push(b),
                None => out.extend_from_slice(text.replace(SPACE, " ").as_bytes()),
            },
        };
        // A byte is found by its place; the pieces of a unigram model are those of a text.
        let found = kind != BYTE && !(model == "t5" && matches!(kind, CONTROL | UNKNOWN));
        vocab.push(found, append).ok_or_else(|| Kind::Malformed("the vocabulary is too large".to_owned()))?;
    }
    Ok(vocab)
}
