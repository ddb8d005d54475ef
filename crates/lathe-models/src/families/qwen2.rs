//! Qwen2 and Qwen2.5 (Yang et al. 2024): biases on queries, keys and values, which files tell by having them.

use super::style::Style;

pub(super) const STYLE: Style = Style { name: "qwen2", ..Style::COMMON };
