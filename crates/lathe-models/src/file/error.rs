//! What can be wrong with a model file, of whichever format.

use lathe_diagnostic::{Diagnose, Diagnostic};
use thiserror::Error;

use crate::artifact::ArtifactError;
use crate::gguf::GgufError;
use crate::safetensors::SafetensorsError;

/// A model file that cannot be opened.
#[derive(Debug, Error)]
#[error(transparent)]
pub enum FileError {
    /// A GGUF file, or one of a set.
    Gguf(#[from] GgufError),
    /// A safetensors folder.
    Safetensors(#[from] SafetensorsError),
    /// A compiled model.
    Artifact(#[from] ArtifactError),
}

impl Diagnose for FileError {
    fn diagnostic(&self) -> Diagnostic {
        match self {
            FileError::Gguf(e) => e.diagnostic(),
            FileError::Safetensors(e) => e.diagnostic(),
            FileError::Artifact(e) => e.diagnostic(),
        }
    }
}
