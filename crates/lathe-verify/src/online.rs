//! The rule of one pass: a maximum `m`, then sums of `g * exp(x - m)` in loops behind it, become one loop that computes the maximum
//! so far and, each time, first multiplies the sums by `exp(m0 - m)`, where `m0` is the maximum before (Milakov and Gimelshein
//! 2018). After iteration `t` a sum is that of the terms so far on the scale of the maximum so far, so at the end it is the same.
//!
//! - `m` starts at a finite number and only grows, so no factor is more than 1; the sums start at 0.
//! - What depends on `m` is a product with one factor `exp(x - m)`: a sum's term, or a weight, of which terms are products. A
//!   weight counts in its own iteration only.
//! - Every element of a sum that any iteration adds to is rescaled in all iterations, once.
//! - Iterations of the later loops run before later ones of the earlier loops, and do not meet them otherwise.
//! - Each `x` is among those that the maximum is of, in the same iteration: so no exponential is more than 1 on the way, where another
//!   maximum is known than at the end.
//!
//! In real numbers, that is: exponentials are others, within rounding (those that are kept as narrower floats round as those do), and
//! products of `g` may overflow on the way.

use crate::Refusal;
use crate::meet::{accesses_of, every_access};
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Sides};
use lathe_check::Term;
use lathe_ir::tensor::{
    Binary, Buffer, CHANNEL, Expr, For, Iter, Node, SERIAL, Stmt, Store, Unary, for_each,
};
use lathe_ir::{DType, Name};
use lathe_schedule::Tag;

/// A maximum and the sums of exponentials that use it.
pub(crate) struct Pass<'k> {
    /// What computes the maximum, and the loops around it.
    pub first: &'k [Stmt],
    pub around: Vec<&'k For>,
    /// What uses it, and the loops around that.
    pub later: Vec<(Vec<&'k For>, &'k [Stmt])>,
    /// What rescales the sums, where it is part of the program before.
    pub rescaling: &'k [Stmt],
    pub maximum: Name,
    /// The temporary that holds the maximum before.
    pub saved: Name,
    pub weights: Vec<Name>,
    /// Each sum with what rescales it.
    pub sums: Vec<Rescale<'k>>,
}

/// What multiplies each element of a sum, once.
pub(crate) struct Rescale<'k> {
    pub sum: Name,
    pub loops: Vec<&'k For>,
    pub index: &'k [Expr],
}

impl<'k> Pass<'k> {
    /// What changes while the pass goes on.
    pub fn running(&self) -> Vec<Name> {
        let sums = self.sums.iter().map(|r| &r.sum);
        [&self.maximum, &self.saved].into_iter().chain(&self.weights).chain(sums).cloned().collect()
    }

    /// With loops around all that computes the maximum and uses it.
    pub fn with_loops(mut self, loops: &[&'k For]) -> Pass<'k> {
        self.around = loops.to_vec();
        self.later.iter_mut().for_each(|(around, _)| *around = loops.to_vec());
        self
    }

    /// What is overwritten by a value that reads the maximum is a weight.
    pub fn weights(maximum: &Name, later: &[(Vec<&'k For>, &'k [Stmt])]) -> Vec<Name> {
        let mut weights = vec![];
        for (_, body) in later {
            for_each(body, &mut |s| {
                if let Stmt::Store(b) = s
                    && b.reducer.is_none()
                    && b.values.iter().any(|v| v.loads(maximum))
                {
                    weights.extend(b.targets.iter().map(|(n, _)| n.clone()));
                }
            });
        }
        weights
    }
}

/// A block inside a loop's body, and the loops around it.
pub(crate) type Inside<'k> = (Vec<&'k For>, &'k Store);

pub(crate) fn plain_loop(s: &Stmt) -> Option<&For> {
    match s {
        Stmt::For(l) if &*l.level == SERIAL => Some(l),
        _ => None,
    }
}

/// The blocks of a body in which nothing hangs on a condition.
pub(crate) fn blocks<'k>(
    body: &'k [Stmt],
    around: &mut Vec<&'k For>,
    out: &mut Vec<Inside<'k>>,
) -> Result<(), Refusal> {
    body.iter().try_for_each(|s| match s {
        Stmt::Store(b) => {
            out.push((around.clone(), b));
            Ok(())
        }
        Stmt::For(l) => {
            around.push(l);
            blocks(&l.body, around, out)?;
            around.pop();
            Ok(())
        }
        Stmt::Alloc(_) => Ok(()),
        _ => differs("a part of the pass hangs on a condition"),
    })
}

/// The one block inside of nested loops.
pub(crate) fn nest(mut s: &Stmt) -> Option<Inside<'_>> {
    let mut loops = vec![];
    while let Stmt::For(l) = s {
        let [inner] = l.body.as_slice() else { return None };
        loops.push(&**l);
        s = inner;
    }
    match s {
        Stmt::Store(b) => Some((loops, b)),
        _ => None,
    }
}

