//! What can go wrong with a program of ONNX.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault as Whose};

/// Why a node could not be built, before its place is known.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A valid program that Lathe does not read.
    Unsupported(String),
    /// The file says what cannot be.
    Invalid(String),
    /// A room below failed, or a fault whose place is known.
    Placed(Box<OnnxError>),
}

impl Fault {
    /// What Lathe does not have.
    pub fn unsupported(what: impl Into<String>) -> Fault {
        Fault::Unsupported(what.into())
    }

    /// What cannot be.
    pub fn invalid(what: impl Into<String>) -> Fault {
        Fault::Invalid(what.into())
    }

    /// With the node's operator, opset and name.
    pub fn at(self, place: &str) -> OnnxError {
        match self {
            Fault::Unsupported(what) => OnnxError::new("onnx-unsupported", Whose::File, what, place),
            Fault::Invalid(what) => OnnxError::new("onnx-file", Whose::File, what, place),
            Fault::Placed(e) => *e,
        }
    }
}

/// An error with its place.
#[derive(Clone, Debug)]
pub struct OnnxError(Diagnostic);

impl OnnxError {
    fn new(code: &'static str, whose: Whose, what: String, place: &str) -> OnnxError {
        // Names come from files: one line, whatever is in them.
        let clean = |s: &str| s.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        let (what, place) = (clean(&what), &clean(place));
        let d = Diagnostic::new(code, whose, what);
        OnnxError(if place.is_empty() { d } else { d.at(place.to_string()) })
    }

    /// Values that the caller passes and that do not fit.
    pub fn user(what: impl Into<String>) -> OnnxError {
        OnnxError::new("onnx-input", Whose::User, what.into(), "")
    }

    /// Whether it says that something is not supported.
    pub fn is_unsupported(&self) -> bool {
        self.0.code == "onnx-unsupported"
    }
}

impl std::fmt::Display for OnnxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0.place {
            Some(place) => write!(f, "{place}: {}", self.0.what),
            None => write!(f, "{}", self.0.what),
        }
    }
}

impl std::error::Error for OnnxError {}

impl Diagnose for OnnxError {
    fn diagnostic(&self) -> Diagnostic {
        self.0.clone()
    }
}

impl From<OnnxError> for Fault {
    fn from(e: OnnxError) -> Fault {
        Fault::Placed(Box::new(e))
    }
}

impl From<lathe_compile::CompileError> for Fault {
    fn from(e: lathe_compile::CompileError) -> Fault {
        Fault::Placed(Box::new(OnnxError(e.diagnostic())))
    }
}

impl From<lathe_ir::IrError> for Fault {
    fn from(e: lathe_ir::IrError) -> Fault {
        Fault::Placed(Box::new(OnnxError(e.diagnostic())))
    }
}
