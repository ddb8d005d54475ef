//! `lathe serve`: a model over HTTP.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Budget, Runner, SCORE_TOKENS};
use lathe_models::{Adapter, AdapterRoom};
use lathe_serve::{EmbeddingModel, Settings, TextModel, serve};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::{Compute, Model};
use crate::options::{CacheOptions, ComputeOptions, ModelOption, SpeculateOptions, size};
use crate::output;
use crate::planner::{ExpectOptions, Sizes, planned};

const EXAMPLES: &str = "\
Endpoints: /v1/completions, /v1/chat/completions, /v1/responses, /v1/embeddings, /v1/rerank, /v1/models, /v1/messages,
/v1/messages/count_tokens, /v1/load_lora_adapter, /v1/unload_lora_adapter, /tokenize, /detokenize, /health, /version, /metrics (Prometheus), /engine, /openapi.json, and a page to
chat at /.

With --memory a plan over the measured machine says how many sequences there are at once, how many tokens are kept and how large
a step is, so that the most tokens a second are made; what is said here is kept to.

SIGTERM and Ctrl-C let the requests that are there finish; a second Ctrl-C does not wait for them.

Examples:
  lathe serve
  lathe serve --model ./model.gguf --context 8192 --cache-tokens 65536 --port 9000
  lathe serve --embedding-model all-minilm.gguf --api-keys keys.txt --host 0.0.0.0
  lathe serve --lora poet=./poet-adapter --max-loras 4
  lathe serve --model ./large.gguf --memory 2GiB --expect 512,128
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'";

/// Tokens of a context where the user does not say.
const CONTEXT: usize = 4096;

/// Tokens that are kept where neither the user nor a plan says.
const CACHE_TOKENS: usize = 16384;

/// Tokens of a step where neither the user nor a plan says.
const STEP_TOKENS: usize = 256;

/// Tokens of a prompt and of an answer that are planned for where the user does not say.
const EXPECTED: (u32, u32) = (512, 128);

/// `NAME=PATH`, taken apart.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("a name, '=' and a path are needed".into()),
    }
}

/// Serve a model over HTTP, as OpenAI and Anthropic do
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    #[command(flatten)]
    model: ModelOption,
    /// An encoder that is served beside it.
    #[arg(long, value_name = "M")]
    embedding_model: Option<String>,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
    /// The name that clients call the model by [default: as it is called here].
    #[arg(long, value_name = "NAME")]
    served_name: Option<String>,
    /// The address to listen on; 0.0.0.0 lets other machines in.
    #[arg(long, value_name = "A", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    #[command(flatten)]
    expect: ExpectOptions,
    /// The most tokens of a sequence, the prompt's and the answer's [default: 4096, or what there is room for, or the model's if that
    /// is less].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Tokens whose keys and values are kept, of all sequences and of prefixes together [default: 16384, or as planned].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    cache_tokens: Option<u32>,
    /// So many bytes of the disk (`2GiB`, in the folder of --disk-cache) for keys and values of requests that must give way when the
    /// cache is full: they come back from there where that is faster than to compute them again. Without it a server writes nothing
    /// of what it is told to a disk.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    swap: usize,
    /// The most sequences in one step; a plan may take fewer.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_sequences: u16,
    /// The most tokens in one step: more is faster for long prompts, less is smoother for the answers beside them [default: 256, or
    /// as planned].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(16..))]
    step_tokens: Option<u16>,
    #[command(flatten)]
    guess: SpeculateOptions,
    /// An adapter of the model, served under this name: a folder of PEFT, or a GGUF file. May be given several times.
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    lora: Vec<(String, PathBuf)>,
    /// Room for so many adapters, which clients may load and unload by any path of this machine (/v1/load_lora_adapter)
    /// [default: those of --lora, and none is loaded later].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    max_loras: Option<u16>,
    /// The largest rank of an adapter that is loaded later.
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    max_lora_rank: u16,
    /// A certificate in PEM, with those that vouch for it: the server speaks TLS then.
    #[arg(long, value_name = "F", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM.
    #[arg(long, value_name = "F", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A file of API keys, one a line; without it every client is served.
    #[arg(long, value_name = "F")]
    api_keys: Option<PathBuf>,
    /// Requests that may wait; more are refused with 429.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_queue: u32,
    /// The most bytes of a request.
    #[arg(long, value_name = "N", default_value_t = 4 << 20)]
    max_body: u32,
    /// The longest that a request may take, seconds.
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u32,
    /// How long requests may go on once the server is asked to end, seconds.
    #[arg(long, value_name = "S", default_value_t = 30)]
    drain: u32,
}

