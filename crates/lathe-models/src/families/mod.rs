//! Model families as graph builders: from a file's metadata and tensors to the graph of one step.
//!
//! A family is one file and one row of [`FAMILIES`]. Its graph is the whole model as a function of the step's tokens and
//! the paged cache; every tensor it names was found in the file with the shape that the configuration asks for.

mod config;
mod decoder;
mod error;
mod llama;
mod qwen2;
mod tensors;

pub use config::{Config, Experts};
pub use error::{FamilyError, FamilyErrorKind};

use std::collections::HashMap;

use lathe_ir::graph::{Graph, check};
use lathe_ir::{Name, Tensor};

use crate::file::ModelFile;

/// Positions in a page of the cache.
pub const PAGE: i64 = 16;

/// How large the cache and a step may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Pages of 16 positions, over all sequences.
    pub pages: i64,
    /// The longest sequence, in positions; rounded up to whole pages.
    pub context: i64,
    /// Tokens of one step.
    pub max_tokens: i64,
    /// Sequences of one step, and rows whose logits are wanted.
    pub max_sequences: i64,
}

/// A model as a graph.
///
/// Dimensions: `T` tokens of the step, ragged over its sequences; `R` rows whose logits are wanted; `B` rows of the page
/// table. Inputs: `tokens`, `positions`, `sequences` (a row of `pages`) and `slots` (page * 16 + place in it) for each
/// token, `rows`, and `pages` [B, context / 16]. State: `k0`, `v0`, `k1`... Results: the logits [R, vocabulary], then
/// the successors of the state in this order.
#[derive(Clone, Debug)]
pub struct Model {
    /// The step; its constants have the names of the file's tensors, or of `made`.
    pub graph: Graph,
    /// What the file says of the model.
    pub config: Config,
    /// Constants that are not in the file.
    pub made: HashMap<Name, Tensor>,
}

type Build = fn(&ModelFile, &CacheShape) -> Result<Model, FamilyErrorKind>;

/// The families, by the architecture's name in a file.
const FAMILIES: &[(&str, Build)] = &[("llama", llama::build), ("qwen2", qwen2::build)];

fn find(file: &ModelFile) -> Result<(&'static str, Build), FamilyErrorKind> {
    let name = file.get_str("general.architecture")?;
    FAMILIES.iter().find(|(n, _)| *n == name).copied().ok_or_else(|| {
        let known = FAMILIES.iter().map(|(n, _)| format!("'{n}'")).collect::<Vec<_>>().join(", ");
        FamilyErrorKind::Unknown { name: name.to_owned(), known }
    })
}

/// The family of the model in `file`: the first word of its settings' names.
pub fn family(file: &ModelFile) -> Result<&'static str, FamilyError> {
    find(file).map(|(name, _)| name).map_err(|kind| FamilyError { path: file.path().map(Into::into), kind })
}

/// The graph of the model in `file`.
pub fn build(file: &ModelFile, cache: &CacheShape) -> Result<Model, FamilyError> {
    let fail = |kind| FamilyError { path: file.path().map(Into::into), kind };
    let (_, family) = find(file).map_err(fail)?;
    if [cache.pages, cache.context, cache.max_tokens, cache.max_sequences].iter().any(|n| *n < 1) {
        return Err(fail(FamilyErrorKind::Cache(*cache)));
    }
    let model = family(file, cache).map_err(fail)?;
    check(&model.graph, &lathe_ops::table()).map_err(|e| fail(e.into()))?;
    Ok(model)
}
