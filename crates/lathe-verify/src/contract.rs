//! The rule of a temporary contracted: it moves inside a loop, and keeps only what an iteration touches. Within an iteration,
//! two accesses are to the same element after exactly where they were before; and no value goes from one iteration to another,
//! because they touch different elements, or because each first writes all that it touches.

use crate::Refusal;
use crate::meet::{Access, accesses_to, touches};
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Scope, Sides};
use lathe_check::Term;
use lathe_ir::tensor::{Buffer, CHANNEL, Expr, For, Stmt};
use lathe_ir::{Layout, Name};

/// A temporary on its way in: what it was, and the loops that were passed.
struct Inwards<'k> {
    before: &'k Buffer,
    loops: Vec<&'k For>,
}

fn alloc(s: &Stmt) -> Option<&Buffer> {
    match s {
        Stmt::Alloc(b) => Some(b),
        _ => None,
    }
}

fn is_dense(b: &Buffer) -> bool {
    b.layout == Layout::dense(b.dtype, &b.shape)
}

impl<'k> Walk<'k> {
    /// Where in a list the temporary is that is in the other list no more.
    pub(crate) fn contracts(&self, b: &[Stmt], a: &[Stmt]) -> Option<usize> {
        let gone = |t: &Buffer| !a.iter().filter_map(alloc).any(|u| u.name == t.name);
        b.iter().position(|s| alloc(s).is_some_and(gone))
    }

    pub(crate) fn contracted(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        p: usize,
    ) -> Result<(), Refusal> {
        let Some(before) = b.get(p).and_then(alloc).filter(|t| is_dense(t) && &*t.memory != CHANNEL) else {
            return differs("a temporary that is not dense is contracted");
        };
        let Some(first) = a.get(..p) else { return differs("statements are missing") };
        self.pairs(now, &b[..p], first)?;
        if touches(&b[..p], &before.name) > 0 {
            return differs(format!("'{}' is used before it is there", before.name));
        }
        let mut inwards = Inwards { before, loops: vec![] };
        self.inwards(now, (&now.scope, &now.before), &mut inwards, &b[p + 1..], &a[p..])
    }

    /// Goes on to the one loop that touches the temporary; `home` is what is known where it stood.
    fn inwards(
        &mut self,
        now: &Sides,
        home: (&Scope, &Env),
        t: &mut Inwards<'k>,
        b: &'k [Stmt],
        a: &'k [Stmt],
    ) -> Result<(), Refusal> {
        let name = &t.before.name;
        let users: Vec<usize> =
            (0..b.len()).filter(|i| touches(std::slice::from_ref(&b[*i]), name) > 0).collect();
        let ([p], true) = (users.as_slice(), a.len() == b.len()) else {
            return differs(format!("'{name}' is used in several places"));
        };
        self.pairs(now, &b[..*p], &a[..*p])?;
        self.pairs(now, &b[p + 1..], &a[p + 1..])?;
        let (Stmt::For(f), Stmt::For(g)) = (&b[*p], &a[*p]) else {
            return differs(format!("'{name}' is in no loop"));
        };
        if (&f.var, f.iter, &f.level) != (&g.var, g.iter, &g.level) || self.world.volatile(&f.extent) {
            return differs(format!("the loop '{}' differs", f.var));
        }
        self.same(now, &f.extent, &g.extent, &f.var)?;
        t.loops.push(f);
        let now = now.iteration(f, g)?;
        let Some(after) = g.body.first().and_then(alloc).filter(|u| u.name == *name) else {
            return self.inwards(&now, home, t, &f.body, &g.body);
        };
        let known = is_dense(after) && after.dtype == t.before.dtype && &*after.memory != CHANNEL;
        let extents: Option<Vec<i64>> = after.shape.iter().map(|n| n.as_const()).collect();
        let Some(extents) = extents.filter(|_| known) else {
            return differs(format!("'{name}' becomes something else"));
        };
        let body = &g.body[1..];
        self.contracting = Some(name.clone());
        let walked = self.pairs(&now, &f.body, body);
        self.contracting = None;
        walked?;
        self.same_elements(&now.scope, &now.after, name, &extents, &f.body, body)?;
        let vars: Vec<(Name, i64)> =
            extents.iter().enumerate().map(|(d, n)| (format!("{name}.{d}").into(), *n)).collect();
        // Where each loop picks elements, iterations touch different ones; else each writes first.
        let picked =
            |l: &&For| accesses_to(&f.body, name).iter().all(|a| a.index.iter().any(|e| e.mentions(&l.var)));
        if !t.loops.iter().all(picked) {
            return self.written_first(&now.scope, &now.after, body, name, &vars);
        }
        self.others_elements(home, name, &t.loops, &f.body)
    }

