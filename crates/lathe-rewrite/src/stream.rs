//! Constants that do not fit: they lie on another tier, one behind the other in the order in which a program reads them, and
//! come through a window of memory, each shortly before it is read.
//!
//! The window is a ring of *loads*, each one copy of what lies together. A queue of its own makes the copies, as early as the
//! window has room; the program waits for a load before its first reader, and gives its place back behind the last. The
//! first loads are in the window when a run begins, and at its end those of the next run are: the link is busy while the
//! last kernels compute. (FlexGen, arXiv 2303.06865, calls the same order of work its block schedule: a step of many
//! sequences uses each load for all of them.)
//!
//! Where there is a third tier, a window may itself be on the second one: loads that have no room there come through it, the
//! *relay*, by the same rewrite of the queue that copies them.

use lathe_ir::step::{Event, Part, Program, Queue, Step, StepBuffer, Storage};
use lathe_ir::tensor::HOST;
use lathe_ir::{Int, Name};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Some bytes of the other tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The constant.
    pub name: Name,
    /// Its first byte there.
    pub offset: i64,
    /// Bytes that are its own until the next one begins.
    pub len: i64,
    /// The step that reads it.
    pub reader: usize,
}

/// One copy, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// What it brings, in order of reading; they lie together.
    pub parts: Vec<Extent>,
    /// The window's byte that it begins at.
    pub place: i64,
    /// Whether it comes through a relay: it does not lie on the stream's tier, but below it.
    pub relayed: bool,
}

impl Load {
    /// The first byte on the other tier.
    pub fn offset(&self) -> i64 {
        self.parts[0].offset
    }

    /// Bytes of the copy.
    pub fn len(&self) -> i64 {
        self.parts.iter().map(|p| p.len).sum()
    }

    /// Whether it brings nothing, which none does.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn last_reader(&self) -> usize {
        self.parts.last().map_or(0, |p| p.reader)
    }

    fn overlaps(&self, other: &Load) -> bool {
        self.place < other.place + other.len() && other.place < self.place + self.len()
    }
}

/// How constants come through a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The tier that they lie on.
    pub tier: Name,
    /// Bytes of it.
    pub bytes: i64,
    /// The copies of a run, in order.
    pub loads: Vec<Load>,
    /// Bytes of the window.
    pub window: i64,
    /// How many of the loads are in the window when a run begins, and when it ends.
    pub carried: usize,
}

/// The name of the buffer that is the other tier.
pub const STORE: &str = "store";
/// The name of the buffer that is the window.
pub const WINDOW: &str = "window";
/// The name of the buffer that loads of a relay come from.
pub const RELAY_STORE: &str = "relay_store";
/// The name of the buffer that is a relay's window.
pub const RELAY: &str = "relay";

/// A load as a constant that the queue of a stream reads.
fn relayed(load: usize) -> Name {
    format!("load{load}").as_str().into()
}

/// The constants that a program reads in one call only, of those in `among`, with the step that does: what can be streamed, in
/// the order of the program.
pub fn read_once(program: &Program, among: &HashSet<&Name>) -> Vec<(Name, usize)> {
    let mut calls: HashMap<&Name, usize> = HashMap::new();
    let mut order = vec![];
    for (step, s) in program.steps.iter().enumerate() {
        let Step::Call { args, .. } = s else { continue };
        let called: HashSet<&Name> = args.iter().map(|a| &program.buffers[a.buffer as usize].name).collect();
        for a in args {
            let name = &program.buffers[a.buffer as usize].name;
            if among.contains(name) && !order.iter().any(|(n, _)| *n == name) {
                order.push((name, step));
            }
        }
        called.into_iter().for_each(|n| *calls.entry(n).or_default() += 1);
    }
    order.into_iter().filter(|(n, _)| calls[*n] == 1).map(|(n, step)| (n.clone(), step)).collect()
}

