//! The one shape every error of Lathe takes: code, whose fault, place, what to do.
//!
//! Each room has its own typed error; each of them implements [`Diagnose`], and the command line renders the result in
//! one way and exits with code 2.
//!
//! ```
//! use lathe_diagnostic::{Diagnostic, Fault};
//! let d = Diagnostic::new("model-truncated", Fault::File, "the file ends inside tensor 'x'")
//!     .at("model.gguf")
//!     .fix("download it again: lathe pull smollm2-135m");
//! assert!(d.to_string().starts_with("error[model-truncated]"));
//! ```

use std::fmt;

/// Whose fault an error is; it decides the tone of the message and where to look first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request cannot be served as asked: a wrong flag, a prompt past the context.
    User,
    /// A file's content is damaged or of a kind Lathe does not read.
    File,
    /// The surroundings: no compiler, no space, no permission, no network.
    Environment,
    /// A defect in Lathe itself; please report it.
    Bug,
}

/// An error as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable short name, in kebab case.
    pub code: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// What went wrong, one sentence.
    pub what: String,
    /// Where: a file, an argument, a place in IR text.
    pub place: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Diagnostic {
    /// A diagnostic without place or advice.
    pub fn new(code: &'static str, fault: Fault, what: impl Into<String>) -> Self {
        Diagnostic { code, fault, what: what.into(), place: None, fix: None }
    }

    /// Adds where it happened.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Adds what to do.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: ", self.code)?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}", self.what)?;
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        if self.fault == Fault::Bug {
            write!(f, " (this is a defect in lathe, please report it)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// Every room's error renders through this.
pub trait Diagnose: std::error::Error {
    /// The error as a person reads it.
    fn diagnostic(&self) -> Diagnostic;
}

impl Diagnose for Diagnostic {
    fn diagnostic(&self) -> Diagnostic {
        self.clone()
    }
}
