//! Where the iterations of one loop find the elements of a buffer: the distance in bits from one to the next.

use lathe_ir::tensor::{Access, Buffer, Expr, For, Kernel, LANE, Node, Opaque, Stmt, loop_bounds};
use lathe_ir::{Bounds, Int, Layout};

/// An access seen along a loop: `address = base + stride * iteration`, in bits.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Bits from one iteration's element to the next one's.
    pub stride: i64,
    /// Address of iteration 0, as an index expression.
    pub base: Expr,
    /// The same, symbolic (loads inside are opaque names).
    pub symbolic: Int,
}

/// The access `buffer[index]` along the loop `var`; `None` when it is not affine with a constant stride.
pub fn lane(buffer: &Buffer, index: &[Expr], var: &str, b: &Bounds) -> Option<Lane> {
    let mut o = Opaque::default();
    let ints = index.iter().map(|i| o.int(i, b)).collect::<Option<Vec<_>>>()?;
    if o.hides(var) {
        return None;
    }
    let address = buffer.layout.address(&ints, b);
    let (stride, base) = address.affine_in(var)?;
    let stride = stride.simplify(b).as_const()?;
    Some(Lane { stride, base: o.restore(&base), symbolic: base })
}

/// Whether the lanes of an access find every second element of a buffer of pairs, which are whole: elements of 32 bits that lie in
/// order, an even number in each row. Two vectors hold all of them.
pub fn of_pairs(buffer: &Buffer, l: &Lane, b: &Bounds) -> bool {
    let whole = buffer.shape.last().and_then(Int::as_const).is_some_and(|n| n % 2 == 0);
    let in_order = whole && buffer.layout == Layout::dense(buffer.dtype, &buffer.shape);
    let known = l.symbolic.rem(64, b).as_const().is_some();
    buffer.dtype.bits() == 32 && l.stride == 64 && in_order && known
}

/// Whether two accesses are the first and the second elements of such pairs.
pub fn pairs(buffer: &Buffer, [first, second]: [&Lane; 2], b: &Bounds) -> bool {
    let beside = (second.symbolic.clone() - first.symbolic.clone()).simplify(b).as_const() == Some(32);
    let begins = first.symbolic.rem(64, b).as_const() == Some(0);
    of_pairs(buffer, first, b) && of_pairs(buffer, second, b) && beside && begins
}

/// How a loop's variable picks an element along one dimension: the index is `coefficient * var + rest` with
/// `0 <= rest < coefficient`, so different iterations never meet.
pub(crate) fn pick(index: &Expr, var: &str, b: &Bounds) -> Option<(i64, Expr)> {
    let mut o = Opaque::default();
    let i = o.int(index, b)?.joined();
    if o.hides(var) {
        return None;
    }
    let (c, rest) = i.affine_in(var)?;
    let (c, r) = (c.as_const().filter(|c| *c > 0)?, b.range(&rest));
    (r.lo >= Some(0) && r.hi.is_some_and(|h| h < c)).then(|| (c, o.restore(&rest)))
}

/// How lanes walk along the last dimension of a buffer: where they are, and how many they are, by the variables of loops
/// around them and of those that decide where.
type Walk = (Expr, Expr);

/// Whether whole vectors may be written of a temporary where a loop over lanes has fewer than a vector of `lanes`: nobody reads an
/// element behind the last one of such a loop. So it is where all that read it are lanes that begin where those begin, and end where
/// those end, for as long as the temporary is there.
pub fn ends_alike(k: &Kernel, name: &str, lanes: i64) -> bool {
    let bounds = loop_bounds(k);
    let mut all = Accesses { k, name, around: vec![], outer: None, lanes, bounds: &bounds, found: vec![] };
    all.body(&k.body);
    // One that is written only lane by lane, or by whole vectors, has no others.
    if !all.found.iter().any(|(writes, w)| *writes && w.as_ref().is_none_or(|(_, n)| all.fewer(n))) {
        return true;
    }
    let (_, first) = &all.found[0];
    first.is_some() && all.found.iter().all(|(_, w)| w == first)
}

struct Accesses<'k> {
    k: &'k Kernel,
    name: &'k str,
    around: Vec<&'k For>,
    /// How many loops are around the allocation; nothing where there was none.
    outer: Option<usize>,
    lanes: i64,
    bounds: &'k Bounds,
    /// Reads, and writes of vectors that may not be whole: whether it is one of these, and how lanes walk, where they do.
    found: Vec<(bool, Option<Walk>)>,
}

