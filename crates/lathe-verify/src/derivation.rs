//! A program, the steps that changed it, and a certificate of each.

use crate::{Certificate, Checker, Prover, Refusal};
use lathe_ir::tensor::Kernel;
use lathe_schedule::{Schedule, Tag};

/// How a program comes from another one, with what proves it.
#[derive(Clone, Debug, PartialEq)]
pub struct Derivation {
    /// The program before all steps.
    pub original: Kernel,
    /// The steps, in order.
    pub steps: Vec<Derived>,
}

/// A step of a derivation.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// What it is called; nothing is made of it.
    pub step: String,
    /// The program after it.
    pub after: Kernel,
    /// What proves it.
    pub certificate: Certificate,
}

impl Derivation {
    /// Finds the certificates of a schedule's steps.
    pub fn find(s: &Schedule, prover: &mut Prover) -> Result<Derivation, Refusal> {
        let mut steps = vec![];
        for a in s.steps() {
            let certificate = prover.certify(&a.before, &a.after, &a.step)?;
            steps.push(Derived { step: a.step.clone(), after: a.after.clone(), certificate });
        }
        Ok(Derivation { original: s.original().clone(), steps })
    }

    /// The program after all steps.
    pub fn result(&self) -> &Kernel {
        self.steps.last().map_or(&self.original, |s| &s.after)
    }

    /// Each step with the program before it.
    pub fn pairs(&self) -> impl Iterator<Item = (&Kernel, &Derived)> {
        let before = std::iter::once(&self.original).chain(self.steps.iter().map(|s| &s.after));
        before.zip(&self.steps)
    }

    /// Checks all steps; the loosest of their tags says how results may differ.
    pub fn check(&self) -> Result<Tag, Refusal> {
        let mut checker = Checker::default();
        let mut each = self.pairs().map(|(before, s)| checker.check(before, &s.after, &s.certificate));
        each.try_fold(Tag::Bitwise, |worst, tag| Ok(worst.max(tag?)))
    }
}
