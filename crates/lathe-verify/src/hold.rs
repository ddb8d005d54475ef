//! The rule of an element held: what a block reads of a buffer is read into a new temporary right before the block, which uses the
//! temporary. Nothing happens in between, so it is the element that the block read, whatever picks it and whoever changes it
//! elsewhere. The value of a channel is held in the same way: a pop is the whole of its block, so the block pops nothing else, and
//! pops where the read does.

use crate::Refusal;
use crate::meet::touches;
use crate::obligations::{Walk, differs};
use crate::scope::Sides;
use lathe_ir::tensor::{Buffer, CHANNEL, Expr, Node, Stmt, Store};
use lathe_ir::{Layout, Name};

/// The block that holds an element, the block that uses it, and the element.
struct Held<'k> {
    uses: &'k Store,
    temporary: &'k Name,
    element: &'k Expr,
}

/// Whether an expression reads a temporary, whatever its conditions say.
pub(crate) fn always_reads(e: &Expr, temporary: &Name) -> bool {
    match &**e {
        Node::Load(n, index) => n == temporary || index.iter().any(|i| always_reads(i, temporary)),
        Node::Select(c, ..) => always_reads(c, temporary),
        _ => e.children().into_iter().any(|c| always_reads(c, temporary)),
    }
}

impl<'k> Walk<'k> {
    fn held(&self, a: &'k [Stmt]) -> Option<Held<'k>> {
        let [Stmt::Alloc(t), Stmt::Store(read), Stmt::Store(uses), rest @ ..] = a else { return None };
        let alone = t.shape.is_empty() && t.layout == Layout::dense(t.dtype, &[]) && &*t.memory != CHANNEL;
        let fills = read.reducer.is_none() && read.targets == [(t.name.clone(), vec![])];
        let [element] = read.values.as_slice() else { return None };
        let Node::Load(buffer, _) = &**element else { return None };
        let like = |b: &&Buffer| b.dtype == t.dtype;
        let holds = alone
            && fills
            && self.before.buffer(&t.name).is_none()
            && self.world.after.get(buffer).is_some_and(like)
            && uses.values.iter().any(|v| always_reads(v, &t.name))
            && touches(rest, &t.name) == 0;
        holds.then_some(Held { uses, temporary: &t.name, element })
    }

    /// Where in a list after an element is held.
    pub(crate) fn holds_element(&self, b: &[Stmt], a: &'k [Stmt]) -> Option<usize> {
        if a.len() != b.len() + 2 {
            return None;
        }
        let same = |p: &usize, uses: &Store| matches!(&b[*p], Stmt::Store(w) if w.name == uses.name);
        (0..b.len()).find(|p| self.held(&a[*p..]).is_some_and(|h| same(p, h.uses)))
    }

    /// The element held at `p`: the block is what it was, with the element in the place of the temporary.
    pub(crate) fn element_held(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        p: usize,
    ) -> Result<(), Refusal> {
        let (Some(held), Stmt::Store(block)) = (self.held(&a[p..]), &b[p]) else {
            return differs("no element is held");
        };
        let read = |e: &Expr| matches!(&**e, Node::Load(n, _) if n == held.temporary);
        let back = |e: &Expr| e.rewrite(&|e| read(e).then(|| held.element.clone()));
        let values = held.uses.values.iter().map(back).collect();
        self.pairs(now, &b[..p], &a[..p])?;
        self.store(now, block, &Store { values, ..held.uses.clone() })?;
        self.pairs(now, &b[p + 1..], &a[p + 3..])
    }
}