impl Stream {
    /// Makes loads of constants that lie on `tier` (of `bytes` bytes) in the order given: neighbours together until a load has
    /// `enough` bytes and all that its last step reads. `None` when the window does not hold the largest load twice (once,
    /// where it is the only one), or not all that a step reads.
    pub fn new(tier: &str, bytes: i64, extents: &[Extent], enough: i64, window: i64) -> Option<Stream> {
        let mut loads: Vec<Load> = vec![];
        for e in extents {
            match loads.last_mut() {
                Some(l)
                    if l.offset() + l.len() == e.offset
                        && (l.len() < enough || l.last_reader() == e.reader) =>
                {
                    l.parts.push(e.clone());
                }
                _ => loads.push(Load { parts: vec![e.clone()], place: 0, relayed: false }),
            }
        }
        let most = loads.iter().map(Load::len).max().unwrap_or(0);
        if window < most * (loads.len() as i64).min(2) {
            return None;
        }
        for k in 0..loads.len() {
            let (placed, rest) = loads.split_at_mut(k);
            let load = &mut rest[0];
            // What was placed long ago is overwritten first. Only what touches something can be a best place.
            let ends = placed.iter().flat_map(|l| [l.place + l.len(), l.place - load.len()]);
            let places: BTreeSet<i64> = ends
                .chain([0, window - load.len()])
                .filter(|p| *p >= 0 && p + load.len() <= window)
                .collect();
            let overwritten = |place: i64| {
                let there = Load { parts: load.parts.clone(), place, relayed: false };
                placed.iter().rposition(|l| l.overlaps(&there)).map_or(0, |i| i + 1)
            };
            let (over, place) = places.into_iter().map(|p| (overwritten(p), p)).min()?;
            if over > 0 && placed[over - 1].last_reader() >= load.parts[0].reader {
                return None;
            }
            load.place = place;
        }
        let apart = |k: &usize| loads[..*k].iter().all(|l| !l.overlaps(&loads[*k]));
        let carried = (0..loads.len()).take_while(apart).count();
        Some(Stream { tier: tier.into(), bytes, loads, window, carried })
    }

    /// The same with nothing on the other tier but what is copied from there, load behind load; and where each load lay. What is
    /// relayed stays where it was.
    pub fn compact(&self) -> (Stream, Vec<i64>) {
        let (mut s, mut end) = (self.clone(), 0);
        for load in s.loads.iter_mut().filter(|l| !l.relayed) {
            let by = end - load.offset();
            end += load.len();
            load.parts.iter_mut().for_each(|part| part.offset += by);
        }
        s.bytes = end;
        (s, self.loads.iter().map(Load::offset).collect())
    }

    /// Its loads, each as a constant, in the order in which the queue copies them: what a relay can be made of.
    pub fn as_constants(&self) -> Vec<Extent> {
        let n = self.loads.len();
        let load = |k: usize| Extent {
            name: relayed(k % n),
            offset: self.loads[k % n].offset(),
            len: self.loads[k % n].len(),
            reader: k,
        };
        (self.carried..n + self.carried).map(load).collect()
    }

    /// With the loads that another stream, of [its constants](Stream::as_constants), brings.
    pub fn relayed_by(mut self, relay: &Stream) -> Stream {
        let brought: HashSet<&Name> = relay.loads.iter().flat_map(|l| &l.parts).map(|e| &e.name).collect();
        for (k, load) in self.loads.iter_mut().enumerate() {
            load.relayed = brought.contains(&relayed(k));
        }
        self
    }

    /// Bytes that a run copies.
    pub fn copied(&self) -> i64 {
        self.loads.iter().map(Load::len).sum()
    }

    /// The program with a queue that brings the constants; it is given [`STORE`], the other tier, and [`WINDOW`], which holds the
    /// carried loads. The program must read each constant in one call, in the order of the loads.
    pub fn apply(&self, program: &Program) -> Program {
        let mut p = program.clone();
        let steps = std::mem::take(&mut p.steps);
        p.steps = self.brought(&mut p, steps, [STORE, WINDOW], HOST);
        only_used(p)
    }

    /// The program, to which a stream was applied that is [relayed by](Stream::relayed_by) this one, with a queue that brings those
    /// loads to `tier`; it is given [`RELAY_STORE`] and [`RELAY`], which holds the carried loads.
    pub fn apply_relay(&self, program: &Program, tier: &str) -> Program {
        let mut p = program.clone();
        let Some(queue) = p.queues.iter().position(|q| &*q.name == STORE) else { return p };
        let steps = std::mem::take(&mut p.queues[queue].steps);
        p.queues[queue].steps = self.brought(&mut p, steps, [RELAY_STORE, RELAY], tier);
        only_used(p)
    }

    /// Steps of a program, calls and copies, that wait for what they read in a window on `tier`; and a new queue of the
    /// program that brings it.
    fn brought(&self, p: &mut Program, old: Vec<Step>, names: [&str; 2], tier: &str) -> Vec<Step> {
        let buffers: Vec<Name> = p.buffers.iter().map(|b| b.name.clone()).collect();
        let store = buffer(p, names[0], self.bytes, &self.tier);
        let window = buffer(p, names[1], self.window, tier);
        let full = event(p, &format!("{}_full", names[1]), self.carried as i64);
        let free = event(p, &format!("{}_free", names[1]), 0);

        // Where each constant is in the window, and the load that brings it.
        let mut places: HashMap<&Name, (usize, Part)> = HashMap::new();
        for (i, l) in self.loads.iter().enumerate() {
            for e in &l.parts {
                let place = l.place + e.offset - l.offset();
                places.insert(&e.name, (i, part(window, place, e.len)));
            }
        }
        let new = in_turn(old, &buffers, &places, self.loads.len(), full, free);

        // A copy waits until what lay in its place was read: places are given back in the order of the loads.
        let mut steps = vec![];
        let mut taken = 0;
        let n = self.loads.len();
        for k in self.carried..n + self.carried {
            let load = &self.loads[k % n];
            let before = self.loads[..k.min(n)].iter().rposition(|other| load.overlaps(other));
            let needed = before.map_or(0, |i| i + 1);
            (taken..needed).for_each(|_| steps.push(Step::Wait(free)));
            taken = taken.max(needed);
            let from = match load.relayed {
                true => buffer(p, &relayed(k % n), load.len(), &self.tier).into(),
                false => part(store, load.offset(), load.len()),
            };
            steps.push(Step::Copy { from, to: part(window, load.place, load.len()) });
            if k < n {
                steps.push(Step::Signal(full));
            }
        }
        p.queues.push(Queue { name: names[0].into(), steps });
        new
    }
}

