//! Gemma 3 (Gemma team 2025): five layers with a window and short rotations for each one over the whole context, and a norm
//! of each head in place of the soft caps.

use super::gemma2;
use super::style::{HeadNorm, Style};

pub(super) const STYLE: Style = Style {
    name: "gemma3",
    head_norm: Some(HeadNorm::Each),
    global_every: Some(6),
    local_base: Some(10000.0),
    widest: Some(62),
    ..gemma2::STYLE
};
