//! What a request is answered with when it cannot be served, and why a server does not start.

use std::path::PathBuf;

use axum::http::StatusCode;
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_engine::EngineError;
use lathe_models::ChatError;
use serde_json::{Value, json};
use thiserror::Error;

/// A server that cannot be had.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen: {0}")]
    Listen(std::io::Error),
    /// The system refuses threads, timers or signals.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// A certificate or its key cannot be used.
    #[error("cannot use it for TLS: {why}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The model failed at a request of a batch.
    #[error("the model failed: {why}")]
    Batch {
        /// The request.
        custom_id: String,
        /// What happened.
        why: String,
    },
    /// The server that is measured cannot be reached, or answers with what is not expected.
    #[error("{0}")]
    Peer(String),
}

impl Diagnose for ServeError {
    fn diagnostic(&self) -> Diagnostic {
        let new = |code, fix| Diagnostic::new(code, Fault::Environment, self.to_string()).fix(fix);
        match self {
            ServeError::Listen(_) => new("serve-listen", "choose another --host or --port"),
            ServeError::Start(_) => new("serve-start", "see what limits the system sets"),
            ServeError::Tls { path, .. } => Diagnostic::new("serve-tls", Fault::User, self.to_string())
                .at(path.display().to_string())
                .fix("give a certificate and its key in PEM"),
            ServeError::Batch { custom_id, .. } => new(
                "batch-failed",
                "answers that are there are kept; the same command goes on with the others",
            )
            .at(custom_id.clone()),
            ServeError::Peer(_) => new("bench-peer", "see that the server runs and what it logs"),
        }
    }
}

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field that is wrong.
    pub(crate) param: Option<&'static str>,
    /// Seconds after which it may be tried again.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, retry_after: None }
    }

    /// The request itself is wrong.
    pub(crate) fn bad(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field of the request is wrong.
    pub(crate) fn field(param: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param), ..ApiError::bad(message) }
    }

    /// There are too many requests already.
    pub(crate) fn full() -> ApiError {
        let message = "too many requests are waiting; try again later";
        ApiError { retry_after: Some(1), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// As OpenAI's interface says it.
    pub(crate) fn to_openai(&self) -> Value {
        let code = self.status.as_u16();
        json!({ "error": { "message": self.message, "type": self.kind(), "param": self.param, "code": code } })
    }

    /// As Anthropic's interface says it.
    pub(crate) fn to_anthropic(&self) -> Value {
        json!({ "type": "error", "error": { "type": self.kind(), "message": self.message } })
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let diagnostic = error.diagnostic();
        let status = match diagnostic.fault {
            Fault::User => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, diagnostic.what)
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> ApiError {
        let status = match error.diagnostic().fault {
            Fault::User => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, error.to_string())
    }
}
