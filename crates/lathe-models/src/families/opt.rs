//! OPT (Zhang et al. 2022) with norms in front: GPT-2 with separate queries, keys and values, ReLU, and a table of positions
//! whose first two rows are not used.

use super::gpt2;
use super::style::{Activation, Positions, Style};

pub(super) const STYLE: Style = Style {
    name: "opt",
    positions: Positions::Learned(2),
    fused_heads: false,
    activation: Activation::Relu,
    ..gpt2::STYLE
};
