//! Llama 1 to 3 (Touvron et al. 2023), Mistral (Jiang et al. 2023: a window, where the file has one), and Mixtral (Jiang et al.
//! 2024: where the file has experts). Files hold queries and keys in the order of neighbours.

use super::style::{Pairs, Positions, Style};

pub(super) const STYLE: Style =
    Style { name: "llama", positions: Positions::Rotary(Pairs::Neighbours), ..Style::COMMON };