impl<'k> Accesses<'k> {
    fn fewer(&self, extent: &Expr) -> bool {
        extent.as_int().is_none_or(|n| n % self.lanes != 0)
    }

    fn body(&mut self, body: &'k [Stmt]) {
        for s in body {
            match s {
                Stmt::Alloc(b) if &*b.name == self.name => self.outer = Some(self.around.len()),
                Stmt::Alloc(_) => {}
                Stmt::For(l) => {
                    self.reads(&l.extent);
                    self.around.push(l);
                    self.body(&l.body);
                    self.around.pop();
                }
                Stmt::If(c, b) => {
                    self.reads(c);
                    self.body(b);
                }
                Stmt::Intrinsic(_, b) => self.body(b),
                Stmt::Store(b) => {
                    for (n, i) in &b.targets {
                        i.iter().for_each(|e| self.reads(e));
                        if **n != *self.name {
                            continue;
                        }
                        let lanes = self
                            .around
                            .iter()
                            .any(|l| &*l.level == LANE && i.iter().any(|e| e.mentions(&l.var)));
                        let whole = |w: &Option<Walk>| w.as_ref().is_some_and(|(_, n)| !self.fewer(n));
                        let walk = self.walk(i);
                        // What accumulates is read too.
                        if b.reducer.is_some() || lanes && !whole(&walk) {
                            self.found.push((lanes, walk));
                        }
                    }
                    b.values.iter().for_each(|v| self.reads(v));
                }
            }
        }
    }

    fn reads(&mut self, e: &Expr) {
        let mut found = vec![];
        e.visit(&mut |e| {
            if let Node::Load(n, i) = &**e
                && **n == *self.name
            {
                found.push((false, self.walk(i)));
            }
        });
        self.found.extend(found);
    }

    /// How the innermost loop over lanes walks along the last index; nothing where it does not, or other vectors may begin inside of its
    /// vectors, or others of as many elements may end elsewhere.
    fn walk(&self, index: &[Expr]) -> Option<Walk> {
        let outer = self.outer?;
        let lane = *self.around.iter().rfind(|l| &*l.level == LANE)?;
        let (last, others) = index.split_last()?;
        if others.iter().any(|e| e.mentions(&lane.var)) || !last.mentions(&lane.var) {
            return None;
        }
        // Loops around the allocation are where they are as long as it is there.
        let inner: Vec<&For> = self.around[outer..].iter().copied().filter(|l| l.var != lane.var).collect();
        let deciding: Vec<&For> = inner.iter().copied().filter(|l| last.mentions(&l.var)).collect();
        let mut still = true;
        lane.extent.visit(&mut |e| {
            still &= !matches!(&**e, Node::Load(n, _) if !self.k.params.iter().any(|p| p.access == Access::In && p.views.iter().any(|v| v.name == *n)));
        });
        let most = Opaque::default().int(&lane.extent, self.bounds).and_then(|n| self.bounds.range(&n).hi)?;
        // Whole vectors, one at least: where there never is a lane, nothing is known of where they end.
        let most = (most.max(1) + self.lanes - 1) / self.lanes * self.lanes;
        let at = Opaque::default().int(last, self.bounds)?;
        let (step, base) = at.affine_in(&lane.var)?;
        let apart = step.as_const() == Some(1) && base.rem(most, self.bounds).as_const() == Some(0);
        // Whoever begins there ends there: one loop at most decides both.
        let one = |l: &&For| {
            let by = at.affine_in(&l.var).and_then(|(c, _)| c.as_const());
            deciding.len() == 1 && deciding[0].var == l.var && by.is_some_and(|c| c != 0)
        };
        let alike = inner.iter().filter(|l| lane.extent.mentions(&l.var)).all(one);
        if deciding.len() > 1 || !(alike && still && apart) {
            return None;
        }
        let named = |e: &Expr| {
            let e = e.substitute(&lane.var, &Expr::var("lane"));
            deciding.iter().fold(e, |e, l| e.substitute(&l.var, &Expr::var("at")))
        };
        let free = Bounds::new();
        Some((named(last).simplify_index(&free), named(&lane.extent).simplify_index(&free)))
    }
}
