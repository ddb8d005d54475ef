//! Why no graph can be built from a file.

use std::path::PathBuf;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::IrError;
use thiserror::Error;

use super::{CacheShape, KvType};
use crate::gguf::GgufError;

/// A model that cannot be built from a file.
#[derive(Debug, Error)]
#[error("{}{kind}", self.path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
pub struct FamilyError {
    /// The file, where there is one.
    pub path: Option<PathBuf>,
    /// What is wrong.
    pub kind: FamilyErrorKind,
}

/// What is wrong with a model.
#[derive(Debug, Error)]
pub enum FamilyErrorKind {
    /// Metadata is missing or of the wrong type.
    #[error("{}", .0.kind)]
    Gguf(#[from] GgufError),
    /// No family has this name.
    #[error("the model family '{name}' is not supported yet (known: {known})")]
    Unknown {
        /// The family in the file.
        name: String,
        /// Those supported, quoted.
        known: String,
    },
    /// A metadata value that no model of the family can have.
    #[error("metadata key '{key}' is {found}, where {wanted} is needed")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is needed.
        wanted: String,
    },
    /// A tensor is not there.
    #[error("tensor '{name}' is missing{}", expected.as_ref().map(|s| format!(" (its shape would be {s:?})")).unwrap_or_default())]
    Missing {
        /// The tensor.
        name: String,
        /// The shape that the configuration asks for, outermost first, where it says it all.
        expected: Option<Vec<i64>>,
    },
    /// A tensor has another shape than the metadata says.
    #[error("tensor '{name}' has shape {found:?}, but the model's configuration asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, outermost first.
        found: Vec<i64>,
        /// The shape that the configuration asks for.
        expected: Vec<i64>,
    },
    /// A tensor's values cannot be used.
    #[error("tensor '{name}' {what}")]
    Values {
        /// The tensor.
        name: String,
        /// What is wrong with them.
        what: &'static str,
    },
    /// A tensor that the family does not use.
    #[error("tensor '{0}' has no place in this family: the model is of a variant that is not supported yet")]
    Unused(String),
    /// The caller asks for a cache or a step of nothing.
    #[error("a cache of this size is not possible: {0:?}")]
    Cache(Box<CacheShape>),
    /// Codes of the cache share scales that do not divide a head.
    #[error("a head of {head} components cannot be kept as '{}', 32 of which share a scale", elements.as_str())]
    Elements {
        /// What was asked for.
        elements: KvType,
        /// Components of a head.
        head: i64,
    },
    /// The graph does not check: the builder is wrong.
    #[error("{0}")]
    Graph(#[from] IrError),
}

impl Diagnose for FamilyError {
    fn diagnostic(&self) -> Diagnostic {
        use FamilyErrorKind as K;
        let again = Some("convert the model again with a current converter");
        let (code, fault, fix) = match &self.kind {
            K::Gguf(e) => return e.diagnostic(),
            K::Unknown { .. } => ("family-unknown", Fault::File, Some("use a model of a supported family")),
            K::Value { .. } => ("family-value", Fault::File, again),
            K::Missing { .. } => ("family-tensor", Fault::File, again),
            K::Shape { .. } => ("family-shape", Fault::File, again),
            K::Unused(_) => ("family-variant", Fault::File, Some("use a model of a supported family")),
            K::Values { .. } => ("family-values", Fault::File, again),
            K::Elements { .. } => ("family-kv-type", Fault::User, Some("use --kv-type f16")),
            K::Cache(_) => ("family-cache", Fault::Bug, None),
            K::Graph(_) => ("family-graph", Fault::Bug, None),
        };
        let mut d = Diagnostic::new(code, fault, self.kind.to_string());
        d.place = self.path.as_ref().map(|p| p.display().to_string());
        d.fix = fix.map(str::to_owned);
        d
    }
}
