//! Measuring a server: requests of one shape at several concurrencies, over `/v1/completions` as all engines have it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use hyper::body::Body as _;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::error::ServeError;

/// What load a server is put under.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The server, such as `http://127.0.0.1:8000`.
    pub url: String,
    /// The key that it asks for.
    pub key: Option<String>,
    /// The model; else the first that the server lists.
    pub model: Option<String>,
    /// Requests at once, one row each.
    pub concurrency: Vec<usize>,
    /// Requests of a row; else eight times the concurrency, at least 16.
    pub requests: Option<usize>,
    /// Tokens of a prompt that no other has.
    pub input: usize,
    /// Tokens that all prompts begin with.
    pub prefix: usize,
    /// Tokens of an answer.
    pub output: usize,
    /// Requests a second, at random moments; else one begins as another ends.
    pub rate: Option<f64>,
    /// Another seed, other prompts.
    pub seed: u64,
}

/// What was measured at one concurrency. Times are in seconds.
#[derive(Clone, Debug)]
pub struct BenchRow {
    /// Requests at once.
    pub concurrency: usize,
    /// Requests that were answered.
    pub completed: usize,
    /// Requests that were not.
    pub failed: usize,
    /// From the first request to the last answer.
    pub duration: f64,
    /// Tokens of all prompts.
    pub input_tokens: usize,
    /// Tokens of all answers.
    pub output_tokens: usize,
    /// To the first token, of each request, rising.
    pub first_token: Vec<f64>,
    /// Between tokens after the first, the mean of each request, rising.
    pub per_token: Vec<f64>,
    /// Of each request, rising.
    pub request: Vec<f64>,
    /// Why the first that failed did.
    pub error: Option<String>,
}

impl BenchRow {
    /// Tokens of answers a second.
    pub fn output_tokens_per_s(&self) -> f64 {
        self.output_tokens as f64 / self.duration
    }

    /// The value that a part of rising `times` is at most.
    pub fn percentile(times: &[f64], part: f64) -> f64 {
        let index = (part * times.len() as f64).ceil() as usize;
        times.get(index.saturating_sub(1).min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// The row as programs read it.
    pub fn to_json(&self) -> Value {
        let times = |times: &[f64]| {
            let of = |part| BenchRow::percentile(times, part);
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            json!({ "mean_s": mean, "p50_s": of(0.5), "p90_s": of(0.9), "p99_s": of(0.99), "max_s": of(1.0) })
        };
        json!({
            "concurrency": self.concurrency,
            "completed": self.completed,
            "failed": self.failed,
            "duration_s": self.duration,
            "requests_per_s": self.completed as f64 / self.duration,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "output_tokens_per_s": self.output_tokens_per_s(),
            "total_tokens_per_s": (self.input_tokens + self.output_tokens) as f64 / self.duration,
            "time_to_first_token": times(&self.first_token),
            "time_per_output_token": times(&self.per_token),
            "request": times(&self.request),
            "error": self.error,
        })
    }
}

/// Measures a server; `report` is given each row as it is done.
pub fn bench(options: &BenchOptions, report: &mut dyn FnMut(&BenchRow)) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ServeError::Start)?.block_on(async {
        let mut peer = Peer::new(options)?;
        if peer.model.is_empty() {
            let models = peer.get("/v1/models").await?;
            peer.model = models["data"][0]["id"].as_str().unwrap_or_default().to_owned();
        }
        let peer = Arc::new(peer);
        // One request before all others wakes caches, and fills the one of prefixes.
        peer.complete(peer.prompt(usize::MAX)).await?;
        let mut first = 0;
        for &concurrency in &options.concurrency {
            let requests = options.requests.unwrap_or((8 * concurrency).max(16));
            report(&row(&peer, concurrency, requests, first).await);
            first += requests;
        }
        Ok(())
    })
}

/// A server and what it is asked.
struct Peer {
    host: String,
    path: String,
    model: String,
    options: BenchOptions,
}

/// What one request took.
struct Sample {
    first: f64,
    total: f64,
    tokens: usize,
}