    /// Within an iteration, two accesses are to the same element after exactly where they were before.
    fn same_elements(
        &mut self,
        s: &Scope,
        env: &Env,
        name: &Name,
        extents: &[i64],
        before: &'k [Stmt],
        after: &'k [Stmt],
    ) -> Result<(), Refusal> {
        let (old, new) = (accesses_to(before, name), accesses_to(after, name));
        if old.len() != new.len()
            || old.iter().chain(&new).any(|a| a.index.iter().any(|e| self.world.volatile(e)))
        {
            return differs(format!("'{name}' is indexed by what is written"));
        }
        // An access and its index, before and after, at some moment of the iteration.
        let place = |s: &mut Scope, i: usize| -> Result<(Vec<Term>, Vec<Term>), Refusal> {
            let env = new[i].moment(s, env)?;
            let terms = |s: &mut Scope, a: &Access| {
                a.index.iter().map(|e| s.term(e, &env)).collect::<Result<Vec<_>, _>>()
            };
            Ok((terms(s, &old[i])?, terms(s, &new[i])?))
        };
        // Many accesses are the same one again.
        let same = |i: usize, j: usize| old[i].same_access(&old[j]) && new[i].same_access(&new[j]);
        let first: Vec<usize> = (0..old.len()).filter(|j| !(0..*j).any(|i| same(i, *j))).collect();
        for (n, &i) in first.iter().enumerate() {
            let mut here = s.clone();
            let x = place(&mut here, i)?;
            for (t, n) in x.1.iter().zip(extents) {
                let about = format!("'{name}' has a place for all");
                self.inside(&here, t, &Term::constant((*n).into()), &about)?;
            }
            for &j in &first[..=n] {
                if old[i].is_read() && old[j].is_read() {
                    continue;
                }
                // What is given needs no proof, and nothing is where different numbers are said to be the same.
                let ways = [(&old[i].index, &old[j].index, &new[i].index, &new[j].index)];
                let ways = ways.into_iter().flat_map(|(a, b, c, d)| [(a, b, c, d), (c, d, a, b)]);
                let open: Vec<Vec<usize>> = ways
                    .map(|(a, b, c, d)| {
                        let given = || a.iter().zip(b);
                        let differ =
                            |(x, y): (&Expr, &Expr)| x.as_int().zip(y.as_int()).is_some_and(|(x, y)| x != y);
                        let wanted = |n: &usize| !given().any(|g| g == (&c[*n], &d[*n]));
                        if given().any(differ) { vec![] } else { (0..c.len()).filter(wanted).collect() }
                    })
                    .collect();
                if open.iter().all(Vec::is_empty) {
                    continue;
                }
                let mut pair = here.clone();
                let y = place(&mut pair, j)?;
                let about = format!("elements of '{name}' stay the same or different");
                for ((given, wanted), open) in
                    [((&x.0, &y.0), (&x.1, &y.1)), ((&x.1, &y.1), (&x.0, &y.0))].into_iter().zip(open)
                {
                    if open.is_empty() {
                        continue;
                    }
                    let mut s = pair.clone();
                    given.0.iter().zip(given.1).try_for_each(|(a, b)| s.equal(a, b))?;
                    for n in open {
                        self.equal(&s, &wanted.0[n], &wanted.1[n], &about)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Two iterations of the loops touch different elements.
    fn others_elements(
        &mut self,
        (s, env): (&Scope, &Env),
        name: &Name,
        loops: &[&'k For],
        body: &'k [Stmt],
    ) -> Result<(), Refusal> {
        let all = accesses_to(body, name);
        let mut s = s.clone();
        let moment = |s: &mut Scope| -> Result<(Env, Vec<Term>), Refusal> {
            let mut env = Env { apart: true, ..env.clone() };
            let at =
                loops.iter().map(|l| s.iteration(&l.var, &l.extent, &mut env)).collect::<Result<_, _>>()?;
            Ok((env, at))
        };
        let (first, second) = (moment(&mut s)?, moment(&mut s)?);
        s.precedes(&first.1, &second.1)?;
        all.iter().try_for_each(|x| {
            let others: Vec<&Access> = all.iter().filter(|y| !(x.is_read() && y.is_read())).collect();
            self.distinct(&s, (x, &first.0), (&others, &second.0))
        })
    }
}
