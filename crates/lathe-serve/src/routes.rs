//! The table of endpoints: what the server answers, and what it says of itself at `/openapi.json`.

use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post};
use serde_json::{Map, Value, json};

use crate::service::State;
use crate::{adapters, app, chat, completions, messages, responses, tokens};

/// An endpoint.
pub(crate) struct Route {
    /// Its path as the router has it.
    pub(crate) path: &'static str,
    /// Its method in small letters.
    method: &'static str,
    about: &'static str,
    /// The fields of its request that must be there, and some of those that may.
    fields: (&'static [&'static str], &'static [&'static str]),
    /// Whether a key is needed where keys are asked for.
    pub(crate) guarded: bool,
    pub(crate) handler: fn() -> MethodRouter<State>,
}

type Fields = (&'static [&'static str], &'static [&'static str]);

const fn reads(
    path: &'static str,
    about: &'static str,
    fields: Fields,
    handler: fn() -> MethodRouter<State>,
) -> Route {
    Route { path, method: "post", about, fields, guarded: true, handler }
}

const fn says(
    path: &'static str,
    about: &'static str,
    guarded: bool,
    handler: fn() -> MethodRouter<State>,
) -> Route {
    Route { path, method: "get", about, fields: (&[], &[]), guarded, handler }
}

/// All of them.
pub(crate) const ROUTES: &[Route] = &[
    reads(
        "/v1/completions",
        "Texts go on",
        (
            &["prompt"],
            &[
                "model",
                "max_tokens",
                "temperature",
                "n",
                "best_of",
                "use_beam_search",
                "length_penalty",
                "early_stopping",
                "stop",
                "stream",
                "logprobs",
                "echo",
                "structured_outputs",
            ],
        ),
        || answer(completions::completions),
    ),
    reads(
        "/v1/chat/completions",
        "A conversation goes on",
        (
            &["messages"],
            &[
                "model",
                "max_completion_tokens",
                "temperature",
                "n",
                "best_of",
                "use_beam_search",
                "length_penalty",
                "early_stopping",
                "stop",
                "stream",
                "tools",
                "tool_choice",
                "response_format",
            ],
        ),
        || answer(chat::chat),
    ),
    reads(
        "/v1/responses",
        "An answer as a list of what was made",
        (
            &["input"],
            &[
                "model",
                "instructions",
                "max_output_tokens",
                "temperature",
                "stream",
                "tools",
                "tool_choice",
                "text",
            ],
        ),
        || answer(responses::responses),
    ),
    reads(
        "/v1/messages",
        "A conversation goes on, as Anthropic's interface has it",
        (
            &["messages", "max_tokens"],
            &["model", "system", "temperature", "stop_sequences", "stream", "tools", "tool_choice"],
        ),
        || answer(messages::messages),
    ),
    reads(
        "/v1/messages/count_tokens",
        "The tokens of such a conversation",
        (&["messages"], &["model", "system", "tools"]),
        || answer(messages::count_tokens),
    ),
    reads("/v1/embeddings", "Texts as vectors", (&["input"], &["model", "encoding_format"]), || {
        answer(tokens::embeddings)
    }),
    reads(
        "/v1/rerank",
        "Documents by how near they are to a query",
        (&["query", "documents"], &["model", "top_n", "return_documents"]),
        || answer(tokens::rerank),
    ),
    reads("/tokenize", "The tokens of a text", (&["prompt"], &["model", "add_special_tokens"]), || {
        answer(tokens::tokenize)
    }),
    reads("/detokenize", "The text of tokens", (&["tokens"], &["model"]), || answer(tokens::detokenize)),
    reads(
        "/v1/load_lora_adapter",
        "An adapter comes beside the model",
        (&["lora_name", "lora_path"], &["load_inplace"]),
        || answer(adapters::load),
    ),
    reads("/v1/unload_lora_adapter", "An adapter goes", (&["lora_name"], &[]), || answer(adapters::unload)),
    says("/v1/models", "The models", true, || get(app::models)),
    says("/v1/models/{*name}", "A model", true, || get(app::model)),
    says("/engine", "What the engine has in hand", true, || get(app::engine)),
    says("/", "A page to chat at", false, || get(app::page)),
    says("/health", "Whether requests are taken", false, || get(app::health)),
    says("/version", "The server's version", false, || get(app::version)),
    says("/metrics", "Numbers for Prometheus", false, || get(app::metrics)),
    says("/openapi.json", "This document", false, || get(app::openapi)),
];

fn answer<H: Handler<T, State>, T: 'static>(handler: H) -> MethodRouter<State> {
    post(handler)
}

/// The table as OpenAPI says it.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let mut operation = json!({
            "summary": route.about,
            "responses": {
                "200": { "description": "as it is asked for" },
                "default": { "description": "an error, with its message" },
            },
        });
        if route.method == "post" {
            let (required, optional) = route.fields;
            let properties: Map<String, Value> =
                required.iter().chain(optional).map(|name| ((*name).to_owned(), json!({}))).collect();
            let schema = json!({ "type": "object", "properties": properties, "required": required });
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        if let Some((_, name)) = route.path.split_once("{*") {
            let name = name.trim_end_matches('}');
            operation["parameters"] =
                json!([{ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }]);
        }
        if route.guarded {
            operation["security"] = json!([{ "key": [] }]);
        }
        paths.insert(route.path.replace("{*", "{"), json!({ route.method: operation }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "lathe serve", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } } },
    })
}
