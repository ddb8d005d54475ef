//! OLMo 2 (OLMo team 2024): norms behind each block and none in front, and of queries and keys over all heads.

use super::style::{HeadNorm, Norms, Style};

pub(super) const STYLE: Style =
    Style { name: "olmo2", norms: Norms::After, head_norm: Some(HeadNorm::All), ..Style::COMMON };
