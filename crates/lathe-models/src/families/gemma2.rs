//! Gemma 2 (Gemma team 2024): norms before and after each block, soft caps on scores and logits, a window in every other
//! layer.

use super::style::{Activation, Norms, Style};

pub(super) const STYLE: Style = Style {
    name: "gemma2",
    norms: Norms::Around,
    activation: Activation::GeluTanh,
    scaled_embedding: true,
    global_every: Some(2),
    widest: Some(46),
    ..Style::COMMON
};
