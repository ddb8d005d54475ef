//! Counterexamples: numbers for which the hypotheses of an obligation that has no proof all hold, found among small ones. Nothing
//! is trusted here: they are shown to people.

use crate::Named;
use lathe_check::{Obligation, Term};

/// Values of a variable that are tried where nothing bounds it on one side.
const TRIED: i128 = 24;

/// Values that one search tries.
const BUDGET: usize = 30_000;

impl Named {
    /// The sizes and iterations of a case in which what is claimed does not hold, if a small one is found: `n = 5, i = 3, i' = 4`.
    pub fn counterexample(&self) -> Option<String> {
        let values = model(&self.obligation)?;
        let shown: Vec<String> = self
            .labels
            .iter()
            .filter_map(|(v, name)| Some(format!("{name} = {}", values.get(*v as usize).copied().flatten()?)))
            .collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    }
}

/// Values by variable, known or not yet.
type Values = Vec<Option<i128>>;

/// Values for which all facts hold, and one alternative of each choice.
fn model(o: &Obligation) -> Option<Values> {
    let of = |t: &Term| t.parts().flat_map(|(vars, _)| vars.to_vec()).max().map_or(0, |v| v as usize + 1);
    let alternatives = || o.choices.iter().flatten().flatten();
    let count = o.facts.iter().chain(alternatives()).map(of).max()?;
    let mut search = Search { o, values: vec![None; count], left: BUDGET };
    search.solve().then_some(search.values)
}

struct Search<'o> {
    o: &'o Obligation,
    values: Values,
    left: usize,
}

/// A fact with the known values put in.
enum Known {
    /// All of it is known.
    Value(i128),
    /// A multiple of one variable, and the rest.
    Line(u32, i128, i128),
    /// More is open.
    Open,
}

impl Search<'_> {
    fn known(&self, t: &Term) -> Known {
        let (mut rest, mut line): (i128, Option<(u32, i128)>) = (0, None);
        for (vars, by) in t.parts() {
            let (mut c, mut open) = (by, None);
            for v in vars {
                match (self.values[*v as usize], open) {
                    (Some(x), _) => c = c.saturating_mul(x),
                    (None, None) => open = Some(*v),
                    (None, Some(_)) => return Known::Open,
                }
            }
            match (open, &mut line) {
                (None, _) => rest = rest.saturating_add(c),
                (Some(v), None) => line = Some((v, c)),
                (Some(v), Some((w, by))) if v == *w => *by = by.saturating_add(c),
                _ => return Known::Open,
            }
        }
        match line {
            Some((v, by)) if by != 0 => Known::Line(v, by, rest),
            _ => Known::Value(rest),
        }
    }

    /// Whether some alternative of each choice is still possible.
    fn possible(&self) -> bool {
        let fails = |t: &Term| matches!(self.known(t), Known::Value(x) if x > 0);
        self.o.choices.iter().all(|c| c.iter().any(|alternative| !alternative.iter().any(fails)))
    }

    /// Gives values to the variables that are open, those with the fewest possible ones first.
    fn solve(&mut self) -> bool {
        let mut ranges: Vec<(Option<i128>, Option<i128>)> = vec![(None, None); self.values.len()];
        for t in &self.o.facts {
            match self.known(t) {
                Known::Value(x) if x > 0 => return false,
                // by * v + rest <= 0.
                Known::Line(v, by, rest) => {
                    let (low, high) = &mut ranges[v as usize];
                    let end = rest.saturating_neg();
                    if by > 0 {
                        let end = end.div_euclid(by);
                        *high = Some(high.map_or(end, |h| h.min(end)));
                    } else {
                        let end = -end.div_euclid(-by);
                        *low = Some(low.map_or(end, |l| l.max(end)));
                    }
                }
                _ => {}
            }
        }
        if !self.possible() {
            return false;
        }
        let size = |(low, high): (Option<i128>, Option<i128>)| match (low, high) {
            (Some(l), Some(h)) => h - l,
            (None, None) => 4 * TRIED,
            _ => 2 * TRIED,
        };
        let open = (0..self.values.len()).filter(|v| self.values[*v].is_none());
        let Some(v) = open.min_by_key(|v| size(ranges[*v])) else { return true };
        let all: Vec<i128> = match ranges[v] {
            (Some(l), Some(h)) => (l..=h.min(l + 4 * TRIED)).collect(),
            (Some(l), None) => (l..l + TRIED).collect(),
            (None, Some(h)) => (h - TRIED..=h).rev().collect(),
            (None, None) => (0..TRIED).collect(),
        };
        for x in all {
            let Some(left) = self.left.checked_sub(1) else { return false };
            self.left = left;
            self.values[v] = Some(x);
            if self.solve() {
                return true;
            }
        }
        self.values[v] = None;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_a_case_of_all_hypotheses() {
        // 1 <= n, 0 <= i, 4 * q <= i <= 4 * q + 3, i <= 4 * ((n + 3) / 4) - 1 as 4 * b - 1 with n <= 4 * b <= n + 3, n <= i.
        let [n, i, q, b] = [0, 1, 2, 3].map(Term::var);
        let times = |t: &Term, c| Term::default().add_scaled(t, c).expect("small");
        let sub = |x: &Term, y: &Term| x.sub(y).expect("small");
        let plus = |t: Term, c| t.plus(c).expect("small");
        let facts = vec![
            plus(times(&n, -1), 1),
            times(&i, -1),
            sub(&times(&q, 4), &i),
            plus(sub(&i, &times(&q, 4)), -3),
            plus(sub(&i, &times(&b, 4)), 1),
            sub(&n, &times(&b, 4)),
            plus(sub(&times(&b, 4), &n), -3),
            sub(&n, &i),
        ];
        let o = Obligation { facts: facts.clone(), choices: vec![vec![vec![plus(times(&i, -1), 6)]]] };
        let values: Vec<i128> = model(&o).expect("there is one").into_iter().flatten().collect();
        let of = |t: &Term| -> i128 {
            t.parts().map(|(vars, c)| c * vars.iter().map(|v| values[*v as usize]).product::<i128>()).sum()
        };
        assert!(facts.iter().all(|t| of(t) <= 0) && values[1] >= 6, "{values:?}");
        // Nothing is found where there is none.
        let all = [facts, vec![plus(sub(&i, &n), 1)]].concat();
        assert!(model(&Obligation { facts: all, choices: vec![] }).is_none());
    }
}
