//! The rule of a loop padded: where the last block is shorter, a loop runs its full length after. What the iterations that are
//! more write is looked at by nobody: rows of a parameter behind its last one, which it promises to have room for, or places
//! of a temporary that no other iteration touches. What they read is there; its values do not matter, as they decide nothing and
//! nothing traps on them.
//!
//! Where an index does not depend on the loop, it is that of the first iteration, which the program before runs too: so it must
//! have one. But for what is read only where a condition holds that another iteration decides otherwise: that is there always.

use crate::Refusal;
use crate::meet::{Access, every_access};
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Scope, Sides, exact};
use lathe_check::Term;
use lathe_ir::tensor::{Binary, Buffer, Expr, For, Node, Stmt, find_loop, for_each};
use lathe_ir::{Layout, Name};
use std::collections::HashSet;

/// The loops around the declaration of a temporary.
fn around(body: &[Stmt], name: &str) -> Option<Vec<Name>> {
    body.iter().find_map(|s| match s {
        Stmt::Alloc(b) if &*b.name == name => Some(vec![]),
        Stmt::For(l) => Some([vec![l.var.clone()], around(&l.body, name)?].concat()),
        Stmt::If(_, b) | Stmt::Intrinsic(_, b) => around(b, name),
        _ => None,
    })
}

/// The index of every use of a buffer.
fn uses(body: &[Stmt], name: &Name) -> Vec<Vec<Expr>> {
    let mut out = vec![];
    for_each(body, &mut |s| {
        let mut reads = |e: &Expr| {
            e.visit(&mut |e| {
                if let Node::Load(n, i) = &**e
                    && n == name
                {
                    out.push(i.clone());
                }
            });
        };
        match s {
            Stmt::For(l) => reads(&l.extent),
            Stmt::If(c, _) => reads(c),
            Stmt::Store(b) => {
                b.values.iter().chain(b.targets.iter().flat_map(|(_, i)| i)).for_each(&mut reads);
                out.extend(b.targets.iter().filter(|(n, _)| n == name).map(|(_, i)| i.clone()));
            }
            _ => {}
        }
    });
    out
}

/// The expressions of a statement itself: those that pick elements or decide what is run, and those that are values.
fn expressions(s: &Stmt) -> (Vec<&Expr>, Vec<&Expr>) {
    match s {
        Stmt::For(l) => (vec![&l.extent], vec![]),
        Stmt::If(c, _) => (vec![c], vec![]),
        Stmt::Store(b) => (b.targets.iter().flat_map(|(_, i)| i).collect(), b.values.iter().collect()),
        _ => (vec![], vec![]),
    }
}

impl<'k> Walk<'k> {
    pub(crate) fn padded(&mut self, now: &Sides, b: &'k For, a: &'k For) -> Result<(), Refusal> {
        if !self.is_plain() || self.world.volatile(&b.extent) || self.world.volatile(&a.extent) {
            return differs(format!("the extent of '{}' may change", b.var));
        }
        self.decides_nothing(a)?;
        let mut regular = now.scope.clone();
        let (less, more) = (regular.term(&b.extent, &now.before)?, regular.term(&a.extent, &now.after)?);
        self.holds(&regular, &exact(less.sub(&more))?, &format!("'{}' runs as often as before", a.var))?;
        let first = exact(less.neg().and_then(|t| t.plus(1)))?;
        self.holds(&regular, &first, &format!("'{}' had an iteration before", a.var))?;
        // One that is more.
        let (mut extra, mut env) = (now.scope.clone(), Env { apart: true, ..now.after.clone() });
        let i = extra.iteration(&a.var, &a.extent, &mut env)?;
        let end = extra.term(&b.extent, &now.before)?;
        extra.at_most(&end, &i)?;
        let chosen = self.chosen(a);
        for x in every_access(&a.body) {
            let Some(buffer) = self.world.after.get(&x.buffer).cloned() else {
                return differs(format!("there is no buffer '{}'", x.buffer));
            };
            let may_be_new = x.is_read() && chosen.contains(&Expr::load(&x.buffer, &x.index));
            let (s, at) = self.there(&extra, &env, &x, buffer, a, may_be_new)?;
            if !x.is_read() && around(&a.body, &x.buffer).is_none() {
                match self.world.home.contains_key(&x.buffer) {
                    true => self.behind_the_end(s, &at, buffer, &a.var)?,
                    false => self.in_its_place(&x, b, a)?,
                }
            }
        }
        self.pads = true;
        let now = now.iteration(b, a)?;
        self.list(&now, &b.body, &a.body)
    }

    /// Whether a value of a padded loop may differ from that of any iteration of the program before: it depends on the loop's variable,
    /// or on what the loop writes.
    fn is_new(&self, a: &For) -> impl Fn(&Expr) -> bool {
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        let mut written: HashSet<Name> = HashSet::new();
        for_each(&a.body, &mut |s| {
            if let Stmt::Store(b) = s {
                written.extend(b.targets.iter().map(|(n, _)| home(n)));
            }
        });
        move |e| {
            let mut found = e.mentions(&a.var);
            e.visit(&mut |e| found |= matches!(&**e, Node::Load(n, _) if written.contains(&home(n))));
            found
        }
    }

    /// What is read where a condition holds on what is new: the program before may read it in no iteration.
    fn chosen(&self, a: &For) -> Vec<Expr> {
        let (new, mut out) = (self.is_new(a), vec![]);
        for_each(&a.body, &mut |s| {
            let (fixed, values) = expressions(s);
            for e in fixed.into_iter().chain(values) {
                e.visit(&mut |e| {
                    let Node::Select(c, x, y) = &**e else { return };
                    for branch in [x, y].into_iter().filter(|_| new(c)) {
                        branch.visit(&mut |e| out.extend(matches!(&**e, Node::Load(..)).then(|| e.clone())));
                    }
                });
            }
        });
        out
    }

