//! The mixtures of experts of Qwen1.5 and Qwen2 (Yang et al. 2024): Qwen2 with experts weighed by their share of all, and one
//! shared expert behind a gate of its own.

use super::style::Style;

pub(super) const STYLE: Style = Style { name: "qwen2moe", shares_of_all: true, ..Style::COMMON };
