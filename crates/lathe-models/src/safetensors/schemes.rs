//! The model types of `config.json`: one row each, which says the family's name in GGUF and how its tensors are named.

use super::names::{BERT, DECODER, Entry, GPT2, NORMS_BEHIND, Names, OPT};

/// A model type.
#[derive(Debug)]
pub(super) struct Scheme {
    /// The name in `config.json`.
    pub model_type: &'static str,
    /// The name in GGUF.
    pub family: &'static str,
    /// Rows that come first.
    first: &'static [Entry],
    rows: &'static [Entry],
    prefixes: &'static [&'static str],
    /// Norms are stored as what is added to one.
    pub norms_less_one: bool,
}

const DECODER_PREFIXES: &[&str] = &["model.language_model.", "language_model.model.", "model."];

const fn decoder(model_type: &'static str, family: &'static str) -> Scheme {
    let prefixes = DECODER_PREFIXES;
    Scheme { model_type, family, first: &[], rows: DECODER, prefixes, norms_less_one: false }
}

const SCHEMES: &[Scheme] = &[
    decoder("llama", "llama"),
    decoder("mistral", "llama"),
    decoder("mixtral", "llama"),
    decoder("qwen2", "qwen2"),
    decoder("qwen2_moe", "qwen2moe"),
    decoder("qwen3", "qwen3"),
    decoder("qwen3_moe", "qwen3moe"),
    decoder("phi3", "phi3"),
    Scheme { first: NORMS_BEHIND, ..decoder("olmo2", "olmo2") },
    Scheme { first: NORMS_BEHIND, norms_less_one: true, ..decoder("gemma2", "gemma2") },
    Scheme { first: NORMS_BEHIND, norms_less_one: true, ..decoder("gemma3_text", "gemma3") },
    Scheme { first: NORMS_BEHIND, norms_less_one: true, ..decoder("gemma3", "gemma3") },
    Scheme { rows: GPT2, prefixes: &["transformer."], ..decoder("gpt2", "gpt2") },
    Scheme { rows: OPT, prefixes: &["model.decoder.", "decoder."], ..decoder("opt", "opt") },
    Scheme { rows: BERT, prefixes: &["bert."], ..decoder("bert", "bert") },
];

impl Scheme {
    /// The row of a model type.
    pub(super) fn of(model_type: &str) -> Option<&'static Scheme> {
        SCHEMES.iter().find(|s| s.model_type == model_type)
    }

    /// A row of a family: its model types name the products of layers alike.
    pub(super) fn of_family(family: &str) -> Option<&'static Scheme> {
        SCHEMES.iter().find(|s| s.family == family)
    }

    /// How its tensors are named.
    pub(super) fn names(&self) -> Names {
        Names { prefixes: self.prefixes, rows: [self.first, self.rows].concat() }
    }
}
