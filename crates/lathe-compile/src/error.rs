//! What can go wrong between a graph and its run: whatever a room below reports.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};

/// A room's error, as its diagnostic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.what)]
pub struct CompileError(Box<Diagnostic>);

impl CompileError {
    /// A mistake of the compiler or of its caller.
    pub(crate) fn bug(what: impl Into<String>) -> CompileError {
        CompileError(Box::new(Diagnostic::new("compile", Fault::Bug, what.into())))
    }

    /// A stored plan that cannot be read.
    pub(crate) fn file(what: impl Into<String>) -> CompileError {
        CompileError(Box::new(Diagnostic::new("stored-plan", Fault::File, what.into())))
    }

    /// Something passed that does not fit.
    pub(crate) fn user(what: impl Into<String>) -> CompileError {
        CompileError(Box::new(Diagnostic::new("tensor", Fault::User, what.into())))
    }
}

impl Diagnose for CompileError {
    fn diagnostic(&self) -> Diagnostic {
        (*self.0).clone()
    }
}

macro_rules! from {
    ($($t:ty)*) => {$(
        impl From<$t> for CompileError {
            fn from(e: $t) -> CompileError {
                CompileError(Box::new(e.diagnostic()))
            }
        }
    )*};
}
from!(lathe_ir::IrError lathe_schedule::ScheduleError lathe_codegen::CodegenError lathe_runtime::RuntimeError lathe_exec::ExecError);
