//! When two iterations meet: one writes what the other touches. The rules of lanes and cores, and that of iterations exchanged.

use crate::obligations::{Walk, differs};
use crate::scope::{Env, Scope, exact};
use crate::{Order, Refusal};
use lathe_check::Term;
use lathe_ir::tensor::{Buffer, CORE, Expr, Fact, For, Iter, Kernel, Law, Node, Stmt, Store, for_each};
use lathe_ir::{DType, Layout, Name};
use lathe_schedule::Tag;
use std::collections::HashSet;

/// What is around an access inside a loop's body.
#[derive(Clone)]
enum Around<'k> {
    Loop(&'k For),
    If(&'k Expr),
}

/// An access to a buffer inside a loop's body.
pub(crate) struct Access<'k> {
    pub(crate) buffer: Name,
    pub(crate) index: Vec<Expr>,
    /// The block, when it writes.
    writes: Option<&'k Store>,
    around: Vec<Around<'k>>,
}

impl Access<'_> {
    pub(crate) fn is_read(&self) -> bool {
        self.writes.is_none()
    }

    /// Whether it is to the element that another one is to, whenever that is.
    fn same_element(&self, other: &Access) -> bool {
        let same = |(a, b): (&Around, &Around)| match (a, b) {
            (Around::Loop(l), Around::Loop(m)) => l.var == m.var && l.extent == m.extent,
            (Around::If(c), Around::If(d)) => c == d,
            _ => false,
        };
        self.buffer == other.buffer
            && self.index == other.index
            && self.around.len() == other.around.len()
            && self.around.iter().zip(&other.around).all(same)
    }

    /// Whether it reads or writes the element that another one does.
    pub(crate) fn same_access(&self, other: &Access) -> bool {
        self.is_read() == other.is_read() && self.same_element(other)
    }

    /// Some iteration of the loops around it, inside what `env` says, under the conditions around it.
    pub(crate) fn moment(&self, s: &mut Scope, env: &Env) -> Result<Env, Refusal> {
        let mut env = env.clone();
        for a in &self.around {
            match a {
                Around::Loop(l) => drop(s.iteration(&l.var, &l.extent, &mut env)?),
                Around::If(c) => condition(s, c, &env)?,
            }
        }
        Ok(env)
    }
}

/// All accesses, to buffers that live as long as the statements too.
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
}

/// All accesses, in order.
pub(crate) fn every_access(body: &[Stmt]) -> Vec<Access<'_>> {
    let mut all = vec![];
    accesses(body, &mut vec![], &mut all);
    all
}

/// The accesses to one buffer, in order.
pub(crate) fn accesses_to<'k>(body: &'k [Stmt], name: &Name) -> Vec<Access<'k>> {
    let mut all = accesses_of(body);
    all.retain(|a| a.buffer == *name);
    all
}

/// All accesses to buffers that live longer than the statements, in order.
pub(crate) fn accesses_of(body: &[Stmt]) -> Vec<Access<'_>> {
    let mut own: HashSet<Name> = HashSet::new();
    for_each(body, &mut |s| {
        if let Stmt::Alloc(b) = s {
            own.insert(b.name.clone());
        }
    });
    let mut all = every_access(body);
    all.retain(|a| !own.contains(&a.buffer));
    all
}

/// Whether loops that go to cores write elements of less than a byte, of temporaries that are not an iteration's own.
pub(crate) fn cores_write_parts(k: &Kernel) -> bool {
    let parts =
        |n: &Name| k.views().all(|v| v.name != *n) && k.buffer(n).is_some_and(|b| b.dtype.bits() % 8 != 0);
    let mut found = false;
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s
            && &*l.level == CORE
        {
            found |= accesses_of(&l.body).iter().any(|a| a.writes.is_some() && parts(&a.buffer));
        }
    });
    found
}

pub(crate) fn touches(body: &[Stmt], name: &str) -> usize {
    accesses_of(body).iter().filter(|a| &*a.buffer == name).count()
}

