//! What becomes of an engine's events: pieces of text for each answer, up to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use lathe_engine::{Event, FinishReason, Request, TextStream, TokenScore};

use crate::error::ApiError;
use crate::object::Usage;
use crate::service::{State, Text};
use crate::worker::Ticket;

/// The answers to one request, as they come.
pub(crate) struct Answers {
    service: State,
    text: Arc<Text>,
    ticket: Ticket,
    samples: Vec<Sample>,
    started: Instant,
    first: Option<Instant>,
    /// Tokens read and made so far.
    pub(crate) usage: Usage,
    /// How likely the prompt's tokens are, where that was asked for: all but the first.
    pub(crate) prompt: Vec<TokenScore>,
}

struct Sample {
    stream: TextStream,
    over: bool,
}

/// A part of one answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece {
    /// Which answer it is of.
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    /// The tokens' scores, where they were asked for.
    pub(crate) scores: Vec<TokenScore>,
    /// Why the answer is over, with its last piece.
    pub(crate) finish: Option<FinishReason>,
    /// The stop string that ended it.
    pub(crate) stop: Option<String>,
}

impl Answers {
    /// Gives a request to the engine.
    pub(crate) async fn start(
        service: &State,
        text: &Arc<Text>,
        request: Request,
        stops: &[String],
    ) -> Result<Answers, ApiError> {
        let (samples, prompt_tokens) = (request.samples.max(1), request.prompt.len());
        let sample = |_| Sample { stream: TextStream::new(request.stops(stops)), over: false };
        let samples = (0..samples).map(sample).collect();
        let started = Instant::now();
        let ticket = text.engine.submit(request).await?;
        service.metrics.prompt_tokens.inc_by(prompt_tokens as u64);
        Ok(Answers {
            service: service.clone(),
            text: text.clone(),
            ticket,
            samples,
            started,
            first: None,
            usage: Usage { prompt: prompt_tokens, ..Usage::default() },
            prompt: Vec::new(),
        })
    }

    /// The next pieces, at most one an answer; `None` when all are over.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Piece>>, ApiError> {
        loop {
            if self.samples.iter().all(|sample| sample.over) {
                self.finished();
                return Ok(None);
            }
            let left = self.service.settings.timeout.saturating_sub(self.started.elapsed());
            let late = |_| ApiError::new(StatusCode::GATEWAY_TIMEOUT, "the request took too long");
            let events = tokio::time::timeout(left, self.ticket.next()).await.map_err(late)??;
            let mut pieces: Vec<Piece> = Vec::new();
            for event in events {
                let index = (event.sequence().0 - self.ticket.id.0) as usize;
                let (text, sample) = (&self.text, &mut self.samples[index]);
                if sample.over {
                    continue;
                }
                let mut piece = Piece { index, ..Piece::default() };
                match event {
                    Event::Started { cached, .. } => {
                        self.usage.cached = cached;
                        continue;
                    }
                    Event::Found { .. } => continue,
                    Event::Prompt { score, .. } => {
                        self.prompt.push(score);
                        continue;
                    }
                    Event::Token { token, score, finish, .. } => {
                        self.usage.made += 1;
                        self.first.get_or_insert_with(|| {
                            self.service.metrics.first_token.observe(self.started.elapsed().as_secs_f64());
                            Instant::now()
                        });
                        piece.finish = finish;
                        // The token that ends an answer is not a part of its text.
                        if finish != Some(FinishReason::Stop) {
                            piece.text = sample.stream.push(&text.tokenizer, token);
                        }
                        piece.tokens.push(token);
                        piece.scores.extend(score);
                        if sample.stream.stopped() {
                            piece.finish = Some(FinishReason::Stop);
                            piece.stop = sample.stream.stop().map(str::to_owned);
                            if finish.is_none() {
                                self.ticket.end(index);
                            }
                        }
                    }
                    Event::Full { .. } => piece.finish = Some(FinishReason::Length),
                    Event::Failed { error, .. } => return Err(error.into()),
                }
                if piece.finish.is_some() {
                    sample.over = true;
                    piece.text += &sample.stream.finish();
                }
                pieces.push(piece);
            }
            if !pieces.is_empty() {
                return Ok(Some(pieces));
            }
        }
    }

    /// Whole answers, in order.
    pub(crate) async fn all(&mut self) -> Result<Vec<Piece>, ApiError> {
        let whole = |index| Piece { index, ..Piece::default() };
        let mut all: Vec<Piece> = (0..self.samples.len()).map(whole).collect();
        while let Some(pieces) = self.next().await? {
            for piece in pieces {
                let whole = &mut all[piece.index];
                whole.text += &piece.text;
                whole.tokens.extend(piece.tokens);
                whole.scores.extend(piece.scores);
                whole.finish = piece.finish.or(whole.finish);
                whole.stop = piece.stop.or(whole.stop.take());
            }
        }
        Ok(all)
    }

    fn finished(&mut self) {
        let metrics = &self.service.metrics;
        metrics.generated_tokens.inc_by(self.usage.made as u64);
        metrics.request.observe(self.started.elapsed().as_secs_f64());
        let per_sample = self.usage.made / self.samples.len().max(1);
        if let Some(first) = self.first.take()
            && per_sample > 1
        {
            let decode: Duration = first.elapsed();
            metrics.per_token.observe(decode.as_secs_f64() / (per_sample - 1) as f64);
        }
    }
}

/// The best `n` of whole answers by the mean likelihood of their tokens, numbered anew.
pub(crate) fn best(mut all: Vec<Piece>, n: usize) -> Vec<Piece> {
    if n < all.len() {
        let mean = |piece: &Piece| {
            let sum: f64 = piece.scores.iter().map(|score| score.logprob).sum();
            sum / piece.scores.len().max(1) as f64
        };
        all.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        all.truncate(n);
        (0..).zip(&mut all).for_each(|(index, piece)| piece.index = index);
    }
    all
}
