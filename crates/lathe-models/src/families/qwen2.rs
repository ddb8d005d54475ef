//! Qwen2 and Qwen2.5 (Yang et al. 2024): the common decoder with biases on queries, keys and values, rotated by halves.

use super::decoder::{self, Pairs, Style};
use super::{CacheShape, FamilyErrorKind, Model};
use crate::file::ModelFile;

const STYLE: Style = Style { prefix: "qwen2", pairs: Pairs::Halves };

pub(super) fn build(file: &ModelFile, cache: &CacheShape) -> Result<Model, FamilyErrorKind> {
    decoder::build(file, cache, &STYLE)
}
