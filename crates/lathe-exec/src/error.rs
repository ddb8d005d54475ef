//! What can go wrong when a step program is bound to memory or run.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_runtime::RuntimeError;

/// An error of the executor.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A buffer that the caller did not pass, or of the wrong size.
    #[error("{program}: buffer '{buffer}' {message}")]
    Buffer {
        /// The program.
        program: String,
        /// The buffer.
        buffer: String,
        /// What is wrong with it.
        message: String,
    },
    /// A kernel that the program calls and nobody compiled.
    #[error("{program}: there is no kernel '{kernel}'")]
    Kernel {
        /// The program.
        program: String,
        /// The kernel.
        kernel: String,
    },
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Diagnose for ExecError {
    fn diagnostic(&self) -> Diagnostic {
        match self {
            ExecError::Runtime(e) => e.diagnostic(),
            e => Diagnostic::new("step-program", Fault::Bug, e.to_string()),
        }
    }
}
