//! What can be wrong with a GGUF file, each in one line.

use std::path::PathBuf;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

/// A fault of one file.
#[derive(Debug, Error)]
#[error("{}{kind}", self.path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
pub struct GgufError {
    /// The file, where there is one.
    pub path: Option<PathBuf>,
    /// What is wrong with it.
    pub kind: GgufErrorKind,
}

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum GgufErrorKind {
    /// The system cannot open, map or write it.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried: `open`, `map` or `write`.
        action: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// It does not begin as a GGUF file does.
    #[error("this is not a GGUF file (it begins with {found})")]
    NotGguf {
        /// The first bytes, readable.
        found: String,
    },
    /// A version this reader does not know.
    #[error("GGUF version {0} is not supported (versions 2 and 3 are)")]
    Version(u32),
    /// Written on a big-endian machine.
    #[error("big-endian GGUF files are not supported")]
    BigEndian,
    /// It ends before its content does.
    #[error("the file ends inside {inside} (it has {len} bytes)")]
    Truncated {
        /// What was being read.
        inside: String,
        /// The file's length.
        len: usize,
    },
    /// Content that contradicts itself or the format.
    #[error("{0}")]
    Malformed(String),
    /// Parts of a split model that do not belong together, or are not all there.
    #[error("{0}")]
    Split(String),
    /// A tensor in an element type Lathe does not read.
    #[error(
        "tensor '{tensor}' is in {name}, which is not supported yet (F32, F16, BF16, Q4_0, Q4_1 and Q8_0 are)"
    )]
    UnsupportedType {
        /// The tensor.
        tensor: String,
        /// The type's name, or its number.
        name: String,
    },
    /// A metadata key that this use needs.
    #[error("metadata key '{0}' is missing")]
    MissingKey(String),
    /// A metadata value of another type than this use needs, or outside its range.
    #[error("metadata key '{key}' holds {found}, where {wanted} is needed")]
    WrongType {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// A tensor given to the writer does not match its declaration.
    #[error("tensor '{tensor}': {what}")]
    BadTensor {
        /// The tensor.
        tensor: String,
        /// What does not match.
        what: String,
    },
}

impl Diagnose for GgufError {
    fn diagnostic(&self) -> Diagnostic {
        use GgufErrorKind as K;
        let again = "download it again, or check that it was copied whole";
        let (code, fault, fix) = match &self.kind {
            K::Io { action: "write", .. } => {
                ("gguf-write", Fault::Environment, Some("check free space and permissions"))
            }
            K::Io { .. } => {
                ("gguf-open", Fault::User, Some("give the path of a GGUF model file that you may read"))
            }
            K::NotGguf { .. } => ("gguf-magic", Fault::File, Some("give the path of a GGUF model file")),
            K::Version(_) => ("gguf-version", Fault::File, Some("convert the model to GGUF version 3")),
            K::BigEndian => ("gguf-big-endian", Fault::File, Some("convert the model to little-endian GGUF")),
            K::Truncated { .. } => ("gguf-truncated", Fault::File, Some(again)),
            K::Malformed(_) => ("gguf-malformed", Fault::File, Some(again)),
            K::Split(_) => {
                ("gguf-split", Fault::File, Some("put all parts into one folder under their own names"))
            }
            K::UnsupportedType { .. } => {
                ("gguf-type", Fault::File, Some("use a Q4_0, Q4_1, Q8_0, F16 or BF16 file of this model"))
            }
            K::MissingKey(_) => {
                ("gguf-key", Fault::File, Some("convert the model again with a current converter"))
            }
            K::WrongType { .. } => {
                ("gguf-value", Fault::File, Some("convert the model again with a current converter"))
            }
            K::BadTensor { .. } => ("gguf-tensor", Fault::Bug, None),
        };
        let mut d = Diagnostic::new(code, fault, self.kind.to_string());
        d.place = self.path.as_ref().map(|p| p.display().to_string());
        d.fix = fix.map(str::to_owned);
        d
    }
}
