//! The rule of partial accumulators: a sum over loops into one accumulator becomes a sum into one for each iteration of the
//! second loop, each begun with the neutral element, and a sum of those. Where that loop is shorter in some iterations of the first,
//! there are as many as it may have. The reducer is commutative and associative up to rounding, which the tag says; all terms stay, as no
//! term reads an accumulator. Loops may be lanes: those of the second loop do not meet, as each has its accumulators, and those of others
//! add up in any order as they did.
//!
//! The sum of the accumulators touches the total whatever the loops do. So they must have a term: then the program before touched it too,
//! it is there, and nobody else does at that time.

use crate::Refusal;
use crate::obligations::{Walk, differs};
use crate::scope::{Sides, exact};
use lathe_check::Term;
use lathe_ir::Name;
use lathe_ir::tensor::{Buffer, CHANNEL, Expr, For, Iter, LANE, Law, Node, SERIAL, Stmt, Store};
use lathe_schedule::Tag;

/// The loop of a statement.
fn loop_of(s: &Stmt) -> Option<&For> {
    match s {
        Stmt::For(l) => Some(l),
        _ => None,
    }
}

/// A loop over nothing but one block.
fn over(s: &Stmt, n: i64, iter: Iter) -> Option<(&Name, &Store)> {
    let l = loop_of(s).filter(|l| l.extent.as_int() == Some(n) && l.iter == iter && &*l.level == SERIAL)?;
    match l.body.as_slice() {
        [Stmt::Store(b)] => Some((&l.var, b)),
        _ => None,
    }
}

impl<'k> Walk<'k> {
    /// Where in a list the nest is that became accumulators, what sets them, the nest, and their sum.
    pub(crate) fn splits_sum(&self, b: &[Stmt], a: &[Stmt]) -> Option<(usize, usize)> {
        let p = (0..b.len()).find(|p| b[*p] != a[*p])?;
        let wide = a[p..].iter().take_while(|s| matches!(s, Stmt::Alloc(_))).count();
        let nest = loop_of(&b[p])?;
        let same = loop_of(a.get(p + wide + 1)?)?.var == nest.var;
        (wide > 0 && same && a.len() == b.len() + wide + 2).then_some((p, wide))
    }

    pub(crate) fn sum_split(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        (p, wide): (usize, usize),
    ) -> Result<(), Refusal> {
        self.pairs(now, &b[..p], &a[..p])?;
        self.pairs(now, &b[p + 1..], &a[p + wide + 3..])?;
        let new: Vec<&Buffer> = a[p..p + wide]
            .iter()
            .filter_map(|s| if let Stmt::Alloc(b) = s { Some(&**b) } else { None })
            .collect();
        let (Some(mut f), Some(mut g)) = (loop_of(&b[p]), loop_of(&a[p + wide + 1])) else {
            return differs("no sum is split");
        };
        // Down both nests: the second loop's iterations become independent, as each has its accumulators.
        let (mut now, mut start, mut at) = (now.clone(), now.scope.clone(), now.before.clone());
        let mut loops: Vec<&For> = vec![];
        let (before, after) = loop {
            let own = if loops.len() == 1 { Iter::Spatial } else { Iter::Reduce };
            let plain = f.var == g.var && f.level == g.level && [SERIAL, LANE].contains(&&*f.level);
            if !plain || f.iter != Iter::Reduce || g.iter != own || self.world.volatile(&f.extent) {
                return differs(format!("the loops '{}' and '{}' are no sum", f.var, g.var));
            }
            self.same(&now, &f.extent, &g.extent, &f.var)?;
            let none = exact(start.term(&f.extent, &at)?.neg().and_then(|n| n.plus(1)))?;
            self.holds(&start, &none, &format!("'{}' has a first iteration", f.var))?;
            start.fact(none);
            at.vars.insert(f.var.clone(), Term::constant(0));
            now = now.iteration(f, g)?;
            loops.push(f);
            match (f.body.as_slice(), g.body.as_slice()) {
                ([Stmt::For(x)], [Stmt::For(y)]) => (f, g) = (x, y),
                ([Stmt::Store(x)], [Stmt::Store(y)]) if loops.len() > 1 => break (x, y),
                _ => return differs(format!("'{}' is around more than one block", f.var)),
            }
        };
        let number = new.first().and_then(|w| w.shape.first()?.as_const());
        let (Some(n), Some(r)) = (number, before.reducer.filter(|r| r.law == Law::Commutative)) else {
            return differs(format!(
                "'{}' is no sum in any order of a constant number of parts",
                before.name
            ));
        };
        let part = now.before.vars[&loops[1].var].clone();
        let about = format!("'{}' has an accumulator for each iteration of '{}'", before.name, loops[1].var);
        self.inside(&now.scope, &part, &Term::constant(n.into()), &about)?;
        // No term reads an accumulator, and no loop picks one.
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        let sums: Vec<Name> = before.targets.iter().map(|(t, _)| home(t)).collect();
        let mut reads = false;
        for e in before.values.iter().chain(before.targets.iter().flat_map(|(_, i)| i)) {
            e.visit(&mut |e| reads |= matches!(&**e, Node::Load(m, _) if sums.contains(&home(m))));
        }
        let picked = |e: &Expr| loops.iter().any(|l| e.mentions(&l.var)) || self.world.volatile(e);
        if reads || before.targets.iter().any(|(_, i)| i.iter().any(picked)) {
            return differs(format!("the accumulator of '{}' depends on its loops", before.name));
        }
        let fits = |(t, w): (&(Name, Vec<Expr>), &&Buffer)| {
            let dtype = self.world.buffers.get(&t.0).map(|b| b.dtype);
            let known = Buffer::dense(&w.name, w.dtype, &[n.into()], &w.memory) == **w;
            known && dtype == Some(w.dtype) && &*w.memory != CHANNEL && self.before.buffer(&w.name).is_none()
        };
        let types: Vec<_> = new.iter().map(|w| w.dtype).collect();
        let valued = before.values.iter().zip(&types).all(|(v, t)| self.world.dtype(v) == Some(*t));
        if new.len() != before.targets.len() || !valued || !before.targets.iter().zip(&new).all(fits) {
            return differs(format!("'{}' has no accumulators like its own", before.name));
        }
        // The accumulators begin with the neutral element, get the terms, and are summed.
        let parts = |v: &str| new.iter().map(|w| (w.name.clone(), vec![Expr::var(v)])).collect::<Vec<_>>();
        let set = over(&a[p + wide], n, Iter::Spatial).is_some_and(|(v, z)| {
            z.reducer.is_none() && z.values == r.identity(&types) && z.targets == parts(v)
        });
        let terms = after.name == before.name && after.reducer == before.reducer;
        let total = over(&a[p + wide + 2], n, Iter::Reduce).is_some_and(|(v, t)| {
            let loads: Vec<Expr> = new.iter().map(|w| Expr::load(&w.name, &[Expr::var(v)])).collect();
            t.reducer == before.reducer && t.values == loads && t.targets == before.targets
        });
        if !set
            || !terms
            || !total
            || after.targets != parts(&loops[1].var)
            || after.values.len() != types.len()
        {
            return differs(format!("'{}' is not summed in parts", before.name));
        }
        self.tag = self.tag.max(Tag::Reassociates);
        before.values.iter().zip(&after.values).try_for_each(|(x, y)| self.same(&now, x, y, &before.name))
    }
}
