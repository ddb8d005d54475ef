//! What a server serves: models with the threads that run them, its settings, and what all endpoints need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use lathe_engine::{AdapterId, Encoder, Engine, EngineError, Forward, Grammars};
use lathe_models::{ChatTemplate, ModelFile, Tokenizer};
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ServeError};
use crate::metrics::Metrics;
use crate::worker::{self, EncoderHandle, Handle};

/// A model that generates text, to be served.
pub struct TextModel<F> {
    /// The name that clients call it by.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; without one there are no conversations.
    pub template: Option<ChatTemplate>,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// The model itself.
    pub engine: Engine<F>,
    /// The adapters that it has beside it, each by the name that clients call the model with it by.
    pub adapters: Vec<(String, AdapterId)>,
    /// The model's file; with it clients may load and unload adapters, of which they name any path.
    pub file: Option<ModelFile>,
}

/// A model that embeds texts, to be served.
pub struct EmbeddingModel {
    /// The name that clients call it by.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model itself.
    pub encoder: Encoder,
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Clients must name one of these; without any, every client is served.
    pub keys: Vec<String>,
    /// A certificate and its key, files of PEM: with them the server speaks TLS only.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Requests that may wait beside those that run; more are refused.
    pub queue: usize,
    /// The most bytes of a request.
    pub body_bytes: usize,
    /// The most connections at once.
    pub connections: usize,
    /// Tokens that are guessed at a step, where a request does not say.
    pub speculate: usize,
    /// The longest that a request may take.
    pub timeout: Duration,
    /// The longest that running requests may take once the server is asked to end.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            address: SocketAddr::from(([127, 0, 0, 1], 8000)),
            keys: Vec::new(),
            tls: None,
            queue: 256,
            body_bytes: 4 << 20,
            connections: 1024,
            speculate: 0,
            timeout: Duration::from_secs(600),
            drain: Duration::from_secs(30),
        }
    }
}

/// A served model that generates, alone or with an adapter.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) adapter: AdapterId,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<Arc<ChatTemplate>>,
    pub(crate) ends: Vec<u32>,
    pub(crate) engine: Handle,
    /// Made when the first answer is constrained.
    grammars: Arc<OnceLock<Result<Grammars, EngineError>>>,
}

impl Text {
    /// The same with an adapter.
    pub(crate) fn with(&self, name: &str, adapter: AdapterId) -> Text {
        Text { name: name.to_owned(), adapter, ..self.clone() }
    }

    /// Grammars over its tokens.
    pub(crate) fn grammars(&self) -> Result<&Grammars, EngineError> {
        let made = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer, &self.ends));
        made.as_ref().map_err(Clone::clone)
    }
}

/// A served model that embeds.
pub(crate) struct Embedding {
    pub(crate) name: String,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) encoder: EncoderHandle,
}

/// All that requests are served from.
pub(crate) struct Service {
    text: Option<Arc<Text>>,
    embedding: Option<Embedding>,
    /// The model with each of its adapters, by name.
    pub(crate) adapters: RwLock<BTreeMap<String, Arc<Text>>>,
    /// The file of the model that generates, where adapters may come and go.
    pub(crate) file: Option<ModelFile>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) draining: AtomicBool,
    /// Seconds since 1970 at the start.
    pub(crate) created: u64,
    /// Counts what gets a name or a seed.
    counter: AtomicU64,
    salt: u64,
}

pub(crate) type State = Arc<Service>;

