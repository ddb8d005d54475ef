//! What can be wrong with IR: text that does not parse, a program the checker refuses, a run that leaves its buffers.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};

/// An error of one of the IRs.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum IrError {
    /// The text form does not parse (the user's, when a person wrote it).
    #[error("line {line}: {message}")]
    Parse {
        /// 1-based line of the text.
        line: usize,
        /// What was expected.
        message: String,
    },
    /// The checker refuses the program (a defect of the pass that made it, or of the text).
    #[error("{place}: {message}")]
    Check {
        /// The function and the loop, block or node.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// The interpreter met an access outside a buffer, a missing argument, or a division by zero.
    #[error("{place}: {message}")]
    Run {
        /// The function and the statement.
        place: String,
        /// What is wrong.
        message: String,
    },
}

impl IrError {
    /// A checker's refusal.
    pub fn check(place: impl Into<String>, message: impl Into<String>) -> IrError {
        IrError::Check { place: place.into(), message: message.into() }
    }

    /// A failed run.
    pub fn run(place: impl Into<String>, message: impl Into<String>) -> IrError {
        IrError::Run { place: place.into(), message: message.into() }
    }
}

impl Diagnose for IrError {
    fn diagnostic(&self) -> Diagnostic {
        match self {
            IrError::Parse { line, message } => {
                Diagnostic::new("ir-parse", Fault::User, message.clone()).at(format!("line {line}"))
            }
            IrError::Check { place, message } => {
                Diagnostic::new("ir-check", Fault::Bug, message.clone()).at(place.clone())
            }
            IrError::Run { place, message } => {
                Diagnostic::new("ir-run", Fault::Bug, message.clone()).at(place.clone())
            }
        }
    }
}
