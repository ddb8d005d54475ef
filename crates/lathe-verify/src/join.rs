//! The rule of two loops joined: the second one's body follows the first one's in each iteration, and what stood between the
//! loops comes before. So iterations of the second loop run before later ones of the first, and what stood between before all
//! of the first: these do not meet.

use crate::Refusal;
use crate::meet::touches;
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Sides, exact};
use lathe_ir::tensor::{For, Iter, SERIAL, Stmt};
use std::sync::Arc;

/// The loop at a place of a list.
fn loop_at(list: &[Stmt], at: usize) -> Option<&Arc<For>> {
    match list.get(at) {
        Some(Stmt::For(l)) => Some(l),
        _ => None,
    }
}

/// Whether statements declare a temporary that others touch.
fn hides(declare: &[Stmt], use_: &[Stmt]) -> bool {
    declare.iter().any(|s| matches!(s, Stmt::Alloc(b) if touches(use_, &b.name) > 0))
}

impl<'k> Walk<'k> {
    pub(crate) fn joined(&mut self, now: &Sides, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
        // The loop whose body grew, after; the two that it was made of, before.
        let grown = |q: &usize| {
            let (Some(l), Some(second)) = (loop_at(a, *q), loop_at(b, q + 1)) else { return None };
            let p = (0..=*q).find(|p| loop_at(b, *p).is_some_and(|f| f.var == l.var))?;
            let first = loop_at(b, p)?;
            (first.body.len() + second.body.len() == l.body.len()).then_some((p, *q))
        };
        let Some((p, q)) = (0..a.len()).find_map(|q| grown(&q)) else {
            return differs(format!("{} statements become {}", b.len(), a.len()));
        };
        let (Some(first), Some(second), Some(both)) = (loop_at(b, p), loop_at(b, q + 1), loop_at(a, q))
        else {
            return differs("no two loops are joined");
        };
        let between = &b[p + 1..=q];
        self.pairs(now, &b[..p], &a[..p])?;
        self.pairs(now, between, &a[p..q])?;
        self.pairs(now, &b[q + 2..], &a[q + 1..])?;
        let plain =
            [first, second, both].iter().all(|l| &*l.level == SERIAL && !self.world.volatile(&l.extent));
        let kinds = first.iter == Iter::Spatial
            && matches!(second.iter, Iter::Spatial | Iter::Reduce)
            && both.iter == second.iter;
        if !plain || !kinds {
            return differs(format!("'{}' and '{}' are not loops to join", first.var, second.var));
        }
        if hides(&first.body, &second.body) || hides(between, &first.body) {
            return differs("a temporary would stand for another one of its name");
        }
        self.same(now, &first.extent, &both.extent, &both.var)?;
        self.same(now, &second.extent, &both.extent, &both.var)?;
        // An iteration of the second loop comes before a later one of the first.
        let mut so = now.scope.clone();
        let apart = Env { apart: true, ..now.before.clone() };
        let (mut x, mut y) = (apart.clone(), apart.clone());
        let i = so.iteration(&first.var, &first.extent, &mut x)?;
        self.separate(&so, (&first.body, &x), (between, &apart))?;
        let j = so.iteration(&second.var, &second.extent, &mut y)?;
        so.at_most(&exact(j.plus(1))?, &i)?;
        self.separate(&so, (&first.body, &x), (&second.body, &y))?;
        let mut now = now.clone();
        let i = now.scope.iteration(&both.var, &both.extent, &mut now.after)?;
        let (front, back) = both.body.split_at(first.body.len());
        for (l, body) in [(first, front), (second, back)] {
            let mut now = now.clone();
            now.before.vars.insert(l.var.clone(), i.clone());
            self.list(&now, &l.body, body)?;
        }
        Ok(())
    }
}
