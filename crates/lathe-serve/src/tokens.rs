//! `/tokenize`, `/detokenize` and `/v1/embeddings`.

use axum::body::Body;
use axum::extract::{Request, State as Of};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::OneOrMany;
use crate::respond::{Json, OpenAiError};
use crate::service::{State, read};

#[derive(Deserialize)]
struct Tokenize {
    model: Option<String>,
    #[serde(alias = "content")]
    prompt: String,
    #[serde(default = "yes", alias = "add_special")]
    add_special_tokens: bool,
}

fn yes() -> bool {
    true
}

pub(crate) async fn tokenize(Of(service): Of<State>, request: Request<Body>) -> Result<Json, OpenAiError> {
    let body: Tokenize = read(&service, request).await?;
    let tokenizer = service.tokenizer(body.model.as_deref())?;
    let tokens = match body.add_special_tokens {
        true => lathe_models::prompt_tokens(tokenizer, &body.prompt),
        false => tokenizer.encode(&body.prompt, true),
    };
    Ok(Json(json!({ "count": tokens.len(), "tokens": tokens })))
}

#[derive(Deserialize)]
struct Detokenize {
    model: Option<String>,
    tokens: Vec<u32>,
}

pub(crate) async fn detokenize(Of(service): Of<State>, request: Request<Body>) -> Result<Json, OpenAiError> {
    let body: Detokenize = read(&service, request).await?;
    let text = service.tokenizer(body.model.as_deref())?.decode(&body.tokens);
    Ok(Json(json!({ "prompt": text, "content": text })))
}

#[derive(Deserialize)]
struct Embed {
    model: Option<String>,
    input: Input,
    encoding_format: Option<String>,
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Texts(OneOrMany<String>),
    Tokens(OneOrMany<Vec<u32>>),
}

/// The most texts of one request.
const TEXTS: usize = 2048;

pub(crate) async fn embeddings(Of(service): Of<State>, request: Request<Body>) -> Result<Json, OpenAiError> {
    let body: Embed = read(&service, request).await?;
    let model = service.embedding(body.model.as_deref())?;
    let t = &model.tokenizer;
    let whole =
        |tokens: Vec<u32>| [t.bos().into_iter().collect(), tokens, t.eos().into_iter().collect()].concat();
    let texts: Vec<Vec<u32>> = match body.input {
        Input::Texts(texts) => texts.into_vec().iter().map(|text| whole(t.encode(text, false))).collect(),
        Input::Tokens(lists) => lists.into_vec(),
    };
    if texts.is_empty() || texts.len() > TEXTS {
        return Err(ApiError::field("input", format!("there are from 1 to {TEXTS} texts")).into());
    }
    if texts.iter().flatten().any(|&id| id as usize >= t.vocab_size()) {
        return Err(ApiError::field("input", "there is no such token").into());
    }
    if let Some(long) = texts.iter().map(Vec::len).find(|&tokens| tokens > model.encoder.longest) {
        let message = format!("a text has {long} tokens, the model reads {}", model.encoder.longest);
        return Err(ApiError::field("input", message).into());
    }
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let mut vectors = model.encoder.embed(texts).await?;
    if let Some(dimensions) = body.dimensions
        && vectors.iter().any(|vector| vector.len() != dimensions)
    {
        return Err(ApiError::field("dimensions", "the model's vectors cannot be shortened").into());
    }
    let as_text = match body.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(ApiError::field("encoding_format", "it is 'float' or 'base64'").into()),
    };
    let object = |(index, vector): (usize, Vec<f32>)| {
        let vector: Value = match as_text {
            true => base64(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).into(),
            false => vector.into(),
        };
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<Value> = vectors.drain(..).enumerate().map(object).collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "model": model.name, "data": data, "usage": usage })))
}

/// Bytes as base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, &byte| (word << 8) | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_standard() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (text, expected) in cases {
            assert_eq!(super::base64(text.as_bytes()), expected);
        }
    }
}