pub(crate) fn scalar(name: &Name) -> Expr {
    Expr::load(name, &[])
}

/// Whether an expression reads one of some buffers.
pub(crate) fn loads_any(e: &Expr, names: &[Name]) -> bool {
    names.iter().any(|n| e.loads(n))
}

/// Whether an expression is a product with one factor for which `is` holds, and others that read none of `names`; or such a product
/// as another float.
fn linear(e: &Expr, is: &dyn Fn(&Expr) -> bool, names: &[Name]) -> bool {
    is(e)
        || match &**e {
            Node::Binary(Binary::Mul, a, b) => {
                (linear(a, is, names) && !loads_any(b, names))
                    || (linear(b, is, names) && !loads_any(a, names))
            }
            Node::Cast(t, x) => t.is_float() && linear(x, is, names),
            _ => false,
        }
}

impl<'k> Walk<'k> {
    /// Where a loop over a reduction is one over a pass after: its places before and after.
    pub(crate) fn passes_once(&self, b: &[Stmt], a: &[Stmt]) -> Option<(usize, usize)> {
        let scan = |q: &usize| plain_loop(&a[*q]).filter(|l| l.iter == Iter::Scan);
        let from = |l: &For| {
            let same = |s: &Stmt| plain_loop(s).is_some_and(|f| f.var == l.var && f.iter == Iter::Reduce);
            b.iter().position(same)
        };
        (0..a.len()).find_map(|q| Some((from(scan(&q)?)?, q)))
    }

