//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: adapters come and go while the server runs.
//!
//! A client names a path of the server's files, so both are there only where the server was started for it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State as Of};
use axum::http::StatusCode;
use lathe_diagnostic::Diagnose;
use lathe_models::{Adapter, ModelFile};
use serde::Deserialize;

use crate::error::ApiError;
use crate::respond::OpenAiError;
use crate::service::{Service, State, read};

#[derive(Deserialize)]
struct Load {
    lora_name: String,
    lora_path: PathBuf,
    /// One of this name is replaced.
    load_inplace: Option<bool>,
}

pub(crate) async fn load(Of(service): Of<State>, request: Request<Body>) -> Result<String, OpenAiError> {
    let Load { lora_name: name, lora_path, load_inplace } = read(&service, request).await?;
    let file = updated(&service)?.clone();
    let taken = || ApiError::field("lora_name", format!("there is a model '{name}' already"));
    if name.is_empty() {
        return Err(ApiError::field("lora_name", "it has no name").into());
    }
    let known = service.adapters.read().unwrap_or_else(PoisonError::into_inner).contains_key(&name);
    if (known && load_inplace != Some(true)) || (!known && service.models().iter().any(|m| m.0 == name)) {
        return Err(taken().into());
    }
    let opened = tokio::task::spawn_blocking(move || Adapter::open(&lora_path, &file)).await;
    let stopped = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the adapter could not be read");
    let adapter = opened.map_err(stopped)?.map_err(|error| {
        // Of the server's files, no more is said than what is wrong.
        ApiError::field("lora_path", error.diagnostic().what)
    })?;
    let text = service.text(None)?;
    if known {
        remove(&service, &name);
    }
    let id = text.engine.load_adapter(adapter).await?;
    let with = Arc::new(text.with(&name, id));
    let before = service.adapters.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), with);
    // Somebody else was as fast.
    before.iter().for_each(|other| other.engine.unload_adapter(other.adapter));
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

#[derive(Deserialize)]
struct Unload {
    lora_name: String,
}

pub(crate) async fn unload(Of(service): Of<State>, request: Request<Body>) -> Result<String, OpenAiError> {
    let Unload { lora_name: name } = read(&service, request).await?;
    updated(&service)?;
    match remove(&service, &name) {
        true => Ok(format!("Success: LoRA adapter '{name}' removed successfully.")),
        false => {
            let error = ApiError::new(StatusCode::NOT_FOUND, format!("there is no adapter '{name}' here"));
            Err(ApiError { param: Some("lora_name"), ..error }.into())
        }
    }
}

/// Takes an adapter out; requests that have it go on. Says whether it was there.
fn remove(service: &Service, name: &str) -> bool {
    let removed = service.adapters.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    removed.iter().for_each(|text| text.engine.unload_adapter(text.adapter));
    removed.is_some()
}

/// The model's file, where adapters may come and go.
fn updated(service: &Service) -> Result<&ModelFile, ApiError> {
    service.file.as_ref().ok_or_else(|| {
        let message = "the server was started without --max-loras: no adapter comes or goes";
        ApiError::new(StatusCode::FORBIDDEN, message)
    })
}
