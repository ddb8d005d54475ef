//! The objects of OpenAI's interface: what completions and conversations, whole and in pieces, have in common.

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
    pub(crate) fn counted(&self, kind: &str, choices: Vec<Value>, prompt: usize, made: usize) -> Value {
        let mut object = self.object(kind, choices);
        object["usage"] =
            json!({ "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made });
        object
    }
}
