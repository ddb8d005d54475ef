//! What must hold for two programs to mean the same, computed from the two programs alone. This is trusted: it is one walk
//! over both programs side by side, with one rule for each way in which they may differ.
//!
//! - **Nothing differs**: equal statements over equal iterations; an index that is written otherwise is an equation to
//!   prove.
//! - **Loops renamed** ([`Walk::band`]): nested loops before and after run the same body once for each other's iterations,
//!   by an index map and its inverse (a witness); and either in the same order, or those pairs that are exchanged do not
//!   meet.
//! - **Lanes** ([`Walk::lanes`]): a loop goes to the lanes of a vector; no two iterations meet.
//! - **An instruction** ([`Walk::instruction`]): a nest is wrapped; it is what the instruction's row says, operand for
//!   operand, with the operands' elements as far apart as the row says.
//! - **A cache** ([`Walk::cached`]): what an iteration does to a buffer is done in a temporary: an image of the buffer
//!   without repetition, all of it written first, copied out at the end.
//!
//! Two accesses meet when one writes what the other touches; accumulations of one block by a commutative reducer may change
//! order, and then the tag says so. It is assumed that the program before runs: that its indices are inside its buffers
//! (the outermost one up to its padding), that it reads nothing it has not written, and that dimensions are positive.

use crate::scope::{Env, Scope, World, exact};
use crate::{Order, Refusal};
use lathe_check::{Obligation, Term};
use lathe_ir::tensor::{Buffer, Expr, Fact, For, Iter, Kernel, LANE, Law, Node, SERIAL, Stmt, Store, parse};
use lathe_ir::{DType, Layout, Name};
use lathe_schedule::{INTRINSICS, Tag, Witness};
use std::collections::HashSet;

/// An obligation with what it is about, and hints for the search.
pub(crate) struct Named {
    pub about: String,
    pub obligation: Obligation,
    pub cuts: Vec<Term>,
}

/// All that must hold, and what it then means.
pub(crate) struct Claim {
    pub obligations: Vec<Named>,
    pub tag: Tag,
    /// What callers must promise in addition.
    pub assumes: Vec<String>,
}

/// The obligations for two programs; the witness and what is claimed of the order are hints.
pub(crate) fn obligations(
    before: &Kernel,
    after: &Kernel,
    witness: Option<&Witness>,
    order: Order,
) -> Result<Claim, Refusal> {
    for k in [before, after] {
        lathe_ir::tensor::check(k).map_err(|e| Refusal::Differs(e.to_string()))?;
    }
    let assumes = header(before, after)?;
    let world = World::new(before, after);
    let mut w = Walk {
        world: &world,
        witness,
        order,
        cache: None,
        lanes: false,
        tag: Tag::Bitwise,
        out: vec![],
        seen: HashSet::new(),
    };
    let (scope, env) = (Scope::new(&world), Env::default());
    w.list(&scope, &env, &env, &before.body, &after.body)?;
    if !assumes.is_empty() && !w.lanes {
        return differs("a promise on storage that no vector needs");
    }
    Ok(Claim { obligations: w.out, tag: w.tag, assumes })
}

fn differs<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Differs(message.into()))
}

/// Compares all but the bodies; returns the promises on padding that are new.
fn header(before: &Kernel, after: &Kernel) -> Result<Vec<String>, Refusal> {
    if before.name != after.name || before.dims != after.dims || before.axes != after.axes {
        return differs("the kernels' names, dimensions or axes differ");
    }
    if before.params.len() != after.params.len() {
        return differs("the kernels' parameters differ in number");
    }
    let mut new = vec![];
    for (b, a) in before.params.iter().zip(&after.params) {
        if (&b.name, b.access, &b.bits, b.views.len()) != (&a.name, a.access, &a.bits, a.views.len()) {
            return differs(format!("the parameters '{}' and '{}' differ", b.name, a.name));
        }
        for (b, a) in b.views.iter().zip(&a.views) {
            let same = Buffer { facts: a.facts.clone(), ..b.clone() } == *a;
            let more = a.facts.strip_prefix(b.facts.as_slice());
            let Some(more) = more.filter(|_| same) else {
                return differs(format!("the buffers '{}' and '{}' differ", b.name, a.name));
            };
            for f in more {
                match f {
                    Fact::Padded(d, m) => new.push(format!("dimension {d} of '{}' is padded to {m}", a.name)),
                    _ => return differs(format!("'{}' promises something new", a.name)),
                }
            }
        }
    }
    Ok(new)
}

