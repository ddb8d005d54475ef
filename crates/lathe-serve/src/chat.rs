//! `/v1/chat/completions`: conversations, with tools.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State as Of};
use axum::response::{IntoResponse, Response};
use lathe_engine::{FinishReason, Grammar};
use lathe_models::{ChatError, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answers::{Answers, best};
use crate::error::ApiError;
use crate::logprobs;
use crate::object::Head;
use crate::params::{Client, Params};
use crate::respond::{Json, OpenAiError};
use crate::service::{State, Text, read};
use crate::stream;
use crate::structure::{self, Structure, ToolChoice};
use crate::tools::{Call, CallFilter};

/// What a piece of an answer is called.
const CHUNK: &str = "chat.completion.chunk";

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Turn>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    #[serde(flatten)]
    structure: Structure,
    #[serde(flatten)]
    params: Params,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Option<Content>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// A message's text, whole or in parts.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Value>),
}

impl Content {
    pub(crate) fn text(self) -> Result<String, ApiError> {
        let part = |part: Value| match part.get("text") {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(ApiError::field("messages", "only parts of text can be read")),
        };
        match self {
            Content::Text(text) => Ok(text),
            Content::Parts(parts) => parts.into_iter().map(part).collect(),
        }
    }
}

impl Turn {
    fn message(mut self) -> Result<Message, ApiError> {
        for call in self.fields.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            // Templates want arguments as an object, the interface has them as its text.
            let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
            if let Some(arguments) = arguments
                && let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
            {
                *arguments = object;
            }
        }
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        let content = self.content.map(Content::text).transpose()?.unwrap_or_default();
        Ok(Message { role, content, fields: self.fields })
    }
}

/// A conversation's prompt.
pub(crate) fn prompt(text: &Text, messages: &[Message], tools: &[Value]) -> Result<Vec<u32>, ApiError> {
    let template = text.template.as_ref().ok_or(ChatError::Missing { path: None })?;
    Ok(lathe_models::chat_tokens(&text.tokenizer, template, messages, tools)?)
}

/// The tools that a model is told of, and whether it must call one.
pub(crate) struct Tools {
    /// As OpenAI's interface has them.
    pub(crate) functions: Vec<Value>,
    pub(crate) names: Vec<String>,
    choice: ToolChoice,
}

impl Tools {
    /// As a conversation names them.
    pub(crate) fn read(tools: Option<Vec<Value>>, choice: Option<&Value>) -> Result<Tools, ApiError> {
        let name = |choice: &Value| {
            choice["function"]["name"].as_str().or(choice["name"].as_str()).map(str::to_owned)
        };
        let (tools, choice) = match choice.map(|choice| (choice.as_str(), name(choice))) {
            None | Some((Some("auto"), _)) => (tools, ToolChoice::Auto),
            Some((Some("none"), _)) => (None, ToolChoice::Auto),
            Some((Some("required" | "any"), _)) => (tools, ToolChoice::Required),
            Some((None, Some(name))) => (tools, ToolChoice::Named(name)),
            Some(_) => {
                let message = "it is 'auto', 'none', 'required' or names a function";
                return Err(ApiError::field("tool_choice", message));
            }
        };
        let functions = tools.unwrap_or_default();
        let names = functions.iter().map(|tool| tool["function"]["name"].as_str().map(str::to_owned));
        let names = names.collect::<Option<Vec<_>>>();
        let names = names.ok_or_else(|| ApiError::field("tools", "a tool is a function with a name"))?;
        Ok(Tools { functions, names, choice })
    }

    /// The grammar of an answer with these tools, or of the structure that is asked for.
    pub(crate) fn grammar(&self, structure: &Structure) -> Result<Option<Grammar>, ApiError> {
        if self.functions.is_empty() && self.choice == ToolChoice::Auto {
            return structure.grammar();
        }
        match (structure.grammar()?, structure::calls(&self.functions, &self.choice)?) {
            (Some(_), Some(_)) => {
                Err(ApiError::field("tool_choice", "an answer can keep to one structure only"))
            }
            (one, other) => Ok(one.or(other)),
        }
    }
}

/// What all chunks have in common.
struct Form {
    text: Arc<Text>,
    head: Head,
    logprobs: bool,
}

