//! The proof that a kernel stays inside its buffers: every index of every access, at its least and at its greatest, for all
//! sizes of at least 1, from the loops' extents, the conditions around it and the facts on index buffers. Whoever calls the kernel establishes the
//! facts, so indirect indices need no check inside.

use super::{Axis, Binary, Buffer, Expr, Fact, Kernel, Node, Opaque, Stmt, for_each};
use crate::{Bounds, Int, IrError, Name};
use lathe_symbolic::Atom;
use std::collections::HashMap;

struct Proof<'k> {
    kernel: &'k Kernel,
    buffers: HashMap<Name, Buffer>,
    /// Loops around, outermost first, with their extents.
    loops: Vec<(Name, Expr)>,
    /// Conditions that hold where the walk stands.
    guards: Vec<Expr>,
    bounds: Bounds,
}

/// Proves that no access leaves its buffer, and that every loop whose extent is read from memory runs over a declared
/// [`Axis`]. The error names the block or loop and the index that could not be proved.
pub fn inside(kernel: &Kernel) -> Result<(), IrError> {
    let mut bounds = Bounds::new();
    for d in &kernel.dims {
        bounds.set(d, 1, None);
    }
    let buffers = kernel.views().map(|b| (b.name.clone(), b.clone())).collect();
    Proof { kernel, buffers, loops: vec![], guards: vec![], bounds }.body(&kernel.body)
}