/// A temporary that stands for a part of a buffer.
struct Cache<'k> {
    buffer: Name,
    cache: Name,
    vars: Vec<(Name, i64)>,
    /// The element of the buffer that each element of the cache is copied to.
    home: &'k [Expr],
}

/// What is around an access inside a loop's body.
#[derive(Clone)]
enum Around<'k> {
    Loop(&'k For),
    If(&'k Expr),
}

/// An access to a buffer inside a loop's body.
struct Access<'k> {
    buffer: Name,
    index: Vec<Expr>,
    /// The block, when it writes.
    writes: Option<&'k Store>,
    around: Vec<Around<'k>>,
}

/// All accesses to buffers that live longer than the statements.
fn accesses<'k>(body: &'k [Stmt], around: &mut Vec<Around<'k>>, out: &mut Vec<Access<'k>>) {
    let reads = |e: &Expr, around: &[Around<'k>], out: &mut Vec<Access<'k>>| {
        e.visit(&mut |e| {
            if let Node::Load(n, i) = &**e {
                out.push(Access {
                    buffer: n.clone(),
                    index: i.clone(),
                    writes: None,
                    around: around.to_vec(),
                });
            }
        });
    };
    let first = out.len();
    for s in body {
        match s {
            Stmt::Alloc(_) => {}
            Stmt::For(l) => {
                reads(&l.extent, around, out);
                around.push(Around::Loop(l));
                accesses(&l.body, around, out);
                around.pop();
            }
            Stmt::If(c, b) => {
                reads(c, around, out);
                around.push(Around::If(c));
                accesses(b, around, out);
                around.pop();
            }
            Stmt::Intrinsic(_, b) => accesses(b, around, out),
            Stmt::Store(s) => {
                s.values.iter().for_each(|v| reads(v, around, out));
                for (n, i) in &s.targets {
                    i.iter().for_each(|i| reads(i, around, out));
                    let (buffer, index) = (n.clone(), i.clone());
                    out.push(Access { buffer, index, writes: Some(s), around: around.clone() });
                }
            }
        }
    }
    for s in body {
        if let Stmt::Alloc(b) = s {
            let mut at = 0;
            out.retain(|a| {
                at += 1;
                at <= first || a.buffer != b.name
            });
        }
    }
}

fn touches(body: &[Stmt], name: &str) -> usize {
    let mut all = vec![];
    accesses(body, &mut vec![], &mut all);
    all.iter().filter(|a| &*a.buffer == name).count()
}

struct Walk<'k> {
    world: &'k World,
    witness: Option<&'k Witness>,
    order: Order,
    cache: Option<Cache<'k>>,
    lanes: bool,
    tag: Tag,
    out: Vec<Named>,
    seen: HashSet<Obligation>,
}

impl<'k> Walk<'k> {
    fn push(&mut self, about: &str, obligation: Obligation, cuts: Vec<Term>) {
        if self.seen.insert(obligation.clone()) {
            self.out.push(Named { about: about.to_string(), obligation, cuts });
        }
    }

    /// What the scope says is impossible.
    fn never(&mut self, s: Scope, about: &str) {
        for side in &s.sides {
            self.push("a divisor is positive", side.clone(), vec![]);
        }
        let cuts = s.cuts();
        self.push(about, Obligation { facts: s.facts, choices: s.choices }, cuts);
    }

