//! `/tokenize`, `/detokenize`, `/v1/embeddings` and `/v1/rerank`.

use axum::body::Body;
use axum::extract::{Request, State as Of};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::OneOrMany;
use crate::respond::{Json, OpenAiError};
use crate::service::{Embedding, State, read};

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
        true => lathe_models::prompt_tokens(&tokenizer, &body.prompt),
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

/// The tokens of a text with those that stand around one.
fn whole(model: &Embedding, text: &str) -> Vec<u32> {
    model.tokenizer.with_specials(model.tokenizer.encode(text, false))
}

/// The vectors of texts, which come from the field `param`, and how many tokens these have.
async fn vectors(
    model: &Embedding,
    texts: Vec<Vec<u32>>,
    param: &'static str,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    if texts.is_empty() || texts.len() > TEXTS {
        return Err(ApiError::field(param, format!("there are from 1 to {TEXTS} texts")));
    }
    if texts.iter().flatten().any(|&id| id as usize >= model.tokenizer.vocab_size()) {
        return Err(ApiError::field(param, "there is no such token"));
    }
    if let Some(long) = texts.iter().map(Vec::len).find(|&tokens| tokens > model.encoder.longest) {
        let message = format!("a text has {long} tokens, the model reads {}", model.encoder.longest);
        return Err(ApiError::field(param, message));
    }
    let tokens = texts.iter().map(Vec::len).sum();
    Ok((model.encoder.embed(texts).await?, tokens))
}

pub(crate) async fn embeddings(Of(service): Of<State>, request: Request<Body>) -> Result<Json, OpenAiError> {
    let body: Embed = read(&service, request).await?;
    let model = service.embedding(body.model.as_deref())?;
    let texts: Vec<Vec<u32>> = match body.input {
        Input::Texts(texts) => texts.into_vec().iter().map(|text| whole(model, text)).collect(),
        Input::Tokens(lists) => lists.into_vec(),
    };
    let (mut vectors, tokens) = vectors(model, texts, "input").await?;
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

#[derive(Deserialize)]
struct Rerank {
    model: Option<String>,
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    return_documents: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

/// Documents by how near they are to a query: the cosine of the angle between their vectors.
pub(crate) async fn rerank(Of(service): Of<State>, request: Request<Body>) -> Result<Json, OpenAiError> {
    let body: Rerank = read(&service, request).await?;
    let model = service.embedding(body.model.as_deref())?;
    let documents: Vec<String> =
        body.documents.into_iter().map(|(Document::Text(text) | Document::Object { text })| text).collect();
    if documents.is_empty() {
        return Err(ApiError::field("documents", "there is no document").into());
    }
    let texts = [&body.query].into_iter().chain(&documents).map(|text| whole(model, text)).collect();
    let (vectors, tokens) = vectors(model, texts, "documents").await?;
    let near = |vector: &Vec<f32>| vectors[0].iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    let mut order: Vec<(usize, f32)> = vectors[1..].iter().map(near).enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.truncate(body.top_n.unwrap_or(usize::MAX));
    let result = |(index, score): (usize, f32)| {
        let mut result = json!({ "index": index, "relevance_score": score });
        if body.return_documents != Some(false) {
            result["document"] = json!({ "text": documents[index] });
        }
        result
    };
    let results: Vec<Value> = order.into_iter().map(result).collect();
    let (id, usage) = (service.id("rerank-"), json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    Ok(Json(json!({ "id": id, "model": model.name, "results": results, "usage": usage })))
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
