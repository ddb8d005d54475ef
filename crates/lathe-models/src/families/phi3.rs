//! Phi-3 and Phi-4 (Abdin et al. 2024): queries, keys and values in one matrix, gate and up in another; long contexts by one
//! factor a frequency (Ding et al. 2024).

use super::style::{FeedForward, Style};

pub(super) const STYLE: Style =
    Style { name: "phi3", fused_heads: true, feed_forward: FeedForward::FusedGate, ..Style::COMMON };
