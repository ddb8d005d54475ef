//! What is asked of an engine, and what it says.

use crate::EngineError;
use crate::adapters::AdapterId;
use crate::beam::Beams;
use crate::flows::Flow;
use crate::grammar::Constraint;
use crate::sampling::Sampling;
use crate::scheduler::SequenceId;
use crate::score::TokenScore;

/// A text to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// The most tokens of an answer; with 0 the prompt is computed and no more.
    pub max_tokens: usize,
    /// How many answers are wanted, at least one; they share the prompt's pages.
    pub samples: usize,
    /// Search the likeliest answers instead of choosing token by token: they come when all are known, the best first. Of
    /// `sampling` only penalties and biases count; nothing is guessed, and no answer is constrained.
    pub beams: Option<Beams>,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// What each answer must be. Its tokens that end an answer do so beside `ends`.
    pub constraint: Option<Constraint>,
    /// So many tokens are guessed at a step: by the draft model where there is one, and the answer has the same distribution; else
    /// from what followed the same words before, and the answer is the same.
    pub speculate: usize,
    /// Say how likely each token is, and so many of the likeliest in its place.
    pub logprobs: Option<usize>,
    /// Say so of the prompt's tokens, too.
    pub score_prompt: bool,
    /// The adapter that answers it, beside the model.
    pub adapter: AdapterId,
    /// Whose it is.
    pub flow: Flow,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            prompt: Vec::new(),
            max_tokens: 0,
            samples: 1,
            beams: None,
            sampling: Sampling::default(),
            ends: Vec::new(),
            constraint: None,
            speculate: 0,
            logprobs: None,
            score_prompt: false,
            adapter: AdapterId::NONE,
            flow: Flow::default(),
        }
    }
}

impl Request {
    /// The sequences that it takes: the first is the request's name, the others follow it.
    pub fn sequences(&self) -> usize {
        self.beams.map_or(self.samples.max(1), |beams| beams.width)
    }

    /// Of these stop strings those that count: none where the answer keeps to a grammar, which says where it may end. One of
    /// them would cut it before it is what it must be.
    pub fn stops<'a>(&self, stops: &'a [String]) -> &'a [String] {
        if self.constraint.is_some() { &[] } else { stops }
    }
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// The grammar of the answer lets nothing follow: its last token is a part of its text.
    Complete,
    /// The most tokens, or the end of the context, were reached.
    Length,
    /// The user did not want more.
    Cancelled,
}

impl FinishReason {
    /// Its name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop | FinishReason::Complete => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// What a step did for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It runs, for the first time.
    Started {
        /// The first sequence of the request.
        sequence: SequenceId,
        /// Tokens of its prompt that were found in the cache.
        cached: usize,
    },
    /// How likely a token of the prompt is; all but the first come, in order.
    Prompt {
        /// The first sequence of the request.
        sequence: SequenceId,
        /// The token and its neighbours.
        score: TokenScore,
    },
    /// It is the next best answer of a search, whose tokens follow.
    Found {
        /// The sequence.
        sequence: SequenceId,
        /// Its log-likelihood over its length to the power of the penalty.
        score: f64,
    },
    /// It has one more token; with a reason, its last.
    Token {
        /// The sequence.
        sequence: SequenceId,
        /// The token.
        token: u32,
        /// How likely it was, where that was asked for.
        score: Option<TokenScore>,
        /// Why the sequence is over, if it is.
        finish: Option<FinishReason>,
    },
    /// It is over without another token: there was room for none.
    Full {
        /// The sequence.
        sequence: SequenceId,
    },
    /// No token could be chosen, and the sequence is over.
    Failed {
        /// The sequence.
        sequence: SequenceId,
        /// Why.
        error: EngineError,
    },
}

impl Event {
    /// The sequence it is about.
    pub fn sequence(&self) -> SequenceId {
        match *self {
            Event::Started { sequence, .. }
            | Event::Prompt { sequence, .. }
            | Event::Found { sequence, .. }
            | Event::Token { sequence, .. }
            | Event::Full { sequence }
            | Event::Failed { sequence, .. } => sequence,
        }
    }
}
