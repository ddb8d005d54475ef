//! What holds for all endpoints, and the small ones.

use std::sync::atomic::Ordering::SeqCst;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Path, Request, State as Of};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Client;
use crate::respond::{AnthropicError, Json, OpenAiError};
use crate::routes::{ROUTES, document};
use crate::service::State;

/// The page, whole: nothing else is fetched.
const PAGE: &str = include_str!("page.html");

/// All endpoints over a service.
pub(crate) fn router(service: State) -> Router {
    let table = |guarded: bool| {
        let of = ROUTES.iter().filter(|route| route.guarded == guarded);
        of.fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
    };
    table(false)
        .merge(table(true).layer(from_fn_with_state(service.clone(), authorize)))
        .fallback(missing)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(service.clone(), count))
        .with_state(service)
}

/// Lets in who has a key, where keys are asked for, and says which client it is.
async fn authorize(Of(service): Of<State>, mut request: Request<Body>, next: Next) -> Response {
    let keys = &service.settings.keys;
    let headers = request.headers();
    let bearer =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let given = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
    // Hashes are compared, so that the time it takes says nothing of the keys.
    let given = blake3::hash(given.unwrap_or_default().as_bytes());
    let found = keys.iter().position(|key| blake3::hash(key.as_bytes()) == given);
    let client = match (keys.is_empty(), found) {
        (true, _) => Client(0),
        (false, Some(index)) => Client(index as u64 + 1),
        (false, None) => {
            let error = ApiError::new(StatusCode::UNAUTHORIZED, "an API key is needed, and this is none");
            return match request.uri().path().starts_with("/v1/messages") {
                true => AnthropicError(error).into_response(),
                false => OpenAiError(error).into_response(),
            };
        }
    };
    request.extensions_mut().insert(client);
    next.run(request).await
}

/// Counts a request and gives it a name, which the response has; a client may have named it.
async fn count(Of(service): Of<State>, request: Request<Body>, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let named = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let named = named.filter(|id| !id.is_empty() && id.len() <= 128).map(str::to_owned);
    let id = named.unwrap_or_else(|| service.id("req_"));
    let mut response = next.run(request).await;
    service.metrics.requests.with_label_values(&[&path, response.status().as_str()]).inc();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("request-id", id.clone());
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

async fn missing() -> OpenAiError {
    OpenAiError(ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
}

async fn wrong_method() -> OpenAiError {
    OpenAiError(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path is asked with another method"))
}

pub(crate) async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, PAGE).into_response()
}

pub(crate) async fn health(Of(service): Of<State>) -> Response {
    match service.draining.load(SeqCst) {
        false => Json(json!({ "status": "ok" })).into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "draining" }))).into_response(),
    }
}

pub(crate) async fn version() -> Json {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

pub(crate) async fn metrics(Of(service): Of<State>) -> Response {
    let load = service.text(None).map(|text| text.engine.load()).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (headers, service.metrics.text(&load)).into_response()
}

/// What the server answers, for programs.
pub(crate) async fn openapi() -> Json {
    Json(document())
}

/// What the page shows of the engine.
pub(crate) async fn engine(Of(service): Of<State>) -> Result<Json, OpenAiError> {
    let engine = service.text(None)?.engine.clone();
    let load = engine.load();
    Ok(Json(json!({
        "requests": engine.pending(),
        "running": load.running,
        "waiting": load.waiting,
        "max_sequences": engine.max_sequences,
        "pages": load.pages.total,
        "pages_held": load.pages.held,
        "pages_shared": load.pages.shared,
        "pages_kept": load.pages.kept,
        "steps": load.steps,
        "computed_tokens": load.computed_tokens,
        "prefix_tokens": load.prefix_tokens,
        "prefix_hits": load.prefix_hits,
        "preemptions": load.preemptions,
        "swap_pages": load.swap.total,
        "swap_pages_held": load.swap.held,
        "swapped_out_pages": load.swapped_out,
        "swapped_in_pages": load.swapped_in,
        "drafted_tokens": load.drafted_tokens,
        "accepted_tokens": load.accepted_tokens,
    })))
}

fn described(service: &State, (name, longest, parent): (String, usize, Option<String>)) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "lathe",
        "max_model_len": longest,
        "parent": parent,
    })
}

pub(crate) async fn models(Of(service): Of<State>) -> Json {
    let data: Vec<Value> = service.models().into_iter().map(|model| described(&service, model)).collect();
    Json(json!({ "object": "list", "data": data }))
}

pub(crate) async fn model(Of(service): Of<State>, Path(name): Path<String>) -> Result<Json, OpenAiError> {
    let found = service.models().into_iter().find(|(known, ..)| *known == name);
    let missing = || ApiError::new(StatusCode::NOT_FOUND, format!("there is no model '{name}' here"));
    Ok(Json(described(&service, found.ok_or_else(missing)?)))
}
