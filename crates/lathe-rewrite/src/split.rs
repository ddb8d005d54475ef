//! Experts on two tiers: those that are held are computed there, with some that come, and the others where they lie. Before a
//! layer's first product the step `split` says which are which ([`Step::Split`]). The layer's products, with what stands between them,
//! are called three times, each time over other segments: by the program for the experts that are here, and for those that a
//! queue brings meanwhile; and by a queue of the lower tier, which is sent the rows that it needs and whose results come back. Kernels
//! are the same.
//!
//! What the products make is in buffers of its own on either tier: it lives longer now than where it was planned.

use crate::hold::{EXPERTS, EXPERTS_HELD, Hold, Sliced};
use crate::stream::{buffer, event, part};
use lathe_ir::Name;
use lathe_ir::step::{Division, Held, Part, Program, Queue, Segments, Step, Storage, conflicts};
use lathe_ir::tensor::HOST;
use std::collections::HashMap;

/// The name of the buffer of what layers' products read and make on the upper tier.
pub const EXPERTS_HERE: &str = "experts_here";
/// The name of that on the lower one, and of the queue that computes there.
pub const EXPERTS_AWAY: &str = "experts_away";

const ALIGN: i64 = 64;

/// How experts are computed on two tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// How they are held.
    pub hold: Hold,
    /// Bytes of [`EXPERTS_HERE`].
    pub here: i64,
    /// Bytes of [`EXPERTS_AWAY`].
    pub away: i64,
}

/// A layer's products in a program, with what stands between them.
struct Chain<'h> {
    /// The steps from the first to the last of them.
    steps: std::ops::Range<usize>,
    /// The weights, by buffer.
    weights: HashMap<u32, &'h Sliced>,
    segments: Segments<u32>,
    /// What products read that none of the calls makes: how many slots a row has, and its bytes.
    reads: Vec<(u32, i64, i64)>,
    /// What the calls make.
    makes: Vec<u32>,
    /// Which of it is read behind them, with the bytes of a row.
    results: Vec<(u32, i64)>,
}

/// Places one behind the other.
struct Room {
    buffer: u32,
    end: i64,
}

impl Room {
    fn take(&mut self, bytes: i64) -> Part {
        let at = self.end;
        self.end += (bytes + ALIGN - 1) / ALIGN * ALIGN;
        part(self.buffer, at, bytes)
    }
}

/// Where a chain's buffers are on one side.
struct Place {
    segments: Segments<Part>,
    others: HashMap<u32, Part>,
}

/// Where everything of a chain is.
struct Layout {
    division: Division<Part>,
    here: HashMap<u32, Part>,
    away: HashMap<u32, Part>,
}

fn bytes(p: &Program, buffer: u32) -> i64 {
    p.buffers[buffer as usize].bytes.as_const().unwrap_or(0)
}

/// As many whole rows as a buffer has.
fn rows(p: &Program, buffer: u32, row: i64) -> i64 {
    bytes(p, buffer) / row * row
}

