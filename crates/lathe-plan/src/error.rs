//! Why there is no plan.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};

/// What can go wrong when a plan is made or read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A text is not TOML, or not what it should describe (the file's fault).
    #[error("not a description of work or of a policy: {}", .message.trim_end())]
    Syntax {
        /// The parser's message.
        message: String,
    },
    /// A model's numbers make no sense (the file's fault).
    #[error("the description of the work: {what}")]
    Work {
        /// What should hold.
        what: String,
    },
    /// The machine lacks what planning needs (the file's fault: measure or describe it).
    #[error("the machine '{machine}' has {what}")]
    Machine {
        /// The machine's name.
        machine: String,
        /// What it lacks.
        what: String,
    },
    /// What is asked for is no question (the user's fault).
    #[error("{what}")]
    Asked {
        /// What is wrong.
        what: String,
    },
    /// A policy that cannot be (the file's fault).
    #[error("the policy: {what}")]
    Policy {
        /// What is wrong with it.
        what: String,
    },
    /// Counts that no text gives (the file's fault).
    #[error("the popularity of experts: {what}")]
    Popularity {
        /// What should hold.
        what: String,
    },
    /// A memory is too small, whatever lies elsewhere (the user's fault).
    #[error("{needed} bytes of '{memory}' are needed at least, for {what}; there are {has}")]
    TooSmall {
        /// The memory.
        memory: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that there are.
        has: u64,
        /// What takes them.
        what: String,
    },
    /// No plan makes a token in the time that is asked for (the user's fault).
    #[error("no plan makes a token in {bound} s; the fastest takes {best:.3} s")]
    TooSlow {
        /// The bound, seconds.
        bound: f64,
        /// The least seconds.
        best: f64,
    },
    /// The solver failed (a bug).
    #[error("the linear programme was not solved: {what}")]
    Solver {
        /// What it said.
        what: String,
    },
}

impl Diagnose for PlanError {
    fn diagnostic(&self) -> Diagnostic {
        let (code, fault, fix) = match self {
            PlanError::Syntax { .. } => ("plan-syntax", Fault::File, "correct the file; --dump writes one"),
            PlanError::Work { .. } => ("plan-work", Fault::File, "correct the file"),
            PlanError::Machine { .. } => {
                ("plan-machine", Fault::File, "describe it, or run: lathe machine --refresh")
            }
            PlanError::Asked { .. } => ("plan-asked", Fault::User, "ask for something else"),
            PlanError::Policy { .. } => ("plan-policy", Fault::File, "correct the file; --dump writes one"),
            PlanError::Popularity { .. } => {
                ("plan-popularity", Fault::File, "record it again: lathe plan MODEL --profile TEXT -o F")
            }
            PlanError::TooSmall { .. } => (
                "plan-memory",
                Fault::User,
                "give more memory, a shorter prompt or fewer tokens, or smaller types",
            ),
            PlanError::TooSlow { .. } => ("plan-time", Fault::User, "allow more time, or more memory"),
            PlanError::Solver { .. } => ("plan-solver", Fault::Bug, "report it, with the machine's file"),
        };
        Diagnostic::new(code, fault, self.to_string()).fix(fix)
    }
}
