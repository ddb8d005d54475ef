//! The rule of a space-time map: nested loops become processes, one an iteration, and elements that all iterations along one of
//! them read travel from one process to the next. No two iterations meet, so it is the same in which order they run. A process
//! at the edge reads the elements in the order of time; each other one pops a value, hands it on and uses it, in loops that are as
//! long for all. So the value popped is the element that was read before. At any time, of all who wait the one that is
//! earliest, and among these nearest to the edge, could go on: there is an end (`space_time` in `Networks.v`).

use crate::Refusal;
use crate::hold::always_reads;
use crate::meet::touches;
use crate::obligations::{Walk, differs, in_order};
use crate::online::nest;
use crate::processes::{loops_around, users};
use crate::scope::{Env, Scope, Sides, exact};
use lathe_check::Term;
use lathe_ir::tensor::{Binary, Buffer, CHANNEL, Expr, For, Iter, Node, PROCESS, Stmt, Store, for_each};
use lathe_ir::{Layout, Name};

/// A space loop before, and the processes that it becomes.
type Space<'k> = Vec<(&'k For, &'k For)>;

/// An element that travels.
pub(crate) struct Flow<'k> {
    /// The temporary that a process pops it to, and the blocks that pop it and hand it on.
    value: &'k Name,
    pop: &'k Store,
    hand: &'k Store,
    /// Where it is handed on.
    further: &'k Expr,
    /// What the edge reads, in the words of the process.
    element: Expr,
}

fn process(s: &Stmt) -> Option<&For> {
    match s {
        Stmt::For(l) if &*l.level == PROCESS && l.iter == Iter::Spatial => Some(l),
        _ => None,
    }
}

/// The condition around a block.
fn condition<'k>(body: &'k [Stmt], block: &Name) -> Option<&'k Expr> {
    let mut found = None;
    for_each(body, &mut |s| {
        if let Stmt::If(c, b) = s
            && matches!(b.as_slice(), [Stmt::Store(b)] if b.name == *block)
        {
            found = Some(c);
        }
    });
    found
}

impl<'k> Walk<'k> {
    /// Where in a list a loop is whose iterations are processes after.
    pub(crate) fn maps_space(&self, b: &[Stmt], a: &[Stmt]) -> Option<usize> {
        let more = a.len().checked_sub(b.len()).filter(|more| !self.network && more % 2 == 0)?;
        (0..b.len()).find(|p| match (&b[*p], process(&a[p + more])) {
            (Stmt::For(l), Some(m)) => l.var == m.var && &*l.level != PROCESS,
            _ => false,
        })
    }

    /// The loop at `p`.
    pub(crate) fn space_mapped(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        p: usize,
    ) -> Result<(), Refusal> {
        let count = (a.len() - b.len()) / 2;
        let (made, feeders) = a[p..p + 2 * count].split_at(count);
        self.pairs(now, &b[..p], &a[..p])?;
        self.pairs(now, &b[p + 1..], &a[p + 2 * count + 1..])?;
        let (mut space, mut body, mut inside): (Space, _, _) =
            (vec![], std::slice::from_ref(&b[p]), std::slice::from_ref(&a[p + 2 * count]));
        while let ([Stmt::For(l)], [m]) = (body, inside)
            && let Some(m) = process(m)
        {
            let alike = l.var == m.var && l.iter == Iter::Spatial && l.extent == m.extent;
            if !alike || !in_order(l) || l.extent.as_int().is_none_or(|n| n < 1) {
                return differs(format!("iterations of '{}' are no places", l.var));
            }
            space.push((l, m));
            (body, inside) = (&l.body, &m.body);
        }
        // No two iterations meet.
        let mut s = now.scope.clone();
        let moment = |s: &mut Scope| -> Result<(Env, Vec<Term>), Refusal> {
            let mut env = Env { apart: true, ..now.before.clone() };
            let at = space
                .iter()
                .map(|(l, _)| s.iteration(&l.var, &l.extent, &mut env))
                .collect::<Result<_, _>>()?;
            Ok((env, at))
        };
        let (first, second) = (moment(&mut s)?, moment(&mut s)?);
        s.precedes(&first.1, &second.1)?;
        self.apart(&s, &first.0, &second.0, body, false)?;
        let mut now = now.clone();
        for (l, m) in &space {
            now = now.iteration(l, m)?;
        }
        let flows = made.iter().zip(feeders).map(|(c, f)| self.flow(&now, &space, inside, (c, f)));
        self.flows = flows.collect::<Result<_, _>>()?;
        let walked = self.list(&now, body, inside);
        self.flows.clear();
        walked
    }