    /// `t <= 0` follows.
    fn holds(&mut self, s: &Scope, t: &Term, about: &str) -> Result<(), Refusal> {
        let mut s = s.clone();
        s.fact(exact(t.neg().and_then(|t| t.plus(1)))?);
        self.never(s, about);
        Ok(())
    }

    /// `a = b` follows.
    fn equal(&mut self, s: &Scope, a: &Term, b: &Term, about: &str) -> Result<(), Refusal> {
        if a != b {
            let mut s = s.clone();
            let d = exact(a.sub(b))?;
            s.choices.push(vec![vec![exact(d.plus(1))?], vec![exact(d.neg().and_then(|d| d.plus(1)))?]]);
            self.never(s, about);
        }
        Ok(())
    }

    /// `0 <= t < n` follows.
    fn inside(&mut self, s: &Scope, t: &Term, n: &Term, about: &str) -> Result<(), Refusal> {
        self.holds(s, &exact(t.neg())?, about)?;
        self.holds(s, &exact(t.sub(n).and_then(|t| t.plus(1)))?, about)
    }

    fn list(&mut self, s: &Scope, eb: &Env, ea: &Env, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
        if self.cache.is_none() && b == a && eb == ea {
            return Ok(());
        }
        if self.cache.is_none() && a.len() == b.len() + 2 {
            return self.cached(s, eb, ea, b, a);
        }
        if a.len() != b.len() {
            return differs(format!("{} statements become {}", b.len(), a.len()));
        }
        b.iter().zip(a).try_for_each(|(b, a)| self.statement(s, eb, ea, b, a))
    }

    fn statement(&mut self, s: &Scope, eb: &Env, ea: &Env, b: &'k Stmt, a: &'k Stmt) -> Result<(), Refusal> {
        match (b, a) {
            (Stmt::Alloc(b), Stmt::Alloc(a)) if a == b => Ok(()),
            (Stmt::Store(b), Stmt::Store(a)) => self.store(s, eb, ea, b, a),
            (Stmt::If(c, b), Stmt::If(d, a)) => {
                self.same(s, eb, ea, c, d, "if")?;
                self.list(s, eb, ea, b, a)
            }
            (Stmt::Intrinsic(n, b), Stmt::Intrinsic(m, a)) if n == m => self.list(s, eb, ea, b, a),
            (b, Stmt::Intrinsic(n, inner)) => {
                let [inner] = inner.as_slice() else { return differs("an instruction is one statement") };
                self.instruction(s, ea, n, inner)?;
                self.statement(s, eb, ea, b, inner)
            }
            (Stmt::For(b), Stmt::For(a)) => self.loops(s, eb, ea, b, a),
            _ => differs("a statement became one of another kind"),
        }
    }

    fn store(&mut self, s: &Scope, eb: &Env, ea: &Env, b: &Store, a: &Store) -> Result<(), Refusal> {
        let alike = b.name == a.name && b.reducer == a.reducer;
        if !alike || b.targets.len() != a.targets.len() || b.values.len() != a.values.len() {
            return differs(format!("the blocks '{}' and '{}' differ", b.name, a.name));
        }
        for ((n, i), (m, j)) in b.targets.iter().zip(&a.targets) {
            self.element(s, eb, ea, (n, i), (m, j), &b.name)?;
        }
        b.values.iter().zip(&a.values).try_for_each(|(x, y)| self.same(s, eb, ea, x, y, &b.name))
    }

