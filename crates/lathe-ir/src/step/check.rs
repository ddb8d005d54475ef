//! The checker of step programs: known buffers and events, parts inside their buffers, kernels that reach one tier only, no
//! waiting forever, and no two steps that may run at the same time and touch the same bytes unless both only read them.
//!
//! All of this is decided on the loops written out, so it is exact: as one queue signals an event and one waits for it, which
//! step comes before which is the same in every run. A program in which the number of iterations or a part follows from a
//! dimension is looked at when its dimensions are bound: the executor and the interpreter do.

use super::{Bytes, Cost, Op, Program, Step, Storage, Unit, Unrolled, order, unroll};
use crate::{Int, IrError};
use std::collections::{HashMap, HashSet};

/// Pairs of steps that the search for races looks at, at most.
const MOST_PAIRS: usize = 1 << 26;

/// Whether two pieces share bytes: of the same buffer, or of planned ones in one tier.
pub fn overlap(p: &Program, a: Bytes, b: Bytes) -> bool {
    let (x, y) = (&p.buffers[a.buffer as usize], &p.buffers[b.buffer as usize]);
    let (i, j) = match (&x.storage, &y.storage) {
        _ if a.buffer == b.buffer => (0, 0),
        (Storage::Planned(i), Storage::Planned(j)) if x.tier == y.tier => (*i, *j),
        _ => return false,
    };
    let (i, j) = (i.saturating_add(a.offset), j.saturating_add(b.offset));
    i < j.saturating_add(b.len) && j < i.saturating_add(a.len)
}

/// The name of a buffer that both touch and one of them writes.
fn clash<'p>(p: &'p Program, a: &[(Bytes, bool)], b: &[(Bytes, bool)]) -> Option<&'p str> {
    let hits = |(x, wx): &(Bytes, bool)| b.iter().any(|(y, wy)| (*wx || *wy) && overlap(p, *x, *y));
    a.iter().find(|x| hits(x)).map(|(x, _)| &*p.buffers[x.buffer as usize].name)
}

/// What a step holds.
fn holds<'o>(op: &'o Op<'_>) -> &'o [(Bytes, Bytes, i64)] {
    match op {
        Op::Hold(held, ..) | Op::Split(held, _) => held,
        _ => &[],
    }
}

