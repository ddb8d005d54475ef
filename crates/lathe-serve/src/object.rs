//! The objects of OpenAI's interface: what completions and conversations, whole and in pieces, have in common.

use std::ops::AddAssign;

use serde_json::{Value, json};

use crate::service::{Service, Text};

/// What all objects of one request say.
pub(crate) struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    /// For a request whose name begins so.
    pub(crate) fn new(service: &Service, text: &Text, prefix: &str) -> Head {
        Head { id: service.id(prefix), created: service.now(), model: text.name.clone() }
    }

    /// An object with these choices.
    pub(crate) fn object(&self, kind: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// An object that says what was read and made.
    pub(crate) fn counted(&self, kind: &str, choices: Vec<Value>, usage: Usage) -> Value {
        let mut object = self.object(kind, choices);
        object["usage"] = json!({
            "prompt_tokens": usage.prompt,
            "prompt_tokens_details": { "cached_tokens": usage.cached },
            "completion_tokens": usage.made,
            "total_tokens": usage.prompt + usage.made,
        });
        object
    }
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Of the prompt.
    pub(crate) prompt: usize,
    /// Of these, those that were found in the cache.
    pub(crate) cached: usize,
    /// Of the answers.
    pub(crate) made: usize,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.made += other.made;
    }
}