impl<'h> Chain<'h> {
    /// That of a layer, where its calls read nothing but weights, segments, rows and what they make themselves, row by row, and
    /// nothing else is done between them.
    fn of(p: &Program, hold: &'h Hold, layer: &[&'h Sliced]) -> Option<Chain<'h>> {
        let number = |name: &Name| p.buffer(name);
        let mut weights = HashMap::new();
        for w in layer {
            weights.insert(number(&w.name)?, *w);
        }
        let first = layer.first()?;
        let segments = Segments { offsets: number(&first.offsets)?, index: number(&first.index)? };
        let read = |s: &Step| matches!(s, Step::Call { args, .. } if args.iter().any(|a| weights.contains_key(&a.buffer)));
        let from = p.steps.iter().position(read)?;
        let steps = from..p.steps.iter().rposition(read)? + 1;
        let (mut reads, mut makes): (Vec<(u32, i64, i64)>, Vec<u32>) = (vec![], vec![]);
        for s in &p.steps[steps.clone()] {
            let Step::Call { args, writes, .. } = s else {
                if *s == Step::Meet { continue } else { return None }
            };
            let weight = args.iter().find_map(|a| weights.get(&a.buffer));
            for (a, written) in args.iter().zip(writes) {
                let planned = matches!(p.buffers[a.buffer as usize].storage, Storage::Planned(_));
                let known = weight.is_some()
                    && (weights.contains_key(&a.buffer)
                        || [segments.offsets, segments.index].contains(&a.buffer));
                let made = makes.contains(&a.buffer);
                if *written && hold.mixed.contains(&p.buffers[a.buffer as usize].name) {
                    return None;
                }
                match (a.range.is_none(), *written) {
                    (true, true) if planned && !made => makes.push(a.buffer),
                    (true, false) if known || made => {}
                    (true, false) => {
                        let w = weight.filter(|w| number(&w.argument.name) == Some(a.buffer))?;
                        let row = (a.buffer, w.argument.slots, w.argument.bytes?);
                        if !reads.contains(&row) {
                            reads.push(row);
                        }
                    }
                    _ => return None,
                }
            }
        }
        let mut results = vec![];
        let behind = p.steps[steps.end..].iter().flat_map(|s| match s {
            Step::Call { args, .. } => args.iter().collect(),
            Step::Copy { from, to } | Step::Pages { from, to, .. } => vec![from, to],
            _ => vec![],
        });
        for a in behind.filter(|a| makes.contains(&a.buffer)) {
            let w = layer.iter().find(|w| number(&w.result.name) == Some(a.buffer))?;
            let row = (a.buffer, w.result.bytes?);
            if a.range.is_some() {
                return None;
            }
            if !results.contains(&row) {
                results.push(row);
            }
        }
        Some(Chain { steps, weights, segments, reads, makes, results })
    }

    /// Gives its buffers places in those of both sides, which begin anew in each layer.
    fn layout(&self, p: &Program, here: u32, away: u32) -> (Layout, i64, i64) {
        let mut up = Room { buffer: here, end: 0 };
        let mut down = Room { buffer: away, end: 0 };
        let pages = self.weights.values().next().map_or(0, |w| w.pages);
        let (offsets, index) = (4 * (pages + 1), rows(p, self.segments.index, 4));
        let segments = |room: &mut Room| Segments { offsets: room.take(offsets), index: room.take(index) };
        let of = Segments {
            offsets: part(self.segments.offsets, 0, offsets),
            index: part(self.segments.index, 0, index),
        };
        let (at, come) = (segments(&mut up), segments(&mut up));
        let there = segments(&mut down);
        let by = self.reads.iter().map(|(_, slots, _)| *slots).chain(self.results.iter().map(|_| 1));
        let rows_of = by.map(|by| (down.take(4 + index / by), by)).collect();
        let division = Division { of, here: at, come, away: there, rows: rows_of };
        let mut layout = Layout { division, here: HashMap::new(), away: HashMap::new() };
        for (b, _, row) in &self.reads {
            layout.away.insert(*b, down.take(rows(p, *b, *row)));
        }
        for b in &self.makes {
            layout.here.insert(*b, up.take(bytes(p, *b)));
            layout.away.insert(*b, down.take(bytes(p, *b)));
        }
        (layout, up.end, down.end)
    }

    /// Its calls with buffers at these places and weights where `weight` says, with meetings between.
    fn calls(&self, p: &Program, place: &Place, weight: &dyn Fn(&Sliced) -> Part) -> Vec<Step> {
        let (mut steps, mut open): (Vec<Step>, Vec<Step>) = (vec![], vec![]);
        for s in &p.steps[self.steps.clone()] {
            let Step::Call { kernel, args, writes } = s else { continue };
            let moved = |a: &Part| {
                let w = self.weights.get(&a.buffer).map(|w| weight(w));
                let segment = match a.buffer {
                    b if b == self.segments.offsets => Some(&place.segments.offsets),
                    b if b == self.segments.index => Some(&place.segments.index),
                    b => place.others.get(&b),
                };
                w.or_else(|| segment.cloned()).unwrap_or_else(|| a.clone())
            };
            let (kernel, writes) = (kernel.clone(), writes.clone());
            let call = Step::Call { kernel, args: args.iter().map(moved).collect(), writes };
            if open.iter().any(|o| conflicts(p, o, &call, &|_| None)) {
                steps.push(Step::Meet);
                open.clear();
            }
            open.push(call.clone());
            steps.push(call);
        }
        steps
    }
}

impl Split {
    /// How experts that lie on another memory are computed on both, in all of these programs; none where one of them does more
    /// between a layer's products than what follows from them.
    pub fn new(hold: &Hold, programs: &[&Program]) -> Option<Split> {
        let mut split = Split { hold: hold.clone(), here: 0, away: 0 };
        let (mut up, mut down) = (0, 0);
        for p in programs {
            let mut end = 0;
            for chain in split.chains(p)? {
                let (_, here, away) = chain.layout(p, 0, 0);
                (up, down) = (up.max(here), down.max(away));
                if chain.steps.start < end {
                    return None;
                }
                end = chain.steps.end;
            }
        }
        (split.here, split.away) = (up, down);
        Some(split).filter(|s| s.here > 0)
    }