    /// Both elements hold the same.
    fn element(
        &mut self,
        s: &Scope,
        eb: &Env,
        ea: &Env,
        b: (&Name, &[Expr]),
        a: (&Name, &[Expr]),
        place: &str,
    ) -> Result<(), Refusal> {
        let Some(c) = self.cache.as_ref().filter(|c| *b.0 == c.buffer) else {
            if b.0 != a.0 || b.1.len() != a.1.len() {
                return differs(format!("'{place}' uses '{}' in place of '{}'", a.0, b.0));
            }
            return b.1.iter().zip(a.1).try_for_each(|(x, y)| self.same(s, eb, ea, x, y, place));
        };
        // The cache's element is that which will be copied to the buffer's.
        let (vars, home, cache) = (c.vars.clone(), c.home, c.cache.clone());
        if *a.0 != cache || a.1.len() != vars.len() {
            return differs(format!("'{place}' does not use '{cache}'"));
        }
        if b.1.iter().chain(a.1).any(|e| self.world.volatile(e)) {
            return differs(format!("'{place}' picks an element by what is written"));
        }
        let (mut s, mut at) = (s.clone(), ea.clone());
        let about = format!("'{cache}' holds the element that '{place}' uses");
        for ((v, n), j) in vars.iter().zip(a.1) {
            let j = s.term(j, ea)?;
            self.inside(&s, &j, &Term::constant((*n).into()), &about)?;
            at.vars.insert(v.clone(), j);
        }
        for (h, i) in home.iter().zip(b.1) {
            let (h, i) = (s.term(h, &at)?, s.term(i, eb)?);
            self.equal(&s, &h, &i, &about)?;
        }
        Ok(())
    }

    /// Both expressions have the same value.
    fn same(
        &mut self,
        s: &Scope,
        eb: &Env,
        ea: &Env,
        b: &Expr,
        a: &Expr,
        place: &str,
    ) -> Result<(), Refusal> {
        let (tb, ta) = (self.world.dtype(b), self.world.dtype(a));
        let index = |e: &Expr| !matches!(&**e, Node::Load(..) | Node::Cast(..) | Node::Select(..));
        if tb == Some(DType::INDEX) && ta == tb && index(b) && index(a) && self.cache.is_none() {
            let mut s = s.clone();
            let (x, y) = (s.term(b, eb)?, s.term(a, ea)?);
            return self.equal(&s, &x, &y, &format!("an index of '{place}' is the same"));
        }
        let alike = match (&**b, &**a) {
            (Node::Load(n, i), Node::Load(m, j)) => return self.element(s, eb, ea, (n, i), (m, j), place),
            (Node::Var(_), Node::Var(_)) => {
                let mut s = s.clone();
                let (x, y) = (s.term(b, eb)?, s.term(a, ea)?);
                return self.equal(&s, &x, &y, &format!("an index of '{place}' is the same"));
            }
            (Node::Int(..) | Node::Float(..), _) => b == a,
            (Node::Unary(f, _), Node::Unary(g, _)) => f == g,
            (Node::Binary(f, ..), Node::Binary(g, ..)) => f == g,
            (Node::Select(..), Node::Select(..)) => true,
            (Node::Cast(t, _), Node::Cast(u, _)) | (Node::Bitcast(t, _), Node::Bitcast(u, _)) => t == u,
            _ => false,
        };
        if !alike {
            return differs(format!("'{place}' computes {a} in place of {b}"));
        }
        b.children().into_iter().zip(a.children()).try_for_each(|(x, y)| self.same(s, eb, ea, x, y, place))
    }

    fn loops(&mut self, s: &Scope, eb: &Env, ea: &Env, b: &'k For, a: &'k For) -> Result<(), Refusal> {
        if let Some(w) = self.witness
            && w.before.first() == Some(&b.var)
            && w.after.first() == Some(&a.var)
            && b != a
        {
            return self.band(s, eb, ea, b, a, w);
        }
        if b.var != a.var || b.iter != a.iter {
            return differs(format!("the loops '{}' and '{}' differ", b.var, a.var));
        }
        self.same(s, eb, ea, &b.extent, &a.extent, &b.var)?;
        if (&*b.level, &*a.level) == (SERIAL, LANE) {
            self.lanes(s, ea, a)?;
        } else if b.level != a.level {
            return differs(format!("the loop '{}' goes from {} to {}", b.var, b.level, a.level));
        }
        let (mut s, mut eb, mut ea) = (s.clone(), eb.clone(), ea.clone());
        let i = s.iteration(&a.var, &a.extent, &mut ea)?;
        eb.vars.insert(b.var.clone(), i);
        self.list(&s, &eb, &ea, &b.body, &a.body)
    }