/// Whether one of two steps brings pages and the other computes with those that the same split found there, and they touch no other
/// bytes together: a kernel reads pages of its own segments only.
fn beside(p: &Program, ops: [&Op<'_>; 2]) -> bool {
    let ([hold @ Op::Hold(held, _, Some(here)), call @ Op::Call(_, args)]
    | [call @ Op::Call(_, args), hold @ Op::Hold(held, _, Some(here))]) = ops
    else {
        return false;
    };
    let place = |b: &Bytes| held.iter().any(|h| h.1 == *b);
    let others: Vec<_> = call.touches().into_iter().filter(|(b, written)| *written || !place(b)).collect();
    args.contains(&(*here, false)) && clash(p, &hold.touches(), &others).is_none()
}

/// Whether two calls or copies must not run at the same time, with dimensions at their upper bounds; a part whose place depends on
/// a variable counts as its whole buffer.
pub fn conflicts(p: &Program, a: &Step, b: &Step, bound: &dyn Fn(&str) -> Option<i64>) -> bool {
    let touches = |s: &Step| -> Vec<(Bytes, bool)> {
        let whole = |part: &super::Part, w| {
            let known = |(at, len): &(Int, Int)| Some((at.as_const()?, len.as_const()?));
            let all = || (0, p.buffers[part.buffer as usize].bytes.eval(bound).unwrap_or(i64::MAX / 4));
            let (offset, len) = part.range.as_ref().and_then(known).unwrap_or_else(all);
            (Bytes { buffer: part.buffer, offset, len }, w)
        };
        match s {
            Step::Call { args, writes, .. } => args.iter().zip(writes).map(|(a, w)| whole(a, *w)).collect(),
            Step::Copy { from, to } => vec![whole(from, false), whole(to, true)],
            Step::Pages { from, to, list, .. } => {
                vec![whole(from, false), whole(to, true), whole(list, false)]
            }
            Step::Hold { held, offsets, beside } => {
                let each = held.iter().flat_map(|h| [whole(&h.from, false), whole(&h.to, true)]);
                each.chain(offsets.iter().chain(beside).map(|o| whole(o, false))).collect()
            }
            Step::Split { held, segments: s } => {
                let each = held.iter().flat_map(|h| [whole(&h.from, false), whole(&h.to, true)]);
                let each = each.chain(s.reads().map(|p| whole(p, false)));
                each.chain(s.writes().map(|p| whole(p, true))).collect()
            }
            _ => vec![],
        }
    };
    // The same buffer conflicts even when it is empty.
    let (a, b) = (touches(a), touches(b));
    let same = |x: &Bytes, y: &Bytes| x.buffer == y.buffer && x.offset == y.offset;
    a.iter().any(|(x, wx)| b.iter().any(|(y, wy)| (*wx || *wy) && same(x, y))) || clash(p, &a, &b).is_some()
}

/// Checks a program whose dimensions stay below 2^20.
pub fn check(p: &Program) -> Result<(), IrError> {
    let mut names = HashSet::new();
    let buffers = p.buffers.iter().map(|b| ("buffers", &*b.name));
    let events = p.events.iter().map(|e| ("events", &*e.name));
    let queues = p.all_queues().map(|(name, _)| ("queues", name));
    for (kind, name) in buffers.chain(events).chain(queues) {
        if !names.insert((kind, name)) {
            return Err(IrError::check(format!("{}/{name}", p.name), format!("two {kind} of this name")));
        }
    }
    let early =
        |what: &str, name: &str| IrError::check(format!("{}/{name}", p.name), format!("{what} is negative"));
    if let Some(e) = p.events.iter().find(|e| e.count < 0) {
        return Err(early("its count", &e.name));
    }
    if let Some(b) = p.buffers.iter().find(|b| matches!(b.storage, Storage::Planned(at) if at < 0)) {
        return Err(early("its place", &b.name));
    }
    if p.mentions_dims(false) {
        return Ok(());
    }
    // Buffers whose sizes depend on a dimension may be as large as the bound allows.
    unroll(p, &|n| p.dims.iter().any(|d| &**d == n).then_some(1 << 20))?.check()
}

/// Checks the programs of all ranks, and that they do not wait for each other forever.
pub fn check_ranks(ranks: &[Unrolled<'_>]) -> Result<(), IrError> {
    ranks.iter().try_for_each(Unrolled::check)?;
    order(ranks, &mut |_, _| Ok(Cost::default()))?;
    for (rank, r) in ranks.iter().enumerate() {
        for u in r.queues.iter().flatten() {
            if let Op::Send(_, peer, _) | Op::Receive(_, peer, _) = u.op
                && (peer as usize >= ranks.len() || peer as usize == rank)
            {
                return Err(IrError::check(&*u.place, format!("rank {rank} has no peer {peer}")));
            }
        }
    }
    Ok(())
}

impl Unrolled<'_> {
    /// Checks a program with its dimensions bound.
    pub fn check(&self) -> Result<(), IrError> {
        let p = self.program;
        for queue in &self.queues {
            let mut open: Vec<Vec<(Bytes, bool)>> = vec![];
            for u in queue {
                let touched = u.op.touches();
                if let Op::Call(_, args) = &u.op {
                    let tier = |(b, _): &(Bytes, bool)| &p.buffers[b.buffer as usize].tier;
                    if let Some(other) = args.iter().find(|a| tier(a) != tier(&args[0])) {
                        let what = format!(
                            "a kernel reaches one tier, not both {} and {}",
                            tier(&args[0]),
                            tier(other)
                        );
                        return Err(IrError::check(&*u.place, what));
                    }
                }
                if !u.op.is_shared() {
                    open.clear();
                    continue;
                }
                if open.iter().any(|o| clash(p, o, &touched).is_some()) {
                    let what = "it touches what an earlier step touches, without a meeting between";
                    return Err(IrError::check(&*u.place, what));
                }
                open.push(touched);
            }
        }
        self.one_to_one()?;
        self.held()?;
        self.races()
    }

    /// What is held stays what it was: nothing writes the sources, and nothing but the same holding its places.
    fn held(&self) -> Result<(), IrError> {
        let units = || self.queues.iter().flatten();
        let mut all: Vec<&(Bytes, Bytes, i64)> = vec![];
        for u in units() {
            for h in holds(&u.op) {
                let apart = |o: &&&(Bytes, Bytes, i64)| **o != h && overlap(self.program, o.1, h.1);
                if all.iter().any(|o| apart(&o)) {
                    return Err(IrError::check(&*u.place, "it holds pages where others are held"));
                }
                if !all.contains(&h) {
                    all.push(h);
                }
            }
        }
        for u in units().filter(|_| !all.is_empty()) {
            for (b, _) in u.op.touches().iter().filter(|(_, written)| *written) {
                let own = holds(&u.op).iter().any(|h| h.1 == *b);
                let hit = |h: &&&(Bytes, Bytes, i64)| {
                    overlap(self.program, h.0, *b) || (!own && overlap(self.program, h.1, *b))
                };
                if all.iter().any(|h| hit(&h)) {
                    return Err(IrError::check(&*u.place, "it writes pages that are held, or their source"));
                }
            }
            if let Op::Hold(held, by, Some(beside)) = &u.op {
                let left = |u: &Unit<'_>| match &u.op {
                    Op::Split(of, s) => {
                        of == held && Some(s.come.offsets) == *by && s.here.offsets == *beside
                    }
                    _ => false,
                };
                if !units().any(left) {
                    let what = "it holds what comes beside what is here, and no split says so";
                    return Err(IrError::check(&*u.place, what));
                }
            }
        }
        Ok(())
    }

    /// Each event has one queue that signals it and one that waits for it; so with the messages of a rank and tag.
    fn one_to_one(&self) -> Result<(), IrError> {
        let mut users: HashMap<(&str, u64, u64), usize> = HashMap::new();
        for (queue, u) in self.queues.iter().enumerate().flat_map(|(q, us)| us.iter().map(move |u| (q, u))) {
            let (key, what) = match u.op {
                Op::Signal(e) => (("signal", u64::from(e), 0), "another queue signals this event too"),
                Op::Wait(e) => (("wait", u64::from(e), 0), "another queue waits for this event too"),
                Op::Send(_, r, t) => {
                    (("send", u64::from(r), t), "another queue sends to this rank and tag too")
                }
                Op::Receive(_, r, t) => {
                    (("receive", u64::from(r), t), "another queue receives from this rank and tag too")
                }
                _ => continue,
            };
            if *users.entry(key).or_insert(queue) != queue {
                return Err(IrError::check(&*u.place, what));
            }
        }
        Ok(())
    }

    /// Steps of two queues that nothing orders and that touch the same bytes.
    fn races(&self) -> Result<(), IrError> {
        let ordered = order(std::slice::from_ref(self), &mut |_, _| Ok(Cost::default()))?;
        let n = self.queues.len();
        if n == 1 {
            return Ok(());
        }
        // For each step, how many steps of each queue are over when it begins.
        let mut before: Vec<Vec<Vec<usize>>> = self.queues.iter().map(|q| vec![vec![]; q.len()]).collect();
        let mut now = vec![vec![0usize; n]; n];
        let mut signals: HashMap<u32, (Vec<Vec<usize>>, i64)> = HashMap::new();
        for t in ordered {
            let unit = &self.queues[t.queue][t.index];
            if let Op::Wait(e) = unit.op {
                let entry = signals.entry(e).or_default();
                let nth = entry.1 - self.program.events[e as usize].count;
                entry.1 += 1;
                if let Some(clock) = usize::try_from(nth).ok().and_then(|k| entry.0.get(k)) {
                    now[t.queue]
                        .iter_mut()
                        .zip(clock)
                        .for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
                }
            }
            before[t.queue][t.index] = now[t.queue].clone();
            now[t.queue][t.queue] = t.index + 1;
            if let Op::Signal(e) = unit.op {
                signals.entry(e).or_default().0.push(now[t.queue].clone());
            }
        }
        let touched = |units: &[Unit<'_>]| units.iter().map(|u| u.op.touches()).collect::<Vec<_>>();
        let touched: Vec<_> = self.queues.iter().map(|q| touched(q)).collect();
        let mut pairs = 0;
        for (a, b) in (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))) {
            for (j, second) in touched[b].iter().enumerate().filter(|(_, t)| !t.is_empty()) {
                for (i, first) in touched[a].iter().enumerate().skip(before[b][j][a]) {
                    if before[a][i][b] > j {
                        break;
                    }
                    pairs += 1;
                    let place = &*self.queues[b][j].place;
                    if pairs > MOST_PAIRS {
                        return Err(IrError::check(
                            place,
                            "too many steps run beside each other to be checked",
                        ));
                    }
                    let ops = [&self.queues[a][i].op, &self.queues[b][j].op];
                    let clash = clash(self.program, first, second).filter(|_| !beside(self.program, ops));
                    if let Some(name) = clash {
                        let other = &self.queues[a][i].place;
                        let what = format!("it races with {other} for '{name}': no event orders them");
                        return Err(IrError::check(place, what));
                    }
                }
            }
        }
        Ok(())
    }
}