impl Serve {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let settings = Settings {
            address: SocketAddr::new(self.host, self.port),
            keys: self.keys()?,
            queue: self.max_queue as usize,
            body_bytes: self.max_body as usize,
            speculate: self.guess.speculate.into(),
            tls: self.tls_cert.clone().zip(self.tls_key.clone()),
            timeout: Duration::from_secs(self.timeout.into()),
            drain: Duration::from_secs(self.drain.into()),
            ..Settings::default()
        };
        let name = |given: &str| self.served_name.clone().unwrap_or_else(|| given.to_owned());
        let model = Model::open(self.model.name())?;
        let mut compute = self.cache.with(&self.compute)?;
        let (mut text, mut embedding) = (None, None);
        if model.is_encoder()? {
            if self.embedding_model.is_some() {
                return Err(Failure::usage(
                    "--model is an encoder already; --embedding-model is one too many",
                ));
            }
            embedding = Some(self.embedding(name(self.model.name()), model, compute.budget)?);
        } else {
            if let Some(given) = &self.embedding_model {
                let made = self.embedding(given.clone(), Model::open(given)?, None)?;
                // The model has what is left.
                compute.budget = compute.budget.map(|b| b.beside(&made.encoder.footprint()));
                embedding = Some(made);
            }
            text = Some(self.text(name(self.model.name()), model, compute)?);
        }
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        // The first Ctrl-C lets requests finish.
        let interrupt = Listening::begin();
        let done = serve(text, embedding, settings, |address| {
            output::message(&format!("listening on {scheme}://{address}"));
        });
        drop(interrupt);
        Ok(done?)
    }

    fn text(&self, name: String, model: Model, compute: Compute) -> Result<TextModel<Runner>, Failure> {
        let served = name.clone();
        let opened = self.lora.iter().map(|(_, path)| model.adapter(path)).collect::<Result<Vec<_>, _>>()?;
        let taken = |name: &String| *name == served || self.lora.iter().filter(|l| l.0 == *name).count() > 1;
        if let Some((name, _)) = self.lora.iter().find(|(name, _)| taken(name)) {
            return Err(Failure::usage(&format!(
                "--lora '{name}' has the name of another one, or the model's"
            )));
        }
        let draft = self.guess.draft_model.as_deref().map(|name| model.draft(name)).transpose()?;
        let compute = Compute { adapters: self.room(&opened), draft, ..compute };
        let (sizes, compute) = self.sizes(&model, compute)?;
        let swap = (&*self.cache.folder()?, self.swap as u64);
        let mut engine = model.load_server(compute, sizes, swap)?;
        let ids = opened.iter().map(|a| engine.load_adapter(a)).collect::<Result<Vec<_>, _>>()?;
        let adapters = self.lora.iter().map(|(name, _)| name.clone()).zip(ids).collect();
        let (template, ends) = (model.template()?, model.ends());
        let file = self.max_loras.map(|_| model.file.clone());
        Ok(TextModel { name, tokenizer: model.tokenizer, template, ends, engine, adapters, file })
    }

    /// How large the engine is: as it was said, planned, or usual.
    fn sizes(&self, model: &Model, compute: Compute) -> Result<(Sizes, Compute), Failure> {
        let sequences = usize::from(self.max_sequences);
        let usual = Sizes {
            context: model.context_for(CONTEXT, self.context)?,
            sequences,
            cache_tokens: CACHE_TOKENS,
            step_tokens: STEP_TOKENS,
            rows: sequences + SCORE_TOKENS,
        };
        let (mut sizes, compute) = match model.is_compiled() || compute.budget.is_none() {
            true => (usual, compute),
            false => {
                let asked = self.context.map(|_| usual.context);
                let load = self.expect.load(EXPECTED, sequences);
                let planned = planned(model, compute, &load, self.cache.machine()?, asked, usual.context)?;
                output::message(&planned.0.describe());
                planned
            }
        };
        sizes.cache_tokens = self.cache_tokens.map_or(sizes.cache_tokens, |n| n as usize);
        sizes.step_tokens = self.step_tokens.map_or(sizes.step_tokens, usize::from);
        Ok((sizes, compute))
    }

    /// Room for the adapters that are there, and for those that may come, which may change any product.
    fn room(&self, opened: &[Adapter]) -> Option<AdapterRoom> {
        let rank = opened.iter().map(Adapter::rank).max().unwrap_or(0);
        let room = |count, rank, products| Some(AdapterRoom::new(count, rank, products));
        match self.max_loras.map(usize::from) {
            Some(most) => room(most.max(opened.len()), rank.max(self.max_lora_rank.into()), BTreeSet::new()),
            None if opened.is_empty() => None,
            None => room(opened.len(), rank, opened.iter().flat_map(Adapter::products).collect()),
        }
    }

    fn embedding(
        &self,
        name: String,
        model: Model,
        budget: Option<Budget>,
    ) -> Result<EmbeddingModel, Failure> {
        let encoder = model.load_encoder(&self.compute, budget)?;
        Ok(EmbeddingModel { name, tokenizer: model.tokenizer, encoder })
    }

    fn keys(&self) -> Result<Vec<String>, Failure> {
        let Some(path) = &self.api_keys else { return Ok(Vec::new()) };
        let at = |what: String, fix: &str| {
            Diagnostic::new("api-keys", Fault::User, what).at(path.display().to_string()).fix(fix)
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| at(format!("cannot read it: {error}"), "give a file of keys, one a line"))?;
        let keys: Vec<String> =
            text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
        match keys.is_empty() {
            true => Err(at("it has no key".into(), "write one key a line").into()),
            false => Ok(keys),
        }
    }
}
