//! `/v1/completions`: texts go on.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State as Of};
use axum::response::{IntoResponse, Response};
use lathe_engine::FinishReason;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answers::{Answers, Piece, best};
use crate::error::ApiError;
use crate::logprobs::Lists;
use crate::object::{Head, Usage};
use crate::params::{Client, Params};
use crate::respond::{Json, OpenAiError};
use crate::service::{State, Text, read};
use crate::stream;
use crate::structure::{self, Structure};

/// What the objects are called.
const KIND: &str = "text_completion";
/// The most prompts of one request.
const PROMPTS: usize = 1024;

#[derive(Deserialize)]
struct Completion {
    prompt: Prompt,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    suffix: Option<String>,
    #[serde(flatten)]
    structure: Structure,
    #[serde(flatten)]
    params: Params,
}

/// One text or several, as text or as tokens.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// One prompt on its way.
struct Part {
    answers: Answers,
    prompt: Vec<u32>,
    lists: Vec<Lists>,
}

/// What all parts have in common.
struct Form {
    text: Arc<Text>,
    head: Head,
    echo: bool,
    logprobs: bool,
    n: usize,
}

pub(crate) async fn completions(
    Of(service): Of<State>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Result<Response, OpenAiError> {
    let body: Completion = read(&service, request).await?;
    let params = &body.params;
    let text = service.text(params.model.as_deref())?;
    let prompts = tokens(&text, body.prompt);
    if prompts.is_empty() || prompts.len() > PROMPTS {
        return Err(ApiError::field("prompt", format!("there are from 1 to {PROMPTS} prompts")).into());
    }
    if body.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field("suffix", "no text is filled in before a suffix").into());
    }
    let ((n, _), stops) = (params.samples()?, params.stops()?);
    let stream = params.stream == Some(true);
    let usage = params.stream_options.unwrap_or_default().include_usage == Some(true);
    let form = Form {
        text: text.clone(),
        head: Head::new(&service, &text, "cmpl-"),
        echo: body.echo == Some(true),
        logprobs: body.logprobs.is_some(),
        n,
    };
    let constraint = structure::constraint(&text, body.structure.grammar()?).await?;
    let mut parts = Vec::new();
    for prompt in prompts {
        let max_tokens = Some(body.max_tokens.unwrap_or(16));
        let (tokens, logprobs, constraint) = (prompt.clone(), body.logprobs, constraint.clone());
        let mut request =
            params.request(&service, &text, client, tokens, max_tokens, logprobs, constraint)?;
        request.score_prompt = form.echo && form.logprobs;
        let lists = (0..request.samples).map(|_| Lists::default()).collect();
        let answers = Answers::start(&service, &text, request, &stops).await?;
        parts.push(Part { answers, prompt, lists });
    }
    if stream {
        return Ok(streamed(form, parts, usage));
    }
    let (mut choices, mut usage) = (vec![], Usage::default());
    for (number, part) in parts.iter_mut().enumerate() {
        let all = part.answers.all().await?;
        usage += part.answers.usage;
        for mut piece in best(all, form.n) {
            let index = piece.index;
            form.begin(part, index, &mut piece);
            choices.push(form.choice(part, number, piece));
        }
    }
    let object = form.head.counted(KIND, choices, usage);
    Ok(Json(object).into_response())
}

fn tokens(text: &Text, prompt: Prompt) -> Vec<Vec<u32>> {
    let of = |prompt: &String| lathe_models::prompt_tokens(&text.tokenizer, prompt);
    match prompt {
        Prompt::Text(prompt) => vec![of(&prompt)],
        Prompt::Tokens(tokens) => vec![tokens],
        Prompt::Texts(prompts) => prompts.iter().map(of).collect(),
        Prompt::TokenLists(lists) => lists,
    }
}

fn streamed(form: Form, mut parts: Vec<Part>, include_usage: bool) -> Response {
    stream::respond(move |events| async move {
        let mut usage = Usage::default();
        for (number, part) in parts.iter_mut().enumerate() {
            let mut begun = vec![false; part.lists.len()];
            loop {
                let pieces = match part.answers.next().await {
                    Ok(Some(pieces)) => pieces,
                    Ok(None) => break,
                    Err(error) => return events.data(&error.to_openai()).await,
                };
                for mut piece in pieces {
                    let index = piece.index;
                    if !std::mem::replace(&mut begun[index], true) {
                        form.begin(part, index, &mut piece);
                    }
                    let choice = form.choice(part, number, piece);
                    events.data(&form.head.object(KIND, vec![choice])).await?;
                }
            }
            usage += part.answers.usage;
        }
        if include_usage {
            let object = form.head.counted(KIND, vec![], usage);
            events.data(&object).await?;
        }
        events.done().await
    })
}

impl Form {
    /// Puts the prompt before an answer's first piece, where that is wanted.
    fn begin(&self, part: &mut Part, index: usize, piece: &mut Piece) {
        let tokenizer = &self.text.tokenizer;
        if !self.echo {
            return;
        }
        piece.text = tokenizer.decode(&part.prompt) + &piece.text;
        if self.logprobs {
            let lists = &mut part.lists[index];
            lists.given(tokenizer, part.prompt[0]);
            part.answers.prompt.iter().for_each(|score| lists.score(tokenizer, score));
        }
    }

    fn choice(&self, part: &mut Part, number: usize, piece: Piece) -> Value {
        let lists = &mut part.lists[piece.index];
        piece.scores.iter().for_each(|score| lists.score(&self.text.tokenizer, score));
        json!({
            "index": number * self.n + piece.index,
            "text": piece.text,
            "logprobs": if self.logprobs { lists.take() } else { Value::Null },
            "finish_reason": piece.finish.map(FinishReason::as_str),
        })
    }
}
