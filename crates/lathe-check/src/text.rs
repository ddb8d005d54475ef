//! The text form of proofs, and its strict reader: what is printed is read back as it was, and nothing else is read.
//!
//! `(sum 2*0 1*3)` adds twice fact 0 and fact 3; `(cut [1*v0 + -3] P Q)`; `(cases 1 P Q)` goes over choice 1;
//! `(product 0 4 P)`.

use crate::proof::DEPTH;
use crate::{Proof, Term, Wrong};
use std::fmt;
use std::str::FromStr;

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::Sum(parts) => {
                write!(f, "(sum")?;
                for (i, by) in parts {
                    write!(f, " {by}*{i}")?;
                }
                write!(f, ")")
            }
            Proof::Cut(t, low, high) => write!(f, "(cut [{t}] {low} {high})"),
            Proof::Cases(i, proofs) => {
                write!(f, "(cases {i}")?;
                for p in proofs {
                    write!(f, " {p}")?;
                }
                write!(f, ")")
            }
            Proof::Product(i, j, rest) => write!(f, "(product {i} {j} {rest})"),
        }
    }
}

impl FromStr for Proof {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Proof, Wrong> {
        let mut r = Reader { rest: text };
        let proof = r.proof(0)?;
        match r.rest {
            "" => Ok(proof),
            _ => r.fail("nothing more"),
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn fail<T>(&self, wanted: &str) -> Result<T, Wrong> {
        let at: String = self.rest.chars().take(20).collect();
        Err(Wrong(format!("{wanted} expected before '{at}'")))
    }

    fn eat(&mut self, word: &str) -> bool {
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn need(&mut self, word: &str) -> Result<(), Wrong> {
        if self.eat(word) { Ok(()) } else { self.fail(&format!("'{word}'")) }
    }

    fn number<N: FromStr + fmt::Display>(&mut self) -> Result<N, Wrong> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        match word.parse::<N>() {
            Ok(n) if n.to_string() == word => {
                self.rest = rest;
                Ok(n)
            }
            _ => self.fail("a number"),
        }
    }

    fn term(&mut self) -> Result<Term, Wrong> {
        let mut sum = Term::default();
        loop {
            let by: i128 = self.number()?;
            let mut vars = vec![];
            while self.eat("*v") {
                vars.push(self.number()?);
            }
            sum =
                sum.add(&Term::product(vars, by)).ok_or_else(|| Wrong("the numbers are too large".into()))?;
            if !self.eat(" + ") {
                return Ok(sum);
            }
        }
    }

    fn proof(&mut self, depth: usize) -> Result<Proof, Wrong> {
        if depth > DEPTH {
            return self.fail("less depth");
        }
        self.need("(")?;
        let proof = if self.eat("sum") {
            let mut parts = vec![];
            while self.eat(" ") {
                let by = self.number()?;
                self.need("*")?;
                parts.push((self.number()?, by));
            }
            Proof::Sum(parts)
        } else if self.eat("cut [") {
            let t = self.term()?;
            self.need("] ")?;
            let low = self.proof(depth + 1)?;
            self.need(" ")?;
            Proof::Cut(t, low.into(), self.proof(depth + 1)?.into())
        } else if self.eat("cases ") {
            let i = self.number()?;
            let mut proofs = vec![];
            while self.eat(" ") {
                proofs.push(self.proof(depth + 1)?);
            }
            Proof::Cases(i, proofs)
        } else if self.eat("product ") {
            let i = self.number()?;
            self.need(" ")?;
            let j = self.number()?;
            self.need(" ")?;
            Proof::Product(i, j, self.proof(depth + 1)?.into())
        } else {
            return self.fail("sum, cut, cases or product");
        };
        self.need(")")?;
        Ok(proof)
    }
}
