//! Values and errors as responses.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::error::ApiError;

/// An object in JSON.
pub(crate) struct Json(pub(crate) Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0.to_string()).into_response()
    }
}

/// An error as OpenAI's interface says it.
pub(crate) struct OpenAiError(pub(crate) ApiError);

/// An error as Anthropic's interface says it.
pub(crate) struct AnthropicError(pub(crate) ApiError);

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        OpenAiError(error)
    }
}

impl From<ApiError> for AnthropicError {
    fn from(error: ApiError) -> Self {
        AnthropicError(error)
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        respond(&self.0, self.0.to_openai())
    }
}

impl IntoResponse for AnthropicError {
    fn into_response(self) -> Response {
        respond(&self.0, self.0.to_anthropic())
    }
}

fn respond(error: &ApiError, body: Value) -> Response {
    let mut response = (error.status, Json(body)).into_response();
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