impl Service {
    pub(crate) fn new<F: Forward + Send + 'static>(
        text: Option<TextModel<F>>,
        embedding: Option<EmbeddingModel>,
        settings: Settings,
    ) -> Result<State, ServeError> {
        let (mut with_adapters, mut base) = (BTreeMap::new(), None);
        let text = match text {
            Some(TextModel { name, tokenizer, template, ends, engine, adapters, file }) => {
                let engine = worker::start(engine, settings.queue)?;
                let (adapter, grammars) = (AdapterId::NONE, Arc::default());
                let template = template.map(Arc::new);
                let text = Text { name, adapter, tokenizer, template, ends, engine, grammars };
                let with = |(name, id): (String, AdapterId)| (name.clone(), Arc::new(text.with(&name, id)));
                with_adapters.extend(adapters.into_iter().map(with));
                base = file;
                Some(Arc::new(text))
            }
            None => None,
        };
        let embedding = match embedding {
            Some(EmbeddingModel { name, tokenizer, encoder }) => {
                let encoder = worker::start_encoder(encoder, settings.queue)?;
                Some(Embedding { name, tokenizer, encoder })
            }
            None => None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Arc::new(Service {
            text,
            embedding,
            adapters: RwLock::new(with_adapters),
            file: base,
            settings,
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            created: now.as_secs(),
            counter: AtomicU64::new(0),
            salt: now.as_nanos() as u64,
        }))
    }

    /// The model that generates, if it is the one that is asked for; or with the adapter that is.
    pub(crate) fn text(&self, name: Option<&str>) -> Result<Arc<Text>, ApiError> {
        let text = self.text.as_ref().filter(|text| name.is_none_or(|name| name == text.name)).cloned();
        let adapted = || name.and_then(|name| self.adapters().get(name).cloned());
        text.or_else(adapted).ok_or_else(|| self.unknown(name, "generates text"))
    }

    /// The model with each of its adapters.
    fn adapters(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Text>>> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model that embeds, if it is the one that is asked for.
    pub(crate) fn embedding(&self, name: Option<&str>) -> Result<&Embedding, ApiError> {
        let embedding = self.embedding.as_ref().filter(|model| name.is_none_or(|name| name == model.name));
        embedding.ok_or_else(|| self.unknown(name, "embeds texts"))
    }

    /// A model's tokenizer.
    pub(crate) fn tokenizer(&self, name: Option<&str>) -> Result<Arc<Tokenizer>, ApiError> {
        match self.text(name) {
            Ok(text) => Ok(text.tokenizer.clone()),
            Err(error) => self.embedding(name).map(|model| model.tokenizer.clone()).map_err(|_| error),
        }
    }

    /// The models' names with the most tokens of each, and of those with an adapter the name of the model.
    pub(crate) fn models(&self) -> Vec<(String, usize, Option<String>)> {
        let text = self.text.iter().map(|m| (m.name.clone(), m.engine.longest, None));
        let embedding = self.embedding.iter().map(|m| (m.name.clone(), m.encoder.longest, None));
        let parent = self.text.as_ref().map(|text| text.name.clone());
        let adapters = self.adapters();
        let adapted = adapters.values().map(|m| (m.name.clone(), m.engine.longest, parent.clone()));
        text.chain(embedding).chain(adapted).collect()
    }

    fn unknown(&self, name: Option<&str>, does: &str) -> ApiError {
        let names: Vec<String> = self.models().into_iter().map(|(name, ..)| name).collect();
        let message = match name {
            Some(name) => {
                format!("there is no model '{name}' here that {does}; there is {}", names.join(", "))
            }
            None => format!("there is no model here that {does}"),
        };
        ApiError { param: Some("model"), ..ApiError::new(StatusCode::NOT_FOUND, message) }
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(self.created, |time| time.as_secs())
    }

    /// A name that nothing else has, behind a prefix.
    pub(crate) fn id(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}", self.number())
    }

    /// A number that hardly comes twice.
    pub(crate) fn number(&self) -> u64 {
        let count = self.counter.fetch_add(1, SeqCst);
        let hash = blake3::hash(&[self.salt.to_le_bytes(), count.to_le_bytes()].concat());
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
    }
}

/// How long a client may take to send a request.
const SENDING: Duration = Duration::from_secs(30);

/// Reads a request's JSON, within the limits of bytes and of time.
pub(crate) async fn read<T: DeserializeOwned>(
    service: &Service,
    request: Request<Body>,
) -> Result<T, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        let message = "the content type must be application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let limit = service.settings.body_bytes;
    let too_large =
        || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {limit} bytes"));
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request was not sent in time");
    let body = tokio::time::timeout(SENDING, to_bytes(request.into_body(), limit)).await.map_err(late)?;
    let body = body.map_err(|_| too_large())?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad(format!("the request cannot be read: {error}")))
}
