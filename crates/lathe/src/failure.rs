//! How a verb can end other than well.

use lathe_compile::CompileError;
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_engine::EngineError;
use lathe_fuzz::{CaseError, FuzzError};
use lathe_ir::IrError;
use lathe_machine::MachineError;
use lathe_models::{
    AdapterError, ChatError, FamilyError, FileError, GgufError, QuantizeError, SourceError, TokenizerError,
};
use lathe_onnx::OnnxError;
use lathe_plan::PlanError;
use lathe_runtime::RuntimeError;
use lathe_schedule::ScheduleError;
use lathe_select::SelectError;
use lathe_serve::ServeError;
use lathe_tune::TuneError;
use lathe_verify::TextError;

/// Why a verb ended early.
#[derive(Debug)]
pub enum Failure {
    /// Something for the user to read.
    Error(Box<Diagnostic>),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Nobody reads the output any more.
    BrokenPipe,
}

impl Failure {
    /// The command line itself is wrong.
    pub fn usage(what: &str) -> Failure {
        Diagnostic::new("usage", Fault::User, what).into()
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Failure::Error(Box::new(diagnostic))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Interrupted => Failure::Interrupted,
            error => error.diagnostic().into(),
        }
    }
}

impl From<QuantizeError> for Failure {
    fn from(error: QuantizeError) -> Self {
        match error {
            QuantizeError::Stopped => Failure::Interrupted,
            error => error.diagnostic().into(),
        }
    }
}

macro_rules! from_rooms {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                error.diagnostic().into()
            }
        }
    )*};
}

from_rooms!(
    AdapterError,
    CaseError,
    ChatError,
    CompileError,
    FamilyError,
    FileError,
    FuzzError,
    GgufError,
    IrError,
    MachineError,
    OnnxError,
    PlanError,
    SourceError,
    TokenizerError,
    RuntimeError,
    ScheduleError,
    SelectError,
    ServeError,
    TextError,
    TuneError
);
