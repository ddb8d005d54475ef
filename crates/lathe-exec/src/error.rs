//! What can go wrong when a step program is bound to memory or run.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::IrError;
use lathe_runtime::RuntimeError;

/// An error of the executor.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// A list of pages that no copy can follow (a bug).
    #[error("{program}: {message}")]
    Pages {
        /// The program.
        program: String,
        /// What is wrong with it.
        message: String,
    },
    /// Another rank cannot be reached any more, or never could (environment).
    #[error("rank {rank} {message}")]
    Peer {
        /// The other rank.
        rank: u32,
        /// What happened to it.
        message: String,
    },
    /// The program is not sound, or does not fit the machine.
    #[error(transparent)]
    Program(#[from] IrError),
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Diagnose for ExecError {
    fn diagnostic(&self) -> Diagnostic {
        match self {
            ExecError::Runtime(e) => e.diagnostic(),
            ExecError::Program(e) => e.diagnostic(),
            ExecError::Peer { .. } => Diagnostic::new("lost-rank", Fault::Environment, self.to_string())
                .fix("look at that rank's own message, then start all ranks again"),
            e => Diagnostic::new("step-program", Fault::Bug, e.to_string()),
        }
    }
}
