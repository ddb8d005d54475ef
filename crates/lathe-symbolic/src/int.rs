//! The normal form of symbolic integers: a constant plus a sum of coefficient times product of atoms.

use crate::Bounds;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

/// A name; cheap to clone.
pub type Name = Arc<str>;

/// What a sum of products is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// A dimension or a loop variable.
    Var(Name),
    /// Division rounding towards minus infinity.
    Div(Box<Int>, Box<Int>),
    /// The remainder of [`Atom::Div`], never negative for a positive divisor.
    Rem(Box<Int>, Box<Int>),
    /// The smaller one.
    Min(Box<Int>, Box<Int>),
    /// The larger one.
    Max(Box<Int>, Box<Int>),
}

/// A symbolic integer in normal form.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Int {
    constant: i64,
    terms: BTreeMap<Vec<Atom>, i64>,
}

impl From<i64> for Int {
    fn from(v: i64) -> Int {
        Int { constant: v, terms: BTreeMap::new() }
    }
}

impl Int {
    /// A variable.
    pub fn var(name: &str) -> Int {
        Int::atom(Atom::Var(name.into()))
    }

    fn atom(a: Atom) -> Int {
        Int { constant: 0, terms: BTreeMap::from([(vec![a], 1)]) }
    }

    /// The constant addend.
    pub fn constant(&self) -> i64 {
        self.constant
    }

