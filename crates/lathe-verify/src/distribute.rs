//! The rule of a loop distributed over its body: each statement runs for all iterations before the next one does, inside
//! loops that do not depend on it. No two iterations meet, so only the order within one counts, and that is kept. Temporaries
//! of an iteration become parts of larger ones, which the iteration picks by a new dimension, the last or the first.
//!
//! Whether the loop has an iteration is not known where its copies begin, nor those of the loops that they went inside of: what is said
//! of their extents must hold without one.

use crate::Refusal;
use crate::obligations::{Walk, differs};
use crate::scope::{Scope, Sides, exact};
use lathe_check::Term;
use lathe_ir::tensor::{Buffer, Expr, For, Iter, Stmt};
use lathe_ir::{Layout, Name};

/// A loop that is distributed, at one iteration.
pub(crate) struct Sunk<'k> {
    l: &'k For,
    /// The iteration.
    at: Term,
    /// Whether new dimensions are the first.
    first: bool,
    /// Temporaries that have one.
    temporaries: Vec<Name>,
}

impl Sunk<'_> {
    pub(crate) fn widened(&self, name: &Name) -> bool {
        self.temporaries.contains(name)
    }

    fn with<T: Clone>(&self, list: &[T], item: T) -> Vec<T> {
        if self.first { [&[item], list].concat() } else { [list, &[item]].concat() }
    }
}

impl<'k> Walk<'k> {
    /// Where in a list the loop is that the hint says is distributed: one before, none after.
    pub(crate) fn distributes(&self, b: &[Stmt]) -> Option<usize> {
        let w = self.witness.filter(|w| w.after.is_empty())?;
        let [var] = w.before.as_slice() else { return None };
        b.iter().position(|s| matches!(s, Stmt::For(l) if l.var == *var))
    }

    pub(crate) fn distributed(
        &mut self,
        now: &Sides,
        b: &'k [Stmt],
        a: &'k [Stmt],
        p: usize,
    ) -> Result<(), Refusal> {
        let Stmt::For(l) = &b[p] else { return differs("no loop is distributed") };
        let rest = b.len() - p - 1;
        if a.len() < p + rest {
            return differs("statements are missing");
        }
        let end = a.len() - rest;
        self.pairs(now, &b[..p], &a[..p])?;
        self.pairs(now, &b[p + 1..], &a[end..])?;
        if l.iter != Iter::Spatial || self.world.volatile(&l.extent) {
            return differs(format!("'{}' is no loop of independent iterations", l.var));
        }
        self.independent(&now.scope, &now.before, l, false)?;
        let around = now;
        let mut now = now.clone();
        let at = now.scope.iteration(&l.var, &l.extent, &mut now.before)?;
        for first in [false, true] {
            let mark = self.mark();
            self.sunk = Some(Sunk { l, at: at.clone(), first, temporaries: vec![] });
            let result = self.sunk_list(around, &now, &l.body, &a[p..end]);
            self.sunk = None;
            match result {
                Err(Refusal::Differs(_)) if !first => self.forget(mark),
                result => return result,
            }
        }
        Ok(())
    }

    /// The statements of an iteration; `around` is what is known whether there is one or not.
    fn sunk_list(
        &mut self,
        around: &Sides,
        now: &Sides,
        b: &'k [Stmt],
        a: &'k [Stmt],
    ) -> Result<(), Refusal> {
        if a.len() != b.len() {
            return differs(format!("{} statements become {}", b.len(), a.len()));
        }
        b.iter().zip(a).try_for_each(|(b, a)| match (b, a) {
            (Stmt::Alloc(b), Stmt::Alloc(a)) => self.sunk_temporary(&now.scope, b, a),
            (Stmt::For(f), Stmt::For(g)) if f.var == g.var => {
                if (f.iter, &f.level) != (g.iter, &g.level) || self.world.volatile(&f.extent) {
                    return differs(format!("the loop '{}' differs", f.var));
                }
                self.same(now, &f.extent, &g.extent, &f.var)?;
                self.there_to_read(&around.scope, &around.after, &g.extent, &g.var)?;
                let (mut around, now) = (around.clone(), now.iteration(f, g)?);
                around.scope.iteration(&g.var, &g.extent, &mut around.after)?;
                self.sunk_list(&around, &now, &f.body, &g.body)
            }
            (b, Stmt::For(w)) => self.sunk_statement(around, now, b, w),
            _ => differs("a statement is in no loop"),
        })
    }

    /// A statement inside a copy of the loop.
    fn sunk_statement(
        &mut self,
        around: &Sides,
        now: &Sides,
        b: &'k Stmt,
        w: &'k For,
    ) -> Result<(), Refusal> {
        let Some(Sunk { l, at, .. }) = &self.sunk else { return differs("no loop is distributed") };
        let (l, at) = (*l, at.clone());
        let [inner] = w.body.as_slice() else {
            return differs(format!("'{}' is around several statements", w.var));
        };
        if (w.iter, &w.level) != (l.iter, &l.level) {
            return differs(format!("'{}' is no copy of '{}'", w.var, l.var));
        }
        self.same(around, &l.extent, &w.extent, &w.var)?;
        let mut now = now.clone();
        now.after.vars.insert(w.var.clone(), at);
        self.statement(&now, b, inner)
    }

    fn sunk_temporary(&mut self, s: &Scope, b: &Buffer, a: &Buffer) -> Result<(), Refusal> {
        let Some(sunk) = &mut self.sunk else { return differs("no loop is distributed") };
        let n = if sunk.first { a.shape.first() } else { a.shape.last() };
        let shape = n.map(|n| sunk.with(&b.shape, n.clone()));
        let wider = Buffer { shape: a.shape.clone(), layout: Layout::dense(b.dtype, &a.shape), ..b.clone() };
        let dense = b.layout == Layout::dense(b.dtype, &b.shape);
        let Some(n) = n.filter(|_| dense && wider == *a && shape.as_ref() == Some(&a.shape)) else {
            return differs(format!("'{}' has no place for each iteration", b.name));
        };
        sunk.temporaries.push(b.name.clone());
        let (at, mut s) = (sunk.at.clone(), s.clone());
        let n = s.int(n)?;
        let beyond = exact(at.sub(&n).and_then(|t| t.plus(1)))?;
        self.holds(&s, &beyond, &format!("'{}' has a place for each iteration", b.name))
    }

    /// The element of the larger temporary is that of this iteration.
    pub(crate) fn sunk_element(
        &mut self,
        now: &Sides,
        b: (&Name, &[Expr]),
        a: (&Name, &[Expr]),
        place: &str,
    ) -> Result<(), Refusal> {
        let Some(sunk) = &self.sunk else { return differs("no loop is distributed") };
        let (at, first) = (sunk.at.clone(), sunk.first);
        let split = if first { a.1.split_first() } else { a.1.split_last() };
        let Some((own, rest)) = split.filter(|(_, rest)| a.0 == b.0 && rest.len() == b.1.len()) else {
            return differs(format!("'{place}' does not use '{}' as before", b.0));
        };
        if now.scope.clone().term(own, &now.after)? != at {
            return differs(format!("'{place}' uses another iteration's '{}'", b.0));
        }
        b.1.iter().zip(rest).try_for_each(|(x, y)| self.same(now, x, y, place))
    }
}