    fn chains(&self, p: &Program) -> Option<Vec<Chain<'_>>> {
        self.hold.layers().iter().map(|layer| Chain::of(p, &self.hold, layer)).collect()
    }

    /// The program with its experts on both tiers; it is given [`EXPERTS`] and [`EXPERTS_AWAY`], on the lower one, and
    /// [`EXPERTS_HELD`] and [`EXPERTS_HERE`].
    pub fn apply(&self, program: &Program) -> Program {
        let mut p = program.clone();
        let Some(chains) = self.chains(program) else { return p };
        let tier = &*self.hold.tier;
        let store = buffer(&mut p, EXPERTS, self.hold.bytes, tier);
        let memory = buffer(&mut p, EXPERTS_HELD, self.hold.window(), HOST);
        let here = buffer(&mut p, EXPERTS_HERE, self.here, HOST);
        let away = buffer(&mut p, EXPERTS_AWAY, self.away, tier);
        let mut event = |name: &str| event(&mut p, name, 0);
        let (there, go, came) = (event("experts_there"), event("experts_go"), event("experts_came"));
        let (start, done) = (event("experts_start"), event("experts_done"));
        let (mut steps, mut bring, mut below) = (vec![], vec![], vec![]);
        let mut at = 0;
        let mut moved: HashMap<u32, Part> = HashMap::new();
        for (chain, layer) in chains.iter().zip(self.hold.layers()) {
            steps.extend(behind(&program.steps[at..chain.steps.start], &moved));
            at = chain.steps.end;
            let (layout, ..) = chain.layout(program, here, away);
            let d = &layout.division;
            let in_memory = |w: &Sliced| part(memory, w.place, w.page * w.pages);
            let in_store = |w: &Sliced| part(store, w.from, w.page * w.pages);
            let held: Vec<Held> =
                layer.iter().map(|w| Held { from: in_store(w), to: in_memory(w), page: w.page }).collect();
            let up = |segments: &Segments<Part>| {
                let place = Place { segments: segments.clone(), others: layout.here.clone() };
                chain.calls(&p, &place, &in_memory)
            };
            let down = Place { segments: d.away.clone(), others: layout.away.clone() };
            let (lists, backs) = d.rows.split_at(chain.reads.len());
            let copy = |from: Part, to: Part, page: i64, list: &Part| Step::Pages {
                from,
                to,
                page,
                list: list.clone(),
            };

            steps.push(Step::Wait(there));
            steps.push(Step::Split { held: held.clone(), segments: Box::new(d.clone()) });
            steps.extend([Step::Signal(go), Step::Signal(start)]);
            steps.extend(up(&d.here));
            steps.push(Step::Wait(came));
            steps.extend(up(&d.come));
            steps.push(Step::Wait(done));
            for ((b, row), (list, _)) in chain.results.iter().zip(backs) {
                let whole = |at: &Part| Part {
                    range: at.range.clone().map(|(o, _)| (o, rows(program, *b, *row).into())),
                    ..at.clone()
                };
                steps.push(copy(whole(&layout.away[b]), whole(&layout.here[b]), *row, list));
            }

            let hold = |offsets, beside| Step::Hold { held: held.clone(), offsets, beside };
            bring.extend([hold(None, None), Step::Signal(there), Step::Wait(go)]);
            let (come, stay) = (d.come.offsets.clone(), d.here.offsets.clone());
            bring.extend([hold(Some(come), Some(stay)), Step::Signal(came)]);

            below.push(Step::Wait(start));
            for ((b, _, row), (list, _)) in chain.reads.iter().zip(lists) {
                below.push(copy(part(*b, 0, rows(program, *b, *row)), layout.away[b].clone(), *row, list));
            }
            below.extend(chain.calls(&p, &down, &in_store));
            below.push(Step::Signal(done));
            moved.extend(layout.here);
        }
        steps.extend(behind(&program.steps[at..], &moved));
        p.steps = steps;
        p.queues.push(Queue { name: EXPERTS.into(), steps: bring });
        p.queues.push(Queue { name: EXPERTS_AWAY.into(), steps: below });
        crate::only_used(p)
    }

    /// The calls of the lower tier alone, layer by layer over the same segments: what is timed to know how long experts take. Beside the
    /// program, where the words of offsets and of the index begin in [`EXPERTS_AWAY`].
    pub fn alone(&self, program: &Program) -> Option<(Program, [i64; 2])> {
        let mut p = program.clone();
        let store = buffer(&mut p, EXPERTS, self.hold.bytes, &self.hold.tier);
        let away = buffer(&mut p, EXPERTS_AWAY, self.away, &self.hold.tier);
        let (mut steps, mut starts) = (vec![], None);
        for chain in self.chains(program)? {
            let (layout, ..) = chain.layout(program, away, away);
            let start = |p: &Part| p.range.as_ref()?.0.as_const();
            let segments = layout.division.away;
            starts = Some([start(&segments.offsets)?, start(&segments.index)?]);
            let place = Place { segments, others: layout.away };
            steps.extend(chain.calls(&p, &place, &|w| part(store, w.from, w.page * w.pages)));
            steps.push(Step::Meet);
        }
        p.steps = steps;
        Some((crate::only_used(p), starts?))
    }
}

/// Steps behind chains, which read what was made there where it is now.
fn behind(steps: &[Step], moved: &HashMap<u32, Part>) -> Vec<Step> {
    let place = |a: &mut Part| {
        if let Some(to) = moved.get(&a.buffer) {
            *a = to.clone();
        }
    };
    let mut steps = steps.to_vec();
    for s in &mut steps {
        match s {
            Step::Call { args, .. } => args.iter_mut().for_each(place),
            Step::Copy { from, to } | Step::Pages { from, to, .. } => [from, to].into_iter().for_each(place),
            _ => {}
        }
    }
    steps
}
