//! Requests from a list instead of from clients: the same endpoints, without a socket. For many answers where nobody waits for
//! a single one; a model larger than the memory is used best so, as each sweep over its weights serves many sequences.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use lathe_engine::Forward;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::app::router;
use crate::error::ServeError;
use crate::service::{EmbeddingModel, Service, Settings, TextModel};

/// How often it is asked whether to go on.
const LOOK: Duration = Duration::from_millis(50);

/// One request of a batch, as OpenAI's batches name its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRequest {
    /// What the answer is known by.
    pub custom_id: String,
    /// The endpoint, `/v1/chat/completions` for example.
    pub url: String,
    /// What is posted there.
    pub body: Value,
}

/// Answers requests, `at_once` of them at a time, and hands each answer over when it is there: a line as OpenAI's batches write
/// it, with an `id`, the `custom_id` and the `response`. What a request is refused for is its answer; where the model fails the batch
/// ends, and nothing is handed over for what was not answered. `goes_on` is asked now and then; says whether it always said yes.
/// `requests` and `answered` may end it with an error of their own.
pub fn batch<F: Forward + Send + 'static, E: From<ServeError>>(
    text: Option<TextModel<F>>,
    embedding: Option<EmbeddingModel>,
    settings: Settings,
    at_once: usize,
    requests: &mut dyn Iterator<Item = Result<BatchRequest, E>>,
    goes_on: &dyn Fn() -> bool,
    answered: &mut dyn FnMut(Value) -> Result<(), E>,
) -> Result<bool, E> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let at_once = at_once.max(1);
    let settings = Settings { keys: Vec::new(), queue: settings.queue.max(at_once), ..settings };
    let body_bytes = settings.body_bytes;
    let service = Service::new(text, embedding, settings)?;
    runtime.map_err(ServeError::Start)?.block_on(async move {
        let router = TowerToHyperService::new(router(service.clone()));
        let mut running = JoinSet::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more = true;
        loop {
            while more && running.len() < at_once {
                match requests.next() {
                    Some(request) => {
                        let BatchRequest { custom_id, url, body } = request?;
                        let asked = asked(&url, &body, body_bytes).map(|asked| router.call(asked));
                        let id = service.id("batch_req_");
                        running.spawn(async move {
                            let response = match asked {
                                Ok(asked) => match asked.await {
                                    Ok(response) => whole(response).await,
                                    Err(never) => match never {},
                                },
                                Err(why) => refusal(&why),
                            };
                            json!({ "id": id, "custom_id": custom_id, "response": response, "error": null })
                        });
                    }
                    None => more = false,
                }
            }
            tokio::select! {
                done = running.join_next() => match done {
                    None => return Ok(true),
                    Some(done) => answered(checked(done.map_err(|error| stopped(&error))?)?)?,
                },
                _ = looks.tick() => if !goes_on() {
                    return Ok(false);
                },
            }
        }
    })
}

/// A request as a client would send it; or why it is none.
fn asked(url: &str, body: &Value, most: usize) -> Result<Request<Body>, String> {
    if body.get("stream").is_some_and(|stream| *stream == Value::Bool(true)) {
        return Err("an answer of a batch is not streamed".into());
    }
    let text = body.to_string();
    if text.len() > most {
        return Err(format!("a request has at most {most} bytes"));
    }
    let request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(text)).map_err(|_| format!("'{url}' is no path"))
}

/// A response with all of its body.
async fn whole(response: axum::response::Response) -> Value {
    let status = response.status();
    match to_bytes(response.into_body(), usize::MAX).await {
        Ok(bytes) => {
            let body = serde_json::from_slice(&bytes);
            let body = body.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            json!({ "status_code": status.as_u16(), "body": body })
        }
        Err(error) => refusal(&format!("the answer broke off: {error}")),
    }
}

fn refusal(why: &str) -> Value {
    let error = json!({ "message": why, "type": "invalid_request_error" });
    json!({ "status_code": StatusCode::BAD_REQUEST.as_u16(), "body": { "error": error } })
}

/// An answer; an error where the model, not the request, is at fault.
fn checked(line: Value) -> Result<Value, ServeError> {
    let response = &line["response"];
    if response["status_code"].as_u64().is_some_and(|status| status < 500) {
        return Ok(line);
    }
    let why = response["body"]["error"]["message"].as_str().unwrap_or("no answer").to_owned();
    Err(ServeError::Batch { custom_id: line["custom_id"].as_str().unwrap_or_default().to_owned(), why })
}

fn stopped(error: &JoinError) -> ServeError {
    ServeError::Start(std::io::Error::other(format!("a request's task ended early: {error}")))
}
