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
mod hold;
mod instruction;
mod join;
mod meet;
mod obligations;
mod online;
mod pad;
mod partial;
mod parts;
mod peel;
mod processes;
mod refute;
mod scope;
mod search;
mod text;
mod travel;

pub use derivation::{Derivation, Derived};
pub use obligations::{Claim, Named, claim};
pub use text::{TextError, derivations};

use lathe_check::{Obligation, Proof, Term};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::Name;
use lathe_ir::tensor::Kernel;
use lathe_schedule::{Applied, Schedule, Tag, Witness, witness};
use obligations::{Programs, claim_checked};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The primitives whose steps are proved.
pub const PROVED: [&str; 27] = [
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
    "nontemporal",
    "skew",
    "stream",
    "space_time",
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
    Checker::default().check(before, after, c)
}

/// What an accepted certificate says of two programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How results may differ.
    pub tag: Tag,
    /// What callers must promise in addition, a sentence each ([`Claim::assumes`]).
    pub assumes: Vec<String>,
}

/// Checks the certificates of a chain of steps, whose programs it looks at once.
#[derive(Default)]
pub struct Checker {
    programs: Programs,
}

impl Checker {
    /// As [`check`].
    pub fn check(&mut self, before: &Kernel, after: &Kernel, c: &Certificate) -> Result<Tag, Refusal> {
        self.accept(before, after, c).map(|accepted| accepted.tag)
    }

    /// The same, with what is assumed.
    pub fn accept(&mut self, before: &Kernel, after: &Kernel, c: &Certificate) -> Result<Accepted, Refusal> {
        self.programs.check(before, after)?;
        let claimed = claim_checked(before, after, c.witness.as_ref(), c.order, false)?;
        if claimed.obligations.len() != c.proofs.len() {
            let (n, m) = (claimed.obligations.len(), c.proofs.len());
            return Err(Refusal::Wrong("all holds".into(), format!("{n} obligations have {m} proofs")));
        }
        for (o, p) in claimed.obligations.iter().zip(&c.proofs) {
            o.obligation.check(p).map_err(|e| Refusal::Wrong(o.about.clone(), e.to_string()))?;
        }
        Ok(Accepted { tag: claimed.tag, assumes: claimed.assumes })
    }
}

/// Finds a certificate for a step.
pub fn certify(before: &Kernel, after: &Kernel, step: &str) -> Result<Certificate, Refusal> {
    Prover::default().certify(before, after, step)
}

/// A refusal, with the obligation that has no proof.
type Open = Box<(Refusal, Option<Named>)>;

/// A search that remembers what it found: kernels of one model have many obligations in common, and candidates of a tuner many
/// steps. What it remembers is what the checker accepted.
#[derive(Default)]
pub struct Prover {
    programs: Programs,
    found: HashMap<Obligation, Option<Proof>>,
    /// By a hash of the step and the program after it.
    steps: HashMap<u64, Vec<Known>>,
}

/// What is known of a step.
struct Known {
    step: Applied,
    proved: Result<Certificate, Refusal>,
}

impl Prover {
    /// The certificate of an applied step, which says no more than the step's tag does, or why it has none. Steps are remembered.
    pub fn step(&mut self, s: &Applied) -> Result<Certificate, Refusal> {
        let mut hash = DefaultHasher::new();
        (&s.step, &s.after).hash(&mut hash);
        let key = hash.finish();
        if let Some(known) = self.steps.get(&key).into_iter().flatten().find(|k| k.step == *s) {
            return known.proved.clone();
        }
        let proved =
            self.proved(&s.before, &s.after, &s.step).and_then(|(certificate, tag)| match tag > s.tag {
                true => Err(Refusal::Wrong("the step's tag holds".into(), format!("it is {tag:?}"))),
                false => Ok(certificate),
            });
        self.steps.entry(key).or_default().push(Known { step: s.clone(), proved: proved.clone() });
        proved
    }

    /// Finds a certificate for a step, or says for which sizes and iterations what is not proved does not hold.
    pub fn certify(&mut self, before: &Kernel, after: &Kernel, step: &str) -> Result<Certificate, Refusal> {
        self.proved(before, after, step).map(|(certificate, _)| certificate)
    }

    /// The same, and how results may differ.
    fn proved(&mut self, before: &Kernel, after: &Kernel, step: &str) -> Result<(Certificate, Tag), Refusal> {
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

    /// Finds a proof of one obligation, which the checker accepts.
    pub fn prove(&mut self, o: &Named) -> Option<Proof> {
        let found = self.found.entry(o.obligation.clone());
        let search = |o: &Obligation, cuts: &[Term]| search::prove(o, cuts).filter(|p| o.check(p).is_ok());
        found.or_insert_with_key(|obligation| search(obligation, &o.cuts)).clone()
    }

    /// Finds a certificate for two programs, with iterations that move as a witness says.
    pub fn search(
        &mut self,
        before: &Kernel,
        after: &Kernel,
        witness: Option<Witness>,
    ) -> Result<Certificate, Refusal> {
        self.searched(before, after, witness).map(|(certificate, _)| certificate).map_err(|e| e.0)
    }

    /// The same; the obligation that has no proof comes with its refusal.
    fn searched(
        &mut self,
        before: &Kernel,
        after: &Kernel,
        witness: Option<Witness>,
    ) -> Result<(Certificate, Tag), Open> {
        self.programs.check(before, after).map_err(|e| (e, None))?;
        let mut last = Open::from((Refusal::NotFound("it holds".into(), None), None));
        for order in orders(witness.as_ref()) {
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
    ) -> Result<(Certificate, Tag), Open> {
        let claimed = claim_checked(before, after, witness.as_ref(), order, true).map_err(|e| (e, None))?;
        let mut proofs = vec![];
        for o in &claimed.obligations {
            let open = || (Refusal::NotFound(o.about.clone(), None), Some(o.clone()));
            proofs.push(self.prove(o).ok_or_else(open)?);
        }
        Ok((Certificate { witness, order, proofs }, claimed.tag))
    }
}

/// The orders, in the order of trying: loops that stand in another order keep that of their iterations only where one is alone.
fn orders(witness: Option<&Witness>) -> [Order; 3] {
    let sorted = |names: &[Name]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    };
    match witness {
        Some(w) if w.before != w.after && sorted(&w.before) == sorted(&w.after) => {
            [Order::Apart, Order::Accumulated, Order::Kept]
        }
        _ => [Order::Kept, Order::Apart, Order::Accumulated],
    }
}

/// Each step of a schedule with its certificate, checked, or why it has none.
pub fn report(s: &Schedule, prover: &mut Prover) -> Vec<(String, Result<Certificate, Refusal>)> {
    s.steps().iter().map(|step| (step.step.clone(), prover.step(step))).collect()
}

/// The first step of a schedule that has no certificate, and why.
pub fn refusal(s: &Schedule, prover: &mut Prover) -> Option<(String, Refusal)> {
    s.steps().iter().find_map(|step| Some((step.step.clone(), prover.step(step).err()?)))
}
