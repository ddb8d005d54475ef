//! The rule of a pass in parts: a pass that keeps a maximum `m` and sums of `g * exp(x - m)` runs over the parts of its iterations,
//! each with a maximum and sums of its own, and a second pass joins them (flash decoding: Dao et al. 2023). Two states meet in the
//! larger maximum, and both sums are rescaled to it: what a sum is after a pass does not depend on how it was reached. So what was
//! said of one pass (`online.rs`) must hold of the pass before, and nothing but the sums may use the maximum on the way.

use crate::Refusal;
use crate::meet::every_access;
use crate::obligations::{Walk, differs};
use crate::online::{Inside, Pass, Rescale, blocks, loads_any, nest, plain_loop, scalar};
use crate::scope::Sides;
use lathe_ir::tensor::{Buffer, CHANNEL, Expr, For, Iter, Node, SERIAL, Stmt, Store, Unary};
use lathe_ir::{DType, Int, Name};
use lathe_schedule::Tag;

/// Where a part keeps its states.
pub(crate) struct Parts {
    /// The loop over the parts.
    part: Name,
    /// Each state with what it is in a part.
    own: Vec<(Name, Name)>,
}

impl Parts {
    fn of(&self, state: &Name) -> Option<&Name> {
        self.own.iter().find(|(s, _)| s == state).map(|(_, own)| own)
    }

    /// The element of a part that an element is there.
    fn element(&self, state: &Name, part: &Name, index: &[Expr]) -> Option<Expr> {
        Some(Expr::load(self.of(state)?, &[&[Expr::var(part)], index].concat()))
    }
}

/// A block that overwrites one element, or adds to it: the element and the value.
fn writes(b: &Store) -> Option<(&Name, &[Expr], &Expr)> {
    match (b.targets.as_slice(), b.values.as_slice()) {
        ([(n, i)], [v]) => Some((n, i, v)),
        _ => None,
    }
}

/// `exp(a - b)` of two scalars.
fn factor(a: &Expr, b: &Expr) -> Expr {
    (a - b).un(Unary::Exp)
}

/// Whether nested loops are those that rescale a sum, but for their names; then what the sum's index is in them.
fn over(loops: &[&For], r: &Rescale) -> Option<Vec<Expr>> {
    let renamed = |e: &Expr| {
        e.rewrite(&|e| match &**e {
            Node::Var(v) => r.loops.iter().position(|l| l.var == *v).map(|i| Expr::var(&loops[i].var)),
            _ => None,
        })
    };
    let plain = loops.iter().all(|l| &*l.level == SERIAL && l.iter == Iter::Spatial);
    let same = plain && loops.len() == r.loops.len();
    (same && loops.iter().zip(&r.loops).all(|(l, m)| l.extent == renamed(&m.extent)))
        .then(|| r.index.iter().map(renamed).collect())
}

impl<'k> Walk<'k> {
    /// Where a pass over parts becomes independent parts: its places before and after.
    pub(crate) fn splits_pass(&self, b: &[Stmt], a: &[Stmt]) -> Option<(usize, usize)> {
        let own = |q: &usize| plain_loop(&a[*q]).filter(|l| l.iter == Iter::Spatial);
        let from = |l: &For| {
            b.iter().position(|s| plain_loop(s).is_some_and(|f| f.var == l.var && f.iter == Iter::Scan))
        };
        (0..a.len()).find_map(|q| Some((from(own(&q)?)?, q)))
    }

    pub(crate) fn in_parts(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        (p, q): (usize, usize),
    ) -> Result<(), Refusal> {
        let loops = (plain_loop(&b[p]), plain_loop(&a[q]), a.get(q + 1).and_then(plain_loop));
        let (Some(outer), Some(each), Some(join)) = loops else { return differs("no pass is split") };
        let (Some(inner), Some((last, starts))) = (
            Some(&outer.body).filter(|body| body.len() == 1).and_then(|body| plain_loop(&body[0])),
            each.body.split_last(),
        ) else {
            return differs(format!("'{}' is not around one pass", outer.var));
        };
        let Some(own) = plain_loop(last).filter(|l| l.var == inner.var) else {
            return differs(format!("'{}' is not around that pass", each.var));
        };
        let scans = [outer, inner, own, join].iter().all(|l| l.iter == Iter::Scan);
        let loops = [outer, inner, each, own, join];
        if !scans
            || q < p
            || a.len() != b.len() + q - p + 1
            || loops.iter().any(|l| self.world.volatile(&l.extent))
        {
            return differs(format!("'{}' is no pass, or its parts are none", outer.var));
        }
        let Some(n) =
            outer.extent.as_int().filter(|n| [each, join].iter().all(|l| l.extent.as_int() == Some(*n)))
        else {
            return differs(format!("the number of parts of '{}' is not constant", outer.var));
        };
        self.pairs(now, &b[..p], &a[..p])?;
        self.pairs(now, &b[p + 1..], &a[q + 2..])?;
        // The pass before is one.
        let pass = self.pass_before(inner)?.with_loops(&[outer, inner]);
        let before = Sides { after: now.before.clone(), ..now.clone() };
        self.states(&pass, &b[..p])?;
        self.terms(&before, &pass, &[outer, inner])?;
        self.weights_apart(&before, &pass)?;
        // Its parts have states of their own, which begin alike and are joined.
        let states: Vec<&Name> =
            [&pass.maximum].into_iter().chain(pass.sums.iter().map(|r| &r.sum)).collect();
        let own_states = self.own_states(&states, n, &a[p..q])?;
        let parts = Parts { part: each.var.clone(), own: own_states };
        let begins = b[..p].iter().filter_map(nest).filter_map(|(_, s)| writes(s));
        let Some(first) = begins.into_iter().find(|(n, ..)| **n == pass.maximum).map(|(.., v)| v.clone())
        else {
            return differs(format!("'{}' does not start at a number", pass.maximum));
        };
        self.parts_begin(&pass, &parts, starts, &first)?;
        self.parts_join(&pass, &parts, join)?;
        self.tag = self.tag.max(Tag::Approximates);
        let now = now.iteration(outer, each)?;
        self.same(&now, &inner.extent, &own.extent, &own.var)?;
        let now = now.iteration(inner, own)?;
        self.parts = Some(parts);
        let walked = self.pairs(&now, &inner.body, &own.body);
        self.parts = None;
        walked
    }

