//! The mixtures of experts of Qwen3 (Yang et al. 2025): experts weighed by their share of those chosen.

use super::qwen3;
use super::style::Style;

pub(super) const STYLE: Style = Style { name: "qwen3moe", ..qwen3::STYLE };
