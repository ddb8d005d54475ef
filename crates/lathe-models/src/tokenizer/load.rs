//! Making a tokenizer from a file's metadata.

use crate::file::ModelFile;
use crate::gguf::StrArray;

use super::alphabet::append_bytes;
use super::bpe::Merges;
use super::error::{TokenizerError, TokenizerErrorKind};
use super::special::{CONTROL, Specials, USER_DEFINED};
use super::split::Split;
use super::vocab::Vocab;
use super::wordpiece::WordPiece;
use super::{Tokenizer, TokenizerErrorKind as Kind, Words};

/// Control tokens that end an answer in one family or another, whatever the metadata says of them.
const END_NAMES: [&str; 9] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endofturn|>",
    "<end_of_turn>",
    "</s>",
];

impl Tokenizer {
    /// The tokenizer that the file carries.
    pub fn from_file(file: &ModelFile) -> Result<Tokenizer, TokenizerError> {
        load(file).map_err(|kind| kind.in_file(file))
    }
}

fn load(file: &ModelFile) -> Result<Tokenizer, TokenizerErrorKind> {
    let model: &str = file.get("tokenizer.ggml.model")?;
    let pieces = match model {
        "gpt2" => false,
        "bert" => true,
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
    let vocab = read_vocab(tokens, &types, pieces)?;
    let specials = Specials::new(&vocab, &types);

    let id = |name: &str| -> Result<Option<u32>, TokenizerErrorKind> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match file.find::<u32>(&key)? {
            Some(id) if id as usize >= vocab.len() => {
                Err(Kind::Malformed(format!("{key} is {id}, but the vocabulary has {} tokens", vocab.len())))
            }
            id => Ok(id),
        }
    };
    // What begins and ends a text of BERT has names of its own in files, one of them misspelt in the format.
    let marker = |name: &str, token: &str| Ok::<_, Kind>(id(name)?.or_else(|| vocab.find(token.as_bytes())));
    let (words, bos, eos) = if pieces {
        let unknown = marker("unknown", "[UNK]")?;
        let unknown =
            unknown.ok_or_else(|| Kind::Malformed("the vocabulary has no unknown token".to_owned()))?;
        let words = Words::Pieces(WordPiece { unknown });
        (words, marker("bos", "[CLS]")?, marker("seperator", "[SEP]")?)
    } else {
        let pre: &str = file.find("tokenizer.ggml.pre")?.unwrap_or("default");
        let split = Split::by_name(pre).ok_or_else(|| Kind::UnsupportedSplit(pre.to_owned()))?;
        let rules: StrArray<'_> = file.get("tokenizer.ggml.merges")?;
        let merges = Box::new(Merges::new(&vocab, rules.iter(), rules.len())?);
        (Words::Bpe { merges, split }, id("bos")?, id("eos")?)
    };
    let named = |name: &str| vocab.find(name.as_bytes()).filter(|&id| specials.is_control(id));
    let eot = id("eot")?
        .or_else(|| ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"].into_iter().find_map(named));
    let mut ends: Vec<u32> = [eos, eot, id("eom")?].into_iter().flatten().collect();
    ends.extend(END_NAMES.into_iter().filter_map(named));
    ends.sort_unstable();
    ends.dedup();
    let add_bos =
        file.find("tokenizer.ggml.add_bos_token")?.unwrap_or(words.begin_with_bos()) && bos.is_some();
    Ok(Tokenizer { vocab, words, specials, bos, eos, eot: eot.filter(|_| eot != eos), ends, add_bos })
}

impl Words {
    fn begin_with_bos(&self) -> bool {
        match self {
            Words::Bpe { split, .. } => split.begins_with_bos(),
            Words::Pieces(_) => true,
        }
    }
}

fn read_vocab(tokens: StrArray<'_>, types: &[i32], pieces: bool) -> Result<Vocab, TokenizerErrorKind> {
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let literal = types.get(i).is_some_and(|&t| t == CONTROL || t == USER_DEFINED);
        let Ok(text) = std::str::from_utf8(token) else {
            return Err(Kind::Malformed(format!("token {i} is not UTF-8")));
        };
        let append = |out: &mut Vec<u8>| {
            if let (true, Some(word)) = (pieces, text.strip_prefix('\u{2581}')) {
                out.push(b' ');
                return out.extend_from_slice(word.as_bytes());
            }
            if pieces {
                return out.extend_from_slice(token);
            }
            // Some files keep added tokens as plain text without marking them.
            if literal || !append_bytes(text, out) {
                out.extend_from_slice(token);
            }
        };
        vocab.push(append).ok_or_else(|| Kind::Malformed("the vocabulary is too large".to_owned()))?;
    }
    Ok(vocab)
}