pub(crate) async fn chat(
    Of(service): Of<State>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, OpenAiError> {
    let body: Chat = read(&service, request).await?;
    let params = &body.params;
    let text = service.text(params.model.as_deref())?;
    let tools = Tools::read(body.tools, body.tool_choice.as_ref())?;
    let constraint = structure::constraint(&text, tools.grammar(&body.structure)?).await?;
    let messages: Vec<Message> = body.messages.into_iter().map(Turn::message).collect::<Result<_, _>>()?;
    let prompt = prompt(&text, &messages, &tools.functions)?;
    let logprobs = (body.logprobs == Some(true)).then_some(body.top_logprobs.unwrap_or(0));
    let ((n, _), stops) = (params.samples()?, params.stops()?);
    let max_tokens = body.max_completion_tokens.or(body.max_tokens);
    let request = params.request(&service, &text, client, prompt, max_tokens, logprobs, constraint)?;
    let samples = request.samples;
    let mut answers = Answers::start(&service, &text, request, &stops).await?;
    let head = Head::new(&service, &text, "chatcmpl-");
    let form = Form { text, head, logprobs: logprobs.is_some() };
    let filters = vec![CallFilter::new(&tools.names); samples];
    if params.stream == Some(true) {
        let usage = params.stream_options.unwrap_or_default().include_usage == Some(true);
        return Ok(streamed(service, form, answers, filters, usage));
    }
    let all = answers.all().await?;
    let choices = best(all, n).into_iter().map(|piece| {
        let mut filter = CallFilter::new(&tools.names);
        let shown = filter.push(&piece.text);
        let (rest, calls) = filter.finish();
        let content = shown + &rest;
        let mut message = json!({ "role": "assistant", "content": content });
        if !calls.is_empty() {
            message["tool_calls"] = calls.iter().map(|call| tool_call(&service, call)).collect();
            if content.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let scores = form.logprobs.then(|| logprobs::chat(&form.text.tokenizer, &piece.scores));
        let finish = finish(piece.finish, &calls);
        json!({ "index": piece.index, "message": message, "logprobs": scores, "finish_reason": finish })
    });
    let object = form.head.counted("chat.completion", choices.collect(), answers.usage);
    Ok(Json(object).into_response())
}

fn tool_call(service: &State, call: &Call) -> Value {
    let arguments = Value::Object(call.arguments.clone()).to_string();
    let function = json!({ "name": call.name, "arguments": arguments });
    json!({ "id": service.id("call_"), "type": "function", "function": function })
}

fn finish(reason: Option<FinishReason>, calls: &[Call]) -> Option<&'static str> {
    if calls.is_empty() { reason.map(FinishReason::as_str) } else { Some("tool_calls") }
}

fn streamed(
    service: State,
    form: Form,
    mut answers: Answers,
    mut filters: Vec<CallFilter>,
    usage: bool,
) -> Response {
    stream::respond(move |events| async move {
        let chunk = |index: usize, delta: Value, logprobs: Value, finish: Option<&str>| {
            let choice =
                json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
            form.head.object(CHUNK, vec![choice])
        };
        for index in 0..filters.len() {
            let role = json!({ "role": "assistant", "content": "" });
            events.data(&chunk(index, role, Value::Null, None)).await?;
        }
        loop {
            let pieces = match answers.next().await {
                Ok(Some(pieces)) => pieces,
                Ok(None) => break,
                Err(error) => return events.data(&error.to_openai()).await,
            };
            for piece in pieces {
                let filter = &mut filters[piece.index];
                let mut content = filter.push(&piece.text);
                let mut calls = vec![];
                if piece.finish.is_some() {
                    let (rest, found) = filter.finish();
                    content += &rest;
                    calls = found;
                }
                if !content.is_empty() || form.logprobs {
                    let scores = match form.logprobs {
                        true => logprobs::chat(&form.text.tokenizer, &piece.scores),
                        false => Value::Null,
                    };
                    let delta = json!({ "content": content });
                    events.data(&chunk(piece.index, delta, scores, None)).await?;
                }
                for (number, call) in calls.iter().enumerate() {
                    let mut call = tool_call(&service, call);
                    call["index"] = number.into();
                    let delta = json!({ "tool_calls": [call] });
                    events.data(&chunk(piece.index, delta, Value::Null, None)).await?;
                }
                if let Some(finish) = finish(piece.finish, &calls) {
                    events.data(&chunk(piece.index, json!({}), Value::Null, Some(finish))).await?;
                }
            }
        }
        if usage {
            let object = form.head.counted(CHUNK, vec![], answers.usage);
            events.data(&object).await?;
        }
        events.done().await
    })
}
