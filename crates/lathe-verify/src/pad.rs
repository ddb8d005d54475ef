//! The rule of a loop padded: where the last block is shorter, a loop runs its full length after. What the iterations that are
//! more write is looked at by nobody: rows of a parameter behind its last one, which it promises to have room for, or places
//! of a temporary that no other iteration touches. What they read is there; its values do not matter, as they decide nothing.

use crate::Refusal;
use crate::meet::{Access, accesses_of};
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Scope, Sides, exact};
use lathe_ir::Name;
use lathe_ir::tensor::{Buffer, Expr, Fact, For, Node, Stmt, find_loop, for_each};

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

/// The dimension that is the loop's variable itself.
fn own(index: &[Expr], var: &Name) -> Option<usize> {
    index.iter().position(|e| **e == Node::Var(var.clone()))
}

impl<'k> Walk<'k> {
    pub(crate) fn padded(&mut self, now: &Sides, b: &'k For, a: &'k For) -> Result<(), Refusal> {
        if self.world.volatile(&b.extent) || self.world.volatile(&a.extent) {
            return differs(format!("the extent of '{}' may change", b.var));
        }
        let mut decides = false;
        for_each(&a.body, &mut |s| match s {
            Stmt::For(l) => decides |= l.extent.mentions(&a.var),
            Stmt::If(c, _) => decides |= c.mentions(&a.var),
            _ => {}
        });
        if decides {
            return differs(format!("'{}' decides what is run", a.var));
        }
        // An iteration before is one after.
        let mut regular = now.scope.clone();
        let (less, more) = (regular.term(&b.extent, &now.before)?, regular.term(&a.extent, &now.after)?);
        self.holds(&regular, &exact(less.sub(&more))?, &format!("'{}' runs as often as before", a.var))?;
        // One that is more.
        let (mut extra, mut env) = (now.scope.clone(), Env { apart: true, ..now.after.clone() });
        let i = extra.iteration(&a.var, &a.extent, &mut env)?;
        let end = extra.term(&b.extent, &now.before)?;
        extra.at_most(&end, &i)?;
        for x in accesses_of(&a.body) {
            let view = self.world.home.contains_key(&x.buffer);
            let Some(buffer) = self.world.after.get(&x.buffer).cloned() else {
                return differs(format!("there is no buffer '{}'", x.buffer));
            };
            match view {
                true => self.behind_the_end(&extra, &env, &x, &buffer, a)?,
                false => self.in_its_place(&x, &buffer, b, a)?,
            }
        }
        self.lanes = true;
        let now = now.iteration(b, a)?;
        self.list(&now, &b.body, &a.body)
    }

    /// An iteration that is more writes a parameter behind its last row, and reads it where it has room.
    fn behind_the_end(
        &mut self,
        s: &Scope,
        env: &Env,
        x: &Access,
        buffer: &Buffer,
        a: &For,
    ) -> Result<(), Refusal> {
        let picked: Vec<usize> = (0..x.index.len()).filter(|d| x.index[*d].mentions(&a.var)).collect();
        let mut nested = false;
        for e in &x.index {
            e.visit(&mut |e| {
                nested |= matches!(&**e, Node::Load(_, i) if i.iter().any(|e| e.mentions(&a.var)))
            });
        }
        let room = buffer.facts.iter().any(|f| matches!(f, Fact::Padded(0, _)));
        let ghost = picked == [0] && room && !nested;
        if x.is_read() && (picked.is_empty() || ghost) {
            return Ok(());
        }
        if !ghost {
            return differs(format!("'{}' has no room for more iterations of '{}'", x.buffer, a.var));
        }
        let mut s = s.clone();
        let env = x.moment(&mut s, env)?;
        let (row, rows) = (s.term(&x.index[0], &env)?, s.int(&buffer.shape[0])?);
        self.holds(&s, &exact(rows.sub(&row))?, &format!("what is written more lies behind '{}'", x.buffer))
    }

    /// A temporary is used by each iteration in a place of its own, in all loops that are padded alike.
    fn in_its_place(&self, x: &Access, buffer: &Buffer, b: &For, a: &For) -> Result<(), Refusal> {
        let unfit = || differs(format!("'{}' has no place for each iteration of '{}'", x.buffer, a.var));
        if x.is_read() && !x.index.iter().any(|e| e.mentions(&a.var)) {
            return Ok(());
        }
        let Some(d) = own(&x.index, &a.var) else { return unfit() };
        let long = buffer.shape[d].as_const().zip(a.extent.as_int()).is_some_and(|(n, f)| f <= n);
        let scope = around(&self.before.body, &x.buffer);
        let mut fresh = scope.is_some();
        b.extent.visit(&mut |e| {
            if let Node::Var(v) = &**e {
                let is_dim = self.before.dims.contains(v);
                fresh &= is_dim || scope.as_ref().is_some_and(|s| s.contains(v));
            }
        });
        let alike = uses(&self.before.body, &x.buffer).iter().all(|index| {
            let Some(Node::Var(v)) = index.get(d).map(|e| &**e) else { return false };
            find_loop(&self.before.body, v).is_some_and(|l| l.extent == b.extent)
        });
        if long && fresh && alike { Ok(()) } else { unfit() }
    }
}
