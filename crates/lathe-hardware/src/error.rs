//! What can go wrong between a kernel and its simulation.

use lathe_codegen::CodegenError;
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// The kernel has no form in HLS C++.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// A file cannot be read or written.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A program that is needed does not start.
    #[error("cannot run {program}: {message}")]
    Missing {
        /// The program.
        program: String,
        /// Why not.
        message: String,
    },
    /// The headers' package cannot be fetched, or is not the one expected.
    #[error("{package}: {message}")]
    Headers {
        /// The package.
        package: &'static str,
        /// What `pip` said, or what is wrong with the file.
        message: String,
    },
    /// The compiler refuses the project.
    #[error("the C++ compiler refuses the kernel: {message}")]
    Compile {
        /// Its first error.
        message: String,
    },
    /// The simulation fails or says something that is no result.
    #[error("the simulation failed: {message}")]
    Simulation {
        /// What it said.
        message: String,
    },
}

impl HardwareError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HardwareError {
        let path = path.to_path_buf();
        move |error| HardwareError::File { what, path, error }
    }
}

impl Diagnose for HardwareError {
    fn diagnostic(&self) -> Diagnostic {
        let of = |code, fault| Diagnostic::new(code, fault, self.to_string());
        match self {
            HardwareError::Codegen(e) => e.diagnostic(),
            HardwareError::File { .. } => of("hardware-file", Fault::Environment),
            HardwareError::Missing { .. } => of("hardware-missing", Fault::Environment)
                .fix("install g++, and python3 with pip (python3-pip in most systems)"),
            HardwareError::Headers { .. } => {
                of("hardware-headers", Fault::Environment).fix("check the network and pip's configuration")
            }
            HardwareError::Compile { .. } => of("hardware-compile", Fault::Bug),
            HardwareError::Simulation { .. } => of("hardware-simulation", Fault::Bug),
        }
    }
}
