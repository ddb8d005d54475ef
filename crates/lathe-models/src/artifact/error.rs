//! What can be wrong with a compiled model's file, each in one line.

use std::path::PathBuf;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

use crate::gguf::GgufErrorKind;

/// A fault of one file.
#[derive(Debug, Error)]
#[error("{}: {kind}", .path.display())]
pub struct ArtifactError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: ArtifactErrorKind,
}

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum ArtifactErrorKind {
    /// The system cannot open, map or write it.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried: `open`, `map` or `write`.
        action: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// It was made by another version.
    #[error("it has version {0}, this program reads version {VERSION}", VERSION = super::VERSION)]
    Version(u32),
    /// It ends early.
    #[error("the file ends before its content does (it has {len} bytes)")]
    Truncated {
        /// The file's length.
        len: usize,
    },
    /// A part that is not what was written.
    #[error("{0} is damaged")]
    Damaged(String),
    /// A part that is not there.
    #[error("it has no section '{0}'")]
    Missing(String),
    /// Metadata that cannot be read.
    #[error("settings: {0}")]
    Settings(GgufErrorKind),
}

impl Diagnose for ArtifactError {
    fn diagnostic(&self) -> Diagnostic {
        use ArtifactErrorKind as K;
        let again = "copy it again, or make it again with lathe compile";
        let (code, fault, fix) = match &self.kind {
            K::Io { action: "write", .. } => (
                "artifact-write",
                Fault::Environment,
                "check that the folder exists, is writable and has space",
            ),
            K::Io { .. } => ("artifact-open", Fault::User, "give the path of a file that you may read"),
            K::Version(_) => ("artifact-version", Fault::File, "make it again with lathe compile"),
            K::Truncated { .. } => ("artifact-truncated", Fault::File, again),
            K::Damaged(_) => ("artifact-damaged", Fault::File, again),
            K::Missing(_) | K::Settings(_) => ("artifact-malformed", Fault::File, again),
        };
        Diagnostic::new(code, fault, self.kind.to_string()).at(self.path.display().to_string()).fix(fix)
    }
}
