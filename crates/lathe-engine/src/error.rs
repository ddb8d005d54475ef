//! What can go wrong in the engine: requests it cannot serve, and whatever the model below it reports.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_models::{GgufError, TokenizerError};
use lathe_runtime::RuntimeError;
use thiserror::Error;

/// An error of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// A request without a single token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt with no room in the context, not even for one token of an answer.
    #[error("the prompt has {tokens} tokens, the context holds {context}")]
    PromptTooLong {
        /// The prompt's tokens.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// The cache is too small for what was asked.
    #[error("the cache has too few pages: {needed} are needed, {pages} can be had")]
    OutOfPages {
        /// Pages that are needed.
        needed: usize,
        /// Pages that can be had.
        pages: usize,
    },
    /// A token id that the model does not have.
    #[error("there is no token {token}, the vocabulary has {vocabulary}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// How many ids there are.
        vocabulary: usize,
    },
    /// A sampling parameter outside of its range.
    #[error("{name} is {value}, it must be {range}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// The model computed no usable numbers.
    #[error("the model's logits at position {position} are not numbers")]
    NanLogits {
        /// The position of the token whose successor was wanted.
        position: usize,
    },
    /// The model gave another number of logits than it was asked for.
    #[error("the model gave {got} logits where {wanted} were asked for")]
    WrongLogits {
        /// How many it gave.
        got: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// A text too short to score.
    #[error("a text of {tokens} tokens has nothing to score, at least 2 are needed")]
    TooShortToScore {
        /// The text's tokens.
        tokens: usize,
    },
    /// A model used for what it cannot do.
    #[error("{}", if *encoder { "the model embeds texts and generates none" } else { "the model generates texts and embeds none" })]
    Purpose {
        /// Whether the model is an encoder.
        encoder: bool,
    },
    /// A model without experts where a mixture is asked for.
    #[error("the model has no experts")]
    NoExperts,
    /// Experts whose weights are stored as none that are measured.
    #[error("experts of {bits} bits a weight are not measured, only of 32, 16 and 8.5 (q8_0)")]
    Unmeasured {
        /// Bits of a weight.
        bits: String,
    },
    /// A draft model that cannot guess for the model.
    #[error("the draft model {what}")]
    Draft {
        /// Why.
        what: String,
    },
    /// A model without room for adapters.
    #[error("the model was loaded without room for adapters")]
    NoAdapters,
    /// All places of adapters are taken.
    #[error("all {places} places of adapters are taken")]
    AdaptersFull {
        /// How many there are.
        places: usize,
    },
    /// An adapter that was taken out.
    #[error("the adapter is not loaded any more")]
    AdapterGone,
    /// An adapter that there is no room for.
    #[error("the adapter {what}")]
    AdapterRoom {
        /// What there is no room for.
        what: String,
    },
    /// A grammar that cannot be used.
    #[error("the grammar cannot be used: {why}")]
    Grammar {
        /// What its reader says.
        why: String,
    },
    /// Work was given up because the user asked for it.
    #[error("interrupted")]
    Interrupted,
    /// What the compiled model, or a room below it, reports.
    #[error("{}", .0.what)]
    Below(Box<Diagnostic>),
}

impl EngineError {
    /// The error of a room below, as this room's.
    pub fn below(error: &impl Diagnose) -> EngineError {
        EngineError::Below(Box::new(error.diagnostic()))
    }
}

/// For `map_err`.
pub(crate) fn below<E: Diagnose>(error: E) -> EngineError {
    EngineError::below(&error)
}

impl From<RuntimeError> for EngineError {
    fn from(error: RuntimeError) -> Self {
        EngineError::below(&error)
    }
}

impl From<GgufError> for EngineError {
    fn from(error: GgufError) -> Self {
        EngineError::below(&error)
    }
}

impl From<TokenizerError> for EngineError {
    fn from(error: TokenizerError) -> Self {
        EngineError::below(&error)
    }
}

impl Diagnose for EngineError {
    fn diagnostic(&self) -> Diagnostic {
        use EngineError as E;
        let (code, fault, fix) = match self {
            E::EmptyPrompt => ("prompt-empty", Fault::User, "write at least one word"),
            E::PromptTooLong { .. } => (
                "prompt-too-long",
                Fault::User,
                "shorten the prompt, or raise --context up to what the model allows",
            ),
            E::OutOfPages { .. } => {
                ("pages-exhausted", Fault::User, "give the cache more pages, or ask for less at once")
            }
            E::UnknownToken { .. } => ("token-unknown", Fault::User, "use ids of this model's tokenizer"),
            E::Sampling { .. } => ("sampling-invalid", Fault::User, "change the value"),
            E::NanLogits { .. } => (
                "logits-nan",
                Fault::File,
                "the model file may be damaged; fetch it again, or try --precision exact",
            ),
            E::TooShortToScore { .. } => ("score-too-short", Fault::User, "give a longer text"),
            E::Purpose { encoder: true } => ("model-purpose", Fault::User, "use lathe embed"),
            E::Purpose { encoder: false } => {
                ("model-purpose", Fault::User, "use an encoder, of the family 'bert'")
            }
            E::Unmeasured { .. } => {
                ("experts-measured", Fault::User, "leave out --measure: rates of the machine are used then")
            }
            E::NoExperts => {
                ("model-experts", Fault::User, "use a mixture of experts, or leave out what asks for one")
            }
            E::Draft { .. } => {
                ("draft-model", Fault::User, "use a smaller model of the same family, with the same tokens")
            }
            E::NoAdapters => {
                ("adapters-none", Fault::User, "name one with --lora, or make room with --max-loras")
            }
            E::AdaptersFull { .. } => {
                ("adapters-full", Fault::User, "take one out, or make room with a larger --max-loras")
            }
            E::AdapterGone => ("adapter-gone", Fault::User, "load it again"),
            E::AdapterRoom { .. } => (
                "adapter-room",
                Fault::User,
                "start with it, or make room with --max-loras and --max-lora-rank",
            ),
            E::Grammar { .. } => {
                ("grammar-invalid", Fault::User, "change the schema, the expression or the grammar")
            }
            E::Interrupted => ("interrupted", Fault::User, "run the command again"),
            E::WrongLogits { .. } => return Diagnostic::new("logits-count", Fault::Bug, self.to_string()),
            E::Below(diagnostic) => return (**diagnostic).clone(),
        };
        Diagnostic::new(code, fault, self.to_string()).fix(fix)
    }
}
