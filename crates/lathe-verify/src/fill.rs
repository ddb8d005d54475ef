//! The rule of a copy filled: what some statements read of a buffer is first copied to a new temporary, and read there. An element
//! of the copy is written once, by the iteration of its own number; where it is read, that iteration is there, and copied the
//! element that was read before. Nobody writes to the buffer while the copy lives, and what the copy is made of is there.

use crate::Refusal;
use crate::obligations::{Walk, differs};
use crate::online::nest;
use crate::scope::{Sides, exact};
use lathe_ir::tensor::{Buffer, CHANNEL, Expr, For, Iter, Node, SERIAL, Stmt, Store, find_block, for_each};
use lathe_ir::{Layout, Name};

/// A temporary that holds what is read of a buffer.
pub(crate) struct Fill<'k> {
    buffer: Name,
    copy: Name,
    /// The loops that fill it, one a dimension.
    loops: Vec<&'k For>,
    /// The element of the buffer that an iteration copies.
    from: &'k [Expr],
}

/// What a block that copies one element reads: the buffer and the index.
fn copied(block: &Store) -> Option<(&Name, &[Expr])> {
    match block.values.as_slice() {
        [value] if block.reducer.is_none() => match &**value {
            Node::Load(n, index) => Some((n, index)),
            _ => None,
        },
        _ => None,
    }
}

impl<'k> Walk<'k> {
    /// Where in a list after a new temporary is, with new statements that fill it.
    pub(crate) fn fills(&self, b: &[Stmt], a: &[Stmt]) -> Option<usize> {
        if a.len() != b.len() + 2 {
            return None;
        }
        let new = |s: &Stmt| matches!(s, Stmt::Alloc(t) if self.before.buffer(&t.name).is_none());
        let p = (0..=b.len()).find(|p| new(&a[*p]))?;
        let (_, block) = nest(&a[p + 1])?;
        find_block(&self.before.body, &block.name).is_none().then_some(p)
    }

    pub(crate) fn filled(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        p: usize,
    ) -> Result<(), Refusal> {
        let (Stmt::Alloc(t), Some((loops, block))) = (&a[p], nest(&a[p + 1])) else {
            return differs("no temporary is filled");
        };
        let own: Vec<Expr> = loops.iter().map(|l| Expr::var(&l.var)).collect();
        let Some((buffer, from)) = copied(block).filter(|_| block.targets == [(t.name.clone(), own)]) else {
            return differs(format!("'{}' does not fill '{}', each element once", block.name, t.name));
        };
        let like = |n: &Buffer| n.dtype == t.dtype && &*n.memory != CHANNEL;
        let dense = t.layout == Layout::dense(t.dtype, &t.shape) && &*t.memory != CHANNEL;
        let plain = |l: &&For| &*l.level == SERIAL && l.iter == Iter::Spatial;
        if !dense || !self.world.buffers.get(buffer).is_some_and(|n| like(n)) || !loops.iter().all(plain) {
            return differs(format!("'{}' is no copy of a part of '{buffer}'", t.name));
        }
        if loops.iter().map(|l| &l.extent).chain(from).any(|e| self.world.volatile(e)) {
            return differs(format!("what is copied to '{}' is picked by what is written", t.name));
        }
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        let mut changes = false;
        for rest in [&b[p..], &a[p + 2..]] {
            for_each(rest, &mut |s| {
                if let Stmt::Store(w) = s {
                    changes |= w.targets.iter().any(|(n, _)| home(n) == home(buffer) || *n == t.name);
                }
            });
        }
        if changes {
            return differs(format!("'{buffer}' changes while '{}' stands for it", t.name));
        }
        self.pairs(now, &b[..p], &a[..p])?;
        let (mut s, mut env) = (now.scope.clone(), now.after.clone());
        for (l, n) in loops.iter().zip(&t.shape) {
            self.there_to_read(&s, &env, &l.extent, &l.var)?;
            let i = s.iteration(&l.var, &l.extent, &mut env)?;
            let beyond = exact(i.sub(&s.int(n)?).and_then(|t| t.plus(1)))?;
            self.holds(&s, &beyond, &format!("'{}' has a place for all that is copied", t.name))?;
        }
        self.there_to_read(&s, &env, &block.values[0], &block.name)?;
        self.fill = Some(Fill { buffer: buffer.clone(), copy: t.name.clone(), loops, from });
        let walked = self.pairs(now, &b[p..], &a[p + 2..]);
        self.fill = None;
        walked
    }

    /// Whether a read of one buffer is now a read of the copy.
    pub(crate) fn is_filled(&self, b: &Name, a: &Name) -> bool {
        self.fill.as_ref().is_some_and(|f| f.buffer == *b && f.copy == *a)
    }

    /// The element of the copy is that which was read before.
    pub(crate) fn filled_element(
        &mut self,
        now: &Sides,
        b: &[Expr],
        a: &[Expr],
        place: &str,
    ) -> Result<(), Refusal> {
        let Some(f) = &self.fill else { return differs("nothing is filled") };
        let (copy, loops, from) = (f.copy.clone(), f.loops.clone(), f.from);
        if b.iter().chain(a).any(|e| self.world.volatile(e)) {
            return differs(format!("'{place}' picks an element by what is written"));
        }
        let (mut s, mut at) = (now.scope.clone(), now.after.clone());
        for (l, j) in loops.iter().zip(a) {
            let (j, n) = (s.term(j, &now.after)?, s.term(&l.extent, &at)?);
            self.inside(&s, &j, &n, &format!("what '{place}' reads of '{copy}' was copied"))?;
            at.vars.insert(l.var.clone(), j);
        }
        for (x, y) in from.iter().zip(b) {
            let (x, y) = (s.term(x, &at)?, s.term(y, &now.before)?);
            self.equal(&s, &x, &y, &format!("'{copy}' holds the element that '{place}' uses"))?;
        }
        Ok(())
    }
}
