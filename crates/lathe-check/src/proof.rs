//! Obligations, proofs, and the check of one against the other.

use crate::Term;
use std::fmt;

/// Hypotheses that are claimed to contradict each other, for all integers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Obligation {
    /// Each is at most 0.
    pub facts: Vec<Term>,
    /// Of each, one alternative holds: all its terms are at most 0.
    pub choices: Vec<Vec<Vec<Term>>>,
}

/// Why the hypotheses contradict each other. Facts are counted as in the obligation; what a node adds comes after those
/// that its branch has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The sum of these facts, times these multipliers, is a positive constant: which cannot be at most 0.
    Sum(Vec<(usize, u64)>),
    /// Either the term is at most 0, or at least 1: one proof each, with that as a further fact.
    Cut(Term, Box<Proof>, Box<Proof>),
    /// One alternative of a choice holds: one proof each, with its terms as further facts.
    Cases(usize, Vec<Proof>),
    /// The product of two facts, each at most 0, is at least 0: a proof with that as a further fact.
    Product(usize, usize, Box<Proof>),
}

/// Why a proof is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub(crate) String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Wrong {}

/// Proofs that nest deeper are refused.
pub(crate) const DEPTH: usize = 100;

fn wrong<T>(message: &str) -> Result<T, Wrong> {
    Err(Wrong(message.into()))
}

fn exact(t: Option<Term>) -> Result<Term, Wrong> {
    t.ok_or_else(|| Wrong("the numbers are too large".into()))
}

impl Obligation {
    /// Whether the proof shows that the hypotheses contradict each other.
    pub fn check(&self, proof: &Proof) -> Result<(), Wrong> {
        self.branch(&mut self.facts.clone(), proof, 0)
    }

    fn branch(&self, facts: &mut Vec<Term>, proof: &Proof, depth: usize) -> Result<(), Wrong> {
        if depth > DEPTH {
            return wrong("the proof nests too deep");
        }
        let known = facts.len();
        match proof {
            Proof::Sum(parts) => {
                let mut sum = Term::default();
                for (i, by) in parts {
                    let Some(fact) = facts.get(*i) else { return wrong("there is no such fact") };
                    sum = exact(sum.add_scaled(fact, i128::from(*by)))?;
                }
                match sum.as_constant() {
                    Some(c) if c > 0 => {}
                    _ => return wrong("the sum is no positive constant"),
                }
            }
            Proof::Cut(t, low, high) => {
                let above = exact(t.neg().and_then(|t| t.plus(1)))?;
                for (fact, proof) in [(t.clone(), low), (above, high)] {
                    facts.push(fact);
                    self.branch(facts, proof, depth + 1)?;
                    facts.truncate(known);
                }
            }
            Proof::Cases(i, proofs) => {
                let Some(choice) = self.choices.get(*i) else { return wrong("there is no such choice") };
                if choice.len() != proofs.len() {
                    return wrong("not one proof for each alternative");
                }
                for (alternative, proof) in choice.iter().zip(proofs) {
                    facts.extend_from_slice(alternative);
                    self.branch(facts, proof, depth + 1)?;
                    facts.truncate(known);
                }
            }
            Proof::Product(i, j, rest) => {
                let (Some(a), Some(b)) = (facts.get(*i), facts.get(*j)) else {
                    return wrong("there is no such fact");
                };
                let product = exact(a.mul(b).and_then(|t| t.neg()))?;
                facts.push(product);
                self.branch(facts, rest, depth + 1)?;
                facts.truncate(known);
            }
        }
        Ok(())
    }
}
