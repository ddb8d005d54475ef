//! Proof that a schedule's step keeps the meaning: obligations from the program before and the program after, certificates
//! for them, and the check of one by `lathe-check`.
//!
//! - [`check`] is what is trusted, with the obligations that [`claim`] computes from the two programs: it believes neither
//!   the step nor the certificate.
//! - [`certify`] (or a [`Prover`], which remembers) finds a certificate for a step of a primitive of [`PROVED`]; other
//!   steps are [`Refusal::Unproved`].
//! - A [`Derivation`] is a program with all its steps and their certificates; its text is a file that [`derivations`] reads, to be
//!   checked where there is neither a schedule nor a prover.
//!
//! ```
//! use lathe_ir::tensor::parse;
//! use lathe_schedule::{Applied, Schedule, Tag};
//! use lathe_verify::{certify, check};
//! let k = parse("kernel f(n) {
//!   in x: f32[n]
//!   out y: f32[n]
//!   for i in n spatial serial {
//!     S: y[i] = x[i] + 1f32
//!   }
//! }").unwrap();
//! let mut s = Schedule::new(k);
//! s.step("split i 16").unwrap();
//! let step = &s.steps()[0];
//! let certificate = certify(&step.before, &step.after, &step.step).unwrap();
//! assert_eq!(check(&step.before, &step.after, &certificate), Ok(Tag::Bitwise));
//! // It is no certificate of anything else.
//! let wrong = parse(&step.after.to_string().replace("i.o * 16", "i.o * 8")).unwrap();
//! assert!(check(&step.before, &wrong, &certificate).is_err());
//! ```

mod cache;
mod contract;
mod derivation;
mod distribute;
mod fill;
mod instruction;
mod join;
mod meet;
mod obligations;
mod online;
mod pad;
mod partial;
mod parts;
mod peel;
mod refute;
mod scope;
mod search;
mod text;

pub use derivation::{Derivation, Derived};
pub use obligations::{Claim, Named, claim};
pub use text::{TextError, derivations};

use lathe_check::{Obligation, Proof};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::tensor::Kernel;
use lathe_schedule::{Applied, Schedule, Tag, Witness, witness};
use std::collections::HashMap;

/// The primitives whose steps are proved.
pub const PROVED: [&str; 24] = [
    "split",
    "fuse",
    "interchange",
    "reorder",
    "sink",
    "join",
    "contract",
    "pad",
    "overrun",
    "peel",
    "rfactor",
    "online",
    "partials",
    "cache_read",
    "cache_write",
    "stage",
    "vectorize",
    "tensorize",
    "unroll",
    "parallel",
    "set_memory",
    "align",
    "prefetch",
    "skew",
];

/// Why a step is not proved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificates are made for steps of this primitive: nothing is known of it.
    #[error("unproved: steps of '{0}' have no certificates")]
    Unproved(String),
    /// The programs differ in a way that no rule covers.
    #[error("the programs differ: {0}")]
    Differs(String),
    /// The search found no proof of an obligation; sizes and iterations for which it does not hold, where some were looked for and
    /// found. (What is read from memory may have any value in them, so such a case is a hint, and no proof.)
    #[error("no proof was found that {about}{case}", about = .0, case = case(.1))]
    NotFound(String, Option<String>),
    /// A certificate does not prove an obligation.
    #[error("it is not proved that {0}: {1}")]
    Wrong(String, String),
}

fn case(at: &Option<String>) -> String {
    at.as_ref().map_or(String::new(), |at| format!(": not where {at}"))
}

impl Diagnose for Refusal {
    fn diagnostic(&self) -> Diagnostic {
        Diagnostic::new("proof", Fault::Bug, self.to_string())
    }
}

/// What is proved of iterations that move, or go to lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They keep their order.
    Kept,
    /// Those that are exchanged do not meet.
    Apart,
    /// They meet only where one block accumulates by a commutative reducer.
    Accumulated,
}

/// What proves that two programs mean the same, up to the tag that [`check`] finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// How iterations move, where they do.
    pub witness: Option<Witness>,
    /// What is proved of their order.
    pub order: Order,
    /// A proof for each obligation, in order.
    pub proofs: Vec<Proof>,
}