    /// The products and their coefficients (none of them 0).
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.terms.iter().map(|(k, v)| (k.as_slice(), *v))
    }

    /// The value, when no variable is left.
    pub fn as_const(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    fn push(&mut self, atoms: Vec<Atom>, c: i64) {
        if atoms.is_empty() {
            self.constant = self.constant.wrapping_add(c);
            return;
        }
        let slot = self.terms.entry(atoms.clone()).or_insert(0);
        *slot = slot.wrapping_add(c);
        if *slot == 0 {
            self.terms.remove(&atoms);
        }
    }

    /// Splits `self = c * q + r`, where `r` holds what is left of each coefficient.
    fn split(&self, c: i64) -> (Int, Int) {
        let (mut q, mut r) = (Int::from(self.constant.div_euclid(c)), Int::from(self.constant.rem_euclid(c)));
        for (a, v) in &self.terms {
            if v % c == 0 {
                q.push(a.clone(), v / c);
            } else {
                r.push(a.clone(), *v);
            }
        }
        (q, r)
    }

    /// `(g, x, y)` with `self = g * x + y`, `g > 1` a divisor of `c`, and `0 <= y < g`.
    fn coarse(&self, c: i64, b: &Bounds) -> Option<(i64, Int, Int)> {
        let mut candidates: Vec<i64> = self.terms.values().map(|v| gcd(c, *v)).filter(|g| *g > 1).collect();
        candidates.sort_unstable();
        candidates.into_iter().rev().find_map(|g| {
            let (x, y) = self.split(g);
            let range = b.range(&y);
            (range.lo >= Some(0) && range.hi.is_some_and(|h| h < g)).then_some((g, x, y))
        })
    }

    /// `self / c` rounded down, for a positive constant, simplified with what is known of the variables.
    pub fn div(&self, c: i64, b: &Bounds) -> Int {
        assert!(c > 0, "division of a symbolic integer by {c}");
        if c == 1 {
            return self.clone();
        }
        let (q, r) = self.split(c);
        let range = b.range(&r);
        if let (Some(lo), Some(hi)) = (range.lo, range.hi)
            && lo.div_euclid(c) == hi.div_euclid(c)
        {
            return q + lo.div_euclid(c);
        }
        // floor((g*x + y) / (g*m)) = floor(x / m) when 0 <= y < g.
        if let Some((g, x, _)) = r.coarse(c, b) {
            return q + x.div(c / g, b);
        }
        if let Some(Atom::Div(x, d)) = r.single_atom()
            && let Some(d) = d.as_const().and_then(|d| d.checked_mul(c))
        {
            return q + x.div(d, b);
        }
        q + Int::atom(Atom::Div(Box::new(r), Box::new(c.into())))
    }

    /// `self mod c`, never negative, for a positive constant.
    pub fn rem(&self, c: i64, b: &Bounds) -> Int {
        assert!(c > 0, "remainder of a symbolic integer by {c}");
        if c == 1 {
            return 0.into();
        }
        let (_, r) = self.split(c);
        let range = b.range(&r);
        if let (Some(lo), Some(hi)) = (range.lo, range.hi)
            && lo.div_euclid(c) == hi.div_euclid(c)
        {
            return r - lo.div_euclid(c) * c;
        }
        // (g*x + y) mod (g*m) = g * (x mod m) + y when 0 <= y < g.
        if let Some((g, x, y)) = r.coarse(c, b) {
            return x.rem(c / g, b) * g + y;
        }
        Int::atom(Atom::Rem(Box::new(r), Box::new(c.into())))
    }

    /// Division rounding down by any symbolic integer; the divisor must be positive where it is evaluated.
    pub fn div_int(&self, d: &Int, b: &Bounds) -> Int {
        match d.as_const() {
            Some(c) => self.div(c, b),
            None if self == d => 1.into(),
            None => Int::atom(Atom::Div(Box::new(self.clone()), Box::new(d.clone()))),
        }
    }

    /// Remainder by any symbolic integer; the divisor must be positive where it is evaluated.
    pub fn rem_int(&self, d: &Int, b: &Bounds) -> Int {
        match d.as_const() {
            Some(c) => self.rem(c, b),
            None if self == d => 0.into(),
            None => Int::atom(Atom::Rem(Box::new(self.clone()), Box::new(d.clone()))),
        }
    }

    /// Division rounding up.
    pub fn ceil_div(&self, c: i64, b: &Bounds) -> Int {
        (self.clone() + (c - 1)).div(c, b)
    }

    /// The smaller of two.
    pub fn min_with(&self, o: &Int, b: &Bounds) -> Int {
        let d = b.range(&(self.clone() - o.clone()));
        match d {
            _ if d.hi.is_some_and(|h| h <= 0) => self.clone(),
            _ if d.lo.is_some_and(|l| l >= 0) => o.clone(),
            _ => Int::atom(Atom::Min(Box::new(self.clone()), Box::new(o.clone()))),
        }
    }

    /// The larger of two.
    pub fn max_with(&self, o: &Int, b: &Bounds) -> Int {
        let d = b.range(&(self.clone() - o.clone()));
        match d {
            _ if d.hi.is_some_and(|h| h <= 0) => o.clone(),
            _ if d.lo.is_some_and(|l| l >= 0) => self.clone(),
            _ => Int::atom(Atom::Max(Box::new(self.clone()), Box::new(o.clone()))),
        }
    }

    /// Puts digits of one number together: `(x % n) * c + (x / n) * (c * n)` is `x * c`, and
    /// `(x % n) * c + (x / n % m) * (c * n)` is `(x % (n * m)) * c`.
    pub fn joined(mut self) -> Int {
        while let Some(next) = self.join_one() {
            self = next;
        }
        self
    }

    fn join_one(&self) -> Option<Int> {
        for (atoms, c) in &self.terms {
            for (i, low) in atoms.iter().enumerate() {
                let Atom::Rem(x, n) = low else { continue };
                let Some(n) = n.as_const().filter(|n| *n > 0) else { continue };
                let Some(wanted) = c.checked_mul(n) else { continue };
                let with = |atom: Atom| {
                    let mut all = atoms.clone();
                    all[i] = atom;
                    all.sort();
                    all
                };
                let rest = |high: &[Atom]| {
                    let mut out = self.clone();
                    out.terms.remove(atoms);
                    out.terms.remove(high);
                    out
                };
                let higher = Atom::Div(x.clone(), Box::new(n.into()));
                let high = with(higher.clone());
                if self.terms.get(&high) == Some(&wanted) {
                    let mut others = atoms.clone();
                    others.remove(i);
                    let mut factor = Int::default();
                    factor.push(others, *c);
                    return Some(rest(&high) + (**x).clone() * factor);
                }
                for (high, _) in self.terms.iter().filter(|(_, v)| **v == wanted) {
                    for digit in high {
                        let Atom::Rem(y, m) = digit else { continue };
                        let whole = m.as_const().and_then(|m| m.checked_mul(n));
                        if let Some(whole) = whole.filter(|w| *w > 0)
                            && y.single_atom() == Some(&higher)
                            && *high == with(digit.clone())
                        {
                            let mut joined = Int::default();
                            joined.push(with(Atom::Rem(x.clone(), Box::new(whole.into()))), *c);
                            return Some(rest(high) + joined);
                        }
                    }
                }
            }
        }
        None
    }

    fn single_atom(&self) -> Option<&Atom> {
        match self.terms.iter().next() {
            Some((a, 1)) if self.constant == 0 && self.terms.len() == 1 && a.len() == 1 => Some(&a[0]),
            _ => None,
        }
    }

    /// Rebuilds the expression with `f` in place of variables; `f` returns `None` to keep one.
    pub fn substitute(&self, f: &dyn Fn(&str) -> Option<Int>, b: &Bounds) -> Int {
        let mut out = Int::from(self.constant);
        for (atoms, c) in &self.terms {
            let mut prod = Int::from(*c);
            for a in atoms {
                prod = prod
                    * match a {
                        Atom::Var(n) => f(n).unwrap_or_else(|| Int::var(n)),
                        Atom::Div(x, d) => x.substitute(f, b).div_int(&d.substitute(f, b), b),
                        Atom::Rem(x, d) => x.substitute(f, b).rem_int(&d.substitute(f, b), b),
                        Atom::Min(x, y) => x.substitute(f, b).min_with(&y.substitute(f, b), b),
                        Atom::Max(x, y) => x.substitute(f, b).max_with(&y.substitute(f, b), b),
                    };
            }
            out = out + prod;
        }
        out
    }

    /// Simplifies again with (better) bounds.
    pub fn simplify(&self, b: &Bounds) -> Int {
        self.substitute(&|_| None, b)
    }

    /// The value under an assignment; `None` when a variable is missing, on overflow, or on division by zero.
    pub fn eval(&self, f: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut sum = self.constant;
        for (atoms, c) in &self.terms {
            let mut p = *c;
            for a in atoms {
                let v = match a {
                    Atom::Var(n) => f(n)?,
                    Atom::Div(x, d) => {
                        let d = d.eval(f).filter(|d| *d > 0)?;
                        x.eval(f)?.div_euclid(d)
                    }
                    Atom::Rem(x, d) => {
                        let d = d.eval(f).filter(|d| *d > 0)?;
                        x.eval(f)?.rem_euclid(d)
                    }
                    Atom::Min(x, y) => x.eval(f)?.min(y.eval(f)?),
                    Atom::Max(x, y) => x.eval(f)?.max(y.eval(f)?),
                };
                p = p.checked_mul(v)?;
            }
            sum = sum.checked_add(p)?;
        }
        Some(sum)
    }

    /// Whether a variable occurs.
    pub fn mentions(&self, name: &str) -> bool {
        let mut found = false;
        self.visit_vars(&mut |n| found |= n == name);
        found
    }

    /// Calls `f` with each variable that occurs.
    pub fn visit_vars(&self, f: &mut dyn FnMut(&str)) {
        for atoms in self.terms.keys() {
            for a in atoms {
                match a {
                    Atom::Var(n) => f(n),
                    Atom::Div(x, y) | Atom::Rem(x, y) | Atom::Min(x, y) | Atom::Max(x, y) => {
                        x.visit_vars(f);
                        y.visit_vars(f);
                    }
                }
            }
        }
    }

    /// The coefficient of `name` and the rest, when the expression is affine in that variable.
    pub fn affine_in(&self, name: &str) -> Option<(Int, Int)> {
        let (mut coeff, mut rest) = (Int::default(), Int::from(self.constant));
        for (atoms, c) in &self.terms {
            let term = Int { constant: 0, terms: BTreeMap::from([(atoms.clone(), *c)]) };
            match atoms.iter().position(|a| matches!(a, Atom::Var(n) if &**n == name)) {
                Some(i) => {
                    let mut others = atoms.clone();
                    others.remove(i);
                    let mut k = Int::default();
                    k.push(others, *c);
                    if k.mentions(name) {
                        return None;
                    }
                    coeff = coeff + k;
                }
                None if term.mentions(name) => return None,
                None => rest = rest + term,
            }
        }
        Some((coeff, rest))
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.wrapping_abs() } else { gcd(b, a.wrapping_rem(b)) }
}

