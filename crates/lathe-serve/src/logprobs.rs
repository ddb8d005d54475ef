//! How likely tokens were, as the interfaces tell it.

use lathe_engine::TokenScore;
use lathe_models::Tokenizer;
use serde_json::{Map, Value, json};

/// A token as text; one that is no text by its bytes.
fn name(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
    }
}

/// Those of `/v1/chat/completions`.
pub(crate) fn chat(tokenizer: &Tokenizer, scores: &[TokenScore]) -> Value {
    let token = |id: u32, logprob: f64| {
        let bytes = tokenizer.token_bytes(id);
        json!({ "token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes })
    };
    let content = scores.iter().map(|score| {
        let mut object = token(score.token, score.logprob);
        object["top_logprobs"] = score.tops.iter().map(|&(id, logprob)| token(id, logprob)).collect();
        object
    });
    json!({ "content": content.collect::<Vec<_>>() })
}

/// Minus infinity has no name in JSON.
fn finite(logprob: f64) -> f64 {
    logprob.max(-9999.0)
}

/// Those of `/v1/completions`: lists that run along.
#[derive(Default)]
pub(crate) struct Lists {
    tokens: Vec<String>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters so far.
    pub(crate) offset: usize,
}

impl Lists {
    /// A token of which nothing is foretold: the first one.
    pub(crate) fn given(&mut self, tokenizer: &Tokenizer, id: u32) {
        self.push(tokenizer, id, Value::Null, Value::Null);
    }

    /// A token with its score.
    pub(crate) fn score(&mut self, tokenizer: &Tokenizer, score: &TokenScore) {
        let mut tops = Map::new();
        for &(id, logprob) in score.tops.iter().chain([&(score.token, score.logprob)]) {
            tops.entry(name(tokenizer, id)).or_insert_with(|| finite(logprob).into());
        }
        self.push(tokenizer, score.token, finite(score.logprob).into(), tops.into());
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32, logprob: Value, tops: Value) {
        let text = String::from_utf8_lossy(tokenizer.token_bytes(id));
        self.tokens.push(name(tokenizer, id));
        self.token_logprobs.push(logprob);
        self.top_logprobs.push(tops);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
    }

    /// The lists so far, which begin anew; the offset goes on.
    pub(crate) fn take(&mut self) -> Value {
        let all = std::mem::take(self);
        self.offset = all.offset;
        json!({
            "tokens": all.tokens,
            "token_logprobs": all.token_logprobs,
            "top_logprobs": all.top_logprobs,
            "text_offset": all.text_offset,
        })
    }
}