/// Checks a certificate: computes from the two programs what must hold, and demands a proof of each. The tag says how
/// results may differ.
pub fn check(before: &Kernel, after: &Kernel, c: &Certificate) -> Result<Tag, Refusal> {
    let claimed = claim(before, after, c.witness.as_ref(), c.order)?;
    if claimed.obligations.len() != c.proofs.len() {
        let (n, m) = (claimed.obligations.len(), c.proofs.len());
        return Err(Refusal::Wrong("all holds".into(), format!("{n} obligations have {m} proofs")));
    }
    for (o, p) in claimed.obligations.iter().zip(&c.proofs) {
        o.obligation.check(p).map_err(|e| Refusal::Wrong(o.about.clone(), e.to_string()))?;
    }
    Ok(claimed.tag)
}

/// Finds a certificate for a step.
pub fn certify(before: &Kernel, after: &Kernel, step: &str) -> Result<Certificate, Refusal> {
    Prover::default().certify(before, after, step)
}

/// A refusal, with the obligation that has no proof.
type Open = Box<(Refusal, Option<Named>)>;

/// A search that remembers what it found: kernels of one model have many obligations in common.
#[derive(Default)]
pub struct Prover {
    found: HashMap<Obligation, Option<Proof>>,
}

impl Prover {
    /// Finds a certificate for a step, or says for which sizes and iterations what is not proved does not hold.
    pub fn certify(&mut self, before: &Kernel, after: &Kernel, step: &str) -> Result<Certificate, Refusal> {
        let name = step.split_whitespace().next().unwrap_or_default();
        if !PROVED.contains(&name) {
            return Err(Refusal::Unproved(name.into()));
        }
        self.searched(before, after, witness(before, step)).map_err(|e| match *e {
            (Refusal::NotFound(about, None), open) => {
                Refusal::NotFound(about, open.as_ref().and_then(Named::counterexample))
            }
            (refusal, _) => refusal,
        })
    }

    /// Finds a proof of one obligation.
    pub fn prove(&mut self, o: &Named) -> Option<Proof> {
        let found = self.found.entry(o.obligation.clone());
        found.or_insert_with_key(|obligation| search::prove(obligation, &o.cuts)).clone()
    }

    /// Finds a certificate for two programs, with iterations that move as a witness says.
    pub fn search(
        &mut self,
        before: &Kernel,
        after: &Kernel,
        witness: Option<Witness>,
    ) -> Result<Certificate, Refusal> {
        self.searched(before, after, witness).map_err(|e| e.0)
    }

    /// The same; the obligation that has no proof comes with its refusal.
    fn searched(
        &mut self,
        before: &Kernel,
        after: &Kernel,
        witness: Option<Witness>,
    ) -> Result<Certificate, Open> {
        let mut last = Open::from((Refusal::NotFound("it holds".into(), None), None));
        for order in [Order::Kept, Order::Apart, Order::Accumulated] {
            match self.attempt(before, after, witness.clone(), order) {
                Err(e) if matches!(e.0, Refusal::NotFound(..)) => last = e,
                result => return result,
            }
        }
        Err(last)
    }

    fn attempt(
        &mut self,
        before: &Kernel,
        after: &Kernel,
        witness: Option<Witness>,
        order: Order,
    ) -> Result<Certificate, Open> {
        let claimed = claim(before, after, witness.as_ref(), order).map_err(|e| (e, None))?;
        let mut proofs = vec![];
        for o in &claimed.obligations {
            let open = || (Refusal::NotFound(o.about.clone(), None), Some(o.clone()));
            proofs.push(self.prove(o).ok_or_else(open)?);
        }
        Ok(Certificate { witness, order, proofs })
    }
}

/// Each step of a schedule with its certificate, checked, or why it has none.
pub fn report(s: &Schedule, prover: &mut Prover) -> Vec<(String, Result<Certificate, Refusal>)> {
    let mut one = |step: &Applied| {
        let c = prover.certify(&step.before, &step.after, &step.step)?;
        let tag = check(&step.before, &step.after, &c)?;
        if tag > step.tag {
            return Err(Refusal::Wrong("the step's tag holds".into(), format!("it is {tag:?}")));
        }
        Ok(c)
    };
    s.steps().iter().map(|step| (step.step.clone(), one(step))).collect()
}
