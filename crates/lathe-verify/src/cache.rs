//! The rule of a cache: what an iteration does to a buffer is done in a temporary that is copied out at its end.

use crate::Refusal;
use crate::meet::touches;
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Scope, Sides, exact};
use lathe_check::Term;
use lathe_ir::Name;
use lathe_ir::tensor::{Expr, For, Node, SERIAL, Stmt};

/// A temporary that stands for a part of a buffer.
pub(crate) struct Cache<'k> {
    pub(crate) buffer: Name,
    cache: Name,
    vars: Vec<(Name, i64)>,
    /// The element of the buffer that each element of the cache is copied to.
    home: &'k [Expr],
}

impl<'k> Walk<'k> {
    /// The cache's element is that which will be copied to the buffer's.
    pub(crate) fn cached_element(
        &mut self,
        now: &Sides,
        b: &[Expr],
        a: (&Name, &[Expr]),
        place: &str,
    ) -> Result<(), Refusal> {
        let Some(c) = self.cache.as_ref() else { return differs("there is no cache here") };
        let (vars, home, cache) = (c.vars.clone(), c.home, c.cache.clone());
        if *a.0 != cache || a.1.len() != vars.len() {
            return differs(format!("'{place}' does not use '{cache}'"));
        }
        if b.iter().chain(a.1).any(|e| self.world.volatile(e)) {
            return differs(format!("'{place}' picks an element by what is written"));
        }
        let (mut s, mut at) = (now.scope.clone(), now.after.clone());
        let about = format!("'{cache}' holds the element that '{place}' uses");
        for ((v, n), j) in vars.iter().zip(a.1) {
            let j = s.term(j, &now.after)?;
            self.inside(&s, &j, &Term::constant((*n).into()), &about)?;
            at.vars.insert(v.clone(), j);
        }
        for (h, i) in home.iter().zip(b) {
            let (h, i) = (s.term(h, &at)?, s.term(i, &now.before)?);
            self.equal(&s, &h, &i, &about)?;
        }
        Ok(())
    }

    pub(crate) fn cached(&mut self, now: &Sides, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
        let (Stmt::Alloc(alloc), Some(mut out)) = (&a[0], a.last()) else {
            return differs(format!("{} statements become {}", b.len(), a.len()));
        };
        let mut vars: Vec<(Name, i64)> = vec![];
        while let Stmt::For(l) = out {
            let (Some(n), [inner], SERIAL) = (l.extent.as_int(), l.body.as_slice(), &*l.level) else {
                return differs(format!("the copy's loop '{}' is not plain", l.var));
            };
            vars.push((l.var.clone(), n));
            out = inner;
        }
        let Stmt::Store(copy) = out else { return differs("the last statement is no copy") };
        let [(buffer, home)] = copy.targets.as_slice() else { return differs("a copy writes one element") };
        let index: Vec<Expr> = vars.iter().map(|(v, _)| Expr::var(v)).collect();
        let shape: Vec<i64> = alloc.shape.iter().filter_map(|n| n.as_const()).collect();
        let extents: Vec<i64> = vars.iter().map(|(_, n)| *n).collect();
        let whole = Expr::load(&alloc.name, &index);
        if copy.reducer.is_some()
            || copy.values != [whole]
            || shape != extents
            || shape.len() != alloc.shape.len()
        {
            return differs(format!("'{}' does not copy all of '{}'", copy.name, alloc.name));
        }
        let inner = &a[1..a.len() - 1];
        let known = self.world.buffers.get(buffer);
        if known.is_none_or(|k| k.dtype != alloc.dtype)
            || touches(b, &alloc.name) > 0
            || touches(inner, buffer) > 0
        {
            return differs(format!("'{}' does not stand for '{buffer}'", alloc.name));
        }
        if home.iter().any(|e| self.world.volatile(e)) {
            return differs("the copy picks an element by what is written");
        }
        let other = |(n, p): (&Name, &Name)| {
            n != buffer && Some(p) == self.world.home.get(buffer) && touches(b, n) > 0
        };
        if self.world.home.iter().any(other) {
            return differs(format!("another view of '{buffer}' is used"));
        }
        if self.before.buffer(&alloc.name).is_some() {
            return differs(format!("'{}' is not new", alloc.name));
        }
        // The copy leads no two elements to one place.
        let mut sd = now.scope.clone();
        let mut at = vec![];
        for _ in 0..2 {
            let mut env = now.after.clone();
            let u: Vec<Term> = vars
                .iter()
                .map(|(v, n)| sd.iteration(v, &Expr::from(*n), &mut env))
                .collect::<Result<_, _>>()?;
            at.push((u, home.iter().map(|h| sd.term(h, &env)).collect::<Result<Vec<_>, _>>()?));
        }
        sd.precedes(&at[0].0, &at[1].0)?;
        self.overlap(&mut sd, (buffer, &at[0].1), (buffer, &at[1].1))?;
        self.never(sd, &format!("'{}' has one element for each of '{buffer}'", alloc.name));
        self.written_first(&now.scope, &now.after, inner, &alloc.name, &vars)?;
        self.cache = Some(Cache { buffer: buffer.clone(), cache: alloc.name.clone(), vars, home });
        b.iter().zip(inner).try_for_each(|(b, a)| self.statement(now, b, a))?;
        self.cache = None;
        Ok(())
    }

    /// The first statement that touches the cache overwrites all of it, whatever the data, and does nothing else with it.
    pub(crate) fn written_first(
        &mut self,
        s: &Scope,
        ea: &Env,
        body: &'k [Stmt],
        cache: &Name,
        vars: &[(Name, i64)],
    ) -> Result<(), Refusal> {
        let user = |body: &'k [Stmt]| body.iter().find(|s| touches(std::slice::from_ref(s), cache) > 0);
        let mut first = user(body);
        let mut nest: Vec<&For> = vec![];
        let once = first.is_some_and(|s| touches(std::slice::from_ref(s), cache) == 1);
        while let Some(Stmt::For(l)) = first {
            nest.push(l);
            first = user(&l.body);
        }
        let Some(Stmt::Store(block)) = first.filter(|_| once) else {
            return differs(format!("'{cache}' is not written first"));
        };
        let index = block.targets.iter().find(|(n, _)| n == cache).map(|(_, i)| i);
        let Some(index) = index.filter(|_| block.reducer.is_none()) else {
            return differs(format!("'{}' does not overwrite '{cache}'", block.name));
        };
        let place = |l: &For| index.iter().position(|i| **i == Node::Var(l.var.clone()));
        let mut places: Vec<usize> = nest.iter().filter_map(|l| place(l)).collect();
        places.sort_unstable();
        places.dedup();
        if places.len() != nest.len() || places.len() != index.len() {
            return differs(format!("'{}' does not go over '{cache}'", block.name));
        }
        // Element u is written by the iteration of the same numbers.
        let (mut s, mut env) = (s.clone(), ea.clone());
        let u = vars
            .iter()
            .map(|(v, n)| s.iteration(v, &Expr::from(*n), &mut env))
            .collect::<Result<Vec<_>, _>>()?;
        for l in &nest {
            env.vars.insert(l.var.clone(), u[place(l).expect("each has one")].clone());
        }
        for l in nest {
            if self.world.volatile(&l.extent) {
                return differs(format!("the extent of '{}' may change", l.var));
            }
            let n = s.term(&l.extent, &env)?;
            let i = &env.vars[&l.var];
            self.holds(
                &s,
                &exact(i.sub(&n).and_then(|t| t.plus(1)))?,
                &format!("all of '{cache}' is written"),
            )?;
        }
        Ok(())
    }
}
