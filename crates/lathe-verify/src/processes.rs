//! The rule of a process cut in two: statements become a process that computes a temporary and one that does the rest, with a
//! channel for the temporary's values between them. What each does is what was done, in the order in which it was done; they share
//! nothing but the channel, which the check of programs knows; and what is popped is what was pushed for it. So there is a run of
//! both that does what was done before, one statement after the other, and as processes decide nothing by their turns, all runs
//! leave the same and end (`Networks.v`).
//!
//! The loops and conditions around the temporary are around both parts. Where the temporary is declared, each statement goes to one
//! part. A temporary of one element is pushed when it is complete. Of an array each element is written once, and read in the order
//! in which it is written; the parts then take turns in another order than before, which other channels might notice: one of
//! the parts has none.

use crate::Refusal;
use crate::meet::{every_access, touches};
use crate::obligations::{Walk, differs, in_order};
use crate::scope::{Env, Scope, Sides};
use lathe_check::Term;
use lathe_ir::tensor::{Buffer, CHANNEL, Expr, For, Iter, Node, PROCESS, Stmt, Store, find_loop, for_each};
use lathe_ir::{Layout, Name};

/// Where in a list after a new channel and a new process are; the process behind it is the rest of what it was cut from.
#[derive(Clone, Copy)]
pub(crate) struct CutAt {
    channel: usize,
    process: usize,
}

/// What is sent.
pub(crate) struct Cut<'k> {
    temporary: &'k Buffer,
    channel: &'k Buffer,
    push: &'k Store,
    pop: &'k Store,
}

/// A list of statements before, and those of both processes.
type Parts<'k> = (&'k [Stmt], &'k [Stmt], &'k [Stmt]);

/// A process that is alone.
fn alone(s: &Stmt) -> Option<&For> {
    match s {
        Stmt::For(l) if &*l.level == PROCESS && l.extent.as_int() == Some(1) && l.iter == Iter::Spatial => {
            Some(l)
        }
        _ => None,
    }
}

fn declares(s: &Stmt, name: &Name) -> bool {
    let mut found = false;
    for_each(std::slice::from_ref(s), &mut |s| found |= matches!(s, Stmt::Alloc(b) if b.name == *name));
    found
}

/// The name of a statement, or of the first one in it that has one.
fn name(s: &Stmt) -> Option<&Name> {
    match s {
        Stmt::For(l) => Some(&l.var),
        Stmt::Store(b) => Some(&b.name),
        Stmt::Alloc(b) => Some(&b.name),
        Stmt::If(_, b) | Stmt::Intrinsic(_, b) => b.iter().find_map(name),
    }
}

/// The blocks that store to a buffer, and those that read it in their values.
pub(crate) fn users<'k>(body: &'k [Stmt], name: &Name) -> (Vec<&'k Store>, Vec<&'k Store>) {
    let (mut writers, mut readers) = (vec![], vec![]);
    for_each(body, &mut |s| {
        if let Stmt::Store(b) = s {
            if b.targets.iter().any(|(n, _)| n == name) {
                writers.push(&**b);
            }
            if b.values.iter().any(|v| v.loads(name)) {
                readers.push(&**b);
            }
        }
    });
    (writers, readers)
}

/// The loops around a block, outermost first; nothing where anything else is around it.
pub(crate) fn loops_around<'k>(body: &'k [Stmt], block: &Name) -> Option<Vec<&'k For>> {
    body.iter().find_map(|s| match s {
        Stmt::Store(b) if b.name == *block => Some(vec![]),
        Stmt::For(l) => loops_around(&l.body, block).map(|inner| [vec![&**l], inner].concat()),
        _ => None,
    })
}