impl<'k> Walk<'k> {
    pub(crate) fn lanes(&mut self, s: &Scope, ea: &Env, l: &'k For) -> Result<(), Refusal> {
        if !matches!(l.iter, Iter::Spatial | Iter::Reduce) {
            return differs(format!("iterations of '{}' follow each other", l.var));
        }
        self.independent(s, ea, l, l.iter == Iter::Reduce && self.order == Order::Accumulated)
    }

    /// No two iterations that go to cores meet, nor write elements of one byte.
    pub(crate) fn cores(&mut self, s: &Scope, ea: &Env, l: &'k For) -> Result<(), Refusal> {
        if l.iter != Iter::Spatial {
            return differs(format!("iterations of '{}' follow each other", l.var));
        }
        self.cores = true;
        let independent = self.independent(s, ea, l, false);
        self.cores = false;
        independent
    }

    /// No two iterations of loops that go to cores write elements of one byte of a temporary, wherever such loops are and however it lies
    /// now. Parameters lie as they did, and of those that was asked where the loop went to cores.
    pub(crate) fn whole_bytes(&mut self, s: &Scope, env: &Env, body: &'k [Stmt]) -> Result<(), Refusal> {
        for statement in body {
            match statement {
                Stmt::For(l) if &*l.level == CORE => {
                    let mut s = s.clone();
                    let apart = || Env { apart: true, ..env.clone() };
                    let (mut first, mut second) = (apart(), apart());
                    let i = s.iteration(&l.var, &l.extent, &mut first)?;
                    let j = s.iteration(&l.var, &l.extent, &mut second)?;
                    s.at_most(&exact(i.plus(1))?, &j)?;
                    let all = accesses_of(&l.body);
                    let parts = |a: &&Access| {
                        let temporary = !self.world.home.contains_key(&a.buffer);
                        let buffer = self.world.buffers.get(&a.buffer).filter(|_| temporary);
                        a.writes.is_some() && buffer.is_some_and(|b| b.dtype.bits() % 8 != 0)
                    };
                    let written: Vec<&Access> = all.iter().filter(parts).collect();
                    for x in &written {
                        let others: Vec<&Access> =
                            written.iter().copied().filter(|y| self.may_meet(x, y)).collect();
                        self.cores = true;
                        let distinct = self.distinct(&s, (x, &first), (&others, &second));
                        self.cores = false;
                        distinct?;
                    }
                }
                Stmt::For(l) => {
                    let (mut s, mut env) = (s.clone(), env.clone());
                    s.iteration(&l.var, &l.extent, &mut env)?;
                    self.whole_bytes(&s, &env, &l.body)?;
                }
                Stmt::If(_, b) | Stmt::Intrinsic(_, b) => self.whole_bytes(s, env, b)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// No two iterations of a loop meet; accumulations may, where allowed.
    pub(crate) fn independent(
        &mut self,
        s: &Scope,
        env: &Env,
        l: &'k For,
        accumulate: bool,
    ) -> Result<(), Refusal> {
        let mut s = s.clone();
        let (mut first, mut second) =
            (Env { apart: true, ..env.clone() }, Env { apart: true, ..env.clone() });
        let i = s.iteration(&l.var, &l.extent, &mut first)?;
        let j = s.iteration(&l.var, &l.extent, &mut second)?;
        s.at_most(&exact(i.plus(1))?, &j)?;
        self.apart(&s, &first, &second, &l.body, accumulate)
    }

    /// What some statements do at one moment does not meet what others do at another.
    pub(crate) fn separate(
        &mut self,
        s: &Scope,
        (first, x): (&'k [Stmt], &Env),
        (second, y): (&'k [Stmt], &Env),
    ) -> Result<(), Refusal> {
        let (a, b) = (accesses_of(first), accesses_of(second));
        a.iter().try_for_each(|p| {
            let others: Vec<&Access> = b.iter().filter(|q| self.may_meet(p, q)).collect();
            self.distinct(s, (p, x), (&others, y))
        })
    }

    /// Whether one of two accesses writes, and both are to the same storage.
    pub(crate) fn may_meet(&self, x: &Access, y: &Access) -> bool {
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        (x.writes.is_some() || y.writes.is_some()) && home(&x.buffer) == home(&y.buffer)
    }

    /// Two iterations of a body do not meet; accumulations may, where allowed.
    pub(crate) fn apart(
        &mut self,
        s: &Scope,
        first: &Env,
        second: &Env,
        body: &'k [Stmt],
        accumulate: bool,
    ) -> Result<(), Refusal> {
        let all = accesses_of(body);
        for x in &all {
            let mut others = vec![];
            for y in &all {
                if !self.may_meet(x, y) {
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
                others.push(y);
            }
            self.distinct(s, (x, first), (&others, second))?;
        }
        Ok(())
    }

    /// An access at one moment is to another element than each of some others at another one.
    pub(crate) fn distinct(
        &mut self,
        s: &Scope,
        (x, first): (&Access, &Env),
        (others, second): (&[&Access], &Env),
    ) -> Result<(), Refusal> {
        let element = |s: &mut Scope, access: &Access, env: &Env| -> Result<Vec<Term>, Refusal> {
            let env = access.moment(s, env)?;
            access.index.iter().map(|i| s.term(i, &env)).collect()
        };
        // Different numbers in one dimension: the hypothesis that they are the same is false as it stands.
        let numbers = |(i, j): (&Expr, &Expr)| i.as_int().zip(j.as_int()).is_some_and(|(i, j)| i != j);
        let (world, cores) = (self.world, self.cores);
        let parts = |n: &Name| world.buffers.get(n).is_some_and(|b| b.dtype.bits() % 8 != 0);
        // A core writes whole bytes, and with them what others have there.
        let bytes = |y: &Access| {
            cores && x.writes.is_some() && y.writes.is_some() && (parts(&x.buffer) || parts(&y.buffer))
        };
        let apart = self.world.buffers.get(&x.buffer).is_some_and(|b| keeps_apart(b));
        // What is known of the one is the same beside each of the others, of which many are one element.
        let mut here = None;
        for (n, y) in others.iter().enumerate() {
            let bytes = bytes(y);
            if (apart && !bytes && x.buffer == y.buffer && x.index.iter().zip(&y.index).any(numbers))
                || others[..n].iter().any(|z| z.same_element(y))
            {
                continue;
            }
            if here.is_none() {
                let mut s = s.clone();
                let at = element(&mut s, x, first)?;
                here = Some((s, at));
            }
            let Some((s, at)) = &here else { continue };
            let mut s = s.clone();
            let there = element(&mut s, y, second)?;
            let about = match x.buffer == y.buffer {
                true => format!("two iterations do not meet in '{}'", x.buffer),
                false => format!("two iterations do not meet in '{}' and '{}'", x.buffer, y.buffer),
            };
            match bytes {
                true => self.same_byte(&mut s, (&x.buffer, at), (&y.buffer, &there))?,
                false => self.overlap(&mut s, (&x.buffer, at), (&y.buffer, &there))?,
            }
            self.never(s, &about);
        }
        Ok(())
    }

    fn buffer(&self, n: &Name) -> Result<&'k Buffer, Refusal> {
        let found = self.world.buffers.get(n).copied();
        found.ok_or_else(|| Refusal::Differs(format!("there is no buffer '{n}'")))
    }

    /// Adds the hypothesis that a byte has something of two elements.
    fn same_byte(&self, s: &mut Scope, x: (&Name, &[Term]), y: (&Name, &[Term])) -> Result<(), Refusal> {
        let (b, c) = (self.buffer(x.0)?, self.buffer(y.0)?);
        let byte = Term::constant(8);
        let mut ends = |b: &Buffer, index: &[Term]| {
            let first = s.address(b, index)?;
            let last = exact(first.plus(i128::from(b.dtype.bits()) - 1))?;
            Ok::<_, Refusal>((s.divide(&first, &byte)?.0, s.divide(&last, &byte)?.0))
        };
        let (x, y) = (ends(b, x.1)?, ends(c, y.1)?);
        s.at_most(&x.0, &y.1)?;
        s.at_most(&y.0, &x.1)
    }

    /// Adds the hypothesis that two elements share storage.
    pub(crate) fn overlap(
        &self,
        s: &mut Scope,
        x: (&Name, &[Term]),
        y: (&Name, &[Term]),
    ) -> Result<(), Refusal> {
        let (b, c) = (self.buffer(x.0)?, self.buffer(y.0)?);
        if x.0 == y.0 && keeps_apart(b) {
            return x.1.iter().zip(y.1).try_for_each(|(i, j)| s.equal(i, j));
        }
        self.same_bits(s, (b, x.1), (c, y.1))
    }

    /// Adds the hypothesis that two elements of one allocation share a bit.
    pub(crate) fn same_bits(
        &self,
        s: &mut Scope,
        (b, x): (&Buffer, &[Term]),
        (c, y): (&Buffer, &[Term]),
    ) -> Result<(), Refusal> {
        let (i, j) = (s.address(b, x)?, s.address(c, y)?);
        if b.name != c.name {
            s.blocks(&i, &j);
        }
        let last = |t: &Term, b: &Buffer| exact(t.plus(i128::from(b.dtype.bits()) - 1));
        s.at_most(&i, &last(&j, c)?)?;
        s.at_most(&j, &last(&i, b)?)
    }
}

/// Whether different elements of a buffer never overlap.
fn keeps_apart(b: &Buffer) -> bool {
    b.layout == Layout::dense(b.dtype, &b.shape) || is_mixed_radix(b)
}

/// Whether a layout's terms are the digits of a number in mixed radix, and those of each dimension determine its index: then
/// different elements never overlap.
fn is_mixed_radix(b: &Buffer) -> bool {
    let mut terms: Vec<_> = b.layout.terms.iter().collect();
    let stride = |t: &lathe_ir::Term| t.stride.as_const().filter(|s| *s > 0);
    if terms.iter().any(|t| stride(t).is_none()) {
        return false;
    }
    // How many values a digit has, where that is known. One that has a single value may stand anywhere.
    let count = |t: &lathe_ir::Term| {
        let of = b.shape[t.dim].as_const().map(|n| (n + t.div - 1) / t.div);
        t.modulo.map_or(of, |m| Some(of.map_or(m, |n| n.min(m))))
    };
    terms.sort_by_key(|t| (stride(t), count(t).unwrap_or(i64::MAX)));
    // Only the digit above all others may go on behind its end.
    let last = terms.last().map(|t| t.dim);
    if b.facts.iter().any(|f| matches!(f, Fact::Padded(d, _) if Some(*d) != last)) {
        return false;
    }
    // What the digits so far add up to at most, and an element's bits.
    let mut end = Some(b.dtype.bits());
    for t in &terms {
        let (Some(reach), Some(s)) = (end, stride(t)) else { return false };
        if s < reach {
            return false;
        }
        end = count(t).and_then(|n| s.checked_mul(n - 1)?.checked_add(reach));
    }
    (0..b.shape.len()).all(|d| {
        let mut own: Vec<_> = terms.iter().filter(|t| t.dim == d).map(|t| (t.div, t.modulo)).collect();
        own.sort_unstable();
        let mut next = Some(1);
        for (div, modulo) in own {
            if next != Some(div) {
                return false;
            }
            next = modulo.map(|m| div * m);
        }
        // The last digit has no end, or none that the dimension reaches.
        next.is_none_or(|n| b.shape[d].as_const().is_some_and(|of| of <= n))
    })
}

/// Adds a condition that holds, as far as it is one on indices.
fn condition(s: &mut Scope, c: &Expr, env: &Env) -> Result<(), Refusal> {
    use lathe_ir::tensor::Binary::{Eq, Le, Lt};
    if let Node::Binary(op @ (Lt | Le | Eq), x, y) = &**c
        && s.world.dtype(x) == Some(DType::INDEX)
        && !s.volatile(c)
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
