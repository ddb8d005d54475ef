//! From `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` to the metadata that GGUF has of a tokenizer.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{Config, read, read_json};
use super::error::{SafetensorsError, SafetensorsErrorKind as Kind};
use crate::gguf::GgufWriter;
use crate::tokenizer::split_name;

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
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

/// The part of a model that byte-level BPE needs, and what it must not have; a vocabulary of pieces with scores is of
/// another kind.
#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
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
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

/// Writes what the folder has of a tokenizer and a chat template.
pub(super) fn write(folder: &Path, config: &Config, w: &mut GgufWriter) -> Result<(), SafetensorsError> {
    let path = folder.join("tokenizer_config.json");
    let settings = read_json::<Map<String, Value>>(&path, MAX_TEMPLATE)?;
    let settings = Config::new(&path, settings.unwrap_or_default());
    if let Some(template) = template(folder, &settings)? {
        w.str("tokenizer.chat_template", &template);
    }
    if let Some(template) = template_for_tools(folder, &settings)? {
        w.str("tokenizer.chat_template.tool_use", &template);
    }
    let path = folder.join("tokenizer.json");
    let Some(text) = read(&path, MAX_TOKENIZER)? else { return Ok(()) };
    let text = String::from_utf8(text).map_err(|_| Kind::Json("it is not UTF-8".to_owned()).at(&path))?;
    let tokenizer: Tokenizer =
        serde_json::from_str(&text).map_err(|e| Kind::Json(e.to_string()).at(&path))?;
    let (Some((pre, adds)), Vocabulary::Ids(ids)) =
        (byte_level(&tokenizer, &settings), &tokenizer.model.vocab)
    else {
        // GGUF has no words for it: the description goes along as it is.
        w.str("tokenizer.huggingface.json", &text);
        for (name, other) in [("bos", "cls"), ("eos", "sep")] {
            if let Some(text) = special(&settings, name).or_else(|| special(&settings, other)) {
                w.str(&format!("tokenizer.huggingface.{name}_token"), &text);
            }
            if let Some(id) = first_id(config.value(&format!("{name}_token_id"))) {
                w.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
            if let Some(adds) = settings.bool(&format!("add_{name}_token"))? {
                w.bool(&format!("tokenizer.ggml.add_{name}_token"), adds);
            }
        }
        return Ok(());
    };
    let size = config.u32("vocab_size")?.unwrap_or(0) as usize;
    let (tokens, types) = vocabulary(ids, &tokenizer.added_tokens, size).map_err(|k| k.at(&path))?;
    w.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", pre);
    w.bool("tokenizer.ggml.normalize_nfc", !tokenizer.normalizer.is_null());
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
        None => adds,
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

/// The pre-tokenizer's name in GGUF, and whether a text begins with the beginning-of-text token, where the description is
/// of a byte-level BPE that GGUF has words for.
fn byte_level(t: &Tokenizer, settings: &Config) -> Option<(&'static str, bool)> {
    let kind = |v: &Value| v.get("type").and_then(Value::as_str).map(str::to_owned);
    let is = |v: &Value, key: &str, wanted: bool| v.get(key).and_then(Value::as_bool) == Some(wanted);
    let m = &t.model;
    let plain = [&m.dropout, &m.continuing_subword_prefix, &m.end_of_word_suffix]
        .iter()
        .all(|v| v.is_null() || v.as_str() == Some(""));
    let added = t.added_tokens.iter().all(|a| !a.lstrip && !a.rstrip && !a.single_word);
    let form = t.normalizer.is_null() || kind(&t.normalizer).as_deref() == Some("NFC");
    if m.kind.as_deref().unwrap_or("BPE") != "BPE" || m.byte_fallback || !plain || !added || !form {
        return None;
    }
    let steps = match t.pre_tokenizer.get("pretokenizers").and_then(Value::as_array) {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&t.pre_tokenizer),
    };
    let (bytes, cuts) = steps.split_last()?;
    if kind(bytes).as_deref() != Some("ByteLevel") || !is(bytes, "add_prefix_space", false) {
        return None;
    }
    let own = !is(bytes, "use_regex", false);
    let pre = match cuts {
        [] if own && !m.ignore_merges => "gpt-2",
        [digits] if own && !m.ignore_merges && is(digits, "individual_digits", true) => "smollm",
        [cut] if !own && is(cut, "invert", false) && cut.get("behavior")?.as_str()? == "Isolated" => {
            split_name(cut.pointer("/pattern/Regex")?.as_str()?, m.ignore_merges)?
        }
        _ => return None,
    };
    // Of a template only its beginning can be said.
    let adds = match (template_of(&t.post_processor), special(settings, "bos")) {
        (None, _) => false,
        (Some([a]), _) if a.get("Sequence").is_some() => false,
        (Some([bos, a]), Some(name)) if a.get("Sequence").is_some() => {
            if bos.pointer("/SpecialToken/id")?.as_str()? != name {
                return None;
            }
            true
        }
        _ => return None,
    };
    Some((pre, adds))
}

/// The template of one sequence.
fn template_of(post: &Value) -> Option<&[Value]> {
    let steps = match post.get("processors").and_then(Value::as_array) {
        Some(all) => all.as_slice(),
        None => std::slice::from_ref(post),
    };
    steps.iter().find_map(|s| s.get("single")?.as_array()).map(Vec::as_slice)
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

/// The chat template: a file of its own, or a setting; of several, the one called `default`.
fn template(folder: &Path, settings: &Config) -> Result<Option<String>, SafetensorsError> {
    if let Some(text) = text_of(&folder.join("chat_template.jinja"))? {
        return Ok(Some(text));
    }
    let Some(value) = settings.value("chat_template") else { return Ok(None) };
    match value.as_str().or_else(|| named_template(value, "default")) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            Err(settings.error("chat_template", "something else", "a string, or a list with a 'default'"))
        }
    }
}

/// The template for conversations with tools, where there is one of its own.
fn template_for_tools(folder: &Path, settings: &Config) -> Result<Option<String>, SafetensorsError> {
    let file = text_of(&folder.join("additional_chat_templates/tool_use.jinja"))?;
    let setting = settings.value("chat_template").and_then(|v| named_template(v, "tool_use"));
    Ok(file.or(setting.map(str::to_owned)))
}

fn named_template<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let named = |v: &&Value| v.get("name").and_then(Value::as_str) == Some(name);
    value.as_array()?.iter().find(named)?.get("template")?.as_str()
}

fn text_of(path: &Path) -> Result<Option<String>, SafetensorsError> {
    let Some(bytes) = read(path, MAX_TEMPLATE)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Kind::Json("it is not UTF-8".to_owned()).at(path))
}
