//! One prompt to one text, streamed: what `lathe run` and `lathe chat` do.

use std::ops::ControlFlow;
use std::time::Instant;

use lathe_models::Tokenizer;

use crate::engine::Engine;
use crate::request::{Event, FinishReason, Request};
use crate::stop::TextStream;
use crate::{EngineError, Forward};

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Its text, without the stop string that ended it and without control tokens.
    pub text: String,
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// The prompt's tokens.
    pub prompt_tokens: usize,
    /// Why it is over.
    pub finish: FinishReason,
    /// Of the best answer of a search, its log-likelihood over its length to the power of the penalty.
    pub score: Option<f64>,
    /// Seconds to its first token.
    pub prefill_s: f64,
    /// Seconds from its first token to its last.
    pub decode_s: f64,
}

impl Generation {
    /// Tokens of the prompt computed a second; `None` for a search, whose first token comes with its last.
    pub fn prefill_tokens_per_s(&self) -> Option<f64> {
        (self.prefill_s > 0.0 && self.score.is_none()).then(|| self.prompt_tokens as f64 / self.prefill_s)
    }

    /// Tokens of the answer after its first, a second; `None` where there is but one.
    pub fn decode_tokens_per_s(&self) -> Option<f64> {
        let tokens = self.tokens.len().saturating_sub(1);
        (tokens > 0 && self.decode_s > 0.0).then(|| tokens as f64 / self.decode_s)
    }
}

impl<F: Forward> Engine<F> {
    /// Continues one prompt. `on_text` is given each piece of text as soon as it may be shown, and asked after every step
    /// whether to go on, then with an empty piece where there is no new text.
    ///
    /// For an engine without other sequences: their events would be lost.
    pub fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        request: Request,
        stops: &[String],
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, EngineError> {
        let prompt_tokens = request.prompt.len();
        let start = Instant::now();
        let mut stream = TextStream::new(request.stops(stops));
        let id = self.add(request)?;
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let (mut first, mut last, mut found) = (start, start, None);
        let finish = loop {
            let events = match self.step() {
                Ok(events) => events,
                Err(error) => {
                    self.cancel(id);
                    return Err(error);
                }
            };
            let now = Instant::now();
            let mut piece = String::new();
            let mut over = None;
            for event in events {
                match event {
                    Event::Token { sequence, token, finish, .. } if sequence == id && over.is_none() => {
                        last = now;
                        first = if tokens.is_empty() { last } else { first };
                        tokens.push(token);
                        // The token that ends an answer is not a part of its text.
                        if finish != Some(FinishReason::Stop) {
                            piece += &stream.push(tokenizer, token);
                        }
                        over = if stream.stopped() { Some(FinishReason::Stop) } else { finish };
                    }
                    Event::Found { sequence, score } if sequence == id => found = Some(score),
                    Event::Full { sequence } if sequence == id => over = Some(FinishReason::Length),
                    Event::Failed { sequence, error } if sequence == id => return Err(error),
                    _ => {}
                }
            }
            text += &piece;
            match (on_text(&piece), over) {
                (_, Some(finish)) => break finish,
                (ControlFlow::Break(()), None) => break FinishReason::Cancelled,
                (ControlFlow::Continue(()), None) => {}
            }
        };
        self.cancel(id);
        let rest = stream.finish();
        if !rest.is_empty() {
            text += &rest;
            // The answer is over; there is nothing to stop.
            let _ = on_text(&rest);
        }
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        let (prefill_s, decode_s) = (seconds(start, first), seconds(first, last));
        Ok(Generation { text, tokens, prompt_tokens, finish, score: found, prefill_s, decode_s })
    }
}
