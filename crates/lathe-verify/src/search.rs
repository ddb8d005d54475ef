//! The search for proofs: a linear program at each leaf, cases where that is not enough, then products of hypotheses and
//! cuts on quotients. Nothing here is trusted: what it finds is checked.

use lathe_check::{Obligation, Proof, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Linear programs that one obligation may cost.
const BUDGET: usize = 2000;
/// Steps of one linear program.
const PIVOTS: usize = 400;

/// A proof, if one is found; `cuts` are terms (differences of quotients) whose sign may decide.
pub(crate) fn prove(o: &Obligation, cuts: &[Term]) -> Option<Proof> {
    // What is to be shown was said last, and decides more than which of two numbers a minimum is.
    let mut order: Vec<usize> = (0..o.choices.len()).rev().collect();
    order.sort_by_key(|c| is_extreme(&o.choices[*c]));
    if let Some(sum) = farkas(&o.facts) {
        return Some(Proof::Sum(sum));
    }
    let search = || Search { o, cuts, left: BUDGET };
    // First what follows without cases: digits that are equal one by one. Then without splits inside of splits, which are dear.
    let flat =
        (!order.is_empty() && !cuts.is_empty()).then(|| search().cuts(&mut o.facts.clone(), 0)).flatten();
    flat.or_else(|| (0..2).find_map(|deep| search().branch(&mut o.facts.clone(), &order, deep)))
}

/// Whether a choice is what makes a variable the less or the greater of two: it stands in both alternatives with one sign.
fn is_extreme(choice: &[Vec<Term>]) -> bool {
    let [a, b] = choice else { return false };
    let ([a], [b]) = (a.as_slice(), b.as_slice()) else { return false };
    a.parts().any(|(vars, c)| !vars.is_empty() && b.parts().any(|other| other == (vars, c)))
}

struct Search<'o> {
    o: &'o Obligation,
    cuts: &'o [Term],
    left: usize,
}

impl Search<'_> {
    fn branch(&mut self, facts: &mut Vec<Term>, choices: &[usize], cuts: usize) -> Option<Proof> {
        self.left = self.left.checked_sub(1)?;
        if let Some(sum) = farkas(facts) {
            return Some(Proof::Sum(sum));
        }
        let known = facts.len();
        if let Some((choice, rest)) = choices.split_first() {
            let mut proofs = vec![];
            for alternative in &self.o.choices[*choice] {
                facts.extend_from_slice(alternative);
                let proof = self.branch(facts, rest, cuts);
                facts.truncate(known);
                let proof = proof?;
                if let Some(proof) = without(&proof, known, alternative.len()) {
                    return Some(proof);
                }
                proofs.push(proof);
            }
            return Some(Proof::Cases(*choice, proofs));
        }
        if let Some(proof) = self.products(facts) {
            return Some(proof);
        }
        self.cuts(facts, cuts)
    }

    /// Splits by the sign of a term: first of one that can only be 0, as often as there is one; else of any, a few deep.
    fn cuts(&mut self, facts: &mut Vec<Term>, deep: usize) -> Option<Proof> {
        let known = facts.len();
        for t in self.cuts {
            let zero = [t.neg()?, t.clone()];
            if zero.iter().all(|z| facts.contains(z)) {
                continue;
            }
            let (below, above) = (t.plus(1)?, t.neg()?.plus(1)?);
            let mut close = |facts: &mut Vec<Term>, part: Vec<Term>, branch: bool| {
                facts.extend(part);
                self.left = self.left.checked_sub(1)?;
                let proof = match farkas(facts) {
                    Some(sum) => Some(Proof::Sum(sum)),
                    None => {
                        self.products(facts).or_else(|| branch.then(|| self.cuts(facts, deep - 1)).flatten())
                    }
                };
                facts.truncate(known);
                proof.map(Box::new)
            };
            let sides = [vec![below.clone()], vec![t.neg()?, above]];
            let mut found = vec![];
            for part in sides {
                let added = part.len();
                let Some(proof) = close(facts, part, deep > 0) else { break };
                if let Some(proof) = without(&proof, known, added) {
                    return Some(proof);
                }
                found.push(proof);
            }
            if let [less, more] = found.as_slice() {
                let (less, more) = (less.clone(), more.clone());
                facts.extend(zero);
                let equal = match farkas(facts) {
                    Some(sum) => Some(Proof::Sum(sum)),
                    None => self.products(facts).or_else(|| self.cuts(facts, deep)),
                };
                facts.truncate(known);
                return Some(Proof::Cut(below, less, Proof::Cut(t.clone(), equal?.into(), more).into()));
            }
        }
        None
    }

    /// Products of two facts that say something of products met already.
    fn products(&mut self, facts: &[Term]) -> Option<Proof> {
        let high =
            |t: &Term| t.parts().filter(|(v, _)| v.len() > 1).map(|(v, _)| v.to_vec()).collect::<Vec<_>>();
        let met: BTreeSet<Vec<u32>> = facts.iter().flat_map(high).collect();
        if met.is_empty() {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let (mut all, mut made) = (facts.to_vec(), vec![]);
        for i in 0..facts.len() {
            for j in 0..i {
                let Some(p) = facts[i].mul(&facts[j]).and_then(|p| p.neg()) else { continue };
                let h = high(&p);
                if !h.is_empty() && h.iter().all(|v| met.contains(v)) && !all.contains(&p) {
                    all.push(p);
                    made.push((i, j));
                }
            }
        }
        let sum = farkas(&all)?;
        // Only the products that the sum uses are part of the proof; they are counted anew.
        let used: Vec<usize> = sum.iter().map(|(i, _)| *i).filter(|i| *i >= facts.len()).collect();
        let place = |i: usize| used.iter().position(|u| *u == i).map_or(i, |at| facts.len() + at);
        let proof = Proof::Sum(sum.iter().map(|(i, by)| (place(*i), *by)).collect());
        Some(used.iter().rev().fold(proof, |rest, u| {
            let (i, j) = made[u - facts.len()];
            Proof::Product(i, j, rest.into())
        }))
    }
}

