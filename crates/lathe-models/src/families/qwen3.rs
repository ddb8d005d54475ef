//! Qwen3 (Yang et al. 2025): a norm of each head of queries and keys, no biases.

use super::style::{HeadNorm, Style};

pub(super) const STYLE: Style = Style { name: "qwen3", head_norm: Some(HeadNorm::Each), ..Style::COMMON };
