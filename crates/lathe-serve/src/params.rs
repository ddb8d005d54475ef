//! The fields that all endpoints that generate have in common.

use std::collections::BTreeMap;

use lathe_engine::{Beams, Constraint, EarlyStopping, Flow, Request, Sampling};
use serde::Deserialize;

use crate::error::ApiError;
use crate::service::{Service, Text};

/// The most samples of one request.
const SAMPLES: usize = 128;
/// The most stop strings of one request, and the bytes of each.
const STOPS: (usize, usize) = (16, 1024);
/// The most tokens that are guessed at a step.
const GUESSES: usize = 32;
/// The most likeliest tokens that are told.
const TOPS: usize = 20;

/// One value or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// How an answer is made, as OpenAI's interface names it, with what vLLM and llama.cpp add.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Params {
    pub(crate) model: Option<String>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) n: Option<usize>,
    pub(crate) best_of: Option<usize>,
    /// The likeliest answers are searched, with `best_of` beams.
    pub(crate) use_beam_search: Option<bool>,
    pub(crate) length_penalty: Option<f64>,
    pub(crate) early_stopping: Option<Stopping>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<OneOrMany<String>>,
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) priority: Option<i64>,
    /// Tokens that are guessed at a step.
    pub(crate) speculate: Option<usize>,
}

/// When a search ends: `true`, `false` or `"never"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Stopping {
    Flag(bool),
    Named(String),
}

/// What a stream has beside its pieces.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Client(pub(crate) u64);

impl Params {
    /// How many answers are wanted, and how many are made to choose from.
    pub(crate) fn samples(&self) -> Result<(usize, usize), ApiError> {
        let n = self.n.unwrap_or(1);
        let best_of = self.best_of.unwrap_or(n);
        if !(1..=SAMPLES).contains(&n) {
            return Err(ApiError::field("n", format!("n is {n}, it must be from 1 to {SAMPLES}")));
        }
        if !(n..=SAMPLES).contains(&best_of) {
            let message = format!("best_of is {best_of}, it must be from n to {SAMPLES}");
            return Err(ApiError::field("best_of", message));
        }
        if best_of > n && self.stream == Some(true) {
            return Err(ApiError::field("best_of", "with best_of above n nothing can be streamed"));
        }
        Ok((n, best_of))
    }

    /// How the likeliest answers are searched, where they are.
    fn beams(&self) -> Result<Option<Beams>, ApiError> {
        if self.use_beam_search != Some(true) {
            return Ok(None);
        }
        if self.stream == Some(true) {
            let message = "the answers of a beam search come whole; leave 'stream' out";
            return Err(ApiError::field("use_beam_search", message));
        }
        let (_, width) = self.samples()?;
        let early_stopping = match &self.early_stopping {
            None | Some(Stopping::Flag(false)) => EarlyStopping::WhenUnlikely,
            Some(Stopping::Flag(true)) => EarlyStopping::AtWidth,
            Some(Stopping::Named(name)) if name == "never" => EarlyStopping::Never,
            Some(Stopping::Named(_)) => {
                return Err(ApiError::field("early_stopping", "it is true, false or 'never'"));
            }
        };
        let length_penalty = self.length_penalty.unwrap_or(1.0);
        Ok(Some(Beams { width, length_penalty, early_stopping }))
    }

    /// The stop strings.
    pub(crate) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = self.stop.clone().map(OneOrMany::into_vec).unwrap_or_default();
        let (count, bytes) = STOPS;
        if stops.len() > count || stops.iter().any(|stop| stop.len() > bytes) {
            let message = format!("there are at most {count} stop strings of at most {bytes} bytes");
            return Err(ApiError::field("stop", message));
        }
        Ok(stops)
    }

    fn sampling(&self, service: &Service) -> Result<Sampling, ApiError> {
        let bias = self.logit_bias.iter().flatten().map(|(id, &bias)| match id.parse() {
            Ok(id) => Ok((id, bias)),
            Err(_) => Err(ApiError::field("logit_bias", format!("'{id}' is no token id"))),
        });
        let d = Sampling::default();
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: usize::try_from(self.top_k.unwrap_or(0)).unwrap_or(0),
            top_p: self.top_p.unwrap_or(d.top_p),
            min_p: self.min_p.unwrap_or(d.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(d.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(d.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(d.frequency_penalty),
            bias: bias.collect::<Result<_, _>>()?,
            seed: self.seed.map_or_else(|| service.number(), |seed| seed as u64),
        })
    }

    /// The engine's request for a prompt. Without `max_tokens` an answer may be as long as there is room.
    pub(crate) fn request(
        &self,
        service: &Service,
        text: &Text,
        client: Client,
        prompt: Vec<u32>,
        max_tokens: Option<usize>,
        logprobs: Option<usize>,
        constraint: Option<Constraint>,
    ) -> Result<Request, ApiError> {
        let (n, best_of) = self.samples()?;
        let beams = self.beams()?;
        if logprobs.is_some_and(|tops| tops > TOPS) {
            return Err(ApiError::field("logprobs", format!("at most {TOPS} alternatives are told")));
        }
        let mut ends = if self.ignore_eos == Some(true) { Vec::new() } else { text.ends.clone() };
        ends.extend(self.stop_token_ids.iter().flatten());
        let max_tokens = max_tokens.unwrap_or(usize::MAX);
        let (tokens, longest) = (prompt.len(), text.engine.longest);
        if tokens + usize::from(max_tokens > 0) > longest {
            let message = format!("the prompt has {tokens} tokens, the context holds {longest}");
            return Err(ApiError::bad(message));
        }
        let priority = self.priority.unwrap_or(0).clamp(-8, 8) as i8;
        Ok(Request {
            prompt,
            max_tokens,
            // A search has the best ones first.
            samples: if beams.is_some() { n } else { best_of },
            beams,
            sampling: self.sampling(service)?,
            ends,
            // The best of several is chosen by its likelihood.
            logprobs: logprobs.or((best_of > n && beams.is_none()).then_some(0)),
            score_prompt: false,
            constraint,
            speculate: self.speculate.unwrap_or(service.settings.speculate).min(GUESSES),
            adapter: text.adapter,
            flow: Flow { client: client.0, priority },
        })
    }
}
