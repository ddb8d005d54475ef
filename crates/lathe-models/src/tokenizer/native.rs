//! Descriptions for which the loops here make the same tokens as the `tokenizers` crate, several times as fast: BPE of characters with
//! spaces in pieces as Llama 2, Mistral and Gemma have it, BERT's WordPiece, and unigram models without a map of characters.
//!
//! What a description says beyond what is read here leaves it to the crate.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use serde_json::Value;

use super::Words;
use super::load::{UNKNOWN_PENALTY, byte_of};
use super::merge::Merge;
use super::sentencepiece::{Form, Joins, Order, SPACE, Scored, Unigram};
use super::vocab::Vocab;
use super::wordpiece::{LONGEST, OF_DESCRIPTIONS, WordPiece};

/// The words of a description over the vocabulary that was read off it, where all of it is known here.
pub(super) fn words(json: &str, vocab: &Vocab) -> Option<Words> {
    let d: Value = serde_json::from_str(json).ok()?;
    // Tokens are looked for in the text as it stands.
    let plain = |token: &Value| !on(token, "single_word") && !on(token, "normalized");
    if !d["added_tokens"].as_array()?.iter().all(plain) {
        return None;
    }
    match d["model"]["type"].as_str()? {
        "BPE" => pairs(&d, vocab),
        "WordPiece" => pieces(&d, vocab),
        "Unigram" => unigram(&d, vocab),
        _ => None,
    }
}

fn on(of: &Value, key: &str) -> bool {
    of[key].as_bool() == Some(true)
}

fn kind(of: &Value) -> &str {
    of["type"].as_str().unwrap_or("")
}

/// The steps of a sequence, or the only one, or none.
fn steps<'a>(of: &'a Value, name: &str) -> Vec<&'a Value> {
    match of[name].as_array() {
        Some(all) => all.iter().collect(),
        None if of.is_null() => vec![],
        None => vec![of],
    }
}

/// Whether a step writes pieces' sign for spaces.
fn marks_spaces(step: &Value) -> bool {
    kind(step) == "Replace"
        && step.pointer("/pattern/String") == Some(&" ".into())
        && is_mark(&step["content"])
}

fn is_mark(of: &Value) -> bool {
    of.as_str().is_some_and(|s| s.chars().eq([SPACE]))
}

fn pairs(d: &Value, vocab: &Vocab) -> Option<Words> {
    let m = &d["model"];
    let nothing = |key: &str| m[key].is_null() || m[key] == "";
    let known = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"].iter().all(|k| nothing(k));
    if !known || !on(m, "byte_fallback") || on(m, "ignore_merges") {
        return None;
    }
    let prefix = match steps(&d["normalizer"], "normalizers").as_slice() {
        [mark] if marks_spaces(mark) => false,
        [prepend, mark]
            if kind(prepend) == "Prepend" && is_mark(&prepend["prepend"]) && marks_spaces(mark) =>
        {
            true
        }
        _ => return None,
    };
    // Spaces are marks by then: a cut at spaces cuts nothing.
    let cuts_nothing = |s: &&Value| kind(s) == "Split" && s.pointer("/pattern/String") == Some(&" ".into());
    if !steps(&d["pre_tokenizer"], "pretokenizers").iter().all(cuts_nothing) {
        return None;
    }
    let ids = m["vocab"].as_object()?;
    let id = |token: &str| Some(ids.get(token)?.as_u64()? as u32);
    let mut bytes = [None; 256];
    for token in ids.keys() {
        match byte_of(token) {
            Some(b) => bytes[usize::from(b)] = id(token),
            None if vocab.find(token.replace(SPACE, " ").as_bytes()) == id(token) => {}
            None => return None,
        }
    }
    // A character that only texts are searched for is spelled in bytes.
    let piece =
        |t: &Value| t["content"].as_str().is_some_and(|t| t.chars().count() > 1 || ids.contains_key(t));
    if bytes.contains(&None) || !d["added_tokens"].as_array()?.iter().all(piece) {
        return None;
    }
    let mut merges = HashMap::with_hasher(FxBuildHasher);
    for (rank, rule) in (0..).zip(m["merges"].as_array()?) {
        let (left, right) = match rule.as_str() {
            Some(line) => line.split_once(' ')?,
            None => (rule[0].as_str()?, rule[1].as_str()?),
        };
        let into = id(&format!("{left}{right}"))?;
        // A pair that comes again has its last rank in the crate.
        merges.insert((id(left)?, id(right)?), Merge { rank, into });
    }
    let model = Scored { order: Order::Pairs(merges), bytes, unknown: None, prefix };
    Some(Words::Scored { joins: Joins::new(vocab), model: Box::new(model) })
}