impl<'k> Walk<'k> {
    /// Whether statements push or pop, but by these blocks.
    fn waits(&self, body: &'k [Stmt], but: &[&Store]) -> bool {
        let channel = |n: &Name| self.world.after.get(n).is_some_and(|b| &*b.memory == CHANNEL);
        let mut found = false;
        for_each(body, &mut |s| {
            if let Stmt::Store(b) = s
                && but.iter().all(|other| other.name != b.name)
            {
                found |= b.targets.iter().any(|(n, _)| channel(n));
                b.values
                    .iter()
                    .for_each(|v| v.visit(&mut |e| found |= matches!(&**e, Node::Load(n, _) if channel(n))));
            }
        });
        found
    }

    /// Where in a list after a process is that was cut from another one, or from all of the list before.
    pub(crate) fn cuts_process(&self, b: &[Stmt], a: &[Stmt]) -> Option<CutAt> {
        let new = |b: &Buffer| &*b.memory == CHANNEL && self.before.buffer(&b.name).is_none();
        let channel = a.iter().position(|s| matches!(s, Stmt::Alloc(b) if new(b)))?;
        let process = a
            .iter()
            .position(|s| alone(s).is_some_and(|l| find_loop(&self.before.body, &l.var).is_none()))?;
        alone(a.get(process + 1)?)?;
        let all = b.as_ptr() == self.before.body.as_ptr() && a.len() == 3 && channel == 0;
        ((all && !self.network) || (self.network && a.len() == b.len() + 2))
            .then_some(CutAt { channel, process })
    }

    pub(crate) fn process_cut(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        at: CutAt,
    ) -> Result<(), Refusal> {
        let (Stmt::Alloc(channel), Some(p), Some(q)) =
            (&a[at.channel], alone(&a[at.process]), alone(&a[at.process + 1]))
        else {
            return differs("no process is cut");
        };
        let (to, from) = (users(&p.body, &channel.name), users(&q.body, &channel.name));
        let ([push], []) = (to.0.as_slice(), to.1.as_slice()) else {
            return differs(format!("'{}' is not pushed to once by '{}'", channel.name, p.var));
        };
        let ([], [pop]) = (from.0.as_slice(), from.1.as_slice()) else {
            return differs(format!("'{}' is not popped from once by '{}'", channel.name, q.var));
        };
        let all = users(a, &channel.name);
        if all.0.len() + all.1.len() != 2 {
            return differs(format!("'{}' is used elsewhere too", channel.name));
        }
        // The temporary is what the push reads, or what its block wrote before.
        let was = lathe_ir::tensor::find_block(&self.before.body, &push.name);
        let sent = match (&was, push.values.as_slice()) {
            (Some(w), _) => w.targets.first().map(|(n, _)| n.clone()),
            (None, [v]) => match &**v {
                Node::Load(n, _) => Some(n.clone()),
                _ => None,
            },
            _ => None,
        };
        let temporary = sent.and_then(|n| self.world.buffers.get(&n).copied());
        let like =
            |t: &&Buffer| t.dtype == channel.dtype && &*t.memory != CHANNEL && channel.shape.len() == 1;
        let Some(temporary) = temporary.filter(like).filter(|t| !self.world.home.contains_key(&t.name))
        else {
            return differs(format!("'{}' does not carry a temporary", channel.name));
        };
        let cut = Cut { temporary, channel, push, pop };
        let mut now = now.clone();
        now.after.vars.extend([p, q].map(|l| (l.var.clone(), Term::default())));
        if !self.network {
            return self.halves(&now, &cut, (b, &p.body, &q.body));
        }
        let rest = (0..a.len()).filter(|i| ![at.channel, at.process].contains(i));
        for (s, i) in b.iter().zip(rest) {
            if i != at.process + 1 {
                self.statement(&now, s, &a[i])?;
                continue;
            }
            let Some(l) = alone(s).filter(|l| l.var == q.var) else {
                return differs(format!("'{}' was no process", q.var));
            };
            let mut now = now.clone();
            now.before.vars.insert(l.var.clone(), Term::default());
            self.halves(&now, &cut, (&l.body, &p.body, &q.body))?;
        }
        Ok(())
    }

