//! The Llama family (Touvron et al. 2023), and mixtures of experts of its shape (Jiang et al. 2024).

use super::decoder::{self, Pairs, Style};
use super::{CacheShape, FamilyErrorKind, Model};
use crate::file::ModelFile;

const STYLE: Style = Style { prefix: "llama", pairs: Pairs::Neighbours };

pub(super) fn build(file: &ModelFile, cache: &CacheShape) -> Result<Model, FamilyErrorKind> {
    decoder::build(file, cache, &STYLE)
}