impl Proof<'_> {
    fn fail<T>(&self, place: &str, message: String) -> Result<T, IrError> {
        Err(IrError::check(format!("{}/{place}", self.kernel.name), message))
    }

    fn body(&mut self, body: &[Stmt]) -> Result<(), IrError> {
        for s in body {
            match s {
                Stmt::Alloc(b) => {
                    self.buffers.insert(b.name.clone(), (**b).clone());
                }
                Stmt::For(l) => {
                    self.accesses(&l.var, &l.extent)?;
                    let mut indirect = false;
                    l.extent.visit(&mut |e| indirect |= matches!(&**e, Node::Load(..)));
                    if indirect && !self.kernel.axes.iter().any(|a| runs_over(a, &l.extent)) {
                        return self.fail(&l.var, format!("runs to {}, over no axis", l.extent));
                    }
                    self.loops.push((l.var.clone(), l.extent.clone()));
                    self.body(&l.body)?;
                    self.loops.pop();
                }
                Stmt::If(c, b) => {
                    self.accesses("if", c)?;
                    // A condition holds throughout when nothing inside writes what it reads.
                    let holds = !b.iter().any(|s| writes_any(s, c));
                    let guards = self.guards.len();
                    self.guards.extend(holds.then(|| c.clone()));
                    self.body(b)?;
                    self.guards.truncate(guards);
                }
                Stmt::Intrinsic(_, b) => self.body(b)?,
                Stmt::Store(b) => {
                    for v in b.values.iter().chain(b.targets.iter().flat_map(|(_, i)| i)) {
                        self.accesses(&b.name, v)?;
                    }
                    for (n, i) in &b.targets {
                        self.access(&b.name, n, i)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn accesses(&self, place: &str, e: &Expr) -> Result<(), IrError> {
        let mut result = Ok(());
        e.visit(&mut |e| {
            if let (Node::Load(n, i), Ok(())) = (&**e, &result) {
                result = self.access(place, n, i);
            }
        });
        result
    }

    fn access(&self, place: &str, buffer: &Name, index: &[Expr]) -> Result<(), IrError> {
        let Some(b) = self.buffers.get(buffer) else {
            return self.fail(place, format!("there is no buffer '{buffer}'"));
        };
        for (i, extent) in index.iter().zip(&b.shape) {
            let least = |e: &Int, least| self.bounds.range(&e.simplify(&self.bounds)).lo >= Some(least);
            // What a condition bounds from above is below what the bound never exceeds.
            let below = |g: &Expr| match &**g {
                Node::Binary(Binary::Lt, x, y) if x == i => {
                    self.extremes(y).is_some_and(|(_, hi)| least(&(extent.clone() - hi), 0))
                }
                _ => false,
            };
            let proved = self.extremes(i).is_some_and(|(lo, hi)| {
                least(&lo, 0) && (least(&(extent.clone() - hi), 1) || self.guards.iter().any(below))
            });
            if !proved {
                return self.fail(place, format!("cannot show that {i} is inside {extent} of '{buffer}'"));
            }
        }
        Ok(())
    }

    /// The least and the greatest value of an index, in the kernel's dimensions.
    fn extremes(&self, e: &Expr) -> Option<(Int, Int)> {
        let mut opaque = Opaque::default();
        let i = opaque.int(e, &self.bounds)?;
        let (mut lo, mut hi) = (i.clone(), i);
        for (var, extent) in self.loops.iter().rev() {
            if !lo.mentions(var) && !hi.mentions(var) {
                continue;
            }
            let last = opaque.int(extent, &self.bounds)? - Int::from(1);
            let zero = Int::from(0);
            lo = self.replace(&lo, var, Some((&zero, &last)), false)?;
            hi = self.replace(&hi, var, Some((&zero, &last)), true)?;
        }
        let mut atoms = vec![];
        for e in [&lo, &hi] {
            e.visit_vars(&mut |n| {
                if n.starts_with('$') && !atoms.iter().any(|a| a == n) {
                    atoms.push(n.to_string());
                }
            });
        }
        for a in atoms {
            // Of what no fact bounds, a remainder or a clamp still is.
            let ends = self.fact(opaque.hidden(&a)?).map(|(first, end)| (first, end - Int::from(1)));
            let ends = ends.as_ref().map(|(first, last)| (first, last));
            lo = self.replace(&lo, &a, ends, false)?;
            hi = self.replace(&hi, &a, ends, true)?;
        }
        Some((lo, hi))
    }

    /// The declared range of what a load (perhaps widened) reads.
    fn fact(&self, e: &Expr) -> Option<(Int, Int)> {
        match &**e {
            Node::Cast(_, e) => self.fact(e),
            Node::Load(n, _) => self.buffers.get(n)?.facts.iter().find_map(|f| match f {
                Fact::Range(lo, hi) => Some((lo.clone(), hi.clone())),
                _ => None,
            }),
            _ => None,
        }
    }

    /// The least (or greatest) value of an expression as a variable moves between two values, or anywhere; `None` when it is
    /// not monotone in an obvious way.
    fn replace(&self, e: &Int, var: &str, ends: Option<(&Int, &Int)>, greatest: bool) -> Option<Int> {
        let mut out = Int::from(e.constant());
        for (atoms, c) in e.terms() {
            let up = greatest == (c > 0);
            let mut product = Int::from(c);
            for a in atoms {
                let a = self.replace_atom(a, var, ends, up)?;
                if atoms.len() > 1 && self.bounds.range(&a).lo < Some(0) {
                    return None;
                }
                product = product * a;
            }
            out = out + product;
        }
        Some(out.simplify(&self.bounds))
    }

    fn replace_atom(&self, a: &Atom, var: &str, ends: Option<(&Int, &Int)>, up: bool) -> Option<Int> {
        let b = &self.bounds;
        let inner = |e: &Int| self.replace(e, var, ends, up);
        Some(match a {
            Atom::Var(n) if &**n == var => {
                let (first, last) = ends?;
                if up { last } else { first }.clone()
            }
            Atom::Var(n) => Int::var(n),
            Atom::Div(_, d) | Atom::Rem(_, d) if d.mentions(var) || b.range(d).lo < Some(1) => return None,
            Atom::Div(x, d) => inner(x)?.div_int(d, b),
            Atom::Rem(x, d) if !x.mentions(var) => x.rem_int(d, b),
            Atom::Rem(_, d) if up => (**d).clone() - Int::from(1),
            Atom::Rem(..) => Int::from(0),
            Atom::Min(x, y) => match (inner(x), inner(y)) {
                (Some(x), Some(y)) => x.min_with(&y, b),
                (Some(known), None) | (None, Some(known)) if up => known,
                _ => return None,
            },
            Atom::Max(x, y) => match (inner(x), inner(y)) {
                (Some(x), Some(y)) => x.max_with(&y, b),
                (Some(known), None) | (None, Some(known)) if !up => known,
                _ => return None,
            },
        })
    }
}

/// Whether a statement writes a buffer that an expression reads.
fn writes_any(s: &Stmt, e: &Expr) -> bool {
    let mut found = false;
    for_each(std::slice::from_ref(s), &mut |s| {
        if let Stmt::Store(b) = s {
            found |= b.targets.iter().any(|(n, _)| e.loads(n));
        }
    });
    found
}

/// Whether an extent is the axis's length at some position of its parents.
fn runs_over(axis: &Axis, extent: &Expr) -> bool {
    let mut at: HashMap<&str, &Expr> = HashMap::new();
    matches(&axis.length, extent, &axis.parents, &mut at)
}

fn matches<'e>(pattern: &'e Expr, e: &'e Expr, free: &[Name], at: &mut HashMap<&'e str, &'e Expr>) -> bool {
    if let Node::Var(n) = &**pattern
        && free.contains(n)
    {
        return *at.entry(n).or_insert(e) == e;
    }
    let (a, b) = (pattern.children(), e.children());
    let same_node =
        a.len() == b.len() && pattern.map_children(&mut |_| 0.into()) == e.map_children(&mut |_| 0.into());
    same_node && a.into_iter().zip(b).all(|(a, b)| matches(a, b, free, at))
}