/// Steps, calls and copies, that read buffers by name in places that are filled one after the other, `count` of them: each waits for
/// `full` once for every place up to its own, and `over` is signalled behind the last reader of each, in order.
pub(crate) fn in_turn(
    old: Vec<Step>,
    buffers: &[Name],
    places: &HashMap<&Name, (usize, Part)>,
    count: usize,
    full: u32,
    over: u32,
) -> Vec<Step> {
    fn args(s: &mut Step) -> &mut [Part] {
        match s {
            Step::Call { args, .. } => args,
            Step::Copy { from, .. } => std::slice::from_mut(from),
            _ => &mut [],
        }
    }
    let place = |a: &Part| places.get(buffers.get(a.buffer as usize)?);
    let mut last = vec![0; count];
    // Each step with the number of places that must be full.
    let mut steps: Vec<(Step, usize)> = vec![];
    for (at, mut s) in old.into_iter().enumerate() {
        let mut needed = 0;
        for a in args(&mut s) {
            let Some((i, place)) = place(a) else { continue };
            (needed, last[*i], *a) = (needed.max(i + 1), at, place.clone());
        }
        steps.push((s, needed));
    }
    let mut new = vec![];
    let (mut waited, mut freed) = (0, 0);
    for (at, (s, needed)) in steps.into_iter().enumerate() {
        (waited..needed).for_each(|_| new.push(Step::Wait(full)));
        waited = waited.max(needed);
        new.push(s);
        while freed < waited && last[freed] <= at {
            new.push(Step::Signal(over));
            freed += 1;
        }
    }
    new
}

pub(crate) fn part(buffer: u32, offset: i64, len: i64) -> Part {
    Part { buffer, range: Some((Int::from(offset), Int::from(len))) }
}

pub(crate) fn buffer(p: &mut Program, name: &str, bytes: i64, tier: &str) -> u32 {
    let storage = Storage::Given;
    p.buffers.push(StepBuffer { name: name.into(), bytes: bytes.into(), tier: tier.into(), storage });
    p.buffers.len() as u32 - 1
}

pub(crate) fn event(p: &mut Program, name: &str, count: i64) -> u32 {
    p.events.push(Event { name: name.into(), count });
    p.events.len() as u32 - 1
}

/// A program with the buffers that its steps mention, and no others.
pub fn only_used(mut p: Program) -> Program {
    let mut used: Vec<u32> = vec![];
    fn index(part: &mut Part, used: &mut Vec<u32>) {
        let at = used.iter().position(|u| *u == part.buffer).unwrap_or_else(|| {
            used.push(part.buffer);
            used.len() - 1
        });
        part.buffer = at as u32;
    }
    fn visit(steps: &mut [Step], used: &mut Vec<u32>) {
        for s in steps {
            match s {
                Step::Call { args, .. } => args.iter_mut().for_each(|a| index(a, used)),
                Step::Copy { from, to } => [from, to].into_iter().for_each(|p| index(p, used)),
                Step::Pages { from, to, list, .. } => {
                    [from, to, list].into_iter().for_each(|p| index(p, used));
                }
                Step::Hold { held, offsets, beside } => {
                    held.iter_mut().flat_map(|h| [&mut h.from, &mut h.to]).for_each(|p| index(p, used));
                    offsets.iter_mut().chain(beside).for_each(|p| index(p, used));
                }
                Step::Split { held, segments } => {
                    held.iter_mut().flat_map(|h| [&mut h.from, &mut h.to]).for_each(|p| index(p, used));
                    segments.parts_mut().for_each(|p| index(p, used));
                }
                Step::Send { from: part, .. } | Step::Receive { to: part, .. } => index(part, used),
                Step::Loop { body, .. } => visit(body, used),
                Step::Meet | Step::Signal(_) | Step::Wait(_) => {}
            }
        }
    }
    visit(&mut p.steps, &mut used);
    for q in &mut p.queues {
        visit(&mut q.steps, &mut used);
    }
    p.buffers = used.iter().map(|i| p.buffers[*i as usize].clone()).collect();
    p
}