    /// Goes in to the list that declares the temporary. The loops and conditions on the way are around both parts; what is beside
    /// them is the rest.
    fn halves(&mut self, now: &Sides, cut: &Cut<'k>, (b, p, q): Parts<'k>) -> Result<(), Refusal> {
        let name = &cut.temporary.name;
        if b.iter().any(|s| matches!(s, Stmt::Alloc(t) if t.name == *name)) {
            return match cut.temporary.shape.is_empty() {
                true => self.value_sent(now, cut, (b, p, q)),
                false => self.array_sent(now, cut, (b, p, q)),
            };
        }
        let at = b.iter().position(|s| declares(s, name));
        let ([made], Some(at), true) = (p, at, q.len() == b.len()) else {
            return differs(format!("what computes '{name}' is more than what is around it"));
        };
        self.pairs(now, &b[..at], &q[..at])?;
        self.pairs(now, &b[at + 1..], &q[at + 1..])?;
        match (&b[at], made, &q[at]) {
            (Stmt::For(l), Stmt::For(m), Stmt::For(r)) => {
                for half in [m, r] {
                    if !in_order(l) || !in_order(half) || !is_kind(l.iter, half.iter) {
                        return differs(format!("the loops '{}' and '{}' differ", l.var, half.var));
                    }
                    self.same(now, &l.extent, &half.extent, &half.var)?;
                }
                let mut now = now.iteration(l, m)?;
                now.after.vars.insert(r.var.clone(), now.before.vars[&l.var].clone());
                self.halves(&now, cut, (&l.body, &m.body, &r.body))
            }
            (Stmt::If(c, b), Stmt::If(d, p), Stmt::If(e, q)) => {
                self.same(now, c, d, "if")?;
                self.same(now, c, e, "if")?;
                self.halves(now, cut, (b, p, q))
            }
            _ => differs(format!("'{name}' is inside of another statement")),
        }
    }

    /// Each statement before is the next one of the one part or of the other. Gives for each whether it is of the first part.
    fn shared_out(
        &mut self,
        now: &Sides,
        (b, made, rest): Parts<'k>,
        between: &dyn Fn(&Stmt) -> bool,
    ) -> Result<Vec<bool>, Refusal> {
        let (mut p, mut q, mut goes) = (0, 0, vec![]);
        for s in b {
            if between(s) {
                goes.push(true);
                continue;
            }
            let first = made.get(p).is_some_and(|m| name(m).is_some() && name(m) == name(s));
            let (part, at) = if first { (made, &mut p) } else { (rest, &mut q) };
            let Some(next) = part.get(*at) else { return differs("statements are missing") };
            *at += 1;
            goes.push(first);
            self.statement(now, s, next)?;
        }
        match p == made.len() && q == rest.len() {
            true => Ok(goes),
            false => differs("statements are new"),
        }
    }

    /// A temporary of one element: it is declared in both parts, pushed at the end of the first and popped at the beginning of the
    /// second. What the second did before that does not touch it, and waits for nothing that the first does.
    fn value_sent(&mut self, now: &Sides, cut: &Cut<'k>, (b, p, q): Parts<'k>) -> Result<(), Refusal> {
        let t = cut.temporary;
        let declared = |s: &Stmt| matches!(s, Stmt::Alloc(u) if **u == *t);
        let (Some((own, Some((push, made)))), [also, pop, rest @ ..]) =
            (p.split_first().map(|(own, more)| (own, more.split_last())), q)
        else {
            return differs(format!("'{}' is not sent", t.name));
        };
        let value = |n: &Name| Expr::load(n, &[]);
        let is = |s: &Stmt, block: &Store, to: &Name, from: &Name| {
            let plain = block.reducer.is_none() && block.targets == [(to.clone(), vec![])];
            matches!(s, Stmt::Store(b) if b.name == block.name) && plain && block.values == [value(from)]
        };
        let sends =
            is(push, cut.push, &cut.channel.name, &t.name) && is(pop, cut.pop, &t.name, &cut.channel.name);
        if !(declared(own) && declared(also) && sends) || t.layout != Layout::dense(t.dtype, &[]) {
            return differs(format!("'{}' is not sent as it is", t.name));
        }
        let goes = self.shared_out(now, (b, made, rest), &declared)?;
        let last = goes.iter().rposition(|first| *first).unwrap_or(0);
        let mut waits = false;
        for (s, first) in b[..last].iter().zip(&goes) {
            let s = std::slice::from_ref(s);
            if !first && touches(s, &t.name) > 0 {
                return differs(format!("'{}' is used before it is complete", t.name));
            }
            waits |= !first && self.waits(s, &[cut.push, cut.pop]);
        }
        match waits && self.waits(made, &[cut.push, cut.pop]) {
            true => differs("both processes wait for others, in another order than before"),
            false => Ok(()),
        }
    }

