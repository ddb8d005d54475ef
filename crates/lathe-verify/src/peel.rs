//! The rule of a loop peeled: it ends earlier, and a copy of it runs the rest. The two together run as often as it did before, the
//! copy's iterations are those that are missing, and the order is kept, so every operation is the same. Temporaries that are made
//! in an iteration have names of their own in the copy.

use crate::Refusal;
use crate::obligations::{Walk, differs, in_order};
use crate::scope::{Sides, exact};
use lathe_ir::tensor::Stmt;

impl<'k> Walk<'k> {
    /// Where a loop of the list before is two loops of the list after.
    pub(crate) fn peels(&self, b: &'k [Stmt], a: &'k [Stmt]) -> Option<usize> {
        if a.len() != b.len() + 1 {
            return None;
        }
        (0..b.len()).find(|p| match (&b[*p], &a[*p], &a[p + 1]) {
            (Stmt::For(l), Stmt::For(w), Stmt::For(r)) => {
                let kind = l.var == w.var && l.iter == w.iter && l.iter == r.iter;
                kind && [l, w, r].iter().all(|l| in_order(l)) && l != w && b.get(p + 1) != a.get(p + 1)
            }
            _ => false,
        })
    }

    /// The loop at `p`, and what is before and behind it.
    pub(crate) fn peeled(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        p: usize,
    ) -> Result<(), Refusal> {
        let (Stmt::For(l), Stmt::For(w), Stmt::For(r)) = (&b[p], &a[p], &a[p + 1]) else {
            return differs("a loop became another statement");
        };
        self.pairs(now, &b[..p], &a[..p])?;
        let (all, behind) = ([&**l, w, r], now);
        let now = &self.within(now, &all, all.into_iter())?;
        let mut s = now.scope.clone();
        let all = s.term(&l.extent, &now.before)?;
        let whole = self.term_there(&mut s, &now.after, &w.extent, &w.var)?;
        let rest = self.term_there(&mut s, &now.after, &r.extent, &r.var)?;
        let about = format!("'{}' and '{}' run as often as '{}' did", w.var, r.var, l.var);
        self.holds(&s, &exact(whole.neg())?, &about)?;
        self.holds(&s, &exact(rest.neg())?, &about)?;
        self.equal(&s, &all, &exact(whole.add(&rest))?, &about)?;
        // The first iterations. Those of the loop after are fewer, and are what is known of them.
        let mut first = now.clone();
        let i = first.scope.iteration(&w.var, &w.extent, &mut first.after)?;
        first.before.vars.insert(l.var.clone(), i);
        self.list(&first, &l.body, &w.body)?;
        // The others.
        let mut last = now.clone();
        let i = last.scope.iteration(&r.var, &r.extent, &mut last.after)?;
        let whole = last.scope.term(&w.extent, &now.after)?;
        last.before.vars.insert(l.var.clone(), exact(whole.add(&i))?);
        let outer = (std::mem::replace(&mut self.renamed, true), self.temporaries.clone());
        let copied = self.list(&last, &l.body, &r.body);
        (self.renamed, self.temporaries) = outer;
        copied?;
        self.pairs(behind, &b[p + 1..], &a[p + 2..])
    }
}
