//! Verbs that run schedules ask for the proof of each step.

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_schedule::Schedule;
use lathe_verify::{Prover, report};

/// What the proofs of the kernels' steps came to.
#[derive(Default)]
pub struct Proofs {
    prover: Prover,
    /// Steps that are proved.
    pub proved: usize,
    /// Steps that are not, and were let pass.
    pub unproved: usize,
}

impl Proofs {
    /// Asks for the proof of each step of a kernel; the first one without is refused, unless such are let pass.
    pub fn ask(&mut self, kernel: &str, schedule: &Schedule, pass: bool) -> Result<(), Diagnostic> {
        for (step, result) in report(schedule, &mut self.prover) {
            match result {
                Ok(_) => self.proved += 1,
                Err(_) if pass => self.unproved += 1,
                Err(why) => {
                    let what = format!("the step '{step}' of kernel '{kernel}' is refused: {why}");
                    let fix = "give --unproved to take it as it is; `lathe verify` shows all such steps";
                    return Err(Diagnostic::new("unproved", Fault::User, what).fix(fix));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_fuzz::study::SHARED_TILE;
    use lathe_ir::tensor::parse;

    #[test]
    fn a_step_without_a_proof_is_refused_with_a_case_or_let_pass() {
        let wrong = Schedule::replay(parse(SHARED_TILE).expect("a kernel"), "vectorize o").expect("a step");
        let refused = Proofs::default().ask("f", &wrong, false).expect_err("it has no proof").to_string();
        assert!(refused.contains("'vectorize o'") && refused.contains("o = 0, o' = 1"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
        let mut proofs = Proofs::default();
        proofs.ask("f", &wrong, true).expect("it is let pass");
        assert_eq!((proofs.proved, proofs.unproved), (0, 1));
        let right = Schedule::replay(parse(SHARED_TILE).expect("a kernel"), "split o 4").expect("a step");
        proofs.ask("f", &right, false).expect("it has a proof");
        assert_eq!((proofs.proved, proofs.unproved), (1, 1));
    }
}