    /// What travels through an array of channels that a process at the edge feeds.
    fn flow(
        &mut self,
        now: &Sides,
        space: &Space<'k>,
        body: &'k [Stmt],
        (channel, feeder): (&'k Stmt, &'k Stmt),
    ) -> Result<Flow<'k>, Refusal> {
        let (Stmt::Alloc(c), Some((loops, edge))) = (channel, nest(feeder)) else {
            return differs("nothing is fed");
        };
        let name = &c.name;
        let (pushes, pops) = users(body, name);
        let ([hand], [pop]) = (pushes.as_slice(), pops.as_slice()) else {
            return differs(format!("'{name}' is not popped from and handed on once"));
        };
        let own =
            self.before.buffer(name).is_none() && &*c.memory == CHANNEL && c.shape.len() == space.len() + 1;
        let places: Vec<Expr> = space.iter().map(|(l, _)| Expr::var(&l.var)).collect();
        let ([(value, _)], [(_, next)], [read]) =
            (pop.targets.as_slice(), hand.targets.as_slice(), edge.values.as_slice())
        else {
            return differs(format!("'{name}' carries several values"));
        };
        let pops = pop.values == [Expr::load(name, &places)] && pop.targets == [(value.clone(), vec![])];
        let hands = hand.values == [Expr::load(value, &[])];
        let plain = [*pop, *hand, edge].iter().all(|b| b.reducer.is_none());
        if !(own && pops && hands && plain) || next.len() != space.len() {
            return differs(format!("what is popped from '{name}' is not handed on"));
        }
        // To the next process along one of the loops, as long as there is one.
        let mut s = now.scope.clone();
        let mut along = None;
        for (d, (to, from)) in next.iter().zip(&places).enumerate() {
            let (to, from) = (s.term(to, &now.after)?, s.term(from, &now.after)?);
            match exact(to.sub(&from))?.as_constant() {
                Some(0) => {}
                Some(by @ (1 | -1)) if along.is_none() => along = Some((d, by, from)),
                _ => return differs(format!("'{}' leads to no neighbour", hand.name)),
            }
        }
        let Some((d, by, at)) = along else { return differs(format!("'{}' leads nowhere", hand.name)) };
        let last = i128::from(space[d].0.extent.as_int().unwrap_or_default()) - 1;
        let Some(further) = condition(body, &hand.name) else {
            return differs(format!("'{}' hands on at the end", hand.name));
        };
        let Node::Binary(Binary::Lt, x, y) = &**further else {
            return differs(format!("'{}' hands on where nobody is known to be", hand.name));
        };
        let room = exact(s.term(y, &now.after)?.sub(&s.term(x, &now.after)?))?;
        let left = if by > 0 { exact(Term::constant(last).sub(&at))? } else { at };
        if room != left {
            return differs(format!("'{}' hands on to nobody, or not to all", hand.name));
        }
        // The edge: a process for each place in the other directions, and in it the loops of time.
        let others: Vec<usize> = (0..space.len()).filter(|o| *o != d).collect();
        let processes = loops.iter().take_while(|l| &*l.level == PROCESS).count();
        let (across, time) = loops.split_at(processes);
        let single = others.is_empty() && across.len() == 1 && across[0].extent.as_int() == Some(1);
        let each = across.len() == others.len()
            && across.iter().zip(&others).all(|(l, o)| l.extent == space[*o].0.extent);
        let Some(around) = loops_around(body, &pop.name).filter(|_| single || each) else {
            return differs(format!("'{name}' is not fed in each place"));
        };
        let (mut enters, mut here) = (places.clone(), vec![]);
        enters[d] = if by > 0 { 0.into() } else { Expr::from(last as i64) };
        for (l, o) in across.iter().zip(&others) {
            enters[*o] = Expr::var(&l.var);
            here.push((&l.var, &space[*o].1.var));
        }
        if edge.targets != [(name.clone(), enters)] || time.len() != around.len() {
            return differs(format!("'{}' does not feed the edge", edge.name));
        }
        // In time, both go on together.
        let words = |e: &Expr, here: &[(&Name, &Name)]| {
            e.rewrite(&|e| match &**e {
                Node::Var(v) => here.iter().find(|(n, _)| *n == v).map(|(_, n)| Expr::var(n)),
                _ => None,
            })
        };
        let mut env = now.after.clone();
        for (f, t) in time.iter().zip(&around) {
            if ![f, t].iter().all(|l| in_order(l) && !self.world.volatile(&l.extent)) {
                return differs(format!("'{}' and '{}' do not take turns", f.var, t.var));
            }
            let (n, m) = (s.term(&words(&f.extent, &here), &env)?, s.term(&t.extent, &env)?);
            self.equal(&s, &n, &m, &format!("as much of '{name}' is pushed as is popped"))?;
            s.iteration(&t.var, &t.extent, &mut env)?;
            here.push((&f.var, &t.var));
        }
        let Node::Load(from, _) = &**read else {
            return differs(format!("'{}' reads no element", edge.name));
        };
        let like =
            |n: &Name| self.world.after.get(n).is_some_and(|b| b.dtype == c.dtype && &*b.memory != CHANNEL);
        if !like(from) || !like(value) || self.world.volatile(read) {
            return differs(format!("'{}' reads what changes", edge.name));
        }
        Ok(Flow { value, pop, hand, further, element: words(read, &here) })
    }

    /// Whether values are popped in a list after.
    pub(crate) fn travels(&self, a: &[Stmt]) -> bool {
        a.iter().any(|s| self.arrives(s).is_some())
    }

    /// What a temporary is popped for.
    fn arrives(&self, s: &Stmt) -> Option<usize> {
        let Stmt::Alloc(t) = s else { return None };
        self.flows.iter().position(|f| *f.value == t.name)
    }

    /// A list in which values are popped, and handed on, right before the block that uses them.
    pub(crate) fn traveled(&mut self, now: &Sides, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
        let mut at = 0;
        for s in b {
            let mut taken: Vec<(&Name, Expr)> = vec![];
            while let Some(f) = a.get(at).and_then(|s| self.arrives(s)) {
                let f = &self.flows[f];
                let scalar = |t: &Buffer| t.shape.is_empty() && t.layout == Layout::dense(t.dtype, &[]);
                let hand = |b: &[Stmt]| matches!(b, [Stmt::Store(b)] if b.name == f.hand.name);
                match a.get(at..at + 3) {
                    Some([Stmt::Alloc(t), Stmt::Store(pop), Stmt::If(c, b)])
                        if scalar(t) && pop.name == f.pop.name && c == f.further && hand(b) => {}
                    _ => return differs(format!("'{}' is not popped and handed on", f.value)),
                }
                if self.before.buffer(f.value).is_some() {
                    return differs(format!("'{}' is not new", f.value));
                }
                taken.push((f.value, f.element.clone()));
                at += 3;
            }
            let Some(next) = a.get(at) else { return differs("statements are missing") };
            at += 1;
            if taken.is_empty() {
                self.statement(now, s, next)?;
                continue;
            }
            let (Stmt::Store(block), Stmt::Store(uses)) = (s, next) else {
                return differs(format!("nobody uses '{}'", taken[0].0));
            };
            for (v, _) in &taken {
                if !uses.values.iter().any(|e| always_reads(e, v)) || touches(&a[at..], v) > 0 {
                    return differs(format!("'{v}' is not used by '{}' alone", uses.name));
                }
            }
            let back = |e: &Expr| {
                e.rewrite(&|e| match &**e {
                    Node::Load(n, _) => taken.iter().find(|(v, _)| *v == n).map(|(_, e)| e.clone()),
                    _ => None,
                })
            };
            let values = uses.values.iter().map(back).collect();
            self.store(now, block, &Store { values, ..(**uses).clone() })?;
        }
        match at == a.len() {
            true => Ok(()),
            false => differs("statements are new"),
        }
    }
}
