//! Ranges of symbolic integers by interval arithmetic.

use crate::{Atom, Int};
use std::collections::BTreeMap;

/// An inclusive interval; `None` is unbounded on that side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Least value.
    pub lo: Option<i64>,
    /// Greatest value.
    pub hi: Option<i64>,
}

impl Range {
    /// One value.
    pub const fn point(v: i64) -> Range {
        Range { lo: Some(v), hi: Some(v) }
    }

    const ANY: Range = Range { lo: None, hi: None };

    fn add(self, o: Range) -> Range {
        let f = |a: Option<i64>, b: Option<i64>| a?.checked_add(b?);
        Range { lo: f(self.lo, o.lo), hi: f(self.hi, o.hi) }
    }

    fn scale(self, c: i64) -> Range {
        let f = |a: Option<i64>| a?.checked_mul(c);
        match c {
            0 => Range::point(0),
            c if c > 0 => Range { lo: f(self.lo), hi: f(self.hi) },
            _ => Range { lo: f(self.hi), hi: f(self.lo) },
        }
    }

    fn mul(self, o: Range) -> Range {
        match (self.lo, self.hi, o.lo, o.hi) {
            (Some(a), Some(b), Some(c), Some(d)) => {
                let p = [a.checked_mul(c), a.checked_mul(d), b.checked_mul(c), b.checked_mul(d)];
                match p.into_iter().collect::<Option<Vec<_>>>() {
                    Some(p) => Range { lo: p.iter().min().copied(), hi: p.iter().max().copied() },
                    None => Range::ANY,
                }
            }
            (Some(a), _, Some(c), _) if a >= 0 && c >= 0 => {
                let hi = self.hi.zip(o.hi).and_then(|(x, y)| x.checked_mul(y));
                Range { lo: a.checked_mul(c), hi }
            }
            _ => Range::ANY,
        }
    }
}

/// What is known of the variables: an interval each; a variable not named is at least 0 (all ours are extents and
/// loop variables).
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    map: BTreeMap<crate::Name, Range>,
}

impl Bounds {
    /// Nothing known.
    pub fn new() -> Bounds {
        Bounds::default()
    }

    /// Declares `lo <= name <= hi`.
    pub fn set(&mut self, name: &str, lo: i64, hi: Option<i64>) {
        self.map.insert(name.into(), Range { lo: Some(lo), hi });
    }

    /// What is known of a variable.
    pub fn of(&self, name: &str) -> Range {
        self.map.get(name).copied().unwrap_or(Range { lo: Some(0), hi: None })
    }

    /// The interval of an expression.
    pub fn range(&self, e: &Int) -> Range {
        let mut sum = Range::point(e.constant());
        for (atoms, c) in e.terms() {
            let mut prod = Range::point(1);
            for (i, a) in atoms.iter().enumerate() {
                let r = self.atom(a);
                prod = if i == 0 { r } else { prod.mul(r) };
            }
            sum = sum.add(prod.scale(c));
        }
        sum
    }

    fn atom(&self, a: &Atom) -> Range {
        match a {
            Atom::Var(n) => self.of(n),
            Atom::Div(e, c) => {
                let r = self.range(e);
                match c.as_const() {
                    Some(c) if c > 0 => {
                        Range { lo: r.lo.map(|v| v.div_euclid(c)), hi: r.hi.map(|v| v.div_euclid(c)) }
                    }
                    _ if r.lo >= Some(0) => Range { lo: Some(0), hi: r.hi },
                    _ => Range::ANY,
                }
            }
            Atom::Rem(_, c) => {
                let hi = self.range(c).hi.and_then(|v| v.checked_sub(1));
                Range { lo: Some(0), hi }
            }
            Atom::Min(a, b) => {
                let (a, b) = (self.range(a), self.range(b));
                let hi = match (a.hi, b.hi) {
                    (Some(x), Some(y)) => Some(x.min(y)),
                    (x, y) => x.or(y),
                };
                Range { lo: a.lo.zip(b.lo).map(|(x, y)| x.min(y)), hi }
            }
            Atom::Max(a, b) => {
                let (a, b) = (self.range(a), self.range(b));
                let lo = match (a.lo, b.lo) {
                    (Some(x), Some(y)) => Some(x.max(y)),
                    (x, y) => x.or(y),
                };
                Range { lo, hi: a.hi.zip(b.hi).map(|(x, y)| x.max(y)) }
            }
        }
    }
}
