//! What can be wrong with a safetensors folder, each in one line.

use std::path::{Path, PathBuf};

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

/// A fault of one file of a folder.
#[derive(Debug, Error)]
#[error("{}: {kind}", path.display())]
pub struct SafetensorsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: SafetensorsErrorKind,
}

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum SafetensorsErrorKind {
    /// The system cannot open, map or read it.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// The folder has no file of this name.
    #[error("the folder has no {0}")]
    Missing(&'static str),
    /// The header contradicts itself, the format or the file.
    #[error("{0}")]
    Header(String),
    /// The index names what is not there.
    #[error("{0}")]
    Index(String),
    /// A file that is not the JSON it should be.
    #[error("this is not the JSON that is needed: {0}")]
    Json(String),
    /// A setting that is missing, or of another type or range than is needed.
    #[error("'{key}' is {found}, where {wanted} is needed")]
    Setting {
        /// The setting's name.
        key: String,
        /// What it holds.
        found: String,
        /// What is needed.
        wanted: String,
    },
    /// A tensor that cannot be presented in the form its family needs.
    #[error("tensor '{tensor}' {what}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
}

impl SafetensorsErrorKind {
    pub(super) fn at(self, path: &Path) -> SafetensorsError {
        SafetensorsError { path: path.to_owned(), kind: self }
    }

    pub(super) fn tensor(tensor: &str, what: impl Into<String>) -> SafetensorsErrorKind {
        SafetensorsErrorKind::Tensor { tensor: tensor.to_owned(), what: what.into() }
    }
}

impl Diagnose for SafetensorsError {
    fn diagnostic(&self) -> Diagnostic {
        use SafetensorsErrorKind as K;
        let again = "download it again, or check that it was copied whole";
        let (code, fault, fix) = match &self.kind {
            K::Io { .. } => ("safetensors-open", Fault::User, "give a folder whose files you may read"),
            K::Missing(_) => (
                "safetensors-missing",
                Fault::User,
                "give a folder with config.json and model.safetensors, or the path of a GGUF file",
            ),
            K::Header(_) => ("safetensors-header", Fault::File, again),
            K::Index(_) => ("safetensors-index", Fault::File, again),
            K::Json(_) => ("safetensors-json", Fault::File, again),
            K::Setting { .. } => ("safetensors-config", Fault::File, "use a model of a supported kind"),
            K::Tensor { .. } => ("safetensors-tensor", Fault::File, again),
        };
        let mut d = Diagnostic::new(code, fault, self.kind.to_string()).fix(fix);
        d.place = Some(self.path.display().to_string());
        d
    }
}