    /// An array: the block that wrote an element pushes it, and that which read it pops it first.
    fn array_sent(&mut self, now: &Sides, cut: &Cut<'k>, (b, p, q): Parts<'k>) -> Result<(), Refusal> {
        let t = &cut.temporary.name;
        let (writers, readers) = users(b, t);
        let ([writer], [reader]) = (writers.as_slice(), readers.as_slice()) else {
            return differs(format!("'{t}' is not written by one block and read by one other"));
        };
        let (writer, reader) = (*writer, *reader);
        let all = every_access(b).into_iter().filter(|a| a.buffer == *t);
        let (reads, writes): (Vec<_>, Vec<_>) = all.partition(|a| a.is_read());
        let ([write], [read, ..]) = (writes.as_slice(), reads.as_slice()) else {
            return differs(format!("'{t}' is written in several places"));
        };
        let (to, from) = (&write.index, &read.index);
        let plain = writer.reducer.is_none() && writer.targets.len() == 1 && writer.name != reader.name;
        let mut inside = 0;
        reader.values.iter().for_each(|v| {
            v.visit(&mut |e| inside += usize::from(matches!(&**e, Node::Load(n, i) if n == t && i == from)));
        });
        if !plain || inside != reads.len() || cut.push.name != writer.name {
            return differs(format!("'{t}' is not sent element by element"));
        }
        // Who writes comes before who reads, and one of the parts waits for nobody else.
        let holds = |s: &Stmt, block: &Store| {
            lathe_ir::tensor::find_block(std::slice::from_ref(s), &block.name).is_some()
        };
        let place = |block: &Store| b.iter().position(|s| holds(s, block));
        if place(writer) >= place(reader) {
            return differs(format!("'{t}' is read before it is written"));
        }
        let own = [cut.push, cut.pop];
        if self.waits(p, &own) && self.waits(q, &own) {
            return differs("both processes wait for others, in another order than before");
        }
        let (Some(lw), Some(lr)) = (loops_around(b, &writer.name), loops_around(b, &reader.name)) else {
            return differs(format!("whether elements of '{t}' are sent hangs on a condition"));
        };
        self.in_turn(now, cut, (&lw, to), (&lr, from))?;
        self.sent =
            Some((t.clone(), cut.channel.name.clone(), cut.pop.targets.first().map(|(n, _)| n.clone())));
        let declared = |s: &Stmt| matches!(s, Stmt::Alloc(u) if u.name == *t);
        let walked = self.shared_out(now, (b, p, q), &declared);
        self.sent = None;
        walked.map(|_| ())
    }

