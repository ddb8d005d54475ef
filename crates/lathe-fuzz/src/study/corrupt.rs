//! Certificates that someone might pass off for a wrong step: those of other steps, and the best there are for it with their
//! proofs, hints and claims changed.

use super::wrong::Wrong;
use crate::random::Random;
use lathe_check::{Proof, Term};
use lathe_verify::{Certificate, Named, Order, Prover, Refusal, check, claim};

/// What came of the tries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corrupted {
    /// Certificates that were tried.
    pub tried: usize,
    /// Of these, such as have as many proofs as there are obligations, so that a proof is what was refused.
    pub by_proof: usize,
    /// Certificates that were accepted: there must be none.
    pub accepted: Vec<Certificate>,
}

impl Corrupted {
    fn one(&mut self, wrong: &Wrong, c: Certificate) {
        self.tried += 1;
        match check(&wrong.before, &wrong.after, &c) {
            Ok(_) => self.accepted.push(c),
            Err(Refusal::Wrong(about, _)) => self.by_proof += usize::from(about != "all holds"),
            Err(_) => {}
        }
    }
}

/// Tries certificates for a wrong step: all `others`, and changed ones until there were so many tries of those.
pub fn corrupt(
    wrong: &Wrong,
    others: &[Certificate],
    tries: usize,
    prover: &mut Prover,
    random: &mut Random,
) -> Corrupted {
    let mut out = Corrupted::default();
    let bases = bases(wrong, others, prover, random);
    for c in others.iter().chain(&bases) {
        out.one(wrong, c.clone());
    }
    for _ in 0..tries {
        let Some(mut c) = random.pick(&bases).cloned() else { break };
        for _ in 0..=random.below(3) {
            change(&mut c, wrong, others, random);
        }
        out.one(wrong, c);
    }
    out
}

/// For each hint and claim the proofs that are found, and where there is none one of another step or of nothing.
fn bases(
    wrong: &Wrong,
    others: &[Certificate],
    prover: &mut Prover,
    random: &mut Random,
) -> Vec<Certificate> {
    let mut out: Vec<Certificate> = wrong.right.iter().map(|(_, c)| c.clone()).collect();
    for witness in &wrong.hints {
        for order in [Order::Kept, Order::Apart, Order::Accumulated] {
            let Ok(claimed) = claim(&wrong.before, &wrong.after, witness.as_ref(), order) else { continue };
            let mut best = |o: &Named| prover.prove(o).or_else(|| any(others, random));
            let proofs = claimed.obligations.iter().map(|o| best(o).unwrap_or(Proof::Sum(vec![]))).collect();
            out.push(Certificate { witness: witness.clone(), order, proofs });
        }
    }
    out
}

fn any(others: &[Certificate], random: &mut Random) -> Option<Proof> {
    random.pick(others).and_then(|c| random.pick(&c.proofs)).cloned()
}

/// Changes one thing of a certificate.
fn change(c: &mut Certificate, wrong: &Wrong, others: &[Certificate], random: &mut Random) {
    let n = c.proofs.len();
    let at = random.below(n);
    match random.below(12) {
        0 => c.order = *random.pick(&[Order::Kept, Order::Apart, Order::Accumulated]).unwrap_or(&c.order),
        1 => c.witness = random.pick(&wrong.hints).cloned().flatten(),
        2 => {
            // The hint's indices, one in the place of another.
            if let Some(w) = &mut c.witness {
                let indices = if random.one_in(2) { &mut w.to_before } else { &mut w.to_after };
                let to = random.below(indices.len());
                if let Some(e) = random.pick(indices).cloned() {
                    indices[to] = if random.one_in(2) { e } else { e + random.range(-2, 2) };
                }
            }
        }
        3 if n > 1 => c.proofs.swap(at, random.below(n)),
        4 if n > 0 => c.proofs.insert(at, c.proofs[random.below(n)].clone()),
        5 if n > 0 => {
            c.proofs.remove(at);
        }
        6 if n > 0 => c.proofs[at] = any(others, random).unwrap_or(Proof::Sum(vec![])),
        7 if n > 0 => c.proofs[at] = c.proofs[random.below(n)].clone(),
        _ if n > 0 => damage(&mut c.proofs[at], random),
        _ => c.proofs.push(any(others, random).unwrap_or(Proof::Sum(vec![]))),
    }
}

/// Changes one thing at some place of a proof.
pub fn damage(p: &mut Proof, random: &mut Random) {
    let here = random.one_in(2);
    match p {
        Proof::Sum(parts) => {
            let n = parts.len();
            let at = random.below(n);
            match random.below(5) {
                0 if n > 0 => parts[at].0 = random.below(parts[at].0 + 4),
                1 if n > 0 => parts[at].1 = random.bits() >> random.below(64),
                2 if n > 0 => {
                    parts.remove(at);
                }
                3 if n > 1 => {
                    let to = random.below(n);
                    (parts[at].0, parts[to].0) = (parts[to].0, parts[at].0);
                }
                _ => parts.insert(at.min(n), (random.below(24), 1 + random.bits() % 16)),
            }
        }
        Proof::Cut(t, low, high) => match random.below(4) {
            _ if !here => damage(if random.one_in(2) { low } else { high }, random),
            0 => std::mem::swap(low, high),
            1 => *p = (**low).clone(),
            2 => *p = (**high).clone(),
            _ => {
                let other = match random.below(3) {
                    0 => t.neg(),
                    1 => t.plus(random.range(-2, 2).into()),
                    _ => t.add(&Term::var(random.below(12) as u32)),
                };
                *t = other.unwrap_or_default();
            }
        },
        Proof::Cases(i, proofs) => {
            let n = proofs.len();
            let at = random.below(n);
            match random.below(5) {
                _ if !here && n > 0 => damage(&mut proofs[at], random),
                0 if n > 0 => {
                    proofs.remove(at);
                }
                1 if n > 0 => proofs.push(proofs[at].clone()),
                2 if n > 1 => proofs.swap(at, random.below(n)),
                3 if n > 0 => *p = proofs[at].clone(),
                _ => *i = random.below(*i + 3),
            }
        }
        Proof::Product(i, j, rest) => match random.below(3) {
            _ if !here => damage(rest, random),
            0 => *i = random.below(*i + 3),
            1 => *j = random.below(*j + 3),
            _ => *p = (**rest).clone(),
        },
    }
}