    pub(crate) fn one_pass(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        (p, q): (usize, usize),
    ) -> Result<(), Refusal> {
        let (Some(first), Some(both)) = (plain_loop(&b[p]), plain_loop(&a[q])) else {
            return differs("no loops become one pass");
        };
        let Some(end) = b.len().checked_sub(a.len() - q - 1).filter(|end| *end > p && q >= p) else {
            return differs("statements are new behind the pass");
        };
        // What stands between the loops comes before the pass.
        let (mut later, mut moved): (Vec<&For>, Vec<&'k [Stmt]>) = (vec![], vec![]);
        let mut passed: Vec<&'k [Stmt]> = vec![&b[p..=p]];
        for at in p + 1..end {
            let s = &b[at..=at];
            if moved.len() < q - p && b[at] == a[p + moved.len()] {
                if passed.iter().any(|l| self.share(l, s)) {
                    return differs("a statement between the loops touches what a loop before it does");
                }
                moved.push(s);
            } else if let Some(l) = plain_loop(&b[at]) {
                later.push(l);
                passed.push(s);
            } else {
                return differs("a statement between the loops is gone");
            }
        }
        if moved.len() != q - p {
            return differs("a statement is new before the pass");
        }
        self.pairs(now, &b[..p], &a[..p])?;
        for (i, s) in moved.into_iter().enumerate() {
            self.pairs(now, s, &a[p + i..=p + i])?;
        }
        self.pairs(now, &b[end..], &a[q + 1..])?;
        let kinds = later.iter().all(|l| matches!(l.iter, Iter::Spatial | Iter::Reduce));
        if later.is_empty()
            || !kinds
            || later.iter().chain([&first, &both]).any(|l| self.world.volatile(&l.extent))
        {
            return differs(format!("not all loops that '{}' takes in are sums", both.var));
        }
        for l in later.iter().chain([&first]) {
            self.same(now, &l.extent, &both.extent, &both.var)?;
        }
        let pass = self.pass(first, &later, both)?;
        self.states(&pass, &a[..q])?;
        self.terms(now, &pass, &[both])?;
        self.weights_apart(now, &pass)?;
        self.iterations_apart(now, first, &pass)?;
        self.tag = self.tag.max(Tag::Approximates);
        // The bodies follow each other, with the rescaling behind the first.
        let mut now = now.clone();
        let i = now.scope.iteration(&both.var, &both.extent, &mut now.after)?;
        let (mut rest, count) = (both.body.as_slice(), pass.sums.len());
        for (n, l) in [first].iter().chain(&later).enumerate() {
            rest = &rest[if n == 0 {
                2
            } else if n == 1 {
                count
            } else {
                0
            }..];
            let (body, behind) = rest.split_at(l.body.len());
            let mut now = now.clone();
            now.before.vars.insert(l.var.clone(), i.clone());
            self.pairs(&now, &l.body, body)?;
            rest = behind;
        }
        Ok(())
    }

    /// Whether one of some statements writes what the others touch.
    fn share(&self, x: &[Stmt], y: &[Stmt]) -> bool {
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        let declares = |x: &[Stmt], y: &[Stmt]| {
            x.iter()
                .any(|s| matches!(s, Stmt::Alloc(t) if every_access(y).iter().any(|a| a.buffer == t.name)))
        };
        let (p, q) = (every_access(x), every_access(y));
        let meet = p
            .iter()
            .any(|p| q.iter().any(|q| home(&p.buffer) == home(&q.buffer) && !(p.is_read() && q.is_read())));
        meet || declares(x, y) || declares(y, x)
    }

    /// The parts of the pass's body, before anything of them is believed.
    fn pass(&self, first: &'k For, later: &[&'k For], both: &'k For) -> Result<Pass<'k>, Refusal> {
        let length = first.body.len() + later.iter().map(|l| l.body.len()).sum::<usize>();
        let count = both.body.len().checked_sub(2 + length);
        let (Some(count), [Stmt::Alloc(saved), Stmt::Store(save), ..]) = (count, both.body.as_slice()) else {
            return differs(format!("'{}' does not keep the maximum before", both.var));
        };
        let new = Buffer::dense(&saved.name, DType::F32, &[], &saved.memory) == **saved
            && &*saved.memory != CHANNEL
            && self.before.buffer(&saved.name).is_none();
        let (true, [(target, at)], [value], None) =
            (new, save.targets.as_slice(), save.values.as_slice(), save.reducer)
        else {
            return differs(format!("'{}' does not keep the maximum before", both.var));
        };
        let maximum = match &**value {
            Node::Load(m, i) if i.is_empty() && *target == saved.name && at.is_empty() => m.clone(),
            _ => return differs(format!("'{}' does not keep the maximum before", both.var)),
        };
        let factor = (&scalar(&saved.name) - &scalar(&maximum)).un(Unary::Exp);
        let start = 2 + first.body.len();
        let mut sums: Vec<Rescale> = vec![];
        for s in &both.body[start..start + count] {
            let Some((loops, block)) = nest(s) else { return differs("a sum is not rescaled by one block") };
            let ([(sum, index)], [value], None) =
                (block.targets.as_slice(), block.values.as_slice(), block.reducer)
            else {
                return differs(format!("'{}' does not rescale a sum", block.name));
            };
            if *value != &Expr::load(sum, index) * &factor || sums.iter().any(|r| r.sum == *sum) {
                return differs(format!("'{}' does not rescale a sum, once", block.name));
            }
            sums.push(Rescale { sum: sum.clone(), loops, index });
        }
        let later: Vec<_> = later.iter().map(|l| (vec![*l], l.body.as_slice())).collect();
        let weights = Pass::weights(&maximum, &later);
        let (around, first, saved) = (vec![first], first.body.as_slice(), saved.name.clone());
        Ok(Pass { first, around, later, rescaling: &[], maximum, saved, weights, sums })
    }

    /// The maximum and the sums are temporaries that begin before the pass, at a finite number and at 0; they and the weights,
    /// which are temporaries too, are of nobody else.
    pub(crate) fn states(&self, pass: &Pass<'k>, before: &[Stmt]) -> Result<(), Refusal> {
        let count = |body: &[Stmt], n: &Name, writes: bool| {
            every_access(body).iter().filter(|a| a.buffer == *n && !(writes && a.is_read())).count()
        };
        let inside = |n: &Name, writes: bool| {
            let parts = [pass.first, pass.rescaling];
            let parts = parts.into_iter().chain(pass.later.iter().map(|(_, body)| *body));
            parts.map(|body| count(body, n, writes)).sum::<usize>()
        };
        let sums: Vec<&Name> = pass.sums.iter().map(|r| &r.sum).collect();
        for n in sums.iter().copied().chain([&pass.maximum]) {
            let own =
                before.iter().any(|s| matches!(s, Stmt::Alloc(t) if t.name == *n && t.dtype == DType::F32));
            let starts =
                before.iter().filter_map(nest).filter(|(_, b)| b.targets.iter().any(|(t, _)| t == n));
            let is = |v: f64| if *n == pass.maximum { (v as f32).is_finite() } else { v == 0.0 };
            let constant = |b: &Store| {
                let value = match b.values.as_slice() {
                    [v] => matches!(**v, Node::Float(bits, _) if is(f64::from_bits(bits))),
                    _ => false,
                };
                value && b.reducer.is_none()
            };
            let starts: Vec<_> = starts.collect();
            let once = count(&self.before.body, n, true) == 1 + inside(n, true);
            if !own || !once || starts.len() != 1 || !constant(starts[0].1) {
                return differs(format!("'{n}' does not start at a number before the pass"));
            }
        }
        for n in &pass.weights {
            let whole = count(&self.before.body, n, false) == inside(n, false);
            let mixed = sums.contains(&n) || *n == pass.maximum || count(pass.first, n, false) > 0;
            let declares = |body: &[Stmt]| {
                let mut found = false;
                for_each(body, &mut |s| found |= matches!(s, Stmt::Alloc(t) if t.name == *n));
                found
            };
            let listed = before.iter().any(|s| matches!(s, Stmt::Alloc(t) if t.name == *n));
            let own = listed || declares(pass.first) || pass.later.iter().any(|(_, body)| declares(body));
            if !whole || mixed || !own {
                return differs(format!("'{n}' is used elsewhere, where the maximum is another one"));
            }
        }
        // The maximum only grows, and nothing of its loop uses a sum.
        for a in every_access(pass.first) {
            if sums.contains(&&a.buffer) {
                return differs(format!("'{}' is used before it is rescaled", a.buffer));
            }
        }
        let mut grows = true;
        for_each(pass.first, &mut |s| {
            if let Stmt::Store(b) = s
                && b.targets.iter().any(|(n, _)| *n == pass.maximum)
            {
                grows &= b.targets.len() == 1 && b.reducer.is_some_and(|r| r.name == "max");
            }
        });
        match grows {
            true => Ok(()),
            false => differs(format!("'{}' is no maximum", pass.maximum)),
        }
    }

    /// All that depends on the maximum is linear in `exp(x - m)`, and all of each sum is rescaled, the same in all iterations
    /// of some loops.
    pub(crate) fn terms(&mut self, now: &Sides, pass: &Pass<'k>, over: &[&For]) -> Result<(), Refusal> {
        let running = pass.running();
        let is_factor = |e: &Expr| match &**e {
            Node::Unary(Unary::Exp, d) => match &**d {
                Node::Binary(Binary::Sub, x, m) => *m == scalar(&pass.maximum) && !loads_any(x, &running),
                _ => false,
            },
            _ => false,
        };
        let is_weight = |e: &Expr| match &**e {
            Node::Load(n, i) => pass.weights.contains(n) && !i.iter().any(|i| loads_any(i, &running)),
            _ => false,
        };
        for r in &pass.sums {
            self.rescaled_once(now, over, r)?;
        }
        for (outer, body) in &pass.later {
            let mut all = vec![];
            blocks(body, &mut vec![], &mut all)?;
            for (around, block) in all {
                let indices = block.targets.iter().flat_map(|(_, i)| i);
                if around.iter().map(|l| &l.extent).chain(indices).any(|e| loads_any(e, &running)) {
                    return differs(format!("the maximum decides where '{}' writes", block.name));
                }
                let states = block.targets.iter().any(|(n, _)| running.contains(n));
                let free = !block.values.iter().any(|v| loads_any(v, &running));
                if !states && free {
                    continue;
                }
                let ([(target, index)], [value]) = (block.targets.as_slice(), block.values.as_slice()) else {
                    return differs(format!("'{}' is not linear in exp(x - m)", block.name));
                };
                let sum = pass.sums.iter().find(|r| r.sum == *target);
                let fits = match (block.reducer, sum) {
                    (None, None) => pass.weights.contains(target) && linear(value, &is_factor, &running),
                    (Some(r), Some(_)) => {
                        r.name == "sum"
                            && (linear(value, &is_factor, &running) || linear(value, &is_weight, &running))
                    }
                    _ => false,
                };
                if !fits {
                    return differs(format!("'{}' is not linear in exp(x - m)", block.name));
                }
                let mut exponents = vec![];
                value.visit(&mut |e| {
                    if is_factor(e)
                        && let Node::Unary(_, d) = &**e
                        && let Node::Binary(_, x, _) = &**d
                    {
                        exponents.push(x.clone());
                    }
                });
                for x in &exponents {
                    self.is_taken(now, pass, (outer, &around), x)?;
                }
                if let Some(r) = sum {
                    self.is_rescaled(now, (outer, &around), index, r)?;
                }
            }
        }
        Ok(())
    }

    /// The maximum is of a value that is used at some moment: a block took it in the same iteration, and nobody changed what it is
    /// made of since.
    fn is_taken(
        &mut self,
        now: &Sides,
        pass: &Pass<'k>,
        (outer, around): (&[&'k For], &[&'k For]),
        x: &Expr,
    ) -> Result<(), Refusal> {
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        let mut made_of: Vec<Name> = vec![];
        x.visit(&mut |e| {
            if let Node::Load(n, _) = &**e {
                made_of.push(home(n));
            }
        });
        let changes = |body: &[Stmt]| {
            every_access(body).iter().any(|a| !a.is_read() && made_of.contains(&home(&a.buffer)))
        };
        let axes: Vec<&For> = around.iter().filter(|f| x.mentions(&f.var)).copied().collect();
        let mut takes: Vec<Inside> = vec![];
        for (at, s) in pass.first.iter().enumerate() {
            let mut all = vec![];
            let plain = blocks(std::slice::from_ref(s), &mut vec![], &mut all).is_ok();
            let last = plain && !changes(&pass.first[at + 1..]);
            takes.extend(all.into_iter().filter(|(_, b)| last && b.targets[0].0 == pass.maximum));
        }
        let changed = pass.later.iter().any(|(_, body)| changes(body));
        let mut s = now.scope.clone();
        let (mut env, mut before) = (now.before.clone(), now.before.clone());
        for f in outer.iter().chain(around) {
            s.iteration(&f.var, &f.extent, &mut env)?;
        }
        for (l, f) in pass.around.iter().zip(outer) {
            before.vars.insert(l.var.clone(), env.vars[&f.var].clone());
        }
        let mut untaken = differs(format!("'{}' is not the maximum of {x}", pass.maximum));
        for (loops, block) in takes {
            let grows = block.reducer.is_some_and(|r| r.name == "max");
            let ([v], true, false) = (block.values.as_slice(), grows, changed) else { continue };
            let picked = loops.iter().all(|l| v.mentions(&l.var) && !self.world.volatile(&l.extent));
            if !picked || loops.len() != axes.len() {
                continue;
            }
            let mark = self.mark();
            let moment = Sides { scope: s.clone(), before: before.clone(), after: env.clone() };
            let pairs: Vec<_> = loops.iter().copied().zip(axes.iter().copied()).collect();
            let about = format!("'{}' is the maximum of all that '{}' is", pass.maximum, block.name);
            untaken = self.takes(moment, &pairs, (v, x), &about);
            if untaken.is_ok() {
                return Ok(());
            }
            self.forget(mark);
        }
        untaken
    }

    /// What is taken in the iterations of some loops that others are in is the same value.
    fn takes(
        &mut self,
        mut moment: Sides,
        loops: &[(&For, &For)],
        (v, x): (&Expr, &Expr),
        about: &str,
    ) -> Result<(), Refusal> {
        for (l, f) in loops {
            let i = moment.after.vars[&f.var].clone();
            let n = moment.scope.term(&l.extent, &moment.before)?;
            self.inside(&moment.scope, &i, &n, about)?;
            moment.before.vars.insert(l.var.clone(), i);
        }
        self.same(&moment, v, x, about)
    }

    /// What rescales a sum goes over the same elements in every iteration, over each once, and they are there.
    fn rescaled_once(&mut self, now: &Sides, over: &[&For], r: &Rescale<'k>) -> Result<(), Refusal> {
        let mut fixed = r.loops.iter().map(|l| &l.extent).chain(r.index);
        let changes = |e: &Expr| over.iter().any(|l| e.mentions(&l.var)) || self.world.volatile(e);
        if fixed.any(changes) {
            return differs(format!("not the same elements of '{}' are rescaled each time", r.sum));
        }
        if r.loops.iter().any(|l| &*l.level != SERIAL || l.iter != Iter::Spatial) {
            return differs(format!("'{}' is not rescaled by plain loops", r.sum));
        }
        let mut s = now.scope.clone();
        let mut at = vec![];
        for _ in 0..2 {
            let mut env = now.after.clone();
            let mut own = vec![];
            for l in &r.loops {
                self.there_to_read(&s, &env, &l.extent, &l.var)?;
                own.push(s.iteration(&l.var, &l.extent, &mut env)?);
            }
            let index = r.index.iter().map(|e| s.term(e, &env)).collect::<Result<Vec<_>, _>>()?;
            at.push((own, index, env));
        }
        self.there_to_read(&s, &at[0].2, &Expr::load(&r.sum, r.index), &r.sum)?;
        s.precedes(&at[0].0, &at[1].0)?;
        at[0].1.iter().zip(&at[1].1).try_for_each(|(x, y)| s.equal(x, y))?;
        self.never(s, &format!("an element of '{}' is rescaled once", r.sum));
        Ok(())
    }

    /// The element that a block adds to is among those that are rescaled.
    fn is_rescaled(
        &mut self,
        now: &Sides,
        (outer, around): (&[&'k For], &[&'k For]),
        index: &[Expr],
        r: &Rescale<'k>,
    ) -> Result<(), Refusal> {
        let axes: Vec<&&For> = around.iter().filter(|f| index.iter().any(|e| e.mentions(&f.var))).collect();
        if axes.len() != r.loops.len() || index.iter().any(|e| self.world.volatile(e)) {
            return differs(format!("'{}' is not rescaled as it is summed", r.sum));
        }
        let (mut s, mut env) = (now.scope.clone(), now.before.clone());
        for f in outer.iter().chain(around) {
            s.iteration(&f.var, &f.extent, &mut env)?;
        }
        let (mut at, about) = (now.after.clone(), format!("all of '{}' is rescaled", r.sum));
        for (w, f) in r.loops.iter().zip(axes) {
            let (i, n) = (env.vars[&f.var].clone(), s.term(&w.extent, &at)?);
            self.inside(&s, &i, &n, &about)?;
            at.vars.insert(w.var.clone(), i);
        }
        for (x, y) in r.index.iter().zip(index) {
            let (x, y) = (s.term(x, &at)?, s.term(y, &env)?);
            self.equal(&s, &x, &y, &about)?;
        }
        Ok(())
    }

    /// No iteration touches another one's weights.
    pub(crate) fn weights_apart(&mut self, now: &Sides, pass: &Pass<'k>) -> Result<(), Refusal> {
        let own = |n: &Name| pass.first.iter().any(|s| matches!(s, Stmt::Alloc(t) if t.name == *n));
        for x in &pass.later {
            for y in &pass.later {
                self.not_met(now, (x, y), &|n| pass.weights.contains(n) && !own(n))?;
            }
        }
        Ok(())
    }

    /// An iteration of a later loop does not meet later ones of an earlier loop, but for the maximum and the sums.
    fn iterations_apart(&mut self, now: &Sides, first: &'k For, pass: &Pass<'k>) -> Result<(), Refusal> {
        let state = |n: &Name| *n == pass.maximum || pass.sums.iter().any(|r| r.sum == *n);
        let first = (vec![first], pass.first);
        let all: Vec<_> = [&first].into_iter().chain(&pass.later).collect();
        for (i, y) in all.iter().enumerate() {
            for x in &all[..i] {
                self.not_met(now, (x, y), &|n| !state(n))?;
            }
        }
        Ok(())
    }

    /// An iteration of the second loops and a later one of the first touch different elements of some buffers, where one writes.
    fn not_met(
        &mut self,
        now: &Sides,
        (x, y): (&(Vec<&'k For>, &'k [Stmt]), &(Vec<&'k For>, &'k [Stmt])),
        of: &dyn Fn(&Name) -> bool,
    ) -> Result<(), Refusal> {
        let mut s = now.scope.clone();
        let mut moment = |loops: &[&For]| -> Result<(Env, Vec<Term>), Refusal> {
            let mut env = Env { apart: true, ..now.before.clone() };
            let at = loops.iter().map(|l| s.iteration(&l.var, &l.extent, &mut env));
            let at = at.collect::<Result<_, _>>()?;
            Ok((env, at))
        };
        let (later, sooner) = (moment(&x.0)?, moment(&y.0)?);
        s.precedes(&sooner.1, &later.1)?;
        let (a, b) = (accesses_of(x.1), accesses_of(y.1));
        a.iter().filter(|p| of(&p.buffer)).try_for_each(|p| {
            let others: Vec<_> = b.iter().filter(|q| self.may_meet(p, q) && of(&q.buffer)).collect();
            self.distinct(&s, (p, &later.0), (&others, &sooner.0))
        })
    }
}
