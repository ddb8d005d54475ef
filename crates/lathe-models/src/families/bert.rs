//! BERT (Devlin et al. 2019) and its kin as encoders of sentences (Reimers and Gurevych 2019): attention both ways, layer
//! norms of the sums, the mean of a sequence's tokens.

use super::gpt2;
use super::style::{Activation, Norms, Style};

pub(super) const STYLE: Style = Style {
    name: "bert",
    norms: Norms::OfSum,
    fused_heads: false,
    activation: Activation::GeluErf,
    encoder: true,
    ..gpt2::STYLE
};