/// The proof without the facts at these places, where it uses none of them: what was split there does not matter, and the
/// other cases need no proofs of their own.
fn without(proof: &Proof, at: usize, count: usize) -> Option<Proof> {
    let place = |i: usize| match i {
        i if i < at => Some(i),
        i => i.checked_sub(count).filter(|i| *i >= at),
    };
    let rest = |p: &Proof| without(p, at, count);
    Some(match proof {
        Proof::Sum(parts) => {
            let parts = parts.iter().map(|(i, by)| Some((place(*i)?, *by)));
            Proof::Sum(parts.collect::<Option<_>>()?)
        }
        Proof::Cut(t, low, high) => Proof::Cut(t.clone(), rest(low)?.into(), rest(high)?.into()),
        Proof::Cases(choice, proofs) => {
            Proof::Cases(*choice, proofs.iter().map(rest).collect::<Option<_>>()?)
        }
        Proof::Product(i, j, p) => Proof::Product(place(*i)?, place(*j)?, rest(p)?.into()),
    })
}

/// A fraction in lowest terms with a positive denominator.
#[derive(Clone, Copy, PartialEq)]
struct Ratio(i128, i128);

fn gcd(a: i128, b: i128) -> i128 {
    // Nearly all numbers are short, and a short division is much faster.
    if let (Ok(mut a), Ok(mut b)) = (i64::try_from(a), i64::try_from(b))
        && b != -1
    {
        while b != 0 {
            (a, b) = (b, a.checked_rem(b).unwrap_or(0));
        }
        return a.into();
    }
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Ratio {
    const ZERO: Ratio = Ratio(0, 1);

    fn new(n: i128, d: i128) -> Option<Ratio> {
        if d == 1 {
            return Some(Ratio(n, 1));
        }
        let g = i128::try_from(n.unsigned_abs()).ok().map(|n| gcd(n, d.checked_abs().unwrap_or(1)))?.max(1);
        let (n, d) = (n / g, d / g);
        if d < 0 { Some(Ratio(n.checked_neg()?, d.checked_neg()?)) } else { Some(Ratio(n, d)) }
    }

    fn mul(self, o: Ratio) -> Option<Ratio> {
        Ratio::new(self.0.checked_mul(o.0)?, self.1.checked_mul(o.1)?)
    }

    fn sub(self, o: Ratio) -> Option<Ratio> {
        if self.1 == 1 && o.1 == 1 {
            return Some(Ratio(self.0.checked_sub(o.0)?, 1));
        }
        let n = self.0.checked_mul(o.1)?.checked_sub(o.0.checked_mul(self.1)?)?;
        Ratio::new(n, self.1.checked_mul(o.1)?)
    }

    fn add(self, o: Ratio) -> Option<Ratio> {
        self.sub(Ratio(o.0.checked_neg()?, o.1))
    }

    fn div(self, o: Ratio) -> Option<Ratio> {
        Ratio::new(self.0.checked_mul(o.1)?, self.1.checked_mul(o.0)?)
    }

    fn less(self, o: Ratio) -> Option<bool> {
        self.sub(o).map(|d| d.0 < 0)
    }
}

/// Facts that can take part in a sum without unknowns: each product in them is in others with the other sign.
fn useful(facts: &[Term]) -> Vec<usize> {
    let mut keep: Vec<usize> = (0..facts.len()).collect();
    loop {
        let mut signs: BTreeMap<&[u32], (bool, bool)> = BTreeMap::new();
        for (vars, c) in keep.iter().flat_map(|i| facts[*i].parts()) {
            let s = signs.entry(vars).or_default();
            *(if c > 0 { &mut s.0 } else { &mut s.1 }) = true;
        }
        let open = |(vars, _): (&[u32], i128)| !vars.is_empty() && signs[vars] != (true, true);
        let kept: Vec<usize> = keep.iter().copied().filter(|i| !facts[*i].parts().any(open)).collect();
        if kept.len() == keep.len() {
            return kept;
        }
        keep = kept;
    }
}

/// Multipliers of facts whose sum is a positive constant, by the first phase of the simplex method with Bland's rule.
fn farkas(facts: &[Term]) -> Option<Vec<(usize, u64)>> {
    let keep = useful(facts);
    let mut rows: BTreeMap<&[u32], Vec<Ratio>> = BTreeMap::new();
    let n = keep.len();
    rows.insert(&[], vec![Ratio::ZERO; n + 1]);
    for (col, i) in keep.iter().enumerate() {
        for (vars, c) in facts[*i].parts() {
            rows.entry(vars).or_insert_with(|| vec![Ratio::ZERO; n + 1])[col] = Ratio(c, 1);
        }
    }
    // The unknowns cancel, and the constants sum to 1. A row without a basic column has an artificial one.
    let mut t: Vec<Vec<Ratio>> = rows.into_values().collect();
    t[0][n] = Ratio(1, 1);
    let mut basic: Vec<Option<usize>> = vec![None; t.len()];
    // What a column takes from the artificial ones: the sum of the rows that have one.
    let mut gain = vec![Ratio::ZERO; n];
    for row in &t {
        for (sum, v) in gain.iter_mut().zip(row).filter(|(_, v)| v.0 != 0) {
            *sum = sum.add(*v)?;
        }
    }
    for _ in 0..PIVOTS {
        let Some(col) = (0..n).find(|col| gain[*col].0 > 0) else { break };
        let mut leaving: Option<(usize, Ratio)> = None;
        for r in 0..t.len() {
            if t[r][col].0 <= 0 {
                continue;
            }
            let ratio = t[r][n].div(t[r][col])?;
            let better = match leaving {
                None => true,
                Some((l, best)) => ratio.less(best)? || (ratio == best && basic[r] < basic[l]),
            };
            if better {
                leaving = Some((r, ratio));
            }
        }
        let (row, _) = leaving?;
        let pivot = t[row][col];
        for v in &mut t[row] {
            if v.0 != 0 {
                *v = v.div(pivot)?;
            }
        }
        let line = t[row].clone();
        let others = t.iter_mut().enumerate().filter(|(r, _)| *r != row).map(|(_, other)| other);
        for other in others.chain([&mut gain]) {
            let by = other[col];
            if by.0 != 0 {
                for (v, l) in other.iter_mut().zip(&line).filter(|(_, l)| l.0 != 0) {
                    *v = v.sub(l.mul(by)?)?;
                }
            }
        }
        basic[row] = Some(col);
    }
    if (0..t.len()).any(|r| basic[r].is_none() && t[r][n].0 != 0) {
        return None;
    }
    let found: Vec<(usize, Ratio)> = (0..t.len()).filter_map(|r| Some((keep[basic[r]?], t[r][n]))).collect();
    let mut common: i128 = 1;
    for (_, v) in &found {
        common = (common / gcd(common, v.1)).checked_mul(v.1)?;
    }
    let mut out = vec![];
    for (i, v) in found.into_iter().filter(|(_, v)| v.0 != 0) {
        out.push((i, u64::try_from(v.0.checked_mul(common / v.1)?).ok()?));
    }
    out.sort_unstable();
    Some(out)
}