    /// The parts of a pass's body: what computes the maximum, what rescales, and what uses it.
    fn pass_before(&self, l: &'k For) -> Result<Pass<'k>, Refusal> {
        let body = l.body.as_slice();
        let unfit = || differs(format!("'{}' is no pass that rescales its sums", l.var));
        let rescale = |s: &'k Stmt, factor: &Expr| -> Option<Rescale<'k>> {
            let (loops, block) = nest(s)?;
            let (sum, index, value) = writes(block).filter(|_| block.reducer.is_none())?;
            (*value == &Expr::load(sum, index) * factor).then(|| Rescale { sum: sum.clone(), loops, index })
        };
        for (at, s) in body.iter().enumerate() {
            let Stmt::Store(b) = s else { continue };
            let (Some((saved, [], value)), None) = (writes(b), b.reducer) else { continue };
            let Node::Load(maximum, index) = &**value else { continue };
            let own = body[..at].iter().any(
                |s| matches!(s, Stmt::Alloc(t) if t.name == *saved && t.dtype == DType::F32 && t.shape.is_empty()),
            );
            if !index.is_empty() || !own {
                continue;
            }
            let factor = factor(&scalar(saved), &scalar(maximum));
            let Some(from) = body.iter().position(|s| rescale(s, &factor).is_some()) else { continue };
            let sums: Vec<Rescale> = body[from..].iter().map_while(|s| rescale(s, &factor)).collect();
            let (first, rescaling) = (&body[..from], &body[from..from + sums.len()]);
            let rest = &body[from + sums.len()..];
            let twice = sums.iter().enumerate().any(|(i, r)| sums[..i].iter().any(|o| o.sum == r.sum));
            let written =
                |body: &[Stmt], n: &Name| every_access(body).iter().any(|a| a.buffer == *n && !a.is_read());
            // The maximum is kept before it grows, and not again.
            let kept = [&body[..at], &body[at + 1..]].iter().all(|part| !written(part, saved));
            if twice || !kept || from < at || written(&first[..at], maximum) {
                return unfit();
            }
            let later = vec![(vec![], rest)];
            let weights = Pass::weights(maximum, &later);
            let pass = Pass {
                first,
                around: vec![],
                later,
                rescaling,
                maximum: maximum.clone(),
                saved: saved.clone(),
                weights,
                sums,
            };
            // Nothing else looks at the maximum so far.
            let (running, mut all) = (pass.running(), vec![]);
            blocks(first, &mut vec![], &mut all)?;
            for (around, block) in all.into_iter().filter(|(_, block)| block.name != b.name) {
                let indices = block.targets.iter().flat_map(|(_, i)| i);
                let mut all = around.iter().map(|l| &l.extent).chain(indices).chain(&block.values);
                if all.any(|e| loads_any(e, &running)) {
                    return differs(format!("'{}' looks at the maximum so far", block.name));
                }
            }
            return Ok(pass);
        }
        unfit()
    }

    /// The temporaries that hold each part's states.
    fn own_states(&self, states: &[&Name], n: i64, new: &[Stmt]) -> Result<Vec<(Name, Name)>, Refusal> {
        if states.len() != new.len() {
            return differs("not every state has a place in each part");
        }
        let pair = |(state, s): (&&Name, &Stmt)| {
            let (Stmt::Alloc(t), Some(b)) = (s, self.world.buffers.get(*state)) else { return None };
            let shape: Vec<Int> = [&[Int::from(n)], b.shape.as_slice()].concat();
            let fits = Buffer::dense(&t.name, b.dtype, &shape, &t.memory) == **t && &*t.memory != CHANNEL;
            (fits && self.before.buffer(&t.name).is_none()).then(|| ((*state).clone(), t.name.clone()))
        };
        let own: Option<Vec<_>> = states.iter().zip(new).map(pair).collect();
        own.ok_or_else(|| Refusal::Differs("a state has no place in each part".into()))
    }

    /// Each part's maximum begins at the number of the whole, and its sums at 0, wherever they are rescaled.
    fn parts_begin(
        &self,
        pass: &Pass<'k>,
        parts: &Parts,
        starts: &[Stmt],
        first: &Expr,
    ) -> Result<(), Refusal> {
        let Some((maximum, sums)) = starts.split_first() else { return differs("no part has a start") };
        let is = |s: &Stmt, element: &dyn Fn(&[&For]) -> Option<Expr>, value: &dyn Fn(&Expr) -> bool| {
            let Some((loops, block)): Option<Inside> = nest(s) else { return false };
            let written = writes(block).filter(|_| block.reducer.is_none());
            written.is_some_and(|(n, i, v)| element(&loops) == Some(Expr::load(n, i)) && value(v))
        };
        let begins = is(
            maximum,
            &|loops| parts.element(&pass.maximum, &parts.part, &[]).filter(|_| loops.is_empty()),
            &|v| v == first,
        );
        let zero = |v: &Expr| matches!(**v, Node::Float(bits, _) if f64::from_bits(bits) == 0.0);
        let all =
            pass.sums.len() == sums.len()
                && pass.sums.iter().zip(sums).all(|(r, s)| {
                    is(s, &|loops| parts.element(&r.sum, &parts.part, &over(loops, r)?), &zero)
                });
        if begins && all { Ok(()) } else { differs("a part's states do not begin as the whole's") }
    }

    /// The second pass takes each part's maximum, rescales the sums so far, and adds the part's on the same scale.
    fn parts_join(&self, pass: &Pass<'k>, parts: &Parts, join: &'k For) -> Result<(), Refusal> {
        let unfit = || differs("the parts are not joined");
        let [Stmt::Alloc(kept), Stmt::Store(keep), Stmt::Store(larger), rest @ ..] = join.body.as_slice()
        else {
            return unfit();
        };
        let new = Buffer::dense(&kept.name, DType::F32, &[], &kept.memory) == **kept
            && &*kept.memory != CHANNEL
            && self.before.buffer(&kept.name).is_none();
        let m = scalar(&pass.maximum);
        let Some(theirs) = parts.element(&pass.maximum, &join.var, &[]) else { return unfit() };
        let keeps = keep.reducer.is_none() && writes(keep) == Some((&kept.name, &[], &m));
        let grows = larger.reducer.is_some_and(|r| r.name == "max")
            && writes(larger) == Some((&pass.maximum, &[], &theirs));
        if !new || !keeps || !grows || rest.len() != 2 * pass.sums.len() {
            return unfit();
        }
        let (rescaled, added) = rest.split_at(pass.sums.len());
        for ((r, x), y) in pass.sums.iter().zip(rescaled).zip(added) {
            let (Some((xl, x)), Some((yl, y))) = (nest(x), nest(y)) else { return unfit() };
            let (Some(i), Some(j)) = (over(&xl, r), over(&yl, r)) else { return unfit() };
            let shrunk = &Expr::load(&r.sum, &i) * &factor(&scalar(&kept.name), &m);
            let Some(part) = parts.element(&r.sum, &join.var, &j) else { return unfit() };
            let term = &part * &factor(&theirs, &m);
            let shrinks = x.reducer.is_none() && writes(x) == Some((&r.sum, &i, &shrunk));
            let adds = y.reducer.is_some_and(|r| r.name == "sum") && writes(y) == Some((&r.sum, &j, &term));
            if !shrinks || !adds {
                return unfit();
            }
        }
        Ok(())
    }

    /// A state's element is that of the part.
    pub(crate) fn part_element(
        &mut self,
        now: &Sides,
        b: (&Name, &[Expr]),
        a: (&Name, &[Expr]),
        place: &str,
    ) -> Result<(), Refusal> {
        let own = self.parts.as_ref().and_then(|p| Some((p.of(b.0)?, Expr::var(&p.part))));
        match (own, a.1.split_first()) {
            (Some((own, part)), Some((first, rest)))
                if own == a.0 && part == *first && rest.len() == b.1.len() =>
            {
                b.1.iter().zip(rest).try_for_each(|(x, y)| self.same(now, x, y, place))
            }
            _ => differs(format!("'{place}' does not use the part's '{}'", b.0)),
        }
    }

    /// Whether a buffer is a state of a pass in parts.
    pub(crate) fn is_state(&self, name: &Name) -> bool {
        self.parts.as_ref().is_some_and(|p| p.of(name).is_some())
    }
}