async fn row(peer: &Arc<Peer>, concurrency: usize, requests: usize, first: usize) -> BenchRow {
    let start = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut arrivals = vec![Duration::ZERO; requests];
    if let Some(rate) = peer.options.rate {
        let mut at = 0.0;
        for (index, arrival) in arrivals.iter_mut().enumerate() {
            at -= (1.0 - uniform(peer.options.seed, (first + index) as u64)).ln() / rate;
            *arrival = Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX);
        }
    }
    let arrivals = Arc::new(arrivals);
    let workers = (0..concurrency).map(|_| {
        let (peer, next, arrivals) = (peer.clone(), next.clone(), arrivals.clone());
        tokio::spawn(async move {
            let mut samples = Vec::new();
            loop {
                let index = next.fetch_add(1, SeqCst);
                let Some(&arrival) = arrivals.get(index) else { return samples };
                tokio::time::sleep(arrival.saturating_sub(start.elapsed())).await;
                samples.push(peer.complete(peer.prompt(first + index)).await);
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut samples = Vec::new();
    let mut row = BenchRow {
        concurrency,
        completed: 0,
        failed: 0,
        duration: 0.0,
        input_tokens: 0,
        output_tokens: 0,
        first_token: vec![],
        per_token: vec![],
        request: vec![],
        error: None,
    };
    for worker in workers {
        samples.extend(worker.await.unwrap_or_default());
    }
    row.duration = start.elapsed().as_secs_f64();
    for sample in samples {
        match sample {
            Ok(sample) => {
                row.completed += 1;
                row.input_tokens += peer.options.prefix + peer.options.input;
                row.output_tokens += sample.tokens;
                row.first_token.push(sample.first);
                row.request.push(sample.total);
                if sample.tokens > 1 {
                    row.per_token.push((sample.total - sample.first) / (sample.tokens - 1) as f64);
                }
            }
            Err(error) => {
                row.failed += 1;
                row.error.get_or_insert(error.to_string());
            }
        }
    }
    for times in [&mut row.first_token, &mut row.per_token, &mut row.request] {
        times.sort_by(f64::total_cmp);
    }
    row
}

fn failed(error: impl std::fmt::Display) -> ServeError {
    ServeError::Peer(format!("the server failed: {error}"))
}

impl Peer {
    fn new(options: &BenchOptions) -> Result<Peer, ServeError> {
        let rest = options.url.strip_prefix("http://");
        let rest =
            rest.ok_or_else(|| ServeError::Peer(format!("'{}' is no http:// address", options.url)))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/').trim_end_matches("v1").trim_end_matches('/');
        Ok(Peer {
            host: if host.contains(':') { host.to_owned() } else { format!("{host}:80") },
            path: if path.is_empty() { String::new() } else { format!("/{path}") },
            model: options.model.clone().unwrap_or_default(),
            options: options.clone(),
        })
    }

    /// The tokens of a prompt: ordinary ones of any vocabulary, its own behind those that all have.
    fn prompt(&self, index: usize) -> Vec<u32> {
        let token = |i: usize, of: u64| 300 + (uniform(self.options.seed ^ of, i as u64) * 4000.0) as u32;
        let own = (index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let prefix = (0..self.options.prefix).map(|i| token(i, 0));
        prefix.chain((0..self.options.input).map(|i| token(i, own))).collect()
    }

    async fn send(&self, method: &str, path: &str, body: Body) -> Result<Response<Body>, ServeError> {
        let socket = TcpStream::connect(&self.host).await;
        let socket =
            socket.map_err(|error| ServeError::Peer(format!("cannot connect to {}: {error}", self.host)))?;
        let _ = socket.set_nodelay(true);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.path))
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.options.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(body).map_err(failed)?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        let body = Body::new(body);
        if !head.status.is_success() {
            let text = to_bytes(body, 4096).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(ServeError::Peer(format!("the server answers {}: {text}", head.status)));
        }
        Ok(Response::from_parts(head, body))
    }

    async fn get(&self, path: &str) -> Result<Value, ServeError> {
        let response = self.send("GET", path, Body::empty()).await?;
        let bytes = to_bytes(response.into_body(), 1 << 20).await.map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(failed)
    }

    /// One streamed completion.
    async fn complete(&self, prompt: Vec<u32>) -> Result<Sample, ServeError> {
        let body = json!({
            "model": self.model,
            "prompt": prompt,
            "max_tokens": self.options.output,
            "temperature": 0,
            "ignore_eos": true,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let start = Instant::now();
        let response = self.send("POST", "/v1/completions", body.to_string().into()).await?;
        let mut body = pin!(response.into_body());
        let (mut text, mut first, mut chunks, mut told) = (Vec::new(), None, 0, None);
        let mut last = start;
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            text.extend_from_slice(&data);
            while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let Some(json) = line.strip_prefix(b"data: ") else { continue };
                let Ok(event) = serde_json::from_slice::<Value>(json) else { continue };
                if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
                    return Err(failed(error));
                }
                if event["choices"].as_array().is_some_and(|choices| !choices.is_empty()) {
                    last = Instant::now();
                    first.get_or_insert(last);
                    chunks += 1;
                }
                told = event["usage"]["completion_tokens"].as_u64().or(told);
            }
        }
        let first = first.ok_or_else(|| failed("the stream ended before a token came"))?;
        let tokens = told.map_or(chunks, |tokens| tokens as usize);
        let seconds = |at: Instant| at.duration_since(start).as_secs_f64();
        Ok(Sample { first: seconds(first), total: seconds(last), tokens })
    }
}

/// A number in `0..1` for a place in a series.
fn uniform(seed: u64, index: u64) -> f64 {
    let hash = blake3::hash(&[seed.to_le_bytes(), index.to_le_bytes()].concat());
    let bits = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default());
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_hand() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| BenchRow::percentile(&times, part)), [50.0, 99.0, 100.0]);
        assert_eq!(BenchRow::percentile(&[7.0], 0.5), 7.0);
        assert!(BenchRow::percentile(&[], 0.5).is_nan());
    }
}
