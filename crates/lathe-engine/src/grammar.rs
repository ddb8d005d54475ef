//! What an answer may be, token by token: a grammar over bytes, read with a model's tokens.
//!
//! The work on grammars is that of `llguidance`; here is what binds it to a tokenizer, the limits within which a stranger's
//! grammar is read, and the one form that the engine knows of: a [`Constraint`], which says the tokens that may come next.

use std::fmt;
use std::sync::Arc;

use lathe_models::Tokenizer;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::{EngineError, FinishReason};

/// The most bytes of a grammar's text.
const TEXT: usize = 64 << 10;
/// The most values or brackets inside of each other.
const DEPTH: usize = 64;
/// The stack on which a grammar is read: its rules may name each other in a chain as long as its text allows.
const STACK: usize = 64 << 20;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// JSON that a schema accepts; the schema as text.
    Json(String),
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// What a context-free grammar derives, in the notation of Lark as `llguidance` reads it.
    Lark(String),
}

/// Grammars over the tokens of one model.
pub struct Grammars {
    factory: ParserFactory,
    ends: Arc<[u32]>,
}

/// The tokens, as `llguidance` asks for them.
struct Words {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let ids = self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text, false));
        // A vocabulary that lacks a character has another token for it.
        let same = ids.iter().flat_map(|&id| self.trie.token(id)).eq(bytes);
        if same { ids } else { self.trie.greedy_tokenize(bytes) }
    }

    fn tokenize_is_canonical(&self) -> bool {
        // Where encoding adds a space, the middle of a text has other tokens than its beginning.
        !self.tokenizer.adds_space()
    }
}

impl Grammars {
    /// Grammars over a tokenizer's tokens; `ends` are those that end an answer.
    pub fn new(tokenizer: &Arc<Tokenizer>, ends: &[u32]) -> Result<Grammars, EngineError> {
        let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let ends: Vec<u32> = ends.iter().copied().chain(tokenizer.eos()).filter(|&id| id < size).collect();
        let Some(&end) = ends.first() else {
            return Err(EngineError::Grammar { why: "the model has no token that ends an answer".into() });
        };
        let word = |id| match tokenizer.is_control(id) {
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_bytes(id)].concat(),
            false => tokenizer.token_bytes(id).to_vec(),
        };
        let words: Vec<Vec<u8>> = (0..size).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
        let words: TokEnv = Arc::new(Words { trie, tokenizer: tokenizer.clone() });
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&words, InferenceCapabilities::default(), &slices)
            .map_err(|error| refused(&error))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: 50_000,
            max_grammar_size: 100_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Grammars { factory, ends: ends.into() })
    }

    /// Reads a grammar.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, EngineError> {
        let read: Read<Matcher> = stacker::grow(STACK, || {
            let grammar = parsed(grammar)?;
            let mut matcher = Matcher::new(self.factory.create_parser(grammar));
            // The first mask finds what is wrong with lexers too large.
            matcher.compute_mask()?;
            Ok(matcher)
        });
        match read {
            Ok(matcher) => Ok(Constraint { matcher, ends: self.ends.clone() }),
            Err(error) => Err(refused(&error)),
        }
    }
}

type Read<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn parsed(grammar: &Grammar) -> Read<TopLevelGrammar> {
    let length = match grammar {
        Grammar::Json(text) | Grammar::Regex(text) | Grammar::Lark(text) => text.len(),
        Grammar::Choice(texts) => texts.iter().map(String::len).sum(),
    };
    if length > TEXT {
        return Err(format!("it has {length} bytes, at most {TEXT} are read").into());
    }
    Ok(match grammar {
        Grammar::Json(text) => TopLevelGrammar::from_json_schema(schema(text)?),
        Grammar::Regex(text) => {
            shallow(text)?;
            TopLevelGrammar::from_regex(text)
        }
        Grammar::Choice(texts) if texts.is_empty() => return Err("there is nothing to choose from".into()),
        Grammar::Choice(texts) => {
            let texts: Vec<String> =
                texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
            TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
        }
        Grammar::Lark(text) => {
            shallow(text)?;
            TopLevelGrammar::from_lark(text.clone())
        }
    })
}

/// A schema, with the one way to write spaces: a model that may add them anywhere may add them without end.
fn schema(text: &str) -> Read<Value> {
    let mut schema: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    if schema == Value::Bool(true) {
        schema = Value::Object(serde_json::Map::new());
    }
    if !schema.is_object() {
        return Err("a schema is an object".into());
    }
    if depth(&schema) > DEPTH {
        return Err(format!("more than {DEPTH} values are inside of each other").into());
    }
    schema["x-guidance"] = json_spaces();
    Ok(schema)
}

/// What a schema has as `x-guidance` where spaces are written in one way; for those inside of a grammar of Lark.
pub fn json_spaces() -> Value {
    serde_json::json!({ "item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false })
}

/// How deep a value is; the parser of JSON has bounded it.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Refuses a text of brackets in brackets, those in literals included.
fn shallow(text: &str) -> Read<()> {
    let mut open = 0usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > DEPTH {
            return Err(format!("more than {DEPTH} brackets are inside of each other").into());
        }
    }
    Ok(())
}

/// The error of a grammar that cannot be used: the first line of what the reader says.
fn refused(error: &dyn fmt::Display) -> EngineError {
    let text = error.to_string();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    EngineError::Grammar { why: line.chars().take(300).collect() }
}

/// A grammar, and how much of it is read: the tokens that may come next.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    ends: Arc<[u32]>,
}

/// A set of tokens.
pub struct Allowed(SimpleVob);

impl Allowed {
    /// One bit a token, the lowest of each word first.
    pub fn bits(&self) -> &[u32] {
        self.0.as_slice()
    }
}

impl Constraint {
    /// The tokens that may come next; at least one.
    pub fn allowed(&mut self) -> Result<Allowed, EngineError> {
        self.matcher.compute_mask_or_eos().map(Allowed).map_err(|error| refused(&error))
    }

    /// Goes on behind a token. Says whether that ended the text, or completed it so that nothing may follow.
    pub fn take(&mut self, token: u32) -> Result<Option<FinishReason>, EngineError> {
        if self.ends.contains(&token) {
            return Ok(Some(FinishReason::Stop));
        }
        self.matcher.consume_token(token).map_err(|error| refused(&error))?;
        Ok(self.matcher.is_stopped().then_some(FinishReason::Complete))
    }

    /// The tokens that must come next, as far as they are known.
    pub fn forced(&mut self) -> Vec<u32> {
        self.matcher.compute_ff_tokens()
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

#[cfg(test)]
mod tests;
