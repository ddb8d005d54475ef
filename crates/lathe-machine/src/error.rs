//! What can be wrong with a machine file: its syntax, or a value no machine can have.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};

/// An error in the description of a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The text is not TOML, or a field is missing or of the wrong type (the file's fault: correct it or measure again).
    #[error("not a machine description: {message}")]
    Syntax {
        /// The parser's message, with line and column.
        message: String,
    },
    /// A field holds a value that no machine has (the file's fault: correct it or measure again).
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field, such as `memory.dram.capacity_bytes`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Diagnose for MachineError {
    fn diagnostic(&self) -> Diagnostic {
        let code = match self {
            MachineError::Syntax { .. } => "machine-syntax",
            MachineError::Invalid { .. } => "machine-invalid",
        };
        Diagnostic::new(code, Fault::File, self.to_string().trim_end())
            .fix("correct the file, or run: lathe machine")
    }
}
