//! `/v1/responses`: answers as a list of things made, as OpenAI's newer interface has them. Nothing is stored.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State as Of};
use axum::response::{IntoResponse, Response};
use lathe_engine::FinishReason;
use lathe_models::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answers::Answers;
use crate::chat::{Content, Tools, prompt};
use crate::error::ApiError;
use crate::object::Usage;
use crate::params::{Client, Params};
use crate::respond::{Json, OpenAiError};
use crate::service::{State, Text, read};
use crate::stream::{self, Events, Gone};
use crate::structure::{self, Structure};
use crate::tools::{Call, CallFilter};

#[derive(Deserialize)]
struct Create {
    input: Input,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    text: Option<Value>,
    previous_response_id: Option<String>,
    #[serde(flatten)]
    params: Params,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

impl Input {
    fn messages(self) -> Result<Vec<Message>, ApiError> {
        match self {
            Input::Text(text) => Ok(vec![Message::new("user", text)]),
            Input::Items(items) => items.into_iter().map(message).collect(),
        }
    }
}

/// An item of the input as templates have it.
fn message(item: Map<String, Value>) -> Result<Message, ApiError> {
    let wrong = |message: &str| ApiError::field("input", message);
    let text = |name: &str| {
        let content: Option<Content> =
            serde_json::from_value(item.get(name).cloned().unwrap_or_default()).ok();
        content.map(Content::text).transpose().map(Option::unwrap_or_default)
    };
    match item.get("type").and_then(Value::as_str).unwrap_or("message") {
        "message" => {
            let content = text("content")?;
            let role =
                item.get("role").and_then(Value::as_str).ok_or_else(|| wrong("a message has a role"))?;
            Ok(Message::new(if role == "developer" { "system" } else { role }, content))
        }
        "function_call" => {
            let arguments = text("arguments")?;
            let arguments: Value = serde_json::from_str(&arguments).unwrap_or_else(|_| arguments.into());
            let mut message = Message::new("assistant", "");
            let function = json!({ "name": item["name"], "arguments": arguments });
            let call = json!({ "id": item["call_id"], "type": "function", "function": function });
            message.fields.insert("tool_calls".into(), json!([call]));
            Ok(message)
        }
        "function_call_output" => {
            let mut message = Message::new("tool", text("output")?);
            message.fields.insert("tool_call_id".into(), item.get("call_id").cloned().unwrap_or_default());
            Ok(message)
        }
        _ => Err(wrong("an item is a message, a function_call or a function_call_output")),
    }
}

/// A tool as conversations have it, from one whose function lies a step higher.
fn tool(mut tool: Value) -> Value {
    match tool.as_object_mut() {
        Some(function) if function.get("type").is_some_and(|kind| kind == "function") => {
            let kind = function.remove("type");
            json!({ "type": kind, "function": function })
        }
        _ => tool,
    }
}

/// What a response says of its request.
struct Form {
    service: State,
    text: Arc<Text>,
    id: String,
    item: String,
    created: u64,
    asked: Value,
}

pub(crate) async fn responses(
    Of(service): Of<State>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, OpenAiError> {
    let body: Create = read(&service, request).await?;
    if body.previous_response_id.is_some() {
        return Err(ApiError::field("previous_response_id", "responses are not stored here").into());
    }
    let (params, text) = (&body.params, service.text(body.params.model.as_deref())?);
    let asked = json!({
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": params.temperature.unwrap_or(1.0),
        "top_p": params.top_p.unwrap_or(1.0),
        "tools": body.tools.clone().unwrap_or_default(),
        "tool_choice": body.tool_choice.clone().unwrap_or_else(|| "auto".into()),
        "text": body.text.clone().unwrap_or_else(|| json!({ "format": { "type": "text" } })),
    });
    let format = body.text.as_ref().and_then(|text| text.get("format")).cloned();
    let structure = Structure::of_format(format);
    let tools = body.tools.map(|tools| tools.into_iter().map(tool).collect());
    let tools = Tools::read(tools, body.tool_choice.as_ref())?;
    let constraint = structure::constraint(&text, tools.grammar(&structure)?).await?;
    let system = body.instructions.map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain(body.input.messages()?).collect();
    let prompt = prompt(&text, &messages, &tools.functions)?;
    let stops = params.stops()?;
    let one = Params { n: None, best_of: None, ..params.clone() };
    let request = one.request(&service, &text, client, prompt, body.max_output_tokens, None, constraint)?;
    let mut answers = Answers::start(&service, &text, request, &stops).await?;
    let (id, item, created) = (service.id("resp_"), service.id("msg_"), service.now());
    let form = Form { service, text, id, item, created, asked };
    let mut filter = CallFilter::new(&tools.names);
    if params.stream == Some(true) {
        return Ok(stream::respond(move |events| async move {
            let mut events = Numbered { events, next: 0 };
            match form.stream(&mut events, &mut answers, &mut filter).await? {
                Ok(()) => Ok(()),
                Err(error) => events.send("error", json!({ "message": error.message })).await,
            }
        }));
    }
    let piece = answers.all().await?.swap_remove(0);
    let shown = filter.push(&piece.text);
    let (rest, calls) = filter.finish();
    let mut output = vec![];
    if calls.is_empty() || !(shown.is_empty() && rest.is_empty()) {
        output.push(form.message(&(shown + &rest), status(piece.finish)));
    }
    output.extend(calls.iter().map(|call| form.call(call)));
    Ok(Json(form.response(status(piece.finish), output, Some(&answers))).into_response())
}

fn status(finish: Option<FinishReason>) -> &'static str {
    if finish == Some(FinishReason::Length) { "incomplete" } else { "completed" }
}

/// Events, numbered as they go.
struct Numbered {
    events: Events,
    next: u64,
}

impl Numbered {
    async fn send(&mut self, kind: &str, fields: Value) -> Result<(), Gone> {
        let mut event = json!({ "type": kind, "sequence_number": self.next });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        self.next += 1;
        self.events.named(&event).await
    }
}

impl Form {
    fn response(&self, status: &str, output: Vec<Value>, answers: Option<&Answers>) -> Value {
        let usage = answers.map(|answers| {
            let Usage { prompt, cached, made } = answers.usage;
            json!({
                "input_tokens": prompt,
                "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": 0 },
                "output_tokens": made,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": prompt + made,
            })
        });
        let details = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": details,
            "model": self.text.name,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "store": false,
            "metadata": {},
            "usage": usage,
        });
        if let (Some(response), Value::Object(asked)) = (response.as_object_mut(), &self.asked) {
            response.extend(asked.clone());
        }
        response
    }

    fn message(&self, text: &str, status: &str) -> Value {
        let content = json!([part(text)]);
        json!({ "type": "message", "id": self.item, "status": status, "role": "assistant", "content": content })
    }

    fn call(&self, call: &Call) -> Value {
        let arguments = Value::Object(call.arguments.clone()).to_string();
        let (id, call_id) = (self.service.id("fc_"), self.service.id("call_"));
        json!({
            "type": "function_call", "id": id, "call_id": call_id, "name": call.name,
            "arguments": arguments, "status": "completed",
        })
    }

    async fn stream(
        &self,
        events: &mut Numbered,
        answers: &mut Answers,
        filter: &mut CallFilter,
    ) -> Result<Result<(), ApiError>, Gone> {
        for kind in ["response.created", "response.in_progress"] {
            events.send(kind, json!({ "response": self.response("in_progress", vec![], None) })).await?;
        }
        let place = json!({ "item_id": self.item, "output_index": 0, "content_index": 0 });
        let at = |fields: Value| {
            let mut place = place.clone();
            if let (Some(place), Value::Object(fields)) = (place.as_object_mut(), fields) {
                place.extend(fields);
            }
            place
        };
        let (mut all, mut calls, mut finish) = (String::new(), vec![], None);
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
                    (text, calls, finish) = (text + &rest, found, piece.finish);
                }
                // An answer without any text and call has one empty message.
                let empty = piece.finish.is_some() && calls.is_empty() && all.is_empty();
                if all.is_empty() && (!text.is_empty() || empty) {
                    let mut item = self.message("", "in_progress");
                    item["content"] = json!([]);
                    events
                        .send("response.output_item.added", json!({ "output_index": 0, "item": item }))
                        .await?;
                    events.send("response.content_part.added", at(json!({ "part": part("") }))).await?;
                }
                if !text.is_empty() {
                    let delta = at(json!({ "delta": text, "logprobs": [] }));
                    events.send("response.output_text.delta", delta).await?;
                }
                all += &text;
            }
        }
        let mut output = vec![];
        if !all.is_empty() || calls.is_empty() {
            let item = self.message(&all, status(finish));
            events.send("response.output_text.done", at(json!({ "text": all, "logprobs": [] }))).await?;
            events.send("response.content_part.done", at(json!({ "part": part(&all) }))).await?;
            events.send("response.output_item.done", json!({ "output_index": 0, "item": item })).await?;
            output.push(item);
        }
        for call in &calls {
            let (item, index) = (self.call(call), output.len());
            let mut begun = item.clone();
            (begun["arguments"], begun["status"]) = ("".into(), "in_progress".into());
            let of = |name: &str, value: &Value| json!({ "item_id": item["id"], "output_index": index, "name": item["name"], name: value });
            events
                .send("response.output_item.added", json!({ "output_index": index, "item": begun }))
                .await?;
            let arguments = &item["arguments"];
            events.send("response.function_call_arguments.delta", of("delta", arguments)).await?;
            events.send("response.function_call_arguments.done", of("arguments", arguments)).await?;
            events.send("response.output_item.done", json!({ "output_index": index, "item": item })).await?;
            output.push(item);
        }
        let status = status(finish);
        let response = self.response(status, output, Some(answers));
        events.send(&format!("response.{status}"), json!({ "response": response })).await?;
        Ok(Ok(()))
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
