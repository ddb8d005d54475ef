//! The certificate checker: it decides whether a [`Proof`] shows that the hypotheses of an [`Obligation`] contradict each
//! other, and nothing else. It is trusted, so it is small: exact integers, no dependencies, no search.
//!
//! A hypothesis is a polynomial over integer variables that is at most 0; a choice is a disjunction of lists of them. A
//! goal `g <= 0` is stated by adding its negation, `1 - g <= 0`. A proof is a tree that splits cases, multiplies
//! hypotheses, and ends in sums of hypotheses with non-negative multipliers that read `c <= 0` with `c > 0` (Farkas).
//! Whatever overflows is refused.
//!
//! ```
//! use lathe_check::{Obligation, Proof, Term};
//! // 0 <= i, i <= 15, and i >= 16: no such integer.
//! let i = Term::var(0);
//! let facts = [i.neg(), i.plus(-15), i.neg().and_then(|t| t.plus(16))];
//! let o = Obligation { facts: facts.into_iter().flatten().collect(), choices: vec![] };
//! let proof: Proof = "(sum 1*1 1*2)".parse()?;
//! assert!(o.check(&proof).is_ok());
//! assert!(o.check(&"(sum 1*0 1*1)".parse()?).is_err());
//! # Ok::<(), lathe_check::Wrong>(())
//! ```

mod proof;
mod term;
mod text;

pub use proof::{Obligation, Proof, Wrong};
pub use term::Term;
