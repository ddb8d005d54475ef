//! `/v1/messages` and `/v1/messages/count_tokens`: conversations as Anthropic's interface has them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State as Of};
use axum::response::{IntoResponse, Response};
use lathe_engine::FinishReason;
use lathe_models::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answers::{Answers, Piece};
use crate::chat::{Content, Tools, prompt};
use crate::error::ApiError;
use crate::object::Usage;
use crate::params::{Client, OneOrMany, Params};
use crate::respond::{AnthropicError, Json};
use crate::service::{State, Text, read};
use crate::stream::{self, Events, Gone};
use crate::structure::{self, Structure};
use crate::tools::{Call, CallFilter};

#[derive(Deserialize)]
struct Conversation {
    model: Option<String>,
    messages: Vec<Turn>,
    system: Option<Content>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    max_tokens: Option<usize>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    output_config: Option<Value>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Content,
}

impl Turn {
    /// The turn as templates have it: results of tools are turns of their own.
    fn messages(self) -> Result<Vec<Message>, ApiError> {
        let parts = match self.content {
            Content::Text(text) => return Ok(vec![Message::new(self.role, text)]),
            Content::Parts(parts) => parts,
        };
        let (mut before, mut text, mut calls) = (vec![], String::new(), vec![]);
        for part in parts {
            match part["type"].as_str() {
                Some("text") => text += part["text"].as_str().unwrap_or_default(),
                Some("tool_use") => calls.push(json!({
                    "id": part["id"],
                    "type": "function",
                    "function": { "name": part["name"], "arguments": part["input"] },
                })),
                Some("tool_result") => {
                    let content: Option<Content> = serde_json::from_value(part["content"].clone()).ok();
                    let content = content.map(Content::text).transpose()?.unwrap_or_default();
                    let mut message = Message::new("tool", content);
                    message.fields.insert("tool_call_id".into(), part["tool_use_id"].clone());
                    before.push(message);
                }
                Some("thinking" | "redacted_thinking") => {}
                _ => return Err(ApiError::bad("only text and tools can be read")),
            }
        }
        let mut message = Message::new(self.role, text);
        if !calls.is_empty() {
            message.fields.insert("tool_calls".into(), calls.into());
        }
        if !message.content.is_empty() || !message.fields.is_empty() || before.is_empty() {
            before.push(message);
        }
        Ok(before)
    }
}

/// The prompt of a conversation, and its tools.
fn read_conversation(text: &Text, conversation: &mut Conversation) -> Result<(Vec<u32>, Tools), ApiError> {
    let mut messages = vec![];
    if let Some(system) = conversation.system.take() {
        messages.push(Message::new("system", system.text()?));
    }
    for turn in std::mem::take(&mut conversation.messages) {
        messages.extend(turn.messages()?);
    }
    let tool = |tool: Value| {
        let mut function = Map::new();
        function.insert("name".into(), tool["name"].clone());
        function.insert("description".into(), tool["description"].clone());
        function.insert("parameters".into(), tool["input_schema"].clone());
        if tool["strict"] == true {
            function.insert("strict".into(), true.into());
        }
        json!({ "type": "function", "function": function })
    };
    let tools = conversation.tools.take().map(|tools| tools.into_iter().map(tool).collect());
    // A choice of a tool has its name, any other choice only its type.
    let choice = conversation.tool_choice.take().map(|choice| match choice.get("name") {
        Some(_) => choice,
        None => choice["type"].clone(),
    });
    let tools = Tools::read(tools, choice.as_ref())?;
    Ok((prompt(text, &messages, &tools.functions)?, tools))
}

pub(crate) async fn count_tokens(
    Of(service): Of<State>,
    request: Request<Body>,
) -> Result<Json, AnthropicError> {
    let mut conversation: Conversation = read(&service, request).await?;
    let text = service.text(conversation.model.as_deref())?;
    let (prompt, _) = read_conversation(&text, &mut conversation)?;
    Ok(Json(json!({ "input_tokens": prompt.len() })))
}

/// What an answer is told with.
struct Form {
    service: State,
    text: Arc<Text>,
    id: String,
}

