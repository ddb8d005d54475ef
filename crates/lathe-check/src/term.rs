//! Integer polynomials: a constant plus coefficients of products of variables, exact or refused.

use std::fmt;
use std::sync::Arc;

/// A polynomial over integer variables. Products of variables are kept apart as they are: whoever sums hypotheses sees
/// them as one more unknown. Clones share.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// Coefficients (none 0) of sorted products, in the order of the products; the empty product is the constant.
    parts: Arc<Vec<(Arc<[u32]>, i128)>>,
}

impl Term {
    /// A number.
    pub fn constant(v: i128) -> Term {
        Term::product(vec![], v)
    }

    /// A variable.
    pub fn var(v: u32) -> Term {
        Term::product(vec![v], 1)
    }

    /// A number times a product of variables, in any order.
    pub fn product(mut vars: Vec<u32>, by: i128) -> Term {
        vars.sort_unstable();
        Term { parts: if by == 0 { Arc::default() } else { vec![(vars.into(), by)].into() } }
    }

    /// The products and their coefficients; the empty product is the constant.
    pub fn parts(&self) -> impl Iterator<Item = (&[u32], i128)> {
        self.parts.iter().map(|(k, v)| (&**k, *v))
    }

    /// The value, when no variable is left.
    pub fn as_constant(&self) -> Option<i128> {
        match self.parts.as_slice() {
            [] => Some(0),
            [(vars, v)] if vars.is_empty() => Some(*v),
            _ => None,
        }
    }

    /// The sum; `None` on overflow.
    pub fn add(&self, o: &Term) -> Option<Term> {
        self.add_scaled(o, 1)
    }

    /// The difference; `None` on overflow.
    pub fn sub(&self, o: &Term) -> Option<Term> {
        self.add_scaled(o, -1)
    }

    /// With a number added; `None` on overflow.
    pub fn plus(&self, v: i128) -> Option<Term> {
        self.add(&Term::constant(v))
    }

    /// With the other sign; `None` on overflow.
    pub fn neg(&self) -> Option<Term> {
        Term::default().sub(self)
    }

    /// With a multiple of another added; `None` on overflow.
    pub fn add_scaled(&self, o: &Term, by: i128) -> Option<Term> {
        let mut out = self.clone();
        for (vars, c) in o.parts.iter() {
            out.put(vars, c.checked_mul(by)?, || vars.clone())?;
        }
        Some(out)
    }

    /// The product; `None` on overflow.
    pub fn mul(&self, o: &Term) -> Option<Term> {
        let mut out = Term::default();
        for (a, x) in self.parts.iter() {
            for (b, y) in o.parts.iter() {
                let mut vars = [&**a, b].concat();
                vars.sort_unstable();
                out.put(&vars, x.checked_mul(*y)?, || vars.as_slice().into())?;
            }
        }
        Some(out)
    }

    /// A coefficient more, of a product that `own` makes a copy of; none that is 0 stays.
    fn put(&mut self, vars: &[u32], c: i128, own: impl FnOnce() -> Arc<[u32]>) -> Option<()> {
        let parts = Arc::make_mut(&mut self.parts);
        match parts.binary_search_by(|(known, _)| (**known).cmp(vars)) {
            Ok(at) => {
                parts[at].1 = parts[at].1.checked_add(c)?;
                if parts[at].1 == 0 {
                    parts.remove(at);
                }
            }
            Err(at) if c != 0 => parts.insert(at, (own(), c)),
            Err(_) => {}
        }
        Some(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return write!(f, "0");
        }
        for (i, (vars, c)) in self.parts.iter().enumerate() {
            let plus = if i > 0 { " + " } else { "" };
            write!(f, "{plus}{c}")?;
            for v in vars.iter() {
                write!(f, "*v{v}")?;
            }
        }
        Ok(())
    }
}
