//! GPT-2 (Radford et al. 2019): learned positions, layer norms in front, biases everywhere.

use super::style::{Activation, FeedForward, Norm, Positions, Style};

pub(super) const STYLE: Style = Style {
    name: "gpt2",
    norm: Norm::Layer,
    positions: Positions::Learned(0),
    fused_heads: true,
    feed_forward: FeedForward::Plain,
    activation: Activation::GeluTanh,
    ..Style::COMMON
};