    /// The loops of the witness, each the whole body of the one before it.
    fn nest(&self, first: &'k For, names: &[Name]) -> Result<Vec<&'k For>, Refusal> {
        let mut out = vec![first];
        while out.len() < names.len() {
            match out[out.len() - 1].body.as_slice() {
                [Stmt::For(l)] => out.push(l),
                _ => return differs(format!("'{}' is not around one loop", out[out.len() - 1].var)),
            }
        }
        if out.iter().zip(names).any(|(l, n)| l.var != *n) {
            return differs("the witness is about other loops");
        }
        if let Some(l) = out.iter().find(|l| self.world.volatile(&l.extent)) {
            return differs(format!("the extent of '{}' may change", l.var));
        }
        Ok(out)
    }

    /// The iterations of one nest, mapped to another's by `map`: inside it. Returns where they land.
    fn land(
        &mut self,
        s: &mut Scope,
        from: &Env,
        mut to: Env,
        nest: &[&For],
        map: &[Expr],
        about: &str,
    ) -> Result<(Vec<Term>, Env), Refusal> {
        let mut places = vec![];
        for (l, e) in nest.iter().zip(map) {
            if self.world.volatile(e) {
                return differs("the witness depends on what is written");
            }
            let (t, n) = (s.term(e, from)?, s.term(&l.extent, &to)?);
            self.inside(s, &t, &n, about)?;
            to.vars.insert(l.var.clone(), t.clone());
            places.push(t);
        }
        Ok((places, to))
    }

    fn band(
        &mut self,
        s: &Scope,
        eb: &Env,
        ea: &Env,
        b: &'k For,
        a: &'k For,
        w: &'k Witness,
    ) -> Result<(), Refusal> {
        if w.to_before.len() != w.before.len() || w.to_after.len() != w.after.len() {
            return differs("the witness does not fit its loops");
        }
        let (b, a) = (self.nest(b, &w.before)?, self.nest(a, &w.after)?);
        let kind = |l: &For| (l.iter, l.level.clone());
        for l in &a {
            let own = b.iter().find(|o| o.var == l.var).map_or(kind(b[0]), |o| kind(o));
            let uniform = b.iter().all(|o| kind(o) == kind(b[0])) || b.iter().any(|o| o.var == l.var);
            if !uniform || kind(l) != own {
                return differs(format!("the loop '{}' is of another kind", l.var));
            }
        }
        // Every iteration after is one before, and back.
        let (mut sa, mut env_a) = (s.clone(), ea.clone());
        let here =
            a.iter().map(|l| sa.iteration(&l.var, &l.extent, &mut env_a)).collect::<Result<Vec<_>, _>>()?;
        let about = "an iteration after is one before";
        let (_, env_b) = self.land(&mut sa, &env_a, eb.clone(), &b, &w.to_before, about)?;
        for (e, t) in w.to_after.iter().zip(&here) {
            let back = sa.term(e, &env_b)?;
            self.equal(&sa, &back, t, "the way back leads to the same iteration after")?;
        }
        let (mut sb, mut there) = (s.clone(), eb.clone());
        let from =
            b.iter().map(|l| sb.iteration(&l.var, &l.extent, &mut there)).collect::<Result<Vec<_>, _>>()?;
        let about = "an iteration before is one after";
        let (_, again) = self.land(&mut sb, &there, ea.clone(), &a, &w.to_after, about)?;
        for (e, t) in w.to_before.iter().zip(&from) {
            let back = sb.term(e, &again)?;
            self.equal(&sb, &back, t, "the way back leads to the same iteration before")?;
        }
        // Two iterations after whose order before was the other one.
        let mut so = s.clone();
        let pair = |so: &mut Scope| -> Result<(Env, Vec<Term>, Vec<Term>), Refusal> {
            let mut env = Env { apart: true, ..ea.clone() };
            let at =
                a.iter().map(|l| so.iteration(&l.var, &l.extent, &mut env)).collect::<Result<Vec<_>, _>>()?;
            let old = w.to_before.iter().map(|e| so.term(e, &env)).collect::<Result<Vec<_>, _>>()?;
            Ok((env, at, old))
        };
        let (first, second) = (pair(&mut so)?, pair(&mut so)?);
        so.precedes(&first.1, &second.1)?;
        so.precedes(&second.2, &first.2)?;
        let body = &a[a.len() - 1].body;
        match self.order {
            Order::Kept => self.never(so, "the order is kept"),
            order => self.apart(&so, &first.0, &second.0, body, order == Order::Accumulated)?,
        }
        self.list(&sa, &env_b, &env_a, &b[b.len() - 1].body, body)
    }

    fn lanes(&mut self, s: &Scope, ea: &Env, l: &'k For) -> Result<(), Refusal> {
        if !matches!(l.iter, Iter::Spatial | Iter::Reduce) {
            return differs(format!("iterations of '{}' follow each other", l.var));
        }
        self.lanes = true;
        let mut s = s.clone();
        let (mut first, mut second) = (Env { apart: true, ..ea.clone() }, Env { apart: true, ..ea.clone() });
        let i = s.iteration(&l.var, &l.extent, &mut first)?;
        let j = s.iteration(&l.var, &l.extent, &mut second)?;
        s.at_most(&exact(i.plus(1))?, &j)?;
        self.apart(&s, &first, &second, &l.body, l.iter == Iter::Reduce && self.order == Order::Accumulated)
    }

    /// Two iterations of a body do not meet; accumulations may, where allowed.
    fn apart(
        &mut self,
        s: &Scope,
        first: &Env,
        second: &Env,
        body: &'k [Stmt],
        accumulate: bool,
    ) -> Result<(), Refusal> {
        let mut all = vec![];
        accesses(body, &mut vec![], &mut all);
        for x in &all {
            for y in &all {
                let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
                if (x.writes.is_none() && y.writes.is_none()) || home(&x.buffer) != home(&y.buffer) {
                    continue;
                }
                if let (Some(b), Some(c)) = (x.writes, y.writes)
                    && accumulate
                    && b.name == c.name
                    && b.reducer.is_some_and(|r| r.law == Law::Commutative)
                    && b.targets.iter().all(|(_, i)| *i == b.targets[0].1)
                    && x.buffer == y.buffer
                {
                    self.tag = self.tag.max(Tag::Reassociates);
                    continue;
                }
                self.distinct(s, (x, first), (y, second))?;
            }
        }
        Ok(())
    }

    /// Two accesses at two moments are to different elements.
    fn distinct(&mut self, s: &Scope, x: (&Access, &Env), y: (&Access, &Env)) -> Result<(), Refusal> {
        let mut s = s.clone();
        let mut at = vec![];
        for (access, env) in [x, y] {
            let mut env = env.clone();
            for a in &access.around {
                match a {
                    Around::Loop(l) => drop(s.iteration(&l.var, &l.extent, &mut env)?),
                    Around::If(c) => condition(&mut s, c, &env)?,
                }
            }
            at.push(access.index.iter().map(|i| s.term(i, &env)).collect::<Result<Vec<_>, _>>()?);
        }
        let about = match x.0.buffer == y.0.buffer {
            true => format!("two iterations do not meet in '{}'", x.0.buffer),
            false => format!("two iterations do not meet in '{}' and '{}'", x.0.buffer, y.0.buffer),
        };
        self.overlap(&mut s, (&x.0.buffer, &at[0]), (&y.0.buffer, &at[1]))?;
        self.never(s, &about);
        Ok(())
    }

    /// Adds the hypothesis that two elements share storage.
    fn overlap(&self, s: &mut Scope, x: (&Name, &[Term]), y: (&Name, &[Term])) -> Result<(), Refusal> {
        let buffer = |n: &Name| {
            self.world.buffers.get(n).ok_or_else(|| Refusal::Differs(format!("there is no buffer '{n}'")))
        };
        let (b, c) = (buffer(x.0)?, buffer(y.0)?);
        if x.0 == y.0 && b.layout == Layout::dense(b.dtype, &b.shape) {
            return x.1.iter().zip(y.1).try_for_each(|(i, j)| s.equal(i, j));
        }
        let (i, j) = (s.address(b, x.1)?, s.address(c, y.1)?);
        let last = |t: &Term, b: &Buffer| exact(t.plus(i128::from(b.dtype.bits()) - 1));
        s.at_most(&i, &last(&j, c)?)?;
        s.at_most(&j, &last(&i, b)?)
    }

    fn instruction(&mut self, s: &Scope, ea: &Env, name: &str, inner: &Stmt) -> Result<(), Refusal> {
        let row = INTRINSICS.iter().find(|r| r.name == name);
        let row = row.ok_or_else(|| Refusal::Differs(format!("no row says what '{name}' is")))?;
        let row = parse(row.meaning).map_err(|e| Refusal::Differs(e.to_string()))?;
        let (mut s, mut here, mut there) = (s.clone(), ea.clone(), Env::default());
        let (mut zero_here, mut zero_there) = (ea.clone(), Env::default());
        let (mut got, mut want) = (inner, row.body.first());
        while let (Stmt::For(l), Some(Stmt::For(w))) = (got, want) {
            if l.iter != w.iter || l.extent != w.extent || l.body.len() != 1 || w.body.len() != 1 {
                return differs(format!("'{}' is not the loop '{}' of '{name}'", l.var, w.var));
            }
            let i = s.iteration(&l.var, &l.extent, &mut here)?;
            there.vars.insert(w.var.clone(), i);
            zero_here.vars.insert(l.var.clone(), Term::default());
            zero_there.vars.insert(w.var.clone(), Term::default());
            (got, want) = (&l.body[0], w.body.first());
        }
        let (Stmt::Store(got), Some(Stmt::Store(want))) = (got, want) else {
            return differs(format!("the statement is not that of '{name}'"));
        };
        if got.reducer != want.reducer || got.targets.len() != 1 || want.targets.len() != 1 {
            return differs(format!("the block '{}' is not that of '{name}'", got.name));
        }
        let mut operands = vec![(got.targets[0].clone(), want.targets[0].clone())];
        pair(&got.values[0], &want.values[0], &mut operands)
            .ok_or_else(|| Refusal::Differs(format!("'{}' does not compute what '{name}' does", got.name)))?;
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        for (k, ((n, i), (m, j))) in operands.iter().enumerate() {
            let (Some(b), Some(r)) = (self.world.buffers.get(n), row.buffer(m)) else {
                return differs(format!("there is no buffer '{n}'"));
            };
            let narrow = matches!(b.dtype, DType::Int { signed: false, bits } if bits < 8);
            if b.dtype != r.dtype && !(narrow && r.dtype == DType::U8) {
                return differs(format!("'{n}' is no operand '{m}' of '{name}'"));
            }
            if k > 0 && home(n) == home(&operands[0].0.0) {
                return differs(format!("'{n}' is read and written"));
            }
            let at = |s: &mut Scope, b: &Buffer, i: &[Expr], env: &Env| -> Result<Term, Refusal> {
                let i = i.iter().map(|i| s.term(i, env)).collect::<Result<Vec<_>, _>>()?;
                s.address(b, &i)
            };
            let far = exact(at(&mut s, b, i, &here)?.sub(&at(&mut s, b, i, &zero_here)?))?;
            let row_far = exact(at(&mut s, &r, j, &there)?.sub(&at(&mut s, &r, j, &zero_there)?))?;
            // Distances in elements, those of packed codes in the bytes they stand in.
            let (unit, row_unit) =
                (Term::constant(b.dtype.bits().max(8).into()), Term::constant(r.dtype.bits().into()));
            let (far, row_far) = (exact(far.mul(&row_unit))?, exact(row_far.mul(&unit))?);
            self.equal(&s, &far, &row_far, &format!("elements of '{n}' lie as in '{m}' of '{name}'"))?;
        }
        Ok(())
    }

    fn cached(&mut self, s: &Scope, eb: &Env, ea: &Env, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
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
        // The copy leads no two elements to one place.
        let mut sd = s.clone();
        let mut at = vec![];
        for _ in 0..2 {
            let mut env = ea.clone();
            let u: Vec<Term> = vars
                .iter()
                .map(|(v, n)| sd.iteration(v, &Expr::from(*n), &mut env))
                .collect::<Result<_, _>>()?;
            at.push((u, home.iter().map(|h| sd.term(h, &env)).collect::<Result<Vec<_>, _>>()?));
        }
        sd.precedes(&at[0].0, &at[1].0)?;
        self.overlap(&mut sd, (buffer, &at[0].1), (buffer, &at[1].1))?;
        self.never(sd, &format!("'{}' has one element for each of '{buffer}'", alloc.name));
        self.written_first(s, ea, inner, &alloc.name, &vars)?;
        self.cache = Some(Cache { buffer: buffer.clone(), cache: alloc.name.clone(), vars, home });
        b.iter().zip(inner).try_for_each(|(b, a)| self.statement(s, eb, ea, b, a))?;
        self.cache = None;
        Ok(())
    }

    /// The first statement that touches the cache overwrites all of it, whatever the data, and does nothing else with it.
    fn written_first(
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

/// Adds a condition that holds, as far as it is one on indices.
fn condition(s: &mut Scope, c: &Expr, env: &Env) -> Result<(), Refusal> {
    use lathe_ir::tensor::Binary::{Eq, Le, Lt};
    if let Node::Binary(op @ (Lt | Le | Eq), x, y) = &**c
        && s.world.dtype(x) == Some(DType::INDEX)
        && !s.world.volatile(c)
    {
        let (x, y) = (s.term(x, env)?, s.term(y, env)?);
        match op {
            Lt => s.at_most(&exact(x.plus(1))?, &y)?,
            Le => s.at_most(&x, &y)?,
            _ => s.equal(&x, &y)?,
        }
    }
    Ok(())
}

type Element = (Name, Vec<Expr>);

/// Matches an expression with a row's, whose loads are operands.
fn pair(got: &Expr, want: &Expr, operands: &mut Vec<(Element, Element)>) -> Option<()> {
    let same = match (&**got, &**want) {
        (Node::Load(n, i), Node::Load(m, j)) => {
            operands.push(((n.clone(), i.clone()), (m.clone(), j.clone())));
            return Some(());
        }
        (Node::Int(..) | Node::Float(..), _) => return (got == want).then_some(()),
        (Node::Unary(f, _), Node::Unary(g, _)) => f == g,
        (Node::Binary(f, ..), Node::Binary(g, ..)) => f == g,
        (Node::Select(..), Node::Select(..)) => true,
        (Node::Cast(t, _), Node::Cast(u, _)) | (Node::Bitcast(t, _), Node::Bitcast(u, _)) => t == u,
        _ => false,
    };
    if !same {
        return None;
    }
    got.children().into_iter().zip(want.children()).try_for_each(|(x, y)| pair(x, y, operands).ok_or(())).ok()
}