pub(crate) async fn messages(
    Of(service): Of<State>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, AnthropicError> {
    let mut body: Conversation = read(&service, request).await?;
    let text = service.text(body.model.as_deref())?;
    let (prompt, tools) = read_conversation(&text, &mut body)?;
    let schema = body.output_config.as_ref().and_then(|output| output["format"].get("schema")).cloned();
    let structure = schema.map(Structure::of_schema).unwrap_or_default();
    let constraint = structure::constraint(&text, tools.grammar(&structure)?).await?;
    let Some(max_tokens) = body.max_tokens.filter(|&n| n > 0) else {
        return Err(ApiError::bad("max_tokens is missing; it must be at least 1").into());
    };
    let params = Params {
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        stop: body.stop_sequences.map(OneOrMany::Many),
        ..Params::default()
    };
    let stops = params.stops()?;
    let request = params.request(&service, &text, client, prompt, Some(max_tokens), None, constraint)?;
    let mut answers = Answers::start(&service, &text, request, &stops).await?;
    let form = Form { id: service.id("msg_"), service, text };
    let mut filter = CallFilter::new(&tools.names);
    if body.stream == Some(true) {
        return Ok(stream::respond(move |events| async move {
            match form.stream(&events, &mut answers, &mut filter).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => events.named(&error.to_anthropic()).await,
                Err(gone) => Err(gone),
            }
        }));
    }
    let piece = answers.all().await?.swap_remove(0);
    let shown = filter.push(&piece.text);
    let (rest, calls) = filter.finish();
    let shown = shown + &rest;
    let mut content = vec![];
    if !shown.is_empty() || calls.is_empty() {
        content.push(json!({ "type": "text", "text": shown }));
    }
    content.extend(calls.iter().map(|call| form.tool_use(call, Value::Object(call.arguments.clone()))));
    let mut message = form.message(answers.usage);
    message["content"] = content.into();
    message["stop_reason"] = stop_reason(&piece, &calls).into();
    message["stop_sequence"] = piece.stop.into();
    Ok(Json(message).into_response())
}

/// Tokens, as this interface counts them: those found in the cache are not among those read.
fn counted(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.made,
    })
}

fn stop_reason(piece: &Piece, calls: &[Call]) -> &'static str {
    match piece.finish {
        _ if !calls.is_empty() => "tool_use",
        Some(FinishReason::Length) => "max_tokens",
        _ if piece.stop.is_some() => "stop_sequence",
        _ => "end_turn",
    }
}

impl Form {
    fn message(&self, usage: Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.text.name,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": counted(usage),
        })
    }

    fn tool_use(&self, call: &Call, input: Value) -> Value {
        json!({ "type": "tool_use", "id": self.service.id("toolu_"), "name": call.name, "input": input })
    }

    async fn stream(
        &self,
        events: &Events,
        answers: &mut Answers,
        filter: &mut CallFilter,
    ) -> Result<Result<(), ApiError>, Gone> {
        let start = json!({ "type": "message_start", "message": self.message(answers.usage) });
        events.named(&start).await?;
        let begin = |index: usize, block: Value| json!({ "type": "content_block_start", "index": index, "content_block": block });
        let delta = |index: usize, delta: Value| json!({ "type": "content_block_delta", "index": index, "delta": delta });
        let end = |index: usize| json!({ "type": "content_block_stop", "index": index });
        let (mut index, mut open, mut last, mut calls) = (0, false, Piece::default(), vec![]);
        loop {
            let pieces = match answers.next().await {
                Ok(Some(pieces)) => pieces,
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            };
            for piece in pieces {
                let mut text = filter.push(&piece.text);
                if piece.finish.is_some() {
                    let (rest, found) = filter.finish();
                    text += &rest;
                    calls = found;
                }
                if !text.is_empty() {
                    if !open {
                        open = true;
                        events.named(&begin(index, json!({ "type": "text", "text": "" }))).await?;
                    }
                    events.named(&delta(index, json!({ "type": "text_delta", "text": text }))).await?;
                }
                last = piece;
            }
        }
        if open {
            events.named(&end(index)).await?;
            index += 1;
        }
        for call in &calls {
            events.named(&begin(index, self.tool_use(call, json!({})))).await?;
            let input = Value::Object(call.arguments.clone()).to_string();
            let input = json!({ "type": "input_json_delta", "partial_json": input });
            events.named(&delta(index, input)).await?;
            events.named(&end(index)).await?;
            index += 1;
        }
        let reason = json!({ "stop_reason": stop_reason(&last, &calls), "stop_sequence": last.stop });
        let usage = counted(answers.usage);
        events.named(&json!({ "type": "message_delta", "delta": reason, "usage": usage })).await?;
        events.named(&json!({ "type": "message_stop" })).await?;
        Ok(Ok(()))
    }
}
