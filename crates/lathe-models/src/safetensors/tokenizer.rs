//! From `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` to the metadata that GGUF has of a tokenizer.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{Config, read, read_json};
use super::error::{SafetensorsError, SafetensorsErrorKind as Kind};
use crate::gguf::GgufWriter;

/// Larger files are refused; a vocabulary of 260,000 tokens takes 33 MB.
const MAX_TOKENIZER: u64 = 1 << 26;
const MAX_TEMPLATE: u64 = 1 << 22;
/// A vocabulary has no more tokens, and no higher ids.
const MAX_TOKENS: usize = 1 << 20;

// Token types of GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

#[derive(Deserialize)]
struct Tokenizer {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

/// The part of a model that byte-level BPE needs; a vocabulary of pieces with scores is of another kind.
#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    vocab: Vocabulary,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Ids(HashMap<String, u32>),
    Other(serde::de::IgnoredAny),
}

impl Default for Vocabulary {
    fn default() -> Self {
        Vocabulary::Ids(HashMap::new())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// Writes what the folder has of a tokenizer and a chat template.
pub(super) fn write(folder: &Path, config: &Config, w: &mut GgufWriter) -> Result<(), SafetensorsError> {
    let path = folder.join("tokenizer_config.json");
    let settings = read_json::<Map<String, Value>>(&path, MAX_TEMPLATE)?;
    let settings = Config::new(&path, settings.unwrap_or_default());
    if let Some(template) = template(folder, &settings)? {
        w.str("tokenizer.chat_template", &template);
    }
    let path = folder.join("tokenizer.json");
    let Some(tokenizer) = read_json::<Tokenizer>(&path, MAX_TOKENIZER)? else { return Ok(()) };
    let kind = tokenizer.model.kind.as_deref().unwrap_or("BPE");
    let ids = match (kind, tokenizer.model.byte_fallback, &tokenizer.model.vocab) {
        ("BPE", false, Vocabulary::Ids(ids)) => ids,
        _ => {
            // Named, so that whoever asks for the tokenizer is told which it is.
            w.str("tokenizer.ggml.model", &kind.to_ascii_lowercase());
            return Ok(());
        }
    };
    let size = config.u32("vocab_size")?.unwrap_or(0) as usize;
    let (tokens, types) = vocabulary(ids, &tokenizer.added_tokens, size).map_err(|k| k.at(&path))?;
    w.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", &split(&tokenizer.pre_tokenizer));
    w.strs("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &types);
    let merges: Vec<String> = tokenizer
        .model
        .merges
        .into_iter()
        .map(|m| match m {
            Merge::Line(line) => line,
            Merge::Pair(a, b) => format!("{a} {b}"),
        })
        .collect();
    w.strs("tokenizer.ggml.merges", &merges);

    let id_of = |text: &str| tokens.iter().position(|t| t == text).map(|i| i as u32);
    for name in ["bos", "eos"] {
        let id = match special(&settings, name).and_then(|text| id_of(&text)) {
            Some(id) => Some(id),
            None => first_id(config.value(&format!("{name}_token_id"))),
        };
        if let Some(id) = id {
            w.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    let adds = match settings.bool("add_bos_token")? {
        Some(adds) => adds,
        None => begins_with_special(&tokenizer.post_processor),
    };
    w.bool("tokenizer.ggml.add_bos_token", adds);
    Ok(())
}

/// The tokens by id, and their types; ids that no token has are unused.
fn vocabulary(
    ids: &HashMap<String, u32>,
    added: &[Added],
    size: usize,
) -> Result<(Vec<String>, Vec<i32>), Kind> {
    let all = || ids.iter().map(|(t, i)| (t, *i)).chain(added.iter().map(|a| (&a.content, a.id)));
    let highest = all().map(|(_, id)| id as usize + 1).max().unwrap_or(0).max(size);
    if highest > MAX_TOKENS {
        return Err(Kind::Json(format!("it has ids up to {}, more than {MAX_TOKENS}", highest - 1)));
    }
    let mut tokens: Vec<Option<&String>> = vec![None; highest];
    for (token, id) in all() {
        if let Some(other) = tokens[id as usize].replace(token)
            && other != token
        {
            return Err(Kind::Json(format!("tokens {other:?} and {token:?} have the same id {id}")));
        }
    }
    let mut types: Vec<i32> = tokens.iter().map(|t| if t.is_some() { NORMAL } else { UNUSED }).collect();
    for a in added {
        types[a.id as usize] = if a.special { CONTROL } else { USER_DEFINED };
    }
    let name = |(i, t): (usize, Option<&String>)| t.cloned().unwrap_or_else(|| format!("[PAD{i}]"));
    Ok((tokens.into_iter().enumerate().map(name).collect(), types))
}

/// The name that GGUF gives to a way of cutting text into words; its regular expression where it has none.
fn split(pre: &Value) -> String {
    let steps = match pre.get("pretokenizers").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![pre],
    };
    let kind = |s: &&Value, name: &str| s.get("type").and_then(Value::as_str) == Some(name);
    let pattern = steps
        .iter()
        .filter(|s| kind(s, "Split"))
        .find_map(|s| s.pointer("/pattern/Regex").and_then(Value::as_str));
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    let rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let words = r"|[^\r\n\p{L}\p{N}]?\p{L}+|";
    match pattern {
        Some(p) if p == format!("{contractions}{words}\\p{{N}}{{1,3}}{rest}") => "llama-bpe".to_owned(),
        Some(p) if p == format!("{contractions}{words}\\p{{N}}{rest}") => "qwen2".to_owned(),
        Some(other) => other.to_owned(),
        None if steps.iter().any(|s| kind(s, "Digits")) => "smollm".to_owned(),
        None => "gpt-2".to_owned(),
    }
}

/// The text of a special token: a string, or an object with its content.
fn special(settings: &Config, name: &str) -> Option<String> {
    let value = settings.value(&format!("{name}_token"))?;
    value.as_str().or(value.get("content").and_then(Value::as_str)).map(str::to_owned)
}

/// An id, or the first of several.
fn first_id(value: Option<&Value>) -> Option<u32> {
    let value = value?;
    value.as_array().map_or(Some(value), |all| all.first())?.as_u64()?.try_into().ok()
}

/// Whether a text begins with a special token by the template of one sequence.
fn begins_with_special(post: &Value) -> bool {
    let steps = post.get("processors").and_then(Value::as_array);
    let steps = steps.map_or(vec![post], |all| all.iter().collect());
    steps.iter().any(|s| s.pointer("/single/0/SpecialToken").is_some())
}

/// The chat template: a file of its own, or a setting; of several, the one called `default`.
fn template(folder: &Path, settings: &Config) -> Result<Option<String>, SafetensorsError> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = read(&path, MAX_TEMPLATE)? {
        let text = String::from_utf8(bytes);
        return text.map(Some).map_err(|_| Kind::Json("it is not UTF-8".to_owned()).at(&path));
    }
    let Some(value) = settings.value("chat_template") else { return Ok(None) };
    let default = || {
        let named = |v: &&Value| v.get("name").and_then(Value::as_str) == Some("default");
        value.as_array()?.iter().find(named)?.get("template")?.as_str()
    };
    match value.as_str().or_else(default) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            Err(settings.error("chat_template", "something else", "a string, or a list with a 'default'"))
        }
    }
}
