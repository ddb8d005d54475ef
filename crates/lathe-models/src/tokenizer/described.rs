//! Tokenizers that a `tokenizer.json` describes, for which GGUF has no words: the `tokenizers` crate, whose format that is,
//! makes the ids where our own loops do not ([`native`]). Bytes of tokens are read off the vocabulary, as for all other kinds.

use std::sync::OnceLock;

use serde_json::Value;

use crate::file::ModelFile;

use super::alphabet::append_bytes;
use super::error::TokenizerErrorKind as Kind;
use super::load::{Settings, byte_of};
use super::sentencepiece::SPACE;
use super::special::{CONTROL, Specials, Strip, USER_DEFINED};
use super::vocab::Vocab;
use super::{Tokenizer, Words, native};

/// A vocabulary has no more tokens, and no higher ids.
const MAX_TOKENS: usize = 1 << 20;

/// The crate's tokenizer.
pub(super) struct Described {
    inner: tokenizers::Tokenizer,
    /// The same, but for special tokens, which are ordinary text; made when it is asked for.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
}

impl std::fmt::Debug for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Described").finish_non_exhaustive()
    }
}

impl Described {
    /// The ids of a text; none where the description has no token for what it cannot spell.
    pub(super) fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let tokenizer = match parse_special {
            true => &self.inner,
            false => self.plain.get_or_init(|| {
                let mut plain = self.inner.clone();
                plain.set_encode_special_tokens(true);
                Box::new(plain)
            }),
        };
        tokenizer.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }
}

/// How the text of a token stands for bytes.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    Bytes,
    Pieces,
    Spaces,
}

/// Whether the template for one text names only that text and tokens that are described: the crate takes it to be so.
fn template_holds(processor: &Value) -> Result<(), String> {
    let list = |of: &Value, name| of.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for piece in list(processor, "single") {
        let id = |kind: &str| piece.pointer(&format!("/{kind}/id")).and_then(Value::as_str);
        if id("Sequence").is_some_and(|id| id != "A") {
            return Err("its template for one text has a second one".to_owned());
        }
        if let Some(id) = id("SpecialToken").filter(|&id| processor["special_tokens"].get(id).is_none()) {
            return Err(format!("its template has a token {id:?} that special_tokens does not describe"));
        }
    }
    list(processor, "processors").iter().try_for_each(template_holds)
}

pub(super) fn load(file: &ModelFile, settings: &Settings<'_>, json: &str) -> Result<Tokenizer, Kind> {
    let malformed = |what: String| Kind::Malformed(format!("tokenizer.json cannot be read: {what}"));
    let mut inner: tokenizers::Tokenizer =
        json.parse().map_err(|e: tokenizers::Error| malformed(e.to_string()))?;
    let processor = serde_json::to_value(inner.get_post_processor()).map_err(|e| malformed(e.to_string()))?;
    template_holds(&processor).map_err(malformed)?;
    // A text is never cut short or filled up here.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
    let decoder = serde_json::to_string(&inner.get_decoder()).unwrap_or_default();
    let spelling = match &decoder {
        d if d.contains("\"ByteLevel\"") => Spelling::Bytes,
        d if d.contains("\"WordPiece\"") => Spelling::Pieces,
        _ => Spelling::Spaces,
    };
    let added = inner.get_added_tokens_decoder();
    let all = inner.get_vocab(true);
    let size = all.values().max().map_or(0, |&id| id as usize + 1);
    if size == 0 || size > MAX_TOKENS {
        return Err(malformed(format!("it has {size} tokens; between 1 and {MAX_TOKENS} are read")));
    }
    let mut tokens = vec![None; size];
    for (text, id) in &all {
        tokens[*id as usize] = Some(text.as_str());
    }
    let mut vocab = Vocab::with_capacity(size);
    let mut types = vec![1; size];
    for (id, text) in tokens.iter().enumerate() {
        let text = text.unwrap_or("");
        let literal = added.get(&(id as u32));
        if let Some(token) = literal {
            types[id] = if token.special { CONTROL } else { USER_DEFINED };
        }
        let byte = byte_of(text).filter(|_| literal.is_none() && spelling == Spelling::Spaces);
        let append = |out: &mut Vec<u8>| match (spelling, byte) {
            _ if literal.is_some() => out.extend_from_slice(text.as_bytes()),
            (_, Some(b)) => out.push(b),
            (Spelling::Bytes, _) if append_bytes(text, out) => {}
            (Spelling::Bytes, _) => out.extend_from_slice(text.as_bytes()),
            (Spelling::Pieces, _) => match text.strip_prefix("##") {
                Some(rest) => out.extend_from_slice(rest.as_bytes()),
                None => out.extend_from_slice(format!(" {text}").as_bytes()),
            },
            (Spelling::Spaces, _) => out.extend_from_slice(text.replace(SPACE, " ").as_bytes()),
        };
        vocab.push(byte.is_none() && !text.is_empty(), append);
    }
    let strip = |(id, t): (&u32, &tokenizers::AddedToken)| (*id, Strip { left: t.lstrip, right: t.rstrip });
    let strips = added.iter().filter(|(_, t)| t.lstrip || t.rstrip).map(strip).collect();
    let specials = Specials::new(&vocab, &types).with_strips(strips);

    // What is put around a text is what the description puts around a probe.
    let probe = "a";
    let ids = |add| inner.encode_fast(probe, add).map(|e| e.get_ids().to_vec()).unwrap_or_default();
    let (bare, whole): (Vec<u32>, Vec<u32>) = (ids(false), ids(true));
    let at = whole.windows(bare.len().max(1)).position(|w| w == bare);
    let (before, after) = match at {
        Some(at) => (whole[..at].to_vec(), whole[at + bare.len()..].to_vec()),
        None => (vec![], vec![]),
    };
    let named = |name: &str| -> Result<Option<u32>, Kind> {
        let text = file.find::<&str>(&format!("tokenizer.huggingface.{name}_token"))?;
        Ok(text.and_then(|text| inner.token_to_id(text)).or(settings.id(name, &vocab)?))
    };
    let (bos, eos) = (named("bos")?, named("eos")?);
    let adds_bos = file.find::<bool>("tokenizer.ggml.add_bos_token")?;
    let adds_eos = file.find::<bool>("tokenizer.ggml.add_eos_token")?;
    let words = native::words(json, &vocab)
        .unwrap_or_else(|| Words::Described(Box::new(Described { inner, plain: OnceLock::new() })));
    let mut tokenizer = settings.finish(vocab, specials, words, (bos, eos), (false, false))?;
    // The template of the description decides; the older settings only where it has none.
    if before.is_empty() && after.is_empty() {
        tokenizer.before = bos.filter(|_| adds_bos == Some(true)).into_iter().collect();
        tokenizer.after = eos.filter(|_| adds_eos == Some(true)).into_iter().collect();
    } else {
        (tokenizer.before, tokenizer.after) = (before, after);
    }
    Ok(tokenizer)
}
