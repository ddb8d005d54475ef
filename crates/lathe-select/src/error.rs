//! What can go wrong with a selection.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::IrError;

/// Why nothing was selected or run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SelectError {
    /// The description of a target says what cannot be (its author's fault).
    #[error("{place}{}{what}", if place.is_empty() { "" } else { ": " })]
    Description {
        /// The instruction, or the part of the file.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// A graph that is not selected for (state, sizes that are not constants).
    #[error("{0}")]
    Unsupported(String),
    /// A program of an accelerator that it refuses: its text, or an access outside its memories.
    #[error("instruction {at}: {what}")]
    Program {
        /// The place of the instruction, from 0.
        at: usize,
        /// What is wrong.
        what: String,
    },
    /// A chosen graph that has no proof: a defect.
    #[error("the choice for '{value}' is not proved: {what}")]
    Unproved {
        /// The value of the graph.
        value: String,
        /// The step that fails.
        what: String,
    },
    /// The chosen graph is refused by the graph's checker or interpreter.
    #[error(transparent)]
    Ir(#[from] IrError),
}

impl Diagnose for SelectError {
    fn diagnostic(&self) -> Diagnostic {
        let of = |code, fault| Diagnostic::new(code, fault, self.to_string().trim_end().replace('\n', " "));
        match self {
            SelectError::Description { .. } => {
                of("target-description", Fault::File).fix("correct it; `lathe select --help` names examples")
            }
            SelectError::Unsupported(_) => of("select-unsupported", Fault::User),
            SelectError::Program { .. } => of("accelerator-program", Fault::File),
            SelectError::Unproved { .. } => of("select-unproved", Fault::Bug),
            SelectError::Ir(e) => e.diagnostic(),
        }
    }
}