    /// Which element is touched and what is run is the same in all iterations of a loop but for its variable, and values that
    /// nobody wrote trap nowhere.
    fn decides_nothing(&self, a: &For) -> Result<(), Refusal> {
        let new = self.is_new(a);
        let picks = |e: &Expr| {
            let mut found = false;
            e.visit(&mut |e| found |= matches!(&**e, Node::Load(..)) && new(e));
            found
        };
        let (mut decides, mut traps) = (false, false);
        for_each(&a.body, &mut |s| {
            let (fixed, values) = expressions(s);
            decides |= match s {
                Stmt::For(_) | Stmt::If(..) => fixed.iter().any(|e| new(e)),
                _ => fixed.iter().any(|e| picks(e)),
            };
            for e in fixed.into_iter().chain(values) {
                e.visit(&mut |e| match &**e {
                    Node::Load(_, index) => decides |= index.iter().any(picks),
                    Node::Table(_, _, i) => traps |= new(i),
                    Node::Binary(Binary::Div | Binary::Rem, x, y) => {
                        let float = self.world.dtype(e).is_some_and(|t| t.is_float());
                        let plain = y.as_int().is_some_and(|n| n > 0);
                        traps |= !float && !plain && (new(x) || new(y));
                    }
                    _ => {}
                });
            }
        });
        if decides {
            return differs(format!("an iteration of '{}' decides what is run or touched", a.var));
        }
        if traps {
            return differs(format!("more iterations of '{}' may divide by what nobody wrote", a.var));
        }
        Ok(())
    }

    /// An element touched by an iteration that is more is there, also where the program before may touch it in none. Returns what is
    /// then known, and the index.
    fn there<'w>(
        &mut self,
        s: &Scope<'w>,
        env: &Env,
        x: &Access,
        buffer: &Buffer,
        a: &For,
        may_be_new: bool,
    ) -> Result<(Scope<'w>, Vec<Term>), Refusal> {
        let mut s = s.clone();
        let env = x.moment(&mut s, env)?;
        let view = self.world.home.contains_key(&x.buffer);
        let (mut at, mut known) = (vec![], vec![]);
        for (d, e) in x.index.iter().enumerate() {
            let (t, n) = (s.term(e, &env)?, s.int(&buffer.shape[d])?);
            // The outermost dimension of a parameter goes on to a multiple.
            let multiple = Term::constant(if d == 0 && view { buffer.padding(0) } else { 1 }.into());
            let up = exact(n.add(&multiple).and_then(|n| n.plus(-1)))?;
            let room = exact(s.divide(&up, &multiple)?.0.mul(&multiple))?;
            if may_be_new || e.mentions(&a.var) {
                let about = format!("'{}' has room for more iterations of '{}'", x.buffer, a.var);
                self.inside(&s, &t, &room, &about)?;
            } else {
                known.extend([exact(t.neg())?, exact(t.sub(&room).and_then(|t| t.plus(1)))?]);
            }
            at.push(t);
        }
        known.into_iter().for_each(|t| s.fact(t));
        Ok((s, at))
    }

    /// What is written lies behind the last row of a parameter, where no view has an element.
    fn behind_the_end(&mut self, s: Scope, at: &[Term], buffer: &Buffer, var: &Name) -> Result<(), Refusal> {
        let mut s = s;
        let (Some(row), Some(rows)) = (at.first(), buffer.shape.first()) else {
            return differs(format!("'{}' has no room for more iterations of '{var}'", buffer.name));
        };
        let rows = s.int(rows)?;
        let about = format!("what is written more lies behind '{}'", buffer.name);
        self.holds(&s, &exact(rows.sub(row))?, &about)?;
        let views: Vec<Buffer> = self.before.views().cloned().collect();
        for v in views.iter().filter(|v| self.world.home[&v.name] == self.world.home[&buffer.name]) {
            if v.name == buffer.name && v.layout == Layout::dense(v.dtype, &v.shape) {
                continue;
            }
            let mut s = s.clone();
            let mut other = vec![];
            for n in &v.shape {
                let (i, n) = (s.fresh(), s.int(n)?);
                s.fact(exact(i.neg())?);
                s.at_most(&exact(i.plus(1))?, &n)?;
                other.push(i);
            }
            self.same_bits(&mut s, (buffer, at), (v, &other))?;
            self.never(s, &about);
        }
        Ok(())
    }

    /// A temporary is used by each iteration in a place of its own, in all loops that are padded alike.
    fn in_its_place(&self, x: &Access, b: &For, a: &For) -> Result<(), Refusal> {
        let own = x.index.iter().position(|e| **e == Node::Var(a.var.clone()));
        let scope = around(&self.before.body, &x.buffer);
        let mut fresh = scope.is_some();
        b.extent.visit(&mut |e| {
            if let Node::Var(v) = &**e {
                let is_dim = self.before.dims.contains(v);
                fresh &= is_dim || scope.as_ref().is_some_and(|s| s.contains(v));
            }
        });
        let alike = uses(&self.before.body, &x.buffer).iter().all(|index| {
            let Some(Node::Var(v)) = own.and_then(|d| index.get(d)).map(|e| &**e) else { return false };
            find_loop(&self.before.body, v).is_some_and(|l| l.extent == b.extent)
        });
        match fresh && alike {
            true => Ok(()),
            false => differs(format!("'{}' has no place for each iteration of '{}'", x.buffer, a.var)),
        }
    }
}