fn pieces(d: &Value, vocab: &Vocab) -> Option<Words> {
    let (m, n) = (&d["model"], &d["normalizer"]);
    let accents = n["strip_accents"].is_null() || on(n, "strip_accents");
    let lower = ["clean_text", "handle_chinese_chars", "lowercase"].iter().all(|k| on(n, k));
    let known = m["continuing_subword_prefix"] == "##" && m["max_input_chars_per_word"] == LONGEST;
    if kind(n) != "BertNormalizer"
        || !accents
        || !lower
        || kind(&d["pre_tokenizer"]) != "BertPreTokenizer"
        || !known
    {
        return None;
    }
    let ids = m["vocab"].as_object()?;
    // A token that is looked for in texts is spelled without the space of words' beginnings: it must not be a piece of a word.
    let added: Vec<&str> =
        d["added_tokens"].as_array()?.iter().filter_map(|t| t["content"].as_str()).collect();
    let found = |token: &String| match token.strip_prefix("##") {
        _ if added.contains(&token.as_str()) => None,
        Some(rest) => vocab.find(rest.as_bytes()),
        None => vocab.find(format!(" {token}").as_bytes()),
    };
    let own = |(token, id): (&String, &Value)| found(token).map(u64::from) == id.as_u64();
    let signs = |token: &&str| token.contains(|c: char| c.is_ascii_punctuation());
    if !added.iter().all(signs) || !ids.iter().all(|t| added.contains(&t.0.as_str()) || own(t)) {
        return None;
    }
    let unknown = ids.get(m["unk_token"].as_str()?)?.as_u64()? as u32;
    Some(Words::Pieces(WordPiece { unknown, tables: &OF_DESCRIPTIONS }))
}

fn unigram(d: &Value, vocab: &Vocab) -> Option<Words> {
    let m = &d["model"];
    let cut = &d["pre_tokenizer"];
    let always = cut["prepend_scheme"] == "always" && on(cut, "split");
    if on(m, "byte_fallback") || kind(cut) != "Metaspace" || !always || !is_mark(&cut["replacement"]) {
        return None;
    }
    let (mut compatible, mut runs) = (false, false);
    for step in steps(&d["normalizer"], "normalizers") {
        let joins = step.pointer("/pattern/Regex") == Some(&" {2,}".into()) && step["content"] == " ";
        match kind(step) {
            "NFKC" if !compatible && !runs => compatible = true,
            "Replace" if joins && !runs => runs = true,
            _ => return None,
        }
    }
    let unknown = m["unk_id"].as_u64()? as u32;
    let mut scores = vec![f64::NEG_INFINITY; vocab.len()];
    let (mut lowest, mut longest) = (f64::INFINITY, 0);
    for (id, piece) in m["vocab"].as_array()?.iter().enumerate() {
        let (text, score) = (piece[0].as_str()?.replace(SPACE, " "), piece[1].as_f64()?);
        if vocab.find(text.as_bytes()) != Some(id as u32) {
            return None;
        }
        *scores.get_mut(id)? = score;
        (lowest, longest) = (lowest.min(score), longest.max(text.len()));
    }
    // A token beyond the pieces is no piece.
    if scores.contains(&f64::NEG_INFINITY) || unknown as usize >= scores.len() {
        return None;
    }
    let unknown_score = lowest - UNKNOWN_PENALTY;
    let form = Form::Marked { compatible, runs };
    let model = Unigram { scores, unknown, unknown_score, longest, form };
    Some(Words::Unigram { joins: Joins::none(), model })
}