impl Add for Int {
    type Output = Int;
    fn add(mut self, o: Int) -> Int {
        self.constant = self.constant.wrapping_add(o.constant);
        for (a, c) in o.terms {
            self.push(a, c);
        }
        self
    }
}

impl Neg for Int {
    type Output = Int;
    fn neg(self) -> Int {
        self * -1
    }
}

impl Sub for Int {
    type Output = Int;
    fn sub(self, o: Int) -> Int {
        self + -o
    }
}

impl Mul for Int {
    type Output = Int;
    fn mul(self, o: Int) -> Int {
        let mut out = Int::default();
        for (a, x) in std::iter::once((Vec::new(), self.constant)).chain(self.terms) {
            for (b, y) in std::iter::once((Vec::new(), o.constant)).chain(o.terms.clone()) {
                let mut atoms = a.clone();
                atoms.extend(b);
                atoms.sort();
                let c = x.wrapping_mul(y);
                if c != 0 {
                    out.push(atoms, c);
                }
            }
        }
        out
    }
}

macro_rules! with_constant {
    ($($tr:ident $f:ident),*) => {$(
        impl $tr<i64> for Int {
            type Output = Int;
            fn $f(self, o: i64) -> Int { self.$f(Int::from(o)) }
        }
    )*};
}
with_constant!(Add add, Sub sub, Mul mul);

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Var(n) => write!(f, "{n}"),
            Atom::Div(a, b) => write!(f, "({a})/({b})"),
            Atom::Rem(a, b) => write!(f, "({a})%({b})"),
            Atom::Min(a, b) => write!(f, "min({a}, {b})"),
            Atom::Max(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (atoms, c) in &self.terms {
            // The least integer has no positive twin: it is written with its sign.
            let minus = *c < 0 && *c != i64::MIN;
            match (first, minus) {
                (true, true) => write!(f, "-")?,
                (false, true) => write!(f, " - ")?,
                (false, false) => write!(f, " + ")?,
                _ => {}
            }
            let signed = first && minus;
            first = false;
            for (i, a) in atoms.iter().enumerate() {
                if i > 0 {
                    write!(f, "*")?;
                }
                // A sign or a factor before a quotient or a remainder would be taken for a part of its left side.
                match a {
                    Atom::Div(..) | Atom::Rem(..) if i > 0 || signed => write!(f, "({a})")?,
                    _ => write!(f, "{a}")?,
                }
            }
            if c.unsigned_abs() != 1 {
                write!(f, "*{}", c.wrapping_abs())?;
            }
        }
        match (first, self.constant) {
            (true, c) => write!(f, "{c}"),
            (false, 0) => Ok(()),
            (false, c) if c < 0 && c != i64::MIN => write!(f, " - {}", -c),
            (false, c) => write!(f, " + {c}"),
        }
    }
}