    /// What is read in an iteration was written in that of the same number, and nothing is written twice.
    fn in_turn(
        &mut self,
        now: &Sides,
        cut: &Cut<'k>,
        (lw, to): (&[&'k For], &[Expr]),
        (lr, from): (&[&'k For], &[Expr]),
    ) -> Result<(), Refusal> {
        let t = &cut.temporary.name;
        let mut each = lw.iter().chain(lr);
        let steady = |e: &Expr| !self.world.volatile(e);
        if lw.len() != lr.len()
            || each.any(|l| !in_order(l) || !steady(&l.extent))
            || !to.iter().chain(from).all(steady)
        {
            return differs(format!("'{t}' is not written and read in the same loops"));
        }
        let about = format!("'{t}' is read in the order in which it is written");
        let (mut s, mut w, mut r) = (now.scope.clone(), now.before.clone(), now.before.clone());
        for (x, y) in lw.iter().zip(lr) {
            let (n, m) = (s.term(&x.extent, &w)?, s.term(&y.extent, &r)?);
            self.equal(&s, &n, &m, &about)?;
            let i = s.iteration(&x.var, &x.extent, &mut w)?;
            r.vars.insert(y.var.clone(), i);
        }
        for (x, y) in to.iter().zip(from) {
            let (x, y) = (s.term(x, &w)?, s.term(y, &r)?);
            self.equal(&s, &x, &y, &about)?;
        }
        let mut s = now.scope.clone();
        let moment = |s: &mut Scope| -> Result<(Vec<Term>, Vec<Term>), Refusal> {
            let mut env = Env { apart: true, ..now.before.clone() };
            let at = lw.iter().map(|l| s.iteration(&l.var, &l.extent, &mut env)).collect::<Result<_, _>>()?;
            Ok((at, to.iter().map(|e| s.term(e, &env)).collect::<Result<_, _>>()?))
        };
        let (first, second) = (moment(&mut s)?, moment(&mut s)?);
        s.precedes(&first.0, &second.0)?;
        self.overlap(&mut s, (t, &first.1), (t, &second.1))?;
        self.never(s, &format!("each element of '{t}' is written once"));
        Ok(())
    }

    /// Whether an element that was written before is pushed now.
    pub(crate) fn is_pushed(&self, b: &Name, a: (&Name, &[Expr])) -> bool {
        self.sent.as_ref().is_some_and(|(t, c, _)| t == b && c == a.0 && a.1.is_empty())
    }

    /// Whether an element that was read before is what was popped.
    pub(crate) fn is_popped(&self, b: &Name, a: (&Name, &[Expr])) -> bool {
        self.sent.as_ref().is_some_and(|(t, _, v)| t == b && v.as_ref() == Some(a.0) && a.1.is_empty())
    }

    /// Where in a list after a value is popped, right in front of the block that uses it.
    pub(crate) fn pops(&self, b: &[Stmt], a: &[Stmt]) -> Option<usize> {
        let (_, channel, Some(value)) = self.sent.as_ref()? else { return None };
        let scalar =
            |t: &Buffer| t.name == *value && t.layout == Layout::dense(t.dtype, &[]) && t.shape.is_empty();
        let pop = |s: &Store| {
            s.reducer.is_none()
                && s.targets == [(value.clone(), vec![])]
                && s.values == [Expr::load(channel, &[])]
        };
        let new = self.before.buffer(value).is_none();
        let at = (0..b.len()).find(|p| {
            matches!(a.get(*p..*p + 3), Some([Stmt::Alloc(t), Stmt::Store(s), Stmt::Store(_)])
                if scalar(t) && &*t.memory != CHANNEL && pop(s))
        })?;
        (new && a.len() == b.len() + 2 && touches(&a[at + 3..], value) == 0).then_some(at)
    }

    /// The value popped at `p`: the block behind it is what it was.
    pub(crate) fn value_popped(
        &mut self,
        now: &Sides,
        (b, a): (&'k [Stmt], &'k [Stmt]),
        p: usize,
    ) -> Result<(), Refusal> {
        self.pairs(now, &b[..p], &a[..p])?;
        self.statement(now, &b[p], &a[p + 2])?;
        self.pairs(now, &b[p + 1..], &a[p + 3..])
    }
}

/// Whether iterations of the second kind may be those of the first: at most, their order is fixed.
pub(crate) fn is_kind(before: Iter, after: Iter) -> bool {
    before == after || (matches!(before, Iter::Spatial | Iter::Reduce) && after == Iter::Scan)
}
